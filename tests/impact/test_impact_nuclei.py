"""`artseg impact nuclei`: the areas, the rule of overlap, the scores by hand and on simulated fields."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage import filters, measure
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.images import write_image
from artseg_models.impact.nuclei import score_folders, score_masked, score_nuclei, summarise
from artseg_models.impact.zooms import choose_pairs, zoom_window
from artseg_models.simulate import simulate_field


def test_scores_by_hand() -> None:
    truth = np.zeros((20, 40), dtype=np.int32)
    truth[2:8, 2:8] = 1
    truth[2:8, 12:18] = 2
    truth[2:8, 30:36] = 3
    found = np.zeros_like(truth)
    found[2:8, 2:8] = 1  # right
    found[2:8, 14:20] = 2  # shifted: 24 of 48 pixels in common, an overlap of a half
    found[12:18, 30:36] = 3  # false; the third true one is missed
    mask = np.zeros(truth.shape, dtype=bool)
    mask[:, 25:] = True
    model = np.zeros(truth.shape, dtype=bool)
    model[10:, 25:] = True
    inside, outside, everywhere, removed = score_nuclei("one", truth, found, mask, {"model": model})
    assert [one.area for one in (inside, outside, everywhere, removed)] == [
        *("in artifacts", "artifact-free", "everywhere", "after removal, model"),
    ]
    assert (inside.pixel_f1, inside.object_f1, inside.nuclei, inside.true_nuclei) == (0, 0, 1, 1)
    assert outside.pixel_f1 == pytest.approx(2 * 60 / (72 + 72))
    assert (outside.object_f1, outside.nuclei, outside.true_nuclei) == (1, 2, 2)
    assert everywhere.object_f1 == pytest.approx(2 * 2 / (3 + 3))
    assert removed.object_f1 == pytest.approx(2 * 2 / (2 + 3))
    assert removed.pixel_f1 == pytest.approx(2 * 60 / (72 + 108))
    assert outside.areas_px == (36, 36)
    assert outside.solidities == (1, 1)


def test_a_nucleus_is_in_an_artifact_by_its_overlap() -> None:
    nuclei = np.zeros((10, 20), dtype=np.int32)
    nuclei[2:6, 2:12] = 1
    mask = np.zeros(nuclei.shape, dtype=bool)
    mask[:, 9:] = True  # three of its ten columns
    for overlap, inside in ((0.3, 1), (0.31, 0)):
        scores = score_nuclei("one", nuclei, nuclei, mask, {}, overlap=overlap)
        assert [one.nuclei for one in scores] == [inside, 1 - inside, 1]
    clean = score_nuclei("one", nuclei, nuclei, np.zeros_like(mask), {})
    assert math.isnan(clean[0].object_f1)
    assert clean[1].object_f1 == 1
    with pytest.raises(ArtSegError, match="make them alike"):
        score_nuclei("one", nuclei, nuclei[:5], mask, {})


def otsu_nuclei(dna: np.ndarray) -> np.ndarray:
    smooth = filters.gaussian(dna.astype(float), 1.5)
    return measure.label(smooth > 0.4 * filters.threshold_otsu(smooth) + 0.6 * np.median(smooth)).astype(np.int32)


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dead-cell clumps whose false nuclei a plain threshold takes for real ones; the last field is clean."""
    folder = tmp_path_factory.mktemp("fields")
    for number in range(5):
        spoilt = number < 4
        field = simulate_field(
            seed=(3, number),
            shape=(200, 200),
            artifact=spoilt,
            kinds=["dead clump"],
            cell_density=20,
            areas=[5000.0, 2000.0],
        )
        write_image(folder / "truth" / f"f{number}_nuclei.tiff", field.nuclei)
        write_image(folder / "brightfield" / f"f{number}_brightfield.tiff", field.brightfield)
        write_image(folder / "found" / f"f{number}_brightfield_nuclei.tiff", otsu_nuclei(field.dna))
        write_image(folder / "masks" / f"f{number}_artifacts.png", field.artifact_mask)
        if spoilt:
            write_image(folder / "model" / f"f{number}.png", np.roll(field.artifact_mask, 3, axis=0))
    return folder


def test_artifacts_harm_and_removal_helps(fields: Path, tmp_path: Path) -> None:
    arguments = ["impact", "nuclei", fields / "truth", fields / "found", "--out", tmp_path / "out"]
    arguments += ["--masks", f"true={fields / 'masks'}", "--masks", f"model={fields / 'model'}"]
    arguments += ["--images", fields / "brightfield"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "1 of 5 images have no mask 'model'" in result.output
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("area")
    for score in ("pixel_f1", "object_f1"):
        inside, outside = summary.loc["in artifacts", score], summary.loc["artifact-free", score]
        assert inside < summary.loc["everywhere", score] < outside
        assert summary.loc["after removal, model", score] == pytest.approx(outside, abs=0.1)
    assert summary.loc["in artifacts", "paper_object_f1"] == 0.28
    nuclei = pd.read_csv(tmp_path / "out" / "nuclei.csv")
    own = nuclei[nuclei.area == "artifact-free"]
    assert summary.loc["artifact-free", "area_px"] == pytest.approx(own.area_px.mean(), rel=1e-4)
    images = pd.read_csv(tmp_path / "out" / "images.csv")
    assert len(images) == 5 * 4
    assert (tmp_path / "out" / "densities.png").is_file()
    assert (tmp_path / "out" / "zooms.png").is_file()


def test_removal_by_the_true_mask_is_the_artifact_free_area(fields: Path) -> None:
    masks = {"true": fields / "masks", "again": fields / "masks"}
    table = summarise(score_folders(fields / "truth", fields / "found", masks, reference="true")[0]).set_index("area")
    for name in ("pixel_f1", "object_f1", "area_px", "solidity", "nuclei"):
        assert table.loc["after removal, again", name] == table.loc["artifact-free", name]


def test_missing_files_are_named(fields: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtSegError, match="Expected true masks as --masks true=FOLDER"):
        score_folders(fields / "truth", fields / "found", {"model": fields / "model"}, reference="true")
    with pytest.raises(ArtSegError, match="Expected the found nuclei of f0"):
        score_folders(fields / "truth", tmp_path, {"true": fields / "masks"}, reference="true")
    with pytest.raises(ArtSegError, match="has the name of an image"):
        score_folders(fields / "truth", fields / "found", {"true": tmp_path}, reference="true")
    with pytest.raises(ArtSegError, match="there are none"):
        score_folders(tmp_path, fields / "found", {"true": fields / "masks"}, reference="true")


def test_nuclei_measured_with_masks_by_the_rule_of_the_pipeline() -> None:
    truth = np.zeros((30, 60), dtype=np.int32)
    for number, x in enumerate((2, 16, 32, 48), start=1):
        truth[5:13, x : x + 8] = number
    mask = np.zeros(truth.shape, dtype=bool)
    mask[:, 38:50] = True  # touches the third and the fourth
    found = np.where(truth <= 2, truth, 0)
    found[20:24, 2:6] = 5  # a false one
    score = score_masked("one", truth, found, mask, area="measured with masks, true")
    assert (score.nuclei, score.true_nuclei) == (3, 2)
    assert score.object_f1 == pytest.approx(2 * 2 / (3 + 2))
    # the touched nuclei count neither as missed nor as false pixels
    assert score.pixel_f1 == pytest.approx(2 * 128 / (128 + 128 + 16))
    assert score.areas_px == (64, 64, 16)


def test_folders_of_plates_and_the_layout_of_results(fields: Path, tmp_path: Path) -> None:
    for plate in ("p1", "p2"):
        for kind, inner in (("truth", "truth"), ("found", "images"), ("masks", "")):
            target = tmp_path / kind / plate / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(fields / kind, target_is_directory=True)
    masks = {"true": tmp_path / "masks"}
    measured = {"true": tmp_path / "found"}
    scores, _ = score_folders(tmp_path / "truth", tmp_path / "found", masks, reference="true", measured=measured)
    single, _ = score_folders(fields / "truth", fields / "found", {"true": fields / "masks"}, reference="true")
    assert {one.image for one in scores} == {f"{plate}/f{number}" for plate in ("p1", "p2") for number in range(5)}
    both, one = (summarise(found).set_index("area") for found in (scores, single))
    for area in one.index:
        assert both.loc[area, "pixel_f1"] == pytest.approx(one.loc[area, "pixel_f1"])
        assert both.loc[area, "nuclei"] == 2 * one.loc[area, "nuclei"]
    assert "measured with masks, true" in both.index
    with pytest.raises(ArtSegError, match="Expected masks for model"):
        score_folders(fields / "truth", fields / "found", masks, reference="true", measured={"model": fields / "found"})


def test_zooms_show_an_artifact_and_an_area_without() -> None:
    nuclei, artifact = np.zeros((2, 100, 100), dtype=bool)
    nuclei[40:50, 10:20] = nuclei[40:50, 80:90] = True
    artifact[30:60, 70:95] = True
    free, spoilt = (zoom_window(nuclei, artifact, spoilt=wanted) for wanted in (False, True))
    assert nuclei[free].sum() == 100
    assert not artifact[free].any()
    assert (nuclei & artifact)[spoilt].sum() == 100


def test_zooms_choose_the_fields_that_artifacts_harm_most(fields: Path) -> None:
    scores, _ = score_folders(fields / "truth", fields / "found", {"true": fields / "masks"}, reference="true")
    chosen = choose_pairs(scores)
    harm = {}
    for name in {one.image for one in scores} - {"f4"}:
        inside, outside = (
            next(one for one in scores if (one.image, one.area) == (name, area))
            for area in ("in artifacts", "artifact-free")
        )
        if min(inside.true_nuclei, outside.true_nuclei) >= 1:
            harm[name] = outside.pixel_f1 - inside.pixel_f1
    assert chosen == sorted(harm, key=lambda name: -harm[name])[:2]
    assert len(chosen) == 2
