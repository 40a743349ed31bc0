"""SegmentArtifacts as CellProfiler's own Python sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artseg_models.simulate import SimulatedField


@pytest.fixture(scope="module")
def found(
    ask_inside: Callable[..., dict[str, Any]],
    package: Path,
    fields: dict[str, SimulatedField],
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What `inside_cellprofiler.py` found out."""
    image = tmp_path_factory.mktemp("image") / "brightfield.npy"
    np.save(image, (fields["A01_s1"].brightfield / 65535).astype(np.float32))
    return ask_inside("inside_cellprofiler.py", package, repository / "plugins" / "pipelines", image)


def test_masked_pixels_are_in_neither_mask(found: dict[str, Any]) -> None:
    masked = found["masked"]
    assert masked["dtypes"][:3] == ["bool", "bool", "float32"]
    assert "int" in masked["dtypes"][3]  # CellProfiler takes the smallest type that holds the labels
    assert masked["in_both"] == 0
    assert masked["in_neither_are_masked"]
    assert masked["artifact_pixels"] > 100
    assert masked["objects"] == list(range(len(masked["objects"])))
    assert masked["usable"] == masked["clean"]
    assert masked["fraction"] == pytest.approx(
        masked["artifact_pixels"] / (masked["artifact_pixels"] + masked["clean"])
    )


def test_display_gets_arrays_and_texts_only(found: dict[str, Any]) -> None:
    assert found["masked"]["displayed"] == ["clean", "labels", "pixels", "probability", "statistics"]
    assert found["masked"]["plain"]


def test_declared_measurements_are_the_made_ones(found: dict[str, Any]) -> None:
    assert found["undeclared"] == []
    assert found["unmeasured"] == []
    assert "ArtSeg_AreaFraction_Artifacts" in found["chosen_by_category"]
    assert "ArtSeg_ModelSHA256_Artifacts" in found["chosen_by_category"]


def test_no_artifact_is_no_failure(found: dict[str, Any]) -> None:
    assert found["nothing_found"] == {"count": 0, "centres": 0, "clean": True, "cutoff": 1.0}


def test_bad_input_is_told_clearly(found: dict[str, Any]) -> None:
    assert "grayscale" in found["colour"]
    assert "NaN" in found["nan"] or "finite" in found["nan"]
    assert "all pixels have the value" in found["constant"]
    assert found["validated"].startswith("ValidationError: There is no model package at")
    assert "Expected a model package (.zip or folder) at" in found["missing"]
    assert "has no model package" in found["blank"]


def test_the_example_pipelines_are_valid(found: dict[str, Any]) -> None:
    assert {name: problems for name, (_, problems) in found["pipelines"].items() if problems} == {}
    masked, plain = (found["pipelines"][name] for name in ("artifacts_masked", "no_masking"))
    added = [name for name in masked[0] if name not in plain[0]]
    assert added == ["SegmentArtifacts", "ImageMath", "MaskImage", "ImageMath", "MaskImage", "ErodeImage"]
