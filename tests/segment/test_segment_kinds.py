"""`artseg segment` with a model of several kinds of artifact: table, map, overlay and outlines say which is which."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from artseg_models.packages.read import read_package
from artseg_models.predict import ImageMap, ImagePredictor, Predictor
from artseg_models.segment import COLUMNS, KIND_COLOURS, captioned, segment_images

BACKGROUND, DARK, BRIGHT = 100.0, 40.0, 160.0
#: rows and columns of each artifact, and its place among the kinds
ARTIFACTS = (
    ((10, 20), (10, 30), DARK, 2),
    ((40, 46), (60, 90), BRIGHT, 3),
    ((60, 75), (20, 30), DARK, 2),
)


@dataclass(frozen=True)
class StandIn:
    id: str = "stand-in"
    version: str = "1"
    sha256: str = "0" * 64
    cutoff: float = 0.5
    smallest_artifact_px: int = 20
    gate_threshold: float | None = 0.5
    pixel_size_um: float | None = None


class TellsKinds(ImagePredictor):
    """What departs from the background is artifact: dark is dust, bright a fibre; there are no bubbles."""

    def __init__(self, *, classifier: bool = True) -> None:
        super().__init__("cpu")
        self.classifier = classifier

    @property
    def model(self) -> StandIn:
        return StandIn()

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("bubble", "dust", "fibre")

    def _map(self, pixels: NDArray[Any], valid: object, source: str, *, cpu_allowed: bool) -> ImageMap:
        dark, bright = ((sign * (pixels - BACKGROUND) > 30).astype(np.float32) for sign in (-1, 1))
        if not self.classifier:
            return ImageMap(dark + bright, None, np.stack([0 * dark, dark, bright]))
        found = [0.0, float(dark.max()) * 0.98, float(bright.max()) * 0.875]
        return ImageMap(dark + bright, max(found), np.stack([0 * dark, dark, bright]), found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A field of dust and a fibre, a clean one, and a file that is no image."""
    fields = tmp_path / "fields"
    fields.mkdir()
    clean = np.random.default_rng(0).normal(BACKGROUND, 1, (90, 120)).astype(np.float32)
    spoilt = clean.copy()
    for rows, columns, grey, _ in ARTIFACTS:
        spoilt[slice(*rows), slice(*columns)] = grey
    tifffile.imwrite(fields / "clean.tiff", clean)
    tifffile.imwrite(fields / "spoilt.tiff", spoilt)
    (fields / "torn.tiff").write_bytes(b"II")
    return fields


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "segmentation.csv", newline="") as opened:
        return {Path(row["image"]).stem: row for row in csv.DictReader(opened)}


def expected_map() -> NDArray[np.uint8]:
    places = np.zeros((90, 120), np.uint8)
    for rows, columns, _, place in ARTIFACTS:
        places[slice(*rows), slice(*columns)] = place
    return places


def test_the_table_counts_the_kinds_and_has_their_probabilities(folder: Path, tmp_path: Path) -> None:
    done = segment_images(TellsKinds(), sorted(folder.iterdir()), tmp_path / "out")
    assert [path.name for path, _ in done.failed] == ["torn.tiff"]
    rows = rows_of(tmp_path / "out")
    assert rows["spoilt"]["artifact_count"] == "3"
    assert rows["spoilt"]["kinds"] == "dust:2;fibre:1"
    assert rows["spoilt"]["kind_probabilities"] == "bubble:0.0000;dust:0.9800;fibre:0.8750"
    assert rows["clean"]["kinds"] == ""
    assert rows["clean"]["kind_probabilities"] == "bubble:0.0000;dust:0.0000;fibre:0.0000"
    assert rows["torn"]["kinds"] == rows["torn"]["kind_probabilities"] == ""
    assert [name for name in rows["clean"] if name in COLUMNS] == list(COLUMNS)
    segment_images(TellsKinds(classifier=False), [folder / "spoilt.tiff"], tmp_path / "gateless")
    row = rows_of(tmp_path / "gateless")["spoilt"]
    assert (row["kinds"], row["kind_probabilities"]) == ("dust:2;fibre:1", "")


def test_the_map_of_kinds_names_them(folder: Path, tmp_path: Path) -> None:
    segment_images(TellsKinds(), [folder / "clean.tiff", folder / "spoilt.tiff"], tmp_path, pixel_size_um=0.5)
    with tifffile.TiffFile(tmp_path / "spoilt_kinds.tif") as opened:
        places = opened.asarray()
        audit = json.loads(opened.pages.first.description)
    assert places.dtype == np.uint8
    np.testing.assert_array_equal(places, expected_map())
    with tifffile.TiffFile(tmp_path / "spoilt_artifacts.tif") as opened:
        assert audit == json.loads(opened.pages.first.description) | {"kinds": "bubble;dust;fibre"}
    assert not tifffile.imread(tmp_path / "clean_kinds.tif").any()


def test_the_overlay_has_a_colour_a_kind_and_its_legend(folder: Path, tmp_path: Path) -> None:
    segment_images(TellsKinds(), [folder / "spoilt.tiff"], tmp_path, overlay=True)
    with Image.open(tmp_path / "spoilt_overlay.png") as opened:
        drawn = np.asarray(opened)
    picture, strip = drawn[:90], drawn[90:]
    for (top, bottom), (left, right), _, place in ARTIFACTS:
        edge = [picture[top, left:right], picture[bottom - 1, left:right], picture[top:bottom, left]]
        assert {tuple(pixel) for side in edge for pixel in side.tolist()} == {KIND_COLOURS[place - 1]}
        inside = picture[top + 2 : bottom - 2, left + 2 : right - 2]
        assert (inside == inside[..., :1]).all(), "grey"
    shown = {tuple(colour) for colour in strip.reshape(-1, 3).tolist()}
    assert set(KIND_COLOURS) & shown == set(KIND_COLOURS[:3]), "all kinds of the model, found or not"
    assert not set(KIND_COLOURS) & {tuple(colour) for colour in captioned(picture[:, :, :], "text")[90:].reshape(-1, 3)}


def test_a_legend_wider_than_its_picture_goes_on_below(tmp_path: Path) -> None:
    picture = np.zeros((20, 100, 3), np.uint8)
    one, three = (
        captioned(picture, "text", legend=dict.fromkeys(names, (1, 2, 3)))
        for names in (["dust"], ["dust", "a fibre of cotton or of paper", "bubble"])
    )
    assert len(three) > len(one) > len(captioned(picture, "text"))
    strip = three[20:]
    assert (strip[:, -3:] == 255).all(), "nothing is cut off at the right"
    swatches = (strip == (1, 2, 3)).all(axis=2).any(axis=1)
    assert np.count_nonzero(np.diff(swatches.astype(int)) == 1) == 3, "one below the other"


def test_outlines_are_classified_by_kind(folder: Path, tmp_path: Path) -> None:
    segment_images(TellsKinds(), [folder / "spoilt.tiff"], tmp_path, geojson=True)
    features = json.loads((tmp_path / "spoilt_artifacts.geojson").read_text())["features"]
    found = {feature["properties"]["area_px"]: feature["properties"]["classification"] for feature in features}
    assert found == {200: {"name": "dust"}, 180: {"name": "fibre"}, 150: {"name": "dust"}}


def test_a_model_without_kinds_writes_what_it_always_did(
    packages: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    predictor = Predictor(read_package(packages["unet"]), device="cpu")
    segment_images(predictor, [folder / "spoilt.tiff"], tmp_path, cutoff=0, gate=False, overlay=True, geojson=True)
    assert tuple(rows_of(tmp_path)["spoilt"]) == COLUMNS
    assert not list(tmp_path.glob("*_kinds.tif"))
    (feature,) = json.loads((tmp_path / "spoilt_artifacts.geojson").read_text())["features"]
    assert feature["properties"]["classification"] == {"name": "Artifact"}
