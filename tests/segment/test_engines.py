"""What computes a package's network on the processor, and how it is chosen."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from artseg_models import engines
from artseg_models.engines import EngineTime, choose_engine, fastest, open_engine, time_engines
from artseg_models.errors import ArtSegError
from artseg_models.packages.read import Package, read_package
from artseg_models.predict import Predictor
from artseg_models.quiet_openvino import is_installed

if not is_installed():
    pytest.skip("OpenVINO is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def package(packages: dict[str, Path]) -> Package:
    return dataclasses.replace(read_package(packages["unet"]), iou_cost={"bf16": 0.001})


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_engines_agree_to_rounding_on_any_size(package: Package, sample: np.ndarray, engine: str) -> None:
    reference = Predictor(package, device="cpu", engine="onnxruntime")
    other = Predictor(package, device="cpu", engine=engine)
    for pixels in (sample, sample[:97, :131], sample):
        expected, found = (predictor.predict(pixels, gate=False) for predictor in (reference, other))
        assert np.abs(found.probability - expected.probability).max() < 1e-5
        assert found.engine == engine
        assert found.audit(package).engine == engine


def test_results_stay_when_the_next_image_comes(package: Package, sample: np.ndarray) -> None:
    predictor = Predictor(package, device="cpu", engine="openvino")
    first = predictor.predict(sample, gate=False).probability
    kept = first.copy()
    predictor.predict(sample[::-1].copy(), gate=False)
    assert np.array_equal(first, kept)


def test_the_choice_is_measured_once_and_remembered(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = choose_engine(package, cache=tmp_path)
    (file,) = (tmp_path / "engines").iterdir()
    assert json.loads(file.read_text())["engine"] == chosen
    # what is remembered is taken, without a measurement
    monkeypatch.setattr(engines, "time_engines", lambda package: pytest.fail("measured again"))
    file.write_text(json.dumps({"engine": "openvino"}))
    assert choose_engine(package, cache=tmp_path) == "openvino"


def test_a_damaged_memory_is_measured_anew(package: Package, tmp_path: Path) -> None:
    choose_engine(package, cache=tmp_path)
    (file,) = (tmp_path / "engines").iterdir()
    file.write_text("{")
    assert choose_engine(package, cache=tmp_path) in ("onnxruntime", "openvino", "openvino-bf16")
    assert json.loads(file.read_text())["engine"]


def test_another_engine_must_save_a_tenth() -> None:
    slow, alike, fast = EngineTime("onnxruntime", 1.0), EngineTime("openvino", 0.95), EngineTime("openvino-bf16", 0.4)
    assert fastest([slow, alike]) == "onnxruntime"
    assert fastest([slow, alike, fast]) == "openvino-bf16"
    assert fastest([slow, alike, dataclasses.replace(fast, refused="costs too much")]) == "onnxruntime"


@pytest.mark.parametrize(("cost", "said"), [({}, "does not state"), ({"bf16": 0.02}, "may cost .* 0.02 of IoU")])
def test_bf16_is_refused_where_it_costs_too_much_or_nobody_knows(
    package: Package, cost: dict[str, float], said: str
) -> None:
    costly = dataclasses.replace(package, iou_cost=cost)
    with pytest.raises(ArtSegError, match=said):
        open_engine("openvino-bf16", costly)
    (of_bf16,) = [found for found in time_engines(costly, rounds=1, side=64) if found.engine == "openvino-bf16"]
    assert of_bf16.refused is not None


def test_an_engine_with_another_result_is_left_out(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = engines.OpenVinoBackend

    class Wrong(honest):
        """Gives 1 minus what it should."""

        def __call__(self, image: np.ndarray) -> np.ndarray:
            """Run the network."""
            return 1 - super().__call__(image)

    monkeypatch.setattr(engines, "OpenVinoBackend", Wrong)
    times = {found.engine: found for found in time_engines(package, rounds=1, side=64)}
    assert "differs by" in (times["openvino"].refused or "")
    assert fastest(list(times.values())) == "onnxruntime"


def test_unknown_engines_and_missing_weights_are_refused(package: Package, tmp_path: Path) -> None:
    with pytest.raises(ArtSegError, match="Expected an engine out of auto"):
        Predictor(package, device="cpu", engine="tensorrt")
    only_script = dataclasses.replace(package, weights={"torchscript": package.weights["torchscript"]})
    with pytest.raises(ArtSegError, match="takes onnx weights"):
        Predictor(only_script, device="cpu", engine="openvino")
    # what the environment prefers binds only where the weights allow it
    assert Predictor(only_script, device="cpu").engine == "torch"


def test_nobody_is_told_that_openvino_is_used(tmp_path: Path) -> None:
    """Its telemetry makes a folder in the home folder when it begins, and would send over the internet."""
    use = "from artseg_models.quiet_openvino import openvino; print(openvino().Core().available_devices)"
    variables = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", use], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "CPU" in done.stdout
    assert not list(tmp_path.iterdir())
