"""Small packages of one model, in two formats and two versions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artseg_models.packages.rdf import load_yaml, write_yaml


def described_anew(package: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Copy a package with another description, which is much faster than another export."""
    unpacked = folder / package.stem
    shutil.unpack_archive(package, unpacked)
    content = load_yaml(unpacked / "rdf.yaml")
    change(content)
    write_yaml(unpacked / "rdf.yaml", content)
    return Path(shutil.make_archive(str(folder / package.stem), "zip", unpacked))


@pytest.fixture(scope="session")
def later(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages of the run once more, as version 0.10.0."""
    folder = tmp_path_factory.mktemp("later")
    return {
        name: described_anew(package, folder, lambda content: content.update(version="0.10.0"))
        for name, package in packages.items()
    }
