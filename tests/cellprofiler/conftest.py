"""A small trained model, simulated fields, and the real CellProfiler."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from artseg_models.cellprofiler import run_pipeline
from artseg_models.images import normalise
from artseg_models.networks.resnet import ResNet
from artseg_models.networks.unet import UNet
from artseg_models.service.server import stop
from artseg_models.simulate import SimulatedField, simulate_field

SHAPE = (200, 240)


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the tests' service apart from the user's, and leave none behind."""
    folder = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTSEG_STATE_DIR", str(folder / "state"))
        patch.setenv("ARTSEG_CACHE", str(folder / "cache"))
        patch.setenv("ARTSEG_PYTHON", sys.executable)
        yield folder / "state"
        stop()


@pytest.fixture(
    scope="session", params=["ARTSEG_CELLPROFILER", "ARTSEG_CELLPROFILER4"], ids=["cellprofiler", "cellprofiler4"]
)
def cellprofiler(request: pytest.FixtureRequest) -> list[str]:
    """The real CellProfiler 5 and 4, named by environment variables that `make test` sets."""
    named = os.environ.get(request.param)
    if not named:
        # why the set-up made none
        pytest.skip(
            os.environ.get(request.param.replace("ARTSEG_", "ARTSEG_NO_"))
            or f"no CellProfiler to test with: set {request.param} to the path of its executable"
        )
    found = shutil.which(named)
    assert found, f"{request.param} names {named}, which cannot be run"
    return [found]


@pytest.fixture(scope="session")
def ask_inside(
    cellprofiler: list[str], repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Any]]:
    """Run a script of this folder in CellProfiler's own Python, with the plugins folder; gives what it found."""
    executable = Path(cellprofiler[0])
    python = next((path for path in executable.parent.glob("python*") if path.stem in ("python", "python3")), None)
    if python is None:
        pytest.skip(f"{executable} is an app without a Python of its own to run a script in")

    def ask(script: str, *arguments: Path) -> dict[str, Any]:
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        ran = subprocess.run(
            [
                python,
                Path(__file__).with_name(script),
                repository / "plugins",
                *(path.as_posix() for path in arguments),
            ],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path_factory.mktemp("inside"),
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout.partition("FOUND")[2])

    return ask


@pytest.fixture(scope="session")
def fields() -> dict[str, SimulatedField]:
    """Two fields of view, by well and site; on each a dark disc lies over a nucleus and glows in both stains."""
    return {"A01_s1": with_disc(seed=4), "A02_s1": with_disc(seed=7)}


def with_disc(*, seed: int, radius: int = 24) -> SimulatedField:
    clean = simulate_field(seed=seed, shape=SHAPE, artifact=False, cell_density=90)
    y, x = np.indices(SHAPE)
    # over the nucleus that is farthest from the border
    from_border = np.minimum.reduce([y, x, SHAPE[0] - 1 - y, SHAPE[1] - 1 - x])
    centre = np.unravel_index(int(np.where(clean.nuclei > 0, from_border, -1).argmax()), SHAPE)
    disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    brightfield, dna, signal = clean.brightfield.copy(), clean.dna.copy(), clean.signal.copy()
    brightfield[disc] //= 4
    for stain in (dna, signal):
        stain[disc] += np.uint16(stain.max() // 2)
    return dataclasses.replace(clean, brightfield=brightfield, dna=dna, signal=signal, artifact_mask=disc)


@pytest.fixture(scope="session")
def images(fields: dict[str, SimulatedField], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fields as files, named as the example pipelines expect."""
    folder = tmp_path_factory.mktemp("plate")
    for name, field in fields.items():
        for channel in ("brightfield", "dna", "signal"):
            tifffile.imwrite(folder / f"{name}_{channel}.tiff", getattr(field, channel))
    return folder


@pytest.fixture(scope="session")
def package(fields: dict[str, SimulatedField], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small U-Net that has seen these very artifacts, exported as any model is."""
    run = tmp_path_factory.mktemp("run") / "small"
    truth = [field.artifact_mask[None] for field in fields.values()]
    return trained_package(run, [field.brightfield for field in fields.values()], truth)


@pytest.fixture(scope="session")
def fields_of_kinds(fields: dict[str, SimulatedField]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Parts of the fields (112, 128) uint16: the dark disc is dust, and below it lies a bright bar, a fibre.

    With the masks (3, y, x) bool: artifact, dust, fibre.
    """
    made = {}
    for name, field in fields.items():
        top, left = (max(0, int(indices.min()) - 8) for indices in np.nonzero(field.artifact_mask))
        part = (slice(min(top, SHAPE[0] - 112), None), slice(min(left, SHAPE[1] - 128), None))
        pixels, dust = (array[part][:112, :128].copy() for array in (field.brightfield, field.artifact_mask))
        fibre = np.zeros_like(dust)
        fibre[90:102, 10:110] = True
        assert not (fibre & dust).any()
        pixels[fibre] = 39000
        made[name] = pixels, np.stack([fibre | dust, dust, fibre])
    return made


@pytest.fixture(scope="session")
def package_of_kinds(
    fields_of_kinds: dict[str, tuple[np.ndarray, np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A small U-Net that tells dust from fibres."""
    run = tmp_path_factory.mktemp("run") / "small-kinds"
    images, truth = zip(*fields_of_kinds.values(), strict=True)
    return trained_package(run, images, truth, kinds=("dust", "fibre"), unet={"width": 8, "levels": 2}, steps=60)


def trained_package(
    run: Path,
    images: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    *,
    kinds: Sequence[str] = (),
    unet: Mapping[str, int] | None = None,
    steps: int = 30,
) -> Path:
    """Train a U-Net on images (y, x) for truth (1 + kinds, y, x), and export it beside a classifier that never learned.

    Gives the package.
    """
    from artseg_models.packages.export import export_packages

    torch.set_num_threads(1)
    torch.manual_seed(0)
    count = {"kinds": len(kinds)} if kinds else {}
    networks = {
        "classifier": (ResNet, {"depth": 10, "width": 4, **count}),
        "unet": (UNet, {**(unet or {"width": 6, "levels": 3}), **count}),
    }
    made = {name: kind(**arguments, binning=1) for name, (kind, arguments) in networks.items()}
    batch = torch.as_tensor(np.stack([normalise(pixels) for pixels in images])[:, None])
    truth_of_batch = torch.as_tensor(np.stack(truth)).float()
    optimiser = torch.optim.Adam(made["unet"].parameters(), lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy(made["unet"](batch), truth_of_batch).backward()
        optimiser.step()
    # so few steps leave the running statistics behind: take them anew
    for module in made["unet"].modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        made["unet"](batch)
    result = {
        "name": run.name,
        "method": "ScoreCAM-U-Net",
        "cutoff": 0.4,
        "smallest_artifact_px": 25,
        "gate_threshold": 0.0,
        "pixel_size_um": None,
        "training": {"source": "labels.csv", "counts": {"train": {"clean": 1, "artifact": 2}}, "epochs": 40},
        "scorecam": {},
        "validation": {},
        **({"kinds": list(kinds)} if kinds else {}),
    }
    for name, network in made.items():
        (run / name).mkdir(parents=True)
        torch.save(network.state_dict(), run / name / "network.pt")
        result[name] = networks[name][1] | {"binning": 1}
    tifffile.imwrite(run / "sample.tiff", images[0])
    (run / "result.json").write_text(json.dumps(result))
    return export_packages(run, run / "packages")[1]


@dataclasses.dataclass(frozen=True)
class Runs:
    """Result folders of both example pipelines on the same images."""

    masked: Path
    plain: Path


@pytest.fixture(scope="session")
def runs(
    cellprofiler: list[str], images: Path, package: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    out = tmp_path_factory.mktemp("results")
    pipelines = repository / "plugins" / "pipelines"
    return Runs(
        masked=run_pipeline(
            pipelines / "artifacts_masked.cppipe", images, out / "masked", package=package, cellprofiler=cellprofiler
        ),
        plain=run_pipeline(pipelines / "no_masking.cppipe", images, out / "plain", cellprofiler=cellprofiler),
    )
