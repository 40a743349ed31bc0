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

_ANGLES = 720


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


@functools.lru_cache(maxsize=32)
def _weights(length: int, knots: int) -> Floats:
    """Rows of cubic B-spline weights that turn `knots + 3` values into `length` smooth ones."""
    at = np.linspace(0, knots, length, endpoint=False)
    distance = np.abs(at[:, None] - (np.arange(knots + 3)[None, :] - 1))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


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
    field = _weights(shape[0], knots[0]) @ values @ _weights(shape[1], knots[1]).T
    # weights of a cubic B-spline keep 0.479 of the variance along each axis
    return (field / 0.479).astype(np.float32)


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

    def relative_distance(self, *, y: float, x: float, reach: int) -> tuple[Floats, Floats]:
        """Distance of pixels from the centre as a share of the outline's radius there.

        Parameters
        ----------
        y, x : float
            Position of the centre within its pixel, 0 to 1.
        reach : int
            The window goes this far from the centre's pixel on each side.

        Returns
        -------
        relative, distance : ndarray of float of shape (2 reach + 1, 2 reach + 1)
            0 in the centre, 1 on the outline; and the distance in pixels.
        """
        rows = np.arange(-reach, reach + 1, dtype=np.float32)[:, None] - np.float32(y)
        columns = np.arange(-reach, reach + 1, dtype=np.float32)[None, :] - np.float32(x)
        distance = np.sqrt(rows**2 + columns**2)
        angle = np.arctan2(rows, columns) * np.float32(_ANGLES / (2 * np.pi))
        radius = self.radii[angle.astype(np.int32) % _ANGLES]
        return distance / radius, distance


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
    for count in range(2, 6):
        shape = shape * (1 + random.normal(0, waves / count) * np.cos(count * angle + random.uniform(0, 2 * np.pi)))
    if roughness:
        for count in random.integers(7, 40, 12):
            shape = shape + random.normal(0, roughness / 3) * np.cos(count * angle + random.uniform(0, 2 * np.pi))
    for _ in range(tips):
        away = np.angle(np.exp(1j * (angle - random.uniform(0, 2 * np.pi))))
        shape = shape + random.gamma(3, tip_length / 3) * np.exp(-(np.abs(away / random.uniform(0.06, 0.2)) ** 1.3))
    return Outline(radii=np.maximum(radius * shape, 0.25 * radius).astype(np.float32))


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
