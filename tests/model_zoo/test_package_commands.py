"""The verbs `export`, `package info` and `package check`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from artseg_models.cli import app


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


def test_export_writes_into_the_run_unless_told_otherwise(run: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(run), "--name", "elsewhere"])
    assert done.exit_code == 0, done.output
    kinds = [f"{kind}{older}" for older in ("", "-0.5.10") for kind in ("classifier", "unet", "combined")]
    written = [run / "packages" / f"elsewhere-{kind}.zip" for kind in kinds]
    assert [Path(line) for line in done.output.split()] == written
    assert all(path.is_file() for path in written)


def test_info_shows_identity_and_settings(packages: dict[str, Path]) -> None:
    done = CliRunner().invoke(app, ["package", "info", str(packages["unet"])])
    assert done.exit_code == 0, done.output
    shown = dict(line.split("  ", 1) for line in done.output.splitlines() if "  " in line)
    assert shown["id"].strip() == "artseg-tiny-run-unet"
    assert len(shown["SHA-256"].strip()) == 64
    assert shown["cutoff"].strip() == "0.6"
    assert shown["smallest artifact"].strip() == "25 pixels"


def test_check_fails_for_a_damaged_package(packages: dict[str, Path], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(packages["unet"].read_bytes()[:-500])
    done = CliRunner().invoke(app, ["package", "check", str(damaged)])
    assert done.exit_code == 1
    assert "failed" in done.output


def test_check_leaves_the_packages_python_alone_unless_trusted(packages: dict[str, Path]) -> None:
    done = CliRunner().invoke(app, ["package", "check", str(packages["classifier"])])
    assert done.exit_code == 0, done.output
    outcomes = {
        cells[1].strip(): cells[2].strip() for line in done.output.splitlines() if len(cells := line.split("│")) > 3
    }
    assert outcomes["pytorch_state_dict"] == "not run"
    assert outcomes["onnx"] == outcomes["torchscript"] == "passed"


def test_an_unfinished_run_ends_in_one_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "artseg_models", "export", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Expected a finished training run" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
