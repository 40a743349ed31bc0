"""Pseudo-labels drawn to the edges of artifacts, from evidence that only points at them; no mask is read."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]

from artseg_models.training.configuration import RefinementSettings, SelfTrainingSettings
from artseg_models.training.fields import Array, blurred
from artseg_models.transplant import connected_parts

Mask = NDArray[np.bool_]

#: neither artifact nor clean: not learned from
UNSURE = -1
#: pixels around what the evidence reaches that tell the level of the surroundings and their noise
_RING = 6
#: pixels beyond what the evidence reaches in which the artifact may still lie: a map's cells are coarse
_BEYOND = 5
#: blur before levels are compared: a pixel's noise is no edge
_BLUR = 0.7
#: of a seed's pixels, those that depart most tell the artifact's strength: the seed of a thin one is mostly background
_STRENGTH = 0.9
#: departures below so many standard deviations of the surroundings are none, but the strongest always count
_NOISE, _ALWAYS = 3.0, 0.8
#: what an artifact encloses belongs to it where the image's border closes it, along so much of what the artifact closes
_OPEN = 0.5
#: gaps of so many pixels between parts are part of the artifact, as those between the cells of a clump
_GAP = 3


def drawn_to_edges(image: Array, evidence: Array, settings: RefinementSettings) -> Mask:
    """Grow or shrink each connected area of a map to where the image departs from its surroundings.

    Dark and bright parts count alike. Each area is measured by itself, so that a strong artifact does not hide a
    faint one; narrow gaps and holes are closed, those that open only to the image's border too.

    Parameters
    ----------
    image : ndarray
        (y, x) float32 at working resolution.
    evidence : ndarray
        (y, x) float32, 0..1.
    settings : RefinementSettings
        How far the evidence reaches, what of it is seed, and from which departure on a pixel belongs to the artifact.

    Returns
    -------
    ndarray
        (y, x) bool; where the evidence reaches everywhere, the seeds themselves.
    """
    found = np.zeros(image.shape, np.bool_)
    reached = evidence >= settings.reach
    if not reached.any():
        return found
    smooth = blurred(image, _BLUR)
    areas = connected_parts(reached)
    boxes = cast("list[tuple[slice, slice]]", ndimage.find_objects(areas))
    for number, box in enumerate(boxes, start=1):
        # no more than a part of the image is looked at, however many areas there are
        part = tuple(slice(max(0, one.start - _BEYOND - _RING), one.stop + _BEYOND + _RING) for one in box)
        area = areas[part] == number
        largest = float(evidence[part][area].max())
        if largest < settings.peak:
            continue
        seed = area & (evidence[part] >= settings.seed * largest)
        wide = grown(area, _BEYOND)
        around = grown(wide, _RING) & ~wide & ~reached[part]
        if not around.any():
            found[part] |= seed
            continue
        level = np.median(smooth[part][around])
        departure = np.abs(smooth[part] - level)
        # a normal distribution's standard deviation, from its median departure
        noise = 1.4826 * float(np.median(departure[around]))
        strength = float(np.quantile(departure[seed], _STRENGTH))
        least = max(settings.contrast * strength, min(_NOISE * noise, _ALWAYS * strength))
        found[part] |= _touching(wide & (departure >= least), seed)
    return _without_gaps(found)


def with_unsure_edges(mask: Mask, pixels: int) -> NDArray[np.int8]:
    """Make a pixel label (y, x) of a mask: 1 artifact, 0 clean, -1 within `pixels` of its edge."""
    labels = mask.astype(np.int8)
    if pixels and mask.any():
        # the image's own border is no edge of the artifact
        shrunk = ~grown(~mask, pixels)
        labels[grown(mask, pixels) & ~shrunk] = UNSURE
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


def grown(mask: Mask, pixels: int) -> Mask:
    """Widen a mask (y, x) by so many pixels along y and x."""
    return np.asarray(ndimage.binary_dilation(mask, iterations=pixels), dtype=np.bool_)


def _without_gaps(mask: Mask) -> Mask:
    """Close gaps of a few pixels, then holes, those of artifacts that the image's border cuts among them."""
    y, x = np.ogrid[-_GAP : _GAP + 1, -_GAP : _GAP + 1]
    disc = y**2 + x**2 <= _GAP**2 + 1
    padded = np.pad(mask, _GAP, mode="edge")
    closed = np.asarray(ndimage.binary_closing(padded, disc), dtype=np.bool_)[_GAP:-_GAP, _GAP:-_GAP]
    return _filled_to_border(np.asarray(ndimage.binary_fill_holes(closed), dtype=np.bool_))


def _filled_to_border(mask: Mask) -> Mask:
    """Fill what a mask encloses but for a part along the image's border, as the rim of a bubble does there."""
    regions, count = cast("tuple[NDArray[np.int32], int]", ndimage.label(~mask))
    border = np.zeros(mask.shape, np.bool_)
    border[[0, -1]] = border[:, [0, -1]] = True
    along = np.bincount(regions[border], minlength=count + 1)
    enclosed = np.bincount(regions[grown(mask, 1) & ~mask], minlength=count + 1)
    filled = along <= _OPEN * enclosed
    filled[0] = False
    return mask | filled[regions]


def _touching(mask: Mask, seed: Mask) -> Mask:
    """Keep the connected parts of a mask that hold a pixel of the seed."""
    parts = connected_parts(mask)
    kept = np.unique(parts[seed & mask])
    return np.isin(parts, kept[kept > 0])
