"""How much a map changes when a reader pads an image or cuts it into tiles: why packages state no halo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artseg_models.images import normalise

#: five poolings
_POOLING = 32
#: what the cards tell a reader of tiles to overlap by, in binned pixels
OVERLAP_PX = 128
#: binned pixels along a side that are measured
_LARGEST_SIDE = 512


@dataclass(frozen=True)
class HaloEffect:
    """Largest differences of a map to that of the whole image.

    Attributes
    ----------
    shape : tuple of int
        Pixels (y, x) of the part of the image that was measured.
    padded : float
        Padded by the largest halo that the smallest image allows, then normalised, as readers do with a stated halo.
    tiles : float
        In four tiles without overlap, each normalised by itself.
    overlapping : float or None
        In four tiles that overlap by `OVERLAP_PX` binned pixels to each side, normalised before cutting; None where a
        tile would be the whole image.
    """

    shape: tuple[int, int]
    padded: float
    tiles: float
    overlapping: float | None


def halo_effect(
    network: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    pixels: NDArray[Any],
    *,
    binning: int,
    pooling: int = _POOLING,
) -> HaloEffect | None:
    """Measure it on the middle of an image.

    Parameters
    ----------
    network : callable
        Takes a normalised image (1, 1, y, x) and gives the map (1, 1, y, x).
    pixels : ndarray
        (y, x), as stored.
    binning : int
        The network's.
    pooling : int
        Binned pixels of which tiles are multiples.

    Returns
    -------
    HaloEffect or None
        None for an image of less than two by two tiles.
    """
    unit = pooling * binning
    sides = [min(side, _LARGEST_SIDE * binning) // (2 * unit) * 2 * unit for side in pixels.shape]
    if min(sides) == 0:
        return None
    top, left = ((there - side) // 2 for there, side in zip(pixels.shape, sides, strict=True))
    part = pixels[top : top + sides[0], left : left + sides[1]]

    def map_of(image: NDArray[Any]) -> NDArray[np.float32]:
        return network(np.ascontiguousarray(image, dtype=np.float32)[None, None])[0, 0]

    normal = normalise(part)
    whole = map_of(normal)
    halo = (unit - 1) // 2
    padded = map_of(normalise(np.pad(part, halo, mode="reflect")))[halo:-halo, halo:-halo]
    alone, overlapping = np.zeros_like(whole), np.zeros_like(whole)
    overlap = OVERLAP_PX * binning
    tall, wide = sides[0] // 2, sides[1] // 2
    for y in (0, tall):
        for x in (0, wide):
            tile = np.s_[y : y + tall, x : x + wide]
            alone[tile] = map_of(normalise(part[tile]))
            first_y, first_x = max(0, y - overlap), max(0, x - overlap)
            found = map_of(normal[first_y : y + tall + overlap, first_x : x + wide + overlap])
            overlapping[tile] = found[y - first_y :, x - first_x :][:tall, :wide]

    def differs(other: NDArray[np.float32]) -> float:
        return float(np.abs(other - whole).max())

    return HaloEffect(
        (sides[0], sides[1]),
        padded=differs(padded),
        tiles=differs(alone),
        overlapping=differs(overlapping) if overlap < min(tall, wide) else None,
    )
