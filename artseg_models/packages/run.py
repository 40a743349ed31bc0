"""What a training run left for export: two networks, their settings and figures, one image."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from artseg_models.errors import ArtSegError
from artseg_models.files import read_json
from artseg_models.images import check_pixels, read_image
from artseg_models.run_folder import result_of

if TYPE_CHECKING:
    from torch import nn

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
    kinds: int = 0
    layers: int = 4
    positions: int = 0


class UNetShape(_Part):
    """Arguments of `networks.unet.UNet`."""

    width: int
    levels: int
    binning: int
    kinds: int = 0


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
    #: of artifacts, in the order of the networks' further outputs
    kinds: tuple[str, ...] = ()
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
    """A finished run of ScoreCAM-U-Net.

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

    @property
    def map_network(self) -> nn.Module:
        """What gives the map."""
        return self.unet

    @property
    def binning(self) -> int:
        """Of the map's network."""
        return self.result.unet.binning

    @property
    def drawn_masks(self) -> int:
        """How many drawn masks the U-Net learned from, beside image-level labels; 0 if the run folder does not tell."""
        return int(self.settings.get("masks", 0))

    @property
    def minimum_side(self) -> int:
        """Pixels that an image has at least along each side, for both networks."""
        return 32 * max(self.result.unet.binning, self.result.classifier.binning)


class MapResult(_Part):
    """`result.json` of a method that has one network and no gate."""

    name: str
    method: str
    cutoff: float = Field(ge=0.0, le=1.0)
    smallest_artifact_px: int = Field(ge=0)
    gate_threshold: None = None
    pixel_size_um: float | None = Field(default=None, gt=0.0)
    #: as of `RunResult`
    kinds: tuple[str, ...] = ()
    training: Training
    scorecam: Mapping[str, Any] = Field(default_factory=dict)
    validation: Mapping[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class TrainedMap:
    """A finished run of a method that has one network and no gate.

    Attributes
    ----------
    map_network : Module
        Takes normalised images (batch, 1, y, x) and gives maps of their size, 0..1; in evaluation mode, on the CPU.
    networks : mapping
        What `result.json` says of it, by its name: what a card tells.
    architecture : tuple of Path
        Python files that define it and need nothing but torch; empty where there are none.
    arguments : mapping
        What it was built with.
    binning, minimum_side : int
        Pixels of the image in one of the network's along a side, and that an image has at least along each side.
    folder, result, sample, finished, learning, settings, hours, hardware
        As for `TrainedRun`.
    """

    folder: Path
    result: MapResult
    map_network: nn.Module
    networks: Mapping[str, Any]
    architecture: tuple[Path, ...]
    arguments: Mapping[str, Any]
    binning: int
    minimum_side: int
    sample: NDArray[Any]
    finished: datetime
    learning: Mapping[str, Learning]
    settings: Mapping[str, Any]
    hours: float | None
    hardware: str | None

    @property
    def classifier(self) -> None:
        """There is none."""
        return None


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

    result = _result(folder, RunResult)
    classifier = ResNet(**result.classifier.model_dump())
    unet = UNet(**result.unet.model_dump())
    load_weights(classifier, folder / "classifier")
    load_weights(unet, folder / "unet")
    pixels = _sample(folder, 32 * max(result.unet.binning, result.classifier.binning))
    finished = datetime.fromtimestamp((folder / "result.json").stat().st_mtime, UTC)
    cost = _cost(folder / "cost.json")
    return TrainedRun(
        folder,
        result,
        classifier,
        unet,
        pixels,
        finished,
        learning=_learning(folder / "configuration.json"),
        settings=settings_of(folder / "configuration.json"),
        hours=None if cost is None else cost.seconds / 3600,
        hardware=None if cost is None else cost.hardware,
    )


def method_of(folder: Path) -> str:
    """Say which method a finished run is of.

    Raises
    ------
    ArtSegError
        The run is unfinished.
    """
    content = result_of(folder)
    # runs of other origin name it in their own words; what they hold tells
    return "scorecam-unet" if {"classifier", "unet"} <= content.keys() else str(content.get("method", "scorecam-unet"))


def read_map_run(folder: Path) -> TrainedMap:
    """Read what `artseg train` left of a method that has one network and no gate: unet, autoencoder or padim.

    Raises
    ------
    ArtSegError
        The run is unfinished, something is missing or damaged, weights do not fit their network, or the network takes
        images of one size alone.
    """
    method = method_of(folder)
    result = _result(folder, MapResult)
    content, frozen = read_json(folder / "result.json"), read_json(folder / "configuration.json")
    network, architecture, arguments, smallest = _MAPS[method](folder, content, frozen)
    binning = int(frozen["resolved_binning"])
    cost = _cost(folder / "cost.json")
    learning = {"unet": frozen.get("unet"), "autoencoder": frozen}.get(method)
    return TrainedMap(
        folder,
        result,
        network.eval(),
        {method: content[method]},
        architecture,
        arguments,
        binning,
        smallest * binning,
        _sample(folder, smallest * binning),
        datetime.fromtimestamp((folder / "result.json").stat().st_mtime, UTC),
        learning={} if learning is None else {method: Learning.model_validate(learning)},
        settings=settings_of(folder / "configuration.json"),
        hours=None if cost is None else cost.seconds / 3600,
        hardware=None if cost is None else cost.hardware,
    )


_Found = tuple["nn.Module", tuple[Path, ...], Mapping[str, Any], int]


def _unet_map(folder: Path, result: Mapping[str, Any], frozen: Mapping[str, Any]) -> _Found:
    from artseg_models.networks import unet
    from artseg_models.training.loop import load_weights

    arguments = UNetShape.model_validate(result["unet"]).model_dump()
    network = unet.UNet(**arguments)
    load_weights(network, folder / "unet")
    return network, (Path(unet.__file__),), arguments, 32


def _autoencoder_map(folder: Path, result: Mapping[str, Any], frozen: Mapping[str, Any]) -> _Found:
    from artseg_models.networks import autoencoder, scores
    from artseg_models.training.loop import load_weights

    shape = result["autoencoder"]
    arguments = {
        **shape,
        # patches of objects lie side by side
        "step": frozen["step"] if frozen["kind"] == "textures" else shape["patch"],
        "scale": frozen["scale"],
    }
    network = autoencoder.DissimilarityMap(**arguments)
    load_weights(network.autoencoder, folder / "autoencoder")
    load_weights(network.scale, folder / "scale")
    return network, (Path(scores.__file__), Path(autoencoder.__file__)), arguments, int(shape["patch"])


def _padim_map(folder: Path, result: Mapping[str, Any], frozen: Mapping[str, Any]) -> _Found:
    import torch

    from artseg_models.networks.padim import PaDiM
    from artseg_models.training.backbones import empty_backbone
    from artseg_models.training.loop import load_weights

    shape = result["padim"]
    network = PaDiM(
        empty_backbone(shape["backbone"]),
        torch.zeros(shape["channels"], dtype=torch.long),
        sigma=shape["sigma"],
        scale=shape["scale"],
        binning=shape["binning"],
    )
    load_weights(network, folder / "padim")
    # its backbone may be another library's, so no file defines it with torch alone
    return network, (), {}, 32


_MAPS: Mapping[str, Callable[[Path, Mapping[str, Any], Mapping[str, Any]], _Found]] = {
    "unet": _unet_map,
    "autoencoder": _autoencoder_map,
    "padim": _padim_map,
}
#: Methods with one network and no gate, of which a package is made.
MAP_METHODS = tuple(_MAPS)

_Result = TypeVar("_Result", bound=_Part)


def _result(folder: Path, kind: type[_Result]) -> _Result:
    method_of(folder)  # it tells of an unfinished run
    try:
        return kind.model_validate(read_json(folder / "result.json"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtSegError(
            f"{folder / 'result.json'}: the field {where} is wrong: {first['msg']}. Train again."
        ) from error


def _sample(folder: Path, side: int) -> NDArray[Any]:
    """Read the image for test data and cover."""
    sample = folder / "sample.tiff"
    if not sample.is_file():
        raise ArtSegError(
            f"Expected an image with an artifact at {sample}, for the package's test data and cover, but there is "
            "none. Copy one from the validation images there."
        )
    pixels = read_image(sample).pixels
    check_pixels(pixels, source=str(sample))
    if min(pixels.shape) < side:
        raise ArtSegError(
            f"{sample} has {pixels.shape[0]} x {pixels.shape[1]} pixels; expected at least {side} along each side, "
            "because of the binning. Choose a larger image."
        )
    return np.asarray(pixels)


def settings_of(path: Path) -> dict[str, Any]:
    """Read the settings of a run's `configuration.json`, and which labels they were used on; empty without the file."""
    content: dict[str, Any] = read_json(path) if path.is_file() else {}
    left_out = ("artseg", "method", "device", "labels")
    settings = {name: value for name, value in content.items() if name not in left_out and value is not None}
    if isinstance(content.get("labels"), dict):
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
