"""Studies of a model on labelled images: how good its verdicts and its masks are.

The rule for the verdict on a whole image: with a classifier whose gate is used, the gate decides (closed = clean);
without, an image counts as artifact when an object survives the cutoff and the smallest size in its scored area.
The verdict by objects is reported beside it. Cutoffs are not tuned here: they travel in the package, chosen on
validation images by training.
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artseg_models.errors import ArtSegError
from artseg_models.files import write_json, write_text
from artseg_models.images import read_image, read_mask_image
from artseg_models.kind_scores import KindField, KindFigures, kind_figures, score_kinds
from artseg_models.labels import Label, LabelledImage, read_mask
from artseg_models.metrics import (
    CAUSES,
    Counts,
    Curve,
    Reliability,
    count_agreement,
    mean_defined,
    pool,
    reliability,
    reliability_of_levels,
)
from artseg_models.predict import Audit, ImagePredictor, Prediction
from artseg_models.progress import track
from artseg_models.scores import (
    Distribution,
    FieldScore,
    Figure,
    curve_of,
    distribution,
    image_figures,
    pixel_figures,
    pooled_levels,
    score_field,
)

logger = logging.getLogger(__name__)

RULE_GATE = "an image is artifact when the classifier's gate is open"
RULE_OBJECTS = "an image is artifact when an object survives the cutoff and the smallest size"
RULE_KINDS = "an image holds a kind when an object of this kind survives the cutoff and the smallest size"
FEW_GROUPS = 10
"""Fewer groups than this make intervals rough: the draws of a bootstrap then repeat a handful of values."""


@dataclass(frozen=True)
class Options:
    """What an evaluation departs from the package in; None: as the model says."""

    cutoff: float | None = None
    smallest_artifact_px: int | None = None
    gate: bool = True
    gate_threshold: float | None = None


@dataclass(frozen=True)
class ImageScore:
    """One image: what its label says and what the model found.

    Attributes
    ----------
    item : LabelledImage
        The image with its label.
    verdict, verdict_by_objects : {"clean", "artifact"}
        By the rule of this module, and by surviving objects alone.
    image_probability : float or None
        The classifier's probability of artifact, 0..1.
    objects : int
        Artifact objects in the scored area.
    area_fraction : float
        Share of the scored area that is predicted artifact, 0..1.
    field : FieldScore or None
        Pixels and objects of the scored area against the true mask; None for an artifact image without a mask.
    seconds : float
        Prediction alone.
    kinds : KindField or None
        Kinds of artifact, found and true; None for a model that tells none.
    """

    item: LabelledImage
    verdict: Label
    verdict_by_objects: Label
    image_probability: float | None
    objects: int
    area_fraction: float
    field: FieldScore | None
    seconds: float
    kinds: KindField | None = None

    @property
    def pixels(self) -> Counts | None:
        """Pixels of the scored area against the true mask; None for an artifact image without a mask."""
        return None if self.field is None else self.field.pixels


@dataclass(frozen=True)
class Evaluation:
    """Scores of a set of images.

    Attributes
    ----------
    scores : tuple of ImageScore
        In the order given.
    failed : tuple of (LabelledImage, str)
        Images that could not be scored, and why.
    rule : str
        How the verdict on an image came about.
    audit : Audit
        Model and settings.
    kinds : tuple of str
        Kinds of artifact that the model tells.
    """

    scores: tuple[ImageScore, ...]
    failed: tuple[tuple[LabelledImage, str], ...]
    rule: str
    audit: Audit
    kinds: tuple[str, ...] = ()

    @property
    def images(self) -> Counts:
        """Verdicts against labels."""
        return _verdicts(self.scores, [score.verdict for score in self.scores])

    @property
    def images_by_objects(self) -> Counts:
        """Verdicts by surviving objects alone against labels."""
        return _verdicts(self.scores, [score.verdict_by_objects for score in self.scores])

    @property
    def pixels(self) -> Counts | None:
        """Pixels pooled over all images with a known mask; None when no artifact image has one."""
        return pool(score.field.pixels for score in self.known if score.field) if self.known else None

    @property
    def known(self) -> tuple[ImageScore, ...]:
        """Images with a known mask, clean ones among them; none where no artifact image has one."""
        known = tuple(score for score in self.scores if score.field is not None)
        return known if any(score.item.label == "artifact" for score in known) else ()

    @property
    def groups(self) -> int:
        """How many groups of images the intervals are drawn over."""
        return len({score.item.group for score in self.scores})

    @property
    def groups_known(self) -> int:
        """How many groups the intervals of pixels and objects are drawn over: those of images with a known mask."""
        return len({score.item.group for score in self.known})

    @property
    def drawn_over(self) -> str:
        """What the intervals are drawn over, in words."""
        said = f"{self.groups} group{'' if self.groups == 1 else 's'}"
        fewer = bool(self.known) and self.groups_known < self.groups
        return f"{said} ({self.groups_known} for pixels and objects)" if fewer else said

    @property
    def rough_intervals(self) -> str:
        """Say that intervals are rough where groups are few; empty where they are enough."""
        groups = self.groups_known if self.known else self.groups
        if groups >= FEW_GROUPS:
            return ""
        if groups < 2:
            return "Intervals need at least two groups of images."
        return f"With fewer than {FEW_GROUPS} groups, intervals are rough."

    @property
    def curve(self) -> Curve | None:
        """Precision and recall of pixels at every cutoff, pooled; None when no artifact image has a mask."""
        fields = [score.field for score in self.known if score.field is not None]
        return curve_of(fields) if fields else None

    @property
    def reliability(self) -> dict[str, Reliability]:
        """How often probabilities are right: of images, where there is a classifier, and of pixels, where masks are."""
        found: dict[str, Reliability] = {}
        likely = [score for score in self.scores if score.image_probability is not None]
        if likely:
            said = np.array([score.image_probability for score in likely], dtype=np.float64)
            found["images"] = reliability(said, np.array([one.item.label == "artifact" for one in likely], np.bool_))
        fields = [score.field for score in self.known if score.field is not None]
        if fields:
            found["pixels"] = reliability_of_levels(pooled_levels(fields))
        return found

    @property
    def wrong_pixels(self) -> dict[str, int]:
        """Wrong pixels of all images with a known mask by cause, the most frequent first; empty without masks."""
        fields = [score.field for score in self.known if score.field is not None]
        sums = {cause: sum(field.wrong[cause] for field in fields) for cause in CAUSES} if fields else {}
        return dict(sorted(sums.items(), key=lambda cause: -cause[1]))

    def by_kind(self) -> KindFigures | None:
        """Figures of each kind of artifact; None where the model tells none, or no image names one."""
        return kind_figures([score.kinds for score in self.scores if score.kinds is not None], self.kinds)

    def figures(self) -> dict[str, Figure]:
        """Every pooled figure with its confidence interval over groups: images, pixels, objects."""
        truth = np.array([score.item.label == "artifact" for score in self.scores], dtype=np.bool_)
        verdict = np.array([score.verdict == "artifact" for score in self.scores], dtype=np.bool_)
        found = image_figures(truth, verdict, [score.item.group for score in self.scores])
        fields = [score.field for score in self.known if score.field is not None]
        if fields:
            found |= pixel_figures(fields, [score.item.group for score in self.known])
        return found

    def distributions(self) -> dict[str, Distribution]:
        """How figures are spread over images: of artifact images with a mask, and the area marked in clean ones."""
        spoilt = [score.pixels for score in self.known if score.item.label == "artifact" and score.pixels is not None]
        found = {
            f"artifact_images_{name}": distribution([getattr(pixels, name) for pixels in spoilt])
            for name in ("precision", "recall", "f1", "iou")
        }
        clean = [score.area_fraction for score in self.scores if score.item.label == "clean"]
        return found | {"clean_images_area_fraction": distribution(clean)}

    def summary(self) -> dict[str, object]:
        """Everything as plain values for JSON; ratios that are not defined are None."""
        labels = [score.item.label for score in self.scores]
        with_mask = [score for score in self.scores if score.pixels is not None and score.item.label == "artifact"]
        pixels = self.pixels
        by_kind = self.by_kind()
        return {
            "images_scored": len(self.scores),
            "images_clean": labels.count("clean"),
            "images_artifact": labels.count("artifact"),
            "images_artifact_with_mask": len(with_mask),
            "rule": self.rule,
            "image": as_dict(self.images),
            "image_by_objects": {"rule": RULE_OBJECTS, **as_dict(self.images_by_objects)},
            "pixel_pooled": None if pixels is None else as_dict(pixels),
            "wrong_pixels": self.wrong_pixels or None,
            "pixel_mean_of_artifact_images": {
                name: defined(mean_defined(getattr(score.pixels, name) for score in with_mask))
                for name in ("precision", "recall", "f1", "iou")
            },
            "figures": {name: _plain(figure) for name, figure in self.figures().items()},
            "intervals": "95 %, percentiles of a bootstrap that draws groups of images",
            "groups": self.groups,
            "distributions": {name: _plain(spread) for name, spread in self.distributions().items()},
            "calibration_error": {name: defined(one.error) for name, one in self.reliability.items()},
            "seconds_per_image": defined(mean_defined(score.seconds for score in self.scores)),
            "failed": [{"image": str(item.path), "reason": reason} for item, reason in self.failed],
            "audit": vars(self.audit),
            **({} if by_kind is None else {"kinds": _plain_kinds(by_kind)}),
        }


def evaluate(
    predictor: ImagePredictor,
    items: Sequence[LabelledImage],
    *,
    ignore: NDArray[np.bool_] | None = None,
    options: Options | None = None,
    plane: int | None = None,
) -> Evaluation:
    """Score a model on labelled images.

    Parameters
    ----------
    predictor : ImagePredictor
        The model.
    items : sequence of LabelledImage
        Images with labels. Every pixel of a clean image counts as clean; an artifact image without a mask counts
        for the verdicts only.
    ignore : bool array, (y, x), optional
        Pixels to leave out of scoring in every image (True = left out). The model still sees them.
    options : Options, optional
        Cutoff, smallest artifact and gate other than the model's own.
    plane : int, optional
        The plane to read from files of several planes.

    Returns
    -------
    Evaluation
        Images that cannot be read are listed in `failed` and do not end the work.

    Raises
    ------
    ArtSegError
        There are no images, or none of them could be scored.
    """
    if not items:
        raise ArtSegError("Expected images to evaluate on, but there are none. Choose another split or label file.")
    options = options or Options()
    scored = None if ignore is None else ~ignore
    scores: list[ImageScore] = []
    failed: list[tuple[LabelledImage, str]] = []
    last: Prediction | None = None
    for item in track(items, "Evaluating images", len(items)):
        try:
            last, score = _score(predictor, item, scored, options, plane)
        except ArtSegError as error:
            logger.debug("%s was not scored: %s", item.path, error)  # told at the end
            failed.append((item, str(error)))
        else:
            scores.append(score)
    if last is None:
        raise ArtSegError(f"None of the {len(items)} images could be scored; the first: {failed[0][1]}")
    audit = last.audit(predictor.model)
    rule = RULE_OBJECTS if last.gate_threshold is None else RULE_GATE
    return Evaluation(scores=tuple(scores), failed=tuple(failed), rule=rule, audit=audit, kinds=last.kinds)


def predict_item(
    predictor: ImagePredictor, item: LabelledImage, *, options: Options | None = None, plane: int | None = None
) -> tuple[NDArray[np.generic], Prediction]:
    """Read one labelled image and predict it.

    Returns
    -------
    tuple
        Pixels (y, x) as stored, and the prediction.
    """
    options = options or Options()
    image = read_image(item.path, plane=plane)
    prediction = predictor.predict(
        image.pixels,
        cutoff=options.cutoff,
        smallest_artifact_px=options.smallest_artifact_px,
        gate=options.gate,
        gate_threshold=options.gate_threshold,
        source=str(item.path),
    )
    return image.pixels, prediction


def read_ignore(path: Path) -> NDArray[np.bool_]:
    """Read a mask of pixels to leave out of scoring: True where the file is above half of its largest value."""
    pixels = read_mask_image(path)
    return pixels > pixels.max() / 2


def write_evaluation(evaluation: Evaluation, out: Path) -> tuple[Path, Path]:
    """Write `evaluation.csv`, `evaluation.json`, with masks `precision_recall.csv`, and with kinds `kinds.csv`.

    The first has a line an image, failed ones too; the second the summary: figures with intervals, distributions; the
    third precision, recall and IoU of pixels by cutoff; the fourth a line a kind of artifact.

    Returns
    -------
    tuple of Path
        The table of images and the summary.
    """
    table, summary = out / "evaluation.csv", out / "evaluation.json"
    text = io.StringIO(newline="")
    columns = [*_COLUMNS, *(_COLUMNS_OF_KINDS if evaluation.kinds else ())]
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    for score in evaluation.scores:
        writer.writerow(_row(score, evaluation.audit))
    for item, reason in evaluation.failed:
        writer.writerow({**_identity(item, evaluation.audit), "error": reason})
    write_text(table, text.getvalue())
    write_json(summary, evaluation.summary())
    curve = evaluation.curve
    if curve is not None:
        write_text(out / "precision_recall.csv", curve_table(curve, model=_identity_of(evaluation.audit)))
    by_kind = evaluation.by_kind()
    if by_kind is not None:
        write_text(out / "kinds.csv", _kinds_table(by_kind, evaluation.audit))
    return table, summary


def curve_table(curve: Curve, *, model: Mapping[str, str | float]) -> str:
    """Write a precision-recall curve as CSV: cutoff, precision, recall, IoU, and in each row which model's it is.

    The model's own cutoff is `model_cutoff`, beside the `cutoff` of the row.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["cutoff", "precision", "recall", "iou", *model])
    for values in zip(curve.cutoff, curve.precision, curve.recall, curve.iou, strict=True):
        writer.writerow([*(f"{value:.6g}" for value in values), *model.values()])
    return text.getvalue()


def as_dict(counts: Counts) -> dict[str, float | int | None]:
    """Give counts and their ratios as plain values; ratios that are not defined are None."""
    return {
        "precision": defined(counts.precision),
        "recall": defined(counts.recall),
        "f1": defined(counts.f1),
        "iou": defined(counts.iou),
        **vars(counts),
    }


def defined(value: float) -> float | None:
    """Return the value, or None where it is not defined (NaN)."""
    return None if math.isnan(value) else value


_COLUMNS: tuple[str, ...] = (
    "image",
    "group",
    "split",
    "label",
    "verdict",
    "verdict_by_objects",
    "image_probability",
    "objects",
    "area_fraction",
    "precision",
    "recall",
    "f1",
    "iou",
    "true_positive",
    "false_positive",
    "false_negative",
    "true_negative",
    "true_objects",
    "average_object_iou",
    *(f"wrong_{cause}" for cause in CAUSES),
    "seconds",
    "error",
    "model_id",
    "model_sha256",
    "cutoff",
    "artseg_version",
)
_COLUMNS_OF_KINDS = ("kinds", "kinds_found")


def _score(
    predictor: ImagePredictor,
    item: LabelledImage,
    scored: NDArray[np.bool_] | None,
    options: Options,
    plane: int | None,
) -> tuple[Prediction, ImageScore]:
    _, prediction = predict_item(predictor, item, options=options, plane=plane)
    labels = prediction.labels
    if scored is None:
        scored = np.ones(labels.shape, dtype=np.bool_)
    elif scored.shape != labels.shape:
        raise ArtSegError(
            f"Expected an image of the shape of the ignore mask, {scored.shape}, but {item.path.name} is "
            f"{labels.shape}. Give a mask that was drawn for these images."
        )
    sizes = np.bincount(labels[scored], minlength=1)[1:]
    survived = sizes >= max(1, prediction.smallest_artifact_px)
    objects = int(np.count_nonzero(survived))
    by_objects: Label = "artifact" if objects else "clean"
    by_gate: Label = "artifact" if prediction.gate_open else "clean"
    known = item.label == "clean" or item.mask is not None
    score = ImageScore(
        item=item,
        verdict=by_objects if prediction.gate_threshold is None else by_gate,
        verdict_by_objects=by_objects,
        image_probability=prediction.image_probability,
        objects=objects,
        area_fraction=float(np.mean(prediction.mask[scored])) if scored.any() else 0.0,
        field=score_field(
            read_mask(item, shape=labels.shape),
            labels,
            prediction.probability,
            gate_open=prediction.gate_open,
            valid=scored,
        )
        if known
        else None,
        seconds=prediction.seconds,
        kinds=score_kinds(item, prediction, survived=survived, scored=scored) if prediction.kinds else None,
    )
    return prediction, score


def _verdicts(scores: Sequence[ImageScore], verdicts: Sequence[Label]) -> Counts:
    return count_agreement(
        np.array([score.item.label == "artifact" for score in scores], dtype=np.bool_),
        np.array([verdict == "artifact" for verdict in verdicts], dtype=np.bool_),
    )


def _identity(item: LabelledImage, audit: Audit) -> dict[str, object]:
    return {
        "image": str(item.path),
        "group": item.group,
        "split": item.split or "",
        "label": item.label,
        "model_id": audit.model_id,
        "model_sha256": audit.model_sha256,
        "cutoff": audit.cutoff,
        "artseg_version": audit.artseg_version,
    }


def _identity_of(audit: Audit) -> dict[str, str | float]:
    return {
        "model_id": audit.model_id,
        "model_sha256": audit.model_sha256,
        "model_cutoff": audit.cutoff,
        "artseg_version": audit.artseg_version,
    }


def _row(score: ImageScore, audit: Audit) -> dict[str, object]:
    row = _identity(score.item, audit) | {
        "verdict": score.verdict,
        "verdict_by_objects": score.verdict_by_objects,
        "image_probability": score.image_probability,
        "objects": score.objects,
        "area_fraction": f"{score.area_fraction:.6f}",
        "seconds": f"{score.seconds:.3f}",
    }
    if score.pixels is not None:
        row |= as_dict(score.pixels)
    if score.field is not None:
        row["average_object_iou"] = defined(mean_defined(score.field.overlaps))
        row["true_objects"] = score.field.overlaps.size
        row |= {f"wrong_{cause}": pixels for cause, pixels in score.field.wrong.items()}
    if score.kinds is not None:
        row |= {"kinds": ";".join(score.item.kinds), "kinds_found": ";".join(score.kinds.found)}
    return row


def _plain_kinds(found: KindFigures) -> dict[str, object]:
    return {
        "rule": RULE_KINDS,
        "images_scored": found.images,
        "images_left_out_without_named_kind": found.unnamed,
        "images_artifact_with_masks_by_kind": found.drawn,
        "kinds_unknown_to_the_model": list(found.unknown),
        "by_kind": {
            score.kind: {
                "image": as_dict(score.images),
                "image_f1": _plain(score.image_f1),
                "classifier_average_precision": defined(score.average_precision),
                "pixel_pooled": None if score.pixels is None else as_dict(score.pixels),
            }
            for score in found.scores
        },
        "average_over_kinds": {name: defined(value) for name, value in found.averages().items()},
        "pixels_taken_for": {
            kind: dict(zip((*(f"found as {one}" for one in found.kinds), "not found"), row.tolist(), strict=True))
            for kind, row in zip(found.true_kinds, found.taken_for, strict=True)
        }
        if found.drawn
        else None,
    }


def _kinds_table(found: KindFigures, audit: Audit) -> str:
    """Write a line a kind as CSV; kinds that the model does not tell have their pixels alone."""
    columns = (*(f"pixels_found_as_{kind}" for kind in found.kinds), "pixels_not_found")
    rows: dict[str, dict[str, object]] = {kind: {"kind": kind} for kind in found.true_kinds}
    for score in found.scores:
        for prefix, counts in (("image", score.images), ("pixel", score.pixels)):
            if counts is not None:
                rows[score.kind] |= {f"{prefix}_{name}": value for name, value in as_dict(counts).items()}
        rows[score.kind] |= {
            "image_f1_low": defined(score.image_f1.low),
            "image_f1_high": defined(score.image_f1.high),
            "classifier_average_precision": defined(score.average_precision),
        }
    if found.drawn:
        for kind, row in zip(found.true_kinds, found.taken_for.tolist(), strict=True):
            rows[kind] |= dict(zip(columns, row, strict=True))
    counted = tuple(as_dict(Counts()))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text,
        [
            "kind",
            *(f"image_{name}" for name in counted),
            "image_f1_low",
            "image_f1_high",
            "classifier_average_precision",
            *(f"pixel_{name}" for name in counted),
            *columns,
            *_identity_of(audit),
        ],
        lineterminator="\n",
    )
    writer.writeheader()
    writer.writerows(row | _identity_of(audit) for row in rows.values())
    return text.getvalue()


def _plain(values: Figure | Distribution) -> dict[str, float | int | None]:
    return {name: value if isinstance(value, int) else defined(value) for name, value in values._asdict().items()}
