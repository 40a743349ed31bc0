"""Cutoffs and smallest objects, chosen on validation images by pixel-wise IoU (section 2.3.3).

Each trained method has a cutoff of its own; the smallest object is one for a data set, the size at which the largest
number of methods is best. Both are chosen before a test image is scored, and kept from then on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label  # pyright: ignore[reportUnknownVariableType]

from artseg_models.metrics import FloatArray, count_levels, precision_recall
from artseg_models.study import paper

#: Sizes that are tried, in pixels of the full image: none, and those of Supplementary Tables 2 to 4.
SIZES = (0, *paper.SIZES)
_CUTOFFS = 24


@dataclass(frozen=True)
class Tried:
    """IoU on validation images, pooled over pixels, for every size and cutoff.

    Attributes
    ----------
    cutoffs : float array, (cutoffs,)
        Rising.
    iou : float array, (sizes, cutoffs)
        0..1; NaN where nothing is true and nothing found.
    """

    cutoffs: FloatArray
    iou: FloatArray

    def best(self, size: int) -> tuple[float, float]:
        """Cutoff with the highest IoU at one of `SIZES`, and that IoU; of several the middle one."""
        row = np.nan_to_num(self.iou[SIZES.index(size)])
        equal = np.flatnonzero(np.isclose(row, row.max()))
        at = int(equal[len(equal) // 2])
        return float(self.cutoffs[at]), float(row[at])


def smallest_in(size: int, area_of_pixel: float) -> int:
    """Turn pixels of the full image into such that each cover `area_of_pixel` of them, rounded up."""
    return math.ceil(size / area_of_pixel)


def try_all(
    maps: Sequence[NDArray[Any]],
    masks: Sequence[NDArray[np.bool_]],
    gate_open: NDArray[np.bool_],
    *,
    area_of_pixel: float,
    valid: NDArray[np.bool_] | None = None,
    cutoff: float | None = None,
) -> Tried:
    """Score every size at cutoffs spread over what the maps hold.

    Parameters
    ----------
    maps, masks : sequence of ndarray
        (y, x) for each image: 0..1, and True = artifact.
    gate_open : bool array, (images,)
        Images of which the classifier said artifact; the others have no objects.
    area_of_pixel : float
        Pixels of the full image in one of these.
    valid : bool array, (y, x), optional
        The scored area.
    cutoff : float, optional
        Try this one alone.

    Returns
    -------
    Tried
    """
    cutoffs = _spread(maps, masks, gate_open, valid) if cutoff is None else np.array([cutoff])
    found = np.zeros((len(SIZES), len(cutoffs)))
    called = np.zeros_like(found)
    positives = 0
    for map_, mask, passes in zip(maps, masks, gate_open, strict=True):
        area = np.ones(mask.shape, np.bool_) if valid is None else valid
        positives += int(np.count_nonzero(mask & area))
        if not passes:
            continue
        for at, value in enumerate(cutoffs):
            objects = np.asarray(label(map_ >= value, connectivity=2), dtype=np.int64)
            # sizes are those of whole objects, scores those of the scored area
            sizes = np.bincount(objects.ravel())[1:]
            scored = np.bincount(objects[area], minlength=sizes.size + 1)[1:]
            right = np.bincount(objects[mask & area], minlength=sizes.size + 1)[1:]
            for row, size in enumerate(SIZES):
                kept = sizes >= smallest_in(size, area_of_pixel)
                found[row, at] += right[kept].sum()
                called[row, at] += scored[kept].sum()
    union = called + positives - found
    return Tried(cutoffs, np.divide(found, union, out=np.full_like(found, np.nan), where=union > 0))


def common_size(tried: Mapping[str, Sequence[Tried]]) -> tuple[int, dict[str, int]]:
    """Choose one smallest object for all methods of a data set.

    Parameters
    ----------
    tried : mapping
        Method to what was tried with each of its seeds.

    Returns
    -------
    tuple
        The size at which most methods have their highest IoU (mean over seeds); of several, the one with the highest
        mean over methods. And the best size of each method.
    """
    means = {
        method: {size: float(np.mean([one.best(size)[1] for one in seeds])) for size in SIZES}
        for method, seeds in tried.items()
    }
    # a size that makes no difference is not a vote for the smallest: equal sizes all count
    votes: Counter[int] = Counter()
    for by_size in means.values():
        top = max(by_size.values())
        votes.update(size for size, iou in by_size.items() if np.isclose(iou, top, atol=1e-4))
    most = max(votes.values())
    leading = [size for size in SIZES if votes[size] == most]
    chosen = max(leading, key=lambda size: float(np.mean([by_size[size] for by_size in means.values()])))
    return chosen, {method: max(by_size, key=lambda size: by_size[size]) for method, by_size in means.items()}


def _spread(
    maps: Sequence[NDArray[Any]],
    masks: Sequence[NDArray[np.bool_]],
    gate_open: NDArray[np.bool_],
    valid: NDArray[np.bool_] | None,
) -> FloatArray:
    """Cutoffs from those that mark hardly a pixel to those that mark nearly all, and the best without a size."""
    levels = [
        count_levels(mask, map_ if passes else np.zeros_like(map_), valid=valid)
        for map_, mask, passes in zip(maps, masks, gate_open, strict=True)
    ]
    curve = precision_recall(sum(levels[1:], start=levels[0]))
    marked = np.arange(1, curve.cutoff.size + 1)
    total = sum(levels[1:], start=levels[0])
    counts = (total.artifact + total.clean)[::-1]
    share = np.cumsum(counts[counts > 0]) / counts.sum()
    wanted = np.geomspace(1e-4, 0.95, _CUTOFFS)
    places = np.clip(np.searchsorted(share, wanted), 0, marked.size - 1)
    best = int(np.argmax(np.nan_to_num(curve.iou)))
    return np.unique(np.append(curve.cutoff[places], curve.cutoff[best]))
