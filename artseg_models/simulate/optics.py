"""How a scene becomes camera counts: defocused transmitted light, blurred fluorescence, illumination, noise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import fft  # pyright: ignore[reportMissingTypeStubs]

from artseg_models.simulate.shapes import Floats, gaussian, smooth_field

_fft2 = cast("Callable[..., NDArray[np.complex64]]", fft.fft2)  # pyright: ignore[reportUnknownMemberType]
_ifft2 = cast("Callable[..., NDArray[np.complex64]]", fft.ifft2)  # pyright: ignore[reportUnknownMemberType]
fast_length = cast("Callable[[int], int]", fft.next_fast_len)  # pyright: ignore[reportUnknownMemberType]

CAMERA_TOP = 65535
_APERTURE = 0.36
"""Finest structure that the objective passes, in cycles per pixel."""
_SOURCE = 0.05
"""Blur of the light source's own size: pixels per unit of defocus."""


@functools.lru_cache(maxsize=8)
def _squared_frequency(shape: tuple[int, int]) -> Floats:
    rows = np.fft.fftfreq(shape[0])[:, None]
    columns = np.fft.fftfreq(shape[1])[None, :]
    return (rows**2 + columns**2).astype(np.float32)


def transmitted(phase: Floats, absorption: Floats | None, *, defocus: float, zoom: float = 1.0) -> Floats:
    """Intensity of transmitted light behind a thin layer, seen out of focus.

    Fresnel propagation of the wave ``exp(i phase - absorption)``, cut by the objective's aperture; the extended lamp
    of a brightfield microscope blurs the more, the farther from focus.

    Parameters
    ----------
    phase : ndarray of float of shape (y, x)
        Optical path in radians.
    absorption : ndarray of float of shape (y, x) or None
        Natural logarithm of the amplitude lost.
    defocus : float
        Wavelength times distance from focus, in squared pixels of zoom 1; a cell in focus has about 0, 3 shows it
        well.
    zoom : float
        Pixels per pixel of zoom 1 (0.6 um wide): the same scene sampled finer or coarser.

    Returns
    -------
    ndarray of float of shape (y, x)
        1 where nothing is.
    """
    squared = _squared_frequency((phase.shape[0], phase.shape[1]))
    wave = np.exp(1j * phase) if absorption is None else np.exp(1j * phase - absorption)
    squared = squared * np.float32(zoom**2)
    lens = np.exp(-1j * np.float32(np.pi * defocus) * squared - (squared / np.float32(_APERTURE**2)) ** 2)
    seen = _ifft2(_fft2(wave.astype(np.complex64)) * lens.astype(np.complex64))
    intensity = (seen.real**2 + seen.imag**2).astype(np.float32)
    blur = _SOURCE * abs(defocus) * zoom
    return gaussian(intensity, blur, mode="nearest") if blur > 0.3 else intensity


@dataclass(frozen=True)
class Look:
    """What the fields of one well have in common: lamp, focus, stain and camera.

    Attributes
    ----------
    brightness : float
        Mean grey of the brightfield image in counts.
    defocus : float
        Of the cells, in squared pixels of zoom 1; either sign.
    unevenness : float
        How far the brightfield illumination strays from flat, as a share.
    photons_per_count : float
        The more, the less noise, in brightfield.
    dna_gain, signal_gain : float
        Counts of a typical nucleus, of a typical cell's middle.
    dna_background, signal_background : float
        Counts where no cell is.
    dna_photons, signal_photons : float
        Photons per count in fluorescence.
    blur : float
        Standard deviation of the fluorescence channels' blur, in pixels of zoom 1.
    illumination_seed : int
        Draws the pattern of the illumination.
    """

    brightness: float
    defocus: float
    unevenness: float
    photons_per_count: float
    dna_gain: float
    signal_gain: float
    dna_background: float
    signal_background: float
    dna_photons: float
    signal_photons: float
    blur: float
    illumination_seed: int


def draw_look(random: np.random.Generator) -> Look:
    """Draw one well's lamp, focus, stain and camera."""
    return Look(
        brightness=random.uniform(9000, 24000),
        defocus=random.uniform(1.6, 4.0) * random.choice([-1.0, 1.0]),
        unevenness=random.uniform(0.008, 0.045),
        photons_per_count=random.uniform(1.5, 4.0),
        dna_gain=random.uniform(5000, 14000),
        signal_gain=random.uniform(4000, 9000),
        dna_background=random.uniform(250, 800),
        signal_background=random.uniform(250, 900),
        dna_photons=random.uniform(0.05, 0.2),
        signal_photons=random.uniform(0.05, 0.2),
        blur=random.uniform(0.9, 1.5),
        illumination_seed=int(random.integers(2**31)),
    )


def illumination(shape: tuple[int, int], *, seed: int, strength: float) -> Floats:
    """Uneven light: a tilted plane, a darker rim and slow waves; mean 1."""
    random = np.random.default_rng(seed)
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    tilt = random.uniform(0, 2 * np.pi)
    centre = random.normal(0, 0.25, 2)
    rim = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    uneven = np.sin(tilt) * y + np.cos(tilt) * x - random.uniform(0.2, 1.0) * rim
    uneven = uneven + 0.35 * smooth_field(random, shape, max(shape) / 3)
    uneven = uneven / max(float(uneven.std()), 1e-6)
    light = 1 + strength * (uneven - uneven.mean())
    return np.maximum(light, 0.2).astype(np.float32)


def photograph(
    random: np.random.Generator, counts: Floats, *, photons_per_count: float, read_noise: float
) -> NDArray[np.uint16]:
    """Turn expected counts into a 16-bit image with shot and read noise.

    Parameters
    ----------
    random : numpy.random.Generator
        Source of chance.
    counts : ndarray of float of shape (y, x)
        Expected counts.
    photons_per_count : float
        Light behind one count; sets the shot noise.
    read_noise : float
        Standard deviation of the camera's own noise in counts.
    """
    shot = np.sqrt(np.maximum(counts, 0) / np.float32(photons_per_count) + np.float32(read_noise) ** 2)
    noisy = counts + shot * random.standard_normal(counts.shape, dtype=np.float32)
    return np.clip(np.rint(noisy), 0, CAMERA_TOP).astype(np.uint16)
