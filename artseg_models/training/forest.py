"""Pseudo-labels drawn again as a few drawn masks show: a random forest of pixels, as Weka and ilastik have it.

Evidence says where an artifact is, but not how far it reaches: whether the bright rim around a speck belongs to it, or
a shadow. Each pixel is described by grey values, edges and texture at several sizes (`skimage.feature`), by the
evidence and by its distance from the pseudo-label; extremely randomised trees (Geurts et al. 2006) learn from drawn
masks which of them are artifact. Few masks show few artifacts: the pseudo-labels of other images have a say, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]
from skimage import feature  # pyright: ignore[reportMissingTypeStubs]

from artseg_models.progress import track
from artseg_models.training.evidence import kept_evidence, typical_evidence, write_pseudo_label
from artseg_models.training.fields import Array, Split
from artseg_models.training.refinement import Mask, grown

logger = logging.getLogger(__name__)

_FINEST, _COARSEST, _SIZES = 0.7, 6.0, 4
"""Standard deviations in pixels of the blurs before which pixels are described, and how many of them."""
_WEAKEST, _BEYOND = 0.03, 4
"""Evidence below it points at nothing; artifacts lie at most so many pixels beyond what has more, or beyond a label."""
_FAR = 20.0
"""Distances from a label that are larger are all alike, in pixels."""
_DRAWN_PX, _OTHER_PX, _OTHERS = 12_000, 300, 100
"""Pixels learned from an image with a drawn mask and from another one, and how many of these."""
_TREES, _LEAF_PX, _OF_FEATURES = 100, 10, 0.4


def redrawn(
    before: Mapping[str, Sequence[Mask]],
    drawn: Mapping[int, NDArray[np.int8]],
    splits: Mapping[str, Split],
    run: Path,
    *,
    share: float,
    seed: int,
) -> dict[str, list[Mask]]:
    """Draw the pseudo-labels of all artifact images that have no drawn mask again.

    Parameters
    ----------
    before : mapping of str to sequence of ndarray
        The pseudo-labels (y, x) bool of "train" and "validation".
    drawn : mapping of int to ndarray
        Drawn masks (y, x), above 0 on artifacts, by the places of their images in "train".
    splits : mapping of str to Split
        The images.
    run : Path
        Holds the evidence, see `artseg_models.training.evidence.look_for_evidence`; ``pseudo_masks/`` gets the new
        labels.
    share : float
        0..1: how much pixels of drawn masks count in all that is learned; the rest are pseudo-labels of other images.
    seed : int
        Of the run.

    Returns
    -------
    dict of str to list of ndarray
        Labels (y, x) bool of all images. Where drawn masks hold no artifact at working resolution, or nothing else, the
        pseudo-labels as they were.
    """
    typical = typical_evidence(run, "train")

    def described(name: str, index: int) -> tuple[NDArray[np.float32], Mask]:
        evidence, largest = kept_evidence(run, name, index)
        image, label = splits[name].images[index], before[name][index]
        return _described(image, label, evidence, np.sqrt(largest / typical)), _candidates(label, evidence)

    forest = _learned(before["train"], drawn, splits["train"], described, share=share, seed=seed)
    if forest is None:
        logger.warning(
            "None of %d drawn masks holds both artifact and background: pseudo-labels stay as they are. "
            "Look at the masks.",
            len(drawn),
        )
        return {name: list(some) for name, some in before.items()}
    found: dict[str, list[Mask]] = {}
    same = marked = 0
    for name, some in before.items():
        found[name] = list(some)
        asked = [at for at in map(int, np.flatnonzero(splits[name].artifact)) if name != "train" or at not in drawn]
        for index in track(asked, f"Drawing labels of the {name} images as masks show", len(asked)):
            pixels, where = described(name, index)
            label = np.zeros(where.shape, np.bool_)
            if where.any():
                label[where] = forest.predict_proba(pixels[where])[:, 1] >= 0.5
            write_pseudo_label(run, name, splits[name], index, label)
            found[name][index] = label
            same += int(np.count_nonzero(label & some[index]))
            marked += int(np.count_nonzero(label | some[index]))
    logger.info(
        "Pseudo-labels are drawn again as %d masks show; with those before they agree with an IoU of %.3f",
        len(drawn),
        same / max(1, marked),
    )
    return found


def _learned(
    before: Sequence[Mask],
    drawn: Mapping[int, NDArray[np.int8]],
    training: Split,
    described: Callable[[str, int], tuple[NDArray[np.float32], Mask]],
    *,
    share: float,
    seed: int,
) -> Any:
    """Train the trees; None where drawn masks do not show both, artifact and background."""
    from sklearn.ensemble import ExtraTreesClassifier  # takes a second to load, which few trainings need

    random = np.random.default_rng(seed)

    def some_pixels(labels: Mapping[int, Mask], count: int, title: str) -> tuple[NDArray[np.float32], Mask]:
        features: list[NDArray[np.float32]] = []
        truth: list[Mask] = []
        for index, label in track(labels.items(), title, len(labels)):
            pixels, where = described("train", index)
            places = random.permutation(np.flatnonzero(where | label))[:count]
            features.append(pixels.reshape(-1, pixels.shape[-1])[places])
            truth.append(label.ravel()[places])
        return np.concatenate(features), np.concatenate(truth)

    features, truth = some_pixels(
        {at: mask.astype(np.bool_) for at, mask in drawn.items()}, _DRAWN_PX, "Learning from masks"
    )
    if truth.all() or not truth.any():
        return None
    weights = np.full(len(truth), share / len(truth))
    others: list[int] = [at for at in random.permutation(np.flatnonzero(training.artifact)).tolist() if at not in drawn]
    if others and share < 1:
        own = {at: before[at] for at in others[:_OTHERS]}
        of_others, pseudo = some_pixels(own, _OTHER_PX, "Learning from pseudo-labels")
        features, truth = np.concatenate([features, of_others]), np.concatenate([truth, pseudo])
        weights = np.concatenate([weights, np.full(len(pseudo), (1 - share) / max(1, len(pseudo)))])
    # its own types know no share of the features
    trees: Any = cast("Any", ExtraTreesClassifier)(
        _TREES,
        min_samples_leaf=_LEAF_PX,
        max_features=_OF_FEATURES,
        n_jobs=torch.get_num_threads(),
        random_state=seed,
    )
    return trees.fit(features, truth, sample_weight=weights)


def _described(image: Array, label: Mask, evidence: Array, strength: float) -> NDArray[np.float32]:
    """Describe every pixel of an image by numbers, (y, x, number) float32; `strength` is 1 for usual evidence."""
    filters = cast("Any", ndimage)
    seen = cast("Any", feature).multiscale_basic_features(
        image, sigma_min=_FINEST, sigma_max=_COARSEST, num_sigma=_SIZES, workers=1
    )
    distance = np.full(image.shape, _FAR)
    if label.any():
        to, within = (filters.distance_transform_edt(one) for one in (~label, label))
        distance = np.clip(to - within, -_FAR, _FAR)
    pointed = [
        evidence,
        strength * evidence,
        filters.gaussian_filter(evidence, 2),
        filters.gaussian_filter(evidence, 4),
        filters.maximum_filter(strength * evidence, 9),
        distance,
    ]
    return np.concatenate([seen, np.stack(pointed, axis=-1)], axis=-1, dtype=np.float32, casting="same_kind")


def _candidates(label: Mask, evidence: Array) -> Mask:
    """Say which pixels (y, x) may be artifact: those near evidence or a label."""
    return grown(label | (evidence >= _WEAKEST), _BEYOND)
