"""Artifacts replaced by background, in images and in tables of labels."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.fill import FillSettings, fill, fit_background, fit_undisturbed_background, write_twins
from artseg_models.images import read_image, write_image
from artseg_models.labels import read_labels

SHAPE = (90, 120)


@pytest.fixture
def surface() -> np.ndarray:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return 3000 + 4.0 * x - 2.0 * y + 0.03 * x**2 - 0.02 * x * y + 0.01 * y**2


@pytest.fixture
def mask() -> np.ndarray:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (y - 40) ** 2 + (x - 70) ** 2 < 20**2


def test_background_of_second_order_is_recovered_under_the_mask(surface: np.ndarray, mask: np.ndarray) -> None:
    spoilt = np.where(mask, 100.0, surface)
    np.testing.assert_allclose(fit_background(spoilt, mask), surface, rtol=1e-9)
    assert np.abs(fit_background(spoilt, mask, order=1) - surface)[mask].max() > 5


@pytest.mark.parametrize("grain", [1, 8])
def test_noise_is_that_of_the_background_and_not_that_of_cells(
    surface: np.ndarray, mask: np.ndarray, grain: int
) -> None:
    random = np.random.default_rng(0)
    image = surface + random.normal(0, 20, SHAPE)
    image[:, :25] += random.normal(0, 400, (SHAPE[0], 25))  # busy with cells
    image[mask] = 60000
    filled = fill(image.astype(np.uint16), mask, settings=FillSettings(grain=grain, seed=1))
    assert filled.dtype == np.uint16
    np.testing.assert_array_equal(filled[~mask], image.astype(np.uint16)[~mask])
    smooth = fill(image.astype(np.uint16), mask, settings=FillSettings(noise=False))
    noise = (filled.astype(float) - smooth)[mask]
    assert abs(noise.mean()) < 1
    assert 15 < noise.std() < 24
    assert not np.array_equal(filled, fill(image.astype(np.uint16), mask, settings=FillSettings(grain=grain, seed=2)))
    again = fill(image.astype(np.uint16), mask, settings=FillSettings(grain=grain, seed=1))
    np.testing.assert_array_equal(filled, again)


def test_larger_grain_keeps_how_noise_hangs_together(mask: np.ndarray) -> None:
    from scipy.ndimage import gaussian_filter

    image = 1000 + 60 * gaussian_filter(np.random.default_rng(0).normal(0, 1, SHAPE), 1.0)

    def neighbours(grain: int) -> float:
        made = fill(image, mask, settings=FillSettings(grain=grain))
        residual = made - fit_background(image, mask)
        inside = mask[:, 1:] & mask[:, :-1]
        return float(np.corrcoef(residual[:, 1:][inside], residual[:, :-1][inside])[0, 1])

    assert abs(neighbours(1)) < 0.15
    assert neighbours(8) > 0.4


def test_margin_fills_the_rim(surface: np.ndarray, mask: np.ndarray) -> None:
    rim = np.roll(mask, 2, axis=1) & ~mask
    image = np.where(mask | rim, 0.0, surface)
    without = fill(image, mask, settings=FillSettings(noise=False))
    with_margin = fill(image, mask, settings=FillSettings(noise=False, margin=4))
    assert (without[rim] == 0).all()
    np.testing.assert_allclose(with_margin, surface, rtol=1e-9)


def test_what_cannot_be_filled_is_refused(surface: np.ndarray, mask: np.ndarray) -> None:
    with pytest.raises(ArtSegError, match="outside the mask"):
        fill(surface, np.ones(SHAPE, bool))
    with pytest.raises(ArtSegError, match="120 x 90"):
        fill(surface, mask[:50])
    with pytest.raises(ArtSegError, match="0 to 6"):
        fill(surface, mask, settings=FillSettings(order=9))
    stripes = np.zeros(SHAPE, bool)
    stripes[:, ::4] = True
    with pytest.raises(ArtSegError, match="grain"):
        fill(surface, stripes)
    np.testing.assert_array_equal(fill(surface, np.zeros(SHAPE, bool)), surface)


def test_a_colour_picture_keeps_colours_and_pixel_size(tmp_path: Path, mask: np.ndarray) -> None:
    random = np.random.default_rng(0)
    colours = (np.array([180, 120, 60]) + random.normal(0, 3, (*SHAPE, 3))).astype(np.uint8)
    colours[mask] = 0
    write_image(tmp_path / "field.tif", colours, pixel_size_um=0.5)
    write_image(tmp_path / "mask.png", mask)
    done = CliRunner().invoke(
        app, ["fill", str(tmp_path / "field.tif"), "-m", str(tmp_path / "mask.png"), "-o", str(tmp_path / "out.tif")]
    )
    assert done.exit_code == 0, done.output
    filled = tifffile.imread(tmp_path / "out.tif")
    assert (filled.dtype, filled.shape) == (np.uint8, (*SHAPE, 3))
    np.testing.assert_allclose(filled[mask].mean(axis=0), [180, 120, 60], atol=1.5)
    assert read_image(tmp_path / "out.tif").pixel_size_um == pytest.approx(0.5)


def test_the_original_is_never_overwritten(tmp_path: Path, surface: np.ndarray, mask: np.ndarray) -> None:
    image = tmp_path / "field.tif"
    write_image(image, surface.astype(np.uint16))
    write_image(tmp_path / "mask.png", mask)
    before = image.read_bytes()
    done = CliRunner().invoke(app, ["fill", str(image), "-m", str(tmp_path / "mask.png"), "-o", str(image)])
    assert isinstance(done.exception, ArtSegError)
    assert "never overwritten" in str(done.exception)
    assert image.read_bytes() == before


@pytest.fixture
def labels(tmp_path: Path, surface: np.ndarray, mask: np.ndarray) -> Path:
    rows = ["image,label,split,group,mask,kinds"]
    for number, split in enumerate(("train", "train", "test", "")):
        image = surface + np.random.default_rng(number).normal(0, 20, SHAPE)
        image[mask] = 200
        write_image(tmp_path / f"a{number}.tif", image.astype(np.uint16))
        write_image(tmp_path / f"m{number}.png", mask)
        rows.append(f"a{number}.tif,artifact,{split},well{number // 2},m{number}.png,dust")
    write_image(tmp_path / "c.tif", surface.astype(np.uint16))
    rows.append("c.tif,clean,train,well0,,")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path / "labels.csv"


def test_twins_stand_in_one_table_split_and_group(labels: Path, tmp_path: Path, mask: np.ndarray) -> None:
    done = CliRunner().invoke(app, ["fill", str(labels), "--twins", str(tmp_path / "twins")])
    assert done.exit_code == 0, done.output
    table = read_labels(tmp_path / "twins" / "labels.csv")
    assert [item.label for item in table.images] == ["artifact", "clean"] * 4 + ["clean"]
    for original, twin in zip(table.images[:8:2], table.images[1:8:2], strict=True):
        assert (original.split, original.group) == (twin.split, twin.group)
        assert (twin.mask, twin.kinds, original.kinds) == (None, (), ("dust",))
        before, after = read_image(original.path).pixels, read_image(twin.path).pixels
        assert before[mask].mean() == 200
        assert after[mask].mean() > 2500
        np.testing.assert_array_equal(before[~mask], after[~mask])
    assert not np.array_equal(*(read_image(table.images[at].path).pixels[mask] for at in (1, 3)))
    with open(tmp_path / "twins" / "labels.csv", encoding="utf-8") as opened:
        assert all(not Path(row["image"]).is_absolute() for row in csv.DictReader(opened))


def test_twins_need_masks(labels: Path, tmp_path: Path) -> None:
    labels.write_text(labels.read_text().replace("m1.png", ""))
    with pytest.raises(ArtSegError, match=r"1 of 4 have none.*a1\.tif"):
        write_twins(read_labels(labels), tmp_path / "twins")


def test_segment_writes_filled_pictures_beside(packages: dict[str, Path], sample: np.ndarray, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "field.tif", sample, pixel_size_um=0.59)
    Image.fromarray(np.stack([sample // 20] * 3, axis=-1).astype(np.uint8)).save(tmp_path / "in" / "colour.png")
    options = f"-m {packages['unet']} -o {tmp_path / 'out'} --fill --no-gate --cutoff 0.5 --smallest-artifact 0"
    done = CliRunner().invoke(
        app,
        ["segment", str(tmp_path / "in"), *options.split()],
    )
    assert done.exit_code == 0, done.output
    found = tifffile.imread(tmp_path / "out" / "field_artifacts.tif") > 0
    filled = read_image(tmp_path / "out" / "field_filled.tif")
    assert filled.pixels.dtype == sample.dtype
    assert filled.pixel_size_um == pytest.approx(0.59)
    assert found.any()
    np.testing.assert_array_equal(filled.pixels[~found], sample[~found])
    assert (filled.pixels[found] != sample[found]).mean() > 0.9
    assert tifffile.imread(tmp_path / "out" / "colour_filled.tif").shape == (*sample.shape, 3)


def test_a_background_is_found_under_what_nobody_marked() -> None:
    y, x = np.mgrid[:60, :80] / 60
    background = 3 + 2 * y - x + 0.5 * x**2
    disturbed = background + np.random.default_rng(0).normal(0, 0.02, background.shape)
    disturbed[10:40, 20:52] -= 5  # a fifth of the image
    found = fit_undisturbed_background(disturbed)
    assert np.abs(found - background).max() < 0.05
    assert np.array_equal(fit_undisturbed_background(np.full((20, 20), 7)), np.full((20, 20), 7.0))
    with pytest.raises(ArtSegError, match="order"):
        fit_undisturbed_background(disturbed, order=9)
