"""Scores of the kinds that a model gives to artifacts: of images, of pixels, and which kind it takes for which.

An image counts for a kind when an object of this kind survives the cutoff and the smallest size in its scored area.
Artifact images of which nobody named the kinds say nothing here and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artseg_models.labels import LabelledImage, kinds_of, read_kind_mask, read_mask
from artseg_models.metrics import (
    BoolArray,
    Counts,
    count_agreement,
    count_levels,
    mean_defined,
    pool,
    precision_recall,
)
from artseg_models.predict import Prediction
from artseg_models.scores import Figure, image_figures

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class KindPixels:
    """The pixels of one image by kind, within its scored area.

    Attributes
    ----------
    counts : mapping of str to Counts
        Each of the model's kinds, pixel by pixel.
    taken_for : mapping of str to int64 array, (kinds + 1,)
        For each kind that is truly there, its pixels by what they were found as: each of the model's kinds, then not
        found. Pixels under artifacts of several kinds are left out, since they have no one answer.
    """

    counts: Mapping[str, Counts]
    taken_for: Mapping[str, IntArray]


@dataclass(frozen=True)
class KindField:
    """The kinds of one image.

    Attributes
    ----------
    item : LabelledImage
        The image with its label.
    found : tuple of str
        Kinds of which an object survives in the scored area, in the model's order.
    probability : mapping of str to float
        The classifier's probability of each kind, 0..1; empty for a model without classifier.
    pixels : KindPixels or None
        None where it is not known which pixels belong to which kind.
    """

    item: LabelledImage
    found: tuple[str, ...]
    probability: Mapping[str, float]
    pixels: KindPixels | None

    @property
    def known(self) -> bool:
        """Whether its kinds are known: of clean images, and of those that name some."""
        return self.item.label == "clean" or bool(self.item.kinds)


@dataclass(frozen=True)
class KindScore:
    """One kind over a set of images.

    Attributes
    ----------
    kind : str
        Its name.
    images : Counts
        Images with and without it, against the objects found.
    image_f1 : Figure
        F1 of images, with its confidence interval over groups.
    average_precision : float
        Of the classifier's probability of this kind: the area under the precision-recall curve of images; NaN where
        there is no classifier or no image with the kind.
    pixels : Counts or None
        Pooled over the images whose pixels are known by kind, clean ones among them; None where no artifact image has
        masks of its kinds.
    """

    kind: str
    images: Counts
    image_f1: Figure
    average_precision: float
    pixels: Counts | None


@dataclass(frozen=True)
class KindFigures:
    """All kinds over a set of images.

    Attributes
    ----------
    scores : tuple of KindScore
        In the order of the model's kinds.
    images : int
        How many images counted.
    unnamed : int
        How many artifact images were left out because nobody named their kinds.
    drawn : int
        How many of the artifact images have known pixels of each of their kinds.
    unknown : tuple of str
        Kinds that labels name and the model does not tell.
    true_kinds : tuple of str
        Rows of `taken_for`: the model's kinds, then `unknown`.
    taken_for : int64 array, (true kinds, kinds + 1)
        Pixels of each true kind by what they were found as, see `KindPixels`, pooled over images.
    """

    scores: tuple[KindScore, ...]
    images: int
    unnamed: int
    drawn: int
    unknown: tuple[str, ...]
    true_kinds: tuple[str, ...]
    taken_for: IntArray

    @property
    def kinds(self) -> tuple[str, ...]:
        """The model's kinds."""
        return tuple(score.kind for score in self.scores)

    @property
    def shares(self) -> NDArray[np.float64]:
        """`taken_for` as shares of each true kind's pixels, 0..1; NaN in the row of a kind without pixels."""
        total = self.taken_for.sum(axis=1, keepdims=True)
        return np.divide(self.taken_for, total, out=np.full(self.taken_for.shape, np.nan), where=total > 0)

    def averages(self) -> dict[str, float]:
        """Average over the kinds that some image holds, or some pixel belongs to, each weighing the same.

        A figure that is not defined for a kind, such as the precision of one that was never found, does not enter.
        """
        held = [score for score in self.scores if _true(score.images)]
        drawn = [score.pixels for score in self.scores if score.pixels is not None and _true(score.pixels)]
        return {
            **{
                f"image_{name}": mean_defined(getattr(score.images, name) for score in held)
                for name in ("precision", "recall", "f1")
            },
            "classifier_average_precision": mean_defined(score.average_precision for score in held),
            **{
                f"pixel_{name}": mean_defined(getattr(pixels, name) for pixels in drawn)
                for name in ("precision", "recall", "iou")
            },
        }


def _true(counts: Counts) -> int:
    return counts.true_positive + counts.false_negative


def score_kinds(item: LabelledImage, prediction: Prediction, *, survived: BoolArray, scored: BoolArray) -> KindField:
    """Score the kinds that a model gave to the artifacts of one image.

    Parameters
    ----------
    item : LabelledImage
        The image with its label.
    prediction : Prediction
        Of a model that tells kinds.
    survived : bool array, (objects,)
        Which of the first objects are large enough in the scored area; further ones are not.
    scored : bool array, (y, x)
        The scored area.

    Returns
    -------
    KindField

    Raises
    ------
    ArtSegError
        A mask cannot be used.
    """
    surviving = set(prediction.object_kinds[np.flatnonzero(survived)].tolist())
    return KindField(
        item=item,
        found=tuple(kind for number, kind in enumerate(prediction.kinds, start=1) if number in surviving),
        probability=prediction.image_kinds,
        pixels=_pixels(item, prediction, scored) if item.kinds_drawn else None,
    )


def _pixels(item: LabelledImage, prediction: Prediction, scored: BoolArray) -> KindPixels:
    shape = prediction.labels.shape
    truth = {kind: read_kind_mask(item, kind, shape=shape) for kind in item.kinds}
    valid = scored
    if item.mask is not None and item.kind_masks:
        # artifact that no mask by kind covers: nobody knows of which kind
        valid = scored & ~(read_mask(item, shape=shape) & ~np.any(list(truth.values()), axis=0))
    found, nothing = prediction.kind_map, np.zeros(shape, np.bool_)
    counts = {
        kind: count_agreement(truth.get(kind, nothing), found == number, valid=valid)
        for number, kind in enumerate(prediction.kinds, start=1)
    }
    alone = valid & (np.sum([nothing, *truth.values()], axis=0) == 1)
    taken_for = {
        # 0, not found, goes from the first place to the last
        kind: np.roll(np.bincount(found[mask & alone], minlength=len(prediction.kinds) + 1).astype(np.int64), -1)
        for kind, mask in truth.items()
    }
    return KindPixels(counts=counts, taken_for=taken_for)


def kind_figures(fields: Sequence[KindField], kinds: Sequence[str]) -> KindFigures | None:
    """Pool the kinds of several images.

    Parameters
    ----------
    fields : sequence of KindField
        Of one model.
    kinds : sequence of str
        The model's kinds.

    Returns
    -------
    KindFigures or None
        None where no image names a kind: nothing can be said then.
    """
    known = [field for field in fields if field.known]
    named = kinds_of(field.item for field in known)
    if not named:
        return None
    unknown = tuple(kind for kind in named if kind not in kinds)
    true_kinds = (*kinds, *unknown)
    taken_for = np.zeros((len(true_kinds), len(kinds) + 1), np.int64)
    spoilt = sum(field.item.label == "artifact" and field.pixels is not None for field in known)
    drawn = [field.pixels for field in known if field.pixels is not None] if spoilt else []
    for pixels in drawn:
        for kind, row in pixels.taken_for.items():
            taken_for[true_kinds.index(kind)] += row
    return KindFigures(
        scores=tuple(_score(known, drawn, kind) for kind in kinds),
        images=len(known),
        unnamed=len(fields) - len(known),
        drawn=spoilt,
        unknown=unknown,
        true_kinds=true_kinds,
        taken_for=taken_for,
    )


def _score(known: Sequence[KindField], drawn: Sequence[KindPixels], kind: str) -> KindScore:
    truth = np.array([kind in field.item.kinds for field in known], dtype=np.bool_)
    found = np.array([kind in field.found for field in known], dtype=np.bool_)
    asked = [at for at, field in enumerate(known) if kind in field.probability]
    said = np.array([known[at].probability[kind] for at in asked], dtype=np.float64)
    return KindScore(
        kind=kind,
        images=count_agreement(truth, found),
        image_f1=image_figures(truth, found, [field.item.group for field in known])["image_f1"],
        average_precision=precision_recall(count_levels(truth[asked], said)).area,
        pixels=pool(pixels.counts[kind] for pixels in drawn) if drawn else None,
    )
