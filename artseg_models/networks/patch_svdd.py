"""The encoders of Patch SVDD (Yi and Yoon 2020), for patches and, with the same numbers, for whole images at once.

An image is run through the 32-pixel encoder in one pass, whose first convolution alone has a stride (2): its output
at (i, j) is the embedding of the patch that starts at pixel (2 i, 2 j). The 64-pixel encoder joins the embeddings of a
patch's four quarters by a 2 x 2 convolution; in the dense pass these lie 16 steps apart, so that it is dilated by 16.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL, LARGE = 32, 64
_STRIDE = 2  # of the first convolution
_SLOPE = 0.1


class PatchEncoder(nn.Module):
    """Embeds patches of 32 and of 64 pixels.

    Parameters
    ----------
    dimensions : int
        Numbers of an embedding; 64 in the paper.
    width : int
        Channels of the first convolution; 32 in the paper.
    """

    def __init__(self, dimensions: int = 64, width: int = 32) -> None:
        super().__init__()
        widths = [1, width, 2 * width, 4 * width, 4 * width, 2 * width, width, width, dimensions]
        self.small = nn.ModuleList(
            nn.Conv2d(before, after, 3, _STRIDE if index == 0 else 1)
            for index, (before, after) in enumerate(pairwise(widths))
        )
        self.join = nn.Conv2d(dimensions, 2 * dimensions, 2)
        self.head = nn.Conv2d(2 * dimensions, dimensions, 1)

    def _features(self, images: Tensor) -> Tensor:
        x = images
        for index, convolution in enumerate(self.small):
            x = convolution(x)
            if index < len(self.small) - 1:
                x = F.leaky_relu(x, _SLOPE)
        return torch.tanh(x)

    def embed_small(self, patches: Tensor) -> Tensor:
        """Embed patches (n, 1, 32, 32): (n, dimensions), -1..1."""
        return self._features(patches)[:, :, 0, 0]

    def embed_large(self, patches: Tensor) -> Tensor:
        """Embed patches (n, 1, 64, 64) by their quarters: (n, dimensions), -1..1."""
        rows = [torch.cat([patches[:, :, y : y + SMALL, x : x + SMALL] for x in (0, SMALL)]) for y in (0, SMALL)]
        quarters = self._features(torch.cat(rows))
        count = len(patches)
        square = quarters.view(2, 2, count, -1).permute(2, 3, 0, 1)
        return torch.tanh(self.head(F.leaky_relu(self.join(square), _SLOPE)))[:, :, 0, 0]

    def embed_densely(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Embed all patches of an image (1, 1, y, x) that start at even pixels.

        Returns
        -------
        tuple of Tensor
            Of 32-pixel patches (dimensions, (y - 32) // 2 + 1, (x - 32) // 2 + 1) and of 64-pixel ones, the same with
            64; position (i, j) is the patch that starts at pixel (2 i, 2 j).
        """
        small = self._features(image)
        joined = F.conv2d(small, self.join.weight, self.join.bias, dilation=SMALL // _STRIDE)
        return small[0], torch.tanh(self.head(F.leaky_relu(joined, _SLOPE)))[0]


class PositionClassifier(nn.Module):
    """Guesses from two embeddings on which of eight sides of the first patch the second lies."""

    def __init__(self, dimensions: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dimensions, 128),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(128, 128),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(128, 8),
        )

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Logits (n, 8) for embeddings (n, dimensions)."""
        return self.layers(one - other)
