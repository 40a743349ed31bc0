"""The page and the pictures: the figures found stand in them, and nothing is fetched from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artseg_models.report.comparison import Comparison, FieldTruth, Measured, compare, read_measurements
from artseg_models.report.page import Facts, chosen_fields, headline, write_page
from artseg_models.report.panels import FieldImages
from artseg_models.report.picture import LARGEST_BYTES, most_changed, write_picture

FACTS = Facts(
    simulated=["Cells & nuclei are <drawn>."],
    command="artseg demo --size tiny",
    steps=[("Train the model", 100.0)],
    provenance={"model": "nice-name"},
)


@pytest.fixture
def comparison(truth: list[FieldTruth], without: Path, masked: Path) -> Comparison:
    return compare(truth, read_measurements(without), read_measurements(masked))


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def test_the_headline_says_what_was_found(comparison: Comparison) -> None:
    assert headline(comparison) == (
        "With artifact masks, CellProfiler reported 0 false nuclei instead of 2; the error of the nuclei count fell "
        "from 50.0 % to 0.0 % and the error of the mean nuclear signal fell from 133.3 % to 2.0 %."
    )


def test_the_headline_does_not_hide_a_loss(truth: list[FieldTruth], without: Path, masked: Path) -> None:
    swapped = headline(compare(truth, read_measurements(masked), read_measurements(without)))
    assert "2 false nuclei instead of 0" in swapped
    assert "signal rose from 2.0 % to 133.3 %" in swapped


def test_the_headline_says_when_nothing_is_left(truth: list[FieldTruth], without: Path) -> None:
    run = read_measurements(without)
    everything = np.ones(truth[0].artifact.shape, dtype=bool)
    masked = {
        key: Measured(
            nuclei=np.zeros(everything.shape, dtype=np.uint16),
            positions=np.empty((0, 2)),
            areas=np.empty(0),
            signals=np.empty(0),
            mask=everything,
        )
        for key in run
    }
    said = headline(compare(truth, run, masked))
    assert "nothing left to measure" in said
    assert "false nuclei" not in said


def test_the_page_holds_the_figures_and_needs_nothing_else(
    comparison: Comparison, images: FieldImages, tmp_path: Path
) -> None:
    asked: list[tuple[str, str]] = []

    def give(key: tuple[str, str]) -> FieldImages:
        asked.append(key)
        return images

    write_page(tmp_path / "report.html", comparison, give, FACTS)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = _Page(source)
    assert page.open == []
    words = page.words()
    assert headline(comparison) in words
    assert "2 wells, 2 fields of view, 1 of them with artifacts." in words
    assert "12.5 % of the area truly lies under artifacts, 12.5 % was masked" in words
    # the line of field A01: artifact area, masked area, then truth, without and with for signal, count and area
    assert "A01, 1 25.0 % 25.0 % 1000 2333 1020 4.0 6.0 4.0 100 167 100" in words
    assert "outside artifacts, with masks 7 7 0 0 1.000 1.000 1.000" in words
    assert "under artifacts, without masks 1 1 0 2 0.333 1.000 0.500" in words
    assert "Cells & nuclei are <drawn>." in words
    assert "artseg demo --size tiny" in words
    assert "1 min 40 s" in words
    assert sorted(asked) == [("A01", "1"), ("B01", "1")]
    assert len(page.addresses) == 4  # two plots and two fields
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "http" not in source
    assert "simulated" in words.lower()


def test_the_model_is_reported_where_it_was_evaluated(
    comparison: Comparison, images: FieldImages, tmp_path: Path
) -> None:
    ratios = {"precision": 0.75, "recall": None, "f1": 0.5, "iou": 0.25}
    model = {
        "images_scored": 9,
        "images_clean": 4,
        "images_artifact": 5,
        "image": ratios,
        "pixel_pooled": ratios,
        "rule": "the gate decides",
    }
    facts = Facts(FACTS.simulated, FACTS.command, FACTS.steps, FACTS.provenance, model)
    write_page(tmp_path / "report.html", comparison, lambda key: images, facts)
    words = _Page((tmp_path / "report.html").read_text(encoding="utf-8")).words()
    assert "Pixels, pooled over all images 0.750 \N{EN DASH} 0.500 0.250" in words
    assert "9 images" in words


def test_the_most_affected_fields_are_shown_and_a_clean_one(comparison: Comparison) -> None:
    assert [field.truth.well for field in chosen_fields(comparison)] == ["A01", "B01"]
    many = Comparison(comparison.fields[:1] * 9 + comparison.fields[1:] * 2)
    assert [field.truth.well for field in chosen_fields(many, 4)] == ["A01"] * 3 + ["B01"]


def test_the_picture_shows_the_most_changed_field(comparison: Comparison) -> None:
    assert most_changed(comparison).truth.well == "A01"
    assert most_changed(Comparison(comparison.fields[::-1])).truth.well == "A01"


def test_the_picture_is_small(comparison: Comparison, images: FieldImages, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    side = images.dna.shape[0]
    noise = np.random.default_rng(0).integers(0, 65535, (2, side, side)).astype(np.uint16)  # hardest to compress
    write_picture(comparison.fields[0], FieldImages(noise[0], noise[1]), path)
    assert path.stat().st_size < LARGEST_BYTES
    with Image.open(path) as picture:
        assert picture.width > 500
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (np.abs(colours - np.array([0x56, 0xB4, 0xE9])).sum(axis=1) < 30).sum() > 50  # the mask's blue line
