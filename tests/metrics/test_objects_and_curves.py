"""Object overlaps, precision-recall curves and confidence intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from artseg_models.errors import ArtSegError
from artseg_models.metrics import (
    Counts,
    LevelCounts,
    count_agreement,
    count_levels,
    group_interval,
    group_interval_of_area,
    match_at_cutoffs,
    over_seeds,
    overlap_of_objects,
    precision_recall,
)


def iou_of_sums(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


def test_average_object_overlap_of_a_case_worked_by_hand() -> None:
    truth = np.zeros((8, 12), dtype=np.int32)
    truth[0:4, 0:4] = 1  # found by three of its four rows: 12 of 16 pixels
    truth[0:4, 6:10] = 4  # found exactly
    truth[5:8, 0:4] = 7  # missed
    predicted = np.zeros_like(truth)
    predicted[0:3, 0:4] = 2
    predicted[0:4, 6:10] = 9
    predicted[6:8, 8:12] = 3
    np.testing.assert_allclose(overlap_of_objects(truth, predicted), [12 / 16, 1, 0])
    assert match_at_cutoffs(truth, predicted, cutoffs=(0.5, 0.8)) == {0.5: Counts(2, 1, 1), 0.8: Counts(1, 2, 2)}


def test_each_predicted_object_serves_one_true_object() -> None:
    truth = np.array([[1, 1, 1, 2, 2, 0]])
    predicted = np.array([[5, 5, 5, 5, 5, 5]])
    np.testing.assert_allclose(overlap_of_objects(truth, predicted), [3 / 6, 0])
    assert overlap_of_objects(np.zeros((2, 2), int), predicted=np.ones((2, 2), int)).size == 0


@pytest.mark.parametrize("seed", range(3))
def test_curve_agrees_with_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.random((3, 40, 50)) < 0.2
    score = np.clip(random.normal(0.4 + 0.2 * truth, 0.2), 0, 1) ** 4
    score = score.astype(np.float16).astype(np.float32)  # 16-bit steps, with ties
    levels = sum(
        (count_levels(t, s) for t, s in zip(truth[1:], score[1:], strict=True)), count_levels(truth[0], score[0])
    )
    curve = precision_recall(levels)
    assert curve.area == pytest.approx(average_precision_score(truth.ravel(), score.ravel()))
    precision, recall, cutoffs = precision_recall_curve(truth.ravel(), score.ravel())
    np.testing.assert_allclose(curve.cutoff, cutoffs[::-1], rtol=1e-6)
    np.testing.assert_allclose(curve.precision, precision[-2::-1])
    np.testing.assert_allclose(curve.recall, recall[-2::-1])
    for cutoff in (0.0005, 0.05, 0.3):
        assert levels.at(float(np.float16(cutoff))) == count_agreement(truth, score >= np.float16(cutoff))
    f1 = 2 * curve.iou / (1 + curve.iou)
    assert f1[10] == pytest.approx(f1_score(truth.ravel(), score.ravel() >= curve.cutoff[10]))
    thin = curve.thinned(20)
    assert thin.recall.size <= 20
    assert thin.area == curve.area
    assert set(thin.cutoff) <= set(curve.cutoff)
    assert (thin.recall[0], thin.recall[-1]) == (curve.recall[0], curve.recall[-1])


def test_ignored_pixels_and_bad_probabilities() -> None:
    truth, score = np.array([True, False, False]), np.array([0.5, 0.7, -0.0])
    assert precision_recall(count_levels(truth, score)).area == pytest.approx(0.5)
    assert precision_recall(count_levels(truth, score, valid=np.array([True, False, True]))).area == 1.0
    assert math.isnan(precision_recall(count_levels(np.zeros(3, bool), score)).area)
    with pytest.raises(ArtSegError, match="from 0 to 1"):
        count_levels(truth, score + 1)
    with pytest.raises(ArtSegError, match="for each pixel"):
        count_levels(truth, score[:2])


def test_interval_of_groups_covers_the_truth_as_often_as_it_says() -> None:
    """Images of a group share their level: drawing images instead of groups would be far too sure."""
    random = np.random.default_rng(5)
    covered = 0
    for trial in range(100):
        of_group = np.repeat(random.normal(0.6, 0.1, 40), 5)
        values = np.stack([of_group, np.ones(200)], axis=1)
        groups = [str(at // 5) for at in range(200)]
        low, high = group_interval(values, groups, iou_of_sums, resamples=400, seed=trial)
        covered += low <= 0.6 <= high
    assert 86 <= covered <= 100
    alone = group_interval(values, [str(at) for at in range(200)], iou_of_sums, resamples=400)
    assert alone.high - alone.low < 0.7 * (high - low)


def test_no_interval_where_there_is_none() -> None:
    one_group = group_interval(np.ones((5, 2)), ["a"] * 5, iou_of_sums)
    assert math.isnan(one_group.low)
    with np.errstate(invalid="ignore"):
        undefined = group_interval(np.zeros((5, 2)), list("abcde"), iou_of_sums)
    assert math.isnan(undefined.low)


def test_interval_of_the_area_agrees_with_scikit_learn_on_each_draw() -> None:
    random = np.random.default_rng(1)
    truth = random.random((6, 30)) < 0.3
    score = (np.round(random.random((6, 30)) * 8) / 8).astype(np.float32)
    levels: list[LevelCounts] = [count_levels(t, s) for t, s in zip(truth, score, strict=True)]
    names = list("abcdef")
    low, high = group_interval_of_area(levels, names, resamples=300, seed=3)
    weights = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), size=300)
    areas = [
        average_precision_score(np.repeat(truth, draw, axis=0).ravel(), np.repeat(score, draw, axis=0).ravel())
        for draw in weights
    ]
    np.testing.assert_allclose((low, high), np.percentile(areas, [2.5, 97.5]))


def test_mean_over_seeds() -> None:
    mean, (low, high) = over_seeds([0.5, 0.6, 0.7, math.nan])
    assert mean == pytest.approx(0.6)
    assert high - low == pytest.approx(2 * 4.302653 * 0.1 / math.sqrt(3), rel=1e-5)  # t of 2 degrees of freedom
    mean, (low, _) = over_seeds([0.5])
    assert mean == 0.5
    assert math.isnan(low)
