"""Export: what the packages hold, that the Zoo's own reader agrees with torch, and that nothing half-done appears."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
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
from bioimageio.spec.model.v0_5 import ModelDescr
from PIL import Image

from artseg_models.errors import ArtSegError
from artseg_models.packages import export, weights
from artseg_models.packages.check import check_description, check_package
from artseg_models.packages.export import export_packages
from artseg_models.packages.read import read_package
from artseg_models.packages.run import read_run
from artseg_models.predict import Predictor

KINDS = ("classifier", "unet", "combined")
FORMATS = ("pytorch_state_dict", "torchscript", "onnx")
NEWEST = ModelDescr.implemented_format_version


def description(package: Path) -> dict[str, Any]:
    """rdf.yaml read by YAML 1.1, which deepImageJ and older readers use."""
    with zipfile.ZipFile(package) as opened:
        return yaml.safe_load(opened.read("rdf.yaml"))


@pytest.mark.parametrize("kind", [*KINDS, "older_unet"])
def test_the_zoos_own_test_passes_for_every_weight_format(packages: dict[str, Path], kind: str, tmp_path: Path) -> None:
    older = kind.startswith("older")  # with the very same weights, so that one format of them less is enough
    check = check_package(packages[kind], trust=not older, cache=tmp_path)
    findings = check.findings
    assert not check.failed
    assert {finding.what: finding.outcome for finding in findings} == {
        "unpacked, files as stated": "passed",
        "description": "passed",
        **dict.fromkeys(FORMATS, "passed"),
        "pytorch_state_dict": "not run" if older else "passed",
    }
    # a GitHub user cannot be invented; nothing else may be missing
    assert findings[1].detail.startswith("Missing `maintainers`")
    assert re.fullmatch(r"[^;]*; \d+% of the fields filled, by the Zoo's measure", findings[1].detail)


@pytest.mark.parametrize("kind", KINDS)
def test_one_description_comes_in_two_formats(packages: dict[str, Path], kind: str) -> None:
    newest, older = description(packages[kind]), description(packages[f"older_{kind}"])
    assert (newest.pop("format_version"), older.pop("format_version")) == (NEWEST, "0.5.10")
    assert packages[f"older_{kind}"].stem == f"{packages[kind].stem}-0.5.10"
    # mappings since 0.5.11, which no older reader takes
    assert (older.pop("documentation"), older.pop("covers")) == ("README.md", ["cover.png"])
    card, cover = newest.pop("documentation"), newest.pop("covers")
    assert card.keys() == cover[0].keys() == {"source", "sha256"}
    assert older == newest
    with zipfile.ZipFile(packages[kind]) as first, zipfile.ZipFile(packages[f"older_{kind}"]) as second:
        assert first.namelist() == second.namelist()
        differing = {name for name in first.namelist() if first.read(name) != second.read(name)}
    assert differing == {"rdf.yaml", "README.md"}


@pytest.mark.parametrize("kind", KINDS)
def test_descriptions_hold_what_older_readers_need(packages: dict[str, Path], kind: str) -> None:
    content = description(packages[f"older_{kind}"])
    assert content["id"] == f"artseg-tiny-run-{kind}"
    assert list(content["weights"]) == list(FORMATS)
    steps = content["inputs"][0]["preprocessing"]
    assert steps == [{"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"], "eps": 1e-12}}], (
        "eps must be a number in YAML 1.1 as well"
    )
    assert [axis["size"] for axis in content["inputs"][0]["axes"] if axis["type"] == "space"] == [
        {"min": 64, "step": 1}
    ] * 2


def test_every_file_is_listed_and_nothing_else_is_packed(packages: dict[str, Path]) -> None:
    with zipfile.ZipFile(packages["unet"]) as opened:
        names = set(opened.namelist())
        text = opened.read("rdf.yaml").decode()
    assert names == {
        "rdf.yaml",
        "README.md",
        "cover.png",
        "unet.py",
        "weights.pt",
        "weights-torchscript.pt",
        "weights.onnx",
        "classifier.onnx",
        "test_input.npy",
        "test_output.npy",
        "sample_input.tif",
        "sample_output.tif",
    }
    assert all(name in text for name in names - {"rdf.yaml"})


def test_settings_of_the_run_travel_in_the_package(packages: dict[str, Path]) -> None:
    ours = description(packages["unet"])["config"]["artseg"]
    assert (ours["cutoff"], ours["smallest_artifact_px"], ours["gate_threshold"]) == (0.6, 25, 0.01)
    assert (ours["binning"], ours["pixel_size_um"]) == (2, 0.59)
    assert ours["classifier"]["id"] == description(packages["classifier"])["id"]
    assert ours["training"]["counts"]["train"] == {"clean": 7, "artifact": 9}
    assert ours["validation"] == {"image_f1": 0.91234, "pixel_iou": None}


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_has_the_opset_and_ir_that_deepimagej_opens(packages: dict[str, Path], kind: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(packages[kind]) as opened:
        model = onnx.load(opened.extract("weights.onnx", tmp_path))
    assert model.ir_version == 8
    assert [entry.version for entry in model.opset_import] == [17]
    image = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in image] == ["batch", 1, "y", "x"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_folder_of_this_machine_is_packed(packages: dict[str, Path], kind: str, repository: Path) -> None:
    with zipfile.ZipFile(packages[kind]) as opened:
        for name in opened.namelist():
            content = opened.read(name)
            assert str(repository).encode() not in content, name
            if name == "weights-torchscript.pt":
                (script := Path(packages[kind].parent / "script.zip")).write_bytes(content)
                with zipfile.ZipFile(script) as inner:
                    assert not any(str(repository).encode() in inner.read(record) for record in inner.namelist())
                    assert not any(b"site-packages" in inner.read(record) for record in inner.namelist())


@pytest.mark.parametrize("kind", KINDS)
def test_cards_are_complete(packages: dict[str, Path], kind: str) -> None:
    with zipfile.ZipFile(packages[kind]) as opened:
        card = opened.read("README.md").decode()
    for section in (
        "Description",
        "Intended use and limits",
        "Training data",
        "Validation",
        "How to use",
        "Citation",
    ):
        assert f"\n## {section}\n" in card
    assert "| train | 7 | 9 |" in card
    assert "| validation | 2 | 3 |" in card
    assert "| image f1 | 0.912 |" in card
    assert "| pixel iou | not measured |" in card
    assert "artseg evaluate tiny-run-unet.zip LABELS --split validation" in card
    assert f"in format {NEWEST} of" in card
    assert f"`tiny-run-{kind}-0.5.10.zip`" in card
    text = re.sub(r"^ {4}.*$", "", card, flags=re.MULTILINE)  # without code
    assert not re.search(r"\{\{|\}\}|\{%|None|TODO|Undefined", text)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("kind", "result"), [("classifier", "artifact"), ("unet", "mask"), ("combined", "mask")])
def test_the_python_on_the_cards_runs(
    packages: dict[str, Path],
    sample: np.ndarray,
    kind: str,
    result: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with zipfile.ZipFile(packages[kind]) as opened:
        card = opened.read("README.md").decode()
    code = re.split(r"\n\nor,|\n\n\*\*|\n## ", card.split("**Python.**")[1])[0]
    shutil.copy(packages[kind], tmp_path)
    tifffile.imwrite(tmp_path / "image.tif", sample)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARTSEG_CACHE", str(tmp_path / "cache"))
    names: dict[str, Any] = {}
    exec(textwrap.dedent(code), names)
    if kind != "classifier":
        assert names[result].shape == sample.shape
        assert names[result].dtype == bool
    else:
        assert abs(float(names["clean"] + names[result]) - 1) < 1e-5


def test_how_to_use_it_elsewhere_is_on_the_cards(packages: dict[str, Path]) -> None:
    cards: dict[str, str] = {}
    for kind in KINDS:
        with zipfile.ZipFile(packages[kind]) as opened:
            cards[kind] = opened.read("README.md").decode()
    assert "load `tiny-run-unet-0.5.10.zip`, choose the whole image as" in cards["unet"]
    assert "at least 2048 pixels, sides and positions multiples of 64, that" in cards["unet"]
    assert "For a mask, take `tiny-run-combined.zip`" in cards["unet"]
    macro = cards["combined"].split("**deepImageJ.**")[1].split("**CellProfiler")[0]
    assert 'model = "/path/to/Fiji.app/models/artseg-tiny-run-combined";' in macro
    assert '"size=25-Infinity pixel show=Masks add"' in macro
    assert all("adds 1e-6 to the standard deviation" in card for card in cards.values())
    tiling = {kind: description(packages[kind])["config"]["deepimagej"]["allow_tiling"] for kind in KINDS}
    assert tiling == {"classifier": False, "unet": True, "combined": False}


def test_how_the_networks_learned_is_stated_where_the_run_tells(
    run: Path, packages: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    schedule = {"epochs": 20, "learning_rate": 0.003, "decay": "one-cycle", "batch": 16}
    configuration = {
        "classifier": {"schedule": schedule, "augmentation": {"flips": True, "noise": 0.0}},
        "unet": {"schedule": schedule | {"epochs": 7}, "augmentation": {}},
    }
    (copy / "configuration.json").write_text(json.dumps(configuration))
    exported = export_packages(copy, tmp_path)
    classifier, unet = (
        description(path)["config"]["bioimageio"]["training"] for path in (exported.classifier, exported.unet)
    )
    assert (classifier["training_epochs"], unet["training_epochs"]) == (20, 7)
    assert classifier["training_preprocessing"].endswith("Augmentation: flips True.")
    assert unet["training_preprocessing"].endswith("Augmentation: none.")
    assert (unet["initial_learning_rate"], unet["loss_function"]) == (0.003, "torch.nn.BCEWithLogitsLoss")
    filled = re.search(r"(\d+)% of the fields filled", check_description(unpacked(exported.unet, tmp_path)).detail)
    assert filled is not None
    assert int(filled[1]) >= 75
    assert description(packages["unet"])["config"]["bioimageio"]["training"] == {}, "what is not known is not stated"


@pytest.mark.parametrize("kind", ["older_classifier", "older_combined"])
def test_older_descriptions_are_valid(packages: dict[str, Path], kind: str, tmp_path: Path) -> None:
    checked = check_description(unpacked(packages[kind], tmp_path))
    assert checked.outcome == "passed"
    assert checked.detail.startswith("Missing `maintainers`")


def unpacked(package: Path, folder: Path) -> Path:
    with zipfile.ZipFile(package) as opened:
        opened.extractall(folder / package.stem)
    return folder / package.stem


def test_a_configuration_that_does_not_tell_is_no_obstacle(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "configuration.json").write_text("{}")
    assert read_run(copy).learning == {}
    assert "does not tell how the networks learned" in caplog.text


def test_covers_have_the_zoos_shape_and_size(packages: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(packages["unet"]) as opened:
        cover = Path(opened.extract("cover.png", tmp_path))
    with Image.open(cover) as image:
        assert image.width == 2 * image.height
    assert cover.stat().st_size < 500_000


def test_covers_outline_what_the_network_found(tmp_path: Path, sample: np.ndarray) -> None:
    from artseg_models.packages.cards import draw_cover

    mask = np.zeros(sample.shape, dtype=bool)
    mask[90:150, 30:90] = True
    draw_cover(tmp_path / "cover.png", sample, mask)
    shown = np.asarray(Image.open(tmp_path / "cover.png")).astype(int)
    left, right = np.hsplit(shown, 2)
    changed = (left != right).any(axis=2)
    assert 0.8 < changed.mean() / (mask.sum() / 201**2) < 1.2, "only the artifact is drawn upon"


def test_the_test_output_is_not_empty_and_the_tolerance_is_the_zoos(packages: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(packages["unet"]) as opened:
        output = np.load(opened.extract("test_output.npy", tmp_path))
    tolerance = description(packages["unet"])["config"]["bioimageio"]["reproducibility_tolerance"][0]
    assert output.dtype == np.float32
    assert output.max() > 0
    assert 0 < tolerance["absolute_tolerance"] <= 0.01 * output.max()


def test_a_paper_sized_run_without_gate_and_pixel_size(
    make_run: Callable[..., Path], sample: np.ndarray, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", binning=1, gate_threshold=None, pixel_size_um=None, validation={}, scorecam={})
    unet, combined = export_packages(run, tmp_path / "out")[1:3]
    assert combined is not None
    content = description(unet)
    assert content["config"]["artseg"]["gate_threshold"] is None
    assert content["inputs"][0]["axes"][2]["size"]["min"] == 32
    with zipfile.ZipFile(unet) as opened:
        card = opened.read("README.md").decode()
    assert "| no gate |" in card
    assert "| unknown |" in card
    assert "Nothing was measured" in card
    packages = [read_package(path, cache=tmp_path / "cache") for path in (unet, combined)]
    masks = [Predictor(package, device="cpu").predict(sample).mask for package in packages]
    assert masks[0].any(), "the gate is always open"
    assert (masks[0] == masks[1]).all()


def test_the_same_run_gives_the_same_bytes_but_for_torchscripts_numbers(
    packages: dict[str, Path], run: Path, tmp_path: Path
) -> None:
    again = export_packages(run, tmp_path).unet
    with zipfile.ZipFile(packages["unet"]) as first, zipfile.ZipFile(again) as second:
        assert first.namelist() == second.namelist()
        differing = {name for name in first.namelist() if first.read(name) != second.read(name)}
    assert differing <= {"weights-torchscript.pt", "rdf.yaml"}


def test_weights_that_differ_from_the_network_are_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(weights.OnnxBackend):
        def __call__(self, image: np.ndarray) -> np.ndarray:
            return super().__call__(image) + np.float32(2e-4 if image.shape[-1] > 100 else 0)

    monkeypatch.setattr(weights, "OnnxBackend", Wrong)
    with pytest.raises(ArtSegError, match=r"onnx differs from the network by 0\.0002"):
        export_packages(run, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_numbers_are_refused(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    state = torch.load(run / "unet" / "network.pt", weights_only=True)
    state["head.bias"][:] = float("nan")
    torch.save(state, run / "unet" / "network.pt")
    with pytest.raises(ArtSegError, match="differs from the network by nan"):
        export_packages(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_opset_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "IR_VERSION", 9)
    with pytest.raises(ArtSegError, match="opset 17 and IR 8"):
        export_packages(run, tmp_path)


def test_a_failure_leaves_older_packages_as_they_were(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in KINDS:
        (tmp_path / f"tiny-run-{kind}.zip").write_bytes(b"older")
    zipped = export._zip

    def full_disk(folder: Path, path: Path) -> None:
        zipped(folder, path)
        if folder.name == "unet":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_zip", full_disk)
    with pytest.raises(ArtSegError, match="No space left on device"):
        export_packages(run, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        f"tiny-run-{kind}.zip": b"older" for kind in KINDS
    }


def test_a_description_that_the_zoo_refuses_is_not_written(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtSegError, match=r"not be valid in the Model Zoo.*license"):
        export_packages(run, tmp_path, licence="my own")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("result.json", "let the training end"),
        ("unet/network.pt", "trained weights"),
        ("classifier/network.pt", "trained weights"),
        ("sample.tiff", "Copy one from the validation images"),
    ],
)
def test_an_unfinished_run_is_told(run: Path, tmp_path: Path, missing: str, message: str) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / missing).unlink()
    with pytest.raises(ArtSegError, match=message):
        export_packages(copy, tmp_path / "out")


def test_damaged_runs_are_told(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "unet" / "network.pt").write_bytes(b"not weights")
    with pytest.raises(ArtSegError, match="damaged or of another network"):
        export_packages(copy, tmp_path / "out")
    shutil.copyfile(copy / "classifier" / "network.pt", copy / "unet" / "network.pt")
    with pytest.raises(ArtSegError, match="damaged or of another network"):
        export_packages(copy, tmp_path / "out")
    (copy / "result.json").write_text('{"name": "x"}')
    with pytest.raises(ArtSegError, match="the field method is wrong"):
        export_packages(copy, tmp_path / "out")
