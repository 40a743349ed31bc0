"""Nuclei and cell bodies from brightfield: a U-Net that learns label maps, with artifacts left out of its labels.

The paper takes nuclei from a U-Net trained on fluorescence (its references 3 and 4) and cell bodies from another
(reference 28). Here both are the network of `artseg_models.networks.unet`, trained alike: pixels of a structure are 1,
the seam between two that touch is 0, so that they come apart, and pixels under an artifact add nothing to the loss.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from skimage.segmentation import find_boundaries  # pyright: ignore[reportUnknownVariableType]

from artseg_models import __version__
from artseg_models.errors import ArtSegError
from artseg_models.files import read_json, write_json
from artseg_models.images import read_image, read_mask_image, write_image
from artseg_models.labels import LabelledImage, is_simulated, read_labels, read_mask, with_splits, write_labels
from artseg_models.metrics import count_agreement, match_objects, pool
from artseg_models.networks.unet import UNet
from artseg_models.predict import artifact_objects, resolve_device
from artseg_models.progress import track
from artseg_models.training.configuration import Settings, UNetSettings, configured
from artseg_models.training.cutoffs import CUTOFFS
from artseg_models.training.fields import Split, binned
from artseg_models.training.loop import hardware_name, load_weights
from artseg_models.training.segmenter import new_unet, probability_map, train_unet

Structure = Literal["nuclei", "cells"]
STRUCTURES: tuple[Structure, ...] = get_args(Structure)

#: In pixel labels, beside 0 and 1: nothing is learned here.
IGNORED = -1

#: Smallest objects that are tried, in pixels of the full image.
_SMALLEST = (0, 20, 50, 100, 200)


class StructureSettings(Settings):
    """How a structure is learned; the defaults are those of small networks that learn on a processor."""

    preset: str = "quick"
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    binning: int = Field(default=1, ge=1, description="Pixels averaged into one along y and x.")
    plane: int | None = Field(default=None, ge=0, description="Which plane of image files with several, from 0.")
    unet: UNetSettings = UNetSettings.model_validate(
        {
            "width": 16,
            "schedule": {"epochs": 16, "learning_rate": 0.003, "decay": "one-cycle", "batch": 8},
            "augmentation": {"rotation": 180, "scale": 0.2, "contrast": 0.3, "brightness": 0.3, "noise": 0.1},
            "crop": 224,
        }
    )


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "quick": {},
    # as wide and as long as the paper's artifact U-Net; wants a GPU
    "paper": {"unet": {"width": 64, "schedule": {"epochs": 150, "learning_rate": 0.002, "decay": "plateau"}}},
}


def train_structure(
    labels: Path,
    label_maps: Path,
    run: Path,
    *,
    structure: Structure,
    preset: str = "quick",
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Train a network that finds nuclei or cell bodies, or finish a training that was stopped.

    Parameters
    ----------
    labels : Path
        ``labels.csv`` as `artseg_models.labels.read_labels` takes it: which images, which split, and the artifact
        masks, whose pixels are left out of training and of the choice of cutoffs. Images of the test split are not
        read.
    label_maps : Path
        Folder with a label map (0 = background) for each image, under the image's name.
    run : Path
        The run folder: gets ``configuration.json``, ``unet/``, ``sample.tiff`` and ``result.json``.
    structure : {"nuclei", "cells"}
        What the label maps show.
    preset, seed, overrides
        As in `artseg_models.methods.train`.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    ArtSegError
        Labels, images or label maps cannot be used, or the folder holds another run.
    """
    if structure not in STRUCTURES:
        raise ArtSegError(f"Expected a structure out of {', '.join(STRUCTURES)}, got {structure!r}.")
    settings = configured(StructureSettings, PRESETS, preset, seed=seed, overrides=overrides)
    labelled = with_splits(read_labels(labels), seed=seed)
    frozen = {
        "artseg": __version__,
        "structure": structure,
        "labels": labelled.source.resolve().parent.name,
        "images": len(labelled.images),
        **settings.model_dump(mode="json"),
    }
    _require_run_folder(run, frozen)
    if (run / "result.json").exists():
        return run
    write_json(run / "configuration.json", frozen)
    write_labels(run / "splits.csv", labelled.images)
    started = time.perf_counter()
    device = resolve_device(settings.device)
    splits = {
        name: Split.read(labelled.of_split(name), run / "cache" / name, binning=settings.binning, plane=settings.plane)
        for name in ("train", "validation")
    }
    for name, split in splits.items():
        if not len(split):
            raise ArtSegError(f"{labels} has no images in the {name} split to learn {structure} from. Add some.")
    training, validation = splits["train"], splits["validation"]
    targets = {name: _targets(split, label_maps, settings) for name, split in splits.items()}
    network = new_unet(settings.unet, binning=settings.binning, seed=seed, device=device)
    train_unet(
        network,
        training,
        targets["train"],
        validation,
        targets["validation"],
        run / "unet",
        settings=settings.unet,
        balance="none",
        seed=seed,
        device=device,
        bf16=False,
    )
    maps = [probability_map(network, validation.images[index], device) for index in range(len(validation))]
    cutoff, smallest, scores = _choose(maps, targets["validation"], settings.binning)
    most = max(range(len(validation)), key=lambda index: int((targets["validation"][index] == 1).sum()))
    sample = read_image(validation.images.items[most].path, plane=settings.plane)
    write_image(run / "sample.tiff", sample.pixels, pixel_size_um=sample.pixel_size_um)
    write_json(
        run / "result.json",
        {
            "name": run.name,
            "structure": structure,
            "unet": {**settings.unet.model_dump(include={"width", "levels"}), "binning": settings.binning},
            "cutoff": cutoff,
            "smallest_px": smallest,
            "pixel_size_um": sample.pixel_size_um,
            "epochs": settings.unet.schedule.epochs,
            "source": labelled.source.resolve().parent.name,
            "simulated": is_simulated(labelled.source),
            "counts": {name: len(split) for name, split in splits.items()},
            "validation": scores,
            "seconds": round(time.perf_counter() - started, 1),
            "hardware": hardware_name(device),
        },
    )
    shutil.rmtree(run / "cache")
    return run


def read_structure_run(run: Path) -> tuple[UNet, Mapping[str, Any]]:
    """Load the network of a finished training, on the CPU, and its ``result.json``.

    Raises
    ------
    ArtSegError
        The training is unfinished or its weights are damaged.
    """
    if not (run / "result.json").is_file():
        raise ArtSegError(f"Expected a finished training of nuclei or cells at {run}, but it has no result.json.")
    result = read_json(run / "result.json")
    network = UNet(**result["unet"])
    load_weights(network, run / "unet")
    return network, result


def read_label_map(folder: Path, image: Path, shape: tuple[int, int]) -> NDArray[np.integer[Any]]:
    """Read the label map of an image.

    Parameters
    ----------
    folder : Path
        Holds it under the image's name, as TIFF or PNG.
    image : Path
        The image.
    shape : tuple of int
        (y, x) of the image.

    Returns
    -------
    ndarray
        (y, x), 0 = background.

    Raises
    ------
    ArtSegError
        There is none, or it is of another size.
    """
    places = [folder / f"{image.stem}{suffix}" for suffix in (".tiff", ".tif", ".png")]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise ArtSegError(f"Expected the label map {places[0].name} in {folder}, but it is not there.")
    labels = read_mask_image(found)
    if labels.shape != shape:
        raise ArtSegError(f"{found} is {labels.shape[::-1]} pixels, its image {shape[::-1]}; make them alike.")
    return labels


def apart(labels: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Mark the pixels of objects, without the seam where two objects touch.

    Parameters
    ----------
    labels : integer array of shape (y, x)
        Label map, 0 = background.
    """
    # a seam lies between two labels, a border between a label and the background
    without_background = np.where(labels > 0, labels, 0)
    borders = np.asarray(find_boundaries(without_background, mode="inner"), dtype=np.bool_)
    outer = np.asarray(find_boundaries(labels > 0, mode="inner"), dtype=np.bool_)
    return (labels > 0) & ~(borders & ~outer)


def learned_labels(labels: NDArray[np.integer[Any]], covered: NDArray[np.bool_], *, binning: int) -> NDArray[np.int8]:
    """Make pixel labels at working resolution: 1 in structures, 0 outside, `IGNORED` under artifacts.

    Parameters
    ----------
    labels : integer array of shape (y, x)
        Label map, 0 = background.
    covered : bool array of shape (y, x)
        True on artifacts.
    binning : int
        Pixels averaged into one along y and x.
    """
    target = (binned(apart(labels).astype(np.float32), binning) >= 0.5).astype(np.int8)
    target[binned(covered.astype(np.float32), binning) > 0] = IGNORED
    return target


def _targets(split: Split, label_maps: Path, settings: StructureSettings) -> list[NDArray[np.int8]]:
    items: Sequence[LabelledImage] = split.images.items
    targets: list[NDArray[np.int8]] = []
    for item in track(items, "Reading label maps", len(items)):
        pixels = read_image(item.path, plane=settings.plane).pixels
        shape = (pixels.shape[0], pixels.shape[1])
        labels = read_label_map(label_maps, item.path, shape)
        if item.label == "artifact" and item.mask is None:
            raise ArtSegError(
                f"Expected an artifact mask for {item.path.name}, which is labelled artifact: what lies under it must "
                "not be learned from. Draw it, or leave the image out."
            )
        targets.append(learned_labels(labels, read_mask(item, shape=shape), binning=settings.binning))
    return targets


def _choose(
    maps: Sequence[NDArray[np.float32]], targets: Sequence[NDArray[np.int8]], binning: int
) -> tuple[float, int, dict[str, float]]:
    """Choose the cutoff by pixel F1 and the smallest object by object F1, both outside of artifacts."""

    def pixels(cutoff: float) -> float:
        counts = (
            count_agreement(target == 1, map_ >= cutoff, valid=target != IGNORED)
            for map_, target in zip(maps, targets, strict=True)
        )
        return float(np.nan_to_num(pool(counts).f1))

    cutoff = max(CUTOFFS, key=pixels)
    truth = [artifact_objects((target == 1).astype(np.float32), cutoff=0.5) for target in targets]

    def objects(smallest: int) -> float:
        counts = (
            match_objects(
                true,
                artifact_objects(
                    np.where(target == IGNORED, 0, map_), cutoff=cutoff, smallest_artifact_px=-(-smallest // binning**2)
                ),
            )
            for true, map_, target in zip(truth, maps, targets, strict=True)
        )
        return float(np.nan_to_num(pool(counts).f1))

    smallest = max(_SMALLEST, key=objects)
    return cutoff, smallest, {"pixel_f1": pixels(cutoff), "object_f1": objects(smallest)}


def _require_run_folder(run: Path, frozen: Mapping[str, Any]) -> None:
    written = run / "configuration.json"
    if written.exists():
        there = read_json(written)
        differing = [name for name in frozen if name not in ("artseg", "device") and there.get(name) != frozen[name]]
        if differing:
            raise ArtSegError(
                f"Expected the training in {run} to have the same settings and labels, but {', '.join(differing)} "
                "differ. Choose another folder, or repeat the options of the first one to finish it."
            )
    elif run.exists() and any(run.iterdir()):
        raise ArtSegError(f"Expected a new or empty folder, or one of such a training, but {run} holds other files.")
