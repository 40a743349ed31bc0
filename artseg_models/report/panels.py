"""Pictures of one field of view: brightfield, artifact mask, and the nuclei that each run reported."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from artseg_models.metrics import BoolArray, LabelMap
from artseg_models.report.comparison import FieldComparison, Run
from artseg_models.report.drawing import AMBER, SKY, WHITE, outline, show, stretch


@dataclass(frozen=True)
class FieldImages:
    """What a field looks like.

    Attributes
    ----------
    brightfield, dna : ndarray, (y, x)
        As stored.
    """

    brightfield: NDArray[Any]
    dna: NDArray[Any]


def field_figure(field: FieldComparison, images: FieldImages) -> Figure:
    """Draw a field in four panels: brightfield, with the mask, and the DNA with the nuclei of both runs."""
    figure = Figure(figsize=(15.2, 4.15), layout="constrained")
    first, second, third, fourth = figure.subplots(1, 4)
    show(first, stretch(images.brightfield), "Brightfield")
    draw_mask(second, field, images, title="Artifact mask")
    draw_nuclei(third, field, images, run="without", title="DNA, without masks")
    draw_nuclei(fourth, field, images, run="masked", title="DNA, with masks")
    return figure


def draw_mask(axes: Axes, field: FieldComparison, images: FieldImages, *, title: str) -> None:
    """Draw the brightfield with the found mask in blue and the true artifacts dashed in white."""
    show(axes, stretch(images.brightfield), title)
    if field.masked.mask is not None:
        outline(axes, field.masked.mask, color=SKY, width=2.0)
    outline(axes, field.truth.artifact, color=WHITE, width=1.2, dashed=True)


def draw_nuclei(axes: Axes, field: FieldComparison, images: FieldImages, *, run: Run, title: str) -> None:
    """Draw the DNA image with the outlines of the reported nuclei, and a cross on each false one."""
    measured = field.measured(run)
    color = SKY if run == "masked" else AMBER
    false = field.false_positions(run)
    show(axes, stretch(images.dna, low=1, high=99.6), f"{title}: {len(measured.areas)} nuclei, {len(false)} false")
    if measured.mask is not None:
        outline(axes, measured.mask, color=WHITE, width=1.2, dashed=True)
    outline(axes, _separated(measured.nuclei), color=color, width=1.1)
    axes.scatter(false[:, 1], false[:, 0], s=70, marker="X", facecolor=color, edgecolor="black", linewidth=0.9)


def _separated(labels: LabelMap) -> BoolArray:
    """Mask of all objects with a dark line between those that touch."""
    inside = labels > 0
    inside[:, 1:] &= (labels[:, 1:] == labels[:, :-1]) | (labels[:, :-1] == 0)
    inside[1:, :] &= (labels[1:, :] == labels[:-1, :]) | (labels[:-1, :] == 0)
    return inside
