"""Networks for nuclei and cell bodies: artifacts stay out of what they learn, and their packages run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.files import read_json
from artseg_models.images import read_mask_image, write_image
from artseg_models.packages.check import check_package
from artseg_models.packages.rdf import load_yaml
from artseg_models.packages.read import read_package
from artseg_models.simulate import simulate_family
from artseg_models.training.structures import IGNORED, apart, learned_labels, train_structure

SETTINGS = ["unet.width=4", "unet.levels=3", "unet.crop=64", "unet.schedule.epochs=2", "unet.schedule.batch=4"]


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fields") / "simulated"
    simulate_family(folder, "cho-m4r", fields=12, seed=3, scale=0.12, prevalence=0.5, fluorescence=True)
    return folder


@pytest.fixture(scope="module")
def run(fields: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "nuclei"
    arguments = ["impact", "train", str(fields / "labels.csv"), str(fields / "nuclei"), "--out", str(out)]
    for setting in SETTINGS:
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return out


def test_pixels_under_artifacts_are_not_learned_from() -> None:
    labels, covered = np.zeros((8, 12), dtype=np.int32), np.zeros((8, 12), dtype=bool)
    labels[2:6, 2:8] = 1
    covered[3:, 6:] = True
    learned = learned_labels(labels, covered, binning=2)
    assert learned.tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, IGNORED, IGNORED, IGNORED],
        [0, 1, 1, IGNORED, IGNORED, IGNORED],
        [0, 0, 0, IGNORED, IGNORED, IGNORED],
    ]
    other = np.where(covered, 7, labels)
    np.testing.assert_array_equal(
        learned_labels(np.where(covered, 0, labels), covered, binning=2)[:, :2], learned[:, :2]
    )
    assert (learned_labels(other, covered, binning=2)[learned == IGNORED] == IGNORED).all()


def test_touching_objects_come_apart_and_borders_stay() -> None:
    labels = np.zeros((10, 20), dtype=np.int32)
    labels[2:8, 2:8], labels[2:8, 8:14] = 1, 2
    marked = apart(labels)
    assert not marked[4, 7]
    assert not marked[4, 8]
    assert marked[2:8, 2:7].all()
    assert marked[2:8, 9:14].all()
    assert not marked[labels == 0].any()


def test_the_package_runs_by_artseg_segment_and_gives_labels(run: Path, fields: Path, tmp_path: Path) -> None:
    result = read_json(run / "result.json")
    assert result["structure"] == "nuclei"
    assert set(result["counts"]) == {"train", "validation"}
    newest, older = run / "packages" / "nuclei-nuclei.zip", run / "packages" / "nuclei-nuclei-0.5.10.zip"
    checked = check_package(older)
    assert not checked.failed, checked.findings
    package = read_package(older)
    described = next(finding.detail for finding in checked.findings if finding.what == "description")
    filled = re.search(r"([\d.]+)% of the fields filled", described)
    assert filled is not None
    assert float(filled[1]) > 88
    training = load_yaml(package.folder / "rdf.yaml")["config"]["bioimageio"]["training"]
    assert (training["training_epochs"], training["training_batch_size"]) == (2, 4)
    assert [read_package(package).target for package in (newest, older)] == ["nuclei", "nuclei"]
    assert package.description.endswith("Trained on simulated images alone: to try, not to measure with.")
    assert "**Trained on simulated images alone**" in package.documentation
    assert "**All of them are simulated**" in package.documentation
    image = fields / "images" / "field0001.tiff"
    arguments = ["segment", image, "--model", newest, "--out", tmp_path, "--device", "cpu", "--cutoff", "0.1"]
    segmented = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert segmented.exit_code == 0, segmented.output
    labels = read_mask_image(tmp_path / "field0001_nuclei.tif")
    assert labels.dtype == np.uint16
    row = pd.read_csv(tmp_path / "segmentation.csv").iloc[0]
    assert row["artifact_count"] == labels.max()
    assert pd.isna(row["verdict"])


def test_a_model_finds_the_nuclei_that_are_scored(run: Path, fields: Path, tmp_path: Path) -> None:
    arguments = ["impact", "nuclei", fields / "nuclei", run / "packages" / "nuclei-nuclei.zip", "--out", tmp_path]
    masks = ["--masks", f"true={fields / 'masks'}"]
    without = CliRunner().invoke(app, [str(argument) for argument in (*arguments, *masks)])
    assert isinstance(without.exception, ArtSegError)
    assert "--images" in str(without.exception)
    arguments += [*masks, "--images", fields / "images", "--device", "cpu"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "found").glob("*_nuclei.tif"))) == 12


def test_a_training_goes_on_and_another_is_refused(run: Path, fields: Path, tmp_path: Path) -> None:
    from artseg_models.training.configuration import parse_overrides

    overrides = parse_overrides(SETTINGS)
    again = train_structure(fields / "labels.csv", fields / "nuclei", run, structure="nuclei", overrides=overrides)
    assert again == run
    with pytest.raises(ArtSegError, match="structure differ"):
        train_structure(fields / "labels.csv", fields / "cells", run, structure="cells", overrides=overrides)
    write_image(tmp_path / "maps" / "field0001.tiff", np.zeros((5, 5), np.uint16))
    with pytest.raises(ArtSegError, match="label map"):
        train_structure(
            fields / "labels.csv", tmp_path / "maps", tmp_path / "run", structure="cells", overrides=overrides
        )
