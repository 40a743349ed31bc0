"""The built wheel is complete: installed away from the checkout, it does what a clone does."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from artseg_models import __version__

Run = Callable[..., CompletedProcess[str]]


def test_it_holds_every_file_of_the_bundled_folders(repository: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"artseg_models/_bundle/{path.relative_to(repository).as_posix()}"
        for folder in ("plugins", "bioimageio")
        for path in (repository / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "installation.json"
    }
    assert {name for name in names if name.startswith("artseg_models/_bundle/")} == expected
    assert "artseg_models/_bundle/plugins/segmentartifacts.py" in expected
    assert "artseg_models/_bundle/plugins/measureartifactoverlap.py" in expected
    assert "artseg_models/_bundle/plugins/pipelines/artifacts_masked.cppipe" in expected


def test_it_holds_every_file_of_the_package(repository: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = repository / "artseg_models"
    expected = {
        f"artseg_models/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    assert expected - names == set()


def test_it_brings_no_other_top_level_name(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"artseg_models", f"artseg-{__version__}.dist-info"}


def test_the_command_runs(run_installed: Run) -> None:
    shown = run_installed("artseg", "--version")
    assert (shown.returncode, shown.stdout.strip()) == (0, f"artseg {__version__}")
    asked = run_installed("artseg", "--help")
    assert asked.returncode == 0
    assert "labels" in asked.stdout


def test_help_is_fast_because_it_imports_no_heavy_library(run_installed: Run) -> None:
    code = "import sys, artseg_models.cli; print([m for m in ('torch', 'onnxruntime', 'skimage') if m in sys.modules])"
    assert run_installed("python", "-c", code).stdout.strip() == "[]"


def test_it_finds_its_bundle_without_a_checkout(repository: Path, run_installed: Run) -> None:
    code = (
        "import artseg_models.bundle as b; "
        "print(b.plugins_folder(), b.pipelines_folder(), b.cards_folder(), sep=chr(10))"
    )
    asked = run_installed("python", "-c", code)
    assert asked.returncode == 0, asked.stderr
    plugins, pipelines, cards = (Path(line) for line in asked.stdout.splitlines())
    assert repository not in plugins.parents
    assert (plugins / "segmentartifacts.py").is_file()
    affinity = ("affinity_artifacts_masked", "affinity_drawn_masks", "affinity_no_masking")
    examples = (*affinity, "artifacts_filtered", "artifacts_masked", "image_quality", "no_masking")
    assert sorted(path.stem for path in pipelines.glob("*.cppipe")) == list(examples)
    of_checkout = sorted(path.name for path in (repository / "bioimageio").iterdir())
    assert "artseg-unet" in of_checkout
    assert sorted(path.name for path in cards.iterdir()) == of_checkout


def test_it_installs_the_module_into_a_plugins_folder(run_installed: Run, tmp_path: Path) -> None:
    done = run_installed("artseg", "cellprofiler", "install", "--plugins-folder", str(tmp_path / "plugins"))
    assert done.returncode == 0, done.stderr
    for module in ("segmentartifacts.py", "measureartifactoverlap.py"):
        assert (tmp_path / "plugins" / module).is_file()
    assert (tmp_path / "plugins" / "_artseg_client" / "installation.json").is_file()


def test_usage_errors_end_with_2(run_installed: Run) -> None:
    assert run_installed("artseg", "no-such-verb").returncode == 2


@pytest.mark.slow
def test_it_runs_the_demonstration(run_installed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("ARTSEG_CELLPROFILER"):
        pytest.skip("needs CellProfiler: set ARTSEG_CELLPROFILER to its executable, or run the tests by make test")
    # a service of the wheel's own, ended here, not one that some checkout has running
    monkeypatch.setenv("ARTSEG_STATE_DIR", str(tmp_path / "state"))
    done = run_installed("artseg", "demo", "--size", "tiny", "--out", str(tmp_path / "demo"), timeout=900)
    run_installed("artseg", "serve", "--stop")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "demo").rglob("*.html"))
    assert pages
    # self-contained: the pictures are inside
    assert "data:image/png;base64," in pages[0].read_text(encoding="utf-8")
