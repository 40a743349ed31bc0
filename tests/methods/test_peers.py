"""ScoreCAM and PaDiM against other people's programs, where these are installed: `make peers`.

What differs, and is measured here: torchcam scales a map to 0..1 before it is enlarged, we after it, as the paper words
it; grad-cam enlarges with the corners aligned; both weigh by a softmax over channels. anomalib adds another 1e-5 to the
variances. Given the logarithm of the probability, a softmax over channels is the probability itself but for a factor,
which is how their weighting is made ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artseg_models.methods.padim import StreamedMoments
from artseg_models.networks.padim import PaDiM
from artseg_models.networks.resnet import ResNet
from artseg_models.scorecam import scorecam
from artseg_models.training.backbones import ResNetFeatures, TimmFeatures, empty_backbone

pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's programs
_WHY = "not installed; `make peers` tests against it"


class LogProbability(nn.Module):
    """The classifier as other programs want it: its softmax over maps is the probability but for a factor."""

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return torch.log_softmax(self.network.binned_logits(image), dim=1)


@pytest.fixture(scope="module")
def network() -> ResNet:
    torch.manual_seed(0)
    return ResNet(10, 8).eval()


@pytest.fixture(scope="module")
def image() -> Tensor:
    torch.manual_seed(1)
    return F.interpolate(torch.randn(1, 1, 12, 15), size=(96, 120), mode="bilinear")


@pytest.fixture(scope="module")
def operators() -> Iterator[None]:
    """Declare the two operators that torchvision lacks beside this build of torch; nothing here calls them."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # a torchvision that fits torch has them
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield
    del library


def unit(map_: np.ndarray) -> np.ndarray:
    return (map_ - map_.min()) / (map_.max() - map_.min())


def map_of(weights: Tensor, network: ResNet, image: Tensor, layer: int) -> np.ndarray:
    """Weigh our activation maps by another program's weights."""
    with torch.no_grad():
        total = torch.einsum("c,cyx->yx", weights, network.activations(image, layer)[0])
        size = (image.shape[-2], image.shape[-1])
        return F.relu(F.interpolate(total[None, None], size=size, mode="bilinear", align_corners=False))[0, 0].numpy()


@pytest.mark.parametrize("layer", [2, 3, 4])
def test_grad_cam_weighs_the_maps_alike(layer, network, image, operators, monkeypatch):
    peer = pytest.importorskip("pytorch_grad_cam", reason=f"grad-cam is {_WHY}")
    target = [lambda output: output[1]]

    def weights() -> Tensor:
        cam = peer.ScoreCAM(model=LogProbability(network), target_layers=[getattr(network, f"layer{layer}")])
        activations = network.activations(image, layer).detach().numpy()
        return torch.from_numpy(cam.get_cam_weights(image, None, target, activations, None))[0]

    ours = unit(scorecam(network, image, layer=layer).evidence)
    theirs = unit(map_of(weights(), network, image, layer))
    # as it is, with corners aligned
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999
    plain = nn.Upsample(size=(image.shape[-2], image.shape[-1]), mode="bilinear", align_corners=False)
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", lambda size: plain)
    np.testing.assert_allclose(unit(map_of(weights(), network, image, layer)), ours, atol=1e-4)


@pytest.mark.parametrize("layer", [2, 3, 4])
def test_torchcam_finds_the_same(layer, network, image):
    methods = pytest.importorskip("torchcam.methods", reason=f"torchcam is {_WHY}")
    model = LogProbability(network)
    with (
        methods.ScoreCAM(model, getattr(network, f"layer{layer}"), input_shape=(1, 96, 120)) as cam,
        torch.inference_mode(),
    ):
        model(image)
        (weights,) = cam._get_weights(1)
    ours = unit(scorecam(network, image, layer=layer).evidence)
    theirs = unit(map_of(weights[0], network, image, layer))
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999
    assert not np.array_equal(ours, theirs), "torchcam scales maps before it enlarges them"


@pytest.fixture(scope="module")
def resnet18(operators) -> tuple[Any, ResNetFeatures]:
    """timm's ResNet18 of three colours, and the same weights in ours."""
    timm = pytest.importorskip("timm", reason=f"timm is {_WHY}")
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", pretrained=False).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # as a trained network has them
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    ours: Any = empty_backbone("resnet18")
    state = theirs.state_dict()
    state["conv1.weight"] = state["conv1.weight"].sum(1, keepdim=True)
    ours.network.load_state_dict({name: state[name] for name in ours.network.state_dict()})
    return theirs, ours


def test_timm_gives_the_layers_that_a_backbone_needs(resnet18, image):
    theirs, ours = resnet18
    named = TimmFeatures("resnet18", pretrained=False)
    found = named.eval()(image)
    assert [tuple(layer.shape[1:]) for layer in found] == [(64, 24, 30), (128, 12, 15), (256, 6, 8)]
    with torch.no_grad():
        x = theirs.maxpool(theirs.act1(theirs.bn1(theirs.conv1(image.expand(-1, 3, -1, -1)))))
        for stage, own in zip((theirs.layer1, theirs.layer2, theirs.layer3), ours(image), strict=True):
            x = stage(x)
            torch.testing.assert_close(own, x, atol=1e-4, rtol=1e-4)


def test_anomalib_gives_the_same_map(resnet18, operators):
    peer = pytest.importorskip("anomalib.models.image.padim.torch_model", reason=f"anomalib is {_WHY}")
    network, ours = resnet18
    theirs = peer.PadimModel(backbone="resnet18", pre_trained=False, n_features=20)
    theirs.feature_extractor.feature_extractor.load_state_dict(network.state_dict(), strict=False)
    torch.manual_seed(2)
    clean, other = torch.randn(30, 1, 64, 96), torch.randn(1, 1, 64, 96)
    other[..., 20:40, 30:60] *= 3
    theirs.train()
    theirs.feature_extractor.eval()
    theirs(clean.expand(-1, 3, -1, -1))
    theirs.fit()
    theirs.eval()
    expected = theirs(other.expand(-1, 3, -1, -1)).anomaly_map[0, 0].numpy()

    own: Any = PaDiM(ours, theirs.idx, grid=(16, 24), sigma=4.0)
    with torch.no_grad():
        vectors = own.embed(clean).flatten(2).permute(2, 0, 1)
        moments = StreamedMoments(16 * 24, 20)
        for part in vectors.split(7, dim=1):
            moments.add(part)
        # anomalib adds 1e-5 once more before it inverts
        own.gaussians.mean, own.gaussians.whitening = moments.whitened(0.01 + 1e-5)
        found = own.scores(other)[0, 0].numpy()
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(found, expected, rtol=2e-3)
