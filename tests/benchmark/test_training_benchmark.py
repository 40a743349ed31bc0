"""The benchmark of training runs a whole one, and says how long its networks waited."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from artseg_models.cli import app


def test_a_whole_training_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    tiny = ("classifier.depth=10", "classifier.width=4", "classifier.schedule.epochs=1", "unet.width=4")
    more = ("unet.schedule.epochs=1", "unet.crop=32", "binning=2")
    changes = [part for change in (*tiny, *more) for part in ("--set", change)]
    command = ["benchmark", "training", "--images", "24", "--side", "96", *changes, "--out", str(out)]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 0, said.output
    figures = json.loads(out.read_text())
    assert set(figures["network_seconds"]) == {"classifier", "unet"}
    assert 0 < sum(figures["network_seconds"].values()) < figures["seconds"]
    assert all(0 <= share < 1 for share in figures["waiting"].values())
    assert "waiting for images" in said.output
