"""How long a whole training takes on this computer, stage by stage, on simulated fields."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from artseg_models.files import read_json
from artseg_models.memory import peak_mib
from artseg_models.methods.runs import train
from artseg_models.simulate.datasets import simulate_training_set
from artseg_models.training.configuration import parse_overrides

#: networks of a ScoreCAM-U-Net, by their folders in a run
_NETWORKS = ("first_classifier", "classifier", "unet")


@dataclass(frozen=True)
class TrainingBenchmark:
    """Where the time of a training went.

    Attributes
    ----------
    images : int
        Simulated fields, of which some are kept for validation and test.
    side : int
        Their height and width in pixels.
    seconds : float
        From labels to the finished run.
    network_seconds : mapping of str to float
        Of the epochs of each network that was trained; the rest is reading, ScoreCAM and predicting validation images.
    waiting : mapping of str to float
        Share of a network's time in which it waited for its next batch, 0..1.
    peak_mib : float
        The largest resident memory of this process.
    validation : mapping
        What the run says of its validation images.
    """

    images: int
    side: int
    seconds: float
    network_seconds: dict[str, float]
    waiting: dict[str, float]
    peak_mib: float
    validation: dict[str, float]


def benchmark_training(
    *, images: int = 500, side: int = 1080, preset: str = "quick", changes: tuple[str, ...] = ()
) -> TrainingBenchmark:
    """Simulate fields and train on them.

    Parameters
    ----------
    images : int
        How many fields.
    side : int
        Height and width of a field in pixels.
    preset : {"quick", "best", "paper"}
        As of `artseg train`.
    changes : tuple of str
        Settings that are changed, as NAME=VALUE.
    """
    with tempfile.TemporaryDirectory(prefix="artseg-benchmark-") as temporary:
        folder = Path(temporary)
        labels = simulate_training_set(folder / "fields", fields=images, shape=(side, side))
        started = time.perf_counter()
        run = train(labels, folder / "run", preset=preset, overrides=parse_overrides(changes))
        seconds = time.perf_counter() - started
        spent = {
            name: read_json(run / name / "time.json") for name in _NETWORKS if (run / name / "time.json").is_file()
        }
        return TrainingBenchmark(
            images=images,
            side=side,
            seconds=seconds,
            network_seconds={name: float(one["seconds"]) for name, one in spent.items()},
            waiting={name: float(one["waiting"]) / max(1e-9, float(one["seconds"])) for name, one in spent.items()},
            peak_mib=peak_mib(),
            validation=dict(read_json(run / "result.json")["validation"]),
        )
