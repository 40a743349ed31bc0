"""Figures of an evaluation: precision-recall curve, spread over images, figures with intervals; kinds of artifact."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from artseg_models.evaluate import Evaluation
from artseg_models.kind_scores import KindFigures
from artseg_models.report.drawing import BLUE, INK, MUTED, ORANGE, WHITE, plain, save_figure

_SHOWN: Mapping[str, str] = {
    "image_precision": "images: precision",
    "image_recall": "images: recall",
    "image_f1": "images: F1",
    "pixel_precision": "pixels: precision",
    "pixel_recall": "pixels: recall",
    "pixel_f1": "pixels: F1",
    "pixel_iou": "pixels: IoU",
    "pixel_pr_area": "pixels: area under curve",
    "object_f1_iou_0.1": "objects: F1 at IoU 0.1",
    "object_f1_iou_0.5": "objects: F1 at IoU 0.5",
    "average_object_iou": "objects: average IoU",
}


def write_evaluation_figure(evaluation: Evaluation, path: Path) -> None:
    """Draw an evaluation as PNG, whole or not at all; without masks only the figures of images are shown."""
    figure = Figure(figsize=(12.5, 4.3), layout="constrained")
    curve_axes, spread_axes, value_axes = figure.subplots(1, 3, width_ratios=(1, 0.8, 1.25))
    _draw_curve(curve_axes, evaluation)
    _draw_spread(spread_axes, evaluation)
    _draw_values(value_axes, evaluation)
    figure.supxlabel(evaluation.audit.line(), fontsize=6.5, color=MUTED, x=0.01, ha="left")
    save_figure(figure, path, audit={"Description": evaluation.audit.line()})


def _draw_curve(axes: Axes, evaluation: Evaluation) -> None:
    axes.set_title("Pixels at every cutoff", loc="left", fontsize=10, color=INK)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="recall", ylabel="precision")
    plain(axes)
    curve, pixels = evaluation.curve, evaluation.pixels
    if curve is None or pixels is None:
        axes.text(0.5, 0.5, "no masks", ha="center", color=MUTED)
        return
    axes.plot(curve.recall, curve.precision, color=BLUE, linewidth=1.8, label=f"area {curve.area:.3f}")
    used = f"cutoff {evaluation.audit.cutoff:.3g}, smallest {evaluation.audit.smallest_artifact_px} px"
    axes.scatter([pixels.recall], [pixels.precision], s=55, color=ORANGE, edgecolor="white", zorder=3, label=used)
    axes.legend(fontsize=8, frameon=False, loc="lower left")


def _draw_spread(axes: Axes, evaluation: Evaluation) -> None:
    axes.set_title("Single artifact images", loc="left", fontsize=10, color=INK)
    plain(axes)
    spoilt = [score.pixels for score in evaluation.known if score.item.label == "artifact" and score.pixels is not None]
    names = ("precision", "recall", "iou")
    columns = [[v for v in (getattr(pixels, name) for pixels in spoilt) if v == v] for name in names]
    if not any(columns):
        axes.text(0.5, 0.5, "no masks", ha="center", color=MUTED)
        return
    axes.boxplot(columns, widths=0.5, showfliers=False, medianprops={"color": ORANGE})
    random = np.random.default_rng(0)  # only spreads the points sideways
    for at, column in enumerate(columns, start=1):
        axes.scatter(at + random.uniform(-0.16, 0.16, len(column)), column, s=9, color=BLUE, alpha=0.5, linewidth=0)
    axes.set_xticks(range(1, len(names) + 1), ["precision", "recall", "IoU"])
    axes.set_ylim(-0.02, 1.02)


def _draw_values(axes: Axes, evaluation: Evaluation) -> None:
    figures = evaluation.figures()
    title = f"Over all images, 95 % intervals over {evaluation.drawn_over}\n{evaluation.rough_intervals}".strip()
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    shown = [(title, figures[name]) for name, title in _SHOWN.items() if name in figures and figures[name].value >= 0]
    for at, (_, (value, low, high)) in enumerate(reversed(shown)):
        axes.plot([low, high], [at, at], color=BLUE, linewidth=2, alpha=0.6)
        axes.scatter([value], [at], s=32, color=BLUE, zorder=3)
        axes.text(1.06, at, f"{value:.3f}", va="center", fontsize=8.5, color=INK)
    axes.set_yticks(range(len(shown)), [title for title, _ in reversed(shown)])
    axes.set_xlim(-0.02, 1.2)
    axes.set_xticks(np.linspace(0, 1, 6))
    plain(axes)


def write_reliability_figure(evaluation: Evaluation, path: Path) -> None:
    """Draw how often probabilities of images and pixels are right, as PNG; the dashed line is calibrated."""
    found = evaluation.reliability
    figure = Figure(figsize=(4.6 * max(1, len(found)), 4.6), layout="constrained")
    for axes, (name, one) in zip(figure.subplots(1, max(1, len(found)), squeeze=False)[0], found.items(), strict=False):
        plain(axes)
        axes.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=1)
        axes.plot(one.said, one.found, "o-", color=BLUE, linewidth=1.6)
        for said, share, count in zip(one.said, one.found, one.count, strict=True):
            if count:
                axes.annotate(
                    f"{count:,.0f}", (said, share), xytext=(4, -10), textcoords="offset points", fontsize=7, color=INK
                )
        axes.set_title(f"{name.capitalize()}: calibration error {one.error:.4f}", loc="left", fontsize=10, color=INK)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="probability given", ylabel="share that is artifact")
    figure.supxlabel(evaluation.audit.line(), fontsize=6, color=MUTED, x=0.01, ha="left")
    save_figure(figure, path, audit={"Description": evaluation.audit.line()})


def write_kinds_figure(evaluation: Evaluation, path: Path) -> bool:
    """Draw which kinds of artifact are taken for which, and how well images tell each, as PNG.

    Parameters
    ----------
    evaluation : Evaluation
        Of a model that tells kinds.
    path : Path
        The PNG file, written whole or not at all.

    Returns
    -------
    bool
        False where nothing was written: the model tells no kinds, or no image names one.
    """
    found = evaluation.by_kind()
    if found is None:
        return False
    rows, columns = found.taken_for.shape
    width, height = (2.2 + 0.85 * columns, 1.9 + 0.55 * rows) if found.drawn else (3.0, 0.0)
    figure = Figure(figsize=(5.6 + width, max(3.4, height, 1.6 + 0.5 * len(found.kinds))), layout="constrained")
    if found.drawn:
        shares, images = figure.subplots(1, 2, width_ratios=(width, 5.2))
        _draw_shares(shares, found)
    else:
        images = figure.subplots()
    _draw_kinds_of_images(images, found)
    figure.supxlabel(evaluation.audit.line(), fontsize=6, color=MUTED, x=0.01, ha="left")
    save_figure(figure, path, audit={"Description": evaluation.audit.line()})
    return True


def _draw_shares(axes: Axes, found: KindFigures) -> None:
    axes.set_title("Pixels of each true kind, by what they were found as", loc="left", fontsize=10, color=INK)
    shares = found.shares
    # white to the blue of what a model predicts
    axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("found", [WHITE, BLUE]), vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(shares.shape):
        share = float(shares[row, column])
        said = "-" if share != share else f"{100 * share:.0f} %"
        axes.text(column, row, said, ha="center", va="center", fontsize=9, color=WHITE if share > 0.55 else INK)
    totals = found.taken_for.sum(axis=1)
    axes.set_xticks(range(len(found.kinds) + 1), [*found.kinds, "not found"], rotation=30, ha="right")
    axes.set_yticks(
        range(len(found.true_kinds)),
        [
            f"{kind}{' (unknown to the model)' if kind in found.unknown else ''}\n{total:,} px"
            for kind, total in zip(found.true_kinds, totals.tolist(), strict=True)
        ],
    )
    axes.set(xlabel="found as", ylabel="true kind")
    axes.axvline(len(found.kinds) - 0.5, color=MUTED, linewidth=1)
    if found.unknown:
        axes.axhline(len(found.kinds) - 0.5, color=MUTED, linewidth=1)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.spines[:].set_visible(False)


def _draw_kinds_of_images(axes: Axes, found: KindFigures) -> None:
    axes.set_title(f"F1 of each kind on {found.images} images, 95 % intervals", loc="left", fontsize=10, color=INK)
    for at, score in enumerate(reversed(found.scores)):
        value, low, high = score.image_f1
        axes.plot([low, high], [at, at], color=BLUE, linewidth=2, alpha=0.6)
        axes.scatter([value], [at], s=32, color=BLUE, zorder=3)
        axes.text(1.05, at, "-" if value != value else f"{value:.2f}", va="center", fontsize=9, color=INK)
    held = [score.images.true_positive + score.images.false_negative for score in found.scores]
    names = [f"{score.kind}\n{number} images" for score, number in zip(found.scores, held, strict=True)]
    axes.set_yticks(range(len(names)), names[::-1])
    axes.set(xlim=(-0.02, 1.2), ylim=(-0.6, len(names) - 0.4))
    axes.set_xticks(np.linspace(0, 1, 6))
    plain(axes)
