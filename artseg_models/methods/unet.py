"""U-Net trained on drawn masks: full supervision, the upper mark of the comparison (section 2.3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from artseg_models.methods.protocol import Fitted, Found, Recipe
from artseg_models.training.configuration import BEST_UNET, QUICK_UNET, Balance, SegmenterSettings, UNetSettings
from artseg_models.training.fields import Array, Split
from artseg_models.training.kinds import drawn_kinds
from artseg_models.training.loop import load_weights
from artseg_models.training.precision import use_bf16
from artseg_models.training.segmenter import new_unet, probability_maps, train_unet


class SupervisedUNetSettings(SegmenterSettings):
    """Settings of the supervised U-Net; the defaults are the paper's."""

    unet: UNetSettings = UNetSettings()
    balance: Balance = Field(
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
        self._kinds = settings.named_kinds
        self._unet = new_unet(settings.unet, binning=binning, seed=settings.seed, device=device, kinds=len(self._kinds))

    def fit(self, training: Split, validation: Split, folder: Path) -> Fitted:
        """Train the U-Net; see `Method.fit`."""
        settings, device = self._settings, self._device
        train_unet(
            self._unet,
            training,
            drawn_kinds(training, self._kinds),
            validation,
            drawn_kinds(validation, self._kinds),
            folder / "unet",
            settings=settings.unet,
            balance=settings.balance,
            seed=settings.seed,
            device=device,
            bf16=use_bf16(folder / "precision.json", settings.precision, width=settings.unet.width, device=device),
            # a drawn mask leaves no doubt: each set is one kind
            kinds=np.eye(len(self._kinds), dtype=np.bool_) if self._kinds else None,
        )
        count = {"kinds": len(self._kinds)} if self._kinds else {}
        shape = settings.unet.model_dump(include={"width", "levels"})
        return Fitted(
            networks={"unet": {**shape, "binning": self._binning, **count}},
            epochs={"unet": settings.unet.schedule.epochs},
            notes={"kinds": list(self._kinds)} if self._kinds else {},
        )

    def restore(self, folder: Path) -> None:
        """Load the network; see `Method.restore`."""
        load_weights(self._unet, folder / "unet")

    def predict(self, image: Array, *, shape: tuple[int, int] | None = None) -> Found:
        """Give the U-Net's probability; see `Method.predict`."""
        maps = probability_maps(self._unet, image, self._device, shape=shape)
        return Found(maps[0], kind_maps=maps[1:] if self._kinds else None)


_QUICK: Mapping[str, Any] = {"binning": None, "unet": QUICK_UNET, "cutoff": None, "smallest_artifact_px": None}

RECIPE = Recipe(
    name="unet",
    summary="a U-Net trained on drawn masks (fully supervised; every artifact image needs a mask)",
    learns_from="masks",
    settings=SupervisedUNetSettings,
    presets={"paper": {}, "quick": _QUICK, "best": {**_QUICK, "unet": BEST_UNET}},
    make=SupervisedUNet,
)
