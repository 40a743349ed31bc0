"""The linter and the type checker find nothing: a violation fails the build."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


def run(repository: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed; make test installs it")
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=repository, capture_output=True, text=True, check=False
    )


def test_ruff_finds_nothing(repository: Path) -> None:
    done = run(repository, "ruff", "check", "--no-cache", "--output-format=concise")
    assert done.returncode == 0, done.stdout


def test_files_are_formatted(repository: Path) -> None:
    done = run(repository, "ruff", "format", "--check", "--no-cache")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_pyright_finds_nothing(repository: Path) -> None:
    done = run(repository, "pyright", "--pythonpath", sys.executable)
    if "error" not in done.stdout and "0 errors" not in done.stdout:
        pytest.skip(f"pyright could not be fetched or started: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stdout
