"""Weights of other people: what runs by itself, what only with --trust, and what never."""

from __future__ import annotations

import hashlib
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tifffile
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.packages.read import read_package
from artseg_models.predict import Predictor

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(packages: dict[str, Path], tmp_path: Path) -> Path:
    """The U-Net package, unpacked, to be changed."""
    with zipfile.ZipFile(packages["unet"]) as opened:
        opened.extractall(tmp_path / "theirs")
    return tmp_path / "theirs"


def change(folder: Path, changing: Change) -> None:
    content = yaml.safe_load((folder / "rdf.yaml").read_text())
    changing(content)
    (folder / "rdf.yaml").write_text(yaml.safe_dump(content))


def only(folder: Path, weight_format: str, **entry: Any) -> None:
    """Leave one weight format, and state the SHA-256 of its files anew, which may have been changed."""

    def apply(content: dict[str, Any]) -> None:
        kept = content["weights"][weight_format] | entry
        kept.pop("parent", None)
        for part in (kept, kept.get("architecture", {})):
            if "source" in part:
                part["sha256"] = hashlib.sha256((folder / part["source"]).read_bytes()).hexdigest()
        content["weights"] = {weight_format: kept}

    change(folder, apply)


def predictor(folder: Path, **options: Any) -> Predictor:
    return Predictor(read_package(folder), device="cpu", **options)


@pytest.fixture
def segment(sample: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `artseg segment` on the sample into `out`."""
    monkeypatch.setenv("COLUMNS", "300")
    tifffile.imwrite(tmp_path / "field.tif", sample)

    def run(package: Path, *options: str) -> Result:
        arguments = ["segment", str(tmp_path / "field.tif"), "-m", str(package), "-o", str(tmp_path / "out"), *options]
        return CliRunner().invoke(app, arguments)

    return run


# ---- state dicts ----


def test_a_state_dict_runs_only_where_it_is_trusted_and_says_what_runs(
    folder: Path, packages: dict[str, Path], segment: Callable[..., Result], tmp_path: Path
) -> None:
    only(folder, "pytorch_state_dict")
    digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("unet.py", "weights.pt")]
    refused = segment(folder)
    assert refused.exit_code == 1
    assert "artseg segment --trust" in str(refused.exception)
    assert f"unet.py (SHA-256 {digests[0]})" in str(refused.exception)
    assert not (tmp_path / "out").exists()

    trusted = segment(folder, "--trust")
    assert trusted.exit_code == 0, trusted.output
    for said in (f"unet.py, SHA-256 {digests[0]}", f"weights.pt, SHA-256 {digests[1]}", read_package(folder).sha256):
        assert said in trusted.output
    by_state_dict = tifffile.imread(tmp_path / "out" / "field_probability.tif")
    assert segment(packages["unet"]).exit_code == 0
    by_onnx = tifffile.imread(tmp_path / "out" / "field_probability.tif")
    assert np.abs(by_state_dict - by_onnx).max() < 1e-4
    assert not list(folder.rglob("__pycache__")), "nothing appears beside the package's files"


def test_trust_is_not_used_where_other_weights_are_there(folder: Path) -> None:
    (folder / "unet.py").write_text("raise SystemExit('ran')\n")
    change(
        folder,
        lambda content: content["weights"]["pytorch_state_dict"]["architecture"].update(
            sha256=hashlib.sha256((folder / "unet.py").read_bytes()).hexdigest()
        ),
    )
    assert predictor(folder, trust=True).weight_format == "onnx"


def test_reading_a_package_runs_none_of_its_python(folder: Path, tmp_path: Path) -> None:
    (folder / "unet.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    only(folder, "pytorch_state_dict")
    read_package(folder)
    with pytest.raises(ArtSegError, match="--trust"):
        predictor(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_library\n", "failed: ModuleNotFoundError: No module named 'no_such_library'"),
        ("class UNet:\n    def __init__(self, **settings): raise ValueError('what')\n", "failed: ValueError: what"),
        ("nothing = 1\n", "failed: AttributeError"),
    ],
)
def test_python_that_fails_is_told(folder: Path, source: str, message: str) -> None:
    (folder / "unet.py").write_text(source)
    only(folder, "pytorch_state_dict")
    with pytest.raises(ArtSegError, match=message):
        predictor(folder, trust=True)


def test_a_state_dict_of_another_network_is_told(folder: Path) -> None:
    architecture = yaml.safe_load((folder / "rdf.yaml").read_text())["weights"]["pytorch_state_dict"]["architecture"]
    architecture["kwargs"]["width"] = 8
    only(folder, "pytorch_state_dict", architecture=architecture)
    with pytest.raises(ArtSegError, match=r"weights\.pt do not fit UNet of unet\.py"):
        predictor(folder, trust=True)


def test_the_class_may_come_from_a_library(folder: Path, sample: np.ndarray) -> None:
    architecture = yaml.safe_load((folder / "rdf.yaml").read_text())["weights"]["pytorch_state_dict"]["architecture"]
    expected = predictor(folder).predict(sample).probability
    only(
        folder,
        "pytorch_state_dict",
        architecture={
            "callable": "UNet",
            "import_from": "artseg_models.networks.unet",
            "kwargs": architecture["kwargs"],
        },
    )
    with pytest.raises(ArtSegError, match=r"its author's Python, artseg_models\.networks\.unet"):
        predictor(folder)
    found = predictor(folder, trust=True).predict(sample).probability
    assert np.abs(found - expected).max() < 1e-4


def test_nothing_to_trust_is_told(folder: Path, segment: Callable[..., Result]) -> None:
    only(folder, "onnx")
    done = segment(folder, "--trust")
    assert done.exit_code == 1
    assert "there is nothing to trust" in str(done.exception)


# ---- pickles ----


class Harm:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("weight_format", ["pytorch_state_dict", "torchscript"])
@pytest.mark.parametrize("saved_by", ["torch", "pickle"])
def test_a_pickle_is_never_loaded_trusted_or_not(
    folder: Path, tmp_path: Path, weight_format: str, saved_by: str
) -> None:
    name = "weights.pt" if weight_format == "pytorch_state_dict" else "weights-torchscript.pt"
    harm = {"head.bias": Harm(tmp_path / "harmed")}
    if saved_by == "torch":
        torch.save(harm, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(harm))
    only(folder, weight_format)
    with pytest.raises(ArtSegError, match="a pickle"):
        predictor(folder, trust=True)
    assert not (tmp_path / "harmed").exists()


# ---- damaged, and files elsewhere ----


@pytest.mark.parametrize(
    ("weight_format", "name"), [("onnx", "weights.onnx"), ("torchscript", "weights-torchscript.pt")]
)
def test_damaged_weights_end_in_one_message(folder: Path, weight_format: str, name: str) -> None:
    (folder / name).write_bytes(b"no weights at all")
    only(folder, weight_format)
    with pytest.raises(ArtSegError, match=f"The weights {name} could not be loaded"):
        predictor(folder)


@pytest.mark.parametrize("location", ["../secret.bin", "link.bin"])
def test_onnx_does_not_read_weights_outside_the_package(
    folder: Path, tmp_path: Path, location: str, sample: np.ndarray
) -> None:
    (tmp_path / "secret.bin").write_bytes(np.ones(1, np.float32).tobytes())
    if location == "link.bin":
        (folder / location).symlink_to(tmp_path / "secret.bin")
    added = helper.make_tensor("added", TensorProto.FLOAT, [1], [0.0])
    added.ClearField("float_data")
    added.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        entry = added.external_data.add()
        entry.key, entry.value = key, value
    shape = ["batch", 1, "y", "x"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["image", "added"], ["probability"])],
        "reads elsewhere",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, shape)],
        [added],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "weights.onnx").write_bytes(model.SerializeToString())
    only(folder, "onnx")
    with pytest.raises(ArtSegError, match=rf"keeps weights in the file '{re.escape(location)}' outside its own folder"):
        predictor(folder).predict(sample)


def test_onnx_with_weights_beside_it_runs(folder: Path, sample: np.ndarray) -> None:
    expected = predictor(folder).predict(sample).probability
    model = onnx.load(folder / "weights.onnx")
    onnx.save(model, folder / "weights.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    only(folder, "onnx")
    assert np.abs(predictor(folder).predict(sample).probability - expected).max() < 1e-4


# ---- what comes out ----


def map_of(folder: Path, values: np.ndarray) -> None:
    """Let the network give a map that repeats some values, whatever the image."""
    shape = ["batch", 1, "y", "x"]
    constant = numpy_helper.from_array(values.astype(np.float32).reshape(-1), "values")
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceMax", ["values"], ["highest"], keepdims=0),
        helper.make_node("Add", ["zeros", "highest"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, shape)],
        [constant],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "weights.onnx").write_bytes(model.SerializeToString())
    only(folder, "onnx")
    change(folder, lambda content: content["config"].pop("artseg"))


@pytest.mark.parametrize("value", [4.0, 255.0, float("nan")])
def test_logits_without_sigmoid_and_masks_of_255_are_refused(folder: Path, sample: np.ndarray, value: float) -> None:
    map_of(folder, np.array([value]))
    with pytest.raises(ArtSegError, match=r"gives values from .* from 0 to 1\. Logits need a sigmoid"):
        predictor(folder).predict(sample)


def test_logits_with_sigmoid_and_masks_become_masks(folder: Path, sample: np.ndarray) -> None:
    map_of(folder, np.array([4.0]))
    change(folder, lambda content: content["outputs"][0].update(postprocessing=[{"id": "sigmoid"}]))
    found = predictor(folder).predict(sample)
    assert found.probability == pytest.approx(1 / (1 + np.exp(-4.0)), abs=1e-5)
    change(
        folder,
        lambda content: content["outputs"][0].update(
            postprocessing=[{"id": "sigmoid"}, {"id": "binarize", "kwargs": {"threshold": 0.5}}]
        ),
    )
    masked = predictor(folder).predict(sample)
    assert masked.probability.min() == 1.0
    assert masked.mask.all()


def test_an_input_of_another_type_than_stated_is_told(folder: Path, sample: np.ndarray) -> None:
    change(
        folder,
        lambda content: content["inputs"][0]["preprocessing"].append(
            {"id": "ensure_dtype", "kwargs": {"dtype": "float64"}}
        ),
    )
    with pytest.raises(ArtSegError, match="do not take what their package states"):
        predictor(folder).predict(sample)


def test_colour_models_are_refused_and_told_why(folder: Path) -> None:
    change(folder, lambda content: content["inputs"][0]["axes"][1].update(channel_names=["r", "g", "b"]))
    with pytest.raises(ArtSegError, match=r"3 channels \(r, g, b\); .* not copied into several channels"):
        read_package(folder)


def test_a_copied_package_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "copied")
    assert read_package(copied).sha256 == read_package(folder).sha256
