"""The U-Net that learns pixel labels, be they drawn by people or made by ScoreCAM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from artseg_models.networks.unet import UNet
from artseg_models.training.configuration import UNetSettings
from artseg_models.training.fields import Array, Split, as_batch, augmented, padded_to_multiple
from artseg_models.training.kinds import FIRST_SET
from artseg_models.training.loop import train_network
from artseg_models.training.sampling import PixelLabel, balanced_draw, random_crop

#: weight of the kinds in the loss: larger ones are paid for by the mask
_KINDS = 0.1
#: weight of pixels that may be of several kinds against those of which the kind is known
_UNCERTAIN = 0.25
#: label of a pixel that is not marked, where that does not say that it is clean
_UNMARKED = -2
#: what is drawn in one stage of a run must not repeat in another
_STAGE = 2
#: changes a training image before it is cropped: takes its index, pixels and label and a source of chance
Vary = Callable[[int, Array, PixelLabel, np.random.Generator], tuple[Array, PixelLabel]]


def new_unet(settings: UNetSettings, *, binning: int, seed: int, device: str, kinds: int = 0) -> UNet:
    """Make an untrained U-Net on a device."""
    torch.manual_seed(seed)
    network = UNet(settings.width, settings.levels, binning, kinds).to(device)
    # twice as fast on CPUs
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return network


def train_unet(
    network: UNet,
    training: Split,
    training_labels: Sequence[PixelLabel],
    validation: Split,
    validation_labels: Sequence[PixelLabel],
    folder: Path,
    *,
    settings: UNetSettings,
    balance: str,
    seed: int,
    device: str,
    bf16: bool,
    number: int = 0,
    vary: Vary | None = None,
    repeats: NDArray[np.int64] | None = None,
    doubtful: NDArray[np.bool_] | None = None,
    kinds: NDArray[np.bool_] | None = None,
) -> None:
    """Train a U-Net in place, or go on where a killed run stopped.

    Parameters
    ----------
    network : UNet
        From `new_unet`.
    training, validation : Split
        The images.
    training_labels, validation_labels : sequence of ndarray
        (y, x) for each image: its artifact pixels, see `PixelLabel`.
    folder : Path
        Gets checkpoint, weights and history, see `train_network`.
    settings : UNetSettings
        Schedule, augmentation and crops.
    balance : {"sample", "repeat", "weight", "none"}
        See `balanced_draw`.
    seed : int
        Seed of the run.
    device : str
        "cuda", "mps" or "cpu".
    bf16 : bool
        Whether training runs in bf16.
    number : int
        Of the training, where a run has several: each draws its own crops.
    vary : callable, optional
        Changes training images and their labels before they are cropped.
    repeats : ndarray, optional
        (images,) how often each training image is seen when it is drawn; once by default.
    doubtful : ndarray, optional
        (images,) bool: in which training images pixels that are not marked may be artifact all the same, and count as
        much as ``settings.unmarked`` says.
    kinds : ndarray, optional
        (sets, kinds) bool: the kinds that artifacts may be of whose pixels have the value 2, 3 and so on in labels.

    Raises
    ------
    ArtSegError
        The training diverges.
    """
    multiple = network.multiple
    largest = max(max(training.images.shape(index)) for index in range(len(training)))
    # a crop larger than every image would only be padding
    side = min(settings.crop, -(-largest // multiple) * multiple) // multiple * multiple

    sets = None if kinds is None else torch.from_numpy(kinds).to(device)

    def epoch_batches(random: np.random.Generator) -> tuple[Iterator[tuple[Tensor, Tensor]], int]:
        drawn = balanced_draw(training.artifact, balance, random)
        times = settings.crops_per_image * (1 if repeats is None else repeats[drawn])
        order = random.permutation(np.repeat(drawn, times))
        count = max(1, len(order) // settings.schedule.batch)

        def batch_of(indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
            crops: list[tuple[Array, PixelLabel]] = []
            for index in map(int, indices):
                image, label = training.images[index], training_labels[index]
                if vary is not None:
                    image, label = vary(index, image, label, random)
                if doubtful is not None and doubtful[index]:
                    label = np.where(label == 0, _UNMARKED, label).astype(np.int8)
                crops.append(random_crop(image, label, side, random))
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
        return _loss(logits.float(), targets, sets, unmarked=settings.unmarked)

    def validation_loss() -> float:
        losses: list[float] = []
        for index, label in enumerate(validation_labels):
            image = padded_to_multiple(validation.images[index], multiple)
            target = padded_to_multiple(label.astype(np.float32), multiple)
            logits = network.binned_logits(as_batch(image, device))
            losses.append(_loss(logits, as_batch(target, device), sets).item())
        return float(np.mean(losses))

    train_network(
        network,
        epoch_batches=epoch_batches,
        loss_of_batch=loss_of_batch,
        validation_loss=validation_loss,
        schedule=settings.schedule,
        seed=[seed, _STAGE, number] if number else [seed, _STAGE],
        folder=folder,
        name="U-Net",
    )


def _loss(logits: Tensor, targets: Tensor, sets: Tensor | None, *, unmarked: float = 1.0) -> Tensor:
    """Mean cross-entropy over the pixels that are learned from; where kinds are told apart, theirs added.

    Parameters
    ----------
    logits : Tensor
        (batch, 1 + kinds, y, x).
    targets : Tensor
        (batch, 1, y, x) float32, see `PixelLabel`, or `_UNMARKED`.
    sets : Tensor, optional
        (sets, kinds) bool.
    unmarked : float
        Weight of pixels that are `_UNMARKED`.
    """
    weights = torch.where(targets == _UNMARKED, unmarked, (targets >= 0).float())
    losses = F.binary_cross_entropy_with_logits(logits[:, :1], (targets > 0).float(), reduction="none")
    loss = (losses * weights).sum() / weights.sum().clamp(min=1)
    return loss if sets is None else loss + _KINDS * _loss_of_kinds(logits[:, 1:], targets[:, 0], sets)


def _loss_of_kinds(logits: Tensor, targets: Tensor, sets: Tensor) -> Tensor:
    """Cross-entropy of what artifacts are taken for, each set of kinds that occurs counting the same.

    Where an image names one kind, each artifact pixel is asked for it, and all of them together by their mean logits,
    as an object is in use: one pixel alone tells little. Where it names several, each pixel is asked for one of them,
    whichever; such sets count less, since most sets are such, and a kind that is in many of them would be a good guess
    everywhere.
    """
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    for number, members in enumerate(sets):
        there = targets == FIRST_SET + number
        if not there.any():
            continue
        certain = int(members.sum()) == 1
        asked = [logits.movedim(1, 0)[:, there]]  # (kinds, pixels)
        if certain:
            means = [one[:, marked].mean(dim=1) for one, marked in zip(logits, there, strict=True) if marked.any()]
            asked.append(torch.stack(means, dim=1))  # (kinds, images)
        logs = [torch.log_softmax(one, dim=0)[members] for one in asked]
        found[certain].append(sum((-torch.logsumexp(one, dim=0).mean() for one in logs), start=0 * logits.sum()))
    # with nothing to learn the gradient is still one
    total = 0 * logits.sum()
    for certain, losses in found.items():
        if losses:
            total = total + (1.0 if certain else _UNCERTAIN) * torch.stack(losses).mean()
    return total


def probability_map(network: UNet, image: Array, device: str, *, shape: tuple[int, int] | None = None) -> Array:
    """Give the probability of artifact, (y, x) float32, for a binned image; of `shape`, before binning, if given."""
    return probability_maps(network, image, device, shape=shape)[0]


@torch.inference_mode()
def probability_maps(network: UNet, image: Array, device: str, *, shape: tuple[int, int] | None = None) -> Array:
    """Give probabilities (1 + kinds, y, x) float32 of artifact and of each kind; see `probability_map`."""
    logits = network.logits_of_any_size(as_batch(image, device))
    probability = network.probabilities(logits) if shape is None else network.probability(logits, *shape)
    return probability[0].cpu().numpy()
