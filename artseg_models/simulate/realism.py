"""How far simulated brightfield is from real: grey values, power spectrum, and a picture of both."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

from artseg_models.report.drawing import BLUE, MUTED, ORANGE, show, stretch
from artseg_models.simulate.datasets import PIXEL_SIZE_UM
from artseg_models.simulate.fields import simulate_field
from artseg_models.simulate.shapes import Floats, broad_blur

_BACKGROUND_UM = 24.0
"""Blur that makes the uneven light which both images are divided by."""
_BANDS = 24


@dataclass(frozen=True)
class Realism:
    """A real and a simulated image side by side; both divided by their own uneven light.

    Attributes
    ----------
    real, simulated : ndarray of float of shape (y, x)
        Contrast: light over background, less 1.
    histogram_distance : float
        Wasserstein distance of the grey values, as a share of the real image's standard deviation.
    contrast_ratio : float
        Standard deviation of the simulated over that of the real one.
    frequencies : ndarray of float
        Middle of each band, cycles per pixel.
    real_power, simulated_power : ndarray of float
        Power in each band, in decibels of the image's own variance.
    spectrum_distance : float
        Mean absolute difference of the two in decibels.
    """

    real: Floats
    simulated: Floats
    histogram_distance: float
    contrast_ratio: float
    frequencies: Floats
    real_power: Floats
    simulated_power: Floats
    spectrum_distance: float


def compare_with_real(
    pixels: NDArray[Any], *, pixel_size_um: float, artifact: bool = True, cells: float | None = None, seed: int = 0
) -> Realism:
    """Simulate an image of the same size and compare.

    Parameters
    ----------
    pixels : ndarray of shape (y, x)
        Real brightfield image.
    pixel_size_um : float
        Side of its pixels in micrometres; sets how large cells are drawn.
    artifact : bool
        Whether artifacts are simulated too.
    cells : float, optional
        Cells per 512 x 512 pixels of 0.6 um; drawn if None.
    seed : int
        The same seed gives the same result.
    """
    shape = (pixels.shape[0], pixels.shape[1])
    zoom = PIXEL_SIZE_UM / pixel_size_um
    field = simulate_field(seed=seed, shape=shape, artifact=artifact, zoom=zoom, cell_density=cells)
    blur = max(3.0, _BACKGROUND_UM / pixel_size_um)
    real, simulated = (_contrast(image, blur) for image in (pixels, field.brightfield))
    frequencies, real_power = _spectrum(real)
    _, simulated_power = _spectrum(simulated)
    return Realism(
        real=real,
        simulated=simulated,
        histogram_distance=float(stats.wasserstein_distance(real.ravel()[::7], simulated.ravel()[::7]))
        / float(real.std()),
        contrast_ratio=float(simulated.std() / real.std()),
        frequencies=frequencies,
        real_power=real_power,
        simulated_power=simulated_power,
        spectrum_distance=float(np.mean(np.abs(real_power - simulated_power))),
    )


def realism_figure(found: Realism, *, name: str) -> Figure:
    """Draw both pictures, both histograms and both power spectra."""
    figure = Figure(figsize=(12, 10), layout="constrained")
    (left, right), (below, beside) = figure.subplots(2, 2)
    show(left, stretch(found.real), f"real: {name}")
    show(right, stretch(found.simulated), "simulated")
    reach = 4 * float(found.real.std())
    edges = np.linspace(-reach, reach, 121)
    for image, label, color, line in (
        (found.real, "real", BLUE, "-"),
        (found.simulated, "simulated", ORANGE, "--"),
    ):
        counts, _ = np.histogram(image, edges, density=True)
        below.plot((edges[1:] + edges[:-1]) / 2, counts + 1e-6, color=color, linestyle=line, label=label)
    below.set_yscale("log")
    below.set_xlabel("light over background, less 1", color=MUTED)
    below.set_title(
        f"grey values: {found.histogram_distance:.2f} real SD apart, contrast x {found.contrast_ratio:.2f}",
        loc="left",
        fontsize=10,
    )
    beside.plot(found.frequencies, found.real_power, color=BLUE, label="real")
    beside.plot(found.frequencies, found.simulated_power, color=ORANGE, linestyle="--", label="simulated")
    beside.set_xscale("log")
    beside.set_xlabel("cycles per pixel", color=MUTED)
    beside.set_ylabel("power, dB of the variance", color=MUTED)
    beside.set_title(f"power spectrum: {found.spectrum_distance:.1f} dB apart on average", loc="left", fontsize=10)
    for axes in (below, beside):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _contrast(pixels: NDArray[Any], blur: float) -> Floats:
    values = pixels.astype(np.float32)
    return values / np.maximum(broad_blur(values, blur), 1e-6) - 1


def _spectrum(contrast: Floats) -> tuple[Floats, Floats]:
    window = np.hanning(contrast.shape[0])[:, None] * np.hanning(contrast.shape[1])[None, :]
    power = np.abs(np.fft.fft2((contrast - contrast.mean()) * window)) ** 2
    rows, columns = (np.fft.fftfreq(length) for length in contrast.shape)
    radius = np.hypot(rows[:, None], columns[None, :])
    edges = cast("Floats", np.geomspace(max(4 / min(contrast.shape), 0.005), 0.5, _BANDS + 1))
    band = np.digitize(radius.ravel(), edges)
    sums = np.bincount(band, weights=power.ravel(), minlength=_BANDS + 2)[1:-1]
    counts = np.bincount(band, minlength=_BANDS + 2)[1:-1]
    mean = sums / np.maximum(counts, 1) / float(power.mean())
    filled = counts > 0
    return np.sqrt(edges[1:] * edges[:-1])[filled], (10 / math.log(10)) * np.log(np.maximum(mean[filled], 1e-12))
