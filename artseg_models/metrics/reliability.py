"""Reliability: of the images or pixels that a model gives a probability, how many are artifacts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from artseg_models.metrics.counts import BoolArray, FloatArray
from artseg_models.metrics.curves import LEVELS, LevelCounts

_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Probabilities in bins of equal width.

    Attributes
    ----------
    said, found : float array, (bins,)
        Mean probability, and share that is truly artifact; NaN in an empty bin.
    count : float array, (bins,)
        How many.
    error : float
        Expected calibration error (Naeini et al. 2015): mean of |said - found|, weighted by count; NaN without any.
    """

    said: FloatArray
    found: FloatArray
    count: FloatArray
    error: float


def reliability_of_levels(levels: LevelCounts) -> Reliability:
    """Bin pixels that were counted by `count_levels`."""
    weights = (levels.artifact + levels.clean).astype(np.float64)
    return _binned(LEVELS.astype(np.float64), weights, levels.artifact.astype(np.float64))


def reliability(probability: FloatArray, truth: BoolArray) -> Reliability:
    """Bin images by their probability (images,), 0..1, with the truth (images,)."""
    return _binned(probability, np.ones(probability.shape), truth.astype(np.float64))


def _binned(values: FloatArray, weights: FloatArray, artifact: FloatArray) -> Reliability:
    at = np.minimum((values * _BINS).astype(np.int64), _BINS - 1)
    count = np.bincount(at, weights, minlength=_BINS).astype(np.float64)
    empty = np.full(_BINS, np.nan)
    said = np.divide(np.bincount(at, weights * values, minlength=_BINS), count, out=empty.copy(), where=count > 0)
    found = np.divide(np.bincount(at, artifact, minlength=_BINS), count, out=empty.copy(), where=count > 0)
    total = float(count.sum())
    error = float(np.nansum(np.abs(said - found) * count) / total) if total else float("nan")
    return Reliability(said, found, count, error)
