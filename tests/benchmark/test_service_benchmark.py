"""`artseg benchmark service`: real clients and a real service, small images, no judgement of times."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from artseg_models.benchmark.module import benchmark_module
from artseg_models.benchmark.service import benchmark_service
from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.packages.read import read_package


def test_the_figures_are_of_one_service_that_is_gone_afterwards(
    packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("ARTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = ["benchmark", "service", packages["unet"], "--device", "cpu", "--images", "4", "--side", "128"]
    done = CliRunner().invoke(app, [*map(str, command), "--out", str(tmp_path / "figures.json")])
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["sha256"] == read_package(packages["unet"]).sha256
    assert (figures["device"], figures["shape"], figures["images"]) == ("cpu", [128, 128], 4)
    assert figures["first_seconds"] > figures["client_seconds"] > figures["network_seconds"] > 0
    assert [crowd["clients"] for crowd in figures["crowds"]] == [1, 2, 4]
    assert figures["crowds"][0]["relative"] == 1
    assert all(crowd["resident_mib"] > 20 and crowd["images_per_second"] > 0 for crowd in figures["crowds"])
    assert figures["processor_ratio"] > 0
    assert "service over own process" in done.output
    assert "memory of the service" in done.output
    until = time.monotonic() + 20  # it may still be on its way out
    while alive_in(tmp_path):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_the_module_is_timed_inside_cellprofiler(
    packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = os.environ.get("ARTSEG_CELLPROFILER")
    if not program:
        pytest.skip("no CellProfiler to time the module in: set ARTSEG_CELLPROFILER to its executable")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("ARTSEG_CACHE", str(tmp_path / "cache"))
    found = benchmark_module(packages["unet"], [program], device="cpu", images=4, shape=(128, 128))
    assert found.sha256 == read_package(packages["unet"]).sha256
    assert (found.cellprofiler[0], found.engine, found.images) == ("5", os.environ["ARTSEG_ENGINE"], 4)
    assert found.first_seconds > found.module_seconds > found.network_seconds > 0
    assert found.ratio == pytest.approx(found.module_seconds / found.inside_seconds)
    assert not alive_in(tmp_path)


def alive_in(folder: Path) -> list[psutil.Process]:
    """Processes whose state folder lies in `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            inside = process.environ().get("ARTSEG_STATE_DIR", "").startswith(str(folder))
            if inside and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_what_a_client_says_last_is_the_message(
    packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from artseg_models.benchmark import service

    monkeypatch.setattr(service, "plugins_folder", lambda: tmp_path)  # no client there
    with pytest.raises(ArtSegError, match=r"A client of the benchmark failed: .*_artseg_client"):
        benchmark_service(packages["unet"], device="cpu", images=4, shape=(128, 128))
    with pytest.raises(ArtSegError, match="begin with 1"):
        benchmark_service(packages["unet"], clients=(2, 4))
