"""Autoencoder with SSIM (Bergmann et al. 2019): what it has not seen in clean images, it cannot draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from artseg_models.errors import ArtSegError
from artseg_models.methods.protocol import Fitted, Found, Recipe
from artseg_models.networks.autoencoder import Autoencoder, ssim, to_unit
from artseg_models.networks.scores import ScoreScale
from artseg_models.progress import track
from artseg_models.training.configuration import AnomalySettings, Augmentation, Schedule
from artseg_models.training.fields import Array, Split, augmented, enlarged
from artseg_models.training.loop import load_weights, save_state, train_network
from artseg_models.training.sampling import random_crop
from artseg_models.training.scores import fit_scale

_STAGE = 4
#: (side of a patch, numbers it is squeezed into), as in the paper
_KINDS = {"textures": (128, 100), "objects": (256, 500)}
#: patches in one pass
_PATCHES = 32


class AutoencoderSettings(AnomalySettings):
    """Settings of the autoencoder; the defaults are those of its paper, the cutoff of Ali et al."""

    kind: Literal["textures", "objects"] = Field(
        default="textures",
        description="textures: patches of 128 pixels and 100 numbers. objects: patches of 256 pixels and 500 numbers.",
    )
    patch: int | None = Field(default=None, description="Side of a patch, 128 or 256 or ...; None: as `kind` says.")
    latent: int | None = Field(default=None, ge=1, description="Numbers of a patch; None: as `kind` says.")
    width: int = Field(default=32, ge=1, description="Channels of the first convolution.")
    schedule: Schedule = Schedule(epochs=200, learning_rate=2e-4, decay="constant", batch=128, weight_decay=1e-5)
    augmentation: Augmentation = Augmentation(flips=True)
    crops_per_image: int = Field(default=50, ge=1, description="Patches drawn from each image in an epoch.")
    step: int = Field(default=30, ge=1, description="Pixels between patches of a texture when an image is judged.")
    cutoff: float | None = Field(default=0.75, ge=0, le=1, description="Cutoff of the map; None: chosen on validation.")

    @property
    def shape(self) -> tuple[int, int]:
        """Side of a patch, and numbers that it is squeezed into."""
        patch, latent = _KINDS[self.kind]
        return self.patch or patch, self.latent or latent


class AutoencoderMethod:
    """Draws patches again and compares."""

    def __init__(self, settings: AutoencoderSettings, binning: int, device: str) -> None:
        self._settings, self._binning, self._device = settings, binning, device
        patch, latent = settings.shape
        if patch < 128 or 128 * 2 ** ((patch // 128).bit_length() - 1) != patch:
            raise ArtSegError(f"Expected a patch of 128 pixels times a power of two, got {patch}.")
        torch.manual_seed(settings.seed)
        self._network = Autoencoder(patch, latent, settings.width).to(device)
        self._scale = ScoreScale(settings.scale)

    def fit(self, training: Split, validation: Split, folder: Path) -> Fitted:
        """Train on patches of clean images; see `Method.fit`."""
        settings = self._settings
        self._train(training, validation, folder / "autoencoder")
        file = folder / "scale" / "network.pt"
        if not file.exists():
            scores = (self._scores(validation.images[index]) for index in range(len(validation)))
            fit_scale(self._scale, track(scores, "Scale of the scores", len(validation)), validation.artifact)
            save_state(file, self._scale.state_dict())
        self.restore(folder)
        patch, latent = settings.shape
        shape = {"patch": patch, "latent": latent, "width": settings.width, "binning": self._binning}
        return Fitted(networks={"autoencoder": shape}, epochs={"autoencoder": settings.schedule.epochs})

    def _train(self, training: Split, validation: Split, folder: Path) -> None:
        settings, network = self._settings, self._network
        side, batch = network.patch, settings.schedule.batch
        clean = np.flatnonzero(~validation.artifact)

        def patches(split: Split, indices: NDArray[np.int64], random: np.random.Generator) -> Tensor:
            crops = [_crop(split.images[int(index)], side, random) for index in indices]
            return torch.from_numpy(np.stack(crops)[:, None])

        def epoch_batches(random: np.random.Generator) -> tuple[Iterator[Tensor], int]:
            order = random.permutation(np.repeat(np.arange(len(training)), settings.crops_per_image))
            count = max(1, len(order) // batch)
            shares: list[NDArray[np.int64]] = np.array_split(order, count)

            def varied(share: NDArray[np.int64]) -> Tensor:
                images, _ = augmented(patches(training, share, random), None, settings.augmentation, random)
                return to_unit(images).to(self._device)

            return (varied(share) for share in shares), count

        def loss_of_batch(images: Tensor) -> Tensor:
            return 1 - ssim(images, network(images)).mean()

        def validation_loss() -> float:
            random = np.random.default_rng([settings.seed, _STAGE])
            losses = [
                loss_of_batch(to_unit(patches(validation, np.array([index]), random)).to(self._device)).item()
                for index in np.repeat(clean, 2)
            ]
            return float(np.mean(losses))

        train_network(
            network,
            epoch_batches=epoch_batches,
            loss_of_batch=loss_of_batch,
            validation_loss=validation_loss,
            schedule=settings.schedule,
            seed=[settings.seed, _STAGE],
            folder=folder,
            name="Autoencoder",
        )

    def restore(self, folder: Path) -> None:
        """Load network and scale; see `Method.restore`."""
        load_weights(self._network, folder / "autoencoder")
        load_weights(self._scale, folder / "scale")

    def _scores(self, image: Array) -> Array:
        step = self._settings.step if self._settings.kind == "textures" else self._network.patch
        return dissimilarity(self._network, image, step=step, device=self._device)

    def predict(self, image: Array, *, shape: tuple[int, int] | None = None) -> Found:
        """Give the dissimilarity of image and drawing, scaled to 0..1; see `Method.predict`."""
        scores = self._scores(image)
        if shape is not None:
            scores = enlarged(scores, self._binning, shape)
        return Found(map=self._scale(torch.from_numpy(scores)).numpy())


@torch.inference_mode()
def dissimilarity(network: Autoencoder, image: Array, *, step: int, device: str) -> Array:
    """Compare an image with what the autoencoder draws of its patches.

    Parameters
    ----------
    network : Autoencoder
        Trained, in evaluation mode.
    image : ndarray
        (y, x) float32, normalised; a smaller one than a patch is padded by reflection.
    step : int
        Pixels between patches; where they overlap, the mean counts.
    device : str
        Where the network is.

    Returns
    -------
    ndarray
        (y, x) float32: (1 - SSIM) / 2, 0 where both are alike, at most 1.
    """
    side = network.patch
    height, width = image.shape
    padded = np.pad(image, [(0, max(0, side - length)) for length in image.shape], mode="symmetric")
    places = [(y, x) for y in _starts(padded.shape[0], side, step) for x in _starts(padded.shape[1], side, step)]
    total, covering = np.zeros(padded.shape), np.zeros(padded.shape)
    for start in range(0, len(places), _PATCHES):
        part = places[start : start + _PATCHES]
        stack = np.stack([padded[y : y + side, x : x + side] for y, x in part])[:, None]
        given = to_unit(torch.from_numpy(stack)).to(device)
        found = ((1 - ssim(given, network(given))) / 2)[:, 0].cpu().numpy()
        for (y, x), one in zip(part, found, strict=True):
            total[y : y + side, x : x + side] += one
            covering[y : y + side, x : x + side] += 1
    return np.clip(total / covering, 0, 1)[:height, :width].astype(np.float32)


def _starts(length: int, side: int, step: int) -> list[int]:
    """Where patches start along an axis: every `step` pixels, and so that the last one ends at the edge."""
    return sorted({*range(0, length - side, step), length - side})


def _crop(image: Array, side: int, random: np.random.Generator) -> Array:
    return random_crop(image, np.zeros(image.shape, np.bool_), side, random)[0]


_QUICK: Mapping[str, Any] = {
    "schedule": {"epochs": 30, "learning_rate": 1e-3, "decay": "one-cycle", "batch": 32},
    "crops_per_image": 4,
    "scale": "clean",
    "cutoff": None,
    "smallest_artifact_px": None,
}

RECIPE = Recipe(
    name="autoencoder",
    summary="an autoencoder with SSIM: what it cannot draw again",
    learns_from="clean",
    settings=AutoencoderSettings,
    presets={"paper": {}, "quick": _QUICK},
    make=AutoencoderMethod,
    quick_side=256,
)
