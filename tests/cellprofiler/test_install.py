"""`artseg cellprofiler install`: finding CellProfilers, installing into them, checking and removing."""

from __future__ import annotations

import json
import os
import plistlib
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from artseg_models.cellprofiler import run_pipeline
from artseg_models.cellprofiler_install import Computer, check_place, find_places, find_programs, install, uninstall
from artseg_models.cli import app
from artseg_models.errors import ArtSegError


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["cellprofiler", "install", *map(str, arguments)])


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A plugins folder with another plugin and what an earlier artseg left."""
    folder = tmp_path / "plugins"
    (folder / "_artseg_client").mkdir(parents=True)
    (folder / "_artseg_client" / "_of_an_earlier_version.py").touch()
    (folder / "another_plugin.py").touch()
    return folder


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_the_installed_client_knows_artsegs_python(plugins: Path) -> None:
    answer = invoke("--plugins-folder", plugins)
    assert answer.exit_code == 0, answer.output
    assert {path.name for path in plugins.iterdir()} == {
        *("_artseg_client", "another_plugin.py", "measureartifactoverlap.py", "segmentartifacts.py")
    }
    assert "_artseg_client/_of_an_earlier_version.py" not in files_of(plugins)
    environment = {name: value for name, value in os.environ.items() if name != "ARTSEG_PYTHON"}
    asked = subprocess.run(
        [sys.executable, "-c", "from _artseg_client._find_python import artseg_command; print(artseg_command())"],
        cwd=plugins,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.strip() == str([sys.executable, "-m", "artseg_models"])


def test_exactly_what_was_installed_is_removed(plugins: Path) -> None:
    (plugins / "_artseg_client" / "_of_an_earlier_version.py").unlink()
    (plugins / "_artseg_client").rmdir()
    before = files_of(plugins)
    install(plugins=plugins)
    # CellProfiler leaves compiled files
    for package in (plugins, plugins / "_artseg_client"):
        (package / "__pycache__").mkdir()
    (plugins / "__pycache__" / "segmentartifacts.cpython-39.pyc").touch()
    (plugins / "_artseg_client" / "__pycache__" / "__init__.cpython-39.pyc").touch()
    (plugins / "__pycache__" / "another_plugin.cpython-39.pyc").touch()
    answer = invoke("--uninstall", "--plugins-folder", plugins)
    assert answer.exit_code == 0, answer.output
    assert files_of(plugins) == before | {"__pycache__", "__pycache__/another_plugin.cpython-39.pyc"}
    with pytest.raises(ArtSegError, match="notes none"):
        uninstall(plugins)


def test_what_was_changed_since_is_kept_and_named(plugins: Path) -> None:
    install(plugins=plugins)
    with open(plugins / "segmentartifacts.py", "a", encoding="utf-8") as written:
        written.write("# mine\n")
    answer = invoke("--uninstall", "--plugins-folder", plugins)
    assert "Kept, because they were changed since: segmentartifacts.py" in answer.output
    assert files_of(plugins) == {"segmentartifacts.py", "another_plugin.py"}


def test_a_note_cannot_lead_out_of_the_folder(plugins: Path, tmp_path: Path) -> None:
    install(plugins=plugins)
    (tmp_path / "precious").write_bytes(b"")
    note = plugins / "_artseg_client" / "installation.json"
    noted = json.loads(note.read_text())
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    noted["files"] |= {"../precious": empty, str(tmp_path / "precious"): empty}
    note.write_text(json.dumps(noted))
    uninstall(plugins)
    assert (tmp_path / "precious").exists()


def test_check_says_what_is_wrong_and_the_one_command_that_mends_it(plugins: Path) -> None:
    nothing = invoke("--check", "--plugins-folder", plugins)
    assert nothing.exit_code == 1
    assert f"This mends it: artseg cellprofiler install --plugins-folder {plugins}" in nothing.output

    install(plugins=plugins)
    well = invoke("--check", "--plugins-folder", plugins)
    assert well.exit_code == 0, well.output
    assert "[ok]   the service" in well.output

    (plugins / "measureartifactoverlap.py").write_text("# older\n")
    older = invoke("--check", "--plugins-folder", plugins)
    assert older.exit_code == 1
    assert "differs from this artseg: measureartifactoverlap.py" in older.output

    note = plugins / "_artseg_client" / "installation.json"
    for field, value, told in (
        ("python", str(plugins / "gone" / "python"), "is gone"),
        ("artseg", "0.0.1", "it comes from artseg 0.0.1"),
    ):
        install(plugins=plugins)
        note.write_text(json.dumps({**json.loads(note.read_text()), field: value}))
        (problem,) = check_place(plugins).problems
        assert told in problem
    install(plugins=plugins)
    assert check_place(plugins).problems == []


def test_a_service_that_does_not_start_is_told(plugins: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(plugins=plugins)
    (tmp_path / "state").touch()  # a file where its folder should be
    monkeypatch.setenv("ARTSEG_STATE_DIR", str(tmp_path / "state"))
    answer = invoke("--check", "--plugins-folder", plugins)
    assert answer.exit_code == 1
    assert "[mend] the service does not start" in answer.output


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are not in the file mode there")
def test_an_administrator_installs_for_all(plugins: Path) -> None:
    before = os.umask(0o077)
    try:
        answer = invoke("--system-wide", plugins)
    finally:
        os.umask(before)
    assert answer.exit_code == 0, answer.output
    assert f"--plugins-directory {plugins}" in answer.output
    for path in (plugins / "segmentartifacts.py", *plugins.glob("_artseg_client/*")):
        assert path.stat().st_mode & stat.S_IROTH, path
    assert (plugins / "_artseg_client").stat().st_mode & stat.S_IXOTH


def test_options_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    assert invoke("--check", "--uninstall").exit_code == 2
    assert invoke("--system-wide", tmp_path, "--plugins-folder", tmp_path).exit_code == 2


# ---- finding, on each system ----


@pytest.fixture
def computer(tmp_path: Path) -> Callable[..., Computer]:
    """Make up a computer: system, and what stands in its registry and variables."""

    def make(system: str, registry: dict[str, str] | None = None, **variables: str) -> Computer:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        return Computer(system, home, variables, lambda key, _: (registry or {}).get(key), tmp_path)

    return make


def write_preferences(path: Path, folder: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    named = "" if folder is None else f"PluginDirectoryCP4={folder}\n"
    path.write_text(f"PreferencesVersion=1\n{named}IntensityMode=raw\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("system", "file", "version"),
    [
        ("linux", ".config/CellProfiler/CellProfilerLocal.cfg", "5"),
        ("linux", ".config/CellProfilerLocal.cfg", "4"),
        ("darwin", "Library/Application Support/CellProfiler/CellProfilerLocal.cfg", "5"),
        ("darwin", "Library/Preferences/CellProfilerLocal.cfg", "4"),
        ("win32", "AppData/Roaming/CellProfiler/CellProfilerLocal.cfg", "5"),
    ],
)
def test_the_plugins_folder_is_found_in_the_preferences(
    computer: Callable[..., Computer], tmp_path: Path, system: str, file: str, version: str
) -> None:
    here = computer(system, APPDATA=str(tmp_path / "home" / "AppData" / "Roaming"))
    folder = tmp_path / "my plugins ü"
    write_preferences(here.home / file, str(folder))
    (place,) = find_places(here)
    assert place.folder == folder
    assert place.origin.startswith(f"CellProfiler {version}'s preferences")


def test_preferences_are_found_where_variables_put_them(computer: Callable[..., Computer], tmp_path: Path) -> None:
    write_preferences(tmp_path / "elsewhere" / "CellProfilerLocal.cfg", str(tmp_path / "four"))
    assert [place.folder for place in find_places(computer("linux", XDG_CONFIG_HOME=str(tmp_path / "elsewhere")))] == [
        tmp_path / "four"
    ]
    assert find_places(computer("linux", XDG_CONFIG_HOME="elsewhere")) == []  # a relative one does not count


def test_windows_paths_are_read_as_wxwidgets_writes_them(computer: Callable[..., Computer], tmp_path: Path) -> None:
    here = computer("win32", APPDATA=str(tmp_path))
    write_preferences(tmp_path / "CellProfiler" / "CellProfilerLocal.cfg", r'"C:\\Users\\Ann Lee\\plugins "')
    assert str(find_places(here)[0].folder) == "C:\\Users\\Ann Lee\\plugins "


def test_windows_keeps_preferences_in_the_registry(computer: Callable[..., Computer]) -> None:
    here = computer("win32", registry={r"Software\CellProfilerLocal.cfg": r"D:\lab\plugins"})
    (place,) = find_places(here)
    assert str(place.folder) == r"D:\lab\plugins"
    assert "registry" in place.origin


def test_both_versions_are_installed_into(computer: Callable[..., Computer], tmp_path: Path) -> None:
    here = computer("darwin")
    write_preferences(here.home / "Library/Preferences/CellProfilerLocal.cfg", str(tmp_path / "four"))
    write_preferences(here.home / "Library/Application Support/CellProfiler/CellProfilerLocal.cfg", None)
    assert {place.folder for place in find_places(here)} == {
        tmp_path / "four",
        here.home / "Library" / "Application Support" / "CellProfiler" / "plugins",  # where none is named
    }


def test_programs_are_found_with_their_versions(computer: Callable[..., Computer], tmp_path: Path) -> None:
    application = tmp_path / "Applications" / "CellProfiler.app" / "Contents"
    application.mkdir(parents=True)
    (application / "Info.plist").write_bytes(plistlib.dumps({"CFBundleShortVersionString": "4.2.8"}))
    here = computer("darwin")
    assert [(program.path.name, program.version) for program in find_programs(here)] == [("CellProfiler.app", "4.2.8")]
    # never started, so without preferences: the folder that it takes then
    (place,) = find_places(here)
    assert place.folder == here.home / "Library" / "Application Support" / "CellProfiler4.2.8" / "plugins"

    windows = tmp_path / "Program Files"
    (windows / "CellProfiler").mkdir(parents=True)
    (windows / "CellProfiler" / "CellProfiler.exe").touch()
    (program,) = find_programs(computer("win32", ProgramFiles=str(windows)))
    assert program.path.name == "CellProfiler.exe"


def test_no_cellprofiler_tells_what_to_do(computer: Callable[..., Computer], monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = computer("linux")
    monkeypatch.setattr(Computer, "this", lambda: nothing)
    with pytest.raises(ArtSegError, match=r"File > Preferences(.|\n)*--plugins-folder"):
        install()
    assert invoke("--check").exit_code == 1
    answer = invoke("--uninstall")
    assert isinstance(answer.exception, ArtSegError)
    assert "Found nothing to remove" in str(answer.exception)


# ---- in the real CellProfiler ----


def test_a_real_cellprofiler_lists_and_runs_what_was_installed(
    cellprofiler: list[str],
    computer: Callable[..., Computer],
    ask_inside: Callable[..., dict[str, Any]],
    images: Path,
    package: Path,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = computer("linux", ARTSEG_CELLPROFILER=cellprofiler[0])
    (program,) = find_programs(here)
    write_preferences(here.home / ".config" / "CellProfilerLocal.cfg", str(tmp_path / "plugins"))
    monkeypatch.setattr(Computer, "this", lambda: here)
    install()
    folder = tmp_path / "plugins"
    found = ask_inside("inside_listing.py", folder)
    assert found["version"] == program.version
    assert found["modules"] == {
        "SegmentArtifacts": str(folder / "segmentartifacts.py"),
        "MeasureArtifactOverlap": str(folder / "measureartifactoverlap.py"),
    }
    one = tmp_path / "images"
    one.mkdir()
    for path in images.glob("A01_*"):
        shutil.copyfile(path, one / path.name)
    pipeline = repository / "plugins" / "pipelines" / "artifacts_filtered.cppipe"
    out = run_pipeline(pipeline, one, tmp_path / "out", package=package, cellprofiler=cellprofiler, plugins=folder)
    assert pd.read_csv(out / "Image.csv")["ArtSeg_UsableArea_Artifacts"][0] > 0
