"""`artseg ablation`: each part of the preset best with and without, networks shared, gone on with, scored beside."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from artseg_models.ablation import RUNGS, run_ablation
from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.labels import read_labels, write_labels
from artseg_models.report.ablation import write_ablation_figure
from artseg_models.simulate import simulate_training_set

_SMALL = {
    "binning": 2,
    "classifier": {"depth": 10, "width": 2, "schedule": {"epochs": 1, "batch": 4}},
    "scorecam": {"groups": 2},
    "unet": {"width": 2, "levels": 2, "schedule": {"epochs": 1, "batch": 4}, "crop": 32},
    "synthesis": {"classifier_epochs": 1},
    "self_training": {"epochs": 1},
}

_DONE = ["supervised", "quick", "turned", "pasting", "best", "self_training"]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_training_set(tmp_path_factory.mktemp("fields"), fields=24, shape=(96, 96), seed=1)


@pytest.fixture(scope="module")
def ladder(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablation")
    run_ablation(labels, out, rungs=_DONE, overrides=_SMALL)
    return out


def test_every_rung_is_scored_against_supervision_and_what_is_missing_is_named(ladder, labels, tmp_path):
    found = run_ablation(labels, ladder, overrides=_SMALL, minutes=0)
    state = {one.rung.name: one.iou is not None for one in found}
    assert [name for name, scored in state.items() if scored] == _DONE
    assert len(found) == len(RUNGS)
    with open(ladder / "ablation.csv", newline="") as table:
        rows = {row["rung"]: row for row in csv.DictReader(table)}
    assert rows["edges"]["state"] == "not run"
    assert rows["best"]["state"] == "scored"
    with Image.open(ladder / "seed-0" / "best" / "errors.png") as picture:
        assert picture.width > 800
    assert 0 < float(rows["best"]["label_iou"]) <= 1
    assert rows["supervised"]["label_iou"] == "", "it learned from masks"
    full = float(rows["supervised"]["iou"])
    if full:
        assert float(rows["quick"]["ratio"]) == pytest.approx(float(rows["quick"]["iou"]) / full)
    write_ablation_figure(found, tmp_path / "ablation.png")
    with Image.open(tmp_path / "ablation.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_rungs_share_the_networks_that_they_have_in_common_and_no_others(ladder):
    runs = {name: ladder / "seed-0" / name / "run" for name in _DONE}
    first = (runs["pasting"] / "classifier" / "network.pt").read_bytes()
    assert (runs["best"] / "first_classifier" / "network.pt").read_bytes() == first
    assert (runs["best"] / "classifier" / "network.pt").read_bytes() != first
    once = (runs["pasting"] / "unet" / "network.pt").read_bytes()
    assert (runs["self_training"] / "unet_round_0" / "network.pt").read_bytes() == once
    assert (runs["best"] / "unet" / "uncalibrated.pt").read_bytes() == once
    assert (runs["quick"] / "classifier" / "network.pt").read_bytes() != first
    assert (runs["quick"] / "unet" / "network.pt").read_bytes() != once


def test_rungs_share_evidence_only_where_it_is_made_alike(ladder):
    """Without what pixels contribute it is another, from the same classifier."""
    runs = {name: ladder / "seed-0" / name / "run" for name in ("turned", "pasting", "best")}
    networks = {name: run / ("first_" * (name == "best") + "classifier") / "network.pt" for name, run in runs.items()}
    assert len({file.read_bytes() for file in networks.values()}) == 1
    maps = {name: sorted((run / "scorecam" / "train").iterdir()) for name, run in runs.items()}
    of = {name: [np.load(file)["evidence"] for file in files] for name, files in maps.items()}
    assert of["best"]
    assert all(np.array_equal(one, other) for one, other in zip(of["pasting"], of["best"], strict=True))
    assert not any(np.array_equal(one, other) for one, other in zip(of["turned"], of["best"], strict=True))


def test_an_unknown_rung_is_refused_with_those_that_there_are(labels, tmp_path):
    with pytest.raises(ArtSegError, match="supervised, quick, positions, turned"):
        run_ablation(labels, tmp_path, rungs=["magic"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("with_splits", [True, False])
def test_labels_without_masks_to_score_by_are_refused_before_training(labels, tmp_path, with_splits):
    known = read_labels(labels)
    if with_splits:
        items = [replace(item, mask=None) if item.split == "test" else item for item in known.images]
    else:
        items = [replace(item, mask=None, split=None) for item in known.images]
    write_labels(tmp_path / "labels.csv", items)
    with pytest.raises(ArtSegError, match="no artifact image of the test split has one"):
        run_ablation(tmp_path / "labels.csv", tmp_path / "out", rungs=["quick"], overrides=_SMALL)
    assert not (tmp_path / "out").exists()


def test_a_rung_that_asks_for_more_masks_than_there_are_is_named_before_training(labels, tmp_path):
    with pytest.raises(ArtSegError, match=r"at least 20 artifact images.*rung masks_20 asks"):
        run_ablation(labels, tmp_path / "out", rungs=["quick", "masks_20"], overrides=_SMALL)
    assert not (tmp_path / "out").exists()


def test_the_command_goes_on_with_a_ladder(ladder, labels):
    done = CliRunner().invoke(
        app,
        ["ablation", str(labels), "--out", str(ladder), "--minutes", "0", "--set", "binning=2"],
        env={"COLUMNS": "200"},
    )
    assert done.exit_code == 0, done.output
    assert "Not run: " in done.output
    assert "expert min" in done.output
    assert "quick: evidence at its cutoff" in done.output
    assert (ladder / "ablation.png").exists()
