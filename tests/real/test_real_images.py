"""The main job on real images: tiny networks, so that it shows that everything passes, not how well."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from artseg_models.cellprofiler import find_pipeline, run_pipeline
from artseg_models.cli import app
from artseg_models.labels import read_labels, write_labels

TINY = (
    "binning=8",
    "classifier.depth=10",
    "classifier.width=4",
    "classifier.schedule.epochs=1",
    "scorecam.groups=4",
    "unet.width=4",
    "unet.levels=3",
    "unet.schedule.epochs=1",
    "unet.crop=32",
)


def artseg(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_fibres_from_labels_to_scores(shared_data: Path, tmp_path: Path) -> None:
    """Check, train, export and evaluate on a few colour JPEGs of 1280 x 720 pixels, the permanent dust left out."""
    fibre = shared_data / "umid_fibre"
    assert "346" in artseg("labels", "check", fibre / "labels.csv")
    everything = read_labels(fibre / "labels.csv")
    few = [
        item
        for split in ("train", "validation", "test")
        for label in ("clean", "artifact")
        for item in [item for item in everything.of_split(split) if item.label == label][:3]
    ]
    write_labels(tmp_path / "labels.csv", few)
    settings = [part for setting in TINY for part in ("--set", setting)]
    artseg("train", tmp_path / "labels.csv", "--out", tmp_path / "run", *settings)
    model = tmp_path / "run" / "packages" / "run-unet.zip"
    artseg(
        *("evaluate", model, tmp_path / "labels.csv", "--split", "test"),
        *("--ignore", fibre / "ignore.png", "--out", tmp_path / "scores"),
    )
    scores = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert (scores["images_clean"], scores["images_artifact_with_mask"]) == (3, 3)
    pixels = scores["pixel_pooled"]
    counted = sum(pixels[name] for name in ("true_positive", "false_positive", "false_negative", "true_negative"))
    assert 0 < counted < 6 * 1280 * 720, "ignored pixels are left out"


def test_a_field_with_a_dead_cell_clump_passes_both_pipelines(
    shared_data: Path, packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nuclei of the 16-bit field of 1080 x 1080 pixels, under its authors' own file names."""
    named = os.environ.get("ARTSEG_CELLPROFILER")
    if not named:
        pytest.skip("no CellProfiler to test with: set ARTSEG_CELLPROFILER to the path of its executable")
    monkeypatch.setenv("ARTSEG_STATE_DIR", str(tmp_path / "state"))
    channels = {"brightfield": "*ch1*", "dna": "*ch5*", "signal": "*ch2*"}
    field = shared_data / "pediatric_field"
    cellprofiler = [str(shutil.which(named))]
    try:
        plain = run_pipeline(
            find_pipeline("no_masking"), field, tmp_path / "plain", cellprofiler=cellprofiler, channels=channels
        )
        masked = run_pipeline(
            find_pipeline("artifacts_masked"),
            field,
            tmp_path / "masked",
            package=packages["unet"],
            cellprofiler=cellprofiler,
            channels=channels,
        )
    finally:
        CliRunner().invoke(app, ["serve", "--stop"])
    before, after = (_first_row(folder / "Image.csv") for folder in (plain, masked))
    assert 30 < float(before["Count_Nuclei"]) < 60, "its authors outlined 37"
    assert set(before) - set(after) <= {name for name in before if name.startswith(("ExecutionTime", "ModuleError"))}
    covered = float(after["ArtSeg_AreaFraction_Artifacts"]) * 1080**2
    assert covered + float(after["ArtSeg_UsableArea_Artifacts"]) == pytest.approx(1080**2, abs=1)


def _first_row(file: Path) -> dict[str, str]:
    with open(file, newline="") as opened:
        return next(csv.DictReader(opened))
