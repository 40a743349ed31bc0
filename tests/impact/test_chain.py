"""`artseg impact chain`: it remembers what is done, and says how near it came to its goals."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from artseg_models.bundle import pipelines_folder
from artseg_models.errors import ArtSegError
from artseg_models.impact import chain
from artseg_models.impact.affinity import paper_figures
from artseg_models.impact.chain import BACKGROUND_COLUMN, CELL_COLUMN, TREATMENTS, read_goals, run_chain, write_goals
from artseg_models.pipelines.text import read_pipeline


@pytest.fixture
def any_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that stands for CellProfiler where it is only looked for."""
    monkeypatch.setenv("ARTSEG_CELLPROFILER", os.environ.get("ARTSEG_CELLPROFILER") or sys.executable)


@pytest.mark.usefixtures("any_program")
def test_a_stopped_chain_goes_on_and_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chain.SCALES, "tiny", replace(chain.SCALES["tiny"], training_fields=4, scale=0.1))
    said: list[str] = []

    def stop_at_training(line: str) -> None:
        said.append(line)
        if "train the artifact model" in line:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_chain(tmp_path, size="tiny", compounds=["arecholine"], say=stop_at_training)
    assert [line.partition(" - ")[2][:11] for line in said if "to learn from" in line] == ["", "done before"]
    assert len(list((tmp_path / "training" / "nuclei").iterdir())) == 4
    with pytest.raises(ArtSegError, match="other settings"):
        run_chain(tmp_path, size="tiny", compounds=["atropine"], say=stop_at_training)
    # with models nothing is trained
    said.clear()

    def stop_at_once(line: str) -> None:
        said.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_chain(tmp_path / "other", size="tiny", models=tmp_path, say=stop_at_once)
    assert "Step 1 of" in said[0]
    assert "simulate the concentration-response assay" in said[0]


def test_its_pipelines_measure_what_it_reads(repository: Path) -> None:
    assert set(TREATMENTS) == {"true", "model", "none"}
    measured = {column.rpartition("_")[2] for column in (CELL_COLUMN, BACKGROUND_COLUMN)}
    for name in TREATMENTS.values():
        pipeline = read_pipeline(pipelines_folder() / f"{name}.cppipe")
        modules = {module.name: module for module in pipeline.modules}
        images = next(
            setting.value for setting in modules["MeasureImageIntensity"].settings if "images" in setting.text
        )
        assert {image.strip() for image in images.split(",")} == measured


def test_goals_are_read_off_the_tables(tmp_path: Path) -> None:
    areas = ["artifact-free", "after removal, model", "measured with masks, true", "measured with masks, model"]
    for name, count in (("nuclei", 4), ("nuclei_brightfield", 2)):
        (tmp_path / name).mkdir()
        table = {
            "area": areas[:count],
            "pixel_f1": [0.9, 0.895, 0.8, 0.7][:count],
            "object_f1": [0.6, 0.6, 0.5, 0.5][:count],
        }
        pd.DataFrame(table).to_csv(tmp_path / name / "summary.csv", index=False)
    with pytest.raises(ArtSegError, match="finished chain"):
        read_goals(tmp_path)
    (tmp_path / "affinity").mkdir()
    pd.DataFrame(
        {
            "treatment": ["true", "model"],
            "mean_absolute_log_ic50_difference": [None, 0.04],
            "pearson_r": [None, 0.98],
            "mean_r2": [0.95, 0.96],
        }
    ).to_csv(tmp_path / "affinity" / "summary.csv", index=False)
    write_goals(tmp_path)
    table = pd.read_csv(tmp_path / "goals.csv").set_index("goal")
    assert table.loc["log IC50 apart, mean", "met"] == "yes"
    assert table.loc["Pearson r of wells", "met"] == "no"
    assert table.loc["Pearson r of wells", "found"] == 0.98
    assert table.loc["R2 apart", "found"] == pytest.approx(0.01)
    assert list(table["met"][:6]) == ["yes", "yes", "no", "yes", "yes", "yes"]


def test_the_papers_differences_stand_beside_its_own_reference_alone() -> None:
    assert paper_figures("model", "true") == paper_figures("model", "manual")
    assert paper_figures("model", "manual")["difference"] == 0.16
    assert "difference" not in paper_figures("model", "none")
    assert "r" not in paper_figures("none", "model")
    assert paper_figures("none", "none")["r2"] == 0.74
