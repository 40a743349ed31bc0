"""A missing or damaged package is refused by every command and in CellProfiler, in one message."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile


@pytest.fixture(scope="module")
def changed(packages, tmp_path_factory) -> Path:
    """A package in which one byte of the weights is another, packed as a proper zip."""
    folder = tmp_path_factory.mktemp("changed")
    path = folder / "changed-unet.zip"
    with zipfile.ZipFile(packages["unet"]) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = bytearray(source.read(name))
            if name == "weights.onnx":
                content[len(content) // 2] ^= 1
            target.writestr(name, bytes(content))
    return path


def test_a_package_whose_sha_does_not_match_is_refused_everywhere(
    artseg, one_message, files_of, changed, packages, labels, tmp_path
):
    image = labels.with_name("field_1.tiff")
    assert artseg("segment", image, "-m", packages["unet"], "-o", tmp_path / "out").returncode == 0
    before = files_of(tmp_path / "out")
    for command in (
        ("segment", image, "-m", changed, "-o", tmp_path / "out"),
        ("evaluate", changed, labels, "-o", tmp_path / "out"),
        ("package", "info", changed),
    ):
        said = one_message(artseg(*command))
        assert f"The file weights.onnx of {changed} is not the one its author packed: expected SHA-256" in said
        assert "Download or export the package again." in said
    assert files_of(tmp_path / "out") == before


def test_a_missing_or_empty_package_is_told(artseg, one_message, labels, tmp_path):
    command = ("segment", labels.with_name("field_1.tiff"), "-o", tmp_path / "out", "-m")
    assert "but nothing is there" in one_message(artseg(*command, tmp_path / "none.zip"))
    (tmp_path / "empty.zip").write_bytes(b"")
    assert str(tmp_path / "empty.zip") in one_message(artseg(*command, tmp_path / "empty.zip"))
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def plate(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plate")
    random = np.random.default_rng(0)
    for channel in ("brightfield", "dna", "signal"):
        tifffile.imwrite(folder / f"A01_s1_{channel}.tiff", random.integers(0, 4096, (96, 96)).astype(np.uint16))
    return folder


@pytest.mark.parametrize("trouble", ["changed package", "constant image"])
def test_cellprofiler_stops_with_the_cause(artseg, one_message, changed, packages, plate, tmp_path, trouble):
    named = os.environ.get("ARTSEG_CELLPROFILER")
    if not named:
        pytest.skip("no CellProfiler to test with: set ARTSEG_CELLPROFILER to the path of its executable")
    images = tmp_path / "images"
    shutil.copytree(plate, images)
    package, says = changed, "is not the one its author packed: expected SHA-256"
    if trouble == "constant image":
        package, says = packages["unet"], "Brightfield of image set 1: all pixels have the value"
        tifffile.imwrite(images / "A01_s1_brightfield.tiff", np.full((96, 96), 500, np.uint16))
    out = tmp_path / "out"
    out.mkdir()
    (out / "Image.csv").write_text("of an earlier run")
    command = ("cellprofiler", "run", "artifacts_masked", "-i", images, "-o", out, "-m", package)
    said = one_message(artseg(*command), progress=("[",))
    assert "failed on artifacts_masked.cppipe: SegmentArtifacts: " in said
    assert says in said
    assert (out / "Image.csv").read_text() == "of an earlier run"
    assert {path.name for path in out.iterdir()} == {"Image.csv", "cellprofiler.log"}
