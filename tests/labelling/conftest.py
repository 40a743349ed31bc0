"""Folders of small images, and the page served by a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

TINY = [
    *("binning=2", "classifier.depth=10", "classifier.width=4", "classifier.schedule.epochs=2", "scorecam.groups=8"),
    *("unet.width=4", "unet.levels=3", "unet.schedule.epochs=2", "unet.crop=32", "synthesis.classifier=0"),
]
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/\?token=\S+")


def _write_field(path: Path, seed: int, *, artifact: bool = False, shape: tuple[int, int] = (64, 80)) -> Path:
    """A noisy 16-bit field of smooth shapes; an artifact is a bright disc."""
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 900, (shape[0] // 8, shape[1] // 8))
    pixels = 8000 + np.kron(coarse, np.ones((8, 8))) + random.normal(0, 150, shape)
    if artifact:
        y, x = np.mgrid[: shape[0], : shape[1]]
        pixels[(y - 30) ** 2 + (x - 40) ** 2 < 12**2] += 9000
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels.clip(0, 65535).astype(np.uint16))
    return path


@pytest.fixture
def tiny() -> list[str]:
    """Settings of a training that takes seconds."""
    return TINY


@pytest.fixture
def write_field() -> Callable[..., Path]:
    """Write one field to a path, from a seed, with an artifact if asked for."""
    return _write_field


@pytest.fixture
def fields(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of fields; every third has an artifact and says so in its name."""

    def make(count: int, name: str = "plate 1 äöü") -> Path:
        for number in range(count):
            artifact = number % 3 == 0
            kind = "artefakt" if artifact else "ok"
            _write_field(tmp_path / name / f"Feld {number} {kind}.tif", number, artifact=artifact)
        return tmp_path / name

    return make


class Served:
    """A process of `artseg label`."""

    def __init__(self, *arguments: str | Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "artseg_models", "label", *map(str, arguments), "--no-browser"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "300", "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        self.said = ""
        for line in self._process.stdout:
            self.said += line
            found = ADDRESS.search(line)
            if found:
                self.address = found.group()
                return
        raise AssertionError(f"artseg label did not start: {self.said}")

    def terminate(self) -> int:
        """As when the session ends; gives the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def kill(self) -> None:
        """As when the computer fails: nothing is tidied up."""
        self._process.kill()
        self._process.wait(30)

    def wait(self) -> int:
        return self._process.wait(30)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(15)
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture
def label() -> Iterator[Callable[..., Served]]:
    """Start `artseg label` with these arguments; ended after the test."""
    started: list[Served] = []

    def start(*arguments: str | Path) -> Served:
        started.append(Served(*arguments))
        return started[-1]

    yield start
    for one in started:
        one.end()
