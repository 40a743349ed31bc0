"""The built wheel, and an environment that has it instead of the checkout."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "packaging"


def load_script(name: str) -> ModuleType:
    """Import a script of packaging/, which is no package and must not become one."""
    spec = importlib.util.spec_from_file_location(f"artseg_packaging_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(SCRIPTS))  # as when the script is run by its path
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


@pytest.fixture(scope="session")
def develop() -> ModuleType:
    return load_script("develop")


@pytest.fixture(scope="session")
def plugin_archive() -> ModuleType:
    return load_script("plugin_archive")


@pytest.fixture(scope="session")
def shipped_model() -> ModuleType:
    return load_script("shipped_model")


@pytest.fixture(scope="session")
def cell_models() -> ModuleType:
    return load_script("cell_models")


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse with artseg's own wheel and the plugin, but no library."""
    out = tmp_path_factory.mktemp("wheelhouse") / "house"
    return load_script("wheelhouse").gather(out, torch="cpu", only=["artseg"])


@pytest.fixture(scope="session")
def wheel(wheelhouse: Path) -> Path:
    """The built wheel."""
    return next((wheelhouse / "wheels").glob("artseg-*.whl"))


@pytest.fixture(scope="session")
def run_installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., CompletedProcess[str]]:
    """Run a program of an environment that has the wheel, in an empty folder away from the checkout.

    The libraries come from the environment that runs the tests, its artseg does not.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "environment", with_pip=False)
    programs = folder / "environment" / ("Scripts" if os.name == "nt" else "bin")
    python = programs / ("python.exe" if os.name == "nt" else "python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    libraries = Path(subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())
    # a path that a .pth file adds is searched, but its own .pth files, the editable artseg among them, are not read
    (libraries / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    empty = folder / "empty"
    empty.mkdir()

    def run(program: str, *arguments: str, timeout: float = 120) -> CompletedProcess[str]:
        return subprocess.run(
            [programs / program, *arguments],
            cwd=empty,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
