"""Cutoffs and smallest objects on validation images."""

from __future__ import annotations

import numpy as np
import pytest

from artseg_models.metrics import count_agreement, pool
from artseg_models.predict import artifact_objects
from artseg_models.study.choose import SIZES, Tried, common_size, smallest_in, try_all


def tried(**best: float) -> Tried:
    iou = np.zeros((len(SIZES), 1))
    for size, value in best.items():
        iou[SIZES.index(int(size.removeprefix("px")))] = value
    return Tried(np.array([0.5]), iou)


@pytest.fixture
def images() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A true square of 900 pixels at 0.6, a false one of 64 at 0.9; and a clean image with a large false one."""
    map_, mask = np.full((80, 80), 0.1, np.float16), np.zeros((80, 80), bool)
    map_[10:40, 10:40], map_[60:68, 60:68] = 0.6, 0.9
    mask[10:40, 10:40] = True
    clean = np.full((80, 80), 0.1, np.float16)
    clean[0:50, 0:50] = 0.8
    return [map_, clean], [mask, np.zeros((80, 80), bool)]


def test_every_size_and_cutoff_is_scored_as_the_test_is(images: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    maps, masks = images
    valid = np.ones((80, 80), bool)
    valid[:, 62:] = False
    gate = np.array([True, False])
    found = try_all(maps, masks, gate, area_of_pixel=4, valid=valid)
    for at, cutoff in enumerate(found.cutoffs):
        for row, size in enumerate(SIZES):
            kept = artifact_objects(maps[0], cutoff=float(cutoff), smallest_artifact_px=smallest_in(size, 4)) > 0
            counts = [
                count_agreement(masks[0], kept, valid=valid),
                count_agreement(masks[1], np.zeros_like(masks[1]), valid=valid),
            ]
            assert found.iou[row, at] == pytest.approx(pool(counts).iou)


def test_the_best_cutoff_of_a_size(images: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    maps, masks = images
    found = try_all(maps, masks, np.array([True, False]), area_of_pixel=1)
    cutoff, iou = found.best(0)
    assert 0.1 < cutoff <= np.float16(0.6)
    assert iou == pytest.approx(900 / 964)
    assert found.best(100)[1] == pytest.approx(1.0)
    assert found.best(1000)[1] == pytest.approx(900 / 6400)  # only the whole image is larger
    open_gate = try_all(maps, masks, np.array([True, True]), area_of_pixel=1)
    assert open_gate.best(100)[1] == pytest.approx(900 / 3400)
    given = try_all(maps, masks, np.array([True, False]), area_of_pixel=1, cutoff=0.7)
    assert given.best(0)[0] == 0.7
    assert given.best(0)[1] == 0


def test_smallest_object_is_an_area_of_the_full_image() -> None:
    assert [smallest_in(size, 64) for size in (0, 20, 64, 65, 1000)] == [0, 1, 1, 2, 16]


def test_the_size_that_most_methods_want_wins() -> None:
    size, own = common_size(
        {
            "unet": [tried(px0=0.5, px100=0.9), tried(px0=0.6, px100=0.7)],
            "scorecam": [tried(px0=0.2, px100=0.3)],
            "padim": [tried(px0=0.99, px100=0.1)],
        }
    )
    assert size == 100
    assert own == {"unet": 100, "scorecam": 100, "padim": 0}


def test_sizes_that_change_nothing_do_not_outvote() -> None:
    same = tried(**{f"px{size}": 0.5 for size in SIZES})
    assert common_size({"a": [same], "b": [same], "c": [tried(px0=0.1, px500=0.4)]})[0] == 500
