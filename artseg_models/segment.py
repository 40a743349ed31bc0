"""Segment a batch of images with a model: masks, pictures and one table; a bad image does not stop the others."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries  # pyright: ignore[reportUnknownVariableType]

from artseg_models import __version__
from artseg_models.errors import ArtSegError
from artseg_models.files import write_text
from artseg_models.images import BrightfieldImage, find_images, read_image, write_image
from artseg_models.packages.read import Package
from artseg_models.predict import Prediction, Predictor
from artseg_models.progress import track
from artseg_models.report.drawing import stretch

logger = logging.getLogger(__name__)

#: orange outline on a grey image: told apart by colour-blind readers and in print
_OUTLINE = (255, 140, 0)

COLUMNS: tuple[str, ...] = (
    "image",
    "artifact",
    "artifact_probability",
    "area_fraction",
    "usable_area_px",
    "artifact_count",
    "cutoff",
    "smallest_artifact_px",
    "gate_threshold",
    "model_id",
    "model_version",
    "model_sha256",
    "artseg_version",
    "device",
    "seconds",
    "error",
)


@dataclass(frozen=True)
class Segmented:
    """What became of a batch.

    Attributes
    ----------
    table : Path
        ``artifacts.csv``: one row for each image, failed ones with their error.
    done : int
        Images with a mask.
    failed : tuple of (Path, str)
        Images without one, and why.
    """

    table: Path
    done: int
    failed: tuple[tuple[Path, str], ...]


def audit_line(package: Package, *, cutoff: float) -> Mapping[str, str | float]:
    """Say which model made an output: its id, version and SHA-256, the cutoff, and ArtSeg's version."""
    return {
        "model_id": package.id,
        "model_version": package.version,
        "model_sha256": package.sha256,
        "cutoff": cutoff,
        "artseg_version": __version__,
    }


def images_of(sources: Sequence[Path]) -> list[Path]:
    """List the images of files and folders, in natural order.

    Raises
    ------
    ArtSegError
        There is none.
    """
    images = [image for source in sources for image in (find_images(source) if source.is_dir() else [source])]
    if not images:
        raise ArtSegError(f"Expected images in {', '.join(map(str, sources))}, but there are none. Name other folders.")
    return images


def segment_images(
    predictor: Predictor,
    images: Sequence[Path],
    out: Path,
    *,
    cutoff: float | None = None,
    smallest_artifact_px: int | None = None,
    gate: bool = True,
    gate_threshold: float | None = None,
    plane: int | None = None,
    probability: bool = False,
    overlay: bool = True,
) -> Segmented:
    """Find the artifacts in many images and write what was found.

    Parameters
    ----------
    predictor : Predictor
        The loaded model.
    images : sequence of Path
        Image files.
    out : Path
        Gets ``NAME_artifact_mask.tiff`` (255 = artifact), ``NAME_artifact_probability.tiff`` and
        ``NAME_artifact_overlay.png`` for each image, and ``artifacts.csv``.
    cutoff, smallest_artifact_px, gate, gate_threshold
        As in `Predictor.predict`.
    plane : int, optional
        Which plane of files with several.
    probability : bool
        Also write the probability map (float32).
    overlay : bool
        Also write a picture with the artifacts outlined.

    Returns
    -------
    Segmented

    Raises
    ------
    ArtSegError
        Results cannot be written, or two images would write the same file.
    """
    stems = _unique_stems(images)
    rows: list[dict[str, object]] = []
    failed: list[tuple[Path, str]] = []
    for path, stem in track(zip(images, stems, strict=True), "Segmenting", len(images)):
        try:
            image = read_image(path, plane=plane)
            found = predictor.predict(
                image.pixels,
                cutoff=cutoff,
                smallest_artifact_px=smallest_artifact_px,
                gate=gate,
                gate_threshold=gate_threshold,
                source=str(path),
            )
        except ArtSegError as error:
            logger.warning("%s", error)
            failed.append((path, str(error)))
            rows.append({"image": str(path), "error": str(error)})
            continue
        _write(out / stem, image, found, predictor.package, probability=probability, overlay=overlay)
        rows.append(_row(path, found, predictor.package))
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "artifacts.csv", table.getvalue())
    return Segmented(table=out / "artifacts.csv", done=len(images) - len(failed), failed=tuple(failed))


def _unique_stems(images: Sequence[Path]) -> list[str]:
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


def _row(path: Path, found: Prediction, package: Package) -> dict[str, object]:
    return {
        "image": str(path),
        "artifact": "yes" if found.count else "no",
        "artifact_probability": "" if found.image_probability is None else f"{found.image_probability:.4f}",
        "area_fraction": f"{found.area_fraction:.6f}",
        "usable_area_px": found.usable_area_px,
        "artifact_count": found.count,
        "smallest_artifact_px": found.smallest_artifact_px,
        "gate_threshold": "" if found.gate_threshold is None else f"{found.gate_threshold:.4f}",
        "device": found.device,
        "seconds": f"{found.seconds:.3f}",
        **audit_line(package, cutoff=found.cutoff),
    }


def _write(
    stem: Path, image: BrightfieldImage, found: Prediction, package: Package, *, probability: bool, overlay: bool
) -> None:
    audit = audit_line(package, cutoff=found.cutoff)
    size = image.pixel_size_um
    write_image(stem.with_name(f"{stem.name}_artifact_mask.tiff"), found.mask, audit=audit, pixel_size_um=size)
    if probability:
        name = f"{stem.name}_artifact_probability.tiff"
        write_image(stem.with_name(name), found.probability, audit=audit, pixel_size_um=size)
    if overlay:
        write_image(stem.with_name(f"{stem.name}_artifact_overlay.png"), outlined(image.pixels, found.mask))


def outlined(pixels: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Draw the outline of a mask on an image.

    Parameters
    ----------
    pixels : ndarray
        (y, x), any dtype; stretched between its 0.5 and 99.5 percentiles.
    mask : ndarray
        (y, x) bool.

    Returns
    -------
    ndarray
        (y, x, 3) uint8, RGB.
    """
    grey = (255 * stretch(pixels)).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    outline: NDArray[np.bool_] = np.asarray(find_boundaries(mask, mode="thick"), dtype=np.bool_)
    picture[outline] = _OUTLINE
    return picture
