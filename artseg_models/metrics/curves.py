"""Precision and recall at every cutoff of a probability map, over as many images as one likes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artseg_models.errors import ArtSegError
from artseg_models.metrics.counts import BoolArray, Counts, FloatArray

IntArray = NDArray[np.int64]

#: The 16-bit floating-point numbers from 0 to 1, in their order: fine near 0, where some published cutoffs lie.
LEVELS: NDArray[np.float16] = np.arange(0x3C01, dtype=np.uint16).view(np.float16)


@dataclass(frozen=True)
class LevelCounts:
    """How many artifact and clean pixels have each level of probability; counts of several images add up.

    Attributes
    ----------
    artifact, clean : int64 array, (levels,)
        True artifact and true clean pixels at each of `LEVELS`.
    """

    artifact: IntArray
    clean: IntArray

    def __add__(self, other: LevelCounts) -> LevelCounts:
        return LevelCounts(self.artifact + other.artifact, self.clean + other.clean)

    def at(self, cutoff: float) -> Counts:
        """Count with a cutoff: pixels from this probability on are artifact; exact to the spacing of `LEVELS`."""
        first = int(np.searchsorted(LEVELS, np.float16(cutoff)))
        found, false = int(self.artifact[first:].sum()), int(self.clean[first:].sum())
        return Counts(found, false, int(self.artifact[:first].sum()), int(self.clean[:first].sum()))


@dataclass(frozen=True)
class Curve:
    """A precision-recall curve.

    Attributes
    ----------
    cutoff : float array, (points,)
        Falling: pixels from it on are artifact.
    precision, recall, iou : float array, (points,)
        0..1 at each cutoff.
    area : float
        Average precision, the sum of precision times gain in recall (scikit-learn's `average_precision_score`); NaN
        where no pixel is truly artifact.
    """

    cutoff: FloatArray
    precision: FloatArray
    recall: FloatArray
    iou: FloatArray
    area: float

    def thinned(self, points: int) -> Curve:
        """Keep at most `points` points, evenly spread over recall, both ends among them; the area stays exact."""
        if self.recall.size <= points:
            return self
        wanted: FloatArray = np.linspace(float(self.recall[0]), float(self.recall[-1]), points)
        kept: IntArray = np.unique(np.clip(np.searchsorted(self.recall, wanted), 0, self.recall.size - 1))
        return Curve(self.cutoff[kept], self.precision[kept], self.recall[kept], self.iou[kept], self.area)


def count_levels(truth: BoolArray, probability: NDArray[Any], *, valid: BoolArray | None = None) -> LevelCounts:
    """Count the pixels of an image by truth and probability.

    Parameters
    ----------
    truth : bool array
        Any shape; True = artifact.
    probability : float array
        The same shape, 0..1; rounded to 16-bit floating point, whose steps are 0.05 % of the value.
    valid : bool array, optional
        Pixels that are False here are left out.

    Returns
    -------
    LevelCounts

    Raises
    ------
    ArtSegError
        Shapes differ, or a probability lies outside 0..1.
    """
    if truth.shape != probability.shape or (valid is not None and valid.shape != truth.shape):
        raise ArtSegError(
            f"Expected a probability for each pixel of the truth {truth.shape}, but got an array of "
            f"{probability.shape}" + ("." if valid is None else f" and a scored area of {valid.shape}.")
        )
    chosen = np.ones(truth.shape, np.bool_) if valid is None else valid
    true, values = truth[chosen], probability[chosen]
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ArtSegError(f"Expected probabilities from 0 to 1, got {values.min():g} to {values.max():g}.")
    # positive floating-point numbers sort as their bits do; abs: minus zero has another bit pattern
    level = np.abs(values.astype(np.float16)).view(np.uint16)
    return LevelCounts(
        artifact=np.bincount(level[true], minlength=LEVELS.size).astype(np.int64),
        clean=np.bincount(level[~true], minlength=LEVELS.size).astype(np.int64),
    )


def precision_recall(levels: LevelCounts) -> Curve:
    """Draw the precision-recall curve of counted pixels, pooled over all images that were added up.

    Parameters
    ----------
    levels : LevelCounts
        From `count_levels`.

    Returns
    -------
    Curve
        From the highest to the lowest probability that occurs; empty where no pixel was counted.
    """
    occurs = np.flatnonzero(levels.artifact + levels.clean)[::-1]
    found = np.cumsum(levels.artifact[occurs]).astype(np.float64)
    called = found + np.cumsum(levels.clean[occurs])
    positives = float(levels.artifact.sum())
    precision = found / called
    recall = found / positives if positives else np.full(found.shape, np.nan)
    iou = found / (called + positives - found)
    area = float(np.sum(np.diff(recall, prepend=0.0) * precision)) if positives else float("nan")
    return Curve(LEVELS[occurs].astype(np.float64), precision, recall, iou, area)
