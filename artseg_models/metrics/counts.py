"""How often truth and prediction agree, over pixels or images: counts, their ratios, and pooling."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
