"""A whole study of two methods on small images: cut off, gone on with, scored, written."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.files import write_json
from artseg_models.labels import read_mask
from artseg_models.methods import train
from artseg_models.methods.predictor import RunPredictor
from artseg_models.metrics import count_agreement, over_seeds, pool
from artseg_models.report import study_figures
from artseg_models.study import paper
from artseg_models.study.cell import read_maps
from artseg_models.study.configuration import Study, read_study
from artseg_models.study.results import Results, table_1
from artseg_models.study.run import TOLD_TO_STOP, cells_of, classifier_of, run_study

STUDY = """
name: Squares
methods: [unet, scorecam, patch-svdd]
settings:
  unet: {unet: {width: 4, levels: 2, crop: 64, schedule: {epochs: 4, learning_rate: 0.01}}}
  scorecam: {classifier: {depth: 10, width: 4, schedule: {epochs: 2}}}
datasets:
  squares:
    labels: labels.csv
    masks_are: simulated
    family: lncap
  again:
    labels: labels.csv
    transfer_from: squares
    tested_images: test
    longest_side: 32
"""


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "squares.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def without_patch_svdd() -> pytest.MonkeyPatch:
    """Methods as if patch-svdd were not part of this version."""
    patch = pytest.MonkeyPatch()
    from artseg_models.study import run

    patch.setattr(run, "METHODS", {name: recipe for name, recipe in run.METHODS.items() if name != "patch-svdd"})
    return patch


@pytest.fixture(scope="module")
def out(
    study_file: Path, squares: Path, tmp_path_factory: pytest.TempPathFactory, without_patch_svdd: pytest.MonkeyPatch
) -> Path:
    folder = tmp_path_factory.mktemp("out")
    done = CliRunner().invoke(
        app, ["study", str(study_file), "--data", str(squares), "--out", str(folder), "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    assert "4 of 6 trainings scored" in done.output
    assert "does not have the method" in done.output
    return folder


@pytest.fixture
def study(study_file: Path) -> Study:
    return read_study(str(study_file))[0]


def rows(path: Path) -> Sequence[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_method_and_metric_has_a_row(out: Path, study: Study) -> None:
    table = rows(out / "tables" / "table_1.csv")
    assert len(table) == 2 * 10 * 3
    by_name = {(row["dataset"], row["metric"], row["method"]): row for row in table}
    missing = by_name["squares", "pixel_iou", "patch-svdd"]
    assert (missing["value"], missing["interval"], missing["seeds"]) == ("", "not run", "0")
    assert (missing["paper_value"], missing["paper_dataset"]) == ("6.9", "LNCaP")
    own = by_name["squares", "pixel_iou", "unet"]
    assert (own["interval"], own["seeds"]) == ("over test images, one seed", "1")
    score = json.loads((out / "cells/squares/unet/seed-0/scores.json").read_text())
    told = [float(own[name]) / 100 for name in ("value", "low", "high")]
    assert told == pytest.approx(score["figures"]["pixel_iou"], abs=1e-4)
    assert by_name["again", "pixel_iou", "unet"]["paper_value"] == ""
    assert {row["why"] for row in rows(out / "tables" / "not_run.csv")} == {
        "this version of artseg does not have the method"
    }
    sizes = {
        (row["dataset"], row["smallest_object_px"], row["method"]): row
        for row in rows(out / "tables/tables_2_to_4.csv")
    }
    assert len(sizes) == 2 * len(paper.SIZES) * 3
    assert sizes["squares", "2000", "unet"]["paper_iou"] == "63.8"
    assert float(sizes["squares", "500", "unet"]["iou"]) < float(sizes["squares", "100", "unet"]["iou"])  # 400 pixels


def test_several_seeds_give_their_mean_and_its_interval(out: Path, study: Study, tmp_path: Path) -> None:
    one = json.loads((out / "cells/squares/unet/seed-0/scores.json").read_text())
    for seed, iou in enumerate((0.5, 0.6, 0.7)):
        one["figures"]["pixel_iou"] = [iou, 0.1, 0.9]
        write_json(tmp_path / f"cells/squares/unet/seed-{seed}/scores.json", one)
    seeds = study.model_copy(update={"more_seeds": {"unet": (0, 1, 2)}})
    table = table_1(Results(study=seeds, out=tmp_path, cells=cells_of(seeds, tmp_path)))
    row = next(r for r in table if (r["dataset"], r["method"], r["metric"]) == ("squares", "unet", "pixel_iou"))
    mean, (low, high) = over_seeds([0.5, 0.6, 0.7])
    assert (row["interval"], row["seeds"]) == ("over seeds", 3)
    assert [row["value"], row["low"], row["high"]] == pytest.approx([100 * mean, 100 * low, 100 * high], abs=0.01)


def test_scores_follow_from_maps_cutoff_and_size(out: Path) -> None:
    folder = out / "cells" / "squares" / "unet" / "seed-0"
    score = json.loads((folder / "scores.json").read_text())
    choice = json.loads((out / "choices" / "squares.json").read_text())
    assert score["cutoff"] == choice["cutoffs"]["unet/0"]["cutoff"]
    assert score["smallest_object_px"] == choice["smallest_object_px"]
    found = read_maps(folder, out / "data" / "squares" / "labels.csv", "test")
    assert score["figures"]["pixel_iou"][0] > 0.5  # squares are easy to learn
    if choice["smallest_object_px"] == 0:
        masks = [read_mask(item, shape=map_.shape) for item, map_ in zip(found.items, found.maps, strict=True)]
        counts = pool(count_agreement(m, map_ >= score["cutoff"]) for m, map_ in zip(masks, found.maps, strict=True))
        assert score["figures"]["pixel_iou"][0] == pytest.approx(counts.iou)
    images = rows(folder / "test_images.csv")
    assert len(images) == score["images"] == 6
    verdicts = [(row["label"] == "artifact", row["verdict"] == "artifact") for row in images]
    truth, said = np.array(verdicts).T
    assert score["figures"]["image_f1"][0] == pytest.approx(count_agreement(truth, said).f1)
    model = score["model"]
    assert (model["model_id"], model["model_cutoff"]) == ("squares/unet/0", score["cutoff"])
    assert model["model_sha256"] == RunPredictor(folder / "run", device="cpu").model.sha256
    for table in ("precision_recall.csv", "test_images.csv"):
        assert {tuple(row[name] for name in model) for row in rows(folder / table)} == {tuple(map(str, model.values()))}
    with Image.open(out / "figures" / "figure_3_curves_squares.png") as drawn:
        assert f"model squares/unet/0, SHA-256 {model['model_sha256']}" in drawn.info["Description"]
    scorecam = json.loads((out / "cells/squares/scorecam/seed-0/scores.json").read_text())
    assert (score["verdict_by"], scorecam["verdict_by"]) == ("objects", "classifier")


def test_a_data_set_that_is_only_tested_on_takes_models_and_cutoffs(out: Path) -> None:
    folder = out / "cells" / "again" / "unet" / "seed-0"
    assert not (folder / "run").exists()
    assert not (folder / "validation.npz").exists()
    there, here = (
        json.loads((out / f"cells/{name}/unet/seed-0/scores.json").read_text()) for name in ("squares", "again")
    )
    assert there["cutoff"] == here["cutoff"]
    assert there["smallest_object_px"] == here["smallest_object_px"]
    assert not (out / "choices" / "again.json").exists()
    cost = {(row["dataset"], row["method"]): row for row in rows(out / "tables" / "cost.csv")}
    assert cost["again", "unet"]["labels"] == "0"
    own = cost["squares", "unet"]
    assert (own["labels"], own["masks_to_learn_from"]) == ("18", "9")
    assert float(own["mask_minutes"]) == pytest.approx(9 * 279 / 60, abs=0.06)
    assert float(own["training_seconds"]) > 0
    assert cost["squares", "scorecam"]["masks_to_learn_from"] == "0"
    assert cost["squares", "scorecam"]["validation_masks_for_cutoff"] == "3"


def test_the_page_needs_nothing_beside_it(out: Path) -> None:
    text = (out / "index.html").read_text()
    links = re.findall(r"(?:src|href)=[\"']([^\"']*)", text)
    assert links
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "@import" not in text
    assert "url(" not in text
    for said in ("Not run", "PatchSVDD", "on other images", "artseg study"):
        assert said in text
    figures = {path.name for path in (out / "figures").iterdir()}
    assert {"figure_3_bars.png", "figure_3_bars.svg", "figure_3_examples_squares.png"} <= figures
    assert {"figure_3_curves_again.png", "supp_figure_2_sizes_squares.svg"} <= figures


def test_the_same_call_repeats_nothing(
    out: Path, study: Study, squares: Path, without_patch_svdd: pytest.MonkeyPatch
) -> None:
    files = sorted(path for path in (out / "cells").rglob("*") if path.is_file())
    before = [path.stat().st_mtime_ns for path in files]
    cells = run_study(study, out, data=squares, devices=["cpu"])
    assert [path.stat().st_mtime_ns for path in files] == before
    assert sorted(cell.state for cell in cells) == ["scored"] * 4 + ["unknown method"] * 2


def test_no_time_means_nothing_run_and_a_table_that_says_so(study: Study, squares: Path, tmp_path: Path) -> None:
    only = study.model_copy(update={"methods": ("unet",), "datasets": {"squares": study.datasets["squares"]}})
    cells = run_study(only, tmp_path, data=squares, minutes=0, devices=["cpu"])
    assert [cell.state for cell in cells] == ["not run"]
    shown = table_1(Results(study=only, out=tmp_path, cells=cells))
    assert {row["interval"] for row in shown} == {"not run"}
    # one that is cut off in the middle is told apart from one that never began
    (cells[0].folder / "run").mkdir(parents=True)
    assert cells[0].state == "unfinished"
    assert "goes on" in cells[0].why


def test_a_cell_that_fails_is_told_and_not_tried_again_unasked(study: Study, squares: Path, tmp_path: Path) -> None:
    broken = study.model_copy(
        update={
            "methods": ("unet",),
            "datasets": {"squares": study.datasets["squares"]},
            "settings": {"unet": {"unet": {"width": 0}}},
        }
    )
    (cell,) = run_study(broken, tmp_path, data=squares, devices=["cpu"])
    assert cell.state == "failed"
    assert "width" in cell.why
    log = (cell.folder / "log.txt").read_bytes()
    run_study(broken, tmp_path, data=squares, devices=["cpu"])
    assert (cell.folder / "log.txt").read_bytes() == log


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends processes without a signal")
def test_a_cell_that_is_told_to_stop_leaves_a_run_that_goes_on(out: Path, tmp_path: Path) -> None:
    job = json.loads((out / "cells/squares/unet/seed-0/job.json").read_text())
    job |= {
        "folder": str(tmp_path / "cell"),
        "settings": {"unet": {**job["settings"]["unet"], "schedule": {"epochs": 5000}}},
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    process = subprocess.Popen(
        [sys.executable, "-m", "artseg_models.study.cell", str(tmp_path / "job.json")], stderr=subprocess.DEVNULL
    )
    checkpoint = tmp_path / "cell" / "run" / "unet" / "checkpoint.pt"
    until = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) in TOLD_TO_STOP
    assert checkpoint.exists()
    assert not (tmp_path / "cell" / "run" / "unet" / "network.pt").exists()
    assert not (tmp_path / "cell" / "cost.json").exists()
    assert json.loads((tmp_path / "cell" / "run" / "cost.json").read_text())["seconds"] > 0


def test_a_classifier_that_is_there_already_is_not_trained_again(squares: Path, out: Path, tmp_path: Path) -> None:
    """It has the weights that training it would give; another seed or setting is another classifier."""
    # each run would measure which engine is faster, and may round otherwise
    small = {"classifier": {"depth": 10, "width": 4, "schedule": {"epochs": 2}}, "scorecam": {"engine": "torch"}}
    of_seed = {
        "methods": ["scorecam", "scorecam-unet"],
        "settings": {
            "scorecam": small,
            "scorecam-unet": {**small, "unet": {"width": 4, "levels": 2, "crop": 32, "schedule": {"epochs": 1}}},
        },
        "datasets": {"squares": {"labels": "labels.csv", "masks_are": "simulated"}},
    }
    both = Study.model_validate({"name": "Both", **of_seed})
    shutil.copytree(out / "data" / "squares", tmp_path / "data" / "squares")
    source = tmp_path / "cells" / "squares" / "scorecam" / "seed-0"
    shutil.copytree(out / "cells" / "squares" / "scorecam" / "seed-0" / "run", source / "run")
    cells = {cell.method: cell for cell in cells_of(both, tmp_path)}
    assert classifier_of(both, cells["scorecam-unet"], list(cells.values())) == source / "run"
    assert classifier_of(both, cells["scorecam"], list(cells.values())) is None
    of_seed["settings"]["scorecam-unet"]["classifier"] = {**small["classifier"], "width": 8}
    assert (
        classifier_of(Study.model_validate({"name": "Other", **of_seed}), cells["scorecam-unet"], [*cells.values()])
        is None
    )

    labels = tmp_path / "data" / "squares" / "labels.csv"
    settings = {**both.settings_of("scorecam-unet"), "binning": 1, "device": "cpu"}
    taken = {"classifier": source / "run" / "classifier"}
    runs = [
        train(labels, tmp_path / name, method="scorecam-unet", overrides=settings, known=known)
        for name, known in (("alone", None), ("taken", taken))
    ]
    for network in ("classifier", "unet"):
        one, other = ((run / network / "network.pt").read_bytes() for run in runs)
        assert one == other


def test_seeds_stand_outside(study: Study, tmp_path: Path) -> None:
    seeds = study.model_copy(update={"more_seeds": {"unet": (0, 1)}})
    order = [(cell.dataset, cell.method, cell.seed) for cell in cells_of(seeds, tmp_path)]
    assert order.index(("again", "scorecam", 0)) < order.index(("squares", "unet", 1))


def test_without_umap_the_page_says_so(out: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ArtSegError, match=r"artseg\[study\]"):
        study_figures.umap_layout()


def test_similar_artifacts_lie_together() -> None:
    pytest.importorskip("umap", reason="umap-learn is an extra")
    random = np.random.default_rng(0)
    rows_ = np.concatenate([random.normal(0, 0.1, (30, 16)), random.normal(3, 0.1, (30, 16))]).astype(np.float32)
    places = study_figures.umap_layout()(rows_)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(60)
    assert (np.argmin(apart, axis=1) // 30 == np.arange(60) // 30).all()


def test_a_page_of_nothing_is_refused(study_file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["study", str(study_file), "--out", str(tmp_path / "none"), "--page"])
    assert isinstance(done.exception, ArtSegError)
    assert "Leave --page out" in str(done.exception)
