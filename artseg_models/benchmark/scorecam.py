"""ScoreCAM's modes and engines beside other people's ScoreCAM: seconds, peak memory, likeness to the exact map."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from artseg_models.benchmark.peers import is_here, load
from artseg_models.errors import ArtSegError
from artseg_models.files import read_json
from artseg_models.labels import read_labels
from artseg_models.memory import peak_mib
from artseg_models.networks.resnet import LAYERS, ResNet
from artseg_models.packages.run import ClassifierShape
from artseg_models.passes import TorchPasses, open_passes
from artseg_models.progress import track
from artseg_models.scorecam import Mode, fitting_batch, scorecam
from artseg_models.training.evidence import pseudo_label
from artseg_models.training.fields import Split
from artseg_models.training.loop import load_weights

Array = NDArray[np.float32]

#: pseudo-labels are made at the paper's cutoff
_CUTOFF = 0.05
#: what the packages of other people are imported as
PEERS = {"grad-cam": "pytorch_grad_cam", "torchcam": "torchcam"}


@dataclass(frozen=True)
class Way:
    """One way to compute ScoreCAM.

    Attributes
    ----------
    name : str
        Shown in the table.
    mode : str
        Mode of ours, or the name of another program.
    engine : str
        What computes our forward passes.
    groups : int
        In mode "grouped".
    """

    name: str
    mode: str
    engine: str = "torch"
    groups: int = 32


WAYS = (
    Way("grad-cam", "grad-cam"),
    Way("torchcam", "torchcam"),
    Way("exact, torch", "exact"),
    Way("exact, openvino", "exact", "openvino"),
    Way("exact, openvino-bf16", "exact", "openvino-bf16"),
    Way("feature, openvino", "feature", "openvino"),
    Way("feature, openvino-bf16", "feature", "openvino-bf16"),
    Way("grouped 32, torch", "grouped", "torch"),
    Way("grouped 32, openvino", "grouped", "openvino"),
    Way("grouped 32, openvino-bf16", "grouped", "openvino-bf16"),
    Way("grouped 64, openvino", "grouped", "openvino", 64),
)


@dataclass(frozen=True)
class Measured:
    """What one way took.

    Attributes
    ----------
    way : Way
        Which.
    seconds : float
        For one image, the median over images; conversion of the network not counted.
    more_mib : float
        Peak memory of its process over that before the first map, conversion counted.
    maps : ndarray
        (images, y, x) float32, each scaled to 0..1.
    refused : str or None
        Why it could not run.
    """

    way: Way
    seconds: float
    more_mib: float
    maps: Array
    refused: str | None = None

    def correlation(self, exact: Measured) -> tuple[float, float]:
        """Mean and smallest Pearson correlation with the exact maps, over images; NaN for a map without contrast."""
        pairs = zip(self.maps, exact.maps, strict=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = [float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) for one, other in pairs]
        return float(np.mean(found)), float(np.min(found))

    def iou(self, exact: Measured) -> float:
        """Mean IoU of the pseudo-labels with those of the exact maps, at the paper's cutoff."""
        both = [
            (pseudo_label(one, _CUTOFF), pseudo_label(other, _CUTOFF))
            for one, other in zip(self.maps, exact.maps, strict=True)
        ]
        return float(np.mean([(one & other).sum() / max(1, (one | other).sum()) for one, other in both]))


@dataclass(frozen=True)
class Subject:
    """What ScoreCAM is measured on: a network's shape and weights, and images.

    Attributes
    ----------
    shape : ClassifierShape
        Of the classifier.
    weights : Path
        State of the network (.pt).
    images : ndarray
        (images, y, x) float32, binned and normalised.
    layer : int
        Whose maps are used.
    """

    shape: ClassifierShape
    weights: Path
    images: Array
    layer: int

    def network(self) -> ResNet:
        """Load the classifier, in evaluation mode."""
        network = ResNet(**self.shape.model_dump()).eval()
        network.load_state_dict(cast("dict[str, Tensor]", torch.load(self.weights, weights_only=True)))
        return network


def benchmark_scorecam(
    run: Path | None = None,
    labels: Path | None = None,
    *,
    images: int = 3,
    side: int = 128,
    layer: int = 4,
    threads: int | None = None,
    ways: Sequence[Way] = WAYS,
) -> list[Measured]:
    """Measure ways to compute ScoreCAM on the same network and images, each in a process of its own.

    Parameters
    ----------
    run : Path, optional
        Run folder of a training with a classifier; without it an untrained ResNet50 is measured, whose maps say nothing
        about likeness.
    labels : Path, optional
        Labels whose validation images with artifacts are used; needed with `run`. Without them: noise.
    images : int
        How many images.
    side : int
        Height and width of the part of the images that is used, in binned pixels.
    layer : {1, 2, 3, 4}
        Whose maps are used.
    threads : int, optional
        Of PyTorch; as many as it takes by itself by default.
    ways : sequence of Way
        What is measured; "exact, torch" must be among them.

    Raises
    ------
    ArtSegError
        The run has no classifier, or there are no labels for it.
    """
    with tempfile.TemporaryDirectory(prefix="artseg-benchmark-") as folder:
        subject = _subject(run, labels, Path(folder), images=images, side=side, layer=layer)
        # what begins in the middle of a classifier of four layers has nothing to begin with in a shorter one
        ways = [way for way in ways if way.mode != "feature" or subject.shape.layers == LAYERS]
        context = multiprocessing.get_context("spawn")
        found: list[Measured] = []
        for way in track(ways, "Measuring ScoreCAM", len(ways)):
            with context.Pool(1) as pool:
                found.append(pool.apply(_measure, (subject, way, threads)))
        return found


def _subject(run: Path | None, labels: Path | None, folder: Path, *, images: int, side: int, layer: int) -> Subject:
    weights = folder / "network.pt"
    if run is None:
        torch.manual_seed(0)
        shape = ClassifierShape(depth=50, width=64, binning=1)
        network = ResNet(**shape.model_dump())
        torch.save(network.state_dict(), weights)
        coarse = torch.randn(images, 1, side // 8, side // 8)
        noise = F.interpolate(coarse, size=(side, side), mode="bilinear") + 0.3 * torch.randn(images, 1, side, side)
        return Subject(shape, weights, noise[:, 0].numpy(), layer)
    if labels is None:
        raise ArtSegError("Expected labels whose images the run's classifier is measured on. Name a labels file, too.")
    shape = read_json(run / "result.json").get("classifier")
    if shape is None:
        raise ArtSegError(f"Expected the run of a method with a classifier, but {run} has none.")
    known = ClassifierShape.model_validate(shape)
    if layer > known.layers:
        raise ArtSegError(
            f"Expected a layer of the classifier of {run}, which has {known.layers}, got {layer}. "
            "Name one with --layer."
        )
    network = ResNet(**known.model_dump())
    load_weights(network, run / "classifier")
    torch.save(network.state_dict(), weights)
    items = [item for item in read_labels(labels).of_split("validation") if item.label == "artifact"][:images]
    if not items:
        raise ArtSegError(f"Expected artifact images of the split validation in {labels}, but there are none.")
    split = Split.read(items, folder / "images", binning=known.binning, plane=None)
    cut = [split.images[index][:side, :side] for index in range(len(split))]
    if len({one.shape for one in cut}) > 1:
        raise ArtSegError(f"Expected images of one size, at least {side} binned pixels a side. Choose a smaller side.")
    return Subject(known, weights, np.stack(cut), layer)


def _measure(subject: Subject, way: Way, threads: int | None) -> Measured:
    if threads is not None:
        torch.set_num_threads(threads)
    network = subject.network()
    given = [torch.from_numpy(image)[None, None] for image in subject.images]
    none = np.zeros_like(subject.images)
    if way.mode in PEERS and not is_here(PEERS[way.mode]):
        return Measured(way, float("nan"), float("nan"), none, refused="not installed")
    with torch.inference_mode():
        TorchPasses(network).whole(given[0])  # what any pass takes
    before = peak_mib()
    try:
        run = _runner(way, network, subject, given[0])
    except ArtSegError as error:
        return Measured(way, float("nan"), float("nan"), none, refused=str(error))
    maps: list[Array] = []
    seconds: list[float] = []
    for image in given:
        started = time.perf_counter()
        maps.append(run(image))
        seconds.append(time.perf_counter() - started)
    return Measured(way, float(np.median(seconds)), peak_mib() - before, np.stack(maps))


def _runner(way: Way, network: ResNet, subject: Subject, first: Tensor) -> Callable[[Tensor], Array]:
    """Make a function from an image (1, 1, y, x) to its map (y, x), 0..1."""
    if way.mode == "grad-cam":
        return _grad_cam(network, subject.layer)
    if way.mode == "torchcam":
        return _torchcam(network, subject)
    passes = open_passes(way.engine, network)
    size = (first.shape[-2], first.shape[-1])
    batch = fitting_batch(network, size, batch=16, memory_mib=2048)
    with torch.inference_mode():  # converts, which counts for memory and not for time
        if way.mode == "feature":
            passes.late(network.activations(first, 3).expand(batch, -1, -1, -1))
        else:
            passes.whole(first.expand(batch, -1, -1, -1))
    mode = cast("Mode", way.mode)

    def ours(image: Tensor) -> Array:
        found = scorecam(network, image, layer=subject.layer, mode=mode, groups=way.groups, passes=passes)
        return found.normalised

    return ours


class _Logits(nn.Module):
    """The classifier as other programs take it: an image in, a number for each class out."""

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.binned_logits(image)


def _grad_cam(network: ResNet, layer: int) -> Callable[[Tensor], Array]:
    peer: Any = load("pytorch_grad_cam").ScoreCAM
    model = _Logits(network)

    def artifact(output: Tensor) -> Tensor:
        return output[1]

    def run(image: Tensor) -> Array:
        # it draws a progress bar of its own for each image
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            with peer(model=model, target_layers=[getattr(network, f"layer{layer}")]) as cam:
                return np.asarray(cam(input_tensor=image, targets=[artifact])[0], np.float32)

    return run


def _torchcam(network: ResNet, subject: Subject) -> Callable[[Tensor], Array]:
    peer: Any = load("torchcam.methods").ScoreCAM
    model, layer = _Logits(network), getattr(network, f"layer{subject.layer}")

    def run(image: Tensor) -> Array:
        size = (image.shape[-2], image.shape[-1])
        with peer(model, layer, input_shape=(1, *size)) as cam, torch.no_grad():
            found: Tensor = cam(1, model(image))[0]
        resized = F.interpolate(found[None], size=size, mode="bilinear", align_corners=False)[0, 0]
        return np.asarray(resized.numpy(), np.float32)

    return run
