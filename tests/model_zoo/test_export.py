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

import httpx
import numpy as np
import onnx
import pytest
import tifffile
import torch
import yaml
from bioimageio.spec import ValidationContext, build_description
from bioimageio.spec.model.v0_5 import ModelDescr
from PIL import Image
from scipy import ndimage

from artseg_models.backends import OnnxBackend
from artseg_models.bundle import cards_folder
from artseg_models.errors import ArtSegError
from artseg_models.methods.runs import configure
from artseg_models.packages import export, weights
from artseg_models.packages.check import check_description, check_package
from artseg_models.packages.export import export_packages
from artseg_models.packages.halo import halo_effect
from artseg_models.packages.rdf import load_yaml
from artseg_models.packages.read import read_package
from artseg_models.packages.run import read_run
from artseg_models.predict import Predictor, artifact_objects

KINDS = ("classifier", "unet", "combined")
FORMATS = ("pytorch_state_dict", "torchscript", "onnx")
NEWEST = ModelDescr.implemented_format_version


def description(package: Path) -> dict[str, Any]:
    """rdf.yaml read by YAML 1.1, which deepImageJ and older readers use."""
    with zipfile.ZipFile(package) as opened:
        return yaml.safe_load(opened.read("rdf.yaml"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_zoos_own_test_passes_for_every_weight_format(packages: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """The older format says the same of the same weights; the test below compares them."""
    check = check_package(packages[kind], trust=True, cache=tmp_path)
    findings = check.findings
    assert not check.failed
    assert {finding.what: finding.outcome for finding in findings} == {
        "unpacked, files as stated": "passed",
        "description": "passed",
        **dict.fromkeys(FORMATS, "passed"),
        **({"halo, tiles": "passed"} if kind in ("unet", "combined") else {}),
    }
    # a GitHub user cannot be invented; nothing else may be missing
    assert findings[1].detail.startswith("Missing `maintainers`")
    assert re.fullmatch(r"[^;]*; [\d.]+% of the fields filled, by the Zoo's measure", findings[1].detail)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sources_of_the_descriptions_lack_nothing_but_what_export_fills(kind: str) -> None:
    source = load_yaml(cards_folder() / f"artseg-{kind}" / "rdf.yaml")
    context = ValidationContext(perform_io_checks=False)
    summary = build_description(source, context=context).validation_summary
    wrong = {error.loc: error.type for detail in summary.details for error in detail.errors}
    assert wrong == {("weights",): "missing"}
    tensors = {(side, 0, f"{of}_tensor") for side in ("inputs", "outputs") for of in ("test", "sample")}
    assert {warning.loc for detail in summary.details for warning in detail.warnings} == {*tensors, ("documentation",)}


def test_every_card_would_tell_that_its_images_were_simulated(repository: Path) -> None:
    cards = sorted((repository / "bioimageio").glob("*/card.md"))
    assert len(cards) == 8
    for card in cards:
        text = card.read_text(encoding="utf-8")
        assert text.count("{{ simulated_warning }}") == text.count("{{ simulated_text }}") == 1, card


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
        "environment.yaml",
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
    assert {name: ours["validation"][name] for name in ("image_f1", "pixel_iou")} == {
        "image_f1": 0.91234,
        "pixel_iou": None,
    }
    assert ours["largest_difference"].keys() == set(FORMATS)
    assert max(ours["largest_difference"].values()) < 1e-4


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
    assert "for programs that only run a network: `tiny-run-combined.zip`" in cards["unet"]
    assert "setThreshold(0.6, 1);" in cards["unet"], "the macro cuts at the model's cutoff"
    macro = cards["combined"].split("**deepImageJ.**")[1].split("**CellProfiler")[0]
    assert 'model = "/path/to/Fiji.app/models/artseg-tiny-run-combined";' in macro
    assert '"size=25-Infinity pixel show=Masks add"' in macro
    assert all("adds 1e-6 to the standard deviation" in card for card in cards.values())
    tiling = {kind: description(packages[kind])["config"]["deepimagej"]["allow_tiling"] for kind in KINDS}
    assert tiling == {"classifier": False, "unet": True, "combined": False}


@pytest.mark.parametrize("kind", [f"older_{kind}" for kind in KINDS])
def test_older_descriptions_are_valid(packages: dict[str, Path], kind: str, tmp_path: Path) -> None:
    checked = check_description(unpacked(packages[kind], tmp_path))
    assert checked.outcome == "passed"
    assert checked.detail.startswith("Missing `maintainers`")


def unpacked(package: Path, folder: Path) -> Path:
    with zipfile.ZipFile(package) as opened:
        opened.extractall(folder / package.stem)
    return folder / package.stem


@pytest.fixture(scope="module")
def full_run(run: Path, sample: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as a training leaves it: its settings, what it cost, and validation images that are still there."""
    folder = tmp_path_factory.mktemp("full")
    copy = shutil.copytree(run, folder / "run")
    (copy / "configuration.json").write_text(json.dumps(configure("quick").model_dump(mode="json") | LABELS))
    (copy / "cost.json").write_text(json.dumps({"seconds": 1800.0, "hardware": "a processor"}))
    tifffile.imwrite(folder / "marked.tif", sample[:, :131])  # the gate lets it pass
    tifffile.imwrite(folder / "missed.tif", sample)  # and this it does not
    rows = ["image,label,split", "../marked.tif,clean,validation", "../missed.tif,artifact,validation"]
    (copy / "splits.csv").write_text("\n".join(rows) + "\n")
    return copy


LABELS = {"labels": {"source": "labels.csv", "sha256": "0" * 64}}


@pytest.fixture(scope="module")
def full(full_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Its packages, with a maintainer."""
    return export_packages(full_run, tmp_path_factory.mktemp("packages"), maintainer="bioimageiobot")._asdict()


@pytest.mark.parametrize("kind", [*KINDS, "older_unet"])
def test_more_than_nine_tenths_of_the_fields_are_filled_and_nothing_warns(
    full: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    checked = check_description(unpacked(full[kind], tmp_path))
    assert checked.outcome == "passed"
    filled = re.fullmatch(r"([\d.]+)% of the fields filled, by the Zoo's measure", checked.detail)
    assert filled is not None, f"no warning before it: {checked.detail}"
    assert float(filled[1]) > 90


def test_a_maintainer_whom_nobody_can_look_up_is_no_obstacle(
    full: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a computer without network."""

    def offline(*given: object, **options: object) -> None:
        raise httpx.ConnectError("no network")

    monkeypatch.setattr(httpx, "get", offline)
    described = unpacked(full["unet"], tmp_path) / "rdf.yaml"
    text = described.read_text()
    assert text.count("bioimageiobot") == 1
    described.write_text(text.replace("bioimageiobot", "a-user-nobody-knows"))
    checked = check_description(described.parent)
    assert checked.outcome == "passed"
    assert checked.detail.startswith("no network to ask GitHub for the user a-user-nobody-knows; ")


def test_how_the_networks_learned_is_stated_where_the_run_tells(
    packages: dict[str, Path], full: dict[str, Path]
) -> None:
    classifier, unet = (description(full[kind])["config"]["bioimageio"]["training"] for kind in ("classifier", "unet"))
    settings = configure("quick")
    assert classifier["training_epochs"] == settings.classifier.schedule.epochs
    assert unet["training_epochs"] == settings.unet.schedule.epochs != classifier["training_epochs"]
    assert "Augmentation: flips True, rotation 15.0" in classifier["training_preprocessing"]
    assert "Augmentation: flips True, rotation 180.0" in unet["training_preprocessing"]
    assert (unet["initial_learning_rate"], unet["loss_function"]) == (0.003, "torch.nn.BCEWithLogitsLoss")
    assert description(packages["unet"])["config"]["bioimageio"]["training"] == {}, "what is not known is not stated"


@pytest.mark.parametrize("masks", [0, 20])
def test_cards_and_descriptions_tell_of_drawn_masks_that_joined(full_run: Path, tmp_path: Path, masks: int) -> None:
    copy = shutil.copytree(full_run, tmp_path / "run")
    settings = json.loads((copy / "configuration.json").read_text())
    (copy / "configuration.json").write_text(json.dumps(settings | {"masks": masks}))
    for path in full_run.parent.glob("*.tif"):
        shutil.copy(path, tmp_path)
    exported = export_packages(copy, tmp_path / "packages")._asdict()
    for kind in ("classifier", "unet"):
        told = description(exported[kind])["description"]
        assert told.endswith(f" {f'and {masks} drawn masks' if masks else 'alone'}."), kind
        card = (unpacked(exported[kind], tmp_path / kind) / "README.md").read_text()
        assert (f"drawn masks of {masks} of them, from" in card) == (masks > 0)
        assert ("Labels of whole images only" in card) == (masks == 0)
        if kind == "unet":
            assert ("not from outlines" in card) == (masks == 0)


def test_cards_show_failures_in_pictures(full: dict[str, Path], tmp_path: Path) -> None:
    folder = unpacked(full["unet"], tmp_path)
    card = (folder / "README.md").read_text()
    assert "simulated" not in card, "of images that nobody called so"
    assert "2 of the 2 validation images were looked at" in card
    assert "it calls 1 clean and 1 artifact images wrong" in card
    assert re.search(r"^1\. labelled clean: [\d.]+ % of it is marked", card, re.MULTILINE)
    assert re.search(r"^2\. labelled artifact: nothing is marked, the gate calls it clean", card, re.MULTILINE)
    assert "](failures.png)" in card
    with Image.open(folder / "failures.png") as picture:
        shown = np.asarray(picture.convert("RGB")).astype(int)
    orange = (np.abs(shown - np.array([255, 166, 43])).sum(axis=2) < 30).nonzero()
    assert orange[0].min() > shown.shape[0] // 2, "outlines are drawn below"
    assert orange[1].max() < shown.shape[1] // 2, "nothing is marked in the missed one"
    attached = description(full["unet"])["attachments"]
    assert {entry["source"] for entry in attached} == {"classifier.onnx", "failures.png"}
    looked_at = description(full["unet"])["config"]["artseg"]["validation"]["looked_at_for_failures"]
    assert looked_at == {"images": 2, "of": 2, "wrong_clean": 1, "wrong_artifact": 1}


def test_what_bf16_costs_on_the_validation_images_is_stated(
    full: dict[str, Path], full_run: Path, networks: dict[str, torch.nn.Module]
) -> None:
    """As 1 - IoU of both masks, of the one image that the gate lets pass."""
    stated = description(full["unet"])["config"]["artseg"]["iou_cost"]["bf16"]
    pixels = tifffile.imread(full_run.parent / "marked.tif").astype(np.float64)
    given = torch.as_tensor((pixels - pixels.mean()) / pixels.std(), dtype=torch.float32)[None, None]
    result = json.loads((full_run / "result.json").read_text())
    with torch.no_grad():
        maps = [networks["unet"](given)]
        with torch.autocast("cpu", torch.bfloat16):
            maps.append(networks["unet"](given))
    exact, rounded = (
        artifact_objects(
            found[0, 0].float().numpy(),
            cutoff=result["cutoff"],
            smallest_artifact_px=result["smallest_artifact_px"],
        )
        > 0
        for found in maps
    )
    assert exact.any()
    assert stated == pytest.approx(1 - (exact & rounded).sum() / (exact | rounded).sum(), abs=0.003)
    assert "iou_cost" not in description(full["classifier"])["config"]["artseg"]


def test_what_a_training_cost_and_was_set_to_travels_along(full: dict[str, Path]) -> None:
    content = description(full["unet"])["config"]
    assert content["bioimageio"]["environmental_impact"] == {"hours_used": 0.5, "hardware_type": "a processor"}
    assert content["bioimageio"]["training"]["training_duration"] == 0.5
    assert content["artseg"]["training"]["settings"]["unet"]["schedule"]["epochs"] == 16
    assert content["artseg"]["training"]["settings"]["labels"]["name"] == "labels.csv"
    assert re.match(r"[\d.e-]+ s for an image of 201 x 233 pixels", content["bioimageio"]["inference_time"])


def test_the_cards_figures_of_the_halo_are_measured(full: dict[str, Path], sample: np.ndarray, tmp_path: Path) -> None:
    folder = unpacked(full["unet"], tmp_path)
    measured = halo_effect(OnnxBackend(folder / "weights.onnx"), sample, binning=2)
    assert measured is not None
    assert measured.shape == (128, 128)
    assert measured.padded > 0.001
    assert measured.overlapping is None, "256 pixels of overlap are more than the image"
    assert f"padded, {measured.padded:.2f}; in four tiles without overlap" in (folder / "README.md").read_text()
    stated = description(full["unet"])["config"]["artseg"]["halo_effect"]
    assert stated["tiles"] == pytest.approx(measured.tiles, abs=1e-3)


def test_tiles_that_overlap_enough_agree_with_the_whole_image() -> None:
    """A network that sees seven binned pixels: overlapping tiles are exact, tiles by themselves are not."""

    def blurred(image: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(image, (1, 1, 7, 7), mode="nearest")

    pixels = np.random.default_rng(0).normal(100, 20, (600, 700)) + np.linspace(0, 90, 700)
    measured = halo_effect(blurred, pixels, binning=1)
    assert measured is not None
    assert measured.shape == (512, 512)
    assert measured.overlapping is not None
    assert measured.overlapping < 1e-5
    assert measured.tiles > 0.1


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
    from artseg_models.packages.pictures import draw_cover

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
    zipped = export.pack_folder

    def full_disk(folder: Path, path: Path) -> None:
        zipped(folder, path)
        if folder.name == "unet":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "pack_folder", full_disk)
    with pytest.raises(ArtSegError, match="No space left on device"):
        export_packages(run, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        f"tiny-run-{kind}.zip": b"older" for kind in KINDS
    }


def test_a_description_that_the_zoo_refuses_is_not_written(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtSegError, match=r"not be valid in the Model Zoo.*license"):
        export_packages(run, tmp_path / "new" / "folder", licence="my own")
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
