"""One image through torch, ONNX Runtime, TorchScript, bioimageio.core and SegmentArtifacts inside CellProfiler."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from artseg_models.networks.unet import UNet
from artseg_models.packages.read import Package, read_package
from artseg_models.simulate import SimulatedField

pytestmark = [
    # bioimageio.core leaves files open
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]
#: that of the run
CUTOFF = 0.4
#: largest difference in probability, and how near to the cutoff the last digits may decide
TOLERANCE = 1e-4
PACKAGES = ("small-unet.zip", "small-unet-0.5.10.zip", "small-combined.zip", "small-combined-0.5.10.zip")


@pytest.fixture(scope="module")
def counts(fields: dict[str, SimulatedField]) -> np.ndarray:
    """The image as the microscope stored it, (197, 231) uint16: no multiple of anything."""
    return fields["A01_s1"].brightfield[3:, :231]


@pytest.fixture(scope="module")
def golden(package: Path, counts: np.ndarray) -> np.ndarray:
    """The probability that the trained network gives in torch, (y, x), the image normalised in plain numpy."""
    run = package.parent.parent
    network = UNet(**json.loads((run / "result.json").read_text())["unet"]).eval()
    network.load_state_dict(torch.load(run / "unet" / "network.pt", weights_only=True))
    pixels = counts.astype(np.float64)
    normal = torch.as_tensor((pixels - pixels.mean()) / pixels.std(), dtype=torch.float32)
    with torch.no_grad():
        probability = network(normal[None, None])[0, 0].numpy()
    assert 0.005 < (probability >= CUTOFF).mean() < 0.5, "else the masks would say nothing"
    return probability


@pytest.fixture(scope="module")
def module(
    ask_inside: Callable[..., dict[str, Any]],
    package: Path,
    counts: np.ndarray,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, np.ndarray]:
    """What SegmentArtifacts gives for the image as CellProfiler's own reader hands it over: 0..1, float32."""
    folder = tmp_path_factory.mktemp("golden")
    np.save(folder / "image.npy", (counts / 65535).astype(np.float32))
    out = folder / "out.npz"
    ask_inside("inside_golden.py", folder / "image.npy", out, *(package.with_name(name) for name in PACKAGES))
    with np.load(out) as loaded:
        return dict(loaded)


def onnx_map(package: Package, counts: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(package.weights["onnx"]), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": package.network_input(package.preprocess(counts))})[0][0, 0]


def torchscript_map(package: Package, counts: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        given = torch.as_tensor(package.network_input(package.preprocess(counts)))
        return torch.jit.load(str(package.weights["torchscript"]))(given).numpy()[0, 0]


def core_map(package: Package, counts: np.ndarray) -> np.ndarray:
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.spec import load_model_description

    model: Any = load_model_description(package.path)
    with create_prediction_pipeline(model, weight_format="onnx") as pipeline:
        sample = create_sample_for_model(model, inputs={"image": counts.astype(np.float32)[None, None]})
        done = pipeline.predict_sample_without_blocking(sample)
    return next(iter(done.members.values())).data.values[0, 0]


def assert_mask(found: np.ndarray, golden: np.ndarray) -> None:
    """Every pixel whose probability is not within the tolerance of the cutoff."""
    counted = np.abs(golden - CUTOFF) > TOLERANCE
    assert counted.mean() > 0.99
    assert (found == (golden >= CUTOFF))[counted].all()


@pytest.mark.parametrize("name", PACKAGES[:2])
@pytest.mark.parametrize("reader", [onnx_map, torchscript_map, core_map])
def test_other_readers_give_what_torch_gives(
    package: Path, counts: np.ndarray, golden: np.ndarray, name: str, reader: Callable[..., np.ndarray]
) -> None:
    found = reader(read_package(package.with_name(name)), counts)
    assert np.abs(found - golden).max() < TOLERANCE
    assert_mask(found >= CUTOFF, golden)


@pytest.mark.parametrize("name", PACKAGES)
def test_the_module_inside_cellprofiler_gives_what_torch_gives(
    module: dict[str, np.ndarray], golden: np.ndarray, name: str
) -> None:
    probability, mask, clean = (module[f"{name}:{kind}"] for kind in ("probability", "mask", "clean"))
    if "combined" in name:
        # its map is the mask already
        assert set(np.unique(probability)) == {0, 1}
    else:
        assert np.abs(probability - golden).max() < TOLERANCE
    assert_mask(mask, golden)
    assert (clean == ~mask).all()
