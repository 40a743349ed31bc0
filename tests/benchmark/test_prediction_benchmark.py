"""The benchmark of prediction runs on a real package and compares like with like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from artseg_models.benchmark.prediction import measure_growth
from artseg_models.cli import app
from artseg_models.errors import ArtSegError


# bioimageio.core leaves files open
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_table_names_every_engine_and_says_why_one_is_not_used(packages: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = ["benchmark", "prediction", str(packages["unet"]), "--side", "128", "--rounds", "1", "--area", "4"]
    said = CliRunner().invoke(
        app, [*command, "--images", "2", "--count", "3", "--out", str(out)], env={"COLUMNS": "200"}
    )
    assert said.exit_code == 0, said.output
    figures = json.loads(out.read_text())
    assert {"torch", "onnxruntime"} <= set(figures["engines"])
    assert figures["engine"] in figures["engines"]
    # this package was exported without validation images
    assert "openvino-bf16" not in figures["engines"]
    assert "does not state what bf16 costs" in said.output or "OpenVINO" in said.output
    (growth,) = figures["growth"]
    assert growth["side"] == 256
    assert growth["peak_mib"] > 50
    assert figures["from_file_to_mask"]["images"] == 2
    (count,) = figures["counts"]
    assert count["images"] == 3
    assert count["seconds_each"] > 0
    assert figures["bioimageio_core"]["largest_difference"] < 1e-4


def test_areas_are_squares(packages: dict[str, Path]) -> None:
    with pytest.raises(ArtSegError, match="squares"):
        measure_growth(packages["unet"], [3])
