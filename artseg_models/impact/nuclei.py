"""Nuclei in artifacts, beside them, everywhere, and after removal: how well they are found, and how they look.

A nucleus lies in an artifact when at least a given share of its pixels is under the artifact mask (0.5 by default);
this holds for true and for found nuclei alike. Pixels are counted in an area or outside it, whatever nucleus they
belong to. Scores are of each image and then averaged over images, as in the paper; NaN where an image has nothing to
score in the area.

Nuclei that were found in images in which artifacts were masked already are scored by that pipeline's own rule: a
nucleus that the mask touches is out, true ones and found ones alike.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# scikit-image and matplotlib leave types open.
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]
from scipy.ndimage import binary_dilation  # pyright: ignore[reportMissingTypeStubs]
from skimage.measure import regionprops

from artseg_models.errors import ArtSegError
from artseg_models.files import read_json, write_json, write_text
from artseg_models.images import find_images, read_image, read_mask_image, write_image
from artseg_models.metrics import count_agreement, match_objects, mean_defined
from artseg_models.predict import ImagePredictor
from artseg_models.report.drawing import BLUE, INK, MUTED, ORANGE, save_figure

OVERLAP = 0.5
"""A nucleus with this share of its pixels under the mask, or more, lies in the artifact."""

INSIDE, OUTSIDE, EVERYWHERE = "in artifacts", "artifact-free", "everywhere"

PAPER: Mapping[str, Mapping[str, float]] = {
    INSIDE: {"pixel_f1": 0.60, "object_f1": 0.28, "area_px": 213, "solidity": 0.92},
    OUTSIDE: {"pixel_f1": 0.89, "object_f1": 0.65, "area_px": 400, "solidity": 0.95},
    EVERYWHERE: {"pixel_f1": 0.87, "object_f1": 0.61},
    "after removal, model": {"pixel_f1": 0.89, "object_f1": 0.64, "area_px": 397, "solidity": 0.95},
}
"""Section 3.3.1 of Ali et al. (Scientific Reports 12:11404, 2022): seven cell lines."""

_COLORS = ("#009E73", "#CC79A7", "#E69F00")
_LINES = ("-.", ":", (0, (3, 1, 1, 1)))


@dataclass(frozen=True)
class NucleiScore:
    """The nuclei of one image in one area.

    Attributes
    ----------
    image, area : str
        Which image, which area.
    pixel_f1, object_f1 : float
        Against the true nuclei; NaN where there are neither true nor found ones.
    nuclei, true_nuclei : int
        How many were found and how many there are.
    areas_px, solidities : tuple of float
        Of the found nuclei.
    """

    image: str
    area: str
    pixel_f1: float
    object_f1: float
    nuclei: int
    true_nuclei: int
    areas_px: tuple[float, ...]
    solidities: tuple[float, ...]


def score_nuclei(
    name: str,
    truth: NDArray[np.integer[Any]],
    found: NDArray[np.integer[Any]],
    true_mask: NDArray[np.bool_],
    other_masks: Mapping[str, NDArray[np.bool_]],
    *,
    overlap: float = OVERLAP,
    smallest_iou: float = 0.5,
) -> list[NucleiScore]:
    """Score the nuclei of one image in artifacts, beside them, everywhere, and after removal by other masks.

    Parameters
    ----------
    name : str
        The image's name.
    truth, found : integer array of shape (y, x)
        Label maps, 0 = background.
    true_mask : bool array of shape (y, x)
        True = artifact, as drawn or as simulated.
    other_masks : mapping of str to bool array
        Masks by which artifacts are removed, for instance the model's.
    overlap : float
        Share of a nucleus under a mask from which on it lies in the artifact, within (0, 1].
    smallest_iou : float
        A found nucleus is a true one from this intersection over union on.

    Returns
    -------
    list of NucleiScore
        "in artifacts", "artifact-free", "everywhere", and "after removal, NAME" for each of the other masks.

    Raises
    ------
    ArtSegError
        Shapes differ.
    """
    for what, array in (("found nuclei", found), ("artifact mask", true_mask), *other_masks.items()):
        if array.shape != truth.shape:
            raise ArtSegError(f"{name}: {what} of shape {array.shape}, true nuclei of {truth.shape}; make them alike.")
    whole = np.zeros(truth.shape, dtype=np.bool_)
    areas = [
        (INSIDE, true_mask, True),
        (OUTSIDE, true_mask, False),
        (EVERYWHERE, whole, False),
        *((f"after removal, {other}", mask, False) for other, mask in other_masks.items()),
    ]
    shapes = {int(one.label): (float(one.area), float(one.solidity)) for one in regionprops(found)}
    scores: list[NucleiScore] = []
    for area, mask, inside in areas:
        own_truth, own_found = (_in_area(labels, mask, overlap, inside=inside) for labels in (truth, found))
        kept = [int(label) for label in np.unique(own_found) if label]
        scores.append(
            NucleiScore(
                image=name,
                area=area,
                pixel_f1=count_agreement(truth > 0, found > 0, valid=mask if inside else ~mask).f1,
                object_f1=match_objects(own_truth, own_found, smallest_iou=smallest_iou).f1,
                nuclei=len(kept),
                true_nuclei=int(np.count_nonzero(np.unique(own_truth))),
                areas_px=tuple(shapes[label][0] for label in kept),
                solidities=tuple(shapes[label][1] for label in kept),
            )
        )
    return scores


def score_masked(
    name: str,
    truth: NDArray[np.integer[Any]],
    found: NDArray[np.integer[Any]],
    mask: NDArray[np.bool_],
    *,
    area: str,
    smallest_iou: float = 0.5,
) -> NucleiScore:
    """Score nuclei that were found where artifacts had been masked; whole nuclei that the mask touches are left out.

    Parameters
    ----------
    name, area : str
        The image, and what to call the line.
    truth, found : integer array of shape (y, x)
        Label maps, 0 = background.
    mask : bool array of shape (y, x)
        What had been masked.
    smallest_iou : float
        As in `score_nuclei`.
    """
    reached: NDArray[np.bool_] = np.asarray(binary_dilation(mask, iterations=1), dtype=np.bool_)
    touched = np.isin(truth, np.unique(truth[reached]))
    true_kept = np.where(touched, 0, truth)
    found_kept = np.where(np.isin(found, np.unique(found[mask])), 0, found)
    shapes = [(float(one.area), float(one.solidity)) for one in regionprops(found_kept)]
    return NucleiScore(
        image=name,
        area=area,
        pixel_f1=count_agreement(true_kept > 0, found_kept > 0, valid=~(mask | (touched & (truth > 0)))).f1,
        object_f1=match_objects(true_kept, found_kept, smallest_iou=smallest_iou).f1,
        nuclei=len(shapes),
        true_nuclei=int(np.count_nonzero(np.unique(true_kept))),
        areas_px=tuple(area_px for area_px, _ in shapes),
        solidities=tuple(solidity for _, solidity in shapes),
    )


def score_folders(
    truth: Path,
    found: Path,
    masks: Mapping[str, Path],
    *,
    reference: str,
    measured: Mapping[str, Path] | None = None,
    overlap: float = OVERLAP,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> tuple[list[NucleiScore], list[str]]:
    """Score all images whose true nuclei are in a folder.

    Every folder may be the folder itself, one with `images/` (CellProfiler's results), one with `truth/` (a simulated
    plate), or a folder of such, one a plate, all under the same names.

    Parameters
    ----------
    truth : Path
        Label maps of the true nuclei; a file's name less `_nuclei` is the image's.
    found : Path
        Label maps of the found nuclei, of the same names, or NAME_brightfield_nuclei as the example pipelines of
        CellProfiler save them.
    masks : mapping of str to Path
        Folders with artifact masks: NAME, NAME_artifacts or NAME_brightfield_artifacts.
    reference : str
        Which of them are the true ones.
    measured : mapping of str to Path, optional
        For some of the masks: label maps of nuclei that were found in images with these masks applied, see
        `score_masked`.
    overlap : float
        See `score_nuclei`.
    progress : callable
        Given the images, passes them on one by one.

    Returns
    -------
    scores : list of NucleiScore
        All areas of all images.
    notes : list of str
        Images that count as clean because they have no mask.

    Raises
    ------
    ArtSegError
        A folder holds nothing, found nuclei are missing, or the reference is none of the masks.
    """
    if reference not in masks:
        raise ArtSegError(f"Expected true masks as --masks {reference}=FOLDER; given are {', '.join(masks) or 'none'}.")
    unknown = sorted(set(measured or {}) - set(masks))
    if unknown:
        raise ArtSegError(f"Expected masks for {unknown[0]}, with which nuclei were measured. Give --masks too.")
    paths = true_nuclei_of(truth)
    scores: list[NucleiScore] = []
    without: dict[str, list[str]] = {}
    for plate, path in _in_order(paths, progress):
        name = path.stem.removesuffix("_nuclei")
        shown = f"{plate}/{name}" if plate else name
        true_nuclei = read_mask_image(path)
        read: dict[str, NDArray[np.bool_]] = {}
        for who, folder in masks.items():
            at = beside_name(own_folder(folder, plate), name, ("", "_artifacts", "_brightfield_artifacts"))
            if at is None:
                without.setdefault(who, []).append(name)
            read[who] = np.zeros(true_nuclei.shape, dtype=np.bool_) if at is None else read_mask_image(at) > 0
        under = {who: _found_nuclei(own_folder(folder, plate), name) for who, folder in (measured or {}).items()}
        others = {who: mask for who, mask in read.items() if who != reference}
        scores += score_nuclei(
            shown, true_nuclei, _found_nuclei(own_folder(found, plate), name), read[reference], others, overlap=overlap
        )
        scores += [
            score_masked(shown, true_nuclei, labels, read[who], area=f"measured with masks, {who}")
            for who, labels in under.items()
        ]
    for who, clean in without.items():
        if len(clean) == len(paths):
            raise ArtSegError(
                f"No mask in {masks[who]} has the name of an image in {truth}, such as {paths[0][1].stem}."
            )
    notes = [
        f"{len(clean)} of {len(paths)} images have no mask '{who}' and count as clean."
        for who, clean in without.items()
    ]
    return scores, notes


def true_nuclei_of(truth: Path) -> list[tuple[str, Path]]:
    """List the label maps of true nuclei as (plate, file); the plate is empty where the folder holds no plates.

    Raises
    ------
    ArtSegError
        There are none.
    """
    plates = [""]
    if truth.is_dir() and not any(path.is_file() for path in own_folder(truth, "").glob("*.tif*")):
        plates = [folder.name for folder in sorted(truth.iterdir()) if folder.is_dir()] or plates
    found = [
        (plate, path)
        for plate in plates
        if own_folder(truth, plate).is_dir()
        for path in find_images(own_folder(truth, plate))
        if not path.stem.endswith(("_cells", "_artifacts"))
    ]
    if not found:
        raise ArtSegError(f"Expected label maps of true nuclei in {truth}, but there are none.")
    return found


def find_nuclei(
    predictor: ImagePredictor,
    images: Path,
    truth: Path,
    out: Path,
    *,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> None:
    """Find nuclei with a model in the brightfield images that have true ones.

    Parameters
    ----------
    predictor : ImagePredictor
        A model whose map shows nuclei.
    images : Path
        Folder with NAME or NAME_brightfield, or a folder of such folders, one a plate.
    truth : Path
        As in `score_folders`: which images.
    out : Path
        Gets NAME_nuclei.tif, a label map each, in a folder a plate where there are plates, and `model.json`. What the
        same model found before stays; what another found is replaced.
    progress : callable
        Given the images, passes them on one by one.

    Raises
    ------
    ArtSegError
        An image is missing or cannot be used.
    """
    paths = true_nuclei_of(truth)
    asked, marker = {"sha256": predictor.model.sha256, "cutoff": predictor.model.cutoff}, out / "model.json"
    if not marker.is_file() or read_json(marker) != asked:
        for stale in out.rglob("*_nuclei.tif"):
            stale.unlink()
        write_json(marker, asked)
    for plate, path in _in_order(paths, progress):
        name = path.stem.removesuffix("_nuclei")
        target = out / plate / f"{name}_nuclei.tif"
        if target.is_file():
            continue
        folder = images / plate
        image = beside_name(folder, name, ("", "_brightfield"))
        if image is None:
            raise ArtSegError(f"Expected the brightfield image {name} or {name}_brightfield in {folder}.")
        read = read_image(image)
        found = predictor.predict(read.pixels, pixel_size_um=read.pixel_size_um, source=str(image))
        write_image(target, found.labels.astype(np.uint16), pixel_size_um=read.pixel_size_um)


def summarise(scores: Sequence[NucleiScore]) -> pd.DataFrame:
    """Average over images (F1) and over nuclei (size, solidity), one line an area, the paper's figures beside."""
    rows: list[dict[str, object]] = []
    for area in dict.fromkeys(one.area for one in scores):
        own = [one for one in scores if one.area == area]
        row: dict[str, object] = {
            "area": area,
            "images": sum(one.nuclei + one.true_nuclei > 0 for one in own),
            "nuclei": sum(one.nuclei for one in own),
            "true_nuclei": sum(one.true_nuclei for one in own),
            "pixel_f1": mean_defined(one.pixel_f1 for one in own),
            "object_f1": mean_defined(one.object_f1 for one in own),
            "area_px": mean_defined(value for one in own for value in one.areas_px),
            "solidity": mean_defined(value for one in own for value in one.solidities),
        }
        for name in ("pixel_f1", "object_f1", "area_px", "solidity"):
            row[f"paper_{name}"] = PAPER.get(area, {}).get(name, math.nan)
        rows.append(row)
    return pd.DataFrame(rows)


def write_nuclei(scores: Sequence[NucleiScore], out: Path) -> None:
    """Write images.csv (a line an image and area), nuclei.csv (a line a nucleus), summary.csv and densities.png."""
    images = [
        {
            "image": one.image,
            "area": one.area,
            "pixel_f1": one.pixel_f1,
            "object_f1": one.object_f1,
            "nuclei": one.nuclei,
            "true_nuclei": one.true_nuclei,
        }
        for one in scores
    ]
    nuclei = [
        {"image": one.image, "area": one.area, "area_px": area, "solidity": solidity}
        for one in scores
        for area, solidity in zip(one.areas_px, one.solidities, strict=True)
    ]
    for name, table in (
        ("images", pd.DataFrame(images)),
        ("nuclei", pd.DataFrame(nuclei, columns=["image", "area", "area_px", "solidity"])),
        ("summary", summarise(scores)),
    ):
        write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    save_figure(densities(scores), out / "densities.png")


def densities(scores: Sequence[NucleiScore]) -> Figure:
    """Draw the spread of both scores over images, and of size and solidity over nuclei, with their means dashed."""
    figure = Figure(figsize=(11.5, 7.6), layout="constrained")
    panels = figure.subplots(2, 2)
    values: tuple[tuple[str, Callable[[NucleiScore], Sequence[float]]], ...] = (
        ("pixel F1 of an image", lambda one: (one.pixel_f1,)),
        ("object F1 of an image", lambda one: (one.object_f1,)),
        ("size of a nucleus, px", lambda one: one.areas_px),
        ("solidity of a nucleus", lambda one: one.solidities),
    )
    names = list(dict.fromkeys(one.area for one in scores))
    fixed: dict[str, tuple[str, Any]] = {INSIDE: (ORANGE, "-"), OUTSIDE: (BLUE, "-"), EVERYWHERE: (INK, "--")}
    others = [name for name in names if name not in fixed]
    styles = fixed | {name: (_COLORS[at % 3], _LINES[at % 3]) for at, name in enumerate(others)}
    for at, (label, of) in enumerate(values):
        axes: Axes = panels[at // 2, at % 2]
        for name in names:
            drawn = [value for one in scores if one.area == name for value in of(one) if not math.isnan(value)]
            color, line = styles[name]
            if not drawn:
                continue
            mean = float(np.mean(drawn))
            axes.axvline(mean, color=color, linewidth=1, linestyle=(0, (2, 2)))
            if len(drawn) > 2 and np.ptp(drawn) > 0:
                x = np.linspace(min(drawn), max(drawn), 2000)
                axes.plot(x, stats.gaussian_kde(drawn)(x), color=color, linestyle=line, label=f"{name}: {mean:.3g}")
            else:  # too few for a density
                axes.plot([], [], color=color, linestyle=line, label=f"{name}: {mean:.3g} ({len(drawn)})")
        everything = [value for one in scores for value in of(one) if not math.isnan(value)]
        if everything:
            # one clump of thousands of pixels would flatten the rest; the means are of all
            low, high = np.percentile(everything, [0.5, 99.0])
            margin = 0.05 * (high - low) or 0.05
            axes.set_xlim(low - margin, high + margin)
        axes.set_xlabel(label, color=MUTED)
        axes.set_ylabel("density", color=MUTED)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False, title="mean", title_fontsize=8)
    return figure


def _in_area(
    labels: NDArray[np.integer[Any]], mask: NDArray[np.bool_], overlap: float, *, inside: bool
) -> NDArray[np.integer[Any]]:
    sizes = np.bincount(labels.ravel())
    under = np.bincount(labels.ravel(), weights=mask.ravel(), minlength=sizes.size)
    spoilt = under >= overlap * np.maximum(sizes, 1)
    return np.where((spoilt if inside else ~spoilt)[labels], labels, 0)


def _in_order(
    paths: Sequence[tuple[str, Path]], progress: Callable[[Sequence[Path]], Iterable[Path]]
) -> Iterable[tuple[str, Path]]:
    plates = iter(paths)
    for _ in progress([path for _, path in paths]):
        yield next(plates)


def own_folder(folder: Path, plate: str) -> Path:
    """Give where the files of a plate lie: in its folder, or in what CellProfiler or the simulation made in it."""
    own = folder / plate
    return next((own / name for name in ("images", "truth") if (own / name).is_dir()), own)


def _found_nuclei(folder: Path, name: str) -> NDArray[np.integer[Any]]:
    labels = beside_name(folder, name, ("", "_nuclei", "_brightfield_nuclei"))
    if labels is None:
        raise ArtSegError(f"Expected the found nuclei of {name} in {folder}, but they are not there.")
    return read_mask_image(labels)


def beside_name(folder: Path, name: str, endings: Sequence[str]) -> Path | None:
    """Give the file NAME + one of the endings, as TIFF or PNG; None where there is none."""
    places = (folder / f"{name}{ending}{suffix}" for ending in endings for suffix in (".tiff", ".tif", ".png"))
    return next((path for path in places if path.is_file()), None)
