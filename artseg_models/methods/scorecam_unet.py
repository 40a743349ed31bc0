"""ScoreCAM-U-Net (Ali et al., section 2.2): classifier, evidence, pseudo-labels, U-Net; image-level labels alone."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.filters import threshold_otsu  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor
from torch.nn import functional as F

from artseg_models.errors import ArtSegError
from artseg_models.files import whole_file, write_json
from artseg_models.images import BrightfieldImage, read_image, write_image
from artseg_models.labels import LabelledImage, LabelSet, read_mask
from artseg_models.metrics import count_agreement
from artseg_models.networks.resnet import ResNet
from artseg_models.networks.unet import UNet
from artseg_models.predict import resolve_device
from artseg_models.progress import track
from artseg_models.scorecam import clean_levels, scorecam
from artseg_models.training.configuration import Configuration
from artseg_models.training.cutoffs import choose_by_labels, choose_by_masks, pooled_iou
from artseg_models.training.fields import WorkingImages, augmented, binned, padded_to_multiple
from artseg_models.training.loop import train_network
from artseg_models.training.precision import use_bf16

logger = logging.getLogger(__name__)

#: Clean training images from which the level of clean activation is taken; more change it little.
_CLEAN_IMAGES = 64
# what is drawn in one stage of a run must not repeat in another
_CLASSIFIER_STAGE, _UNET_STAGE = 1, 2


@dataclass(frozen=True)
class _Split:
    """Images of one split at working resolution, and which of them hold an artifact."""

    images: WorkingImages
    artifact: NDArray[np.bool_]


def fit(labels: LabelSet, run: Path, configuration: Configuration, *, binning: int) -> None:
    """Train classifier and U-Net into a run folder; what is done already is skipped.

    Parameters
    ----------
    labels : LabelSet
        Images with label and split. Images of the test split are never read, nor are masks, save those of the
        validation images where `choose_by` asks for them.
    run : Path
        Gets ``classifier/``, ``scorecam/``, ``pseudo_masks/``, ``unet/``, ``sample.tiff`` and ``result.json``.
    configuration : Configuration
        Settings of the run.
    binning : int
        Pixels averaged into one along y and x.

    Raises
    ------
    ArtSegError
        An image cannot be used, a split lacks a class, or the training diverges.
    """
    device = resolve_device(configuration.device)
    splits = {
        name: _working(labels.of_split(name), run / "cache" / name, binning, configuration.plane)
        for name in ("train", "validation")
    }
    training, validation = splits["train"], splits["validation"]
    bf16 = use_bf16(run / "precision.json", configuration.precision, width=configuration.unet.width, device=device)

    classifier = _train_classifier(training, validation, run / "classifier", configuration, binning, device, bf16)
    probabilities = _image_probabilities(classifier, validation, device)
    gate_threshold = best_gate_threshold(probabilities, validation.artifact)

    levels = _clean_levels(classifier, training, configuration, device)
    pseudo_labels = {
        name: _pseudo_label(classifier, split, run, name, configuration, levels, device)
        for name, split in splits.items()
    }
    unet = _train_unet(training, validation, pseudo_labels, run / "unet", configuration, binning, device, bf16)

    gate_open = probabilities >= gate_threshold
    maps = _probability_maps(unet, validation, device)
    if configuration.choose_by == "masks":
        chosen = choose_by_masks(
            maps,
            masks=_true_masks(validation, binning, configuration.plane),
            gate_open=gate_open,
            area_of_pixel=binning**2,
            cutoff=configuration.cutoff,
            smallest_artifact_px=configuration.smallest_artifact_px,
        )
    else:
        chosen = choose_by_labels(
            maps,
            pseudo_labels=pseudo_labels["validation"],
            artifact=validation.artifact,
            gate_open=gate_open,
            area_of_pixel=binning**2,
            cutoff=configuration.cutoff,
            smallest_artifact_px=configuration.smallest_artifact_px,
        )
    agreement = pooled_iou(pseudo_labels["validation"], [probability >= chosen.cutoff for probability in maps])
    sample = _surest_image(validation, probabilities, configuration)
    write_image(run / "sample.tiff", sample.pixels, pixel_size_um=sample.pixel_size_um)
    write_json(
        run / "result.json",
        {
            "name": run.name,
            "method": "scorecam-unet",
            "classifier": {**configuration.classifier.model_dump(include={"depth", "width"}), "binning": binning},
            "unet": {**configuration.unet.model_dump(include={"width", "levels"}), "binning": binning},
            "cutoff": chosen.cutoff,
            "smallest_artifact_px": chosen.smallest_artifact_px,
            "gate_threshold": gate_threshold,
            "pixel_size_um": sample.pixel_size_um,
            "training": {
                "source": labels.source.resolve().parent.name if labels.source.is_file() else labels.source.name,
                "preset": configuration.preset,
                "seed": configuration.seed,
                "epochs": {
                    "classifier": configuration.classifier.schedule.epochs,
                    "unet": configuration.unet.schedule.epochs,
                },
                "counts": {
                    name: {"clean": int((~split.artifact).sum()), "artifact": int(split.artifact.sum())}
                    for name, split in splits.items()
                },
            },
            "scorecam": configuration.scorecam.model_dump(),
            "validation": {
                "image_f1": count_agreement(validation.artifact, gate_open).f1,
                "pseudo_label_iou": agreement,
            },
        },
    )
    shutil.rmtree(run / "cache")


def _working(items: Sequence[LabelledImage], folder: Path, binning: int, plane: int | None) -> _Split:
    artifact = np.array([item.label == "artifact" for item in items], dtype=np.bool_)
    return _Split(WorkingImages(items, folder, binning=binning, plane=plane), artifact)


# ---- classifier ----


def _train_classifier(
    training: _Split,
    validation: _Split,
    folder: Path,
    configuration: Configuration,
    binning: int,
    device: str,
    bf16: bool,
) -> ResNet:
    settings = configuration.classifier
    torch.manual_seed(configuration.seed)
    network = ResNet(settings.depth, settings.width, binning).to(device)
    # twice as fast on CPUs
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    weights = torch.from_numpy(class_weights(training.artifact, configuration.balance)).to(device)

    def epoch_batches(random: np.random.Generator) -> tuple[Iterator[tuple[Tensor, Tensor]], int]:
        drawn = balanced_draw(training.artifact, configuration.balance, random)
        batches = same_size_batches(drawn, training.images, settings.schedule.batch)

        def batch_of(indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
            stack = torch.from_numpy(np.stack([training.images[index] for index in indices])[:, None])
            varied, _ = augmented(stack, None, settings.augmentation, random)
            return varied.to(device), torch.from_numpy(training.artifact[indices].astype(np.int64)).to(device)

        return (batch_of(indices) for indices in batches), len(batches)

    def loss_of_batch(batch: tuple[Tensor, Tensor]) -> Tensor:
        images, truth = batch
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = network.binned_logits(images)
        return F.cross_entropy(logits.float(), truth, weight=weights)

    def validation_loss() -> float:
        losses = [
            F.cross_entropy(
                network.binned_logits(_as_batch(validation.images[index], device)),
                torch.tensor([int(artifact)], device=device),
            ).item()
            for index, artifact in enumerate(validation.artifact)
        ]
        return float(np.mean(losses))

    train_network(
        network,
        epoch_batches=epoch_batches,
        loss_of_batch=loss_of_batch,
        validation_loss=validation_loss,
        schedule=settings.schedule,
        seed=[configuration.seed, _CLASSIFIER_STAGE],
        folder=folder,
        name="Classifier",
    )
    return network


def balanced_draw(artifact: NDArray[np.bool_], balance: str, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw the images of one epoch, as shuffled indices; with "sample" as many clean as artifact ones.

    The larger class is drawn anew in every epoch, so that all its images take part in the end.
    """
    if balance != "sample":
        return random.permutation(len(artifact))
    classes = [np.flatnonzero(artifact), np.flatnonzero(~artifact)]
    count = min(map(len, classes))
    return random.permutation(np.concatenate([random.permutation(members)[:count] for members in classes]))


def class_weights(artifact: NDArray[np.bool_], balance: str) -> NDArray[np.float32]:
    """Weigh clean and artifact images (2,) in the loss; with "weight" both classes count the same in all."""
    if balance != "weight":
        return np.ones(2, np.float32)
    counts = np.array([(~artifact).sum(), artifact.sum()])
    return (len(artifact) / (2 * counts)).astype(np.float32)


def same_size_batches(indices: NDArray[np.int64], images: WorkingImages, size: int) -> list[NDArray[np.int64]]:
    """Split indices, in their order, into batches of images of one shape.

    A last image that would be alone joins the batch before it, since batch normalisation needs company.
    """
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index in indices:
        by_shape.setdefault(images.shape(int(index)), []).append(int(index))
    batches: list[NDArray[np.int64]] = []
    for members in by_shape.values():
        starts = list(range(0, len(members), size))
        if len(starts) > 1 and len(members) % size == 1:
            starts.pop()
        ends = [*starts[1:], len(members)]
        batches += [np.array(members[start:end]) for start, end in zip(starts, ends, strict=True)]
    return batches


@torch.inference_mode()
def _image_probabilities(network: ResNet, split: _Split, device: str) -> NDArray[np.float64]:
    logits = [network.binned_logits(_as_batch(split.images[index], device)) for index in range(len(split.images))]
    return torch.softmax(torch.cat(logits), dim=1)[:, 1].double().cpu().numpy()


def best_gate_threshold(probabilities: NDArray[np.float64], artifact: NDArray[np.bool_]) -> float:
    """Choose the image probability (0..1) with the highest F1 on validation; of several, the nearest to 0.5."""
    steps = np.unique(np.concatenate([[0.0, 1.0], probabilities]))
    candidates = np.concatenate([[0.5], (steps[1:] + steps[:-1]) / 2])
    scores = [np.nan_to_num(count_agreement(artifact, probabilities >= threshold).f1) for threshold in candidates]
    best = candidates[np.isclose(scores, np.max(scores))]
    return float(best[np.argmin(np.abs(best - 0.5))])


def _as_batch(image: NDArray[np.float32], device: str) -> Tensor:
    return torch.from_numpy(image)[None, None].to(device)


# ---- pseudo-labels ----


def _clean_levels(network: ResNet, training: _Split, configuration: Configuration, device: str) -> Tensor | None:
    quantile = configuration.scorecam.clean_quantile
    if quantile is None:
        return None
    clean = np.flatnonzero(~training.artifact)
    chosen = np.random.default_rng(configuration.seed).permutation(clean)[:_CLEAN_IMAGES]
    images = (_as_batch(training.images[int(index)], device) for index in np.sort(chosen))
    return clean_levels(network, images, layer=configuration.scorecam.layer, quantile=quantile).to(device)


def _pseudo_label(
    network: ResNet,
    split: _Split,
    run: Path,
    name: str,
    configuration: Configuration,
    levels: Tensor | None,
    device: str,
) -> list[NDArray[np.bool_]]:
    """Evidence and pseudo-label (y, x) of every image of a split."""
    settings = configuration.scorecam
    labels: list[NDArray[np.bool_]] = []
    for index in track(range(len(split.images)), f"ScoreCAM on the {name} images", len(split.images)):
        if not split.artifact[index] and settings.clean_images == "empty":
            labels.append(np.zeros(split.images.shape(index), np.bool_))
            continue
        file = run / "scorecam" / name / f"{index:06d}.npy"
        if not file.exists():
            found = scorecam(
                network,
                _as_batch(split.images[index], device),
                layer=settings.layer,
                channel_weight=settings.channel_weight,
                clean_level=levels,
                mode=settings.mode,
                groups=settings.groups,
                batch=settings.batch,
            )
            with whole_file(file) as temporary:
                np.save(temporary, found.normalised.astype(np.float16), allow_pickle=False)
        evidence = np.load(file, allow_pickle=False).astype(np.float32)
        label = pseudo_label(evidence, settings.cutoff)
        write_image(run / "pseudo_masks" / name / f"{index:06d}_{split.images.items[index].path.stem}.png", label)
        labels.append(label)
    return labels


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


# ---- U-Net ----


def _train_unet(
    training: _Split,
    validation: _Split,
    pseudo_labels: dict[str, list[NDArray[np.bool_]]],
    folder: Path,
    configuration: Configuration,
    binning: int,
    device: str,
    bf16: bool,
) -> UNet:
    settings = configuration.unet
    torch.manual_seed(configuration.seed)
    network = UNet(settings.width, settings.levels, binning).to(device)
    # twice as fast on CPUs
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    multiple = network.multiple
    largest = max(max(training.images.shape(index)) for index in range(len(training.images)))
    # a crop larger than every image would only be padding
    side = min(settings.crop, -(-largest // multiple) * multiple) // multiple * multiple

    def epoch_batches(random: np.random.Generator) -> tuple[Iterator[tuple[Tensor, Tensor]], int]:
        drawn = balanced_draw(training.artifact, configuration.balance, random)
        order = random.permutation(np.repeat(drawn, settings.crops_per_image))
        count = max(1, len(order) // settings.schedule.batch)

        def batch_of(indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
            crops = [
                random_crop(training.images[index], pseudo_labels["train"][index], side, random)
                for index in map(int, indices)
            ]
            images = torch.from_numpy(np.stack([image for image, _ in crops])[:, None])
            targets = torch.from_numpy(np.stack([target for _, target in crops])[:, None].astype(np.float32))
            varied, moved = augmented(images, targets, settings.augmentation, random)
            assert moved is not None
            return varied.to(device), moved.to(device)

        shares: list[NDArray[np.int64]] = np.array_split(order, count)
        return (batch_of(share) for share in shares), count

    def loss_of_batch(batch: tuple[Tensor, Tensor]) -> Tensor:
        images, targets = batch
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = network.binned_logits(images)
        return F.binary_cross_entropy_with_logits(logits.float(), targets)

    def validation_loss() -> float:
        losses: list[float] = []
        for index, label in enumerate(pseudo_labels["validation"]):
            image = padded_to_multiple(validation.images[index], multiple)
            target = padded_to_multiple(label.astype(np.float32), multiple)
            logits = network.binned_logits(_as_batch(image, device))
            losses.append(F.binary_cross_entropy_with_logits(logits, _as_batch(target, device)).item())
        return float(np.mean(losses))

    train_network(
        network,
        epoch_batches=epoch_batches,
        loss_of_batch=loss_of_batch,
        validation_loss=validation_loss,
        schedule=settings.schedule,
        seed=[configuration.seed, _UNET_STAGE],
        folder=folder,
        name="U-Net",
    )
    return network


def random_crop(
    image: NDArray[np.float32], label: NDArray[np.bool_], side: int, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Cut a square of `side` pixels out of an image and its pseudo-label, both (y, x).

    Where the image has artifact pixels, every second crop holds one of them. A smaller image is padded by reflection.
    """
    missing = [(0, max(0, side - length)) for length in (image.shape[0], image.shape[1])]
    padded_image: NDArray[np.float32] = np.pad(image, missing, mode="reflect")
    padded_label: NDArray[np.bool_] = np.pad(label, missing, mode="reflect")
    marked: NDArray[np.int64] = np.flatnonzero(label)
    room = [max(0, image.shape[0] - side), max(0, image.shape[1] - side)]
    start = [int(random.integers(space + 1)) for space in room]
    if len(marked) and random.random() < 0.5:
        place = divmod(int(random.choice(marked)), label.shape[1])
        offset = (int(random.integers(side)), int(random.integers(side)))
        start = [min(max(p - o, 0), space) for p, o, space in zip(place, offset, room, strict=True)]
    window = tuple(slice(first, first + side) for first in start)
    return padded_image[window], padded_label[window]


@torch.inference_mode()
def _probability_maps(network: UNet, split: _Split, device: str) -> list[NDArray[np.float32]]:
    """Probability of artifact (y, x) for every image of a split, at working resolution."""
    maps: list[NDArray[np.float32]] = []
    for index in range(len(split.images)):
        height, width = split.images.shape(index)
        image = padded_to_multiple(split.images[index], network.multiple)
        probability = torch.sigmoid(network.binned_logits(_as_batch(image, device)))[0, 0, :height, :width]
        maps.append(probability.cpu().numpy())
    return maps


def _true_masks(split: _Split, binning: int, plane: int | None) -> list[NDArray[np.bool_]]:
    """Masks of the validation images at working resolution, for those who asked to have cutoffs chosen by them."""
    without = [item.path.name for item in split.images.items if item.label == "artifact" and item.mask is None]
    if without:
        raise ArtSegError(
            f"Expected a mask for every artifact image of the validation split to choose cutoffs by masks, but "
            f"{len(without)} have none, {without[0]} among them. Draw them, or choose by labels."
        )
    masks: list[NDArray[np.bool_]] = []
    for item in split.images.items:
        pixels = read_image(item.path, plane=plane).pixels
        mask = read_mask(item, shape=(pixels.shape[0], pixels.shape[1]))
        masks.append(binned(mask.astype(np.float32), binning) >= 0.5)
    return masks


def _surest_image(
    validation: _Split, probabilities: NDArray[np.float64], configuration: Configuration
) -> BrightfieldImage:
    """Read the validation image that is surest to hold an artifact: it shows the model at work."""
    surest = int(np.argmax(np.where(validation.artifact, probabilities, -1.0)))
    path = validation.images.items[surest].path
    return read_image(path, plane=configuration.plane, pixel_size_um=configuration.pixel_size_um)
