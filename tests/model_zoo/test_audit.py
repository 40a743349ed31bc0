"""Every output that a model made says which one: its id, SHA-256, cutoff, and the version of artseg."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from artseg_models import __version__
from artseg_models.cli import app

CUTOFF = 0.65


@pytest.fixture(scope="module")
def outputs(packages: dict[str, Path], sample: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `artseg segment` and `artseg evaluate` write, of a field with artifacts and one where none is found."""
    folder = tmp_path_factory.mktemp("audit")
    tifffile.imwrite(folder / "found.tif", sample[:, :131])
    tifffile.imwrite(folder / "none.tif", np.random.default_rng(0).normal(2000, 60, (80, 90)).astype(np.uint16))
    drawn = np.zeros((201, 131), np.uint8)
    drawn[100:140, 40:80] = 255
    tifffile.imwrite(folder / "drawn.tif", drawn)
    (folder / "labels.csv").write_text(
        "image,label,split,mask\nfound.tif,artifact,test,drawn.tif\nnone.tif,clean,test,\n"
    )
    out, model = folder / "out", str(packages["unet"])
    fields = [str(folder / name) for name in ("found.tif", "none.tif")]
    for command in (
        ["segment", *fields, "-m", model, "-o", str(out), "--overlay", "--geojson", "--fill"],
        ["evaluate", model, str(folder / "labels.csv"), "-o", str(out)],
    ):
        done = CliRunner().invoke(app, [*command, "--cutoff", str(CUTOFF)])
        assert done.exit_code == 0, done.output
    assert json.loads((out / "found_artifacts.geojson").read_text())["features"], "else it would not be tested"
    return out


def of_tiff(path: Path) -> dict[str, str]:
    with tifffile.TiffFile(path) as opened:
        return json.loads(opened.pages.first.description)


def of_png(path: Path) -> dict[str, str]:
    with Image.open(path) as opened:
        return json.loads(opened.text["Description"])


def of_sheet(path: Path) -> dict[str, str]:
    with Image.open(path) as opened:
        line = opened.text["Description"]
    words = dict(part.rsplit(" ", 1) for part in line.split(", "))
    return {
        "model_id": words["model"],
        "model_sha256": words["SHA-256"],
        "cutoff": words["cutoff"],
        "artseg_version": words["artseg"],
    }


def of_table(path: Path) -> dict[str, str]:
    with open(path, newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 2
    said = [{name: row[name] for name in ("model_id", "model_sha256", "cutoff", "artseg_version")} for row in rows]
    assert said[0] == said[1]
    return said[0]


def of_curve(path: Path) -> dict[str, str]:
    with open(path, newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len({row["cutoff"] for row in rows}) > 10, "every cutoff, and the model's own beside"
    (said,) = {(row["model_id"], row["model_sha256"], row["model_cutoff"], row["artseg_version"]) for row in rows}
    return dict(zip(("model_id", "model_sha256", "cutoff", "artseg_version"), said, strict=True))


def of_feature(path: Path) -> dict[str, str]:
    return json.loads(path.read_text())["features"][0]["properties"]


def of_collection(path: Path) -> dict[str, str]:
    return json.loads(path.read_text())["artseg"]


def of_summary(path: Path) -> dict[str, str]:
    return json.loads(path.read_text())["audit"]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("found_artifacts.tif", of_tiff),
        ("found_probability.tif", of_tiff),
        ("found_overlay.png", of_png),
        ("found_filled.tif", of_tiff),
        ("found_artifacts.geojson", of_feature),
        ("found_artifacts.geojson", of_collection),
        ("none_artifacts.tif", of_tiff),
        ("none_probability.tif", of_tiff),
        ("none_overlay.png", of_png),
        ("none_artifacts.geojson", of_collection),
        ("segmentation.csv", of_table),
        ("evaluation.csv", of_table),
        ("evaluation.json", of_summary),
        ("precision_recall.csv", of_curve),
        ("overlays.png", of_sheet),
        ("evaluation.png", of_sheet),
        ("errors.png", of_sheet),
        ("reliability.png", of_sheet),
    ],
)
def test_every_file(
    outputs: Path, packages: dict[str, Path], name: str, read: Callable[[Path], dict[str, str]]
) -> None:
    said = read(outputs / name)
    assert said["model_id"] == "artseg-tiny-run-unet"
    assert said["model_sha256"] == hashlib.sha256(packages["unet"].read_bytes()).hexdigest()
    assert float(said["cutoff"]) == CUTOFF
    assert said["artseg_version"] == __version__


def test_no_file_was_left_out(outputs: Path) -> None:
    """A new kind of output must come into the list above."""
    kinds = {path.name.removeprefix("found_").removeprefix("none_") for path in outputs.iterdir()}
    assert kinds == {
        *("artifacts.tif", "probability.tif", "overlay.png", "artifacts.geojson", "filled.tif"),
        *("segmentation.csv", "evaluation.csv", "evaluation.json", "evaluation.png", "overlays.png", "errors.png"),
        *("precision_recall.csv", "reliability.png"),
    }


def test_the_overlay_shows_it_below_the_picture(outputs: Path, sample: np.ndarray) -> None:
    with Image.open(outputs / "found_overlay.png") as opened:
        shown = np.asarray(opened.convert("L"))
    height, width = sample[:, :131].shape
    assert shown.shape[1] == width
    caption = shown[height:]
    assert 20 < caption.shape[0] < 300
    assert (caption < 100).mean() > 0.02, "dark letters"
    assert (caption > 200).mean() > 0.5, "on white"


def test_the_module_measures_it(packages: dict[str, Path], sample: np.ndarray, tmp_path: Path) -> None:
    if not os.environ.get("ARTSEG_CELLPROFILER"):
        pytest.skip("no CellProfiler to test with: set ARTSEG_CELLPROFILER to the path of its executable")
    from artseg_models.service.server import stop

    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for channel in ("brightfield", "dna", "signal"):
        tifffile.imwrite(images / f"A01_s1_{channel}.tiff", sample[:, :131])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTSEG_STATE_DIR", str(tmp_path / "state"))
        patch.setenv("ARTSEG_CACHE", str(tmp_path / "cache"))
        try:
            done = CliRunner().invoke(
                app,
                [
                    *("cellprofiler", "run", "artifacts_masked"),
                    *map(str, ("-i", images, "-o", out, "-m", packages["unet"])),
                ],
            )
            assert done.exit_code == 0, done.output
        finally:
            stop()
    with open(out / "Image.csv", newline="") as opened:
        measured = next(csv.DictReader(opened))
    assert measured["ArtSeg_ModelID_Artifacts"] == "artseg-tiny-run-unet"
    assert measured["ArtSeg_ModelSHA256_Artifacts"] == hashlib.sha256(packages["unet"].read_bytes()).hexdigest()
    assert float(measured["ArtSeg_Cutoff_Artifacts"]) == 0.6
    assert measured["ArtSeg_SoftwareVersion_Artifacts"] == __version__
