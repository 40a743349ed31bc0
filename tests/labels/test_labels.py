"""Labels in the layouts that people have; masks of either polarity; splits that keep groups together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from skimage import draw
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.images import write_image
from artseg_models.labels import (
    LabelledImage,
    LabelSet,
    MaskSource,
    check_labels,
    kinds_of,
    problems_of_kinds,
    read_kind_mask,
    read_labels,
    read_mask,
    require_both_classes,
    with_splits,
    write_labels,
)

SHAPE = (40, 48)


def image_file(path: Path, seed: int, shape: tuple[int, int] = SHAPE) -> Path:
    write_image(path, np.random.default_rng(seed).integers(0, 60000, shape).astype(np.uint16))
    return path


def artifact_pixels(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[draw.disk((12 + seed % 12, 15 + seed % 15), 7)] = True
    return mask


def csv_set(folder: Path, rows: list[str], header: str = "image,label,split,group,mask") -> Path:
    for number in range(6):
        image_file(folder / "images" / f"{number}.tif", number)
        write_image(folder / "masks" / f"{number}.png", artifact_pixels(number))
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


GOOD = [
    "images/0.tif,clean,train,a,",
    "images/1.tif,artifact,train,b,masks/1.png",
    "images/2.tif,clean,validation,c,",
    "images/3.tif,artifact,validation,d,masks/3.png",
    "images/4.tif,clean,test,e,",
    "images/5.tif,artifact,test,f,",
]


def cho_layout(folder: Path, *, high: int, low: int, masks_in: str = "y") -> Path:
    for at, split in enumerate(("train", "validation", "test")):
        for number in range(3):
            seed = 10 * at + number
            image_file(folder / split / "clean" / f"c{seed}.tif", seed)
            image_file(folder / split / "artifact" / "x" / f"a{seed}.tif", 100 + seed)
            mask = np.where(artifact_pixels(seed), high, low).astype(np.uint8)
            write_image(folder / split / "artifact" / masks_in / f"a{seed}.tif", mask)
    return folder


# ---- layouts ----


def test_labels_csv_is_read_as_written(tmp_path: Path) -> None:
    labels = read_labels(csv_set(tmp_path, GOOD))
    assert [image.label for image in labels.images] == ["clean", "artifact"] * 3
    assert [image.group for image in labels.images] == list("abcdef")
    assert [image.path.name for image in labels.of_split("validation")] == ["2.tif", "3.tif"]
    assert labels.images[1].mask == MaskSource(tmp_path / "masks" / "1.png")
    assert labels.images[5].mask is None
    assert read_labels(tmp_path).images == labels.images  # the folder that holds it does as well


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_minimal_csv_has_image_and_label(tmp_path: Path, delimiter: str) -> None:
    path = csv_set(tmp_path, [], header="")
    rows = [("Image", "Label"), ("images\\0.tif", "Clean"), ("images/1.tif", " artifact ")]
    path.write_text("\ufeff" + "\r\n".join(delimiter.join(row) for row in rows) + "\r\n\r\n", encoding="utf-8")
    labels = read_labels(path)
    assert [(image.path.name, image.label, image.split) for image in labels.images] == [
        ("0.tif", "clean", None),
        ("1.tif", "artifact", None),
    ]
    assert len({image.group for image in labels.images}) == 2


def test_folders_clean_and_artifact(tmp_path: Path) -> None:
    for number in (10, 9):
        image_file(tmp_path / "clean" / f"{number}.tif", number)
        image_file(tmp_path / "artifact" / f"{number}.tif", 50 + number)
    labels = read_labels(tmp_path)
    assert [(image.path.parent.name, image.path.name, image.label) for image in labels.images] == [
        ("clean", "9.tif", "clean"),
        ("clean", "10.tif", "clean"),
        ("artifact", "9.tif", "artifact"),
        ("artifact", "10.tif", "artifact"),
    ]
    assert len({image.group for image in labels.images}) == 4


@pytest.mark.parametrize(
    ("high", "low", "artifact_high"), [(1, 0, True), (0, 1, False), (255, 0, True), (0, 255, False)]
)
def test_polarity_of_cho_masks_is_found_out(tmp_path: Path, high: int, low: int, artifact_high: bool) -> None:
    labels = read_labels(cho_layout(tmp_path, high=high, low=low))
    assert Counter((image.split, image.label) for image in labels.images) == {
        (split, label): 3 for split in ("train", "validation", "test") for label in ("clean", "artifact")
    }
    for image in labels.images:
        expected = artifact_pixels(int(image.path.stem[1:])) if image.label == "artifact" else np.zeros(SHAPE, bool)
        np.testing.assert_array_equal(read_mask(image, shape=SHAPE), expected)
    report = check_labels(tmp_path)
    assert report.errors == []
    assert f"{'high' if artifact_high else 'low'} values mean artifact, because" in report.polarity


def test_polarity_can_be_said(tmp_path: Path) -> None:
    labels = read_labels(cho_layout(tmp_path, high=1, low=0), mask_polarity="artifact-low")
    artifact = next(image for image in labels.images if image.label == "artifact")
    np.testing.assert_array_equal(read_mask(artifact, shape=SHAPE), ~artifact_pixels(int(artifact.path.stem[1:])))


def test_polarity_that_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    cho_layout(tmp_path, high=1, low=0)
    half = np.zeros(SHAPE, dtype=np.uint8)
    half[:, ::2] = 1
    for path in tmp_path.rglob("y/*.tif"):
        write_image(path, half)
    with pytest.raises(ArtSegError, match=r"cannot be told.*--mask-polarity"):
        read_labels(tmp_path)
    assert len(read_labels(tmp_path, mask_polarity="artifact-high").images) == 18


def test_cho_images_and_masks_must_pair(tmp_path: Path) -> None:
    cho_layout(tmp_path, high=1, low=0)
    (tmp_path / "train" / "artifact" / "y" / "a1.tif").unlink()
    (tmp_path / "test" / "artifact" / "x" / "a20.tif").unlink()
    report = check_labels(tmp_path)
    assert any("train/artifact/x/a1.tif has no mask" in error for error in report.errors)
    assert any("test/artifact/y/a20.tif has no image" in error for error in report.errors)


# ---- masks ----


@pytest.mark.parametrize(
    "stored",
    [
        lambda mask: mask,
        lambda mask: mask.astype(np.uint8),
        lambda mask: mask.astype(np.uint8) * 255,
        lambda mask: mask.astype(np.uint16) * 65535,
        lambda mask: mask.astype(np.float32) * 0.9,
        lambda mask: mask.astype(np.int32) * 17,
        lambda mask: np.dstack([mask * np.uint8(255), mask * np.uint8(0), mask * np.uint8(0)]),
        # soft edges, as lossy files and resizing leave them
        lambda mask: np.where(mask, 200, 50).astype(np.uint8) + np.arange(mask.shape[1], dtype=np.uint8),
    ],
    ids=["bool", "0-1", "0-255", "16 bit", "float", "labels", "red", "soft"],
)
def test_masks_of_every_kind(tmp_path: Path, stored: object) -> None:
    mask = artifact_pixels(3)
    write_image(tmp_path / "mask.tif", stored(mask))  # type: ignore[operator]
    item = LabelledImage(tmp_path / "a.tif", "artifact", None, "a", MaskSource(tmp_path / "mask.tif"))
    np.testing.assert_array_equal(read_mask(item, shape=SHAPE), mask)


def test_a_mask_of_another_size_or_none_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "mask.png", artifact_pixels(1))
    item = LabelledImage(tmp_path / "a.tif", "artifact", None, "a", MaskSource(tmp_path / "mask.png"))
    with pytest.raises(ArtSegError, match=r"has 48 x 40 pixels, its image .* has 40 x 48"):
        read_mask(item, shape=(48, 40))
    with pytest.raises(ArtSegError, match="has no mask"):
        read_mask(LabelledImage(tmp_path / "a.tif", "artifact", None, "a", None), shape=SHAPE)


def via(shapes: list[dict[str, object]], *, project: bool = True, version: int = 2) -> dict[str, object]:
    regions: object = [{"shape_attributes": shape, "region_attributes": {}} for shape in shapes]
    if version == 1:
        regions = {str(at): region for at, region in enumerate(regions)}  # type: ignore[arg-type]
    entries = {"1.tif77": {"filename": "1.tif", "size": 77, "regions": regions, "file_attributes": {}}}
    return {"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": {}} if project else entries  # type: ignore[return-value]


RECT = {"name": "rect", "x": 5, "y": 8, "width": 10, "height": 4}


@pytest.mark.parametrize(("project", "version"), [(True, 2), (False, 2), (False, 1)])
def test_annotator_rectangle_covers_its_pixels(tmp_path: Path, project: bool, version: int) -> None:
    (tmp_path / "via.json").write_text(json.dumps(via([RECT], project=project, version=version)), encoding="utf-8")
    item = LabelledImage(tmp_path / "1.tif", "artifact", None, "a", MaskSource(tmp_path / "via.json"))
    mask = read_mask(item, shape=SHAPE)
    expected = np.zeros(SHAPE, dtype=bool)
    expected[8:13, 5:16] = True
    np.testing.assert_array_equal(mask, expected)


def test_annotator_shapes(tmp_path: Path) -> None:
    y, x = np.indices(SHAPE)
    theta = 0.5
    along = (x - 24) * np.cos(theta) + (y - 20) * np.sin(theta)
    across = -(x - 24) * np.sin(theta) + (y - 20) * np.cos(theta)
    corners = {"all_points_x": [2, 30, 2], "all_points_y": [2, 2, 30]}
    triangle = (x >= 2) & (y >= 2) & (x + y <= 32)
    for shape, expected in (
        ({"name": "circle", "cx": 20, "cy": 15, "r": 8}, (x - 20) ** 2 + (y - 15) ** 2 <= 64),
        (
            {"name": "ellipse", "cx": 24, "cy": 20, "rx": 14, "ry": 5, "theta": theta},
            (along / 14) ** 2 + (across / 5) ** 2 <= 1,
        ),
        ({"name": "polygon", **corners}, triangle),
        ({"name": "polyline", **corners}, triangle),
        ({"name": "circle", "cx": 0, "cy": 0, "r": 9}, x**2 + y**2 <= 81),  # cut by the border
    ):
        (tmp_path / "via.json").write_text(json.dumps(via([shape])) + " " * len(str(shape)), encoding="utf-8")
        item = LabelledImage(tmp_path / "1.tif", "artifact", None, "a", MaskSource(tmp_path / "via.json"))
        mask = read_mask(item, shape=SHAPE)
        # pixels right on an outline may go either way
        assert np.count_nonzero(mask != expected) <= 0.06 * np.count_nonzero(expected), shape
        assert mask.any()


def test_annotator_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "via.json"
    item = LabelledImage(tmp_path / "1.tif", "artifact", None, "a", MaskSource(path))
    for content, says in (
        ("{", "could not be read as JSON"),
        ("[1]", "VGG Image Annotator"),
        (json.dumps({"file": {"1": {"fname": "1.tif"}}}), "VGG Image Annotator"),
        (json.dumps(via([{"name": "point", "cx": 1, "cy": 1}])), "has no area"),
        (json.dumps(via([{"name": "rect", "x": 1}])), "incomplete"),
    ):
        path.write_text(content + " " * len(says), encoding="utf-8")
        with pytest.raises(ArtSegError, match=says):
            read_mask(item, shape=SHAPE)
    path.write_text(json.dumps(via([RECT])), encoding="utf-8")
    with pytest.raises(ArtSegError, match=r"no entry for the image 2\.tif"):
        read_mask(LabelledImage(tmp_path / "2.tif", "artifact", None, "a", MaskSource(path)), shape=SHAPE)


def test_annotator_file_beside_the_images(tmp_path: Path) -> None:
    image_file(tmp_path / "clean" / "0.tif", 0)
    image_file(tmp_path / "artifact" / "1.tif", 1)
    (tmp_path / "artifact" / "via.json").write_text(json.dumps(via([RECT])), encoding="utf-8")
    clean, artifact = read_labels(tmp_path, mask_polarity="artifact-low").images
    assert clean.mask is None
    assert read_mask(artifact, shape=SHAPE).sum() == 55  # shapes are artifacts, whatever the polarity of mask images


def test_annotator_file_named_in_the_csv(tmp_path: Path) -> None:
    path = csv_set(tmp_path, [GOOD[0], "images/1.tif,artifact,train,,masks/via.json"])
    (tmp_path / "masks" / "via.json").write_text(json.dumps(via([RECT])), encoding="utf-8")
    assert read_mask(read_labels(path).images[1], shape=SHAPE).sum() == 55
    report = check_labels(path)
    assert (report.errors, report.masks) == ([], 1)


# ---- bad labels ----


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([*GOOD, "images/9.tif,clean,train,z,"], r"line 8: there is no image images/9\.tif"),
        ([*GOOD[:1], "images/1.tif,artifact,train,b,masks/9.png"], r"line 3: there is no mask masks/9\.png"),
        (
            [*GOOD[:1], "images/1.tif,dirty,train,b,"],
            "line 3: the label must be clean, artifact or unsure, not 'dirty'",
        ),
        ([*GOOD[:1], "images/1.tif,artifact,training,b,"], "the split must be train, validation, test or empty"),
        ([*GOOD, GOOD[0]], r"line 8: images/0\.tif stands already in line 2"),
        ([",clean,train,a,"], "line 2: no image is named"),
        ([], "names no images"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, rows: list[str], says: str) -> None:
    with pytest.raises(ArtSegError, match=says):
        read_labels(csv_set(tmp_path, rows))


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    path = csv_set(tmp_path, [f"images/none{number}.tif,clean,,," for number in range(40)])
    with pytest.raises(ArtSegError, match="And 35 more"):
        read_labels(path)


def test_other_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtSegError, match="There is nothing"):
        read_labels(tmp_path / "none")
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(ArtSegError, match="a CSV file or a folder"):
        read_labels(tmp_path / "a.xlsx")
    with pytest.raises(ArtSegError, match="clean/ and artifact/"):
        read_labels(tmp_path)
    (tmp_path / "a.csv").write_text("file,class\n", encoding="utf-8")
    with pytest.raises(ArtSegError, match="image and label missing among: file, class"):
        read_labels(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"image,label\n\xff\xfe,clean\n")
    with pytest.raises(ArtSegError, match="UTF-8"):
        read_labels(tmp_path / "a.csv")
    (tmp_path / "clean").mkdir()
    with pytest.raises(ArtSegError, match="no folder artifact/"):
        read_labels(tmp_path)


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    labels = read_labels(csv_set(tmp_path, GOOD))
    require_both_classes(labels)
    require_both_classes(labels, split="test")
    with pytest.raises(ArtSegError, match=r"1 clean and 0 artifact\. Add artifact images"):
        require_both_classes(LabelSet(labels.images[:1], labels.source))
    with pytest.raises(ArtSegError, match="in the test split, got 0 clean and 0 artifact"):
        require_both_classes(LabelSet(labels.images[:4], labels.source), split="test")


# ---- splits ----


def many(groups: int, per_group: int) -> LabelSet:
    return LabelSet(
        tuple(
            LabelledImage(Path(f"{group}-{number}.tif"), "artifact" if group % 3 else "clean", None, f"g{group}", None)
            for group in range(groups)
            for number in range(per_group)
        ),
        Path("labels.csv"),
    )


def shares(labels: LabelSet) -> dict[tuple[str, str], float]:
    totals = Counter(image.label for image in labels.images)
    counts = Counter((str(image.split), image.label) for image in labels.images)
    return {key: count / totals[key[1]] for key, count in counts.items()}


def test_splits_keep_groups_whole_and_share_out_each_class() -> None:
    labels = with_splits(many(120, 3))
    splits: dict[str, set[str | None]] = {}
    for image in labels.images:
        splits.setdefault(image.group, set()).add(image.split)
    assert all(len(found) == 1 for found in splits.values())
    for (split, _), share in shares(labels).items():
        assert share == pytest.approx({"train": 0.7, "validation": 0.15, "test": 0.15}[split], abs=0.03)


def test_splits_depend_on_the_seed_not_on_the_order() -> None:
    labels = many(40, 2)
    by_path = {image.path: image.split for image in with_splits(labels, seed=5).images}
    assert {image.path: image.split for image in with_splits(labels, seed=5).images} == by_path
    turned = LabelSet(labels.images[::-1], labels.source)
    assert {image.path: image.split for image in with_splits(turned, seed=5).images} == by_path
    assert {image.path: image.split for image in with_splits(labels, seed=6).images} != by_path


def test_given_splits_are_kept_and_their_groups_follow(tmp_path: Path) -> None:
    labels = many(30, 2)
    given = tuple(
        LabelledImage(image.path, image.label, "test", image.group, None) if at < 20 and at % 2 == 0 else image
        for at, image in enumerate(labels.images)
    )
    split = with_splits(LabelSet(given, labels.source))
    assert all(image.split == "test" for image in split.images[:20])
    assert {image.split for image in split.images[20:]} >= {"train", "validation"}


@pytest.mark.parametrize("groups", [9, 11, 14])
def test_few_groups_still_give_every_split_both_classes(groups: int) -> None:
    for seed in range(5):
        assert len(shares(with_splits(many(groups, 4), seed=seed))) == 6


def test_a_class_with_two_groups_goes_to_train_and_validation() -> None:
    """Six groups hold two clean ones, which cannot be in three splits: training and its choices need them most."""
    for seed in range(5):
        assert set(shares(with_splits(many(6, 4), seed=seed))) == {
            *((split, label) for split in ("train", "validation") for label in ("clean", "artifact")),
            ("test", "artifact"),
        }


def test_impossible_fractions_are_refused() -> None:
    for fractions in ((0.5, 0.5, 0.5), (1.2, -0.1, -0.1)):
        with pytest.raises(ArtSegError, match="sum to 1"):
            with_splits(many(9, 1), fractions=fractions)
    assert {image.split for image in with_splits(many(9, 1), fractions=(1.0, 0.0, 0.0)).images} == {"train"}


# ---- writing ----


def test_labels_written_read_the_same(tmp_path: Path) -> None:
    labels = read_labels(cho_layout(tmp_path / "data", high=0, low=1))
    write_labels(tmp_path / "run" / "splits.csv", labels.images)
    again = read_labels(tmp_path / "run" / "splits.csv")
    assert [(i.path.resolve(), i.label, i.split, i.group) for i in again.images] == [
        (i.path.resolve(), i.label, i.split, i.group) for i in labels.images
    ]
    for one, other in zip(again.images, labels.images, strict=True):
        np.testing.assert_array_equal(read_mask(one, shape=SHAPE), read_mask(other, shape=SHAPE))
    write_labels(tmp_path / "plain.csv", read_labels(csv_set(tmp_path / "csv", GOOD)).images)
    assert (tmp_path / "plain.csv").read_text(encoding="utf-8").splitlines()[:3] == [
        "image,label,split,group,mask",
        "csv/images/0.tif,clean,train,a,",
        "csv/images/1.tif,artifact,train,b,csv/masks/1.png",
    ]


# ---- checking ----


def test_good_labels_pass_the_check(tmp_path: Path) -> None:
    path = csv_set(tmp_path, GOOD)
    report = check_labels(path)
    assert (report.errors, report.warnings) == ([], [])
    assert report.counts["train", "clean"] == 1
    assert (dict(report.sizes), dict(report.bit_depths)) == ({(48, 40): 6}, {16: 6})
    assert (report.groups, report.masks) == (6, 2)
    result = CliRunner().invoke(app, ["labels", "check", str(path)])
    assert result.exit_code == 0, result.output
    assert "48 x 40 (6 images)" in result.output


def spoil(folder: Path, problem: str) -> tuple[Path, str]:
    """Bring one problem into good labels; give the source and the words that must name it."""
    path = csv_set(folder, GOOD)
    if problem == "one image twice, in two splits":
        (folder / "images" / "4.tif").write_bytes((folder / "images" / "0.tif").read_bytes())
        return path, "in several splits"
    if problem == "one image twice, in two classes":
        (folder / "images" / "1.tif").write_bytes((folder / "images" / "0.tif").read_bytes())
        return path, "labelled clean and artifact"
    if problem == "a group in two splits":
        path.write_text(path.read_text().replace("test,e", "test,a"), encoding="utf-8")
        return path, "group a is in train and test"
    if problem == "one class":
        path.write_text("image,label\nimages/0.tif,clean\nimages/2.tif,clean\n", encoding="utf-8")
        return path, "only one class"
    if problem == "one class in train":
        path.write_text(path.read_text().replace("artifact,train", "artifact,test"), encoding="utf-8")
        return path, "the train split has clean images only"
    if problem == "an empty image":
        (folder / "images" / "2.tif").write_bytes(b"")
        return path, "is empty"
    if problem == "a constant image":
        write_image(folder / "images" / "2.tif", np.full(SHAPE, 8, dtype=np.uint8))
        return path, "all pixels have the value 8"
    if problem == "NaN":
        write_image(folder / "images" / "2.tif", np.full(SHAPE, np.nan, dtype=np.float32))
        return path, "NaN"
    if problem == "a volume":
        import tifffile

        tifffile.imwrite(folder / "images" / "2.tif", np.zeros((5, *SHAPE), dtype=np.uint8), photometric="minisblack")
        return path, "holds 5 planes"
    if problem == "a mask of another size":
        write_image(folder / "masks" / "1.png", artifact_pixels(1, (50, 50)))
        return path, "must have the same size"
    assert problem == "a missing image"
    (folder / "images" / "2.tif").unlink()
    return path, "there is no image"


@pytest.mark.parametrize(
    "problem",
    [
        "one image twice, in two splits",
        "one image twice, in two classes",
        "a group in two splits",
        "one class",
        "one class in train",
        "an empty image",
        "a constant image",
        "NaN",
        "a volume",
        "a mask of another size",
        "a missing image",
    ],
)
def test_the_check_finds_what_is_wrong(tmp_path: Path, problem: str) -> None:
    path, says = spoil(tmp_path, problem)
    assert any(says in error for error in check_labels(path).errors)
    result = CliRunner().invoke(app, ["labels", "check", str(path)])
    assert result.exit_code == 1
    assert says in " ".join(result.output.split())


def test_a_source_that_is_not_there_ends_in_one_message_and_exit_code_1(tmp_path: Path, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "artseg_models", "labels", "check", str(tmp_path / "none.csv")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
        check=False,
    )
    assert done.returncode == 1
    assert "There is nothing; check the path" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_the_check_warns(tmp_path: Path) -> None:
    path = csv_set(tmp_path, GOOD)
    write_image(tmp_path / "masks" / "1.png", np.zeros(SHAPE, dtype=np.uint8))
    write_image(tmp_path / "masks" / "3.png", ~artifact_pixels(3))
    (tmp_path / "images" / "copy of 0.tif").write_bytes((tmp_path / "images" / "0.tif").read_bytes())
    path.write_text(path.read_text() + "images/copy of 0.tif,clean,train,g,\n", encoding="utf-8")
    report = check_labels(path)
    assert report.errors == []
    said = " ".join(report.warnings)
    assert "mask is empty" in said
    assert "is its polarity right" in said
    assert "occurs 2 times; give it one group" in said
    assert len(report.duplicates) == 1


def test_images_alike_in_other_formats_are_found(tmp_path: Path) -> None:
    path = csv_set(tmp_path, GOOD)
    from artseg_models.images import read_image

    write_image(tmp_path / "images" / "other.png", read_image(tmp_path / "images" / "0.tif").pixels)
    path.write_text(path.read_text() + "images/other.png,clean,train,a,\n", encoding="utf-8")
    assert check_labels(path).duplicates == [
        (str(tmp_path / "images" / "0.tif"), str(tmp_path / "images" / "other.png"))
    ]


# ---- real labels ----


def test_real_labels_are_sound(shared_data: Path) -> None:
    labels = read_labels(shared_data / "umid_fibre")
    assert Counter(image.label for image in labels.images) == {"clean": 160, "artifact": 186}
    assert [len(labels.of_split(split)) for split in ("train", "validation", "test")] == [207, 52, 87]
    artifact = next(image for image in labels.images if image.label == "artifact")
    assert 0 < read_mask(artifact, shape=(720, 1280)).mean() < 0.2


def test_real_masks_with_soft_edges(shared_data: Path) -> None:
    report = check_labels(shared_data / "magnetic_tile" / "labels.csv")
    assert report.errors == []
    assert sum("mask is empty" in warning for warning in report.warnings) == 4


# ---- unsure ----


def test_unsure_images_are_counted_and_left_out(tmp_path: Path) -> None:
    path = csv_set(tmp_path, [*GOOD[:4], "images/4.tif,Unsure,,,", "images/gone.tif,unsure,,,"])
    assert len(read_labels(path).images) == 4
    report = check_labels(path)
    assert (report.unsure, report.missing) == (2, [])


# ---- kinds of artifact ----

KINDS_HEADER = "image,label,split,group,mask,kinds,kind,kind_masks"


def kinds_set(folder: Path, rows: list[str]) -> Path:
    """Write a table of kinds, with the masks `masks/1_dust.png` and `masks/1_fibre.png` beside those of `csv_set`."""
    path = csv_set(folder, rows, header=KINDS_HEADER)
    for kind, seed in (("dust", 1), ("fibre", 2)):
        write_image(folder / "masks" / f"1_{kind}.png", artifact_pixels(seed))
    return path


KINDS = [
    "images/0.tif,clean,train,a,,,,",
    "images/1.tif,artifact,train,b,masks/1.png,fibre;dust;fibre,,dust=masks/1_dust.png; fibre = masks/1_fibre.png",
    "images/2.tif,artifact,train,c,,,dead clump,",
    "images/3.tif,artifact,train,d,masks/3.png,bubble,,",
    "images/4.tif,artifact,train,e,masks/4.png,,,",
    "images/5.tif,artifact,train,f,,,,dust=masks/1_dust.png",
]


def test_kinds_are_read_from_every_column_that_names_them(tmp_path: Path) -> None:
    images = read_labels(kinds_set(tmp_path, KINDS)).images
    assert [image.kinds for image in images] == [(), ("dust", "fibre"), ("dead clump",), ("bubble",), (), ("dust",)]
    assert [image.kinds_drawn for image in images] == [True, True, False, True, False, True]
    assert kinds_of(images) == ("bubble", "dead clump", "dust", "fibre")
    assert len(set(images)) == 6  # they can be members of sets


def test_masks_by_kind(tmp_path: Path) -> None:
    clean, both, undrawn, alone, unnamed, _ = read_labels(kinds_set(tmp_path, KINDS)).images
    for kind, seed in (("dust", 1), ("fibre", 2)):
        np.testing.assert_array_equal(read_kind_mask(both, kind, shape=SHAPE), artifact_pixels(seed))
    # an artifact mask is the mask of the only kind that is there
    np.testing.assert_array_equal(read_kind_mask(alone, "bubble", shape=SHAPE), artifact_pixels(3))
    for image, kind in ((clean, "dust"), (both, "bubble"), (alone, "dust"), (undrawn, "dust")):
        assert not read_kind_mask(image, kind, shape=SHAPE).any()
    with pytest.raises(
        ArtSegError, match=r"2\.tif is labelled artifact, names dead clump, and has no mask of dead clump"
    ):
        read_kind_mask(undrawn, "dead clump", shape=SHAPE)
    with pytest.raises(ArtSegError, match=r"names no kind, and has no mask of dust\. Add dust=FILE"):
        read_kind_mask(unnamed, "dust", shape=SHAPE)
    with pytest.raises(ArtSegError, match=r"1_dust\.png has 48 x 40 pixels.*Mask and image must have the same size"):
        read_kind_mask(both, "dust", shape=(50, 50))


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ("dust;;fibre,,", "a kind of artifact has an empty name"),
        ('"dust,fibre",,', "the kind of artifact 'dust,fibre' has , in its name"),
        ("dust=1,,", "the kind of artifact 'dust=1' has = in its name"),
        (",dust;fibre,", "the kind of artifact 'dust;fibre' has ; in its name"),
        (",,masks/1_dust.png", "kind_masks must be like dust=FILE;fibre=FILE, not 'masks/1_dust.png'"),
        (",,=masks/1_dust.png", "a kind of artifact has an empty name"),
        (",,dust=masks/1_dust.png;dust=masks/1.png", "kind_masks names dust twice"),
        ("fibre,,dust=masks/1_dust.png", "kind_masks names dust, which is not among the kinds of the image: fibre"),
        (",,dust=masks/none.png", "there is no mask"),
    ],
)
def test_kinds_that_cannot_be_read_are_told_with_their_line(tmp_path: Path, cells: str, says: str) -> None:
    path = kinds_set(tmp_path, ["images/0.tif,clean,,a,,,,", f"images/1.tif,artifact,,b,,{cells}"])
    with pytest.raises(ArtSegError) as raised:
        read_labels(path)
    assert f"line 3: {says}" in str(raised.value)


def test_kinds_of_a_clean_image_are_not_used(tmp_path: Path) -> None:
    path = kinds_set(tmp_path, ["images/0.tif,clean,,a,,dust,,dust=masks/1_dust.png", "images/1.tif,artifact,,b,,,,"])
    report = check_labels(path)
    assert report.errors == []
    assert any("line 2: the kinds of artifact of a clean image are not used" in said for said in report.warnings)
    image = read_labels(path).images[0]
    assert (image.kinds, image.kind_masks) == ((), {})


def test_a_written_table_keeps_kinds_and_their_masks(tmp_path: Path) -> None:
    low = [*KINDS[:3], KINDS[3].replace("bubble", "dust")]
    for rows, polarity in ((KINDS, "auto"), (low, "artifact-low")):
        labels = read_labels(kinds_set(tmp_path / polarity, rows), mask_polarity=polarity)  # type: ignore[arg-type]
        write_labels(tmp_path / polarity / "run" / "splits.csv", with_splits(labels).images)
        again = read_labels(tmp_path / polarity / "run" / "splits.csv").images
        assert [image.kinds for image in again] == [image.kinds for image in labels.images]
        for image, before in zip(again, labels.images, strict=True):
            assert list(image.kind_masks) == list(before.kind_masks)
            for kind in image.kind_masks:
                np.testing.assert_array_equal(
                    read_kind_mask(image, kind, shape=SHAPE), read_kind_mask(before, kind, shape=SHAPE)
                )
    # nothing of it where no image names a kind
    write_labels(tmp_path / "plain.csv", read_labels(csv_set(tmp_path / "csv", GOOD)).images)
    assert (tmp_path / "plain.csv").read_text().splitlines()[0] == "image,label,split,group,mask"


def test_what_a_table_cannot_say_of_kinds_is_not_written(tmp_path: Path) -> None:
    high, low = (MaskSource(tmp_path / f"{value}.png", artifact_high=value == "high") for value in ("high", "low"))
    path = tmp_path / "a.tif"
    for kinds, mask, own, says in (
        (("a;b",), None, {}, "kinds of artifact that a table can name"),
        (("dust",), high, {"dust": low}, "one meaning of high values in all masks"),
        (("dust",), None, {"dust": MaskSource(tmp_path / "a;b.png")}, "a path without semicolon"),
    ):
        with pytest.raises(ArtSegError, match=says):
            write_labels(tmp_path / "labels.csv", [LabelledImage(path, "artifact", None, "a", mask, kinds, own)])
        assert not (tmp_path / "labels.csv").exists()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("dead clump", "dead_clump", "Dead-clump", "dust"), ["'Dead-clump' and 'dead clump' and 'dead_clump' differ"]),
        (("Artifact", "dust"), ["'Artifact' has a name that ArtSeg uses itself"]),
        (("clean", "background", "un-sure"), ["'background' has", "'clean' has", "'un-sure' has"]),
        (("dust", "dust 2", "dead clump", "clump"), []),
    ],
)
def test_kinds_that_could_be_confused_are_errors(tmp_path: Path, names: tuple[str, ...], told: list[str]) -> None:
    problems = problems_of_kinds(names)
    assert len(problems) == len(told)
    assert all(says in problem for says, problem in zip(told, problems, strict=True))
    named = [f"images/{at}.tif,artifact,,g{at},,{name},," for at, name in enumerate(names, start=1)]
    rows = ["images/0.tif,clean,,g0,,,,", *named]
    assert check_labels(kinds_set(tmp_path, rows)).errors == problems
    asked = ["label", str(tmp_path), "--no-browser", "--kinds", ",".join(names)]
    if told:
        done = CliRunner().invoke(app, asked, env={"COLUMNS": "400"})
        assert done.exit_code == 2
        assert told[0] in " ".join(done.output.split())


def test_check_counts_kinds(tmp_path: Path) -> None:
    rows = [*KINDS, "images/6.tif,artifact,train,g,,Dust,,"]
    path = kinds_set(tmp_path, rows)
    image_file(tmp_path / "images" / "6.tif", 6)
    write_image(tmp_path / "masks" / "1_fibre.png", np.zeros(SHAPE, np.uint8))
    report = check_labels(path)
    assert report.kinds == {"dust": 2, "fibre": 1, "dead clump": 1, "bubble": 1, "Dust": 1}
    assert (report.without_kind, report.kind_masks) == (1, 3)
    assert any("1.tif names the kind fibre and its mask of it is empty" in said for said in report.warnings)
    assert report.errors == [said for said in report.errors if "'Dust' and 'dust' differ only in capitals" in said]
    assert len(report.errors) == 1
    done = CliRunner().invoke(app, ["labels", "check", str(path)], env={"COLUMNS": "200"})
    assert "dust (2 images), " in done.output
    assert "; 1 artifact images name none" in done.output
    assert "3 artifact images have one for each kind that they name" in done.output
    plain = CliRunner().invoke(app, ["labels", "check", str(csv_set(tmp_path / "csv", GOOD))])
    assert "Kinds" not in plain.output
    assert check_labels(csv_set(tmp_path / "csv", GOOD)).kinds == {}
