"""One image through every reader that is here, both formats and all weights: the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from artseg_models.backends import OpenVinoBackend
from artseg_models.packages.read import Package, read_package
from artseg_models.predict import Predictor

pytestmark = [
    # bioimageio.core leaves files open
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]
KINDS = ("classifier", "unet", "combined")
FORMATS = ("pytorch_state_dict", "torchscript", "onnx")
CUTOFF = 0.6


@pytest.fixture(scope="module")
def image(sample: np.ndarray) -> np.ndarray:
    """An image that the gate lets pass, of odd size."""
    return sample[:, :131]


@pytest.fixture(scope="module")
def golden(networks: dict[str, torch.nn.Module], image: np.ndarray) -> dict[str, np.ndarray]:
    """What torch gives, the normalisation in plain numpy."""
    pixels = image.astype(np.float64)
    normal = torch.as_tensor((pixels - pixels.mean()) / pixels.std(), dtype=torch.float32)[None, None]
    with torch.no_grad():
        return {kind: networks[kind](normal).numpy() for kind in KINDS}


def core(package: Path, pixels: np.ndarray, weight_format: Any, **options: bool) -> np.ndarray:
    """What the Zoo's own reader gives."""
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.spec import load_model_description

    model = load_model_description(package)
    with create_prediction_pipeline(model, weight_format=weight_format) as pipeline:
        given = create_sample_for_model(model, inputs={"image": pixels.astype(np.float32)[None, None]})
        done = pipeline.predict_sample_without_blocking(given, **options)
    return next(iter(done.members.values())).data.values


def assert_same(found: np.ndarray, kind: str, golden: dict[str, np.ndarray]) -> None:
    assert found.shape == golden[kind].shape
    counted = np.ones(found.shape, dtype=bool)
    if kind == "combined":
        # everywhere but where the last digits of a probability decide
        counted = np.abs(golden["unet"] - CUTOFF) > 1e-4
        assert counted.mean() > 0.99
    assert np.abs(found - golden[kind])[counted].max() < 1e-4


def test_the_golden_output_says_something(golden: dict[str, np.ndarray]) -> None:
    assert golden["unet"].std() > 0.01
    assert 0.001 < golden["combined"].mean() < 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight_format", FORMATS)
def test_bioimageio_core(
    packages: dict[str, Path], image: np.ndarray, golden: dict[str, np.ndarray], kind: str, weight_format: str
) -> None:
    assert_same(core(packages[kind], image, weight_format), kind, golden)


@pytest.mark.parametrize("kind", KINDS)
def test_bioimageio_core_with_the_older_format(
    packages: dict[str, Path], image: np.ndarray, golden: dict[str, np.ndarray], kind: str
) -> None:
    assert_same(core(packages[f"older_{kind}"], image, "onnx"), kind, golden)


@pytest.mark.parametrize("kind", [*KINDS, *(f"older_{kind}" for kind in KINDS)])
def test_onnx_runtime_openvino_and_torchscript(
    packages: dict[str, Path], image: np.ndarray, golden: dict[str, np.ndarray], kind: str, tmp_path: Path
) -> None:
    package = read_package(packages[kind], cache=tmp_path, any_kind=True)
    given = package.network_input(package.preprocess(image))
    session = onnxruntime.InferenceSession(str(package.weights["onnx"]), providers=["CPUExecutionProvider"])
    assert_same(session.run(None, {"image": given})[0], kind.removeprefix("older_"), golden)
    assert_same(OpenVinoBackend(package.weights["onnx"])(given), kind.removeprefix("older_"), golden)
    with torch.no_grad():
        script = torch.jit.load(str(package.weights["torchscript"]))(torch.as_tensor(given)).numpy()
    assert_same(script, kind.removeprefix("older_"), golden)


@pytest.mark.parametrize(("older", "engine"), [("", "onnxruntime"), ("older_", "openvino"), ("", "torch")])
def test_the_predictor_behind_module_and_command_line(
    packages: dict[str, Path], image: np.ndarray, golden: dict[str, np.ndarray], older: str, engine: str, tmp_path: Path
) -> None:
    def predict(kind: str) -> Any:
        package: Package = read_package(packages[f"{older}{kind}"], cache=tmp_path)
        return Predictor(package, device="cpu", engine=engine).predict(image, smallest_artifact_px=0)

    unet, combined = predict("unet"), predict("combined")
    assert_same(unet.probability[None, None], "unet", golden)
    assert unet.image_probability == pytest.approx(golden["classifier"][0, 1], abs=1e-4)
    assert_same(unet.mask[None, None].astype(np.float32), "combined", golden)
    assert_same(combined.mask[None, None].astype(np.float32), "combined", golden)


def test_no_halo_is_stated_since_it_would_change_the_whole_image(
    packages: dict[str, Path], image: np.ndarray, golden: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """A reader pads by the halo before it normalises, and the network pads by reflection inside anyway."""
    package = read_package(packages["unet"], cache=tmp_path)
    assert (package.y.halo, package.x.halo) == (0, 0)
    halo = 15 * package.binning  # the largest that leaves something of the smallest size
    session = onnxruntime.InferenceSession(str(package.weights["onnx"]), providers=["CPUExecutionProvider"])
    given = package.network_input(package.preprocess(np.pad(image, halo, mode="reflect")))
    padded = session.run(None, {"image": given})[0][..., halo:-halo, halo:-halo]
    assert np.abs(padded - golden["unet"]).max() > 0.01


def test_dim_floats_differ_in_the_zoos_reader_as_the_card_says(
    packages: dict[str, Path], image: np.ndarray, golden: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """It adds 1e-6 to the standard deviation whatever eps the package states."""
    dim = (image / 65535 / 64).astype(np.float32)
    ours = Predictor(read_package(packages["unet"], cache=tmp_path), device="cpu").predict(dim).probability
    assert np.abs(ours - golden["unet"][0, 0]).max() < 1e-4
    zoo = core(packages["unet"], dim, "onnx")
    assert 1e-5 < np.abs(zoo - golden["unet"]).max() < 0.05
