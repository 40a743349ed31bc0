"""Write dist/models/artseg-simulated-*.zip: a model to try first, trained on simulated fields of view alone.

make model, or: python packaging/develop.py run python packaging/shipped_model.py [--out FOLDER]

It simulates labelled fields, trains on the labels, exports, and scores on the fields of the test split. Stop it at any
time; the same command goes on. The seed is fixed, so the same versions of the libraries train the same network.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NAME = "artseg-simulated"
SEED = 2022


class Recipe(NamedTuple):
    """How much is simulated, and what changes in the preset `best`."""

    fields: int
    side: int
    overrides: Mapping[str, Any]


#: a smaller classifier than that of `best`, so that the package is small to download
RECIPE = Recipe(fields=480, side=512, overrides={"classifier": {"depth": 10, "width": 16}})


def build(out: Path, work: Path, *, recipe: Recipe = RECIPE) -> Path:
    """Write the packages into `out`, what they were made from into `work`; give the map's package in format 0.5.10."""
    from artseg_models.evaluate import evaluate, write_evaluation
    from artseg_models.labels import read_labels
    from artseg_models.methods import train
    from artseg_models.packages.export import export_packages
    from artseg_models.packages.read import read_package
    from artseg_models.predict import Predictor
    from artseg_models.simulate import simulate_training_set

    # cards name the folder as the source of the labels
    images = work / f"{NAME}-fields"
    labels = images / "labels.csv"
    if not labels.exists():
        simulate_training_set(images, fields=recipe.fields, shape=(recipe.side, recipe.side), seed=SEED)
    run = train(labels, work / "run", preset="best", seed=SEED, overrides=recipe.overrides)
    package = export_packages(run, out, name=NAME).older_unet
    predictor = Predictor(read_package(package))
    scores = evaluate(predictor, read_labels(labels).of_split("test"))
    write_evaluation(scores, work / "evaluation")
    pixels = "no masks" if scores.pixels is None else f"pixel IoU {scores.pixels.iou:.2f}"
    print(f"{len(scores.scores)} simulated test fields: image F1 {scores.images.f1:.2f}, {pixels}")
    return package


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "models", help="default: dist/models")
    parser.add_argument("--work", type=Path, help="keep images and training here; by default a folder that is removed")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    started = time.monotonic()
    work = given.work or Path(tempfile.mkdtemp(prefix="artseg-simulated-"))
    try:
        package = build(given.out, work)
    finally:
        if given.work is None:
            shutil.rmtree(work, ignore_errors=True)
    size = package.stat().st_size / 1e6
    print(f"{package}: {size:.1f} MB, in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
