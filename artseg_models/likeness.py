"""How much a field of view looks like the images that a model was trained on.

An image is described by numbers that do not depend on exposure: how strong its structures are at five sizes, how
lopsided its grey values are, and how many of them are extreme, all of the image normalised to zero mean and unit
variance. Another magnification, focus, cell line or lamp moves them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]

from artseg_models.images import normalise

_gaussian: Any = cast("Any", ndimage).gaussian_filter  # its own types are incomplete

UNLIKE = 3.0
"""From this distance on a field is called unlike: the training images' own lies about 1."""

_SIZES = (1, 2, 4, 8, 16)
_WINDOW, _WINDOWS = 64, 8
"""Side in pixels of what is looked at, and how many of these along y and x: the whole image tells little more (fewer,
larger windows less), and takes as long as a small network."""
_NARROWEST = 0.05
"""Features of near-identical images are not taken for more exact than this."""


def image_features(pixels: NDArray[Any], *, valid: NDArray[np.bool_] | None = None) -> dict[str, float]:
    """Describe a field of view, a large one by 64 windows of 64 x 64 pixels spread over it.

    Parameters
    ----------
    pixels : ndarray of shape (y, x)
        As stored; any range.
    valid : bool array of shape (y, x), optional
        Pixels that count; at least one within the windows, see `windows`. All by default.

    Returns
    -------
    dict of str to float
        log10 of the contrast of structures of 1, 2, 4, 8 and 16 pixels; skewness; log10 of the share of pixels beyond
        three standard deviations.
    """
    image = normalise(windows(pixels), valid=None if valid is None else windows(valid))
    counted = np.ones(image.shape, dtype=np.bool_) if valid is None else windows(valid)
    found: dict[str, float] = {}
    finer, kept, step, blurred = image, counted, 1, 0
    for size in _SIZES:
        # variances of Gaussians add up; what is blurred already is seen in full at half the resolution
        sigma = math.sqrt(size**2 - blurred**2) / step
        coarser: NDArray[np.float32] = _gaussian(finer, (0, sigma, sigma))
        found[f"contrast_{size}_px"] = math.log10(max(float((finer - coarser)[kept].std()), 1e-6))
        finer, blurred = coarser, size
        if size >= 2 * step and kept[:, ::2, ::2].any():
            finer, kept, step = finer[:, ::2, ::2], kept[:, ::2, ::2], 2 * step
    values = image[counted]
    # numpy has a fast way for squares alone: a third power takes longer than all five sizes
    found["skewness"] = float(np.cbrt((values * values * values).mean()))
    found["extreme_share"] = math.log10(float((np.abs(values) > 3).mean()) + 1e-4)
    return found


def windows(array: NDArray[Any]) -> NDArray[Any]:
    """Cut squares of 64 pixels, eight along y and eight along x, evenly out of an array of shape (y, x).

    Returns
    -------
    ndarray of shape (window, y, x)
        The whole array as one window where it has no more pixels than these; fewer windows where eight would overlap.
        Same dtype.
    """
    if array.size <= (_WINDOW * _WINDOWS) ** 2:
        return array[None]
    side_y, side_x = (min(side, _WINDOW) for side in array.shape)
    rows, columns = _starts(array.shape[0], side_y), _starts(array.shape[1], side_x)
    return np.stack([array[y : y + side_y, x : x + side_x] for y in rows for x in columns])


def _starts(side: int, taken: int) -> list[int]:
    return [int(start) for start in np.linspace(0, side - taken, min(_WINDOWS, side // taken))]


def summarise_features(images: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Give mean and standard deviation of each feature over images."""
    if not images:
        return {}
    return {
        name: (
            float(np.mean([image[name] for image in images])),
            float(np.std([image[name] for image in images])),
        )
        for name in images[0]
    }


def distance(features: Mapping[str, float], reference: Mapping[str, tuple[float, float]]) -> float:
    """Give the root mean square of how many standard deviations the features are off the reference's means.

    Parameters
    ----------
    features : mapping
        Of `image_features`.
    reference : mapping
        Of `summarise_features`; features that only one side has are left out.

    Returns
    -------
    float
        About 1 for an image of the same kind; NaN where no feature is common.
    """
    off = [
        (features[name] - mean) / max(spread, _NARROWEST)
        for name, (mean, spread) in reference.items()
        if name in features
    ]
    return math.sqrt(float(np.mean(np.square(off)))) if off else math.nan


def unlikeness(
    pixels: NDArray[Any], reference: Mapping[str, tuple[float, float]], *, artifact: NDArray[np.bool_] | None = None
) -> float:
    """Give the distance of a field of view from a model's clean training images, outside of the artifacts found in it.

    Parameters
    ----------
    pixels : ndarray of shape (y, x)
        As stored; any range.
    reference : mapping
        Of `summarise_features`.
    artifact : bool array of shape (y, x), optional
        Pixels that do not count: artifacts, and what was masked in the input.

    Returns
    -------
    float
        See `distance`; NaN where nothing is left to look at in the windows, or nothing is known of the training images.
    """
    valid = None if artifact is None else ~artifact
    seen = windows(pixels) if valid is None else windows(pixels)[windows(valid)]
    if not reference or not seen.size or seen.min() == seen.max():
        return math.nan
    return distance(image_features(pixels, valid=valid), reference)
