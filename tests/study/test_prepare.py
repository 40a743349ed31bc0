"""Data sets as every method sees them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from artseg_models.errors import ArtSegError
from artseg_models.images import read_image, read_mask_image, write_image
from artseg_models.labels import read_mask
from artseg_models.study.configuration import Dataset
from artseg_models.study.prepare import prepare


def dataset(**fields: object) -> Dataset:
    return Dataset.model_validate(fields)


def test_images_are_binned_by_whole_numbers(squares: Path, tmp_path: Path) -> None:
    ignore = np.zeros((64, 64), bool)
    ignore[:3] = True
    write_image(tmp_path / "ignore.png", ignore)
    made = prepare(
        "a",
        dataset(labels="labels.csv", longest_side=40, ignore=str(tmp_path / "ignore.png")),
        tmp_path / "a",
        data=squares,
    )
    assert (made.binning, made.area_of_pixel, made.pixel_size_um) == (2, 4, 0.5)
    item = next(one for one in made.labels.images if one.label == "artifact")
    image = read_image(item.path)
    assert image.pixels.shape == (32, 32)
    assert image.pixel_size_um == pytest.approx(1.0)
    original = read_image(squares / f"{item.path.stem.split('_')[1]}.tif").pixels
    np.testing.assert_allclose(image.pixels, original.reshape(32, 2, 32, 2).mean(axis=(1, 3)), rtol=1e-6)
    assert image.pixels[read_mask(item, shape=(32, 32))].mean() > 1400
    assert made.ignore is not None
    assert made.ignore[:2].all()
    assert not made.ignore[2:].any()
    assert Counter(one.split for one in made.labels.images) == {"train": 12, "validation": 6, "test": 6}


def test_it_is_made_once_and_not_otherwise(squares: Path, tmp_path: Path) -> None:
    first = prepare("a", dataset(labels="labels.csv"), tmp_path / "a", data=squares)
    before = (first.folder / "labels.csv").stat().st_mtime_ns
    prepare("a", dataset(labels="labels.csv"), tmp_path / "a", data=squares)
    assert (first.folder / "labels.csv").stat().st_mtime_ns == before
    with pytest.raises(ArtSegError, match="another longest_side"):
        prepare("a", dataset(labels="labels.csv", longest_side=32), tmp_path / "a", data=squares)


def test_tiles_are_labelled_by_their_mask(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(12):
        mask = np.zeros((90, 70), bool)
        mask[5:9, 40:60] = True  # tile at y 0, x 32
        write_image(tmp_path / "images" / f"smear{number}.png", random.integers(0, 255, (90, 70)).astype(np.uint8))
        write_image(tmp_path / "masks" / f"smear{number}.png", mask)
    made = prepare("a", dataset(pairs={"images": "images", "masks": "masks"}, tiles=32), tmp_path / "a", data=tmp_path)
    items = made.labels.images
    assert Counter(item.label for item in items) == {"artifact": 12, "clean": 36}
    assert all(item.path.stem.endswith("_y0_x32") == (item.label == "artifact") for item in items)
    by_group: dict[str, set[str | None]] = {}
    for item in items:
        by_group.setdefault(item.group, set()).add(item.split)
    assert len(by_group) == 12
    assert all(len(splits) == 1 for splits in by_group.values())
    tile = next(item for item in items if item.path.stem == "00003_smear3_y32_x0")
    original = read_image(tmp_path / "images" / "smear3.png").pixels
    np.testing.assert_array_equal(read_image(tile.path).pixels, original[32:64, :32])


def test_a_grid_shifted_by_chance_keeps_whole_tiles(tmp_path: Path) -> None:
    for number in range(12):
        mask = np.zeros((90, 70), bool)
        mask[30:40, 30:40] = True  # at the corner of four tiles of a fixed grid
        pixels = np.random.default_rng(number).integers(0, 255, (90, 70)).astype(np.uint8)
        write_image(tmp_path / "images" / f"a{number}.png", pixels)
        write_image(tmp_path / "masks" / f"a{number}.png", mask)
    fields = {"pairs": {"images": "images", "masks": "masks"}, "tiles": 32, "tile_offset": "random"}
    made = prepare("a", dataset(**fields), tmp_path / "a", data=tmp_path)
    assert len(made.labels.images) == 48
    corners = {item.path.stem.split("_", 2)[2] for item in made.labels.images}
    assert len(corners) > 12
    for item in made.labels.images:
        name, y, x = item.path.stem.split("_")[1:]
        top, left = int(y[1:]), int(x[1:])
        original = read_image(tmp_path / "images" / f"{name}.png").pixels
        np.testing.assert_array_equal(read_image(item.path).pixels, original[top : top + 32, left : left + 32])


def test_masks_of_a_prefix_serve_a_whole_stack(tmp_path: Path) -> None:
    for well in ("A02", "B04"):
        mask = np.zeros((40, 40), bool)
        mask[4:8, 4:8] = well == "A02"
        write_image(tmp_path / "masks" / f"{well}_dirt.png", mask)
        for plane in range(3):
            pixels = np.random.default_rng(plane).integers(0, 255, (40, 40)).astype(np.uint8)
            write_image(tmp_path / "images" / f"{well}_z0{plane}.png", pixels)
    pairs = {"images": "images", "masks": "masks", "key": "prefix", "only": "*_z0[01].png"}
    made = prepare("a", dataset(pairs=pairs, transfer_from="b"), tmp_path / "a", data=tmp_path)
    items = made.labels.images
    assert {(item.group, item.label, item.split) for item in items} == {
        ("A02", "artifact", "test"),
        ("B04", "clean", "test"),
    }
    assert len(items) == 4
    (tmp_path / "masks" / "B04_dirt.png").unlink()
    with pytest.raises(ArtSegError, match="2 of 4 have none"):
        prepare("c", dataset(pairs=pairs, transfer_from="b"), tmp_path / "c", data=tmp_path)


def test_twins_take_the_place_of_clean_images(squares: Path, tmp_path: Path) -> None:
    made = prepare("a", dataset(labels="labels.csv", twins=["train"]), tmp_path / "a", data=squares)
    training = made.labels.of_split("train")
    assert Counter(item.label for item in training) == {"artifact": 6, "clean": 6}
    assert all("_twin" in item.path.stem for item in training if item.label == "clean")
    assert not any("_twin" in item.path.stem for item in made.labels.of_split("test"))
    pairs = [item.path for item in training]
    spoilt, twin = (read_image(path).pixels.astype(float) for path in sorted(pairs)[:2])
    mask = read_mask_image(made.folder / "masks" / f"{sorted(pairs)[0].stem}.png") > 0
    assert spoilt[mask].mean() - twin[mask].mean() > 500
    np.testing.assert_array_equal(spoilt[~mask], twin[~mask])


def test_fewer_images_keep_both_classes(squares: Path, tmp_path: Path) -> None:
    made = prepare("a", dataset(labels="labels.csv", at_most={"train": 4}), tmp_path / "a", data=squares)
    counts = Counter((item.split, item.label) for item in made.labels.images)
    assert counts["train", "clean"] == counts["train", "artifact"] == 2
    assert counts["test", "clean"] == 3


def test_whole_images_keep_their_kinds_and_tiles_do_not(squares: Path, tmp_path: Path) -> None:
    table = squares / "labels.csv"
    header, *rows = table.read_text().splitlines()
    spoilt = [",artifact," in row for row in rows]
    kinds = [f"{row},{'dust;fibre' if found else ''}" for row, found in zip(rows, spoilt, strict=True)]
    (squares / "kinds.csv").write_text("\n".join([f"{header},kinds", *kinds]) + "\n")
    whole = prepare("a", dataset(labels="kinds.csv", twins=["train"]), tmp_path / "a", data=squares).labels
    assert {(item.label, item.kinds) for item in whole.images} == {("artifact", ("dust", "fibre")), ("clean", ())}
    tiled = prepare("b", dataset(labels="kinds.csv", tiles=32), tmp_path / "b", data=squares).labels
    assert {item.kinds for item in tiled.images} == {()}


def test_missing_data_says_where_paths_start(tmp_path: Path) -> None:
    with pytest.raises(ArtSegError, match="--data"):
        prepare("a", dataset(labels="nowhere/labels.csv"), tmp_path / "a", data=tmp_path)


def test_proportions_of_the_paper(squares: Path, tmp_path: Path) -> None:
    lines = (squares / "labels.csv").read_text().splitlines()
    free = [line.replace(",train,", ",,").replace(",validation,", ",,").replace(",test,", ",,") for line in lines]
    (tmp_path / "free.csv").write_text("\n".join(free).replace("f", str(squares / "f"), 0))
    for path in squares.glob("*.*"):
        if path.suffix != ".csv":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    made = prepare("a", dataset(labels="free.csv", family="cho-m4r"), tmp_path / "a", data=tmp_path)
    counts = Counter(item.split for item in made.labels.images)
    assert [counts[split] for split in ("train", "validation", "test")] == [14, 4, 6]  # 1386, 404, 572 of 24


def test_a_simulated_family_counts_in_pixels_of_the_papers_microscope(tmp_path: Path) -> None:
    simulate = {"family": "cho-m4r", "fields": 24, "scale": 0.08, "artifact_fraction": None}
    fields = {"simulate": simulate, "family": "cho-m4r", "twins": ["train", "validation", "test"], "longest_side": 60}
    made = prepare("a", dataset(**fields), tmp_path / "a", data=tmp_path)
    assert made.binning == 2
    assert made.area_of_pixel == pytest.approx((2 / 0.08) ** 2)
    assert made.pixel_size_um == pytest.approx(0.323, rel=1e-3)
    assert made.nuclei is not None
    assert len(list(made.nuclei.iterdir())) == 24
    counts = Counter((item.split, item.label) for item in made.labels.images)
    for split in ("train", "validation", "test"):
        assert counts[split, "clean"] == counts[split, "artifact"] > 0
    # another data set of the study that asks for the same images takes these
    with pytest.raises(ArtSegError, match="twins makes clean ones"):
        prepare("b", dataset(simulate=simulate, longest_side=60), tmp_path / "b", data=tmp_path)
    assert len(list(tmp_path.glob("simulated-*"))) == 1
