"""A study worked through: data sets made ready, cells trained in parallel, cutoffs chosen, test images scored once.

The folder of a study holds ``data/NAME`` (images as every method sees them), ``cells/NAME/METHOD/seed-N`` (each a run,
with its maps, its scores and its log) and ``choices/NAME.json`` (smallest object and cutoffs, kept once chosen).
"""

from __future__ import annotations

import csv
import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from artseg_models import __version__
from artseg_models.evaluate import curve_table
from artseg_models.files import read_json, write_json, write_text
from artseg_models.methods import METHODS, configure
from artseg_models.predict import resolve_device
from artseg_models.study import paper
from artseg_models.study.cell import Job, read_maps
from artseg_models.study.choose import Tried, common_size, try_all
from artseg_models.study.configuration import Study
from artseg_models.study.prepare import Prepared, prepare
from artseg_models.study.score import score_test, true_masks, with_masks

logger = logging.getLogger(__name__)

State = Literal["scored", "trained", "unfinished", "failed", "not run", "unknown method"]

_LOOK_EVERY_SECONDS = 0.5
_LOG_LINES = 3
_KILLED = 9  # no such name on Windows
#: The exit code of a cell that was told to stop: by the signal itself, or through `artseg_models.study.cell`.
TOLD_TO_STOP = (-signal.SIGTERM, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes
    ----------
    dataset, method : str
        By their names in the study.
    seed : int
        Of the training.
    folder : Path
        Where it lies.
    """

    dataset: str
    method: str
    seed: int
    folder: Path

    @property
    def state(self) -> State:
        """How far it is."""
        if (self.folder / "scores.json").exists():
            return "scored"
        if (self.folder / "cost.json").exists():
            return "trained"
        if self.method not in METHODS:
            return "unknown method"
        if (self.folder / "failed.json").exists():
            return "failed"
        return "unfinished" if self.folder.exists() else "not run"

    @property
    def why(self) -> str:
        """Why it is not scored, in words."""
        if self.state == "failed":
            return str(read_json(self.folder / "failed.json")["reason"])
        return {
            "scored": "",
            "trained": "trained, waits for the other methods of its data set",
            "unfinished": "begun, goes on with the next call",
            "not run": "not begun",
            "unknown method": "this version of artseg does not have the method",
        }[self.state]


def cells_of(study: Study, out: Path) -> list[Cell]:
    """List every cell of a study, seeds outside: all methods get their first seed before any gets a second."""
    return sorted(
        (
            Cell(dataset, method, seed, out / "cells" / dataset / method / f"seed-{seed}")
            for dataset in study.datasets
            for method in study.methods
            for seed in study.seeds_of(method)
        ),
        key=lambda cell: study.seeds_of(cell.method).index(cell.seed),
    )


def run_study(
    study: Study,
    out: Path,
    *,
    data: Path,
    minutes: float | None = None,
    devices: Sequence[str] = (),
    retry: bool = False,
    finish: bool = False,
) -> list[Cell]:
    """Work on a study until it is finished or the time is over; the same call goes on.

    Parameters
    ----------
    study : Study
        What is compared.
    out : Path
        The folder of the study.
    data : Path
        Folder that its paths start from.
    minutes : float, optional
        Begin nothing after this time, and stop what runs then; its training goes on from its last checkpoint.
    devices : sequence of str
        Where cells run, one on each at a time: "cpu", "mps", "cuda:0" and so on. By default every CUDA device, without
        one the processor.
    retry : bool
        Try cells again that failed before.
    finish : bool
        Choose and score with the cells that are trained, though others are not: what comes later keeps the smallest
        object that is chosen now.

    Returns
    -------
    list of Cell
        All cells, whatever became of them.

    Raises
    ------
    ArtSegError
        A data set cannot be made ready, or a device is not there.
    """
    ends = None if minutes is None else time.monotonic() + 60 * minutes
    prepared = {
        name: prepare(name, dataset, out / "data" / name, data=data) for name, dataset in study.datasets.items()
    }
    cells = cells_of(study, out)
    for cell in cells:
        if retry:
            (cell.folder / "failed.json").unlink(missing_ok=True)
    _train_all(study, cells, prepared, devices=_devices(devices), ends=ends)
    for name in study.datasets:
        _choose_and_score(study, name, cells, prepared, finish=finish)
    return cells


def _devices(asked: Sequence[str]) -> list[str]:
    if asked:
        for device in asked:
            resolve_device(device.split(":")[0])
        return list(asked)
    if resolve_device("auto") == "cuda":
        import torch

        return [f"cuda:{at}" for at in range(torch.cuda.device_count())]
    return [resolve_device("auto")]


# ---- training ----


def _train_all(
    study: Study, cells: Sequence[Cell], prepared: dict[str, Prepared], *, devices: list[str], ends: float | None
) -> None:
    """Run cells in processes of their own, one on each device at a time."""
    # a data set that is only tested on comes after its models
    waiting = sorted(
        (cell for cell in cells if cell.state in ("not run", "unfinished")),
        key=lambda cell: study.datasets[cell.dataset].transfer_from is not None,
    )
    running: dict[str, tuple[Cell, subprocess.Popen[bytes], float]] = {}
    total = len(waiting)
    done = 0
    try:
        while waiting or running:
            over = ends is not None and time.monotonic() >= ends
            if over:
                break
            for device in devices:
                if device in running:
                    continue
                cell = next(_ready(study, waiting, cells), None)
                if cell is None:
                    continue
                waiting.remove(cell)
                logger.info("%s, %s, seed %d on %s (%d of %d)", *_named(cell), device, done + len(running) + 1, total)
                running[device] = (cell, _start(study, cell, cells, prepared[cell.dataset], device), time.monotonic())
            if not running:
                break  # what waits needs a model that failed
            time.sleep(_LOOK_EVERY_SECONDS)
            for device, (cell, process, began) in list(running.items()):
                if process.poll() is not None:
                    del running[device]
                    done += 1
                    _end(cell, process.returncode, time.monotonic() - began)
    finally:
        for cell, process, _ in running.values():
            process.terminate()
            logger.info("Stopped %s, %s, seed %d: it goes on with the next call", *_named(cell))
        for _, process, _ in running.values():
            process.wait()


def _ready(study: Study, waiting: Sequence[Cell], cells: Sequence[Cell]) -> Iterator[Cell]:
    """Cells whose models are there; those of a data set that is only tested on need another's."""
    for cell in waiting:
        source = _source_cell(study, cell, cells)
        if source is None or source.state in ("trained", "scored"):
            yield cell


def _source_cell(study: Study, cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    source = study.datasets[cell.dataset].transfer_from
    if source is None:
        return None
    return next(one for one in cells if (one.dataset, one.method, one.seed) == (source, cell.method, cell.seed))


def classifier_of(study: Study, cell: Cell, cells: Sequence[Cell]) -> Path | None:
    """Find a run whose classifier learned what this cell's would, with the same settings and seed.

    On the processor both have the same weights, bit for bit; elsewhere they need not. A cell that was begun keeps what
    it was begun with.
    """
    classified = ("scorecam-unet", "scorecam")
    if cell.method not in classified or study.datasets[cell.dataset].transfer_from:
        return None
    if (cell.folder / "job.json").exists():
        begun_with = read_json(cell.folder / "job.json").get("classifier_of")
        return Path(begun_with) if begun_with else None
    for other in cells:
        same = (other.dataset, other.seed) == (cell.dataset, cell.seed) and other.method in classified
        if same and other.method != cell.method and (other.folder / "run" / "classifier" / "network.pt").exists():
            wanted, there = (
                configure(study.preset, method=method, seed=cell.seed, overrides=study.settings_of(method)).model_dump()
                for method in (cell.method, other.method)
            )
            if wanted["precision"] == "fp32" and all(
                wanted[name] == there[name] for name in ("classifier", "balance", "precision", "plane")
            ):
                return other.folder / "run"
    return None


def _start(study: Study, cell: Cell, cells: Sequence[Cell], prepared: Prepared, device: str) -> subprocess.Popen[bytes]:
    kind, _, number = device.partition(":")
    source = _source_cell(study, cell, cells)
    taken = classifier_of(study, cell, cells) if kind == "cpu" else None
    job = Job(
        folder=str(cell.folder),
        labels=str(prepared.folder / "labels.csv"),
        method=cell.method,
        preset=study.preset,
        seed=cell.seed,
        settings=study.settings_of(cell.method),
        run=str(source.folder / "run") if source else None,
        classifier_of=str(taken) if taken else None,
        device=kind,
    )
    job.write(cell.folder / "job.json")
    environment = dict(os.environ)
    if number:
        environment["CUDA_VISIBLE_DEVICES"] = number
    with open(cell.folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "artseg_models.study.cell", str(cell.folder / "job.json")],
            stdout=log,
            stderr=log,
            env=environment,
        )


def _end(cell: Cell, code: int, seconds: float) -> None:
    if code == 0:
        logger.info("%s, %s, seed %d: done in %.0f s", *_named(cell), seconds)
        return
    if code in TOLD_TO_STOP:
        logger.info("%s, %s, seed %d was stopped from outside: it goes on with the next call", *_named(cell))
        return
    lines = (cell.folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = " ".join(" ".join(lines[-_LOG_LINES:]).split())
    if code == -_KILLED:
        reason = f"killed by the system, which it does where memory ends. The last it said: {reason}"
    reason = reason or f"ended with code {code} without a word"
    write_json(cell.folder / "failed.json", {"reason": reason, "exit_code": code})
    logger.error("%s, %s, seed %d failed: %s", *_named(cell), reason)


def _named(cell: Cell) -> tuple[str, str, int]:
    return cell.dataset, paper.METHOD_NAMES[cell.method], cell.seed


# ---- choosing and scoring ----


def _choose_and_score(
    study: Study, name: str, cells: Sequence[Cell], prepared: dict[str, Prepared], *, finish: bool
) -> None:
    """Score a data set once none of its cells is still to be trained; before that, its size would not be common."""
    own = [cell for cell in cells if cell.dataset == name]
    trained_on = study.datasets[name].transfer_from or name
    models = [cell for cell in cells if cell.dataset == trained_on]
    if not finish and any(cell.state in ("not run", "unfinished") for cell in (*own, *models)):
        return
    ready = [cell for cell in own if cell.state == "trained"]
    for cell in ready:
        choice = _choice(study, cell, cells, prepared)
        dataset = prepared[cell.dataset]
        found = with_masks(read_maps(cell.folder, dataset.folder / "labels.csv", "test"))
        content, rows, curve = score_test(
            found, cutoff=choice.cutoff, size=choice.size, area_of_pixel=dataset.area_of_pixel, ignore=dataset.ignore
        )
        model = {
            "model_id": f"{trained_on}/{cell.method}/{cell.seed}",
            "model_sha256": found.model_sha256,
            "model_cutoff": choice.cutoff,
            "artseg_version": __version__,
        }
        _write_rows(cell.folder / "test_images.csv", [row | model for row in rows])
        write_text(cell.folder / "precision_recall.csv", curve_table(curve, model=model))
        validation = {"validation_iou": choice.validation_iou, "cutoff_from": study.cutoffs_from, "model": model}
        # last: it says that the cell is scored
        write_json(cell.folder / "scores.json", content | validation)
    if ready:
        logger.info("%s: scored on its test images", name)


@dataclass(frozen=True)
class _Choice:
    size: int
    cutoff: float
    validation_iou: float | None


def _choice(study: Study, cell: Cell, cells: Sequence[Cell], prepared: dict[str, Prepared]) -> _Choice:
    """Cutoff and smallest object of a cell: those of the data set that it was trained on."""
    trained_on = study.datasets[cell.dataset].transfer_from or cell.dataset
    file = prepared[trained_on].folder.parent.parent / "choices" / f"{trained_on}.json"
    members = [one for one in cells if one.dataset == trained_on and one.state in ("trained", "scored")]
    kept: dict[str, Any] = read_json(file) if file.exists() else {}
    missing = [one for one in members if f"{one.method}/{one.seed}" not in kept.get("cutoffs", {})]
    if missing:
        kept = _chosen(study, trained_on, members, missing, prepared[trained_on], kept)
        write_json(file, kept)
    chosen = kept["cutoffs"][f"{cell.method}/{cell.seed}"]
    return _Choice(int(kept["smallest_object_px"]), float(chosen["cutoff"]), chosen["validation_iou"])


def _chosen(
    study: Study, name: str, members: Sequence[Cell], missing: Sequence[Cell], prepared: Prepared, kept: dict[str, Any]
) -> dict[str, Any]:
    tried: dict[str, Tried] = {}
    for cell in missing:
        found = with_masks(read_maps(cell.folder, prepared.folder / "labels.csv", "validation"))
        tried[f"{cell.method}/{cell.seed}"] = try_all(
            found.maps,
            true_masks(found.items, found.maps),
            found.gate_open,
            area_of_pixel=prepared.area_of_pixel,
            valid=None if prepared.ignore is None else ~prepared.ignore,
            cutoff=paper.PUBLISHED_CUTOFFS[cell.method] if study.cutoffs_from == "published" else None,
        )
    if "smallest_object_px" not in kept:
        kept = _size(study, name, tried)
    size = int(kept["smallest_object_px"])
    cutoffs: dict[str, Any] = dict(kept.get("cutoffs", {}))
    for key, one in tried.items():
        cutoff, iou = one.best(size)
        cutoffs[key] = {"cutoff": cutoff, "validation_iou": iou}
    return {**kept, "cutoffs": cutoffs}


def _size(study: Study, name: str, tried: dict[str, Tried]) -> dict[str, Any]:
    dataset = study.datasets[name]
    wanted = dataset.smallest_object
    if study.preset == "paper" and wanted == "validation" and dataset.family is not None:
        wanted = "published"
    if isinstance(wanted, int):
        return {"smallest_object_px": wanted, "chosen_by": "the study's file"}
    if wanted == "published":
        return {"smallest_object_px": paper.PUBLISHED_SMALLEST[str(dataset.family)], "chosen_by": "the paper"}
    by_method: dict[str, list[Tried]] = {}
    for key, one in tried.items():
        by_method.setdefault(key.split("/")[0], []).append(one)
    size, own = common_size(by_method)
    return {
        "smallest_object_px": size,
        "chosen_by": "IoU on validation images of the methods that were trained then",
        "best_of_each_method": own,
    }


def _write_rows(path: Path, rows: Sequence[dict[str, object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
