"""From labels to a model, by buttons: train, sort by doubt, export, install. Each is a command that is shown."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from artseg_models.errors import ArtSegError
from artseg_models.labelling.jobs import Jobs, command_line
from artseg_models.labelling.store import RUNS, Store

logger = logging.getLogger(__name__)

ENOUGH = 40
"""So many labels, clean and artifact, are worth a first training."""

Step = Literal["train", "doubt", "export", "install"]


class Asked(BaseModel):
    """Which step, and what the page's fields say."""

    model_config = ConfigDict(extra="forbid")
    step: Step
    preset: Literal["quick", "paper"] = "quick"
    folder: str = ""


class ModelPanel:
    """Trains on the labels of a store, and looks at its images with what was trained.

    Runs lie in ``artseg-runs/`` beside the table.

    Parameters
    ----------
    store : Store
        Images and labels.
    jobs : Jobs
        Runs the commands.
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
        jobs: Jobs,
        plane: int | None = None,
        settings: Sequence[str] = (),
        segmented: Callable[[Path], None] | None = None,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._plane = [] if plane is None else ["--plane", str(plane)]
        self._settings = [part for setting in settings for part in ("--set", setting)]
        self._segmented = segmented
        self._runs = store.table.parent / RUNS
        self.router = APIRouter()
        self.router.add_api_route("/api/model", self.state)
        self.router.add_api_route("/api/model/command", self.command, methods=["POST"])
        self.router.add_api_route("/api/model/start", self.start, methods=["POST"])
        self.router.add_api_route("/api/model/stop", self.stop, methods=["POST"])
        self.router.add_api_route("/api/model/training.png", self.sheet)
        self._take_guesses()

    def state(self) -> dict[str, Any]:
        """Tell how far it is: labels, runs, what the command under way says."""
        labels = [record.verdict()[0] for record in self._store.shown()]
        finished = self._finished()
        return {
            "clean": labels.count("clean"),
            "artifact": labels.count("artifact"),
            "enough": ENOUGH,
            "run": finished.name if finished else "",
            "sheet": bool(finished and (finished / "training.png").exists()),
            "package": str(self._package(finished)) if finished else "",
            "guesses": sum(record.guess is not None for record in self._store.shown()),
            "job": self._jobs.state(),
        }

    def command(self, asked: Asked) -> dict[str, str]:
        """Give the command that a button would run; none where a model is wanted first."""
        if asked.step in ("doubt", "export") and self._finished() is None:
            return {"command": ""}
        return {"command": command_line(self._arguments(asked))}

    def start(self, asked: Asked) -> dict[str, Any]:
        """Run a step's command in the background."""
        names = {
            "train": "Training",
            "doubt": "Looking at all images with the model",
            "export": "Export",
            "install": "Installation into CellProfiler",
        }
        if asked.step == "train":
            labels = [record.verdict()[0] for record in self._store.shown()]
            if min(labels.count("clean"), labels.count("artifact")) < 2:
                raise ArtSegError(
                    f"Expected at least two clean and two artifact images to train on, got {labels.count('clean')} "
                    f"clean and {labels.count('artifact')} artifact. Label some more."
                )
        done = self._take_guesses if asked.step == "doubt" else None
        self._jobs.start(names[asked.step], self._arguments(asked), done=done)
        return self.state()

    def stop(self) -> dict[str, Any]:
        """End the command under way; a training goes on where it was when it is started again."""
        self._jobs.stop()
        return self.state()

    def sheet(self, run: str) -> Response:
        """Give the picture of how a training went."""
        if run not in {one.name for one in self._all_runs()} or not (self._runs / run / "training.png").exists():
            raise ArtSegError(f"There is no picture of a training {run!r} here.")
        return Response((self._runs / run / "training.png").read_bytes(), media_type="image/png")

    def _arguments(self, asked: Asked) -> list[str]:
        if asked.step == "train":
            out = str(self._next_run())
            preset = ["--preset", asked.preset, *self._settings, *self._plane]
            return ["train", str(self._store.table), "--out", out, *preset]
        if asked.step == "install":
            return ["cellprofiler", "install", *(["--plugins-folder", asked.folder] if asked.folder else [])]
        run = self._finished()
        if run is None:
            raise ArtSegError("Expected a trained model, but none is here yet. Train first.")
        if asked.step == "export":
            return ["export", str(run), "--out", asked.folder or str(self._store.table.parent / "artseg-models")]
        folders = sorted({str(record.path.parent) for record in self._store.shown()})
        return [
            *("segment", *folders, "--model", str(self._package(run))),
            *("--out", str(run / "segmented"), *self._plane),
        ]

    def _all_runs(self) -> list[Path]:
        if not self._runs.is_dir():
            return []
        found = [one for one in self._runs.iterdir() if (one / "configuration.json").exists()]
        return sorted(found, key=lambda one: one.stat().st_mtime)

    def _finished(self) -> Path | None:
        finished = [run for run in self._all_runs() if self._package(run).exists()]
        return max(finished, key=lambda run: self._package(run).stat().st_mtime, default=None)

    def _package(self, run: Path) -> Path:
        return run / "packages" / f"{run.name}-unet.zip"

    def _next_run(self) -> Path:
        number = 1
        while (self._runs / f"run-{number}").exists():
            number += 1
        return self._runs / f"run-{number}"

    def _take_guesses(self) -> None:
        """Read what the newest model said of the images."""
        run = self._finished()
        table = run / "segmented" / "segmentation.csv" if run else None
        if table is None or not table.exists():
            return
        guesses: dict[Path, tuple[float, str]] = {}
        with open(table, encoding="utf-8", newline="") as opened:
            for row in csv.DictReader(opened):
                if row.get("artifact_probability"):
                    threshold = float(row["gate_threshold"] or 0.5)
                    probability = float(row["artifact_probability"])
                    verdict = "artifact" if probability >= threshold else "clean"
                    guesses[Path(os.path.abspath(row["image"]))] = (_certainty(probability, threshold), verdict)
        self._store.set_guesses(guesses)
        if self._segmented is not None:
            self._segmented(table.parent)


def _certainty(probability: float, threshold: float) -> float:
    """How far a probability is from the threshold, 0 (in doubt) to 1, on either side by what is possible there."""
    room = 1 - threshold if probability >= threshold else threshold
    return abs(probability - threshold) / max(room, 1e-6)
