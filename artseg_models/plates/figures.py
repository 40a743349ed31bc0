"""The figures of a plate's page."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from artseg_models.images import read_image, read_mask_image
from artseg_models.metrics import mean_defined
from artseg_models.plates.effects import WellEffect
from artseg_models.plates.tables import COUNT, Field
from artseg_models.report.drawing import BLUE, INK, MUTED, ORANGE, plain
from artseg_models.segment import outlined

_THUMBNAIL_PX = 460
_MOST_MEASURES = 6
_LONGEST_MARK = 14
"""Longer names would run over the panel beside."""


def thumbnail(field: Field) -> str | None:
    """Draw a field with its artifacts outlined as a `data:` address; None where its image is not there any more."""
    if field.image is None:
        return None
    pixels: NDArray[Any] = read_image(field.image).pixels
    mask = np.zeros(pixels.shape, dtype=np.bool_)
    if field.mask is not None:
        read = read_mask_image(field.mask) > 0
        mask = read if read.shape == pixels.shape else mask
    # first smaller, then outlined: a line of one pixel would vanish
    scale = max(1, math.ceil(max(pixels.shape) / (2 * _THUMBNAIL_PX)))
    picture = Image.fromarray(outlined(pixels[::scale, ::scale], mask[::scale, ::scale]))
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def drift_figure(fields: Sequence[Field]) -> Figure:
    """Draw the contaminated share over time, or in the order of the table, and by rows and columns of the plate."""
    times = [one.taken for one in fields if one.taken is not None]
    timed = len(times) == len(fields) and len(set(times)) > 1
    if timed:
        fields = sorted(fields, key=lambda one: one.taken or times[0])
    figure = Figure(figsize=(12, 3.3), layout="constrained")
    by_order, by_row, by_column = figure.subplots(1, 3, width_ratios=(2.2, 1, 1.4))
    shares = np.array([100 * one.contaminated for one in fields])
    order = np.arange(1, len(fields) + 1, dtype=np.float64)
    if timed:
        first = min(times)
        order = np.array([((one.taken or first) - first).total_seconds() / 60 for one in fields])
    plain(by_order)
    by_order.scatter(order, shares, s=14, color=ORANGE, alpha=0.65, linewidth=0)
    width = max(3, len(fields) // 12)
    if len(fields) >= 2 * width:
        middle = [np.nanmedian(shares[max(0, at - width // 2) : at + width // 2 + 1]) for at in range(len(fields))]
        by_order.plot(order, middle, color=INK, linewidth=1.6, label=f"median of {width} fields")
        by_order.legend(frameon=False, fontsize=8)
    by_order.set_xlabel(
        "minutes since the first field was taken" if timed else "field, in the order of the table",
        fontsize=9,
        color=MUTED,
    )
    by_order.set_ylabel("area under artifacts, %", fontsize=9, color=MUTED)
    for axes, name, part in ((by_row, "row", slice(0, -2)), (by_column, "column", slice(-2, None))):
        plain(axes)
        groups: dict[str, list[float]] = {}
        for one in fields:
            if one.well:
                groups.setdefault(one.well[part], []).append(100 * one.contaminated)
        names = sorted(groups)
        axes.set_ylim(0, 100 * max([0.01, *(one.contaminated for one in fields if not math.isnan(one.contaminated))]))
        axes.bar(names, [mean_defined(groups[one]) for one in names], color=ORANGE, alpha=0.8)
        axes.set_xlabel(f"{name} of the plate, mean", fontsize=9, color=MUTED)
        axes.tick_params(axis="x", labelsize=7 if len(names) > 12 else 8)
    return figure


def changes_figure(effects: Sequence[WellEffect], measures: Sequence[str]) -> Figure:
    """Draw each measure of the wells without against with artifacts removed; wells off the diagonal changed."""
    shown = measures[:_MOST_MEASURES]
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(12, 3.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for at, measure in enumerate(shown):
        axes: Axes = panels[at // columns, at % columns]
        plain(axes)
        pairs = [(one, one.without.get(measure, math.nan), one.masked.get(measure, math.nan)) for one in effects]
        known = [pair for pair in pairs if not (math.isnan(pair[1]) or math.isnan(pair[2]))]
        if known:
            low = min(min(before, after) for _, before, after in known)
            high = max(max(before, after) for _, before, after in known)
            room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
            ends = (low - room, high + room)
            axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            shade = [min(1.0, one.contaminated / 0.25) for one, _, _ in known]
            axes.scatter(
                [before for _, before, _ in known],
                [after for _, _, after in known],
                c=shade,
                cmap="Oranges",
                vmin=-0.35,
                vmax=1,
                s=26,
                edgecolor=INK,
                linewidth=0.4,
            )
            far = sorted(known, key=lambda pair: -abs(pair[2] - pair[1]))[:3] if len(known) > 1 else []
            for one, before, after in far:
                if before != after and len(one.shown) <= _LONGEST_MARK:
                    axes.annotate(
                        one.shown, (before, after), xytext=(5, 4), textcoords="offset points", fontsize=8, color=INK
                    )
            axes.set_xlim(*ends)
            axes.set_ylim(*ends)
        axes.set_title(measure_name(measure), loc="left", fontsize=10.5, color=INK)
        axes.set_xlabel("without removal", fontsize=9, color=ORANGE)
        axes.set_ylabel("artifacts removed", fontsize=9, color=BLUE)
    for at in range(len(shown), rows * columns):
        panels[at // columns, at % columns].set_axis_off()
    return figure


def measure_name(measure: str) -> str:
    """Say in words what a column of CellProfiler measures."""
    if measure == COUNT:
        return "objects per whole field"
    if measure == "AreaShape_Area":
        return "mean size in px"
    return f"mean intensity of {measure.removeprefix('Intensity_MeanIntensity_')}"
