"""Patch SVDD (Yi and Yoon 2020): how far is a patch from the nearest one of clean images.

Two encoders, for patches of 32 and 64 pixels, learn to bring neighbouring patches together (SVDD) and to tell on which
side of each other two patches lie. A patch's score is the distance of its embedding from the nearest of the clean
training patches; pixels take the mean score of the patches that cover them, and the maps of both sizes are multiplied.
All patches of an image are embedded in one pass, which gives the same numbers as one by one.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn import metrics
from torch import Tensor, nn
from torch.nn import functional as F

from artseg_models.errors import ArtSegError
from artseg_models.methods.protocol import Fitted, Found, Recipe
from artseg_models.networks.patch_svdd import LARGE, SMALL, PatchEncoder, PositionClassifier
from artseg_models.networks.scores import ScoreScale
from artseg_models.progress import track
from artseg_models.training.configuration import AnomalySettings, Schedule, Settings
from artseg_models.training.fields import Array, Split, as_batch, enlarged
from artseg_models.training.loop import load_weights, save_state, train_network
from artseg_models.training.scores import fit_scale

_STAGE = 3
#: the eight sides of a patch, as steps along y and x
_SIDES = np.array([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)])
#: Pixels between patches that are looked at, by their size.
STRIDES = {SMALL: 4, LARGE: 16}
#: of the dense pass, whose outputs are 2 pixels apart
_DENSE = 2


class PairSettings(Settings):
    """How the encoders learn from pairs of patches."""

    schedule: Schedule = Schedule(epochs=300, learning_rate=1e-4, decay="constant", batch=64)
    pairs_per_image: int = Field(default=100, ge=1, description="Pairs of each kind, from each image in an epoch.")
    weight: float = Field(default=1.0, ge=0, description="Of the SVDD loss, beside that of the sides (lambda).")
    shift: float = Field(
        default=0.1,
        ge=0,
        description="Random change of a patch's brightness where sides are told, in standard deviations of the image.",
    )
    noise: float = Field(
        default=0.1,
        ge=0,
        description="Random noise of a patch where sides are told, in standard deviations of the image.",
    )


class PatchSVDDSettings(AnomalySettings):
    """Settings of Patch SVDD; the defaults are those of its paper and published program, the cutoff of Ali et al.

    Other than the program, an image is normalised by itself, not by the mean of all; a patch whose neighbour would lie
    outside is drawn anew, not moved to the border; and the last layer that tells sides has free weights.
    """

    dimensions: int = Field(default=64, ge=1, description="Numbers of an embedding.")
    width: int = Field(default=32, ge=1, description="Channels of the first convolution.")
    pairs: PairSettings = PairSettings()
    bank: int | None = Field(
        default=None,
        ge=1,
        description="Most clean patches of each size that are kept, drawn evenly from all images; None: all of them, "
        "about 3250 small ones for each image of 256 pixels (0.8 MB).",
    )
    cutoff: float | None = Field(
        default=0.0005, ge=0, le=1, description="Cutoff of the map; None: chosen on validation."
    )


class _Learner(nn.Module):
    """The encoders with what is needed only to train them."""

    def __init__(self, settings: PatchSVDDSettings) -> None:
        super().__init__()
        self.encoder = PatchEncoder(settings.dimensions, settings.width)
        self.sides = nn.ModuleDict({str(size): PositionClassifier(settings.dimensions) for size in STRIDES})

    def embed(self, patches: Tensor, size: int) -> Tensor:
        return self.encoder.embed_small(patches) if size == SMALL else self.encoder.embed_large(patches)


class _Memory(nn.Module):
    """The embeddings of clean patches, and the scale of scores."""

    def __init__(self, banks: Mapping[int, int], dimensions: int, scale: str) -> None:
        super().__init__()
        for size, count in banks.items():
            self.register_buffer(f"bank_{size}", torch.zeros(count, dimensions))
        self.scale = ScoreScale(scale)


class PatchSVDD:
    """Embeds patches and looks for the nearest clean one."""

    def __init__(self, settings: PatchSVDDSettings, binning: int, device: str) -> None:
        self._settings, self._binning, self._device = settings, binning, device
        torch.manual_seed(settings.seed)
        self._learner = _Learner(settings).to(device)
        self._nearest: dict[int, Nearest] = {}
        self._scale = ScoreScale(settings.scale)

    def fit(self, training: Split, validation: Split, folder: Path) -> Fitted:
        """Train the encoders and keep the embeddings of clean patches; see `Method.fit`."""
        settings = self._settings
        self._train(training, validation, folder / "encoder")
        if not (folder / "memory" / "network.pt").exists():
            self._remember(training, validation, folder / "memory")
        self.restore(folder)
        return Fitted(
            networks={"encoder": {**settings.model_dump(include={"dimensions", "width"}), "binning": self._binning}},
            epochs={"encoder": settings.pairs.schedule.epochs},
            notes={"bank": {str(size): len(nearest) for size, nearest in self._nearest.items()}},
        )

    def _train(self, training: Split, validation: Split, folder: Path) -> None:
        settings, learner = self._settings, self._learner
        pairs, batch = settings.pairs, settings.pairs.schedule.batch
        roomy = _with_room(training, np.arange(len(training)))
        clean = _with_room(validation, np.flatnonzero(~validation.artifact))

        def draw(split: Split, indices: NDArray[np.int64], random: np.random.Generator) -> dict[int, list[Tensor]]:
            drawn: dict[int, list[Tensor]] = {}
            for size in STRIDES:
                beside = [side_pair(split.images[int(index)], size, random) for index in indices]
                near = [near_pair(split.images[int(index)], size, random) for index in indices]
                first, second, centre, close = (
                    np.stack([pair[place] for pair in group]) for group in (beside, near) for place in (0, 1)
                )
                # as in the published program: those that are to lie together stay as they are
                stacks = (_varied(first, pairs, random), _varied(second, pairs, random), centre, close)
                tensors = [torch.from_numpy(stack)[:, None] for stack in stacks]
                sides = torch.tensor([pair[2] for pair in beside])
                drawn[size] = [tensor.to(self._device) for tensor in (*tensors, sides)]
            return drawn

        def epoch_batches(random: np.random.Generator) -> tuple[Iterator[dict[int, list[Tensor]]], int]:
            order = random.permutation(np.repeat(roomy, pairs.pairs_per_image))
            count = max(1, len(order) // batch)
            shares: list[NDArray[np.int64]] = np.array_split(order, count)
            return (draw(training, share, random) for share in shares), count

        def loss_of_batch(drawn: dict[int, list[Tensor]]) -> Tensor:
            total = torch.zeros((), device=self._device)
            for size, (first, second, centre, near, sides) in drawn.items():
                embedded = learner.embed(torch.cat([first, second, centre, near]), size).chunk(4)
                guessed = learner.sides[str(size)](embedded[0], embedded[1])
                distance = F.pairwise_distance(embedded[2], embedded[3]).mean()
                total = total + F.cross_entropy(guessed, sides) + pairs.weight * distance
            return total

        def validation_loss() -> float:
            random = np.random.default_rng([settings.seed, _STAGE])
            order = np.repeat(clean, max(1, 4 * batch // len(clean)))
            shares: list[NDArray[np.int64]] = np.array_split(order, max(1, len(order) // batch))
            return float(np.mean([loss_of_batch(draw(validation, share, random)).item() for share in shares]))

        train_network(
            learner,
            epoch_batches=epoch_batches,
            loss_of_batch=loss_of_batch,
            validation_loss=validation_loss,
            schedule=pairs.schedule,
            seed=[settings.seed, _STAGE],
            folder=folder,
            name="Patch encoders",
        )

    def _remember(self, training: Split, validation: Split, folder: Path) -> None:
        settings = self._settings
        random = np.random.default_rng([settings.seed, _STAGE])
        share = None if settings.bank is None else -(-settings.bank // len(training))
        kept: dict[int, list[Array]] = {size: [] for size in STRIDES}
        for index in track(range(len(training)), "Patch SVDD: clean patches", len(training)):
            for size, grid in embeddings(self._learner.encoder, training.images[index], self._device).items():
                vectors = grid.reshape(-1, grid.shape[-1])
                if share is not None and share < len(vectors):
                    vectors = vectors[random.permutation(len(vectors))[:share]]
                kept[size].append(vectors)
        banks = {size: np.concatenate(vectors)[: settings.bank] for size, vectors in kept.items()}
        memory = _Memory({size: len(bank) for size, bank in banks.items()}, settings.dimensions, settings.scale)
        for size, bank in banks.items():
            memory.register_buffer(f"bank_{size}", torch.from_numpy(bank))
        self._take(memory)
        scores = (self._scores(validation.images[index]) for index in range(len(validation)))
        fit_scale(memory.scale, track(scores, "Patch SVDD: scale of the scores", len(validation)), validation.artifact)
        save_state(folder / "network.pt", memory.state_dict())

    def restore(self, folder: Path) -> None:
        """Load encoders, clean patches and scale; see `Method.restore`."""
        load_weights(self._learner, folder / "encoder")
        file = folder / "memory" / "network.pt"
        if not file.is_file():
            raise ArtSegError(f"Expected the embeddings of clean patches at {file}, but there are none. Train again.")
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        sizes = {size: len(state[f"bank_{size}"]) for size in STRIDES}
        memory = _Memory(sizes, self._settings.dimensions, self._settings.scale)
        load_weights(memory, folder / "memory")
        self._take(memory)

    def _take(self, memory: _Memory) -> None:
        self._nearest = {size: Nearest(cast(Tensor, getattr(memory, f"bank_{size}")).numpy()) for size in STRIDES}
        self._scale = memory.scale

    def _scores(self, image: Array) -> Array:
        height, width = image.shape
        padded = _padded(image)
        product = np.ones(padded.shape, np.float32)
        for size, grid in embeddings(self._learner.encoder, image, self._device).items():
            rows, columns, dimensions = grid.shape
            distances = self._nearest[size].distances(grid.reshape(-1, dimensions)).reshape(rows, columns)
            product *= spread(distances, size, STRIDES[size], padded.shape)
        return product[:height, :width]

    def predict(self, image: Array, *, shape: tuple[int, int] | None = None) -> Found:
        """Give the product of both maps, scaled to 0..1; see `Method.predict`."""
        scores = self._scores(image)
        if shape is not None:
            scores = enlarged(scores, self._binning, shape)
        return Found(map=self._scale(torch.from_numpy(scores)).numpy())


class Nearest:
    """Exact distances from the nearest of many vectors: by faiss where it is installed, else by scikit-learn.

    Parameters
    ----------
    vectors : ndarray
        (n, dimensions) float32.
    """

    def __init__(self, vectors: Array) -> None:
        self._vectors = vectors
        try:
            faiss: Any = importlib.import_module("faiss")
        except ImportError:
            self._index: Any = None
        else:
            self._index = faiss.IndexFlatL2(vectors.shape[1])
            self._index.add(np.ascontiguousarray(vectors))

    def __len__(self) -> int:
        return len(self._vectors)

    def distances(self, queries: Array) -> Array:
        """Give the Euclidean distance (m,) of each query (m, dimensions) from the nearest vector."""
        if self._index is not None:
            squared, _ = self._index.search(np.ascontiguousarray(queries), 1)
            return np.sqrt(np.maximum(squared[:, 0], 0)).astype(np.float32)
        library: Any = metrics  # its own types are incomplete
        found = library.pairwise_distances_argmin_min(queries, self._vectors)[1]
        return np.asarray(found, np.float32)


@torch.inference_mode()
def embeddings(encoder: PatchEncoder, image: Array, device: str) -> dict[int, Array]:
    """Embed the patches of an image in one pass.

    Parameters
    ----------
    encoder : PatchEncoder
        Trained, in evaluation mode.
    image : ndarray
        (y, x) float32; padded by reflection so that whole patches cover it.
    device : str
        Where the encoder is.

    Returns
    -------
    mapping
        By the patches' size (y, x, dimensions) float32, at steps of 4 pixels for small and 16 for large patches.
    """
    small, large = encoder.embed_densely(as_batch(_padded(image), device))
    grids = {SMALL: small, LARGE: large}
    return {
        size: grid[:, :: STRIDES[size] // _DENSE, :: STRIDES[size] // _DENSE]
        .permute(1, 2, 0)
        .cpu()
        .contiguous()
        .numpy()
        for size, grid in grids.items()
    }


def _padded(image: Array) -> Array:
    """Pad an image (y, x) by reflection so that patches of both sizes at their steps end at its edge."""
    step = STRIDES[LARGE]
    wanted = [max(LARGE, -(-length // step) * step) for length in image.shape]
    missing = [(0, size - length) for size, length in zip(wanted, image.shape, strict=True)]
    return np.pad(image, missing, mode="reflect")


def spread(scores: Array, size: int, step: int, shape: tuple[int, ...]) -> Array:
    """Give every pixel the mean score of the patches that cover it.

    Parameters
    ----------
    scores : ndarray
        (rows, columns) float32: of patches of `size` pixels, `step` pixels apart.
    size, step : int
        Pixels.
    shape : tuple of int
        (y, x) of the map.
    """
    kernel = torch.ones(1, 1, size, size)
    given = torch.from_numpy(scores)[None, None]
    total = F.conv_transpose2d(given, kernel, stride=step)
    covering = F.conv_transpose2d(torch.ones_like(given), kernel, stride=step)
    return (total / covering)[0, 0, : shape[0], : shape[1]].numpy()


def side_pair(image: Array, size: int, random: np.random.Generator) -> tuple[Array, Array, int]:
    """Draw a patch and one on one of its eight sides, three quarters to one size away; gives both and the side."""
    while True:
        side = int(random.integers(len(_SIDES)))
        distance = _SIDES[side] * (3 * size // 4 + random.integers(0, max(1, size // 4), 2))
        pair = _pair(image, size, distance, random)
        if pair is not None:
            return *pair, side


def near_pair(image: Array, size: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Draw a patch and one that lies up to a 32nd of its size away."""
    reach = max(1, size // 32)
    while True:
        distance = random.integers(-reach, reach + 1, 2)
        if distance.any():
            pair = _pair(image, size, distance, random)
            if pair is not None:
                return pair


def _pair(
    image: Array, size: int, distance: NDArray[np.int64], random: np.random.Generator
) -> tuple[Array, Array] | None:
    """Cut two patches `distance` apart, or none where the image has no room for that."""
    low = np.maximum(0, -distance)
    high = np.array(image.shape) - size - np.maximum(0, distance)
    if (high < low).any():
        return None
    y, x = (int(random.integers(int(low[axis]), int(high[axis]) + 1)) for axis in (0, 1))
    second_y, second_x = y + int(distance[0]), x + int(distance[1])
    return image[y : y + size, x : x + size], image[second_y : second_y + size, second_x : second_x + size]


def _varied(patches: Array, settings: PairSettings, random: np.random.Generator) -> Array:
    """Change brightness and add noise, anew for each patch (n, y, x)."""
    shift = random.normal(0, settings.shift, (len(patches), 1, 1)).astype(np.float32)
    noise = random.standard_normal(patches.shape, dtype=np.float32)
    return (patches + shift + settings.noise * noise).astype(np.float32)


def _with_room(split: Split, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Take the images in which a large patch has a neighbour on some of its sides; refuse if none has."""
    # along one axis, so that at least two of the eight sides can be drawn
    needed = LARGE + 3 * LARGE // 4 + LARGE // 4
    shapes = {int(index): split.images.shape(int(index)) for index in chosen}
    roomy = [index for index, shape in shapes.items() if max(shape) >= needed and min(shape) >= LARGE]
    if not roomy:
        largest = max(shapes, key=lambda index: min(shapes[index]))
        raise ArtSegError(
            f"Expected clean images of at least {needed} x {LARGE} binned pixels for Patch SVDD, but none is so large; "
            f"{split.images.items[largest].path.name} has {shapes[largest][0]} x {shapes[largest][1]}. "
            "Lower the binning: --set binning=1."
        )
    return np.array(roomy, np.int64)


_QUICK: Mapping[str, Any] = {
    "pairs": {
        "schedule": {"epochs": 20, "learning_rate": 1e-3, "decay": "one-cycle", "batch": 64},
        "pairs_per_image": 16,
        "weight": 0.001,
    },
    "bank": 50_000,
    "scale": "clean",
    "cutoff": None,
    "smallest_artifact_px": None,
}

RECIPE = Recipe(
    name="patch-svdd",
    summary="Patch SVDD: how far patches lie from the nearest of clean images",
    learns_from="clean",
    settings=PatchSVDDSettings,
    presets={"paper": {}, "quick": _QUICK},
    make=PatchSVDD,
    quick_side=256,
)
