"""A model whose answers can be told beforehand, and the CellProfiler side's client."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from artseg_models.files import sha256
from artseg_models.service.rendezvous import read_rendezvous, rendezvous_path


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pixels more than two standard deviations below the image's mean are artifact, from 20 pixels on."""
    nodes = [
        helper.make_node("Add", ["image", "depth"], ["above"]),
        helper.make_node("Mul", ["above", "slope"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    constants = {"depth": np.float32([2]), "slope": np.float32([-4])}
    folder = tmp_path_factory.mktemp("dark") / "dark-unet"
    return write_package(folder, nodes, constants, name="Dark is artifact", identifier="dark-artifact")


@pytest.fixture(scope="session")
def package_of_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pixels more than two standard deviations from the image's mean are artifact: dust below it, fibres above.

    The classifier gives 0.75 for dust and 0.25 for fibres, whatever it sees.
    """
    nodes = [
        helper.make_node("Mul", ["image", "signs"], ["departure"]),
        helper.make_node("ReduceMax", ["departure"], ["largest"], axes=[1]),
        helper.make_node("Concat", ["largest", "departure"], ["all"], axis=1),
        helper.make_node("Sub", ["all", "depth"], ["above"]),
        helper.make_node("Mul", ["above", "slope"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    signs = np.float32([-1, 1]).reshape(1, 2, 1, 1)
    constants = {"signs": signs, "depth": np.float32([2]), "slope": np.float32([4])}
    folder = tmp_path_factory.mktemp("kinds") / "kinds-unet"
    write_package(folder, nodes, constants, name="Far is artifact", identifier="far-artifact", kinds=("dust", "fibre"))
    says = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Mul", ["flat", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "always"], ["probability"]),
    ]
    always = {"nothing": np.float32([[0]]), "always": np.float32([[0.25, 0.75, 0.75, 0.25]])}
    save_network(folder / "classifier.onnx", says, always, ["batch", 4])
    description = json.loads((folder / "rdf.yaml").read_text())
    description["config"]["artseg"]["classifier"] = {"id": "always-the-same", "attachment": "classifier.onnx"}
    (folder / "rdf.yaml").write_text(json.dumps(description))
    return folder


def save_network(path: Path, nodes: list[Any], constants: dict[str, np.ndarray], shape: list[str | int]) -> None:
    """Write an ONNX network from `image` (batch, 1, y, x) to `probability` of the given shape."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, "y", "x"])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def write_package(
    folder: Path,
    nodes: list[Any],
    constants: dict[str, np.ndarray],
    *,
    name: str,
    identifier: str,
    kinds: tuple[str, ...] = (),
) -> Path:
    """Write an unpacked package of a network; gives its folder."""
    folder.mkdir()
    save_network(folder / "weights.onnx", nodes, constants, ["batch", 1 + len(kinds), "y", "x"])
    batch = {"type": "batch"}
    description = {
        "type": "model",
        "format_version": "0.5.10",
        "name": name,
        "id": identifier,
        "version": "1.2.3",
        "inputs": [
            {
                "id": "image",
                "axes": [
                    batch,
                    {"type": "channel", "channel_names": ["grey"]},
                    *({"type": "space", "id": axis, "size": {"min": 32, "step": 1}} for axis in "yx"),
                ],
                "preprocessing": [
                    {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"], "eps": 1e-6}}
                ],
            }
        ],
        "outputs": [
            {
                "id": "probability",
                "axes": [
                    batch,
                    {"type": "channel", "channel_names": ["artifact", *kinds]},
                    *({"type": "space", "id": axis, "size": {"tensor_id": "image", "axis_id": axis}} for axis in "yx"),
                ],
            }
        ],
        "weights": {"onnx": {"source": "weights.onnx", "sha256": sha256(folder / "weights.onnx"), "opset_version": 17}},
        "config": {"artseg": {"cutoff": 0.5, "smallest_artifact_px": 20, "gate_threshold": None, "kinds": kinds}},
    }
    (folder / "rdf.yaml").write_text(json.dumps(description))  # JSON is YAML
    return folder


@pytest.fixture
def image() -> np.ndarray:
    """A field (90, 120), 0..1 as CellProfiler hands it over, with dark squares of 100 and of 9 pixels."""
    pixels = np.random.default_rng(5).normal(0.04, 0.001, (90, 120)).astype(np.float32)
    pixels[20:30, 40:50] = 0.01
    pixels[60:63, 80:83] = 0.01
    return pixels


@pytest.fixture(scope="session")
def artseg_client(repository: Path) -> Iterator[ModuleType]:
    """The client as CellProfiler imports it: its folder is on the path."""
    plugins = str(repository / "plugins")
    sys.path.insert(0, plugins)
    try:
        yield importlib.import_module("_artseg_client")
    finally:
        sys.path.remove(plugins)


@pytest.fixture(scope="session", autouse=True)
def shared_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the tests' service apart from the user's; tests that do not care share one, and none is left behind."""
    folder = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTSEG_STATE_DIR", str(folder / "state"))
        patch.setenv("ARTSEG_CACHE", str(folder / "cache"))
        patch.setenv("ARTSEG_PYTHON", sys.executable)
        yield folder / "state"
        end_services(folder / "state")


@pytest.fixture
def fresh_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder in which no service has ever run."""
    folder = tmp_path / "state"
    monkeypatch.setenv("ARTSEG_STATE_DIR", str(folder))
    yield folder
    end_services(folder)


def end_services(state: Path) -> None:
    """End every service process of a state folder, whether it announces itself or not."""
    for process in psutil.process_iter():
        try:
            if "serve" in process.cmdline() and process.environ().get("ARTSEG_STATE_DIR") == str(state):
                process.kill()
                process.wait(10)
        except psutil.Error:
            continue
    client = sys.modules.get("_artseg_client._start")
    for child in client._children if client else ():
        child.poll()  # otherwise Python complains at its end that they still run


@pytest.fixture
def service_pid() -> Callable[[], int]:
    """Ask for the process of the running service."""

    def ask() -> int:
        rendezvous = read_rendezvous(rendezvous_path("auto"))
        assert rendezvous is not None
        return rendezvous.pid

    return ask


@pytest.fixture
def kill_service(service_pid: Callable[[], int]) -> Callable[[], int]:
    """Kill the running service without a chance to clean up."""

    def kill() -> int:
        pid = service_pid()
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 10
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until
            time.sleep(0.02)
        return pid

    return kill
