"""The packages of runs, one function each: of ScoreCAM-U-Net classifier, U-Net and both in one graph; or one map."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from artseg_models.files import sha256
from artseg_models.images import normalise
from artseg_models.networks import combined, resnet, unet
from artseg_models.packages.draft import (
    Draft,
    Shared,
    listed_file,
    normalised,
    output_of,
    write_draft,
)
from artseg_models.packages.int8 import Int8, write_int8
from artseg_models.packages.run import MapResult, RunResult, TrainedMap, TrainedRun
from artseg_models.packages.weights import TOLERANCE, write_weights

logger = logging.getLogger(__name__)


def compared_shapes(binning: int) -> list[tuple[int, int]]:
    """Sizes (y, x) to compare weight formats at: the smallest, long and thin, odd, and multiples of 32."""
    smallest = 32 * binning
    return [
        (smallest, smallest),
        (9 * smallest + 3 * binning + 1, smallest + 13),
        (smallest + 1, 3 * smallest - 7),
        (2 * smallest, 3 * smallest),
    ]


def classifier_draft(shared: Shared, folder: Path, trained: TrainedRun) -> Draft:
    """Write the classifier's files into a folder."""
    shape = trained.result.classifier
    network = trained.classifier
    weights = write_weights(
        network,
        folder,
        architecture=[Path(resnet.__file__)],
        arguments=shape.model_dump(),
        output="probabilities",
        output_axes=("batch", "channel"),
        shapes=compared_shapes(shape.binning),
    )
    with torch.no_grad():
        test_output = network(normalised(shared.test_image)).numpy()
        sample_output = network(normalised(trained.sample)).numpy()
    return write_draft(
        shared,
        folder,
        kind="classifier",
        identifier=shared.classifier_id,
        binning=shape.binning,
        network=network,
        weights=weights,
        test_image=shared.test_image,
        test_output=test_output,
        sample_output=sample_output,
        own={
            "gate_threshold": trained.result.gate_threshold,
            "whole_images_only": True,
            # the output's channels
            "classes": {name: at for at, name in enumerate(("clean", "artifact", *trained.result.kinds))},
            **_kinds(trained.result),
        },
    )


def unet_draft(shared: Shared, folder: Path, trained: TrainedRun, *, classifier_onnx: Path) -> Draft:
    """Write the U-Net's files into a folder, the classifier among them as the gate."""
    shape = trained.result.unet
    network = trained.unet
    weights = write_weights(
        network,
        folder,
        architecture=[Path(unet.__file__)],
        arguments=shape.model_dump(),
        output="probability",
        output_axes=("batch", "channel", "y", "x"),
        shapes=compared_shapes(shape.binning),
    )
    quantised = write_int8(trained, folder / "weights.onnx", folder)
    attachment = folder / "classifier.onnx"
    shutil.copyfile(classifier_onnx, attachment)
    digest = sha256(attachment)
    return write_draft(
        shared,
        folder,
        kind="unet",
        identifier=shared.unet_id,
        binning=shape.binning,
        network=network,
        weights=weights,
        test_image=shared.test_image,
        test_output=output_of(network, shared.test_image),
        sample_output=shared.sample_output.squeeze(),
        own={
            "cutoff": trained.result.cutoff,
            "smallest_artifact_px": trained.result.smallest_artifact_px,
            "gate_threshold": trained.result.gate_threshold,
            **_kinds(trained.result),
            "classifier": {"id": shared.classifier_id, "attachment": attachment.name, "sha256": digest},
            **_stated(quantised),
        },
        attachments=[{"source": attachment.name, "sha256": digest}, *_attached(quantised)],
    )


def _kinds(result: RunResult | MapResult) -> dict[str, list[str]]:
    """Name the kinds in config.artseg, as they are; the channels bear them as identifiers."""
    return {"kinds": list(result.kinds)} if result.kinds else {}


def combined_draft(shared: Shared, folder: Path, trained: TrainedRun) -> Draft | None:
    """Put gate, U-Net and cutoff into one graph; None where it finds nothing in the sample, so cannot be tested."""
    result = trained.result
    gate_threshold = 0.0 if result.gate_threshold is None else result.gate_threshold
    arguments: dict[str, Any] = {
        "classifier": result.classifier.model_dump(),
        "unet": result.unet.model_dump(),
        "cutoff": result.cutoff,
        "gate_threshold": gate_threshold,
    }
    network = combined.GatedUNet(**arguments).eval()
    network.classifier.load_state_dict(trained.classifier.state_dict())
    network.unet.load_state_dict(trained.unet.state_dict())

    def decided(image: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Say where the last digits of a probability cannot turn the mask."""
        given = torch.as_tensor(image)
        with torch.no_grad():
            gate = (network.classifier(given)[:, 1] - gate_threshold).abs() > TOLERANCE
            cut = (network.unet(given)[:, :1] - result.cutoff).abs() > TOLERANCE
        return (cut & gate[:, None, None, None]).numpy()

    def mask(image: NDArray[Any]) -> NDArray[np.float32]:
        with torch.no_grad():
            return network(normalised(image)).numpy()

    # the surroundings of the likeliest artifact, else the whole image: what the gate lets pass and is not at its edge
    candidates = [shared.test_image, trained.sample.astype(np.float32)]
    test_image = next(
        (image for image in candidates if mask(image).any() and decided(normalise(image)[None, None]).mean() > 0.99),
        None,
    )
    if test_image is None:
        logger.warning(
            "No combined package is written: gate and cutoff leave no artifact in %s, so a reader's test would pass on "
            "anything. Choose an image with an artifact that the model finds, or train longer.",
            trained.folder / "sample.tiff",
        )
        return None
    binning = max(result.unet.binning, result.classifier.binning)
    weights = write_weights(
        network,
        folder,
        architecture=[Path(str(module.__file__)) for module in (resnet, unet, combined)],
        arguments=arguments,
        output="mask",
        output_axes=("batch", "channel", "y", "x"),
        shapes=compared_shapes(binning),
        images=[normalise(test_image)[None, None]],
        decided=decided,
    )
    return write_draft(
        shared,
        folder,
        kind="combined",
        identifier=shared.combined_id,
        binning=binning,
        network=network,
        weights=weights,
        test_image=test_image,
        test_output=mask(test_image),
        sample_output=mask(trained.sample),
        own={
            # what is left to do with the mask; what was done to get it stands under `inside`
            "cutoff": 0.5,
            "smallest_artifact_px": result.smallest_artifact_px,
            "gate_threshold": None,
            "whole_images_only": True,
            "inside": {
                "cutoff": result.cutoff,
                "gate_threshold": result.gate_threshold,
                "classifier": shared.classifier_id,
                "unet": shared.unet_id,
            },
        },
    )


def map_draft(shared: Shared, folder: Path, trained: TrainedMap) -> Draft:
    """Write the files of a method that has one network and no gate into a folder."""
    method, smallest, network = trained.result.method, trained.minimum_side, trained.map_network
    weights = write_weights(
        network,
        folder,
        architecture=trained.architecture,
        arguments=trained.arguments,
        output="probability",
        output_axes=("batch", "channel", "y", "x"),
        # the smallest, and odd ones; others than those of 32 pixels are large enough
        shapes=[
            (smallest, smallest),
            (2 * smallest + 3 * trained.binning + 1, smallest + 13),
            (smallest + 1, 2 * smallest - 7),
        ],
    )
    quantised = write_int8(trained, folder / "weights.onnx", folder) if method == "unet" else None
    return write_draft(
        shared,
        folder,
        kind=method,
        identifier=shared.identifier(method),
        binning=trained.binning,
        network=network,
        weights=weights,
        test_image=shared.test_image,
        test_output=output_of(network, shared.test_image),
        sample_output=shared.sample_output.squeeze(),
        own={
            "cutoff": trained.result.cutoff,
            "smallest_artifact_px": trained.result.smallest_artifact_px,
            "gate_threshold": None,
            **_kinds(trained.result),
            # a U-Net's map changes little in tiles; that of patches from the image's corner on is another one there
            "whole_images_only": method != "unet",
            **_stated(quantised),
        },
        attachments=_attached(quantised),
        sources=_MAP_SOURCES[method],
    )


def _stated(quantised: Int8 | None) -> dict[str, Any]:
    """Say in config.artseg what int8 costs, and where its weights are."""
    if quantised is None:
        return {}
    weights = {"int8": quantised.files[0].name} if quantised.files else {}
    return {**weights, "iou_cost": {"int8": float(f"{quantised.iou_cost:.3g}")}}


def _attached(quantised: Int8 | None) -> list[dict[str, str]]:
    return [] if quantised is None else [listed_file(path) for path in quantised.files]


_MAP_SOURCES = {"unet": "artseg-supervised-unet", "autoencoder": "artseg-autoencoder", "padim": "artseg-padim"}
