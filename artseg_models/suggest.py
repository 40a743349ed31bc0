"""Which images are worth a drawn mask: those on which a trained model is unsure, or differs from its own labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artseg_models.errors import ArtSegError
from artseg_models.files import write_text
from artseg_models.images import normalise, read_image, read_mask_image
from artseg_models.labels import LabelledImage, read_labels
from artseg_models.methods.runs import read_finished_run
from artseg_models.metrics import count_agreement
from artseg_models.progress import track
from artseg_models.training.fields import Array, binned


@dataclass(frozen=True)
class Suggestion:
    """An image whose mask would teach much.

    Attributes
    ----------
    item : LabelledImage
        The image.
    unsure : float
        Unsure against found pixels, 0..1: the sum of 1 - |2p - 1| over the map divided by itself plus the pixels found.
    differs : float
        How far what the model finds departs from the label that it learned, 0..1: 1 - intersection over union.
    """

    item: LabelledImage
    unsure: float
    differs: float

    @property
    def gain(self) -> float:
        """What orders images: the mean of both."""
        return (self.unsure + self.differs) / 2


def doubt(map_: Array, learned: NDArray[np.bool_], cutoff: float) -> tuple[float, float]:
    """Say how unsure a map (y, x) is, and how far it departs from the label learned; both 0..1."""
    found = map_ >= cutoff
    unsure = float((1 - np.abs(2 * map_ - 1)).sum())
    counts = count_agreement(learned, found)
    # nothing learned and nothing found: the artifact was missed by both, which a mask would mend
    iou = float(np.nan_to_num(counts.iou))
    return unsure / max(unsure + float(found.sum()), 1e-9), 1 - iou


def suggest(run: Path, *, number: int = 10, device: str = "auto") -> list[Suggestion]:
    """Order the artifact images that a run learned from by what a drawn mask of theirs would teach.

    Parameters
    ----------
    run : Path
        A finished run of scorecam-unet, whose images still lie where they were.
    number : int
        How many to name.
    device : {"auto", "cuda", "mps", "cpu"}
        Where the network runs.

    Returns
    -------
    list of Suggestion
        The most useful first, at most one of a group: near-duplicates teach the same. Images that have a mask already
        are left out.

    Raises
    ------
    ArtSegError
        The run is unfinished or of another method, images have moved, or all artifact images have masks.
    """
    trained = read_finished_run(run, device=device)
    items = read_labels(run / "splits.csv").of_split("train")
    folder = run / "pseudo_masks" / "train"
    if not folder.is_dir():
        raise ArtSegError(
            f"Expected a run of scorecam-unet at {run}, which keeps its pseudo-labels, but {folder} is not there."
        )
    wanted = [at for at, item in enumerate(items) if item.label == "artifact" and item.mask is None]
    if not wanted:
        raise ArtSegError(
            f"Expected artifact images without a mask in {run / 'splits.csv'}, but all have one. "
            "`artseg train --masks` takes them."
        )
    found: list[Suggestion] = []
    for at in track(wanted, "Looking at images", len(wanted)):
        item = items[at]
        pixels = read_image(item.path, plane=trained.settings.plane).pixels
        map_ = trained.method.predict(binned(normalise(pixels), trained.binning)).map
        files = sorted(folder.glob(f"{at:06d}_*.png"))
        learned = read_mask_image(files[0]) > 0 if files else np.zeros(map_.shape, np.bool_)
        found.append(Suggestion(item, *doubt(map_, learned, float(trained.result["cutoff"]))))
    return one_of_a_group(sorted(found, key=lambda one: -one.gain))[:number]


def one_of_a_group(ordered: Sequence[Suggestion]) -> list[Suggestion]:
    """Keep the first image of every group; an image without a group stands for itself."""
    seen: set[str] = set()
    kept: list[Suggestion] = []
    for one in ordered:
        group = one.item.group or str(one.item.path)
        if group not in seen:
            seen.add(group)
            kept.append(one)
    return kept


def write_suggestions(found: Sequence[Suggestion], path: Path) -> None:
    """Write the order as CSV: image, group, gain, unsure, differs."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "group", "gain", "unsure", "differs"])
    for one in found:
        values = [f"{value:.4f}" for value in (one.gain, one.unsure, one.differs)]
        writer.writerow([one.item.path.resolve(), one.item.group, *values])
    write_text(path, text.getvalue())
