"""Simulated fields: the truth is true, artifacts disturb every channel, and nothing else gives them away."""

from __future__ import annotations

import csv
import functools
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from skimage import filters, measure
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.images import check_pixels, read_image, read_mask_image
from artseg_models.labels import check_labels, kinds_of, read_kind_mask, read_labels, read_mask
from artseg_models.simulate import (
    MOST_COVERED,
    VISIBLE_CHANGE,
    SimulatedField,
    simulate_field,
    simulate_plate,
    simulate_training_set,
)
from artseg_models.simulate.artifacts import ARTIFACTS

SHAPE = (256, 256)


@functools.lru_cache(maxsize=200)
def field_of(seed: int, kind: str | None = None, cell_density: float = 45) -> SimulatedField:
    """Simulate a field once for all tests that look at it; without a kind it is clean."""
    return simulate_field(
        seed=seed, shape=SHAPE, artifact=kind is not None, kinds=[kind] if kind else None, cell_density=cell_density
    )


def content(field: SimulatedField) -> bytes:
    arrays = (field.brightfield, field.dna, field.signal, field.artifact_mask, field.nuclei, field.cells)
    return b"".join(array.tobytes() for array in (*arrays, field.signal_truth))


def test_the_same_seed_gives_the_same_bytes(repository: Path) -> None:
    once = content(simulate_field(seed=3, shape=SHAPE, artifact=True))
    assert content(simulate_field(seed=3, shape=SHAPE, artifact=True)) == once
    assert content(simulate_field(seed=4, shape=SHAPE, artifact=True)) != once
    # in a process of its own too, where nothing was drawn before
    script = (
        "import hashlib; from artseg_models.simulate import simulate_field\n"
        f"field = simulate_field(seed=3, shape={SHAPE}, artifact=True)\n"
        "print(hashlib.sha256(field.brightfield.tobytes() + field.dna.tobytes()).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    field = simulate_field(seed=3, shape=SHAPE, artifact=True)
    assert done.stdout.strip() == hashlib.sha256(field.brightfield.tobytes() + field.dna.tobytes()).hexdigest()


@pytest.mark.parametrize("shape", [(512, 512), (96, 257), (33, 32)])
def test_fields_have_the_shape_and_types_promised(shape: tuple[int, int]) -> None:
    field = simulate_field(seed=1, shape=shape, artifact=False)
    for image in (field.brightfield, field.dna, field.signal):
        assert (image.shape, image.dtype) == (shape, np.uint16)
        check_pixels(image, source="field")
    assert (field.artifact_mask.shape, field.artifact_mask.dtype) == (shape, np.bool_)
    assert (field.nuclei.dtype, field.cells.dtype) == (np.int32, np.int32)


def test_impossible_fields_are_refused() -> None:
    with pytest.raises(ArtSegError, match="at least 32 pixels"):
        simulate_field(seed=1, shape=(31, 100), artifact=False)
    with pytest.raises(ArtSegError, match="no artifacts named ghost; choose from dust"):
        simulate_field(seed=1, artifact=True, kinds=["ghost"])


# ---- cells ----


def test_nuclei_and_cells_are_labelled_alike() -> None:
    field = simulate_field(seed=11, artifact=False)
    count = int(field.nuclei.max())
    assert count >= 10
    assert np.array_equal(np.unique(field.nuclei), np.arange(count + 1))
    assert len(field.signal_truth) == count
    # a nucleus lies in the cell of its number
    assert (field.cells[field.nuclei > 0] == field.nuclei[field.nuclei > 0]).all()
    assert field.cells.max() >= count


def test_nuclei_are_as_wide_as_said_and_can_be_found() -> None:
    widths: list[float] = []
    for seed in range(4):
        field = simulate_field(seed=seed, artifact=False, cell_density=20)
        inner = field.nuclei.copy()
        touching = np.unique(np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]]))
        inner[np.isin(inner, touching)] = 0
        widths += [one.equivalent_diameter_area for one in measure.regionprops(inner)]
        smooth = filters.gaussian(field.dna.astype(float), 1.5)
        found = measure.label(smooth > filters.threshold_otsu(smooth))
        sizes = np.bincount(found.ravel())[1:]
        assert abs(int((sizes > 60).sum()) - int(field.nuclei.max())) <= 0.25 * field.nuclei.max() + 2
    assert np.percentile(widths, 5) >= 13
    assert np.percentile(widths, 95) <= 27


def test_the_true_signal_is_what_a_clean_field_measures() -> None:
    field = simulate_field(seed=8, artifact=False)
    measured = ndimage.mean(field.signal, field.nuclei, np.arange(1, field.nuclei.max() + 1))
    np.testing.assert_allclose(measured, field.signal_truth, rtol=0.05)


def test_the_true_signal_does_not_know_of_artifacts() -> None:
    with_one = simulate_field(seed=8, artifact=True)
    without = simulate_field(seed=8, artifact=False)
    np.testing.assert_array_equal(with_one.signal_truth, without.signal_truth)
    np.testing.assert_array_equal(with_one.nuclei, without.nuclei)


def test_the_signal_follows_its_level() -> None:
    low = simulate_field(seed=8, artifact=False, signal_level=0.5)
    high = simulate_field(seed=8, artifact=False, signal_level=2.0)
    assert high.signal_truth.mean() > 2.5 * low.signal_truth.mean()
    np.testing.assert_array_equal(low.brightfield, high.brightfield)


def test_cells_are_as_faint_as_in_real_brightfield(shared_data: Path) -> None:
    real = read_image(shared_data / "pediatric_field" / "r03c03f03p01-ch1sk1fk1fl1.tiff").pixels.astype(float)

    def contrast(pixels: np.ndarray) -> float:
        """Spread of the fine detail as a share of the light; the clump's extremes do not count."""
        detail = pixels / filters.gaussian(pixels, 20) - 1
        low, high = np.percentile(detail, [5, 95])
        return float(high - low)

    # two by two pixels of the real field are about one of ours
    binned = real.reshape(540, 2, 540, 2).mean(axis=(1, 3))
    ours = [contrast(simulate_field(seed=seed, artifact=False).brightfield.astype(float)) for seed in range(4)]
    assert 0.4 < np.median(ours) / contrast(binned) < 3


# ---- artifacts ----


def test_clean_fields_have_none() -> None:
    field = simulate_field(seed=2, shape=SHAPE, artifact=False)
    assert field.kinds == ()
    assert not field.artifact_mask.any()


@pytest.mark.parametrize("kind", list(ARTIFACTS))
def test_the_mask_is_where_the_light_changes(kind: str) -> None:
    for seed in range(30, 36):
        spoilt, clean = field_of(seed, kind), field_of(seed)
        assert set(spoilt.kinds) == {kind}
        assert 0 < spoilt.artifact_mask.mean() <= MOST_COVERED
        change = np.abs(spoilt.brightfield.astype(float) / clean.brightfield - 1)
        near = ndimage.binary_dilation(spoilt.artifact_mask, iterations=3)
        # noise grows and shrinks with the light, so pixels outside may differ a little, never visibly
        assert np.percentile(change[~near], 99.9) < 1.3 * VISIBLE_CHANGE
        edge = spoilt.artifact_mask & ~ndimage.binary_erosion(spoilt.artifact_mask, iterations=2)
        assert np.median(change[edge]) > 0.5 * VISIBLE_CHANGE
        assert change[spoilt.artifact_mask].max() > VISIBLE_CHANGE


def test_masks_by_kind_make_up_the_mask() -> None:
    shared = 0
    for seed in range(8):
        # many artifacts in little room: kinds overlap
        field = simulate_field(seed=(5, seed), shape=SHAPE, artifact=True, cell_density=5, areas=[1500.0] * 8)
        assert set(field.kind_masks) == set(field.kinds)
        stacked = np.stack(list(field.kind_masks.values()))
        assert (stacked.dtype, stacked.shape[1:]) == (np.bool_, SHAPE)
        assert np.array_equal(stacked.any(axis=0), field.artifact_mask)
        shared += int((stacked.sum(axis=0) > 1).sum())
        for kind, mask in field.kind_masks.items():
            brought = sum(area for one, area in zip(field.kinds, field.artifact_areas, strict=True) if one == kind)
            others = np.any([other for name, other in field.kind_masks.items() if name != kind], axis=0)
            assert np.count_nonzero(mask & ~others) <= brought <= np.count_nonzero(mask)
    assert shared > 0
    alone = field_of(3, "dust")
    assert np.array_equal(alone.kind_masks["dust"], alone.artifact_mask)
    assert field_of(3).kind_masks == {}


@pytest.mark.parametrize("kind", list(ARTIFACTS))
def test_artifacts_act_on_every_channel(kind: str) -> None:
    changes = {"dna": 0.0, "signal": 0.0}
    for seed in range(30, 36):
        spoilt, clean = field_of(seed, kind), field_of(seed)
        for channel in changes:
            before = getattr(clean, channel).astype(float)
            after = getattr(spoilt, channel).astype(float)
            change = np.abs(ndimage.gaussian_filter(after - before, 2))[spoilt.artifact_mask]
            changes[channel] = max(changes[channel], float(np.percentile(change, 99)) / float(before.mean()))
    assert min(changes.values()) > 0.1, changes


def false_nuclei(seed: int, kind: str) -> int:
    """How many more objects a nucleus segmentation finds because of artifacts."""

    def found(dna: np.ndarray) -> int:
        smooth = filters.gaussian(dna.astype(float), 1.5)
        cutoff = 0.4 * filters.threshold_otsu(smooth) + 0.6 * np.median(smooth)
        return int((np.bincount(measure.label(smooth > cutoff).ravel())[1:] > 60).sum())

    return found(field_of(seed, kind, 15).dna) - found(field_of(seed, None, 15).dna)


def test_dead_clumps_make_false_nuclei() -> None:
    assert np.mean([false_nuclei(seed, "dead clump") for seed in range(8)]) >= 1


def test_dust_takes_signal_away() -> None:
    losses: list[float] = []
    for seed in range(30, 46):
        spoilt, clean = field_of(seed, "dust"), field_of(seed)
        under = spoilt.artifact_mask & (clean.cells > 0)
        if under.sum() > 60:
            losses.append(float(spoilt.signal[under].mean()) / float(clean.signal[under].mean()))
    assert len(losses) >= 3
    # grit takes much, flakes that let light through take little, and some dust glows
    assert np.percentile(losses, 30) < 0.85
    assert np.median(losses) < 0.95


def test_sizes_go_from_tiny_to_a_fifth_of_the_field() -> None:
    masks = [simulate_field(seed=(5, seed), shape=SHAPE, artifact=True).artifact_mask for seed in range(40)]
    areas = [float(mask.mean()) for mask in masks]
    assert min(areas) < 0.01
    assert 0.15 < max(areas) <= MOST_COVERED


def test_brightness_does_not_give_the_label_away() -> None:
    """A clean and a spoilt set must overlap in the plain statistics of whole images."""
    sets = {
        artifact: np.array(
            [
                [image.mean(), np.median(image)]
                for seed in range(30)
                for image in [simulate_field(seed=(6, seed, artifact), shape=(128, 128), artifact=artifact).brightfield]
            ]
        )
        for artifact in (False, True)
    }
    for column in range(2):
        clean, spoilt = sets[False][:, column], sets[True][:, column]
        # the chance that a spoilt field has the higher value: 0.5 says nothing
        order = np.mean(spoilt[:, None] > clean[None, :])
        assert 0.3 < order < 0.7


# ---- sets on disk ----


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_training_set_is_sound_and_repeats(tmp_path: Path) -> None:
    labels_file = simulate_training_set(tmp_path / "a", fields=24, shape=(96, 112), seed=5)
    simulate_training_set(tmp_path / "b", fields=24, shape=(96, 112), seed=5)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    report = check_labels(labels_file)
    assert (report.errors, report.warnings) == ([], [])
    assert dict(report.sizes) == {(112, 96): 24}
    assert dict(report.pixel_sizes_um) == {0.6: 24}
    labels = read_labels(labels_file)
    assert sum(image.label == "artifact" for image in labels.images) == 12
    assert len({image.group for image in labels.images}) == 12
    for split in ("train", "validation", "test"):
        assert {image.label for image in labels.of_split(split)} == {"clean", "artifact"}
    for image in labels.images:
        assert read_mask(image, shape=(96, 112)).any() == (image.label == "artifact")
        assert image.label not in image.path.name


def test_a_training_set_of_some_kinds_names_them_and_has_their_masks(tmp_path: Path) -> None:
    command = ["simulate", "training", str(tmp_path), "--fields", "16", "--side", "128", "--artifact-fraction", "0.75"]
    done = CliRunner().invoke(app, [*command, "--kinds", "dust, dead clump,dust,bubble"])
    assert done.exit_code == 0, done.output
    images = read_labels(tmp_path).images
    spoilt = [image for image in images if image.label == "artifact"]
    assert len(spoilt) == 12
    assert kinds_of(images) == ("bubble", "dead clump", "dust")
    assert max(len(image.kinds) for image in spoilt) > 1
    for image in spoilt:
        masks = [read_kind_mask(image, kind, shape=(128, 128)) for kind in image.kinds]
        assert all(mask.any() for mask in masks)
        assert np.array_equal(np.any(masks, axis=0), read_mask(image, shape=(128, 128)))
        for kind in image.kinds:
            assert image.kind_masks[kind].path.name == f"{image.path.stem}_{kind.replace(' ', '-')}.png"
    report = check_labels(tmp_path)
    assert (report.errors, report.without_kind, report.kind_masks) == ([], 0, 12)


def test_a_training_set_of_all_kinds_names_none(tmp_path: Path) -> None:
    simulate_training_set(tmp_path, fields=4, shape=(96, 96))
    assert (tmp_path / "labels.csv").read_text().splitlines()[0] == "image,label,split,group,mask"
    assert len(list((tmp_path / "masks").iterdir())) == 2


@pytest.mark.parametrize(("kinds", "says"), [("ghost,dust", "no artifacts named ghost; choose"), (" ,", "got none")])
def test_kinds_that_are_not_there_are_refused(kinds: str, says: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["simulate", "training", str(tmp_path / "set"), "--kinds", kinds])
    assert isinstance(done.exception, ArtSegError)
    assert says in str(done.exception)
    assert not (tmp_path / "set").exists()


def test_a_plate_carries_its_truth(tmp_path: Path) -> None:
    folder = simulate_plate(tmp_path / "plate", wells=3, fields_per_well=2, shape=(160, 160), seed=2)
    with open(folder / "truth.csv", encoding="utf-8", newline="") as opened:
        truth = list(csv.DictReader(opened))
    with open(folder / "truth_nuclei.csv", encoding="utf-8", newline="") as opened:
        nuclei = list(csv.DictReader(opened))
    with open(folder / "layout.csv", encoding="utf-8", newline="") as opened:
        doses = {row["well"]: float(row["dose"]) for row in csv.DictReader(opened)}
    assert list(doses) == ["A01", "A02", "A03"]
    assert doses["A01"] == 0 < doses["A02"] < doses["A03"]
    assert [(row["well"], row["site"]) for row in truth] == [(well, site) for well in doses for site in "12"]
    assert sum(row["kinds"] != "" for row in truth) == 3
    for row in truth:
        name = f"{row['well']}_s{row['site']}"
        for channel in ("brightfield", "dna", "signal"):
            assert read_image(folder / f"{name}_{channel}.tiff").pixels.dtype == np.uint16
        mask = read_mask_image(folder / "truth" / f"{name}_artifacts.tiff")
        assert set(np.unique(mask)) <= {0, 255}
        assert float(row["artifact_area_fraction"]) == pytest.approx(float((mask > 0).mean()), abs=1e-6)
        labels = read_mask_image(folder / "truth" / f"{name}_nuclei.tiff")
        rows = [one for one in nuclei if (one["well"], one["site"]) == (row["well"], row["site"])]
        assert int(row["nuclei"]) == labels.max() == len(rows)
        assert float(row["mean_true_signal"]) == pytest.approx(
            np.mean([float(one["true_signal"]) for one in rows]), abs=0.01
        )
        for one in rows:
            own = labels == int(one["nucleus"])
            assert int(one["area_px"]) == own.sum()
            assert float(one["covered"]) == pytest.approx(float((mask[own] > 0).mean()), abs=1e-3)
            assert float(one["y"]) == pytest.approx(float(np.nonzero(own)[0].mean()), abs=0.01)
    by_well = [
        np.mean([float(one["true_signal"]) for one in nuclei if one["well"] == well]) for well in ("A01", "A02", "A03")
    ]
    assert by_well[0] < 0.7 * by_well[1]
    assert by_well[1] < 1.3 * by_well[2]


def test_impossible_sets_are_refused(tmp_path: Path) -> None:
    for options in ({"fields": 0}, {"seed": -1}, {"artifact_fraction": 1.5}):
        with pytest.raises(ArtSegError, match="Expected"):
            simulate_training_set(tmp_path, **options)  # type: ignore[arg-type]
    with pytest.raises(ArtSegError, match="at most 96 wells"):
        simulate_plate(tmp_path, wells=97)
    assert not list(tmp_path.iterdir())


def test_the_commands_write_sets(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["simulate", "training", str(tmp_path / "t"), "--fields", "3", "--side", "64", "--artifact-fraction", "0.4"],
    )
    assert result.exit_code == 0, result.output
    assert [image.label for image in read_labels(tmp_path / "t").images].count("artifact") == 1
    result = CliRunner().invoke(
        app, ["simulate", "plate", str(tmp_path / "p"), "--wells", "1", "--fields-per-well", "1", "--side", "64"]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "p" / "A01_s1_brightfield.tiff").is_file()
    assert CliRunner().invoke(app, ["simulate", "plate", str(tmp_path / "p"), "--side", "8"]).exit_code == 2


def test_every_knob_of_a_plate_has_its_effect(tmp_path: Path) -> None:
    def plate(name: str, *changed: str) -> Path:
        given = ["--wells", "2", "--fields-per-well", "1", "--side", "48", *changed]  # the last of a knob counts
        result = CliRunner().invoke(app, ["simulate", "plate", str(tmp_path / name), *given])
        assert result.exit_code == 0, result.output
        return tmp_path / name

    def fields(folder: Path) -> list[str]:
        return sorted(path.name.removesuffix("_dna.tiff") for path in folder.glob("*_dna.tiff"))

    help_page = CliRunner().invoke(app, ["simulate", "plate", "--help"], env={"COLUMNS": "200"}).output
    knobs = set(re.findall(r"--(?!no-|help)[a-z-]+", help_page))
    assert knobs == {"--wells", "--fields-per-well", "--side", "--seed", "--artifact-fraction", "--ome"}

    usual = plate("usual")
    assert files(plate("again")) == files(usual)
    assert fields(plate("wells", "--wells", "3")) == ["A01_s1", "A02_s1", "A03_s1"]
    assert fields(plate("sites", "--fields-per-well", "2")) == ["A01_s1", "A01_s2", "A02_s1", "A02_s2"]
    other = plate("seed", "--seed", "1")
    assert fields(other) == fields(usual)
    assert files(other)["A01_s1_brightfield.tiff"] != files(usual)["A01_s1_brightfield.tiff"]
    spoilt = plate("spoilt", "--artifact-fraction", "1")
    assert all(read_mask_image(path).any() for path in (spoilt / "truth").glob("*_artifacts.tiff"))
    larger = plate("larger", "--side", "64", "--ome")
    with tifffile.TiffFile(larger / "ome" / "A01_s1.ome.tiff") as opened:
        series = opened.series[0]
        assert (opened.is_ome, series.axes, series.shape, series.dtype) == (True, "CYX", (3, 64, 64), np.uint16)
        np.testing.assert_array_equal(series.asarray()[1], read_image(larger / "A01_s1_dna.tiff").pixels)
