"""Kinds of artifact: from labels that name them to a model that tells them apart, and what other readers see of it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tifffile
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.images import read_image
from artseg_models.labels import LabelledImage, MaskSource, read_labels, write_labels
from artseg_models.methods import train
from artseg_models.methods.predictor import RunPredictor
from artseg_models.networks.unet import UNet
from artseg_models.packages.check import check_package
from artseg_models.packages.export import export_packages, export_run
from artseg_models.packages.read import read_package
from artseg_models.packages.run import read_run
from artseg_models.predict import Predictor, kinds_of_objects
from artseg_models.report.training import write_training_sheet
from artseg_models.training.classifier import image_probabilities, new_classifier, train_classifier
from artseg_models.training.configuration import ClassifierSettings, UNetSettings
from artseg_models.training.fields import Split, WorkingImages
from artseg_models.training.kinds import drawn_kinds, named_kinds, sets_of_kinds, with_kinds
from artseg_models.training.segmenter import probability_maps, train_unet

KINDS = ("bubble", "dust")


def disc(shape: tuple[int, int], middle: tuple[int, int], radius: float) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(y - middle[0], x - middle[1]) <= radius


def image_of(path: Path, *kinds: str, label: str = "artifact") -> LabelledImage:
    return LabelledImage(path=path, label=cast(Any, label), split="train", group=path.stem, mask=None, kinds=kinds)


def test_an_artifact_image_without_a_kind_says_nothing_of_kinds():
    items = [
        image_of(Path("a"), "dust"),
        image_of(Path("b"), "bubble", "dust"),
        image_of(Path("c")),
        image_of(Path("d"), label="clean"),
    ]
    expected = [[0, 1], [1, 1], [np.nan, np.nan], [0, 0]]
    np.testing.assert_array_equal(named_kinds(items, KINDS), np.array(expected, np.float32))


def split_of(folder: Path, images: list[np.ndarray], items: list[LabelledImage]) -> Split:
    for item, image in zip(items, images, strict=True):
        tifffile.imwrite(item.path, image)
    working = WorkingImages(items, folder / "working", binning=1)
    return Split(working, np.array([item.label == "artifact" for item in items]), 1, None)


def test_pixel_labels_tell_of_which_kinds_an_artifact_may_be():
    paths = [Path(name) for name in "abcd"]
    named = [KINDS, ("dust",), (), ("dust",)]
    items = [image_of(path, *kinds) for path, kinds in zip(paths, named, strict=True)]
    sets = sets_of_kinds(items, KINDS)
    assert sets.tolist() == [[False, True], [True, True]]
    label = np.array([[0, 1, -1], [1, 0, 7]], np.int8)
    told = with_kinds([label] * 4, items, KINDS, sets)
    for one, value in zip(told, (3, 2, 1, 2), strict=True):
        np.testing.assert_array_equal(one, [[0, value, -1], [value, 0, value]])


def test_what_may_be_of_two_kinds_is_told_by_images_that_name_one(tmp_path: Path):
    """Bright and dark discs are named alone in two images, together in the third, and not at all in the last."""
    shape = (32, 64)
    left, right = disc(shape, (16, 14), 7), disc(shape, (16, 48), 7)
    noise = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
    images = [noise + 4 * left, noise - 4 * right, noise + 4 * left - 4 * right, noise - 4 * left + 4 * right]
    named = [("bubble",), ("dust",), KINDS, ()]
    items = [image_of(tmp_path / f"{at}.tif", *kinds) for at, kinds in enumerate(named)]
    split = split_of(tmp_path, images, items)
    labels = [left, right, left | right, left | right]
    sets = sets_of_kinds(items, KINDS)
    told = with_kinds([label.astype(np.int8) for label in labels], items, KINDS, sets)
    torch.manual_seed(0)
    network = UNet(4, 2, 1, kinds=2)
    settings = UNetSettings.model_validate(
        {
            "width": 4,
            "levels": 2,
            "crop": 32,
            "crops_per_image": 8,
            "schedule": {"epochs": 12, "learning_rate": 0.01, "batch": 4},
        }
    )
    train_unet(
        network, split, told, split, told, tmp_path / "unet", kinds=sets,
        settings=settings, balance="none", seed=0, device="cpu", bf16=False,
    )  # fmt: skip
    artifact, bubble, dust = probability_maps(network, split.images[2], "cpu")
    np.testing.assert_allclose(bubble + dust, artifact, atol=1e-5)
    assert bubble[left].mean() > 0.5 > dust[left].mean()
    assert dust[right].mean() > 0.5 > bubble[right].mean()
    assert artifact[~(left | right)].mean() < 0.4
    # its label says nothing of kinds, its looks do
    _, bubble, dust = probability_maps(network, split.images[3], "cpu")
    assert dust[left].mean() > bubble[left].mean()
    assert bubble[right].mean() > dust[right].mean()


@pytest.mark.parametrize(("balance", "low", "high"), [("sample", 0.3, 0.7), ("none", 0.0, 0.25)])
def test_a_rare_kind_counts_as_much_as_the_rest(balance: str, low: float, high: float, tmp_path: Path):
    """Of images that do not tell, even odds are all that can be learned, however rare the kind; or else its share."""
    noise = np.random.default_rng(0).normal(100, 10, (60, 32, 32)).astype(np.float32)
    items = [
        image_of(tmp_path / f"{at:02d}.tif", *(() if at < 20 else KINDS if at % 10 == 0 else KINDS[1:]))
        for at in range(60)
    ]
    items = [replace(item, label="clean") if at < 20 else item for at, item in enumerate(items)]
    split = split_of(tmp_path, list(noise), items)
    settings = ClassifierSettings.model_validate(
        {"depth": 10, "width": 2, "layers": 2, "schedule": {"epochs": 6, "learning_rate": 0.01, "batch": 20}}
    )
    named = named_kinds(items, KINDS)
    network = new_classifier(settings, binning=1, seed=0, device="cpu", kinds=2)
    train_classifier(
        network,
        split,
        split,
        tmp_path / "run",
        settings=settings,
        balance=balance,
        seed=0,
        device="cpu",
        bf16=False,
        kinds=(named, named),
    )
    rare = [image_probabilities(network, split.images[at], "cpu")[1][0] for at in range(60)]
    assert low < np.mean(rare) < high


@pytest.fixture(scope="module")
def shaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labels.csv of noisy images of 96 x 80: bubbles are bright discs, dust dark ones, a third hold both."""
    folder = tmp_path_factory.mktemp("shaded")
    random = np.random.default_rng(0)
    items: list[LabelledImage] = []
    shape = (96, 80)
    for index in range(72):
        kinds = ((), ("dust",), (), ("bubble",), (), KINDS)[index % 6]
        image = random.normal(8000, 300, shape)
        for at, kind in enumerate(kinds):
            middle = (int(random.integers(16, 80)), 20 + 40 * at + int(random.integers(-4, 4)))
            image[disc(shape, middle, random.uniform(8, 12))] += 4000 if kind == "bubble" else -4000
        path = folder / f"field_{index}.tiff"
        tifffile.imwrite(path, image.astype(np.uint16))
        split = "validation" if index < 12 else "test" if index < 24 else "train"
        label = "artifact" if kinds else "clean"
        items.append(LabelledImage(path=path, label=label, split=split, group=str(index), mask=None, kinds=kinds))
    write_labels(folder / "labels.csv", items)
    return folder / "labels.csv"


SMALL: dict[str, Any] = {
    "binning": 2,
    "kinds": True,
    "classifier": {"depth": 10, "width": 8, "schedule": {"epochs": 16, "batch": 4}},
    "scorecam": {"groups": 8},
    "unet": {"width": 6, "levels": 3, "schedule": {"epochs": 16, "batch": 4}, "crop": 32},
}


@pytest.fixture
def drawn(shaded: Path, tmp_path: Path) -> Path:
    """The same labels with a mask for each kind, and one of all artifacts."""
    items: list[LabelledImage] = []
    for item in read_labels(shaded).images:
        pixels = read_image(item.path).pixels.astype(float)
        found = {"bubble": pixels > 10500, "dust": pixels < 5500}
        masks: dict[str, MaskSource] = {}
        for kind in item.kinds:
            path = tmp_path / f"{item.path.stem}_{kind}.png"
            Image.fromarray(found[kind]).save(path)
            masks[kind] = MaskSource(path)
        both = tmp_path / f"{item.path.stem}.png"
        Image.fromarray(found["bubble"] | found["dust"]).save(both)
        items.append(replace(item, mask=MaskSource(both) if item.kinds else None, kind_masks=masks))
    write_labels(tmp_path / "drawn.csv", items)
    return tmp_path / "drawn.csv"


def test_drawn_masks_of_each_kind_teach_the_supervised_network(drawn: Path, tmp_path: Path):
    items = read_labels(drawn).of_split("validation")
    labels = drawn_kinds(Split.read(items, tmp_path / "working", binning=2, plane=None), KINDS)
    for item, label in zip(items, labels, strict=True):
        assert set(np.unique(label)) == {0} | {2 + KINDS.index(kind) for kind in item.kinds}
    settings = {
        "binning": 2,
        "kinds": True,
        "unet": {"width": 6, "levels": 3, "schedule": {"epochs": 20, "batch": 4}, "crop": 32},
    }
    run = train(drawn, tmp_path / "run", method="unet", preset="quick", overrides=settings)
    predictor = RunPredictor(run, device="cpu")
    test = read_labels(drawn).of_split("test")
    found = [predictor.predict(read_image(item.path).pixels) for item in test]
    told = [{kind for kind, number in one.kind_counts.items() if number} for one in found]
    assert sum(kinds == set(item.kinds) for kinds, item in zip(told, test, strict=True)) >= len(test) - 1
    package = read_package(export_run(run, tmp_path / "packages").paths[0])
    assert package.kinds == KINDS
    again = Predictor(package, device="cpu").predict(read_image(test[-1].path).pixels)
    assert np.array_equal(again.object_kinds, found[-1].object_kinds)


@pytest.fixture(scope="module")
def run(shaded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(shaded, tmp_path_factory.mktemp("run") / "kinds", preset="best", overrides=SMALL)


def test_answers_for_kinds_are_divided_by_a_temperature_of_their_own(run: Path):
    before, after = (
        torch.load(run / "classifier" / name, weights_only=True)["fc.weight"]
        for name in ("uncalibrated.pt", "network.pt")
    )
    ratios = (before / after).mean(dim=1)
    torch.testing.assert_close(before / after, ratios[:, None].expand_as(before))
    assert ratios[0] == pytest.approx(float(ratios[1]))
    assert ratios[2] == pytest.approx(float(ratios[3]))
    assert ratios[2] != pytest.approx(1, abs=0.01)


def test_a_run_tells_kinds_apart_by_image_labels_alone(shaded: Path, run: Path):
    predictor = RunPredictor(run, device="cpu")
    assert predictor.kinds == KINDS
    right: list[bool] = []
    for item in read_labels(shaded).of_split("test"):
        found = predictor.predict(read_image(item.path).pixels, source=item.path.name)
        assert found.kinds == KINDS
        assert set(found.image_kinds) == set(KINDS)
        assert len(found.object_kinds) == found.count
        areas = np.bincount(found.kind_map.ravel(), minlength=3)[1:]
        assert areas.sum() == np.count_nonzero(found.labels)
        if not item.kinds:
            right.append(found.count == 0)
        else:
            # a network of so few filters leaves crumbs of the other kind
            right += [(areas[KINDS.index(kind)] > areas.sum() / 5) == (kind in item.kinds) for kind in KINDS]
    assert len(right) == 18
    assert np.mean(right) > 0.8


def test_the_training_sheet_names_the_kinds_that_are_labelled_and_found(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    drawn: list[Figure] = []

    def keep(figure: Figure, path: Path) -> None:
        drawn.append(figure)

    monkeypatch.setattr("artseg_models.report.training.save_figure", keep)
    write_training_sheet(run, tmp_path / "training.png")
    lower = drawn[0].subfigs[1].axes
    labelled, found = lower[: len(lower) // 2], lower[len(lower) // 2 :]
    items = {item.path.stem: item for item in read_labels(run / "splits.csv").of_split("validation")}
    predictor = RunPredictor(run, device="cpu")
    assert labelled
    for above, below in zip(labelled, found, strict=True):
        name, kinds = above.get_title().split("\n")
        assert kinds == f"labelled {', '.join(items[name].kinds)}"
        probable = predictor.predict(read_image(items[name].path).pixels).image_kinds
        assert below.get_title().split("\n")[1] == ", ".join(f"{kind} {probable[kind]:.2f}" for kind in KINDS)


def test_packages_tell_the_same_kinds_to_artseg_and_name_them_to_others(
    make_run: Callable[..., Path], sample: np.ndarray, tmp_path: Path
):
    kinds = ("dead clump", "dust")
    run = make_run(tmp_path / "run", kinds=kinds, cutoff=0.5, smallest_artifact_px=0, gate_threshold=None)
    packages = export_packages(run, tmp_path / "packages")
    package = read_package(packages.unet)
    assert package.kinds == kinds
    with torch.inference_mode():
        expected = read_run(run).unet(torch.from_numpy(package.preprocess(sample))[None, None])[0].numpy()
    whole = Predictor(package, device="cpu").predict(sample)
    tiled = Predictor(package, device="cpu", whole_px=500, tile_px=64).predict(sample)
    assert (whole.tiles, tiled.tiles) == (1, 4)
    for found in (whole, tiled):
        # at the image's edges tiles are padded another way
        inside = np.s_[16:-16, 16:-16]
        np.testing.assert_allclose(found.probability[inside], expected[0][inside], atol=1e-4)
        assert set(found.image_kinds) == set(kinds)
        assert found.count == len(found.object_kinds) > 0
        for number, kind in enumerate(found.object_kinds, start=1):
            means = [np.log(channel[found.labels == number]).mean() for channel in expected[1:]]
            both = [mean + np.log(found.image_kinds[name]) for mean, name in zip(means, kinds, strict=True)]
            assert both[kind - 1] == pytest.approx(max(both), abs=0.01)
    assert sum(whole.kind_counts.values()) == whole.count
    for path in (packages.unet, packages.older_unet, packages.classifier):
        with zipfile.ZipFile(path) as opened:
            described = yaml.safe_load(opened.read("rdf.yaml"))
            card = next(opened.read(name).decode() for name in opened.namelist() if name.endswith(".md"))
        channels = next(axis for axis in described["outputs"][0]["axes"] if axis["type"] == "channel")
        # a channel's name is an identifier in the Zoo
        assert channels["channel_names"][-2:] == ["dead_clump", "dust"]
        assert "dead clump, dust" in card
    # bioimageio.core reproduces all channels
    check = check_package(packages.unet, cache=tmp_path / "cache")
    outcomes = {finding.what: finding.outcome for finding in check.findings}
    assert (outcomes["onnx"], outcomes["torchscript"]) == ("passed", "passed")
    shown = CliRunner().invoke(app, ["package", "info", str(packages.unet)])
    assert "1 dead clump, 2 dust" in shown.output


def test_the_classifier_has_a_say_in_which_kind_an_object_is_of():
    labels = np.array([[1, 1, 0, 2, 2]], np.int32)
    maps = np.array([[[0.5, 0.4, 0, 0.9, 0.9]], [[0.4, 0.5, 0, 0.1, 0.1]]], np.float32)
    assert kinds_of_objects(labels, maps, (0.5, 0.4)).tolist() == [1, 1]
    assert kinds_of_objects(labels, maps, (0.4, 0.5)).tolist() == [2, 1], "in doubt, as the image; else as its pixels"
    assert kinds_of_objects(labels, maps, (0.01, 0.9)).tolist() == [2, 2], "a kind that the image hardly holds"
    assert kinds_of_objects(labels, maps, ()).tolist() == [1, 1], "a model without classifier"
    assert kinds_of_objects(labels, None, ()).shape == (0,)


def test_a_run_goes_on_with_the_same_kinds_alone(shaded: Path, run: Path, tmp_path: Path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    again = train(shaded, copied, preset="best", overrides=SMALL)
    assert json.loads((again / "result.json").read_text())["kinds"] == list(KINDS)
    renamed = [
        replace(item, kinds=tuple(kind.replace("dust", "soot") for kind in item.kinds))
        for item in read_labels(shaded).images
    ]
    other = shaded.parent / "renamed.csv"
    write_labels(other, renamed)
    with pytest.raises(ArtSegError, match="kinds"):
        train(other, copied, preset="best", overrides=SMALL)


@pytest.mark.parametrize(
    ("asked", "told"),
    [(True, "got none"), (["dust", "hair"], "got bubble, dust; asked for: dust, hair"), (["dust"], "at least two")],
)
def test_kinds_that_labels_do_not_name_are_refused_before_anything_is_read(
    shaded: Path, tmp_path: Path, asked: Any, told: str
):
    labels = shaded
    if asked is True:
        labels = shaded.parent / "unnamed.csv"
        write_labels(labels, [replace(item, kinds=()) for item in read_labels(shaded).images])
    with pytest.raises(ArtSegError, match=told):
        train(labels, tmp_path / "run", preset="best", overrides=SMALL | {"kinds": asked})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("renamed", "told"), [("Bubble", "'Bubble' and 'bubble' differ only"), ("clean", "'clean' has a name that ArtSeg")]
)
def test_kinds_that_could_be_confused_are_refused_before_anything_is_written(
    shaded: Path, tmp_path: Path, renamed: str, told: str
):
    items = list(read_labels(shaded).images)
    at = next(at for at, item in enumerate(items) if item.kinds == ("bubble",))
    items[at] = replace(items[at], kinds=(renamed,))
    write_labels(tmp_path / "labels.csv", items)
    command = ["train", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "run")]
    for asked in (["--kinds"], ["--set", f'kinds=["dust", "{"bubble" if renamed == "Bubble" else renamed}"]']):
        done = CliRunner().invoke(app, [*command, *asked])
        assert isinstance(done.exception, ArtSegError)
        assert told in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_the_command_line_asks_for_kinds_by_one_word(shaded: Path, tmp_path: Path):
    settings = [f"--set={name}={value}" for name, value in (
        ("binning", 2), ("classifier.depth", 10), ("classifier.width", 4), ("unet.width", 4), ("unet.levels", 3),
        ("classifier.schedule.epochs", 1), ("unet.schedule.epochs", 1), ("unet.crop", 32), ("scorecam.groups", 8),
    )]  # fmt: skip
    arguments = ["train", str(shaded), "--out", str(tmp_path / "run"), "--kinds", "--no-export", *settings]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run" / "configuration.json").read_text())["kinds"] == list(KINDS)
