"""A plate of two fields whose measurements are worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from artseg_models.images import write_image
from artseg_models.report.comparison import FieldTruth
from artseg_models.report.panels import FieldImages

SIDE = 100


def square_nuclei(*corners: tuple[int, int]) -> np.ndarray:
    """Label map of nuclei of 10 x 10 pixels with these upper left corners (y, x)."""
    labels = np.zeros((SIDE, SIDE), dtype=np.uint16)
    for number, (y, x) in enumerate(corners, start=1):
        labels[y : y + 10, x : x + 10] = number
    return labels


@pytest.fixture
def truth() -> list[FieldTruth]:
    """A01 has an artifact over its lower right quarter, B01 is clean; each holds four whole nuclei."""
    artifact = np.zeros((SIDE, SIDE), dtype=bool)
    artifact[50:, 50:] = True
    corners = (10, 10), (10, 60), (60, 10), (70, 70)
    return [
        FieldTruth("A01", "1", square_nuclei(*corners, (40, 95)), artifact, signal=1000.0, dose=0.0),
        FieldTruth("B01", "1", square_nuclei(*corners), np.zeros_like(artifact), signal=2000.0, dose=10.0),
    ]


@pytest.fixture
def images() -> FieldImages:
    """Pictures of the field with the artifact."""
    noise = np.random.default_rng(0).normal(1000, 50, (2, SIDE, SIDE)).astype(np.uint16)
    return FieldImages(noise[0], noise[1])


@pytest.fixture
def without(tmp_path: Path) -> Path:
    """CSV files of a run without masks: in A01 two false nuclei and bright signals."""
    nuclei = [
        # image, y, x, area, mean signal / 65535
        (1, 14.5, 14.5, 100, 1000),
        (1, 14.5, 64.5, 100, 1000),
        (1, 64.5, 14.5, 100, 1000),
        (1, 74.5, 74.5, 100, 3000),
        (1, 90.0, 55.0, 300, 4000),
        (1, 55.0, 90.0, 300, 4000),
        (2, 14.5, 14.5, 100, 2000),
        (2, 14.5, 64.5, 100, 2000),
        (2, 64.5, 14.5, 100, 2000),
        (2, 74.5, 74.5, 100, 2000),
    ]
    return _run(tmp_path / "without", nuclei, masked=False)


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """CSV files of a run with masks: a quarter of A01 is left out, three nuclei remain there."""
    nuclei = [
        (1, 14.5, 14.5, 100, 1000),
        (1, 14.5, 64.5, 100, 1000),
        (1, 64.5, 14.5, 100, 1060),
        (2, 14.5, 14.5, 100, 2000),
        (2, 14.5, 64.5, 100, 2000),
        (2, 64.5, 14.5, 100, 2000),
        (2, 74.5, 74.5, 100, 2000),
    ]
    return _run(tmp_path / "masked", nuclei, masked=True)


def _run(folder: Path, nuclei: list[tuple[int, float, float, int, float]], *, masked: bool) -> Path:
    lines = ["ImageNumber,Metadata_Field,Metadata_Well,Metadata_Site"]
    for number, well in enumerate(("A01", "B01"), start=1):
        lines.append(f"{number},{well}_s1,{well},1")
        own = [(int(y + 0.5), int(x + 0.5)) for image, y, x, _, _ in nuclei if image == number]
        stem = folder / "images" / f"{well}_s1_brightfield"
        write_image(stem.with_name(f"{stem.name}_nuclei.tiff"), square_nuclei(*[(y - 5, x - 5) for y, x in own]))
        if masked:
            mask = np.zeros((SIDE, SIDE), dtype=bool)
            mask[50:, 50:] = well == "A01"
            write_image(stem.with_name(f"{stem.name}_artifacts.tiff"), mask)
    (folder / "Image.csv").write_text("\n".join(lines) + "\n")
    lines = [
        "ImageNumber,ObjectNumber,AreaShape_Area,Intensity_MeanIntensity_Signal,Location_Center_X,Location_Center_Y"
    ]
    for number, (image, y, x, area, signal) in enumerate(nuclei, start=1):
        lines.append(f"{image},{number},{area},{signal / 65535!r},{x},{y}")
    (folder / "Nuclei.csv").write_text("\n".join(lines) + "\n")
    return folder
