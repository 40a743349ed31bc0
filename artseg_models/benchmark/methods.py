"""Speed and memory of two methods: Patch SVDD's dense pass against patch by patch, PaDiM's memory by its images."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from artseg_models.errors import ArtSegError
from artseg_models.files import write_text
from artseg_models.images import write_image
from artseg_models.memory import peak_mib
from artseg_models.methods import train
from artseg_models.methods.patch_svdd import STRIDES, embeddings
from artseg_models.networks.patch_svdd import SMALL, PatchEncoder
from artseg_models.networks.resnet import ResNet
from artseg_models.training.fields import Array

#: patches in one pass of the way patch by patch
_BATCH = 256
#: images that the scores are scaled by, half of them called artifact
_VALIDATION = 4


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
        patches = torch.from_numpy(np.ascontiguousarray(windows).reshape(-1, 1, size, size))
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
