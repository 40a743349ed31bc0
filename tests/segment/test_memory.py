"""An image for which memory does not suffice goes in tiles, in smaller ones, then to the CPU if that is allowed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from artseg_models.errors import ArtSegError
from artseg_models.files import sha256
from artseg_models.packages.read import read_package
from artseg_models.predict import Predictor, is_out_of_memory

ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried to allocate"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer"),
    RuntimeError("[ONNXRuntimeError] : 6 : std::bad_alloc"),
]


@pytest.fixture
def image() -> np.ndarray:
    """A field (700, 1500): larger than two of the tiles that are tried."""
    random = np.random.default_rng(8)
    return random.normal(2000, 60, (700, 1500)).astype(np.float32)


@pytest.fixture(scope="module")
def package(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from artseg_models.packages.export import export_packages

    run = make_run(tmp_path_factory.mktemp("run") / "binned_by_1", binning=1)
    return export_packages(run, tmp_path_factory.mktemp("packages")).unet


@pytest.fixture
def small_device(package: Path) -> Callable[[int, Exception], Predictor]:
    """Make a predictor on a device whose memory holds images of so many pixels and no more."""

    def make(pixels: int, error: Exception = ERRORS[1]) -> Predictor:
        # a halo of the receptive field: the untrained network looks as far as it can
        predictor = Predictor(read_package(package), device="cpu", halo_px=320)
        run = predictor._segment

        class Small:
            def __call__(self, image: np.ndarray) -> np.ndarray:
                if image.size > pixels:
                    raise error
                return run(image)

            def release(self) -> None:
                run.release()

        predictor._segment = Small()
        predictor.device = "cuda"
        return predictor

    return make


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:30])
def test_what_means_that_memory_did_not_suffice(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


@pytest.mark.parametrize(("holds", "tiles", "told"), [(10**7, 1, None), (10**6, 2, "1024"), (850_000, 6, "512")])
def test_tiles_as_large_as_memory_allows_give_the_same(
    small_device: Callable[..., Predictor], package: Path, image: np.ndarray, holds: int, tiles: int, told: str | None
) -> None:
    expected = Predictor(read_package(package), device="cpu").predict(image, gate=False)
    found = small_device(holds).predict(image, gate=False)
    assert found.tiles == tiles
    assert found.device == "cuda"
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-4)
    if told is None:
        assert found.note is None
    else:
        assert found.note is not None
        assert found.note.startswith("not enough memory on cuda (whole")
        assert found.note.endswith(f"predicted in tiles of {told} x {told} binned pixels")


def test_the_cpu_takes_it_only_if_that_is_allowed(
    small_device: Callable[..., Predictor], package: Path, image: np.ndarray
) -> None:
    predictor = small_device(1100)
    with pytest.raises(
        ArtSegError, match=r"memory \(cuda\) does not suffice for field 7 \(700 x 1500 .*256 x 256"
    ) as e:
        predictor.predict(image, source="field 7", gate=False)
    assert "Let the processor take such images" in str(e.value)
    found = predictor.predict(image, cpu_allowed=True, gate=False)
    expected = Predictor(read_package(package), device="cpu").predict(image, gate=False)
    assert (found.device, found.tiles) == ("cpu", 1)
    assert found.note is not None
    assert found.note.endswith("predicted on the CPU")
    assert np.array_equal(found.probability, expected.probability)
    assert predictor.predict(image[:32, :32], gate=False).device == "cuda"  # the next one starts from the beginning


def test_a_model_of_whole_images_is_not_cut(small_device: Callable[..., Predictor], image: np.ndarray) -> None:
    predictor = small_device(1100)
    predictor.package = dataclasses.replace(predictor.package, whole_images_only=True)
    with pytest.raises(ArtSegError, match="tried whole"):
        predictor.predict(image, gate=False)


def test_another_failure_is_not_taken_for_lack_of_memory(
    small_device: Callable[..., Predictor], image: np.ndarray
) -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"):
        small_device(1000, RuntimeError("shape mismatch")).predict(image, gate=False)


@pytest.fixture
def hungry(tmp_path: Path) -> Path:
    """A network that takes 256 bytes a pixel and layer: 1.2 GB for the whole image below."""
    weights = {
        "many": np.linspace(-1, 1, 64, dtype=np.float32).reshape(64, 1, 1, 1),
        "one": np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64, 1, 1),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "many"], ["channels"]),
            helper.make_node("Tanh", ["channels"], ["bent"]),
            helper.make_node("Conv", ["bent", "one"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["probability"]),
        ],
        "hungry",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, "y", "x"])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 1, "y", "x"])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "weights.onnx"))
    leading = [{"type": "batch"}, {"type": "channel", "channel_names": ["grey"]}]
    along = [{"type": "space", "id": axis} for axis in "yx"]
    given = [axis | {"size": {"min": 32, "step": 1}} for axis in along]
    same = [axis | {"size": {"tensor_id": "image", "axis_id": axis["id"]}} for axis in along]
    description = {
        "type": "model",
        "format_version": "0.5.10",
        "name": "Hungry",
        "inputs": [{"id": "image", "axes": [*leading, *given]}],
        "outputs": [{"id": "probability", "axes": [*leading, *same]}],
        "weights": {
            "onnx": {"source": "weights.onnx", "sha256": sha256(tmp_path / "weights.onnx"), "opset_version": 17}
        },
    }
    (tmp_path / "rdf.yaml").write_text(json.dumps(description))  # JSON is YAML
    return tmp_path


REALLY = """
import resource, sys
import numpy as np
from pathlib import Path
from artseg_models.packages.read import read_package
from artseg_models.predict import Predictor

predictor = Predictor(read_package(Path(sys.argv[1])), device="cpu")
image = np.random.default_rng(0).normal(9, 1, (2200, 2200)).astype(np.float32)
predictor.predict(image[:64, :64], gate=False)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
found = predictor.predict(image, gate=False)
print(found.tiles, found.note)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the memory of a process")
def test_real_lack_of_memory_ends_in_tiles(hungry: Path) -> None:
    command = [sys.executable, "-c", REALLY, str(hungry), "900"]
    # otherwise the C library keeps for itself what it should give back, which this limit counts
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    tiles, _, note = done.stdout.strip().partition(" ")
    assert int(tiles) > 1
    assert note.startswith("not enough memory on cpu (whole")
