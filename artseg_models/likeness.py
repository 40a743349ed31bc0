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
_NARROWEST = 0.05
"""Features of near-identical images are not taken for more exact than this."""


def image_features(pixels: NDArray[Any], *, valid: NDArray[np.bool_] | None = None) -> dict[str, float]:
    """Describe a field of view.

    Parameters
    ----------
    pixels : ndarray of shape (y, x)
        As stored; any range.
    valid : bool array of shape (y, x), optional
        Pixels that count; at least one. All by default.

    Returns
    -------
    dict of str to float
        log10 of the contrast of structures of 1, 2, 4, 8 and 16 pixels; skewness; log10 of the share of pixels beyond
        three standard deviations.
    """
    image = normalise(pixels, valid=valid).astype(np.float32)
    counted = np.ones(image.shape, dtype=np.bool_) if valid is None else valid
    image = np.where(counted, image, np.float32(0))
    found: dict[str, float] = {}
    finer = image
    for size in _SIZES:
        coarser: NDArray[np.float32] = _gaussian(image, size)
        found[f"contrast_{size}_px"] = math.log10(max(float((finer - coarser)[counted].std()), 1e-6))
        finer = coarser
    found["skewness"] = float(np.cbrt((image[counted] ** 3).mean()))
    found["extreme_share"] = math.log10(float((np.abs(image[counted]) > 3).mean()) + 1e-4)
    return found


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
