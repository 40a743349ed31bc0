"""What bf16 and int8 change in a map and a mask is measured on the package itself."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.packages.precisions import measure_precisions
from artseg_models.packages.read import read_package

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
FP32, BF16, INT8 = "fp32 (TorchScript)", "bf16 (autocast)", "int8 (static)"
OPENVINO, OPENVINO_BF16 = "fp32 (OpenVINO)", "bf16 (OpenVINO)"


def test_each_precision_rounds_as_coarsely_as_its_name_says(packages: dict[str, Path], tmp_path: Path) -> None:
    effects = {effect.precision: effect for effect in measure_precisions(packages["unet"], cache=tmp_path)}
    # OpenVINO's is left out where the processor has none
    assert [name for name in effects if name != OPENVINO_BF16] == [FP32, OPENVINO, BF16, INT8]
    for name in (FP32, OPENVINO):
        assert effects[name].largest < 1e-4
        assert effects[name].changed_px == 0
    # bf16 keeps 8 binary digits
    for name in effects.keys() & {BF16, OPENVINO_BF16}:
        assert 1e-4 < effects[name].largest < 0.1
    assert 1e-4 < effects[INT8].largest < 0.5
    for effect in effects.values():
        assert effect.mean <= effect.largest
        assert effect.changed_px <= effect.image_px == 201 * 233
        assert 0 < effect.artifact_px < effect.image_px


def test_it_is_the_difference_of_torch_itself(
    packages: dict[str, Path], networks: dict[str, torch.nn.Module], sample: np.ndarray, tmp_path: Path
) -> None:
    """Of an image that was given, of odd size."""
    tifffile.imwrite(tmp_path / "field.tif", sample[:, :131])
    pixels = sample[:, :131].astype(np.float64)
    normal = torch.as_tensor((pixels - pixels.mean()) / pixels.std(), dtype=torch.float32)[None, None]
    with torch.no_grad():
        exact = networks["unet"](normal)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = networks["unet"](normal).float()
    effects = measure_precisions(packages["unet"], [tmp_path / "field.tif"], cache=tmp_path / "cache")
    bf16 = next(effect for effect in effects if effect.precision == BF16)
    assert bf16.image_px == 201 * 131
    assert bf16.largest == pytest.approx(float((exact - rounded).abs().max()), rel=0.2)
    assert bf16.mean == pytest.approx(float((exact - rounded).abs().mean()), rel=0.2)
    cutoff = read_package(packages["unet"], cache=tmp_path / "cache").cutoff
    changed = int(((exact >= cutoff) != (rounded >= cutoff)).sum())
    assert bf16.changed_px == pytest.approx(changed, abs=0.1 * changed + 5)


def test_the_command_tells_it_and_says_what_is_missing(
    packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("ARTSEG_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(app, ["package", "precisions", str(packages["unet"])])
    assert done.exit_code == 0, done.output
    for said in (FP32, BF16, INT8, f"{201 * 233} pixels"):
        assert said in done.output
    folder = tmp_path / "without"
    with zipfile.ZipFile(packages["unet"]) as opened:
        opened.extractall(folder)
    content = yaml.safe_load((folder / "rdf.yaml").read_text())
    del content["weights"]["torchscript"]
    (folder / "rdf.yaml").write_text(json.dumps(content))  # JSON is YAML
    with pytest.raises(ArtSegError, match="Expected ONNX and TorchScript weights"):
        measure_precisions(folder)
