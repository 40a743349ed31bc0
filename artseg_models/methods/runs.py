"""A run is a folder: frozen settings, each stage's output, the result. A killed run goes on where it was."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artseg_models import __version__
from artseg_models.errors import ArtSegError
from artseg_models.files import read_json, write_json
from artseg_models.images import read_image
from artseg_models.labels import LabelSet, read_labels, require_both_classes, with_splits, write_labels
from artseg_models.methods import scorecam_unet
from artseg_models.training.configuration import QUICK_SIDE, configure

logger = logging.getLogger(__name__)


def train(
    labels: Path,
    run: Path,
    *,
    preset: str = "quick",
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Train on image-level labels into a run folder, or finish a run that was killed.

    Parameters
    ----------
    labels : Path
        ``labels.csv``, a folder with ``clean/`` and ``artifact/``, or one in the layout of ArtSeg-CHO-M4R.
    run : Path
        The run folder. An unfinished run of the same settings and labels goes on; of others, it is refused.
    preset : {"quick", "paper"}
        See `artseg_models.training.configuration.configure`.
    seed : int
        Seed of every random choice, the split included where the labels have none.
    overrides : mapping, optional
        Changes of single settings.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    ArtSegError
        Labels or images cannot be used, or the folder holds another run.
    """
    configuration = configure(preset, seed=seed, overrides=overrides)
    labelled = with_splits(read_labels(labels), seed=seed)
    for split in ("train", "validation"):
        require_both_classes(labelled, split=split)
    binning = configuration.binning
    if binning is None:
        binning = max(
            1, round(max(read_image(labelled.images[0].path, plane=configuration.plane).pixels.shape) / QUICK_SIDE)
        )
    frozen = {
        "artseg": __version__,
        "method": "scorecam-unet",
        "labels": {"source": labelled.source.name, "sha256": _fingerprint(labelled)},
        "resolved_binning": binning,
        **configuration.model_dump(mode="json"),
    }
    written = run / "configuration.json"
    if written.exists():
        _require_same_run(read_json(written), frozen, run)
    elif run.exists() and any(run.iterdir()):
        raise ArtSegError(
            f"Expected a new or empty folder, or one of an ArtSeg run, but {run} holds other files. "
            "Choose another folder."
        )
    else:
        write_json(written, frozen)
        write_labels(run / "splits.csv", labelled.images)
    if (run / "result.json").exists():
        logger.info("%s is finished already", run)
        return run
    scorecam_unet.fit(labelled, run, configuration, binning=binning)
    return run


def _fingerprint(labels: LabelSet) -> str:
    """SHA-256 over file names, labels and splits, so that a run is not resumed on other labels."""
    rows = [f"{item.path.name}\t{item.label}\t{item.split}\t{item.group}" for item in labels.images]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _require_same_run(there: Mapping[str, Any], wanted: Mapping[str, Any], run: Path) -> None:
    differing = [key for key in wanted if key not in ("artseg", "device") and there.get(key) != wanted[key]]
    if differing:
        raise ArtSegError(
            f"Expected the run in {run} to have the same settings and labels, but {', '.join(differing)} differ. "
            "Choose another folder for a new run, or repeat the options of the first one to finish it."
        )
