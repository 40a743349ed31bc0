"""Whether pseudo-labels are drawn to edges, told by how far views of the same image agree on them.

Turned or mirrored, an image holds the same artifacts. Where edges in the image are those of artifacts, labels drawn to
them come out alike from evidence that differs a little from view to view; where they are those of cells, they do not,
and the evidence itself agrees better. Neither masks nor a training are needed to see which.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from artseg_models.files import read_json, write_json
from artseg_models.networks.resnet import ResNet
from artseg_models.positions import look
from artseg_models.progress import track
from artseg_models.scorecam import scaled
from artseg_models.training.configuration import RefinementSettings, ScoreCAMSettings
from artseg_models.training.evidence import drawn_label
from artseg_models.training.fields import Split, as_batch

logger = logging.getLogger(__name__)

Edges = Literal["contrast", "evidence"]
_WAYS: tuple[Edges, ...] = ("contrast", "evidence")

_CLEARLY = 1.1
"""Views agree more easily on what is coarse: evidence is taken where they agree so many times better on it."""


def edges_by_agreement(
    network: ResNet,
    split: Split,
    file: Path,
    *,
    settings: ScoreCAMSettings,
    refinement: RefinementSettings,
    levels: Tensor | None,
    device: str,
) -> Edges:
    """Choose how pseudo-labels are drawn, or take the choice of an earlier call.

    Parameters
    ----------
    network : ResNet
        The trained classifier, in which few positions answer.
    split : Split
        Images that it did not learn; those with an artifact are used.
    file : Path
        Keeps the choice, and the agreement of both ways (.json): intersection over union, pooled over views and images,
        of the label made from a view alone and the one made from the mean of all views.
    settings : ScoreCAMSettings
        Cutoff of labels that stay evidence.
    refinement : RefinementSettings
        How labels are drawn to edges.
    levels : Tensor, optional
        (1,) from `artseg_models.training.evidence.levels_of_clean`: log-odds that count as none.
    device : str
        Where the network is.
    """
    if file.exists():
        return read_json(file)["edges"]
    common = dict.fromkeys(_WAYS, 0)
    marked = dict.fromkeys(_WAYS, 0)
    shown = [int(index) for index in np.flatnonzero(split.artifact)]
    for index in track(shown, "Comparing views of artifact images", len(shown)):
        image = split.images[index]
        views = look(network, as_batch(image, device), level=levels, turned=True, attributed=settings.attributed)
        maps = [scaled(one.evidence) for one in (views, *(views.view(number) for number in range(len(views.odds))))]
        for edges in _WAYS:
            drawn = refinement.model_copy(update={"edges": edges})
            of_mean, *alone = (drawn_label(image, one, settings, drawn) for one in maps)
            common[edges] += sum(int(np.count_nonzero(one & of_mean)) for one in alone)
            marked[edges] += sum(int(np.count_nonzero(one | of_mean)) for one in alone)
    agreement = {edges: common[edges] / max(1, marked[edges]) for edges in _WAYS}
    chosen: Edges = "evidence" if agreement["evidence"] > _CLEARLY * agreement["contrast"] else "contrast"
    logger.info(
        "Pseudo-labels are drawn by %s: views agree with an IoU of %.3f by contrast, %.3f by evidence",
        chosen,
        agreement["contrast"],
        agreement["evidence"],
    )
    write_json(file, {"edges": chosen, "agreement": agreement})
    return chosen
