"""Small packages of one model, in two formats and two versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from artseg_models.packages.export import export_packages


@pytest.fixture(scope="session")
def later(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages of the run once more, as version 0.10.0."""
    exported = export_packages(tiny_run, tmp_path_factory.mktemp("later"), version="0.10.0")
    return {name: path for name, path in exported._asdict().items() if path is not None}
