"""Speed and memory of two methods: Patch SVDD's dense pass against patch by patch, PaDiM's memory by its images."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass

import numpy as np
import torch

from artseg_models.errors import ArtSegError
from artseg_models.memory import peak_mib
from artseg_models.methods.padim import StreamedMoments
from artseg_models.methods.patch_svdd import STRIDES, embeddings
from artseg_models.networks.patch_svdd import SMALL, PatchEncoder
from artseg_models.training.fields import Array

#: patches in one pass of the way patch by patch
_BATCH = 256


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
    """Measure the peak memory of a process of its own that takes PaDiM's moments of so many images, in MiB.

    Features are random numbers of the size of those of an image of `side` pixels, with a Gaussian for each position.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_take_moments, (images, side, channels))


def _take_moments(images: int, side: int, channels: int) -> float:
    positions = (side // 4) ** 2
    moments = StreamedMoments(positions, channels)
    generator = torch.Generator().manual_seed(0)
    for _ in range(images):
        moments.add(torch.randn(positions, 1, channels, generator=generator))
    moments.whitened(0.01)
    return peak_mib()
