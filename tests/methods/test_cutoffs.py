"""Cutoff and smallest artifact, on maps whose best choice is plain."""

from __future__ import annotations

import numpy as np
import pytest

from artseg_models.training.cutoffs import choose_by_labels, choose_by_masks, not_told_apart


@pytest.fixture
def maps() -> list[np.ndarray]:
    """An artifact of 100 pixels at 0.65 in a rim of 0.35, one speck of 9 pixels in a clean image, and the like."""
    artifact = np.full((40, 40), 0.02, np.float32)
    artifact[8:22, 8:22] = 0.35
    artifact[10:20, 10:20] = 0.65
    clean = np.full((40, 40), 0.02, np.float32)
    clean[3:6, 3:6] = 0.75
    return [artifact, clean]


@pytest.fixture
def truth(maps: list[np.ndarray]) -> list[np.ndarray]:
    return [maps[0] > 0.5, np.zeros((40, 40), bool)]


OPEN = np.array([True, True])
LABELS = np.array([True, False])


def test_labels_choose_the_cutoff_by_pseudo_labels_and_the_size_by_images(maps, truth):
    chosen = choose_by_labels(maps, pseudo_labels=truth, artifact=LABELS, gate_open=OPEN, area_of_pixel=1)
    assert 0.35 < chosen.cutoff <= 0.65
    assert chosen.smallest_artifact_px == 20, "the smallest size at which the speck is gone"


def test_sizes_count_in_pixels_of_the_full_image(maps, truth):
    chosen = choose_by_labels(maps, pseudo_labels=truth, artifact=LABELS, gate_open=OPEN, area_of_pixel=16)
    assert chosen.smallest_artifact_px == 500, "9 binned pixels are 144 of the image, 100 are 1600"


def test_masks_choose_the_pair_with_the_best_iou(maps, truth):
    chosen = choose_by_masks(maps, masks=truth, gate_open=OPEN, area_of_pixel=1)
    assert 0.35 < chosen.cutoff <= 0.65
    assert chosen.smallest_artifact_px == 20
    wide = choose_by_masks(maps, masks=[maps[0] > 0.3, truth[1]], gate_open=OPEN, area_of_pixel=1)
    assert 0.02 < wide.cutoff <= 0.35


def test_a_closed_gate_hides_false_alarms_from_the_choice(maps, truth):
    chosen = choose_by_masks(maps, masks=truth, gate_open=LABELS, area_of_pixel=1)
    assert chosen.smallest_artifact_px == 0


def test_what_pseudo_labels_may_have_missed_speaks_less_against_a_cutoff(maps, truth):
    """A second artifact is found from 0.35 on, with the rim of the first, which no label marks, or a clean image's."""
    faint = np.full((40, 40), 0.02, np.float32)
    faint[:5, :10] = 0.35
    asked = {"pseudo_labels": [truth[0], faint > 0.3, truth[1]], "gate_open": np.full(3, True), "area_of_pixel": 1}
    shown, artifact = [maps[0], faint, maps[1] * 0], np.array([True, True, False])
    assert choose_by_labels(shown, artifact=artifact, **asked).cutoff > 0.35
    assert choose_by_labels(shown, artifact=artifact, **asked, unmarked=0.5).cutoff < 0.35
    shown[2][10:24, 10:24] = 0.35
    assert choose_by_labels(shown, artifact=artifact, **asked, unmarked=0.5).cutoff > 0.35


def test_a_closed_gate_hides_false_alarms_from_the_choice_by_labels_too(maps, truth):
    maps[1][20:40, 20:40] = 0.68  # in the clean image, surer than the artifact and larger
    behind = choose_by_labels(maps, pseudo_labels=truth, artifact=LABELS, gate_open=LABELS, area_of_pixel=1)
    assert 0.35 < behind.cutoff <= 0.65
    assert (
        choose_by_labels(
            maps, pseudo_labels=[maps[0] > 0.3, truth[1]], artifact=LABELS, gate_open=LABELS, area_of_pixel=1
        ).cutoff
        < 0.35
    )


def test_images_that_were_changed_decide_on_the_size_where_the_images_themselves_do_not(maps, truth):
    """Behind the gate the speck of 9 pixels costs nothing on clean images; where artifacts were painted out it does."""
    asked = {"pseudo_labels": truth, "artifact": LABELS, "gate_open": LABELS, "area_of_pixel": 1}
    made = [(maps[1], False), (maps[0], True)]
    assert choose_by_labels(maps, **asked).smallest_artifact_px == 0
    assert choose_by_labels(maps, **asked, trials=made).smallest_artifact_px == 20
    many = asked | {"artifact": np.tile(LABELS, 8), "gate_open": np.full(16, True), "pseudo_labels": truth * 8}
    other = [(maps[1], True), (maps[0], True)] * 8
    assert choose_by_labels(maps * 8, **many, trials=other).smallest_artifact_px == 20, "what was made comes second"


def test_of_sizes_that_no_image_tells_apart_the_smallest_is_chosen(maps, truth):
    """One of 20 clean images has an object of 400 pixels: dropping these would lose every artifact that is smaller."""
    stain = np.zeros((40, 40), np.float32)
    stain[:20, :20] = 0.9
    artifact = np.full((40, 40), 0.0, np.float32)
    artifact[:, :20] = 0.9
    shown = [artifact] * 20 + [stain, *[maps[1] * 0] * 19]
    asked = {
        "pseudo_labels": [map_ > 0.5 for map_ in shown[:20]] + [np.zeros((40, 40), bool)] * 20,
        "artifact": np.arange(40) < 20,
        "gate_open": np.full(40, True),
        "area_of_pixel": 1,
    }
    assert choose_by_labels(shown, **asked).smallest_artifact_px == 500
    assert choose_by_labels(shown, **asked, trials=[(artifact, True), (maps[1] * 0, False)]).smallest_artifact_px == 0
    painted = [(stain, False)] * 10 + [(artifact, True)] * 10
    assert choose_by_labels(shown, **asked, trials=painted).smallest_artifact_px == 500, "painted-out images do tell"


@pytest.mark.parametrize(
    ("second_wrong", "made_wrong", "as_good"),
    [
        (1, 0, [False, True]),  # real images leave both, and changed ones are for the second
        (1, 20, [True, True]),
        (5, 0, [True, False]),  # real images have told
        (5, 20, [True, False]),
    ],
)
def test_changed_images_say_only_what_real_ones_leave_open(second_wrong, made_wrong, as_good):
    """Of 40 images the first way is right on all; of 40 changed ones it is wrong on 20, the second on fewer."""
    artifact = np.arange(40) < 20
    by_way, by_way_made = np.tile(artifact, (2, 1)), np.tile(artifact, (2, 1))
    by_way[1, -second_wrong:] ^= True
    by_way_made[0, :20] ^= True
    by_way_made[1, :made_wrong] ^= True
    found = not_told_apart(by_way, artifact, by_way_made, artifact)
    assert found.tolist() == as_good


def test_given_values_are_kept(maps, truth):
    by_labels = choose_by_labels(
        maps,
        pseudo_labels=truth,
        artifact=LABELS,
        gate_open=OPEN,
        area_of_pixel=1,
        cutoff=0.001,
        smallest_artifact_px=500,
    )
    by_masks = choose_by_masks(
        maps, masks=truth, gate_open=OPEN, area_of_pixel=1, cutoff=0.001, smallest_artifact_px=500
    )
    assert by_labels == by_masks
    assert (by_labels.cutoff, by_labels.smallest_artifact_px) == (0.001, 500)
