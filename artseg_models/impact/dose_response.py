"""Dose-response curves: the Hill equation fitted to well values, with the uncertainty of the half-maximal dose.

The model is that of GraphPad Prism's "log(inhibitor) vs. response" (Hill coefficient fixed at -1) and of its variable
slope form:

    y = bottom + (top - bottom) / (1 + 10 ** (slope * (log_ic50 - x))),    x = log10(concentration)

At concentration 0 the equation has a limit, which is used: `top` for a negative slope, `bottom` for a positive one.
All wells weigh the same and each is a point of its own; replicates are not averaged before the fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats  # pyright: ignore[reportMissingTypeStubs]

FloatArray = NDArray[np.float64]
Status = Literal["ok", "too few points", "no response", "not converged", "not determined", "outside the doses"]

OUTLIER_RATE = 0.01
"""Share of the named outliers that may be none (Q of Motulsky and Brown, 2006)."""

_GRID_STEP = 0.1
_BEYOND = 1.0
"""Log units beyond the tested concentrations within which a half-maximal dose is looked for and believed."""
_SLOPES = (-0.5, -1.0, -2.0, 0.5, 1.0, 2.0)

# scipy ships no types
_least_squares = cast(
    "Callable[..., Any]",
    optimize.least_squares,  # pyright: ignore[reportUnknownMemberType]
)
_t_quantile = cast("Callable[[float, int], float]", stats.t.ppf)
_t_tail = cast("Callable[[FloatArray, int], FloatArray]", stats.t.sf)


@dataclass(frozen=True)
class HillFit:
    """One fitted curve.

    Attributes
    ----------
    status : str
        "ok"; "too few points" (not more wells than parameters, or fewer concentrations than parameters);
        "no response" (all values are the same); "not converged" (the optimiser gave up); "not determined" (the data
        do not fix the half-maximal dose: its 95 % interval is wider than the tested concentrations); "outside the
        doses" (it lies more than one log unit beyond the tested concentrations). The parameters of the first three
        are NaN; of the last two they are the fitted ones and are not to be believed.
    top, bottom : float
        Plateaus, in the unit of the response. With a free slope top is the higher one.
    log_ic50 : float
        log10 of the half-maximal concentration.
    slope : float
        Hill coefficient, fixed or fitted; negative where the response falls with the dose.
    log_ic50_sd : float
        Standard deviation of log_ic50 as the fit estimates it (the "SD" of the paper's figure 6).
    log_ic50_low, log_ic50_high : float
        Confidence interval of log_ic50.
    r2 : float
        1 - residual over total sum of squares.
    residual_sd : float
        Root of the residual sum of squares over the degrees of freedom.
    points : int
        Wells that were fitted.
    """

    status: Status
    top: float
    bottom: float
    log_ic50: float
    slope: float
    log_ic50_sd: float
    log_ic50_low: float
    log_ic50_high: float
    r2: float
    residual_sd: float
    points: int

    @property
    def usable(self) -> bool:
        """Whether log_ic50 is to be compared with others."""
        return self.status == "ok"

    def predict(self, log_concentration: NDArray[Any]) -> FloatArray:
        """Give the curve at log10 concentrations; -inf stands for concentration 0."""
        return hill(log_concentration, top=self.top, bottom=self.bottom, log_ic50=self.log_ic50, slope=self.slope)


def hill(
    log_concentration: NDArray[Any], *, top: float, bottom: float, log_ic50: float, slope: float = -1.0
) -> FloatArray:
    """Evaluate the Hill equation.

    Parameters
    ----------
    log_concentration : ndarray of float
        log10 of the concentration; -inf for concentration 0.
    top, bottom : float
        Plateaus.
    log_ic50 : float
        log10 of the half-maximal concentration.
    slope : float
        Hill coefficient; negative where the response falls with the dose.

    Returns
    -------
    ndarray of float64
        Response, of the same shape.
    """
    return bottom + (top - bottom) * _share(np.asarray(log_concentration, dtype=np.float64), log_ic50, slope)


def fit_hill(
    log_concentration: NDArray[Any], response: NDArray[Any], *, slope: float | None = -1.0, confidence: float = 0.95
) -> HillFit:
    """Fit the Hill equation by least squares.

    The plateaus are linear in the model and solved for exactly at each half-maximal dose (and slope) of a grid over
    the tested concentrations; the best of these starts a Levenberg-Marquardt search over all parameters, so that no
    starting values are to be guessed.
    The standard deviation comes from the Jacobian at the optimum, the interval from Student's t with as many degrees
    of freedom as there are wells more than parameters (as in Prism 5).

    Parameters
    ----------
    log_concentration, response : array of shape (N,)
        log10 of the concentration (-inf for 0) and response of each well, all finite but for the -inf.
    slope : float or None
        Fixed Hill coefficient; None fits it.
    confidence : float
        Of the interval, within 0 to 1.

    Returns
    -------
    HillFit
        Its status says whether the result can be used.

    Raises
    ------
    ValueError
        The arrays differ in length, hold NaN, or the slope is 0.
    """
    x = np.asarray(log_concentration, dtype=np.float64)
    y = np.asarray(response, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"expected two arrays of one length, got {x.shape} and {y.shape}")
    if np.isnan(x).any() or np.isposinf(x).any() or not np.isfinite(y).all():
        raise ValueError("expected finite responses and concentrations")
    if slope == 0:
        raise ValueError("a slope of 0 is no dose-response curve")
    parameters = 3 if slope is not None else 4
    if x.size <= parameters or np.unique(x).size < parameters or np.isfinite(x).sum() < 2:
        return _failed("too few points", x.size, slope)
    total = float(np.sum((y - y.mean()) ** 2))
    if total <= 1e-24 * max(1.0, float(np.sum(y**2))):
        return _failed("no response", x.size, slope)
    found = _search(x, y, slope, robust_scale=None)
    if found is None:
        return _failed("not converged", x.size, slope)
    bottom, top, middle, steep = found
    free = x.size - parameters
    left = y - hill(x, top=top, bottom=bottom, log_ic50=middle, slope=steep)
    squares = float(np.sum(left**2))
    spread = math.sqrt(squares / free)
    sd = _standard_deviation(x, found, spread, fixed=slope is not None)
    reach = float(_t_quantile((1 + confidence) / 2, free)) * sd
    tested = x[np.isfinite(x)]
    status: Status = "ok"
    if not tested.min() - _BEYOND <= middle <= tested.max() + _BEYOND:
        status = "outside the doses"
    elif not math.isfinite(sd) or 2 * reach > tested.max() - tested.min() + 2 * _BEYOND:
        status = "not determined"
    if slope is None and top < bottom:
        # the same curve, written the other way round
        top, bottom, steep = bottom, top, -steep
    return HillFit(
        status=status,
        top=top,
        bottom=bottom,
        log_ic50=middle,
        slope=steep,
        log_ic50_sd=sd,
        log_ic50_low=middle - reach,
        log_ic50_high=middle + reach,
        r2=1 - squares / total,
        residual_sd=spread,
        points=int(x.size),
    )


def find_outliers(
    log_concentration: NDArray[Any], response: NDArray[Any], *, slope: float | None = -1.0, rate: float = OUTLIER_RATE
) -> NDArray[np.bool_]:
    """Name the wells that lie too far from the curve that the others agree on.

    After ROUT (Motulsky and Brown, BMC Bioinformatics 7:123, 2006): a robust fit that takes residuals as
    Cauchy-distributed; their scale from the 68.27th percentile; Student's t of each; and of the p-values those that
    pass Benjamini and Hochberg's rule at a false discovery rate of `rate`.

    Parameters
    ----------
    log_concentration, response, slope
        As for `fit_hill`.
    rate : float
        Share of the named that may be none.

    Returns
    -------
    ndarray of bool of shape (N,)
        True for outliers; all False where there are too few wells to tell.
    """
    x = np.asarray(log_concentration, dtype=np.float64)
    y = np.asarray(response, dtype=np.float64)
    none = np.zeros(x.shape, dtype=np.bool_)
    parameters = 3 if slope is not None else 4
    free = x.size - parameters
    if free < 1 or np.unique(x).size < parameters or np.isfinite(x).sum() < 2:
        return none
    plain = _search(x, y, slope, robust_scale=None)
    if plain is None:
        return none
    scale = _scale(y - _curve(x, plain), free)
    if scale <= 0:
        return none
    # the plain fit's scale is blown up by outliers; twice round brings it to that of the others
    left = none.astype(np.float64)
    for _ in range(2):
        robust = _search(x, y, slope, robust_scale=scale)
        if robust is None:
            return none
        left = y - _curve(x, robust)
        scale = _scale(left, free)
        if scale <= 0:
            return none
    chance = 2 * _t_tail(np.abs(left) / scale, free)
    order = np.argsort(chance)
    passed = np.nonzero(chance[order] <= rate * np.arange(1, x.size + 1) / x.size)[0]
    if passed.size:
        none[order[: passed[-1] + 1]] = True
    return none


def _share(x: FloatArray, middle: float, slope: float) -> FloatArray:
    # 1 / (1 + 10^z) as a hyperbolic tangent, which never overflows and has its limits at infinite z
    return 0.5 * (1 - np.tanh(0.5 * math.log(10) * slope * (middle - x)))


def _curve(x: FloatArray, parameters: tuple[float, float, float, float]) -> FloatArray:
    bottom, top, middle, steep = parameters
    return hill(x, top=top, bottom=bottom, log_ic50=middle, slope=steep)


def _scale(residuals: FloatArray, free: int) -> float:
    return float(np.percentile(np.abs(residuals), 68.27)) * residuals.size / free


def _jacobian(x: FloatArray, parameters: tuple[float, float, float, float]) -> FloatArray:
    """Give the derivatives of the curve: columns bottom, top, log_ic50, slope."""
    bottom, top, middle, steep = parameters
    share = _share(x, middle, steep)
    steepness = (top - bottom) * share * (1 - share) * math.log(10)
    away = np.where(np.isfinite(x), middle - x, 0.0)
    return np.stack([1 - share, share, -steep * steepness, -away * steepness], axis=1)


def _standard_deviation(
    x: FloatArray, parameters: tuple[float, float, float, float], spread: float, *, fixed: bool
) -> float:
    of_all = _jacobian(x, parameters)[:, : 3 if fixed else 4]
    # columns of one size: plateaus may be thousands, the dose is a few log units
    size = np.sqrt(np.sum(of_all**2, axis=0))
    if (size == 0).any():
        return math.inf
    scaled = of_all / size
    if np.linalg.matrix_rank(scaled, tol=1e-8) < scaled.shape[1]:
        return math.inf
    variance = cast("FloatArray", np.linalg.inv(scaled.T @ scaled))
    return spread * math.sqrt(float(variance[2, 2])) / float(size[2])


def _start(x: FloatArray, y: FloatArray, slope: float | None) -> tuple[float, float, float, float]:
    """Best parameters on a grid of half-maximal doses and slopes, the plateaus solved for."""
    tested = x[np.isfinite(x)]
    grid = np.arange(tested.min() - _BEYOND / 2, tested.max() + _BEYOND / 2 + _GRID_STEP / 2, _GRID_STEP)
    best, least = (float(y.min()), float(y.max()), float(np.median(tested)), -1.0), math.inf
    for steep in (slope,) if slope is not None else _SLOPES:
        share = 0.5 * (1 - np.tanh(0.5 * math.log(10) * steep * (grid[:, None] - x[None, :])))
        centred, wanted = share - share.mean(axis=1, keepdims=True), y - y.mean()
        size = np.sum(centred**2, axis=1)
        span = np.where(size > 1e-12, centred @ wanted / np.maximum(size, 1e-12), 0.0)
        squares = np.sum((wanted - span[:, None] * centred) ** 2, axis=1)
        at = int(np.argmin(squares))
        if squares[at] < least:
            least = float(squares[at])
            bottom = float(y.mean() - span[at] * share[at].mean())
            best = (bottom, bottom + float(span[at]), float(grid[at]), float(steep))
    return best


def _search(
    x: FloatArray, y: FloatArray, slope: float | None, *, robust_scale: float | None
) -> tuple[float, float, float, float] | None:
    """Least squares, or with a scale Cauchy's loss, over all parameters; None where the search does not end."""
    start = _start(x, y, slope)
    fixed = slope is not None
    unit = float(np.ptp(y)) or 1.0

    def whole(values: FloatArray) -> tuple[float, float, float, float]:
        bottom, top, middle = (float(value) for value in values[:3])
        return bottom * unit, top * unit, middle, float(slope) if slope is not None else float(values[3])

    def residuals(values: FloatArray) -> FloatArray:
        return (_curve(x, whole(values)) - y) / unit

    def derivatives(values: FloatArray) -> FloatArray:
        of_all = _jacobian(x, whole(values)) / unit
        of_all[:, :2] *= unit
        return of_all[:, :3] if fixed else of_all

    first = np.array([start[0] / unit, start[1] / unit, start[2], start[3]][: 3 if fixed else 4])
    options: dict[str, Any] = (
        {"method": "lm"}
        if robust_scale is None
        else {"method": "trf", "loss": "cauchy", "f_scale": robust_scale / unit}
    )
    try:
        found = _least_squares(residuals, first, jac=derivatives, xtol=1e-10, ftol=1e-10, max_nfev=500, **options)
    except (ValueError, np.linalg.LinAlgError):
        return None
    if not found.success or not np.isfinite(found.x).all():
        return None
    return whole(np.asarray(found.x, dtype=np.float64))


def _failed(status: Status, points: int, slope: float | None) -> HillFit:
    nothing = math.nan
    return HillFit(
        status=status,
        top=nothing,
        bottom=nothing,
        log_ic50=nothing,
        slope=nothing if slope is None else slope,
        log_ic50_sd=nothing,
        log_ic50_low=nothing,
        log_ic50_high=nothing,
        r2=nothing,
        residual_sd=nothing,
        points=points,
    )
