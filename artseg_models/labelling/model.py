"""From labels to a model, by buttons: train, sort by doubt, export, install. Each is a command that is shown."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from artseg_models.errors import ArtSegError
from artseg_models.files import read_json, write_json
from artseg_models.labelling.jobs import Job, Jobs, command_line, end_of
from artseg_models.labelling.store import RUNS, Store

logger = logging.getLogger(__name__)

ENOUGH = 40
"""So many labels, clean and artifact, are worth a first training."""
ENOUGH_OF_A_KIND = 5
"""Fewer images of a kind of artifact teach little, and may all be drawn for validation and test."""

Step = Literal["learn", "train", "resume", "doubt", "export", "install"]

_COMMAND = ".command.json"
_LOG_BYTES = 2**20
_EPOCH = re.compile(r"(\S+): epoch (\d+) of (\d+), loss ([\d.]+), validation ([\d.]+)")


class Asked(BaseModel):
    """Which step, and what the page's fields say."""

    model_config = ConfigDict(extra="forbid")
    step: Step
    preset: Literal["best", "quick", "paper"] = "best"
    folder: str = ""


class ModelPanel:
    """Trains on the labels of a store, and looks at its images with what was trained.

    Runs lie in ``artseg-runs/`` beside the table.

    Parameters
    ----------
    store : Store
        Images and labels.
    plane : int, optional
        Which plane of files with several.
    settings : sequence of str
        Changes of the training's preset, NAME=VALUE.
    segmented : callable, optional
        Told the folder whenever the newest model has looked at the images.
    """

    def __init__(
        self,
        store: Store,
        *,
        plane: int | None = None,
        settings: Sequence[str] = (),
        segmented: Callable[[Path], None] | None = None,
    ) -> None:
        self._store = store
        self._plane = [] if plane is None else ["--plane", str(plane)]
        self._settings = [part for setting in settings for part in ("--set", setting)]
        self._segmented = segmented
        self._runs = store.table.parent / RUNS
        self._taken: tuple[Path, int] | None = None
        self.jobs = Jobs(self._runs / "job.json", done=self._take_guesses)
        self.router = APIRouter()
        self.router.add_api_route("/api/model", self.state)
        self.router.add_api_route("/api/model/commands", self.commands, methods=["POST"])
        self.router.add_api_route("/api/model/start", self.start, methods=["POST"])
        self.router.add_api_route("/api/model/stop", self.stop, methods=["POST"])
        self.router.add_api_route("/api/model/training.png", self.sheet)
        self._take_guesses()

    def state(self) -> dict[str, Any]:
        """Tell how far it is: labels, runs, what the command under way says."""
        self._take_guesses()  # another server on these images may have made them
        labels = [record.verdict()[0] for record in self._store.shown()]
        kinds = self._kinds()
        finished, unfinished = self._finished(), self._unfinished()
        newest = max(self._all_runs(), key=_when, default=None)
        return {
            "clean": labels.count("clean"),
            "artifact": labels.count("artifact"),
            "enough": ENOUGH,
            "kinds": kinds,
            "run": finished.name if finished else "",
            "unfinished": unfinished.name if unfinished else "",
            "sheet": bool(finished and (finished / "training.png").exists()),
            "package": str(self._package(finished)) if finished else "",
            "guesses": sum(record.guess is not None for record in self._store.shown()),
            "losses": _losses(self._log(newest)) if newest else {},
            "job": self.jobs.state(),
        }

    def commands(self, asked: list[Asked]) -> dict[str, str]:
        """Give the commands that buttons would run, one a line; none where a model or a stopped training is wanted."""
        told: dict[str, str] = {}
        for one in asked:
            try:
                told[one.step] = "\n".join(command_line(job.arguments) for job in self._jobs_of(one))
            except ArtSegError:
                told[one.step] = ""
        return told

    def start(self, asked: Asked) -> dict[str, Any]:
        """Run a step's commands in the background."""
        if asked.step in ("learn", "train"):
            labels = [record.verdict()[0] for record in self._store.shown()]
            if min(labels.count("clean"), labels.count("artifact")) < 2:
                raise ArtSegError(
                    f"Expected at least two clean and two artifact images to train on, got {labels.count('clean')} "
                    f"clean and {labels.count('artifact')} artifact. Label some more."
                )
        jobs = self._jobs_of(asked)
        if asked.step in ("learn", "train") and not self.jobs.running():
            # what a stopped training goes on with, whatever the page's fields say then
            write_json(self._command_of(self._next_run()), jobs[0].arguments)
        self.jobs.start(jobs)
        return self.state()

    def stop(self) -> dict[str, Any]:
        """End the command under way; a training goes on where it was by the step 'resume'."""
        self.jobs.stop()
        return self.state()

    def sheet(self, run: str) -> Response:
        """Give the picture of how a training went."""
        if run not in {one.name for one in self._all_runs()} or not (self._runs / run / "training.png").exists():
            raise ArtSegError(f"There is no picture of a training {run!r} here.")
        return Response((self._runs / run / "training.png").read_bytes(), media_type="image/png")

    def _jobs_of(self, asked: Asked) -> list[Job]:
        """Commands of a step."""
        if asked.step in ("learn", "train"):
            run = self._next_run()
            kinds = ["--kinds"] if self._kinds() else []
            preset = ["--preset", asked.preset, *kinds, *self._settings, *self._plane]
            training = self._training(run, ["train", str(self._store.table), "--out", str(run), *preset])
            return [training, self._looking(run)] if asked.step == "learn" else [training]
        if asked.step == "resume":
            run = self._unfinished()
            if run is None:
                raise ArtSegError("Expected a training that was stopped, but there is none. Train anew.")
            arguments = cast("list[str]", read_json(self._command_of(run)))
            if (run / "splits.csv").exists():
                # the labels as they were: somebody may have labelled on since
                arguments = [arguments[0], str(run / "splits.csv"), *arguments[2:]]
            return [self._training(run, arguments), self._looking(run)]
        if asked.step == "install":
            folder = ["--plugins-folder", asked.folder] if asked.folder else []
            return [Job("Installation into CellProfiler", ["cellprofiler", "install", *folder])]
        run = self._finished()
        if run is None:
            raise ArtSegError("Expected a trained model, but none is here yet. Train first.")
        if asked.step == "export":
            folder = asked.folder or str(self._store.table.parent / "artseg-models")
            makes = str(Path(folder) / f"{run.name}-unet.zip")
            return [Job("Export", ["export", str(run), "--out", folder], makes)]
        return [self._looking(run)]

    def _kinds(self) -> list[str]:
        """Kinds of artifact that the next training tells apart: none where fewer than two are named often enough."""
        if any(setting.startswith("kinds=") for setting in self._settings):
            return []  # somebody has decided otherwise
        verdicts = [record.verdict() for record in self._store.shown()]
        named = Counter(kind for label, kind in verdicts if label == "artifact" and kind)
        kinds = sorted(kind for kind, images in named.items() if images >= ENOUGH_OF_A_KIND)
        return kinds if len(kinds) > 1 else []

    def _training(self, run: Path, arguments: list[str]) -> Job:
        return Job("Training", arguments, str(self._package(run)), str(self._log(run)))

    def _looking(self, run: Path) -> Job:
        folders = sorted({str(record.path.parent) for record in self._store.shown()})
        out = run / "segmented"
        return Job(
            "Looking at all images with the model",
            ["segment", *folders, "--model", str(self._package(run)), "--out", str(out), *self._plane],
            str(out / "segmentation.csv"),
        )

    def _all_runs(self) -> list[Path]:
        if not self._runs.is_dir():
            return []
        # a training that was stopped at once has no folder yet
        names = {one.name.removesuffix(_COMMAND) for one in self._runs.iterdir()}
        runs = [self._runs / name for name in sorted(names)]
        return [run for run in runs if (run / "configuration.json").exists() or self._command_of(run).exists()]

    def _finished(self) -> Path | None:
        finished = [run for run in self._all_runs() if self._package(run).exists()]
        return max(finished, key=lambda run: self._package(run).stat().st_mtime, default=None)

    def _unfinished(self) -> Path | None:
        """Find the newest training, if it was stopped or cut off before its end."""
        newest = max(self._all_runs(), key=_when, default=None)
        if newest is None or self._package(newest).exists() or not self._command_of(newest).exists():
            return None
        return newest

    def _package(self, run: Path) -> Path:
        return run / "packages" / f"{run.name}-unet.zip"

    def _log(self, run: Path) -> Path:
        return run.with_name(f"{run.name}.log")

    def _command_of(self, run: Path) -> Path:
        return run.with_name(f"{run.name}{_COMMAND}")

    def _next_run(self) -> Path:
        number = 1
        while (self._runs / f"run-{number}").exists() or self._command_of(self._runs / f"run-{number}").exists():
            number += 1
        return self._runs / f"run-{number}"

    def _take_guesses(self) -> None:
        """Read what the newest model said of the images, if it has said something new."""
        run = self._finished()
        table = run / "segmented" / "segmentation.csv" if run else None
        if table is None or not table.exists():
            return
        said = table, table.stat().st_mtime_ns
        if said == self._taken:
            return
        guesses: dict[Path, tuple[float, str]] = {}
        with open(table, encoding="utf-8", newline="") as opened:
            for row in csv.DictReader(opened):
                if row.get("artifact_probability"):
                    threshold = float(row["gate_threshold"] or 0.5)
                    probability = float(row["artifact_probability"])
                    verdict = "artifact" if probability >= threshold else "clean"
                    guesses[Path(os.path.abspath(row["image"]))] = (_certainty(probability, threshold), verdict)
        self._taken = said
        self._store.set_guesses(guesses)
        if self._segmented is not None:
            self._segmented(table.parent)


def _certainty(probability: float, threshold: float) -> float:
    """How far a probability is from the threshold, 0 (in doubt) to 1, on either side by what is possible there."""
    room = 1 - threshold if probability >= threshold else threshold
    return abs(probability - threshold) / max(room, 1e-6)


def _losses(log: Path) -> dict[str, list[tuple[int, int, float, float]]]:
    """For each network its epochs as (epoch, of, loss, validation loss), out of what a training said."""
    losses: dict[str, dict[int, tuple[int, int, float, float]]] = {}
    for network, epoch, of, loss, validation in _EPOCH.findall(" ".join(end_of(log, _LOG_BYTES).split())):
        losses.setdefault(network, {})[int(epoch)] = (int(epoch), int(of), float(loss), float(validation))
    return {network: [epochs[at] for at in sorted(epochs)] for network, epochs in losses.items()}


def _when(run: Path) -> float:
    """When a run was started."""
    command = run.with_name(f"{run.name}{_COMMAND}")
    return (command if command.exists() else run / "configuration.json").stat().st_mtime
