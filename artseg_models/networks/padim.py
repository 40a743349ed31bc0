"""PaDiM (Defard et al. 2020): features of three layers, and how far they lie from those of clean images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artseg_models.networks.scores import ScoreScale

#: the coarsest layer's stride: the image is padded to multiples of it
_MULTIPLE = 16
#: a Gaussian is cut off at this many standard deviations
_TRUNCATE = 4.0


def embedding(layers: list[Tensor], channels: Tensor) -> Tensor:
    """Join the features of layers on the grid of the first, and take some of their channels.

    Parameters
    ----------
    layers : list of Tensor
        (batch, channels, y, x) each, the finest first; coarser ones are repeated onto its grid.
    channels : Tensor
        Indices of the channels, all layers counted through.

    Returns
    -------
    Tensor
        (batch, len(channels), y, x) of the first layer.
    """
    size = (layers[0].shape[-2], layers[0].shape[-1])
    joined = [layers[0], *(F.interpolate(layer, size=size, mode="nearest") for layer in layers[1:])]
    return torch.cat(joined, dim=1)[:, channels]


class Gaussians(nn.Module):
    """Normal distributions of embeddings: one for each position of the grid, or one for all.

    Parameters
    ----------
    dimensions : int
        Channels of an embedding.
    grid : tuple of int, optional
        (y, x) of the positions; None: one Gaussian for all positions.
    """

    def __init__(self, dimensions: int, grid: tuple[int, int] | None) -> None:
        super().__init__()
        self.grid = grid
        positions = 1 if grid is None else grid[0] * grid[1]
        self.register_buffer("mean", torch.zeros(positions, dimensions))
        # the inverse of the Cholesky factor: it makes a Mahalanobis distance a plain length
        self.register_buffer("whitening", torch.zeros(positions, dimensions, dimensions))
        self.mean: Tensor
        self.whitening: Tensor

    def forward(self, embeddings: Tensor) -> Tensor:
        """Mahalanobis distances (batch, 1, y, x) of embeddings (batch, dimensions, y, x)."""
        if self.grid is None:
            # a 1 x 1 convolution, so that an exported graph takes every size
            bias = -(self.whitening[0] @ self.mean[0])
            white = F.conv2d(embeddings, self.whitening[0][:, :, None, None], bias)
            return white.square().sum(1, keepdim=True).sqrt()
        batch, _, height, width = embeddings.shape
        centred = embeddings.flatten(2).permute(2, 1, 0) - self.mean[:, :, None]
        white = torch.bmm(self.whitening, centred)
        return white.square().sum(1).sqrt().T.reshape(batch, 1, height, width)


class PaDiM(nn.Module):
    """Anomaly map of an image of any size, or of one size where the Gaussians are bound to positions.

    Parameters
    ----------
    features : callable
        A frozen backbone: (batch, 1, y, x) in, features at strides 4, 8 and 16 out.
    channels : Tensor
        Indices of the channels that are used.
    grid : tuple of int, optional
        (y, x) of positions with a Gaussian of their own; None: one for all.
    sigma : float
        Of the Gaussian that smooths the map, in binned pixels.
    scale : {"clean", "range"}
        See `ScoreScale`.
    binning : int
        Pixels of the image along y and x that are averaged into one before the first convolution.
    """

    def __init__(
        self,
        features: Callable[[Tensor], list[Tensor]],
        channels: Tensor,
        *,
        grid: tuple[int, int] | None = None,
        sigma: float = 4.0,
        scale: str = "clean",
        binning: int = 1,
    ) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("channels", channels)
        self.channels: Tensor
        self.gaussians = Gaussians(len(channels), grid)
        self.sigma = sigma
        self.scale = ScoreScale(scale)
        self.binning = binning

    def embed(self, image: Tensor) -> Tensor:
        """Embed a binned image (batch, 1, y, x), padded by reflection: (batch, channels, y / 4, x / 4)."""
        height, width = image.shape[-2], image.shape[-1]
        padded = F.pad(image, [0, (-width) % _MULTIPLE, 0, (-height) % _MULTIPLE], mode="reflect")
        return embedding(self.features(padded), self.channels)

    def scores(self, image: Tensor) -> Tensor:
        """Smoothed Mahalanobis distances (batch, 1, y, x) of a binned image, the size of it."""
        height, width = image.shape[-2], image.shape[-1]
        coarse = self.gaussians(self.embed(image))
        fine = F.interpolate(coarse, scale_factor=4.0, mode="bilinear", align_corners=False)
        return smoothed(fine[..., :height, :width], self.sigma)

    def forward(self, image: Tensor) -> Tensor:
        """Anomaly, 0..1, for every pixel of an image (batch, 1, y, x) at full resolution."""
        height, width = image.shape[-2], image.shape[-1]
        x = F.pad(image, [0, (-width) % self.binning, 0, (-height) % self.binning], mode="replicate")
        if self.binning > 1:
            x = F.avg_pool2d(x, self.binning)
        found = self.scores(x)
        if self.binning > 1:
            found = F.interpolate(found, scale_factor=float(self.binning), mode="bilinear", align_corners=False)
        return self.scale(found[..., :height, :width])


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Smooth maps (batch, 1, y, x) by a Gaussian; edges are reflected."""
    if sigma <= 0:
        return maps
    radius = int(_TRUNCATE * sigma + 0.5)
    places = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    bell = torch.exp(-(places**2) / (2 * sigma**2))
    bell = bell / bell.sum()
    padded = F.pad(maps, [radius] * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, bell.view(1, 1, 1, -1)), bell.view(1, 1, -1, 1))
