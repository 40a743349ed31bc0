"""Artifacts painted over with background (section 2.1): clean counterparts of images that nearly all have artifacts.

A background of low order is fitted to the pixels outside the mask, takes the place of the masked ones, and gets noise
of the image's own. What lay under the artifact is not restored: cells there are gone, so the filled area is for
training and for showing, never for measuring.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize  # pyright: ignore[reportMissingTypeStubs]

from artseg_models.errors import ArtSegError
from artseg_models.files import whole_files
from artseg_models.images import read_image, read_samples, save_image
from artseg_models.labels import LabelledImage, LabelSet, read_mask, write_labels
from artseg_models.progress import track

_least_squares: Any = cast("Any", optimize).least_squares  # its own types are incomplete

logger = logging.getLogger(__name__)

_SMOOTH_PX = 9
"""Noise is what a mean over this many pixels along y and x leaves."""
_CALM = 0.25
"""Share of the places outside the mask that count as background: those with the least noise, without cells."""
_PIXELS_A_COEFFICIENT = 10


@dataclass(frozen=True)
class FillSettings:
    """How masked pixels are replaced.

    Attributes
    ----------
    order : int
        Order of the polynomial in x and y; 2 as in the paper.
    grain : int
        Side, in pixels, of the pieces in which noise is taken from the background; 1 draws each pixel for itself.
        Larger pieces keep how the noise of neighbours hangs together, as after JPEG or the microscope's blur.
    noise : bool
        Whether noise is added.
    margin : int
        Pixels around the mask that are filled too: blurred edges of an artifact reach beyond its outline.
    seed : int
        Seed of the noise.
    """

    order: int = 2
    grain: int = 8
    noise: bool = True
    margin: int = 0
    seed: int = 0


def fit_background(
    pixels: NDArray[Any], mask: NDArray[np.bool_], *, order: int = 2, source: str = "image"
) -> NDArray[np.float64]:
    """Fit a polynomial in x and y to the pixels outside a mask, by least squares.

    Parameters
    ----------
    pixels : ndarray
        (y, x), any real dtype.
    mask : ndarray
        (y, x) bool, True = artifact.
    order : int
        Highest sum of the exponents of x and y, 0 to 6.
    source : str
        Names the image in errors.

    Returns
    -------
    ndarray
        (y, x) float64: the background everywhere, on the scale of `pixels`.

    Raises
    ------
    ArtSegError
        Shapes differ, the order is out of range, or hardly any pixel lies outside the mask.
    """
    if pixels.shape != mask.shape:
        raise ArtSegError(
            f"{source}: expected a mask of {pixels.shape[1]} x {pixels.shape[0]} pixels like its image, got "
            f"{mask.shape[1]} x {mask.shape[0]}."
        )
    outside = int(np.count_nonzero(~mask))
    needed = _fewest_pixels(order)
    if outside < needed:
        raise ArtSegError(
            f"{source}: expected at least {needed} pixels outside the mask to fit a background of order {order} to, "
            f"got {outside}. Give a smaller mask or a lower order."
        )
    terms = _polynomial(mask.shape, order)
    # the normal equations: a matrix of all pixels would need gigabytes on large fields
    chosen = [term[~mask] for term in terms]
    values = pixels[~mask].astype(np.float64)
    products = np.array([[float(a @ b) for b in chosen] for a in chosen])
    weights = np.linalg.solve(products, np.array([float(a @ values) for a in chosen]))
    return sum((weight * term for weight, term in zip(weights, terms, strict=True)), np.zeros(mask.shape))


def _fewest_pixels(order: int) -> int:
    """Give how many pixels a polynomial is fitted to at least; refuse an order that no background has."""
    if not 0 <= order <= 6:
        raise ArtSegError(f"Expected an order of the background from 0 to 6, got {order}. The paper's is 2.")
    return _PIXELS_A_COEFFICIENT * len(_powers(order))


def _powers(order: int) -> list[tuple[int, int]]:
    return [(p, q) for p in range(order + 1) for q in range(order + 1 - p)]


def _polynomial(shape: tuple[int, ...], order: int) -> list[NDArray[np.float64]]:
    """Give the terms, each of (y, x), of a polynomial in y and x, which go from -1 to 1 over an image."""
    y: NDArray[np.float64] = np.linspace(-1, 1, shape[0])[:, None]
    x: NDArray[np.float64] = np.linspace(-1, 1, shape[1])[None, :]
    return [np.broadcast_to(y**p * x**q, shape) for p, q in _powers(order)]


def fit_undisturbed_background(pixels: NDArray[Any], *, order: int = 2) -> NDArray[np.float64]:
    """Fit a polynomial in x and y to an image in which nobody marked what is no background.

    The sum of absolute residuals is made small first, which a minority of pixels that depart hardly moves; then that of
    their logarithm (Cauchy's loss), on the scale of the median residual, which lets go of them.

    Parameters
    ----------
    pixels : ndarray
        (y, x), any real dtype; coarse pixels suffice, the polynomial is smooth.
    order : int
        Highest sum of the exponents of x and y, 0 to 6.

    Returns
    -------
    ndarray
        (y, x) float64, on the scale of `pixels`.

    Raises
    ------
    ArtSegError
        The order is out of range, or the image has too few pixels for it.
    """
    if pixels.size < _fewest_pixels(order):
        raise ArtSegError(
            f"Expected images of at least {_fewest_pixels(order)} pixels to find their background in, got "
            f"{pixels.shape[1]} x {pixels.shape[0]} (after binning). Bin less, or use images of whole fields of view."
        )
    polynomial = _polynomial(pixels.shape, order)
    values = pixels.ravel().astype(np.float64)
    spread = float(values.std())
    if spread == 0:
        return pixels.astype(np.float64)
    terms = np.stack([term.ravel() for term in polynomial], axis=1)

    def residuals(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return terms @ weights - values

    def slopes(_: NDArray[np.float64]) -> NDArray[np.float64]:
        return terms

    def fitted(start: NDArray[Any], loss: str, scale: float) -> NDArray[np.float64]:
        return np.asarray(_least_squares(residuals, start, jac=slopes, loss=loss, f_scale=scale).x, dtype=np.float64)

    weights = fitted(np.linalg.lstsq(terms, values, rcond=None)[0], "soft_l1", 1e-2 * spread)
    scale = max(float(np.median(np.abs(residuals(weights)))), 1e-6 * spread)
    return (terms @ fitted(weights, "cauchy", scale)).reshape(pixels.shape)


def fill(
    pixels: NDArray[Any],
    mask: NDArray[np.bool_],
    *,
    settings: FillSettings | None = None,
    source: str = "image",
) -> NDArray[Any]:
    """Replace the masked pixels by background with noise.

    Parameters
    ----------
    pixels : ndarray
        (y, x) or (y, x, samples), integer or floating.
    mask : ndarray
        (y, x) bool, True = artifact.
    settings : FillSettings, optional
        Order of the background, noise and its seed.
    source : str
        Names the image in errors.

    Returns
    -------
    ndarray
        Shape and dtype of `pixels`; outside the mask equal to it.

    Raises
    ------
    ArtSegError
        The mask does not fit, or leaves too little background.
    """
    chosen = settings or FillSettings()
    if chosen.grain < 1:
        raise ArtSegError(f"Expected a grain of 1 pixel or more, got {chosen.grain}.")
    filled = pixels.copy()
    if not mask.any():
        return filled
    if chosen.margin:
        mask = np.asarray(ndimage.distance_transform_edt(~mask)) <= chosen.margin
    for sample in [(...,)] if pixels.ndim == 2 else [(..., at) for at in range(pixels.shape[2])]:
        values = pixels[sample].astype(np.float64)
        background = fit_background(values, mask, order=chosen.order, source=source)
        # each colour draws the same places: noise of the colours hangs together
        noise = _noise(values, mask, chosen, source) if chosen.noise else 0.0
        replaced = (background + noise)[mask]
        if pixels.dtype.kind in "iu":
            limits = np.iinfo(pixels.dtype)
            replaced = np.clip(np.rint(replaced), limits.min, limits.max)
        filled[sample][mask] = replaced.astype(pixels.dtype)
    return filled


def fill_file(image: Path, mask: NDArray[np.bool_], out: Path, *, settings: FillSettings, plane: int | None) -> None:
    """Fill one image file and write the result beside it, never over it; dtype and pixel size are kept.

    Parameters
    ----------
    image : Path
        Grey or colour.
    mask : ndarray
        (y, x) bool, True = artifact.
    out : Path
        ``.tif`` or ``.png``.
    settings : FillSettings
        How.
    plane : int or None
        Which plane of files with several.

    Raises
    ------
    ArtSegError
        `out` is the image itself, the files cannot be used, or the mask does not fit.
    """
    refuse_original(image, out)
    pixels = fill(read_samples(image, plane=plane), mask, settings=settings, source=str(image))
    size = read_image(image, plane=plane).pixel_size_um
    with whole_files([out]) as (place,):
        save_image(place, pixels, audit=audit_of(image, mask, settings), pixel_size_um=size)


def refuse_original(image: Path, out: Path) -> None:
    """Raise `ArtSegError` where a filled picture would take the place of the image it was made from."""
    if out.exists() and image.samefile(out):
        raise ArtSegError(
            f"Expected another file than the image itself for the filled picture, got {out}. The original is never "
            "overwritten; choose another name or folder."
        )


def audit_of(image: Path, mask: NDArray[np.bool_], settings: FillSettings) -> dict[str, str | float]:
    """Say in a file's description that parts of the picture are made up."""
    return {
        "filled_from": image.name,
        "masked_px": int(np.count_nonzero(mask)),
        "background_order": settings.order,
        "noise": "none" if not settings.noise else f"background, grain {settings.grain} px",
        "margin_px": settings.margin,
        "seed": settings.seed,
    }


def write_twins(
    labels: LabelSet, out: Path, *, settings: FillSettings | None = None, plane: int | None = None
) -> tuple[Path, int]:
    """Give every artifact image a clean twin in which the artifact is filled.

    Parameters
    ----------
    labels : LabelSet
        Every artifact image needs a mask. Clean images stay in the table as they are.
    out : Path
        Gets ``images/`` with the twins, and ``labels.csv``: all images of `labels`, and after each artifact image its
        twin, clean, in the same split and group.
    settings : FillSettings, optional
        How; each image draws noise of its own.
    plane : int, optional
        Which plane of files with several.

    Returns
    -------
    tuple
        The labels.csv, and how many twins there are.

    Raises
    ------
    ArtSegError
        A mask is missing or does not fit, two images have one name, or a file cannot be written.
    """
    chosen = settings or FillSettings()
    spoilt = [item for item in labels.images if item.label == "artifact"]
    without = [item for item in spoilt if item.mask is None]
    if without:
        raise ArtSegError(
            f"Expected a mask for every artifact image to fill it by, but {len(without)} of {len(spoilt)} have none, "
            f"{without[0].path} among them. Add masks, or leave these images out of the labels."
        )
    names = _twin_names(spoilt)
    images: list[LabelledImage] = []
    made = 0
    for item in track(labels.images, "Filling artifacts", len(labels.images)):
        images.append(item)
        if item.label == "clean":
            continue
        grey = read_image(item.path, plane=plane).pixels
        mask = read_mask(item, shape=(grey.shape[0], grey.shape[1]))
        twin = out / "images" / names[made]
        fill_file(item.path, mask, twin, settings=replace(chosen, seed=chosen.seed + made), plane=plane)
        images.append(replace(item, path=twin, label="clean", mask=None, kinds=(), kind_masks={}))
        made += 1
    write_labels(out / "labels.csv", images)
    return out / "labels.csv", made


def _twin_names(items: Sequence[LabelledImage]) -> list[str]:
    stems = [item.path.stem for item in items]
    if len(set(stems)) < len(stems):
        stems = ["_".join((*item.path.parts[-3:-1], item.path.stem)).replace("/", "") for item in items]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise ArtSegError(f"Expected images with different names, but more than one twin would be called {twice}.")
    return [f"{stem}_filled.tif" for stem in stems]


def _noise(
    values: NDArray[np.float64], mask: NDArray[np.bool_], settings: FillSettings, source: str
) -> NDArray[np.float64]:
    """Draw zero-centred noise (y, x) in square pieces from calm places outside the mask."""
    grain = settings.grain
    known = (~mask).astype(np.float64)
    share = _mean(known, _SMOOTH_PX)
    # masked pixels are left out of the means around them
    smooth = _mean(np.where(mask, 0.0, values), _SMOOTH_PX) / np.maximum(share, 1e-9)
    fine: NDArray[np.float64] = np.where(mask, 0.0, values - smooth)
    height, width = values.shape
    if grain > min(height, width):
        raise ArtSegError(f"{source}: a grain of {grain} pixels is larger than the image. Choose a smaller one.")
    whole = _window_sums(known, grain) >= grain**2 - 0.5
    if not whole.any():
        raise ArtSegError(
            f"{source}: expected background in pieces of {grain} x {grain} pixels outside the mask to take noise "
            "from, but there is none. Choose a smaller --grain, or fill without noise."
        )
    around = max(grain, _SMOOTH_PX)
    energy = _mean(fine**2, around) / np.maximum(_mean(known, around), 1e-9)
    middle = energy[grain // 2 : grain // 2 + whole.shape[0], grain // 2 : grain // 2 + whole.shape[1]]
    places = np.argwhere(whole & (middle <= np.quantile(middle[whole], _CALM)))
    random = np.random.default_rng(settings.seed)
    rows, columns = -(-height // grain), -(-width // grain)
    drawn = places[random.integers(len(places), size=rows * columns)].reshape(rows, columns, 2)
    turned = random.integers(2, size=(rows, columns, 2))
    step = np.arange(grain)
    y = drawn[:, :, 0, None] + np.where(turned[:, :, 0, None] == 1, step[::-1], step)
    x = drawn[:, :, 1, None] + np.where(turned[:, :, 1, None] == 1, step[::-1], step)
    pieces = fine[y[:, :, :, None], x[:, :, None, :]]
    noise = pieces.transpose(0, 2, 1, 3).reshape(rows * grain, columns * grain)[:height, :width]
    return noise - noise[mask].mean()


def _mean(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    averaged: NDArray[np.float64] = np.empty_like(values)
    ndimage.uniform_filter(values, side, output=averaged, mode="nearest")
    return averaged


def _window_sums(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Sum over each window of `side` x `side` pixels by its first corner: (y - side + 1, x - side + 1)."""
    summed = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    return summed[side:, side:] - summed[:-side, side:] - summed[side:, :-side] + summed[:-side, :-side]
