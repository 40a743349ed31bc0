"""The U-Net of Ali et al. (section 2.2): five levels of three 3x3 convolutions, with the same width everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Convolutions(nn.Sequential):
    """Three 3x3 convolutions, each followed by batch normalisation and ReLU."""

    def __init__(self, channels_in: int, width: int) -> None:
        layers: list[nn.Module] = []
        for index in range(3):
            channels = channels_in if index == 0 else width
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*layers)


class KindHead(nn.Sequential):
    """What one scale says of the kinds of artifact: 3x3 convolution, batch normalisation and ReLU, then logits."""

    def __init__(self, width: int, kinds: int) -> None:
        super().__init__(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, kinds, 1),
        )


class UNet(nn.Module):
    """Artifact probability for every pixel of a brightfield image of any size.

    The image is binned, padded by reflection to a multiple of 32, segmented, cropped and resized back inside
    the network, so that every reader of an exported package gets the same numbers.

    Parameters
    ----------
    width : int
        Filters in every convolution; 64 in the paper.
    levels : int
        Max-pooling steps; 5 in the paper.
    binning : int
        Pixels of the image along y and x that are averaged into one before the first convolution.
    kinds : int
        Kinds of artifact that are told apart, a channel each after that of artifacts of any kind.
    """

    def __init__(self, width: int = 64, levels: int = 5, binning: int = 1, kinds: int = 0) -> None:
        super().__init__()
        self.binning = binning
        self.kinds = kinds
        self.multiple = 2**levels
        self.encoder = nn.ModuleList(Convolutions(1 if level == 0 else width, width) for level in range(levels))
        self.bottleneck = Convolutions(width, width)
        self.decoder = nn.ModuleList(Convolutions(2 * width, width) for _ in range(levels))
        self.head = nn.Conv2d(width, 1, 1)
        # what a kind looks like shows at any scale, so all levels of the decoder have a say
        self.kind_heads = nn.ModuleList(KindHead(width, kinds) for _ in range(levels + 1 if kinds else 0))

    def binned_logits(self, image: Tensor) -> Tensor:
        """Logits for an image that is already binned, with sides that are multiples of 2**levels.

        Parameters
        ----------
        image : Tensor
            (batch, 1, y, x) float32, zero mean and unit variance.

        Returns
        -------
        Tensor
            (batch, 1 + kinds, y, x) logits.
        """
        x = image
        skips: list[Tensor] = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottleneck(x)
        scales = [x]
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1))
            scales.append(x)
        return torch.cat([self.head(x), self._kind_logits(scales)], dim=1) if self.kinds else self.head(x)

    def _kind_logits(self, scales: list[Tensor]) -> Tensor:
        """Add up what each scale, from the coarsest on, says of the kinds: (batch, kinds, y, x) logits."""
        found: Tensor | None = None
        for head, features in zip(self.kind_heads, scales, strict=True):
            finer = head(features)
            if found is not None:
                finer = finer + F.interpolate(found, scale_factor=2.0, mode="bilinear", align_corners=False)
            found = finer
        assert found is not None
        return found

    def logits_of_any_size(self, image: Tensor) -> Tensor:
        """Logits for an image that is already binned, of any size from 17 x 17 on: padded by reflection and cropped.

        Parameters
        ----------
        image : Tensor
            (batch, 1, y, x) float32, zero mean and unit variance.

        Returns
        -------
        Tensor
            (batch, 1 + kinds, y, x) logits, the size of the binned image.
        """
        height, width = image.shape[-2], image.shape[-1]
        missing_y, missing_x = (-height) % self.multiple, (-width) % self.multiple
        top, left = missing_y // 2, missing_x // 2
        x = F.pad(image, [left, missing_x - left, top, missing_y - top], mode="reflect")
        return self.binned_logits(x)[..., top : top + height, left : left + width]

    def probability(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Probabilities, see `forward`, for every pixel of the image (height, width) that was binned before."""
        if self.binning > 1:
            logits = F.interpolate(logits, scale_factor=float(self.binning), mode="bilinear", align_corners=False)
        return self.probabilities(logits[..., :height, :width])

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (batch, 1 + kinds, y, x) of logits: those of the kinds share out that of an artifact."""
        artifact = torch.sigmoid(logits[:, :1])
        if self.kinds == 0:
            return artifact
        return torch.cat([artifact, artifact * torch.softmax(logits[:, 1:], dim=1)], dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """Probability of artifact, 0..1, for every pixel, then that of each kind; these sum to the first.

        Parameters
        ----------
        image : Tensor
            (batch, 1, y, x) float32 at full resolution, zero mean and unit variance; each side at least
            16 * binning + 1 pixels, since padding reflects up to 16 binned pixels on each side.

        Returns
        -------
        Tensor
            (batch, 1 + kinds, y, x) float32, the size of the image.
        """
        height, width = image.shape[-2], image.shape[-1]
        x = F.pad(image, [0, (-width) % self.binning, 0, (-height) % self.binning], mode="replicate")
        if self.binning > 1:
            x = F.avg_pool2d(x, self.binning)
        return self.probability(self.logits_of_any_size(x), height, width)
