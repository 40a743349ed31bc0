"""`artseg simulate compare`: distances that are zero for the same image and grow with the difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.images import write_image
from artseg_models.simulate import simulate_field
from artseg_models.simulate.realism import compare_with_real


def test_the_simulation_is_like_itself_and_unlike_noise(tmp_path: Path) -> None:
    own = simulate_field(seed=0, shape=(160, 160), artifact=True, cell_density=30)
    same = compare_with_real(own.brightfield, pixel_size_um=0.6, cells=30)
    assert (same.histogram_distance, same.spectrum_distance) == (pytest.approx(0), pytest.approx(0))
    assert same.contrast_ratio == pytest.approx(1)
    noise = np.random.default_rng(1).normal(20000, 200, (160, 160)).astype(np.uint16)
    other = compare_with_real(noise, pixel_size_um=0.6, cells=30)
    assert other.spectrum_distance > 3
    assert other.contrast_ratio > 2
    write_image(tmp_path / "own.tiff", own.brightfield)
    arguments = ["simulate", "compare", str(tmp_path / "own.tiff"), "--pixel-size", "0.6", "--cells", "30"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "figure.png")])
    assert result.exit_code == 0, result.output
    assert "0.00 standard deviations" in result.output
    assert (tmp_path / "figure.png").stat().st_size > 10000
