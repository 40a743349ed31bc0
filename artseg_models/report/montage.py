"""A sheet of evaluated images: true outline in white, predicted in blue."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from artseg_models.evaluate import Evaluation, ImageScore, Options, predict_item
from artseg_models.labels import read_mask
from artseg_models.predict import ImagePredictor
from artseg_models.report.drawing import MUTED, SKY, WHITE, outline, save_figure, show, stretch

_WIDTH, _CAPTION = 3.6, 0.4  # of a picture and its caption, in inches


def choose(scores: Sequence[ImageScore], number: int) -> list[ImageScore]:
    """Choose images that span what was found, not the best ones.

    A quarter of the places go to clean images (those with the most predicted artifact first), the others to artifact
    images spread evenly from the worst to the best intersection over union (without masks: by predicted area).

    Parameters
    ----------
    scores : sequence of ImageScore
        What to choose from.
    number : int
        How many to choose; fewer come back where there are fewer.

    Returns
    -------
    list of ImageScore
        Artifact images from worst to best, then clean ones.
    """
    clean = sorted(
        (score for score in scores if score.item.label == "clean"), key=lambda score: score.area_fraction, reverse=True
    )
    artifact = sorted((score for score in scores if score.item.label == "artifact"), key=_quality)
    places_clean = min(len(clean), max(math.ceil(number / 4), number - len(artifact)))
    places = min(len(artifact), number - places_clean)
    spread = [round(place * (len(artifact) - 1) / max(places - 1, 1)) for place in range(places)]
    return [artifact[index] for index in spread] + clean[:places_clean]


def write_montage(
    predictor: ImagePredictor,
    evaluation: Evaluation,
    path: Path,
    *,
    number: int = 12,
    options: Options | None = None,
    plane: int | None = None,
) -> None:
    """Predict some evaluated images again and write them on one sheet.

    Parameters
    ----------
    predictor : ImagePredictor
        The model that was evaluated.
    evaluation : Evaluation
        Its scores, from which the images are chosen (`choose`).
    path : Path
        The PNG to write.
    number : int
        Most images on the sheet.
    options, plane
        As given to `evaluate`.
    """
    chosen = choose(evaluation.scores, number)
    columns = min(4, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    predicted = [predict_item(predictor, score.item, options=options, plane=plane) for score in chosen]
    tallest = max(pixels.shape[0] / pixels.shape[1] for pixels, _ in predicted)
    figure = Figure(figsize=(_WIDTH * columns, (_WIDTH * tallest + _CAPTION) * rows + 2 * _CAPTION))
    figure.set_layout_engine("constrained", h_pad=0.06)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, score, (pixels, prediction) in zip(grid.flat, chosen, predicted, strict=False):
        show(axes, stretch(pixels))
        if score.item.mask is not None:
            outline(axes, read_mask(score.item, shape=prediction.labels.shape), color=WHITE, width=1.8)
        outline(axes, prediction.mask, color=SKY, width=1.2)
        axes.set_title(f"{score.item.path.name}\n{_caption(score)}", fontsize=8.5, loc="left")
    figure.suptitle(
        "White: true outline.  Blue: predicted artifact.  Artifact images from worst to best, then clean images.",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    figure.supxlabel(evaluation.audit.line(), fontsize=6.5, color=MUTED, x=0.01, ha="left")
    save_figure(figure, path, audit={"Description": evaluation.audit.line()})


def _quality(score: ImageScore) -> float:
    if score.pixels is None or math.isnan(score.pixels.iou):
        return score.area_fraction
    return score.pixels.iou


def _caption(score: ImageScore) -> str:
    said = f"labelled {score.item.label}, found {score.verdict}"
    if score.item.label == "clean":
        return f"{said}, {score.area_fraction:.1%} marked"
    if score.pixels is None:
        return f"{said}, no true mask"
    return f"{said}, IoU {score.pixels.iou:.2f}"
