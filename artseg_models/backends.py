"""Weight files, loaded and ready to run: ONNX, TorchScript and, where its Python is trusted, a state dict.

Each is a callable: the network's input (all its axes, on the CPU) in, its output as float32 out.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import sys
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from artseg_models.errors import ArtSegError
from artseg_models.quiet_openvino import openvino

if TYPE_CHECKING:
    from artseg_models.packages.read import Architecture


class Backend(Protocol):
    """A network that takes and gives numpy arrays."""

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Run the network."""
        ...

    def release(self) -> None:
        """Free what is kept for the next image; called where memory did not suffice for one."""
        ...


class OnnxBackend:
    """Runs an ONNX file on the CPU.

    Parameters
    ----------
    path : Path
        The file; weights that it keeps in other files must lie beside it.

    Raises
    ------
    ArtSegError
        It is damaged, or asks for what this ONNX Runtime does not have.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        _require_own_files(path)
        self._session = self._open()

    def _open(self) -> Any:
        import onnxruntime

        path = self._path
        runtime: Any = onnxruntime
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # what it warns of, it also does; its errors it raises too
        # its threads would go on taking both cores for a while after each image, from whatever computes next
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        # its exceptions share no class of their own
        except Exception as error:
            raise ArtSegError(
                f"The weights {path.name} could not be loaded by ONNX Runtime {runtime.__version__}: "
                f"{_one_line(error)} Download or export the package again, or use another one."
            ) from error
        self._input = session.get_inputs()[0].name
        self._refused: type[Exception] = runtime.capi.onnxruntime_pybind11_state.InvalidArgument
        return session

    @property
    def input_name(self) -> str:
        """What the file calls its input."""
        return self._input

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Run the network."""
        if self._session is None:
            self._session = self._open()
        try:
            return np.asarray(self._session.run(None, {self._input: image})[0], dtype=np.float32)
        except self._refused as error:
            raise ArtSegError(
                f"The weights {self._path.name} do not take what their package states, an input of shape {image.shape} "
                f"and type {image.dtype}: {_one_line(error)} Use another package."
            ) from error

    def release(self) -> None:
        """End the session until the next image: it cannot give back a part of what it keeps."""
        self._session = None


class OpenVinoBackend:
    """Runs an ONNX file on the CPU by OpenVINO.

    Parameters
    ----------
    path : Path
        The file.
    precision : {"fp32", "bf16"}
        What convolutions compute in; outputs are float32.

    Raises
    ------
    ArtSegError
        OpenVINO is not installed, does not know an operation of the network, or this processor has no bf16.
    """

    def __init__(self, path: Path, *, precision: str = "fp32") -> None:
        _require_own_files(path)
        self._path = path
        self._precision = precision
        self._compiled = self._compile()

    def _compile(self) -> Any:
        library = openvino()
        path, hint = self._path, {"fp32": "f32", "bf16": "bf16"}[self._precision]
        core = library.Core()
        if self._precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            # asked for it, OpenVINO would silently compute in fp32
            raise ArtSegError("This processor does not compute in bf16. Choose the engine auto or openvino.")
        try:
            return core.compile_model(
                core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
            )
        except RuntimeError as error:
            raise ArtSegError(
                f"The weights {path.name} could not be loaded by OpenVINO {library.__version__}: {_one_line(error)} "
                "Choose the engine onnxruntime, or use another package."
            ) from error

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Run the network."""
        if self._compiled is None:
            self._compiled = self._compile()
        # a copy: what OpenVINO gives is overwritten by the next image
        return np.array(self._compiled(image)[0], dtype=np.float32)

    def release(self) -> None:
        """Drop the compiled network until the next image, with the buffers that it keeps."""
        self._compiled = None


def _require_own_files(path: Path) -> None:
    """Refuse an ONNX file that keeps weights outside its folder: older versions of ONNX Runtime would read them."""
    if b"location" not in path.read_bytes():  # the key that names such a file
        return
    import onnx

    parser: Any = onnx
    try:
        graphs: list[Any] = [parser.load(str(path), load_external_data=False).graph]
    # no ONNX at all, which its runtime tells
    except Exception:
        return
    folder = path.parent.resolve()
    while graphs:
        graph = graphs.pop()
        tensors: list[Any] = [*graph.initializer]
        for node in graph.node:
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                graphs += [inner for inner in (attribute.g, *attribute.graphs) if inner.node]
        for location in (
            entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"
        ):
            if not (folder / location).resolve().is_relative_to(folder):
                raise ArtSegError(
                    f"The weights {path.name} keeps weights in the file '{location}' outside its own folder. Not read."
                )


class TorchBackend:
    """Runs a network of PyTorch on a device.

    Parameters
    ----------
    network : Module
        In evaluation mode, on the device.
    device : str
        "cpu", "cuda" or "mps".
    """

    def __init__(self, network: Any, device: str) -> None:
        self._network = network
        self._device = device

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Run the network."""
        import torch

        with torch.inference_mode():
            output: torch.Tensor = self._network(torch.from_numpy(image).to(self._device))
            return output.float().cpu().numpy()

    def release(self) -> None:
        """Keep the network; PyTorch gives back what else it holds, all at once (`predict.release_memory`)."""


def load_torchscript(path: Path, device: str) -> Backend:
    """Load a TorchScript file, which holds a graph and tensors but no Python.

    Raises
    ------
    ArtSegError
        It is damaged, or a pickle (a whole model saved by `torch.save`), whose loading would run code.
    """
    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as opened:
            names = opened.namelist()
        if not any("/code/" in name for name in names) and any(name.endswith("data.pkl") for name in names):
            raise _pickled(path)
    elif path.read_bytes()[:1] == b"\x80":
        raise _pickled(path)
    with warnings.catch_warnings():
        # torch announces its end, but it is what packages hold
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            network: Any = cast("Any", torch.jit).load(path, map_location=device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise ArtSegError(
                f"The weights {path.name} could not be loaded as TorchScript by PyTorch {torch.__version__}: "
                f"{_one_line(error)} Download or export the package again, or use another one."
            ) from error
    return TorchBackend(network, device)


def _pickled(path: Path) -> ArtSegError:
    return ArtSegError(
        f"The weights {path.name} are stated to be TorchScript but are a pickle, whose loading runs whatever its "
        "author put in. Not loaded. Ask the author for TorchScript (torch.jit.trace) or ONNX weights."
    )


def load_state_dict(architecture: Architecture, weights: Path, device: str) -> Backend:
    """Build a network with its author's Python, which runs here, and load its weights, of which only tensors are read.

    Parameters
    ----------
    architecture : Architecture
        The file in the package, or the module of an installed library.
    weights : Path
        The state dict.
    device : str
        "cpu", "cuda" or "mps".

    Raises
    ------
    ArtSegError
        The Python fails or its library is missing, the weights hold more than tensors, or the two do not fit.
    """
    import torch

    named = architecture.library if architecture.file is None else architecture.file.name
    try:
        module = _module(architecture)
        network = getattr(module, architecture.class_name)(**architecture.arguments)
    # whatever the author's code raises
    except Exception as error:
        raise ArtSegError(
            f"The package's own Python, {architecture.class_name} of {named}, failed: {type(error).__name__}: "
            f"{_one_line(error)} Install what it needs, or ask its author for ONNX or TorchScript weights."
        ) from error
    try:
        with warnings.catch_warnings():
            # torch warns of unusual pickles before it refuses them
            warnings.simplefilter("ignore", UserWarning)
            state = cast("dict[str, Any]", torch.load(weights, map_location="cpu", weights_only=True))
        network.load_state_dict(state)
    except pickle.UnpicklingError as error:
        raise ArtSegError(
            f"The weights {weights.name} are a pickle that holds more than tensors, whose loading runs whatever its "
            "author put in. Not loaded, trusted or not. Ask the author for a state dict of tensors, or ONNX weights."
        ) from error
    except (RuntimeError, OSError, EOFError, TypeError, AttributeError) as error:
        raise ArtSegError(
            f"The weights {weights.name} do not fit {architecture.class_name} of {named}: {_one_line(error)} "
            "Download the package again."
        ) from error
    return TorchBackend(network.eval().to(device), device)


def _module(architecture: Architecture) -> Any:
    if architecture.file is None:
        return importlib.import_module(architecture.library or "")
    specification = importlib.util.spec_from_file_location(f"_trusted_{architecture.file.stem}", architecture.file)
    if specification is None or specification.loader is None:
        raise ImportError(f"{architecture.file.name} is no Python file")
    module = importlib.util.module_from_spec(specification)
    # nothing new may appear beside the package's files
    wrote, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        specification.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = wrote
    return module


def _one_line(error: Exception) -> str:
    """Shorten what a library says to its first sentence-like line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0][:300]
    return text if text.endswith((".", "!")) else f"{text}."
