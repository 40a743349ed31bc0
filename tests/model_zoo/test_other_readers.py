"""Other people's readers, each in an environment of its own (`make consumers`), give a package's own numbers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from artseg_models.packages.consumers import would_open

CONSUMERS = Path(__file__).with_name("consumers")
TOLERANCE = 1e-4


def _driver() -> ModuleType:
    specification = importlib.util.spec_from_file_location("run_consumers", CONSUMERS / "run.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


driver = _driver()


@pytest.fixture(scope="module")
def folders(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All six packages, unpacked."""
    return driver.unpacked([path for path in packages.values() if path], tmp_path_factory.mktemp("unpacked"))


def run(script: str, folders: list[Path]) -> list[dict[str, Any]]:
    command = [sys.executable, str(CONSUMERS / script), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_reader_of_nothing_but_numpy_agrees(folders: list[Path]) -> None:
    results = run("read_with_onnxruntime.py", folders) + run("read_with_torchscript.py", folders)
    assert {(result["package"], result["weights"]) for result in results} == {
        (folder.name, weights) for folder in folders for weights in ("onnx", "torchscript")
    }
    assert max(result["difference"] for result in results) < TOLERANCE


def test_the_readers_notice_other_numbers(folders: list[Path], tmp_path: Path) -> None:
    import shutil

    import numpy as np

    changed = shutil.copytree(folders[1], tmp_path / "changed")
    np.save(changed / "test_output.npy", np.load(changed / "test_output.npy") + np.float32(0.01))
    (result,) = run("read_with_onnxruntime.py", [changed])
    assert result["difference"] > 0.009
    (changed / "weights.onnx").write_bytes(b"")
    (result,) = run("read_with_onnxruntime.py", [changed])
    assert "refused" in result


@pytest.mark.parametrize("consumer", driver.CONSUMERS, ids=lambda consumer: consumer.shown.split(" (")[0])
def test_as_the_rules_foretell(folders: list[Path], consumer: Any) -> None:
    environments = Path(os.environ.get("ARTSEG_CONSUMERS", driver.ENVIRONMENTS))
    try:
        results = driver.run(consumer, folders, environments)
    except driver.UnavailableError as reason:
        pytest.skip(str(reason))
    opens = {
        folder.name: {verdict.consumer: verdict.opens for verdict in would_open(folder)}.get(consumer.rule, True)
        for folder in folders
    }
    assert {result["package"]: "refused" not in result for result in results} == opens
    assert max(result["difference"] for result in results if "refused" not in result) < TOLERANCE
