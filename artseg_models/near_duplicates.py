"""Images that show nearly the same, found by a perceptual hash: saved again, dimmed or shifted they stay alike."""

# pyright: reportUnknownVariableType=false
# SciPy leaves the types of its array functions open.
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

HASH_BITS = 256
ALIKE_BITS = (40, 24, 14, 8)
"""Hashes that differ in at most so many of 256 bits are near-duplicates.

Unrelated images differ in about 128, and on real sets (smears, nuclei, organoids) never in fewer than 90. Saved again
as JPEG, halved, dimmed, noisy or with a new speck of dust an image differs from itself in 0 to 20, shifted by one
percent in 30 to 40. Where the first limit makes one heap of a large part of the images, they share a background; then
the next one holds inside the heap.
"""

_HEAP = 12
_HEAP_FRACTION = 0.1
_SIDE = 64
_TILE = 8
_SMOOTH = 6.0
_BLOCK_ROWS = 256


def perceptual_hash(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Describe what an image shows in 256 bits: the signs of four low frequencies in each of 64 tiles.

    After the DCT hash of Zauner (Implementation and benchmarking of perceptual image hash functions, 2010), tile by
    tile, so that one strong artifact does not rule all bits, and without the illumination, which is alike in all images
    of a microscope.

    Parameters
    ----------
    pixels : ndarray of shape (y, x)
        Any real dtype and range; brightness and contrast do not matter, values that are not finite count as 0.

    Returns
    -------
    ndarray of bool of shape (256,)
    """
    return small_hash(shrink(pixels))


def shrink(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Average an image down to the 64 x 64 pixels that are hashed."""
    step = max(1, min(pixels.shape) // (4 * _SIDE))
    # every step-th pixel first: the average over all pixels of a large image says no more and takes ten times as long
    values = np.nan_to_num(pixels[::step, ::step].astype(np.float32), posinf=0.0, neginf=0.0)
    return np.asarray(Image.fromarray(values).resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float32)


def small_hash(small: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Hash what `shrink` gave."""
    detail = small - gaussian_filter(small, _SMOOTH, mode="nearest")
    tiles = detail.reshape(_SIDE // _TILE, _TILE, _SIDE // _TILE, _TILE).swapaxes(1, 2)
    frequencies = np.asarray(dctn(tiles, axes=(2, 3), norm="ortho"), dtype=np.float32)
    return np.stack([frequencies[..., y, x] for y, x in ((0, 1), (1, 0), (1, 1), (0, 2))], axis=-1).ravel() > 0


def alike_groups(hashes: NDArray[np.bool_], *, bits: int = ALIKE_BITS[0]) -> list[list[int]]:
    """Group images that are near-duplicates; what is alike by way of others is one group too.

    Memory grows with the number of images, not with that of the pairs, which a folder of copies has millions of.

    Parameters
    ----------
    hashes : ndarray of bool of shape (images, 256)
        One hash a row.
    bits : int
        At most so many may differ.

    Returns
    -------
    list of list of int
        Row numbers of groups of two and more, each sorted, in the order of their first members.
    """
    signs = np.where(hashes, np.float32(1), np.float32(-1))
    least = hashes.shape[1] - 2 * bits  # the scalar product of two sign vectors that differ in so many places
    first = np.arange(len(signs))  # of each image's group so far
    for start in range(0, len(signs), _BLOCK_ROWS):
        near = signs[start : start + _BLOCK_ROWS] @ signs[start:].T >= least
        for row, alike in enumerate(near):
            met = first[start:][alike]
            if (met != first[start + row]).any():
                first[np.isin(first, met)] = met.min()
    groups: dict[int, list[int]] = {}
    for image, of in enumerate(first.tolist()):
        groups.setdefault(of, []).append(image)
    return [members for members in groups.values() if len(members) > 1]


def near_duplicate_groups(hashes: NDArray[np.bool_]) -> list[list[int]]:
    """Group images that show nearly the same.

    Parameters
    ----------
    hashes : ndarray of bool of shape (images, 256)
        One hash a row.

    Returns
    -------
    list of list of int
        Row numbers of groups of two and more. What is alike by way of others is one group too, but no group is a heap:
        more than 12 images that are more than a tenth of all.
    """
    most = max(_HEAP, round(_HEAP_FRACTION * len(hashes)))
    groups: list[list[int]] = []
    heaps = [list(range(len(hashes)))]
    for bits in ALIKE_BITS:
        found: list[list[int]] = []
        for heap in heaps:
            found += [
                [heap[at] for at in members]
                for members in alike_groups(hashes[np.array(heap, dtype=np.intp)], bits=bits)
            ]
        groups += [members for members in found if len(members) <= most]
        heaps = [members for members in found if len(members) > most]
    return sorted(groups)
