"""`artseg report`: what is read, what is said to have changed, and the page in a browser."""

from __future__ import annotations

import math
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from playwright.sync_api import Browser
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.images import write_image
from artseg_models.plates.effects import most_changed, unlike_fields, well_effects, with_likeness, worst_fields
from artseg_models.plates.figures import drift_figure
from artseg_models.plates.tables import COUNT, place_of, read_plate, with_times

SIDE = 64
WELLS = tuple(f"{row}{column:02d}" for row in "AB" for column in range(1, 5))
SPOILT = {"A02_s1": 0.5, "B03_s2": 0.25}
"""Share of the field under an artifact, at its left."""


def mask_of(name: str) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:, : int(SIDE * SPOILT.get(name, 0))] = True
    return mask


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `artseg segment`; one image failed."""
    folder = tmp_path_factory.mktemp("segmented")
    random = np.random.default_rng(0)
    rows = []
    for well in WELLS:
        for site in (1, 2):
            name = f"{well}_s{site}"
            image = folder / "images" / f"{name}_brightfield.tiff"
            noise = random.normal(2000, 50, (SIDE, SIDE)) * (1 - 0.5 * mask_of(name))
            if name == "B04_s2":  # another kind of image: stripes
                noise += 2000 * (np.arange(SIDE) % 8 < 4)
            write_image(image, noise.astype(np.uint16))
            write_image(folder / "run" / f"{name}_brightfield_artifacts.tif", mask_of(name))
            rows.append(
                {
                    "image": str(image),
                    "verdict": "artifact" if mask_of(name).any() else "clean",
                    "artifact_probability": 0.9 if mask_of(name).any() else 0.1,
                    "area_fraction": mask_of(name).mean(),
                    "model_id": "some-model",
                    "model_version": "1",
                    "model_sha256": "ab" * 32,
                    "cutoff": 0.5,
                    "error": "",
                }
            )
    rows[-2].update(area_fraction="", model_id="", error="B04 of the plate is truncated")
    pd.DataFrame(rows).to_csv(folder / "run" / "segmentation.csv", index=False)
    return folder / "run"


def write_results(folder: Path, *, masked: bool, artseg: bool = False) -> Path:
    """CellProfiler's tables: six nuclei a field; two bright large ones more under each artifact."""
    images, nuclei = [], []
    for at, well in enumerate(WELLS):
        for site in (1, 2):
            name, number = f"{well}_s{site}", len(images) + 1
            share = mask_of(name).mean()
            images.append(
                {
                    "ImageNumber": number,
                    "FileName_Brightfield": f"{name}_brightfield.tiff",
                    "PathName_Brightfield": "/not/there",
                    "Metadata_Well": well,
                    "Metadata_Site": site,
                    **({"ArtSeg_AreaFraction_Artifacts": share, "ArtSeg_ModelID_Artifacts": "m"} if artseg else {}),
                }
            )
            for x in range(6):
                nuclei.append((number, len(nuclei) + 1, 100.0, 0.1 + 0.01 * at, SIDE - 2.0 - x, 30.0))
            if share and not masked:
                nuclei += [
                    (number, len(nuclei) + 1, 400.0, 0.9, 2.0, 20.0),
                    (number, len(nuclei) + 2, 400.0, 0.9, 3.0, 9.0),
                ]
    columns = (
        "ImageNumber",
        "ObjectNumber",
        "AreaShape_Area",
        "Intensity_MeanIntensity_Signal",
        "Location_Center_X",
        "Location_Center_Y",
    )
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(images).to_csv(folder / "Image.csv", index=False)
    pd.DataFrame(nuclei, columns=columns).to_csv(folder / "Nuclei.csv", index=False)
    return folder


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("A01_s1_brightfield", ("", "A01", "1")),
        ("plate7_h12_f03", ("", "", "plate7_h12_f03")),
        ("plate7_H12_f03", ("plate7", "H12", "03")),
        ("B3-2", ("", "B03", "2")),
        ("scan_0001", ("", "", "scan_0001")),
        ("r03c03f03", ("", "", "r03c03f03")),
    ],
)
def test_wells_are_read_from_names(name: str, place: tuple[str, str, str]) -> None:
    assert place_of(name) == place


def test_a_pattern_of_ones_own(segmented: Path) -> None:
    assert place_of("x_D4_99", r"x_(?P<well>[A-H]\d)_(?P<site>\d+)") == ("", "D04", "99")
    with pytest.raises(ArtSegError, match="regular expression"):
        place_of("x", "(")
    with pytest.raises(ArtSegError, match=r"\(\?P<well>"):
        place_of("A01", "A01")


def test_existing_measurements_and_masks_show_what_removal_changes(segmented: Path, tmp_path: Path) -> None:
    plate = read_plate(segmented, without=write_results(tmp_path / "raw", masked=False))
    assert plate.model["model_id"] == "some-model"
    effects = {one.well: one for one in well_effects(plate)}
    assert list(effects) == list(WELLS)
    spoilt, clean = effects["A02"], effects["A01"]
    assert (clean.removed, clean.change(COUNT), clean.change("AreaShape_Area")) == (0, 0, 0)
    assert spoilt.removed == 2
    # 14 objects in two fields; 12 in the one and a half that are usable
    assert (spoilt.without[COUNT], spoilt.masked[COUNT]) == (7, 8)
    assert spoilt.without["AreaShape_Area"] == pytest.approx((12 * 100 + 2 * 400) / 14)
    assert spoilt.masked["AreaShape_Area"] == 100
    name, change = spoilt.largest_change
    assert name == "Intensity_MeanIntensity_Signal"
    assert change == pytest.approx(0.11 / ((12 * 0.11 + 2 * 0.9) / 14) - 1)
    assert [one.well for one in most_changed(list(effects.values()))] == ["A02", "B03"]
    assert [one.name for one in worst_fields(plate.fields)] == ["A02_s1_brightfield", "B03_s2_brightfield"]


def test_results_of_both_pipelines_in_folders_and_in_sqlite(tmp_path: Path) -> None:
    masked = write_results(tmp_path / "masked", masked=True, artseg=True)
    raw = write_results(tmp_path / "raw", masked=False)
    plate = read_plate(masked, without=raw)
    assert {one.well: one.removed for one in well_effects(plate) if one.removed} == {"A02": 2, "B03": 2}
    with closing(sqlite3.connect(tmp_path / "both.db")) as opened:
        images = pd.read_csv(masked / "Image.csv")
        images.columns = [name if name == "ImageNumber" else f"Image_{name}" for name in images.columns]
        images.to_sql("MyExpt_Per_Image", opened, index=False)
        nuclei = pd.read_csv(masked / "Nuclei.csv")
        nuclei.columns = [name if name.endswith("Number") else f"Nuclei_{name}" for name in nuclei.columns]
        nuclei.to_sql("MyExpt_Per_Object", opened, index=False)
    again = read_plate(tmp_path / "both.db", without=raw)
    assert [one.contaminated for one in again.fields] == [one.contaminated for one in plate.fields]
    assert well_effects(again) == [
        type(one)(**{**vars(one), "fields": other.fields})
        for one, other in zip(well_effects(plate), well_effects(again), strict=True)
    ]
    # a pipeline that found no well in the names of its images
    for folder in (masked, raw):
        table = pd.read_csv(folder / "Image.csv").assign(Metadata_Well=math.nan)
        table["FileName_Brightfield"] = [f"field{number}.tiff" for number in table["ImageNumber"]]
        table.to_csv(folder / "Image.csv", index=False)
    nameless = read_plate(masked, without=raw)
    assert [one.well for one in nameless.fields] == [""] * 16
    assert nameless.fields[0].shown == "field1"
    # then each field stands for itself
    assert {one.shown: one.removed for one in well_effects(nameless) if one.removed} == {"field3": 2, "field14": 2}
    # a folder of folders, one a plate
    write_results(tmp_path / "plates" / "p1", masked=True, artseg=True)
    write_results(tmp_path / "plates" / "p2", masked=True, artseg=True)
    assert read_plate(tmp_path / "plates").plates == ("p1", "p2")


def test_images_are_found_that_cellprofiler_knew_by_another_name(segmented: Path, tmp_path: Path) -> None:
    """As `artseg cellprofiler run --channel` leaves them: the folder of the names is gone."""
    results = write_results(tmp_path / "results", masked=True, artseg=True)
    names = pd.read_csv(results / "Image.csv")["FileName_Brightfield"]
    assert read_plate(results).fields[0].image is None
    originals = [tmp_path / f"r{number:02d}-ch1.tiff" for number in range(len(names))]
    for name, original in zip(names, originals, strict=True):
        original.write_bytes((segmented.parent / "images" / name).read_bytes())
    pd.DataFrame({"name": names, "image": originals}).to_csv(results / "channels.csv", index=False)
    assert [one.image for one in read_plate(results).fields] == originals
    (tmp_path / "moved").mkdir()
    moved = originals[0].rename(tmp_path / "moved" / originals[0].name)
    assert [one.image for one in read_plate(results, images=tmp_path / "moved").fields[:2]] == [moved, originals[1]]


def test_what_does_not_belong_together_is_refused(segmented: Path, tmp_path: Path) -> None:
    raw = write_results(tmp_path / "raw", masked=False)
    with pytest.raises(ArtSegError, match="results of a pipeline with SegmentArtifacts"):
        read_plate(raw)
    table = pd.read_csv(raw / "Image.csv")
    table["Metadata_Well"] = "P24"
    table.to_csv(raw / "Image.csv", index=False)
    with pytest.raises(ArtSegError, match="no field in common"):
        read_plate(segmented, without=raw)
    with pytest.raises(ArtSegError, match="Expected a CSV table"):
        read_plate(segmented.parent / "images")


def test_a_field_of_another_kind_stands_out(segmented: Path) -> None:
    plate = with_likeness(read_plate(segmented), None)
    assert unlike_fields(plate)[0].name == "B04_s2_brightfield"
    clean = [one.unlike for one in plate.fields if one.contaminated == 0 and one.name != "B04_s2_brightfield"]
    assert max(clean) < unlike_fields(plate)[0].unlike / 3
    assert not any(math.isnan(one.unlike) for one in plate.fields)


def test_fields_are_drawn_over_time_where_every_file_has_one(segmented: Path, tmp_path: Path) -> None:
    plate = read_plate(segmented)
    assert all(one.taken is None for one in with_times(plate).fields)
    stamped = []
    for at, one in enumerate(plate.fields):
        image = tmp_path / f"{one.name}.tiff"
        tifffile.imwrite(image, np.zeros((8, 8), np.uint8), datetime=f"2026:01:02 03:{59 - at:02d}:00")
        stamped.append(replace(one, image=image))
    timed = with_times(replace(plate, fields=tuple(stamped)))
    assert timed.fields[0].taken == datetime(2026, 1, 2, 3, 59)
    axes = drift_figure(timed.fields).axes[0]
    assert "minutes" in axes.get_xlabel()
    # the last of the table was taken first
    assert axes.collections[0].get_offsets()[0].tolist() == [0, 100 * timed.fields[-1].contaminated]


def test_the_page_reads_on_screen_and_on_paper(segmented: Path, tmp_path: Path, chromium: Browser) -> None:
    raw = write_results(tmp_path / "raw", masked=False)
    rows = [{"well": well, "concentration_nM": 10.0**at, "compound": "x"} for at, well in enumerate(WELLS)]
    pd.DataFrame(rows).to_csv(tmp_path / "layout.csv", index=False)
    out = tmp_path / "report.html"
    arguments = ["report", segmented, "--without", raw, "--layout", tmp_path / "layout.csv", "--out", out]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    page = chromium.new_page(viewport={"width": 1366, "height": 768})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(out.as_uri())
    # nothing beside the file
    assert [url for url in asked if not url.startswith("data:")] == [out.as_uri()]
    for width in (1366, 1920, 390):
        page.set_viewport_size({"width": width, "height": 768})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        page.locator("h1").inner_text().startswith("2 of 15 fields have more than 10 % of their area under artifacts")
    )
    assert page.locator("table.map td:not(.empty)").count() == len(WELLS)
    assert page.locator("td[title^='A02']").inner_text() == "25"
    assert page.locator("#worst ~ .fields").first.locator("img").count() == 2
    assert "2 objects fewer with artifacts removed" in page.locator(".fields.wide").inner_text()
    assert page.locator("text=B04 of the plate is truncated").count() == 1
    broken = page.evaluate("[...document.images].filter(image => !image.naturalWidth).length")
    assert broken == 0
    pdf = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 5
    # the first sheet holds more than the headline: pictures of the worst fields
    assert b"/Subtype /Image" in page.pdf(prefer_css_page_size=True, page_ranges="1")
    page.close()
