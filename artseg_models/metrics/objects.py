"""Objects of two label maps compared: pairs that overlap enough, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse  # pyright: ignore[reportMissingTypeStubs]  - scipy ships none
from scipy.optimize import linear_sum_assignment  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from artseg_models.errors import ArtSegError
from artseg_models.metrics.counts import BoolArray, Counts, FloatArray, LabelMap

#: Smallest overlaps at which object-wise F1 is given, as in challenges on nuclei.
OBJECT_CUTOFFS = (0.1, 0.3, 0.5, 0.7, 0.9)


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
    return match_at_cutoffs(truth, predicted, cutoffs=(smallest_iou,))[smallest_iou]


def match_at_cutoffs(
    truth: LabelMap, predicted: LabelMap, *, cutoffs: Sequence[float] = OBJECT_CUTOFFS
) -> dict[float, Counts]:
    """Compare objects of two label maps at several smallest overlaps, for object-wise F1 (Box 1).

    Parameters
    ----------
    truth, predicted : integer array, (y, x)
        Label maps, 0 = background.
    cutoffs : sequence of float
        Intersection over union from which on a pair counts, each within (0, 1].

    Returns
    -------
    dict
        Cutoff to the counts of `match_objects`.
    """
    for cutoff in cutoffs:
        if not 0 < cutoff <= 1:
            raise ValueError(f"smallest_iou must lie within (0, 1], got {cutoff}")
    true_labels, found_labels, rows, columns, iou = _overlaps(truth, predicted)
    objects = (true_labels[rows] != 0) & (found_labels[columns] != 0)
    true_number, found_number = int(np.count_nonzero(true_labels)), int(np.count_nonzero(found_labels))
    counts: dict[float, Counts] = {}
    for cutoff in cutoffs:
        kept = objects & (iou >= cutoff)
        matched = _largest_pairing(rows[kept], columns[kept], (true_labels.size, found_labels.size))
        counts[cutoff] = Counts(matched, found_number - matched, true_number - matched)
    return counts


def overlap_of_objects(truth: LabelMap, predicted: LabelMap) -> FloatArray:
    """Intersection over union of each true object with the predicted object that is paired with it.

    Pairs are one to one and chosen so that their sum is the largest; a true object without a partner has 0. The mean
    over all true objects is the average object intersection over union.

    Parameters
    ----------
    truth, predicted : integer array, (y, x)
        Label maps, 0 = background.

    Returns
    -------
    float array, (N,)
        One value of 0..1 for each true object, in the order of their labels; empty without any.

    Raises
    ------
    ArtSegError
        Shapes differ.
    """
    true_labels, found_labels, rows, columns, iou = _overlaps(truth, predicted)
    dense = np.zeros((true_labels.size, found_labels.size))
    objects = (true_labels[rows] != 0) & (found_labels[columns] != 0)
    dense[rows[objects], columns[objects]] = iou[objects]
    paired: FloatArray = np.zeros(true_labels.size)
    chosen = cast("tuple[NDArray[np.int64], NDArray[np.int64]]", linear_sum_assignment(dense, maximize=True))
    paired[chosen[0]] = dense[chosen]
    return paired[true_labels != 0]


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


def _largest_pairing(rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, int]) -> int:
    """How many rows can be paired with a column of their own, over the allowed pairs (row, column)."""
    allowed: Any = sparse.csr_array((np.ones(rows.size, dtype=np.int8), (rows, columns)), shape=shape)
    partner: NDArray[np.int32] = sparse.csgraph.maximum_bipartite_matching(allowed, perm_type="column")
    return int(np.count_nonzero(partner >= 0))


def _overlaps(
    truth: LabelMap, predicted: LabelMap
) -> tuple[LabelMap, LabelMap, NDArray[np.int64], NDArray[np.int64], FloatArray]:
    """Labels of both maps (background among them), and every pair that shares a pixel, with its overlap."""
    if truth.shape != predicted.shape:
        raise ArtSegError(
            f"Expected label maps of one shape, but the truth is {truth.shape} and the prediction {predicted.shape}."
        )
    # by hashing: np.unique sorts the pixels, which takes thirty times as long
    true_index, true_labels = _numbered(truth)
    found_index, found_labels = _numbered(predicted)
    pair_index, pairs = _numbered(true_index * found_labels.size + found_index)
    shared = np.bincount(pair_index)
    rows, columns = np.divmod(pairs, found_labels.size)
    iou = shared / (np.bincount(true_index)[rows] + np.bincount(found_index)[columns] - shared)
    return true_labels, found_labels, rows, columns, iou


def _numbered(values: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give each element's place among the sorted different values, flat, and these values."""
    places, different = pd.factorize(values.ravel(), sort=True)
    return places.astype(np.int64), different.astype(np.int64)
