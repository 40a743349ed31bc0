"""Reliability of probabilities: counted by hand, and the same for images one by one and for pixels by level."""

from __future__ import annotations

import numpy as np
import pytest

from artseg_models.metrics import count_levels, reliability, reliability_of_levels


def test_bins_hold_what_was_said_and_what_was_found():
    one = reliability(np.array([0.05, 0.05, 0.95, 0.95, 0.95, 1.0]), np.array([0, 1, 1, 1, 0, 1], dtype=bool))
    assert one.count.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 4]
    assert one.found[0] == 0.5
    assert one.found[9] == 0.75
    assert one.said[9] == pytest.approx(0.9625)
    assert np.isnan(one.said[4])
    assert one.error == pytest.approx((2 * 0.45 + 4 * 0.2125) / 6)


def test_calibrated_probabilities_have_no_error_and_sure_ones_a_large_one():
    random = np.random.default_rng(0)
    probability = random.random((300, 300))
    truth = random.random((300, 300)) < probability
    right = reliability_of_levels(count_levels(truth, probability))
    assert right.error < 0.01
    sure = reliability_of_levels(count_levels(truth, (probability > 0.5).astype(float)))
    assert sure.error > 0.2


def test_nothing_counted_is_not_defined():
    nothing = reliability(np.array([]), np.array([], dtype=bool))
    assert np.isnan(nothing.error)
