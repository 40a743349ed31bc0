"""The ladder of an ablation as a picture: IoU of pixels by rung, with limits, against full supervision."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from artseg_models.ablation import Scored
from artseg_models.report.drawing import BLUE, INK, MUTED, ORANGE, plain, save_figure


def write_ablation_figure(found: Sequence[Scored], path: Path) -> None:
    """Draw every rung that was run: a mark a seed with its 95 % limits; those not run are named so."""
    rungs = list({one.rung.name: one.rung for one in found}.values())
    figure = Figure(figsize=(9.5, 0.55 * len(rungs) + 1.4), layout="constrained")
    axes = figure.subplots()
    plain(axes)
    for at, rung in enumerate(reversed(rungs)):
        scored = [one for one in found if one.rung == rung and one.iou is not None]
        if not scored:
            axes.text(0.01, at, "not run", va="center", fontsize=9, color=MUTED)
            continue
        color = ORANGE if rung.method == "unet" else BLUE
        for place, one in zip(np.linspace(-0.18, 0.18, len(scored) + 2)[1:-1], scored, strict=True):
            limits = [np.nan if limit is None else limit for limit in (one.iou_low, one.iou_high)]
            axes.plot(limits, [at + place] * 2, color=color, linewidth=2, alpha=0.5)
            axes.plot([np.nan if one.iou is None else one.iou], [at + place], "o", color=color)
        ratios = [one.ratio for one in scored if one.ratio is not None]
        mean = float(np.mean([one.iou for one in scored if one.iou is not None]))
        share = f", {np.mean(ratios):.0%} of supervised" if ratios and rung.method != "unet" else ""
        axes.text(1.02, at, f"{mean:.3f}{share}", va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(rungs)), [rung.title for rung in reversed(rungs)])
    axes.set(
        xlim=(0, 1.4), ylim=(-0.6, len(rungs) - 0.4), xlabel="IoU of pixels on test images, 95 % limits over groups"
    )
    axes.set_xticks(np.linspace(0, 1, 6))
    save_figure(figure, path)


def write_annotation_figure(found: Sequence[Scored], path: Path) -> bool:
    """Draw IoU against an expert's minutes: best, best with masks, full supervision; False where fewer than two ran."""
    shown = [
        one
        for one in found
        if one.iou is not None and (one.rung.name in ("best", "supervised") or one.rung.name.startswith("masks_"))
    ]
    if len({one.rung.name for one in shown}) < 2:
        return False
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    plain(axes)
    weak = [one for one in shown if one.rung.method != "unet"]
    for seed in sorted({one.seed for one in weak}):
        own = sorted((one for one in weak if one.seed == seed), key=lambda one: one.minutes or 0)
        axes.plot([one.minutes or np.nan for one in own], [one.iou or np.nan for one in own], "o-", color=BLUE)
    for one in shown:
        name = {"best": "labels alone", "supervised": "all masks"}.get(
            one.rung.name, f"{one.rung.settings.get('masks')} masks"
        )
        color = ORANGE if one.rung.method == "unet" else BLUE
        limits = [np.nan if limit is None else limit for limit in (one.iou_low, one.iou_high)]
        axes.plot([one.minutes or np.nan] * 2, limits, color=color, linewidth=2, alpha=0.35)
        if one.rung.method == "unet":
            axes.plot([one.minutes or np.nan], [one.iou or np.nan], "s", color=color)
        if one.seed == shown[0].seed:
            axes.annotate(
                name,
                (one.minutes or 0, one.iou or 0),
                xytext=(5, -11),
                textcoords="offset points",
                fontsize=8.5,
                color=INK,
            )
    axes.set(
        xscale="log",
        xlabel="minutes of an expert (2 s a label, 279 s a mask)",
        ylabel="IoU of pixels on test images, 95 % limits over groups",
    )
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    save_figure(figure, path)
    return True
