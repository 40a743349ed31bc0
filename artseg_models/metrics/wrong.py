"""What is wrong with a mask: each wrong pixel has one cause, by what lies around it in truth and prediction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label  # pyright: ignore[reportUnknownVariableType]
from skimage.morphology import isotropic_dilation  # pyright: ignore[reportUnknownVariableType]

from artseg_models.metrics.counts import BoolArray

#: Causes by name, in the order of their numbers in `wrong_pixels` (from 1), with what they mean.
CAUSES: Mapping[str, str] = {
    "clean_image": "found on a clean image",
    "nothing_there": "found on an artifact image where nothing is",
    "not_found": "artifact of which nothing was found",
    "too_wide": "edge drawn too far out",
    "too_narrow": "edge drawn too far in",
    "beyond": "found far beyond an artifact's edge",
    "gap": "part missed of an artifact that was found",
}
#: an edge is off by at most this share of the image's longest side; beyond it a part is wrong
_EDGE = 0.005


def wrong_pixels(truth: BoolArray, found: BoolArray, *, valid: BoolArray | None = None) -> NDArray[np.uint8]:
    """Give each wrong pixel its cause.

    Parameters
    ----------
    truth, found : bool array, (y, x)
        True and found artifacts; their objects are the connected ones, corners included.
    valid : bool array, (y, x), optional
        The scored area: objects are cut at its border, and nothing outside is wrong.

    Returns
    -------
    ndarray
        (y, x) uint8: 0 where the mask is right or not scored, else the place of the cause in `CAUSES`, from 1.
        "too_wide" and "too_narrow" lie within 0.5 % of the longest side, at least a pixel, of the other mask.
    """
    causes = np.zeros(truth.shape, np.uint8)
    number = {name: place for place, name in enumerate(CAUSES, start=1)}
    true, given = (mask if valid is None else mask & valid for mask in (truth, found))
    too_much, too_little = given & ~true, true & ~given
    if not truth.any():
        causes[too_much] = number["clean_image"]
        return causes
    edge = max(1.0, _EDGE * max(truth.shape))
    for wrong, mask, other, alone, near, far in (
        (too_much, given, true, "nothing_there", "too_wide", "beyond"),
        (too_little, true, given, "not_found", "too_narrow", "gap"),
    ):
        if not wrong.any():
            continue
        objects: NDArray[np.int32] = np.asarray(label(mask, connectivity=2), dtype=np.int32)
        touched = np.zeros(int(objects.max()) + 1, np.bool_)
        touched[np.unique(objects[other])] = True
        close: BoolArray = np.asarray(isotropic_dilation(other, edge), dtype=np.bool_)
        causes[wrong] = number[far]
        causes[wrong & close] = number[near]
        causes[wrong & ~touched[objects]] = number[alone]
    return causes
