"""What the module SegmentArtifacts costs inside CellProfiler, over a prediction in one's own process."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from artseg_models.benchmark.service import no_service_left
from artseg_models.bundle import plugins_folder
from artseg_models.cellprofiler import cellprofiler_version, find_cellprofiler, find_pipeline, run_pipeline
from artseg_models.errors import ArtSegError
from artseg_models.packages.read import read_package
from artseg_models.pipelines.blocks import SEGMENT_ARTIFACTS
from artseg_models.pipelines.project import open_pipeline
from artseg_models.predict import Predictor
from artseg_models.simulate import simulate_field

_FIELDS = 4
#: the first image starts the service and loads the model, the others find both as they are in a long run
_WARM_UP = 3
#: modules of the example pipeline that are not needed to run it, and would only take time
_DROPPED = ("FlagImage", "OverlayOutlines", "SaveImages")

# goes to the end of a copy of the module, so that it runs in any CellProfiler, the desktop app included
_TIMER = """

import json
import time

_untimed = SegmentArtifacts.run


def _timed(self, workspace):
    workspace.image_set.get_image(self.x_name.value).pixel_data  # CellProfiler reads the file when it is first asked
    started = time.perf_counter()
    _untimed(self, workspace)
    seconds = time.perf_counter() - started
    said = [workspace.measurements.get_current_image_measurement(self.measurement_name(name))
            for name in ("Seconds", "UsableArea")]
    with open({path!r}, "a", encoding="utf-8") as times:
        times.write(json.dumps([seconds, float(said[0]), int(said[1])]) + chr(10))


SegmentArtifacts.run = _timed
"""


@dataclass(frozen=True)
class ModuleBenchmark:
    """What was measured; seconds are medians.

    Attributes
    ----------
    cellprofiler : str
        Its version.
    model, sha256, device, engine, shape, images
        What it was measured with; shape is (y, x).
    first_seconds : float
        The module's time for its first image, when no service runs.
    inside_seconds : float
        A prediction in the own process, model loaded.
    module_seconds : float
        The module's time for an image that CellProfiler has read, window closed, model loaded: masks, objects and
        measurements included.
    network_seconds : float
        Part of that in which the service predicted.
    ratio : float
        `module_seconds` over `inside_seconds`.
    """

    cellprofiler: str
    model: str
    sha256: str
    device: str
    engine: str
    shape: tuple[int, int]
    images: int
    first_seconds: float
    inside_seconds: float
    module_seconds: float
    network_seconds: float
    ratio: float

    def fields(self) -> dict[str, Any]:
        """All of it by name, for a file."""
        return asdict(self)


class _Time(NamedTuple):
    """Of one image in the module: seconds, the network's, and pixels that are no artifact."""

    seconds: float
    network_seconds: float
    usable_px: int


def benchmark_module(
    package: Path,
    cellprofiler: Sequence[str],
    *,
    device: str = "auto",
    images: int = 20,
    shape: tuple[int, int] = (1080, 1080),
    seed: int = 0,
) -> ModuleBenchmark:
    """Time SegmentArtifacts in a real CellProfiler without its window, on simulated fields of view.

    The same predictions run in this process, one half before CellProfiler and the other after it.

    Parameters
    ----------
    package : Path
        A model package.
    cellprofiler : sequence of str
        Command that starts CellProfiler 4 or 5.
    device : {"auto", "cuda", "mps", "cpu"}
        Where both sides run.
    images : int
        How many images each median is of.
    shape : tuple of int
        (y, x) in pixels.
    seed : int
        Of the simulated fields.

    Raises
    ------
    ArtSegError
        The package cannot be used, CellProfiler fails, or both sides do not find the same artifacts.
    """
    command = find_cellprofiler(cellprofiler)
    read = read_package(package)
    predictor = Predictor(read, device=device)
    fields = [simulate_field(seed=seed + n, shape=shape, artifact=True).brightfield for n in range(_FIELDS)]
    # as CellProfiler hands them over
    given = [(field / 65535).astype(np.float32) for field in fields]
    usable = [predictor.predict(field).usable_area_px for field in given]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        plate, state, times = Path(folder) / "plate", Path(folder) / "state", Path(folder) / "times"
        plate.mkdir()
        for n in range(_WARM_UP + images):
            tifffile.imwrite(plate / f"field{n:04d}_brightfield.tiff", fields[n % _FIELDS])
        inside = _predicted(predictor, given, images // 2)
        with no_service_left(state):
            run_pipeline(
                _pipeline(Path(folder), device),
                plate,
                Path(folder) / "out",
                package=package,
                cellprofiler=command,
                plugins=_timed_plugins(Path(folder), times),
                variables={"ARTSEG_STATE_DIR": str(state), "ARTSEG_PYTHON": sys.executable},
            )
        inside += _predicted(predictor, given, images - images // 2)
        found = [_Time(*json.loads(line)) for line in times.read_text(encoding="utf-8").splitlines()]
    for n, time_ in enumerate(found):
        if time_.usable_px != usable[n % _FIELDS]:
            raise ArtSegError(
                f"Expected {usable[n % _FIELDS]} usable pixels in field {n} from the module as from a prediction here, "
                f"got {time_.usable_px}."
            )
    counted = found[_WARM_UP:]
    module_seconds, inside_seconds = statistics.median(t.seconds for t in counted), statistics.median(inside)
    return ModuleBenchmark(
        cellprofiler=cellprofiler_version(command),
        model=read.id,
        sha256=read.sha256,
        device=predictor.device,
        engine=predictor.engine,
        shape=shape,
        images=len(counted),
        first_seconds=found[0].seconds,
        inside_seconds=inside_seconds,
        module_seconds=module_seconds,
        network_seconds=statistics.median(t.network_seconds for t in counted),
        ratio=module_seconds / inside_seconds,
    )


def _predicted(predictor: Predictor, fields: Sequence[NDArray[np.float32]], images: int) -> list[float]:
    """Seconds of predictions in this process, after one that does not count."""
    predictor.predict(fields[0])
    seconds: list[float] = []
    for n in range(images):
        started = time.perf_counter()
        predictor.predict(fields[n % len(fields)])
        seconds.append(time.perf_counter() - started)
    return seconds


def _pipeline(folder: Path, device: str) -> Path:
    """Write the example for quality control with what reads images, segments and exports alone."""
    example = open_pipeline(find_pipeline("image_quality"))
    modules = [module for module in example.modules if module.name not in _DROPPED]
    at = next(n for n, module in enumerate(modules) if module.name == SEGMENT_ARTIFACTS)
    setting = next(n for n, setting in enumerate(modules[at].settings) if setting.text == "Device")
    modules[at] = modules[at].with_setting(setting, device)
    path = folder / "benchmark.cppipe"
    path.write_bytes(example.with_modules(modules).to_bytes())
    return path


def _timed_plugins(folder: Path, times: Path) -> Path:
    """Copy the plugins and let the module write its times."""
    copied = folder / "plugins"
    shutil.copytree(plugins_folder(), copied, ignore=shutil.ignore_patterns("__pycache__", "installation.json"))
    with open(copied / "segmentartifacts.py", "a", encoding="utf-8") as module:
        module.write(_TIMER.format(path=str(times)))
    return copied
