"""Random shapes and smooth fields that cells and artifacts are made from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]

Floats = NDArray[np.floating[Any]]

# scipy ships no types
gaussian = cast("Callable[..., Floats]", ndimage.gaussian_filter)  # pyright: ignore[reportUnknownMemberType]
_box = cast("Callable[..., Floats]", ndimage.uniform_filter)  # pyright: ignore[reportUnknownMemberType]
_distance = cast(
    "Callable[..., NDArray[np.float64]]",
    ndimage.distance_transform_edt,  # pyright: ignore[reportUnknownMemberType]
)
_fill_holes = cast(
    "Callable[..., NDArray[np.bool_]]",
    ndimage.binary_fill_holes,  # pyright: ignore[reportUnknownMemberType]
)
_close = cast(
    "Callable[..., NDArray[np.bool_]]",
    ndimage.binary_closing,  # pyright: ignore[reportUnknownMemberType]
)

_ANGLES = 720


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Close small gaps of a mask (y, x) and fill its insides; its edge should be 3 pixels wide and empty."""
    return _fill_holes(_close(mask, structure=np.ones((3, 3)), iterations=2))


def broad_blur(image: Floats, sigma: float) -> Floats:
    """Blur by about a Gaussian of any width at the price of three moving averages.

    Parameters
    ----------
    image : ndarray of float of shape (y, x)
        What to blur.
    sigma : float
        Standard deviation in pixels, 3 or more.
    """
    # three boxes of width w have the variance of a Gaussian: 3 (w^2 - 1) / 12 = sigma^2
    width = max(1, round(float(np.sqrt(4 * sigma**2 + 1))))
    for _ in range(3):
        image = _box(image, width, mode="nearest")
    return image


@functools.lru_cache(maxsize=256)
def _spline(length: int, knots: int) -> tuple[NDArray[np.int64], Floats]:
    """First knot and the four cubic B-spline weights of each of `length` places among `knots + 3` knots."""
    at = np.arange(length) * (knots / max(length, 1))
    first = np.floor(at).astype(np.int64)
    t = at - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    return first, weights.astype(np.float32)


def smooth_field(random: np.random.Generator, shape: tuple[int, int], scale: float) -> Floats:
    """Draw a smooth random field.

    Parameters
    ----------
    random : numpy.random.Generator
        Source of chance.
    shape : tuple of int
        (y, x).
    scale : float
        Size of its features in pixels.

    Returns
    -------
    ndarray of float of shape `shape`
        Mean about 0, standard deviation about 1.
    """
    knots = [max(1, round(length / scale)) for length in shape]
    values = random.standard_normal((knots[0] + 3, knots[1] + 3), dtype=np.float32)
    # sums of four, not a matrix product, whose last digit depends on the machine
    first, weights = _spline(shape[0], knots[0])
    along_y = sum(weights[tap][:, None] * values[first + tap] for tap in range(4))
    first, weights = _spline(shape[1], knots[1])
    field = sum(weights[tap][None, :] * np.take(along_y, first + tap, axis=1) for tap in range(4))
    # the weights keep 0.479 of the variance along each axis
    return np.asarray(field, dtype=np.float32) / np.float32(0.479)


def grain(random: np.random.Generator, shape: tuple[int, int], sigma: float) -> Floats:
    """Draw blurred white noise of standard deviation 1 and features of `sigma` pixels."""
    noise = gaussian(random.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    return (noise * (2 * np.sqrt(np.pi) * sigma if sigma > 0.4 else 1.0)).astype(np.float32)


@dataclass(frozen=True)
class Outline:
    """A star-shaped outline: its radius in each direction.

    Attributes
    ----------
    radii : ndarray of float32
        Radius in pixels by angle, evenly around.
    """

    radii: Floats

    @property
    def reach(self) -> int:
        """Largest radius in whole pixels."""
        return int(np.ceil(float(self.radii.max())))

    def smooth(self, share: float) -> Outline:
        """Give the same shape without processes and fine waves, `share` times as large."""
        # in 1 / radius^2 an ellipse is a mean and a second harmonic: smoothing there keeps long cells long
        turns = np.fft.rfft(self.radii**-2.0)
        turns[4:] = 0
        inverse = np.maximum(np.fft.irfft(turns, len(self.radii)), float(self.radii.max()) ** -2.0)
        return Outline(radii=(share / np.sqrt(inverse)).astype(np.float32))

    def relative_distance(self, around: Polar) -> Floats:
        """Distance as a share of the outline's radius in that direction: 0 in the centre, 1 on the outline."""
        return around.distance / self.radii[around.angle]


@dataclass(frozen=True)
class Polar:
    """A window seen from a centre.

    Attributes
    ----------
    distance : ndarray of float of shape (y, x)
        From the centre, in pixels.
    angle : ndarray of int of shape (y, x)
        Index into an outline's radii.
    """

    distance: Floats
    angle: NDArray[np.int32]


def window(*, y: float, x: float, reach: int, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], Polar]:
    """Cut a window out of a canvas and see it from (y, x).

    Parameters
    ----------
    y, x : float
        Centre on the canvas, or less than `reach` beside it.
    reach : int
        The window goes this far on each side.
    shape : tuple of int
        (y, x) of the canvas.

    Returns
    -------
    canvas : tuple of slice
        Where it lies, cut at the canvas's borders.
    around : Polar
        The window as seen from (y, x).
    """
    top, left = max(0, int(y) - reach), max(0, int(x) - reach)
    bottom, right = min(shape[0], int(y) + reach + 1), min(shape[1], int(x) + reach + 1)
    rows = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
    columns = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(x)
    angle = np.arctan2(rows, columns) * np.float32(_ANGLES / (2 * np.pi))
    around = Polar(distance=np.sqrt(rows**2 + columns**2), angle=angle.astype(np.int32) % _ANGLES)
    return (slice(top, bottom), slice(left, right)), around


def draw_outline(
    random: np.random.Generator,
    *,
    radius: float,
    elongation: float = 1.0,
    turn: float | None = None,
    waves: float = 0.1,
    roughness: float = 0.0,
    tips: int = 0,
    tip_length: float = 0.5,
) -> Outline:
    """Draw an irregular outline.

    Parameters
    ----------
    random : numpy.random.Generator
        Source of chance.
    radius : float
        Of the circle of about the same area, in pixels.
    elongation : float
        Long to short axis, 1 or more.
    turn : float, optional
        Direction of the long axis in radians; drawn if None.
    waves : float
        Height of the slow waves along the outline, as a share of the radius.
    roughness : float
        Height of the fine waves, as a share of the radius.
    tips : int
        How many pointed processes.
    tip_length : float
        Their mean length as a share of the radius.
    """
    angle = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    turn = random.uniform(0, np.pi) if turn is None else turn
    long, short = np.sqrt(elongation), 1 / np.sqrt(elongation)
    shape = long * short / np.hypot(short * np.cos(angle - turn), long * np.sin(angle - turn))
    slow = np.arange(2, 6)
    shape = shape * np.prod(1 + _waves(random, angle, slow, waves / slow), axis=0)
    if roughness:
        fine = random.integers(7, 40, 12)
        shape = shape + np.sum(_waves(random, angle, fine, np.full(12, roughness / 3)), axis=0)
    for _ in range(tips):
        away = np.abs(np.angle(np.exp(1j * (angle - random.uniform(0, 2 * np.pi)))))
        # a process has a broad foot and a fine end
        shape = shape + random.gamma(3, tip_length / 3) * np.exp(-((away / random.uniform(0.12, 0.4)) ** 0.9))
    return Outline(radii=np.maximum(radius * shape, 0.25 * radius).astype(np.float32))


def _waves(
    random: np.random.Generator, angle: NDArray[np.float64], counts: NDArray[np.int64], heights: NDArray[np.float64]
) -> NDArray[np.float64]:
    phases = random.uniform(0, 2 * np.pi, len(counts))
    return random.normal(0, heights)[:, None] * np.cos(counts[:, None] * angle + phases[:, None])


def draw_curve(
    random: np.random.Generator, *, length: float, bend: float, step: float = 4.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw a smooth curve that wanders as a fibre does.

    Parameters
    ----------
    random : numpy.random.Generator
        Source of chance.
    length : float
        In pixels.
    bend : float
        Typical curvature in radians per 100 pixels.
    step : float
        Distance of the points in pixels.

    Returns
    -------
    y, x : ndarray of float64
        Points of the curve, their middle at 0.
    """
    count = max(3, round(length / step))
    # curvature that drifts: a fibre keeps bending the same way for a while
    drift = np.cumsum(random.normal(0, 1, count))
    drift = (drift - drift.mean()) / max(float(drift.std()), 1e-6)
    direction = random.uniform(0, 2 * np.pi) + np.cumsum(drift * bend * step / 100)
    y, x = np.cumsum(step * np.sin(direction)), np.cumsum(step * np.cos(direction))
    return y - y[count // 2], x - x[count // 2]


def distance_to_curve(shape: tuple[int, int], y: NDArray[np.float64], x: NDArray[np.float64]) -> Floats:
    """Distance in pixels of each pixel of a window from a curve given by close points."""
    fine = np.linspace(0, len(y) - 1, 8 * len(y))
    rows = np.rint(np.interp(fine, np.arange(len(y)), y)).astype(np.int64)
    columns = np.rint(np.interp(fine, np.arange(len(x)), x)).astype(np.int64)
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    empty = np.ones(shape, dtype=np.bool_)
    empty[rows[inside], columns[inside]] = False
    if not inside.any():
        return np.full(shape, 1e6, dtype=np.float32)
    # whole pixels make stairs; a little blur takes them away
    return gaussian(_distance(empty).astype(np.float32), 0.7)


def splat(shape: tuple[int, int], y: NDArray[Any], x: NDArray[Any], weight: NDArray[Any] | float) -> Floats:
    """Add points to an empty image, each shared among its four nearest pixels; those outside are left out."""
    image = np.zeros((shape[0] + 1, shape[1] + 1), dtype=np.float32)
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    inside = (top >= 0) & (top < shape[0]) & (left >= 0) & (left < shape[1])
    weights = np.broadcast_to(np.asarray(weight, dtype=np.float32), top.shape)[inside]
    down, right = (y - top)[inside], (x - left)[inside]
    top, left = top[inside], left[inside]
    np.add.at(image, (top, left), weights * (1 - down) * (1 - right))
    np.add.at(image, (top + 1, left), weights * down * (1 - right))
    np.add.at(image, (top, left + 1), weights * (1 - down) * right)
    np.add.at(image, (top + 1, left + 1), weights * down * right)
    return image[:-1, :-1]
