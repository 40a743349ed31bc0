"""Scores of one image, and what they come to over a set: pooled figures with intervals, curves, distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label  # pyright: ignore[reportUnknownVariableType]

from artseg_models.metrics import (
    CAUSES,
    OBJECT_CUTOFFS,
    BoolArray,
    Counts,
    Curve,
    FloatArray,
    LabelMap,
    LevelCounts,
    count_agreement,
    count_levels,
    group_interval,
    group_interval_of_area,
    match_at_cutoffs,
    mean_defined,
    overlap_of_objects,
    pool,
    precision_recall,
    wrong_pixels,
)


@dataclass(frozen=True)
class FieldScore:
    """The pixels and objects of one image against its true mask, within the scored area.

    Attributes
    ----------
    pixels : Counts
        Pixel by pixel.
    objects : mapping
        Smallest overlap to counts of objects (`match_at_cutoffs`).
    overlaps : float array, (true objects,)
        `overlap_of_objects`.
    levels : LevelCounts
        Pixels by probability; where the gate was closed, all have probability 0.
    wrong : mapping of str to int
        How many wrong pixels have each of `artseg_models.metrics.CAUSES`.
    """

    pixels: Counts
    objects: Mapping[float, Counts]
    overlaps: FloatArray
    levels: LevelCounts
    wrong: Mapping[str, int]


class Figure(NamedTuple):
    """A figure and its 95 % confidence interval by drawing groups of images; NaN where not defined."""

    value: float
    low: float
    high: float


class Distribution(NamedTuple):
    """How a figure is spread over images: number of defined values, mean, and five numbers."""

    images: int
    mean: float
    smallest: float
    lower_quartile: float
    median: float
    upper_quartile: float
    largest: float


def score_field(
    truth: BoolArray,
    predicted: LabelMap,
    probability: NDArray[Any],
    *,
    gate_open: bool = True,
    valid: BoolArray | None = None,
) -> FieldScore:
    """Score the prediction of one image.

    Parameters
    ----------
    truth : bool array, (y, x)
        True mask; its objects are the connected ones, corners included.
    predicted : integer array, (y, x)
        Artifact objects after gate, cutoff and smallest artifact, 0 = none.
    probability : float array, (y, x)
        0..1.
    gate_open : bool
        False where the classifier called the image clean.
    valid : bool array, (y, x), optional
        The scored area; objects are cut at its border.

    Returns
    -------
    FieldScore

    Raises
    ------
    ArtSegError
        Shapes differ, or a probability lies outside 0..1.
    """
    scored = truth if valid is None else truth & valid
    found = predicted if valid is None else np.where(valid, predicted, 0)
    causes = np.bincount(wrong_pixels(truth, predicted > 0, valid=valid).ravel(), minlength=1 + len(CAUSES))
    true_objects: LabelMap = np.asarray(label(scored, connectivity=2), dtype=np.int32)
    return FieldScore(
        pixels=count_agreement(truth, predicted > 0, valid=valid),
        objects=match_at_cutoffs(true_objects, found),
        overlaps=overlap_of_objects(true_objects, found),
        levels=count_levels(truth, probability if gate_open else np.zeros_like(probability), valid=valid),
        wrong=dict(zip(CAUSES, causes[1:].tolist(), strict=True)),
    )


def pooled_levels(scores: Sequence[FieldScore]) -> LevelCounts:
    """Add up the pixels by probability of several images; at least one."""
    return sum((score.levels for score in scores[1:]), start=scores[0].levels)


def pixel_figures(scores: Sequence[FieldScore], groups: Sequence[str]) -> dict[str, Figure]:
    """Pool pixels and objects over images, with intervals over groups.

    Parameters
    ----------
    scores : sequence of FieldScore
        At least one.
    groups : sequence of str
        The group of each image.

    Returns
    -------
    dict
        ``pixel_precision``, ``pixel_recall``, ``pixel_f1``, ``pixel_iou``, ``pixel_pr_area``, ``average_object_iou``
        and ``object_f1_iou_0.5`` and the like, each 0..1.
    """
    figures = _ratios("pixel", [score.pixels for score in scores], groups)
    curve = precision_recall(pooled_levels(scores))
    figures["pixel_pr_area"] = Figure(curve.area, *group_interval_of_area([s.levels for s in scores], groups))
    overlaps = np.array([[score.overlaps.sum(), score.overlaps.size] for score in scores], dtype=np.float64)
    value = _over(overlaps.sum(axis=0, keepdims=True))[0]
    figures["average_object_iou"] = Figure(float(value), *group_interval(overlaps, groups, _over))
    for cutoff in OBJECT_CUTOFFS:
        counted = _ratios("object", [score.objects[cutoff] for score in scores], groups, names=("f1",))
        figures[f"object_f1_iou_{cutoff:g}"] = counted["object_f1"]
    return figures


def image_figures(truth: BoolArray, verdict: BoolArray, groups: Sequence[str]) -> dict[str, Figure]:
    """Score verdicts on whole images, with intervals over groups.

    Parameters
    ----------
    truth, verdict : bool array, (images,)
        True = artifact.
    groups : sequence of str
        The group of each image.

    Returns
    -------
    dict
        ``image_precision``, ``image_recall`` and ``image_f1``, each 0..1.
    """
    single = [count_agreement(truth[at : at + 1], verdict[at : at + 1]) for at in range(truth.size)]
    return _ratios("image", single, groups, names=("precision", "recall", "f1"))


def curve_of(scores: Sequence[FieldScore], *, points: int = 500) -> Curve:
    """Draw the pooled precision-recall curve of several images, thinned for files and figures."""
    return precision_recall(pooled_levels(scores)).thinned(points)


def distribution(values: Sequence[float]) -> Distribution:
    """Describe how values of images are spread; NaN are left out."""
    known = np.array([value for value in values if not math.isnan(value)], dtype=np.float64)
    if not known.size:
        return Distribution(0, *([math.nan] * 6))
    return Distribution(int(known.size), mean_defined(known), *map(float, np.percentile(known, [0, 25, 50, 75, 100])))


def _over(sums: FloatArray) -> FloatArray:
    """Divide the first of two sums (resamples, 2) by the second."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)


def _ratios(
    prefix: str,
    counts: Sequence[Counts],
    groups: Sequence[str],
    *,
    names: Sequence[str] = ("precision", "recall", "f1", "iou"),
) -> dict[str, Figure]:
    table = np.array([[c.true_positive, c.false_positive, c.false_negative] for c in counts], dtype=np.float64)
    # numerator and denominator of each, as weights of found, false and missed
    weights: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "precision": ((1, 0, 0), (1, 1, 0)),
        "recall": ((1, 0, 0), (1, 0, 1)),
        "f1": ((2, 0, 0), (2, 1, 1)),
        "iou": ((1, 0, 0), (1, 1, 1)),
    }

    def ratio(name: str) -> Callable[[FloatArray], FloatArray]:
        matrix = np.array(weights[name], dtype=np.float64).T
        return lambda sums: _over(sums @ matrix)

    pooled = pool(counts)
    return {
        f"{prefix}_{name}": Figure(float(getattr(pooled, name)), *group_interval(table, groups, ratio(name)))
        for name in names
    }
