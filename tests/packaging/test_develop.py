"""The set-up: environments are made once, made again when they must be, and failures say what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = (sys.version_info.major, sys.version_info.minor)


@pytest.fixture
def describe(develop: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Describe an environment without pip, which is what makes a real one slow."""
    monkeypatch.setattr(develop, "make_venv", lambda environment, log: venv.create(environment.folder, with_pip=False))

    def describe(made_from: str = "first", module: str = "this") -> Any:
        step = develop.Step("a step", (module,))
        return develop.Environment(tmp_path / "environment", (HERE,), made_from, (step,))

    return describe


def test_a_complete_environment_is_left_alone(develop: ModuleType, describe: Callable[..., Any]) -> None:
    develop.make(describe())
    witness = describe().folder / "witness"
    witness.touch()
    develop.make(describe())
    assert witness.exists()


def test_it_is_made_anew_when_its_sources_change(develop: ModuleType, describe: Callable[..., Any]) -> None:
    develop.make(describe())
    witness = describe().folder / "witness"
    witness.touch()
    develop.make(describe(made_from="second"))
    assert not witness.exists()


@pytest.mark.parametrize("lost", ["artseg-stamp.json", "Scripts" if os.name == "nt" else "bin"])
def test_a_half_made_or_broken_one_is_made_anew(develop: ModuleType, describe: Callable[..., Any], lost: str) -> None:
    develop.make(describe())
    witness = describe().folder / "witness"
    witness.touch()
    path = describe().folder / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_text("{", encoding="utf-8")
    develop.make(describe())
    assert not witness.exists()
    assert describe().program("python").exists()


def test_a_failing_step_shows_its_error_and_leaves_no_stamp(develop: ModuleType, describe: Callable[..., Any]) -> None:
    with pytest.raises(develop.SetupError, match="No module named no_such_module") as caught:
        develop.make(describe(module="no_such_module"))
    assert "environment.log" in str(caught.value)
    assert not (describe().folder / "artseg-stamp.json").exists()


def test_each_step_is_named_and_timed(
    develop: ModuleType, describe: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    develop.make(describe())
    shown = capsys.readouterr().out
    assert "Set-up of environment: a step ..." in shown
    assert "Set-up of environment: a step: 0 s" in shown


def test_variables_that_lead_elsewhere_are_dropped(develop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "kept")
    variables = develop.clean_variables()
    assert "elsewhere" not in variables.values()
    assert variables["PIP_INDEX_URL"] == "kept"


def test_python_is_found(develop: ModuleType) -> None:
    assert develop.version_of(develop.find_python([HERE])) == HERE


def test_without_python_one_command_is_printed(develop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(develop, "possible_pythons", lambda version: [["no-such-python"]])
    monkeypatch.setattr(develop, "apt_install", lambda packages: False)
    with pytest.raises(develop.SetupError, match=r"(?s)Expected Python 3\.11, .*install.*3\.11") as caught:
        develop.find_python([(3, 11)])
    assert len(str(caught.value).splitlines()) == 2


def test_programs_have_windows_paths_on_windows(
    develop: ModuleType, describe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(develop, "WINDOWS", True)
    assert describe().program("artseg") == describe().folder / "Scripts" / "artseg.exe"


def test_an_unknown_build_of_pytorch_is_refused(develop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTSEG_TORCH", "rocm")
    with pytest.raises(develop.SetupError, match="cpu or cuda, but it is 'rocm'"):
        develop.artseg_environment()


def test_without_what_cellprofiler_4_is_compiled_with_its_tests_are_told_why(
    develop: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ARTSEG_CELLPROFILER4", raising=False)
    monkeypatch.setattr(develop, "WINDOWS", False)
    monkeypatch.setattr(develop, "apt_install", lambda packages: False)
    monkeypatch.setattr(develop, "possible_pythons", lambda version: [[sys.executable]])
    monkeypatch.setattr(develop, "version_of", lambda command: (3, 9))
    monkeypatch.setattr(
        develop.shutil, "which", lambda name: None if name in ("mysql_config", "mariadb_config") else name
    )
    reason = develop.make_cellprofiler4()["ARTSEG_NO_CELLPROFILER4"]
    assert reason.endswith("sudo apt-get install default-libmysqlclient-dev")
    assert reason in capsys.readouterr().out
    monkeypatch.setattr(develop, "version_of", lambda command: (3, 11))
    assert "needs Python 3.9" in develop.make_cellprofiler4()["ARTSEG_NO_CELLPROFILER4"]


def test_a_cellprofiler_4_of_ones_own_is_taken(develop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTSEG_CELLPROFILER4", "/Applications/CellProfiler.app/Contents/MacOS/cp")
    assert develop.make_cellprofiler4() == {}


def test_linter_settings_do_not_make_environments_anew(develop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = develop.artseg_environment().made_from
    real = Path.read_text
    for place, changed in (("[tool.ruff]", False), ("[project]", True)):

        def read(path: Path, *args: Any, place: str = place, **options: Any) -> str:
            return real(path, *args, **options).replace(place, place + "\n# edited")

        monkeypatch.setattr(Path, "read_text", read)
        assert (develop.artseg_environment().made_from != before) is changed


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_only_calls_the_script(repository: Path, target: str) -> None:
    asked = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", target, "PYTHON=python", "ARGS=-x"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    )
    assert asked.stdout.split() == ["python", "packaging/develop.py", target, "-x"]


def test_continuous_integration_runs_what_the_readme_names(repository: Path) -> None:
    assert (repository / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "make test"
    assert "make test" in (repository / "README.md").read_text(encoding="utf-8")


def test_the_demonstration_takes_the_model_to_try_first_where_it_was_made(
    develop: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(develop, "ROOT", tmp_path)
    model = tmp_path / "model.zip"
    assert develop.demo_arguments(["--size", "tiny"], model=model) == ["--size", "tiny"]
    model.touch()
    assert develop.demo_arguments(["--size", "tiny"], model=model) == ["--size", "tiny", "--model", str(model)]
    assert "to train one instead, add --train" in capsys.readouterr().out
    assert develop.demo_arguments(["--train", "--seed", "1"], model=model) == ["--seed", "1"]
    assert develop.demo_arguments(["--model=mine.zip"], model=model) == ["--model=mine.zip"]
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "demo.json").write_text('{"settings": {"size": "standard"}}')
    assert develop.demo_arguments([], model=model) == [], "one that trains was begun, and goes on"
    (tmp_path / "demo" / "demo.json").write_text('{"settings": {"model_sha256": "0"}}')
    assert develop.demo_arguments([], model=model) == ["--model", str(model)]
