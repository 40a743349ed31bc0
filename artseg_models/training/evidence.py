"""Evidence maps and pseudo-labels of a split: ScoreCAM on every image, kept in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.filters import threshold_otsu  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from artseg_models.files import read_json, whole_file, write_json
from artseg_models.images import write_image
from artseg_models.networks.resnet import ResNet
from artseg_models.passes import Passes, choose_passes, open_passes
from artseg_models.positions import look, position_evidence, position_odds
from artseg_models.progress import track
from artseg_models.scorecam import Evidence, clean_levels, fitting_batch, scorecam
from artseg_models.training.configuration import RefinementSettings, ScoreCAMSettings
from artseg_models.training.convincing import convincing_parts
from artseg_models.training.fields import Array, Split, as_batch
from artseg_models.training.loop import save_state
from artseg_models.training.normality import Normality
from artseg_models.training.refinement import drawn_to_edges
from artseg_models.transplant import as_normalised, painted_out

#: Clean training images from which the level of clean activation is taken; more change it little.
_CLEAN_IMAGES = 64


def levels_of_clean(
    network: ResNet, training: Split, file: Path, *, settings: ScoreCAMSettings, seed: int, device: str
) -> Tensor | None:
    """Take the level of clean activation from training images, or from the file of an earlier call.

    Parameters
    ----------
    network : ResNet
        The trained classifier.
    training : Split
        Clean images of it are used.
    file : Path
        Where the levels are kept (.pt), so that a finished run predicts without its training images.
    settings : ScoreCAMSettings
        Layer and quantile.
    seed : int
        Seed of the run: which clean images.
    device : str
        Where the network is.

    Returns
    -------
    Tensor or None
        (channels,) float32, or None where the settings ask for no level.
    """
    quantile = settings.clean_quantile
    if quantile is None:
        return None
    if not file.exists():
        clean = np.flatnonzero(~training.artifact)
        chosen = np.random.default_rng(seed).permutation(clean)[:_CLEAN_IMAGES]
        images = (as_batch(training.images[int(index)], device) for index in np.sort(chosen))
        levels = clean_levels((_maps(network, image, settings) for image in images), quantile=quantile)
        save_state(file, levels.cpu())
    return torch.load(file, weights_only=True).to(device)


@torch.inference_mode()
def _maps(network: ResNet, image: Tensor, settings: ScoreCAMSettings) -> Tensor:
    """Give the maps (channels, y, x) of an image (1, 1, y, x) that evidence is drawn from."""
    if settings.source == "positions":
        return position_odds(network, image, turned=settings.turned)[None]
    return network.activations(image, settings.layer)[0]


def passes_of(
    network: ResNet, run: Path, *, settings: ScoreCAMSettings, split: Split | None = None, device: str
) -> Passes:
    """Take the engine of ScoreCAM's forward passes that the settings name, or that was measured for a run.

    Parameters
    ----------
    network : ResNet
        The trained classifier.
    run : Path
        Keeps in ``scorecam/engine.json`` what was measured, so that a run that goes on computes as it began.
    settings : ScoreCAMSettings
        Engine, mode and batch.
    split : Split, optional
        The images that ScoreCAM is to run on. Without it nothing is measured, and a run without a measurement takes
        PyTorch.
    device : str
        Where the network is.
    """
    remembered = run / "scorecam" / "engine.json"
    if settings.source == "positions":
        engine = "torch"  # no image is masked
    elif settings.engine != "auto":
        engine = settings.engine
    elif remembered.is_file():
        # only the processor's are measured; the run may have been trained there and go on elsewhere
        engine = str(read_json(remembered)["engine"]) if device == "cpu" else "torch"
    elif split is None or not len(split):
        engine = "torch"
    else:
        image = as_batch(split.images[0], device)
        maps = network.activations(image, settings.layer).shape[1]
        each = min(settings.groups, maps) if settings.mode == "grouped" else maps
        size = (image.shape[-2], image.shape[-1])
        engine = choose_passes(
            network,
            image,
            passes=each * max(1, int(split.artifact.sum())),
            batch=fitting_batch(network, size, batch=settings.batch, memory_mib=settings.memory_mib),
            late=settings.mode == "feature",
            exact=settings.mode == "exact",
        )
        write_json(remembered, {"engine": engine})
    return open_passes(engine, network)


def evidence_of(
    network: ResNet, image: Array, *, settings: ScoreCAMSettings, levels: Tensor | None, passes: Passes, device: str
) -> Evidence:
    """Say what in one binned image (y, x) speaks for an artifact, by ScoreCAM or the classifier's own positions."""
    if settings.source == "positions":
        return position_evidence(
            network, as_batch(image, device), level=levels, turned=settings.turned, attributed=settings.attributed
        )
    return scorecam(
        network,
        as_batch(image, device),
        layer=settings.layer,
        channel_weight=settings.channel_weight,
        clean_level=levels,
        mode=settings.mode,
        groups=settings.groups,
        batch=settings.batch,
        memory_mib=settings.memory_mib,
        passes=passes,
    )


def look_for_evidence(
    network: ResNet,
    split: Split,
    run: Path,
    name: str,
    *,
    settings: ScoreCAMSettings,
    levels: Tensor | None,
    device: str,
) -> None:
    """Keep the evidence of every image of a split that gets a pseudo-label by it, but for what is there already.

    Parameters
    ----------
    network : ResNet
        The trained classifier.
    split : Split
        The images.
    run : Path
        Gets ``scorecam/NAME/`` (NPZ): ``evidence`` (y, x) float16, 0..1 within the image, and ``largest``, what is 1.
    name : str
        Of the split.
    settings : ScoreCAMSettings
        How evidence is made.
    levels : Tensor, optional
        From `levels_of_clean`.
    device : str
        Where the network is.
    """
    passes: Passes | None = None
    missing = [at for at in _pointed_at(split, settings) if not _evidence_file(run, name, at).exists()]
    for index in track(missing, f"Looking for evidence in the {name} images", len(missing)):
        passes = passes or passes_of(network, run, settings=settings, split=split, device=device)
        found = evidence_of(
            network, split.images[index], settings=settings, levels=levels, passes=passes, device=device
        )
        with whole_file(_evidence_file(run, name, index)) as temporary, temporary.open("wb") as stream:
            np.savez(stream, evidence=found.normalised.astype(np.float16), largest=found.evidence.max())


def typical_evidence(run: Path, name: str) -> float:
    """Give the median over images of a split of their largest evidence, from `look_for_evidence`; 1 without any."""
    largest: list[float] = []
    for file in sorted((run / "scorecam" / name).glob("*.npz")):
        with np.load(file) as kept:
            largest.append(float(kept["largest"]))
    some = [one for one in largest if one > 0]
    return float(np.median(some)) if some else 1.0


def _pointed_at(split: Split, settings: ScoreCAMSettings) -> list[int]:
    """Which images (by their places) get a pseudo-label by their evidence; those of the others are empty."""
    return [at for at in range(len(split)) if split.artifact[at] or settings.clean_images == "own-map"]


def _evidence_file(run: Path, name: str, index: int) -> Path:
    return run / "scorecam" / name / f"{index:06d}.npz"


def kept_evidence(run: Path, name: str, index: int) -> tuple[Array, float]:
    """Read what `look_for_evidence` kept of an image: (y, x) float32, 0..1 within the image, and what is 1."""
    with np.load(_evidence_file(run, name, index)) as kept:
        return kept["evidence"].astype(np.float32), float(kept["largest"])


def write_pseudo_label(run: Path, name: str, split: Split, index: int, label: NDArray[np.bool_]) -> None:
    """Write what the U-Net learns of an image, (y, x) bool at working resolution, into ``pseudo_masks/NAME/``."""
    write_image(run / "pseudo_masks" / name / f"{index:06d}_{split.images.items[index].path.stem}.png", label)


def pseudo_labels(
    network: ResNet,
    split: Split,
    run: Path,
    name: str,
    *,
    settings: ScoreCAMSettings,
    levels: Tensor | None,
    device: str,
    refinement: RefinementSettings | None = None,
    normality: Normality | None = None,
    typical: float | None = None,
) -> list[NDArray[np.bool_]]:
    """Make evidence and pseudo-label (y, x) of every image of a split, or take those that are there.

    Parameters
    ----------
    network : ResNet
        The trained classifier.
    split : Split
        The images.
    run : Path
        Gets what `look_for_evidence` keeps, and ``pseudo_masks/NAME/`` (PNG).
    name : str
        Of the split.
    settings : ScoreCAMSettings
        How evidence and labels are made.
    levels : Tensor, optional
        From `levels_of_clean`.
    device : str
        Where the network is.
    refinement : RefinementSettings, optional
        How evidence becomes a label; as in the paper without it.
    normality : Normality, optional
        What it says cannot be clean joins the labels, drawn to its edges.
    typical : float, optional
        From `typical_evidence`, for labels that are evidence: it is measured by the geometric mean of this and of the
        image's largest; without, as in the paper, by the image's largest alone.
    """
    look_for_evidence(network, split, run, name, settings=settings, levels=levels, device=device)
    pointed_at = set(_pointed_at(split, settings))
    labels: list[NDArray[np.bool_]] = []
    for index in track(range(len(split)), f"Labelling pixels of the {name} images", len(split)):
        if index not in pointed_at:
            labels.append(np.zeros(split.images.shape(index), np.bool_))
            continue
        image = split.images[index]
        evidence, largest = kept_evidence(run, name, index)
        if typical is not None:
            evidence *= np.float32(np.sqrt(largest / typical))
        label = drawn_label(image, evidence, settings, refinement)
        if refinement is not None:
            label = _looked_again(
                network,
                image,
                label,
                index,
                settings,
                refinement,
                largest=largest,
                levels=levels,
                device=device,
            )
            if refinement.edges == "contrast" and refinement.convincing:
                label = convincing_parts(
                    network,
                    image,
                    label,
                    share=refinement.convincing,
                    random=np.random.default_rng(index),
                    device=device,
                )
        if refinement is not None and normality is not None:
            label |= normality.artifacts(image, refinement)
        write_pseudo_label(run, name, split, index, label)
        labels.append(label)
    return labels


def drawn_label(
    image: Array, evidence: Array, settings: ScoreCAMSettings, refinement: RefinementSettings | None
) -> NDArray[np.bool_]:
    """Make a pseudo-label (y, x) of an image and a map of it, scaled to 0..1, in one look."""
    if refinement is not None and refinement.edges == "contrast":
        return drawn_to_edges(image, evidence, refinement)
    return pseudo_label(evidence, settings.cutoff)


def _looked_again(
    network: ResNet,
    image: Array,
    label: NDArray[np.bool_],
    index: int,
    settings: ScoreCAMSettings,
    refinement: RefinementSettings,
    *,
    largest: float,
    levels: Tensor | None,
    device: str,
) -> NDArray[np.bool_]:
    """Add to a label (y, x) what shows once all that was found is painted out, as often as the settings ask for.

    `largest` is the most evidence of the first look.
    """
    # evidence is coarser than what it points at: painted out, its edges are what a second look would find
    if refinement.looks == 1 or refinement.edges != "contrast" or not label.any():
        return label
    random = np.random.default_rng(index)
    for _ in range(1, refinement.looks):
        rest = as_normalised(painted_out(image, label, random), image)
        batch = as_batch(rest, device)
        views = look(network, batch, level=levels, turned=settings.turned, attributed=settings.attributed)
        # by the scale of the first look: what is left need not hold anything
        more = drawn_label(rest, np.minimum(views.evidence / np.float32(largest), 1), settings, refinement)
        # more than all before is no rest: the classifier takes the paint for an artifact
        if not more.any() or np.count_nonzero(more) > np.count_nonzero(label):
            break
        label = label | more
    return label


def pseudo_label(evidence: NDArray[np.float32], cutoff: float | str) -> NDArray[np.bool_]:
    """Mark the pixels of a map (y, x), scaled to 0..1, that count as artifact; `cutoff` is a number or "otsu".

    A map without any evidence gives an empty label.
    """
    if evidence.max() <= evidence.min():
        return np.zeros(evidence.shape, np.bool_)
    if cutoff == "otsu":
        otsu = cast(float, threshold_otsu(evidence))
        return evidence >= otsu
    return evidence >= float(cutoff)
