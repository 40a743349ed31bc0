"""The folders named as installed packages stay folders, and nothing of one machine gets into the project."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest


def tracked_files(repository: Path) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [repository / name for name in listed.stdout.split("\0") if name and (repository / name).is_file()]


def test_folders_named_as_packages_hold_no_package(repository: Path) -> None:
    found = [
        path
        for folder in ("bioimageio", "packaging", "tests", "plugins")
        for path in (repository / folder).rglob("__init__.py")
        if not path.relative_to(repository / folder).parts[0].startswith("_")
    ]
    assert found == []


def test_model_cards_are_data_only(repository: Path) -> None:
    assert list((repository / "bioimageio").rglob("*.py")) == []


@pytest.mark.parametrize("name", ["packaging", "packaging.version", "bioimageio.core", "bioimageio.spec"])
def test_the_real_packages_are_found_from_the_checkout(repository: Path, name: str) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec('{name}').origin)"
    # -c puts the working folder, the checkout, first on the path
    found = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    origin = Path(found.stdout.strip())
    assert "site-packages" in origin.parts
    assert repository / name.split(".")[0] not in origin.parents


def test_test_files_have_names_of_their_own(repository: Path) -> None:
    names = [path.name for path in (repository / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(("folder", "version"), [("plugins", (3, 8)), ("packaging", (3, 9))])
def test_python_files_keep_to_the_syntax_of_their_readers(
    repository: Path, folder: str, version: tuple[int, int]
) -> None:
    files = list((repository / folder).rglob("*.py"))
    assert files
    for path in files:
        ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=version)


def test_no_path_of_a_machine_and_no_registry_is_named(repository: Path) -> None:
    # written in two halves, so that this file does not find itself
    forbidden = [
        first + second
        for first, second in (
            ("/wo", "rk/"),
            ("/ro", "ot/"),
            ("/home", "/"),
            ("py", "pi.org"),
            ("python", "hosted.org"),
            ("deb.deb", "ian.org"),
            ("npm", "js.org"),
            ("download.py", "torch.org"),
        )
    ]
    found: list[str] = []
    for path in tracked_files(repository):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures
        found += [f"{path.relative_to(repository)}: {word}" for word in forbidden if word in text]
    assert found == []
