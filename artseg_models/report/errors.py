"""What keeps a score down: wrong pixels by cause, and for the largest causes the images that show them most."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from artseg_models.evaluate import Evaluation, ImageScore, Options, predict_item
from artseg_models.labels import read_mask
from artseg_models.metrics import CAUSES, wrong_pixels
from artseg_models.predict import ImagePredictor
from artseg_models.report.drawing import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    SKY,
    WHITE,
    outline,
    plain,
    save_figure,
    show,
    stretch,
)

_CAUSES, _IMAGES = 3, 4  # rows and columns of pictures
_WIDTH, _CAPTION, _BARS = 3.6, 0.34, 2.3  # of a picture, its caption, and the height of the chart, in inches
_STRENGTH = 0.6  # of the colour of wrong pixels
_ZOOM = 0.5  # share of an image's sides that is shown: an edge would not show on the whole


def write_errors_figure(
    predictor: ImagePredictor,
    evaluation: Evaluation,
    path: Path,
    *,
    ignore: NDArray[np.bool_] | None = None,
    options: Options | None = None,
    plane: int | None = None,
) -> bool:
    """Draw wrong pixels by cause, and below the images with the most of each of the three largest causes, as PNG.

    Parameters
    ----------
    predictor : ImagePredictor
        The model that was evaluated; it predicts the images that are shown again.
    evaluation : Evaluation
        Its scores.
    path : Path
        The PNG file, written whole or not at all.
    ignore, options, plane
        As given to `evaluate`.

    Returns
    -------
    bool
        False where nothing is wrong, or no artifact image has a mask: nothing was written.
    """
    sums = evaluation.wrong_pixels
    total = sum(sums.values())
    if not total:
        return False
    largest = [cause for cause, pixels in sums.items() if pixels][:_CAUSES]
    shown = {cause: _most(evaluation, cause) for cause in largest}
    predicted = {
        str(score.item.path): predict_item(predictor, score.item, options=options, plane=plane)
        for scores in shown.values()
        for score in scores
    }
    tallest = max(pixels.shape[0] / pixels.shape[1] for pixels, _ in predicted.values())
    row = _WIDTH * tallest + 2 * _CAPTION
    figure = Figure(figsize=(_WIDTH * _IMAGES, _BARS + row * len(largest) + _CAPTION), layout="constrained")
    # a column of parts, also where there is one cause alone
    parts: Any = figure.subfigures(1 + len(largest), 1, height_ratios=[_BARS, *[row] * len(largest)])
    _draw_bars(parts[0].subplots(), evaluation)
    for cause, part in zip(largest, parts[1:], strict=True):
        part.suptitle(
            f"{CAUSES[cause].capitalize()}: {sums[cause] / total:.0%} of wrong pixels. {_what_is_shown(evaluation)}",
            fontsize=10.5,
            x=0.01,
            ha="left",
            color=INK,
        )
        row_of_axes: Sequence[Axes] = part.subplots(1, _IMAGES)
        for axes in row_of_axes:
            axes.set_axis_off()
        for axes, score in zip(row_of_axes, shown[cause], strict=False):
            pixels, prediction = predicted[str(score.item.path)]
            truth = read_mask(score.item, shape=prediction.labels.shape)
            found = wrong_pixels(truth, prediction.mask, valid=None if ignore is None else ~ignore)
            this = found == 1 + list(CAUSES).index(cause)
            picture = np.repeat(stretch(pixels)[..., None], 3, axis=2)
            picture[this] = (1 - _STRENGTH) * picture[this] + _STRENGTH * np.array(to_rgb(ORANGE), np.float32)
            here = _window(this)
            show(axes, picture[here])
            outline(axes, truth[here], color=WHITE, width=0.9)
            outline(axes, prediction.mask[here], color=SKY, width=0.9)
            share = score.field.wrong[cause] / sums[cause] if score.field else 0.0
            axes.set_title(f"{score.item.path.name}, {share:.0%} of these pixels", fontsize=8.5, loc="left")
    figure.supxlabel(
        f"White: true outline. Blue: predicted artifact. Orange: the pixels of this cause. {evaluation.audit.line()}",
        fontsize=6.5,
        color=MUTED,
        x=0.01,
        ha="left",
    )
    save_figure(figure, path, audit={"Description": evaluation.audit.line()})
    return True


def _what_is_shown(evaluation: Evaluation) -> str:
    groups = [_group(score) for score in evaluation.known]
    if len(set(groups)) == len(groups):
        return "The images with the most."
    return "The image with the most of each group, then the next of any group."


def _most(evaluation: Evaluation, cause: str) -> list[ImageScore]:
    """Give images with the most pixels of a cause: of each group the worst, then the next, whatever their group.

    Images of a group may resemble each other, so that the others show more; but a group may be a whole well, so that
    its next ones are not to be hidden.
    """
    pixels = {
        at: score.field.wrong[cause]
        for at, score in enumerate(evaluation.known)
        if score.field is not None and score.field.wrong[cause]
    }
    ordered = sorted(pixels, key=lambda at: -pixels[at])
    first: dict[str, int] = {}
    for at in ordered:
        first.setdefault(_group(evaluation.known[at]), at)
    shown = [*first.values(), *(at for at in ordered if at not in first.values())]
    return [evaluation.known[at] for at in shown[:_IMAGES]]


def _group(score: ImageScore) -> str:
    return score.item.group or str(score.item.path)


def _window(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Cut the part of an image that holds the most of a mask."""
    sides = [max(1, round(_ZOOM * length)) for length in mask.shape]
    # of a window's sum at each place: the sums over rows and columns up to its borders
    sums = np.pad(mask, ((1, 0), (1, 0))).cumsum(0, dtype=np.int64).cumsum(1)
    (y, x), (above, left) = sides, (sums[sides[0] :], sums[: -sides[0]])
    held = above[:, x:] - above[:, :-x] - left[:, x:] + left[:, :-x]
    # of several alike the one in the middle, so that a small error stands in its surroundings
    rows, columns = np.nonzero(held == held.max())
    top, first = int(np.median(rows)), int(np.median(columns))
    return slice(top, top + y), slice(first, first + x)


def _draw_bars(axes: Axes, evaluation: Evaluation) -> None:
    sums = evaluation.wrong_pixels
    total = sum(sums.values())
    pixels = evaluation.pixels
    of = "" if pixels is None else f", pixel IoU {pixels.iou:.3f}"
    axes.set_title(f"What the {total:,} wrong pixels are{of}", loc="left", fontsize=11, color=INK)
    plain(axes)
    places = range(len(sums), 0, -1)
    axes.barh(places, [count / total for count in sums.values()], color=BLUE, height=0.7)
    for place, count in zip(places, sums.values(), strict=True):
        axes.text(count / total + 0.005, place, f"{count / total:.1%}", va="center", fontsize=8.5, color=INK)
    axes.set_yticks(places, [CAUSES[cause] for cause in sums])
    axes.set_xlim(0, 1.08 * max(sums.values()) / total)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("share of wrong pixels", fontsize=9, color=MUTED)
