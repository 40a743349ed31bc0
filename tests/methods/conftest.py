"""A small data set whose labels are easy, and settings small enough for a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

TINY: dict[str, Any] = {
    "binning": 2,
    "classifier": {"depth": 10, "width": 4, "schedule": {"epochs": 3, "batch": 4}},
    "scorecam": {"groups": 8},
    "unet": {"width": 4, "levels": 3, "schedule": {"epochs": 3, "batch": 4}, "crop": 32},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Let trainings here and those that are killed elsewhere add in one order: sums depend on the number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """Changes that make a preset small."""
    return TINY


@pytest.fixture(scope="session")
def spotted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labels.csv of 24 noisy 16-bit images of 96 x 80 pixels; artifact images hold one bright disc, with its mask."""
    return _write_spotted(tmp_path_factory.mktemp("spotted"), shape=(96, 80), count=24)


@pytest.fixture(scope="session")
def larger_spotted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with 14 images of 144 x 136 pixels, which hold the patches of the methods that learn clean images."""
    return _write_spotted(tmp_path_factory.mktemp("larger"), shape=(144, 136), count=14)


def _write_spotted(folder: Path, *, shape: tuple[int, int], count: int) -> Path:
    random = np.random.default_rng(0)
    rows = ["image,label,split,group,mask"]
    height, width = shape
    y, x = np.mgrid[:height, :width]
    for index in range(count):
        artifact = index % 2 == 0
        image = random.normal(8000, 300, shape)
        centre_y, centre_x = random.uniform(20, height - 20), random.uniform(20, width - 20)
        disc = (y - centre_y) ** 2 + (x - centre_x) ** 2 < random.uniform(8, 14) ** 2
        split = "validation" if index < 4 else "test" if index < 8 else "train"
        mask = ""
        if artifact:
            image[disc] += 4000
            mask = f"mask_{index}.png"
            Image.fromarray(disc.astype(np.uint8) * 255).save(folder / mask)
        tifffile.imwrite(folder / f"field_{index}.tiff", image.astype(np.uint16))
        rows.append(f"field_{index}.tiff,{'artifact' if artifact else 'clean'},{split},{index},{mask}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"
