"""Which programs open a package: our two formats, and packages of others with one thing after another against them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.packages.consumers import CONSUMERS, RULES, Verdict, would_open

ARTSEG = "ArtSeg"
BIAPY = "BiaPy 3.7"  # runs models with bioimageio.core 0.9.6
CORES = {"bioimageio.core 0.11", "bioimageio.core 0.10 (Model Zoo)", "bioimageio.core 0.9.6", BIAPY}
ILASTIK, JDLL = "tiktorch 26.5 (ilastik)", "JDLL 0.6 (deepImageJ)"
ONNX, TORCH = "onnxruntime 1.13", "torch 2.0, TorchScript"
OLDER_READERS = {*CORES - {"bioimageio.core 0.11"}, ILASTIK, JDLL}

Change = Callable[[dict[str, Any]], object]


def unpacked(package: Path, folder: Path) -> Path:
    with zipfile.ZipFile(package) as opened:
        opened.extractall(folder)
    return folder


@pytest.fixture
def folder(packages: dict[str, Path], tmp_path: Path) -> Path:
    """The U-Net's package for older readers, unpacked, to be changed: every program opens it."""
    return unpacked(packages["older_unet"], tmp_path / "unpacked")


def change(folder: Path, changing: Change) -> None:
    content = yaml.safe_load((folder / "rdf.yaml").read_text())
    changing(content)
    (folder / "rdf.yaml").write_text(yaml.safe_dump(content))


def replaced(folder: Path, weight_format: str) -> None:
    """State the SHA-256 of a weight file that was changed."""

    def state(content: dict[str, Any]) -> None:
        entry = content["weights"][weight_format]
        entry["sha256"] = hashlib.sha256((folder / entry["source"]).read_bytes()).hexdigest()

    change(folder, state)


def refusing(verdicts: list[Verdict]) -> dict[str, str]:
    return {verdict.consumer: "; ".join(verdict.reasons) for verdict in verdicts if not verdict.opens}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("older_unet", set()),
        ("older_combined", {BIAPY}),
        ("older_classifier", {ILASTIK}),
        ("unet", OLDER_READERS),
        ("combined", OLDER_READERS),
        ("classifier", OLDER_READERS),
    ],
)
def test_which_programs_open_our_packages(
    packages: dict[str, Path], kind: str, expected: set[str], tmp_path: Path
) -> None:
    verdicts = would_open(unpacked(packages[kind], tmp_path / kind))
    assert [verdict.consumer for verdict in verdicts] == [*CONSUMERS, ARTSEG]
    assert set(refusing(verdicts)) == expected
    assert all(verdict.sources and verdict.reasons for verdict in verdicts if not verdict.opens)


def test_every_rule_names_its_source_and_programs_of_the_table() -> None:
    assert all(rule.source and set(rule.consumers) <= set(CONSUMERS) for rule in RULES)
    assert {consumer for rule in RULES for consumer in rule.consumers} == set(CONSUMERS)


def _steps(*steps: dict[str, Any]) -> Change:
    return lambda content: content["inputs"][0].update(preprocessing=list(steps))


def _axis(side: str, axis: dict[str, Any]) -> Change:
    return lambda content: content[side][0]["axes"].insert(2, axis)


TIME = {"type": "time", "id": "t", "size": 1, "unit": "second"}


@pytest.mark.parametrize(
    ("changing", "expected", "reason"),
    [
        (lambda content: content.update(format_version="0.6.0"), {*CORES, ILASTIK, JDLL, ARTSEG}, "format 0.6.0"),
        (lambda content: content.update(documentation={"source": "README.md"}), OLDER_READERS, "documentation as map"),
        (lambda content: content.update(covers=[{"source": "cover.png"}]), OLDER_READERS, "covers as mappings"),
        (lambda content: content.pop("id"), {JDLL}, "no id"),
        (_steps({"id": "softmax", "kwargs": {"axis": "channel"}}), {JDLL, ARTSEG, BIAPY}, "the operation softmax"),
        (_steps({"id": "clip", "kwargs": {"min": 0.0}}), {JDLL}, "clip with one bound"),
        (_steps({"id": "clip", "kwargs": {"min": 0.0, "max": 9.0}}, {"id": "sigmoid"}), {BIAPY}, "operation sigmoid"),
        (
            _steps({"id": "scale_range", "kwargs": {"axes": ["y", "x"], "reference_tensor": "image"}}),
            {JDLL, ARTSEG},
            "reference tensor",
        ),
        (lambda content: content["outputs"].append(content["outputs"][0]), {ILASTIK, ARTSEG}, "2 outputs"),
        (_axis("inputs", TIME), {JDLL, BIAPY}, "the ax"),
        (lambda content: content.update(tags=["2d"]), {BIAPY}, "no tag that names one of its workflows"),
        (lambda content: content["weights"].pop("pytorch_state_dict"), {BIAPY}, "no state dict"),
        (
            lambda content: content["weights"]["pytorch_state_dict"]["architecture"].pop("kwargs"),
            {BIAPY},
            "no arguments (kwargs) of its network",
        ),
        (lambda content: content["outputs"][0]["axes"].pop(), {ILASTIK, ARTSEG}, "has 1 spatial axes"),
        (lambda content: content["outputs"][0]["axes"][2].update(halo=16), set(), ""),
        (lambda content: content["outputs"][0]["axes"][2].update(halo=32), CORES, "leaves nothing of the smallest"),
        (lambda content: content["weights"].pop("onnx"), {ONNX}, "no ONNX weights"),
        (lambda content: content["weights"].pop("torchscript"), {TORCH}, "no TorchScript weights"),
        (
            lambda content: [content["weights"].pop(name) for name in ("onnx", "torchscript")],
            {ONNX, TORCH, JDLL, ARTSEG},
            "weights",
        ),
    ],
)
def test_one_thing_against_it(folder: Path, changing: Change, expected: set[str], reason: str) -> None:
    change(folder, changing)
    refused = refusing(would_open(folder))
    assert set(refused) == expected
    assert all(reason in text for consumer, text in refused.items() if consumer != ARTSEG)


@pytest.mark.parametrize(("named", "expected"), [("python >=3.9", {BIAPY}), ("pytorch >=2.0", set())])
def test_an_environment_that_asks_for_python_stops_one_reader(folder: Path, named: str, expected: set[str]) -> None:
    """BiaPy 3.7.1 tries to import what stands there, but for PyTorch."""
    environment = folder / "environment.yaml"
    environment.write_text(f"dependencies: ['{named}']\n")
    digest = hashlib.sha256(environment.read_bytes()).hexdigest()
    change(
        folder,
        lambda content: content["weights"]["pytorch_state_dict"]["dependencies"].update(sha256=digest),
    )
    assert set(refusing(would_open(folder))) == expected


@pytest.mark.parametrize(
    ("changing", "reason"),
    [
        (lambda model: setattr(model, "ir_version", 10), "IR 10; it reads up to 8"),
        (lambda model: setattr(model.opset_import[0], "version", 18), "opset 18; it reads up to 17"),
        (lambda model: model.opset_import.add(domain="com.example", version=1), "operators of com.example"),
    ],
)
def test_newer_onnx_needs_a_newer_reader(folder: Path, changing: Callable[[Any], object], reason: str) -> None:
    model = onnx.load(folder / "weights.onnx")
    changing(model)
    onnx.save(model, folder / "weights.onnx")
    replaced(folder, "onnx")
    refused = refusing(would_open(folder))
    assert set(refused) == {ONNX}, "deepImageJ still has the TorchScript"
    assert refused[ONNX] == reason
    change(folder, lambda content: content["weights"].pop("torchscript"))
    assert reason in refusing(would_open(folder))[JDLL]


class Enlarging(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(image, scale_factor=2.0, mode="nearest")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("traced", "expected"), [(False, {TORCH}), (True, set())])
def test_compiled_interpolation_is_told_from_a_traced_one(folder: Path, traced: bool, expected: set[str]) -> None:
    script = torch.jit.trace(Enlarging(), torch.zeros(1, 1, 4, 4)) if traced else torch.jit.script(Enlarging())
    torch.jit.save(script, folder / "weights-torchscript.pt")
    replaced(folder, "torchscript")
    assert set(refusing(would_open(folder))) == expected


def test_a_later_file_version_of_torchscript_is_told(folder: Path) -> None:
    path = folder / "weights-torchscript.pt"
    with zipfile.ZipFile(path) as opened:
        records = {name: opened.read(name) for name in opened.namelist()}
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in records.items():
            opened.writestr(name, b"11\n" if name.endswith("/version") else content)
    replaced(folder, "torchscript")
    assert "file version 11" in refusing(would_open(folder))[TORCH]


@pytest.mark.parametrize(("name", "consumer"), [("onnx", ONNX), ("torchscript", TORCH)])
@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_damaged_weights_are_told(folder: Path, name: str, consumer: str, content: bytes) -> None:
    path = folder / ("weights.onnx" if name == "onnx" else "weights-torchscript.pt")
    path.write_bytes(content)
    replaced(folder, name)
    assert f"{path.name} is damaged" in refusing(would_open(folder))[consumer]


def test_weights_outside_the_folder_are_not_read(folder: Path, tmp_path: Path) -> None:
    (folder / "weights.onnx").rename(tmp_path / "elsewhere.onnx")
    change(folder, lambda content: content["weights"]["onnx"].update(source="../elsewhere.onnx"))
    refused = refusing(would_open(folder))
    assert "is not in the package" in refused[ONNX]
    assert "outside its own folder" in refused[ARTSEG]


# ---- the verb ----


def check(package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[int, dict[str, list[str]]]:
    monkeypatch.setenv("ARTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "400")
    done = CliRunner().invoke(app, ["package", "check", str(package)])
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.output.splitlines() if "│" in line]
    return done.exit_code, {row[0]: row[1:] for row in rows}


def test_the_verb_shows_programs_reasons_and_sources(
    packages: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, rows = check(packages["unet"], monkeypatch, tmp_path)
    assert code == 0, "that older readers refuse the newest format is no fault of the package"
    assert rows[ARTSEG][0] == rows["bioimageio.core 0.11"][0] == "yes"
    opens, reason, source = rows[JDLL]
    assert opens == "no"
    assert "documentation and covers as mappings" in reason
    assert "ModelDescriptorV05.java" in source
    assert rows["onnx"][0] == rows["torchscript"][0] == "passed"
    assert rows["pytorch_state_dict"][0] == "not run", "the package's Python needs --trust"


def test_a_model_that_artseg_cannot_run_ends_in_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    change(folder, lambda content: content["inputs"][0]["axes"][1].update(channel_names=["r", "g", "b"]))
    code, rows = check(folder, monkeypatch, tmp_path)
    assert code == 1
    assert "images of 3 channels" in rows[ARTSEG][1]


def test_other_numbers_than_the_author_states_end_in_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    output = folder / "test_output.npy"
    np.save(output, np.load(output) + np.float32(0.05))

    def state(content: dict[str, Any]) -> None:
        content["outputs"][0]["test_tensor"]["sha256"] = hashlib.sha256(output.read_bytes()).hexdigest()

    change(folder, state)
    code, rows = check(folder, monkeypatch, tmp_path)
    assert code == 1
    assert rows[ARTSEG][0] == "yes"
    assert rows["onnx"][0] == rows["torchscript"][0] == "failed"
