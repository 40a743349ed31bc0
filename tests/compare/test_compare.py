"""Two result folders side by side."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.compare import compare_runs
from artseg_models.errors import ArtSegError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    tables = {
        "plain": "ImageNumber,ObjectNumber,AreaShape_Area,Intensity_MeanIntensity_DNA,Metadata_Well,Only_Here\n"
        "1,1,100,0.2,A01,1\n1,2,300,0.6,A01,1\n",
        "masked": "ImageNumber,ObjectNumber,AreaShape_Area,Intensity_MeanIntensity_DNA,Metadata_Well\n"
        "1,1,100,0.2,A01\n",
    }
    for name, text in tables.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "Nuclei.csv").write_text(text)
    return tmp_path / "plain", tmp_path / "masked"


def test_counts_and_means_of_what_both_measured(folders):
    changes = {change.measurement: change for change in compare_runs(*folders)}
    assert list(changes) == ["Count", "AreaShape_Area", "Intensity_MeanIntensity_DNA"]
    assert (changes["Count"].before, changes["Count"].after) == (2, 1)
    assert (changes["AreaShape_Area"].before, changes["AreaShape_Area"].after) == (200, 100)
    assert changes["AreaShape_Area"].relative == pytest.approx(-0.5)


def test_a_run_without_objects_has_no_mean(folders):
    _, masked = folders
    (masked / "Nuclei.csv").write_text("ImageNumber,ObjectNumber,AreaShape_Area\n")
    count, *others = compare_runs(*folders, measurements=("AreaShape",))
    assert count.after == 0
    assert all(math.isnan(change.after) for change in others)


def test_missing_tables_and_measurements_are_told(folders):
    with pytest.raises(ArtSegError, match=r"has: Nuclei.*--objects"):
        compare_runs(*folders, objects="Cells")
    with pytest.raises(ArtSegError, match="Texture"):
        compare_runs(*folders, measurements=("Texture",))


def test_the_command_shows_a_table(folders):
    shown = CliRunner().invoke(app, ["cellprofiler", "compare", *map(str, folders), "--measurement", "Area"])
    assert shown.exit_code == 0
    assert "-50.0%" in shown.stdout
    assert "DNA" not in shown.stdout
