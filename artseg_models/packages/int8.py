"""A network in int8, for processors that compute it several times as fast: made by NNCF when a package is written.

Ranges of activations are taken from training images. What int8 costs is measured on validation images, so that it is
used only where it costs next to nothing.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artseg_models.backends import OnnxBackend, OpenVinoBackend
from artseg_models.engines import LARGEST_IOU_COST
from artseg_models.errors import ArtSegError
from artseg_models.images import normalise, read_image
from artseg_models.labels import LabelledImage, read_labels
from artseg_models.packages.failures import spread
from artseg_models.packages.run import TrainedMap, TrainedRun
from artseg_models.predict import artifact_objects
from artseg_models.progress import track
from artseg_models.quiet_openvino import nncf, openvino

logger = logging.getLogger(__name__)

#: OpenVINO's description of the network and its weights, attachments of a package
FILES = ("int8.xml", "int8.bin")
_CALIBRATED_ON = 24
_MEASURED_ON = 24
#: side of the parts of images that ranges are taken from, in binned pixels
_CALIBRATION_SIDE = 256


@dataclass(frozen=True)
class Int8:
    """A network in int8.

    Attributes
    ----------
    files : tuple of Path
        What was written; empty where it costs too much.
    iou_cost : float
        1 - IoU of the masks in int8 and in fp32, over all validation images that were looked at. That is a metric
        (Jaccard), so whatever the true masks are, int8 lowers the IoU with them by at most this.
    """

    files: tuple[Path, ...]
    iou_cost: float


def write_int8(trained: TrainedRun | TrainedMap, onnx: Path, folder: Path) -> Int8 | None:
    """Quantise a network and measure what that costs; the gate is left as it is.

    Parameters
    ----------
    trained : TrainedRun or TrainedMap
        The run; its `splits.csv` names the images. Their masks are not read.
    onnx : Path
        The map's network in fp32.
    folder : Path
        Gets `FILES`.

    Returns
    -------
    Int8 or None
        None where NNCF is not installed, the images are no longer there, or nothing is marked in them.
    """
    table = trained.folder / "splits.csv"
    if importlib.util.find_spec("nncf") is None or not table.is_file():
        return None
    try:
        labels = read_labels(table)
    except ArtSegError as error:
        logger.info("No weights in int8: %s", error)
        return None
    plane = trained.settings.get("plane")
    ranges = list(_images(spread(labels.of_split("train"), _CALIBRATED_ON), plane))
    measured = spread(labels.of_split("validation"), _MEASURED_ON)
    if not ranges or not measured:
        return None
    random = np.random.default_rng(0)
    parts = [_part(pixels, _CALIBRATION_SIDE * trained.binning, random) for pixels in ranges]
    _quantise(onnx, folder / FILES[0], parts)
    fp32, int8 = OnnxBackend(onnx), OpenVinoBackend(folder / FILES[0])
    common = either = 0
    for pixels in track(_images(measured, plane), "Measuring what int8 costs", len(measured)):
        given = normalise(pixels)[None, None]
        expected, found = (_mask(run(given)[0, 0], trained) for run in (fp32, int8))
        common += int(np.count_nonzero(expected & found))
        either += int(np.count_nonzero(expected | found))
    cost = 1 - common / either if either else None
    if cost is None or cost > LARGEST_IOU_COST:
        for name in FILES:
            (folder / name).unlink()
    if cost is None:
        return None
    if cost > LARGEST_IOU_COST:
        logger.info(
            "No weights in int8: they may cost %.3g of IoU on the validation images; at most %g is accepted",
            cost,
            LARGEST_IOU_COST,
        )
        return Int8((), cost)
    return Int8(tuple(folder / name for name in FILES), cost)


def _quantise(onnx: Path, target: Path, parts: Sequence[NDArray[np.float32]]) -> None:
    library, quantiser = openvino(), nncf()
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function silences every logger
    model = library.Core().read_model(onnx)
    kept = quantiser.quantize(
        model,
        quantiser.Dataset([part[None, None] for part in parts]),
        preset=quantiser.QuantizationPreset.MIXED,
        subset_size=len(parts),
    )
    library.save_model(kept, str(target), compress_to_fp16=False)


def _images(items: Sequence[LabelledImage], plane: int | None) -> Iterator[NDArray[Any]]:
    for item in items:
        try:
            yield read_image(item.path, plane=plane).pixels
        except ArtSegError as error:
            logger.info("Not looked at: %s", error)


def _part(pixels: NDArray[Any], side: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Cut a square out of a normalised image, anywhere."""
    image = normalise(pixels)
    top, left = (int(random.integers(max(1, size - side + 1))) for size in image.shape)
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def _mask(probability: NDArray[np.float32], trained: TrainedRun | TrainedMap) -> NDArray[np.bool_]:
    result = trained.result
    return artifact_objects(probability, cutoff=result.cutoff, smallest_artifact_px=result.smallest_artifact_px) > 0
