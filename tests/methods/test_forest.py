"""A few drawn masks show how far artifacts reach: pseudo-labels of other images are drawn again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import ndimage

from artseg_models.images import read_mask_image
from artseg_models.labels import read_labels
from artseg_models.methods import configure, train
from artseg_models.methods.scorecam_unet import ScoreCAMUNetSettings
from artseg_models.report.training import write_training_sheet
from artseg_models.training.fields import Split
from artseg_models.training.forest import redrawn
from artseg_models.training.segmenter import train_unet

NAMES = ("train", "validation")


@pytest.fixture
def splits(spotted: Path, tmp_path: Path) -> dict[str, Split]:
    labels = read_labels(spotted)
    return {name: Split.read(labels.of_split(name), tmp_path / name, binning=1, plane=None) for name in NAMES}


@pytest.fixture
def wide(splits: dict[str, Split], tmp_path: Path) -> dict[str, list[np.ndarray]]:
    """Pseudo-labels that reach five pixels too far, with their evidence in the run folder."""
    labels: dict[str, list[np.ndarray]] = {}
    for name, split in splits.items():
        (tmp_path / "run" / "scorecam" / name).mkdir(parents=True)
        labels[name] = [
            ndimage.binary_dilation(split.mask(at), iterations=5) if split.artifact[at] else split.mask(at)
            for at in range(len(split))
        ]
        for at in np.flatnonzero(split.artifact):
            evidence = np.asarray(ndimage.gaussian_filter(labels[name][at].astype(np.float32), 3), np.float32)
            np.savez(tmp_path / "run" / "scorecam" / name / f"{at:06d}.npz", evidence=evidence, largest=1.0)
    return labels


def pooled(labels: list[np.ndarray], split: Split, places: list[int]) -> float:
    pairs = [(labels[at], split.mask(at)) for at in places]
    return sum((one & true).sum() for one, true in pairs) / sum((one | true).sum() for one, true in pairs)


@pytest.mark.parametrize(("share", "least"), [(0.8, 0.7), (1.0, 0.85)])
def test_labels_that_reach_too_far_are_drawn_as_the_masks_of_others(
    splits: dict[str, Split], wide: dict[str, list[np.ndarray]], tmp_path: Path, share: float, least: float
):
    """Pseudo-labels that are all wrong in the same way keep a say with a share below 1."""
    artifact = {name: [int(at) for at in np.flatnonzero(split.artifact)] for name, split in splits.items()}
    drawn = {at: splits["train"].mask(at).astype(np.int8) for at in artifact["train"][:3]}
    found = redrawn(wide, drawn, splits, tmp_path / "run", share=share, seed=0)
    for name, split in splits.items():
        others = [at for at in artifact[name] if name != "train" or at not in drawn]
        assert pooled(wide[name], split, others) < 0.55
        assert pooled(found[name], split, others) > least
        assert not any(found[name][at].any() for at in range(len(split)) if not split.artifact[at])
        written = sorted((tmp_path / "run" / "pseudo_masks" / name).glob("*.png"))
        assert [int(path.stem.split("_")[0]) for path in written] == others
        for at, path in zip(others, written, strict=True):
            assert np.array_equal(read_mask_image(path) > 0, found[name][at])
    again = redrawn(wide, drawn, splits, tmp_path / "run", share=share, seed=0)
    assert all(np.array_equal(*pair) for name in NAMES for pair in zip(found[name], again[name], strict=True))


def test_masks_without_an_artifact_change_nothing_and_say_so(
    splits: dict[str, Split], wide: dict[str, list[np.ndarray]], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    at = int(np.flatnonzero(splits["train"].artifact)[0])
    empty = {at: np.zeros(splits["train"].images.shape(at), np.int8)}
    with caplog.at_level(logging.WARNING):
        found = redrawn(wide, empty, splits, tmp_path / "run", share=0.8, seed=0)
    assert "Look at the masks" in caplog.text
    assert all(np.array_equal(*pair) for name in NAMES for pair in zip(found[name], wide[name], strict=True))


def test_a_run_learns_from_what_masks_show_and_without_them_from_its_own(
    spotted: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The classifier and its evidence are the same in all three; what masks show leaves nothing doubtful."""
    doubtful: list[np.ndarray | None] = []
    captions: list[str] = []

    def captioned(figure: Figure, path: Path) -> None:
        captions.append(figure.get_supxlabel())

    monkeypatch.setattr("artseg_models.report.training.save_figure", captioned)

    def noted(*given: Any, **named: Any) -> None:
        doubtful.append(named["doubtful"])
        train_unet(*given, **named)

    monkeypatch.setattr("artseg_models.methods.scorecam_unet.train_unet", noted)

    def labels_of(name: str, masks: int, share: float) -> dict[str, bytes]:
        overrides = tiny | {"masks": masks, "refinement": {"redrawn": share}}
        run = train(spotted, tmp_path / name, preset="quick", overrides=overrides)
        write_training_sheet(run, run / "training.png")
        return {path.name: path.read_bytes() for path in (run / "pseudo_masks").rglob("*.png")}

    own, as_they_are, shown = labels_of("own", 0, 0.8), labels_of("kept", 2, 0.0), labels_of("shown", 2, 0.8)
    assert own == as_they_are
    assert own.keys() == shown.keys()
    assert own != shown
    assert [None if one is None else int(one.sum()) for one in doubtful] == [8, 6, None]
    told = ["image-level labels alone", *["image-level labels and 2 drawn masks"] * 2]
    assert all(text in caption for text, caption in zip(told, captions, strict=True))


@pytest.mark.parametrize(("masks", "counts"), [(0, 0.3**0.5), (5, 1.0)])
def test_what_is_drawn_as_masks_show_counts_in_full_on_validation_too(masks: int, counts: float):
    settings = configure("best", overrides={"masks": masks})
    assert isinstance(settings, ScoreCAMUNetSettings)
    assert settings.unmarked_on_validation == pytest.approx(counts)
