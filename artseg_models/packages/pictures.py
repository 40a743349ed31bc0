"""Pictures of a package: its cover, and the cases where its model fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]

_ndimage: Any = ndimage  # its own types are incomplete
_LARGEST_COVER = 500_000
#: an orange that is told from grey by every common form of colour blindness
_ARTIFACT_COLOUR = (255, 166, 43)
_CASE_PX, _GAP_PX = 256, 8


def draw_cover(path: Path, pixels: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    """Draw an image, and beside it the same with its artifacts outlined; 2:1 and below 500 kB.

    Parameters
    ----------
    path : Path
        PNG to be written.
    pixels : ndarray
        (y, x), any range.
    mask : ndarray
        (y, x) bool, True on artifacts.
    """
    side = min(pixels.shape)
    # the square that shows most of the artifacts
    top, left = _best_offset(mask.sum(axis=1), side), _best_offset(mask.sum(axis=0), side)
    square = np.s_[top : top + side, left : left + side]
    grey = _stretched(pixels)[square]
    for shown in (512, 384, 256, 192):
        pair = _plain_and_marked(grey, mask[square], (shown, shown))
        Image.fromarray(np.hstack(pair)).save(path, optimize=True)
        if path.stat().st_size < _LARGEST_COVER:
            return


def draw_cases(path: Path, cases: Sequence[tuple[NDArray[Any], NDArray[np.bool_]]]) -> None:
    """Draw images beside each other, numbered from 1, and below each the same with what was found outlined.

    Parameters
    ----------
    path : Path
        PNG to be written.
    cases : sequence of (pixels, mask)
        (y, x) of any range, and (y, x) bool, True on what was found.
    """
    column = _CASE_PX + _GAP_PX
    sheet = Image.new("RGB", (column * len(cases) + _GAP_PX, 2 * column + 2 * _GAP_PX + 16), "white")
    drawing = ImageDraw.Draw(sheet)
    for index, (pixels, mask) in enumerate(cases):
        height, width = pixels.shape
        scale = _CASE_PX / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        left = _GAP_PX + index * column
        drawing.text((left, 4), str(index + 1), fill="black", font=ImageFont.load_default(14))
        for row, picture in enumerate(_plain_and_marked(_stretched(pixels), mask, size)):
            sheet.paste(Image.fromarray(picture), (left, 16 + _GAP_PX + row * column))
    sheet.save(path, optimize=True)


def _stretched(pixels: NDArray[Any]) -> NDArray[np.float64]:
    low, high = np.percentile(pixels, [0.5, 99.5])
    return np.clip((pixels.astype(np.float64) - low) / max(float(high - low), 1e-9), 0, 1)


def _plain_and_marked(
    grey: NDArray[np.float64], mask: NDArray[np.bool_], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Give an image (y, x) in 0..1 at another size in RGB, as it is and with a mask filled and outlined."""
    small = _resized(grey, size)
    artifact = _resized(mask, size) >= 0.5
    plain = np.repeat((255 * small)[..., None], 3, axis=2)
    marked = plain.copy()
    marked[artifact] = 0.75 * marked[artifact] + 0.25 * np.array(_ARTIFACT_COLOUR)
    edge = artifact & ~_ndimage.binary_erosion(artifact, iterations=2)
    marked[edge] = _ARTIFACT_COLOUR
    return plain.round().astype(np.uint8), marked.round().astype(np.uint8)


def _resized(values: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BOX))


def _best_offset(along: NDArray[Any], side: int) -> int:
    sums = np.convolve(along.astype(np.float64), np.ones(side), mode="valid")
    return int(sums.argmax()) if sums.any() else (len(along) - side) // 2
