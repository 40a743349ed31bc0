"""Speed and memory of two methods: Patch SVDD's dense pass against patch by patch, PaDiM by its images and a peer."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artseg_models.benchmark.peers import is_here, load
from artseg_models.errors import ArtSegError
from artseg_models.files import write_text
from artseg_models.images import write_image
from artseg_models.memory import peak_mib
from artseg_models.methods import train
from artseg_models.methods.padim import StreamedMoments
from artseg_models.methods.patch_svdd import STRIDES, embeddings
from artseg_models.networks.padim import PaDiM
from artseg_models.networks.patch_svdd import SMALL, PatchEncoder
from artseg_models.networks.resnet import ResNet
from artseg_models.training.backbones import empty_backbone
from artseg_models.training.fields import Array

#: patches in one pass of the way patch by patch
_BATCH = 256
#: images that the scores are scaled by, half of them called artifact
_VALIDATION = 4
#: images that PaDiM takes at once, and predicts one by one
_AT_ONCE, _PREDICTED = 8, 5


@dataclass(frozen=True)
class DensePass:
    """How long the patches of one image take to embed.

    Attributes
    ----------
    dense_seconds, patchwise_seconds : float
        Medians of all patches in one pass, and of the same patches one by one, in batches.
    largest_difference : float
        Between the embeddings of both ways.
    """

    dense_seconds: float
    patchwise_seconds: float
    largest_difference: float

    @property
    def faster(self) -> float:
        """How many times as fast the dense pass is."""
        return self.patchwise_seconds / self.dense_seconds


def measure_dense_pass(*, side: int = 256, repeats: int = 3) -> DensePass:
    """Embed a square image of `side` pixels, a multiple of 16, in both ways, with the encoder of the paper's size."""
    if side < 64 or side % 16:
        raise ArtSegError(f"Expected a side that is a multiple of 16 and at least 64, got {side}.")
    torch.manual_seed(0)
    encoder = PatchEncoder().eval()
    image = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    seconds: dict[str, list[float]] = {"dense": [], "patchwise": []}
    dense, one_by_one = embeddings(encoder, image, "cpu"), _patchwise(encoder, image)
    # in turns, so that what else runs on the computer hits both
    for _ in range(repeats):
        started = time.perf_counter()
        embeddings(encoder, image, "cpu")
        between = time.perf_counter()
        _patchwise(encoder, image)
        seconds["dense"].append(between - started)
        seconds["patchwise"].append(time.perf_counter() - between)
    difference = max(float(np.abs(dense[size] - one_by_one[size]).max()) for size in dense)
    return DensePass(float(np.median(seconds["dense"])), float(np.median(seconds["patchwise"])), difference)


@torch.inference_mode()
def _patchwise(encoder: PatchEncoder, image: Array) -> dict[int, Array]:
    """Cut every patch out of an image and embed it by itself."""
    found: dict[int, Array] = {}
    for size, step in STRIDES.items():
        windows = np.lib.stride_tricks.sliding_window_view(image, (size, size))[::step, ::step]
        rows, columns = windows.shape[:2]
        embed = encoder.embed_small if size == SMALL else encoder.embed_large
        patches = torch.from_numpy(np.array(windows).reshape(-1, 1, size, size))
        vectors = torch.cat([embed(patches[start : start + _BATCH]) for start in range(0, len(patches), _BATCH)])
        found[size] = vectors.numpy().reshape(rows, columns, -1)
    return found


def padim_peak_mib(images: int, *, side: int = 256, channels: int = 100) -> float:
    """Measure the peak memory of a process of its own that fits PaDiM to so many clean images, in MiB.

    It is the whole of `artseg train --method padim`: images of `side` x `side` pixels are read and normalised, their
    features taken by a ResNet18 (of random weights, which need as much memory as trained ones), a Gaussian fitted for
    each position, and scores scaled on validation images.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="artseg-padim-") as folder, context.Pool(1) as pool:
        return pool.apply(_fit_padim, (Path(folder), images, side, channels))


def _fit_padim(folder: Path, images: int, side: int, channels: int) -> float:
    random = np.random.default_rng(0)
    rows = ["image,label,split"]
    # labels without an artifact image in the training split are refused
    wanted = [*[("clean", "train")] * images, ("artifact", "train")]
    wanted += [(label, "validation") for label in ("clean", "artifact") for _ in range(_VALIDATION // 2)]
    for number, (label, split) in enumerate(wanted):
        name = f"{number:05d}.tiff"
        write_image(folder / name, random.integers(1000, 5000, (side, side), dtype=np.uint16))
        rows.append(f"{name},{label},{split}")
    write_text(folder / "labels.csv", "\n".join(rows) + "\n")
    torch.save(ResNet(18).state_dict(), folder / "weights.pt")
    train(
        folder / "labels.csv",
        folder / "run",
        method="padim",
        preset="paper",
        overrides={"weights": str(folder / "weights.pt"), "channels": channels, "device": "cpu"},
    )
    return peak_mib()


@dataclass(frozen=True)
class PadimCost:
    """What PaDiM takes in one program, in a process of its own.

    Attributes
    ----------
    program : str
        "artseg" or "anomalib".
    images : int
        Clean images that it was fitted to.
    fit_seconds, predict_seconds : float
        Features and Gaussians of all of them; the map of one image, the fastest of five.
    peak_mib : float
        The largest resident memory of the process.
    """

    program: str
    images: int
    fit_seconds: float
    predict_seconds: float
    peak_mib: float


def padim_programs() -> list[str]:
    """List the programs whose PaDiM can be measured here: artseg, and anomalib where it is installed."""
    return ["artseg", *(["anomalib"] if is_here("anomalib") else [])]


def measure_padim(program: str, images: int, *, side: int = 256, channels: int = 100) -> PadimCost:
    """Fit and predict by the PaDiM of artseg or of anomalib: the same tensors in, a Gaussian for each position.

    Both take `channels` channels of a ResNet18 of random weights (which take as long as trained ones) from noise of
    `side` x `side` pixels; `tests/methods/test_peers.py` shows that both give the same map.

    Raises
    ------
    ArtSegError
        The program is not installed.
    """
    if program not in padim_programs():
        raise ArtSegError(f"Expected one of {', '.join(padim_programs())}, got {program}. Install it: `make peers`.")
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure_padim, (program, images, side, channels))


@torch.no_grad()
def _measure_padim(program: str, images: int, side: int, channels: int) -> PadimCost:
    torch.manual_seed(0)
    model = _Anomalib(channels) if program == "anomalib" else _Own(channels, side)
    started = time.perf_counter()
    for first in range(0, images, _AT_ONCE):
        model.add(torch.randn(min(_AT_ONCE, images - first), 1, side, side))
    model.fit()
    fitted = time.perf_counter() - started
    predicted: list[float] = []
    for _ in range(_PREDICTED):
        image = torch.randn(1, 1, side, side)
        started = time.perf_counter()
        model.predict(image)
        predicted.append(time.perf_counter() - started)
    return PadimCost(program, images, fitted, min(predicted), peak_mib())


class _Own:
    """Our PaDiM, fitted as `artseg_models.methods.padim` does."""

    def __init__(self, channels: int, side: int) -> None:
        positions = side // 4
        self._network = PaDiM(
            empty_backbone("resnet18"), torch.arange(channels), grid=(positions, positions), sigma=4.0
        ).eval()
        self._moments = StreamedMoments(positions**2, channels)

    def add(self, images: torch.Tensor) -> None:
        self._moments.add(self._network.embed(images).flatten(2).permute(2, 0, 1))

    def fit(self) -> None:
        gaussians = self._network.gaussians
        gaussians.mean, gaussians.whitening = self._moments.whitened(0.01)

    def predict(self, image: torch.Tensor) -> None:
        self._network.scores(image)


class _Anomalib:
    """anomalib's PaDiM, without its trainer, which would take memory of its own."""

    def __init__(self, channels: int) -> None:
        padim: Any = load("anomalib.models.image.padim.torch_model").PadimModel
        self._model: Any = padim(backbone="resnet18", pre_trained=False, n_features=channels)
        self._model.train()
        self._model.feature_extractor.eval()

    def add(self, images: torch.Tensor) -> None:
        self._model(images.expand(-1, 3, -1, -1))

    def fit(self) -> None:
        self._model.fit()
        self._model.eval()

    def predict(self, image: torch.Tensor) -> None:
        self._model(image.expand(-1, 3, -1, -1))
