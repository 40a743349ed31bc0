"""Training from image-level labels: what it learns, what it never reads, how it goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from artseg_models.errors import ArtSegError
from artseg_models.images import read_image
from artseg_models.labels import read_labels
from artseg_models.methods import configure, train
from artseg_models.report.training import write_training_sheet
from artseg_models.training.configuration import parse_overrides
from artseg_models.training.cutoffs import best_gate_threshold
from artseg_models.training.evidence import pseudo_label
from artseg_models.training.loop import one_cycle_rate
from artseg_models.training.sampling import balanced_draw, class_weights, random_crop


def weights(run: Path, network: str) -> dict[str, torch.Tensor]:
    return torch.load(run / network / "network.pt", weights_only=True)


def assert_same_weights(one: Path, other: Path) -> None:
    for network in ("classifier", "unet"):
        first, second = weights(one, network), weights(other, network)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def finished(spotted: Path, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(spotted, tmp_path_factory.mktemp("runs") / "unbroken", preset="quick", overrides=tiny)


def test_a_run_holds_what_others_need(finished):
    result = json.loads((finished / "result.json").read_text())
    assert result["unet"] == {"width": 4, "levels": 3, "binning": 2}
    assert result["classifier"] == {"depth": 10, "width": 4, "binning": 2, "layers": 4, "positions": 0}
    assert 0 <= result["cutoff"] <= 1
    assert 0 <= result["gate_threshold"] <= 1
    assert result["training"]["counts"]["train"] == {"clean": 8, "artifact": 8}
    assert read_image(finished / "sample.tiff").pixels.shape == (96, 80)
    for network in ("classifier", "unet"):
        assert len((finished / network / "history.csv").read_text().splitlines()) == 4
    assert len(list((finished / "pseudo_masks" / "train").iterdir())) == 8
    assert not (finished / "cache").exists()


def test_masks_and_test_images_are_never_read(spotted, finished, tiny, tmp_path):
    """Without any mask or test image on the disk, the same weights come out."""
    copy = tmp_path / "no_masks"
    shutil.copytree(spotted.parent, copy)
    for item in read_labels(copy / "labels.csv").images:
        if item.mask is not None:
            item.mask.path.write_bytes(b"not an image")
        if item.split == "test":
            item.path.write_bytes(b"not an image")
    run = train(copy / "labels.csv", tmp_path / "run", preset="quick", overrides=tiny)
    assert_same_weights(run, finished)


def test_a_killed_training_ends_bit_for_bit_as_an_unbroken_one(spotted, finished, tiny, tmp_path):
    """SIGKILL in the classifier, then in the U-Net; the third call finishes."""
    run = tmp_path / "killed"
    code = (
        "import sys, json, pathlib; from artseg_models.methods import train; "
        "train(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), preset='quick', overrides=json.loads(sys.argv[3]))"
    )
    for stage in ("classifier", "unet"):
        process = subprocess.Popen([sys.executable, "-c", code, str(spotted), str(run), json.dumps(tiny)])
        deadline = time.monotonic() + 120
        checkpoint = run / stage / "checkpoint.pt"
        while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (run / "result.json").exists(), "the run ended before it could be killed"
    train(spotted, run, preset="quick", overrides=tiny)
    assert_same_weights(run, finished)
    assert (run / "result.json").read_text().replace('"killed"', '"unbroken"') == (finished / "result.json").read_text()


def test_a_finished_run_is_not_trained_again(spotted, finished, tiny):
    before = (finished / "unet" / "network.pt").stat().st_mtime_ns
    train(spotted, finished, preset="quick", overrides=tiny)
    assert (finished / "unet" / "network.pt").stat().st_mtime_ns == before


def test_another_runs_folder_is_refused(spotted, finished, tiny):
    with pytest.raises(ArtSegError, match="seed differ"):
        train(spotted, finished, preset="quick", seed=1, overrides=tiny)


def test_a_run_of_an_artseg_that_did_not_know_a_setting_goes_on(spotted, finished, tiny, tmp_path):
    run = tmp_path / "unbroken"
    shutil.copytree(finished, run)
    (run / "result.json").unlink()
    configuration = json.loads((run / "configuration.json").read_text())
    del configuration["kinds"], configuration["refinement"]["edges"]
    (run / "configuration.json").write_text(json.dumps(configuration))
    train(spotted, run, preset="quick", overrides=tiny)
    assert (run / "result.json").read_text() == (finished / "result.json").read_text()
    (run / "result.json").unlink()
    with pytest.raises(ArtSegError, match="refinement differ"):
        train(spotted, run, preset="quick", overrides={**tiny, "refinement": {"edges": "contrast"}})


def test_a_folder_with_other_files_is_refused(spotted, tiny, tmp_path):
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(ArtSegError, match="holds other files"):
        train(spotted, tmp_path, preset="quick", overrides=tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_one_class_only_is_refused(spotted, tiny, tmp_path):
    lines = spotted.read_text().splitlines()
    kept = spotted.with_name("clean_only.csv")
    kept.write_text("\n".join(line for line in lines if ",artifact," not in line))
    with pytest.raises(ArtSegError, match="expected clean and artifact images"):
        train(kept, tmp_path / "run", preset="quick", overrides=tiny)
    assert not (tmp_path / "run").exists()


def test_the_paper_preset_is_the_papers(tiny):
    paper = configure("paper")
    assert (paper.classifier.depth, paper.classifier.width) == (50, 64)
    assert (paper.unet.width, paper.unet.levels, paper.binning) == (64, 5, 1)
    for schedule in (paper.classifier.schedule, paper.unet.schedule):
        assert (schedule.epochs, schedule.learning_rate, schedule.factor, schedule.patience) == (150, 0.002, 0.1, 10)
    assert (paper.scorecam.cutoff, paper.scorecam.layer, paper.scorecam.mode) == (0.05, 4, "exact")
    assert (paper.cutoff, paper.smallest_artifact_px) == (0.001, 500)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"unet": {"widht": 3}}, r"this method has no setting unet\.widht \(did you mean unet\.width\?\)"),
        ({"unet": {"epochs": 3}}, r"no setting unet\.epochs \(did you mean unet\.schedule\.epochs\?\)"),
        ({"schedule": {"epochs": 3}}, r"schedule\.epochs \(did you mean unet\.schedule\.epochs or classifier\."),
        ({"mask": 3}, r"no setting mask \(did you mean masks\?\)"),
        ({"nonsense": 3}, r"this method has no setting nonsense\."),
        ({"classifier": {"depth": 12}}, r"classifier\.depth: Input should be 10, 18, 34 or 50 \(got 12\)"),
        ({"scorecam": {"cutoff": {"x": 1}}}, r"scorecam\.cutoff"),
        (
            {"scorecam": {"source": "positions"}},
            "used: scorecam.source=positions needs a classifier that pools few: set",
        ),
        ({"classifier": {"layers": 2}, "scorecam": {"layer": 3}}, "scorecam.layer=3 is beyond classifier.layers=2"),
        ({"classifier": {"layers": 3}, "scorecam": {"mode": "feature"}}, "feature needs classifier.layers=4"),
    ],
)
def test_wrong_settings_are_named(overrides, message):
    with pytest.raises(ArtSegError, match=message):
        configure("quick", overrides=overrides)


def test_a_setting_of_another_method_is_told_as_such():
    with pytest.raises(ArtSegError, match=r"this method has no setting kinds\. See") as caught:
        configure("quick", method="padim", overrides={"kinds": True})
    assert "Extra inputs" not in str(caught.value)


def test_settings_are_read_as_typed():
    assert parse_overrides(["unet.schedule.epochs=30", "unet.width=8", "device=cpu"]) == {
        "unet": {"schedule": {"epochs": 30}, "width": 8},
        "device": "cpu",
    }
    with pytest.raises(ArtSegError, match="NAME=VALUE"):
        parse_overrides(["unet.width"])


def test_sampling_draws_as_many_clean_as_artifact_images():
    artifact = np.arange(100) < 7
    random = np.random.default_rng(0)
    draws = [balanced_draw(artifact, "sample", random) for _ in range(200)]
    assert all(artifact[draw].sum() == 7 and len(draw) == 14 for draw in draws)
    assert set(np.concatenate(draws)) == set(range(100)), "in the end every image takes part"
    assert sorted(balanced_draw(artifact, "none", random)) == list(range(100))


def test_repeating_draws_as_many_images_as_there_are_and_each_of_the_rarer_alike():
    artifact = np.arange(101) < 7
    draws = [balanced_draw(artifact, "repeat", np.random.default_rng(seed)) for seed in range(20)]
    assert all(len(draw) == 102 and artifact[draw].sum() == 51 for draw in draws)
    counts = [np.bincount(draw, minlength=101) for draw in draws]
    assert all(set(count[:7]) == {7, 8} and count[7:].max() == 1 for count in counts)
    assert (sum(counts) > 0).all(), "in the end every image takes part"
    even = np.arange(10) < 5
    assert sorted(balanced_draw(even, "repeat", np.random.default_rng(0))) == list(range(10))


def test_weights_make_both_classes_count_the_same():
    artifact = np.arange(100) < 7
    clean_weight, artifact_weight = class_weights(artifact, "weight")
    assert clean_weight * 93 == pytest.approx(artifact_weight * 7)


@pytest.mark.parametrize(
    ("probabilities", "artifact", "threshold"),
    [([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 0.5), ([0.1, 0.6, 0.8, 0.9], [0, 0, 1, 1], 0.7)],
)
def test_gate_threshold_separates_the_validation_images(probabilities, artifact, threshold):
    found = best_gate_threshold(np.array(probabilities), np.array(artifact, dtype=bool))
    assert found == pytest.approx(threshold)


def test_made_images_choose_the_gate_only_where_real_ones_leave_it_open():
    real = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])
    # hundreds of hard ones cannot outvote four real ones, but say where between these
    hard = [(0.001, True)] * 300 + [(0.6, False)] * 10 + [(0.95, True)] * 10
    assert 0.6 < best_gate_threshold(*real, trials=hard) < 0.8
    assert best_gate_threshold(*real, trials=[]) == pytest.approx(0.5)


def test_one_doubtful_real_image_does_not_open_the_gate_to_painted_ones():
    """Four artifacts near 0 and four clean images near 1 are lost anyway: a few more or less tell nothing."""
    probabilities = np.concatenate([np.full(46, 0.95), np.full(4, 0.02), np.full(46, 0.05), np.full(4, 0.97), [0.3]])
    artifact = np.array([True] * 50 + [False] * 50 + [True])
    painted = [(0.4, False)] * 20 + [(0.6, True)] * 60
    assert 0.05 < best_gate_threshold(probabilities, artifact) < 0.3
    assert 0.4 < best_gate_threshold(probabilities, artifact, trials=painted) < 0.6


def test_a_gate_stays_half_way_where_no_image_tells_why_not():
    """The doubtful artifact lies at 0.2; of 40 made ones a threshold right above the clean images finds one more."""
    probabilities = np.concatenate([np.full(18, 0.05), [0.2], np.full(17, 0.99)])
    artifact = np.array([False] * 18 + [True] * 18)
    made = [(0.01, False)] * 20 + [(0.97, True)] * 12 + [(0.02, True)] * 7 + [(0.06, True)]
    assert best_gate_threshold(probabilities, artifact) == pytest.approx(0.125)
    assert best_gate_threshold(probabilities, artifact, trials=made) == pytest.approx(0.5)
    lower = [*made, *[(0.1, True)] * 20]
    assert 0.05 < best_gate_threshold(probabilities, artifact, trials=lower) < 0.1, "twenty of them do tell"


def test_pseudo_labels_by_number_and_by_otsu():
    evidence = np.zeros((20, 20), np.float32)
    evidence[5:10, 5:10] = 0.8
    evidence[0, 0] = 1
    assert pseudo_label(evidence, 0.9).sum() == 1
    assert pseudo_label(evidence, "otsu").sum() == 26
    assert not pseudo_label(np.zeros((4, 4), np.float32), 0.05).any()


def test_crops_keep_image_and_label_together_and_find_the_artifact():
    random = np.random.default_rng(0)
    label = np.zeros((300, 200), bool)
    label[280:284, 190:194] = True
    image = label.astype(np.float32)
    crops = [random_crop(image, label, 64, random) for _ in range(100)]
    assert all(crop.shape == target.shape == (64, 64) for crop, target in crops)
    assert all(np.array_equal(crop > 0, target) for crop, target in crops)
    assert sum(target.any() for _, target in crops) >= 40
    small, small_label = random_crop(image[:30, :20], label[:30, :20], 64, random)
    assert small.shape == small_label.shape == (64, 64)


def test_one_cycle_rises_to_the_peak_and_ends_near_zero():
    rates = [one_cycle_rate(share, peak=0.01) for share in np.linspace(0, 1, 301)]
    assert max(rates) == pytest.approx(0.01)
    assert int(np.argmax(rates)) == 100
    assert rates[0] == pytest.approx(0.01 / 25)
    assert rates[-1] == pytest.approx(0)


def test_other_choices_train_as_well(spotted, tiny, tmp_path):
    """Every choice that the paper leaves open, at once; the masks of the validation images are asked for here."""
    choices = tiny | {
        "balance": "weight",
        "precision": "auto",
        "choose_by": "masks",
        "scorecam": {"channel_weight": "largest", "clean_images": "own-map", "cutoff": "otsu", "clean_quantile": None},
    }
    run = train(spotted, tmp_path / "run", preset="quick", overrides=choices)
    measured = json.loads((run / "precision.json").read_text())
    faster = measured["step_seconds"]["fp32"] / measured["step_seconds"]["bf16"]
    assert measured["bf16"] == (faster >= 1.2)
    assert len(list((run / "pseudo_masks" / "train").iterdir())) == 16, "clean images have their own map"
    assert (run / "result.json").exists()


def test_choosing_by_masks_needs_masks(spotted, tiny, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(spotted.parent, copy)
    lines = [
        line if ",validation," not in line else line.rsplit(",", 1)[0] + ","
        for line in spotted.read_text().splitlines()
    ]
    (copy / "labels.csv").write_text("\n".join(lines))
    with pytest.raises(ArtSegError, match="or choose by labels"):
        train(copy / "labels.csv", tmp_path / "run", preset="quick", overrides=tiny | {"choose_by": "masks"})


def test_a_training_sheet_is_drawn(finished, tmp_path):
    write_training_sheet(finished, tmp_path / "training.png")
    with Image.open(tmp_path / "training.png") as sheet:
        shown = np.asarray(sheet.convert("RGB"))
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 100, "the sheet is empty"


def test_a_plane_and_a_pixel_size_are_taken_by_option(spotted, finished, tiny, tmp_path):
    """The same images as second plane of stacks train to the same weights."""
    copy = tmp_path / "stacks"
    shutil.copytree(spotted.parent, copy)
    for file in copy.glob("field_*.tiff"):
        image = tifffile.imread(file)
        tifffile.imwrite(file, np.stack([np.roll(image, 7), image]), metadata={"axes": "ZYX"})
    with pytest.raises(ArtSegError, match="plane"):
        train(copy / "labels.csv", tmp_path / "none", preset="quick", overrides=tiny)
    options = tiny | {"plane": 1, "pixel_size_um": 0.65}
    run = train(copy / "labels.csv", tmp_path / "run", preset="quick", overrides=options)
    assert_same_weights(run, finished)
    assert json.loads((run / "result.json").read_text())["pixel_size_um"] == 0.65


def test_classifiers_of_any_width_learn_from_sides_that_halve_evenly() -> None:
    """PyTorch 2.13 crashed for fewer than 16 channels that lie last: in a process of its own, which may."""
    script = (
        "import torch\n"
        "from artseg_models.training.classifier import new_classifier\n"
        "from artseg_models.training.configuration import ClassifierSettings\n"
        "for width in (16, 12, 4):\n"
        "    settings = ClassifierSettings(depth=10, width=width)\n"
        "    network = new_classifier(settings, binning=1, seed=0, device='cpu').train()\n"
        "    network.binned_logits(torch.randn(8, 1, 184, 248)).square().mean().backward()\n"
        "    print(width, float(network.conv1.weight.grad.abs().sum()) > 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["16", "True", "12", "True", "4", "True"]), done.stderr[-500:]
