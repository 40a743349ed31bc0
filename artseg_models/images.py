"""Reading, checking, normalising and writing images: one plane, grey, as arrays (y, x)."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from artseg_models.errors import ArtSegError
from artseg_models.files import whole_file

logger = logging.getLogger(__name__)

MINIMUM_SIDE = 32
"""Shortest side of an image in pixels: below it, five poolings leave nothing to look at."""

NORMALISATION_EPSILON = 1e-12
"""Added to the standard deviation, as in the Model Zoo's zero_mean_unit_variance.

Far below any real contrast: with the usual 1e-6 a 12-bit image that CellProfiler hands over as 0..0.06 would come out
darker than the same image in counts.
"""

TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (*TIFF_SUFFIXES, ".png", ".jpg", ".jpeg")

#: zlib's fastest: a map takes a third of the time that its default takes, in a file half as large again
_COMPRESSION = 1
#: pixels that are worked on at once, half a megabyte in 64 bits
_BLOCK_PX = 65_536
# The weights of skimage.color.rgb2gray, which CellProfiler uses when it loads a colour image as grey.
_LUMINANCE = (0.2125, 0.7154, 0.0721)
# A resolution tag outside this range speaks of a screen or a printer, not of a microscope.
_PLAUSIBLE_PIXEL_UM = (0.005, 20.0)
_MICROMETRES = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "nm": 1e-3,
    "pm": 1e-6, "inch": 25400.0, "in": 25400.0,
}  # fmt: skip
_TWELVE_BIT = 4096


@dataclass(frozen=True)
class BrightfieldImage:
    """One plane of an image file.

    Attributes
    ----------
    pixels : ndarray of shape (y, x)
        uint8, uint16 or float32 as stored; colour becomes float32 luminance on the stored scale (alpha left out).
    pixel_size_um : float or None
        Side of a pixel in micrometres, None where nobody said.
    path : Path
        Where it came from.
    bits : int
        Significant bits: 8, 12 (uint16 that stays below 4096), 16 or 32.
    """

    pixels: NDArray[Any]
    pixel_size_um: float | None
    path: Path
    bits: int


def read_image(path: Path, *, plane: int | None = None, pixel_size_um: float | None = None) -> BrightfieldImage:
    """Read one plane of a TIFF, OME-TIFF, PNG or JPEG file.

    The content is not judged: `check_pixels` refuses what cannot be worked with.

    Parameters
    ----------
    path : Path
        The file.
    plane : int, optional
        Which plane, from 0, where the file holds several.
    pixel_size_um : float, optional
        Side of a pixel in micrometres; goes before what the file says.

    Returns
    -------
    BrightfieldImage
        The plane and what the file says of it.

    Raises
    ------
    ArtSegError
        The file is missing, empty, unreadable, truncated, of another format, or holds several planes and `plane`
        is None or too high.
    """
    if pixel_size_um is not None and not (math.isfinite(pixel_size_um) and pixel_size_um > 0):
        raise ArtSegError(f"Expected a pixel size above 0 micrometres, got {pixel_size_um}.")
    pixels, said = _read(path, plane)
    bits = _significant_bits(pixels)
    if pixels.ndim == 3:
        pixels = _luminance(pixels)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype.name not in ("uint8", "uint16"):
        # a float64 beyond float32's range becomes infinite, which check_pixels then reports
        with np.errstate(over="ignore"):
            pixels = pixels.astype(np.float32)
    return BrightfieldImage(
        pixels=np.ascontiguousarray(pixels),
        pixel_size_um=pixel_size_um if pixel_size_um is not None else said,
        path=path,
        bits=bits,
    )


def read_samples(path: Path, *, plane: int | None = None) -> NDArray[Any]:
    """Read one plane with all its colours as stored, for pictures that are to look like the original.

    Parameters
    ----------
    path : Path
        TIFF, PNG or JPEG.
    plane : int, optional
        Which plane, from 0, where the file holds several.

    Returns
    -------
    ndarray of shape (y, x) or (y, x, 3)
        As stored, alpha left out.

    Raises
    ------
    ArtSegError
        As `read_image`.
    """
    pixels, _ = _read(path, plane)
    if pixels.ndim == 2:
        return pixels
    colours = _colours(pixels)
    return colours[..., 0] if colours.shape[-1] == 1 else colours


def read_mask_image(path: Path) -> NDArray[Any]:
    """Read a mask or label image with its values as stored.

    Parameters
    ----------
    path : Path
        TIFF, PNG or JPEG with one plane.

    Returns
    -------
    ndarray of shape (y, x)
        Boolean, integer or float; colour becomes its largest channel, so that a red drawing is not lost.

    Raises
    ------
    ArtSegError
        As `read_image`.
    """
    pixels, _ = _read(path, None)
    return _colours(pixels).max(axis=-1) if pixels.ndim == 3 else pixels


def check_pixels(pixels: NDArray[Any], *, source: str) -> None:
    """Refuse pixels from which nothing can be predicted.

    Parameters
    ----------
    pixels : ndarray
        What should be one grey plane (y, x).
    source : str
        How to name it in the message, such as the file's path.

    Raises
    ------
    ArtSegError
        Not two-dimensional, shorter than `MINIMUM_SIDE` on a side, complex, NaN or infinite, or all pixels alike.
    """
    if pixels.ndim != 2:
        raise ArtSegError(
            f"{source}: expected one grey plane (y, x), got an array of shape {pixels.shape}. "
            "Choose one plane or channel."
        )
    if min(pixels.shape) < MINIMUM_SIDE:
        raise ArtSegError(
            f"{source}: expected at least {MINIMUM_SIDE} pixels on each side, got {pixels.shape[1]} x "
            f"{pixels.shape[0]} (width x height). Use an image of a whole field of view."
        )
    if pixels.dtype.kind not in "buif":
        raise ArtSegError(f"{source}: expected real numbers, got {pixels.dtype}.")
    if pixels.dtype.kind == "f":
        bad = int(pixels.size - np.count_nonzero(np.isfinite(pixels)))
        if bad:
            raise ArtSegError(
                f"{source}: {bad} of {pixels.size} pixels are NaN or infinite. Replace them before, or mask them out."
            )
    if pixels.min() == pixels.max():
        raise ArtSegError(
            f"{source}: all pixels have the value {pixels.flat[0]}; there is nothing to see. "
            "Was the lamp off, or is this the wrong channel?"
        )


def normalise(pixels: NDArray[Any], *, valid: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Bring an image to mean 0 and standard deviation 1.

    ``(x - mean) / (std + 1e-12)`` over the whole image, computed in float64: what the Model Zoo's
    `zero_mean_unit_variance` does over the axes channel, y and x, so that every reader of our packages sees the same.

    Parameters
    ----------
    pixels : ndarray of shape (y, x)
        Any real dtype and range.
    valid : ndarray of bool of shape (y, x), optional
        Pixels outside do not count and become 0.

    Returns
    -------
    ndarray of float32 of shape (y, x)
        A new array.

    Raises
    ------
    ArtSegError
        `valid` has another shape, or no pixel is valid.
    """
    if valid is not None and valid.shape != pixels.shape:
        raise ArtSegError(
            f"The mask of valid pixels has shape {valid.shape}, the image {pixels.shape}; make them alike."
        )
    count = pixels.size if valid is None else int(np.count_nonzero(valid))
    if not count:
        raise ArtSegError("No pixel of the image is valid: the mask covers all of it.")
    # in blocks that stay in the processor's cache: no copy of a large image in 64 bits
    step = max(1, _BLOCK_PX * len(pixels) // pixels.size)
    blocks = [slice(start, start + step) for start in range(0, len(pixels), step)]

    def counted(block: slice) -> NDArray[Any]:
        return pixels[block] if valid is None else pixels[block][valid[block]]

    mean = sum(float(counted(block).sum(dtype=np.float64)) for block in blocks) / count
    squares = sum(float(np.square(counted(block) - mean).sum()) for block in blocks)
    scale = np.sqrt(squares / count) + NORMALISATION_EPSILON
    found = np.empty(pixels.shape, np.float32)
    for block in blocks:
        found[block] = (pixels[block] - mean) / scale
        if valid is not None:
            found[block][~valid[block]] = 0
    return found


def write_image(
    path: Path,
    array: NDArray[Any],
    *,
    audit: Mapping[str, str | float] | None = None,
    pixel_size_um: float | None = None,
) -> None:
    """Write an image, whole or not at all.

    Parameters
    ----------
    path : Path
        ``.tif`` or ``.tiff`` (any dtype, zlib compressed) or ``.png`` (uint8, uint16, bool).
    array : ndarray of shape (y, x) or (y, x, 3)
        bool is written as uint8 0 and 255; float64 as float32; int64 as int32.
    audit : mapping, optional
        How the image came about: JSON in the ImageDescription of a TIFF, text of a PNG.
    pixel_size_um : float, optional
        Side of a pixel in micrometres, written as resolution.

    Raises
    ------
    ArtSegError
        The format cannot hold the array, or the file cannot be written.
    """
    with whole_file(path) as temporary:
        save_image(temporary, array, audit=audit, pixel_size_um=pixel_size_um)


def save_image(
    path: Path,
    array: NDArray[Any],
    *,
    audit: Mapping[str, str | float] | None = None,
    pixel_size_um: float | None = None,
) -> None:
    """Write an image where it stands, into a path that `artseg_models.files.whole_files` gave.

    Parameters
    ----------
    path, array, audit, pixel_size_um
        As for `write_image`.

    Raises
    ------
    ArtSegError
        The format cannot hold the array.
    OSError
        The file cannot be written; what there is of it is left for the caller to remove.
    """
    suffix = path.suffix.lower()
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.float64:
        array = array.astype(np.float32)
    elif array.dtype == np.int64:
        array = array.astype(np.int32)
    description = json.dumps(dict(audit)) if audit is not None else None
    if suffix in TIFF_SUFFIXES:
        tifffile.imwrite(
            path,
            array,
            photometric="rgb" if array.ndim == 3 else "minisblack",
            compression="zlib",
            compressionargs={"level": _COMPRESSION},
            description=description,
            metadata=None,
            resolution=(1e4 / pixel_size_um, 1e4 / pixel_size_um) if pixel_size_um else None,
            resolutionunit="CENTIMETER" if pixel_size_um else None,
        )
    elif suffix == ".png":
        if array.dtype.name not in (("uint8", "uint16") if array.ndim == 2 else ("uint8",)):
            raise ArtSegError(f"A PNG holds 8 or 16 bit, not {array.dtype}; write a .tif instead.")
        information = PngImagePlugin.PngInfo()
        if description is not None:
            information.add_text("Description", description)
        dpi = (25400 / pixel_size_um, 25400 / pixel_size_um) if pixel_size_um else (72, 72)
        Image.fromarray(array).save(path, format="PNG", pnginfo=information, dpi=dpi)
    else:
        raise ArtSegError(f"Images are written as .tif, .tiff or .png, not as '{path.suffix}'.")


def find_images(folder: Path) -> list[Path]:
    """List the images of a folder (not of its subfolders).

    Parameters
    ----------
    folder : Path
        Where to look. Hidden files are left out.

    Returns
    -------
    list of Path
        Files with a suffix of `IMAGE_SUFFIXES`, sorted as a person counts (2 before 10).

    Raises
    ------
    ArtSegError
        There is no such folder, or it cannot be listed.
    """
    try:
        found = [
            entry
            for entry in folder.iterdir()
            if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
        ]
    except OSError as error:
        raise ArtSegError(f"Expected a folder of images at {folder}: {error.strerror or error}.") from error
    return sorted(found, key=lambda path: natural_order(path.name))


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Key by which names are sorted as a person counts: 2 before 10."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def _read(path: Path, plane: int | None) -> tuple[NDArray[Any], float | None]:
    """Read (y, x) or (y, x, samples) as stored, and the pixel size in um if the file says it."""
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtSegError(f"Expected an image at {path}, but this path does not exist. Check the name.") from error
    except OSError as error:
        raise ArtSegError(f"Could not open the image {path}: {error.strerror or error}. Check the name.") from error
    if not path.is_file():
        raise ArtSegError(f"{path} is not a file.")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ArtSegError(f"{path}: expected an image with one of the suffixes {', '.join(IMAGE_SUFFIXES)}.")
    if size == 0:
        raise ArtSegError(f"{path} is empty (0 bytes). Copy it again from where it was acquired.")
    try:
        if path.suffix.lower() in TIFF_SUFFIXES:
            pixels, said = _read_tiff(path, plane, size)
        else:
            pixels, said = _read_picture(path, plane)
    except ArtSegError:
        raise
    except Exception as error:  # the decoders raise whatever they like on broken files
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        # some name the file, which stands before already
        said = said.replace(f" {str(path)!r}", "").replace(f" {path}", "")
        reason = " ".join(said.split()) or type(error).__name__
        raise ArtSegError(f"{path} could not be read as an image ({reason}). Is it damaged or truncated?") from error
    if pixels.size == 0 or pixels.dtype.kind not in "buif":
        raise ArtSegError(f"{path}: expected pixels that are real numbers, got {pixels.dtype} of shape {pixels.shape}.")
    # big-endian files come as they are stored; nothing above wants to know
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False), said


def _read_tiff(path: Path, plane: int | None, size: int) -> tuple[NDArray[Any], float | None]:
    with tifffile.TiffFile(path) as opened:
        series = [one for one in opened.series if not one.keyframe.is_reduced] or list(opened.series)
        counts = [_planes(one) for one in series]
        number = _choose_plane(path, plane, sum(counts), ", ".join(f"{one.axes} {one.shape}" for one in series))
        index = 0
        while number >= counts[index]:
            number -= counts[index]
            index += 1
        chosen = series[index]
        one_page_each = len(chosen.pages) == counts[index]
        for page in [chosen.pages[number]] if one_page_each else chosen.pages:
            # missing ends would silently be filled with zeros
            if page is not None and any(
                offset + count > size for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)
            ):
                raise ArtSegError(
                    f"{path} is truncated: its pixels should go on beyond its {size} bytes. Copy it again."
                )
        page = chosen.pages[number] if one_page_each else None
        if page is not None:
            pixels = page.asarray()
            axes = page.axes
        else:
            pixels = chosen.asarray()
            axes = chosen.axes
        pixels = _split_planes(pixels, axes)[0 if one_page_each else number]
        return pixels, _tiff_pixel_size(opened)


def _planes(series: tifffile.TiffPageSeries) -> int:
    return math.prod(length for axis, length in zip(series.axes, series.shape, strict=True) if axis not in "YXS")


def _split_planes(pixels: NDArray[Any], axes: str) -> NDArray[Any]:
    """Bring an array to (plane, y, x) or (plane, y, x, samples)."""
    order = [at for at, axis in enumerate(axes) if axis not in "YXS"] + [axes.index("Y"), axes.index("X")]
    tail = 2
    if "S" in axes:
        order.append(axes.index("S"))
        tail = 3
    moved = pixels.transpose(order)
    return moved.reshape(-1, *moved.shape[-tail:])


def _choose_plane(path: Path, plane: int | None, planes: int, layout: str) -> int:
    if plane is None:
        if planes > 1:
            raise ArtSegError(
                f"{path} holds {planes} planes ({layout}) where one is expected. "
                f"Choose one with --plane, 0 to {planes - 1}."
            )
        return 0
    if not 0 <= plane < planes:
        raise ArtSegError(
            f"{path} holds {planes} plane{'s' if planes > 1 else ''} ({layout}); --plane {plane} is none of them. "
            f"Choose {f'0 to {planes - 1}' if planes > 1 else '0 or leave the option out'}."
        )
    return plane


def _tiff_pixel_size(opened: tifffile.TiffFile) -> float | None:
    page = opened.pages.first
    if opened.is_ome and opened.ome_metadata:
        size = _ome_pixel_size(opened.ome_metadata)
        if size is not None:
            return size
    resolution = page.tags.get("XResolution")
    if resolution is None:
        return None
    numerator, denominator = cast("tuple[int, int]", resolution.value)
    if not numerator or not denominator:
        return None
    per_unit = numerator / denominator
    unit_um: float | None = None
    if opened.is_imagej:
        # ImageJ writes the resolution tag in pixels per the unit that its own metadata name
        unit_um = _unit((opened.imagej_metadata or {}).get("unit"))
    if unit_um is None:
        unit = page.tags.get("ResolutionUnit")
        unit_um = {2: 25400.0, 3: 1e4}.get(int(unit.value) if unit is not None else 2)
    return _plausible(unit_um / per_unit) if unit_um is not None else None


def _ome_pixel_size(metadata: str) -> float | None:
    for element in ElementTree.fromstring(metadata).iter():
        if element.tag.rpartition("}")[2] == "Pixels" and "PhysicalSizeX" in element.attrib:
            unit_um = _unit(element.attrib.get("PhysicalSizeXUnit", "um"))
            return _plausible(float(element.attrib["PhysicalSizeX"]) * unit_um) if unit_um is not None else None
    return None


def _unit(name: object) -> float | None:
    plain = str(name).strip().lower().replace("\\u00b5", "u").replace("µ", "u").replace("μ", "u")
    return _MICROMETRES.get(plain)


def _plausible(size_um: float) -> float | None:
    low, high = _PLAUSIBLE_PIXEL_UM
    if low <= size_um <= high:
        return size_um
    logger.debug("A pixel size of %g um in the file is left out: no microscope's.", size_um)
    return None


def _read_picture(path: Path, plane: int | None) -> tuple[NDArray[Any], float | None]:
    with Image.open(path) as opened:
        frames = int(getattr(opened, "n_frames", 1))
        number = _choose_plane(path, plane, frames, f"{opened.format}, {opened.width} x {opened.height}")
        dpi = cast("tuple[float, float] | None", opened.info.get("dpi"))
        opened.seek(number)
        opened.load()
        if opened.format == "PNG" and frames == 1:
            # Pillow would cut 16-bit colour down to 8 bit
            pixels = imagecodecs.png_decode(path.read_bytes())
        else:
            pixels = np.asarray(opened if opened.mode in ("L", "I;16", "RGB") else opened.convert("RGB"))
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    return pixels, _plausible(25400 / float(dpi[0])) if dpi and dpi[0] else None


def _colours(pixels: NDArray[Any]) -> NDArray[Any]:
    """Leave alpha out: grey and alpha keep one sample, colour and alpha three."""
    return pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1]


def _luminance(pixels: NDArray[Any]) -> NDArray[Any]:
    colours = _colours(pixels)
    if colours.shape[-1] == 1:
        return colours[..., 0]
    return (colours.astype(np.float64) @ np.asarray(_LUMINANCE)).astype(np.float32)


def _significant_bits(pixels: NDArray[Any]) -> int:
    if pixels.dtype == np.bool_ or pixels.dtype.itemsize == 1:
        return 8
    if pixels.dtype == np.uint16:
        return 12 if int(pixels.max()) < _TWELVE_BIT else 16
    return 32
