"""The verbs `export`, `package info` and `package check`."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.packages.read import read_package


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


def test_export_writes_into_the_run_unless_told_otherwise(run: Path) -> None:
    people = ["--author", "Lab 7", "--maintainer", "bioimageiobot"]
    options = ["--name", "Lab 7: HeLa", "--model-version", "1.2.0", "--licence", "MIT", *people]
    done = CliRunner().invoke(app, ["export", str(run), *options])
    assert done.exit_code == 0, done.output
    kinds = [f"{kind}{older}" for older in ("", "-0.5.10") for kind in ("classifier", "unet", "combined")]
    written = [run / "packages" / f"lab-7-hela-{kind}.zip" for kind in kinds]
    assert [Path(line) for line in done.stdout.split()] == written
    assert all(path.is_file() for path in written)
    with zipfile.ZipFile(written[1]) as opened:
        content = yaml.safe_load(opened.read("rdf.yaml"))
    assert (content["version"], content["authors"], content["license"]) == ("1.2.0", [{"name": "Lab 7"}], "MIT")
    assert content["maintainers"] == [{"github_user": "bioimageiobot"}]


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


def test_a_run_is_told_from_a_package_and_its_package_named(packages: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "packages").mkdir(parents=True)
    (run / "configuration.json").write_text("{}")
    with pytest.raises(ArtSegError, match=r"run folder of a training\. It has no package yet: `artseg export "):
        read_package(run)
    for name in ("run-classifier.zip", "run-unet-0.5.10.zip", "run-unet.zip"):
        (run / "packages" / name).write_bytes(packages["unet"].read_bytes())
    said = f"{run} is the run folder of a training. Give its package {run / 'packages' / 'run-unet.zip'} (or one"
    info = CliRunner().invoke(app, ["package", "info", str(run)])
    assert said in str(info.exception)
    prediction = CliRunner().invoke(app, ["benchmark", "prediction", str(run)])
    assert said in str(prediction.exception)
    check = CliRunner().invoke(app, ["package", "check", str(run)], env={"COLUMNS": "1000"})
    assert check.exit_code == 1
    assert said in " ".join(check.output.split())


@pytest.mark.parametrize("verb", ["export", "suggest"])
def test_what_is_no_run_is_told_by_what_it_is(packages: dict[str, Path], tmp_path: Path, verb: str) -> None:
    said = {
        tmp_path / "nowhere": "there is nothing",
        packages["unet"]: "that is a file, such as a package",
        tmp_path: "it has no",
    }
    for path, found in said.items():
        with pytest.raises(ArtSegError, match=f"Expected a finished training run at .*, but {found}"):
            CliRunner().invoke(app, [verb, str(path)], catch_exceptions=False)


def test_an_unfinished_run_ends_in_one_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "artseg_models", "export", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Expected a finished training run" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
