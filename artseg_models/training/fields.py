"""Training images at working resolution: decoded, normalised and binned once, then cropped and varied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor
from torch.nn import functional as F

from artseg_models.errors import ArtSegError
from artseg_models.files import whole_file
from artseg_models.images import check_pixels, normalise, read_image
from artseg_models.labels import LabelledImage, read_kind_mask, read_mask
from artseg_models.progress import track
from artseg_models.training.configuration import Augmentation

Array = NDArray[np.float32]


def binned(pixels: Array, binning: int) -> Array:
    """Average `binning` x `binning` pixels (y, x); as in the networks, the edge is repeated to a multiple."""
    height, width = pixels.shape
    padded = np.pad(pixels, ((0, -height % binning), (0, -width % binning)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // binning, binning, padded.shape[1] // binning, binning)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


class WorkingImages:
    """Images of a data set at working resolution, decoded once into a folder.

    Parameters
    ----------
    items : sequence of LabelledImage
        The images. Their masks are never read here.
    folder : Path
        Where the decoded images are kept (float16, so that a big data set fits on the disk and in the page cache).
    binning : int
        Pixels averaged into one along y and x.
    plane : int, optional
        Which plane of files with several.

    Raises
    ------
    ArtSegError
        An image cannot be used.
    """

    def __init__(self, items: Sequence[LabelledImage], folder: Path, *, binning: int, plane: int | None = None) -> None:
        self.items = tuple(items)
        self._files = [folder / f"{index:06d}.npy" for index in range(len(self.items))]
        missing = [index for index, file in enumerate(self._files) if not file.exists()]
        for index in track(missing, "Reading images", len(missing)):
            image = read_image(self.items[index].path, plane=plane)
            check_pixels(image.pixels, source=str(image.path))
            working = binned(normalise(image.pixels), binning)
            with whole_file(self._files[index]) as temporary:
                np.save(temporary, working.astype(np.float16), allow_pickle=False)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Array:
        """Image `index`: (y, x) float32, about zero mean and unit variance."""
        return np.load(self._files[index], allow_pickle=False).astype(np.float32)

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of image `index`, in binned pixels."""
        height, width = np.load(self._files[index], mmap_mode="r", allow_pickle=False).shape
        return int(height), int(width)


@dataclass(frozen=True)
class Split:
    """Images of one split at working resolution.

    Attributes
    ----------
    images : WorkingImages
        The images.
    artifact : ndarray
        (images,) bool: which of them hold an artifact.
    binning : int
        Pixels averaged into one along y and x.
    plane : int or None
        Which plane of files with several.
    """

    images: WorkingImages
    artifact: NDArray[np.bool_]
    binning: int
    plane: int | None

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def read(cls, items: Sequence[LabelledImage], folder: Path, *, binning: int, plane: int | None) -> Split:
        """Decode labelled images into a folder, or take what is there."""
        artifact = np.array([item.label == "artifact" for item in items], dtype=np.bool_)
        return cls(WorkingImages(items, folder, binning=binning, plane=plane), artifact, binning, plane)

    def masks(self) -> list[NDArray[np.bool_]]:
        """Read the true masks (y, x) of all images at working resolution; those of clean images are empty.

        Raises
        ------
        ArtSegError
            A mask cannot be used.
        """
        return [self.mask(index) for index in track(range(len(self)), "Reading masks", len(self))]

    def mask(self, index: int, *, kind: str | None = None) -> NDArray[np.bool_]:
        """Read the true mask (y, x) of one image at working resolution, of one kind if wanted; see `masks`."""
        item = self.images.items[index]
        pixels = read_image(item.path, plane=self.plane).pixels
        shape = (pixels.shape[0], pixels.shape[1])
        mask = read_mask(item, shape=shape) if kind is None else read_kind_mask(item, kind, shape=shape)
        return binned(mask.astype(np.float32), self.binning) >= 0.5


def require_masks(items: Sequence[LabelledImage], which: str) -> None:
    """Refuse artifact images without a mask.

    Parameters
    ----------
    items : sequence of LabelledImage
        What is to be used.
    which : str
        Says in the message which images they are and what for.

    Raises
    ------
    ArtSegError
        An artifact image has no mask.
    """
    artifact = [item for item in items if item.label == "artifact"]
    without = [item.path.name for item in artifact if item.mask is None]
    if without:
        raise ArtSegError(
            f"Expected a mask for every artifact image {which}, but {len(without)} of {len(artifact)} have none, "
            f"{without[0]} among them. Draw them, leave these images out, or choose by labels."
        )


def as_batch(image: Array, device: str) -> Tensor:
    """Put one image (y, x) on a device as (1, 1, y, x)."""
    return torch.from_numpy(image)[None, None].to(device)


def enlarged(map_: Array, binning: int, shape: tuple[int, int]) -> Array:
    """Bring a map (y, x) from working resolution back to `shape`, as the networks do: bilinear, then cropped."""
    if binning == 1:
        return map_
    tensor = torch.from_numpy(map_)[None, None]
    larger = F.interpolate(tensor, scale_factor=float(binning), mode="bilinear", align_corners=False)
    return larger[0, 0, : shape[0], : shape[1]].numpy()


def padded_to_multiple(array: Array, multiple: int) -> Array:
    """Pad (y, x) by reflection at the bottom and right to multiples of `multiple`."""
    height, width = array.shape
    return np.pad(array, ((0, -height % multiple), (0, -width % multiple)), mode="reflect")


def blurred(image: Array, sigma: float) -> Array:
    """Blur an image (y, x) float32 by a Gaussian of so many pixels; it goes on by reflection beyond its border."""
    result = np.empty_like(image)
    ndimage.gaussian_filter(image, sigma, output=result)
    return result


def augmented(
    images: Tensor, targets: Tensor | None, settings: Augmentation, random: np.random.Generator
) -> tuple[Tensor, Tensor | None]:
    """Vary a batch: one random turn, size, shift, mirror image, contrast, brightness and noise for each image.

    Parameters
    ----------
    images : Tensor
        (batch, 1, y, x) float32.
    targets : Tensor, optional
        (batch, 1, y, x) float32 pixel labels; moved with the image by nearest neighbour.
    settings : Augmentation
        How far each change may go.
    random : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    tuple of Tensor
        Images and targets of the same shapes.
    """
    count, _, height, width = images.shape
    if settings.flips:
        turns, flip_y, flip_x = random.integers(4, size=count), random.random(count) < 0.5, random.random(count) < 0.5
        for index in range(count):
            axes = [axis for axis, flip in ((1, flip_y[index]), (2, flip_x[index])) if flip]
            quarter = int(turns[index]) if height == width else 0
            images[index] = torch.rot90(images[index].flip(axes), quarter, (1, 2))
            if targets is not None:
                targets[index] = torch.rot90(targets[index].flip(axes), quarter, (1, 2))
    if settings.rotation or settings.scale or settings.shift:
        angle = np.deg2rad(random.uniform(-settings.rotation, settings.rotation, count))
        scale = np.exp(random.uniform(-1, 1, count) * np.log1p(settings.scale))
        shift = random.uniform(-2 * settings.shift, 2 * settings.shift, (count, 2))
        aspect = height / width
        # normalised coordinates are stretched by the image's aspect ratio: undo it, or a turn would shear
        matrix = np.zeros((count, 2, 3), np.float32)
        matrix[:, 0, 0] = scale * np.cos(angle)
        matrix[:, 0, 1] = -scale * np.sin(angle) * aspect
        matrix[:, 1, 0] = scale * np.sin(angle) / aspect
        matrix[:, 1, 1] = scale * np.cos(angle)
        matrix[:, :, 2] = shift
        grid = F.affine_grid(torch.from_numpy(matrix), [count, 1, height, width], align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        if targets is not None:
            targets = F.grid_sample(targets, grid, mode="nearest", padding_mode="reflection", align_corners=False)
    if settings.contrast or settings.brightness:
        gain = random.uniform(1 - settings.contrast, 1 + settings.contrast, (count, 1, 1, 1)).astype(np.float32)
        offset = random.uniform(-settings.brightness, settings.brightness, (count, 1, 1, 1)).astype(np.float32)
        images = images * torch.from_numpy(gain) + torch.from_numpy(offset)
    if settings.noise:
        strength = random.uniform(0, settings.noise, (count, 1, 1, 1)).astype(np.float32)
        noise = random.standard_normal(images.shape, dtype=np.float32)
        images = images + torch.from_numpy(strength * noise)
    return images, targets
