"""ScoreCAM against a loop that follows the paper's sentences one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from artseg_models.networks.resnet import ResNet
from artseg_models.scorecam import clean_levels, scorecam


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
    levels = clean_levels(network, images, layer=2, quantile=0.9).numpy()
    with torch.no_grad():
        expected = np.mean(
            [np.quantile(network.activations(one, 2)[0].flatten(1).numpy(), 0.9, axis=1) for one in images], axis=0
        )
    np.testing.assert_allclose(levels, expected, rtol=1e-5)
