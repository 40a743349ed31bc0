"""Artifacts taken out of one field of view and put into another: exact labels for training, counterfactuals for tests.

What is lifted is the difference between the image and the background around it, so that soft, out-of-focus edges keep
their fall-off and no rectangle is left; what is painted out gets the smooth background and the fine texture of another
place of the same image, so that neither blur nor noise betrays it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]
from skimage.measure import label  # pyright: ignore[reportUnknownVariableType]
from skimage.transform import rescale, rotate  # pyright: ignore[reportUnknownVariableType]

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

_TEXTURE = 4.0
"""Structures finer than this, in pixels, count as texture."""
_PLACES = 8
"""Places that are tried for texture, to keep clear of the mask."""
_FEATHER = 1.5
"""Blur, in pixels, of the seam of what is pasted or painted."""


@dataclass(frozen=True)
class Cutout:
    """One artifact without its surroundings.

    Attributes
    ----------
    difference : ndarray
        (y, x) float32: image minus background, in standard deviations of the image outside its artifacts, so that an
        artifact is as strong against the texture of another image as it was against that of its own.
    mask : ndarray
        (y, x) bool, the same shape: its pixels.
    value : int
        What stands on its pixels in pixel labels.
    """

    difference: Image
    mask: Mask
    value: int = 1


@dataclass(frozen=True)
class Change:
    """How an artifact is changed before it is pasted.

    Attributes
    ----------
    degrees : float
        Turn, counter-clockwise.
    scale : float
        Size against the original.
    mirrored : bool
        Left and right exchanged.
    contrast : float
        Strength against the original.
    blur : float
        Standard deviation, in pixels, of a Gaussian blur.
    """

    degrees: float = 0.0
    scale: float = 1.0
    mirrored: bool = False
    contrast: float = 1.0
    blur: float = 0.0


def background_under(image: Image, mask: Mask) -> Image:
    """Fill the pixels of a mask smoothly from those around it, the nearest counting most (pull and push).

    Parameters
    ----------
    image : ndarray
        (y, x) float32.
    mask : ndarray
        (y, x) bool.

    Returns
    -------
    ndarray
        (y, x) float32; equal to `image` outside the mask.
    """
    if mask.all():
        return np.zeros(image.shape, np.float32)
    return np.where(mask, _filled(np.where(mask, 0, image), (~mask).astype(np.float64)), image).astype(np.float32)


def painted_out(image: Image, mask: Mask, random: np.random.Generator, *, margin: int = 3) -> Image:
    """Replace the pixels of a mask by background with the texture of another place of the image.

    Parameters
    ----------
    image : ndarray
        (y, x) float32.
    mask : ndarray
        (y, x) bool.
    random : numpy.random.Generator
        Chooses the place.
    margin : int
        Pixels around the mask that are replaced too: soft edges reach beyond it and would betray what was there.

    Returns
    -------
    ndarray
        (y, x) float32.
    """
    if not mask.any():
        return image.copy()
    wide = _grown(mask, margin)
    smooth = background_under(image, wide)
    texture = np.where(wide, 0, image - _blurred(smooth, _TEXTURE)).astype(np.float32)
    rows, columns = map(int, image.shape)
    shifts = [(int(random.integers(rows)), int(random.integers(columns))) for _ in range(_PLACES)]
    clear = min(shifts, key=lambda shift: int((np.roll(wide, shift, (0, 1)) & wide).sum()))
    new = _blurred(smooth, _TEXTURE) + np.roll(texture, clear, (0, 1))
    seam = np.maximum(_blurred(wide, _FEATHER), mask)
    return (image + seam * (new - image)).astype(np.float32)


def cutouts_of(
    image: Image, mask: Mask, *, smallest: int = 12, margin: int = 3, label: NDArray[np.int8] | None = None
) -> list[Cutout]:
    """Lift every connected artifact of an image.

    Parameters
    ----------
    image : ndarray
        (y, x) float32.
    mask : ndarray
        (y, x) bool.
    smallest : int
        Artifacts with fewer pixels are left out.
    margin : int
        Pixels around the mask that are lifted too.
    label : ndarray, optional
        (y, x) int8: pixel label out of which a cutout gets its value, that of most of its pixels; 1 by default.

    Returns
    -------
    list of Cutout
        One for each, as large as its bounding box with the margin.
    """
    if not mask.any() or mask.all():
        return []
    spread = max(float(image[~mask].std()), 1e-6)
    difference = (image - background_under(image, _grown(mask, margin))) / spread
    objects = connected_parts(mask)
    found: list[Cutout] = []
    boxes = cast("list[tuple[slice, slice]]", ndimage.find_objects(objects))
    for number, box in enumerate(boxes, start=1):
        whole = tuple(slice(max(0, part.start - margin), part.stop + margin) for part in box)
        piece = objects[whole] == number
        if np.count_nonzero(piece) >= smallest:
            value = 1 if label is None else int(np.bincount(label[whole][piece]).argmax())
            found.append(Cutout(difference[whole].astype(np.float32), piece, value))
    return found


def changed(cutout: Cutout, change: Change) -> Cutout:
    """Turn, scale, mirror, blur and strengthen a cutout; its mask moves with it."""
    planes: list[NDArray[Any]] = [cutout.difference, cutout.mask.astype(np.float32)]
    if change.mirrored:
        planes = [plane[:, ::-1] for plane in planes]
    if change.scale != 1:
        planes = [rescale(plane, change.scale, order=1, anti_aliasing=False) for plane in planes]
    if change.degrees:
        planes = [rotate(plane, change.degrees, resize=True, order=1) for plane in planes]
    difference, mask = planes
    if change.blur:
        difference = _blurred(difference, change.blur)
    return Cutout((difference * change.contrast).astype(np.float32), mask >= 0.5, cutout.value)


def pasted(image: Image, cutout: Cutout, middle: tuple[int, int], *, margin: int = 2) -> tuple[Image, Mask]:
    """Put an artifact on an image; what reaches over the edge is cut off.

    Parameters
    ----------
    image : ndarray
        (y, x) float32.
    cutout : Cutout
        The artifact.
    middle : tuple of int
        (y, x) where its middle comes to lie.
    margin : int
        Pixels around its mask that are pasted too.

    Returns
    -------
    tuple of ndarray
        The new image (y, x) float32, and the artifact's pixels in it (y, x) bool.
    """
    new, mask = image.copy(), np.zeros(image.shape, np.bool_)
    (height, width), (rows, columns) = cutout.mask.shape, image.shape
    top, left = middle[0] - height // 2, middle[1] - width // 2
    into = (slice(max(0, top), min(top + height, rows)), slice(max(0, left), min(left + width, columns)))
    if into[0].start >= into[0].stop or into[1].start >= into[1].stop:
        return new, mask
    out_of = (slice(into[0].start - top, into[0].stop - top), slice(into[1].start - left, into[1].stop - left))
    # the blur must not wrap a box around the artifact: the seam falls to nothing at the cutout's own border
    seam = np.maximum(_blurred(_grown(cutout.mask, margin), _FEATHER), cutout.mask)[out_of]
    under, spread = image[into], float(image.std())
    new[into] = under + seam * (_blurred(image, _TEXTURE)[into] - under + spread * cutout.difference[out_of])
    mask[into] = cutout.mask[out_of]
    return new, mask


def connected_parts(mask: Mask) -> NDArray[np.int64]:
    """Count the connected parts of a mask (y, x) from 1; pixels that touch at a corner belong together."""
    return np.asarray(label(mask, connectivity=2), dtype=np.int64)


def as_normalised(changed_image: Image, image: Image) -> Image:
    """Give a changed image (y, x) mean and standard deviation of the one before, as its reader would normalise it."""
    spread = max(float(changed_image.std()), 1e-6)
    return ((changed_image - changed_image.mean()) * (image.std() / spread) + image.mean()).astype(np.float32)


def random_change(random: np.random.Generator) -> Change:
    """Draw a change: any turn, 0.6 to 1.6 times the size, mirrored or not, fainter or stronger, seldom blurred."""
    return Change(
        degrees=float(random.uniform(-180, 180)),
        scale=0.6 * (1.6 / 0.6) ** random.random(),
        mirrored=bool(random.random() < 0.5),
        contrast=float(random.uniform(0.6, 1.3)),
        blur=float(random.uniform(0, 1.5)) if random.random() < 0.3 else 0.0,
    )


def with_artifact(image: Image, cutout: Cutout, random: np.random.Generator) -> tuple[Image, Mask]:
    """Paste an artifact at a random place, changed at random."""
    cutout = changed(cutout, random_change(random))
    rows, columns = map(int, image.shape)
    middle = (int(random.integers(rows)), int(random.integers(columns)))
    return pasted(image, cutout, middle)


def _filled(sums: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """Complete an image from a pyramid of its sums over known pixels: each gap from the finest level that closes it."""
    known = weights > 0
    if known.all():
        return sums / weights
    height, width = sums.shape
    half = (height + 1) // 2, (width + 1) // 2
    pooled = [
        np.pad(plane, ((0, height % 2), (0, width % 2))).reshape(half[0], 2, half[1], 2).sum(axis=(1, 3))
        for plane in (sums, weights)
    ]
    coarse = _filled(pooled[0], pooled[1]).repeat(2, axis=0).repeat(2, axis=1)
    smooth: NDArray[Any] = np.empty_like(coarse)
    ndimage.uniform_filter(coarse, 3, output=smooth, mode="nearest")
    return np.where(known, sums / np.maximum(weights, 1e-9), smooth[:height, :width])


def _grown(mask: Mask, pixels: int) -> Mask:
    if not pixels or not mask.any():
        return mask
    distance: NDArray[np.float64] = np.asarray(ndimage.distance_transform_edt(~mask), dtype=np.float64)
    return distance <= pixels


def _blurred(values: NDArray[Any], sigma: float) -> Image:
    blurred = np.empty(values.shape, np.float32)
    ndimage.gaussian_filter(values.astype(np.float32), sigma, output=blurred, mode="nearest", truncate=3.0)
    return blurred
