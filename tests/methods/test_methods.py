"""Every method: through the same commands, from labels to masks; what each reads, and how each goes on after a kill."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tifffile
import torch
from bioimageio.core import predict
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.cli.train import Method as MethodOption
from artseg_models.errors import ArtSegError
from artseg_models.images import read_image
from artseg_models.labels import read_labels
from artseg_models.methods import DEFAULT_METHOD, METHODS, configure, train
from artseg_models.methods.predictor import RunPredictor, open_model
from artseg_models.networks.resnet import ResNet
from artseg_models.packages.check import check_description
from artseg_models.packages.export import export_packages, export_run
from artseg_models.packages.rdf import load_yaml
from artseg_models.predict import Predictor

#: the settings of each method that the tests make small
_SMALL: dict[str, set[str]] = {
    "scorecam-unet": {"binning", "classifier", "scorecam", "unet"},
    "unet": {"binning", "unet"},
    "scorecam": {"binning", "classifier", "scorecam"},
}
_SHORT = {"epochs": 2, "batch": 8}
_CLEAN: dict[str, dict[str, Any]] = {
    "autoencoder": {"binning": 1, "width": 4, "latent": 8, "schedule": _SHORT, "crops_per_image": 2},
    "padim": {"binning": 1, "backbone": "resnet18", "channels": 12},
    "patch-svdd": {
        "binning": 1,
        "width": 4,
        "dimensions": 8,
        "bank": 500,
        "pairs": {"schedule": _SHORT, "pairs_per_image": 8},
    },
}


@pytest.fixture(scope="session")
def small(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Changes that make each method's quick preset small; PaDiM's features come out of a file of weights."""
    file = tmp_path_factory.mktemp("weights") / "resnet18.pt"
    torch.manual_seed(0)
    torch.save(ResNet(18).state_dict(), file)
    supervised = {method: {key: value for key, value in tiny.items() if key in keys} for method, keys in _SMALL.items()}
    padim = _CLEAN["padim"] | {"weights": str(file)}
    return supervised | _CLEAN | {"padim": padim}


@pytest.fixture(scope="module")
def data(spotted: Path, larger_spotted: Path) -> dict[str, Path]:
    """The labels that each method learns from here."""
    return {method: larger_spotted if method in _CLEAN else spotted for method in METHODS}


@pytest.fixture(scope="module")
def runs(data: dict[str, Path], small, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("every_method")
    return {method: train(data[method], folder / method, method=method, overrides=small[method]) for method in METHODS}


def weights_of(run: Path) -> dict[str, bytes]:
    files = [file for pattern in ("*.pt", "*.npz") for file in run.rglob(pattern)]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def test_the_command_line_offers_every_method():
    assert set(get_args(MethodOption)) == set(METHODS)
    assert DEFAULT_METHOD in METHODS


def test_an_unknown_method_is_refused_with_those_that_there_are(spotted, tmp_path):
    with pytest.raises(ArtSegError, match="scorecam-unet, unet"):
        train(spotted, tmp_path / "run", method="magic")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_folder_segments_and_evaluates_as_a_model(method, runs, data, tmp_path):
    labelled = read_labels(data[method]).of_split("test")
    images = [str(item.path) for item in labelled]
    masks = tmp_path / "masks"
    done = CliRunner().invoke(app, ["segment", *images, "--model", str(runs[method]), "--out", str(masks)])
    assert done.exit_code == 0, done.output
    with open(masks / "segmentation.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["error"] for row in rows] == [""] * len(images)
    assert {row["model_id"] for row in rows} == {method}
    for item in labelled:
        probability = tifffile.imread(masks / f"{item.path.stem}_probability.tif")
        assert probability.shape == read_image(item.path).pixels.shape
        assert 0 <= probability.min() <= probability.max() <= 1
    scored = CliRunner().invoke(
        app, ["evaluate", str(runs[method]), str(data[method]), "--out", str(tmp_path / "scores")]
    )
    assert scored.exit_code == 0, scored.output
    assert json.loads((tmp_path / "scores" / "evaluation.json").read_text())["images_scored"] == len(images)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_without_classifier_judges_images_by_their_objects(method, runs, data):
    predictor = RunPredictor(runs[method], device="cpu")
    image = read_image(read_labels(data[method]).of_split("test")[0].path).pixels
    found = predictor.predict(image, smallest_artifact_px=0)
    has_classifier = method in ("scorecam-unet", "scorecam")
    assert (found.image_probability is not None) == has_classifier
    assert (found.gate_threshold is not None) == has_classifier
    if not has_classifier:
        assert found.gate_open


@pytest.mark.parametrize("method", METHODS)
def test_what_was_trained_is_what_a_new_process_loads(method, runs, data, small, tmp_path):
    """The same run trained anew has the same weights, and both give the same map."""
    again = train(data[method], tmp_path / method, method=method, overrides=small[method])
    assert weights_of(again) == weights_of(runs[method])
    image = read_image(read_labels(data[method]).of_split("test")[0].path).pixels
    maps = [RunPredictor(run, device="cpu").predict(image).probability for run in (again, runs[method])]
    np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize("method", METHODS)
def test_no_method_reads_what_it_must_not(method, data, small, runs, tmp_path):
    """Test images are damaged; so are masks for a weak method, and artifact images for one that learns from clean."""
    copy = tmp_path / "data"
    shutil.copytree(data[method].parent, copy)
    learns_from = METHODS[method].learns_from
    for item in read_labels(copy / "labels.csv").images:
        if item.mask is not None and (learns_from != "masks" or item.split == "test"):
            item.mask.path.write_bytes(b"not an image")
        if item.split == "test" or (learns_from == "clean" and item.split == "train" and item.label == "artifact"):
            item.path.write_bytes(b"not an image")
    run = train(copy / "labels.csv", tmp_path / method, method=method, overrides=small[method])
    assert weights_of(run) == weights_of(runs[method])
    assert json.loads((run / "result.json").read_text())["cutoff"] == pytest.approx(
        json.loads((runs[method] / "result.json").read_text())["cutoff"]
    )


def test_supervision_without_masks_is_refused_before_anything_is_read(spotted, small, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(spotted.parent, copy)
    rows = [
        line if ",train," not in line else line.rsplit(",", 1)[0] + "," for line in spotted.read_text().splitlines()
    ]
    (copy / "labels.csv").write_text("\n".join(rows))
    with pytest.raises(ArtSegError, match="which unet learns from, but 8 of 8 have none"):
        train(copy / "labels.csv", tmp_path / "run", method="unet", overrides=small["unet"])
    assert not (tmp_path / "run").exists()


def test_a_run_and_its_package_give_the_same(runs, spotted, tmp_path):
    package = export_packages(runs["scorecam-unet"], tmp_path).unet
    image = read_image(read_labels(spotted).of_split("test")[0].path).pixels
    as_run, as_package = (open_model(path, device="cpu").predict(image) for path in (runs["scorecam-unet"], package))
    assert isinstance(open_model(package, device="cpu"), Predictor)
    np.testing.assert_allclose(as_run.probability, as_package.probability, atol=1e-4)
    assert as_run.image_probability == pytest.approx(as_package.image_probability, abs=1e-4)
    assert (as_run.cutoff, as_run.gate_threshold) == (as_package.cutoff, as_package.gate_threshold)


# bioimageio.core leaves files open
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("method", ["unet", "autoencoder", "padim"])
def test_a_map_alone_becomes_a_package_that_others_run(method, runs, data, tmp_path):
    """Packed, checked, tested by the Zoo's own program in every format, and run by it and by the command."""
    done = CliRunner().invoke(app, ["export", str(runs[method]), "--out", str(tmp_path / "p")])
    assert done.exit_code == 0, done.output
    newest, older = tmp_path / "p" / f"{method}-{method}.zip", tmp_path / "p" / f"{method}-{method}-0.5.10.zip"
    assert {newest, older} == set((tmp_path / "p").iterdir())
    with zipfile.ZipFile(newest) as files:
        card = files.read("README.md").decode()
    assert "{{" not in card
    assert "classifier.onnx" not in card
    # every reader opens the older format; the state dict is tested too, which PaDiM has none of
    checked = CliRunner().invoke(app, ["package", "check", str(older), *(["--trust"] if method != "padim" else [])])
    assert checked.exit_code == 0, checked.output
    with zipfile.ZipFile(newest) as files:
        files.extractall(tmp_path / "unpacked")
    said = check_description(tmp_path / "unpacked").detail
    filled = re.search(r"([\d.]+)% of the fields filled", said)
    assert filled is not None, said
    # what is learned without gradients has no rate, batch or state dict to state
    assert float(filled[1]) > (85 if method == "padim" else 89)
    formats = set(load_yaml(tmp_path / "unpacked" / "rdf.yaml")["weights"])
    assert formats == {"onnx", "torchscript", *([] if method == "padim" else ["pytorch_state_dict"])}

    image = read_image(read_labels(data[method]).of_split("test")[0].path).pixels
    as_run, as_package = (open_model(path, device="cpu").predict(image) for path in (runs[method], newest))
    np.testing.assert_allclose(as_run.probability, as_package.probability, atol=1e-4)
    assert (as_run.cutoff, as_run.gate_threshold, as_package.image_probability) == (as_package.cutoff, None, None)
    core = predict(model=tmp_path / "unpacked" / "rdf.yaml", inputs={"image": image[None, None].astype(np.float32)})
    np.testing.assert_allclose(core.members["probability"].data.values[0, 0], as_run.probability, atol=1e-3)


def test_methods_without_a_package_say_so(runs, data, small, tmp_path):
    bound = train(
        data["padim"], tmp_path / "bound", method="padim", overrides=small["padim"] | {"gaussian": "position"}
    )
    for run, why in ((runs["scorecam"], "passes"), (runs["patch-svdd"], "nearest"), (bound, "gaussian=shared")):
        with pytest.raises(ArtSegError, match=f"of which no package is made.*{why}"):
            export_run(run, tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_masks_choose_cutoffs_where_asked(spotted, small, tmp_path):
    run = train(spotted, tmp_path / "run", method="scorecam", overrides=small["scorecam"] | {"choose_by": "masks"})
    assert (run / "result.json").exists()


def test_paper_cutoffs_are_the_papers():
    cutoffs = {method: configure("paper", method=method).cutoff for method in METHODS}
    assert cutoffs == {
        "scorecam-unet": 0.001,
        "unet": 0.45,
        "scorecam": 0.001,
        "autoencoder": 0.75,
        "padim": 0.3,
        "patch-svdd": 0.0005,
    }


def test_a_damaged_run_is_refused(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs["unet"], run)
    torch.save({"wrong": torch.zeros(1)}, run / "unet" / "network.pt")
    with pytest.raises(ArtSegError, match="damaged or of another network"):
        RunPredictor(run)
    (run / "unet" / "network.pt").unlink()
    with pytest.raises(ArtSegError, match="Expected trained weights"):
        RunPredictor(run)
    (run / "result.json").unlink()
    with pytest.raises(ArtSegError, match="it has no result"):
        RunPredictor(run)


@pytest.mark.parametrize(
    ("method", "stage"), [("unet", "unet"), ("autoencoder", "autoencoder"), ("patch-svdd", "encoder")]
)
def test_a_killed_training_goes_on(method, stage, data, small, runs, tmp_path):
    run = tmp_path / method
    code = (
        "import sys, json, pathlib; from artseg_models.methods import train; "
        "train(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), method=sys.argv[3], "
        "overrides=json.loads(sys.argv[4]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(data[method]), str(run), method, json.dumps(small[method])]
    )
    deadline = time.monotonic() + 120
    while not (run / stage / "checkpoint.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "result.json").exists(), "the run ended before it could be killed"
    train(data[method], run, method=method, overrides=small[method])
    assert weights_of(run) == weights_of(runs[method])


def test_clean_images_are_enough_to_learn_from(data, small, tmp_path):
    lines = [line for line in data["padim"].read_text().splitlines() if ",artifact,train," not in line]
    labels = data["padim"].with_name("clean_training.csv")
    labels.write_text("\n".join(lines))
    run = train(labels, tmp_path / "run", method="padim", overrides=small["padim"])
    assert json.loads((run / "result.json").read_text())["training"]["counts"]["train"] == {"clean": 3, "artifact": 0}
