"""Segment a batch of images with a model: masks, pictures and one table; a bad image does not stop the others."""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import math
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries  # pyright: ignore[reportUnknownVariableType]

from artseg_models.errors import ArtSegError
from artseg_models.files import whole_files, write_text
from artseg_models.fill import FillSettings, audit_of, fill, refuse_original
from artseg_models.images import BrightfieldImage, find_images, read_image, read_samples, save_image
from artseg_models.likeness import UNLIKE, unlikeness
from artseg_models.outlines import to_geojson
from artseg_models.predict import ImagePredictor, Model, Prediction
from artseg_models.progress import track
from artseg_models.report.drawing import stretch

logger = logging.getLogger(__name__)

#: orange outline on a grey image: told apart by colour-blind readers and in print
_OUTLINE = (255, 140, 0)
#: Outlines of kinds of artifact in the order of the model, again from the first for more than seven: told apart by
#: colour-blind readers (Okabe and Ito, 2008), without their black, which does not show on a dark image. The same stand
#: in `plugins/segmentartifacts.py`.
KIND_COLOURS: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_CAPTION_PX = 12
_CAPTION_LINE_PX = round(1.35 * _CAPTION_PX)
#: between the caption and the borders of its strip
_CAPTION_LEFT_PX, _CAPTION_TOP_PX = 4, 3

COLUMNS: tuple[str, ...] = (
    "image",
    "verdict",
    "artifact_probability",
    "area_fraction",
    "usable_area_px",
    "artifact_count",
    "unlike",
    "cutoff",
    "smallest_artifact_px",
    "smallest_artifact_um2",
    "gate_threshold",
    "pixel_size_um",
    "model_id",
    "model_version",
    "model_sha256",
    "artseg_version",
    "device",
    "engine",
    "tiles",
    "seconds",
    "error",
)
#: for models that tell kinds of artifact apart, behind the number of artifacts
KIND_COLUMNS: tuple[str, ...] = ("kinds", "kind_probabilities")
#: what the files of a map's objects are called and hold where the model finds something else than artifacts
ARTIFACTS = "artifacts"
#: behind an image's name, in the names of the pictures that are written of it
_WRITTEN = (ARTIFACTS, "nuclei", "cells", "probability", "kinds", "overlay", "filled")


@dataclass(frozen=True)
class Segmented:
    """What became of a batch.

    Attributes
    ----------
    table : Path
        ``segmentation.csv``: one row for each image, failed ones with their error.
    done : int
        Images with a mask.
    failed : tuple of (Path, str)
        Images without one, and why.
    unlike : tuple of (Path, float)
        Images that look unlike what the model was trained on, and their distance; see `artseg_models.likeness`.
    """

    table: Path
    done: int
    failed: tuple[tuple[Path, str], ...]
    unlike: tuple[tuple[Path, float], ...] = ()


def images_of(sources: Sequence[Path]) -> list[Path]:
    """List the images of files and folders, in natural order.

    What `segment_images` wrote into a folder of images (``NAME_artifacts.tif`` beside the image NAME, and the like) is
    left out; a file that is named itself is always taken.

    Raises
    ------
    ArtSegError
        There is none.
    """
    images = [image for source in sources for image in (_images_in(source) if source.is_dir() else [source])]
    if not images:
        raise ArtSegError(f"Expected images in {', '.join(map(str, sources))}, but there are none. Name other folders.")
    return images


def _images_in(folder: Path) -> list[Path]:
    there = find_images(folder)
    stems = {path.stem for path in there}
    images = [path for path in there if not _is_written(path.stem, stems)]
    if len(images) < len(there):
        logger.info(
            "%s: %d files left out, which have the names of masks, maps and pictures of its other images. Name a file "
            "itself to have it segmented.",
            folder,
            len(there) - len(images),
        )
    return images


def _is_written(stem: str, stems: Collection[str]) -> bool:
    name, _, ending = stem.rpartition("_")
    return ending in _WRITTEN and name in stems


def segment_images(
    predictor: ImagePredictor,
    images: Sequence[Path],
    out: Path,
    *,
    cutoff: float | None = None,
    smallest_artifact_px: int | None = None,
    smallest_artifact_um2: float | None = None,
    gate: bool = True,
    gate_threshold: float | None = None,
    plane: int | None = None,
    pixel_size_um: float | None = None,
    overlay: bool = False,
    geojson: bool = False,
    filled: FillSettings | None = None,
) -> Segmented:
    """Find the artifacts in many images and write what was found.

    Parameters
    ----------
    predictor : ImagePredictor
        The loaded model.
    images : sequence of Path
        Image files.
    out : Path
        Gets ``NAME_artifacts.tif`` (uint8, 255 = artifact) and ``NAME_probability.tif`` (float32, 0..1) for each image,
        and ``segmentation.csv``. A package of nuclei or cells gives ``NAME_nuclei.tif`` or ``NAME_cells.tif`` instead,
        a label map (uint16, 0 = background). A model that tells kinds of artifact apart gives ``NAME_kinds.tif``, too
        (uint8: on artifacts the place of their kind among the names in the file's metadata, counted from 1).
    cutoff, smallest_artifact_px, gate, gate_threshold
        As in `Predictor.predict`.
    smallest_artifact_um2 : float, optional
        Smallest artifact as an area, instead of `smallest_artifact_px`; every image must have a pixel size then.
    plane : int, optional
        Which plane of files with several.
    pixel_size_um : float, optional
        Side of a pixel, instead of what the files say.
    overlay : bool
        Also write ``NAME_overlay.png``, the image with the artifacts outlined, each kind in a colour of its own, and
        below it which model drew them.
    geojson : bool
        Also write ``NAME_artifacts.geojson``, the outlines for QuPath and others.
    filled : FillSettings, optional
        Also write ``NAME_filled.tif``: the image with the artifacts replaced by background, in its own dtype, colours
        and pixel size. Never over the original.

    Returns
    -------
    Segmented

    Raises
    ------
    ArtSegError
        The table cannot be written, or two images would write the same file.
    """
    stems = unique_stems(images)
    rows: list[dict[str, object]] = []
    failed: list[tuple[Path, str]] = []
    unlike: list[tuple[Path, float]] = []

    def read(path: Path) -> BrightfieldImage:
        return read_image(path, plane=plane, pixel_size_um=pixel_size_um)

    def predict(image: BrightfieldImage) -> Prediction:
        return predictor.predict(
            image.pixels,
            cutoff=cutoff,
            smallest_artifact_px=_in_pixels(smallest_artifact_um2, image)
            if smallest_artifact_um2 is not None
            else smallest_artifact_px,
            gate=gate,
            gate_threshold=gate_threshold,
            pixel_size_um=image.pixel_size_um,
            source=str(image.path),
        )

    def write(stem: str, image: BrightfieldImage, found: Prediction) -> dict[str, object]:
        _write(
            out / stem,
            image,
            found,
            predictor.model,
            target=predictor.target,
            overlay=overlay,
            geojson=geojson,
            filled=filled,
            plane=plane,
        )
        artifact = found.mask if found.valid is None else found.mask | ~found.valid
        distance = unlikeness(image.pixels, predictor.image_features, artifact=artifact)
        if distance >= UNLIKE:
            unlike.append((image.path, distance))
        return _row(image, found, predictor.model, predictor.target, distance)

    def note(path: Path, row: Callable[[], dict[str, object]]) -> None:
        try:
            rows.append(row())
        except ArtSegError as error:
            logger.debug("%s", error)  # told at the end
            failed.append((path, str(error)))
            rows.append({"image": str(path), "error": str(error)})

    # the next image is read, and the last one written, while the network works on this one
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reading = reader.submit(read, images[0]) if images else None
        unnoted: tuple[Path, Callable[[], dict[str, object]]] | None = None
        for number, (path, stem) in enumerate(track(zip(images, stems, strict=True), "Segmenting", len(images)), 1):
            image_read = cast("Future[BrightfieldImage]", reading)
            reading = reader.submit(read, images[number]) if number < len(images) else None
            row: Callable[[], dict[str, object]]
            try:
                image = image_read.result()
                row = writer.submit(write, stem, image, predict(image)).result
            except ArtSegError as error:
                row = partial(_raise, error)
            if unnoted is not None:  # waits for the one before: no more than one image is being written
                note(*unnoted)
            unnoted = (path, row)
        if unnoted is not None:
            note(*unnoted)
    table = io.StringIO()
    lines = csv.DictWriter(table, _columns(predictor.kinds), restval="", lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    try:
        write_text(out / "segmentation.csv", table.getvalue())
    except ArtSegError as error:
        raise ArtSegError(
            f"{error} Before that, {len(failed)} of {len(images)} images could not be segmented."
        ) from error
    return Segmented(out / "segmentation.csv", len(images) - len(failed), tuple(failed), tuple(unlike))


def _columns(kinds: Sequence[str]) -> tuple[str, ...]:
    if not kinds:
        return COLUMNS
    behind = COLUMNS.index("artifact_count") + 1
    return COLUMNS[:behind] + KIND_COLUMNS + COLUMNS[behind:]


def _raise(error: ArtSegError) -> dict[str, object]:
    raise error


def unique_stems(images: Sequence[Path]) -> list[str]:
    """Name the outputs after the images; after folder and image where names occur twice."""
    stems = [path.stem for path in images]
    if len(set(stems)) < len(stems):
        stems = [f"{path.parent.name}_{path.stem}" for path in images]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise ArtSegError(
            f"Expected images with different names, but more than one would be called {twice}. "
            "Segment their folders one by one, each with an --out of its own."
        )
    return stems


def _in_pixels(area_um2: float, image: BrightfieldImage) -> int:
    if image.pixel_size_um is None:
        raise ArtSegError(
            f"Expected a pixel size for {image.path} to take the smallest artifact in um2, but the file has none. "
            "Give --pixel-size, or the smallest artifact in pixels."
        )
    return round(area_um2 / image.pixel_size_um**2)


def _row(image: BrightfieldImage, found: Prediction, model: Model, target: str, distance: float) -> dict[str, object]:
    size = image.pixel_size_um
    verdict = "artifact" if found.count else "clean"
    return {
        "image": str(image.path),
        "verdict": verdict if target == ARTIFACTS else "",
        "artifact_probability": "" if found.image_probability is None else f"{found.image_probability:.4f}",
        "area_fraction": f"{found.area_fraction:.6f}",
        "usable_area_px": found.usable_area_px,
        "artifact_count": found.count,
        **(_kind_cells(found) if found.kinds else {}),
        "unlike": "" if math.isnan(distance) else f"{distance:.2f}",
        "smallest_artifact_um2": "" if size is None else f"{found.smallest_artifact_px * size**2:.2f}",
        "pixel_size_um": "" if size is None else f"{size:.6g}",
        "tiles": found.tiles,
        "seconds": f"{found.seconds:.3f}",
        **found.audit(model).fields(),
    }


def _kind_cells(found: Prediction) -> dict[str, object]:
    return {
        "kinds": ";".join(f"{kind}:{count}" for kind, count in found.kind_counts.items() if count),
        "kind_probabilities": ";".join(f"{kind}:{probability:.4f}" for kind, probability in found.image_kinds.items()),
    }


def _write(
    stem: Path,
    image: BrightfieldImage,
    found: Prediction,
    model: Model,
    *,
    target: str,
    overlay: bool,
    geojson: bool,
    filled: FillSettings | None,
    plane: int | None,
) -> None:
    audit = found.audit(model).fields()
    size = image.pixel_size_um
    objects: NDArray[Any] = found.mask if target == ARTIFACTS else found.labels.astype(np.uint16)
    writers: dict[str, Callable[[Path], object]] = {
        f"_{target}.tif": lambda path: save_image(path, objects, audit=audit, pixel_size_um=size),
        "_probability.tif": lambda path: save_image(path, found.probability, audit=audit, pixel_size_um=size),
    }
    if found.kinds:
        named = audit | {"kinds": ";".join(found.kinds)}
        writers["_kinds.tif"] = lambda path: save_image(path, found.kind_map, audit=named, pixel_size_um=size)
    if overlay:
        legend = dict(zip(found.kinds, itertools.cycle(KIND_COLOURS), strict=False))
        marked = (
            outlined(image.pixels, found.kind_map, colours=tuple(legend.values()))
            if legend
            else outlined(image.pixels, found.mask)
        )
        drawn = captioned(marked, found.audit(model).line(), legend=legend)
        writers["_overlay.png"] = lambda path: save_image(path, drawn, audit=audit)
    if geojson:
        # an image without artifact has no feature that could bear it
        classes = [found.kinds[number - 1] for number in cast("list[int]", found.object_kinds.tolist())]
        outlines = json.dumps({**to_geojson(found.labels, properties=audit, classes=classes), "artseg": audit})
        writers[f"_{target}.geojson"] = lambda path: path.write_bytes(outlines.encode())
    if filled is not None:
        refuse_original(image.path, stem.with_name(stem.name + "_filled.tif"))
        picture = fill(read_samples(image.path, plane=plane), found.mask, settings=filled, source=str(image.path))
        made = audit | audit_of(image.path, found.mask, filled)
        writers["_filled.tif"] = lambda path: save_image(path, picture, audit=made, pixel_size_um=size)
    # all or none: a new mask beside the probability map of an earlier run would mislead
    with whole_files([stem.with_name(stem.name + ending) for ending in writers]) as places:
        for write, place in zip(writers.values(), places, strict=True):
            write(place)


def outlined(
    pixels: NDArray[Any],
    mask: NDArray[np.bool_] | NDArray[np.uint8],
    *,
    colours: Sequence[tuple[int, int, int]] = (_OUTLINE,),
) -> NDArray[np.uint8]:
    """Draw the outline of a mask, or of several in one map, on an image.

    Parameters
    ----------
    pixels : ndarray
        (y, x), any dtype; stretched between its 0.5 and 99.5 percentiles.
    mask : ndarray
        (y, x) bool; or uint8, the place of the pixel's colour counted from 1, 0 where there is nothing to outline. What
        reaches the image's border is outlined along it, too.
    colours : sequence of (int, int, int)
        RGB, 0..255, one a place.

    Returns
    -------
    ndarray
        (y, x, 3) uint8, RGB.
    """
    grey = (255 * stretch(pixels)).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    for place, colour in enumerate(colours, start=1):
        around = np.pad(mask == place, 1)  # beyond the image there is none of it
        outline: NDArray[np.bool_] = np.asarray(find_boundaries(around, mode="thick"), dtype=np.bool_)
        picture[outline[1:-1, 1:-1]] = colour
    return picture


def captioned(
    picture: NDArray[np.uint8], text: str, *, legend: Mapping[str, tuple[int, int, int]] | None = None
) -> NDArray[np.uint8]:
    """Put a caption below a picture, in as many lines as its width needs.

    Parameters
    ----------
    picture : ndarray
        (y, x, 3) uint8, RGB.
    text : str
        The caption.
    legend : mapping of str to (int, int, int), optional
        Names and their colours in the picture (RGB, 0..255), to stand above the caption.

    Returns
    -------
    ndarray
        (y, x, 3) uint8, higher by the caption; the picture itself is unchanged.
    """
    font = ImageFont.load_default(_CAPTION_PX)
    width = picture.shape[1]
    # of the widest digit, so that no line is cut off; a SHA-256 may be broken
    digit = font.getlength("0")
    per_line = max(8, int((width - 2 * _CAPTION_LEFT_PX) / digit))
    lines = textwrap.wrap(text, per_line)
    keys: list[tuple[float, int, str, tuple[int, int, int] | None]] = []
    x, rows = float(_CAPTION_LEFT_PX), 0
    for name, colour in (legend or {}).items():
        # a name that is wider than the picture goes on in the next line, beside no colour
        for number, piece in enumerate(textwrap.wrap(name, max(4, per_line - 3))):
            length = _CAPTION_LINE_PX + font.getlength(piece)
            if not rows or x + length > width - _CAPTION_LEFT_PX:
                x, rows = float(_CAPTION_LEFT_PX), rows + 1
            keys.append((x, rows - 1, piece, None if number else colour))
            x += length + digit
    strip = Image.new("RGB", (width, _CAPTION_LINE_PX * (rows + len(lines)) + 2 * _CAPTION_TOP_PX), "white")
    drawing = ImageDraw.Draw(strip)
    for x, row, piece, colour in keys:
        top = _CAPTION_TOP_PX + row * _CAPTION_LINE_PX
        if colour is not None:
            drawing.rectangle((x, top + 2, x + _CAPTION_PX - 2, top + _CAPTION_PX), fill=colour, outline="black")
        drawing.text((x + _CAPTION_LINE_PX, top), piece, fill="black", font=font)
    for index, line in enumerate(lines, start=rows):
        drawing.text((_CAPTION_LEFT_PX, _CAPTION_TOP_PX + index * _CAPTION_LINE_PX), line, fill="black", font=font)
    return np.vstack([picture, np.asarray(strip)])
