"""Pseudo-labels drawn to the edges of artifacts, from evidence that only points at them; no mask is read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]

from artseg_models.training.configuration import RefinementSettings, SelfTrainingSettings
from artseg_models.training.fields import Array
from artseg_models.transplant import connected_parts

Mask = NDArray[np.bool_]

#: neither artifact nor clean: not learned from
UNSURE = -1
#: pixels around what the evidence reaches that tell the level of the surroundings
_RING = 6
#: blur before levels are compared: a pixel's noise is no edge
_BLUR = 0.7
#: a seed whose pixels lie to this share on one side of the surroundings is dark, or bright; else both count
_ONE_SIDED = 0.75


def half_contrast(image: Array, evidence: Array, settings: RefinementSettings) -> Mask:
    """Grow each seed of a map to where the image is half-way between the artifact and its surroundings.

    The half-way level is where an object's blurred edge lies, wherever the focus is; it is also the usual measure of
    width, full width at half maximum. An artifact that is dark in parts and bright in others is measured by how far it
    departs from its surroundings.

    Parameters
    ----------
    image : ndarray
        (y, x) float32 at working resolution.
    evidence : ndarray
        (y, x) float32, 0..1.
    settings : RefinementSettings
        What counts as seed, and how far the evidence reaches.

    Returns
    -------
    ndarray
        (y, x) bool; without a seed, or where the evidence reaches everywhere, the seeds themselves.
    """
    seeds, reached = evidence >= settings.seed, evidence >= settings.reach
    if not seeds.any():
        return seeds
    smooth = np.empty_like(image)
    ndimage.gaussian_filter(image, _BLUR, output=smooth)
    found = np.zeros(image.shape, np.bool_)
    areas = connected_parts(reached)
    for number in np.unique(areas[seeds]):
        area = areas == number
        seed = seeds & area
        around = _grown(area, _RING) & ~reached
        if not around.any():
            found |= seed
            continue
        departure = smooth - np.median(smooth[around])
        dark = float((departure[seed] < 0).mean())
        if dark >= _ONE_SIDED:
            departure = -departure
        elif dark > 1 - _ONE_SIDED:
            departure = np.abs(departure)
        inside = area & (departure >= np.median(departure[seed]) / 2)
        found |= _touching(inside, seed)
    return found


def with_unsure_edges(mask: Mask, pixels: int) -> NDArray[np.int8]:
    """Make a pixel label (y, x) of a mask: 1 artifact, 0 clean, -1 within `pixels` of its edge."""
    labels = mask.astype(np.int8)
    if pixels and mask.any():
        # the image's own border is no edge of the artifact
        shrunk = ~_grown(~mask, pixels)
        labels[_grown(mask, pixels) & ~shrunk] = UNSURE
    return labels


def learned_label(probability: Array, before: NDArray[np.int8], settings: SelfTrainingSettings) -> NDArray[np.int8]:
    """Take what a U-Net found on an artifact image as its label, where it touches what the label before marked.

    Parameters
    ----------
    probability : ndarray
        (y, x) float32, 0..1.
    before : ndarray
        (y, x) int8: the label that it learned from.
    settings : SelfTrainingSettings
        Which pixels are unsure.

    Returns
    -------
    ndarray
        (y, x) int8: 1, 0, or -1 where the U-Net is unsure. Where it found nothing that was marked before, or
        is sure of less than half of what it found, the label before stands.
    """
    kept = _touching(probability >= 0.5, before > 0)
    if not kept.any():
        return before
    label = kept.astype(np.int8)
    # what it found elsewhere may be an artifact that the evidence missed, or none: nobody knows
    label[(np.abs(probability - 0.5) < settings.unsure) | ((probability >= 0.5) & ~kept)] = UNSURE
    # a U-Net that is nowhere sure would teach that there is nothing
    return label if np.count_nonzero(label > 0) >= np.count_nonzero(kept) / 2 else before


def _grown(mask: Mask, pixels: int) -> Mask:
    return np.asarray(ndimage.binary_dilation(mask, iterations=pixels), dtype=np.bool_)


def _touching(mask: Mask, seed: Mask) -> Mask:
    """Keep the connected parts of a mask that hold a pixel of the seed."""
    parts = connected_parts(mask)
    kept = np.unique(parts[seed & mask])
    return np.isin(parts, kept[kept > 0])
