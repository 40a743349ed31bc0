"""The real command line as a process, on a disk that may be full, and what its messages must look like."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from artseg_models.service.server import stop

Artseg = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests' service and cache apart from the user's, and leave no service behind."""
    folder = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTSEG_STATE_DIR", str(folder / "state"))
        patch.setenv("ARTSEG_CACHE", str(folder / "cache"))
        patch.setenv("ARTSEG_PYTHON", sys.executable)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("COLUMNS", "200")
        yield
        stop()


@pytest.fixture(scope="session")
def artseg() -> Artseg:
    """Run a command; files longer than `largest_file` bytes cannot be written, as on a full disk."""

    def run(*arguments: str | Path, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
        def limit() -> None:
            import resource

            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        return subprocess.run(
            [sys.executable, "-m", "artseg_models", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env=dict(os.environ),
            preexec_fn=limit if largest_file is not None else None,
        )

    return run


@pytest.fixture(scope="session")
def one_message() -> Callable[..., str]:
    """Check that a command ended in one message and nothing else on stderr, and give it on one line."""

    def check(done: subprocess.CompletedProcess[str], *, progress: tuple[str, ...] = ()) -> str:
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.strip().startswith(progress)]
        assert said[0].startswith("Error: "), done.stderr
        assert sum(line.startswith("Error: ") for line in said) == 1, done.stderr
        # what follows belongs to it: the list of failed images, or where to read more
        assert all(line.startswith(("  ", "Its log: ")) for line in said[1:]), done.stderr
        return " ".join(" ".join(said).split())

    return check


def contents(folder: Path) -> dict[str, bytes]:
    """Give every file of a folder, hidden ones too, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="session")
def files_of() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a folder with its bytes, hidden ones too: to be compared before and after."""
    return contents


SHAPE = (72, 88)


def field(seed: int, *, artifact: bool = False, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Grain, and a bright disc where there is an artifact."""
    random = np.random.default_rng(seed)
    pixels = random.normal(8000, 300, shape)
    if artifact:
        y, x = np.indices(shape)
        pixels[(y - 30 - seed % 9) ** 2 + (x - 40) ** 2 < 100] += 4000
    return pixels.astype(np.uint16)


#: kind of trouble: what its message must say
BAD_IMAGES = {
    "unreadable": "could not be read as an image",
    "empty": "is empty",
    "nan": "NaN",
    "constant": "all pixels have the value 7",
    "one_pixel": "at least 32 pixels",
    "volume": "--plane",
}


def spoil(path: Path, kind: str) -> None:
    if kind == "unreadable":
        path.write_bytes(b"II*\0" + b"no image at all" * 9)
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        pixels = {
            "nan": np.where(np.eye(72) > 0, np.nan, 1.0).astype(np.float32),
            "constant": np.full(SHAPE, 7, np.uint16),
            "one_pixel": np.ones((1, 1), np.uint16),
            "volume": np.stack([field(seed) for seed in range(5)]),
        }[kind]
        tifffile.imwrite(path, pixels, photometric="minisblack")


@pytest.fixture
def spoilt(labels: Path) -> Callable[[str], dict[str, str]]:
    """Spoil an image of a split in every way there is; gives the files' names and what must be said of them."""

    def spoil_some(split: str) -> dict[str, str]:
        rows = [line.split(",") for line in labels.read_text().splitlines()[1:]]
        names = [name for name, _, there in rows if there == split]
        assert len(names) > len(BAD_IMAGES)
        for name, kind in zip(names, BAD_IMAGES, strict=False):
            spoil(labels.with_name(name), kind)
        return dict(zip(names, BAD_IMAGES.values(), strict=False))

    return spoil_some


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A labels.csv of twenty fields, every other one with an artifact; eight in each of test and train."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = ["image,label,split"]
    for index in range(20):
        artifact = index % 2 == 0
        tifffile.imwrite(folder / f"field_{index}.tiff", field(index, artifact=artifact))
        split = "validation" if index < 4 else "test" if index < 12 else "train"
        rows.append(f"field_{index}.tiff,{'artifact' if artifact else 'clean'},{split}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Options of `artseg train` that make it quick."""
    return (
        *("--preset", "quick"),
        *("--set", "binning=1", "--set", "device=cpu", "--set", "scorecam.groups=4", "--set", "precision=fp32"),
        *("--set", "classifier.depth=10", "--set", "classifier.width=4", "--set", "classifier.schedule.epochs=1"),
        *(
            "--set",
            "unet.width=4",
            "--set",
            "unet.levels=3",
            "--set",
            "unet.schedule.epochs=1",
            "--set",
            "unet.crop=32",
        ),
        "--no-export",
    )
