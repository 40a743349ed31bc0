"""SegmentArtifacts as CellProfiler's own Python sees it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artseg_models import __version__
from artseg_models.cellprofiler import with_package
from artseg_models.packages.read import read_package
from artseg_models.simulate import SimulatedField


@pytest.fixture(scope="module")
def found(
    ask_inside: Callable[..., dict[str, Any]],
    package: Path,
    fields: dict[str, SimulatedField],
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What `inside_cellprofiler.py` found out."""
    image = tmp_path_factory.mktemp("image") / "brightfield.npy"
    np.save(image, (fields["A01_s1"].brightfield / 65535).astype(np.float32))
    paths = (package, repository / "plugins" / "pipelines", image, Path(__file__).parent / "data")
    with pytest.MonkeyPatch.context() as patch, lab_server(package, tmp_path_factory.mktemp("lab"), patch):
        return ask_inside("inside_cellprofiler.py", *paths)


@contextlib.contextmanager
def lab_server(package: Path, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a server that offers the package by its id; its address and token stand in the environment."""
    (folder / "models").mkdir()
    shutil.copyfile(package, folder / "models" / package.name)
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    token = "the-secret-of-the-tests"
    command = [sys.executable, "-m", "artseg_models", "serve", "--device", "cpu", "--port", str(port)]
    command += ["--models", str(folder / "models")]
    own = {"ARTSEG_STATE_DIR": str(folder / "state"), "ARTSEG_SERVE_TOKEN": token}
    process = subprocess.Popen(command, env=os.environ | own, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not list(folder.glob("state/*.json")):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        patch.setenv("ARTSEG_TEST_SERVER", f"http://localhost:{port}")
        patch.setenv("ARTSEG_TOKEN", token)
        yield
    finally:
        process.kill()
        process.wait()


def test_masked_pixels_are_in_neither_mask(found: dict[str, Any]) -> None:
    masked = found["masked"]
    assert masked["dtypes"][:3] == ["bool", "bool", "float32"]
    assert "int" in masked["dtypes"][3]  # CellProfiler takes the smallest type that holds the labels
    assert masked["in_both"] == 0
    assert masked["in_neither_are_masked"]
    assert masked["artifact_pixels"] > 100
    assert masked["objects"] == list(range(len(masked["objects"])))
    assert masked["usable"] == masked["clean"]
    assert masked["fraction"] == pytest.approx(
        masked["artifact_pixels"] / (masked["artifact_pixels"] + masked["clean"])
    )


def test_display_gets_arrays_and_texts_only(found: dict[str, Any]) -> None:
    assert found["masked"]["displayed"] == [
        "clean",
        "kinds",
        "labels",
        "object_kinds",
        "pixels",
        "probability",
        "statistics",
    ]
    assert found["masked"]["plain"]
    assert found["drawn"]["titles"] == ["Brightfield, outlined", "CleanMask (usable)", "Probability of artifact"]
    table = {row: text for row, (text,) in found["drawn"]["table"].items()}
    assert list(table) == [
        "Model",
        "Classifier's verdict",
        "Artifacts",
        "Area fraction",
        "Usable area",
        "Flag",
        "Cutoff",
        "Seconds",
    ]
    assert table["Model"] == "artseg-small-unet 0.1.0"
    assert table["Classifier's verdict"].startswith("artifact (")
    assert table["Flag"] == "fails"


def test_declared_measurements_are_the_made_ones(found: dict[str, Any]) -> None:
    assert found["undeclared"] == []
    assert found["unmeasured"] == []
    assert "ArtSeg_AreaFraction_Artifacts" in found["chosen_by_category"]
    assert "ArtSeg_ModelSHA256_Artifacts" in found["chosen_by_category"]


def test_a_model_that_tells_no_kinds_gives_none(found: dict[str, Any]) -> None:
    assert found["masked"]["kinds"] == ""
    assert found["masked"]["kind_numbers"] == [0] * len(found["masked"]["objects"][1:])


def test_no_artifact_is_no_failure(found: dict[str, Any]) -> None:
    assert found["nothing_found"] == {"count": 0, "centres": 0, "clean": True, "cutoff": 1.0}


def test_the_classifiers_threshold_can_be_set(found: dict[str, Any]) -> None:
    assert found["gated"] == {"count": 0, "threshold": 1.0, "flag": 0}


def test_each_artifact_has_its_probability(found: dict[str, Any]) -> None:
    for said, expected in found["of_objects"].values():
        assert len(said) > 0
        assert said == pytest.approx(expected)


def test_a_margin_grows_the_mask_and_leaves_the_objects(found: dict[str, Any]) -> None:
    assert found["margin"] == {"is_dilation_with_disk": True, "clean_is_the_rest": True, "flag": 1}
    assert found["flag_columns"] == {"undeclared": [], "unmeasured": []}


@pytest.mark.parametrize(
    ("name", "shape"), [("half", [100, 120]), ("double", [400, 480]), ("two_thirds", [133, 160]), ("same", [200, 240])]
)
def test_masks_match_the_size_of_another_image(found: dict[str, Any], name: str, shape: list[int]) -> None:
    matched = found["matched"][name]
    assert matched["shapes"] == matched["displayed"] == [shape]
    # 133 is not quite two thirds of 200: its last rows may be off by one
    assert min(matched["equal"][:2]) > 0.99 if name == "two_thirds" else matched["equal"] == [1, 1, 1]
    assert matched["labels"] == list(range(len(matched["labels"])))
    assert len(matched["labels"]) > 1
    assert matched["usable"][0] == matched["usable"][1] > 0
    assert matched["in_both"] == 0


def test_sizes_in_no_simple_ratio_are_refused(found: dict[str, Any]) -> None:
    for message in (found["no_ratio"], found["no_ratio_sides"]):
        assert "Brightfield has 200 x 240 pixels, DNA" in message
        assert "Use Align for shifted or cropped images, Resize for other sizes" in message


def test_the_buttons_tell_of_model_and_installation(found: dict[str, Any], package: Path) -> None:
    assert found["buttons"] == ["Show model", "Check installation"]  # the others are for a server
    assert found["saved_buttons"] == []  # a button is no setting
    read = read_package(package)
    for said in (read.name, read.version, read.sha256, "0.4", "25 pixels", "labels.csv"):
        assert said in found["shown_model"]
    assert "There is no model package at" in found["shown_missing_model"]
    assert "All that SegmentArtifacts needs is there" in found["checked"]
    assert found["checked"].count("[ok]") == 3
    assert f"artseg {__version__}" in found["checked"]
    assert found["checked_without_model"].count("[ok]") == 2
    assert "[missing] There is no model package at" in found["checked_without_model"]
    assert found["checked_wrong_python"].startswith("[missing] Expected the Python that has artseg at /no/such/python")
    assert "run: artseg cellprofiler install" in found["checked_wrong_python"]
    assert found["checked_without_artseg"].startswith("[missing] ArtSeg runs in a Python of its own, and none is known")
    assert "pip install artseg" in found["checked_without_artseg"]


def test_help_and_citation_are_there(found: dict[str, Any]) -> None:
    assert list(found["doi"].values()) == ["https://doi.org/10.1038/s41598-022-14703-y"]
    for said in ("Supports 2D?", "ArtSeg_UsableArea", "Match the size of another image?", "Largest area fraction"):
        assert said in found["help"]
    assert "System Message" not in found["help"]  # how docutils marks what it could not read


def test_pipelines_of_earlier_revisions_open_as_they_were(found: dict[str, Any]) -> None:
    settings = found["old"]["segmentartifacts_revision_1.cppipe"]
    kept = {
        "Select the brightfield image": "Brightfield",
        "Name the clean mask": "CleanMask",
        "Model package": "artseg-unet.zip",
        "Cutoff": "0.35",
        "Smallest artifact, in pixels": "80",
        "Let the classifier pass clean images?": "No",
        "Device": "cpu",
        "Python that has artseg": "/opt/artseg/bin/python",
    }
    added = {
        "Threshold of the classifier": "As the model says",
        "Margin around artifacts, in pixels": "0",
        "Match the size of another image?": "No",
        "Flag images with too much artifact?": "No",
    }
    assert {text: settings[text] for text in kept | added} == kept | added
    settings = found["old"]["segmentartifacts_revision_2.cppipe"]
    kept = {
        "Select the brightfield image": "Brightfield",
        "Model package": "artseg-unet.zip",
        "Smallest artifact, in pixels": "80",
        "Threshold of the classifier": "Custom",
        "Lowest image probability": "0.7",
        "Margin around artifacts, in pixels": "3",
        "Flag images with too much artifact?": "Yes",
        "Largest area fraction": "0.25",
        "Device": "cpu",
        "Python that has artseg": "/opt/artseg/bin/python",
    }
    assert {text: settings[text] for text in kept} == kept
    added = {
        "Where to run": "This computer",
        "Which model?": "A package on this computer",
        "Id of the model": "",
        "Use the processor if memory does not suffice?": "Yes",
        "End the service with CellProfiler?": "No",
    }
    for settings in found["old"].values():
        assert {text: settings[text] for text in added} == added


def test_a_package_that_is_set_from_outside_takes_the_place_of_an_id(package: Path, tmp_path: Path) -> None:
    old = (Path(__file__).parent / "data" / "segmentartifacts_revision_2.cppipe").read_text(encoding="utf-8")
    last = "    Python that has artseg:/opt/artseg/bin/python\n"
    assert old.count(last) == 1
    by_id = "    Which model?:A model of the service\n    Id of the model:elsewhere\n"
    (tmp_path / "by_id.cppipe").write_text(old.replace(last, last + by_id), encoding="utf-8")
    written = with_package(tmp_path / "by_id.cppipe", package, tmp_path / "by_file.cppipe").read_text(encoding="utf-8")
    assert "    Which model?:A package on this computer\n" in written
    assert f"    Model package:{package.name}\n" in written


def test_an_inference_server_gives_the_same_without_artseg_here(found: dict[str, Any], package: Path) -> None:
    server = found["server"]
    identifier = read_package(package).id
    assert server["equal"]
    assert server["by_package"]
    assert (server["model"], server["tiles"]) == (identifier, 1)
    assert server["valid"] is None
    assert "Choose a model of the service" in server["no_id"]
    assert "Enter the id of one of the service's models" in server["no_id_headless"]
    assert f"does not offer the model 'nothing'. Models there: {identifier}@" in server["unknown"]
    assert {"Address of the server", "Does the server know you?", "Id of the model"} <= set(server["shown"])
    assert not {"Model package", "Device", "Python that has artseg"} & set(server["shown"])
    assert not {"Address of the server", "Does the server know you?", "Id of the model"} & set(server["here"])
    assert {"Model package", "Device", "Python that has artseg"} <= set(server["here"])
    assert server["saved"] == 28
    ids, lines = server["choices"]
    assert ids == [identifier, f"{identifier}@1", "another"]
    assert "version 2, SHA-256 " in lines[0]
    assert "labels.csv" in lines[0]


def test_every_kind_of_image_is_taken_or_refused_with_its_cause(found: dict[str, Any]) -> None:
    assert "(y, x), but Brightfield has the shape (3, 200, 240)" in found["volume"]
    assert "pixel" in found["one_pixel"]
    assert "at least one pixel" in found["all_masked"]
    assert found["nan_under_mask"] is None
    assert found["twelve_bit"] == found["beyond_one"] == found["negative"] == 1


def test_bad_input_is_told_clearly(found: dict[str, Any]) -> None:
    assert "grayscale" in found["colour"]
    assert "NaN" in found["nan"] or "finite" in found["nan"]
    assert "all pixels have the value" in found["constant"]
    assert found["validated"].startswith("ValidationError: There is no model package at")
    assert "Expected a model package (.zip or folder) at" in found["missing"]
    assert "has no model package" in found["blank"]


def test_the_example_pipelines_are_valid(found: dict[str, Any]) -> None:
    assert {name: problems for name, (_, problems) in found["pipelines"].items() if problems} == {}
    masked, plain = (found["pipelines"][name] for name in ("artifacts_masked", "no_masking"))
    added = [name for name in masked[0] if name not in plain[0]]
    assert added == ["SegmentArtifacts", "ImageMath", "MaskImage", "ImageMath", "MaskImage", "ErodeImage"]
