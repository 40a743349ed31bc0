"""Gate and U-Net in one graph: an image in, an artifact mask out, for readers that only run a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from artseg_models.networks.resnet import ResNet
from artseg_models.networks.unet import UNet


class GatedUNet(nn.Module):
    """Artifact mask of a whole image: the U-Net's map cut at a cutoff, and nothing where the classifier says clean.

    Parameters
    ----------
    classifier : mapping
        Arguments of ResNet.
    unet : mapping
        Arguments of UNet.
    cutoff : float
        A pixel is artifact from this probability on.
    gate_threshold : float
        An image without artifact has a lower probability than this; 0 keeps the gate open.
    """

    def __init__(
        self, classifier: Mapping[str, int], unet: Mapping[str, int], cutoff: float, gate_threshold: float
    ) -> None:
        super().__init__()
        self.classifier = ResNet(**classifier)
        self.unet = UNet(**unet)
        self.cutoff = cutoff
        self.gate_threshold = gate_threshold

    def forward(self, image: Tensor) -> Tensor:
        """Mask of an image.

        Parameters
        ----------
        image : Tensor
            (batch, 1, y, x) float32 at full resolution, zero mean and unit variance.

        Returns
        -------
        Tensor
            (batch, 1, y, x) float32: 1 on artifacts, 0 elsewhere. Small artifacts are not dropped.
        """
        # no branching, so that the traced graph decides anew for every image of a batch
        gate = self.classifier(image)[:, 1] >= self.gate_threshold
        above = self.unet(image)[:, :1] >= self.cutoff
        return torch.logical_and(above, gate[:, None, None, None]).to(image.dtype)
