"""A package on its way: everything but card and description lies in a folder, these two follow for each format."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import nn

from artseg_models import __version__
from artseg_models.backends import OnnxBackend, TorchBackend
from artseg_models.bundle import cards_folder
from artseg_models.errors import ArtSegError
from artseg_models.files import sha256
from artseg_models.images import normalise
from artseg_models.packages.cards import (
    SIMULATED,
    counts_table,
    epochs_text,
    fill_card,
    halo_text,
    label_texts,
    learned_from,
    metrics_table,
    settings_text,
    simulated_texts,
    stated,
)
from artseg_models.packages.failures import failures_text, find_failures
from artseg_models.packages.formats import OLDER_FORMAT, in_format
from artseg_models.packages.halo import OVERLAP_PX, HaloEffect, halo_effect
from artseg_models.packages.looks import training_features
from artseg_models.packages.pictures import draw_cases, draw_cover
from artseg_models.packages.rdf import load_yaml, write_yaml
from artseg_models.packages.run import Learning, TrainedMap, TrainedRun
from artseg_models.packages.weights import TOLERANCE, WeightFile
from artseg_models.predict import TILE_PX, artifact_objects

KINDS = ("classifier", "unet", "combined")
_FAILURES = "failures.png"
#: pixels along a side of the test image, before binning asks for more
TEST_SIDE = 192


def archive_name(slug: str, kind: str, format_version: str) -> str:
    """Name a package's file; only the older format stands in the name."""
    return f"{slug}-{kind}-{OLDER_FORMAT}.zip" if format_version == OLDER_FORMAT else f"{slug}-{kind}.zip"


class Shared:
    """What the packages of a run have in common: names, people, test image."""

    def __init__(
        self,
        trained: TrainedRun | TrainedMap,
        slug: str,
        *,
        version: str,
        author: str,
        maintainer: str | None,
        licence: str,
    ) -> None:
        self.trained = trained
        self.slug = slug
        self.version = version
        self.author = author
        self.maintainer = maintainer
        self.licence = licence
        prefix = slug if slug.startswith("artseg") else f"artseg-{slug}"
        self.classifier_id = f"{prefix}-classifier"
        self.unet_id = f"{prefix}-unet"
        self.combined_id = f"{prefix}-combined"
        self.sample_output = output_of(trained.map_network, trained.sample)
        self.probability = self.sample_output[0, 0]
        self.test_image = around_peak(trained.sample, self.probability, max(TEST_SIDE, 3 * trained.minimum_side // 2))
        self.failures = find_failures(trained)
        self.image_features = training_features(trained.folder, plane=trained.settings.get("plane"))
        self.halo = halo_effect(
            TorchBackend(trained.map_network, "cpu"),
            trained.sample,
            binning=trained.binning,
            pooling=trained.minimum_side // trained.binning,
        )

    def identifier(self, kind: str) -> str:
        """Give the id of a package."""
        return {"classifier": self.classifier_id, "combined": self.combined_id}.get(
            kind, self.unet_id.removesuffix("unet") + kind
        )

    def card_fields(self, *, model_name: str, minimum_side: int) -> dict[str, Any]:
        """Give what fills a card, but for the files' names."""
        trained, result = self.trained, self.trained.result
        of_method: dict[str, Any] = (
            {"classifier": trained.result.classifier, "unet": trained.result.unet, "kinds": trained.result.kinds}
            if isinstance(trained, TrainedRun)
            else dict(trained.networks)
        )
        return {
            **of_method,
            "name": model_name,
            "minimum_side": minimum_side,
            "binning": trained.binning,
            "tile_px": TILE_PX * trained.binning,
            "overlap_px": OVERLAP_PX * trained.binning,
            "halo_text": halo_text(self.halo),
            "failures_text": failures_text(self.failures, _FAILURES),
            "pooling_px": minimum_side,
            "classifier_id": self.classifier_id,
            "unet_id": self.unet_id,
            "combined_id": self.combined_id,
            "cutoff": stated(result.cutoff, missing="0.5"),
            "smallest_artifact_px": result.smallest_artifact_px,
            "gate_threshold": stated(result.gate_threshold, missing="no gate"),
            "pixel_size_um": stated(result.pixel_size_um, missing="unknown"),
            "source": result.training.source,
            **simulated_texts(result.training.simulated),
            **(label_texts(trained.drawn_masks) if isinstance(trained, TrainedRun) else {}),
            "counts_table": counts_table(result.training.counts),
            "epochs": epochs_text(result.training.epochs),
            "method": result.method,
            "scorecam_text": settings_text(
                result.scorecam,
                lead="Pseudo-labels by the classifier's answers at single positions"
                if result.scorecam.get("source") == "positions"
                else "Pseudo-labels by ScoreCAM",
            ),
            "validation_table": metrics_table(result.validation),
            "tolerance": f"{TOLERANCE:g}",
            "licence": self.licence,
            "artseg_version": __version__,
        }


@dataclass(frozen=True)
class Draft:
    """A package but for its description and card, which depend on the format.

    Attributes
    ----------
    kind : str
        'classifier', 'unet', 'combined', 'autoencoder' or 'padim'.
    folder : Path
        Holds every other file.
    content : mapping
        The description without what depends on the format.
    card : Path
        Template of the card.
    card_fields : mapping
        What fills it, but for the files' names.
    slug : str
        Begins the files' names.
    """

    kind: str
    folder: Path
    content: Mapping[str, Any]
    card: Path
    card_fields: Mapping[str, Any]
    slug: str

    def describe(self, format_version: str) -> None:
        """Write card and rdf.yaml in a format."""
        archives = {f"{kind}_archive": archive_name(self.slug, kind, format_version) for kind in KINDS}
        archive = archive_name(self.slug, self.kind, format_version)
        older = archive_name(self.slug, self.kind, OLDER_FORMAT)
        fields = {**self.card_fields, **archives, "archive": archive, "older_archive": older}
        card = fill_card(self.card, {**fields, "format_version": format_version})
        (self.folder / "README.md").write_text(card, encoding="utf-8", newline="\n")
        content = in_format(
            self.content, format_version, documentation=self.folder / "README.md", cover=self.folder / "cover.png"
        )
        write_yaml(self.folder / "rdf.yaml", content)


def write_draft(
    shared: Shared,
    folder: Path,
    *,
    kind: str,
    identifier: str,
    binning: int,
    network: nn.Module,
    weights: Mapping[str, WeightFile],
    test_image: NDArray[np.float32],
    test_output: NDArray[np.float32],
    sample_output: NDArray[np.float32],
    own: Mapping[str, Any],
    attachments: list[dict[str, str]] | None = None,
    sources: str | None = None,
) -> Draft:
    """Write tensors and cover beside the weights, and put the description together.

    Card and description come from the folder `sources` of bioimageio/, by default that of the kind.
    """
    result = shared.trained.result
    peak = float(test_output.max())
    if not peak > 0:
        raise ArtSegError(
            f"The network of {identifier} gives nothing but 0 on {shared.trained.folder / 'sample.tiff'}, so that a "
            "reader's test would pass on anything. Choose an image with an artifact, or train longer."
        )
    write_array(folder / "test_input.npy", test_image[None, None])
    write_array(folder / "test_output.npy", test_output)
    tifffile.imwrite(folder / "sample_input.tif", shared.trained.sample, compression="zlib", metadata=None)
    # the Zoo's readers take no .npy here, so the classifier's two numbers are an image as well
    tifffile.imwrite(
        folder / "sample_output.tif",
        sample_output,
        compression="zlib",
        metadata=None,
        photometric="minisblack",  # three channels are no colours
    )
    labels = artifact_objects(
        shared.probability, cutoff=result.cutoff, smallest_artifact_px=result.smallest_artifact_px
    )
    draw_cover(folder / "cover.png", shared.trained.sample, labels > 0)

    listed = list(attachments or [])
    if shared.failures.cases:
        draw_cases(folder / _FAILURES, [(case.pixels, case.mask) for case in shared.failures.cases])
        listed.append(listed_file(folder / _FAILURES))

    cards = cards_folder() / (sources or f"artseg-{kind}")
    content = load_yaml(cards / "rdf.yaml")
    model_name = f"{content['name']} ({shared.slug})"
    alone = isinstance(shared.trained, TrainedMap)
    minimum_side = shared.trained.minimum_side if alone else 32 * binning

    image, output = content["inputs"][0], content["outputs"][0]
    for axis in image["axes"]:
        if axis["type"] == "space":
            axis["size"] = {"min": minimum_side, "step": 1}
    image["test_tensor"] = listed_file(folder / "test_input.npy")
    image["sample_tensor"] = listed_file(folder / "sample_input.tif")
    if own.get("kinds"):
        channels = next(axis for axis in output["axes"] if axis["type"] == "channel")
        channels["channel_names"] += [_identifier(kind) for kind in own["kinds"]]
        output["description"] += f" Further channels: the same for each kind, {', '.join(own['kinds'])}."
    output["test_tensor"] = listed_file(folder / "test_output.npy")
    output["sample_tensor"] = listed_file(folder / "sample_output.tif")
    config = content["config"]
    config["bioimageio"] |= {
        "model_parameter_count": sum(parameter.numel() for parameter in network.parameters()),
        "training": _training(shared, kind),
        "inference_time": inference_time(weights["onnx"].path, shared.trained.sample),
        # the Zoo allows at most a hundredth of the largest value
        "reproducibility_tolerance": [
            {"relative_tolerance": 1e-3, "absolute_tolerance": min(TOLERANCE, float(f"{0.005 * peak:.1g}"))}
        ],
    }
    if shared.trained.hours is not None:
        # of the whole run: classifier, pseudo-labels and U-Net
        hardware = {} if shared.trained.hardware is None else {"hardware_type": shared.trained.hardware}
        config["bioimageio"]["environmental_impact"] = {"hours_used": round(shared.trained.hours, 4), **hardware}
    config["artseg"] = {
        "target": "artifacts",
        **own,
        "binning": binning,
        "pixel_size_um": result.pixel_size_um,
        "recommended_tile_px": TILE_PX * binning,
        "recommended_overlap_px": OVERLAP_PX * binning,
        "training": {**result.training.model_dump(), "method": result.method, "settings": shared.trained.settings},
        "scorecam": dict(result.scorecam),
        "image_features": feature_fields(shared.image_features),
        "sample": image_facts(shared.trained.sample),
        "validation": {
            **result.validation,
            "looked_at_for_failures": {
                "images": shared.failures.looked_at,
                "of": shared.failures.of,
                "wrong_clean": shared.failures.wrong("clean"),
                "wrong_artifact": shared.failures.wrong("artifact"),
            },
        },
        # of each weight format to the network in PyTorch
        "largest_difference": {name: float(f"{file.difference:.2g}") for name, file in weights.items()},
        "weights_bytes": {name: file.path.stat().st_size for name, file in weights.items()},
        "artseg_version": __version__,
        "exported_with": exported_with(),
    }
    if kind == "unet" and shared.failures.bf16_iou_cost is not None:
        bf16 = float(f"{shared.failures.bf16_iou_cost:.3g}")
        config["artseg"]["iou_cost"] = {"bf16": bf16, **config["artseg"].get("iou_cost", {})}
    if kind != "classifier" and shared.halo is not None:
        config["artseg"]["halo_effect"] = halo_fields(shared.halo)
    if isinstance(shared.trained, TrainedRun):
        content["description"] += learned_from(shared.trained.drawn_masks)
    if result.training.simulated:
        content["description"] += SIMULATED
    content |= {
        "name": model_name,
        "id": identifier,
        "version": shared.version,
        "authors": [{"name": shared.author}],
        "packaged_by": [{"name": shared.author}],
        "license": shared.licence,
        "attachments": listed,
        "links": [] if alone else [one for one in (shared.classifier_id, shared.unet_id) if one != identifier],
        "timestamp": shared.trained.finished.isoformat(timespec="seconds"),
        "version_comment": f"Exported by artseg {__version__} from the run '{result.name}'.",
        "weights": {name: {**file.entry, "authors": [{"name": shared.author}]} for name, file in weights.items()},
    }
    if shared.maintainer is not None:
        content["maintainers"] = [{"github_user": shared.maintainer}]
    fields = shared.card_fields(model_name=model_name, minimum_side=minimum_side)
    return Draft(kind, folder, content, cards / "card.md", fields, shared.slug)


_LOSSES = {
    "classifier": "torch.nn.CrossEntropyLoss",
    "unet": "torch.nn.BCEWithLogitsLoss",
    "autoencoder": "1 - SSIM (Wang et al. 2004)",
}


def _training(shared: Shared, kind: str) -> dict[str, Any]:
    """Say how a network learned, in the Zoo's fields; of a combined one, how its U-Net did."""
    trained = shared.trained
    if kind == "padim" and "regularisation" in trained.settings:
        # nothing is learned by gradients, so there is no learning rate either
        return {
            "training_preprocessing": _PREPROCESSED,
            "training_epochs": 1,
            "loss_function": "none: mean and covariance of clean images' features",
            "loss_function_kwargs": {},
            "optimizer": "none: computed in one pass",
            "optimizer_kwargs": {},
            "regularization": f"{trained.settings['regularisation']:g} is added to each variance.",
            **_duration(trained.hours),
        }
    network = "unet" if kind == "combined" else kind
    learning = trained.learning.get(network)
    if learning is None:
        return {}
    lead = ""
    if kind == "combined":
        lead = f"These are the figures of the U-Net; those of the gate stand in {shared.classifier_id}. "
    return training_fields(learning, loss=_LOSSES[network], hours=trained.hours, lead=lead)


_PREPROCESSED = "Images binned and normalised each by its mean and standard deviation."


def training_fields(learning: Learning, *, loss: str, hours: float | None, lead: str = "") -> dict[str, Any]:
    """Say how a network learned, in the Zoo's fields; `lead` begins the text."""
    schedule = learning.schedule
    varied = ", ".join(f"{name} {value}" for name, value in learning.augmentation.items() if value)
    return {
        "training_preprocessing": f"{lead}{_PREPROCESSED} Augmentation: {varied or 'none'}.",
        "training_epochs": schedule.epochs,
        "training_batch_size": schedule.batch,
        "initial_learning_rate": schedule.learning_rate,
        "learning_rate_schedule": schedule.decay,
        "loss_function": loss,
        "loss_function_kwargs": {},
        "optimizer": "torch.optim.Adam",
        "optimizer_kwargs": {"lr": schedule.learning_rate},
        "regularization": "Batch normalisation and augmentation.",
        # the run's, since its networks learn one from another
        **_duration(hours),
    }


def _duration(hours: float | None) -> dict[str, float]:
    return {} if hours is None else {"training_duration": round(hours, 4)}


def exported_with() -> dict[str, str]:
    """Give the versions of what writes packages."""
    names = ("torch", "onnx", "onnxruntime", "openvino", "numpy", "bioimageio.core", "bioimageio.spec")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def inference_time(onnx: Path, pixels: NDArray[Any]) -> str:
    """Time the ONNX weights on an image: the best of three."""
    run, given = OnnxBackend(onnx), normalise(pixels)[None, None]
    seconds: list[float] = []
    for _ in range(3):
        started = time.perf_counter()
        run(given)
        seconds.append(time.perf_counter() - started)
    return (
        f"{min(seconds):.2g} s for an image of {pixels.shape[0]} x {pixels.shape[1]} pixels, by ONNX Runtime on a "
        f"processor ({platform.machine()}, {os.cpu_count()} cores)"
    )


def halo_fields(effect: HaloEffect) -> dict[str, float]:
    """Give what padding and tiles change, for `config.artseg`."""
    return {
        name: float(f"{value:.3g}") for name, value in vars(effect).items() if name != "shape" and value is not None
    }


def feature_fields(features: Mapping[str, tuple[float, float]]) -> dict[str, list[float]]:
    """Give what training images look like, for `config.artseg`."""
    return {name: [float(f"{value:.4g}") for value in pair] for name, pair in features.items()}


def image_facts(pixels: NDArray[Any]) -> dict[str, Any]:
    """Say what the images are like that the network takes, as the sample image shows."""
    low, middle, high = (float(f"{value:.6g}") for value in np.percentile(pixels, (0, 50, 100)))
    height, width = pixels.shape
    return {"height": height, "width": width, "dtype": pixels.dtype.name, "min": low, "median": middle, "max": high}


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write a tensor as float32."""
    np.save(path, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)


def _identifier(name: str) -> str:
    """Name a channel as the Model Zoo allows it."""
    identifier = re.sub(r"\W+", "_", name)
    return identifier if identifier.isidentifier() else f"kind_{identifier}"


def listed_file(path: Path) -> dict[str, str]:
    """Name a file and its SHA-256, as a description does."""
    return {"source": path.name, "sha256": sha256(path)}


def normalised(pixels: NDArray[Any]) -> torch.Tensor:
    """Give an image (y, x) as a network takes it, (1, 1, y, x)."""
    return torch.as_tensor(normalise(pixels)[None, None])


def probability_of(network: nn.Module, pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Give the map (y, x) of an image (y, x)."""
    return output_of(network, pixels)[0, 0]


def output_of(network: nn.Module, pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Give what a network says of an image (y, x), with all axes of its output."""
    with torch.no_grad():
        return network(normalised(pixels)).numpy()


def around_peak(pixels: NDArray[Any], probability: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Cut the surroundings of the likeliest artifact, on odd sizes, so that tests see padding and a map not empty."""
    height, width = min(side + 5, pixels.shape[0]), min(side + 12, pixels.shape[1])
    peak_y, peak_x = np.unravel_index(int(probability.argmax()), probability.shape)
    top = int(np.clip(peak_y - height // 2, 0, pixels.shape[0] - height))
    left = int(np.clip(peak_x - width // 2, 0, pixels.shape[1] - width))
    return pixels[top : top + height, left : left + width].astype(np.float32)
