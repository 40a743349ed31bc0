"""Small images whose artifacts are bright squares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from artseg_models.images import write_image

SIDE = 64


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images in 12 groups, every second with a bright square; splits given."""
    folder = tmp_path_factory.mktemp("squares")
    lines = ["image,label,split,group,mask"]
    random = np.random.default_rng(0)
    for number in range(24):
        pixels = random.normal(1000, 50, (SIDE, SIDE))
        name, mask = f"f{number:02d}.tif", ""
        if number % 2:
            y, x = random.integers(0, SIDE - 20, 2)
            drawn = np.zeros((SIDE, SIDE), bool)
            drawn[y : y + 20, x : x + 20] = True
            pixels[drawn] += 600
            mask = f"m{number:02d}.png"
            write_image(folder / mask, drawn)
        write_image(folder / name, pixels.astype(np.uint16), pixel_size_um=0.5)
        split = ("train", "train", "validation", "test")[(number // 2) % 4]
        lines.append(f"{name},{'artifact' if mask else 'clean'},{split},g{number // 2},{mask}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder
