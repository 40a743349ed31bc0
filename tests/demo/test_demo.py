"""The demonstration: resumable, careful with folders, and once whole with the real CellProfiler."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.demo import demo
from artseg_models.errors import ArtSegError
from artseg_models.files import sha256


@pytest.fixture
def any_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pass the look for CellProfiler in tests that end before it is started."""
    monkeypatch.setenv("ARTSEG_CELLPROFILER", sys.executable)


def test_without_cellprofiler_it_ends_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTSEG_CELLPROFILER", str(tmp_path / "no-such-program"))
    with pytest.raises(ArtSegError, match="CellProfiler"):
        demo(tmp_path / "out", size="tiny", say=lambda line: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("any_program")
def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ArtSegError, match="--out"):
        demo(tmp_path, size="tiny", say=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.usefixtures("any_program")
def test_another_demonstration_is_not_mixed_in(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path, size="tiny", say=stop)
    with pytest.raises(ArtSegError, match="other settings"):
        demo(tmp_path, size="tiny", seed=1, say=stop)


@pytest.mark.usefixtures("any_program")
def test_a_stopped_demonstration_goes_on(tmp_path: Path) -> None:
    said: list[str] = []

    def stop_at_training(line: str) -> None:
        said.append(line)
        if "train the preset best" in line:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            demo(tmp_path, size="tiny", say=stop_at_training)
    assert [line.partition(" - ")[2][:11] for line in said if "simulate 32" in line] == ["", "done before"]
    images = sorted((tmp_path / "training" / "images").iterdir())
    assert len(images) == 32
    # a step whose result was taken away is done again
    said.clear()
    (tmp_path / "training" / "labels.csv").unlink()
    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path, size="tiny", say=stop_at_training)
    assert not any("done before" in line for line in said)


@pytest.mark.usefixtures("any_program")
def test_with_a_model_nothing_is_trained_and_that_model_is_scored(tmp_path: Path, packages: dict[str, Path]) -> None:
    said: list[str] = []

    def stop_at_plate(line: str) -> None:
        said.append(line)
        if "simulate a plate" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path / "out", size="tiny", model=packages["older_unet"], say=stop_at_plate)
    assert not any("train" in line for line in said)
    assert not (tmp_path / "out" / "runs").exists()
    evaluation = json.loads((tmp_path / "out" / "evaluation" / "evaluation.json").read_text())
    assert evaluation["audit"]["model_sha256"] == sha256(packages["older_unet"])
    # another model is another demonstration
    with pytest.raises(ArtSegError, match="other settings"):
        demo(tmp_path / "out", size="tiny", model=packages["unet"], say=stop_at_plate)


@pytest.fixture
def own_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A service of this test alone, ended with it."""
    from artseg_models.service import server

    monkeypatch.setenv("ARTSEG_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("ARTSEG_CACHE", str(tmp_path / "cache"))
    yield
    server.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("own_service")
def test_the_whole_chain_with_the_real_cellprofiler(tmp_path: Path) -> None:
    if not os.environ.get("ARTSEG_CELLPROFILER"):
        pytest.skip("set ARTSEG_CELLPROFILER to CellProfiler's executable to run the demonstration")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path / "demo"
    started = time.monotonic()
    try:
        done = CliRunner().invoke(app, ["demo", "--out", str(out), "--size", "tiny"], catch_exceptions=False)
    finally:
        torch.set_num_threads(threads)
    assert done.exit_code == 0, done.output
    assert done.output.count("Step ") == 9
    assert str(out / "report.html") in done.output
    page = (out / "report.html").read_text(encoding="utf-8")
    model = json.loads((out / "evaluation" / "evaluation.json").read_text())["audit"]
    assert model["model_sha256"] in page
    assert page.count("data:image/png;base64,") == 4
    assert "http://" not in page
    assert (out / "cellprofiler" / "no_masking" / "Nuclei.csv").is_file()
    # what the masked run used is what the page says it used
    masked = (out / "cellprofiler" / "artifacts_masked" / "Image.csv").read_text()
    assert model["model_sha256"] in masked
    with Image.open(out / "picture.png") as picture:
        assert picture.width > 500
    assert (out / "picture.png").stat().st_size < 400_000

    before = time.monotonic() - started
    again = CliRunner().invoke(app, ["demo", "--out", str(out), "--size", "tiny"], catch_exceptions=False)
    assert again.output.count("done before") == 9
    assert time.monotonic() - started - before < 0.5 * before
