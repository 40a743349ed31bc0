"""The archive that a user unzips into CellProfiler's plugins folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from artseg_models import __version__


@pytest.fixture
def archive(plugin_archive: ModuleType, tmp_path: Path) -> Path:
    return plugin_archive.write_archive(tmp_path)


def test_module_and_client_lie_where_cellprofiler_looks(repository: Path, archive: Path) -> None:
    assert archive.name == f"artseg-cellprofiler-plugin-{__version__}.zip"
    opened = zipfile.ZipFile(archive)
    for name in ("segmentartifacts.py", "_artseg_client/__init__.py", "pipelines/artifacts_masked.cppipe"):
        assert opened.read(name) == (repository / "plugins" / name).read_bytes()


def test_it_holds_the_whole_plugin_and_nothing_of_this_machine(repository: Path, archive: Path) -> None:
    plugins = repository / "plugins"
    names = set(zipfile.ZipFile(archive).namelist())
    here = {path.relative_to(plugins).as_posix() for path in plugins.rglob("*") if path.is_file()}
    kept = {name for name in here if "__pycache__" not in name and not name.endswith("installation.json")}
    assert names == kept | {"README.txt", "_artseg_client/LICENSE.txt"}


def test_no_loose_helper_that_cellprofiler_would_load(archive: Path) -> None:
    modules = {name for name in zipfile.ZipFile(archive).namelist() if name.endswith(".py") and "/" not in name}
    assert modules == {name for name in modules if not name.startswith("_")}
    assert "setup.py" not in modules
    assert {"segmentartifacts.py", "measureartifactoverlap.py"} <= modules


def test_readme_says_the_steps(archive: Path) -> None:
    text = zipfile.ZipFile(archive).read("README.txt").decode()
    for step in ("1.", "2.", "3.", "4.", "plugins directory", f"artseg-{__version__}-py3-none-any.whl"):
        assert step in text


def test_the_same_files_give_the_same_archive(plugin_archive: ModuleType, archive: Path, tmp_path: Path) -> None:
    again = plugin_archive.write_archive(tmp_path / "again")
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(archive.read_bytes()).digest()


def test_the_model_to_try_first_is_packed_and_explained(
    plugin_archive: ModuleType, archive: Path, tmp_path: Path
) -> None:
    model = tmp_path / "artseg-simulated-unet-0.5.10.zip"
    model.write_bytes(b"a model")
    opened = zipfile.ZipFile(plugin_archive.write_archive(tmp_path / "with", model=model))
    assert opened.read(f"models/{model.name}") == b"a model"
    text = opened.read("README.txt").decode()
    assert f"artseg demo --model models/{model.name}" in text
    assert "simulated fields" in text
    without = zipfile.ZipFile(archive)
    assert set(opened.namelist()) - set(without.namelist()) == {f"models/{model.name}"}
    assert "models/" not in without.read("README.txt").decode()


def test_without_the_model_the_script_says_how_to_make_it(repository: Path, tmp_path: Path) -> None:
    script = tmp_path / "packaging" / "plugin_archive.py"
    script.parent.mkdir()
    shutil.copyfile(repository / "packaging" / "plugin_archive.py", script)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "make model" in done.stderr
    assert not (tmp_path / "dist").exists()
