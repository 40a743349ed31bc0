"""The benchmark of ScoreCAM runs on a real run's classifier, and tells likeness from speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from artseg_models.benchmark.scorecam import Measured, Way, benchmark_scorecam
from artseg_models.cli import app
from artseg_models.errors import ArtSegError


@pytest.fixture(scope="module")
def labels(sample: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    for name, turned in (("first", sample), ("second", sample[::-1])):
        tifffile.imwrite(folder / f"{name}.tif", np.ascontiguousarray(turned))
    file = folder / "labels.csv"
    file.write_text("image,label,split\nfirst.tif,artifact,validation\nsecond.tif,artifact,validation\n")
    return file


def test_ways_are_held_against_the_exact_maps(tiny_run: Path, labels: Path) -> None:
    ways = (Way("exact, torch", "exact"), Way("grouped", "grouped", groups=2), Way("grad-cam", "grad-cam"))
    exact, grouped, peer = benchmark_scorecam(tiny_run, labels, images=2, side=48, ways=ways)
    assert exact.maps.shape == grouped.maps.shape == (2, 48, 48)
    assert exact.correlation(exact) == pytest.approx((1, 1))
    assert exact.iou(exact) == 1
    assert grouped.seconds > 0
    assert not np.array_equal(grouped.maps, exact.maps)
    assert 0.5 < grouped.correlation(exact)[1] <= grouped.correlation(exact)[0] < 1
    assert peer.refused == "not installed" or peer.correlation(exact)[0] > 0.5


def test_a_classifier_that_tells_kinds_is_measured_too(
    make_run: Callable[..., Path], labels: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", kinds=("dust", "fibre"))
    ways = (Way("exact, torch", "exact"), Way("feature, torch", "feature"))
    with pytest.raises(ArtSegError, match="which has 2, got 4"):
        benchmark_scorecam(run, labels, images=1, side=48, ways=ways)
    (exact,) = benchmark_scorecam(run, labels, images=1, side=48, layer=2, ways=ways)
    assert exact.refused is None
    assert exact.maps.max() == 1


def test_the_smallest_correlation_is_that_of_the_worst_image() -> None:
    ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    exact = Measured(Way("exact, torch", "exact"), 1.0, 0.0, np.stack([ramp, ramp]))
    other = Measured(Way("other", "exact"), 1.0, 0.0, np.stack([ramp, 1 - ramp]))
    assert other.correlation(exact) == pytest.approx((0, -1))
    assert other.iou(exact) == pytest.approx((1 + 10 / 12) / 2)


def test_a_run_needs_labels(tiny_run: Path) -> None:
    with pytest.raises(ArtSegError, match="labels"):
        benchmark_scorecam(tiny_run)
    said = CliRunner().invoke(app, ["benchmark", "scorecam", str(tiny_run)])
    assert said.exit_code == 1
