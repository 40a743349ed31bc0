"""How sure a figure is: bootstrap over groups of images, and spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

from artseg_models.metrics.counts import FloatArray
from artseg_models.metrics.curves import LevelCounts

_AT_ONCE = 32
"""Resamples of whole curves in memory at a time."""


class Interval(NamedTuple):
    """A confidence interval; NaN where there is none."""

    low: float
    high: float


def group_interval(
    additive: FloatArray,
    groups: Sequence[str],
    ratio: Callable[[FloatArray], FloatArray],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap a ratio of sums over groups of images.

    Images of one group (a well, say) resemble each other, so whole groups are drawn with replacement (the cluster
    bootstrap of Davison and Hinkley, 1997, section 3.8), and the interval is that of the percentiles.

    Parameters
    ----------
    additive : float array, (images, quantities)
        What adds up over images: counts of pixels, or a value and a one for a mean.
    groups : sequence of str
        The group of each image.
    ratio : callable
        (resamples, quantities) sums to (resamples,) figures; NaN where a figure is not defined.
    resamples : int
        How often to draw.
    level : float
        Share of the draws within the interval.
    seed : int
        Seed of the draws.

    Returns
    -------
    Interval
        NaN with fewer than two groups, or where the figure is defined in less than half of the draws.
    """
    sums, weights = _drawn(additive, groups, resamples, seed)
    if len(sums) < 2:
        return Interval(math.nan, math.nan)
    return _percentiles(ratio(weights @ sums), level)


def group_interval_of_area(
    levels: Sequence[LevelCounts],
    groups: Sequence[str],
    *,
    resamples: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap the area under a precision-recall curve over groups of images, as `group_interval` does.

    Parameters
    ----------
    levels : sequence of LevelCounts
        One for each image.
    groups, resamples, level, seed
        As for `group_interval`.

    Returns
    -------
    Interval
    """
    if not levels:
        return Interval(math.nan, math.nan)
    occurs = np.flatnonzero(sum((one.artifact + one.clean for one in levels[1:]), levels[0].artifact + levels[0].clean))
    falling = occurs[::-1]
    artifact, weights = _drawn(
        np.stack([one.artifact[falling] for one in levels]).astype(float), groups, resamples, seed
    )
    clean, _ = _drawn(np.stack([one.clean[falling] for one in levels]).astype(float), groups, resamples, seed)
    if len(artifact) < 2:
        return Interval(math.nan, math.nan)
    areas: list[FloatArray] = []
    for start in range(0, resamples, _AT_ONCE):
        part = weights[start : start + _AT_ONCE]
        gained = part @ artifact
        found = np.cumsum(gained, axis=1)
        called = found + np.cumsum(part @ clean, axis=1)
        precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
        total = found[:, -1]
        summed = (gained * precision).sum(axis=1)
        areas.append(np.divide(summed, total, out=np.full(len(part), np.nan), where=total > 0))
    return _percentiles(np.concatenate(areas), level)


def over_seeds(values: Sequence[float], *, level: float = 0.95) -> tuple[float, Interval]:
    """Mean over repeated trainings and its confidence interval by Student's t.

    Parameters
    ----------
    values : sequence of float
        One for each seed; NaN are left out.
    level : float
        Confidence.

    Returns
    -------
    tuple
        Mean, and the interval: NaN with fewer than two values.
    """
    defined = np.array([value for value in values if not math.isnan(value)], dtype=np.float64)
    if not defined.size:
        return math.nan, Interval(math.nan, math.nan)
    mean = float(defined.mean())
    if defined.size < 2:
        return mean, Interval(math.nan, math.nan)
    half = float(stats.t.ppf((1 + level) / 2, defined.size - 1)) * float(defined.std(ddof=1)) / math.sqrt(defined.size)
    return mean, Interval(mean - half, mean + half)


def _drawn(additive: FloatArray, groups: Sequence[str], resamples: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Sum up each group (groups, quantities), and draw how often each resample has it (resamples, groups)."""
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    sums: FloatArray = np.zeros((names.size, additive.shape[1]))
    np.add.at(sums, member.ravel(), additive)
    random = np.random.default_rng(seed)
    weights: NDArray[np.int64] = random.multinomial(names.size, np.full(names.size, 1 / names.size), size=resamples)
    return sums, weights.astype(np.float64)


def _percentiles(figures: FloatArray, level: float) -> Interval:
    defined = figures[~np.isnan(figures)]
    if 2 * defined.size < figures.size:
        return Interval(math.nan, math.nan)
    low, high = np.percentile(defined, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(low), float(high))
