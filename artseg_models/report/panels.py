"""Pictures of one field of view: brightfield, artifact mask, and the nuclei that each run reported."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, Normal, Stroke
from numpy.typing import NDArray

from artseg_models.metrics import BoolArray, FloatArray
from artseg_models.report.comparison import FieldComparison
from artseg_models.report.drawing import AMBER, SKY, WHITE, outline, show, stretch


@dataclass(frozen=True)
class FieldImages:
    """What a field looks like.

    Attributes
    ----------
    brightfield, dna : ndarray, (y, x)
        As stored.
    mask : bool array, (y, x)
        The artifact mask that the masked run used.
    """

    brightfield: NDArray[Any]
    dna: NDArray[Any]
    mask: BoolArray


def field_figure(field: FieldComparison, images: FieldImages) -> Figure:
    """Draw a field in four panels: brightfield, with the mask, and the DNA with the nuclei of both runs."""
    figure = Figure(figsize=(15.2, 4.15), layout="constrained")
    first, second, third, fourth = figure.subplots(1, 4)
    brightfield = stretch(images.brightfield)
    show(first, brightfield, "Brightfield")
    draw_mask(second, field, images, title="Artifact mask")
    draw_nuclei(third, field, images, masked=False, title=_nuclei_title("Without masks", len(field.without.areas)))
    draw_nuclei(fourth, field, images, masked=True, title=_nuclei_title("With masks", len(field.masked.areas)))
    return figure


def draw_mask(axes: Axes, field: FieldComparison, images: FieldImages, *, title: str) -> None:
    """Draw the brightfield with the found mask in blue and the true artifacts dashed in white."""
    show(axes, stretch(images.brightfield), title)
    outline(axes, field.truth.artifact, color=WHITE, width=1.2, dashed=True)
    outline(axes, images.mask, color=SKY, width=2.0)


def draw_nuclei(axes: Axes, field: FieldComparison, images: FieldImages, *, masked: bool, title: str) -> None:
    """Draw the DNA image with a ring on each reported nucleus and a cross on each false one."""
    show(axes, stretch(images.dna, low=1, high=99.6), title)
    measured = field.masked if masked else field.without
    color = SKY if masked else AMBER
    if masked:
        outline(axes, images.mask, color=SKY, width=1.2, dashed=True)
    real = _lies_in_nucleus(measured.positions, field)
    rim: list[AbstractPathEffect] = [Stroke(linewidth=2.6, foreground="#000000AA"), Normal()]
    size = _marker_size(images.dna.shape[1])
    for chosen, marker, face in ((real, "o", "none"), (~real, "X", color)):
        points = axes.scatter(
            measured.positions[chosen, 1],
            measured.positions[chosen, 0],
            s=size if marker == "o" else size * 1.3,
            marker=marker,
            facecolor=face,
            edgecolor=color if marker == "o" else "black",
            linewidth=1.3 if marker == "o" else 0.8,
        )
        if marker == "o":
            points.set_path_effects(rim)


def _lies_in_nucleus(positions: FloatArray, field: FieldComparison) -> BoolArray:
    height, width = field.truth.nuclei.shape
    nearest = np.clip(np.rint(positions).astype(np.int64), 0, [height - 1, width - 1])
    return np.asarray(field.truth.nuclei[nearest[:, 0], nearest[:, 1]] > 0, dtype=np.bool_)


def _marker_size(width: int) -> float:
    """Size in points squared of a ring about ten pixels across, on a panel of about 3.7 inches."""
    return float(np.clip((10 / width * 3.7 * 72) ** 2, 16, 200))


def _nuclei_title(run: str, count: int) -> str:
    return f"{run}: {count} nuclei reported"
