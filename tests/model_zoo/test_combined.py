"""Gate and U-Net in one graph: the mask that ArtSeg gives with two networks, in every reader and format."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from artseg_models.networks.combined import GatedUNet
from artseg_models.packages.export import export_packages
from artseg_models.packages.read import Package, read_package
from artseg_models.predict import Predictor

GATE, CUTOFF = 0.01, 0.6


@pytest.fixture(scope="module")
def unet(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """The U-Net with its gate beside it."""
    return Predictor(read_package(packages["unet"], cache=tmp_path_factory.mktemp("cache")), device="cpu")


@pytest.fixture(scope="module", params=["combined", "older_combined"])
def combined(
    packages: dict[str, Path], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Package:
    return read_package(packages[request.param], cache=tmp_path_factory.mktemp("cache"))


def images(sample: np.ndarray) -> dict[str, np.ndarray]:
    """Images on both sides of the gate, of odd and even sizes."""
    return {"open": sample[:, :130], "closed": sample, "open, odd": sample[:101, :151], "flat": sample[:64, 100:]}


def masks(package: Package, pixels: np.ndarray) -> dict[str, np.ndarray]:
    given = package.network_input(package.preprocess(pixels))
    session = onnxruntime.InferenceSession(str(package.weights["onnx"]), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        script = torch.jit.load(str(package.weights["torchscript"]))(torch.as_tensor(given)).numpy()
    return {
        "onnx": session.run(None, {"image": given})[0][0, 0],
        "torchscript": script[0, 0],
        "artseg": Predictor(package, device="cpu").predict(pixels, smallest_artifact_px=0).mask.astype(np.float32),
    }


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_the_mask_is_that_of_gate_and_unet(unet: Predictor, combined: Package, sample: np.ndarray) -> None:
    opened: dict[str, bool] = {}
    for name, pixels in images(sample).items():
        expected = unet.predict(pixels, smallest_artifact_px=0)
        opened[name] = expected.gate_open
        decided = np.abs(expected.probability - CUTOFF) > 1e-4
        assert decided.mean() > 0.99
        if expected.gate_open:
            assert 0.001 < expected.mask.mean() < 0.9
        for reader, mask in masks(combined, pixels).items():
            assert set(np.unique(mask)) <= {0, 1}, (name, reader)
            assert (mask[decided] == expected.mask[decided]).all(), (name, reader)
    assert {opened["open"], opened["closed"]} == {True, False}


def test_small_artifacts_are_dropped_by_artseg_as_with_two_networks(
    unet: Predictor, combined: Package, sample: np.ndarray
) -> None:
    pixels = sample[:, :130]
    expected = unet.predict(pixels)
    everything = unet.predict(pixels, smallest_artifact_px=0)
    assert expected.smallest_artifact_px == 25
    assert expected.count < everything.count, "the image must have small artifacts"
    assert (Predictor(combined, device="cpu").predict(pixels).mask == expected.mask).all()


def test_each_image_of_a_batch_has_its_own_gate(combined: Package, sample: np.ndarray) -> None:
    halves = [sample[:101, :151], sample[100:201, 82:233]]
    given = np.concatenate([combined.network_input(combined.preprocess(half)) for half in halves])
    session = onnxruntime.InferenceSession(str(combined.weights["onnx"]), providers=["CPUExecutionProvider"])
    together = session.run(None, {"image": given})[0]
    alone = [session.run(None, {"image": image[None]})[0][0] for image in given]
    assert (together == np.stack(alone)).all()


def test_a_combined_model_is_never_run_in_tiles(combined: Package, sample: np.ndarray) -> None:
    assert combined.whole_images_only
    assert Predictor(combined, device="cpu", whole_px=100, tile_px=32, halo_px=32).predict(sample).tiles == 1


def test_what_is_inside_and_what_is_left_to_do_is_stated(packages: dict[str, Path]) -> None:
    with zipfile.ZipFile(packages["combined"]) as opened:
        content: dict[str, Any] = yaml.safe_load(opened.read("rdf.yaml"))
        card = opened.read("README.md").decode()
        architecture = opened.read("combined.py").decode()
        mask = np.load(opened.open("test_output.npy"))
    ours = content["config"]["artseg"]
    assert ours["inside"] == {
        "cutoff": CUTOFF,
        "gate_threshold": GATE,
        "classifier": "artseg-tiny-run-classifier",
        "unet": "artseg-tiny-run-unet",
    }
    assert (ours["cutoff"], ours["smallest_artifact_px"], ours["gate_threshold"]) == (0.5, 25, None)
    assert content["config"]["deepimagej"]["allow_tiling"] is False
    assert len(content["outputs"]) == 1
    assert "**Whole images only.**" in card
    assert "artseg_models" not in architecture, "a reader without ArtSeg must be able to build the network"
    assert 0 < mask.mean() < 1


def test_no_combined_package_where_nothing_could_be_tested(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    result = json.loads((copy / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps(result | {"gate_threshold": 1.0}))
    with caplog.at_level(logging.WARNING):
        exported = export_packages(copy, tmp_path / "out")
    assert (exported.combined, exported.older_combined) == (None, None)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in exported.paths}
    assert "No combined package is written: gate and cutoff leave no artifact in" in caplog.text


def test_the_gate_closes_below_its_threshold() -> None:
    torch.manual_seed(0)
    shape = {"classifier": {"depth": 10, "width": 4}, "unet": {"width": 4, "levels": 2}}
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        network = GatedUNet(**shape, cutoff=0.0, gate_threshold=0.0).eval()
        probability = float(network.classifier(image)[0, 1])
        for threshold, expected in ((probability - 1e-3, 1), (probability + 1e-3, 0)):
            network.gate_threshold = threshold
            assert network(image).unique().tolist() == [expected]
