"""`artseg impact affinity`: wells, treatments and their comparison, from every kind of input."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.images import write_image
from artseg_models.impact.affinity import compare_treatments
from artseg_models.impact.curves import curves_figure
from artseg_models.impact.dose_response import fit_hill, hill
from artseg_models.impact.wells import (
    FieldIntensity,
    average_wells,
    measure_images,
    read_layout,
    read_measurements,
    well_name,
)

DOSES = (0.0, *(10.0**power for power in range(-10, -4)))


def write_layout(path: Path, experiments: dict[str, tuple[str, float]], unit: str = "M") -> Path:
    """A row of twelve wells and more an experiment: every dose in duplicate."""
    rows = []
    for number, (experiment, (compound, true)) in enumerate(experiments.items()):
        for at in range(2 * len(DOSES)):
            rows.append(
                {
                    "well": f"{chr(65 + number)}{at + 1}",
                    "experiment": experiment,
                    "compound": compound,
                    f"concentration_{unit}": DOSES[at // 2] * {"M": 1, "nM": 1e9}[unit],
                    "true_log_ic50": true,
                }
            )
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


EXPERIMENTS = {"first": ("atropine", -8.0), "second": ("atropine", -7.8), "third": ("arecholine", -6.0)}


def fields_of(layout: Path, *, noise: float, seed: int, sites: int = 2) -> list[FieldIntensity]:
    random = np.random.default_rng(seed)
    fields: list[FieldIntensity] = []
    for place in read_layout(layout):
        signal = hill(np.array([place.log_concentration]), top=1000, bottom=100, log_ic50=place.true_log_ic50)[0]
        for _ in range(sites):
            fields.append(FieldIntensity("", place.well, 300 + signal + random.normal(0, noise), 300.0, 1.0, 0.0))
    return fields


# ---- layout and wells ----


@pytest.mark.parametrize(
    ("name", "well"), [("a1", "A01"), ("A-01", "A01"), ("H12", "H12"), ("B 3", "B03"), ("P24", "P24")]
)
def test_wells_are_named_alike(name: str, well: str) -> None:
    assert well_name(name) == well


def test_layouts_say_units_and_leave_other_wells_out(tmp_path: Path) -> None:
    molar = read_layout(write_layout(tmp_path / "m.csv", EXPERIMENTS))
    nano = read_layout(write_layout(tmp_path / "n.csv", EXPERIMENTS, unit="nM"))
    assert [place.well for place in molar] == [place.well for place in nano]
    assert molar[0].log_concentration == -math.inf
    np.testing.assert_allclose(
        [place.log_concentration for place in molar[2:14]], [place.log_concentration for place in nano[2:14]]
    )
    (tmp_path / "gap.csv").write_text("well,concentration\nA1,1\nA2,\nA3,0\n")
    assert [place.well for place in read_layout(tmp_path / "gap.csv")] == ["A01", "A03"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("well,dose\nA1,1\n", "one of concentration"),
        ("well,concentration\nA1,-1\n", "0 or more for well A1"),
        ("well,concentration\nA1,much\n", "got 'much'"),
        ("well,concentration\nA1,1\na01,2\n", "A01 occurs twice"),
        ("well,concentration\nelsewhere,1\n", "such as A01"),
        ("well,concentration\nA1,\n", "there are none"),
        ("well,concentration_M,concentration_nM\nA1,1,1\n", "one of concentration"),
    ],
)
def test_layouts_that_cannot_be_read_say_why(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "layout.csv").write_text(text)
    with pytest.raises(ArtSegError, match=said):
        read_layout(tmp_path / "layout.csv")


def test_each_unusable_well_has_its_state(tmp_path: Path) -> None:
    places = read_layout(write_layout(tmp_path / "layout.csv", {"one": ("atropine", -8.0)}))
    fields = [
        FieldIntensity("", "A01", 10, 4, 1.0, 0.0),
        FieldIntensity("", "A01", math.nan, 6, 1.0, 0.0),
        FieldIntensity("", "A02", math.nan, 3, 1.0, 0.0),
        FieldIntensity("", "A03", math.nan, math.nan, 0.0, math.nan),
        FieldIntensity("", "A04", 10, math.nan, 1.0, 0.0),
        FieldIntensity("", "A05", 10, 3, 1.0, 0.2),
        FieldIntensity("", "A06", 10, 3),
    ]
    wells = average_wells(places, fields)
    assert [well.state for well in wells[:7]] == [
        *("used", "empty", "lost to artifacts", "no background", "saturated", "used", "not measured"),
    ]
    assert (wells[0].cell, wells[0].background, wells[0].specific) == (10, 5, 5)
    assert (wells[0].fields, wells[0].fields_used) == (2, 1)
    assert [well.fitted for well in wells[:7]] == [True, False, False, False, False, True, False]


# ---- comparison ----


def test_treatments_are_compared_with_the_reference(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout.csv", EXPERIMENTS)
    places = read_layout(layout)
    treatments = {
        "manual": fields_of(layout, noise=15, seed=1),
        "model": fields_of(layout, noise=25, seed=2),
        "none": fields_of(layout, noise=120, seed=3),
    }
    found = compare_treatments(places, treatments, reference="manual")
    manual, model, none = found.summaries
    assert math.isnan(manual.difference)
    assert model.difference < none.difference
    assert none.r < model.r < 1
    assert none.r2 < model.r2 < manual.r2
    # each figure once by hand
    by_hand = {
        (curve.experiment, curve.treatment): fit_hill(
            np.array([well.place.log_concentration for well in curve.wells]),
            np.array([well.specific for well in curve.wells]),
        ).log_ic50
        for curve in found.curves
    }
    apart = [abs(by_hand[name, "none"] - by_hand[name, "manual"]) for name in EXPERIMENTS]
    assert none.difference == pytest.approx(np.mean(apart))
    assert none.largest_difference == pytest.approx(max(apart))
    truth = [abs(by_hand[name, "none"] - true) for name, (_, true) in EXPERIMENTS.items()]
    assert none.from_truth == pytest.approx(np.mean(truth))
    values = {
        name: [well.specific for curve in found.curves if curve.treatment == name for well in curve.wells]
        for name in treatments
    }
    assert none.r == pytest.approx(np.corrcoef(values["none"], values["manual"])[0, 1])
    twice = [by_hand["first", "manual"], by_hand["second", "manual"]]
    assert manual.between_replicates == pytest.approx(np.std(twice, ddof=1))
    assert (manual.experiments, none.compared) == (3, 3)


def test_nothing_is_left_out_in_silence(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout.csv", EXPERIMENTS)
    fields = fields_of(layout, noise=10, seed=1, sites=1)
    spoilt = list(fields)
    spoilt[4] = FieldIntensity("", "A05", 9000, 300.0, 1.0, 0.0)
    spoilt[6] = FieldIntensity("", "A07", 500, 300.0, 0.01, 0.0)
    spoilt = [one for one in spoilt if not one.well.startswith("C")] + [FieldIntensity("", "H12", 1, 1)]
    spoilt += [FieldIntensity("", f"C{at:02d}", 400, 300.0, 1.0, 0.0) for at in range(1, 15)]
    found = compare_treatments(read_layout(layout), {"manual": fields, "none": spoilt}, reference="manual")
    said = "\n".join(found.notes)
    assert "first, none: 1 outliers, kept in the fit: A05." in said
    assert "first, none: 1 wells left out, lost to artifacts: A07." in said
    assert "none: 1 measured wells are not in the layout: H12." in said
    assert "third, none: no half-maximal dose (no response)" in said
    none = found.summaries[1]
    assert (none.compared, none.experiments, none.wells_left_out, none.outliers) == (1, 3, 1, 1)
    dropped = compare_treatments(
        read_layout(layout), {"manual": fields, "none": spoilt}, reference="manual", outliers="drop"
    )
    assert dropped.summaries[1].wells_left_out == 2
    # with its outlier the first experiment had no half-maximal dose to compare
    assert dropped.summaries[1].compared == 2
    assert dropped.summaries[1].largest_difference < 0.2
    curves_figure(found).canvas.draw()
    with pytest.raises(ArtSegError, match="No well of the layout was measured"):
        compare_treatments(read_layout(layout), {"none": [FieldIntensity("", "H12", 1, 1)]}, reference="none")
    with pytest.raises(ArtSegError, match="among the treatments none"):
        compare_treatments(read_layout(layout), {"none": fields}, reference="manual")


# ---- input ----


def test_tables_of_cellprofiler_give_the_same_from_csv_and_sqlite(tmp_path: Path) -> None:
    images = pd.DataFrame(
        {
            "ImageNumber": [1, 2, 3],
            "Metadata_Well": ["A01", "A01", "A02"],
            "Metadata_Plate": [7, 7, 7],
            "Mean_Cells_Intensity_MeanIntensity_Signal": [0.5, np.nan, 0.25],
            "Intensity_MeanIntensity_Background": [0.1, 0.1, 0.05],
            "ArtSeg_AreaFraction_Artifacts": [0.25, 0.0, 1.0],
            "ImageQuality_PercentMaximal_Signal": [2.0, 0.0, 0.0],
        }
    )
    (tmp_path / "out").mkdir()
    images.to_csv(tmp_path / "out" / "Image.csv", index=False)
    with sqlite3.connect(tmp_path / "data.db") as opened:
        keep = ("ImageNumber", "Mean_")
        images.rename(columns=lambda name: name if name.startswith(keep) else f"Image_{name}").to_sql(
            "My_Per_Image", opened, index=False
        )
    opened.close()
    pd.DataFrame(
        {
            "ImageNumber": [1, 1, 3],
            "AreaShape_Area": [100, 300, 50],
            "Intensity_MeanIntensity_Signal": [0.2, 0.6, 0.25],
        }
    ).to_csv(tmp_path / "out" / "Cells.csv", index=False)
    columns = {
        "background": "Intensity_MeanIntensity_Background",
        "usable": "ArtSeg_AreaFraction_Artifacts",
        "saturated": "ImageQuality_PercentMaximal_Signal",
    }
    cell = "Mean_Cells_Intensity_MeanIntensity_Signal"
    of_csv = read_measurements(tmp_path / "out", cell=cell, **columns)
    of_file = read_measurements(tmp_path / "out" / "Image.csv", cell=cell, **columns)
    of_sqlite = read_measurements(tmp_path / "data.db", cell=cell, **columns)
    assert repr(of_csv) == repr(of_file) == repr(of_sqlite)
    assert of_csv[0] == FieldIntensity("7", "A01", 0.5, 0.1, 0.75, 0.02)
    assert math.isnan(of_csv[1].cell)
    # object by object, weighted by area: the mean over the cells' pixels
    by_object = read_measurements(tmp_path / "out", cell="Cells:Intensity_MeanIntensity_Signal", background=None)
    assert by_object[0].cell == pytest.approx(0.5)
    assert math.isnan(by_object[1].cell)
    assert by_object[2] == FieldIntensity("7", "A02", 0.25, 0.0, by_object[2].usable, by_object[2].saturated)
    with pytest.raises(ArtSegError, match=r"Columns like it: .*Signal"):
        read_measurements(tmp_path / "out", cell="Intensity_Signal", background=None)
    with pytest.raises(ArtSegError, match="could not be read"):
        read_measurements(tmp_path / "nowhere", cell=cell, background=None)
    images.drop(columns="Metadata_Well").to_csv(tmp_path / "none.csv", index=False)
    with pytest.raises(ArtSegError, match="Expected the well of each image"):
        read_measurements(tmp_path / "none.csv", cell=cell, background=None)


def test_masked_pixels_count_neither_as_cell_nor_as_background(tmp_path: Path) -> None:
    signal = np.full((40, 50), 300, dtype=np.uint16)
    cells = np.zeros((40, 50), dtype=np.uint16)
    cells[5:15, 5:25] = 1
    signal[cells > 0] = 1000
    artifact = np.zeros((40, 50), dtype=bool)
    artifact[:, 15:35] = True
    spoilt = np.where(artifact, np.uint16(65535), signal)
    for name, image in (("A01_s1_signal", spoilt), ("A01_s1_cells", cells), ("A01_s1_artifacts", artifact)):
        write_image(tmp_path / f"{name}.tiff", image)
    (masked,) = measure_images(tmp_path, tmp_path, masks=tmp_path)
    assert masked == FieldIntensity("", "A01", 1000, 300, 0.6, 0.0)
    (plain,) = measure_images(tmp_path, tmp_path)
    assert plain.cell == pytest.approx((1000 + 65535) / 2)
    assert (plain.usable, plain.saturated) == (1.0, 0.5)
    (tmp_path / "A01_s1_artifacts.tiff").unlink()
    with pytest.raises(ArtSegError, match="Every field needs one"):
        measure_images(tmp_path, tmp_path, masks=tmp_path)


def test_the_command_writes_tables_and_curves(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout.csv", EXPERIMENTS)
    arguments = ["impact", "affinity", str(layout), "--out", str(tmp_path / "out"), "--cell-column", "cell"]
    arguments += ["--background-column", "ground"]
    for name, noise in (("manual", 10), ("none", 100)):
        fields = fields_of(layout, noise=noise, seed=noise)
        table = {"Metadata_Well": [one.well for one in fields], "cell": [one.cell for one in fields], "ground": 300}
        pd.DataFrame(table).to_csv(tmp_path / f"{name}.csv", index=False)
        arguments += ["--treatment", f"{name}={tmp_path / f'{name}.csv'}"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["curves.png", "curves.svg", "fits.csv", "notes.txt", "summary.csv", "wells.csv"]
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("treatment")
    assert summary.loc["none", "paper_log_ic50_difference"] == 0.29
    fits = pd.read_csv(tmp_path / "out" / "fits.csv")
    assert len(fits) == 6
    apart = fits[fits.treatment == "none"].difference_from_reference.abs().mean()
    assert summary.loc["none", "mean_absolute_log_ic50_difference"] == pytest.approx(apart, rel=1e-4)
    wells = pd.read_csv(tmp_path / "out" / "wells.csv")
    assert len(wells) == 2 * 3 * 2 * len(DOSES)
    free = CliRunner().invoke(app, [*arguments, "--slope", "free"])
    assert free.exit_code == 0, free.output
    assert CliRunner().invoke(app, [*arguments, "--slope", "0"]).exit_code == 2
    refused = CliRunner().invoke(app, arguments[:5])
    assert isinstance(refused.exception, ArtSegError)


def test_results_in_a_folder_a_plate_and_images_without_a_pixel(tmp_path: Path) -> None:
    columns = {
        "Metadata_Well": ["A01", "A02"],
        "Intensity_MeanIntensity_In": [0.5, 0.0],
        "Intensity_TotalArea_In": [9, 0],
    }
    for plate in ("plate1", "plate2"):
        (tmp_path / plate).mkdir()
        pd.DataFrame(columns).to_csv(tmp_path / plate / "Image.csv", index=False)
    (tmp_path / "notes").mkdir()  # no plate
    fields = read_measurements(tmp_path, cell="Intensity_MeanIntensity_In", background=None)
    assert [(field.plate, field.well) for field in fields] == [
        *(("plate1", "A01"), ("plate1", "A02"), ("plate2", "A01"), ("plate2", "A02")),
    ]
    assert fields[0].cell == 0.5
    # CellProfiler gives 0 where every pixel is masked
    assert math.isnan(fields[1].cell)
