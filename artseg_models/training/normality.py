"""What no clean image shows: an artifact that a classifier overlooks, since another one in the image convinced it.

Every pixel is described by the structure around it at several sizes; one Gaussian describes those of clean images, as
PaDiM does with features of a network (Defard et al. 2021), here without any training. From which distance on a pixel
counts is chosen by image labels alone: what clean images show as often as artifact images is no artifact.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]

from artseg_models.files import write_json
from artseg_models.progress import track
from artseg_models.training.fields import Array, Split, binned, enlarged

_SIZES = (1, 2, 4, 8, 16)
"""Of structures, in pixels: standard deviations of Gaussians."""
_TEXTURED = 3
"""The finest so many sizes also tell how strong the texture is there."""
_STEP = 2
"""Pixels along y and x that share a description."""
_APART = 3
"""Of the distances of one image, every so many along y and x serve to choose the level."""
_IMAGES = 64
"""Images of each kind that the level is chosen by: more change it little."""
_LEVELS = 80
_COMMON = 0.2
"""Of the artifact images, at least this share must have something above the level."""


@dataclass(frozen=True)
class Normality:
    """How clean images look.

    Attributes
    ----------
    mean : ndarray
        (features,) float64.
    precision : ndarray
        (features, features) float64: inverse covariance.
    level : float or None
        Distance from which on a pixel counts as artifact; None: no distance tells artifact images from clean ones.
    """

    mean: NDArray[np.float64]
    precision: NDArray[np.float64]
    level: float | None = None

    def distance(self, image: Array) -> Array:
        """Give the Mahalanobis distance of each pixel, (y, x) float32, of an image (y, x) at working resolution."""
        features = describe(image)
        off = features.reshape(len(features), -1) - self.mean[:, None]
        squared = np.einsum("fn,fg,gn->n", off, self.precision, off).reshape(features.shape[1:])
        return enlarged(np.sqrt(np.maximum(squared, 0)).astype(np.float32), _STEP, (image.shape[0], image.shape[1]))


def describe(image: Array) -> Array:
    """Describe the surroundings of each pixel.

    Parameters
    ----------
    image : ndarray
        (y, x) float32, zero mean and unit variance.

    Returns
    -------
    ndarray
        (features, y / 2, x / 2) float32: contrast between neighbouring sizes, brightness at the largest, and strength
        of texture at the finest.
    """
    smooth = [_blurred(image, size) for size in _SIZES]
    contrasts = [finer - coarser for finer, coarser in itertools.pairwise(smooth)]
    textures = [
        np.sqrt(_blurred((image - coarse) ** 2, 2 * size))
        for coarse, size in zip(smooth[:_TEXTURED], _SIZES, strict=False)
    ]
    return np.stack([binned(feature, _STEP) for feature in (*contrasts, smooth[-1], *textures)])


def fit_normality(training: Split, file: Path, *, share: float, seed: int) -> Normality:
    """Learn how clean images look from half of those of a split, and choose the level by the others; no mask is read.

    Parameters
    ----------
    training : Split
        With clean and artifact images.
    file : Path
        Gets the level and what it was chosen by (JSON).
    share : float
        See `level_of`.
    seed : int
        Of the draw of images.
    """
    random = np.random.default_rng(seed)
    clean = random.permutation(np.flatnonzero(~training.artifact))
    artifact = random.permutation(np.flatnonzero(training.artifact))[:_IMAGES]
    # a single clean image serves for both
    known, held_out = clean[: (len(clean) + 1) // 2], clean[len(clean) // 2 :][:_IMAGES]
    count, total, products = 0, np.zeros(1), np.zeros((1, 1))
    for index in track(map(int, known), "Looking at clean images", len(known)):
        described = describe(training.images[index])
        flat = described.reshape(len(described), -1).astype(np.float64)
        count, total, products = count + flat.shape[1], total + flat.sum(1), products + flat @ flat.T
    mean = total / count
    covariance = products / count - np.outer(mean, mean)
    # features that hardly vary would outweigh all others
    covariance += 1e-3 * np.diag(np.diag(covariance)) + 1e-9 * np.eye(len(mean))
    normality = Normality(mean, np.asarray(np.linalg.inv(covariance), dtype=np.float64))

    def distances(indices: NDArray[np.int64]) -> list[Array]:
        return [normality.distance(training.images[int(index)])[::_APART, ::_APART] for index in indices]

    in_artifact, in_clean = distances(artifact), distances(held_out)
    level = level_of(in_artifact, in_clean, share)
    write_json(
        file,
        {
            "level": level,
            "share": share,
            "above_in_artifact_images": None if level is None else _above(in_artifact, level),
            "above_in_clean_images": None if level is None else _above(in_clean, level),
        },
    )
    return replace(normality, level=level)


def level_of(artifact: Sequence[Array], clean: Sequence[Array], share: float) -> float | None:
    """Choose from which distance on a pixel is artifact, by image labels alone.

    Parameters
    ----------
    artifact, clean : sequence of ndarray
        Distances (y, x) of images of either label.
    share : float
        The level is the lowest at which so much of what lies above it in artifact images, 0..1, exceeds what lies above
        it in clean images, as a share of the area.

    Returns
    -------
    float or None
        None where no level does.
    """
    pooled = np.concatenate([map_.ravel() for map_ in (*artifact, *clean)])
    levels = np.quantile(pooled, 1 - np.geomspace(1e-4, 0.5, _LEVELS))
    # a few odd images would tell artifact images from clean ones by chance
    levels = [level for level in levels if np.mean([map_.max() >= level for map_ in artifact]) >= _COMMON]
    enough = [level for level in levels if 1 - _above(clean, level) / max(_above(artifact, level), 1e-12) >= share]
    return float(min(enough)) if enough else None


def _above(maps: Sequence[Array], level: float) -> float:
    """Say which share of the area of maps (y, x) lies at or above a level."""
    return sum(int((map_ >= level).sum()) for map_ in maps) / max(1, sum(map_.size for map_ in maps))


def _blurred(image: Array, size: float) -> Array:
    blurred = np.empty_like(image)
    ndimage.gaussian_filter(image, size, output=blurred)
    return blurred
