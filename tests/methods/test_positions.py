"""A classifier in which few positions answer: what it answers, what it points at, and what it can learn."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tifffile
import torch
from torch.nn import functional as F

from artseg_models.errors import ArtSegError
from artseg_models.labels import read_labels
from artseg_models.methods import configure, train
from artseg_models.networks.resnet import ResNet
from artseg_models.positions import look, position_evidence
from artseg_models.scorecam import clean_levels
from artseg_models.training.agreement import edges_by_agreement
from artseg_models.training.chance import warn_of_chance
from artseg_models.training.classifier import new_classifier, train_classifier
from artseg_models.training.configuration import ClassifierSettings, RefinementSettings, ScoreCAMSettings
from artseg_models.training.evidence import levels_of_clean, pseudo_labels, typical_evidence
from artseg_models.training.fields import Split, as_batch


@pytest.fixture(scope="module")
def network() -> ResNet:
    torch.manual_seed(4)
    return ResNet(10, 8, layers=2, positions=8, kinds=2).eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).normal(0, 1, (1, 1, 96, 120)).astype(np.float32))


def test_the_strongest_positions_answer(network, image):
    with torch.inference_mode():
        features = network.activations(image, 2)[0].flatten(1).T
        odds = features @ (network.fc.weight[1] - network.fc.weight[0]) + network.fc.bias[1] - network.fc.bias[0]
        of_kind = features @ network.fc.weight[3] + network.fc.bias[3]
        logits, kinds = network.logits_and_kinds(image)
        assert network.log_odds(image).shape == (1, 12, 15)
    assert float(logits[0, 1] - logits[0, 0]) == pytest.approx(float(odds.sort().values[-8:].mean()), rel=1e-4)
    assert float(kinds[0, 1]) == pytest.approx(float(of_kind.sort().values[-8:].mean()), rel=1e-4)


def test_an_image_of_fewer_positions_has_an_answer_too(network, image):
    with torch.inference_mode():
        logits = network.binned_logits(image[..., :16, :16])
        assert float(logits[0, 1] - logits[0, 0]) == pytest.approx(float(network.log_odds(image[..., :16, :16]).mean()))


def test_evidence_is_what_positions_answer_above_the_clean_level(network, image):
    """Position (i, j) answers for pixel (8 i, 8 j)."""
    with torch.inference_mode():
        odds = network.log_odds(image)
    level = clean_levels([odds], quantile=0.9)
    found = position_evidence(network, image, level=level)
    np.testing.assert_allclose(found.evidence[::8, ::8], F.relu(odds - level)[0], atol=1e-5)
    between = (odds[0, 3, 4] + odds[0, 3, 5]) / 2 - level
    assert found.evidence[24, 36] == pytest.approx(max(0, float(between)), abs=1e-5)
    assert found.evidence.any()
    assert not position_evidence(network, image, level=odds.amax().reshape(1)).evidence.any()


@pytest.mark.parametrize(("shape", "count"), [((96, 96), 8), ((96, 120), 4), ((57, 90), 4)])
@pytest.mark.parametrize("attributed", [False, True])
def test_views_are_turned_back_to_the_image(network, shape, count, attributed):
    """Turned or mirrored, an image has the same evidence, turned or mirrored."""
    pixels = np.random.default_rng(5).normal(0, 1, (1, 1, *shape)).astype(np.float32)
    seen = look(network, torch.from_numpy(pixels), turned=True, attributed=attributed)
    assert seen.odds.shape == (count, *shape)
    assert (seen.contributions is not None) == attributed
    for axes in ((-1,), (-2,), (-2, -1)):
        other = look(network, torch.from_numpy(np.flip(pixels, axes).copy()), turned=True, attributed=attributed)
        np.testing.assert_allclose(np.flip(other.evidence, axes), seen.evidence, atol=1e-4)
    alone = look(network, torch.from_numpy(pixels), attributed=attributed)
    np.testing.assert_allclose(seen.view(0).evidence, alone.evidence, atol=1e-6)


class Beside:
    """Answers, at each place of 8 pixels, how dark it is 8 pixels further right."""

    stride = 8

    def log_odds(self, image: torch.Tensor) -> torch.Tensor:
        dark = F.avg_pool2d(F.pad(-image, (3, 4, 3, 4)), 8)[:, 0]
        return torch.roll(dark, -1, 2) - 1

    def strongest(self, answers: torch.Tensor) -> torch.Tensor:
        return answers.flatten(2).amax(2)


def test_evidence_lies_on_the_artifact_also_where_positions_answer_beside_it():
    y, x = np.mgrid[:96, :120]
    artifact = np.hypot(y - 48, x - 80) <= 7
    image = torch.from_numpy((-4.0 * artifact).astype(np.float32))[None, None]
    network = cast(ResNet, Beside())
    answered = look(network, image, turned=True).evidence
    attributed = look(network, image, turned=True, attributed=True).evidence

    def on_it(evidence: np.ndarray) -> float:
        return float(evidence[artifact].sum() / evidence.sum())

    assert on_it(attributed) > 1.5 * on_it(answered)
    assert not artifact.ravel()[answered.argmax()], "on either side of it"
    assert artifact.ravel()[attributed.argmax()]


def _specks(folder: Path, *, count: int, clean: int, radius: float) -> Split:
    """Images of 128 x 128 pixels, all with blurred cells, the artifact ones with one sharp speck besides."""
    random = np.random.default_rng(6)
    folder.mkdir()
    y, x = np.mgrid[:128, :128]
    rows = ["image,label,split,mask"]
    for index in range(count):
        pixels = random.normal(8000, 150, (128, 128))
        for _ in range(3):
            middle = random.uniform(0, 128, 2)
            pixels += 3000 * np.exp(-((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / 400)
        artifact = index >= clean
        if artifact:
            middle = random.uniform(8, 120, 2)
            speck = np.hypot(y - middle[0], x - middle[1]) <= radius
            pixels[speck] -= 2500
            tifffile.imwrite(folder / f"mask{index}.tif", speck.astype(np.uint8))
        tifffile.imwrite(folder / f"{index}.tif", pixels.clip(0).astype(np.uint16))
        rows.append(f"{index}.tif,{'artifact' if artifact else 'clean'},train,{f'mask{index}.tif' if artifact else ''}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return Split.read(read_labels(folder / "labels.csv").images, folder / "cache", binning=1, plane=None)


def _train(split: Split, validation: Split, folder: Path, **changes: Any) -> ResNet:
    settings = ClassifierSettings.model_validate({"depth": 10, "width": 8, "layers": 2, "positions": 8} | changes)
    network = new_classifier(settings, binning=1, seed=0, device="cpu")
    train_classifier(
        network, split, validation, folder, settings=settings, balance="sample", seed=0, device="cpu", bf16=False
    )
    return network


def test_specks_among_cells_are_pointed_at(tmp_path):
    """Half of the images hold a speck of 9 pixels; nothing says where."""
    split = _specks(tmp_path / "images", count=60, clean=30, radius=4)
    schedule = {"epochs": 30, "learning_rate": 0.004, "decay": "one-cycle", "batch": 8}
    network = _train(split, split, tmp_path / "classifier", schedule=schedule)
    settings = ScoreCAMSettings(source="positions", clean_quantile=0.99, cutoff=0.5)
    levels = levels_of_clean(network, split, tmp_path / "levels.pt", settings=settings, seed=0, device="cpu")
    labels = pseudo_labels(network, split, tmp_path / "run", "train", settings=settings, levels=levels, device="cpu")
    hit = [bool((label & split.mask(at)).any()) for at, label in enumerate(labels) if split.artifact[at]]
    assert np.mean(hit) > 0.8
    marked = np.mean([label.mean() for at, label in enumerate(labels) if split.artifact[at]])
    assert marked < 0.05, "no more than about the places that it can tell apart"


class Darkness:
    """Answers how dark it is on average over each place of 8 pixels."""

    stride = 8

    def log_odds(self, image: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(-image, 8)[:, 0]

    def strongest(self, answers: torch.Tensor) -> torch.Tensor:
        return answers.flatten(2).amax(2)


def test_what_a_strong_artifact_hides_is_found_once_that_is_painted_out(tmp_path):
    """Beside one ten times as dark it is no peak, and the image's scale leaves nothing of it."""
    y, x = np.mgrid[:96, :120]
    strong, faint = (np.hypot(y - 48, x - middle) <= 14 for middle in (28, 92))
    pixels = np.random.default_rng(1).normal(30000, 200, strong.shape) - 20000 * strong - 2000 * faint
    tifffile.imwrite(tmp_path / "image.tif", pixels.astype(np.uint16))
    (tmp_path / "labels.csv").write_text("image,label,split\nimage.tif,artifact,train\n")
    split = Split.read(read_labels(tmp_path / "labels.csv").images, tmp_path / "cache", binning=1, plane=None)
    found = {}
    for looks in (1, 2, 5):
        [found[looks]] = pseudo_labels(
            cast(ResNet, Darkness()),
            split,
            tmp_path / str(looks),
            "train",
            settings=ScoreCAMSettings(source="positions", cutoff=0.3),
            refinement=RefinementSettings(edges="contrast", peak=0.2, looks=looks),
            levels=None,
            device="cpu",
        )
    assert found[1][strong].mean() > 0.6
    assert not found[1][faint].any()
    assert found[2][faint].mean() > 0.6
    assert found[5][~(strong | faint)].mean() < 0.05, "and where nothing is left nothing is found"


def test_little_evidence_says_less_than_much_where_images_share_a_scale(tmp_path):
    """Alone each speck is all that there is; beside specks many times as dark a faint one is nothing."""
    y, x = np.mgrid[:96, :96]
    rows, speck = ["image,label,split"], np.hypot(y - 48, x - 48) <= 14
    random = np.random.default_rng(1)
    for index, darkness in enumerate((20000, 20000, 1200)):
        pixels = random.normal(30000, 1500, speck.shape) - darkness * speck
        tifffile.imwrite(tmp_path / f"{index}.tif", pixels.astype(np.uint16))
        rows.append(f"{index}.tif,artifact,train")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    split = Split.read(read_labels(tmp_path / "labels.csv").images, tmp_path / "cache", binning=1, plane=None)
    asked = {"settings": ScoreCAMSettings(source="positions", cutoff=0.6), "levels": None, "device": "cpu"}
    run = tmp_path / "run"
    alone = pseudo_labels(cast(ResNet, Darkness()), split, run, "train", **asked)
    shared = pseudo_labels(
        cast(ResNet, Darkness()), split, run, "train", typical=typical_evidence(run, "train"), **asked
    )
    assert all(label[speck].any() for label in alone)
    assert [bool(label.any()) for label in shared] == [True, True, False]
    assert all((one[speck] == other[speck]).mean() > 0.9 for one, other in zip(alone[:2], shared[:2], strict=True))


def test_what_only_positions_can_answer_is_refused_for_scorecam():
    with pytest.raises(ArtSegError, match=r"scorecam.source=positions is needed for .*turned=true.*refinement.looks=3"):
        configure("best", overrides={"scorecam": {"source": "scorecam"}})
    plain = {"scorecam": {"source": "scorecam", "turned": False, "attributed": False}}
    configure("best", overrides=plain | {"refinement": {"edges": "contrast", "looks": 1}})


class Roughness(Darkness):
    """Answers, at each place of 8 pixels, how rough its surroundings are."""

    def log_odds(self, image: torch.Tensor) -> torch.Tensor:
        rough = (image - F.avg_pool2d(image, 3, 1, 1)).abs()
        return F.avg_pool2d(rough, 17, 8, 8)[:, 0] - 0.15


@pytest.mark.parametrize("artifact", ["dark", "rough"])
def test_views_agree_on_edges_where_these_are_the_artifacts(artifact, tmp_path):
    """A dark speck has edges, the same in every view; a rough place among cells has none but theirs."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:96, :96]
    rows = ["image,label,split"]
    for index in range(4):
        pixels = random.normal(30000, 300, (96, 96))
        for middle in random.uniform(0, 96, (30, 2)) if artifact == "rough" else ():
            pixels += 15000 * np.exp(-(np.hypot(y - middle[0], x - middle[1]) ** 2) / 30)
        middle = random.uniform(24, 72, 2)
        spot = np.hypot(y - middle[0], x - middle[1]) <= 10
        pixels += spot * (random.normal(0, 2500, spot.shape) if artifact == "rough" else -8000)
        tifffile.imwrite(tmp_path / f"{index}.tif", pixels.clip(0, 65535).astype(np.uint16))
        rows.append(f"{index}.tif,artifact,train")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    split = Split.read(read_labels(tmp_path / "labels.csv").images, tmp_path / "cache", binning=1, plane=None)
    file = tmp_path / "edges.json"
    edges = edges_by_agreement(
        cast(ResNet, Darkness() if artifact == "dark" else Roughness()),
        split,
        file,
        settings=ScoreCAMSettings(source="positions", turned=True, cutoff=0.3),
        refinement=RefinementSettings(edges="either", peak=0.2),
        levels=None,
        device="cpu",
    )
    told = json.loads(file.read_text())
    agreement = told["agreement"]
    assert (agreement["evidence"] > agreement["contrast"]) == (artifact == "rough")
    clearly = agreement["evidence"] > 1.1 * agreement["contrast"]
    assert told["edges"] == edges == ("evidence" if clearly else "contrast"), "evidence is coarse, and agrees easily"
    assert all(0 < one <= 1 for one in agreement.values())


def test_the_few_images_of_a_class_weigh_as_much_in_validation(tmp_path):
    """Or what calls all of them artifact is taken for the best epoch, where most of them are."""
    split = _specks(tmp_path / "images", count=10, clean=2, radius=3)
    network = _train(split, split, tmp_path / "classifier", schedule={"epochs": 1, "batch": 4})
    with (tmp_path / "classifier" / "history.csv").open() as file:
        [epoch] = csv.DictReader(file)
    with torch.inference_mode():
        logits = torch.cat([network.binned_logits(as_batch(split.images[at], "cpu")) for at in range(10)])
    losses = F.cross_entropy(logits, torch.from_numpy(split.artifact.astype(np.int64)), reduction="none").numpy()
    expected = (losses[split.artifact].mean() + losses[~split.artifact].mean()) / 2
    assert float(epoch["validation"]) == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(losses.mean(), rel=1e-3)


def test_a_model_that_learned_nothing_is_told_as_such(spotted, tiny, tmp_path, caplog):
    """Whatever the label, the same image."""
    copy = shutil.copytree(spotted.parent, tmp_path / "copy")
    images = read_labels(copy / "labels.csv").images
    for item in images[1:]:
        shutil.copyfile(images[0].path, item.path)
    with caplog.at_level(logging.WARNING):
        train(copy / "labels.csv", tmp_path / "run", preset="quick", overrides=tiny)
    assert "about as well as guessing would (area under the ROC curve 0.50" in caplog.text


@pytest.mark.parametrize(
    ("clean", "artifact", "warned"),
    [
        ([0.1, 0.2], [0.8, 0.9], False),
        ([0.1, 0.9], [0.2, 0.8], True),
        (list(np.linspace(0, 0.8, 60)), list(np.linspace(0.2, 1, 200)), False),
        (list(np.linspace(0, 1, 60)), list(np.linspace(0.02, 1, 200)), True),
        ([], [0.5], False),
    ],
)
def test_only_what_chance_would_do_is_warned_of(caplog, clean, artifact, warned):
    """Also where nearly all images are artifacts, so that calling all of them so is hard to beat by F1."""
    truth = np.array([False] * len(clean) + [True] * len(artifact))
    with caplog.at_level(logging.WARNING):
        warn_of_chance(np.array([*clean, *artifact]), truth)
    assert ("guessing" in caplog.text) == warned
