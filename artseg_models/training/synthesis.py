"""Training images changed so that what is learned is the artifact itself: neither its place nor its company."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from artseg_models.anomalies import random_anomaly
from artseg_models.progress import track
from artseg_models.training.classifier import Trial
from artseg_models.training.classifier import Vary as VaryImage
from artseg_models.training.fields import Array, Split
from artseg_models.training.sampling import PixelLabel
from artseg_models.training.segmenter import Vary as VaryPixels
from artseg_models.transplant import Cutout, as_normalised, cutouts_of, painted_out, pasted, with_artifact


def cutouts_of_split(split: Split, labels: Sequence[PixelLabel]) -> list[Cutout]:
    """Cut every artifact out of the artifact images of a split, by their pixel labels."""
    chosen = np.flatnonzero(split.artifact)
    found: list[Cutout] = []
    for index in track(map(int, chosen), "Cutting artifacts out", len(chosen)):
        label = labels[index]
        found += cutouts_of(split.images[index], label > 0, label=label.astype(np.int8))
    return found


def _one_of(cutouts: Sequence[Cutout], random: np.random.Generator) -> Cutout:
    """Draw a cutout; where kinds are told apart each set of kinds as often as any other, so that rare ones are seen."""
    values = sorted({cutout.value for cutout in cutouts})
    if len(values) > 1:
        value = values[int(random.integers(len(values)))]
        cutouts = [cutout for cutout in cutouts if cutout.value == value]
    return cutouts[int(random.integers(len(cutouts)))]


def pasting(
    artifact: NDArray[np.bool_], cutouts: Sequence[Cutout], share: float, *, invented: float = 0.0
) -> VaryPixels:
    """Paste artifacts on a share of the clean images, for the U-Net: their labels are exact.

    Parameters
    ----------
    artifact : ndarray
        (images,) bool: which images hold artifacts and stay as they are.
    cutouts : sequence of Cutout
        Of these one is pasted; may be empty where all are invented.
    share : float
        Of the clean images that are changed.
    invented : float
        Share of the pasted artifacts that are drawn at random (`artseg_models.anomalies`) instead.
    """

    def vary(index: int, image: Array, label: PixelLabel, random: np.random.Generator) -> tuple[Array, PixelLabel]:
        if artifact[index] or random.random() >= share:
            return image, label
        value = 1
        if invented and random.random() < invented:
            rows, columns = map(int, image.shape)
            anomaly = random_anomaly(random, largest=min(rows, columns) // 2)
            new, mask = pasted(image, anomaly, (int(random.integers(rows)), int(random.integers(columns))))
        else:
            cutout = _one_of(cutouts, random)
            new, mask = with_artifact(image, cutout, random)
            value = cutout.value
        return as_normalised(new, image), np.where(mask, value, 0).astype(np.int8)

    return vary


def trials(validation: Split, labels: Sequence[PixelLabel], seed: int) -> list[Trial]:
    """Change every validation image once, as `counterfactuals` does, with artifacts of the validation split."""
    cutouts = cutouts_of_split(validation, labels)
    if not cutouts:
        return []
    vary = counterfactuals(labels, cutouts, 1.0)
    return [
        vary(index, validation.images[index], bool(artifact), np.random.default_rng([seed, index]))
        for index, artifact in enumerate(validation.artifact)
    ]


def counterfactuals(labels: Sequence[PixelLabel], cutouts: Sequence[Cutout], share: float) -> VaryImage:
    """Change a share of the images for the classifier, so that only the artifact tells artifact images from clean ones.

    Half of the changed images have what their label marks painted out; a clean one is painted at the place of another
    image's artifact, so that paint tells nothing. The others, half of the painted ones included, get an artifact pasted
    on, and count as artifact.
    """
    marked = [at for at, label in enumerate(labels) if (label > 0).any()]

    def vary(index: int, image: Array, artifact: bool, random: np.random.Generator) -> tuple[Array, bool]:
        if random.random() >= share:
            return image, artifact
        paints, pastes = ((True, False), (True, True), (False, True), (False, True))[int(random.integers(4))]
        if artifact and not (labels[index] > 0).any():
            return image, artifact  # where it is is not known: it cannot be taken away
        before = image
        if paints:
            mask = labels[index] > 0
            if not artifact:
                other = labels[marked[int(random.integers(len(marked)))]] > 0
                mask = other if other.shape == image.shape else mask
            image, artifact = painted_out(image, mask, random), False
        if pastes:
            image, pixels = with_artifact(image, _one_of(cutouts, random), random)
            artifact = artifact or bool(pixels.any())
        # painted and pasted images must not be told by their contrast
        return as_normalised(image, before), artifact

    return vary
