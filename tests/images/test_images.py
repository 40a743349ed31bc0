"""Images of every kind go in and come out as they are; what cannot be used is refused with one clear message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from artseg_models.errors import ArtSegError
from artseg_models.images import (
    MINIMUM_SIDE,
    NORMALISATION_EPSILON,
    check_pixels,
    find_images,
    normalise,
    read_image,
    write_image,
)

RANDOM = np.random.default_rng(7)
GREY8 = RANDOM.integers(0, 256, (45, 61), dtype=np.uint8)
GREY12 = RANDOM.integers(0, 4096, (45, 61)).astype(np.uint16)
GREY16 = RANDOM.integers(5000, 65536, (45, 61)).astype(np.uint16)
FLOAT = RANDOM.normal(0.03, 0.01, (45, 61)).astype(np.float32)
COLOUR8 = RANDOM.integers(0, 256, (45, 61, 3), dtype=np.uint8)
COLOUR16 = RANDOM.integers(0, 65536, (45, 61, 3)).astype(np.uint16)


def luminance(colour: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(colour[..., :3].astype(float), -1, 0)
    return 0.2125 * red + 0.7154 * green + 0.0721 * blue


@pytest.mark.parametrize(
    ("pixels", "bits"), [(GREY8, 8), (GREY12, 12), (GREY16, 16), (FLOAT, 32)], ids=["8", "12", "16", "float"]
)
@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"byteorder": ">"}, {"tile": (16, 32)}])
def test_grey_tiff_comes_as_stored(tmp_path: Path, pixels: np.ndarray, bits: int, options: dict[str, object]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    image = read_image(tmp_path / "a.tif")
    assert image.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(image.pixels, pixels)
    assert (image.bits, image.path, image.pixel_size_um) == (bits, tmp_path / "a.tif", None)


@pytest.mark.parametrize("stored", [np.int16, np.uint32, np.int32, np.float16, np.float64])
def test_other_number_types_become_float32(tmp_path: Path, stored: type) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY8.astype(stored))
    image = read_image(tmp_path / "a.tif")
    assert image.pixels.dtype == np.float32
    assert image.bits == (16 if stored is np.uint16 else 32)
    np.testing.assert_array_equal(image.pixels, GREY8)


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.jpg", "a.jpeg", "a.tif"])
def test_colour_becomes_luminance_on_the_stored_scale(tmp_path: Path, name: str) -> None:
    colour = np.broadcast_to(np.linspace(20, 220, 61)[None, :, None], (45, 61, 3)).astype(np.uint8).copy()
    colour[..., 0] //= 2
    if name.endswith("tif"):
        tifffile.imwrite(tmp_path / name, colour)
    else:
        Image.fromarray(colour).save(tmp_path / name, quality=98)
    image = read_image(tmp_path / name)
    assert image.pixels.dtype == np.float32
    assert image.bits == 8
    np.testing.assert_allclose(image.pixels, luminance(colour), atol=4 if "jp" in name else 1e-3)


def test_planar_colour_tiff_is_one_plane(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(COLOUR8, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_allclose(read_image(tmp_path / "a.tif").pixels, luminance(COLOUR8), atol=1e-3)


def test_alpha_is_left_out(tmp_path: Path) -> None:
    alpha = RANDOM.integers(0, 256, GREY8.shape, dtype=np.uint8)
    Image.fromarray(np.dstack([COLOUR8, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([GREY8, alpha])).save(tmp_path / "la.png")
    tifffile.imwrite(tmp_path / "rgba.tif", np.dstack([COLOUR8, alpha]), photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_allclose(read_image(tmp_path / "rgba.png").pixels, luminance(COLOUR8), atol=1e-3)
    np.testing.assert_allclose(read_image(tmp_path / "rgba.tif").pixels, luminance(COLOUR8), atol=1e-3)
    np.testing.assert_array_equal(read_image(tmp_path / "la.png").pixels, GREY8)


def test_palette_shows_its_colours(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOUR8).quantize(32)
    palette.save(tmp_path / "a.png")
    shown = np.asarray(palette.convert("RGB"))
    np.testing.assert_allclose(read_image(tmp_path / "a.png").pixels, luminance(shown), atol=1e-3)


def test_sixteen_bit_png_keeps_its_bits(tmp_path: Path) -> None:
    Image.fromarray(GREY16).save(tmp_path / "grey.png")
    (tmp_path / "colour.png").write_bytes(imagecodecs.png_encode(COLOUR16))
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png").pixels, GREY16)
    colour = read_image(tmp_path / "colour.png")
    assert colour.bits == 16
    np.testing.assert_allclose(colour.pixels, luminance(COLOUR16), rtol=1e-5)


# ---- several planes ----


def write_stack(path: Path) -> np.ndarray:
    stack = np.stack([np.roll(GREY16, shift, axis=1) for shift in range(6)])
    if path.name.endswith(".ome.tif"):
        tifffile.imwrite(path, stack.reshape(2, 3, 45, 61), metadata={"axes": "CZYX"})
    elif path.name.startswith("imagej"):
        tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX"})
    else:
        tifffile.imwrite(path, stack, photometric="minisblack")
    return stack


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "imagej.tif"])
def test_one_plane_of_several_is_chosen(tmp_path: Path, name: str) -> None:
    stack = write_stack(tmp_path / name)
    for plane in (0, 4, 5):
        np.testing.assert_array_equal(read_image(tmp_path / name, plane=plane).pixels, stack[plane])
    with pytest.raises(ArtSegError, match=r"holds 6 planes.*--plane, 0 to 5"):
        read_image(tmp_path / name)
    for plane in (6, -1):
        with pytest.raises(ArtSegError, match=f"--plane {plane} is none of them. Choose 0 to 5"):
            read_image(tmp_path / name, plane=plane)


def test_one_plane_of_a_colour_stack_is_chosen(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([COLOUR8, 255 - COLOUR8]), photometric="rgb")
    np.testing.assert_allclose(read_image(tmp_path / "a.tif", plane=1).pixels, luminance(255 - COLOUR8), atol=1e-3)
    with pytest.raises(ArtSegError, match="holds 2 planes"):
        read_image(tmp_path / "a.tif")


def test_pages_of_different_sizes_are_planes(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(GREY16, metadata=None)
        writer.write(GREY8[:40, :50], metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", plane=1).pixels, GREY8[:40, :50])


def test_the_only_plane_may_be_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY8)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", plane=0).pixels, GREY8)
    with pytest.raises(ArtSegError, match="holds 1 plane "):
        read_image(tmp_path / "a.tif", plane=1)


# ---- pixel size ----


@pytest.mark.parametrize(("size", "unit", "expected"), [(0.323, "µm", 0.323), (323, "nm", 0.323), (1, "pixel", None)])
def test_pixel_size_from_ome(tmp_path: Path, size: float, unit: str, expected: float | None) -> None:
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        GREY16,
        metadata={"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit, "PhysicalSizeY": size},
    )
    assert read_image(tmp_path / "a.ome.tif").pixel_size_um == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(("unit", "per_unit", "expected"), [("um", 2.0, 0.5), ("\\u00B5m", 4.0, 0.25), ("mm", 1e3, 1)])
def test_pixel_size_from_imagej(tmp_path: Path, unit: str, per_unit: float, expected: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY16, imagej=True, resolution=(per_unit, per_unit), metadata={"unit": unit})
    assert read_image(tmp_path / "a.tif").pixel_size_um == pytest.approx(expected)


def test_pixel_size_from_the_resolution_unless_it_is_a_screen(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "cm.tif", GREY16, resolution=(1e4 / 0.323, 1e4 / 0.323), resolutionunit="CENTIMETER")
    tifffile.imwrite(tmp_path / "inch.tif", GREY16, resolution=(25400 / 0.65, 25400 / 0.65), resolutionunit="INCH")
    tifffile.imwrite(tmp_path / "screen.tif", GREY16, resolution=(72, 72), resolutionunit="INCH")
    Image.fromarray(GREY8).save(tmp_path / "screen.jpg", dpi=(96, 96))
    assert read_image(tmp_path / "cm.tif").pixel_size_um == pytest.approx(0.323)
    assert read_image(tmp_path / "inch.tif").pixel_size_um == pytest.approx(0.65)
    assert read_image(tmp_path / "screen.tif").pixel_size_um is None
    assert read_image(tmp_path / "screen.jpg").pixel_size_um is None


def test_pixel_size_by_option_goes_first(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", GREY16, pixel_size_um=0.323)
    assert read_image(tmp_path / "a.tif", pixel_size_um=0.65).pixel_size_um == 0.65
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ArtSegError, match="pixel size above 0"):
            read_image(tmp_path / "a.tif", pixel_size_um=wrong)


# ---- bad files ----


def broken(folder: Path, kind: str) -> Path:
    if kind == "missing":
        return folder / "missing.tif"
    if kind == "a folder":
        (folder / "folder.tif").mkdir()
        return folder / "folder.tif"
    if kind.startswith("empty"):
        path = folder / f"a{kind.split()[1]}"
        path.touch()
        return path
    if kind.startswith("text"):
        path = folder / f"a{kind.split()[1]}"
        path.write_text("this is no image", encoding="utf-8")
        return path
    _, suffix, *compression = kind.split()
    whole = folder / f"whole{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(whole, GREY16, compression=compression[0] if compression else None)
    else:
        Image.fromarray(COLOUR8).save(whole)
    path = folder / f"cut{suffix}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "does not exist"),
        ("a folder", "not a file"),
        ("empty .tif", "empty"),
        ("empty .png", "empty"),
        ("text .tif", "could not be read"),
        ("text .png", "could not be read"),
        ("text .jpg", "could not be read"),
        ("text .csv", "suffixes"),
        ("cut .tif", "truncated"),
        ("cut .tif zlib", "truncated"),
        ("cut .png", "truncated"),
        ("cut .jpg", "truncated"),
    ],
)
def test_a_bad_file_ends_in_one_clear_message(tmp_path: Path, kind: str, says: str) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(ArtSegError, match=says) as caught:
        read_image(path)
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (np.full((40, 40), np.nan, dtype=np.float32), "1600 of 1600 pixels are NaN"),
        (np.where(np.eye(40) > 0, np.inf, 1.0), "40 of 1600 pixels are NaN or infinite"),
        (np.full((40, 40), 7, dtype=np.uint8), "all pixels have the value 7"),
        (np.zeros((1, 1), dtype=np.uint8), f"at least {MINIMUM_SIDE} pixels.*got 1 x 1"),
        (RANDOM.random((MINIMUM_SIDE - 1, 100)), "got 100 x 31"),
        (RANDOM.random((3, 40, 40)), r"one grey plane.*\(3, 40, 40\)"),
        (RANDOM.random((40, 40)) + 1j, "real numbers"),
    ],
)
def test_pixels_that_tell_nothing_are_refused(pixels: np.ndarray, says: str) -> None:
    with pytest.raises(ArtSegError, match=f"^well A01: .*{says}"):
        check_pixels(pixels, source="well A01")


@pytest.mark.parametrize("pixels", [GREY8, GREY12, GREY16, FLOAT, GREY8 > 9, RANDOM.random((32, 32))])
def test_good_pixels_pass(pixels: np.ndarray) -> None:
    check_pixels(pixels, source="a")


# ---- normalising ----


@pytest.mark.parametrize("pixels", [GREY8, GREY16, FLOAT, GREY16 / 65535 * 0.06])
def test_normalising_equals_the_model_zoo(pixels: np.ndarray) -> None:
    from bioimageio.core.proc_ops import ZeroMeanUnitVariance
    from bioimageio.core.sample import Sample
    from bioimageio.core.stat_calculators import compute_sample_measures
    from bioimageio.core.stat_measures import SampleMean, SampleStd
    from bioimageio.core.tensor import Tensor
    from bioimageio.spec.model.v0_5 import AxisId, TensorId

    image = TensorId("image")
    axes = (AxisId("channel"), AxisId("y"), AxisId("x"))
    tensor = Tensor(pixels[None, None].astype(np.float32), dims=(AxisId("batch"), *axes))
    operator = ZeroMeanUnitVariance(
        input=image,
        output=image,
        mean=SampleMean(axes=axes, member_id=image),
        std=SampleStd(axes=axes, member_id=image),
        eps=NORMALISATION_EPSILON,
    )
    sample = Sample(members={image: tensor}, stat={}, id="sample")
    sample.stat.update(compute_sample_measures(operator.required_measures, sample))
    operator(sample)
    expected = np.asarray(sample.members[image].data)[0, 0]
    got = normalise(pixels)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=2e-4)  # the operator computes in float32
    exact = (pixels - np.mean(pixels, dtype=np.float64)) / (np.std(pixels, dtype=np.float64) + NORMALISATION_EPSILON)
    np.testing.assert_allclose(got, exact, atol=1e-6, rtol=1e-6)


def test_normalising_does_not_care_for_brightness_and_contrast() -> None:
    np.testing.assert_allclose(normalise(GREY16), normalise(GREY16 * 0.0002 + 9), atol=1e-4)


def test_pixels_outside_do_not_count() -> None:
    valid = np.zeros(GREY16.shape, dtype=bool)
    valid[:, :30] = True
    spoilt = np.where(valid, GREY16, 65535).astype(np.float64)
    spoilt[0, 40] = np.nan
    got = normalise(spoilt, valid=valid)
    np.testing.assert_allclose(got[:, :30], normalise(GREY16[:, :30]), atol=1e-6)
    assert not got[:, 30:].any()
    with pytest.raises(ArtSegError, match="No pixel"):
        normalise(GREY16, valid=np.zeros_like(valid))
    with pytest.raises(ArtSegError, match="shape"):
        normalise(GREY16, valid=valid[:-1])


# ---- writing ----


@pytest.mark.parametrize(
    "pixels",
    [GREY8, GREY16, FLOAT, COLOUR8, np.arange(2745, dtype=np.int32).reshape(45, 61) * 1000],
    ids=["8", "16", "float", "colour", "labels"],
)
def test_tiff_holds_what_was_written(tmp_path: Path, pixels: np.ndarray) -> None:
    audit = {"model": "µ-net", "cutoff": 0.05}
    write_image(tmp_path / "new" / "a.tif", pixels, audit=audit, pixel_size_um=0.323)
    with tifffile.TiffFile(tmp_path / "new" / "a.tif") as opened:
        np.testing.assert_array_equal(opened.asarray(), pixels)
        assert opened.asarray().dtype == pixels.dtype
        assert json.loads(opened.pages.first.description) == audit
        assert opened.pages.first.compression.name == "ADOBE_DEFLATE"
    assert read_image(tmp_path / "new" / "a.tif").pixel_size_um == pytest.approx(0.323, rel=1e-4)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.tif"]


def test_masks_are_written_as_0_and_255(tmp_path: Path) -> None:
    for name in ("mask.tif", "mask.png"):
        write_image(tmp_path / name, GREY8 > 99)
        np.testing.assert_array_equal(read_image(tmp_path / name).pixels, np.where(GREY8 > 99, 255, 0))


def test_png_holds_8_and_16_bit_and_says_no_to_the_rest(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", GREY16, audit={"model": "x"}, pixel_size_um=0.65)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, GREY16)
    assert image.pixel_size_um == pytest.approx(0.65, rel=1e-3)
    for pixels in (FLOAT, COLOUR16):
        with pytest.raises(ArtSegError, match=r"write a \.tif instead"):
            write_image(tmp_path / "b.png", pixels)
    with pytest.raises(ArtSegError, match=r"\.jpg"):
        write_image(tmp_path / "b.jpg", GREY8)
    assert not list(tmp_path.glob("*b.*"))


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes to play a full disk with")
@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_a_full_disk_leaves_the_earlier_file_as_it_was(tmp_path: Path, name: str, repository: Path) -> None:
    write_image(tmp_path / name, GREY8)
    before = (tmp_path / name).read_bytes()
    script = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from artseg_models.errors import ArtSegError; from artseg_models.images import write_image\n"
        "noise = np.random.default_rng(0).integers(0, 65536, (400, 400)).astype(np.uint16)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: write_image(Path(sys.argv[1]), noise)\n"
        "except ArtSegError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    assert f"Could not write {tmp_path / name}" in done.stdout
    assert "Free space" in done.stdout
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_images_of_a_folder_are_sorted_as_a_person_counts(tmp_path: Path) -> None:
    for name in ("s10.tif", "s9.tif", "A2.PNG", "a10.jpeg", "s9.csv", ".s1.tif", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.tif").mkdir()
    assert [path.name for path in find_images(tmp_path)] == ["A2.PNG", "a10.jpeg", "s9.tif", "s10.tif"]
    with pytest.raises(ArtSegError, match="Expected a folder"):
        find_images(tmp_path / "none")


# ---- real images ----


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "bits"),
    [
        ("pediatric_field/r03c03f03p01-ch1sk1fk1fl1.tiff", (1080, 1080), "uint16", 16),
        ("umid_fibre/images/8.jpg", (720, 1280), "float32", 8),
        ("sbs_translocation/Channel1-01-A-01.tif", (640, 640), "uint8", 8),
    ],
)
def test_real_images(shared_data: Path, name: str, shape: tuple[int, int], dtype: str, bits: int) -> None:
    image = read_image(shared_data / name)
    check_pixels(image.pixels, source=name)
    assert (image.pixels.shape, image.pixels.dtype.name, image.bits) == (shape, dtype, bits)
    # the field's TIFF says 64 um a pixel, which no microscope has
    assert image.pixel_size_um is None
