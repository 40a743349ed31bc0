"""ScoreCAM-U-Net (Ali et al., section 2.2): classifier, evidence, pseudo-labels, U-Net; image-level labels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from artseg_models.errors import ArtSegError
from artseg_models.labels import LabelledImage
from artseg_models.methods.protocol import Fitted, Found, Recipe
from artseg_models.training.agreement import edges_by_agreement
from artseg_models.training.calibration import calibrate_classifier, calibrate_unet
from artseg_models.training.classifier import (
    Trial,
    image_probabilities,
    new_classifier,
    train_classifier,
)
from artseg_models.training.configuration import (
    BEST_UNET,
    QUICK_CLASSIFIER,
    QUICK_SCORECAM,
    QUICK_UNET,
    ClassifierSettings,
    RefinementSettings,
    ScoreCAMSettings,
    SegmenterSettings,
    SelfTrainingSettings,
    SynthesisSettings,
    UNetSettings,
    merged,
    require_evidence,
)
from artseg_models.training.evidence import levels_of_clean, look_for_evidence, pseudo_labels, typical_evidence
from artseg_models.training.fields import Array, Split
from artseg_models.training.forest import redrawn
from artseg_models.training.kinds import named_kinds, sets_of_kinds, telling, with_kinds
from artseg_models.training.loop import load_weights
from artseg_models.training.normality import fit_normality
from artseg_models.training.precision import use_bf16
from artseg_models.training.refinement import learned_label, with_unsure_edges
from artseg_models.training.segmenter import new_unet, probability_map, probability_maps, train_unet
from artseg_models.training.synthesis import counterfactuals, cutouts_of_split, pasting, trials

_Trained = TypeVar("_Trained", ClassifierSettings, UNetSettings)


class ScoreCAMUNetSettings(SegmenterSettings):
    """Settings of ScoreCAM-U-Net; the defaults are the paper's."""

    classifier: ClassifierSettings = ClassifierSettings()
    scorecam: ScoreCAMSettings = ScoreCAMSettings()
    refinement: RefinementSettings = RefinementSettings()
    synthesis: SynthesisSettings = SynthesisSettings()
    unet: UNetSettings = UNetSettings()
    self_training: SelfTrainingSettings = SelfTrainingSettings()
    calibrate: bool = Field(
        default=False,
        description="Divide the logits of each network by a temperature chosen on validation, the classifier's by "
        "image labels, the U-Net's by pseudo-labels, which also move them by an offset, so that a probability says how "
        "often it is right.",
    )
    masks: int = Field(
        default=0,
        ge=0,
        description="How many artifact images of the train split bring their drawn mask, of those that have one; 0: no "
        "mask is read.",
    )
    cutoff: float | None = Field(
        default=0.001, ge=0, le=1, description="Cutoff of the U-Net's probability; None: chosen on validation."
    )

    @property
    def redrawn(self) -> bool:
        """Whether drawn masks teach how all other pseudo-labels are drawn; these miss no more than masks do."""
        return self.masks > 0 and self.refinement.redrawn > 0

    @property
    def unmarked_on_validation(self) -> float:
        """How much pixels that no pseudo-label marks count in artifact images, as cutoff and calibration are chosen.

        Half-way between what the U-Net learned and what the labels say.
        """
        return 1.0 if self.redrawn else float(np.sqrt(self.unet.unmarked))

    @model_validator(mode="after")
    def _evidence_can_be_had(self) -> Self:
        require_evidence(self.classifier, self.scorecam, self.refinement)
        return self


class ScoreCAMUNet:
    """A classifier learns the labels, ScoreCAM shows what convinced it, a U-Net learns these pixels.

    Beyond the paper, where the settings say so: pseudo-labels are drawn to the artifact's edges, artifacts are pasted
    on clean images, the U-Net goes on with what it found itself, and the classifier goes on with images in which the
    artifact was painted out or put elsewhere.
    """

    def __init__(self, settings: ScoreCAMUNetSettings, binning: int, device: str) -> None:
        self._settings, self._binning, self._device = settings, binning, device
        seed = settings.seed
        self._kinds = settings.named_kinds
        count = len(self._kinds)
        self._classifier = new_classifier(settings.classifier, binning=binning, seed=seed, device=device, kinds=count)
        self._unet = new_unet(settings.unet, binning=binning, seed=seed, device=device, kinds=count)

    def fit(self, training: Split, validation: Split, folder: Path) -> Fitted:
        """Train classifier and U-Net; see `Method.fit`. No mask is read but those asked for."""
        settings = self._settings
        bf16 = use_bf16(folder / "precision.json", settings.precision, width=settings.unet.width, device=self._device)
        twice = settings.synthesis.classifier > 0
        self._train_classifier(
            training, validation, folder / ("first_classifier" if twice else "classifier"), bf16=bf16
        )
        drawn = _drawn_masks(training, settings.masks)
        splits = {"train": training, "validation": validation}
        masks = self._pseudo_labels(splits, folder)
        if settings.redrawn:
            masks = redrawn(masks, drawn, splits, folder, share=settings.refinement.redrawn, seed=settings.seed)
        unsure = settings.refinement.unsure_px
        labels = {name: [with_unsure_edges(mask, unsure) for mask in some] for name, some in masks.items()}
        labels["train"] = [drawn.get(index, label) for index, label in enumerate(labels["train"])]
        items = [item for split in splits.values() for item in split.images.items]
        sets = sets_of_kinds(items, self._kinds) if self._kinds else None
        rounds = settings.self_training.rounds
        for number in range(rounds + 1):
            last = number == rounds
            if number:
                labels = {
                    "train": self._found_labels(training, labels["train"], drawn),
                    "validation": self._found_labels(validation, labels["validation"], {}),
                }
            told = labels
            if sets is not None:
                told = {
                    name: with_kinds(some, splits[name].images.items, self._kinds, sets)
                    for name, some in labels.items()
                }
            self._train_unet(
                training,
                validation,
                told,
                drawn,
                sets,
                folder / ("unet" if last else f"unet_round_{number}"),
                epochs=settings.self_training.epochs if number else settings.unet.schedule.epochs,
                number=number,
                bf16=bf16,
            )
        changed = trials(validation, labels["validation"], settings.seed) if twice else []
        if twice:
            self._train_classifier(
                training, validation, folder / "classifier", bf16=bf16, labels=labels["train"], changed=changed
            )
        if settings.calibrate:
            calibrate_classifier(
                self._classifier,
                validation,
                folder / "classifier",
                device=self._device,
                kinds=named_kinds(validation.images.items, self._kinds) if self._kinds else None,
            )
            calibrate_unet(
                self._unet,
                validation,
                labels["validation"],
                folder / "unet",
                device=self._device,
                unmarked=settings.unmarked_on_validation,
            )
        count = {"kinds": len(self._kinds)} if self._kinds else {}
        shapes = {
            "classifier": settings.classifier.shape,
            "unet": settings.unet.model_dump(include={"width", "levels"}),
        }
        return Fitted(
            networks={name: {**shape, "binning": self._binning, **count} for name, shape in shapes.items()},
            epochs={
                "classifier": settings.classifier.schedule.epochs + twice * settings.synthesis.classifier_epochs,
                "unet": settings.unet.schedule.epochs + rounds * settings.self_training.epochs,
            },
            pseudo_labels=[label > 0 for label in labels["validation"]],
            unmarked=settings.unmarked_on_validation,
            trials=[(self.predict(image), artifact) for image, artifact in changed],
            notes={
                "scorecam": settings.scorecam.applied,
                **({"kinds": list(self._kinds)} if self._kinds else {}),
            },
        )

    def _train_classifier(
        self,
        training: Split,
        validation: Split,
        folder: Path,
        *,
        bf16: bool,
        labels: Sequence[NDArray[np.int8]] | None = None,
        changed: Sequence[Trial] = (),
    ) -> None:
        """Train the classifier; with pixel labels, go on with images in which artifacts were painted out and moved."""
        settings, chosen, vary = self._settings, self._settings.classifier, None
        if labels is not None:
            chosen = _lasting(chosen, settings.synthesis.classifier_epochs)
            cutouts = cutouts_of_split(training, labels)
            if cutouts:
                vary = counterfactuals(labels, cutouts, settings.synthesis.classifier)
        train_classifier(
            self._classifier,
            training,
            validation,
            folder,
            settings=chosen,
            balance=settings.balance,
            seed=settings.seed,
            device=self._device,
            bf16=bf16,
            number=int(labels is not None),
            vary=vary,
            trials=changed,
            kinds=(
                named_kinds(training.images.items, self._kinds),
                named_kinds(validation.images.items, self._kinds),
            )
            if self._kinds
            else None,
        )

    def _pseudo_labels(self, splits: Mapping[str, Split], folder: Path) -> dict[str, list[NDArray[np.bool_]]]:
        """Make the pseudo-labels (y, x) of both splits, drawn in the way that the settings ask for."""
        settings, device = self._settings, self._device
        training = splits["train"]
        levels = levels_of_clean(
            self._classifier,
            training,
            folder / "scorecam" / "clean_levels.pt",
            settings=settings.scorecam,
            seed=settings.seed,
            device=device,
        )
        normality = None
        if settings.refinement.normality is not None:
            normality = fit_normality(
                training, folder / "normality.json", share=settings.refinement.normality, seed=settings.seed
            )

        refinement = settings.refinement
        if refinement.edges == "either":
            edges = edges_by_agreement(
                self._classifier,
                splits["validation"],
                folder / "edges.json",
                settings=settings.scorecam,
                refinement=refinement,
                levels=levels,
                device=device,
            )
            refinement = refinement.model_copy(update={"edges": edges})
        typical = None
        if refinement.scale == "shared" and refinement.edges == "evidence":
            look_for_evidence(
                self._classifier,
                training,
                folder,
                "train",
                settings=settings.scorecam,
                levels=levels,
                device=device,
            )
            typical = typical_evidence(folder, "train")
        return {
            name: pseudo_labels(
                self._classifier,
                split,
                folder,
                name,
                settings=settings.scorecam,
                refinement=refinement,
                normality=normality,
                levels=levels,
                typical=typical,
                device=device,
            )
            for name, split in splits.items()
        }

    def _train_unet(
        self,
        training: Split,
        validation: Split,
        labels: Mapping[str, Sequence[NDArray[np.int8]]],
        drawn: Mapping[int, NDArray[np.int8]],
        sets: NDArray[np.bool_] | None,
        folder: Path,
        *,
        epochs: int,
        number: int,
        bf16: bool,
    ) -> None:
        settings, vary = self._settings, None
        share = settings.synthesis.unet
        cutouts = cutouts_of_split(training, labels["train"]) if share else []
        if sets is not None:
            cutouts = telling(cutouts, sets) or cutouts
        invented = settings.synthesis.invented
        if cutouts or (share and invented):
            # where nothing could be cut out, all are invented
            vary = pasting(training.artifact, cutouts, share, invented=invented if cutouts else 1.0)
        # few as they are, drawn masks make up a third of what is seen of artifact images; a tenth where all labels
        # are drawn as they show
        of_all = 10 if settings.redrawn else 2
        repeats = np.ones(len(training), np.int64)
        repeats[list(drawn)] = max(1, round(int(training.artifact.sum()) / max(1, of_all * len(drawn))))
        doubtful = training.artifact.copy()
        doubtful[list(drawn)] = False
        train_unet(
            self._unet,
            training,
            labels["train"],
            validation,
            labels["validation"],
            folder,
            settings=_lasting(settings.unet, epochs),
            balance=settings.balance,
            seed=settings.seed,
            number=number,
            device=self._device,
            bf16=bf16,
            vary=vary,
            repeats=repeats if drawn else None,
            doubtful=None if settings.redrawn else doubtful,
            kinds=sets,
        )

    def _found_labels(
        self, split: Split, before: Sequence[NDArray[np.int8]], drawn: Mapping[int, NDArray[np.int8]]
    ) -> list[NDArray[np.int8]]:
        """Take what the U-Net found on artifact images as their labels; clean images stay empty, drawn masks stay."""
        labels = list(before)
        for index in map(int, np.flatnonzero(split.artifact)):
            if index in drawn:
                continue
            probability = probability_map(self._unet, split.images[index], self._device)
            labels[index] = learned_label(probability, before[index], self._settings.self_training)
        return labels

    def restore(self, folder: Path) -> None:
        """Load both networks; see `Method.restore`."""
        load_weights(self._classifier, folder / "classifier")
        load_weights(self._unet, folder / "unet")

    def predict(self, image: Array, *, shape: tuple[int, int] | None = None) -> Found:
        """Give the U-Net's probability and the classifier's; see `Method.predict`."""
        probability, kinds = image_probabilities(self._classifier, image, self._device)
        maps = probability_maps(self._unet, image, self._device, shape=shape)
        return Found(maps[0], probability, maps[1:] if self._kinds else None, kinds)


def _lasting(settings: _Trained, epochs: int) -> _Trained:
    """Give the same settings, trained for so many epochs."""
    return settings.model_copy(update={"schedule": settings.schedule.model_copy(update={"epochs": epochs})})


def _drawn_masks(training: Split, number: int) -> dict[int, NDArray[np.int8]]:
    """Read the masks of so many training images, each of another group as long as there is one; fewer are in more."""
    if not number:
        return {}
    items = training.images.items
    with_mask = require_drawn_masks(items, number)
    shuffled = [with_mask[int(at)] for at in np.random.default_rng(0).permutation(len(with_mask))]
    first = list({items[at].group or str(at): at for at in reversed(shuffled)}.values())[::-1]
    ordered = first + [at for at in shuffled if at not in first]
    return {at: training.mask(at).astype(np.int8) for at in ordered[:number]}


def require_drawn_masks(items: Sequence[LabelledImage], number: int) -> list[int]:
    """Refuse images of which too few have a drawn mask.

    Parameters
    ----------
    items : sequence of LabelledImage
        Of the train split.
    number : int
        How many masks are asked for.

    Returns
    -------
    list of int
        The places of all artifact images with a mask.

    Raises
    ------
    ArtSegError
        They are fewer.
    """
    with_mask = [at for at, item in enumerate(items) if item.label == "artifact" and item.mask is not None]
    if len(with_mask) < number:
        raise ArtSegError(
            f"Expected at least {number} artifact images of the train split with a mask, as --masks asks for, got "
            f"{len(with_mask)}. `artseg suggest` names images to draw; or ask for fewer."
        )
    return with_mask


_QUICK: Mapping[str, Any] = {
    "binning": None,
    "classifier": QUICK_CLASSIFIER,
    "scorecam": QUICK_SCORECAM,
    "unet": QUICK_UNET,
    "cutoff": None,
    "smallest_artifact_px": None,
}
#: beyond the paper: every link of the chain that a study of the rungs found weak is mended, from the same labels
_BEST: Mapping[str, Any] = {
    **_QUICK,
    # where one class is rare, as many of the other as of it are too few to learn from
    "balance": "repeat",
    # few strong places decide, at a fine stride: evidence comes to lie on the artifact, specks are not averaged away
    "classifier": merged(QUICK_CLASSIFIER, {"depth": 10, "layers": 2, "positions": 8, "schedule": {"epochs": 60}}),
    "scorecam": {**QUICK_SCORECAM, "source": "positions", "turned": True, "attributed": True, "cutoff": 0.35},
    "refinement": {
        "edges": "either",
        "scale": "shared",
        # far enough that whole artifacts are covered, but only from where the evidence is strong
        "reach": 0.03,
        "peak": 0.1,
        "seed": 0.35,
        "looks": 3,
        "convincing": 0.1,
        "normality": 0.8,
        # a few masks do not show all that artifacts may look like
        "redrawn": 0.9,
    },
    "synthesis": {"unet": 0.5, "classifier": 0.5},
    # pseudo-labels are right where they mark, and miss parts
    "unet": {**BEST_UNET, "unmarked": 0.3},
    "gate": "where-needed",
    "calibrate": True,
}

RECIPE = Recipe(
    name="scorecam-unet",
    summary="a U-Net that learns where a classifier saw the artifact",
    learns_from="labels",
    settings=ScoreCAMUNetSettings,
    presets={"paper": {}, "quick": _QUICK, "best": _BEST},
    make=ScoreCAMUNet,
)
