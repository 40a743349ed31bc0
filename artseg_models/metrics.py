"""Pixel, image and object metrics: pure functions of numpy arrays.

Artifact is the positive class throughout. A ratio whose denominator is zero is *not defined* and is NaN here,
never silently 0 or 1: the precision of a mask without a pixel says nothing about it. NaN leaves means of several
images untouched (`mean_defined`), is an empty field in CSV files and null in JSON. Pooling adds counts before
dividing, so that a clean image without a false alarm weighs in by its true negatives alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # pyright: ignore[reportMissingTypeStubs]  - scipy ships none

from artseg_models.errors import ArtSegError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
LabelMap = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Counts:
    """How often truth and prediction agree and differ, over pixels, images or objects.

    Attributes
    ----------
    true_positive, false_positive, false_negative, true_negative : int
        Counts; objects have no true negatives (0).
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    @property
    def precision(self) -> float:
        """Share of the predicted that is true; NaN when nothing is predicted."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        """Share of the true that is predicted; NaN when nothing is true."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN when nothing is true and nothing predicted."""
        return _ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)

    @property
    def iou(self) -> float:
        """Intersection over union; NaN when nothing is true and nothing predicted."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def total(self) -> int:
        """How many were scored."""
        return self.true_positive + self.false_positive + self.false_negative + self.true_negative


def pool(counts: Iterable[Counts]) -> Counts:
    """Add counts of several images: ratios of the sum are pooled over all their pixels."""
    return sum(counts, start=Counts())


def mean_defined(values: Iterable[float]) -> float:
    """Mean of the values that are defined (not NaN); NaN when none is."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def count_agreement(truth: BoolArray, predicted: BoolArray, *, valid: BoolArray | None = None) -> Counts:
    """Compare two masks, or two lists of image verdicts, element by element.

    Parameters
    ----------
    truth, predicted : bool array
        Any shape, the same for both; True = artifact.
    valid : bool array, optional
        Elements that are False here are left out. All count by default.

    Returns
    -------
    Counts

    Raises
    ------
    ArtSegError
        Shapes differ.
    """
    if predicted.shape != truth.shape or (valid is not None and valid.shape != truth.shape):
        raise ArtSegError(
            f"Expected masks of one shape, but the truth is {truth.shape}, the prediction {predicted.shape}"
            + ("" if valid is None else f" and the scored area {valid.shape}")
            + ". Give masks that were drawn on the same image."
        )
    chosen = np.ones(truth.shape, dtype=np.bool_) if valid is None else valid.astype(np.bool_)
    true, found = truth.astype(np.bool_)[chosen], predicted.astype(np.bool_)[chosen]
    both = int(np.count_nonzero(true & found))
    all_true, all_found = int(np.count_nonzero(true)), int(np.count_nonzero(found))
    return Counts(both, all_found - both, all_true - both, int(true.size) - all_true - all_found + both)


def match_objects(truth: LabelMap, predicted: LabelMap, *, smallest_iou: float = 0.5) -> Counts:
    """Compare objects of two label maps: a pair that overlaps enough is one object found.

    Each object takes part in one pair at most; of all pairings the largest counts, so the result does not depend
    on the order of labels.

    Parameters
    ----------
    truth, predicted : integer array, (y, x)
        Label maps, 0 = background. Labels need not be contiguous.
    smallest_iou : float
        A pair counts from this intersection over union on, within (0, 1].

    Returns
    -------
    Counts
        Pairs, unmatched predicted and unmatched true objects; no true negatives.

    Raises
    ------
    ArtSegError
        Shapes differ.
    """
    if truth.shape != predicted.shape:
        raise ArtSegError(
            f"Expected label maps of one shape, but the truth is {truth.shape} and the prediction {predicted.shape}."
        )
    if not 0 < smallest_iou <= 1:
        raise ValueError(f"smallest_iou must lie within (0, 1], got {smallest_iou}")
    true_labels, true_index = np.unique(truth, return_inverse=True)
    found_labels, found_index = np.unique(predicted, return_inverse=True)
    pair_code = true_index.ravel() * found_labels.size + found_index.ravel()
    pairs, shared = np.unique(pair_code, return_counts=True)
    rows, columns = np.divmod(pairs, found_labels.size)
    iou = shared / (np.bincount(true_index.ravel())[rows] + np.bincount(found_index.ravel())[columns] - shared)
    kept = (iou >= smallest_iou) & (true_labels[rows] != 0) & (found_labels[columns] != 0)
    matched = _largest_pairing(rows[kept], columns[kept], (true_labels.size, found_labels.size))
    true_number = int(np.count_nonzero(true_labels))
    found_number = int(np.count_nonzero(found_labels))
    return Counts(matched, found_number - matched, true_number - matched)


def match_positions(truth: LabelMap, positions: FloatArray, *, valid: BoolArray | None = None) -> Counts:
    """Compare found positions with true objects: a position inside a true object has found it.

    A second position in one object is a false one (an object split in two). For tables of measurements, which hold
    centres but no outlines.

    Parameters
    ----------
    truth : integer array, (y, x)
        Label map of the true objects, 0 = background.
    positions : float array, (N, 2)
        Found centres as (y, x) in pixels, the centre of the first pixel at 0.
    valid : bool array, (y, x), optional
        Only this area is scored: a true object counts when at least half of its pixels lie in it, a position when
        it lies in it. A position in the area that hits an object outside it is neither right nor wrong.

    Returns
    -------
    Counts
        Objects found, false positions, objects missed; no true negatives.
    """
    height, width = truth.shape
    area = np.ones(truth.shape, dtype=np.bool_) if valid is None else valid
    sizes = np.bincount(truth.ravel())
    inside = np.bincount(truth.ravel(), weights=area.ravel(), minlength=sizes.size)
    in_scope = np.zeros(sizes.size, dtype=np.bool_)
    in_scope[1:] = (sizes[1:] > 0) & (2 * inside[1:] >= sizes[1:])
    nearest = np.rint(positions.reshape(-1, 2)).astype(np.int64)
    nearest = np.clip(nearest, 0, [height - 1, width - 1])
    nearest = nearest[area[nearest[:, 0], nearest[:, 1]]]
    hit = truth[nearest[:, 0], nearest[:, 1]]
    found = np.unique(hit[in_scope[hit]]).size
    beside = int(np.count_nonzero(hit == 0))
    second = int(np.count_nonzero(in_scope[hit])) - found
    return Counts(found, beside + second, int(np.count_nonzero(in_scope)) - found)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _largest_pairing(rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, int]) -> int:
    """How many rows can be paired with a column of their own, over the allowed pairs (row, column)."""
    allowed: Any = sparse.csr_array((np.ones(rows.size, dtype=np.int8), (rows, columns)), shape=shape)
    partner: NDArray[np.int32] = sparse.csgraph.maximum_bipartite_matching(allowed, perm_type="column")
    return int(np.count_nonzero(partner >= 0))
