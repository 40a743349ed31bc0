"""ResNet (He et al. 2016) for grey images: clean or artifact.

Parameter names are those of torchvision and timm, so that published ImageNet weights load (the first convolution
summed over colours); width 64 gives the published networks, smaller widths faster ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: of the published networks
LAYERS = 4
#: depth -> (blocks in each of the four layers, whether blocks are bottlenecks)
_LAYOUTS = {
    10: ((1, 1, 1, 1), False),
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, y, x) features in, features out."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = shortcut(channels_in, 4 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, y, x) features in, features out."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """Pass on as it is, or by a strided 1x1 convolution where the shape changes."""
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


class ResNet(nn.Module):
    """Probabilities that an image is clean or holds an artifact, and if wanted of which kinds.

    Parameters
    ----------
    depth : {10, 18, 34, 50}
        Layers; 50 in the paper.
    width : int
        Channels of the first layer; 64 in the published networks.
    binning : int
        Pixels of the image along y and x that are averaged into one before the first convolution.
    kinds : int
        Kinds of artifact that are told apart; an image may hold several.
    layers : {2, 3, 4}
        How many of the four layers there are; 4 in the published networks. Fewer answer at a finer stride (8, 16, 32)
        from smaller surroundings.
    positions : int
        Multiple-instance pooling: the answer is the mean of that many positions of the last activation map, those that
        answer "artifact" most strongly, so that a speck counts as much in a large image as in a small one. 0, as
        published: the answer to the mean activation of all positions.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        depth: int = 50,
        width: int = 64,
        binning: int = 1,
        kinds: int = 0,
        layers: int = LAYERS,
        positions: int = 0,
    ) -> None:
        super().__init__()
        blocks, bottlenecks = _LAYOUTS[depth]
        block = Bottleneck if bottlenecks else BasicBlock
        self.binning = binning
        self.layers = layers
        self.positions = positions
        self.conv1 = nn.Conv2d(1, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels_in = width
        for index, count in enumerate(blocks[:layers]):
            channels = width * 2**index
            row: list[nn.Module] = []
            for position in range(count):
                row.append(block(channels_in, channels, 2 if index > 0 and position == 0 else 1))
                channels_in = channels * block.expansion
            setattr(self, f"layer{index + 1}", nn.Sequential(*row))
        self.fc = nn.Linear(channels_in, 2 + kinds)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def stride(self) -> int:
        """Binned pixels between the positions of the last activation map."""
        return 2 ** (self.layers + 1)

    def activations(self, image: Tensor, layer: int = LAYERS) -> Tensor:
        """Activation maps after layer 1 to 4 (strides 4, 8, 16, 32) of a binned image (batch, 1, y, x)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        for number in range(1, layer + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Activation maps after layers 1, 2 and 3 (strides 4, 8, 16) of a binned image (batch, 1, y, x)."""
        first = self.activations(image, 1)
        second = self.layer2(first)
        return [first, second, self.layer3(second)]

    def binned_logits(self, image: Tensor) -> Tensor:
        """Logits (batch, 2), clean and artifact, of a binned image (batch, 1, y, x) float32."""
        return self.logits_and_kinds(image)[0]

    def late_logits(self, features: Tensor) -> Tensor:
        """Logits (batch, 2) of the activation of layer 3 (batch, channels, y, x), by layer 4 and the head."""
        return self._pooled(self.layer4(features))[:, :2]

    def logits_and_kinds(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, 2), clean and artifact, and (batch, kinds) of kinds, of a binned image (batch, 1, y, x)."""
        logits = self._pooled(self.activations(image, self.layers))
        return logits[:, :2], logits[:, 2:]

    def log_odds(self, image: Tensor) -> Tensor:
        """Log-odds of artifact at each position (batch, y, x) of the last map of a binned image (batch, 1, y, x)."""
        return self._answers(self.activations(image, self.layers))[:, 0]

    def _answers(self, features: Tensor) -> Tensor:
        """Log-odds of artifact, then logits of kinds, at each position: (batch, 1 + kinds, y, x)."""
        answers = self.fc(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return torch.cat([answers[:, 1:2] - answers[:, :1], answers[:, 2:]], dim=1)

    def strongest(self, answers: Tensor) -> Tensor:
        """Mean (batch, n) of the few highest answers of each of n maps (batch, n, y, x)."""
        flat = answers.flatten(2)
        return flat.topk(min(self.positions, flat.shape[2]), dim=2).values.mean(dim=2)

    def _pooled(self, features: Tensor) -> Tensor:
        if not self.positions:
            return self.fc(features.mean(dim=(2, 3)))
        strongest = self.strongest(self._answers(features))
        half = strongest[:, :1] / 2
        return torch.cat([-half, half, strongest[:, 1:]], dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities of clean and artifact, then of each kind of artifact.

        Parameters
        ----------
        image : Tensor
            (batch, 1, y, x) float32 at full resolution, zero mean and unit variance.

        Returns
        -------
        Tensor
            (batch, 2 + kinds) float32: clean and artifact, which sum to 1, then each kind by itself, 0..1.
        """
        height, width = image.shape[-2], image.shape[-1]
        x = F.pad(image, [0, (-width) % self.binning, 0, (-height) % self.binning], mode="replicate")
        if self.binning > 1:
            x = F.avg_pool2d(x, self.binning)
        logits, kinds = self.logits_and_kinds(x)
        return torch.cat([torch.softmax(logits, dim=1), torch.sigmoid(kinds)], dim=1)
