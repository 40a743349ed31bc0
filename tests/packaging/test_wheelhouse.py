"""The folder for sites without network."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from artseg_models import __version__


def test_it_holds_wheel_plugin_and_instructions(wheelhouse: Path) -> None:
    assert [path.name for path in (wheelhouse / "wheels").iterdir()] == [f"artseg-{__version__}-py3-none-any.whl"]
    assert (wheelhouse / f"artseg-cellprofiler-plugin-{__version__}.zip").is_file()
    readme = (wheelhouse / "README.txt").read_text(encoding="utf-8")
    assert "python install.py FOLDER" in readme
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in readme


def test_it_appears_whole_or_not_at_all(wheelhouse: Path) -> None:
    assert not wheelhouse.with_name(f"{wheelhouse.name}.unfinished").exists()


def test_the_installer_refuses_wrong_usage(wheelhouse: Path) -> None:
    ast.parse((wheelhouse / "install.py").read_text(encoding="utf-8"))
    done = subprocess.run([sys.executable, wheelhouse / "install.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "install.py FOLDER" in done.stderr


def test_the_installer_takes_nothing_from_the_network(wheelhouse: Path, tmp_path: Path) -> None:
    # torch is not in this wheelhouse, so it must fail rather than fetch it
    done = subprocess.run(
        [sys.executable, wheelhouse / "install.py", tmp_path / "environment"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "PIP_CONFIG_FILE": "/dev/null"},
    )
    assert done.returncode != 0
    assert "No matching distribution found for torch" in done.stderr
