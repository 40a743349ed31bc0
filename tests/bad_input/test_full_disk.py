"""A full disk ends in one message; what was there before stays, byte for byte, and nothing half-written is left."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from artseg_models.errors import ArtSegError
from artseg_models.files import whole_files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes to play a full disk with")


def test_files_that_belong_together_appear_together_or_not_at_all(tmp_path, files_of):
    paths = [tmp_path / name for name in ("one.txt", "two.txt")]
    for path in paths:
        path.write_text("before")
    before = files_of(tmp_path)

    def fill_the_disk() -> None:
        with whole_files(paths) as (first, _):
            first.write_text("after")
            raise OSError(28, "no room")

    with pytest.raises(ArtSegError, match=r"Could not write .*one\.txt and 1 files that belong to it: no room"):
        fill_the_disk()
    assert files_of(tmp_path) == before
    with whole_files(paths) as places:
        for place in places:
            place.write_text("after")
    assert {path.read_text() for path in paths} == {"after"}
    assert len(files_of(tmp_path)) == 2


def test_segment_keeps_earlier_masks_and_does_the_images_that_fit(artseg, one_message, files_of, packages, tmp_path):
    """The probability map of the large image finds no room, all other files do."""
    random = np.random.default_rng(0)
    for name, side in (("large", 400), ("small", 40)):
        tifffile.imwrite(tmp_path / f"{name}.tiff", random.integers(0, 4096, (side, side)).astype(np.uint16))
    command = ("segment", tmp_path / "large.tiff", tmp_path / "small.tiff", "-m", packages["unet"])
    command += ("-o", tmp_path / "out", "--no-gate", "--device", "cpu")
    assert artseg(*command).returncode == 0
    before = files_of(tmp_path / "out")
    assert len(before["large_probability.tif"]) > 100_000 > len(before["large_artifacts.tif"])
    said = one_message(artseg(*command, "--cutoff", "0.5", largest_file=100_000))
    assert "1 of 2 images could not be segmented" in said
    assert "large.tiff: Could not write" in said
    assert "Free space" in said
    after = files_of(tmp_path / "out")
    assert set(after) == set(before)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"small_artifacts.tif", "small_probability.tif", "segmentation.csv"}  # another cutoff
    assert b"Could not write" in after["segmentation.csv"]


def test_segment_without_room_for_its_table_says_so(artseg, one_message, files_of, packages, sample, tmp_path):
    tifffile.imwrite(tmp_path / "image.tiff", sample)
    command = ("segment", tmp_path / "image.tiff", "-m", packages["unet"], "-o", tmp_path / "out")
    assert artseg(*command).returncode == 0
    before = files_of(tmp_path / "out")
    said = one_message(artseg(*command, largest_file=100))
    assert f"Could not write {tmp_path / 'out' / 'segmentation.csv'}" in said
    assert "1 of 1 images could not be segmented" in said
    assert files_of(tmp_path / "out") == before


def test_train_keeps_what_it_had_and_goes_on_when_there_is_room(artseg, one_message, files_of, labels, tiny, tmp_path):
    run = tmp_path / "run"
    said = one_message(artseg("train", labels, "-o", run, *tiny, largest_file=100_000), progress=("[", "Classifier"))
    assert f"Could not write {run / 'classifier' / 'checkpoint.pt'}" in said
    assert "Free space" in said
    there = files_of(run)
    assert {"configuration.json", "splits.csv"} <= set(there)
    assert not [name for name in there if Path(name).name.startswith(".") or name.endswith(".pt")]
    done = artseg("train", labels, "-o", run, *tiny)
    assert done.returncode == 0, done.stderr
    assert (run / "result.json").exists()


def test_export_leaves_older_packages_as_they_were(
    artseg, one_message, files_of, tiny_run, packages, tmp_path, monkeypatch
):
    monkeypatch.setenv("ARTSEG_MAINTAINER", "octocat")  # else a note says that nobody maintains the models
    out = tmp_path / "packages"
    shutil.copytree(packages["unet"].parent, out)
    before = files_of(out)
    done = artseg("export", tiny_run, "--out", out, largest_file=50_000)
    said = one_message(done)
    assert "Could not" in said
    assert files_of(out) == before


def test_a_cache_without_room_is_told(artseg, one_message, files_of, packages, sample, tmp_path, monkeypatch):
    monkeypatch.setenv("ARTSEG_CACHE", str(tmp_path / "cache"))
    tifffile.imwrite(tmp_path / "image.tiff", sample)
    command = ("segment", tmp_path / "image.tiff", "-m", packages["unet"], "-o", tmp_path / "out")
    said = one_message(artseg(*command, largest_file=20_000))
    assert "Could not unpack" in said
    assert files_of(tmp_path / "cache") == {}
    assert not (tmp_path / "out").exists()
