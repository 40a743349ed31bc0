"""Splits that ask whether a model generalises: artifacts of one end of a range are never seen in training."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from skimage.measure import regionprops  # pyright: ignore[reportUnknownVariableType]

from artseg_models.errors import ArtSegError
from artseg_models.images import read_image
from artseg_models.labels import LabelledImage, LabelSet, Split, read_mask, with_splits
from artseg_models.progress import track

By = Literal["position", "shape", "size"]
BY: tuple[By, ...] = get_args(By)

_TEST = 0.25
"""Share of artifact groups, and of clean images, that is held out."""
_VALIDATION = 0.2
"""Share of the others that becomes validation."""


def describe(mask: NDArray[np.bool_], by: By) -> NDArray[np.float64]:
    """Describe the artifact pixels (y, x) of an image.

    Parameters
    ----------
    mask : ndarray
        (y, x) bool, not empty; several artifacts count as one.
    by : {"position", "shape", "size"}
        What of it: middle as shares of the sides (y, x); logarithm of length against width, solidity and direction of
        the long axis; or logarithm of the pixels.

    Returns
    -------
    ndarray
        (features,) float64.
    """
    region: Any = cast("Any", regionprops)(mask.astype(np.uint8))[0]
    if by == "position":
        return np.asarray(region.centroid, dtype=np.float64) / mask.shape
    if by == "size":
        return np.array([np.log(float(region.area))])
    elongation = np.log((float(region.axis_major_length) + 1) / (float(region.axis_minor_length) + 1))
    # twice the angle: a line turned by half a turn is the same line; a disc has no direction
    turn = 2 * float(region.orientation)
    return np.array([elongation, float(region.solidity), elongation * np.cos(turn), elongation * np.sin(turn)])


def hold_out(labels: LabelSet, by: By, *, seed: int = 0) -> LabelSet:
    """Split anew, so that the test split holds the artifacts of one end of what varies most.

    Artifacts are described by position, shape or size; the quarter of groups that lies at one end of their first
    principal component becomes the test split. Clean images are drawn at random. Masks choose the split and nothing
    else.

    Parameters
    ----------
    labels : LabelSet
        With a mask for every artifact image; its splits are not kept.
    by : {"position", "shape", "size"}
        What is held out.
    seed : int
        Of the clean images' draw, and of the validation split's.

    Returns
    -------
    LabelSet
        The same images in the same order, each with a split; no group is in two.

    Raises
    ------
    ArtSegError
        An artifact image has no mask, or an empty one, or there are fewer than four groups of them.
    """
    artifact = [item for item in labels.images if item.label == "artifact"]
    features: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for item in track(artifact, "Looking at masks", len(artifact)):
        pixels = read_image(item.path).pixels
        mask = read_mask(item, shape=(pixels.shape[0], pixels.shape[1])) if item.mask is not None else None
        if mask is None or not mask.any():
            raise ArtSegError(f"Expected a mask with artifact pixels for {item.path.name}, to hold out by {by}.")
        features[item.group].append(describe(mask, by))
    if len(features) < 4:
        raise ArtSegError(
            f"Expected at least four groups of artifact images, to hold one end of them out, got {len(features)}."
        )
    groups = list(features)
    table = np.array([np.mean(features[group], axis=0) for group in groups])
    table = (table - table.mean(0)) / np.maximum(table.std(0), 1e-9)
    along = table @ np.linalg.svd(table, full_matrices=False)[2][0]
    held = {groups[int(at)] for at in np.argsort(along)[: round(_TEST * len(groups))]}
    known = with_splits(
        dataclasses.replace(
            labels, images=tuple(dataclasses.replace(item, split=None) for item in artifact if item.group not in held)
        ),
        seed=seed,
        fractions=(1 - _VALIDATION, _VALIDATION, 0.0),
    )
    splits: dict[str, Split | None] = {item.group: item.split for item in known.images}
    for group in held:
        splits[group] = "test"

    def placed(item: LabelledImage) -> LabelledImage:
        return dataclasses.replace(item, split=splits.get(item.group))

    left = 1 - _TEST
    fractions = (left * (1 - _VALIDATION), left * _VALIDATION, _TEST)
    return with_splits(
        dataclasses.replace(labels, images=tuple(map(placed, labels.images))), seed=seed, fractions=fractions
    )
