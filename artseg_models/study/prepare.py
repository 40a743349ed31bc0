"""Data sets of a study made ready: cut into tiles, binned, split, with twins; one folder that every method reads."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artseg_models.errors import ArtSegError
from artseg_models.files import read_json, write_json
from artseg_models.fill import FillSettings, fill
from artseg_models.images import find_images, read_image, read_mask_image, write_image
from artseg_models.labels import (
    LABELS,
    SPLITS,
    LabelledImage,
    LabelSet,
    MaskSource,
    read_labels,
    read_mask,
    with_splits,
    write_labels,
)
from artseg_models.progress import track
from artseg_models.simulate import simulate_family, simulate_training_set
from artseg_models.study import paper
from artseg_models.study.configuration import Dataset, Pairs, Simulated
from artseg_models.training.fields import binned

logger = logging.getLogger(__name__)

_SPLIT_SEED = 0
"""Splits are drawn once for a data set: the seeds of a study repeat trainings, not test sets."""


@dataclass(frozen=True)
class Prepared:
    """A data set as every method sees it.

    Attributes
    ----------
    folder : Path
        ``labels.csv``, ``images/``, ``masks/`` and, with one, ``ignore.png``.
    binning : int
        Pixels of the stored images along y and x in one of these.
    area_of_pixel : float
        Pixels of the full image in one of these. The full image is the stored one; of a simulated family it is that of
        the paper's microscope, which the stored one may be smaller than.
    pixel_size_um : float or None
        Side of a pixel of the full image.
    ignore : ndarray or None
        (y, x) bool at this size: pixels that are not scored.
    nuclei : Path or None
        Folder of label maps of nuclei, at the size of the stored images.
    """

    folder: Path
    binning: int
    area_of_pixel: float
    pixel_size_um: float | None
    ignore: NDArray[np.bool_] | None
    nuclei: Path | None

    @property
    def labels(self) -> LabelSet:
        """Images with label, split, group and mask."""
        return read_labels(self.folder / "labels.csv")


def prepare(name: str, dataset: Dataset, folder: Path, *, data: Path) -> Prepared:
    """Make a data set ready, or take it as an earlier call left it.

    Parameters
    ----------
    name : str
        Of the data set in the study.
    dataset : Dataset
        What is wanted.
    folder : Path
        Where it is written.
    data : Path
        Folder that the paths of the study start from.

    Raises
    ------
    ArtSegError
        Images or masks are missing, or the folder holds the data set prepared otherwise.
    """
    wanted = dataset.model_dump(mode="json")
    written = folder / "dataset.json"
    if written.exists():
        there = read_json(written)
        differing = sorted(key for key in wanted if there["dataset"].get(key) != wanted[key] and key != "title")
        if differing:
            raise ArtSegError(
                f"The data set {name} was prepared with another {' and '.join(differing)} before. Choose another "
                f"--out, or remove {folder} and the folder of its cells."
            )
    else:
        logger.info("Preparing %s", name)
        facts = _prepare(name, dataset, folder, data)
        write_json(written, {"dataset": wanted, **facts})
    there = read_json(written)
    ignore = read_mask_image(folder / "ignore.png") > 0 if (folder / "ignore.png").exists() else None
    return Prepared(
        folder=folder,
        binning=int(there["binning"]),
        area_of_pixel=float(there["area_of_pixel"]),
        pixel_size_um=there["pixel_size_um"],
        ignore=ignore,
        nuclei=Path(there["nuclei"]) if there["nuclei"] else None,
    )


def _prepare(name: str, dataset: Dataset, folder: Path, data: Path) -> dict[str, Any]:
    labels, nuclei = _source(name, dataset, folder, data)
    split = with_splits(labels, seed=_SPLIT_SEED, fractions=_fractions(dataset))
    items = _fewer(split.images, dataset)
    if dataset.transfer_from:
        tested = dataset.tested_images == "all"
        items = tuple(replace(item, split="test") for item in items if tested or item.split == "test")
    first = read_image(items[0].path, pixel_size_um=dataset.pixel_size_um)
    longest = max(first.pixels.shape) if dataset.tiles is None else dataset.tiles
    binning = 1 if dataset.longest_side is None else -(-longest // dataset.longest_side)
    made: list[LabelledImage] = []
    for number, item in enumerate(track(items, f"Preparing {name}", len(items))):
        made += _made(item, dataset, folder, binning, number)
    _write_ignore(name, dataset, folder, data, binning, made)
    write_labels(folder / "labels.csv", made)
    counts = {
        part: {label: sum(i.split == part and i.label == label for i in made) for label in LABELS} for part in SPLITS
    }
    lacking = [part for part in SPLITS if not all(counts[part].values())]
    if lacking and not dataset.transfer_from:
        raise ArtSegError(
            f"{name}: expected clean and artifact images in every split, but {', '.join(lacking)} lacks one: {counts}. "
            "Take more images or give splits in the labels; where no image is clean, twins makes clean ones."
        )
    scale = 1.0 if dataset.simulate is None else dataset.simulate.of_full_size
    return {
        "binning": binning,
        "area_of_pixel": (binning / scale) ** 2,
        "area_of_stored_pixel": scale**-2,
        "pixel_size_um": first.pixel_size_um * scale if first.pixel_size_um else None,
        "counts": counts,
        "groups": len({item.group for item in made}),
        "nuclei": str(nuclei) if nuclei else None,
    }


def _source(name: str, dataset: Dataset, folder: Path, data: Path) -> tuple[LabelSet, Path | None]:
    nuclei = data / dataset.nuclei if dataset.nuclei else None
    if dataset.simulate is not None:
        wanted = dataset.simulate
        # data sets of a study that ask for the same images share them
        digest = hashlib.sha256(wanted.model_dump_json().encode()).hexdigest()[:8]
        made = folder.parent / f"simulated-{wanted.family}-{digest}"
        if not (made / "labels.csv").exists():
            _simulate(wanted, made)
        own = made / "nuclei"
        return read_labels(made / "labels.csv"), own if own.is_dir() else nuclei
    if dataset.pairs is not None:
        return _paired(name, dataset.pairs, data), nuclei
    source = data / str(dataset.labels)
    if not source.exists():
        raise ArtSegError(
            f"{name}: expected labels at {source}, but there is nothing. Paths of a study start from the folder given "
            "by --data, without it from the folder of the STUDY.yaml."
        )
    return read_labels(source, mask_polarity=dataset.mask_polarity), nuclei


def _simulate(wanted: Simulated, folder: Path) -> None:
    if wanted.family == "training":
        simulate_training_set(
            folder,
            fields=wanted.fields,
            shape=(wanted.side, wanted.side),
            seed=wanted.seed,
            artifact_fraction=wanted.artifact_fraction or 0.5,
        )
        return
    simulate_family(
        folder,
        wanted.family,
        fields=wanted.fields,
        seed=wanted.seed,
        scale=wanted.scale,
        prevalence=wanted.artifact_fraction,
        fluorescence=True,  # the outlines of nuclei come with it
    )


def _paired(name: str, pairs: Pairs, data: Path) -> LabelSet:
    folder = data / pairs.images
    if not folder.is_dir():
        raise ArtSegError(f"{name}: expected a folder of images at {folder}. Name the folder above it with --data.")

    def key(path: Path) -> str:
        return path.stem.split("_")[0] if pairs.key == "prefix" else path.stem

    masks = {key(path): path for path in find_images(data / pairs.masks)}
    images = [path for path in find_images(folder) if path.match(pairs.only)]
    without = [path.name for path in images if key(path) not in masks]
    if without or not images:
        raise ArtSegError(
            f"{name}: expected a mask for each image of {folder}, but {len(without)} of {len(images)} have none"
            f"{', ' + without[0] + ' among them' if without else ''}. The masks are {', '.join(sorted(masks)[:3])}, ..."
        )
    items = [
        LabelledImage(path=path, label="artifact", split=None, group=key(path), mask=MaskSource(masks[key(path)]))
        for path in images
    ]
    return LabelSet(images=tuple(items), source=folder)


def _fractions(dataset: Dataset) -> tuple[float, float, float]:
    counts = paper.PUBLISHED_SPLITS.get(dataset.family or "")
    if counts is None:
        return (0.6, 0.2, 0.2)
    total = sum(counts)
    return (counts[0] / total, counts[1] / total, counts[2] / total)


def _fewer(items: Sequence[LabelledImage], dataset: Dataset) -> tuple[LabelledImage, ...]:
    """Keep at most so many images of a split, drawn group by group: half of them clean as far as there are any."""
    kept: set[Path] = set()
    random = np.random.default_rng(_SPLIT_SEED)
    for split in SPLITS:
        members = [item for item in items if item.split == split]
        most = {str(part): number for part, number in dataset.at_most.items()}.get(split, len(members))
        groups = sorted({item.group for item in members})
        room = dict.fromkeys(LABELS, -(-most // 2))
        for at in random.permutation(len(groups)):
            for item in (item for item in members if item.group == groups[int(at)]):
                if most >= len(members) or room[item.label] > 0:
                    room[item.label] -= 1
                    kept.add(item.path)
    return tuple(item for item in items if item.path in kept)


def _made(item: LabelledImage, dataset: Dataset, folder: Path, binning: int, number: int) -> list[LabelledImage]:
    """Write the image, or its tiles, at working size; and its twin in place of what was clean."""
    twin_split = item.split in dataset.twins
    if twin_split and item.label == "clean":
        return []
    image = read_image(item.path, pixel_size_um=dataset.pixel_size_um)
    size = (image.pixels.shape[0], image.pixels.shape[1])
    masked = item.label == "artifact" and item.mask is not None
    mask = read_mask(item, shape=size) if masked else np.zeros(size, np.bool_)
    made: list[LabelledImage] = []
    if dataset.tiles is not None:  # which of the image's kinds a tile shows is not known
        item = replace(item, kinds=())
    random = np.random.default_rng((_SPLIT_SEED, number)) if dataset.tile_offset == "random" else None
    for suffix, window in _windows(size, dataset.tiles, random):
        part, part_mask = image.pixels[window], mask[window]
        label = item.label
        if dataset.tiles is not None or dataset.pairs is not None:
            label = "artifact" if part_mask.any() else "clean"
        # numbered: folders of one data set may repeat file names
        stem = f"{number:05d}_{item.path.stem}{suffix}"
        made.append(_written(item, folder, stem, part, part_mask, label, binning, image.pixel_size_um, masked))
        if twin_split and label == "artifact":
            filled = fill(part, part_mask, settings=FillSettings(seed=number), source=str(item.path))
            twin = _written(
                item, folder, f"{stem}_twin", filled, part_mask, "clean", binning, image.pixel_size_um, masked
            )
            made.append(twin)
    return made


def _windows(
    size: tuple[int, int], tiles: int | None, random: np.random.Generator | None
) -> list[tuple[str, tuple[slice, slice]]]:
    """Cut a size into whole tiles, the rest at bottom and right left out (with chance: around); or take all of it."""
    if tiles is None:
        return [("", (slice(None), slice(None)))]
    if min(size) < tiles:
        raise ArtSegError(f"Expected images of at least {tiles} pixels on each side to cut tiles from, got {size}.")
    top, left = (0, 0) if random is None else (int(random.integers(length % tiles + 1)) for length in size)
    return [
        (f"_y{y}_x{x}", (slice(y, y + tiles), slice(x, x + tiles)))
        for y in range(top, size[0] - tiles + 1, tiles)
        for x in range(left, size[1] - tiles + 1, tiles)
    ]


def _written(
    item: LabelledImage,
    folder: Path,
    stem: str,
    pixels: NDArray[Any],
    mask: NDArray[np.bool_],
    label: str,
    binning: int,
    pixel_size_um: float | None,
    masked: bool,
) -> LabelledImage:
    path = folder / "images" / f"{stem}.tif"
    working = binned(pixels.astype(np.float32), binning) if binning > 1 else pixels
    write_image(path, working, pixel_size_um=pixel_size_um * binning if pixel_size_um else None)
    source: MaskSource | None = None
    if label == "artifact" and masked:
        source = MaskSource(folder / "masks" / f"{stem}.png")
        write_image(source.path, binned(mask.astype(np.float32), binning) >= 0.5)
    return replace(
        item,
        path=path,
        label="artifact" if label == "artifact" else "clean",
        mask=source,
        kinds=item.kinds if label == "artifact" else (),
        kind_masks={},  # of the original's size, and studies do not score by kind
    )


def _write_ignore(
    name: str, dataset: Dataset, folder: Path, data: Path, binning: int, made: Sequence[LabelledImage]
) -> None:
    if dataset.ignore is None:
        return
    stored = read_mask_image(data / dataset.ignore)
    ignored = binned((stored > stored.max() / 2).astype(np.float32), binning) > 0
    shape = read_image(made[0].path).pixels.shape
    if ignored.shape != shape:
        raise ArtSegError(
            f"{name}: the ignore image fits {ignored.shape}, images are {shape}. It cannot go with tiles."
        )
    write_image(folder / "ignore.png", ignored)
