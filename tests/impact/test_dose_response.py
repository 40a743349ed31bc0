"""Hill fits: against known parameters, against scipy by hand, and what becomes of data that hold no curve."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import optimize

from artseg_models.impact.dose_response import HillFit, find_outliers, fit_hill, hill

#: two wells without ligand, then duplicates at twelve concentrations
DOSES = np.repeat(np.concatenate([[-np.inf], np.arange(-10, -4.4, 0.5)]), 2)
TRUE = {"top": 2000.0, "bottom": 400.0, "log_ic50": -7.3}


def noisy(seed: int, noise: float, **changed: float) -> np.ndarray:
    return hill(DOSES, **TRUE | changed) + np.random.default_rng(seed).normal(0, noise, DOSES.size)


@functools.lru_cache
def thousand(slope: float | None, noise: float) -> list[HillFit]:
    random = np.random.default_rng(11)
    clean = hill(DOSES, **TRUE)
    return [fit_hill(DOSES, clean + random.normal(0, noise, DOSES.size), slope=slope) for _ in range(1000)]


@pytest.mark.parametrize("slope", [-1.0, None])
@pytest.mark.parametrize("noise", [40.0, 160.0])
def test_a_thousand_draws_are_unbiased_and_covered(slope: float | None, noise: float) -> None:
    fits = thousand(slope, noise)
    assert all(fit.usable for fit in fits)
    for name, true in {**TRUE, "slope": -1.0}.items():
        found = np.array([getattr(fit, name) for fit in fits])
        # a free slope is skewed at strong noise, as in every nonlinear fit; the rest within a hundredth
        allowed = {"top": 16, "bottom": 16, "log_ic50": 0.01, "slope": 0.05}[name]
        assert abs(found.mean() - true) <= allowed
    covered = np.mean([fit.log_ic50_low <= TRUE["log_ic50"] <= fit.log_ic50_high for fit in fits])
    assert 0.93 <= covered <= 0.97
    spread = np.std([fit.log_ic50 for fit in fits])
    assert np.median([fit.log_ic50_sd for fit in fits]) == pytest.approx(spread, rel=0.1)
    assert np.median([fit.residual_sd for fit in fits]) == pytest.approx(noise, rel=0.05)


@pytest.mark.parametrize("free", [False, True])
def test_scipy_by_hand_finds_the_same(free: bool) -> None:
    response = noisy(5, 150)
    doses = np.where(np.isfinite(DOSES), DOSES, -40.0)

    def model(x: np.ndarray, bottom: float, top: float, middle: float, slope: float = -1.0) -> np.ndarray:
        return bottom + (top - bottom) / (1 + 10 ** (slope * (middle - x)))

    start = [400, 2000, -7.0, -1.0][: 4 if free else 3]
    found, covariance = optimize.curve_fit(model, doses, response, start, ftol=1e-12, xtol=1e-12)
    fit = fit_hill(DOSES, response, slope=None if free else -1.0)
    values = [fit.bottom, fit.top, fit.log_ic50, fit.slope][: len(start)]
    np.testing.assert_allclose(values, found, rtol=1e-5)
    assert fit.log_ic50_sd == pytest.approx(np.sqrt(covariance[2, 2]), rel=1e-3)
    left = response - model(doses, *found)
    assert fit.r2 == pytest.approx(1 - np.sum(left**2) / np.sum((response - response.mean()) ** 2), rel=1e-6)


def test_points_on_a_curve_give_it_back_in_any_unit() -> None:
    for scale in (1e-6, 1.0, 1e9):
        fit = fit_hill(DOSES, scale * hill(DOSES, **TRUE))
        assert (fit.status, fit.points) == ("ok", 26)
        assert fit.log_ic50 == pytest.approx(-7.3, abs=1e-6)
        assert (fit.top / scale, fit.bottom / scale) == pytest.approx((2000, 400), rel=1e-6)
        assert fit.r2 == pytest.approx(1)
    np.testing.assert_allclose(fit.predict(np.array([-np.inf, -7.3])) / scale, [2000, 1200], rtol=1e-6)


def test_rising_curves_and_steep_ones_are_fitted() -> None:
    rising = hill(DOSES, slope=2.0, **TRUE) + np.random.default_rng(1).normal(0, 20, DOSES.size)
    free = fit_hill(DOSES, rising, slope=None)
    assert free.top > free.bottom
    assert free.slope == pytest.approx(2.0, abs=0.3)
    assert free.log_ic50 == pytest.approx(-7.3, abs=0.1)
    fixed = fit_hill(DOSES, rising, slope=2.0)
    assert fixed.log_ic50 == pytest.approx(free.log_ic50, abs=0.05)
    # with the wrong sign fixed the plateaus change places, so that it can be seen
    assert fit_hill(DOSES, rising, slope=-1.0).top < fit_hill(DOSES, rising, slope=-1.0).bottom


def test_data_without_a_curve_say_so() -> None:
    random = np.random.default_rng(3)
    assert fit_hill(DOSES[:3], np.ones(3)).status == "too few points"
    assert fit_hill(np.full(9, -6.0), np.arange(9.0)).status == "too few points"
    assert fit_hill(DOSES, np.full(DOSES.size, 3.0)).status == "no response"
    noise = [fit_hill(DOSES, random.normal(1000, 50, DOSES.size)) for _ in range(50)]
    assert sum(fit.usable for fit in noise) < 25
    beyond = fit_hill(DOSES, hill(DOSES, top=2000, bottom=0, log_ic50=-3.2) + random.normal(0, 0.01, DOSES.size))
    assert beyond.status == "outside the doses"
    assert np.isnan(fit_hill(DOSES[:3], np.ones(3)).log_ic50)


def test_impossible_input_is_refused() -> None:
    for doses, response in (([1.0, 2.0], [1.0]), ([1.0, np.nan], [1.0, 2.0]), ([1.0, 2.0], [1.0, np.nan])):
        with pytest.raises(ValueError, match="expected"):
            fit_hill(np.array(doses), np.array(response))
    with pytest.raises(ValueError, match="slope of 0"):
        fit_hill(DOSES, noisy(1, 1), slope=0)


def test_outliers_are_named_and_others_are_not() -> None:
    response = noisy(7, 60)
    response[[4, 20]] += [900, -800]
    assert np.nonzero(find_outliers(DOSES, response))[0].tolist() == [4, 20]
    false = [find_outliers(DOSES, noisy(seed, 60)).sum() for seed in range(200)]
    assert np.mean(np.array(false) > 0) < 0.05
    assert not find_outliers(DOSES[:3], np.arange(3.0)).any()
    assert not find_outliers(DOSES, hill(DOSES, **TRUE)).any()
