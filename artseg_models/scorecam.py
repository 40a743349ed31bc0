"""ScoreCAM: which pixels make the classifier say "artifact" (Wang et al. 2020; Ali et al., section 2.2).

Activation maps of a layer are resized to the image, normalised to 0..1 and multiplied with the image; the
classifier's probability for each product weights its map; the weighted sum passes through a ReLU.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor
from torch.nn import functional as F

from artseg_models.networks.resnet import ResNet
from artseg_models.passes import Passes, TorchPasses

Mode = Literal["exact", "grouped", "feature"]
ChannelWeight = Literal["artifact", "largest"]

#: index of "artifact" among the classifier's outputs
_ARTIFACT = 1
#: how far regressed weights may miss the scored ones, in units of the kernel; chosen with a trained ResNet50
_RIDGE = 1e-2
#: an activation map that varies less than this carries no place and is skipped, as its normalisation is undefined
_CONSTANT = 1e-8


@dataclass(frozen=True)
class Evidence:
    """What ScoreCAM finds in one image.

    Attributes
    ----------
    evidence : ndarray
        (y, x) float32, at least 0: the weighted sum of activation maps. Comparable between images.
    probability : float
        The classifier's probability that the image holds an artifact, 0..1.
    """

    evidence: NDArray[np.float32]
    probability: float

    @property
    def normalised(self) -> NDArray[np.float32]:
        """(y, x) float32, scaled to 0..1 within the image, as the paper does before its cutoff of 0.05.

        On a clean image this makes evidence out of noise: use it on artifact images alone.
        """
        return scaled(self.evidence)


def scaled(evidence: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a map (y, x) to 0..1; one that is the same everywhere becomes 0."""
    low, high = float(evidence.min()), float(evidence.max())
    return np.zeros_like(evidence) if high <= low else (evidence - low) / np.float32(high - low)


@torch.inference_mode()
def scorecam(
    network: ResNet,
    image: Tensor,
    *,
    layer: int = 4,
    channel_weight: ChannelWeight = "artifact",
    clean_level: Tensor | None = None,
    mode: Mode = "exact",
    groups: int = 32,
    batch: int = 16,
    memory_mib: int = 2048,
    passes: Passes | None = None,
) -> Evidence:
    """Evidence for an artifact in one image.

    Parameters
    ----------
    network : ResNet
        The trained classifier, in evaluation mode.
    image : Tensor
        (1, 1, y, x) float32, binned and normalised.
    layer : {1, 2, 3, 4}
        The layer whose activation maps are used. The paper takes the last; earlier ones draw finer.
    channel_weight : {"artifact", "largest"}
        What weights a map: the probability of artifact for the masked image, or that of its likeliest class, as the
        paper words it.
    clean_level : Tensor, optional
        (channels,) from `clean_levels`: activation up to it counts as none. Without it, as in the paper, maps that
        light up everywhere outweigh those that mark an artifact, since all weights are positive.
    mode : {"exact", "grouped", "feature"}
        A forward pass for each map; one for the most central map of each group of alike maps (k-means), from which the
        weights of the others are drawn by kernel regression; or a pass for each map that begins at layer 3, whose
        activation is masked instead of the image, and which is not faithful for every classifier.
    groups : int
        Number of groups in mode "grouped".
    batch : int
        Masked images in one forward pass.
    memory_mib : int
        About the most memory that a pass may take, in MiB: large images go in smaller batches, at least one by one.
    passes : Passes, optional
        What computes the forward passes; the network itself by default.

    Returns
    -------
    Evidence
    """
    passes = passes or TorchPasses(network)
    activations = network.activations(image, layer)[0]
    if clean_level is not None:
        activations = F.relu(activations - clean_level[:, None, None])
    probability = float(passes.whole(image)[0, _ARTIFACT])
    flat = activations.flatten(1)
    varying = (flat.amax(1) - flat.amin(1)) > _CONSTANT
    activations = activations[varying]
    weights = torch.zeros(len(activations), device=image.device)
    size = (image.shape[-2], image.shape[-1])
    if len(activations):
        grouped = mode == "grouped" and len(activations) > groups
        chosen = _central(activations, groups) if grouped else torch.arange(len(activations), device=image.device)
        masks = activations[chosen]
        if mode == "feature":
            masked, classify = network.activations(image, 3), passes.late
        else:
            masked, classify = image, passes.whole
        batch = fitting_batch(network, size, batch=batch, memory_mib=memory_mib)
        scores: list[Tensor] = []
        for start in range(0, len(masks), batch):
            probabilities = classify(masked * _resized(masks[start : start + batch], masked))
            scores.append(probabilities.amax(1) if channel_weight == "largest" else probabilities[:, _ARTIFACT])
        weights = torch.cat(scores)
        if grouped:
            weights = _drawn_through(activations, chosen, weights)
    # resizing is linear: summing first and resizing once gives the same map as resizing every map
    total = torch.einsum("c,cyx->yx", weights, activations)
    resized = F.interpolate(total[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    return Evidence(evidence=F.relu(resized).cpu().numpy().astype(np.float32), probability=probability)


def fitting_batch(network: ResNet, size: tuple[int, int], *, batch: int, memory_mib: int) -> int:
    """Say how many masked images of a size (y, x) go into one pass, at least 1 and at most `batch`."""
    # what lives at once: the first convolution's output or the first layer's blocks, with their copies
    each = 4 * network.conv1.out_channels * size[0] * size[1]
    return max(1, min(batch, memory_mib * 2**20 // each))


@torch.inference_mode()
def clean_levels(maps: Iterable[Tensor], *, quantile: float) -> Tensor:
    """How strongly each channel lights up on clean images.

    Parameters
    ----------
    maps : iterable of Tensor
        The activation maps (channels, y, x) of each clean image.
    quantile : float
        Share of an image's positions that lie below the level, 0..1.

    Returns
    -------
    Tensor
        (channels,) float32: the mean over images of each channel's quantile.
    """
    levels = [torch.from_numpy(np.quantile(one.flatten(1).cpu().numpy(), quantile, axis=1)) for one in maps]
    return torch.stack(levels).mean(0).float()


def _central(activations: Tensor, groups: int) -> Tensor:
    """Give the indices of the maps that lie nearest to the centres of groups of alike ones."""
    alike = _to_unit_range(activations).flatten(1).cpu().numpy()
    kmeans: Any = MiniBatchKMeans(groups, n_init="auto", max_iter=20, random_state=0)
    labels: NDArray[np.int32] = kmeans.fit_predict(alike)
    centres: NDArray[np.float32] = kmeans.cluster_centers_
    distance = np.linalg.norm(alike - centres[labels], axis=1)
    order = np.lexsort((distance, labels))
    # the first of each group in this order is its nearest
    first = np.unique(labels[order], return_index=True)[1]
    return torch.from_numpy(np.sort(order[first])).to(activations.device)


def _drawn_through(activations: Tensor, scored: Tensor, weights: Tensor) -> Tensor:
    """Draw the weights of all maps (n,) from those that were scored, by kernel ridge regression of their logits."""
    # on the processor: graphics processors of Macs know no float64
    alike = _to_unit_range(activations).flatten(1).cpu().double()
    known = alike[scored.cpu()]
    between = torch.cdist(known, known)
    width = 2 * between[between > 0].median() if bool((between > 0).any()) else torch.ones((), dtype=torch.float64)
    logits = torch.logit(weights.cpu().double(), eps=1e-6)
    level = logits.mean()

    def kernel(distance: Tensor) -> Tensor:
        return torch.exp(-((distance / width) ** 2) / 2)

    ridge = kernel(between) + _RIDGE * torch.eye(len(known), dtype=torch.float64)
    fitted = cast(Tensor, torch.linalg.solve(ridge, logits - level))  # pyright: ignore[reportUnknownMemberType]
    drawn = torch.sigmoid(level + kernel(torch.cdist(alike, known)) @ fitted)
    drawn[scored.cpu()] = weights.cpu().double()
    return drawn.to(weights)


def _to_unit_range(maps: Tensor) -> Tensor:
    low = maps.amin(dim=(-2, -1), keepdim=True)
    span = maps.amax(dim=(-2, -1), keepdim=True) - low
    return (maps - low) / span.clamp(min=_CONSTANT)


def _resized(masks: Tensor, masked: Tensor) -> Tensor:
    """Bring masks (n, y, x) to the size of what they mask, each scaled to 0..1: (n, 1, y, x)."""
    size = (masked.shape[-2], masked.shape[-1])
    smaller = size[0] < masks.shape[-2] or size[1] < masks.shape[-1]
    # reduced to layer 3 a fine map would lose what lies between the points that bilinear interpolation reads
    resized = (
        F.adaptive_avg_pool2d(masks[:, None], size)
        if smaller
        else F.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)
    )
    return _to_unit_range(resized)
