"""Which images, and which part of them, take part in an epoch."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from artseg_models.training.fields import WorkingImages

#: (y, x) of one image: True or 1 artifact, False or 0 clean; in int8 labels -1 unsure, which is not learned from, and
#: from 2 on an artifact of which is known of what kinds it may be (`artseg_models.training.kinds`)
PixelLabel = NDArray[np.bool_] | NDArray[np.int8]


def balanced_draw(artifact: NDArray[np.bool_], balance: str, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw the images of one epoch, as shuffled indices.

    Parameters
    ----------
    artifact : ndarray
        (images,) bool: which of them hold an artifact.
    balance : {"sample", "repeat", "weight", "none"}
        sample: as many clean as artifact ones, those of the smaller class; of the larger others in every epoch, so that
        all take part in the end. repeat: as many in all as there are, half of each class, where images of the smaller
        one come more than once. weight, none: each once.
    random : numpy.random.Generator
        Source of chance.
    """
    if balance not in ("sample", "repeat"):
        return random.permutation(len(artifact))
    classes = [np.flatnonzero(artifact), np.flatnonzero(~artifact)]
    count = min(map(len, classes)) if balance == "sample" else -(-len(artifact) // 2)
    return random.permutation(np.concatenate([_drawn(members, count, random) for members in classes]))


def _drawn(members: NDArray[np.int64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw so many, each as often as any other, give or take one."""
    times = -(-count // len(members))
    return np.concatenate([random.permutation(members) for _ in range(times)])[:count]


def class_weights(artifact: NDArray[np.bool_], balance: str) -> NDArray[np.float32]:
    """Weigh clean and artifact images (2,) in the loss; with "weight" both classes count the same in all."""
    if balance != "weight":
        return np.ones(2, np.float32)
    counts = np.array([(~artifact).sum(), artifact.sum()])
    return (len(artifact) / (2 * counts)).astype(np.float32)


def same_size_batches(indices: NDArray[np.int64], images: WorkingImages, size: int) -> list[NDArray[np.int64]]:
    """Split indices, in their order, into batches of images of one shape.

    A last image that would be alone joins the batch before it, since batch normalisation needs company.
    """
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index in indices:
        by_shape.setdefault(images.shape(int(index)), []).append(int(index))
    batches: list[NDArray[np.int64]] = []
    for members in by_shape.values():
        starts = list(range(0, len(members), size))
        if len(starts) > 1 and len(members) % size == 1:
            starts.pop()
        ends = [*starts[1:], len(members)]
        batches += [np.array(members[start:end]) for start, end in zip(starts, ends, strict=True)]
    return batches


def random_crop(
    image: NDArray[np.float32], label: PixelLabel, side: int, random: np.random.Generator
) -> tuple[NDArray[np.float32], PixelLabel]:
    """Cut a square of `side` pixels out of an image and its pseudo-label, both (y, x).

    Where the image has artifact pixels, every second crop holds one of them. A smaller image is padded by reflection.
    """
    missing = [(0, max(0, side - length)) for length in (image.shape[0], image.shape[1])]
    padded_image: NDArray[np.float32] = np.pad(image, missing, mode="reflect")
    padded_label = cast(PixelLabel, np.pad(label, missing, mode="reflect"))
    marked: NDArray[np.int64] = np.flatnonzero(label > 0)
    room = [max(0, image.shape[0] - side), max(0, image.shape[1] - side)]
    start = [int(random.integers(space + 1)) for space in room]
    if len(marked) and random.random() < 0.5:
        place = divmod(int(random.choice(marked)), label.shape[1])
        offset = (int(random.integers(side)), int(random.integers(side)))
        start = [min(max(p - o, 0), space) for p, o, space in zip(place, offset, room, strict=True)]
    window = tuple(slice(first, first + side) for first in start)
    return padded_image[window], padded_label[window]
