"""ScoreCAM maps alone: the classifier's evidence, without a U-Net (section 2.3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from artseg_models.errors import ArtSegError
from artseg_models.methods.protocol import Fitted, Found, Recipe
from artseg_models.passes import Passes, TorchPasses
from artseg_models.training.classifier import new_classifier, train_classifier
from artseg_models.training.configuration import (
    QUICK_CLASSIFIER,
    QUICK_SCORECAM,
    ClassifierSettings,
    ScoreCAMSettings,
    SupervisedSettings,
    require_evidence,
)
from artseg_models.training.evidence import evidence_of, levels_of_clean, passes_of, pseudo_labels
from artseg_models.training.fields import Array, Split, enlarged
from artseg_models.training.loop import load_weights
from artseg_models.training.precision import use_bf16


class ScoreCAMMapsSettings(SupervisedSettings):
    """Settings of ScoreCAM alone; the defaults are the paper's."""

    classifier: ClassifierSettings = ClassifierSettings()
    scorecam: ScoreCAMSettings = ScoreCAMSettings()
    cutoff: float | None = Field(
        default=0.001, ge=0, le=1, description="Cutoff of the map, scaled to 0..1; None: chosen on validation."
    )

    @model_validator(mode="after")
    def _evidence_can_be_had(self) -> Self:
        require_evidence(self.classifier, self.scorecam)
        return self


class ScoreCAMMaps:
    """A classifier learns the labels; ScoreCAM's map of an image is its artifact map."""

    def __init__(self, settings: ScoreCAMMapsSettings, binning: int, device: str) -> None:
        self._settings, self._binning, self._device = settings, binning, device
        self._classifier = new_classifier(settings.classifier, binning=binning, seed=settings.seed, device=device)
        self._levels: Tensor | None = None
        self._passes: Passes = TorchPasses(self._classifier)

    def fit(self, training: Split, validation: Split, folder: Path) -> Fitted:
        """Train the classifier; see `Method.fit`. No mask is read."""
        settings, device = self._settings, self._device
        train_classifier(
            self._classifier,
            training,
            validation,
            folder / "classifier",
            settings=settings.classifier,
            balance=settings.balance,
            seed=settings.seed,
            device=device,
            bf16=use_bf16(
                folder / "precision.json", settings.precision, width=settings.classifier.width, device=device
            ),
        )
        self._levels = levels_of_clean(
            self._classifier,
            training,
            _levels_file(folder),
            settings=settings.scorecam,
            seed=settings.seed,
            device=device,
        )
        labels = pseudo_labels(
            self._classifier,
            validation,
            folder,
            "validation",
            settings=settings.scorecam,
            levels=self._levels,
            device=device,
        )
        self._passes = self._measured_passes(folder)
        shape = {**settings.classifier.shape, "binning": self._binning}
        return Fitted(
            networks={"classifier": shape},
            epochs={"classifier": settings.classifier.schedule.epochs},
            pseudo_labels=labels,
            notes={"scorecam": settings.scorecam.applied},
        )

    def restore(self, folder: Path) -> None:
        """Load the classifier and its level of clean activation; see `Method.restore`."""
        load_weights(self._classifier, folder / "classifier")
        self._passes = self._measured_passes(folder)
        if self._settings.scorecam.clean_quantile is None:
            return
        file = _levels_file(folder)
        if not file.is_file():
            raise ArtSegError(f"Expected the level of clean activation at {file}, but it is missing. Train again.")
        self._levels = torch.load(file, map_location=self._device, weights_only=True)

    def predict(self, image: Array, *, shape: tuple[int, int] | None = None) -> Found:
        """Give ScoreCAM's map, scaled to 0..1 within the image; see `Method.predict`."""
        found = evidence_of(
            self._classifier,
            image,
            settings=self._settings.scorecam,
            levels=self._levels,
            passes=self._passes,
            device=self._device,
        )
        evidence = found.normalised
        if shape is not None:
            evidence = enlarged(evidence, self._binning, shape)
        return Found(map=evidence, image_probability=found.probability)

    def _measured_passes(self, folder: Path) -> Passes:
        return passes_of(self._classifier, folder, settings=self._settings.scorecam, device=self._device)


def _levels_file(folder: Path) -> Path:
    return folder / "scorecam" / "clean_levels.pt"


_QUICK: Mapping[str, Any] = {
    "binning": None,
    "classifier": QUICK_CLASSIFIER,
    "scorecam": QUICK_SCORECAM,
    "cutoff": None,
    "smallest_artifact_px": None,
}

RECIPE = Recipe(
    name="scorecam",
    summary="the classifier's ScoreCAM maps alone, without a U-Net",
    learns_from="labels",
    settings=ScoreCAMMapsSettings,
    presets={"paper": {}, "quick": _QUICK},
    make=ScoreCAMMaps,
)
