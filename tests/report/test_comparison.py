"""Measurements with and without masks against the truth, worked by hand (see the fixtures)."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from artseg_models.errors import ArtSegError
from artseg_models.metrics import Counts
from artseg_models.report.comparison import (
    AREA,
    COUNT,
    SIGNAL,
    Comparison,
    FieldTruth,
    compare,
    mean_error,
    read_measurements,
    read_truth,
)
from artseg_models.simulate import simulate_plate


@pytest.fixture
def comparison(truth: list[FieldTruth], without: Path, masked: Path) -> Comparison:
    return compare(truth, read_measurements(without), read_measurements(masked))


def test_nuclei_cut_by_the_border_are_left_out_of_the_truth(truth: list[FieldTruth]) -> None:
    assert len(np.unique(truth[0].nuclei)) == 6  # background and five
    assert truth[0].values.count == 4
    assert truth[0].values.area_px == 100


def test_measurements_come_back_in_stored_grey_values_and_pixels(without: Path, masked: Path) -> None:
    field = read_measurements(without)["A01", "1"]
    assert field.values.count == 6
    assert field.values.area_px == pytest.approx(1000 / 6)
    assert field.values.signal == pytest.approx(14000 / 6)
    assert field.positions[4].tolist() == [90.0, 55.0]
    assert read_measurements(masked)["A01", "1"].usable == 0.75


def test_the_count_is_for_the_usable_area(comparison: Comparison) -> None:
    row = comparison.rows[0]
    assert row.without.count == 6
    assert row.masked.count == pytest.approx(4)  # three nuclei on three quarters of the field
    assert row.error(COUNT, "without") == pytest.approx(50)
    assert row.error(COUNT, "masked") == pytest.approx(0)


def test_errors_are_per_cent_of_the_truth(comparison: Comparison) -> None:
    row = comparison.rows[0]
    assert row.error(SIGNAL, "without") == pytest.approx(100 * (14000 / 6 - 1000) / 1000)
    assert row.error(SIGNAL, "masked") == pytest.approx(2)
    assert row.error(AREA, "without") == pytest.approx(100 * 2 / 3)
    assert row.error(AREA, "masked") == pytest.approx(0)
    assert mean_error(comparison.rows, SIGNAL, "masked") == pytest.approx(1)


def test_nuclei_are_told_apart_by_where_their_centres_lie(comparison: Comparison) -> None:
    assert comparison.nuclei("without", under_artifacts=True) == Counts(1, 2, 0)
    assert comparison.nuclei("masked", under_artifacts=True) == Counts(0, 0, 1)
    assert comparison.nuclei("without", under_artifacts=False) == Counts(7, 0, 0)
    assert comparison.nuclei("masked", under_artifacts=False) == Counts(7, 0, 0)
    assert comparison.outlines("without") == Counts(7, 0, 0)
    assert comparison.outlines("masked") == Counts(7, 0, 0)
    assert (comparison.false_nuclei("without"), comparison.false_nuclei("masked")) == (2, 0)


def test_a_well_pools_the_nuclei_of_its_fields(truth: list[FieldTruth], without: Path, masked: Path) -> None:
    one_well = [truth[0], FieldTruth("A01", "2", truth[1].nuclei, truth[1].artifact, truth[1].signal)]
    runs = [
        {("A01", "1"): run["A01", "1"], ("A01", "2"): run["B01", "1"]}
        for run in map(read_measurements, (without, masked))
    ]
    (well,) = compare(one_well, *runs).wells
    assert (well.truth.count, well.truth.signal) == (4, 1500)
    assert well.without.count == 5
    assert well.masked.count == pytest.approx(7 / 1.75)
    assert well.masked.signal == pytest.approx((3060 + 8000) / 7)


def test_a_field_without_nuclei_has_no_means(truth: list[FieldTruth], without: Path) -> None:
    table = without / "Nuclei.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if not line.startswith("2,")) + "\n")
    run = read_measurements(without)
    row = compare(truth, run, run).rows[1]
    assert row.without.count == 0
    assert math.isnan(row.error(SIGNAL, "without"))
    assert row.error(COUNT, "without") == 100


def test_the_truth_of_a_simulated_plate_is_read(tmp_path: Path) -> None:
    simulate_plate(tmp_path, wells=2, fields_per_well=1, shape=(160, 160), seed=3, artifact_fraction=0.5)
    fields = read_truth(tmp_path)
    assert [(field.well, field.site) for field in fields] == [("A01", "1"), ("A02", "1")]
    assert sorted(bool(field.artifact.any()) for field in fields) == [False, True]
    assert [field.dose for field in fields] == [0.0, 1.0]
    with (tmp_path / "truth_nuclei.csv").open() as table:
        rows = list(csv.DictReader(table))
    for field in fields:
        whole = set(np.unique(field.whole_nuclei).tolist()) - {0}
        own = [row for row in rows if row["well"] == field.well and int(row["nucleus"]) in whole]
        assert field.values.count == len(own)
        assert field.values.area_px == pytest.approx(np.mean([int(row["area_px"]) for row in own]))
        assert field.values.signal == pytest.approx(np.mean([float(row["true_signal"]) for row in own]))
    (tmp_path / "truth.csv").unlink()
    with pytest.raises(ArtSegError, match=r"truth\.csv"):
        read_truth(tmp_path)


def test_a_missing_field_or_column_is_named(truth: list[FieldTruth], without: Path, masked: Path) -> None:
    run = read_measurements(without)
    with pytest.raises(ArtSegError, match=r"without artifact masks .* 1 of 2 fields, the first: B01 1"):
        compare(truth, {("A01", "1"): run["A01", "1"]}, run)
    table = masked / "Nuclei.csv"
    table.write_text(table.read_text().replace("AreaShape_Area", "AreaShape_Perimeter"))
    with pytest.raises(ArtSegError, match=r"AreaShape_Area.*Nuclei\.csv"):
        read_measurements(masked)
    table.unlink()
    with pytest.raises(ArtSegError, match="ExportToSpreadsheet"):
        read_measurements(masked)
