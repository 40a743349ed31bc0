"""A bad image ends in one message that names it, wherever it is met, and costs nothing else."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with open(folder / "segmentation.csv", newline="") as opened:
        return {Path(row["image"]).name: row for row in csv.DictReader(opened)}


def test_segment_does_the_others_and_keeps_what_was_there(
    artseg, one_message, files_of, spoilt, packages, labels, tmp_path
):
    images = sorted(labels.parent.glob("*.tiff"))
    command = ("segment", *images, "-m", packages["unet"], "-o", tmp_path / "masks", "--no-gate")
    assert artseg(*command).returncode == 0
    before = files_of(tmp_path / "masks")
    bad = spoilt("test")
    done = artseg(*command)
    said = one_message(done)
    assert said.startswith(f"Error: 6 of {len(images)} images could not be segmented:")
    table = rows(tmp_path / "masks")
    for name, says in bad.items():
        assert name in said
        assert says in said
        assert says in table[name]["error"]
    assert {name for name, row in table.items() if row["error"]} == set(bad)
    after = files_of(tmp_path / "masks")
    assert set(after) == set(before)
    assert all(after[name] == before[name] for name in before if f"{name.rpartition('_')[0]}.tiff" in bad)
    assert f"{len(images) - 6} images segmented" in done.stdout


def test_labels_check_names_them_all(artseg, one_message, files_of, spoilt, labels):
    bad = spoilt("train")
    before = files_of(labels.parent)
    done = artseg("labels", "check", labels)
    assert "cannot be trained from: mend the 6 errors" in one_message(done)
    told = " ".join(done.stdout.split())
    for name, says in bad.items():
        assert name in told
        assert says in told
    assert files_of(labels.parent) == before


def test_train_names_it_writes_no_model_and_goes_on_once_it_is_mended(artseg, one_message, labels, tiny, tmp_path):
    bad, run = labels.with_name("field_15.tiff"), tmp_path / "run"
    good = bad.read_bytes()
    tifffile.imwrite(bad, np.full((72, 88), np.nan, np.float32))
    said = one_message(artseg("train", labels, "-o", run, *tiny))
    assert "NaN" in said
    assert str(bad) in said
    written = {path.name for path in run.rglob("*") if path.is_file()}
    assert {"configuration.json", "splits.csv"} <= written
    assert not {name for name in written if name.startswith(".") or name in ("network.pt", "result.json")}
    bad.write_bytes(good)
    done = artseg("train", labels, "-o", run, *tiny)
    assert done.returncode == 0, done.stderr
    assert (run / "result.json").exists()


def test_evaluate_scores_the_others(artseg, one_message, spoilt, packages, labels, tmp_path):
    bad = spoilt("test")
    done = artseg("evaluate", packages["unet"], labels, "-o", tmp_path / "scores", "--device", "cpu")
    said = one_message(done)
    assert said.startswith("Error: 6 of 8 images could not be scored:")
    with open(tmp_path / "scores" / "evaluation.csv", newline="") as opened:
        table = {Path(row["image"]).name: row for row in csv.DictReader(opened)}
    for name, says in bad.items():
        assert name in said
        assert says in said
        assert says in table[name]["error"]
    assert {name for name, row in table.items() if row["error"]} == set(bad)
    assert len(table) == 8


def test_alpha_is_no_trouble(artseg, packages, labels, tmp_path):
    """Grey with alpha gives what the grey gives; colour with alpha passes, whatever the alpha hides."""
    grey = (tifffile.imread(labels.with_name("field_0.tiff")) // 64).astype(np.uint8)
    alpha = np.random.default_rng(0).integers(0, 255, grey.shape, np.uint8)
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(grey).save(folder / "grey.png")
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(folder / "grey_alpha.png")
    Image.fromarray(np.dstack([grey, grey, grey, alpha])).save(folder / "colour_alpha.png")
    tifffile.imwrite(
        folder / "colour_alpha_tiff.tiff", np.dstack([grey, grey, grey, alpha]), photometric="rgb", extrasamples=[2]
    )
    done = artseg("segment", folder, "-m", packages["unet"], "-o", tmp_path / "out", "--no-gate")
    assert done.returncode == 0, done.stderr
    expected = tifffile.imread(tmp_path / "out" / "grey_probability.tif")
    for name in ("grey_alpha", "colour_alpha", "colour_alpha_tiff"):
        found = tifffile.imread(tmp_path / "out" / f"{name}_probability.tif")
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        ("one class", "expected clean and artifact images in the train split"),
        ("missing image", "line 22: there is no image nowhere.tiff"),
    ],
)
def test_bad_labels_are_told_before_anything_is_written(artseg, one_message, labels, tiny, tmp_path, spoilt, says):
    text = labels.read_text()
    if spoilt == "one class":
        labels.write_text("\n".join(line for line in text.splitlines() if "artifact" not in line) + "\n")
    else:
        labels.write_text(text + "nowhere.tiff,clean,\n")
    assert says in one_message(artseg("train", labels, "-o", tmp_path / "run", *tiny))
    assert not (tmp_path / "run").exists()


def test_wrong_usage_ends_with_2(artseg, packages, labels, tmp_path):
    for arguments in (
        ("train", labels),
        ("train", labels, "-o", tmp_path / "run", "--set", "unet.widht=3"),
        ("segment", labels, "-m", packages["unet"], "-o", tmp_path / "run", "--device", "gpu"),
    ):
        done = artseg(*arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr
        assert "Usage: " in done.stderr
    assert not (tmp_path / "run").exists()
