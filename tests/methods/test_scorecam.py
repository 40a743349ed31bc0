"""ScoreCAM against a loop that follows the paper's sentences one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from artseg_models import passes
from artseg_models.errors import ArtSegError
from artseg_models.networks.resnet import ResNet
from artseg_models.passes import OpenVinoPasses, TorchPasses, choose_passes, open_passes
from artseg_models.scorecam import clean_levels, fitting_batch, scorecam


@pytest.fixture(scope="module")
def network() -> ResNet:
    torch.manual_seed(0)
    return ResNet(10, 8).eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    torch.manual_seed(1)
    return F.interpolate(torch.randn(1, 1, 12, 15), size=(96, 120), mode="bilinear")


def naive(network: ResNet, image: torch.Tensor, layer: int, *, largest: bool = False) -> np.ndarray:
    """One map at a time: resize, normalise, multiply, classify, weight, add, ReLU."""
    total = torch.zeros(image.shape[-2:])
    with torch.no_grad():
        for activation in network.activations(image, layer)[0]:
            resized = F.interpolate(activation[None, None], size=image.shape[-2:], mode="bilinear", align_corners=False)
            if resized.max() == resized.min():
                continue
            mask = (resized - resized.min()) / (resized.max() - resized.min())
            probabilities = network(image * mask)[0]
            probability = probabilities.max() if largest else probabilities[1]
            total += probability * resized[0, 0]
    return F.relu(total).numpy()


@pytest.mark.parametrize("layer", [2, 3, 4])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_exact_mode_equals_the_loop(network, image, layer, batch):
    found = scorecam(network, image, layer=layer, batch=batch)
    expected = naive(network, image, layer)
    np.testing.assert_allclose(found.evidence, expected, rtol=1e-4, atol=1e-4 * expected.max())


def test_the_largest_probability_can_weigh_the_maps(network, image):
    expected = naive(network, image, 2, largest=True)
    found = scorecam(network, image, layer=2, channel_weight="largest")
    np.testing.assert_allclose(found.evidence, expected, rtol=1e-4, atol=1e-4 * expected.max())
    assert not np.allclose(expected, naive(network, image, 2)), "the two weights must differ for this test to tell"


def test_probability_is_the_classifiers(network, image):
    with torch.no_grad():
        assert scorecam(network, image).probability == pytest.approx(float(network(image)[0, 1]), abs=1e-6)


def test_grouped_mode_stays_close_to_exact(network, image):
    exact = scorecam(network, image, layer=3)
    grouped = scorecam(network, image, layer=3, mode="grouped", groups=8)
    assert np.corrcoef(exact.evidence.ravel(), grouped.evidence.ravel())[0, 1] > 0.99


def test_grouped_mode_with_enough_groups_is_exact(network, image):
    exact = scorecam(network, image, layer=2)
    grouped = scorecam(network, image, layer=2, mode="grouped", groups=16)
    np.testing.assert_array_equal(exact.evidence, grouped.evidence)


def test_normalised_spans_zero_to_one(network, image):
    normalised = scorecam(network, image, layer=2).normalised
    assert normalised.min() == 0
    assert normalised.max() == 1


def test_nothing_above_the_clean_level_is_no_evidence(network, image):
    level = network.activations(image, 2)[0].flatten(1).amax(1).detach()
    found = scorecam(network, image, layer=2, clean_level=level)
    assert not found.evidence.any()
    assert not found.normalised.any()


def test_clean_levels_are_the_mean_quantile(network, image):
    images = [image, 0.5 * image]
    levels = clean_levels((network.activations(one, 2)[0] for one in images), quantile=0.9).numpy()
    with torch.no_grad():
        expected = np.mean(
            [np.quantile(network.activations(one, 2)[0].flatten(1).numpy(), 0.9, axis=1) for one in images], axis=0
        )
    np.testing.assert_allclose(levels, expected, rtol=1e-5)


def naive_from_layer_3(network: ResNet, image: torch.Tensor, layer: int) -> np.ndarray:
    """Multiply the activation of layer 3, instead of the image, with one map at a time."""
    total = torch.zeros(image.shape[-2:])
    with torch.no_grad():
        features = network.activations(image, 3)
        for activation in network.activations(image, layer)[0]:
            if activation.max() == activation.min():
                continue
            if layer < 3:
                mask = F.adaptive_avg_pool2d(activation[None, None], features.shape[-2:])
            else:
                size = features.shape[-2:]
                mask = F.interpolate(activation[None, None], size=size, mode="bilinear", align_corners=False)
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            probability = torch.softmax(network.fc(network.layer4(features * mask).mean(dim=(2, 3))), 1)[0, 1]
            resized = F.interpolate(activation[None, None], size=image.shape[-2:], mode="bilinear", align_corners=False)
            total += probability * resized[0, 0]
    return F.relu(total).numpy()


@pytest.mark.parametrize("layer", [2, 3, 4])
def test_feature_mode_masks_the_activation_of_layer_3(network, image, layer):
    expected = naive_from_layer_3(network, image, layer)
    found = scorecam(network, image, layer=layer, mode="feature", batch=7)
    np.testing.assert_allclose(found.evidence, expected, rtol=1e-4, atol=1e-4 * expected.max())
    assert np.corrcoef(found.evidence.ravel(), scorecam(network, image, layer=layer).evidence.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("mode", ["exact", "feature"])
def test_openvino_computes_the_same_passes(network, image, mode):
    expected = scorecam(network, image, layer=3, mode=mode)
    found = scorecam(network, image, layer=3, mode=mode, passes=OpenVinoPasses(network))
    np.testing.assert_allclose(found.evidence, expected.evidence, rtol=1e-4, atol=1e-4 * expected.evidence.max())
    assert found.probability == pytest.approx(expected.probability, abs=1e-5)


def test_large_images_go_in_smaller_batches(network):
    class Counted(TorchPasses):
        largest = 0

        def whole(self, images):
            self.largest = max(self.largest, len(images))
            return super().whole(images)

    counted = Counted(network)
    large = torch.randn(1, 1, 512, 512)
    assert fitting_batch(network, (512, 512), batch=16, memory_mib=32) == 4
    found = scorecam(network, large, layer=2, memory_mib=32, passes=counted)
    assert counted.largest == 4
    np.testing.assert_allclose(found.evidence, scorecam(network, large, layer=2).evidence, rtol=1e-4, atol=1e-5)
    assert fitting_batch(network, (5120, 5120), batch=16, memory_mib=32) == 1, "one image at least"


def test_few_passes_are_not_worth_a_conversion(network, image):
    assert choose_passes(network, image, passes=10, batch=4, late=False, exact=True) == "torch"


def test_many_passes_are_measured(network, image, monkeypatch):
    monkeypatch.setattr(passes, "_timed", lambda run, given: 1.0 if isinstance(run.__self__, TorchPasses) else 0.1)
    assert choose_passes(network, image, passes=10_000, batch=4, late=False, exact=True) == "openvino"
    monkeypatch.setattr(passes, "_timed", lambda run, given: 1.0)
    assert choose_passes(network, image, passes=10_000, batch=4, late=True, exact=True) == "torch"


def test_an_engine_that_is_none_is_refused(network):
    with pytest.raises(ArtSegError, match="torch, openvino"):
        open_passes("tensorrt", network)
