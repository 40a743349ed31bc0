"""Artifacts of random shape and look, to paste where no artifact was: the truth is then known exactly.

Nothing here imitates an artifact that `artseg_models.simulate` draws: outlines are thresholded noise, a wandering line
or a crowd of specks; the inside is darker, brighter, hollow, rippled or textured, sharp or out of focus. What a network
learns from them is what all artifacts have in common: they do not belong to the field. The idea is that of DRAEM
(Zavrtanik et al. 2021) and NSA (Schluter et al. 2022), without their image of foreign textures.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]

from artseg_models.transplant import Cutout, Image, Mask

_SMALLEST = 8
"""Side, in pixels, of the box around the smallest artifact."""
_MARGIN = 6
"""Pixels around the outline in which a blurred artifact fades."""


def random_anomaly(random: np.random.Generator, *, largest: int) -> Cutout:
    """Draw an artifact.

    Parameters
    ----------
    random : numpy.random.Generator
        Chooses everything.
    largest : int
        Most pixels along the longer side of its box, at least 8; all sizes from 8 up to it are equally likely on a
        logarithmic scale.

    Returns
    -------
    Cutout
        As if it had been cut out of an image.
    """
    side = round(_log_uniform(random, _SMALLEST, max(largest, _SMALLEST)))
    draw = (_blob, _blob, _thread, _crowd)[int(random.integers(4))]
    mask = np.pad(draw(side, random), _MARGIN + side // 5)
    inside, outside = _distance(mask), _distance(~mask)
    depth = inside / max(float(inside.max()), 1.0)
    profile = (
        mask.astype(np.float32),
        depth ** random.uniform(0.3, 1.5),
        mask * (1 - depth * random.uniform(0, 1.6)),
        mask * np.sin(inside * random.uniform(0.4, 1.5) + random.uniform(0, 2 * np.pi)),
    )[int(random.integers(4))]
    strength = _log_uniform(random, 0.5, 5.0)
    sign = -1.0 if random.random() < 0.65 else 1.0
    look = sign * strength * profile
    if random.random() < 0.5:
        grain = _noise(mask.shape, _log_uniform(random, 0.5, max(1.0, side / 6)), random)
        look = look + mask * grain * strength * random.uniform(0.1, 0.8)
    if random.random() < 0.3:
        # the fringe of the other sign that defocus draws around an edge
        fringe = np.exp(-outside / random.uniform(1, 4)) * ~mask
        look = look - sign * strength * random.uniform(0.1, 0.5) * fringe
    sharp = random.random() < 0.6
    blur = random.uniform(0.3, 1.2) if sharp else random.uniform(1.2, max(1.3, side / 10))
    return Cutout(_blurred(look, blur), mask)


def _blob(side: int, random: np.random.Generator) -> Mask:
    """Draw an ellipse whose outline is more or less rough."""
    y, x = np.mgrid[:side, :side].astype(np.float32) - (side - 1) / 2
    angle = random.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    radius = np.hypot(along, across * random.uniform(1, 3)) / (0.36 * side)
    rough = random.uniform(0, 0.45) * _noise((side, side), side * random.uniform(0.05, 0.2), random)
    return radius + rough < 1


def _thread(side: int, random: np.random.Generator) -> Mask:
    """Draw a line that wanders, nearly straight or curled."""
    turns = _blurred(random.standard_normal(4 * side), random.uniform(0.1, 0.8) * side)
    turns = turns / max(float(turns.std()), 1e-6) * random.uniform(0, 3) / side
    heading = np.cumsum(turns) + random.uniform(0, 2 * np.pi)
    line = np.stack([np.cumsum(np.sin(heading)), np.cumsum(np.cos(heading))])
    line -= line.mean(axis=1, keepdims=True)
    line *= 0.42 * side / max(float(np.abs(line).max()), 1e-6)
    places: NDArray[np.int64] = np.rint(line + (side - 1) / 2).astype(np.int64)
    drawn = np.zeros((side, side), np.bool_)
    drawn[places[0], places[1]] = True
    return _distance(~drawn) <= random.uniform(1, max(1.5, 0.06 * side))


def _crowd(side: int, random: np.random.Generator) -> Mask:
    """Draw several blobs, some of them touching."""
    mask = np.zeros((side, side), np.bool_)
    for _ in range(int(random.integers(3, 15))):
        small = max(5, int(side * random.uniform(0.1, 0.3)))
        top, left = random.integers(0, side - small + 1, 2)
        mask[top : top + small, left : left + small] |= _blob(small, random)
    return mask


def _noise(shape: tuple[int, ...], scale: float, random: np.random.Generator) -> Image:
    """Draw smooth noise (y, x) of zero mean and unit variance; `scale` in pixels."""
    white: NDArray[np.float64] = np.asarray(random.standard_normal(shape), dtype=np.float64)
    smooth = _blurred(white, scale, mode="wrap")
    mean, spread = float(smooth.mean()), max(float(smooth.std()), 1e-6)
    return ((smooth - mean) / spread).astype(np.float32)


def _distance(mask: Mask) -> Image:
    return np.asarray(ndimage.distance_transform_edt(mask), dtype=np.float32)


def _blurred(values: NDArray[Any], sigma: float, mode: str = "constant") -> Image:
    blurred = np.empty(values.shape, np.float32)
    ndimage.gaussian_filter(values.astype(np.float32), sigma, output=blurred, mode=mode)
    return blurred


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    return math.exp(random.uniform(math.log(low), math.log(high)))
