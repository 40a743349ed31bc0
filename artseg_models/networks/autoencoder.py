"""The convolutional autoencoder of Bergmann et al. 2019 (section 4, Table 1) for grey patches of fixed size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artseg_models.networks.scores import ScoreScale

#: (kernel, stride, padding, channels) of the encoder for patches of 128 pixels; the decoder is its mirror image
_LAYERS = (
    (4, 2, 1, 32),
    (4, 2, 1, 32),
    (3, 1, 1, 32),
    (4, 2, 1, 64),
    (3, 1, 1, 64),
    (4, 2, 1, 128),
    (3, 1, 1, 64),
    (3, 1, 1, 32),
)
#: standard deviations of an image that SSIM's range 0..1 spans; what is beyond is cut off
_SPAN = 8.0
#: of the 11 x 11 Gaussian window and the constants of SSIM (Wang et al. 2004), for values 0..1
_WINDOW, _SIGMA, _C1, _C2 = 11, 1.5, 0.01**2, 0.03**2


class Autoencoder(nn.Module):
    """Squeezes a patch through few numbers and draws it again.

    Parameters
    ----------
    patch : int
        Side of a patch: 128 times a power of two; each doubling adds a convolution of stride 2 in front.
    latent : int
        Numbers that a patch is squeezed into.
    width : int
        Channels of the first convolution, 32 in the paper; the others grow with it.
    """

    def __init__(self, patch: int = 128, latent: int = 100, width: int = 32) -> None:
        super().__init__()
        self.patch = patch
        layers = list(_LAYERS)
        while patch > 128:
            layers.insert(0, (4, 2, 1, 32))
            patch //= 2
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        channels_in = 1
        for index, (kernel, stride, padding, channels) in enumerate(layers):
            channels_out = channels * width // 32
            encoder += [nn.Conv2d(channels_in, channels_out, kernel, stride, padding), nn.LeakyReLU(0.2)]
            mirrored: list[nn.Module] = [nn.ConvTranspose2d(channels_out, channels_in, kernel, stride, padding)]
            if index > 0:
                mirrored.append(nn.LeakyReLU(0.2))
            decoder = mirrored + decoder
            channels_in = channels_out
        # what is left is 8 x 8
        encoder.append(nn.Conv2d(channels_in, latent, 8))
        self.encoder = nn.Sequential(*encoder)
        self.decoder = nn.Sequential(nn.ConvTranspose2d(latent, channels_in, 8), nn.LeakyReLU(0.2), *decoder)

    def forward(self, patches: Tensor) -> Tensor:
        """Draw patches (n, 1, patch, patch), about 0..1, again."""
        return self.decoder(self.encoder(patches))


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity of each pixel's surroundings (Wang et al. 2004).

    Parameters
    ----------
    one, other : Tensor
        (n, 1, y, x) with values 0..1.

    Returns
    -------
    Tensor
        (n, 1, y, x), -1..1; 1 where both look the same. Edges are reflected.
    """
    places = torch.arange(_WINDOW, device=one.device, dtype=one.dtype) - _WINDOW // 2
    bell = torch.exp(-(places**2) / (2 * _SIGMA**2))
    bell = bell / bell.sum()
    # the products lose few digits in one pass over all five, and one padding
    stack = torch.cat([one, other, one * one, other * other, one * other], dim=1)
    stack = F.pad(stack, [_WINDOW // 2] * 4, mode="reflect")
    stack = F.conv2d(stack, bell.view(1, 1, 1, -1).expand(5, 1, 1, -1), groups=5)
    stack = F.conv2d(stack, bell.view(1, 1, -1, 1).expand(5, 1, -1, 1), groups=5)
    mean_one, mean_other, square_one, square_other, product = (stack[:, index, None] for index in range(5))
    covariance = product - mean_one * mean_other
    variances = square_one - mean_one**2 + square_other - mean_other**2
    return ((2 * mean_one * mean_other + _C1) * (2 * covariance + _C2)) / (
        (mean_one**2 + mean_other**2 + _C1) * (variances + _C2)
    )


def to_unit(images: Tensor) -> Tensor:
    """Bring normalised images to 0..1, as SSIM's constants want; the mean becomes 0.5."""
    return (images / _SPAN + 0.5).clamp(0, 1)


class DissimilarityMap(nn.Module):
    """Anomaly map of an image of any size from a patch on: image and drawing compared, patch by patch, in one graph.

    Parameters
    ----------
    patch, latent, width : int
        Of the `Autoencoder`.
    step : int
        Pixels between patches; where they overlap, the mean counts.
    scale : {"clean", "range"}
        See `ScoreScale`.
    binning : int
        Pixels of the image along y and x that are averaged into one before the first convolution.
    """

    def __init__(
        self,
        patch: int = 128,
        latent: int = 100,
        width: int = 32,
        step: int = 30,
        scale: str = "clean",
        binning: int = 1,
    ) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(patch, latent, width)
        self.scale = ScoreScale(scale)
        self.step = step
        self.binning = binning

    def scores(self, image: Tensor) -> Tensor:
        """Mean of (1 - SSIM) / 2 over the patches that cover a pixel, for binned images (batch, 1, y, x)."""
        side = self.autoencoder.patch
        # counted out of the image itself, so that a traced graph takes other sizes too
        ones = torch.ones_like(image[0, 0])
        rows, columns = ones[:, 0].cumsum(0).long() - 1, ones[0].cumsum(0).long() - 1
        within = torch.arange(side, device=image.device)
        # every `step` pixels, and so that the last patch ends at the edge
        y, x = (
            torch.cat([places[:-side][:: self.step], places[-side:][:1]])[:, None] + within
            for places in (rows, columns)
        )
        index = (y[:, None, :, None] * (columns[-1:] + 1) + x[None, :, None, :]).reshape(-1)
        pixels = image.flatten(1)
        patches = to_unit(pixels[:, index]).reshape(-1, 1, side, side)
        found = ((1 - ssim(patches, self.autoencoder(patches))) / 2).reshape(pixels.shape[0], -1).to(pixels.dtype)
        index = index.expand_as(found)
        total = torch.zeros_like(pixels).scatter_add(1, index, found)
        covering = torch.zeros_like(pixels).scatter_add(1, index, torch.ones_like(found))
        return (total / covering).clamp(0, 1).reshape(image.shape)

    def forward(self, image: Tensor) -> Tensor:
        """Anomaly, 0..1, for every pixel of an image (batch, 1, y, x) of zero mean and unit variance."""
        height, width = image.shape[-2], image.shape[-1]
        x = F.pad(image, [0, (-width) % self.binning, 0, (-height) % self.binning], mode="replicate")
        if self.binning > 1:
            x = F.avg_pool2d(x, self.binning)
        found = self.scores(x)
        if self.binning > 1:
            found = F.interpolate(found, scale_factor=float(self.binning), mode="bilinear", align_corners=False)
        return self.scale(found[..., :height, :width])
