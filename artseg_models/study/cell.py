"""One cell of a study: a method trained on a data set with a seed, and its maps of validation and test images.

Runs in a process of its own (``python -m artseg_models.study.cell JOB.json``), so that a time slice can end it in the
middle: training goes on from its last checkpoint, and the next slice repeats at most an epoch.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artseg_models.errors import ArtSegError
from artseg_models.files import read_json, whole_file, write_json
from artseg_models.images import read_image
from artseg_models.labels import LabelledImage, read_labels
from artseg_models.memory import peak_mib
from artseg_models.methods import train
from artseg_models.methods.predictor import open_model
from artseg_models.progress import track

_MAPPED = ("validation", "test")


@dataclass(frozen=True)
class Job:
    """What a cell is to do.

    Attributes
    ----------
    folder : str
        Of the cell: gets ``run/`` (the training), ``validation.npz``, ``test.npz`` and ``cost.json``.
    labels : str
        labels.csv of the prepared data set.
    method, preset, seed, settings
        As for `artseg_models.methods.train`.
    run : str or None
        Another cell's run to take instead of training.
    classifier_of : str or None
        Another cell's run whose classifier learned from the same images with the same settings and seed: it is taken
        over, since training would give the same weights again.
    device : str
        "cpu", "cuda" or "mps".
    """

    folder: str
    labels: str
    method: str
    preset: str
    seed: int
    settings: Mapping[str, Any]
    run: str | None
    classifier_of: str | None
    device: str

    def write(self, path: Path) -> None:
        """Write it for the process that does it."""
        write_json(path, asdict(self))


@dataclass(frozen=True)
class Maps:
    """What a trained method says of the images of one split.

    Attributes
    ----------
    items : tuple of LabelledImage
        The images, as in the prepared labels.
    maps : tuple of ndarray
        (y, x) float16, 0..1: 16 bit, the steps in which curves are counted.
    image_probability : ndarray or None
        (images,) probability of artifact; None for a method without a classifier.
    gate_threshold : float or None
        Image probability from which the gate opens, chosen on validation by the training.
    model_sha256 : str
        Over weights and settings of the run that gave the maps; empty where a study before artseg 0.1 mapped.
    """

    items: tuple[LabelledImage, ...]
    maps: tuple[NDArray[np.float16], ...]
    image_probability: NDArray[np.float64] | None
    gate_threshold: float | None
    model_sha256: str

    @property
    def gate_open(self) -> NDArray[np.bool_]:
        """(images,) bool: False where the classifier called the image clean; all True without one."""
        if self.image_probability is None or self.gate_threshold is None:
            return np.ones(len(self.items), np.bool_)
        return self.image_probability >= self.gate_threshold


def do(job: Job) -> None:
    """Train, or go on, and map the images of both splits; what is done already is skipped."""
    folder = Path(job.folder)
    run = Path(job.run) if job.run else folder / "run"
    if not job.run:
        train(
            Path(job.labels),
            run,
            method=job.method,
            preset=job.preset,
            seed=job.seed,
            overrides={**job.settings, "binning": 1, "device": job.device},
            known={"classifier": Path(job.classifier_of) / "classifier"} if job.classifier_of else None,
        )
    trained = time.perf_counter()
    predictor = open_model(run, device=job.device)
    labels = read_labels(Path(job.labels))
    images = 0
    for split in _MAPPED:
        items = labels.of_split(split)
        file = folder / f"{split}.npz"
        if file.exists() or not items:
            continue
        maps: dict[str, NDArray[Any]] = {}
        probabilities: list[float] = []
        for at, item in enumerate(track(items, f"{job.method}: {split} images", len(items))):
            found = predictor.predict(
                read_image(item.path).pixels, cutoff=0, smallest_artifact_px=0, gate=False, source=str(item.path)
            )
            maps[f"map{at:06d}"] = found.probability.astype(np.float16)
            probabilities.append(np.nan if found.image_probability is None else found.image_probability)
            images += 1
        gate = predictor.model.gate_threshold
        maps["image_probability"] = np.array(probabilities)
        maps["gate_threshold"] = np.array(np.nan if gate is None else gate)
        maps["model_sha256"] = np.array(predictor.model.sha256)
        with whole_file(file) as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **maps)
    predicted = time.perf_counter() - trained
    write_json(
        folder / "cost.json",
        {
            "training_seconds": _seconds_of(run) if job.run is None else None,
            "seconds_per_image": round(predicted / images, 4) if images else None,
            "peak_memory_mb": _peak_memory_mb(),
            "device": job.device,
            "classifier_taken_over": job.classifier_of is not None,
        },
    )


def read_maps(folder: Path, labels: Path, split: str) -> Maps:
    """Read what a cell wrote.

    Raises
    ------
    ArtSegError
        The cell was mapped on other images than the labels now name.
    """
    items: Sequence[LabelledImage] = [item for item in read_labels(labels).images if item.split == split]
    with np.load(folder / f"{split}.npz", allow_pickle=False) as stored:
        names = sorted(name for name in stored.files if name.startswith("map"))
        if len(names) != len(items):
            raise ArtSegError(
                f"Expected maps of {len(items)} {split} images in {folder}, but it has {len(names)}. Remove that "
                "folder; the study makes it again."
            )
        probability, gate = stored["image_probability"], float(stored["gate_threshold"])
        return Maps(
            items=tuple(items),
            maps=tuple(stored[name] for name in names),
            image_probability=None if np.isnan(probability).any() else probability,
            gate_threshold=None if np.isnan(gate) else gate,
            model_sha256=str(stored["model_sha256"]) if "model_sha256" in stored.files else "",
        )


def _seconds_of(run: Path) -> float | None:
    """Seconds of all sessions of a training, as its run counted them."""
    file = run / "cost.json"
    return float(read_json(file)["seconds"]) if file.exists() else None


def _peak_memory_mb() -> int | None:
    """Most memory that this process has held; None on Windows, which does not tell without another library."""
    return None if sys.platform == "win32" else round(peak_mib())


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str]) -> None:
    """Do the job of a file; end cleanly when the time slice is over."""
    signal.signal(signal.SIGTERM, _stop)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        do(Job(**read_json(Path(arguments[0]))))
    except ArtSegError as error:
        logging.getLogger(__name__).error("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
