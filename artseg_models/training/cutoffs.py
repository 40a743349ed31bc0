"""Cutoff and smallest artifact, chosen on validation images: by their labels alone or by their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artseg_models.metrics import count_agreement, pool
from artseg_models.predict import artifact_objects

#: Cutoffs of the probability that are tried.
CUTOFFS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: Sizes of Supplementary Tables 2 to 4, in pixels of the full image, and none.
SMALLEST = (0, 20, 50, 100, 500, 1000, 2000)

Mask = NDArray[np.bool_]
Map = NDArray[np.float32]


@dataclass(frozen=True)
class Cutoffs:
    """What turns probabilities into artifacts.

    Attributes
    ----------
    cutoff : float
        Probability from which on a pixel is artifact.
    smallest_artifact_px : int
        Objects with fewer pixels of the full image are dropped.
    """

    cutoff: float
    smallest_artifact_px: int


def pooled_iou(truth: Sequence[Mask], predicted: Sequence[Mask]) -> float:
    """Score masks (y, x) by intersection over union of all their pixels; 0 where nothing is true and nothing found."""
    return float(np.nan_to_num(pool(map(count_agreement, truth, predicted)).iou))


def choose_by_labels(
    probabilities: Sequence[Map],
    *,
    pseudo_labels: Sequence[Mask],
    artifact: Mask,
    gate_open: Mask,
    area_of_pixel: int,
    cutoff: float | None = None,
    smallest_artifact_px: int | None = None,
    trials: Sequence[tuple[Map, bool]] = (),
    unmarked: float = 1.0,
) -> Cutoffs:
    """Choose without any mask.

    The cutoff is the one at which what is found in the images that the classifier lets pass agrees best with the
    pseudo-labels; the smallest artifact is the smallest size at which "an object survives" agrees best with the image
    labels; with trials the smallest that these and the images do not tell from the best, as in `best_gate_threshold`.

    Parameters
    ----------
    probabilities, pseudo_labels : sequence of ndarray
        (y, x) for each validation image, at working resolution.
    artifact, gate_open : ndarray
        (images,) bool: the labels, and what the classifier lets pass.
    area_of_pixel : int
        Pixels of the full image in one of the working resolution.
    cutoff, smallest_artifact_px : optional
        Given ones are kept.
    trials : sequence of (ndarray, bool)
        Maps (y, x) of images that were made from these and that the classifier lets pass, and whether an artifact is in
        them. They decide only where the images themselves do not, as in `best_gate_threshold`.
    unmarked : float
        How much pixels count, 0..1, that are found in artifact images where no pseudo-label marks any.

    Returns
    -------
    Cutoffs
    """
    if cutoff is None:
        weights = np.where(artifact, unmarked, 1.0)
        marked = sum(map(np.count_nonzero, pseudo_labels))

        def agreement(value: float) -> float:
            # what is found in an image that the classifier does not let pass is dropped
            found = [(map_ >= value) & passes for map_, passes in zip(probabilities, gate_open, strict=True)]
            counts = [count_agreement(truth, one) for truth, one in zip(pseudo_labels, found, strict=True)]
            beyond = float(np.dot(weights, [one.false_positive for one in counts]))
            return sum(one.true_positive for one in counts) / max(marked + beyond, 1)

        cutoff = max(CUTOFFS, key=agreement)
    if smallest_artifact_px is None:
        sizes = np.array(SMALLEST)
        least = np.maximum(sizes, 1)[:, np.newaxis]
        found = gate_open & (_largest_objects(probabilities, cutoff) * area_of_pixel >= least)
        found_made = _largest_objects([map_ for map_, _ in trials], cutoff) * area_of_pixel >= least
        truth_of_made = np.array([is_artifact for _, is_artifact in trials], np.bool_)
        smallest_artifact_px = int(sizes[not_told_apart(found, artifact, found_made, truth_of_made)].min())
    return Cutoffs(float(cutoff), int(smallest_artifact_px))


def choose_by_masks(
    probabilities: Sequence[Map],
    *,
    masks: Sequence[Mask],
    gate_open: Mask,
    area_of_pixel: int,
    cutoff: float | None = None,
    smallest_artifact_px: int | None = None,
    cutoffs: Sequence[float] = CUTOFFS,
) -> Cutoffs:
    """Choose the pair with the highest intersection over union with true masks (section 2.3.3).

    Parameters
    ----------
    probabilities, masks : sequence of ndarray
        (y, x) for each validation image, at working resolution.
    gate_open : ndarray
        (images,) bool: what the classifier lets pass; other images count as clean.
    area_of_pixel : int
        Pixels of the full image in one of the working resolution.
    cutoff, smallest_artifact_px : optional
        Given ones are kept.
    cutoffs : sequence of float
        The cutoffs to try.

    Returns
    -------
    Cutoffs
    """
    pairs = [
        Cutoffs(value, size)
        for value in (cutoffs if cutoff is None else (cutoff,))
        for size in (SMALLEST if smallest_artifact_px is None else (smallest_artifact_px,))
    ]

    def iou(pair: Cutoffs) -> float:
        smallest = -(-pair.smallest_artifact_px // area_of_pixel)
        predicted = [
            artifact_objects(map_, cutoff=pair.cutoff, smallest_artifact_px=smallest) > 0
            if passes
            else np.zeros(map_.shape, np.bool_)
            for map_, passes in zip(probabilities, gate_open, strict=True)
        ]
        return pooled_iou(masks, predicted)

    return max(pairs, key=iou)


def choose_by_images(
    maps: Sequence[Map],
    *,
    artifact: Mask,
    area_of_pixel: int,
    cutoffs: Sequence[float],
    cutoff: float | None = None,
    smallest_artifact_px: int | None = None,
) -> Cutoffs:
    """Choose by image labels alone, for a method that has neither classifier nor pseudo-labels.

    The pair at which "an object survives" agrees best with the labels, by the mean of the shares of artifact and of
    clean images that are called right: F1 would reward calling every image an artifact. Of several, the one in the
    middle of their cutoffs.

    Parameters
    ----------
    maps : sequence of ndarray
        (y, x) for each validation image, at working resolution.
    artifact : ndarray
        (images,) bool: the labels.
    area_of_pixel : int
        Pixels of the full image in one of the working resolution.
    cutoffs : sequence of float
        The cutoffs to try.
    cutoff, smallest_artifact_px : optional
        Given ones are kept.

    Returns
    -------
    Cutoffs
    """
    scored: list[tuple[float, Cutoffs]] = []
    for value in sorted(cutoffs) if cutoff is None else (cutoff,):
        largest = _largest_objects(maps, value) * area_of_pixel
        for size in SMALLEST if smallest_artifact_px is None else (smallest_artifact_px,):
            found = largest >= max(size, 1)
            scored.append((_share_right(artifact, found), Cutoffs(float(value), int(size))))
    best = max(right for right, _ in scored)
    equal = [pair for right, pair in scored if right >= best - 1e-9]
    return equal[len(equal) // 2]


def cutoffs_of_scores(maps: Sequence[Map], number: int = 60) -> list[float]:
    """Propose cutoffs for maps of unknown distribution: levels that the highest 0.01 % to half of all pixels reach."""
    pixels = np.concatenate([map_.ravel()[:: max(1, map_.size // 20_000)] for map_ in maps])
    levels = np.quantile(pixels, 1 - np.geomspace(1e-4, 0.5, number))
    return [float(level) for level in np.unique(levels)]


def _share_right(truth: Mask, found: Mask) -> float:
    """Mean of the shares of artifact and of clean images (images,) that are called right, of the classes there are."""
    shares = [float((found[truth == is_artifact] == is_artifact).mean()) for is_artifact in np.unique(truth)]
    return float(np.mean(shares)) if shares else 0.0


def _largest_objects(maps: Sequence[Map], cutoff: float) -> NDArray[np.int64]:
    """Pixels of the largest object of each map."""
    sizes = [np.bincount(artifact_objects(map_, cutoff=cutoff).ravel())[1:].max(initial=0) for map_ in maps]
    return np.array(sizes, np.int64)


def best_gate_threshold(
    probabilities: NDArray[np.float64], artifact: NDArray[np.bool_], *, trials: Sequence[tuple[float, bool]] = ()
) -> float:
    """Choose the image probability from which on an image counts as artifact.

    Parameters
    ----------
    probabilities : ndarray
        (images,) 0..1, of the validation images.
    artifact : ndarray
        (images,) bool, their labels.
    trials : sequence of (float, bool)
        The same of images that were made from these. They decide only where the images themselves do not: made ones
        are easier or harder than real ones, and there may be more of them.

    Returns
    -------
    float
        0..1: without trials that with the highest F1 on the images. With trials every threshold will do that is wrong
        on one standard error more images than this one at most (Breiman et al. 1984), and of these every one that calls
        no more than one standard error less of the trials right than the best, by the mean of the shares of artifacts
        and of clean ones. Of several, the nearest to 0.5.
    """
    made = np.array([probability for probability, _ in trials], np.float64)
    truth_of_made = np.array([is_artifact for _, is_artifact in trials], np.bool_)
    steps = np.unique(np.concatenate([[0.0, 1.0], probabilities, made]))
    candidates = np.concatenate([[0.5], (steps[1:] + steps[:-1]) / 2])
    least = candidates[:, np.newaxis]
    candidates = candidates[not_told_apart(probabilities >= least, artifact, made >= least, truth_of_made)]
    return float(candidates[np.argmin(np.abs(candidates - 0.5))])


def not_told_apart(found: Mask, artifact: Mask, found_made: Mask, truth_of_made: Mask) -> Mask:
    """Say which of several ways to call images are as good as the best, as far as these images can tell.

    Parameters
    ----------
    found, artifact : ndarray
        (ways, images) and (images,) bool: what is called an artifact, and what is one.
    found_made, truth_of_made : ndarray
        (ways, made) and (made,) bool: the same of made images. Without any, ways must be as good as the best exactly.

    Returns
    -------
    ndarray
        (ways,) bool, some of them True. Errors of both kinds of images have the standard error of a share that counts
        one image more on either side (Laplace): none wrong among a few does not mean that none ever will be.
    """
    f1 = np.array([np.nan_to_num(count_agreement(artifact, one).f1) for one in found])
    good: Mask = np.isclose(f1, f1.max())
    if not truth_of_made.size:
        return good
    wrong = np.count_nonzero(found != artifact, axis=1)
    least = int(wrong[good].min())
    good = wrong <= least + round(len(artifact) * _standard_error(least, len(artifact)))
    right = np.array([_share_right(truth_of_made, one) for one in found_made])
    best = int(np.argmax(np.where(good, right, -1.0)))
    classes = [truth_of_made == is_artifact for is_artifact in np.unique(truth_of_made)]
    errors = [_standard_error(int((found_made[best] != truth_of_made)[one].sum()), int(one.sum())) for one in classes]
    return good & (right >= right[best] - np.linalg.norm(errors) / len(classes))


def _standard_error(events: int, of: int) -> float:
    share = (events + 1) / (of + 2)
    return float(np.sqrt(share * (1 - share) / of))
