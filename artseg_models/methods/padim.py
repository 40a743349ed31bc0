"""PaDiM (Defard et al. 2020): features of clean images as Gaussians, and the distance of others from them.

The moments are streamed: memory depends on the number of positions and channels, not on that of images. The
Mahalanobis distance comes from the Cholesky factor, so that no covariance is inverted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from artseg_models.errors import ArtSegError
from artseg_models.methods.protocol import Fitted, Found, Recipe
from artseg_models.networks.padim import PaDiM
from artseg_models.progress import track
from artseg_models.training.backbones import empty_backbone, trained_backbone
from artseg_models.training.configuration import AnomalySettings
from artseg_models.training.fields import Array, Split, as_batch, enlarged
from artseg_models.training.loop import load_weights, save_state
from artseg_models.training.scores import fit_scale

#: Seconds after which the moments are kept, so that a killed run goes on from there.
_CHECKPOINT_SECONDS = 30.0
#: Positions whose covariances are factorised at once: it bounds memory.
_POSITIONS = 256


class PaDiMSettings(AnomalySettings):
    """Settings of PaDiM; the defaults are those of its paper with ResNet18, and the cutoff of Ali et al."""

    backbone: str = Field(
        default="resnet18",
        description="Source of features: resnet18, resnet34, resnet50, efficientnet-lite0 or timm:NAME.",
    )
    weights: Path | None = Field(
        default=None, description="A ResNet's weights file, instead of those that timm downloads."
    )
    channels: int = Field(default=100, ge=1, description="Channels drawn at random; 550 in the paper for WideResNet50.")
    gaussian: Literal["position", "shared"] = Field(
        default="position",
        description="position: a Gaussian for each place, for images that show the same at the same place and have "
        "one size. shared: one for all places, for fields of view, which are not aligned.",
    )
    regularisation: float = Field(default=0.01, gt=0, description="Added to each variance.")
    sigma: float = Field(default=4.0, ge=0, description="Smoothing of the map, in binned pixels.")
    cutoff: float | None = Field(default=0.3, ge=0, le=1, description="Cutoff of the map; None: chosen on validation.")


class StreamedMoments:
    """Mean and covariance of vectors that come in batches, for many positions at once.

    Sums are taken of differences from the first batch's mean: without it, features that are large and vary little
    would lose their variance to rounding.

    Parameters
    ----------
    positions, dimensions : int
        Memory is about ``4 * positions * dimensions**2`` bytes, however many vectors come.
    """

    def __init__(self, positions: int, dimensions: int) -> None:
        self.count = 0
        self.shift = torch.zeros(positions, dimensions)
        self.sum = torch.zeros(positions, dimensions, dtype=torch.float64)
        # one Gaussian for all takes millions of vectors, each of its sums counts; one a position takes few, and room
        self.products = torch.zeros(
            positions, dimensions, dimensions, dtype=torch.float64 if positions == 1 else torch.float32
        )

    def add(self, vectors: Tensor) -> None:
        """Add vectors (positions, vectors, dimensions) float32."""
        if self.count == 0:
            self.shift = vectors.mean(1)
        centred = vectors - self.shift[:, None]
        self.sum += centred.sum(1, dtype=torch.float64)
        if len(self.products) == 1:
            centred = centred.double()
        self.products.baddbmm_(centred.transpose(1, 2), centred)
        self.count += vectors.shape[1]

    def whitened(self, regularisation: float) -> tuple[Tensor, Tensor]:
        """Give means (positions, dimensions) and inverse Cholesky factors (positions, dimensions, dimensions).

        The factors replace the sums, so that memory does not double; nothing can be added afterwards.
        """
        offset = self.sum / self.count
        mean = (self.shift.double() + offset).float()
        linalg: Any = torch.linalg  # its own types are incomplete
        unit = torch.eye(self.sum.shape[1], dtype=torch.float64)
        for start in range(0, len(mean), _POSITIONS):
            part = slice(start, start + _POSITIONS)
            between = offset[part, :, None] * offset[part, None, :] * self.count
            covariance = (self.products[part].double() - between) / max(self.count - 1, 1) + regularisation * unit
            factor: Tensor = linalg.cholesky(covariance)
            inverse: Tensor = linalg.solve_triangular(factor, unit.expand(len(factor), -1, -1), upper=False)
            self.products[part] = inverse.to(self.products.dtype)
        return mean, self.products.float()

    def state(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {"count": self.count, "shift": self.shift, "sum": self.sum, "products": self.products}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take everything back."""
        self.count, self.shift = int(state["count"]), state["shift"]
        self.sum, self.products = state["sum"], state["products"]


class PaDiMMethod:
    """Distances from the features of clean images; nothing is trained."""

    def __init__(self, settings: PaDiMSettings, binning: int, device: str) -> None:
        self._settings, self._binning, self._device = settings, binning, device
        self._network: PaDiM | None = None

    def fit(self, training: Split, validation: Split, folder: Path) -> Fitted:
        """Take the moments of the clean images' features; see `Method.fit`."""
        settings = self._settings
        if not (folder / "padim" / "network.pt").exists():
            backbone = trained_backbone(settings.backbone, settings.weights)
            self._fit(backbone, training, validation, folder / "padim")
        self.restore(folder)
        return Fitted(
            networks={
                "padim": {
                    **settings.model_dump(mode="json", include={"backbone", "gaussian", "sigma", "scale"}),
                    "channels": len(self._loaded.channels),
                    "binning": self._binning,
                }
            },
            epochs={},
        )

    def _fit(self, backbone: torch.nn.Module, training: Split, validation: Split, folder: Path) -> None:
        settings, device = self._settings, self._device
        shapes = {training.images.shape(index) for index in range(len(training))}
        if settings.gaussian == "position" and len(shapes) > 1:
            raise ArtSegError(
                f"Expected clean images of one size for Gaussians that are bound to positions, got {sorted(shapes)} "
                "binned pixels. Take one Gaussian for all positions: --set gaussian=shared."
            )
        backbone.to(device)
        with torch.inference_mode():
            widths = [layer.shape[1] for layer in backbone(torch.zeros(1, 1, 32, 32, device=device))]
        total = sum(widths)
        if settings.channels > total:
            raise ArtSegError(
                f"Expected at most {total} channels, as many as the three layers of {settings.backbone} have, got "
                f"{settings.channels}. Choose fewer: --set channels={total}."
            )
        drawn = torch.randperm(total, generator=torch.Generator().manual_seed(settings.seed))[: settings.channels]
        network = _network(settings, backbone, drawn.sort().values, None, self._binning).to(device)
        checkpoint, moments, grid = folder / "checkpoint.pt", None, None
        kept = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else None
        begun = 0 if kept is None else int(kept["images"])
        saved = time.monotonic()
        remaining = range(begun, len(training))
        for index in track(remaining, "PaDiM: features of the clean images", len(remaining)):
            with torch.inference_mode():
                found = network.embed(as_batch(training.images[index], device))[0].cpu()
            vectors = found.flatten(1).T[None] if settings.gaussian == "shared" else found.flatten(1).T[:, None]
            if moments is None:
                moments = StreamedMoments(vectors.shape[0], vectors.shape[2])
                grid = (found.shape[1], found.shape[2])
                if kept is not None:
                    moments.restore(kept["moments"])
            moments.add(vectors)
            if time.monotonic() - saved > _CHECKPOINT_SECONDS and index + 1 < len(training):
                save_state(checkpoint, {"images": index + 1, "moments": moments.state()})
                saved = time.monotonic()
        assert moments is not None
        bound = grid if settings.gaussian == "position" else None
        network = _network(settings, backbone, drawn.sort().values, bound, self._binning)
        mean, whitening = moments.whitened(settings.regularisation)
        network.gaussians.mean, network.gaussians.whitening = mean, whitening
        network.to(device)
        self._network = network
        scores = (self._scores(validation.images[index]) for index in range(len(validation)))
        fit_scale(network.scale, track(scores, "PaDiM: scale of the scores", len(validation)), validation.artifact)
        save_state(folder / "network.pt", {name: tensor.cpu() for name, tensor in network.state_dict().items()})
        checkpoint.unlink(missing_ok=True)

    def restore(self, folder: Path) -> None:
        """Load backbone, Gaussians and scale; see `Method.restore`."""
        settings = self._settings
        file = folder / "padim" / "network.pt"
        if not file.is_file():
            raise ArtSegError(f"Expected what PaDiM learned at {file}, but it is missing. Train again.")
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        positions = state["gaussians.mean"].shape[0]
        grid = None if settings.gaussian == "shared" else (1, positions)
        network = _network(settings, empty_backbone(settings.backbone), state["channels"], grid, self._binning)
        load_weights(network, folder / "padim")
        self._network = network.to(self._device)

    @property
    def _loaded(self) -> PaDiM:
        assert self._network is not None, "fit or restore first"
        return self._network

    @torch.inference_mode()
    def _scores(self, image: Array) -> Array:
        network, given = self._loaded, as_batch(image, self._device)
        if network.gaussians.grid is not None:
            found = network.embed(given).shape
            if found[-2] * found[-1] != len(network.gaussians.mean):
                raise ArtSegError(
                    f"Expected an image of the size of the training images, since this PaDiM has a Gaussian for each "
                    f"of their {len(network.gaussians.mean)} positions, got one with {found[-2]} x {found[-1]}. "
                    "Train with --set gaussian=shared for images of other sizes."
                )
            network.gaussians.grid = (found[-2], found[-1])
        return network.scores(given)[0, 0].cpu().numpy()

    def predict(self, image: Array, *, shape: tuple[int, int] | None = None) -> Found:
        """Give the distances, scaled to 0..1; see `Method.predict`."""
        scores = self._scores(image)
        if shape is not None:
            scores = enlarged(scores, self._binning, shape)
        with torch.inference_mode():
            return Found(map=self._loaded.scale(torch.from_numpy(scores).to(self._device)).cpu().numpy())


def _network(
    settings: PaDiMSettings, backbone: torch.nn.Module, channels: Tensor, grid: tuple[int, int] | None, binning: int
) -> PaDiM:
    network = PaDiM(
        cast(Any, backbone), channels, grid=grid, sigma=settings.sigma, scale=settings.scale, binning=binning
    )
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network.eval()


_QUICK: Mapping[str, Any] = {
    "backbone": "efficientnet-lite0",
    "gaussian": "shared",
    "scale": "clean",
    "cutoff": None,
    "smallest_artifact_px": None,
}

RECIPE = Recipe(
    name="padim",
    summary="PaDiM: how far features lie from those of clean images; needs trained features (artseg[backbones])",
    learns_from="clean",
    settings=PaDiMSettings,
    presets={"paper": {}, "quick": _QUICK},
    make=PaDiMMethod,
    quick_side=256,
)
