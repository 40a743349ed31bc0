"""One network in three weight formats, each compared with the network itself before it is let out."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from artseg_models.backends import Backend, OnnxBackend, TorchBackend, load_state_dict, load_torchscript
from artseg_models.errors import ArtSegError
from artseg_models.files import sha256
from artseg_models.packages.read import Architecture

logger = logging.getLogger(__name__)

#: deepImageJ's ONNX Runtime 1.13 opens no newer ones
OPSET = 17
IR_VERSION = 8
#: largest difference in probability between a weight format and the network
TOLERANCE = 1e-4

#: what a reader of the state dict needs; BiaPy would try to import a module named python if that stood here
_ENVIRONMENT = """\
name: artseg-state-dict
channels:
  - conda-forge
  - nodefaults
dependencies:
  - pytorch >=2.0
"""

# these libraries' own types are incomplete
_jit: Any = torch.jit
_exporter: Any = torch.onnx
_onnx: Any = onnx

#: gives for images (batch, 1, y, x) where in the output formats must agree, of the output's shape
Decided = Callable[[NDArray[np.float32]], NDArray[np.bool_]]


@dataclass(frozen=True)
class WeightFile:
    """A weight format on disk.

    Attributes
    ----------
    path : Path
        The file.
    entry : mapping
        What rdf.yaml says of it, with its SHA-256.
    difference : float
        The largest to the network, over all images that it was compared on.
    """

    path: Path
    entry: Mapping[str, Any]
    difference: float


def write_weights(
    network: nn.Module,
    folder: Path,
    *,
    architecture: Sequence[Path],
    arguments: Mapping[str, Any],
    output: str,
    output_axes: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    images: Sequence[NDArray[np.float32]] = (),
    decided: Decided | None = None,
) -> dict[str, WeightFile]:
    """Write state dict (with its architecture file), TorchScript and ONNX, and compare each with the network.

    Parameters
    ----------
    network : Module
        In evaluation mode on the CPU; takes (batch, 1, y, x) float32.
    folder : Path
        Where the files go.
    architecture : sequence of Path
        Python files that define the network's class and need nothing but torch and those before them; the last one
        names the file they become. Without any, no state dict is written.
    arguments : mapping
        What the class was built with.
    output : str
        Name of the output.
    output_axes : sequence of str
        'batch', 'channel', 'y', 'x' as the output has them.
    shapes : sequence of (int, int)
        Sizes (y, x) of noise to compare on.
    images : sequence of ndarray
        More images, (batch, 1, y, x), normalised, to compare on.
    decided : callable, optional
        Where formats must agree, for a network that cuts; all of the output if not given.

    Returns
    -------
    dict
        Weight files by format, as rdf.yaml names them.

    Raises
    ------
    ArtSegError
        A format differs from the network by more than `TOLERANCE`, or is of another opset or IR than asked for.
    """
    version = torch.__version__.split("+")[0]
    script, graph = folder / "weights-torchscript.pt", folder / "weights.onnx"
    loaded: dict[str, Backend] = {}
    entries: dict[str, tuple[Path, dict[str, Any]]] = {}
    class_name = type(network).__name__
    if architecture:
        copied = folder / architecture[-1].name
        copied.write_text(_joined(architecture), encoding="utf-8", newline="\n")
        environment = folder / "environment.yaml"
        environment.write_text(_ENVIRONMENT, encoding="utf-8", newline="\n")
        state_dict = folder / "weights.pt"
        _write_state_dict(network, state_dict)
        # built from the copied file, as a reader of the package does
        loaded["pytorch_state_dict"] = load_state_dict(
            Architecture(copied, None, class_name, arguments), state_dict, device="cpu"
        )
        entries["pytorch_state_dict"] = (
            state_dict,
            {
                "comment": f"Runs the Python in {copied.name}, which needs nothing but torch.",
                "architecture": {
                    "source": copied.name,
                    "sha256": sha256(copied),
                    "callable": class_name,
                    "kwargs": dict(arguments),
                },
                "pytorch_version": version,
                "dependencies": {"source": environment.name, "sha256": sha256(environment)},
            },
        )
    # traced at a size at which every padding and cropping step does something
    example = torch.zeros(1, 1, 2 * shapes[0][0] + 5, 2 * shapes[0][1] + 11)
    _write_torchscript(network, example, script)
    _write_onnx(network, example, graph, output=output, output_axes=output_axes)

    loaded |= {"torchscript": load_torchscript(script, device="cpu"), "onnx": OnnxBackend(graph)}
    # what each was made of: one format alone has no parent
    parent = next(iter(entries), "torchscript")
    entries["torchscript"] = (
        script,
        {
            "comment": "Traced, so that torch 2.0 and later load it; images of any size.",
            "pytorch_version": version,
            **({} if parent == "torchscript" else {"parent": parent}),
        },
    )
    entries["onnx"] = (
        graph,
        {
            "comment": f"IR {IR_VERSION}, for onnxruntime 1.13 and later; batch, y and x are free.",
            "opset_version": OPSET,
            "parent": parent,
        },
    )
    differences = _compare(network, loaded, [*_noise(shapes), *images], decided)
    return {
        name: WeightFile(path, {"source": path.name, "sha256": sha256(path), **entry}, differences[name])
        for name, (path, entry) in entries.items()
    }


def _joined(architecture: Sequence[Path]) -> str:
    """Make one file of several that import from each other: readers of a package load a single one."""
    sources = [path.read_text(encoding="utf-8") for path in architecture]
    joined = [sources[0]]
    for source in sources[1:]:
        lines = source.splitlines(keepends=True)
        joined.append("".join(line for line in lines if not line.startswith(("from __future__", "from artseg_models"))))
    return "\n\n".join(joined)


def _write_state_dict(network: nn.Module, path: Path) -> None:
    # through memory: torch would write the file's name into the file
    written = io.BytesIO()
    torch.save(network.state_dict(), written)
    path.write_bytes(written.getvalue())


def _write_torchscript(network: nn.Module, example: torch.Tensor, path: Path) -> None:
    written = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # tracing warns of Python numbers taken from shapes; the comparison at several shapes shows that all is well
        warnings.simplefilter("ignore")
        traced = _jit.trace(network, example, check_trace=False)
        _jit.save(traced, written)
    # the debug records name the folders of the machine that exported
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(path, "w") as target:
        for record in source.infolist():
            if record.filename.endswith(".debug_pkl"):
                continue
            _write_aligned(target, record.filename, source.read(record))


def _write_aligned(target: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Store a record as torch does: uncompressed, its content starting at a multiple of 64 bytes."""
    record = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    position = cast("io.BufferedWriter", target.fp).tell() + 30 + len(name.encode()) + 4
    padding = -position % 64
    record.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    target.writestr(record, content)


def _write_onnx(
    network: nn.Module, example: torch.Tensor, path: Path, *, output: str, output_axes: Sequence[str]
) -> None:
    dynamic = {
        "image": {0: "batch", 2: "y", 3: "x"},
        output: {index: axis for index, axis in enumerate(output_axes) if axis != "channel"},
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # the newer exporter silently writes a newer opset
        _exporter.export(
            network,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=[output],
            dynamic_axes=dynamic,
        )
    model = _onnx.load(str(path))
    _onnx.checker.check_model(model)
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if (opset, model.ir_version) != (OPSET, IR_VERSION):
        raise ArtSegError(
            f"The ONNX file came out with opset {opset} and IR {model.ir_version}; expected {OPSET} and {IR_VERSION}, "
            "which every reader opens. Install the version of torch that packaging/ names."
        )


def _noise(shapes: Sequence[tuple[int, int]]) -> list[NDArray[np.float32]]:
    """Make images of noise, (batch, 1, y, x), every other one a batch of two."""
    random = np.random.default_rng(0)
    return [random.standard_normal((1 + index % 2, 1, *shape), dtype=np.float32) for index, shape in enumerate(shapes)]


def _compare(
    network: nn.Module, formats: Mapping[str, Backend], images: Sequence[NDArray[np.float32]], decided: Decided | None
) -> dict[str, float]:
    reference = TorchBackend(network, "cpu")
    largest = dict.fromkeys(formats, 0.0)
    for image in images:
        height, width = image.shape[2:]
        expected = reference(image)
        counted = np.ones(expected.shape, np.bool_) if decided is None else decided(image)
        for name, run in formats.items():
            found = run(image)
            if found.shape != expected.shape:
                raise ArtSegError(
                    f"The exported {name} gives the shape {found.shape} where the network gives {expected.shape}, for "
                    f"an image of {height} x {width} pixels. Nothing was written; please report this."
                )
            difference = float(np.abs(found.astype(np.float64) - expected)[counted].max(initial=0))
            if not difference <= TOLERANCE:  # also where it is not a number
                raise ArtSegError(
                    f"The exported {name} differs from the network by {difference:.2g} for an image of "
                    f"{height} x {width} pixels; at most {TOLERANCE:g} is allowed. Nothing was written; "
                    "check the weights for values that are not numbers, and train again."
                )
            largest[name] = max(largest[name], difference)
    logger.info(
        "%s: largest difference to the network: %s",
        type(network).__name__,
        ", ".join(f"{name} {difference:.1e}" for name, difference in largest.items()),
    )
    return largest
