"""Metrics: against scikit-learn and against cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, precision_score, recall_score

from artseg_models.errors import ArtSegError
from artseg_models.metrics import (
    CAUSES,
    Counts,
    count_agreement,
    match_objects,
    match_positions,
    mean_defined,
    pool,
    wrong_pixels,
)


@pytest.mark.parametrize("seed", range(5))
def test_pixel_metrics_agree_with_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, predicted = random.random((2, 37, 53)) < np.array([0.2, 0.3])[:, None, None]
    valid = random.random((37, 53)) < 0.8
    counts = count_agreement(truth, predicted, valid=valid)
    expected = truth[valid], predicted[valid]
    ((negative, false), (missed, found)) = confusion_matrix(*expected)
    assert counts == Counts(found, false, missed, negative)
    assert counts.precision == pytest.approx(precision_score(*expected))
    assert counts.recall == pytest.approx(recall_score(*expected))
    assert counts.f1 == pytest.approx(f1_score(*expected))
    assert counts.iou == pytest.approx(jaccard_score(*expected))
    assert counts.total == valid.sum()


def test_a_case_worked_by_hand() -> None:
    truth = np.array([[1, 1, 0], [0, 0, 1]], dtype=bool)
    predicted = np.array([[1, 0, 1], [0, 0, 1]], dtype=bool)
    counts = count_agreement(truth, predicted)
    assert counts == Counts(true_positive=2, false_positive=1, false_negative=1, true_negative=2)
    assert (counts.precision, counts.recall, counts.iou) == pytest.approx((2 / 3, 2 / 3, 1 / 2))
    left_out = np.array([[1, 0, 0], [1, 1, 1]], dtype=bool)
    assert count_agreement(truth, predicted, valid=left_out) == Counts(2, 0, 0, 2)


def test_ratios_without_a_denominator_are_not_defined() -> None:
    nothing = np.zeros((4, 4), dtype=bool)
    something = np.eye(4, dtype=bool)
    neither = count_agreement(nothing, nothing)
    assert neither == Counts(true_negative=16)
    assert all(math.isnan(value) for value in (neither.precision, neither.recall, neither.f1, neither.iou))
    missed = count_agreement(something, nothing)
    assert math.isnan(missed.precision)
    assert (missed.recall, missed.f1, missed.iou) == (0, 0, 0)
    false = count_agreement(nothing, something)
    assert math.isnan(false.recall)
    assert (false.precision, false.f1, false.iou) == (0, 0, 0)


def test_means_leave_undefined_values_out() -> None:
    assert mean_defined([1.0, math.nan, 0.5]) == 0.75
    assert math.isnan(mean_defined([math.nan]))


def test_pooling_adds_pixels_not_ratios() -> None:
    small, large = Counts(true_positive=1), Counts(true_positive=10, false_positive=90)
    assert pool([small, large]).precision == pytest.approx(11 / 101)
    assert pool([]) == Counts()


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(ArtSegError, match=r"\(3, 4\).*\(4, 3\)"):
        count_agreement(np.zeros((3, 4), dtype=bool), np.zeros((4, 3), dtype=bool))
    with pytest.raises(ArtSegError, match="one shape"):
        match_objects(np.zeros((3, 4), dtype=int), np.zeros((4, 3), dtype=int))


def test_objects_match_from_the_smallest_overlap_on() -> None:
    truth = np.zeros((8, 12), dtype=np.int32)
    truth[0:4, 0:4] = 1  # found exactly
    truth[0:4, 6:10] = 2  # found by three of its four rows: 12 of 16 pixels
    truth[5:8, 0:4] = 7  # missed
    predicted = np.zeros_like(truth)
    predicted[0:4, 0:4] = 5
    predicted[0:3, 6:10] = 3
    predicted[6:8, 8:12] = 9  # false
    assert match_objects(truth, predicted) == Counts(2, 1, 1)
    assert match_objects(truth, predicted, smallest_iou=0.75) == Counts(2, 1, 1)
    assert match_objects(truth, predicted, smallest_iou=0.76) == Counts(1, 2, 2)
    assert match_objects(truth, predicted).f1 == pytest.approx(2 / 3)


def test_an_object_split_in_halves_is_found_once() -> None:
    truth = np.ones((4, 4), dtype=np.int32)
    halves = np.repeat([[1, 1, 2, 2]], 4, axis=0)
    assert match_objects(truth, halves) == Counts(1, 1, 0)
    assert match_objects(halves, truth) == Counts(1, 0, 1)


def test_the_largest_pairing_counts_whatever_the_order_of_labels() -> None:
    # 1-1 would be the best pair, but only 1-2 and 2-1 pair both objects
    truth = np.array([[1, 1, 1, 1, 1, 2, 2, 0]])
    predicted = np.array([[2, 2, 1, 1, 1, 1, 1, 1]])
    assert match_objects(truth, predicted, smallest_iou=0.2) == Counts(2, 0, 0)
    swapped = np.array([0, 2, 1])
    assert match_objects(truth, swapped[predicted], smallest_iou=0.2) == Counts(2, 0, 0)


def test_no_objects_at_all() -> None:
    nothing, one = np.zeros((5, 5), dtype=int), np.eye(5, dtype=int)
    assert match_objects(nothing, nothing) == Counts()
    assert match_objects(one, nothing) == Counts(false_negative=1)
    assert match_objects(nothing, one) == Counts(false_positive=1)


def test_positions_find_the_objects_they_lie_in() -> None:
    truth = np.zeros((20, 20), dtype=np.int32)
    truth[2:6, 2:6] = 1
    truth[2:6, 10:14] = 2
    truth[12:16, 2:6] = 3
    positions = np.array([[3.4, 3.6], [4.0, 12.0], [3.0, 11.0], [18.0, 18.0]])  # one, two (twice), and none
    assert match_positions(truth, positions) == Counts(2, 2, 1)
    assert match_positions(truth, np.empty((0, 2))) == Counts(0, 0, 3)


def test_positions_outside_the_scored_area_do_not_count() -> None:
    truth = np.zeros((20, 20), dtype=np.int32)
    truth[2:6, 2:6] = 1
    truth[2:6, 8:12] = 2  # one of its four columns lies in the scored area
    valid = np.zeros((20, 20), dtype=bool)
    valid[:, :9] = True
    positions = np.array([[3.0, 3.0], [3.0, 8.0], [18.0, 18.0], [15.0, 4.0]])
    assert match_positions(truth, positions, valid=valid) == Counts(1, 1, 0)


def test_wrong_pixels_have_one_cause_each_and_none_outside_of_the_scored_area():
    truth, found = np.zeros((2, 400, 400), np.bool_)
    truth[50:60, 50:150] = True  # a bar, found two rows too high and with its right half missing
    found[48:58, 50:100] = True
    truth[200:220, 200:220] = True  # nothing found here
    found[300:310, 300:310] = True  # nothing is here
    causes = wrong_pixels(truth, found)
    told = {name: int((causes == place).sum()) for place, name in enumerate(CAUSES, start=1)}
    assert told["not_found"] == 400
    assert told["nothing_there"] == 100
    assert told["too_wide"] == 2 * 50
    # the edge is 0.5 % of 400 pixels, two: two rows below, and two columns (and a rounded corner) of what is missing
    assert 2 * 50 + 2 * 8 <= told["too_narrow"] <= 2 * 50 + 2 * 10
    assert told["gap"] == 2 * 50 + 10 * 50 - told["too_narrow"]
    assert told["clean_image"] == told["beyond"] == 0
    assert ((causes > 0) == (truth ^ found)).all()
    assert set(np.unique(wrong_pixels(np.zeros_like(truth), found))) == {0, 1}
    scored = np.zeros_like(truth)
    scored[:250] = True
    within = wrong_pixels(truth, found, valid=scored)
    assert not within[250:].any()
    assert (within[:250] == causes[:250]).all()
