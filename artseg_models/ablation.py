"""What each part of the preset `best` is worth: trainings with and without it, scored on the same test images.

Networks that two trainings have in common are trained once: a rung that changes nothing before the U-Net takes the
classifier and its evidence from an earlier one.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artseg_models.errors import ArtSegError
from artseg_models.evaluate import defined, evaluate
from artseg_models.files import read_json, write_json, write_text
from artseg_models.images import read_image, read_mask_image
from artseg_models.labels import LabelledImage, LabelSet, read_labels, read_mask, with_splits
from artseg_models.methods import configure, train
from artseg_models.methods.predictor import open_model
from artseg_models.methods.requirements import require_what_is_asked
from artseg_models.report.errors import write_errors_figure
from artseg_models.study import paper
from artseg_models.training.configuration import QUICK_CLASSIFIER, merged
from artseg_models.training.cutoffs import pooled_iou
from artseg_models.training.fields import binned

_POSITIONS = {
    "classifier": {**QUICK_CLASSIFIER, "layers": 4, "positions": 0},
    "scorecam": {"source": "scorecam", "turned": False, "attributed": False},
    "refinement": {"looks": 1, "edges": "contrast"},
}
_TURNED = {"scorecam": {"turned": False}}
_ATTRIBUTED = {"scorecam": {"attributed": False}}
_EVIDENCE = {"refinement": {"edges": "evidence"}}
_PEAK = {"refinement": {"peak": 0.0}}
_LOOKS = {"refinement": {"looks": 1}}
_CONVINCING = {"refinement": {"convincing": 0.0}}
_NORMALITY = {"refinement": {"normality": None}}
_INVENTED = {"synthesis": {"invented": 0.5}}
_PASTING = {"synthesis": {"unet": 0.0}}
_SELF = {"self_training": {"rounds": 1}}
_COUNTERFACTUALS = {"synthesis": {"classifier": 0.0}, "gate": "classifier", "calibrate": False}
_LABELS_ALONE = merged(_PASTING, _COUNTERFACTUALS)
_LABELS_OF_CLASSIFIER = merged(_LABELS_ALONE, _NORMALITY)
_LOOKED_AGAIN = merged(_LABELS_OF_CLASSIFIER, _CONVINCING)
_FIRST_LOOK = merged(_LOOKED_AGAIN, _LOOKS)


@dataclass(frozen=True)
class Rung:
    """One training of the ladder.

    Attributes
    ----------
    name, title : str
        Of its folder, and in tables and figures.
    method, preset : str
        As for `artseg_models.methods.train`.
    settings : mapping
        What it changes in the preset.
    """

    name: str
    title: str
    method: str = "scorecam-unet"
    preset: str = "best"
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


#: From the paper's chain on small networks up to everything, everything without one part, and full supervision.
RUNGS: tuple[Rung, ...] = (
    Rung("supervised", "U-Net on drawn masks", method="unet"),
    Rung("quick", "evidence at its cutoff = quick", preset="quick"),
    Rung(
        "positions",
        "+ few positions answer, and are the evidence",
        settings=merged(merged(merged(_FIRST_LOOK, _EVIDENCE), _ATTRIBUTED), _TURNED),
    ),
    Rung(
        "turned",
        "+ of the image turned and mirrored",
        settings=merged(merged(_FIRST_LOOK, _EVIDENCE), _ATTRIBUTED),
    ),
    Rung("attributed", "+ by what pixels contribute", settings=merged(_FIRST_LOOK, _EVIDENCE)),
    Rung("edges", "+ drawn to edges where views agree on them", settings=merged(_FIRST_LOOK, _PEAK)),
    Rung("peak", "+ only where evidence is strong", settings=_FIRST_LOOK),
    Rung("looks", "+ what was found painted out, looked again", settings=_LOOKED_AGAIN),
    Rung("convincing", "+ parts that convince alone", settings=_LABELS_OF_CLASSIFIER),
    Rung("normality", "+ what no clean image shows", settings=_LABELS_ALONE),
    Rung("pasting", "+ artifacts pasted on clean images", settings=_COUNTERFACTUALS),
    Rung("best", "+ counterfactuals, gate where needed, calibrated = best"),
    Rung("without_positions", "best without few positions: ScoreCAM of quick's classifier", settings=_POSITIONS),
    Rung("without_turned", "best with evidence of the image as it is", settings=_TURNED),
    Rung("without_attributed", "best without what pixels contribute", settings=_ATTRIBUTED),
    Rung("without_edges", "best without edges", settings=_EVIDENCE),
    Rung("without_peak", "best without a peak that is asked for", settings=_PEAK),
    Rung("without_looks", "best with one look", settings=_LOOKS),
    Rung("without_convincing", "best without the test of parts", settings=_CONVINCING),
    Rung("without_normality", "best without what no clean image shows", settings=_NORMALITY),
    Rung("without_pasting", "best without pasting", settings=_PASTING),
    Rung("always_edges", "best, always drawn to edges", settings={"refinement": {"edges": "contrast"}}),
    Rung("all_marked", "best, unmarked pixels of artifact images as clean", settings={"unet": {"unmarked": 1.0}}),
    Rung("own_scale", "best, evidence measured by each image alone", settings={"refinement": {"scale": "image"}}),
    Rung("without_repeat", "best with as many images as the rarer class has", settings={"balance": "sample"}),
    Rung("invented", "best, half of the pasted artifacts invented", settings=_INVENTED),
    Rung("self_training", "best and one round of self-training", settings=_SELF),
    Rung("masks_5", "best and 5 drawn masks", settings={"masks": 5}),
    Rung("masks_10", "best and 10 drawn masks", settings={"masks": 10}),
    Rung("masks_20", "best and 20 drawn masks", settings={"masks": 20}),
    Rung(
        "without_redrawn",
        "best and 10 drawn masks, labels of other images as they are",
        settings={"masks": 10, "refinement": {"redrawn": 0.0}},
    ),
)


@dataclass(frozen=True)
class Scored:
    """A rung and how it did; figures are None where it was not run.

    Attributes
    ----------
    rung : Rung
        The training.
    seed : int
        Its seed.
    minutes : float or None
        Of an expert's time: the labels and masks that it learned from.
    image_f1, precision, recall, iou, iou_low, iou_high : float or None
        On the test images; the others of pixels, and 95 % limits of the last.
    label_iou : float or None
        Of the pseudo-labels of the validation images that have masks: what the U-Net had to learn from.
    ratio : float or None
        IoU against that of `supervised` with the same seed.
    """

    rung: Rung
    seed: int
    minutes: float | None = None
    image_f1: float | None = None
    precision: float | None = None
    recall: float | None = None
    iou: float | None = None
    iou_low: float | None = None
    iou_high: float | None = None
    label_iou: float | None = None
    ratio: float | None = None


def run_ablation(
    labels: Path,
    out: Path,
    *,
    seeds: Sequence[int] = (0,),
    rungs: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    ignore: NDArray[Any] | None = None,
    minutes: float | None = None,
) -> list[Scored]:
    """Train and score every rung, or go on where an earlier call stopped.

    Parameters
    ----------
    labels : Path
        With masks for the test images; for the rung `supervised` for all artifact images.
    out : Path
        Gets a folder for each seed and rung, with its run, ``scores.json`` and ``errors.png``; and ``ablation.csv``.
    seeds : sequence of int
        Of the trainings.
    rungs : sequence of str
        Names out of `RUNGS`; all by default.
    overrides : mapping, optional
        Settings of all rungs, such as smaller networks; each rung takes those that its method has.
    ignore : bool array, (y, x), optional
        Pixels that are not scored.
    minutes : float, optional
        Begin no training after this time.

    Returns
    -------
    list of Scored
        Every rung of these seeds, and of those that the folder knows from before, run or not.

    Raises
    ------
    ArtSegError
        A rung is not known, labels or settings cannot be used, or the labels lack masks to score by: before anything
        is trained.
    """
    known = {rung.name: rung for rung in RUNGS}
    unknown = [name for name in rungs if name not in known]
    if unknown:
        raise ArtSegError(f"Expected rungs out of {', '.join(known)}, got {', '.join(unknown)}.")
    chosen = [known[name] for name in rungs] or list(RUNGS)
    _check_labels(labels, out, chosen, seeds, overrides=overrides or {}, minutes=minutes)
    begun = time.monotonic()
    for seed in seeds:
        for rung in chosen:
            folder = _folder(out, rung, seed)
            late = minutes is not None and time.monotonic() - begun > 60 * minutes
            if not (folder / "scores.json").exists() and not late:
                _do(labels, folder, rung, seed=seed, overrides=overrides or {}, ignore=ignore)
    names = (folder.name.removeprefix("seed-") for folder in out.glob("seed-*"))
    there = {int(name) for name in names if name.isdecimal()}
    found = [one for seed in sorted({*seeds, *there}) for one in _scored(out, RUNGS, seed)]
    _write(found, out)
    return found


def _check_labels(
    labels: Path,
    out: Path,
    chosen: Sequence[Rung],
    seeds: Sequence[int],
    *,
    overrides: Mapping[str, Any],
    minutes: float | None,
) -> None:
    """Refuse labels that lack masks to score by, or to learn from, before the first of many trainings."""
    to_do = [
        (seed, rung)
        for seed in seeds
        for rung in chosen
        if minutes != 0 and not (_folder(out, rung, seed) / "scores.json").exists()
    ]
    if not to_do:
        return
    known = read_labels(labels)
    split = {seed: with_splits(known, seed=seed) for seed in dict.fromkeys(seed for seed, _ in to_do)}
    for seed in split:
        if not any(item.mask is not None for item in _test_images(known, seed) if item.label == "artifact"):
            raise _no_masks_to_score_by(labels)
    for seed, rung in to_do:
        settings = configure(
            rung.preset, method=rung.method, seed=seed, overrides=_settings(rung, seed=seed, overrides=overrides)
        )
        try:
            require_what_is_asked(split[seed], settings)
        except ArtSegError as error:
            raise ArtSegError(f"{error} The rung {rung.name} asks for it; --rung names those to train.") from error


def _folder(out: Path, rung: Rung, seed: int) -> Path:
    return out / f"seed-{seed}" / rung.name


def _test_images(known: LabelSet, seed: int) -> Sequence[LabelledImage]:
    """Give the images to score on: the test split of the labels, else the one that training draws."""
    return known.of_split("test") or with_splits(known, seed=seed).of_split("test")


def _no_masks_to_score_by(labels: Path) -> ArtSegError:
    return ArtSegError(
        f"Expected test images with masks in {labels} to score by, but no artifact image of the test split has one. "
        "Draw masks of some (the tab Masks of `artseg label`, or `artseg labels import`)."
    )


def _settings(rung: Rung, *, seed: int, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Take those of the common settings that a rung's method has, and what the rung is about above them."""
    names = configure(rung.preset, method=rung.method, seed=seed).model_dump().keys()
    return merged({name: value for name, value in overrides.items() if name in names}, rung.settings)


def _do(
    labels: Path,
    folder: Path,
    rung: Rung,
    *,
    seed: int,
    overrides: Mapping[str, Any],
    ignore: NDArray[Any] | None,
) -> None:
    settings = _settings(rung, seed=seed, overrides=overrides)
    run = folder / "run"
    known = _known(folder, rung, seed=seed, settings=settings)
    train(labels, run, method=rung.method, preset=rung.preset, seed=seed, overrides=settings, known=known)
    model = open_model(run)
    evaluation = evaluate(model, _test_images(read_labels(labels), seed), ignore=ignore)
    if evaluation.pixels is None:  # those that have a mask could not be read
        raise _no_masks_to_score_by(labels)
    write_errors_figure(model, evaluation, folder / "errors.png", ignore=ignore)
    figures = evaluation.figures()
    write_json(
        folder / "scores.json",
        {
            "minutes": _minutes(run, settings),
            "image_f1": defined(figures["image_f1"].value),
            "precision": defined(evaluation.pixels.precision),
            "recall": defined(evaluation.pixels.recall),
            "iou": defined(figures["pixel_iou"].value),
            "iou_low": defined(figures["pixel_iou"].low),
            "iou_high": defined(figures["pixel_iou"].high),
            "label_iou": _label_iou(run),
        },
    )


def _label_iou(run: Path) -> float | None:
    """Hold the pseudo-labels of validation images against their masks, where there are any; nothing learned from it."""
    configuration = read_json(run / "configuration.json")
    pairs: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = []
    for index, item in enumerate(read_labels(run / "splits.csv").of_split("validation")):
        drawn = sorted((run / "pseudo_masks" / "validation").glob(f"{index:06d}_*.png"))
        if item.mask is None or not drawn:
            continue
        pixels = read_image(item.path, plane=configuration["plane"]).pixels
        mask = read_mask(item, shape=(pixels.shape[0], pixels.shape[1])).astype(np.float32)
        pairs.append((binned(mask, configuration["resolved_binning"]) >= 0.5, read_mask_image(drawn[0]) > 0))
    return pooled_iou(*zip(*pairs, strict=True)) if pairs else None


def _minutes(run: Path, settings: Mapping[str, Any]) -> float:
    """Minutes that an expert spent on what a run learned from, at the paper's seconds a label and a mask."""
    items = [item for item in read_labels(run / "splits.csv").images if item.split != "test"]
    masks = int(settings.get("masks", 0))
    if read_json(run / "configuration.json")["method"] == "unet":
        masks = sum(item.label == "artifact" for item in items)
    return (len(items) * paper.SECONDS_A_LABEL + masks * paper.SECONDS_A_MASK) / 60


def _known(folder: Path, rung: Rung, *, seed: int, settings: Mapping[str, Any]) -> dict[str, Path]:
    """Find networks that a finished rung of this seed has trained as this one would, by their names in this one."""
    content = configure(rung.preset, method=rung.method, seed=seed, overrides=settings).model_dump(mode="json")
    wanted = _stages_of({**content, "method": rung.method})
    known: dict[str, Path] = {}
    for other in RUNGS:
        run = folder.parent / other.name / "run"
        if other.name == rung.name or not (run / "result.json").exists():
            continue
        for name, made_from in _stages_of(read_json(run / "configuration.json")).items():
            stage = next((stage for stage, one in wanted.items() if one == made_from), None)
            if stage is None or stage in known or (run / name / "uncalibrated.pt").exists():
                continue
            known[stage] = run / name
    return known


def _stages_of(configuration: Mapping[str, Any]) -> dict[str, str]:
    """Say for each network of a run what it was made from, as text that is equal where the networks are."""
    if configuration["method"] != "scorecam-unet":
        return {}
    common = {name: configuration[name] for name in ("seed", "binning", "plane", "balance", "precision")}
    common["kinds"] = configuration.get("kinds", False)  # other methods and older runs know none
    first = {**common, "classifier": configuration["classifier"]}
    twice = configuration["synthesis"]["classifier"] > 0
    stages = {"first_classifier" if twice else "classifier": first}
    evidence = {name: value for name, value in configuration["scorecam"].items() if name != "cutoff"}
    stages["scorecam"] = {**first, "evidence": evidence}
    labels = {**first, **{name: configuration[name] for name in ("scorecam", "refinement", "unet", "masks")}}
    learned = {**labels, "pasted": {key: configuration["synthesis"][key] for key in ("unet", "invented")}}
    again, rounds = configuration["self_training"], configuration["self_training"]["rounds"]
    for number in range(rounds + 1):
        made_from = {**learned, "rounds": number, "again": again if number else None}
        # how often it goes on after this round does not change this round
        if number:
            made_from["again"] = {**again, "rounds": number}
        stages["unet" if number == rounds else f"unet_round_{number}"] = made_from
    return {name: json.dumps(made_from, sort_keys=True) for name, made_from in stages.items()}


def _scored(out: Path, rungs: Sequence[Rung], seed: int) -> list[Scored]:
    values: dict[str, Mapping[str, Any]] = {}
    for rung in rungs:
        file = out / f"seed-{seed}" / rung.name / "scores.json"
        values[rung.name] = read_json(file) if file.exists() else {}
    full = values.get("supervised", {}).get("iou")
    return [
        Scored(
            rung,
            seed,
            **values[rung.name],
            ratio=values[rung.name]["iou"] / full if full and values[rung.name].get("iou") is not None else None,
        )
        for rung in rungs
    ]


def _write(found: Sequence[Scored], out: Path) -> None:
    text = io.StringIO(newline="")
    names = ["minutes", "image_f1", "precision", "recall", "iou", "iou_low", "iou_high", "label_iou", "ratio"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rung", "seed", "state", *names])
    for one in found:
        state = "not run" if one.iou is None else "scored"
        writer.writerow([one.rung.name, one.seed, state, *(getattr(one, name) for name in names)])
    write_text(out / "ablation.csv", text.getvalue())
