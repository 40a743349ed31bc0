"""The convolutional autoencoder of Bergmann et al. 2019 (section 4, Table 1) for grey patches of fixed size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
