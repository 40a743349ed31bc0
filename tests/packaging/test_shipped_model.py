"""The model to try first, on a scale at which it learns nothing."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from artseg_models.packages.read import read_package


def test_one_command_gives_packages_that_say_what_they_learned_from(
    shipped_model: ModuleType, plugin_archive: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from artseg_models.demo import SCALES

    recipe = shipped_model.Recipe(fields=24, side=128, overrides=SCALES["tiny"].overrides)
    path = shipped_model.build(tmp_path / "out", tmp_path / "work", recipe=recipe)
    assert path.name == "artseg-simulated-unet-0.5.10.zip"
    assert "simulated test fields" in capsys.readouterr().out
    package = read_package(path)
    assert package.id == "artseg-simulated-unet"
    assert package.training["source"] == "artseg-simulated-fields"
    assert "`artseg-simulated-fields`. **All of them are simulated**" in package.documentation
    assert "**Trained on simulated images alone**" in package.documentation
    assert package.description.endswith("Trained on simulated images alone: to try, not to measure with.")
    assert package.trained_on.startswith("artseg-simulated-fields (simulated images); train: ")
    # the archive packs what this writes
    assert path.name == plugin_archive.MODEL.name
