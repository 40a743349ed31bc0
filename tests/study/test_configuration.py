"""STUDY.yaml: what it may say, and what is told when it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.methods import METHODS
from artseg_models.study import paper
from artseg_models.study.configuration import read_study, shipped

ONE = "name: A\ndatasets:\n  a: {labels: labels.csv}\n"


def read(tmp_path: Path, text: str):
    (tmp_path / "study.yaml").write_text(text)
    return read_study(str(tmp_path / "study.yaml"))[0]


def test_the_least_that_can_be_said(tmp_path: Path) -> None:
    study = read(tmp_path, ONE)
    assert study.methods == paper.METHODS
    assert study.seeds_of("padim") == (0,)
    assert study.cutoffs_from == "validation"
    assert read(tmp_path, ONE + "preset: paper\n").cutoffs_from == "published"
    more = read(tmp_path, ONE + "more_seeds: {unet: [0, 1, 2]}\nsettings: {unet: {unet: {width: 4}}}\n")
    assert (more.seeds_of("unet"), more.seeds_of("scorecam")) == ((0, 1, 2), (0,))
    assert more.settings_of("unet") == {"unet": {"width": 4}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: A\n", "datasets: missing"),
        (
            ONE.replace("labels: labels.csv", "label: x"),
            r"datasets\.a\.label: there is no such setting; there are .*labels",
        ),
        (ONE + "metods: [unet]\n", "metods: there is no such setting; there are .*methods"),
        (ONE + "methods: [unet, resnet]\n", r"methods\.1: .*'scorecam-unet'.*got 'resnet'"),
        (ONE + "methods: [unet, unet]\n", "twice"),
        (ONE.replace("labels: labels.csv", ""), "expected one of labels, pairs and simulate"),
        (ONE.replace("labels.csv", "a, simulate: {}"), "got labels and simulate"),
        (ONE.replace("labels.csv", "a, smallest_object: 30"), "20, 50, 100, 500, 1000, 2000"),
        (ONE.replace("labels.csv", "a, smallest_object: published"), "needs family"),
        (ONE.replace("labels.csv", "a, transfer_from: b"), "trained on itself"),
        (ONE.replace("labels.csv", "a, longest_side: big"), r"longest_side: .*integer.*got 'big'"),
        ("- a\n", "expected names and values"),
        ("name: [", "could not be read as YAML"),
    ],
)
def test_errors_teach(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ArtSegError, match=told) as raised:
        read(tmp_path, text)
    assert "artseg study --list" in str(raised.value)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ArtSegError, match="umid_fibre"):
        read_study("no_such_study")


def test_shipped_studies_can_be_read_and_are_listed() -> None:
    names = set(shipped())
    assert {"umid_fibre", "bccd_dust", "magnetic_tile", "organoid_hair", "cho_m4r", "twins"} <= names
    for name in names:
        read_study(name)
    shown = CliRunner().invoke(app, ["study", "--list"])
    assert shown.exit_code == 0
    assert all(name in shown.output for name in names)


def test_methods_of_the_paper_are_those_of_training() -> None:
    assert set(METHODS) <= set(paper.METHODS)
    assert set(paper.PUBLISHED_CUTOFFS) == set(paper.METHOD_NAMES) == set(paper.METHODS)
    for table in paper.TABLE_1.values():
        assert all(len(values) == len(paper.METHODS) for values in table.values())
    for by_method in paper.TABLES_2_TO_4.values():
        assert set(by_method) == set(paper.METHODS)
        assert all(len(values) == len(paper.SIZES) for values in by_method.values())


def test_published_figures_agree_with_each_other() -> None:
    """IoU follows from F1: a slip of the pen would show."""
    for family in ("seven-lines", "lncap"):
        for method in ("unet", "scorecam-unet", "scorecam"):
            f1, iou = (paper.published(family, method, f"pixel_{name}") or 0 for name in ("f1", "iou"))
            assert iou == pytest.approx(f1 / (2 - f1), abs=0.015)
    assert paper.published(None, "unet", "pixel_f1") is None
