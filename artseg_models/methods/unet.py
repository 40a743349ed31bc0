"""U-Net trained on drawn masks: full supervision, the upper mark of the comparison (section 2.3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from artseg_models.methods.protocol import Fitted, Found, Recipe
from artseg_models.training.configuration import QUICK_UNET, SupervisedSettings, UNetSettings
from artseg_models.training.fields import Array, Split
from artseg_models.training.loop import load_weights
from artseg_models.training.precision import use_bf16
from artseg_models.training.segmenter import new_unet, probability_map, train_unet


class SupervisedUNetSettings(SupervisedSettings):
    """Settings of the supervised U-Net; the defaults are the paper's."""

    unet: UNetSettings = UNetSettings()
    balance: Literal["sample", "weight", "none"] = Field(
        default="none", description="As many clean as artifact images in each epoch; pixels are not balanced."
    )
    cutoff: float | None = Field(
        default=0.45, ge=0, le=1, description="Cutoff of the U-Net's probability; None: chosen on validation."
    )
    choose_by: Literal["labels", "masks"] = Field(
        default="masks", description="The masks that it learns from also choose cutoff and smallest artifact."
    )


class SupervisedUNet:
    """A U-Net learns the drawn masks of the training images; clean images are empty masks."""

    def __init__(self, settings: SupervisedUNetSettings, binning: int, device: str) -> None:
        self._settings, self._binning, self._device = settings, binning, device
        self._unet = new_unet(settings.unet, binning=binning, seed=settings.seed, device=device)

    def fit(self, training: Split, validation: Split, folder: Path) -> Fitted:
        """Train the U-Net; see `Method.fit`."""
        settings, device = self._settings, self._device
        train_unet(
            self._unet,
            training,
            training.masks(),
            validation,
            validation.masks(),
            folder / "unet",
            settings=settings.unet,
            balance=settings.balance,
            seed=settings.seed,
            device=device,
            bf16=use_bf16(folder / "precision.json", settings.precision, width=settings.unet.width, device=device),
        )
        return Fitted(
            networks={"unet": {**settings.unet.model_dump(include={"width", "levels"}), "binning": self._binning}},
            epochs={"unet": settings.unet.schedule.epochs},
        )

    def restore(self, folder: Path) -> None:
        """Load the network; see `Method.restore`."""
        load_weights(self._unet, folder / "unet")

    def predict(self, image: Array, *, shape: tuple[int, int] | None = None) -> Found:
        """Give the U-Net's probability; see `Method.predict`."""
        return Found(map=probability_map(self._unet, image, self._device, shape=shape))


_QUICK: Mapping[str, Any] = {"binning": None, "unet": QUICK_UNET, "cutoff": None, "smallest_artifact_px": None}

RECIPE = Recipe(
    name="unet",
    summary="a U-Net trained on drawn masks (fully supervised; every artifact image needs a mask)",
    learns_from="masks",
    settings=SupervisedUNetSettings,
    presets={"paper": {}, "quick": _QUICK},
    make=SupervisedUNet,
)
