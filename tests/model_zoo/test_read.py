"""Reading packages: ours, other people's, and those that are damaged or meant to do harm."""

from __future__ import annotations

import hashlib
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from artseg_models.errors import ArtSegError
from artseg_models.packages import unpack as unpacking
from artseg_models.packages.read import Package, read_package


@pytest.fixture
def folder(packages: dict[str, Path], tmp_path: Path) -> Path:
    """The U-Net package, unpacked, to be changed."""
    target = tmp_path / "unpacked"
    with zipfile.ZipFile(packages["unet"]) as opened:
        opened.extractall(target)
    return target


@pytest.fixture
def change(folder: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Change the description of the unpacked package."""

    def apply(changing: Callable[[dict[str, Any]], None]) -> Path:
        content = yaml.safe_load((folder / "rdf.yaml").read_text())
        changing(content)
        (folder / "rdf.yaml").write_text(yaml.safe_dump(content))
        return folder

    return apply


def pack(files: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def run_onnx(package: Package, pixels: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(package.weights["onnx"]), providers=["CPUExecutionProvider"])
    given = package.network_input(package.preprocess(pixels, valid))
    return package.postprocess(package.output_map(session.run(None, {session.get_inputs()[0].name: given})[0]))


def test_our_package_states_its_settings(packages: dict[str, Path], tmp_path: Path) -> None:
    package = read_package(packages["unet"], cache=tmp_path)
    assert package.id == "artseg-tiny-run-unet"
    assert package.sha256 == hashlib.sha256(packages["unet"].read_bytes()).hexdigest()
    assert (package.cutoff, package.smallest_artifact_px, package.gate_threshold) == (0.6, 25, 0.01)
    assert (package.pixel_size_um, package.binning, package.stated) == (0.59, 2, True)
    assert set(package.weights) == {"pytorch_state_dict", "torchscript", "onnx"}
    assert package.classifier is not None
    assert package.folder == tmp_path / "packages" / package.sha256
    assert "## Validation" in package.documentation
    assert package.covers[0].is_file()
    assert package.cite[0].doi == "10.1038/s41598-022-14703-y"


def test_what_was_read_gives_what_torch_gives(
    packages: dict[str, Path], networks: dict[str, torch.nn.Module], sample: np.ndarray, tmp_path: Path
) -> None:
    package = read_package(packages["unet"], cache=tmp_path)
    pixels = sample[:101, :150]
    with torch.no_grad():
        expected = networks["unet"](torch.from_numpy(package.preprocess(pixels)[None, None]))[0, 0].numpy()
    assert np.abs(run_onnx(package, pixels) - expected).max() < 1e-4


def test_a_zip_and_its_folder_are_the_same_model(packages: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    zipped, plain = read_package(packages["unet"], cache=tmp_path), read_package(folder)
    by_description = read_package(folder / "rdf.yaml")
    assert plain.folder == folder
    assert plain.sha256 == by_description.sha256
    assert plain.sha256 != zipped.sha256
    assert (plain.id, plain.cutoff, set(plain.weights)) == (zipped.id, zipped.cutoff, set(zipped.weights))
    (folder / ".DS_Store").write_bytes(b"left by a file browser")
    assert read_package(folder).sha256 == plain.sha256
    (folder / "notes.txt").write_text("not there before")
    assert read_package(folder).sha256 != plain.sha256


def test_classifiers_are_read_only_where_they_are_asked_for(packages: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ArtSegError, match="classifies whole images"):
        read_package(packages["classifier"], cache=tmp_path)
    assert read_package(packages["classifier"], cache=tmp_path, any_kind=True).kind == "classification"


def test_a_model_of_others_gets_the_defaults(change: Callable[..., Path]) -> None:
    package = read_package(change(lambda content: content.pop("config")))
    assert (package.cutoff, package.smallest_artifact_px, package.gate_threshold) == (0.5, 0, None)
    assert not package.stated
    assert package.classifier is None


@pytest.mark.filterwarnings("ignore")  # torch's exporter
def test_other_orders_of_axes_and_logits(
    folder: Path, change: Callable[..., Path], networks: dict[str, torch.nn.Module], sample: np.ndarray
) -> None:
    class Turned(torch.nn.Module):
        """Takes (batch, x, y, channel) and gives logits (x, y), as a package of others might."""

        def __init__(self) -> None:
            super().__init__()
            self.network = networks["unet"]

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.logit(self.network(image.permute(0, 3, 2, 1)))[0, 0].T

    torch.onnx.export(
        Turned().eval(),
        (torch.zeros(1, 70, 90, 1),),
        str(folder / "weights.onnx"),
        dynamo=False,
        opset_version=17,
        input_names=["raw"],
        output_names=["logits"],
        dynamic_axes={"raw": {1: "x", 2: "y"}, "logits": {0: "x", 1: "y"}},
    )

    def turn(content: dict[str, Any]) -> None:
        batch, channel, y, x = content["inputs"][0]["axes"]
        content["inputs"][0]["axes"] = [batch, x, y, channel]
        content["outputs"][0]["axes"] = content["outputs"][0]["axes"][:1:-1]
        content["outputs"][0]["postprocessing"] = [{"id": "sigmoid"}]
        content["weights"] = {"onnx": {"source": "weights.onnx", "opset_version": 17}}

    package = read_package(change(turn))
    assert (package.input_axes, package.output_axes) == (("batch", "x", "y", "channel"), ("x", "y"))
    pixels = sample[:101, :150]
    with torch.no_grad():
        expected = networks["unet"](torch.from_numpy(package.preprocess(pixels)[None, None]))[0, 0].numpy()
    assert np.abs(run_onnx(package, pixels) - expected).max() < 1e-4


def test_sizes_that_fit_the_model(change: Callable[..., Path]) -> None:
    def steps(content: dict[str, Any]) -> None:
        content["inputs"][0]["axes"][2]["size"] = {"min": 64, "step": 16}
        content["inputs"][0]["axes"][3]["size"] = 256
        content["outputs"][0]["axes"][2]["halo"] = 8

    package = read_package(change(steps))
    assert package.fitting_shape((10, 10)) == (64, 256)
    assert package.fitting_shape((64, 256)) == (64, 256)
    assert package.fitting_shape((65, 1000)) == (80, 256)
    assert (package.y.halo, package.x.halo) == (8, 0)


def test_newer_formats_name_card_and_cover_in_mappings(change: Callable[..., Path]) -> None:
    def newer(content: dict[str, Any]) -> None:
        content["format_version"] = "0.5.14"
        content["documentation"] = {"source": "README.md"}
        content["covers"] = [{"source": "cover.png"}]

    package = read_package(change(newer))
    assert package.documentation.startswith("# ArtSeg")
    assert package.covers[0].name == "cover.png"


def test_reading_starts_neither_torch_nor_bioimageio(packages: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from artseg_models.packages.read import read_package;"
        "read_package(Path(sys.argv[1]), cache=Path(sys.argv[2]));"
        "print([name for name in ('torch', 'bioimageio', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(packages["unet"]), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_changed_copy_in_the_cache_is_unpacked_again(packages: dict[str, Path], tmp_path: Path) -> None:
    first = read_package(packages["unet"], cache=tmp_path)
    first.weights["onnx"].write_bytes(b"changed")
    again = read_package(packages["unet"], cache=tmp_path)
    assert again.weights["onnx"].stat().st_size > 1000
    assert [path.name for path in (tmp_path / "packages").iterdir()] == [again.sha256]


def test_the_cache_folder_can_be_chosen(
    packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTSEG_CACHE", str(tmp_path / "mine"))
    assert read_package(packages["unet"]).folder.is_relative_to(tmp_path / "mine")


# ---- damaged ----


@pytest.mark.parametrize(
    "name", ["weights.onnx", "weights.pt", "classifier.onnx", "unet.py", "test_input.npy", "README.md"]
)
def test_a_file_that_is_not_the_packed_one_is_refused(folder: Path, name: str) -> None:
    with open(folder / name, "ab") as opened:
        opened.write(b"\n")
    with pytest.raises(ArtSegError, match=f"{name} of .* is not the one its author packed: expected SHA-256"):
        read_package(folder)


def test_a_classifier_other_than_the_configured_is_refused(change: Callable[..., Path]) -> None:
    def other(content: dict[str, Any]) -> None:
        content["config"]["artseg"]["classifier"]["sha256"] = "0" * 64

    with pytest.raises(ArtSegError, match=r"is not the one that config\.artseg names"):
        read_package(change(other))


@pytest.mark.parametrize("name", ["weights.onnx", "README.md", "classifier.onnx"])
def test_a_missing_file_is_told(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtSegError, match=f"names a file '{name}' that it does not hold"):
        read_package(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "it is damaged"),
        ("\0", "it is damaged"),
        ("- just\n- a list", "Expected a mapping"),
        ("", "Expected a mapping"),
        ("type: dataset\nformat_version: 0.3.0", "describes a 'dataset'"),
        ("type: model\nformat_version: 0.4.10", "update-format"),
        ("type: model\nformat_version: 0.5.10\nname: x", "the field inputs of rdf.yaml is wrong"),
        ("x: " + "y" * 3_000_000, "a description is short"),
    ],
)
def test_a_damaged_description_is_told(folder: Path, text: str, message: str) -> None:
    (folder / "rdf.yaml").write_text(text)
    with pytest.raises(ArtSegError, match=message):
        read_package(folder)


def test_a_missing_description_is_told(folder: Path) -> None:
    (folder / "rdf.yaml").unlink()
    with pytest.raises(ArtSegError, match=r"with a file rdf\.yaml"):
        read_package(folder)


def test_a_folder_that_is_no_package_is_not_read_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "holiday.mov").write_bytes(b"large")
    monkeypatch.setattr("artseg_models.packages.read.sha256", lambda path: pytest.fail(f"read {path}"))
    with pytest.raises(ArtSegError, match=r"with a file rdf\.yaml"):
        read_package(tmp_path)


def test_a_missing_package_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtSegError, match="nothing is there"):
        read_package(tmp_path / "none.zip")


@pytest.mark.parametrize("cut", [0, 100, -2000])
def test_a_damaged_zip_is_told_and_leaves_nothing(packages: dict[str, Path], tmp_path: Path, cut: int) -> None:
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(packages["unet"].read_bytes()[:cut])
    with pytest.raises(ArtSegError, match="it is damaged or no zip"):
        read_package(damaged, cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "packages").iterdir()) == []


def test_a_flipped_byte_is_told(packages: dict[str, Path], tmp_path: Path) -> None:
    content = bytearray(packages["unet"].read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "flipped.zip").write_bytes(content)
    with pytest.raises(ArtSegError, match=r"damaged or no zip|not the one its author packed"):
        read_package(tmp_path / "flipped.zip", cache=tmp_path / "cache")


# ---- unsafe ----


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "a/../../outside.txt", "..\\outside.txt", "C:/x"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    archive = pack({"rdf.yaml": b"type: model", name: b"harm"}, tmp_path / "slip.zip")
    with pytest.raises(ArtSegError, match="leads out of its folder"):
        read_package(archive, cache=tmp_path / "cache" / "deep")
    assert not list(tmp_path.rglob("outside*"))


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("weights.onnx")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as opened:
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(ArtSegError, match="a link or special file"):
        read_package(tmp_path / "link.zip", cache=tmp_path / "cache")


def test_links_out_of_a_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "weights.onnx", tmp_path / "elsewhere.onnx")
    (folder / "weights.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ArtSegError, match="outside its own folder"):
        read_package(folder)


@pytest.mark.parametrize("source", ["../elsewhere.onnx", "/etc/passwd"])
def test_files_outside_the_folder_are_refused(change: Callable[..., Path], source: str) -> None:
    def outside(content: dict[str, Any]) -> None:
        content["weights"]["onnx"]["source"] = source

    with pytest.raises(ArtSegError, match="outside its own folder"):
        read_package(change(outside))


def test_zips_that_unpack_to_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("rdf.yaml", b"type: model")
        opened.writestr("weights.onnx", bytes(80 * 2**20))
    with pytest.raises(ArtSegError, match="which no package of weights does"):
        read_package(tmp_path / "bomb.zip", cache=tmp_path / "cache")
    monkeypatch.setattr(unpacking, "LARGEST_PACKAGE", 2**20)
    with pytest.raises(ArtSegError, match="would unpack to"):
        read_package(tmp_path / "bomb.zip", cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "packages").iterdir()) == []


def test_names_that_stand_twice_are_refused(tmp_path: Path) -> None:
    archive = pack({"rdf.yaml": b"type: model", "RDF.yaml": b"type: dataset"}, tmp_path / "twice.zip")
    with pytest.raises(ArtSegError, match="twice"):
        read_package(archive, cache=tmp_path / "cache")


def test_aliases_that_multiply_are_harmless(folder: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 30)]
    (folder / "rdf.yaml").write_text("\n".join(lines))
    with pytest.raises(ArtSegError, match="describes a 'None'"):
        read_package(folder)


# ---- models that ArtSeg cannot use ----


def _channels(content: dict[str, Any]) -> None:
    content["inputs"][0]["axes"][1]["channel_names"] = ["r", "g", "b"]


def _volume(content: dict[str, Any]) -> None:
    content["inputs"][0]["axes"].insert(2, {"type": "space", "id": "z", "size": {"min": 8, "step": 1}})


def _two_inputs(content: dict[str, Any]) -> None:
    content["inputs"].append(content["inputs"][0] | {"id": "second"})


def _two_maps(content: dict[str, Any]) -> None:
    content["outputs"][0]["axes"][1]["channel_names"] = ["cell", "border"]


def _half_size(content: dict[str, Any]) -> None:
    content["outputs"][0]["axes"][2]["scale"] = 2.0


def _web_weights(content: dict[str, Any]) -> None:
    content["weights"] = {"onnx": {"source": "https://example.org/w.onnx", "sha256": "0" * 64}}


def _unknown_operation(content: dict[str, Any]) -> None:
    content["inputs"][0]["preprocessing"] = [{"id": "custom", "source": "my.py"}]


def _wrong_cutoff(content: dict[str, Any]) -> None:
    content["config"]["artseg"]["cutoff"] = 7


@pytest.mark.parametrize(
    ("changing", "message"),
    [
        (_channels, "images of 3 channels"),
        (_volume, "with the axis 'z'"),
        (_two_inputs, "takes 2 inputs"),
        (_two_maps, "gives 2 channels"),
        (_half_size, "a map of another size"),
        (_web_weights, "no weights, only their address"),
        (_unknown_operation, "the operation 'custom'"),
        (_wrong_cutoff, "config.artseg: the field cutoff"),
    ],
)
def test_models_that_do_not_fit_say_why(
    change: Callable[..., Path], changing: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(ArtSegError, match=message):
        read_package(change(changing))
