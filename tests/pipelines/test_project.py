"""Pipelines in projects (.cpproj): read, changed and written beside the project's list of images."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.pipelines.insert import plan_insertion
from artseg_models.pipelines.project import is_project, open_pipeline, save_pipeline
from artseg_models.pipelines.text import read_pipeline


@pytest.fixture
def pipeline(repository: Path) -> Path:
    return repository / "plugins" / "pipelines" / "no_masking.cppipe"


@pytest.fixture
def project(pipeline: Path, tmp_path: Path) -> Path:
    """In the form that CellProfiler writes, with what an earlier run left."""
    path = tmp_path / "plate.cpproj"
    text = h5py.string_dtype()
    with h5py.File(path, "w") as made:
        made["Version"] = np.array([1])
        made.create_dataset("FileList/Default/files", data=["file:///plate/A01.tif"], dtype=text)
        made["Measurements/2020-01-01-00-00-00/Experiment/Old/data"] = np.array([1])
        measurements = made.create_group("Measurements/2026-11-24-16-11-18")
        for feature, value in (
            ("Pipeline_Pipeline", pipeline.read_text(encoding="utf-8")),
            ("Default_InputFolder", "/plate"),
            ("Run_Timestamp", "yesterday"),
        ):
            measurements.create_dataset(
                f"Experiment/{feature}/data", data=[value], dtype=text, maxshape=(None,), chunks=(1024,)
            )
        measurements["Image/ImageNumber/data"] = np.arange(3)
    return path


def test_a_projects_pipeline_is_that_of_the_text_form(project: Path, pipeline: Path) -> None:
    assert is_project(project)
    assert not is_project(pipeline)
    assert open_pipeline(project) == open_pipeline(pipeline) == read_pipeline(pipeline)


def test_text_that_an_old_version_escaped_is_read(project: Path, pipeline: Path) -> None:
    with h5py.File(project, "r+") as opened:
        data = opened["Measurements/2026-11-24-16-11-18/Experiment/Pipeline_Pipeline/data"]
        data[0] = pipeline.read_text(encoding="utf-8").encode("unicode-escape").decode("ascii")
    assert open_pipeline(project) == read_pipeline(pipeline)


def test_a_changed_project_keeps_its_images_and_drops_old_results(project: Path, tmp_path: Path) -> None:
    before = project.read_bytes()
    out = tmp_path / "new.cpproj"
    call = ["cellprofiler", "insert", str(project), "--brightfield", "Brightfield", "--objects", "Nuclei"]
    done = CliRunner().invoke(app, [*call, "--out", str(out), "--yes"])
    assert done.exit_code == 0, done.output
    assert project.read_bytes() == before
    expected = plan_insertion(open_pipeline(project), brightfield="Brightfield", objects=["Nuclei"]).apply()
    assert open_pipeline(out).to_bytes() == expected.to_bytes()
    with h5py.File(out) as written:
        assert written["FileList/Default/files"].asstr()[0] == "file:///plate/A01.tif"
        newest = written["Measurements/2026-11-24-16-11-18"]
        assert set(newest) == {"Experiment"}
        assert set(newest["Experiment"]) == {"Pipeline_Pipeline", "Default_InputFolder"}
    with pytest.raises(ArtSegError, match="already"):
        save_pipeline(expected, out, source=project)
    # as text, too
    save_pipeline(expected, tmp_path / "new.cppipe", source=project)
    assert (tmp_path / "new.cppipe").read_bytes() == expected.to_bytes()


def test_a_pipeline_alone_makes_no_project(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtSegError, match=r"Write new\.cppipe instead"):
        save_pipeline(open_pipeline(pipeline), tmp_path / "new.cpproj", source=pipeline)


def test_files_that_are_no_projects_are_told(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.cpproj"
    with h5py.File(other, "w") as made:
        made["data"] = np.zeros(3)
    with pytest.raises(ArtSegError, match="no CellProfiler project"):
        open_pipeline(other)
    with h5py.File(project, "r+") as opened:
        del opened["Measurements/2026-11-24-16-11-18/Experiment/Pipeline_Pipeline"]
    with pytest.raises(ArtSegError, match="Expected a CellProfiler project with a pipeline"):
        open_pipeline(project)
    cut = tmp_path / "cut.cpproj"
    cut.write_bytes(project.read_bytes()[:600])
    with pytest.raises(ArtSegError, match="Expected a CellProfiler project with a pipeline"):
        open_pipeline(cut)
    with pytest.raises(ArtSegError, match="cannot be read"):
        open_pipeline(tmp_path / "none.cpproj")
