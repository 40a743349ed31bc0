"""How far a package's map and mask move when its network is computed in bf16 or int8 instead of fp32."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artseg_models.backends import OnnxBackend, OpenVinoBackend, load_torchscript
from artseg_models.errors import ArtSegError
from artseg_models.images import read_image
from artseg_models.packages.rdf import find_description, load_yaml
from artseg_models.packages.read import Package, read_package

logger = logging.getLogger(__name__)

#: a network: its input in, its output out, both with all their axes
Network = Callable[[NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True)
class PrecisionEffect:
    """What one precision changes, over all pixels of all images.

    Attributes
    ----------
    precision : str
        Which, and how it was computed.
    largest, mean : float
        Absolute difference to the map of ONNX Runtime in fp32.
    changed_px : int
        Pixels on the other side of the cutoff.
    artifact_px, image_px : int
        Pixels from the cutoff on in fp32, and all.
    """

    precision: str
    largest: float
    mean: float
    changed_px: int
    artifact_px: int
    image_px: int


def measure_precisions(
    path: Path, images: Sequence[Path] = (), *, cache: Path | None = None
) -> tuple[PrecisionEffect, ...]:
    """Compare a package's map in fp32, bf16 and int8 with the one of ONNX Runtime in fp32.

    fp32 is TorchScript's and OpenVINO's. bf16 is PyTorch's autocast on the processor, of the TorchScript weights, and
    OpenVINO's where the processor has it, whatever the package says of its cost. int8 is ONNX Runtime's static
    quantisation of weights (by channel) and activations, whose ranges are taken from the package's sample image.

    Parameters
    ----------
    path : Path
        Zip file or folder.
    images : sequence of Path
        What to compare on; the package's sample image where none are given, which is then also the one that the ranges
        of int8 come from.
    cache : Path, optional
        Where zips are unpacked, as in `read_package`.

    Returns
    -------
    tuple of PrecisionEffect
        fp32, bf16 and int8, each by what computed it.

    Raises
    ------
    ArtSegError
        The package lacks one of the weights or the sample image, gives no map, or an image cannot be read.
    """
    package = read_package(path, cache=cache)
    for needed in ("onnx", "torchscript"):
        if needed not in package.weights:
            raise ArtSegError(
                f"Expected ONNX and TorchScript weights in {package.path} to compare precisions, but it has "
                f"{', '.join(package.weights)}. Export it with both."
            )
    sample = _sample(package)
    fields = [read_image(image).pixels for image in images] or [sample]
    script, graph = load_torchscript(package.weights["torchscript"], "cpu"), package.weights["onnx"]
    try:
        openvino_bf16 = {"bf16 (OpenVINO)": OpenVinoBackend(graph, precision="bf16")}
    except ArtSegError as error:
        logger.info("OpenVINO in bf16 is left out: %s", error)
        openvino_bf16 = {}
    with tempfile.TemporaryDirectory(prefix="artseg-int8-") as temporary:
        quantised = Path(temporary) / "int8.onnx"
        _quantise(package, sample, quantised)
        networks: Mapping[str, Network] = {
            "fp32 (TorchScript)": script,
            "fp32 (OpenVINO)": OpenVinoBackend(graph),
            "bf16 (autocast)": _autocast(script),
            **openvino_bf16,
            "int8 (static)": OnnxBackend(quantised),
        }
        return _compare(package, fields, OnnxBackend(graph), networks)


def _sample(package: Package) -> NDArray[Any]:
    stated = load_yaml(find_description(package.folder))["inputs"][0].get("sample_tensor")
    if stated is None:
        raise ArtSegError(
            f"Expected a sample image in {package.path}, from which the ranges of int8 are taken, but it has none. "
            "Use a package with `sample_tensor`, as `artseg export` writes it."
        )
    return read_image(package.folder / stated["source"]).pixels


def _given(package: Package, pixels: NDArray[Any]) -> NDArray[Any]:
    """Make an image (y, x) the network's input, padded where the network takes certain sizes only."""
    image = package.preprocess(pixels)
    wanted = package.fitting_shape((image.shape[0], image.shape[1]))
    missing = [size - there for size, there in zip(wanted, image.shape, strict=True)]
    if min(missing) < 0:
        raise ArtSegError(
            f"Expected images of at most {wanted[0]} x {wanted[1]} pixels, the only size that {package.id} takes."
        )
    return package.network_input(np.pad(image, [(0, pixels) for pixels in missing], mode="reflect"))


def _autocast(network: Network) -> Network:
    import torch

    def run(image: NDArray[Any]) -> NDArray[np.float32]:
        with torch.autocast("cpu", torch.bfloat16):
            return network(image)

    return run


def _quantise(package: Package, sample: NDArray[Any], target: Path) -> None:
    """Write the network with weights and activations in 8 bits."""
    from onnxruntime import quantization

    library: Any = quantization  # its own types are incomplete
    waiting = [_given(package, sample)]
    source = package.weights["onnx"]

    class Sample(library.CalibrationDataReader):  # pyright: ignore[reportUntypedBaseClass]
        """Gives the sample image, once."""

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            """Give what the network is run on next; None at the end."""
            return {OnnxBackend(source).input_name: waiting.pop()} if waiting else None

    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)  # it advises a step that these graphs, traced with normalisation folded in, do not need
    try:
        library.quantize_static(
            str(source),
            str(target),
            Sample(),
            quant_format=library.QuantFormat.QDQ,
            per_channel=True,
            activation_type=library.QuantType.QUInt8,
            weight_type=library.QuantType.QInt8,
        )
    finally:
        log.setLevel(level)


def _compare(
    package: Package, fields: Sequence[NDArray[Any]], reference: Network, networks: Mapping[str, Network]
) -> tuple[PrecisionEffect, ...]:
    largest, total, changed = (dict.fromkeys(networks, 0.0) for _ in range(3))
    artifact_px = image_px = 0
    for pixels in fields:
        given = _given(package, pixels)

        def map_of(network: Network, given: NDArray[Any] = given, size: tuple[int, ...] = pixels.shape) -> Any:
            return package.postprocess(package.output_map(network(given)))[: size[0], : size[1]]

        expected = map_of(reference)
        artifact = expected >= package.cutoff
        artifact_px += int(artifact.sum())
        image_px += expected.size
        for name, network in networks.items():
            found = map_of(network)
            difference = np.abs(found.astype(np.float64) - expected)
            largest[name] = max(largest[name], float(difference.max()))
            total[name] += float(difference.sum())
            changed[name] += int(((found >= package.cutoff) != artifact).sum())
    return tuple(
        PrecisionEffect(name, largest[name], total[name] / image_px, int(changed[name]), artifact_px, image_px)
        for name in networks
    )
