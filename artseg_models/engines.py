"""Which library, in which precision, computes a package's network on this processor: measured once, then remembered."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from artseg_models.backends import Backend, OnnxBackend, OpenVinoBackend, load_torchscript
from artseg_models.errors import ArtSegError
from artseg_models.files import read_json, write_json
from artseg_models.packages.read import Package, default_cache
from artseg_models.quiet_openvino import is_installed

logger = logging.getLogger(__name__)

Engine = Literal["auto", "onnxruntime", "openvino", "openvino-bf16", "openvino-int8", "torch"]
#: names a default other than auto, for tests and for administrators
ENVIRONMENT_VARIABLE = "ARTSEG_ENGINE"

#: a lower precision must cost no more IoU than this on the validation images
LARGEST_IOU_COST = 0.005
#: another engine than ONNX Runtime must save at least this share of its time, or rounding and chance would choose
_WORTH = 0.1
#: what engines may differ by, at most in fp32 and on average in bf16 and int8; more is a fault of theirs
_LARGEST_DIFFERENCE = 1e-3
_LARGEST_MEAN_DIFFERENCE = 0.02
#: side of the image that is timed, in binned pixels (at most two of the image for one)
_SIDE_PX = 544
_ROUNDS = 3


@dataclass(frozen=True)
class EngineTime:
    """How fast an engine is on this processor.

    Attributes
    ----------
    engine : str
        Which.
    seconds : float
        For one image, the best of a few; infinite where it was not run.
    refused : str or None
        Why it was not run, or may not be used.
    """

    engine: str
    seconds: float
    refused: str | None = None


def precision_refused(package: Package, precision: str) -> str | None:
    """Say why a package may not be computed in "bf16" or "int8"; None where it may."""
    cost = package.iou_cost.get(precision)
    if cost is None:
        return (
            f"{package.id} does not state what {precision} costs on its validation images; at most "
            f"{LARGEST_IOU_COST:g} of IoU is accepted"
        )
    if cost > LARGEST_IOU_COST:
        return (
            f"{precision} may cost {package.id} {cost:.3g} of IoU on its validation images; at most "
            f"{LARGEST_IOU_COST:g} is accepted"
        )
    if precision == "int8" and package.int8 is None:
        return f"{package.id} holds no weights in int8; export it again with `pip install artseg[int8]`"
    return None


def open_engine(engine: str, package: Package, *, whatever_it_costs: bool = False) -> Backend:
    """Load a package's weights for an engine on the processor.

    Parameters
    ----------
    engine : {"onnxruntime", "openvino", "openvino-bf16", "openvino-int8", "torch"}
        "torch" takes the TorchScript weights, "openvino-int8" those that the package holds for it, the others the ONNX
        file.
    package : Package
        The model.
    whatever_it_costs : bool
        Whether a precision may be opened, to be measured, that costs too much to be used.

    Raises
    ------
    ArtSegError
        No such engine, it is not installed, the package lacks its weights, or the precision costs too much.
    """
    if engine not in get_args(Engine) or engine == "auto":
        raise ArtSegError(f"Expected an engine out of {', '.join(get_args(Engine))}, got {engine!r}.")
    wanted = "torchscript" if engine == "torch" else "onnx"
    if wanted not in package.weights:
        raise ArtSegError(
            f"The engine {engine} takes {wanted} weights, but {package.path.name} has {', '.join(package.weights)}. "
            "Choose the engine auto."
        )
    if engine == "torch":
        return load_torchscript(package.weights["torchscript"], "cpu")
    if engine == "onnxruntime":
        return OnnxBackend(package.weights["onnx"])
    if engine in ("openvino-bf16", "openvino-int8"):
        precision = engine.removeprefix("openvino-")
        refused = precision_refused(package, precision)
        if refused is not None and not whatever_it_costs:
            raise ArtSegError(f"The engine {engine} is refused: {refused}. Choose the engine auto or openvino.")
        if precision == "bf16":
            return OpenVinoBackend(package.weights["onnx"], precision="bf16")
        if package.int8 is None:
            raise ArtSegError(f"{package.path.name} holds no weights in int8.")
        return OpenVinoBackend(package.int8)
    return OpenVinoBackend(package.weights["onnx"])


def choose_engine(package: Package, *, cache: Path | None = None) -> str:
    """Choose the fastest engine for a package's ONNX weights on this processor.

    The choice is measured the first time, a few seconds, and remembered for this package on this computer with these
    versions of the libraries. An engine whose result differs from ONNX Runtime's by more than rounding is left out.

    Parameters
    ----------
    package : Package
        With ONNX weights.
    cache : Path, optional
        Where choices are remembered; by default where packages are unpacked.

    Returns
    -------
    str
        "onnxruntime", "openvino", "openvino-bf16" or "openvino-int8".
    """
    if not is_installed():
        return "onnxruntime"
    remembered = (cache or default_cache()) / "engines" / f"{package.sha256}-{_this_computer()}.json"
    if remembered.is_file():
        try:
            chosen = str(read_json(remembered)["engine"])
            if chosen in get_args(Engine):
                return chosen
        except (ArtSegError, KeyError, TypeError) as error:
            logger.warning("%s is damaged (%s); measuring again.", remembered, error)
    times = time_engines(package)
    chosen = fastest(times)
    told = ", ".join(
        f"{found.engine} {1000 * found.seconds:.0f} ms" if found.refused is None else f"{found.engine} not used"
        for found in times
    )
    logger.info("Engine for %s on this processor: %s (%s)", package.id, chosen, told)
    try:
        write_json(
            remembered,
            {
                "engine": chosen,
                "milliseconds": {found.engine: 1000 * found.seconds for found in times if found.refused is None},
                "not_used": {found.engine: found.refused for found in times if found.refused is not None},
            },
        )
    except ArtSegError as error:
        logger.warning("The choice of the engine is not remembered, and is measured at every start: %s", error)
    return chosen


def time_engines(
    package: Package,
    engines: Sequence[str] = ("onnxruntime", "openvino", "openvino-bf16", "openvino-int8"),
    *,
    side: int | None = None,
    rounds: int = _ROUNDS,
    whatever_it_costs: bool = False,
) -> list[EngineTime]:
    """Time engines on the same noise, in turns, so that what else runs hits all of them.

    Parameters
    ----------
    package : Package
        The model.
    engines : sequence of str
        The first one is what the others' results are held against.
    side : int, optional
        Height and width of the image in pixels.
    rounds : int
        How often each is run after a first time.
    whatever_it_costs : bool
        Whether precisions are timed, too, that cost too much to be used.

    Returns
    -------
    list of EngineTime
        In the order given.
    """
    if side is None:
        side = _SIDE_PX * min(package.binning, 2)
    shape = package.fitting_shape((side, side))
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    given = package.network_input(noise)
    ready: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {}
    refused: dict[str, str] = {}
    reference: NDArray[np.float32] | None = None
    for engine in engines:
        try:
            run = open_engine(engine, package, whatever_it_costs=whatever_it_costs)
            found = run(given)
        except (ArtSegError, RuntimeError) as error:
            refused[engine] = str(error)
            continue
        if reference is None:
            reference = found
        fault = _differs(found, reference, rounded=engine.endswith(("bf16", "int8")))
        if fault is None:
            ready[engine] = run
        else:
            refused[engine] = fault
            logger.warning("%s is not used for %s: %s", engine, package.id, fault)
    seconds = dict.fromkeys(ready, float("inf"))
    for _ in range(rounds):
        for engine, run in ready.items():
            started = time.perf_counter()
            run(given)
            seconds[engine] = min(seconds[engine], time.perf_counter() - started)
    for precision in ("bf16", "int8"):
        costs = precision_refused(package, precision)
        if costs is not None and f"openvino-{precision}" in ready:
            refused[f"openvino-{precision}"] = costs
    return [EngineTime(engine, seconds.get(engine, float("inf")), refused.get(engine)) for engine in engines]


def fastest(times: Sequence[EngineTime]) -> str:
    """Choose among engines: the first, unless another one saves at least a tenth of its time.

    Raises
    ------
    ArtSegError
        None of them runs.
    """
    usable = [found for found in times if found.refused is None]
    if not usable:
        raise ArtSegError("; ".join(f"{found.engine}: {found.refused}" for found in times))
    best = min(usable, key=lambda found: found.seconds)
    return best.engine if best.seconds <= (1 - _WORTH) * usable[0].seconds else usable[0].engine


def _differs(found: NDArray[np.float32], reference: NDArray[np.float32], *, rounded: bool) -> str | None:
    """Say how an engine's result differs by more than rounding."""
    if found.shape != reference.shape:
        return f"its result has the shape {found.shape}, expected {reference.shape}"
    difference = np.abs(found.astype(np.float64) - reference)
    value, largest = (
        (float(difference.mean()), _LARGEST_MEAN_DIFFERENCE)
        if rounded
        else (float(difference.max(initial=0)), _LARGEST_DIFFERENCE)
    )
    # also where it is not a number
    return None if value <= largest else f"its result differs by {value:.2g}, at most {largest:g} is rounding"


def _this_computer() -> str:
    """Tell processors and libraries apart that may differ in speed, in 16 hexadecimal digits.

    Home folders, and so the cache, may be shared by several computers.
    """
    parts: Mapping[str, object] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        **{name: importlib.metadata.version(name) for name in ("onnxruntime", "openvino")},
    }
    return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()[:16]


def _processor() -> str:
    """Name the processor and what it can compute, where the system tells."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    lines = [line for line in told.splitlines() if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(sorted(set(lines)))
