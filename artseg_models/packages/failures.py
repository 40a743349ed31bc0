"""Where a model fails on its run's validation images: what a card has to show."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from artseg_models.errors import ArtSegError
from artseg_models.images import normalise, read_image
from artseg_models.labels import Label, LabelledImage, read_labels
from artseg_models.packages.run import TrainedMap, TrainedRun
from artseg_models.predict import artifact_objects
from artseg_models.progress import track

logger = logging.getLogger(__name__)

_SHOWN_OF_EACH = 2
_OUTLINES = "That an image is called right does not mean that all of an artifact is marked: see how much of each is."
_LOOKED_AT = 24
#: binned pixels looked at in all: a minute or two of a large network on a processor
_LOOKED_AT_PX = 40_000_000


@dataclass(frozen=True)
class Case:
    """One image that a model gets wrong, or nearly.

    Attributes
    ----------
    label : {'clean', 'artifact'}
        What a person called the image.
    wrong : bool
        Whether the model contradicts it.
    severity : float
        To sort cases of a label by; larger is worse.
    pixels : ndarray
        (y, x), as stored.
    mask : ndarray
        (y, x) bool, what the model marks.
    says : str
        What happened, in words.
    """

    label: Label
    wrong: bool
    severity: float
    pixels: NDArray[Any]
    mask: NDArray[np.bool_]
    says: str


@dataclass(frozen=True)
class Failures:
    """What was found.

    Attributes
    ----------
    cases : tuple of Case
        Clean images first, the worst first.
    looked_at : int
        How many validation images were predicted.
    of : int
        How many there are.
    contradicted : mapping of label to int
        How many of those that were looked at the model calls wrong.
    bf16_iou_cost : float or None
        1 - IoU of the masks in bf16 and in fp32, over all images that were looked at; None where neither marks a pixel.
        That is a metric (Jaccard), so whatever the true masks are, bf16 lowers the IoU with them by at most this.
    """

    cases: tuple[Case, ...]
    looked_at: int
    of: int
    contradicted: Mapping[Label, int]
    bf16_iou_cost: float | None

    def wrong(self, label: Label) -> int:
        """Of the images with this label that were looked at, how many the model calls wrong."""
        return self.contradicted[label]


def find_failures(trained: TrainedRun | TrainedMap) -> Failures:
    """Predict validation images of a run and keep the worst of each label.

    Only labels of whole images are used. Images that are no longer where they were are left out.

    Parameters
    ----------
    trained : TrainedRun or TrainedMap
        The run; its `splits.csv` names the images.
    """
    table = trained.folder / "splits.csv"
    try:
        items = read_labels(table).of_split("validation") if table.is_file() else ()
    except ArtSegError as error:
        logger.info("The card shows no failures: %s", error)
        items = ()
    chosen = spread(items, _number(trained, len(items)))
    worst: dict[Label, list[Case]] = {"clean": [], "artifact": []}
    contradicted: dict[Label, int] = {"clean": 0, "artifact": 0}
    looked_at = common = either = 0
    for item in track(chosen, "Looking for failures to show on the cards", len(chosen)):
        try:
            pixels = read_image(item.path, plane=trained.settings.get("plane")).pixels
        except ArtSegError as error:
            logger.info("Not looked at: %s", error)
            continue
        looked_at += 1
        kept = worst[item.label]
        case, in_bf16 = _case(trained, item, pixels)
        common += int(np.count_nonzero(case.mask & in_bf16))
        either += int(np.count_nonzero(case.mask | in_bf16))
        contradicted[item.label] += case.wrong
        kept.append(case)
        kept.sort(key=lambda case: (not case.wrong, -case.severity))
        del kept[_SHOWN_OF_EACH:]
    cost = 1 - common / either if either else None
    return Failures((*worst["clean"], *worst["artifact"]), looked_at, len(items), contradicted, cost)


def _number(trained: TrainedRun | TrainedMap, there: int) -> int:
    binned = trained.sample.size / trained.binning**2
    return min(there, _LOOKED_AT, max(2 * _SHOWN_OF_EACH, int(_LOOKED_AT_PX / binned)))


def spread(items: Sequence[LabelledImage], number: int) -> list[LabelledImage]:
    """Take images evenly, half of each label as far as there are so many.

    Parameters
    ----------
    items : sequence of LabelledImage
        All there are.
    number : int
        How many are wanted.
    """
    chosen: list[LabelledImage] = []
    for label in ("clean", "artifact"):
        of_label = [item for item in items if item.label == label]
        places = min(len(of_label), -(-number // 2))
        chosen += [of_label[round(place * (len(of_label) - 1) / max(places - 1, 1))] for place in range(places)]
    return chosen


def _case(
    trained: TrainedRun | TrainedMap, item: LabelledImage, pixels: NDArray[Any]
) -> tuple[Case, NDArray[np.bool_]]:
    """Predict one image; also give the mask (y, x) of the map's network in bf16, with the gate of fp32."""
    result = trained.result
    given = torch.as_tensor(normalise(pixels)[None, None])
    with torch.inference_mode():
        image_probability = None if trained.classifier is None else float(trained.classifier(given)[0, 1])
        probability = trained.map_network(given)[0, 0].numpy()
        with torch.autocast("cpu", torch.bfloat16):
            rounded = trained.map_network(given)[0, 0].float().numpy()
    gate_open = result.gate_threshold is None or image_probability is None or image_probability >= result.gate_threshold
    mask, in_bf16 = (
        gate_open
        & (artifact_objects(found, cutoff=result.cutoff, smallest_artifact_px=result.smallest_artifact_px) > 0)
        for found in (probability, rounded)
    )
    area, peak = float(mask.mean()), float(probability.max())
    if item.label == "clean":
        wrong = bool(mask.any())
        said = f"{100 * area:.2f} % of it is marked" if wrong else "nothing is marked"
        severity = area if wrong else peak if image_probability is None else image_probability
    else:
        wrong = not mask.any()
        said = f"{100 * area:.2f} % of it is marked"
        if wrong:
            said = "nothing is marked, the gate calls it clean" if not gate_open else "nothing is marked"
        severity = 1 - peak if wrong else -area
    of_image = "" if image_probability is None else f"probability of the image {image_probability:.2f}, of "
    pixel = f"{of_image}its likeliest pixel {peak:.2f}" if of_image else f"its highest value {peak:.2f}"
    says = f"labelled {item.label}: {said} ({pixel})"
    return Case(item.label, wrong, severity, pixels, mask, says), in_bf16


def failures_text(failures: Failures, picture: str) -> str:
    """Write what the picture shows, in Markdown.

    Parameters
    ----------
    failures : Failures
        What was found.
    picture : str
        Name of the picture in the package.
    """
    if not failures.cases:
        return (
            "The validation images were not at hand when this package was written, so no picture of a failure is here; "
            "`artseg evaluate` on your own labels writes a sheet that begins with the worst."
        )
    wrong = sum(failures.contradicted.values())
    seen = f"{failures.looked_at} of the {failures.of} validation images were looked at when this package was written"
    lead = (
        f"{seen}; it calls {failures.wrong('clean')} clean and {failures.wrong('artifact')} artifact images wrong. "
        f"Shown are the worst, at most {_SHOWN_OF_EACH} of each label; above the image, below what is marked."
        if wrong
        else f"{seen}, and it calls none of them wrong. Shown are the closest; above the image, below what is marked."
    )
    lines = [f"{number}. {case.says}." for number, case in enumerate(failures.cases, start=1)]
    return "\n".join(
        [lead, "", f"![Images numbered from 1, and what is marked in them]({picture})", "", *lines, "", _OUTLINES]
    )
