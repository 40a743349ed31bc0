"""How well a network finds nuclei or cell bodies in brightfield, beside artifacts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artseg_models.images import read_image
from artseg_models.impact.nuclei import OUTSIDE, NucleiScore, score_nuclei
from artseg_models.labels import read_labels, read_mask
from artseg_models.metrics import mean_defined
from artseg_models.packages.read import read_package
from artseg_models.predict import Predictor
from artseg_models.progress import track
from artseg_models.training.structures import read_label_map


@dataclass(frozen=True)
class StructureScore:
    """Scores beside artifacts, averaged over images.

    Attributes
    ----------
    images : int
        How many were scored.
    pixel_f1, object_f1 : float
        0 to 1; objects overlap by half of their union or more.
    """

    images: int
    pixel_f1: float
    object_f1: float


def score_structure(package: Path, labels: Path, label_maps: Path) -> StructureScore:
    """Score a package of nuclei or cells on the test split.

    Parameters
    ----------
    package : Path
        Of `artseg_models.packages.structures.export_structure`.
    labels : Path
        labels.csv with a test split and the artifacts' masks.
    label_maps : Path
        Folder with the true label map of each image, under its name.

    Raises
    ------
    ArtSegError
        Something is missing.
    """
    items = read_labels(labels).of_split("test")
    predictor = Predictor(read_package(package), device="cpu")
    scores: list[NucleiScore] = []
    for item in track(items, f"Scoring {predictor.target}", len(items)):
        pixels = read_image(item.path).pixels
        shape = (pixels.shape[0], pixels.shape[1])
        truth = read_label_map(label_maps, item.path, shape)
        mask = np.zeros(shape, np.bool_) if item.mask is None else read_mask(item, shape=shape)
        scores += score_nuclei(item.path.stem, truth, predictor.predict(pixels).labels, mask, {})
    beside = [one for one in scores if one.area == OUTSIDE]
    return StructureScore(
        images=len(items),
        pixel_f1=mean_defined(one.pixel_f1 for one in beside),
        object_f1=mean_defined(one.object_f1 for one in beside),
    )
