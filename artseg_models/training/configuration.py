"""Settings of a training run: frozen, written into the run folder, the same on every resume."""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from artseg_models.errors import ArtSegError


class Settings(BaseModel):
    """Frozen settings that know their names: a misspelt one is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Schedule(Settings):
    """How long and how fast a network learns (paper, section 2.3.1)."""

    epochs: int = Field(default=150, ge=1, description="Passes over the training images.")
    learning_rate: float = Field(default=0.002, gt=0, description="Adam's initial learning rate.")
    decay: Literal["plateau", "one-cycle", "constant"] = Field(
        default="plateau",
        description="How the rate changes: it drops when the validation loss stands still, as in the paper; or rises "
        "and falls once over all epochs, which suits short trainings; or stays.",
    )
    patience: int = Field(
        default=10, ge=1, description="Epochs without a better validation loss before the rate drops."
    )
    factor: float = Field(default=0.1, gt=0, lt=1, description="By how much the rate drops.")
    batch: int = Field(default=8, ge=1, description="Images or crops in one step.")
    weight_decay: float = Field(default=0.0, ge=0, description="How much Adam shrinks the weights.")


class Augmentation(Settings):
    """Random changes of each training image, drawn anew in every epoch."""

    flips: bool = Field(default=True, description="Mirror along y and x; quarter turns where the image is square.")
    rotation: float = Field(default=0.0, ge=0, le=180, description="Largest turn in degrees.")
    scale: float = Field(default=0.0, ge=0, lt=1, description="Largest relative change of size.")
    shift: float = Field(default=0.0, ge=0, lt=1, description="Largest shift as a share of the side.")
    contrast: float = Field(default=0.0, ge=0, lt=1, description="Largest relative change of contrast.")
    brightness: float = Field(default=0.0, ge=0, description="Largest change of brightness, in standard deviations.")
    noise: float = Field(default=0.0, ge=0, description="Largest added Gaussian noise, in standard deviations.")


class ClassifierSettings(Settings):
    """The ResNet that learns clean or artifact."""

    depth: Literal[10, 18, 34, 50] = 50
    width: int = Field(default=64, ge=1)
    layers: Literal[2, 3, 4] = Field(
        default=4, description="Layers of the ResNet: with fewer it answers for smaller places (8, 16, 32 pixels)."
    )
    positions: int = Field(
        default=0,
        ge=0,
        description="The answer is the mean of that many places, those most like an artifact, so that small artifacts "
        "count as much as large ones; 0, as in the paper: the answer to the mean of all places.",
    )
    schedule: Schedule = Schedule()
    augmentation: Augmentation = Augmentation()

    @property
    def shape(self) -> dict[str, int]:
        """Arguments of `artseg_models.networks.resnet.ResNet` besides binning and kinds."""
        return self.model_dump(include={"depth", "width", "layers", "positions"})


class ScoreCAMSettings(Settings):
    """How pixel evidence and pseudo-labels come out of the classifier."""

    source: Literal["scorecam", "positions"] = Field(
        default="scorecam",
        description="scorecam, as in the paper: what of the image brings the classifier's answer about, by masking it. "
        "positions: the classifier's own answer at each place, for one that pools few places (classifier.positions).",
    )
    turned: bool = Field(
        default=False,
        description="With positions: the mean over the image as it is, mirrored, and (where it is square) turned, "
        "since what the classifier answers beside an artifact differs between them.",
    )
    attributed: bool = Field(
        default=False,
        description="With positions: combined with what each pixel contributes to the answers (integrated gradients), "
        "so that evidence lies on the artifact, at the resolution of the image.",
    )
    layer: Literal[1, 2, 3, 4] = 4
    channel_weight: Literal["artifact", "largest"] = Field(
        default="largest",
        description="What weights an activation map: the probability of artifact, or that of the likeliest class.",
    )
    mode: Literal["exact", "grouped", "feature"] = Field(
        default="exact",
        description="A forward pass for each activation map, for one of each group of alike maps, or for each map from "
        "layer 3 on.",
    )
    groups: int = Field(default=32, ge=2)
    batch: int = Field(default=16, ge=1, description="Masked images in one forward pass.")
    memory_mib: int = Field(
        default=2048, ge=1, description="About the most memory of a forward pass: large images go in smaller batches."
    )
    engine: Literal["auto", "torch", "openvino", "openvino-bf16"] = Field(
        default="auto",
        description="What computes the forward passes; auto measures on the processor, and takes bf16 only where the "
        "mode is not exact.",
    )
    cutoff: float | Literal["otsu"] = Field(
        default=0.05,
        description="Pixels at or above it, in a map scaled to 0..1, become artifact in the pseudo-label; "
        "or Otsu's cutoff for each map.",
    )
    clean_quantile: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Activation counts only above this quantile of the clean training images; None, as in the paper: "
        "all activation counts.",
    )
    clean_images: Literal["empty", "own-map"] = Field(
        default="empty",
        description="Pseudo-labels of clean images: no artifact pixel, or what their own map says.",
    )

    @property
    def applied(self) -> dict[str, Any]:
        """What of these settings took part, for cards and descriptions of models."""
        positions = {"source", "turned", "attributed", "cutoff", "clean_quantile", "clean_images"}
        return self.model_dump(include=positions if self.source == "positions" else None)


class UNetSettings(Settings):
    """The U-Net that learns the pseudo-labels."""

    width: int = Field(default=64, ge=1)
    levels: int = Field(default=5, ge=1, le=6)
    schedule: Schedule = Schedule()
    augmentation: Augmentation = Augmentation()
    crop: int = Field(
        default=256, ge=32, description="Side of a training crop, in binned pixels, a multiple of 2**levels."
    )
    crops_per_image: int = Field(default=1, ge=1, description="Crops drawn from each image in an epoch.")
    unmarked: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="How much pixels that no pseudo-label marks count in artifact images, against those of clean ones: "
        "pseudo-labels miss parts of artifacts. Drawn masks miss none, nor does what is drawn again as they show "
        "(refinement.redrawn).",
    )


class RefinementSettings(Settings):
    """How pseudo-labels are drawn out to the edges of what the evidence points at."""

    edges: Literal["evidence", "contrast", "either"] = Field(
        default="evidence",
        description="evidence, as in the paper: the map at its cutoff. contrast: wherever the map points, up to where "
        "the image departs from the surroundings; for maps of layer 1 or 2. either: as views of the "
        "same validation image, turned and mirrored, agree better; needs scorecam.source=positions.",
    )
    scale: Literal["image", "shared"] = Field(
        default="image",
        description="With evidence: what it is measured by. image, as in the paper: the image's largest. shared: the "
        "geometric mean of that and of the median over training images, so that little evidence says less than much.",
    )
    reach: float = Field(
        default=0.1, gt=0, lt=1, description="With contrast: pixels of the map below it point at nothing."
    )
    peak: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="With contrast: a connected area of the map that nowhere comes up to it points at nothing.",
    )
    seed: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="With contrast: of each connected area of the map, the pixels from this share of its largest value "
        "on are artifact, and tell how far it departs from its surroundings.",
    )
    contrast: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="With contrast: pixels with this share of the artifact's departure belong to it, if they stand out "
        "of the noise.",
    )
    looks: int = Field(
        default=1,
        ge=1,
        le=5,
        description="With contrast: how often an artifact image is looked at, each time with what was found before "
        "painted out, since few strong artifacts hide the others. More than once needs scorecam.source=positions.",
    )
    convincing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="With contrast: a connected part stays only if it alone, all others painted out, is called an "
        "artifact by the classifier, or brings back this share of the log-odds of artifact that all of them make up. "
        "0: all stay.",
    )
    normality: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Whether what no clean image shows joins the pseudo-labels: its level is the lowest at which this "
        "share of what artifact images show is not in clean images too; where there is none, nothing joins.",
    )
    redrawn: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="With drawn masks (--masks): how much their pixels count in what a random forest of pixels learns; "
        "it then draws all other pseudo-labels again. The rest of what it learns are these. 0: they stay as they are.",
    )
    unsure_px: int = Field(
        default=0, ge=0, description="Pixels to each side of a pseudo-label's edge that the U-Net does not learn from."
    )


def require_evidence(
    classifier: ClassifierSettings, scorecam: ScoreCAMSettings, refinement: RefinementSettings | None = None
) -> None:
    """Refuse evidence that a classifier of this form does not give.

    Raises
    ------
    ValueError
        Says which setting does not fit which.
    """
    if scorecam.source == "positions":
        if not classifier.positions:
            raise ValueError("scorecam.source=positions needs a classifier that pools few: set classifier.positions")
        return
    beyond = {
        "scorecam.turned=true": scorecam.turned,
        "scorecam.attributed=true": scorecam.attributed,
        "refinement.edges=either": refinement is not None and refinement.edges == "either",
        f"refinement.looks={refinement.looks if refinement else 1}": refinement is not None and refinement.looks > 1,
    }
    if any(beyond.values()):
        needing = ", ".join(name for name, needed in beyond.items() if needed)
        raise ValueError(f"scorecam.source=positions is needed for {needing}, got scorecam.source={scorecam.source}")
    if scorecam.layer > classifier.layers:
        raise ValueError(f"scorecam.layer={scorecam.layer} is beyond classifier.layers={classifier.layers}")
    if scorecam.mode == "feature" and classifier.layers < _LATE_LAYERS:
        raise ValueError(f"scorecam.mode=feature needs classifier.layers={_LATE_LAYERS}")


class SynthesisSettings(Settings):
    """Artifacts cut out by their pseudo-labels and pasted, turned and scaled, where no artifact was."""

    unet: float = Field(
        default=0.0, ge=0, le=1, description="Share of clean images that the U-Net sees with an artifact pasted on."
    )
    invented: float = Field(
        default=0.0, ge=0, le=1, description="Share of the pasted artifacts that are drawn at random, not cut out."
    )
    classifier: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of images that the classifier sees changed in its second training: artifacts pasted on "
        "clean images or moved elsewhere, and painted out, which makes the image clean. 0: no second training.",
    )
    classifier_epochs: int = Field(default=10, ge=1, description="Epochs of that second training.")


class SelfTrainingSettings(Settings):
    """The U-Net trained on with what it found itself."""

    rounds: int = Field(default=0, ge=0, le=5, description="How often.")
    epochs: int = Field(default=8, ge=1, description="Epochs of each round.")
    unsure: float = Field(
        default=0.25,
        ge=0,
        lt=0.5,
        description="Pixels whose probability is nearer to 0.5 than this are not learned from.",
    )


class RunSettings(Settings):
    """What every method's run depends on besides images and labels."""

    preset: str = "paper"
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    binning: int | None = Field(
        default=1, ge=1, description="Pixels averaged into one along y and x; None: by image size."
    )
    plane: int | None = Field(default=None, ge=0, description="Which plane of image files with several, from 0.")
    pixel_size_um: float | None = Field(
        default=None, gt=0, description="Side of a pixel; None: as the image files say, if they do."
    )
    cutoff: float | None = Field(
        default=None, ge=0, le=1, description="Cutoff of the method's map; None: chosen on validation."
    )
    smallest_artifact_px: int | None = Field(
        default=500, ge=0, description="Smallest artifact in pixels of the full image; None: chosen on validation."
    )
    choose_by: Literal["labels", "masks"] = Field(
        default="labels",
        description="How cutoff and smallest artifact are chosen on validation. labels: as agrees best with the image "
        "labels (and, for the cutoff, with pseudo-labels where the method has them), no mask is read. masks: both by "
        "pixel intersection over union with the masks of the validation images.",
    )


#: see `artseg_models.training.sampling.balanced_draw` and `class_weights`
Balance = Literal["sample", "repeat", "weight", "none"]


class SupervisedSettings(RunSettings):
    """What the methods that learn clean against artifact have in common."""

    balance: Balance = Field(
        default="sample",
        description="How clean and artifact images come to count alike in each epoch. sample: as many of each as there "
        "are of the rarer. repeat: half of each, as many in all as there are images, the rarer repeated. weight: each "
        "once, weighed in the loss. none: each once.",
    )
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="fp32",
        description="Numbers in training; auto: bf16 where a short measurement finds it faster. Only fp32 on the CPU "
        "repeats bit for bit.",
    )
    gate: Literal["classifier", "where-needed"] = Field(
        default="classifier",
        description="Who calls an image clean. classifier: it decides, and what the U-Net found in a clean image is "
        "dropped. where-needed: the U-Net overrules it, and the model has no gate, where its own artifacts tell clean "
        "from artifact images as well as the classifier does, as far as validation images can say; changed ones are "
        "asked where they cannot.",
    )


class SegmenterSettings(SupervisedSettings):
    """What the methods have in common whose U-Net learns pixel labels."""

    kinds: bool | tuple[str, ...] = Field(
        default=False,
        description="Tell kinds of artifact apart, as the labels name them: the classifier answers for each, the U-Net "
        "has a channel for each. true: all that the labels name; a list: these.",
    )

    @property
    def named_kinds(self) -> tuple[str, ...]:
        """The kinds, once `artseg_models.methods.train` has read their names from the labels."""
        if self.kinds is True:
            raise ValueError("the names of the kinds are not known yet")
        return self.kinds or ()


class AnomalySettings(RunSettings):
    """What the methods that learn from clean images alone have in common."""

    binning: int | None = Field(
        default=None, ge=1, description="Pixels averaged into one along y and x; None: to about 256 pixels a side."
    )
    scale: Literal["range", "clean"] = Field(
        default="range",
        description="How scores become 0..1. range: from the lowest to the highest of the validation images, as the "
        "published programs do over their test images. clean: 0.5 is what one in a thousand pixels of clean "
        "validation images reaches, and no score is cut off.",
    )


#: The quick preset of the classifier, shared by the methods that have one.
QUICK_CLASSIFIER: Mapping[str, Any] = {
    "depth": 18,
    "width": 32,
    "schedule": {"epochs": 20, "learning_rate": 0.002, "decay": "one-cycle", "batch": 16},
    "augmentation": {
        "rotation": 15,
        "scale": 0.15,
        "shift": 0.05,
        "contrast": 0.3,
        "brightness": 0.3,
        "noise": 0.1,
    },
}
#: The quick preset of ScoreCAM.
QUICK_SCORECAM: Mapping[str, Any] = {
    "layer": 2,
    "channel_weight": "artifact",
    "mode": "grouped",
    "groups": 32,
    "cutoff": 0.4,
    "clean_quantile": 0.99,
}
#: The quick preset of the U-Net.
QUICK_UNET: Mapping[str, Any] = {
    "width": 16,
    "schedule": {"epochs": 16, "learning_rate": 0.003, "decay": "one-cycle", "batch": 8},
    "augmentation": {"rotation": 180, "scale": 0.2, "contrast": 0.3, "brightness": 0.3, "noise": 0.1},
    "crop": 160,
}
#: The U-Net of preset best: as quick's, trained until it gains no more on small sets of images.
BEST_UNET: Mapping[str, Any] = {**QUICK_UNET, "schedule": {**QUICK_UNET["schedule"], "epochs": 48}}

_LATE_LAYERS = 4
"""Layers of a classifier that ScoreCAM's mode feature begins in the middle of."""
_OFFERED, _ALIKE = 3, 0.75
"""At most so many names are offered for one that is unknown, and from which likeness of its last part on, 0..1."""

Chosen = TypeVar("Chosen", bound=Settings)


def configured(
    settings: type[Chosen],
    presets: Mapping[str, Mapping[str, Any]],
    preset: str,
    *,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> Chosen:
    """Take the settings of a preset and change some of them.

    Parameters
    ----------
    settings : type
        The method's settings; their defaults are the preset without changes.
    presets : mapping
        What each preset changes.
    preset : str
        One of them.
    seed : int
        Seed of every random choice.
    overrides : mapping, optional
        Nested, e.g. ``{"classifier": {"depth": 18}}``.

    Raises
    ------
    ArtSegError
        No such preset or setting, or a value out of range.
    """
    if preset not in presets:
        raise ArtSegError(f"Expected a preset out of {', '.join(presets)}, got {preset!r}.")
    content = merged(merged(presets[preset], overrides or {}), {"preset": preset, "seed": seed})
    try:
        return settings.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_problem(settings, dict(found)) for found in error.errors())
        raise ArtSegError(f"These settings cannot be used: {problems}. See `artseg train --help`.") from error


def _problem(settings: type[Settings], found: Mapping[str, Any]) -> str:
    name = ".".join(map(str, found["loc"]))
    if not found["loc"]:
        return str(found["ctx"]["error"])
    if found["type"] != "extra_forbidden":
        return f"{name}: {found['msg']} (got {found['input']!r})"
    # where a part is unknown, what was to be set in it says more
    inner: Any = found["input"]
    while isinstance(inner, Mapping) and len(cast("Mapping[str, Any]", inner)) == 1:
        [(level, inner)] = cast("Mapping[str, Any]", inner).items()
        name += f".{level}"
    close = _close_names(name, _names(settings))
    return f"this method has no setting {name}" + (f" (did you mean {' or '.join(close)}?)" if close else "")


def _names(settings: type[BaseModel], before: str = "") -> list[str]:
    """Give the full names of all settings, dots between the levels."""
    names: list[str] = []
    for name, field in settings.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            names += _names(nested, f"{before}{name}.")
        else:
            names.append(before + name)
    return names


def _close_names(name: str, names: Sequence[str]) -> list[str]:
    """Find what somebody may have meant: the same setting in another place, or another spelling."""
    alike = difflib.get_close_matches(_last(name), {_last(one) for one in names}, n=1, cutoff=_ALIKE)
    found = [one for one in names if _last(one) in alike]
    same_part = [one for one in found if one.split(".")[0] == name.split(".")[0]]
    by_likeness = sorted(same_part or found, key=lambda one: -difflib.SequenceMatcher(None, name, one).ratio())
    return by_likeness[:_OFFERED]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def parse_overrides(settings: Sequence[str]) -> Mapping[str, Any]:
    """Read changes of settings as they are typed: ``unet.schedule.epochs=30``.

    Parameters
    ----------
    settings : sequence of str
        NAME=VALUE; dots in the name go one level down, the value is JSON or else text.

    Returns
    -------
    mapping
        Nested, for `configure`.

    Raises
    ------
    ArtSegError
        An entry is not of this form.
    """
    overrides: dict[str, Any] = {}
    for entry in settings:
        name, equals, text = entry.partition("=")
        if not equals or not all(name.split(".")):
            raise ArtSegError(f"Expected a setting as NAME=VALUE, e.g. unet.schedule.epochs=30, got {entry!r}.")
        value: Any = text
        with contextlib.suppress(ValueError):
            value = json.loads(text)
        for level in reversed(name.split(".")):
            value = {level: value}
        overrides = merged(overrides, value)
    return overrides


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change nested settings: a mapping is changed name by name, any other value replaced."""
    result: dict[str, Any] = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping):
            before = result.get(key)
            inner = cast("Mapping[str, Any]", before if isinstance(before, Mapping) else {})
            result[key] = merged(inner, cast("Mapping[str, Any]", value))
        else:
            result[key] = value
    return result
