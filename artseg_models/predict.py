"""From an image to a probability map and an artifact mask: device, gate, cutoff, smallest artifact."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import logging
import math
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label  # pyright: ignore[reportUnknownVariableType]

from artseg_models import __version__
from artseg_models.backends import Backend, OnnxBackend, load_state_dict, load_torchscript
from artseg_models.engines import ENVIRONMENT_VARIABLE, choose_engine, open_engine
from artseg_models.errors import ArtSegError
from artseg_models.files import sha256
from artseg_models.images import check_pixels
from artseg_models.packages.read import Package

logger = logging.getLogger(__name__)

Device = Literal["auto", "cuda", "mps", "cpu"]

#: Up to 8 million binned pixels, 2556 x 2156 included, are predicted whole.
WHOLE_PX = 8_000_000
TILE_PX = 1024
#: Sides tried in turn where the memory of the device does not suffice.
SMALLER_TILES_PX = (1024, 512, 256)
#: Nearly the U-Net's receptive field of about 300 pixels to each side.
HALO_PX = 256
#: added to a probability before its logarithm is taken
_SMALLEST = 1e-6
#: how far beyond 0 and 1 a probability may lie by rounding
_ROUNDING = 1e-3
#: Five poolings: the grid on which tiles agree with the whole image.
_POOLING = 32


class Model(Protocol):
    """What a model says of itself: a package does, and a run folder."""

    @property
    def id(self) -> str:
        """Its name among others."""
        ...

    @property
    def version(self) -> str:
        """Its version."""
        ...

    @property
    def sha256(self) -> str:
        """Of its content."""
        ...

    @property
    def cutoff(self) -> float:
        """Value of the map from which a pixel is artifact."""
        ...

    @property
    def smallest_artifact_px(self) -> int:
        """Artifacts with fewer pixels are dropped."""
        ...

    @property
    def gate_threshold(self) -> float | None:
        """Image probability from which the gate opens; None: no gate."""
        ...

    @property
    def pixel_size_um(self) -> float | None:
        """Side of a pixel of the training images."""
        ...


@dataclass(frozen=True)
class Audit:
    """Which model, with which settings, made an output."""

    model_id: str
    model_version: str
    model_sha256: str
    cutoff: float
    smallest_artifact_px: int
    gate_threshold: float | None
    device: str
    engine: str
    artseg_version: str

    def line(self) -> str:
        """Say it in one line, for a caption."""
        gate = "no gate" if self.gate_threshold is None else f"gate {self.gate_threshold:.3g}"
        return (
            f"model {self.model_id}, SHA-256 {self.model_sha256}, cutoff {self.cutoff:.3g}, smallest artifact "
            f"{self.smallest_artifact_px} px, {gate}, artseg {self.artseg_version}"
        )

    def fields(self) -> dict[str, str | float]:
        """Say it in names and values, for files and tables; the gate's threshold only where there was a gate."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes
    ----------
    probability : ndarray
        (y, x) float32, 0..1: the U-Net's probability of artifact, before gate and cutoff.
    labels : ndarray
        (y, x) int32: artifact objects 1..N, 0 elsewhere, after gate, cutoff and smallest artifact.
    image_probability : float or None
        The classifier's probability that the image holds an artifact, 0..1; None for a model without classifier.
    gate_open : bool
        False where the classifier called the image clean; there are no objects then.
    cutoff : float
        Probability from which on a pixel counts as artifact.
    smallest_artifact_px : int
        Objects with fewer pixels were dropped; the model's own value is scaled to the image's pixel size where both
        pixel sizes are known, so that it stays the same area.
    gate_threshold : float or None
        Image probability from which on the gate opens; None where no gate was used.
    valid : ndarray or None
        (y, x) bool, False where the input was masked: neither artifact nor clean. None: all pixels count.
    device : str
        Where the network ran.
    engine : str
        What computed it: "onnxruntime", "openvino", "openvino-bf16" or "torch".
    tiles : int
        In how many pieces the image was predicted; 1: whole.
    seconds : float
        Time taken, without reading the image.
    note : str or None
        What had to be done otherwise because memory did not suffice; None where nothing had.
    kinds : tuple of str
        Names of the kinds of artifact that the model tells apart; empty where it tells none.
    object_kinds : ndarray
        (count,) uint8: the kind of each object, as its place in `kinds` counted from 1; (0,) where the model tells
        none.
    image_kinds : mapping of str to float
        The classifier's probability, 0..1, that the image holds an artifact of each kind; empty where the model tells
        none.
    """

    probability: NDArray[np.float32]
    labels: NDArray[np.int32]
    image_probability: float | None
    gate_open: bool
    cutoff: float
    smallest_artifact_px: int
    gate_threshold: float | None
    valid: NDArray[np.bool_] | None
    device: str
    engine: str
    tiles: int
    seconds: float
    note: str | None = None
    kinds: tuple[str, ...] = ()
    object_kinds: NDArray[np.uint8] = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint8))
    image_kinds: Mapping[str, float] = dataclasses.field(default_factory=dict[str, float])

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(y, x) bool: True on artifacts."""
        return self.labels > 0

    @property
    def count(self) -> int:
        """Number of artifact objects."""
        return int(self.labels.max(initial=0))

    @property
    def kind_counts(self) -> dict[str, int]:
        """Number of artifact objects of each kind that the model tells apart, 0 where none was found."""
        return {
            kind: int(np.count_nonzero(self.object_kinds == number)) for number, kind in enumerate(self.kinds, start=1)
        }

    @property
    def kind_map(self) -> NDArray[np.uint8]:
        """(y, x) uint8: on artifacts the place of their kind in `kinds`, counted from 1; 0 elsewhere."""
        return np.concatenate([np.zeros(1, np.uint8), self.object_kinds])[self.labels]

    @property
    def usable_area_px(self) -> int:
        """Pixels that are neither artifact nor masked in the input."""
        valid = self.labels.size if self.valid is None else int(self.valid.sum())
        return valid - int(np.count_nonzero(self.labels))

    @property
    def area_fraction(self) -> float:
        """Share of the valid pixels that are artifact, 0..1."""
        artifact = int(np.count_nonzero(self.labels))
        total = artifact + self.usable_area_px
        return artifact / total if total else 0.0

    def audit(self, model: Model) -> Audit:
        """Say which model, with which settings, made this prediction."""
        return Audit(
            model_id=model.id,
            model_version=model.version,
            model_sha256=model.sha256,
            cutoff=self.cutoff,
            smallest_artifact_px=self.smallest_artifact_px,
            gate_threshold=self.gate_threshold,
            device=self.device,
            engine=self.engine,
            artseg_version=__version__,
        )


def artifact_objects(
    probability: NDArray[np.floating[Any]],
    *,
    cutoff: float,
    smallest_artifact_px: int = 0,
    valid: NDArray[np.bool_] | None = None,
) -> NDArray[np.int32]:
    """Find connected artifacts of a probability map (section 2.3.3).

    Parameters
    ----------
    probability : ndarray
        (y, x), 0..1.
    cutoff : float
        Pixels at or above it are artifact.
    smallest_artifact_px : int
        Objects with fewer pixels are dropped; pixels that touch at a corner belong together.
    valid : ndarray, optional
        (y, x) bool; pixels where it is False are never artifact.

    Returns
    -------
    ndarray
        (y, x) int32, objects 1..N without gaps, 0 elsewhere.
    """
    above = probability >= cutoff
    if valid is not None:
        above &= valid
    objects: NDArray[np.int32] = np.asarray(label(above, connectivity=2), dtype=np.int32)
    # of artifact pixels alone: counting takes a copy in 64 bits
    keep = np.bincount(objects[above], minlength=1) >= smallest_artifact_px
    keep[0] = False
    renumbered = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return renumbered[objects]


def kinds_of_objects(
    labels: NDArray[np.int32], kind_probability: NDArray[np.float32] | None, image_kinds: Sequence[float]
) -> NDArray[np.uint8]:
    """Give each object its likeliest kind.

    The logarithm of a kind's probability is averaged over the object, as networks learn it (by the mean logits of an
    artifact's pixels), and that of the kind in the whole image added: the classifier, which learned from every label,
    knows better than the U-Net which kinds an image holds.

    Parameters
    ----------
    labels : ndarray
        (y, x) int32: objects 1..N, 0 elsewhere.
    kind_probability : ndarray or None
        (kind, y, x) float32, 0..1; None where no kinds are told apart.
    image_kinds : sequence of float
        The classifier's probability of each kind, 0..1; empty for a model without classifier.

    Returns
    -------
    ndarray
        (N,) uint8: the kind of each object, counted from 1; (0,) where none are told apart.
    """
    if kind_probability is None:
        return np.zeros(0, np.uint8)
    inside = np.flatnonzero(labels)
    of = labels.ravel()[inside]
    sizes = np.bincount(of)[1:]
    sums = [np.bincount(of, weights=np.log(one.ravel()[inside] + _SMALLEST))[1:] for one in kind_probability]
    in_image = np.log(np.asarray(image_kinds or [1.0] * len(sums)) + _SMALLEST)
    return (np.argmax(np.stack(sums) / sizes + in_image[:, None], axis=0) + 1).astype(np.uint8)


@dataclass(frozen=True)
class ImageMap:
    """What a model gives for one image, before any cutoff.

    Attributes
    ----------
    probability : ndarray
        (y, x) float32, 0..1, the size of the image.
    image_probability : float or None
        Probability that the image holds an artifact; None for a model without classifier.
    kind_probability : ndarray or None
        (kind, y, x) float32, 0..1, for a model that tells kinds of artifact apart.
    image_kinds : sequence of float
        Probability that the image holds an artifact of each kind.
    tiles : int
        In how many pieces the image was predicted.
    device, engine : str or None
        Where and by what, if not as the predictor says.
    note : str or None
        What had to be done otherwise because memory did not suffice.
    """

    probability: NDArray[np.float32]
    image_probability: float | None
    kind_probability: NDArray[np.float32] | None = None
    image_kinds: Sequence[float] = ()
    tiles: int = 1
    device: str | None = None
    engine: str | None = None
    note: str | None = None


class ImagePredictor(ABC):
    """A model, loaded and ready: gate, cutoff and smallest artifact stand here once for all kinds of models.

    Parameters
    ----------
    device : {"auto", "cuda", "mps", "cpu"}
        Where networks run.

    Raises
    ------
    ArtSegError
        The device is not there.
    """

    #: what computes the networks
    engine: str = "torch"

    def __init__(self, device: str) -> None:
        self.device = resolve_device(device)

    @property
    @abstractmethod
    def model(self) -> Model:
        """Which model this is."""

    @property
    def target(self) -> str:
        """What the map shows: artifacts, unless a package says otherwise."""
        return "artifacts"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds of artifact that the model tells apart, in the order of its channels."""
        return ()

    @property
    def image_features(self) -> Mapping[str, tuple[float, float]]:
        """What the training images look like, see `artseg_models.likeness`; empty where that is not known."""
        return {}

    @abstractmethod
    def _map(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_] | None, source: str, *, cpu_allowed: bool
    ) -> ImageMap:
        """Normalise an image (y, x) that was checked, and run the model on it."""

    def predict(
        self,
        pixels: NDArray[Any],
        *,
        valid: NDArray[np.bool_] | None = None,
        cutoff: float | None = None,
        smallest_artifact_px: int | None = None,
        gate: bool = True,
        gate_threshold: float | None = None,
        pixel_size_um: float | None = None,
        cpu_allowed: bool = False,
        source: str = "image",
    ) -> Prediction:
        """Find the artifacts in one image.

        Where the memory of the device does not suffice, a package predicts the image in tiles, then in smaller ones,
        then on the CPU if that is allowed; `tiles`, `device` and `note` of the prediction say so. What was too large
        for one image is tried again for the next: its result must not depend on what came before.

        Parameters
        ----------
        pixels : ndarray
            (y, x), any integer or floating dtype and range; the model normalises it.
        valid : ndarray, optional
            (y, x) bool; pixels where it is False neither count in the normalisation nor become artifact.
        cutoff, smallest_artifact_px, gate_threshold : optional
            None: as the model says.
        gate : bool
            Whether the classifier may call the whole image clean; without effect for a model without classifier.
        pixel_size_um : float, optional
            Side of a pixel of this image. With it, and a model that knows its own, the model's smallest artifact keeps
            its area; a `smallest_artifact_px` that was given stays as it is.
        cpu_allowed : bool
            Whether the CPU may take an image that does not fit into the device's memory even in the smallest tiles.
        source : str
            Names the image in errors.

        Returns
        -------
        Prediction

        Raises
        ------
        ArtSegError
            The image cannot be used (not 2D, too small, NaN, constant), an option is out of range, or the memory does
            not suffice.
        """
        started = time.perf_counter()
        model = self.model
        cutoff = model.cutoff if cutoff is None else cutoff
        smallest = self._smallest(pixel_size_um) if smallest_artifact_px is None else smallest_artifact_px
        threshold = model.gate_threshold if gate_threshold is None else gate_threshold
        for name, value in (("cutoff", cutoff), ("gate threshold", threshold)):
            if value is not None and not 0 <= value <= 1:
                raise ArtSegError(f"Expected a {name} from 0 to 1, got {value}.")
        if smallest < 0:
            raise ArtSegError(f"Expected a smallest artifact of 0 pixels or more, got {smallest}.")
        _check(pixels, valid, source)
        found = self._map(pixels, valid, source, cpu_allowed=cpu_allowed)
        probability, image_probability = found.probability, found.image_probability
        gated = gate and image_probability is not None and threshold is not None
        gate_open = not gated or (image_probability or 0.0) >= (threshold or 0.0)
        labels = (
            artifact_objects(probability, cutoff=cutoff, smallest_artifact_px=smallest, valid=valid)
            if gate_open
            else np.zeros(probability.shape, np.int32)
        )
        return Prediction(
            probability=probability,
            labels=labels,
            image_probability=image_probability,
            gate_open=gate_open,
            cutoff=cutoff,
            smallest_artifact_px=smallest,
            gate_threshold=threshold if gated else None,
            valid=valid,
            device=found.device or self.device,
            engine=found.engine or self.engine,
            tiles=found.tiles,
            seconds=time.perf_counter() - started,
            note=found.note,
            kinds=self.kinds,
            object_kinds=kinds_of_objects(labels, found.kind_probability, found.image_kinds),
            image_kinds=dict(zip(self.kinds, found.image_kinds, strict=False)),  # a model may have no classifier
        )

    def _smallest(self, pixel_size_um: float | None) -> int:
        model = self.model
        if pixel_size_um is None or model.pixel_size_um is None:
            return model.smallest_artifact_px
        return round(model.smallest_artifact_px * (model.pixel_size_um / pixel_size_um) ** 2)


class Predictor(ImagePredictor):
    """A model package, loaded and ready.

    Parameters
    ----------
    package : Package
        From `artseg_models.packages.read.read_package`.
    device : {"auto", "cuda", "mps", "cpu"}
        Where the U-Net runs; "auto" takes a GPU where there is one. The classifier of the gate runs on the CPU.
    engine : {"auto", "onnxruntime", "openvino", "openvino-bf16", "torch"}, optional
        What computes the U-Net on the CPU. "auto" takes the fastest of those that are installed and exact enough, by a
        short measurement on first use (`artseg_models.engines.choose_engine`); a GPU always takes "torch". By default
        the environment variable ARTSEG_ENGINE or, without it, "auto".
    trust : bool
        Where the package has no other weights that run on the device, take its state dict, which runs its author's
        Python.
    whole_px : int
        Images with more pixels, counted after binning, are predicted in tiles, which bounds memory.
    tile_px : int
        Side of the part of a tile that is kept, in binned pixels.
    halo_px : int
        Margin around it that is predicted and thrown away, in binned pixels.

    Raises
    ------
    ArtSegError
        The device is not there, or the package has no weights that ArtSeg may run (ONNX, TorchScript, or a state dict
        that is trusted), or they are damaged.
    """

    def __init__(
        self,
        package: Package,
        *,
        device: str = "auto",
        engine: str | None = None,
        trust: bool = False,
        whole_px: int = WHOLE_PX,
        tile_px: int = TILE_PX,
        halo_px: int = HALO_PX,
    ) -> None:
        super().__init__(device)
        self.package = package
        self._whole_px = whole_px
        self._tile_px = tile_px
        # tiles must lie on the network's pooling grid, or they would see the image through another raster
        self._unit = math.lcm(_POOLING * package.binning, max(package.y.step, 1), max(package.x.step, 1))
        self._halo = _up(halo_px * package.binning, self._unit)
        self.weight_format, self.engine, self._segment = self._load(engine, trust=trust)
        self._classify = OnnxBackend(package.classifier) if package.classifier else None
        self._trust = trust
        self._on_cpu: Predictor | None = None

    @property
    def model(self) -> Model:
        """The package."""
        return self.package

    @property
    def kinds(self) -> tuple[str, ...]:
        """As the package states."""
        return self.package.kinds

    @property
    def image_features(self) -> Mapping[str, tuple[float, float]]:
        """As the package states."""
        return self.package.image_features

    @property
    def target(self) -> str:
        """As the package states."""
        return self.package.target

    def _load(self, engine: str | None, *, trust: bool) -> tuple[str, str, Backend]:
        """Give the weight format, the engine, and the network that runs."""
        package, weights = self.package, self.package.weights
        named = engine not in (None, "auto")
        if self.device == "cpu" and (named or "onnx" in weights):
            chosen = engine or os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
            if chosen == "auto":
                chosen = choose_engine(package)
            return "torchscript" if chosen == "torch" else "onnx", chosen, open_engine(chosen, package)
        if named and engine != "torch":
            raise ArtSegError(
                f"The engine {engine} computes on the processor, but the device is {self.device}. Choose the device "
                "cpu, or the engine auto."
            )
        if "torchscript" in weights:
            return "torchscript", "torch", load_torchscript(weights["torchscript"], self.device)
        if trust and package.architecture is not None:
            network = load_state_dict(package.architecture, weights["pytorch_state_dict"], self.device)
            return "pytorch_state_dict", "torch", network
        raise _not_runnable(package)

    def _map(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_] | None, source: str, *, cpu_allowed: bool
    ) -> ImageMap:
        image = self.package.preprocess(pixels, valid)
        found = self._probability(image, source, cpu_allowed)
        if self._classify is None:
            return found
        answers = self._classify(image[None, None])[0].tolist()
        return dataclasses.replace(found, image_probability=answers[1], image_kinds=answers[2:])

    def _probability(self, image: NDArray[np.float32], source: str, cpu_allowed: bool) -> ImageMap:
        """Run the network on a preprocessed image (y, x) in the largest pieces that fit into memory."""
        too_large: list[str] = []
        for tile_px in self._pieces(image):
            piece = "whole" if tile_px is None else f"in tiles of {tile_px} x {tile_px} binned pixels"
            try:
                if tile_px is None:
                    maps, count = self._whole(image, source), 1
                else:
                    maps, count = self._tiled(image, source, tile_px)
                return ImageMap(
                    probability=maps[0],
                    image_probability=None,
                    kind_probability=maps[1:] if self.kinds else None,
                    tiles=count,
                    device=self.device,
                    engine=self.engine,
                    note=_told(too_large, self.device, piece),
                )
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("%s: not enough memory on %s for the image %s", source, self.device, piece)
                too_large.append(piece)
            # outside of the handler: until then the error holds on to what was allocated
            self._segment.release()
            release_memory()
        if cpu_allowed and self.device != "cpu":
            if self._on_cpu is None:
                self._on_cpu = Predictor(
                    self.package, device="cpu", trust=self._trust, whole_px=self._whole_px, tile_px=self._tile_px
                )
            found = self._on_cpu._probability(image, source, cpu_allowed)
            return dataclasses.replace(found, note=_told(too_large, self.device, "on the CPU"))
        mend = (
            "Let the processor take such images, close other programs that use the graphics card"
            if self.device != "cpu"
            else "Close other programs, use a computer with more memory"
        )
        raise ArtSegError(
            f"The memory ({self.device}) does not suffice for {source} ({image.shape[0]} x {image.shape[1]} pixels), "
            f"tried {', '.join(too_large)}. {mend}, or bin the image."
        )

    def _pieces(self, image: NDArray[np.float32]) -> list[int | None]:
        """List the sides of tiles to try, None for the whole image."""
        if self.package.whole_images_only:
            return [None]
        binned = image.size / self.package.binning**2
        first: list[int | None] = [None] if binned <= self._whole_px else [self._tile_px]
        longest = max(image.shape) / self.package.binning
        bound = longest if first == [None] else self._tile_px
        return first + [side for side in SMALLER_TILES_PX if side < bound]

    def _tiled(self, image: NDArray[np.float32], source: str, tile_px: int) -> tuple[NDArray[np.float32], int]:
        """Predict in tiles that overlap by twice the halo; each keeps its middle.

        The image is first padded as the network would pad it whole, so that tiles cut at multiples of its pooling see
        the same pixels through the same raster.
        """
        rows, columns = (_grid(length, self.package.binning) for length in image.shape)
        padded = image[np.ix_(rows, columns)]
        top, left = int(np.argmax(rows == 0)), int(np.argmax(columns == 0))
        maps = np.zeros((1 + len(self.kinds), *padded.shape), np.float32)
        count = 0
        tile = _up(tile_px * self.package.binning, self._unit)
        for y in range(0, padded.shape[0], tile):
            for x in range(0, padded.shape[1], tile):
                around_y, kept_y = _window(y, tile, self._halo, padded.shape[0])
                around_x, kept_x = _window(x, tile, self._halo, padded.shape[1])
                found = self._whole(padded[around_y, around_x], source)
                maps[:, y : y + tile, x : x + tile] = found[:, kept_y, kept_x]
                count += 1
        return maps[:, top : top + image.shape[0], left : left + image.shape[1]], count

    def _whole(self, image: NDArray[np.float32], source: str) -> NDArray[np.float32]:
        """Predict (1 + kinds, y, x) in one piece, padded by reflection where the model asks for other sizes."""
        package = self.package
        wanted = package.fitting_shape((image.shape[0], image.shape[1]))
        missing = [size - there for size, there in zip(wanted, image.shape, strict=True)]
        if min(missing) < 0:
            raise ArtSegError(
                f"Expected an image of at most {package.y.minimum} x {package.x.minimum} pixels, the only size that "
                f"the model {package.id} takes, but {source} has {image.shape[0]} x {image.shape[1]}. Use a model "
                "without a fixed size."
            )
        padded = np.pad(image, [(0, pixels) for pixels in missing], mode="reflect")
        outputs = package.output_maps(self._segment(package.network_input(padded)))
        one_by_one = [package.postprocess(output)[: image.shape[0], : image.shape[1]] for output in outputs]
        maps = one_by_one[0][None] if len(one_by_one) == 1 else np.stack(one_by_one)
        lowest, highest = float(maps.min()), float(maps.max())
        if not (lowest >= -_ROUNDING and highest <= 1 + _ROUNDING):  # also where it is not a number
            raise ArtSegError(
                f"The model {package.id} gives values from {lowest:.3g} to {highest:.3g} for {source}; expected "
                "probabilities or a mask, from 0 to 1. Logits need a sigmoid in the package's postprocessing: ask its "
                "author, or use another package."
            )
        return maps


def _not_runnable(package: Package) -> ArtSegError:
    held = ", ".join(package.weights)
    if package.architecture is not None:
        file = package.architecture.file
        runs = package.architecture.library if file is None else f"{file.name} (SHA-256 {sha256(file)})"
        return ArtSegError(
            f"{package.path.name} has the weights {held}; expected ONNX (on the CPU) or TorchScript (on any device). "
            f"Its state dict runs its author's Python, {runs}, so it is used only if you say that you trust it: "
            "`artseg segment --trust`. Safer: ask the author for ONNX or TorchScript weights, or run on the CPU if it "
            "has ONNX."
        )
    return ArtSegError(
        f"Expected ONNX weights (CPU) or TorchScript weights (any device) in {package.path.name}, but it has {held}. "
        "Run on the CPU, or export the model in one of these formats."
    )


def _told(too_large: Sequence[str], device: str, instead: str) -> str | None:
    """Say what was done instead of what needed too much memory."""
    if not too_large:
        return None
    return f"not enough memory on {device} ({', '.join(too_large)}): predicted {instead}"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of NumPy, PyTorch (any device) or ONNX Runtime means that memory did not suffice."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # PyTorch on the CPU and on Apple's devices, cuBLAS and ONNX Runtime have no class of their own for it
    text = str(error).lower()
    said = ("out of memory", "not enough memory", "allocate memory", "bad_alloc", "bad allocation", "alloc_failed")
    return any(words in text for words in said)


def release_memory() -> None:
    """Give memory that nothing uses any more back to the system and to the GPU."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch is not None and torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _grid(length: int, binning: int) -> NDArray[np.intp]:
    """Index one axis as the network pads it: edge to whole bins, bins reflected to a multiple of the pooling."""
    bins = -(-length // binning)
    missing = -bins % _POOLING
    order = np.pad(np.arange(bins), (missing // 2, missing - missing // 2), mode="reflect")
    pixels = order[:, None] * binning + np.arange(binning)
    return np.minimum(pixels.ravel(), length - 1)


def _window(start: int, size: int, halo: int, length: int) -> tuple[slice, slice]:
    """Cut a tile with its halo out of one axis, and say where in that the kept part lies."""
    first, last = max(0, start - halo), min(length, start + size + halo)
    return slice(first, last), slice(start - first, min(length, start + size) - first)


def _check(pixels: NDArray[Any], valid: NDArray[np.bool_] | None, source: str) -> None:
    if valid is None:
        check_pixels(pixels, source=source)
        return
    if valid.shape != pixels.shape or not valid.any():
        raise ArtSegError(
            f"Expected a mask of valid pixels of the shape {pixels.shape} with at least one pixel in it for {source}, "
            f"got {valid.shape} with {int(valid.sum())}. Check the step that masks this image."
        )
    # what lies under the mask may be anything, even NaN
    check_pixels(np.where(valid, pixels, pixels[valid][0]), source=source)


def resolve_device(device: str) -> str:
    """Find the device that a choice stands for: "cuda", "mps" or "cpu".

    Raises
    ------
    ArtSegError
        No such device here; never falls back to another one.
    """
    if device not in get_args(Device):
        raise ArtSegError(f"Expected a device out of {', '.join(get_args(Device))}, got {device!r}.")
    if device == "cpu":
        return device
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((name for name, there in present.items() if there), "cpu")
    if not present[device]:
        raise ArtSegError(
            f"Expected a {device} device, but PyTorch {torch.__version__} finds none here. "
            "Choose the device auto or cpu, or install a PyTorch build for this GPU."
        )
    return device
