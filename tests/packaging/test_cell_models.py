"""The networks of nuclei and cell bodies, on a scale at which they learn nothing."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from artseg_models.packages.read import read_package


def test_one_command_gives_both_packages_and_their_scores(
    cell_models: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell_models.build(tmp_path / "out", tmp_path / "work", size="tiny", scale=0.1)
    told = re.findall(r"(artseg-simulated-\w+)\.zip: (\d+) simulated test fields", capsys.readouterr().out)
    assert sorted(name for name, _ in told) == ["artseg-simulated-cells", "artseg-simulated-nuclei"]
    for name, fields in told:
        assert int(fields) > 0
        package = read_package(tmp_path / "out" / f"{name}.zip")
        assert package.id == name
        assert set(package.validation) == {"pixel_f1", "object_f1"}
