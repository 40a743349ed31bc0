"""Pictures for the browser: any image as a grey JPEG, its contrast stretched, in time for a key press."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artseg_models.images import BrightfieldImage, check_pixels, read_image

THUMBNAIL_SIDE = 192

_SAMPLED = 2**17
"""So many pixels tell the percentiles of an image well enough for showing it."""
_ROWS = 32
_QUALITY = 90
_READ_BYTES = 2**26
_PICTURE_BYTES = 2**26
_AT_ONCE = 2

Value = TypeVar("Value")


@dataclass(frozen=True)
class Picture:
    """A picture for the browser.

    Attributes
    ----------
    jpeg : bytes
        8-bit grey JPEG.
    width, height : int
        Of the image itself, in pixels.
    bits : int
        Significant bits of the image.
    """

    jpeg: bytes
    width: int
    height: int
    bits: int


class _Latest(Generic[Value]):
    """Keeps what was used last, up to so many bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[object, tuple[Value, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: object) -> Value | None:
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][0]

    def put(self, key: object, value: Value, size: int) -> None:
        with self._lock:
            if key in self._held:
                return
            self._held[key] = value, size
            self._bytes += size
            while self._bytes > self._most:
                _, (_, dropped) = self._held.popitem(last=False)
                self._bytes -= dropped


class Previews:
    """Reads images and makes pictures of them, a few at once, and remembers the latest.

    Parameters
    ----------
    plane : int, optional
        Which plane of files with several.
    """

    def __init__(self, *, plane: int | None = None) -> None:
        self._plane = plane
        self._read: _Latest[BrightfieldImage] = _Latest(_READ_BYTES)
        self._pictures: _Latest[Picture] = _Latest(_PICTURE_BYTES)
        # memory stays flat however many pictures a grid asks for
        self._turns = threading.Semaphore(_AT_ONCE)

    def image(self, path: Path) -> BrightfieldImage:
        """Read an image, or give it again.

        Raises
        ------
        ArtSegError
            It cannot be read, or nothing can be learned from it: too small, of one value, not finite.
        """
        key = _version(path)
        image = self._read.get(key)
        if image is None:
            image = read_image(path, plane=self._plane)
            check_pixels(image.pixels, source=path.name)
            self._read.put(key, image, image.pixels.nbytes)
        return image

    def picture(self, path: Path, *, side: int = 0, clip: float = 0.5, raw: bool = False) -> Picture:
        """Make the picture of an image.

        Parameters
        ----------
        path : Path
            The image file.
        side : int
            Longest side in pixels; 0 is as it is.
        clip : float
            So many percent of the pixels become black and as many white, 0..20.
        raw : bool
            Show the whole range of the bit depth instead, as programs do that do not stretch.

        Returns
        -------
        Picture

        Raises
        ------
        ArtSegError
            As `image`.
        """
        key = (_version(path), side, clip, raw)
        picture = self._pictures.get(key)
        if picture is None:
            with self._turns:
                image = self.image(path)
                grey = as_grey(image.pixels, bits=image.bits, clip=clip, raw=raw)
                height, width = grey.shape
                picture = Picture(_encode(grey, side), width, height, image.bits)
            self._pictures.put(key, picture, len(picture.jpeg))
        return picture


def as_grey(pixels: NDArray[Any], *, bits: int, clip: float = 0.5, raw: bool = False) -> NDArray[np.uint8]:
    """Bring grey values to 0..255 for showing.

    Parameters
    ----------
    pixels : ndarray of shape (y, x)
        uint8, uint16 or floating.
    bits : int
        Significant bits, as of `BrightfieldImage`.
    clip : float
        Percent of the pixels that become black, and white.
    raw : bool
        Spread the whole range of `bits` instead; for floating values 0..1, or 0 to the largest if that is above 1.

    Returns
    -------
    ndarray of uint8 of shape (y, x)
    """
    if raw:
        low, high = 0.0, float(2**bits - 1) if bits < 32 else max(1.0, float(pixels.max()))
    else:
        step = max(1, int((pixels.size / _SAMPLED) ** 0.5))
        low, high = (float(one) for one in np.percentile(pixels[::step, ::step], [clip, 100 - clip]))
    scale = 255 / max(high - low, 1e-9)
    # half a grey value less, so that cutting off the digits rounds
    low -= 0.5 / scale
    grey = np.empty(pixels.shape, dtype=np.uint8)
    # a few rows at a time stay in the processor's cache, which halves the time
    rows = np.empty((_ROWS, pixels.shape[1]), dtype=np.float32)
    for top in range(0, len(pixels), _ROWS):
        given = pixels[top : top + _ROWS]
        values = np.subtract(given, np.float32(low), out=rows[: len(given)])
        values *= np.float32(scale)
        grey[top : top + _ROWS] = np.clip(values, 0, 255, out=values)
    return grey


def _encode(grey: NDArray[np.uint8], side: int) -> bytes:
    picture = Image.fromarray(grey)
    longest = max(picture.size)
    if 0 < side < longest:
        picture = picture.reduce(longest // side) if longest >= 2 * side else picture
        if max(picture.size) > side:
            scale = side / max(picture.size)
            size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
            picture = picture.resize(size, Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def _version(path: Path) -> tuple[Path, int]:
    """Tell an image from one that was written anew in its place."""
    try:
        return path, path.stat().st_mtime_ns
    except OSError:
        return path, 0  # reading it will say what is wrong
