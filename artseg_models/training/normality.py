"""What no clean image shows: an artifact that a classifier overlooks, since another one in the image convinced it.

Two things are looked at. Every pixel is described by the structure around it at several sizes; one Gaussian describes
those of clean images, as PaDiM does with features of a network (Defard et al. 2021), here without any training. And
every pixel's brightness is held against the smooth background of its own image: what lies far out of focus has no
structure, and evidence that only points into it does not reach its rim. From which value on a pixel counts is chosen
by image labels alone: what clean images show as often as artifact images is no artifact.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artseg_models.files import write_json
from artseg_models.fill import fit_undisturbed_background
from artseg_models.progress import track
from artseg_models.training.configuration import RefinementSettings
from artseg_models.training.fields import Array, Split, binned, blurred, enlarged
from artseg_models.training.refinement import drawn_to_edges
from artseg_models.transplant import connected_parts

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
_BRIGHTNESS = 2.0
"""Blur, in pixels, before brightness is held against the background: a pixel's noise is none."""
_COARSE = 4
"""Pixels along y and x that become one for the fit of the background."""
_RIM, _SURE = 0.99, 0.999
"""Shares of clean images' pixels below the departure at an artifact's rim, and below any level."""


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
    brightness_level : float or None
        Departure from the background from which on a pixel counts as artifact; None as above.
    brightness_rim : float
        Departure down to which an artifact goes on around such a pixel.
    """

    mean: NDArray[np.float64]
    precision: NDArray[np.float64]
    level: float | None = None
    brightness_level: float | None = None
    brightness_rim: float = 0.0

    def distance(self, image: Array) -> Array:
        """Give the Mahalanobis distance of each pixel, (y, x) float32, of an image (y, x) at working resolution."""
        features = describe(image)
        off = features.reshape(len(features), -1) - self.mean[:, None]
        squared = np.einsum("fn,fg,gn->n", off, self.precision, off).reshape(features.shape[1:])
        return enlarged(np.sqrt(np.maximum(squared, 0)).astype(np.float32), _STEP, (image.shape[0], image.shape[1]))

    def artifacts(self, image: Array, settings: RefinementSettings) -> NDArray[np.bool_]:
        """Mark what no clean image shows, to its edges, (y, x) bool, in an image (y, x) at working resolution."""
        found = np.zeros(image.shape, np.bool_)
        if self.level is not None:
            found |= drawn_to_edges(image, (self.distance(image) >= self.level).astype(np.float32), settings)
        if self.brightness_level is not None:
            departure = off_background(image)
            parts = connected_parts(departure >= self.brightness_rim)
            largest = np.zeros(int(parts.max()) + 1)
            np.maximum.at(largest, parts.ravel(), departure.ravel())
            largest[0] = 0
            # a strong one's rim is not where the faintest ones' is: that would be its blur
            found |= (largest >= self.brightness_level)[parts] & (departure >= settings.contrast * largest[parts])
        return found


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
    smooth = [blurred(image, size) for size in _SIZES]
    contrasts = [finer - coarser for finer, coarser in itertools.pairwise(smooth)]
    textures = [
        np.sqrt(blurred((image - coarse) ** 2, 2 * size))
        for coarse, size in zip(smooth[:_TEXTURED], _SIZES, strict=False)
    ]
    return np.stack([binned(feature, _STEP) for feature in (*contrasts, smooth[-1], *textures)])


def off_background(image: Array) -> Array:
    """Give how far each pixel's brightness is off the smooth background of its image.

    Parameters
    ----------
    image : ndarray
        (y, x) float32, zero mean and unit variance.

    Returns
    -------
    ndarray
        (y, x) float32, at least 0, in standard deviations of the image.
    """
    shape = image.shape[0], image.shape[1]
    coarse = _COARSE if min(shape) >= 8 * _COARSE else 1
    background = fit_undisturbed_background(binned(image, coarse)).astype(np.float32)
    return np.abs(blurred(image, _BRIGHTNESS) - enlarged(background, coarse, shape))


def fit_normality(training: Split, file: Path, *, share: float, seed: int) -> Normality:
    """Learn how clean images look from half of those of a split, and choose levels by the others; no mask is read.

    Parameters
    ----------
    training : Split
        With clean and artifact images.
    file : Path
        Gets the levels and what they were chosen by (JSON).
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

    def maps(indices: NDArray[np.int64], measure: Callable[[Array], Array]) -> list[Array]:
        return [measure(training.images[int(index)])[::_APART, ::_APART] for index in indices]

    measures = {"structure": normality.distance, "brightness": off_background}
    found = {name: (maps(artifact, measure), maps(held_out, measure)) for name, measure in measures.items()}
    off = {name: np.concatenate([map_.ravel() for map_ in of_clean]) for name, (_, of_clean) in found.items()}
    rim = float(np.quantile(off["brightness"], _RIM))
    levels = {
        # where artifacts are large, or change how all of an image looks, much of what clean images show passes
        name: None if level is None else max(level, float(np.quantile(off[name], _SURE)))
        for name, level in ((name, level_of(*both, share)) for name, both in found.items())
    }
    write_json(
        file,
        {
            "share": share,
            "brightness_rim": rim,
            **{
                name: {
                    "level": level,
                    "above_in_artifact_images": None if level is None else _above(found[name][0], level),
                    "above_in_clean_images": None if level is None else _above(found[name][1], level),
                }
                for name, level in levels.items()
            },
        },
    )
    return replace(normality, level=levels["structure"], brightness_level=levels["brightness"], brightness_rim=rim)


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
