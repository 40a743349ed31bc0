"""Parts of a pseudo-label that convince the classifier by themselves; the others are no artifact, or tell nothing.

ScoreCAM's map points at whatever looks like what convinced the classifier, dirt on clean images included. Each
connected part is therefore put to the test alone: all parts are painted out, then each comes back by itself.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from artseg_models.networks.resnet import ResNet
from artseg_models.training.fields import Array
from artseg_models.transplant import as_normalised, connected_parts, painted_out

Mask = NDArray[np.bool_]

_MOST = 64
"""Parts of one image that are tested; the smaller ones of a crowd stand or fall together."""
_BATCH = 16
_EVEN = 0.0
"""Log-odds above which the classifier calls an image an artifact."""


@torch.inference_mode()
def convincing_parts(
    network: ResNet, image: Array, label: Mask, *, share: float, random: np.random.Generator, device: str
) -> Mask:
    """Keep the connected parts that alone are called an artifact, or bring back a share of what all together change.

    Parameters
    ----------
    network : ResNet
        The classifier.
    image : ndarray
        (y, x) float32 at working resolution, of an artifact image.
    label : ndarray
        (y, x) bool: its pseudo-label.
    share : float
        Of the log-odds of artifact that the image has above the one in which all parts are painted out.
    random : numpy.random.Generator
        Chooses with which texture is painted.
    device : str
        Where the network is.

    Returns
    -------
    ndarray
        (y, x) bool. Where the classifier is as sure of an artifact with all parts painted out, nothing can be told, and
        `label` is given back.
    """
    parts = _numbered(label)
    count = int(parts.max())
    if count == 0:
        return label
    painted = [painted_out(image, label, random)]
    for number in range(1, count + 1):
        part = parts == number
        without_others = painted_out(image, label & ~part, random)
        # the paint over a near neighbour's soft edge must not cover it
        painted.append(np.where(part, image, without_others))
    images = torch.from_numpy(np.stack([image, *(as_normalised(one, image) for one in painted)]))[:, None]
    logits = torch.cat([network.binned_logits(some.to(device)) for some in torch.split(images, _BATCH)])
    odds = (logits[:, 1] - logits[:, 0]).cpu().numpy()
    whole, none, alone = odds[0], odds[1], odds[2:]
    if whole <= none:
        return label
    # beside a strong artifact a faint one brings back little, and is one all the same
    kept = np.flatnonzero((alone - none >= share * (whole - none)) | (alone > _EVEN)) + 1
    return np.isin(parts, kept)


def _numbered(label: Mask) -> NDArray[np.int64]:
    """Count the connected parts from 1, the largest first; the last number stands for all the rest."""
    parts = connected_parts(label)
    order = np.argsort(-np.bincount(parts.ravel())[1:], kind="stable")
    numbers = np.zeros(len(order) + 1, np.int64)
    numbers[order + 1] = np.minimum(np.arange(1, len(order) + 1), _MOST)
    return numbers[parts]
