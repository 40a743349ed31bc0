"""A run is a folder: frozen settings, each stage's output, the result. A killed run goes on where it was."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from artseg_models import __version__
from artseg_models.errors import ArtSegError
from artseg_models.files import read_json, write_json
from artseg_models.images import BrightfieldImage, read_image, write_image
from artseg_models.labels import (
    LabelSet,
    is_simulated,
    kinds_of,
    read_labels,
    require_both_classes,
    with_splits,
    write_labels,
)
from artseg_models.methods import autoencoder, padim, patch_svdd, scorecam, scorecam_unet, unet
from artseg_models.methods.protocol import Fitted, Found, Method, Recipe
from artseg_models.methods.requirements import require_what_is_asked
from artseg_models.metrics import count_agreement
from artseg_models.predict import artifact_objects, resolve_device
from artseg_models.progress import track
from artseg_models.run_folder import result_of
from artseg_models.training.chance import warn_of_chance
from artseg_models.training.configuration import RunSettings, SegmenterSettings, SupervisedSettings, configured
from artseg_models.training.cutoffs import (
    CUTOFFS,
    Cutoffs,
    best_gate_threshold,
    choose_by_images,
    choose_by_labels,
    choose_by_masks,
    cutoffs_of_scores,
    not_told_apart,
    pooled_iou,
)
from artseg_models.training.fields import Split, require_masks
from artseg_models.training.loop import hardware_name

logger = logging.getLogger(__name__)

#: Every method by its name.
METHODS: Mapping[str, Recipe] = {
    module.RECIPE.name: module.RECIPE for module in (scorecam_unet, unet, scorecam, autoencoder, padim, patch_svdd)
}
DEFAULT_METHOD = "scorecam-unet"


def recipe_of(method: str) -> Recipe:
    """Find a method by its name.

    Raises
    ------
    ArtSegError
        There is none of this name.
    """
    if method not in METHODS:
        raise ArtSegError(f"Expected a method out of {', '.join(METHODS)}, got {method!r}.")
    return METHODS[method]


def configure(
    preset: str, *, method: str = DEFAULT_METHOD, seed: int = 0, overrides: Mapping[str, Any] | None = None
) -> RunSettings:
    """Take the settings of a method's preset and change some of them.

    Parameters
    ----------
    preset : str
        "paper" (the parameters of the method's own paper, and Ali et al.'s cutoffs), "quick" (small networks on
        binned images, cutoffs chosen on validation: minutes on a laptop) or, for unet and scorecam-unet, "best" (as
        quick, with a U-Net that is trained longer and, for scorecam-unet, what brings its masks near drawn ones).
    method : str
        One of `METHODS`.
    seed : int
        Seed of every random choice.
    overrides : mapping, optional
        Nested, e.g. ``{"classifier": {"depth": 18}}``.

    Raises
    ------
    ArtSegError
        No such method, preset or setting, or a value out of range.
    """
    recipe = recipe_of(method)
    return configured(recipe.settings, recipe.presets, preset, seed=seed, overrides=overrides)


def train(
    labels: Path,
    run: Path,
    *,
    method: str = DEFAULT_METHOD,
    preset: str = "quick",
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    known: Mapping[str, Path] | None = None,
) -> Path:
    """Train a method into a run folder, or finish a run that was killed.

    Images of the test split are never read. Masks are read only for a method that learns from them, or where
    ``choose_by`` asks to choose cutoffs by those of the validation images.

    Parameters
    ----------
    labels : Path
        ``labels.csv``, a folder with ``clean/`` and ``artifact/``, or one in the layout of ArtSeg-CHO-M4R.
    run : Path
        The run folder. An unfinished run of the same settings and labels goes on; of others, it is refused. At the
        end it has the method's weights, ``sample.tiff`` (a validation image with an artifact), ``result.json`` and
        ``cost.json`` (seconds of the sessions that ended by themselves).
    method : str
        One of `METHODS`.
    preset : {"quick", "best", "paper"}
        See `configure`.
    seed : int
        Seed of every random choice, the split included where the labels have none.
    overrides : mapping, optional
        Changes of single settings.
    known : mapping of str to Path, optional
        Folders to take instead of making them, by their names in the run folder: networks that another run trained
        on the same labels with the same settings.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    ArtSegError
        Labels or images cannot be used, or the folder holds another run.
    """
    recipe = recipe_of(method)
    settings = configure(preset, method=method, seed=seed, overrides=overrides)
    labelled = with_splits(read_labels(labels), seed=seed)
    _check_labels(labelled, recipe, settings)
    require_what_is_asked(labelled, settings)
    settings = _with_named_kinds(settings, labelled)
    binning = settings.binning
    if binning is None:
        longer = max(read_image(labelled.images[0].path, plane=settings.plane).pixels.shape)
        binning = max(1, round(longer / recipe.quick_side))
    frozen = {
        "artseg": __version__,
        "method": method,
        "labels": {
            "source": labelled.source.name,
            "sha256": _fingerprint(labelled, kinds=bool(_kinds_asked_for(settings))),
        },
        "resolved_binning": binning,
        **settings.model_dump(mode="json"),
    }
    written = run / "configuration.json"
    if written.exists():
        _require_same_run(_completed(read_json(written), type(settings)), frozen, run)
    elif run.exists() and any(run.iterdir()):
        raise ArtSegError(
            f"Expected a new or empty folder, or one of an ArtSeg run, but {run} holds other files. "
            "Choose another folder."
        )
    else:
        write_json(written, frozen)
        write_labels(run / "splits.csv", labelled.images)
    for name, folder in (known or {}).items():
        if not (run / name).exists():
            shutil.copytree(folder, run / name)
    if (run / "result.json").exists():
        logger.info("%s is finished already", run)
        return run
    started = time.perf_counter()
    try:
        _train(labelled, run, recipe, settings, binning)
    finally:
        _add_cost(run / "cost.json", time.perf_counter() - started, settings.device)
    return run


@dataclass(frozen=True)
class FinishedRun:
    """A trained method, out of its run folder.

    Attributes
    ----------
    folder : Path
        The run folder.
    method : Method
        Ready to predict.
    settings : RunSettings
        As it was trained.
    binning : int
        Pixels averaged into one along y and x.
    result : mapping
        The content of ``result.json``.
    """

    folder: Path
    method: Method
    settings: RunSettings
    binning: int
    result: Mapping[str, Any]


def read_finished_run(folder: Path, *, device: str = "auto") -> FinishedRun:
    """Load the method that was trained into a run folder.

    Parameters
    ----------
    folder : Path
        Of `train`.
    device : {"auto", "cuda", "mps", "cpu"}
        Where it is to predict.

    Raises
    ------
    ArtSegError
        The run is unfinished or damaged, or the device is not there.
    """
    result, frozen = result_of(folder), read_json(folder / "configuration.json")
    recipe = recipe_of(str(frozen.get("method")))
    known = {name: value for name, value in frozen.items() if name in recipe.settings.model_fields}
    settings = configured(recipe.settings, {"run": {}}, "run", seed=frozen["seed"], overrides=known)
    binning = int(frozen["resolved_binning"])
    method = recipe.make(settings, binning, resolve_device(device))
    method.restore(folder)
    return FinishedRun(folder, method, settings, binning, result)


def _check_labels(labels: LabelSet, recipe: Recipe, settings: RunSettings) -> None:
    """Refuse labels that lack what the method, or the choice of its cutoffs, needs: before any image is read."""
    if recipe.learns_from == "clean":
        if not any(item.label == "clean" for item in labels.of_split("train")):
            raise ArtSegError(f"{labels.source}: expected clean images in the train split to learn from, got none.")
    else:
        require_both_classes(labels, split="train")
    require_both_classes(labels, split="validation")
    if recipe.learns_from == "masks":
        require_masks(labels.of_split("train"), f"of the train split, which {recipe.name} learns from")
    if recipe.learns_from == "masks" or settings.choose_by == "masks":
        require_masks(labels.of_split("validation"), "of the validation split, to choose cutoffs by masks")


def _kinds_asked_for(settings: RunSettings) -> bool | tuple[str, ...]:
    return settings.kinds if isinstance(settings, SegmenterSettings) else False


def _with_named_kinds(settings: RunSettings, labels: LabelSet) -> RunSettings:
    """Put the names of the kinds into settings that ask for those of the labels; refuse names that no label has."""
    asked = _kinds_asked_for(settings)
    if asked is False:
        return settings
    there = kinds_of(labels.of_split("train"))
    chosen = there if asked is True else asked
    if len(set(chosen)) < 2 or not set(chosen) <= set(there):
        raise ArtSegError(
            f"Expected at least two kinds of artifact to tell apart, in the column kinds of {labels.source} (such as "
            f"dust;fibre) and in images of the train split, got {', '.join(there) or 'none'}"
            + ("" if asked is True else f"; asked for: {', '.join(chosen)}")
            + ". Name them, or train without kinds."
        )
    return settings.model_copy(update={"kinds": chosen})


def _train(labels: LabelSet, run: Path, recipe: Recipe, settings: RunSettings, binning: int) -> None:
    method = recipe.make(settings, binning, resolve_device(settings.device))
    items = labels.of_split("train")
    if recipe.learns_from == "clean":
        items = tuple(item for item in items if item.label == "clean")
    cache = run / "cache"
    training = Split.read(items, cache / "train", binning=binning, plane=settings.plane)
    validation = Split.read(labels.of_split("validation"), cache / "validation", binning=binning, plane=settings.plane)
    fitted = method.fit(training, validation, run)
    found = [
        method.predict(validation.images[index])
        for index in track(range(len(validation)), "Predicting the validation images", len(validation))
    ]
    gate = _gate(found, validation, fitted.trials)
    chosen = _choose(recipe, settings, fitted, found, validation, gate)
    if gate.threshold is not None and isinstance(settings, SupervisedSettings) and settings.gate == "where-needed":
        alone = _choose(recipe, settings, fitted, found, validation, _NO_GATE)
        # a classifier that looks at an artifact's company is told by images that were changed
        made = [one for one, _ in fitted.trials]
        ways = [(_NO_GATE, alone), (gate, chosen)]
        as_good = not_told_apart(
            np.array([_verdicts(found, cutoffs, one, binning) for one, cutoffs in ways]),
            validation.artifact,
            np.array([_verdicts(made, cutoffs, one, binning) for one, cutoffs in ways]),
            np.array([artifact for _, artifact in fitted.trials], np.bool_),
        )
        if as_good[0]:
            gate, chosen = _NO_GATE, alone
    verdicts = _verdicts(found, chosen, gate, binning)
    sample = _sample(validation, found, settings)
    write_image(run / "sample.tiff", sample.pixels, pixel_size_um=sample.pixel_size_um)
    measured: dict[str, float] = {"image_f1": _image_f1(validation, verdicts)}
    scores = [one.map.max() if one.image_probability is None else one.image_probability for one in found]
    warn_of_chance(np.array(scores, np.float64), validation.artifact)
    if fitted.pseudo_labels is not None:
        predicted = [(one.map >= chosen.cutoff) & gate.passes(one) for one in found]
        measured["pseudo_label_iou"] = pooled_iou(fitted.pseudo_labels, predicted)
    write_json(
        run / "result.json",
        {
            "name": run.name,
            "method": recipe.name,
            **fitted.networks,
            "cutoff": chosen.cutoff,
            "smallest_artifact_px": chosen.smallest_artifact_px,
            "gate_threshold": gate.threshold,
            "pixel_size_um": sample.pixel_size_um,
            "training": {
                "source": labels.source.resolve().parent.name if labels.source.is_file() else labels.source.name,
                "simulated": is_simulated(labels.source),
                "preset": settings.preset,
                "seed": settings.seed,
                "epochs": fitted.epochs,
                "counts": {
                    name: {"clean": int((~split.artifact).sum()), "artifact": int(split.artifact.sum())}
                    for name, split in (("train", training), ("validation", validation))
                },
            },
            **fitted.notes,
            "validation": {name: value for name, value in measured.items() if value == value},
        },
    )
    shutil.rmtree(cache)


@dataclass(frozen=True)
class _Gate:
    """What lets an image pass to the U-Net: the classifier's probability of artifact, from the threshold on."""

    threshold: float | None

    def passes(self, one: Found) -> bool:
        """Whether there is no gate, or it opens."""
        return self.threshold is None or (one.image_probability or 0.0) >= self.threshold


_NO_GATE = _Gate(None)


def _gate(found: list[Found], validation: Split, trials: Sequence[tuple[Found, bool]]) -> _Gate:
    """Choose the gate of a method with a classifier."""
    probabilities = [one.image_probability for one in found if one.image_probability is not None]
    if len(probabilities) < len(found):
        return _NO_GATE
    made = [(one.image_probability or 0.0, artifact) for one, artifact in trials]
    return _Gate(best_gate_threshold(np.array(probabilities), validation.artifact, trials=made))


def _choose(
    recipe: Recipe,
    settings: RunSettings,
    fitted: Fitted,
    found: list[Found],
    validation: Split,
    gate: _Gate,
) -> Cutoffs:
    maps = [one.map for one in found]
    gate_open = np.array([gate.passes(one) for one in found], np.bool_)
    area = validation.binning**2
    # scores have no natural cutoffs, probabilities do
    cutoffs = cutoffs_of_scores(maps) if recipe.learns_from == "clean" else CUTOFFS
    if settings.choose_by == "masks":
        return choose_by_masks(
            maps,
            masks=validation.masks(),
            gate_open=gate_open,
            area_of_pixel=area,
            cutoff=settings.cutoff,
            smallest_artifact_px=settings.smallest_artifact_px,
            cutoffs=cutoffs,
        )
    if fitted.pseudo_labels is not None:
        return choose_by_labels(
            maps,
            pseudo_labels=fitted.pseudo_labels,
            artifact=validation.artifact,
            gate_open=gate_open,
            area_of_pixel=area,
            cutoff=settings.cutoff,
            smallest_artifact_px=settings.smallest_artifact_px,
            trials=[(one.map, artifact) for one, artifact in fitted.trials if gate.passes(one)],
            unmarked=fitted.unmarked,
        )
    return choose_by_images(
        maps,
        artifact=validation.artifact,
        area_of_pixel=area,
        cutoff=settings.cutoff,
        smallest_artifact_px=settings.smallest_artifact_px,
        cutoffs=cutoffs,
    )


def _verdicts(found: list[Found], chosen: Cutoffs, gate: _Gate, binning: int) -> NDArray[np.bool_]:
    """Call each image an artifact or not: by the gate, without one by whether an object survives."""
    if gate.threshold is not None:
        return np.array([gate.passes(one) for one in found], np.bool_)
    smallest = -(-chosen.smallest_artifact_px // binning**2)
    return np.array(
        [
            artifact_objects(one.map, cutoff=chosen.cutoff, smallest_artifact_px=smallest).max(initial=0) > 0
            for one in found
        ],
        np.bool_,
    )


_CERTAIN, _SHOWS = 0.99, 0.5
"""Probability of an image from which on the classifier is certain, and of a pixel from which on an artifact shows."""


def _image_f1(validation: Split, verdicts: NDArray[np.bool_]) -> float:
    return count_agreement(validation.artifact, verdicts).f1


def _sample(validation: Split, found: list[Found], settings: RunSettings) -> BrightfieldImage:
    """Read the artifact image of the validation split that is the surest, short of certain: it shows the model at work.

    Where the classifier is certain, its output is 0 and 1 whatever the weights, which would test no package.
    """
    sure = np.array(
        [one.map.mean() if one.image_probability is None else one.image_probability for one in found], dtype=np.float64
    )
    shows = validation.artifact & (sure <= _CERTAIN) & np.array([one.map.max() >= _SHOWS for one in found])
    surest = int(np.argmax(np.where(shows if shows.any() else validation.artifact, sure, -1.0)))
    path = validation.images.items[surest].path
    return read_image(path, plane=settings.plane, pixel_size_um=settings.pixel_size_um)


def _add_cost(file: Path, seconds: float, device: str) -> None:
    before = float(read_json(file)["seconds"]) if file.exists() else 0.0
    write_json(file, {"seconds": round(before + seconds, 1), "hardware": hardware_name(resolve_device(device))})


def _fingerprint(labels: LabelSet, *, kinds: bool) -> str:
    """SHA-256 over file names, labels and splits, and kinds where they matter: no run goes on with other labels."""
    rows = [
        f"{item.path.name}\t{item.label}\t{item.split}\t{item.group}" + (f"\t{';'.join(item.kinds)}" if kinds else "")
        for item in labels.images
    ]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _completed(there: Mapping[str, Any], settings: type[RunSettings]) -> Mapping[str, Any]:
    """Add to a run's configuration what settings that its artseg did not know yet are by default: as it trains."""
    known = {name: value for name, value in there.items() if name in settings.model_fields}
    try:
        return {**there, **settings.model_validate(known).model_dump(mode="json")}
    except ValidationError:  # it has settings that this artseg knows no more
        return there


def _require_same_run(there: Mapping[str, Any], wanted: Mapping[str, Any], run: Path) -> None:
    def compared(frozen: Mapping[str, Any], key: str) -> Any:
        # the same labels under another name, such as the run's own splits.csv, are the same
        return frozen["labels"]["sha256"] if key == "labels" and "labels" in frozen else frozen.get(key)

    differing = [
        key for key in wanted if key not in ("artseg", "device") and compared(there, key) != compared(wanted, key)
    ]
    if differing:
        raise ArtSegError(
            f"Expected the run in {run} to have the same settings and labels, but {', '.join(differing)} differ. "
            "Choose another folder for a new run, or repeat the options of the first one to finish it."
        )
