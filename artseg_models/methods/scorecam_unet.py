"""ScoreCAM-U-Net (Ali et al., section 2.2): classifier, evidence, pseudo-labels, U-Net; image-level labels alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from artseg_models.methods.protocol import Fitted, Found, Recipe
from artseg_models.training.classifier import image_probability, new_classifier, train_classifier
from artseg_models.training.configuration import (
    QUICK_CLASSIFIER,
    QUICK_SCORECAM,
    QUICK_UNET,
    ClassifierSettings,
    ScoreCAMSettings,
    SupervisedSettings,
    UNetSettings,
)
from artseg_models.training.evidence import levels_of_clean, pseudo_labels
from artseg_models.training.fields import Array, Split
from artseg_models.training.loop import load_weights
from artseg_models.training.precision import use_bf16
from artseg_models.training.segmenter import new_unet, probability_map, train_unet


class ScoreCAMUNetSettings(SupervisedSettings):
    """Settings of ScoreCAM-U-Net; the defaults are the paper's."""

    classifier: ClassifierSettings = ClassifierSettings()
    scorecam: ScoreCAMSettings = ScoreCAMSettings()
    unet: UNetSettings = UNetSettings()
    cutoff: float | None = Field(
        default=0.001, ge=0, le=1, description="Cutoff of the U-Net's probability; None: chosen on validation."
    )


class ScoreCAMUNet:
    """A classifier learns the labels, ScoreCAM shows what convinced it, a U-Net learns these pixels."""

    def __init__(self, settings: ScoreCAMUNetSettings, binning: int, device: str) -> None:
        self._settings, self._binning, self._device = settings, binning, device
        seed = settings.seed
        self._classifier = new_classifier(settings.classifier, binning=binning, seed=seed, device=device)
        self._unet = new_unet(settings.unet, binning=binning, seed=seed, device=device)

    def fit(self, training: Split, validation: Split, folder: Path) -> Fitted:
        """Train classifier and U-Net; see `Method.fit`. No mask is read."""
        settings, device = self._settings, self._device
        bf16 = use_bf16(folder / "precision.json", settings.precision, width=settings.unet.width, device=device)
        train_classifier(
            self._classifier,
            training,
            validation,
            folder / "classifier",
            settings=settings.classifier,
            balance=settings.balance,
            seed=settings.seed,
            device=device,
            bf16=bf16,
        )
        levels = levels_of_clean(
            self._classifier,
            training,
            folder / "scorecam" / "clean_levels.pt",
            settings=settings.scorecam,
            seed=settings.seed,
            device=device,
        )
        labels = {
            name: pseudo_labels(
                self._classifier, split, folder, name, settings=settings.scorecam, levels=levels, device=device
            )
            for name, split in (("train", training), ("validation", validation))
        }
        train_unet(
            self._unet,
            training,
            labels["train"],
            validation,
            labels["validation"],
            folder / "unet",
            settings=settings.unet,
            balance=settings.balance,
            seed=settings.seed,
            device=device,
            bf16=bf16,
        )
        return Fitted(
            networks={
                "classifier": {**settings.classifier.model_dump(include={"depth", "width"}), "binning": self._binning},
                "unet": {**settings.unet.model_dump(include={"width", "levels"}), "binning": self._binning},
            },
            epochs={"classifier": settings.classifier.schedule.epochs, "unet": settings.unet.schedule.epochs},
            pseudo_labels=labels["validation"],
            notes={"scorecam": settings.scorecam.model_dump()},
        )

    def restore(self, folder: Path) -> None:
        """Load both networks; see `Method.restore`."""
        load_weights(self._classifier, folder / "classifier")
        load_weights(self._unet, folder / "unet")

    def predict(self, image: Array, *, shape: tuple[int, int] | None = None) -> Found:
        """Give the U-Net's probability and the classifier's; see `Method.predict`."""
        return Found(
            map=probability_map(self._unet, image, self._device, shape=shape),
            image_probability=image_probability(self._classifier, image, self._device),
        )


_QUICK: Mapping[str, Any] = {
    "binning": None,
    "classifier": QUICK_CLASSIFIER,
    "scorecam": QUICK_SCORECAM,
    "unet": QUICK_UNET,
    "cutoff": None,
    "smallest_artifact_px": None,
}

RECIPE = Recipe(
    name="scorecam-unet",
    summary="a U-Net that learns where a classifier saw the artifact",
    learns_from="labels",
    settings=ScoreCAMUNetSettings,
    presets={"paper": {}, "quick": _QUICK},
    make=ScoreCAMUNet,
)
