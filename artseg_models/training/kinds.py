"""Kinds of artifact in pixel labels, where image-level labels name kinds.

An image that names one kind tells of which kind all its artifact pixels are. One that names several tells that each
pixel is of one of them: the network is asked for no more (partial labels), and learns which from images that name one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from artseg_models.labels import LabelledImage
from artseg_models.progress import track
from artseg_models.training.fields import Split
from artseg_models.transplant import Cutout

#: value in a pixel label of the first set of kinds; 1 is an artifact of which no kind is known
FIRST_SET = 2


def named_kinds(items: Sequence[LabelledImage], kinds: Sequence[str]) -> NDArray[np.float32]:
    """Say which kinds each image holds, by its label.

    Returns
    -------
    ndarray
        (images, kinds) float32: 1 where the label names the kind, 0 where it does not; NaN, not known, for artifact
        images whose label names none.
    """
    named = _named(items, kinds).astype(np.float32)
    unknown = [item.label == "artifact" and not item.kinds for item in items]
    named[unknown] = np.nan
    return named


def sets_of_kinds(items: Sequence[LabelledImage], kinds: Sequence[str]) -> NDArray[np.bool_]:
    """List the sets of kinds that images name, each once: (sets, kinds) bool, True for the kinds of a set."""
    named = _named(items, kinds)
    return np.unique(named[named.any(axis=1)], axis=0)


def with_kinds(
    labels: Sequence[NDArray[np.int8]],
    items: Sequence[LabelledImage],
    kinds: Sequence[str],
    sets: NDArray[np.bool_],
) -> list[NDArray[np.int8]]:
    """Tell in pixel labels which kinds an artifact may be of: those that its image names.

    Parameters
    ----------
    labels : sequence of ndarray
        (y, x) int8 for each image: 1 or more artifact, 0 clean, -1 unsure.
    items : sequence of LabelledImage
        The images.
    kinds : sequence of str
        All kinds.
    sets : ndarray
        Of `sets_of_kinds`, of these images and others.

    Returns
    -------
    list of ndarray
        As `labels`, with `FIRST_SET` and the number of the image's set on artifacts; 1 where the image names no kind.
    """
    told: list[NDArray[np.int8]] = []
    for label, named in zip(labels, _named(items, kinds), strict=True):
        value = FIRST_SET + int(np.flatnonzero((sets == named).all(axis=1))[0]) if named.any() else 1
        told.append(np.where(label > 0, value, label).astype(np.int8))
    return told


def telling(cutouts: Sequence[Cutout], sets: NDArray[np.bool_]) -> list[Cutout]:
    """Keep the cutouts that tell of which kind they are; of a kind that is never named alone, all that may be of it."""
    certain = [cutout for cutout in cutouts if cutout.value >= FIRST_SET and sets[cutout.value - FIRST_SET].sum() == 1]
    covered = np.any([sets[cutout.value - FIRST_SET] for cutout in certain], axis=0) if certain else sets[0] & False
    rest = [
        cutout for cutout in cutouts if cutout.value >= FIRST_SET and (sets[cutout.value - FIRST_SET] & ~covered).any()
    ]
    return certain + rest


def drawn_kinds(split: Split, kinds: Sequence[str]) -> list[NDArray[np.int8]]:
    """Read the true masks (y, x) of all images at working resolution, the kinds told apart.

    Returns
    -------
    list of ndarray
        int8: `FIRST_SET` on artifacts of the first kind, one more on those of the second, and so on; 1 where no kind is
        named, 0 elsewhere.

    Raises
    ------
    ArtSegError
        A mask cannot be used.
    """
    labels: list[NDArray[np.int8]] = []
    for index, item in enumerate(track(split.images.items, "Reading masks", len(split))):
        label = split.mask(index).astype(np.int8)
        for number, kind in enumerate(kinds):
            if kind in item.kinds:
                label[split.mask(index, kind=kind)] = FIRST_SET + number
        labels.append(label)
    return labels


def _named(items: Sequence[LabelledImage], kinds: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([[kind in item.kinds for kind in kinds] for item in items], np.bool_).reshape(
        len(items), len(kinds)
    )
