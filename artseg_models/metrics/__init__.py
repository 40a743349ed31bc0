"""Pixel, image and object metrics: pure functions of numpy arrays.

Artifact is the positive class throughout. A ratio whose denominator is zero is *not defined* and is NaN here,
never silently 0 or 1: the precision of a mask without a pixel says nothing about it. NaN leaves means of several
images untouched (`mean_defined`), is an empty field in CSV files and null in JSON. Pooling adds counts before
dividing, so that a clean image without a false alarm weighs in by its true negatives alone.
"""

from artseg_models.metrics.counts import BoolArray, Counts, FloatArray, LabelMap, count_agreement, mean_defined, pool
from artseg_models.metrics.curves import Curve, LevelCounts, count_levels, precision_recall
from artseg_models.metrics.intervals import Interval, group_interval, group_interval_of_area, over_seeds
from artseg_models.metrics.objects import (
    OBJECT_CUTOFFS,
    match_at_cutoffs,
    match_objects,
    match_positions,
    overlap_of_objects,
)
from artseg_models.metrics.reliability import Reliability, reliability, reliability_of_levels
from artseg_models.metrics.wrong import CAUSES, wrong_pixels

__all__ = [
    "CAUSES",
    "OBJECT_CUTOFFS",
    "BoolArray",
    "Counts",
    "Curve",
    "FloatArray",
    "Interval",
    "LabelMap",
    "LevelCounts",
    "Reliability",
    "count_agreement",
    "count_levels",
    "group_interval",
    "group_interval_of_area",
    "match_at_cutoffs",
    "match_objects",
    "match_positions",
    "mean_defined",
    "over_seeds",
    "overlap_of_objects",
    "pool",
    "precision_recall",
    "reliability",
    "reliability_of_levels",
    "wrong_pixels",
]
