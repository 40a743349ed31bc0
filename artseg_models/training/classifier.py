"""The classifier that learns clean or artifact from image-level labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from artseg_models.networks.resnet import ResNet
from artseg_models.training.configuration import ClassifierSettings
from artseg_models.training.fields import Array, Split, as_batch, augmented
from artseg_models.training.loop import train_network
from artseg_models.training.sampling import balanced_draw, class_weights, same_size_batches

#: what is drawn in one stage of a run must not repeat in another
_STAGE = 1
#: PyTorch 2.13 on the CPU ends in a segmentation fault going back through a 1x1 convolution of stride 2 over fewer
#: channels whose numbers lie together (channels_last), where the map has even sides
_FEWEST_CHANNELS_LAST = 16
#: changes a training image and with it, where needed, its label: takes index, pixels, whether artifact, and chance
Vary = Callable[[int, Array, bool, np.random.Generator], tuple[Array, bool]]
#: an image (y, x) that validation is to hold beside its own, and whether it holds an artifact
Trial = tuple[Array, bool]


def new_classifier(settings: ClassifierSettings, *, binning: int, seed: int, device: str, kinds: int = 0) -> ResNet:
    """Make an untrained classifier on a device."""
    torch.manual_seed(seed)
    network = ResNet(**settings.shape, binning=binning, kinds=kinds).to(device)
    if settings.width >= _FEWEST_CHANNELS_LAST:
        # twice as fast on CPUs
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return network


def train_classifier(
    network: ResNet,
    training: Split,
    validation: Split,
    folder: Path,
    *,
    settings: ClassifierSettings,
    balance: str,
    seed: int,
    device: str,
    bf16: bool,
    number: int = 0,
    vary: Vary | None = None,
    trials: Sequence[Trial] = (),
    kinds: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> None:
    """Train a classifier in place, or go on where a killed run stopped.

    Parameters
    ----------
    network : ResNet
        From `new_classifier`.
    training, validation : Split
        Images with labels; no mask is read.
    folder : Path
        Gets checkpoint, weights and history, see `train_network`.
    settings : ClassifierSettings
        Schedule and augmentation.
    balance : {"sample", "repeat", "weight", "none"}
        See `balanced_draw` and `class_weights`.
    seed : int
        Seed of the run.
    device : str
        "cuda", "mps" or "cpu".
    bf16 : bool
        Whether training runs in bf16.
    number : int
        Of the training, where a run has several: each draws its own batches.
    vary : callable, optional
        Changes training images, and their labels with them.
    trials : sequence of (ndarray, bool)
        Further images (y, x), and whether each holds an artifact, that count in the validation loss.
    kinds : tuple of ndarray, optional
        (images, kinds) float32 for training and validation: 1 where an image holds an artifact of the kind, 0 where it
        does not, NaN where that is not known.

    Raises
    ------
    ArtSegError
        The training diverges.
    """
    weights = torch.from_numpy(class_weights(training.artifact, balance)).to(device)
    named, named_validation = kinds or (_none_named(training), _none_named(validation))
    rarity = torch.from_numpy(_rarity(named, balance)).to(device)

    def epoch_batches(random: np.random.Generator) -> tuple[Iterator[tuple[Tensor, Tensor, Tensor]], int]:
        drawn = balanced_draw(training.artifact, balance, random)
        batches = same_size_batches(drawn, training.images, settings.schedule.batch)

        def batch_of(indices: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
            images, truth = [training.images[index] for index in indices], training.artifact[indices].astype(np.int64)
            named_here = named[indices]
            if vary is not None:
                for at, index in enumerate(map(int, indices)):
                    before = images[at]
                    images[at], truth[at] = vary(index, before, bool(truth[at]), random)
                    if images[at] is not before:
                        named_here[at] = np.nan if truth[at] else 0
            varied, _ = augmented(torch.from_numpy(np.stack(images)[:, None]), None, settings.augmentation, random)
            return varied.to(device), torch.from_numpy(truth).to(device), torch.from_numpy(named_here).to(device)

        return (batch_of(indices) for indices in batches), len(batches)

    def loss_of_batch(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        images, truth, named_here = batch
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits, of_kinds = network.logits_and_kinds(images)
        return F.cross_entropy(logits.float(), truth, weight=weights) + _loss_of_kinds(
            of_kinds.float(), named_here, rarity
        )

    def validation_loss() -> float:
        losses: dict[bool, list[float]] = {}
        unknown = np.full(named.shape[1], np.nan, np.float32)
        plain = zip(range(len(validation)), validation.artifact, named_validation, strict=True)
        given = ((validation.images[index], artifact, kinds_here) for index, artifact, kinds_here in plain)
        for image, artifact, kinds_here in itertools.chain(given, ((*trial, unknown) for trial in trials)):
            logits, of_kinds = network.logits_and_kinds(as_batch(image, device))
            loss = F.cross_entropy(logits, torch.tensor([int(artifact)], device=device))
            loss = loss + _loss_of_kinds(of_kinds, torch.from_numpy(kinds_here[None]).to(device), rarity)
            losses.setdefault(bool(artifact), []).append(loss.item())
        if balance == "none":
            return float(np.mean([loss for some in losses.values() for loss in some]))
        # as in training: where few images are clean, one that learned nothing but how few would else be kept as best
        return float(np.mean([np.mean(some) for some in losses.values()]))

    train_network(
        network,
        epoch_batches=epoch_batches,
        loss_of_batch=loss_of_batch,
        validation_loss=validation_loss,
        schedule=settings.schedule,
        seed=[seed, _STAGE, number] if number else [seed, _STAGE],
        folder=folder,
        name="Classifier",
    )


def _none_named(split: Split) -> NDArray[np.float32]:
    return np.zeros((len(split), 0), np.float32)


def _rarity(named: NDArray[np.float32], balance: str) -> NDArray[np.float32]:
    """Say how much an image of each kind (kinds,) counts, so that those with and without it count alike in all."""
    held: NDArray[np.int64] = (named > 0).sum(axis=0)
    without: NDArray[np.int64] = (named == 0).sum(axis=0)
    ratio: NDArray[np.float64] = without.clip(min=1) / held.clip(min=1)
    return np.where(balance == "none", 1, ratio).astype(np.float32)


def _loss_of_kinds(logits: Tensor, named: Tensor, rarity: Tensor) -> Tensor:
    """Mean cross-entropy (each kind by itself) over the images and kinds that are known; 0 without any."""
    known = ~torch.isnan(named)
    losses = F.binary_cross_entropy_with_logits(logits, named.nan_to_num(), reduction="none", pos_weight=rarity)
    return (losses * known).sum() / known.sum().clamp(min=1)


@torch.inference_mode()
def image_probabilities(network: ResNet, image: Array, device: str) -> tuple[float, tuple[float, ...]]:
    """Say how likely a binned image (y, x) holds an artifact, and one of each kind, 0..1."""
    logits, kinds = network.logits_and_kinds(as_batch(image, device))
    return float(torch.softmax(logits, dim=1)[0, 1]), tuple(map(float, torch.sigmoid(kinds)[0]))
