"""Counterfactual tests as a picture: how often each change was called right, and one image in all its changes."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from artseg_models.counterfactual import KINDS, Counterfactuals
from artseg_models.report.drawing import (
    AMBER,
    BLUE,
    INK,
    MUTED,
    ORANGE,
    WHITE,
    outline,
    plain,
    save_figure,
    show,
    stretch,
)

_COLUMNS = 4


def write_counterfactual_figure(found: Counterfactuals, path: Path) -> None:
    """Draw counterfactual tests as PNG, whole or not at all."""
    rows = -(-len(found.examples) // _COLUMNS)
    tall = max((example.image.shape[0] / example.image.shape[1] for example in found.examples), default=1.0)
    figure = Figure(figsize=(13, 4.4 + rows * (3.2 * tall + 0.45)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[4.4, rows * (3.2 * tall + 0.45)])
    axes = parts[0].subplots()
    plain(axes)
    for at, kind in enumerate(reversed(KINDS)):
        trials = found.of(kind)
        if not trials:
            continue
        right, iou = found.right(kind), found.iou(kind)
        axes.barh(at, right, height=0.62, color=BLUE if kind.expects == "artifact" else ORANGE)
        text = f"{sum(trial.right for trial in trials)} of {len(trials)}"
        text += "" if iou != iou else f"; IoU of pixels {iou:.2f}"
        axes.text(right + 0.01, at, text, va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(KINDS)), [kind.title for kind in reversed(KINDS)])
    axes.set(xlim=(0, 1.35), xlabel="share of images called right; blue: artifact is right, orange: clean is right")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_title("What the model says when one thing is changed", loc="left", color=INK)
    grid: Any = parts[1].subplots(rows, _COLUMNS, squeeze=False)
    for place in grid.flat:
        place.set_axis_off()
    for place, example in zip(grid.flat, found.examples, strict=False):
        show(place, stretch(example.image))
        outline(place, example.truth, color=WHITE)
        outline(place, example.found, color=AMBER, dashed=True)
        place.set_title(f"{example.kind.title}\ncalled {example.called}", fontsize=8.5, loc="left", color=INK)
    parts[1].supxlabel(
        f"White: the artifact (masks: {found.masks}). Orange dashes: what the model found. {found.audit.line()}",
        fontsize=6.5,
        color=MUTED,
    )
    save_figure(figure, path, audit={"Description": found.audit.line()})
