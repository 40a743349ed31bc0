"""Preset best: what it adds to the paper's chain, each part alone, and the whole through kills and without masks."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.labels import read_labels, write_labels
from artseg_models.methods import configure, train
from artseg_models.report.training import write_training_sheet
from artseg_models.suggest import doubt, suggest
from artseg_models.training.calibration import best_calibration
from artseg_models.training.configuration import RefinementSettings, SelfTrainingSettings, UNetSettings, merged
from artseg_models.training.convincing import convincing_parts
from artseg_models.training.cutoffs import best_gate_threshold
from artseg_models.training.fields import Split, WorkingImages
from artseg_models.training.normality import fit_normality
from artseg_models.training.refinement import UNSURE, drawn_to_edges, learned_label, with_unsure_edges
from artseg_models.training.sampling import random_crop
from artseg_models.training.segmenter import new_unet, probability_map, train_unet
from artseg_models.training.synthesis import counterfactuals, pasting
from artseg_models.transplant import Change, Cutout, changed, cutouts_of, painted_out, pasted, random_change

EDGES = RefinementSettings(edges="contrast")


def disc(shape: tuple[int, int], middle: tuple[int, int], radius: float) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(y - middle[0], x - middle[1]) <= radius


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


def field(artifact: np.ndarray, *, strength: float = 4.0, blur: float = 2.0) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 0.2, artifact.shape)
    return (ndimage.gaussian_filter(strength * artifact, blur) + noise).astype(np.float32)


@pytest.mark.parametrize("strength", [4.0, -4.0])
def test_a_coarse_map_grows_and_shrinks_to_the_edge(strength):
    """The map is far too wide at its reach and far too small at its seed; the edge is where the contrast begins."""
    truth = disc((90, 110), (40, 50), 14)
    evidence = ndimage.gaussian_filter(disc((90, 110), (42, 47), 12).astype(np.float32), 8)
    evidence /= evidence.max()
    assert iou(evidence >= 0.5, truth) < 0.75
    assert iou(evidence >= EDGES.reach, truth) < 0.5
    assert iou(drawn_to_edges(field(truth, strength=strength, blur=0.5), evidence, EDGES), truth) > 0.87
    blurred = drawn_to_edges(field(truth, strength=strength, blur=3), evidence, EDGES)
    assert iou(blurred, disc((90, 110), (40, 50), 16)) > 0.9, "what is out of focus reaches to the foot of its edge"


def test_an_artifact_of_dark_and_bright_parts_is_measured_by_its_departure_and_has_no_holes():
    ring = disc((90, 110), (40, 50), 14)
    middle = disc((90, 110), (40, 50), 8)
    image = field(ring & ~middle, strength=-4, blur=0.5) + field(middle, blur=0.5)
    evidence = ndimage.gaussian_filter(ring.astype(np.float32), 6)
    assert iou(drawn_to_edges(image, evidence / evidence.max(), EDGES), ring) > 0.85
    hollow = field(ring & ~disc((90, 110), (40, 50), 11), strength=-4, blur=0.5)
    assert iou(drawn_to_edges(hollow, evidence / evidence.max(), EDGES), ring) > 0.85


def test_a_bubble_that_the_border_cuts_is_full_and_a_fibre_across_a_corner_is_not():
    bubble = disc((90, 110), (15, 60), 30)
    rim = bubble & ~disc((90, 110), (15, 60), 24)
    y, x = np.mgrid[:90, :110]
    fibre = np.abs(y + x - 50) <= 3
    for artifact, whole in ((rim, bubble), (fibre, fibre)):
        evidence = ndimage.gaussian_filter(artifact.astype(np.float32), 3)
        assert iou(drawn_to_edges(field(artifact, blur=0.5), evidence / evidence.max(), EDGES), whole) > 0.75


def test_a_thin_artifact_and_a_faint_one_beside_a_strong_one_are_found():
    """Most of a thin one's seed is background, and its map is a fourth of the strong one's."""
    strong, thin = disc((90, 140), (45, 30), 12), np.zeros((90, 140), bool)
    thin[44:47, 80:130] = True
    image = field(strong, strength=8, blur=0.5) + field(thin, strength=2, blur=0.5)
    evidence = ndimage.gaussian_filter(strong.astype(np.float32), 6)
    evidence = evidence / evidence.max() + ndimage.gaussian_filter(thin.astype(np.float32), 4)
    found = drawn_to_edges(image, evidence.astype(np.float32), EDGES)
    assert iou(found[:, :60], strong[:, :60]) > 0.85
    assert iou(found[:, 60:], thin[:, 60:]) > 0.6


def test_a_map_that_points_at_nothing_gives_no_label():
    assert not drawn_to_edges(field(disc((40, 40), (20, 20), 5)), np.zeros((40, 40), np.float32), EDGES).any()


def test_an_area_without_a_peak_points_at_nothing():
    strong, faint = disc((90, 140), (45, 30), 12), disc((90, 140), (45, 105), 12)
    image = field(strong | faint, blur=0.5)
    evidence = ndimage.gaussian_filter(strong + 0.15 * faint, 6).astype(np.float32)
    evidence /= evidence.max()
    either = drawn_to_edges(image, evidence, EDGES)
    peaks = drawn_to_edges(image, evidence, EDGES.model_copy(update={"peak": 0.2}))
    assert iou(either[:, 70:], faint[:, 70:]) > 0.85
    assert not peaks[:, 70:].any()
    assert np.array_equal(peaks[:, :70], either[:, :70]), "what has a peak is drawn as before, far below it too"


class InMemory(list[np.ndarray]):
    def shape(self, index: int) -> tuple[int, ...]:
        return self[index].shape


def split_of(images: list[np.ndarray], artifact: list[bool]) -> Split:
    """A split of images that are in memory already."""
    return Split(cast(WorkingImages, InMemory(images)), np.array(artifact), 1, None)


@pytest.mark.parametrize("unmarked", [1.0, 0.1])
def test_what_half_of_the_labels_miss_is_learned_where_unmarked_says_little(unmarked, tmp_path):
    """Cells are on clean images too, and stay clean; discs are marked on every second image that has one."""
    random = np.random.default_rng(0)
    spot, cell = disc((32, 32), (10, 10), 5), disc((32, 32), (22, 22), 5)
    artifact = np.arange(16) < 8
    images = [(random.normal(0, 0.1, (32, 32)) + 3 * spot * one - 3 * cell).astype(np.float32) for one in artifact]
    labels = [spot & (at % 2 == 0) & bool(one) for at, one in enumerate(artifact)]
    split = split_of(images, list(artifact))
    settings = UNetSettings.model_validate(
        {
            "width": 4,
            "levels": 2,
            "crop": 32,
            "unmarked": unmarked,
            "schedule": {"epochs": 30, "learning_rate": 0.01, "decay": "one-cycle", "batch": 8},
        }
    )
    network = new_unet(settings, binning=1, seed=0, device="cpu")
    train_unet(
        network,
        split,
        labels,
        split,
        labels,
        tmp_path / "unet",
        settings=settings,
        balance="none",
        seed=0,
        device="cpu",
        bf16=False,
        doubtful=artifact,
    )
    missed = probability_map(network, images[1], "cpu")
    assert (missed[spot].mean() > 0.65) == (unmarked < 1)
    assert missed[cell].mean() < 0.5


def test_what_no_clean_image_shows_is_found_without_a_classifier(tmp_path):
    def background(seed: int) -> np.ndarray:
        noise, cells = np.random.default_rng(seed).normal(0, 1, (2, 100, 120))
        structure = sum(size * ndimage.gaussian_filter(cells, size) for size in (2, 4, 8, 16))
        return (0.3 * noise + structure).astype(np.float32)

    spots = [disc((100, 120), (30 + 4 * at, 30 + 6 * at), 9) for at in range(10)]
    clean = [background(at) for at in range(20)]
    spoilt = [
        image - np.float32(6) * ndimage.gaussian_filter(spot.astype(np.float32), 3)
        for image, spot in zip(clean[10:], spots, strict=True)
    ]
    training = split_of([*clean[:10], *spoilt], [False] * 10 + [True] * 10)
    normality = fit_normality(training, tmp_path / "normality.json", share=0.8, seed=0)
    labels = [normality.artifacts(image, EDGES) for image in spoilt]
    assert np.mean([iou(label, spot) for label, spot in zip(labels, spots, strict=True)]) > 0.5
    structure = replace(normality, brightness_level=None)
    assert structure.level is not None
    unusual = [(structure.distance(image) >= structure.level).astype(np.float32) for image in spoilt]
    # what is unusual reaches around an artifact, by the size of the structures looked at: its edges stand in the image
    assert all(one[spot].mean() > 0.9 for one, spot in zip(unusual, spots, strict=True))
    labels = [structure.artifacts(image, EDGES) for image in spoilt]
    assert np.mean([iou(label, spot) for label, spot in zip(labels, spots, strict=True)]) > 0.5
    written = json.loads((tmp_path / "normality.json").read_text())["structure"]
    assert written["above_in_artifact_images"] > 4 * written["above_in_clean_images"]
    alike = split_of(clean, [False] * 10 + [True] * 10)
    nothing = fit_normality(alike, tmp_path / "none.json", share=0.8, seed=0)
    assert (nothing.level, nothing.brightness_level) == (None, None), "nothing tells them apart"
    assert json.loads((tmp_path / "none.json").read_text())["structure"]["level"] is None
    assert not nothing.artifacts(spoilt[0], EDGES).any()


def test_parts_stay_that_convince_the_classifier_alone():
    class Darkness:
        """Log-odds of artifact: by the share of very dark pixels."""

        seen = 0

        def binned_logits(self, batch: torch.Tensor) -> torch.Tensor:
            self.seen += len(batch)
            odds = (batch < -4).float().mean(dim=(1, 2, 3)) * 1000 - 5
            return torch.stack([torch.zeros_like(odds), odds], dim=1)

    image = np.random.default_rng(0).normal(0, 0.3, (64, 80)).astype(np.float32)
    dark, grey = disc((64, 80), (20, 20), 6), disc((64, 80), (44, 60), 6)
    image[dark] -= 6
    image[grey] -= 0.3
    network = cast(Any, Darkness())
    kept = convincing_parts(network, image, dark | grey, share=0.1, random=np.random.default_rng(1), device="cpu")
    assert np.array_equal(kept, dark)
    # a classifier to which nothing of it matters tells nothing
    same = convincing_parts(network, image, grey, share=0.1, random=np.random.default_rng(1), device="cpu")
    assert np.array_equal(same, grey)
    nothing = np.zeros_like(dark)
    assert not convincing_parts(network, image, nothing, share=0.1, random=np.random.default_rng(1), device="cpu").any()
    crowd = np.zeros_like(dark)
    crowd[::4, ::4] = True
    assert crowd.sum() > 64
    network.seen = 0
    convincing_parts(network, image, crowd, share=0.1, random=np.random.default_rng(1), device="cpu")
    assert network.seen == 2 + 64, "the smallest parts of a crowd are tested together"


def test_a_part_that_is_little_beside_another_stays_if_it_would_do_by_itself():
    class Darkness:
        """Log-odds of artifact: by the number of dark pixels, of which some thirty suffice."""

        def binned_logits(self, batch: torch.Tensor) -> torch.Tensor:
            odds = (batch < -12).float().sum(dim=(1, 2, 3)) / 5 - 5
            return torch.stack([torch.zeros_like(odds), odds], dim=1)

    strong, enough, less = (disc((200, 200), *one) for one in (((60, 60), 10), ((150, 60), 3), ((60, 150), 2)))
    image = np.random.default_rng(0).normal(0, 0.3, strong.shape).astype(np.float32)
    image[strong | enough | less] -= 20
    kept = convincing_parts(
        cast(Any, Darkness()),
        image,
        strong | enough | less,
        share=0.1,
        random=np.random.default_rng(1),
        device="cpu",
    )
    assert np.array_equal(kept, strong | enough)


def test_a_large_shadow_out_of_focus_is_labelled_to_its_rim(tmp_path):
    """It has no structure; evidence that points at its middle takes its inside for its surroundings."""
    y, x = np.mgrid[:120, :140].astype(np.float32)

    def field(seed: int) -> np.ndarray:
        grain = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 1, (120, 140)), 1)
        lamp = 0.4 * ((y - 60) ** 2 + (x - 70) ** 2) / 60**2
        return (grain + lamp).astype(np.float32)

    shadows = [np.hypot(y - 40 - 2 * at, (x - 50 - 4 * at) / 1.3) for at in range(10)]
    spoilt = [field(20 + at) - 4 / (1 + np.exp((shadow - 26) / 3)) for at, shadow in enumerate(shadows)]
    training = split_of([*map(field, range(10)), *spoilt], [False] * 10 + [True] * 10)
    normality = fit_normality(training, tmp_path / "normality.json", share=0.8, seed=0)
    normality = replace(normality, level=None)  # its brightness alone
    evidence = (shadows[0] < 6).astype(np.float32)
    # where a fifth of its depth is left, which is what EDGES ask for
    truth = shadows[0] < 26 + 3 * np.log(4)
    first = spoilt[0].astype(np.float32)
    assert iou(drawn_to_edges(first, evidence, EDGES), truth) < 0.5
    assert iou(normality.artifacts(first, EDGES), truth) > 0.8
    clean = normality.artifacts(field(3), EDGES)
    assert clean.mean() < 0.02


def test_edges_are_unsure_but_not_where_the_image_ends():
    mask = np.zeros((20, 30), bool)
    mask[:10, :12] = True
    label = with_unsure_edges(mask, 2)
    assert set(np.unique(label)) == {UNSURE, 0, 1}
    assert label[0, 0] == 1, "the border of the image is no edge"
    assert (label[8:12, 3] == UNSURE).all()
    assert label[7, 3] == 1
    assert label[12, 3] == 0


def test_what_a_unet_finds_counts_only_where_the_label_before_pointed():
    before = np.zeros((20, 40), np.int8)
    before[5:8, 5:8] = 1
    probability = np.zeros((20, 40), np.float32)
    probability[4:12, 4:12] = 0.9
    probability[12, 4:12] = 0.4
    probability[4:12, 30:36] = 0.9
    label = learned_label(probability, before, SelfTrainingSettings(unsure=0.25))
    assert (label[4:12, 4:12] == 1).all()
    assert (label[12, 4:12] == UNSURE).all()
    assert (label[4:12, 30:36] == UNSURE).all(), "found elsewhere: nobody knows"
    assert (label == 0).sum() == label.size - 64 - 8 - 48
    assert learned_label(np.zeros_like(probability), before, SelfTrainingSettings()) is before
    hesitant = np.where(probability > 0.5, 0.6, 0.1).astype(np.float32)
    assert learned_label(hesitant, before, SelfTrainingSettings()) is before, "nowhere sure: it would teach nothing"


def test_a_painted_out_artifact_is_gone_and_the_rest_unchanged():
    truth = disc((80, 90), (40, 45), 10)
    image = field(truth, strength=8, blur=1)
    painted = painted_out(image, truth, np.random.default_rng(0), margin=4)
    far = ~disc((80, 90), (40, 45), 22)
    np.testing.assert_allclose(painted[far], image[far], atol=1e-4)
    assert abs(painted[truth].mean() - image[far].mean()) < 0.3
    assert painted[truth].std() > 0.5 * image[far].std(), "it kept the texture of the image"


def test_a_cutout_pasted_elsewhere_looks_as_before_and_brings_its_mask():
    truth = disc((80, 90), (40, 45), 10)
    image = field(truth, strength=8, blur=1)
    (cutout,) = cutouts_of(image, truth)
    clean = np.random.default_rng(5).normal(0, 0.2, (80, 90)).astype(np.float32)
    new, mask = pasted(clean, cutout, (20, 60))
    assert mask.sum() == truth.sum()
    strength = clean.std() / image[~truth].std()
    assert new[mask].mean() == pytest.approx(strength * image[truth].mean(), rel=0.1)
    assert np.abs(new - clean)[~ndimage.binary_dilation(mask, iterations=8)].max() < 1e-3
    over_the_edge, part = pasted(clean, cutout, (0, 60))
    assert 0 < part.sum() < truth.sum()
    assert over_the_edge.shape == clean.shape
    assert not pasted(clean, cutout, (-50, -50))[1].any()


def test_a_change_moves_the_mask_with_the_artifact():
    bar = np.zeros((41, 41), bool)
    bar[18:23, 5:36] = True
    cutout = Cutout(3 * bar.astype(np.float32), bar)
    turned = changed(cutout, Change(degrees=90))
    rows, columns = np.nonzero(turned.mask)
    assert np.ptp(rows) > 4 * np.ptp(columns)
    larger = changed(cutout, Change(scale=2.0, contrast=0.5))
    assert larger.mask.sum() == pytest.approx(4 * bar.sum(), rel=0.15)
    assert larger.difference[larger.mask].mean() == pytest.approx(1.5, rel=0.1)
    changes = [random_change(np.random.default_rng(seed)) for seed in range(200)]
    assert min(change.scale for change in changes) >= 0.6
    assert max(change.scale for change in changes) <= 1.6


def test_artifacts_are_pasted_on_clean_images_alone():
    cutout = Cutout(np.full((9, 9), 5, np.float32), np.ones((9, 9), bool), value=3)
    vary = pasting(np.array([False, True]), [cutout], 0.5)
    image, label = np.random.default_rng(2).normal(0, 1, (50, 50)).astype(np.float32), np.zeros((50, 50), np.int8)
    results = [vary(0, image, label, np.random.default_rng(seed)) for seed in range(100)]
    changed_ones = [(new, mask) for new, mask in results if mask.any()]
    assert 30 < len(changed_ones) < 70
    assert all(new[mask == 3].mean() > 2 for new, mask in changed_ones), "the label is where the artifact is"
    assert all(set(np.unique(mask)) == {0, 3} for _, mask in changed_ones), "and says what it said of it before"
    assert all(new.std() == pytest.approx(image.std(), rel=0.01) for new, _ in changed_ones)
    assert vary(1, image, label, np.random.default_rng(0))[0] is image


def test_counterfactuals_call_clean_what_was_painted_out_and_artifact_what_was_pasted():
    truth = disc((60, 60), (30, 30), 8)
    spoilt = field(truth, strength=8, blur=1)
    clean = np.random.default_rng(3).normal(0, 0.2, (60, 60)).astype(np.float32)
    labels = [np.zeros((60, 60), np.int8), truth.astype(np.int8)]
    vary = counterfactuals(labels, cutouts_of(spoilt, truth), 0.99)
    seen = set()
    for seed in range(60):
        image, artifact = vary(1, spoilt, True, np.random.default_rng(seed))
        seen.add(artifact)
        shown = np.abs(image - np.median(image)).max() > 4 * np.percentile(np.abs(image - np.median(image)), 80)
        assert shown == artifact, "what its label says is what the image shows"
    assert seen == {True, False}
    assert {vary(0, clean, False, np.random.default_rng(seed))[1] for seed in range(60)} == {True, False}
    unknown = counterfactuals([labels[0], labels[0]], cutouts_of(spoilt, truth), 0.99)
    assert all(unknown(1, spoilt, True, np.random.default_rng(seed))[0] is spoilt for seed in range(20))


def test_a_crop_is_drawn_around_artifacts_not_around_what_is_unsure():
    label = np.full((100, 100), UNSURE, np.int8)
    label[80:84, 80:84] = 1
    image = (label == 1).astype(np.float32)
    crops = [random_crop(image, label, 16, np.random.default_rng(seed)) for seed in range(60)]
    assert sum((target == 1).any() for _, target in crops) >= 25
    assert all(np.array_equal(crop == 1, target == 1) for crop, target in crops)


@pytest.fixture(scope="module")
def best(tiny: dict[str, Any]) -> dict[str, Any]:
    """Changes that make the preset small."""
    return tiny | {
        "refinement": {"unsure_px": 1},
        "synthesis": {"classifier_epochs": 2},
        "self_training": {"rounds": 1, "epochs": 2},
    }


@pytest.fixture(scope="module")
def finished(spotted: Path, best: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(spotted, tmp_path_factory.mktemp("best") / "unbroken", preset="best", overrides=best)


def test_every_stage_leaves_its_network(finished):
    for stage, epochs in (("first_classifier", 3), ("unet_round_0", 3), ("unet", 2), ("classifier", 2)):
        assert len((finished / stage / "history.csv").read_text().splitlines()) == epochs + 1
    result = json.loads((finished / "result.json").read_text())
    assert result["training"]["epochs"] == {"classifier": 5, "unet": 5}


def test_labels_are_those_of_the_way_that_was_chosen(spotted, finished, best, tmp_path):
    chosen = json.loads((finished / "edges.json").read_text())["edges"]
    alone = merged(best, {"refinement": {"edges": chosen}})
    same = train(spotted, tmp_path / "alone", preset="best", overrides=alone)
    drawn = sorted(path.relative_to(finished) for path in (finished / "pseudo_masks").rglob("*.png"))
    assert drawn
    assert all((same / path).read_bytes() == (finished / path).read_bytes() for path in drawn)
    assert not (same / "edges.json").exists()


def test_best_reads_no_mask_and_goes_on_after_kills_bit_for_bit(spotted, finished, best, tmp_path):
    """Killed in the second U-Net and in the second classifier; masks and test images are damaged."""
    copy, run = tmp_path / spotted.parent.name, tmp_path / "killed"
    shutil.copytree(spotted.parent, copy)
    for item in read_labels(copy / "labels.csv").images:
        if item.mask is not None:
            item.mask.path.write_bytes(b"not an image")
        if item.split == "test":
            item.path.write_bytes(b"not an image")
    code = (
        "import sys, json, pathlib; from artseg_models.methods import train; "
        "train(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), preset='best', overrides=json.loads(sys.argv[3]))"
    )
    for stage in ("unet", "classifier"):
        arguments = [sys.executable, "-c", code, str(copy / "labels.csv"), str(run), json.dumps(best)]
        process = subprocess.Popen(arguments)
        deadline = time.monotonic() + 120
        while not (run / stage / "checkpoint.pt").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (run / "result.json").exists(), "the run ended before it could be killed"
    train(copy / "labels.csv", run, preset="best", overrides=best)
    for network in ("classifier", "unet"):
        states = [torch.load(folder / network / "network.pt", weights_only=True) for folder in (run, finished)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    texts = [(folder / "result.json").read_text() for folder in (run, finished)]
    assert texts[0].replace('"killed"', '"unbroken"') == texts[1]


def test_the_gate_is_chosen_by_changed_validation_images_too(finished, spotted, best, tmp_path, monkeypatch):
    """As many as there are images, made of the validation split alone, and some of them turned into the other class."""
    run, seen = tmp_path / "unbroken", []
    shutil.copytree(finished, run)
    (run / "result.json").unlink()

    def choose(probabilities: np.ndarray, artifact: np.ndarray, *, trials: Sequence[tuple[float, bool]]) -> float:
        seen.append((artifact, [is_artifact for _, is_artifact in trials]))
        return best_gate_threshold(probabilities, artifact, trials=trials)

    monkeypatch.setattr("artseg_models.methods.runs.best_gate_threshold", choose)
    train(spotted, run, preset="best", overrides=best)
    plain = [item.label == "artifact" for item in read_labels(run / "splits.csv").of_split("validation")]
    ((real, made),) = seen
    assert list(real) == plain
    assert len(made) == len(plain)
    assert made != plain
    assert (run / "result.json").read_text() == (finished / "result.json").read_text()


def test_a_few_drawn_masks_join_and_only_as_many_as_there_are(spotted, tiny, tmp_path):
    """The classifier stays as it is, the U-Net learns otherwise; masks of validation and test images are not read."""
    copy = tmp_path / spotted.parent.name
    shutil.copytree(spotted.parent, copy)
    for item in read_labels(copy / "labels.csv").images:
        if item.mask is not None and item.split != "train":
            item.mask.path.write_bytes(b"not an image")
    few = train(copy / "labels.csv", tmp_path / "few", preset="quick", overrides=tiny | {"masks": 3})
    none = train(copy / "labels.csv", tmp_path / "none", preset="quick", overrides=tiny)
    for network, same in (("classifier", True), ("unet", False)):
        assert ((few / network / "network.pt").read_bytes() == (none / network / "network.pt").read_bytes()) == same
    with pytest.raises(ArtSegError, match="at least 9 artifact images"):
        train(copy / "labels.csv", tmp_path / "many", preset="quick", overrides=tiny | {"masks": 9})


def test_more_masks_than_there_are_are_refused_before_anything_is_written(spotted, tmp_path):
    command = ["train", str(spotted), "--out", str(tmp_path / "run"), "--masks", "9"]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, ArtSegError)
    assert "at least 9 artifact images of the train split" in str(done.exception)
    assert "got 8" in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_the_training_sheet_shows_the_classifier_before_counterfactuals_first(finished, tmp_path, monkeypatch):
    titles: list[str] = []

    def keep(figure: Figure, path: Path) -> None:
        upper = figure.subfigs[0]
        titles.extend(axes.get_title() for axes in upper.axes)

    monkeypatch.setattr("artseg_models.report.training.save_figure", keep)
    write_training_sheet(finished, tmp_path / "training.png")
    assert titles == [
        "Classifier before it saw counterfactuals",
        "Classifier: clean or artifact",
        "U-Net before round 1 of self-training",
        "U-Net: artifact pixels",
    ]


def test_images_are_suggested_by_doubt_one_of_a_group_and_none_that_has_a_mask(finished, spotted, tmp_path):
    with pytest.raises(ArtSegError, match="all have one"):
        suggest(finished)
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    images = read_labels(run / "splits.csv").images
    write_labels(run / "splits.csv", [dataclasses.replace(item, mask=None, group="one") for item in images])
    assert len(suggest(run)) == 1, "near-duplicates teach the same"
    write_labels(run / "splits.csv", [dataclasses.replace(item, mask=None) for item in images])
    done = CliRunner().invoke(app, ["suggest", str(run), "-n", "3", "--out", str(tmp_path / "order.csv")])
    assert done.exit_code == 0, done.output
    with open(tmp_path / "order.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    gains = [float(row["gain"]) for row in rows]
    assert len(rows) == 3
    assert gains == sorted(gains, reverse=True)
    label_of = {str(item.path.resolve()): item.label for item in images}
    assert [label_of[row["image"]] for row in rows] == ["artifact"] * 3, "whole paths, without detours"


def test_doubt_is_unsure_pixels_and_departure_from_what_was_learned():
    learned = disc((30, 30), (15, 15), 6)
    sure = np.where(learned, 0.99, 0.01).astype(np.float32)
    unsure, differs = doubt(sure, learned, 0.5)
    assert unsure < 0.3
    assert differs == 0
    assert doubt(np.full((30, 30), 0.45, np.float32), learned, 0.5) == (1.0, 1.0)
    assert doubt(np.roll(sure, 12, 0), learned, 0.5)[1] > 0.9


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_a_temperature_makes_over_and_underconfident_logits_right(factor):
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, 20_000)
    truth = random.random(20_000) < 1 / (1 + np.exp(-logits))
    assert best_calibration(factor * logits, truth) == (pytest.approx(factor, rel=0.06), 0)
    assert best_calibration(logits, np.ones(20_000, bool)) == (1, 0)


@pytest.mark.parametrize("offset", [-1.5, 0.0, 2.0])
def test_an_offset_makes_logits_right_that_lean_to_one_side(offset):
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, 20_000)
    truth = random.random(20_000) < 1 / (1 + np.exp(-logits))
    found = best_calibration(2 * (logits - offset), truth, offset=True)
    assert found.temperature == pytest.approx(2, rel=0.06)
    assert found.offset == pytest.approx(offset, abs=0.06)


def test_what_counts_less_is_believed_less():
    """Of the pixels at logit 0 half are marked; where the others count a third, three of four are artifact."""
    truth = np.arange(4000) % 2 == 0
    found = best_calibration(np.zeros(4000), truth, weights=np.where(truth, 1.0, 1 / 3), offset=True)
    assert 1 / (1 + np.exp(-found.offset)) == pytest.approx(0.75, abs=0.002)


def test_a_few_images_told_right_do_not_make_a_network_infinitely_sure():
    logits = np.array([-3.0, -2.0, -2.5, 2.0, 3.0, 2.5])
    few, _ = best_calibration(logits, logits > 0)
    assert 0.4 < few < 1, "surer than it was"
    many, _ = best_calibration(np.tile(logits, 1000), np.tile(logits > 0, 1000))
    assert many < few / 2


def test_both_networks_are_calibrated_and_keep_what_training_left(finished):
    for network, last in (("classifier", "fc"), ("unet", "head")):
        kept, used = (
            torch.load(finished / network / file, weights_only=True) for file in ("uncalibrated.pt", "network.pt")
        )
        ratio = kept[f"{last}.weight"] / used[f"{last}.weight"]
        assert ratio.std() < 1e-3 * ratio.mean(), "one temperature for all"
        assert 0.09 < float(ratio.mean()) < 11
        moved = used[f"{last}.bias"] - kept[f"{last}.bias"] / ratio.mean()
        assert (moved.abs().max() > 1e-4) == (network == "unet"), "only the U-Net's lean to one side"
        others = [key for key in kept if not key.startswith(f"{last}.")]
        assert all(torch.equal(kept[key], used[key]) for key in others)


@pytest.mark.parametrize(
    ("options", "preset"), [((), "best"), (("--preset", "quick"), "quick"), (("--method", "padim"), "quick")]
)
def test_best_is_what_artseg_train_takes_where_there_is_one(options, preset, monkeypatch, tmp_path):
    asked: dict[str, Any] = {}

    def keep(labels: Path, out: Path, **settings: Any) -> Path:
        asked.update(settings)
        raise ArtSegError("enough")

    monkeypatch.setattr("artseg_models.methods.train", keep)
    CliRunner().invoke(app, ["train", "labels.csv", "--out", str(tmp_path / "run"), *options])
    assert asked["preset"] == preset


def test_best_is_for_the_methods_that_learn_clean_against_artifact_pixels():
    assert configure("best").refinement.edges == "either"
    assert configure("quick").refinement.edges == "evidence"
    # what labels are held against is trained as long
    assert configure("best", method="unet").unet.schedule == configure("best").unet.schedule
    with pytest.raises(ArtSegError, match="paper, quick"):
        configure("best", method="padim")
