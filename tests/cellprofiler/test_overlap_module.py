"""MeasureArtifactOverlap as CellProfiler's own Python sees it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def found(ask_inside: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """What `inside_overlap.py` found out."""
    return ask_inside("inside_overlap.py")


def test_overlap_distance_and_touching_are_those_of_the_drawing(found: dict[str, Any]) -> None:
    nuclei = found["measured"]["Nuclei"]
    assert nuclei["OverlapFraction"] == [1, 0.5, 0, 0, 0]
    assert nuclei["ArtifactDistance"] == pytest.approx([0, 0, math.sqrt(2), 2, math.hypot(4, 4)])
    assert nuclei["TouchesArtifact"] == [1, 1, 1, 0, 0]
    assert found["measured"]["Cells"] == {
        "OverlapFraction": [0],
        "ArtifactDistance": [21],
        "TouchesArtifact": [0],
    }


def test_objects_that_overlap_each_other_are_each_measured_whole(found: dict[str, Any]) -> None:
    assert found["measured"]["Worms"]["OverlapFraction"] == pytest.approx([0.5, 18 / 38])


def test_no_object_gives_empty_measurements(found: dict[str, Any]) -> None:
    assert set(map(len, found["measured"]["None"].values())) == {0}


def test_without_artifact_the_distance_is_the_diagonal(found: dict[str, Any]) -> None:
    assert found["no_artifact"]["ArtifactDistance"] == [100.0] * 5
    assert found["no_artifact"]["OverlapFraction"] == found["no_artifact"]["TouchesArtifact"] == [0] * 5


def test_masked_pixels_are_no_artifact(found: dict[str, Any]) -> None:
    assert found["masked"]["OverlapFraction"] == [1, 0, 0, 0, 0]
    assert found["masked"]["TouchesArtifact"] == [1, 1, 0, 0, 0]


def test_declared_overlap_measurements_are_the_made_ones(found: dict[str, Any]) -> None:
    assert found["columns"] == {"undeclared": [], "unmeasured": []}
    assert found["chosen"] == [
        f"ArtSeg_{feature}_ArtifactMask" for feature in ("OverlapFraction", "ArtifactDistance", "TouchesArtifact")
    ]
    assert found["chosen_elsewhere"] == []


def test_the_figure_sums_up_each_set_of_objects(found: dict[str, Any]) -> None:
    assert found["plain"]
    assert found["drawn"] == {
        "titles": ["ArtifactMask, objects outlined"],
        "table": {
            "Objects": ["5", "1", "0", "2"],
            "Touched": ["3", "0", "0", "2"],
            "Over half covered": ["1", "0", "0", "0"],
            "Mean overlap": ["30.0 %", "0.0 %", "-", "48.7 %"],
        },
    }


def test_bad_masks_are_told_clearly(found: dict[str, Any]) -> None:
    assert "ArtifactMask has 30 x 80 pixels and Nuclei 60 x 80. In SegmentArtifacts, match" in found["size"]
    assert "ArtifactMask has other values" in found["grey"]
    assert "has the shape (60, 80, 3)" in found["colour"]
    assert "has no objects to measure" in found["unset"]
    assert found["unset_in_window"].startswith("ValidationError: Select at least one")


def test_the_help_is_whole(found: dict[str, Any]) -> None:
    for said in ("Supports 2D?", "FilterObjects", "ArtSeg_ArtifactDistance", "Select objects to measure"):
        assert said in found["help"]
    assert "System Message" not in found["help"]  # how docutils marks what it could not read
