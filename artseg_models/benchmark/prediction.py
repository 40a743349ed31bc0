"""Speed and memory of prediction: engines and bioimageio.core side by side, growth by area and number, file to mask."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from artseg_models.benchmark.peers import is_here, load
from artseg_models.engines import EngineTime, choose_engine, time_engines
from artseg_models.errors import ArtSegError
from artseg_models.memory import peak_mib
from artseg_models.packages.read import Package, read_package
from artseg_models.predict import Predictor
from artseg_models.segment import segment_images

ENGINES = ("torch", "onnxruntime", "openvino", "openvino-bf16", "openvino-int8")


@dataclass(frozen=True)
class Growth:
    """What an image of a certain size costs, in a process of its own.

    Attributes
    ----------
    side : int
        Height and width in pixels.
    seconds : float
        Of the faster of two predictions.
    peak_mib : float
        The largest resident memory of the process.
    tiles : int
        In how many pieces the image was predicted.
    """

    side: int
    seconds: float
    peak_mib: float
    tiles: int

    @property
    def megapixels_per_second(self) -> float:
        """Speed by area."""
        return self.side**2 / 1e6 / self.seconds


@dataclass(frozen=True)
class FromFileToMask:
    """How the way from image files to written masks compares with the network alone.

    Attributes
    ----------
    images : int
        How many.
    seconds : float
        For all of them, reading and writing included.
    network_seconds : float
        Gate and U-Net alone, on the same images.
    """

    images: int
    seconds: float
    network_seconds: float

    @property
    def share(self) -> float:
        """Throughput relative to the network's own."""
        return self.network_seconds / self.seconds


def compare_engines(model: Path, *, side: int = 1080, rounds: int = 3) -> tuple[str, list[EngineTime]]:
    """Time all engines on the processor, in turns; say also which one "auto" takes.

    Parameters
    ----------
    model : Path
        Package with ONNX and TorchScript weights.
    side : int
        Height and width of the image, in pixels.
    rounds : int
        How often each engine runs after a first time; the fastest counts.

    Returns
    -------
    str
        The engine that "auto" takes here.
    list of EngineTime
        PyTorch's eager fp32 first, which the ratios of the README refer to.
    """
    package = read_package(model)
    return choose_engine(package), time_engines(package, ENGINES, side=side, rounds=rounds, whatever_it_costs=True)


def measure_growth(model: Path, areas: Sequence[int] = (1, 4, 16), *, side: int = 1080) -> list[Growth]:
    """Predict images of so many times the area of a square of `side` pixels, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    found: list[Growth] = []
    for area in areas:
        root = int(np.sqrt(area))
        if root**2 != area:
            raise ArtSegError(f"Expected areas that are squares (1, 4, 16, 64), got {area}.")
        with context.Pool(1) as pool:
            found.append(pool.apply(_predict_one, (model, side * root)))
    return found


def _predict_one(model: Path, side: int) -> Growth:
    predictor = Predictor(read_package(model), device="cpu")
    seconds: list[float] = []
    tiles = 1
    pixels = _noise(side)
    for _ in range(2):
        started = time.perf_counter()
        tiles = predictor.predict(pixels, gate=False).tiles
        seconds.append(time.perf_counter() - started)
    return Growth(side, min(seconds), peak_mib(), tiles)


def measure_from_file_to_mask(model: Path, *, images: int = 10, side: int = 1080) -> FromFileToMask:
    """Segment image files (16-bit TIFF, compressed) and compare with the network alone on the same images."""
    package: Package = read_package(model)
    predictor = Predictor(package, device="cpu")
    with tempfile.TemporaryDirectory(prefix="artseg-benchmark-") as temporary:
        folder = Path(temporary)
        paths = [folder / f"{number:03d}.tif" for number in range(images)]
        for number, path in enumerate(paths):
            tifffile.imwrite(path, _noise(side, seed=number), compression="zlib")
        given: list[NDArray[Any]] = [tifffile.imread(path) for path in paths]
        predictor.predict(given[0])
        started = time.perf_counter()
        for pixels in given:
            predictor.predict(pixels)
        between = time.perf_counter()
        segment_images(predictor, paths, folder / "out")
        return FromFileToMask(images, time.perf_counter() - between, between - started)


@dataclass(frozen=True)
class Count:
    """What a number of image files costs, in a process of its own.

    Attributes
    ----------
    images : int
        How many.
    seconds_each : float
        From files to written masks, for one.
    peak_mib : float
        The largest resident memory of the process.
    """

    images: int
    seconds_each: float
    peak_mib: float


def measure_counts(model: Path, counts: Sequence[int] = (10, 100, 1000), *, side: int = 256) -> list[Count]:
    """Segment so many different image files (16-bit TIFF), each number in a process of its own."""
    context = multiprocessing.get_context("spawn")
    found: list[Count] = []
    for count in counts:
        with context.Pool(1) as pool:
            found.append(pool.apply(_segment_files, (model, count, side)))
    return found


def _segment_files(model: Path, count: int, side: int) -> Count:
    predictor = Predictor(read_package(model), device="cpu")
    with tempfile.TemporaryDirectory(prefix="artseg-benchmark-") as temporary:
        folder = Path(temporary)
        paths = [folder / f"{number:05d}.tif" for number in range(count)]
        for number, path in enumerate(paths):
            tifffile.imwrite(path, _noise(side, seed=number))
        started = time.perf_counter()
        segment_images(predictor, paths, folder / "out")
        return Count(count, (time.perf_counter() - started) / count, peak_mib())


@dataclass(frozen=True)
class BesideCore:
    """ArtSeg and bioimageio.core on the same package and image, whole images, without the gate.

    Attributes
    ----------
    engine : str
        What computes ArtSeg's.
    seconds, core_seconds : float
        The faster of several predictions each, in turns, from pixels to the probability.
    largest_difference : float
        Between both probabilities.
    """

    engine: str
    seconds: float
    core_seconds: float
    largest_difference: float


def compare_with_core(model: Path, *, side: int = 1080, rounds: int = 3) -> BesideCore:
    """Predict the same image by ArtSeg and by bioimageio.core with its ONNX Runtime, in turns.

    Parameters
    ----------
    model : Path
        Package of a U-Net with ONNX weights, whose output is the probability.
    side : int
        Height and width of the image, in pixels.
    rounds : int
        How often each predicts after a first time; the fastest counts.
    """
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.spec import load_model_description

    package = read_package(model)
    pixels = _noise(package.fitting_shape((side, side))[0])
    predictor = Predictor(package, device="cpu")
    description: Any = load_model_description(package.folder / "rdf.yaml")
    name = str(description.inputs[0].id)
    with create_prediction_pipeline(description, weight_format="onnx") as pipeline:

        def core() -> NDArray[np.float32]:
            given: Any = {name: pixels.astype(np.float32)[None, None]}
            sample = create_sample_for_model(description, inputs=given)
            done = pipeline.predict_sample_without_blocking(sample)
            return np.asarray(next(iter(done.members.values())).data.values, np.float32)[0, 0]

        difference = float(np.abs(core() - predictor.predict(pixels, gate=False).probability).max())
        seconds = {"ours": float("inf"), "core": float("inf")}
        for _ in range(rounds):
            started = time.perf_counter()
            predictor.predict(pixels, gate=False)
            between = time.perf_counter()
            core()
            seconds["ours"] = min(seconds["ours"], between - started)
            seconds["core"] = min(seconds["core"], time.perf_counter() - between)
    return BesideCore(choose_engine(package), seconds["ours"], seconds["core"], difference)


def measure_cellpose(*, side: int = 1080, rounds: int = 2) -> float | None:
    """Time cellpose's network (version 3, for cells of 30 pixels) on an image of noise, on the processor.

    It is the network that CellProfiler's RunCellpose runs, in its tiles, with random weights, which take as long as
    trained ones; without the masks, which cellpose makes of its output afterwards.

    Returns
    -------
    float or None
        Seconds an image, the fastest of `rounds`; None where cellpose is not installed.
    """
    if not is_here("cellpose"):
        return None
    model: Any = load("cellpose.models").CellposeModel(gpu=False, pretrained_model=False, diam_mean=30.0)
    image = _noise(side).astype(np.float32)
    seconds: list[float] = []
    for _ in range(rounds):
        started = time.perf_counter()
        model.eval(image, channels=[0, 0], diameter=30.0, compute_masks=False)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _noise(side: int, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(1000, 3000, (side, side), dtype=np.uint16)
