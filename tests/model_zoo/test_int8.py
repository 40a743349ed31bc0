"""Packages that hold their network in int8: made, measured and used only where it costs next to nothing."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from artseg_models.engines import open_engine, time_engines
from artseg_models.errors import ArtSegError
from artseg_models.packages import int8
from artseg_models.packages.export import export_packages
from artseg_models.packages.int8 import write_int8
from artseg_models.packages.read import Package, read_package
from artseg_models.packages.run import read_run
from artseg_models.predict import Predictor

pytest.importorskip("nncf", reason="NNCF is not installed; pip install artseg[int8]")


@pytest.fixture(scope="module")
def run(tiny_run: Path, sample: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose images are still there."""
    folder = tmp_path_factory.mktemp("int8")
    copy = shutil.copytree(tiny_run, folder / "run")
    rows = ["image,label,split"]
    for split in ("train", "validation"):
        for label, pixels in (("artifact", sample), ("clean", sample[::-1])):
            tifffile.imwrite(folder / f"{split}_{label}.tif", np.ascontiguousarray(pixels))
            rows.append(f"../{split}_{label}.tif,{label},{split}")
    (copy / "splits.csv").write_text("\n".join(rows) + "\n")
    return copy


@pytest.fixture(scope="module")
def made(run: Path) -> Package:
    """Its package, int8 being accepted whatever it costs, since nothing was learned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "LARGEST_IOU_COST", 1.0)
        return read_package(export_packages(run, run.parent / "packages", maintainer="octocat").unet)


def test_int8_is_another_engine_of_the_package(made: Package, sample: np.ndarray) -> None:
    assert made.int8 is not None
    assert 0 < made.iou_cost["int8"] <= 1
    assert made.int8.with_suffix(".bin").stat().st_size < made.weights["onnx"].stat().st_size

    package = dataclasses.replace(made, iou_cost={"int8": 0.001})
    expected = Predictor(package, device="cpu", engine="onnxruntime").predict(sample, gate=False)
    found = Predictor(package, device="cpu", engine="openvino-int8").predict(sample, gate=False)
    assert found.engine == "openvino-int8"
    difference = np.abs(found.probability - expected.probability)
    assert 0 < difference.mean() < 0.05
    timed = {one.engine: one for one in time_engines(package, side=64, rounds=1)}
    assert timed["openvino-int8"].refused is None or "differs" in timed["openvino-int8"].refused


def test_int8_that_costs_too_much_is_left_out(
    run: Path, made: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "LARGEST_IOU_COST", -1.0)
    written = write_int8(read_run(run), made.weights["onnx"], tmp_path)
    assert written is not None
    assert written.files == ()
    assert written.iou_cost == pytest.approx(made.iou_cost["int8"], rel=0.01)
    assert not list(tmp_path.iterdir())
    (run.parent / "train_clean.tif").rename(run.parent / "moved.tif")
    (run.parent / "train_artifact.tif").unlink()
    assert write_int8(read_run(run), made.weights["onnx"], tmp_path) is None, "no training image is left"


@pytest.mark.parametrize(
    ("cost", "says"),
    [
        ({"int8": 0.25}, r"int8 may cost .* 0\.25 of IoU"),
        ({}, "does not state what int8 costs"),
        ({"int8": 0.0}, "holds no weights in int8"),
    ],
)
def test_int8_is_refused_with_the_reason(made: Package, cost: dict[str, float], says: str) -> None:
    with pytest.raises(ArtSegError, match=says):
        open_engine("openvino-int8", dataclasses.replace(made, iou_cost=cost, int8=None))
