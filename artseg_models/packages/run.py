"""What a training run left for export: two networks, their settings and figures, one image."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from artseg_models.errors import ArtSegError
from artseg_models.files import read_json
from artseg_models.images import check_pixels, read_image

if TYPE_CHECKING:
    from artseg_models.networks.resnet import ResNet
    from artseg_models.networks.unet import UNet


logger = logging.getLogger(__name__)


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ClassifierShape(_Part):
    """Arguments of `networks.resnet.ResNet`."""

    depth: int
    width: int
    binning: int


class UNetShape(_Part):
    """Arguments of `networks.unet.UNet`."""

    width: int
    levels: int
    binning: int


class Training(_Part):
    """What the networks learned from: images by split and label; more may be recorded."""

    model_config = ConfigDict(extra="allow", frozen=True)

    source: str
    counts: Mapping[str, Mapping[str, int]]
    epochs: Mapping[str, int] | int
    #: whether they were made by `artseg simulate`
    simulated: bool = False


class RunResult(_Part):
    """The run's `result.json`."""

    name: str
    method: str
    classifier: ClassifierShape
    unet: UNetShape
    cutoff: float = Field(ge=0.0, le=1.0)
    smallest_artifact_px: int = Field(ge=0)
    gate_threshold: float | None = Field(default=None, ge=0.0, le=1.0)
    pixel_size_um: float | None = Field(default=None, gt=0.0)
    training: Training
    scorecam: Mapping[str, Any] = Field(default_factory=dict)
    validation: Mapping[str, Any] = Field(default_factory=dict)


class Schedule(_Part):
    """How long and how fast a network learned."""

    epochs: int
    learning_rate: float
    decay: str
    batch: int


class Learning(_Part):
    """A network's part of the run's `configuration.json`."""

    schedule: Schedule
    augmentation: Mapping[str, float | bool] = Field(default_factory=dict)


class _Configuration(_Part):
    classifier: Learning
    unet: Learning


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes
    ----------
    folder : Path
        The run folder.
    result : RunResult
        Settings and figures.
    classifier : ResNet
        In evaluation mode, on the CPU.
    unet : UNet
        In evaluation mode, on the CPU.
    sample : ndarray
        (y, x), as stored: an image with an artifact, from the validation split.
    finished : datetime
        When the training ended.
    learning : mapping
        How 'classifier' and 'unet' learned; empty where the run folder does not tell.
    settings : mapping
        Every setting of the run (`configuration.json`); empty where the run folder does not tell.
    hours, hardware : float or None, str or None
        How long it took, and on what; None where the run folder does not tell.
    """

    folder: Path
    result: RunResult
    classifier: ResNet
    unet: UNet
    sample: NDArray[Any]
    finished: datetime
    learning: Mapping[str, Learning]
    settings: Mapping[str, Any]
    hours: float | None
    hardware: str | None


def read_run(folder: Path) -> TrainedRun:
    """Read what `artseg train` left in a run folder.

    Raises
    ------
    ArtSegError
        The run is unfinished, something is missing or damaged, or weights do not fit their network.
    """
    from artseg_models.networks.resnet import ResNet
    from artseg_models.networks.unet import UNet
    from artseg_models.training.loop import load_weights

    if not (folder / "result.json").is_file():
        raise ArtSegError(
            f"Expected a finished training run at {folder}, but it has no result.json. "
            "Choose the folder given to `artseg train --out`, or let the training end."
        )
    content = read_json(folder / "result.json")
    if "method" in content and not {"classifier", "unet"} <= content.keys():
        raise ArtSegError(
            f"Expected a run of scorecam-unet at {folder}, but it was trained by {content.get('method')}, of which no "
            "package is made. `artseg segment` and `artseg evaluate` take the run folder itself as the model."
        )
    try:
        result = RunResult.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtSegError(
            f"{folder / 'result.json'}: the field {where} is wrong: {first['msg']}. Train again."
        ) from error
    classifier = ResNet(**result.classifier.model_dump())
    unet = UNet(**result.unet.model_dump())
    load_weights(classifier, folder / "classifier")
    load_weights(unet, folder / "unet")
    sample = folder / "sample.tiff"
    if not sample.is_file():
        raise ArtSegError(
            f"Expected an image with an artifact at {sample}, for the package's test data and cover, but there is "
            "none. Copy one from the validation images there."
        )
    pixels = read_image(sample).pixels
    check_pixels(pixels, source=str(sample))
    side = 32 * max(result.unet.binning, result.classifier.binning)
    if min(pixels.shape) < side:
        raise ArtSegError(
            f"{sample} has {pixels.shape[0]} x {pixels.shape[1]} pixels; expected at least {side} along each side, "
            "because of the binning. Choose a larger image."
        )
    finished = datetime.fromtimestamp((folder / "result.json").stat().st_mtime, UTC)
    cost = _cost(folder / "cost.json")
    return TrainedRun(
        folder,
        result,
        classifier,
        unet,
        np.asarray(pixels),
        finished,
        learning=_learning(folder / "configuration.json"),
        settings=_settings(folder / "configuration.json"),
        hours=None if cost is None else cost.seconds / 3600,
        hardware=None if cost is None else cost.hardware,
    )


def _settings(path: Path) -> dict[str, Any]:
    """Read the settings, and which labels they were used on."""
    content: dict[str, Any] = read_json(path) if path.is_file() else {}
    left_out = ("artseg", "method", "device", "labels")
    settings = {name: value for name, value in content.items() if name not in left_out and value is not None}
    if "labels" in content:
        # not `source` and `sha256`, by which a package names its own files
        settings["labels"] = {"name": content["labels"]["source"], "fingerprint": content["labels"]["sha256"]}
    return settings


class _Cost(_Part):
    """The run's `cost.json`."""

    seconds: float
    hardware: str | None = None


def _cost(path: Path) -> _Cost | None:
    return _Cost.model_validate(read_json(path)) if path.is_file() else None


def _learning(path: Path) -> dict[str, Learning]:
    """Read how the networks learned, which a card tells but no reader needs: a run of another origin may lack it."""
    if not path.is_file():
        return {}
    try:
        configuration = _Configuration.model_validate(read_json(path))
    except ValidationError as error:
        logger.warning("%s does not tell how the networks learned (%s); the cards will not either.", path, error)
        return {}
    return {"classifier": configuration.classifier, "unet": configuration.unet}
