"""What a run's clean training images look like, so that images of another kind can be told."""

from __future__ import annotations

import logging
from pathlib import Path

from artseg_models.errors import ArtSegError
from artseg_models.images import read_image
from artseg_models.labels import read_labels
from artseg_models.likeness import image_features, summarise_features

logger = logging.getLogger(__name__)

_MOST = 48
"""So many images show the spread; more would only cost time."""


def training_features(run: Path, *, plane: int | None) -> dict[str, tuple[float, float]]:
    """Summarise the features of clean training images, evenly taken; empty where the images are not at hand any more.

    Parameters
    ----------
    run : Path
        The run folder; its `splits.csv` names the images.
    plane : int or None
        Which plane of files with several.
    """
    table = run / "splits.csv"
    try:
        items = read_labels(table).of_split("train") if table.is_file() else ()
        items = [item for item in items if item.label == "clean"]
        step = max(1, len(items) // _MOST)
        return summarise_features([image_features(read_image(item.path, plane=plane).pixels) for item in items[::step]])
    except ArtSegError as error:
        logger.info("The packages do not say what the training images look like: %s", error)
        return {}
