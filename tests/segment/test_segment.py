"""`artseg segment`: masks, one table, an audit line; a bad image is told and does not stop the others."""

from __future__ import annotations

import csv
import json
import logging
import math
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image
from scipy import ndimage
from skimage.measure import points_in_poly

from artseg_models import __version__
from artseg_models.errors import ArtSegError
from artseg_models.images import write_image
from artseg_models.likeness import UNLIKE, image_features, summarise_features, unlikeness
from artseg_models.outlines import to_geojson
from artseg_models.packages.read import read_package
from artseg_models.predict import Predictor, artifact_objects
from artseg_models.segment import images_of, outlined, segment_images


@pytest.fixture(scope="module")
def predictor(packages: dict[str, Path]) -> Predictor:
    return Predictor(read_package(packages["unet"]), device="cpu")


def artseg(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "artseg_models", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "segmentation.csv", newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.fixture
def batch(tmp_path: Path, sample: np.ndarray) -> Path:
    """Two good images among all kinds of bad ones."""
    folder = tmp_path / "batch"
    folder.mkdir()
    tifffile.imwrite(folder / "good 1.tiff", sample)
    Image.fromarray((sample // 16).astype(np.uint8)).save(folder / "gut ü.png")
    tifffile.imwrite(folder / "constant.tiff", np.full((64, 64), 7, np.uint16))
    tifffile.imwrite(folder / "nan.tiff", np.where(np.eye(64) > 0, np.nan, 1.0).astype(np.float32))
    tifffile.imwrite(folder / "one_pixel.tiff", np.ones((1, 1), np.uint8))
    tifffile.imwrite(folder / "volume.tiff", np.random.default_rng(0).integers(0, 99, (5, 64, 64), np.uint8))
    (folder / "empty.tiff").write_bytes(b"")
    (folder / "torn.png").write_bytes((folder / "gut ü.png").read_bytes()[:500])
    return folder


BAD = ("constant", "nan", "one_pixel", "volume", "empty", "torn")


def test_bad_images_are_listed_and_the_others_done(batch, packages, tmp_path):
    done = artseg("segment", batch, "--model", packages["unet"], "--out", tmp_path / "out", "--no-gate")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    table = {Path(row["image"]).stem: row for row in rows(tmp_path / "out")}
    assert set(table) == {"good 1", "gut ü", *BAD}
    for name in BAD:
        assert table[name]["error"], name
        assert not list((tmp_path / "out").glob(f"{name}*"))
    assert "6 of 8 images could not be segmented" in done.stderr
    for name in ("good 1", "gut ü"):
        assert not table[name]["error"]
        assert (tmp_path / "out" / f"{name}_artifacts.tif").exists()
    assert "--plane" in table["volume"]["error"]


def test_a_plane_of_a_volume_is_taken_by_option(batch, packages, tmp_path):
    done = artseg("segment", batch / "volume.tiff", "-m", packages["unet"], "-o", tmp_path / "out", "--plane", "2")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "out")[0]["error"] == ""


def test_every_output_says_which_model_made_it(predictor, batch, tmp_path):
    image = batch / "good 1.tiff"
    segment_images(predictor, [image], tmp_path, cutoff=0.3, gate=False, overlay=True, geojson=True)
    sha = predictor.package.sha256
    row = rows(tmp_path)[0]
    assert (row["model_sha256"], row["cutoff"], row["artseg_version"]) == (sha, "0.3", __version__)
    audit = {
        "model_id": predictor.package.id,
        "model_version": predictor.package.version,
        "model_sha256": sha,
        "cutoff": 0.3,
        "smallest_artifact_px": 25,
        "device": "cpu",
        "engine": "onnxruntime",
        "artseg_version": __version__,
    }
    for name in ("artifacts", "probability"):
        with tifffile.TiffFile(tmp_path / f"good 1_{name}.tif") as opened:
            assert json.loads(opened.pages.first.description) == audit
    with Image.open(tmp_path / "good 1_overlay.png") as overlay:
        assert json.loads(overlay.text["Description"]) == audit
    for feature in json.loads((tmp_path / "good 1_artifacts.geojson").read_text())["features"]:
        assert feature["properties"].items() >= audit.items()


def test_files_hold_what_the_predictor_finds(predictor, batch, sample, tmp_path):
    cutoff = float(np.median(predictor.predict(sample, gate=False).probability))
    found = predictor.predict(sample, gate=False, cutoff=cutoff)
    assert 0 < found.mask.mean() < 1
    segment_images(predictor, [batch / "good 1.tiff"], tmp_path, gate=False, cutoff=cutoff, overlay=True)
    mask = tifffile.imread(tmp_path / "good 1_artifacts.tif")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, found.mask * 255)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "good 1_probability.tif"), found.probability)
    row = rows(tmp_path)[0]
    assert float(row["area_fraction"]) == pytest.approx(found.mask.mean(), abs=1e-6)
    assert int(row["usable_area_px"]) == int((~found.mask).sum())
    assert int(row["artifact_count"]) == found.count
    with Image.open(tmp_path / "good 1_overlay.png") as overlay:
        assert overlay.width == sample.shape[1]
        assert overlay.height > sample.shape[0], "the caption stands below"


def test_the_gate_closes_on_images_called_clean(predictor, sample):
    closed = predictor.predict(sample, gate_threshold=1.0, cutoff=0.0)
    opened = predictor.predict(sample, gate_threshold=0.0, cutoff=0.0)
    assert not closed.gate_open
    assert closed.count == 0
    assert closed.area_fraction == 0
    assert opened.gate_open
    assert opened.mask.all()
    np.testing.assert_array_equal(closed.probability, opened.probability)


def test_masked_pixels_count_nowhere(predictor, sample):
    valid = np.ones(sample.shape, bool)
    valid[:100] = False
    spoiled = sample.astype(np.float32)
    spoiled[:100] = np.nan
    found = predictor.predict(spoiled, valid=valid, cutoff=0.0, gate=False)
    assert not found.mask[:100].any()
    assert found.mask[100:].all()
    assert found.area_fraction == 1
    assert found.usable_area_px == 0
    reference = predictor.predict(np.where(valid, sample, 60000).astype(np.uint16), valid=valid, gate=False)
    np.testing.assert_allclose(found.probability, reference.probability, atol=1e-5)


def test_a_wholly_masked_image_is_refused(predictor, sample):
    with pytest.raises(ArtSegError, match="at least one pixel"):
        predictor.predict(sample, valid=np.zeros(sample.shape, bool))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"cutoff": 1.5}, "cutoff from 0 to 1"), ({"smallest_artifact_px": -1}, "0 pixels or more")],
)
def test_options_out_of_range_are_refused(predictor, sample, options, message):
    with pytest.raises(ArtSegError, match=message):
        predictor.predict(sample, **options)


def test_a_device_that_is_not_there_is_never_replaced(packages):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(ArtSegError, match="Expected a cuda device"):
        Predictor(read_package(packages["unet"]), device="cuda")
    with pytest.raises(ArtSegError, match="Expected a device out of"):
        Predictor(read_package(packages["unet"]), device="gpu")


def test_artifacts_touching_at_a_corner_are_one_and_small_ones_go():
    probability = np.zeros((10, 10))
    probability[0:2, 0:2] = probability[2:4, 2:4] = 0.5
    probability[8, 8] = 0.9
    labels = artifact_objects(probability, cutoff=0.5, smallest_artifact_px=2)
    assert labels.max() == 1
    assert (labels > 0).sum() == 8
    assert artifact_objects(probability, cutoff=0.5).max() == 2
    assert artifact_objects(probability, cutoff=0.5, valid=probability < 0.9).max() == 1


def test_same_names_in_two_folders_do_not_overwrite_each_other(predictor, sample, tmp_path):
    for well in ("A01", "A02"):
        (tmp_path / well).mkdir()
        tifffile.imwrite(tmp_path / well / "field.tiff", sample)
    images = images_of([tmp_path / "A01", tmp_path / "A02"])
    segment_images(predictor, images, tmp_path / "out")
    masks = sorted(path.name for path in (tmp_path / "out").glob("*artifacts.tif"))
    assert masks == ["A01_field_artifacts.tif", "A02_field_artifacts.tif"]


def test_an_empty_folder_and_wrong_usage_are_told(packages, tmp_path):
    (tmp_path / "empty").mkdir()
    nothing = artseg("segment", tmp_path / "empty", "-m", packages["unet"], "-o", tmp_path / "out")
    assert (nothing.returncode, "there are none" in nothing.stderr) == (1, True)
    assert artseg("segment", tmp_path / "empty").returncode == 2
    wrong = artseg("segment", tmp_path, "-m", packages["unet"], "-o", tmp_path / "out", "--cutoff", "2")
    assert wrong.returncode == 2


def test_what_was_written_beside_the_images_is_no_image(predictor, sample, tmp_path, caplog):
    for name in ("a.tif", "b.png", "c_kinds.tif"):  # the last is nobody's: there is no c
        write_image(tmp_path / name, sample)
    images = images_of([tmp_path])
    assert segment_images(predictor, images, tmp_path, gate=False, overlay=True).done == 3
    for ending in ("filled", "kinds", "nuclei", "cells"):
        write_image(tmp_path / f"a_{ending}.tif", sample)
    with caplog.at_level(logging.INFO):
        assert images_of([tmp_path]) == images
    # masks, maps and overlays of three, and four more
    assert f"{tmp_path}: 13 files left out" in caplog.text
    # of a run over everything, masks of masks too
    write_image(tmp_path / "a_artifacts_probability.tif", sample)
    assert images_of([tmp_path]) == images
    named = tmp_path / "a_artifacts.tif"
    assert images_of([named]) == [named]


def test_an_image_that_is_not_there_is_told_once(packages, tmp_path):
    done = artseg("segment", tmp_path / "nosuch", "-m", packages["unet"], "-o", tmp_path / "out")
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert f"Expected an image at {tmp_path / 'nosuch'}, but this path does not exist" in said
    assert said.count(str(tmp_path / "nosuch")) == 1


def test_outlines_are_closed_at_the_border_of_the_image():
    pixels = np.random.default_rng(0).random((40, 40))
    whole = outlined(pixels, np.ones((40, 40), bool))
    coloured = (whole[..., 0] == 255) & (whole[..., 2] == 0)
    for side in (coloured[0], coloured[-1], coloured[:, 0], coloured[:, -1]):
        assert side.all()
    assert not coloured[2:-2, 2:-2].any()
    corner = np.zeros((40, 40), np.uint8)
    corner[:10, :10] = 2
    drawn = outlined(pixels, corner, colours=((1, 2, 3), (4, 5, 250)))
    assert (drawn[0, :10] == (4, 5, 250)).all()


def test_outline_lies_on_the_border_of_the_mask():
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    picture = outlined(np.random.default_rng(0).random((40, 40)), mask)
    coloured = (picture[..., 0] == 255) & (picture[..., 2] == 0)
    assert coloured[10, 10:30].all()
    assert not coloured[15:25, 15:25].any()
    assert not coloured[:8].any()


def kinds() -> Sequence[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)
    values = random.random((90, 110))
    return [
        ("uint8.tiff", (values * 255).astype(np.uint8)),
        ("twelve_in_16.tiff", (values * 4095).astype(np.uint16)),
        ("uint16.tiff", (values * 65535).astype(np.uint16)),
        ("float_0_1.tiff", values.astype(np.float32)),
        ("float_beyond_1.tiff", (values * 3000).astype(np.float32)),
        ("colour.tiff", (random.random((90, 110, 3)) * 255).astype(np.uint8)),
        ("grey.png", (values * 255).astype(np.uint8)),
        ("alpha.png", (random.random((90, 110, 4)) * 255).astype(np.uint8)),
        ("photo.jpg", (random.random((90, 110, 3)) * 255).astype(np.uint8)),
    ]


def test_every_kind_of_image_passes(predictor, tmp_path):
    (tmp_path / "in").mkdir()
    for name, pixels in kinds():
        if name.endswith(".tiff"):
            photometric = "rgb" if pixels.ndim == 3 else "minisblack"
            tifffile.imwrite(tmp_path / "in" / name, pixels, photometric=photometric)
        else:
            Image.fromarray(pixels).save(tmp_path / "in" / name)
    done = segment_images(predictor, images_of([tmp_path / "in"]), tmp_path / "out")
    assert done.failed == ()
    assert done.done == len(kinds())


def test_grey_values_on_another_scale_give_the_same_mask(predictor, sample):
    """CellProfiler hands over 0..1, files hold counts: the model must not care."""
    counts = predictor.predict(sample, gate=False).probability
    unit = predictor.predict((sample / 65535 / 16).astype(np.float32), gate=False).probability
    np.testing.assert_allclose(counts, unit, atol=1e-4)


@pytest.mark.parametrize("binning", [1, 2])
def test_tiles_agree_with_the_whole_image(make_run, tmp_path, binning):
    """Odd sizes, so that padding and pooling grid must fit; the halo covers the receptive field, so nothing differs."""
    from artseg_models.packages.export import export_packages

    run = make_run(tmp_path / "run", binning=binning)
    package = read_package(export_packages(run, tmp_path / "out").unet)
    image = np.random.default_rng(5).normal(size=(141, 811 * binning)).astype(np.float32)
    image[50:90, 300:500] += 3
    whole = Predictor(package, device="cpu").predict(image, gate=False)
    tiled = Predictor(package, device="cpu", whole_px=1000, tile_px=64, halo_px=320).predict(image, gate=False)
    assert whole.tiles == 1
    assert tiled.tiles > 12
    difference = np.abs(whole.probability - tiled.probability)[8:-8, 8:-8]
    assert difference.max() < 1e-4


def test_the_smallest_artifact_keeps_its_area(predictor, sample):
    """25 pixels of 0.59 um are the model's smallest; of 0.295 um pixels it takes four times as many."""
    assert predictor.predict(sample, gate=False).smallest_artifact_px == 25
    assert predictor.predict(sample, gate=False, pixel_size_um=0.59).smallest_artifact_px == 25
    assert predictor.predict(sample, gate=False, pixel_size_um=0.295).smallest_artifact_px == 100
    assert predictor.predict(sample, gate=False, pixel_size_um=0.295, smallest_artifact_px=7).smallest_artifact_px == 7


def test_an_area_in_um2_needs_a_pixel_size(predictor, batch, tmp_path):
    image = batch / "gut ü.png"
    without = segment_images(predictor, [image], tmp_path / "a", smallest_artifact_um2=10)
    assert "--pixel-size" in without.failed[0][1]
    segment_images(predictor, [image], tmp_path / "b", smallest_artifact_um2=10, pixel_size_um=0.5)
    assert rows(tmp_path / "b")[0]["smallest_artifact_px"] == "40"


def test_images_of_another_kind_are_told_and_an_artifact_is_no_other_kind(packages, sample, tmp_path):
    """Fields as in training, one of them spoilt, and one out of focus."""
    model, fields, out = tmp_path / "model", tmp_path / "fields", tmp_path / "out"
    with zipfile.ZipFile(packages["unet"]) as package:
        package.extractall(model)
    clean = sample[:, 100:].astype(np.float32)
    known = summarise_features([image_features(clean[row:]) for row in (0, 20, 40)])
    description = yaml.safe_load((model / "rdf.yaml").read_text())
    description["config"]["artseg"]["image_features"] = {name: list(values) for name, values in known.items()}
    (model / "rdf.yaml").write_text(yaml.safe_dump(description))
    fields.mkdir()
    tifffile.imwrite(fields / "alike.tiff", clean)
    tifffile.imwrite(fields / "blurred.tiff", ndimage.gaussian_filter(clean, 5))
    done = artseg("segment", fields, "--model", model, "--out", out, "--cutoff", "1")
    assert done.returncode == 0, done.stderr
    distances = {Path(row["image"]).stem: float(row["unlike"]) for row in rows(out)}
    assert distances["alike"] < 1.5
    assert distances["blurred"] > UNLIKE
    assert "1 of 2 images look unlike" in done.stdout
    assert "blurred.tiff" in done.stdout
    assert "alike.tiff" not in done.stdout
    disc = ndimage.gaussian_filter(sample.astype(np.float32), 4) < 1400
    spoilt = unlikeness(sample, known, artifact=ndimage.binary_dilation(disc, iterations=8))
    assert spoilt < UNLIKE < unlikeness(sample, known)
    assert math.isnan(unlikeness(sample, {})), "a package that does not say gives no verdict"


def test_geojson_polygons_cover_what_the_mask_covers():
    labels = np.zeros((60, 50), np.int32)
    labels[5:25, 5:25] = 1
    labels[10:15, 10:15] = 0  # a hole
    labels[40:45, 30:35] = labels[45:50, 35:40] = 2  # two parts that touch at a corner
    collection = to_geojson(labels, properties={"model_id": "m"})
    assert [feature["properties"]["area_px"] for feature in collection["features"]] == [375, 50]
    assert len(collection["features"][0]["geometry"]["coordinates"]) == 2
    assert collection["features"][1]["geometry"]["type"] == "MultiPolygon"
    for feature, label in zip(collection["features"], (1, 2), strict=True):
        geometry = feature["geometry"]
        parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        covered = np.zeros(labels.shape, bool)
        for outer, *holes in parts:
            for ring, inside in [(outer, True), *((hole, False) for hole in holes)]:
                y, x = np.mgrid[:60, :50] + 0.5
                within = points_in_poly(np.column_stack([x.ravel(), y.ravel()]), ring).reshape(labels.shape)
                covered[within] = inside
        np.testing.assert_array_equal(covered, labels == label)
