"""Plots of a comparison: truth against measurement, and the response to the dose."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from artseg_models.report.comparison import MEASURES, SIGNAL, Comparison, Measure, Row, Run, mean_error
from artseg_models.report.drawing import BLUE, INK, MUTED, ORANGE, plain

RUNS: tuple[tuple[Run, str, str], ...] = (
    ("without", "Without artifact masks", ORANGE),
    ("masked", "With artifact masks", BLUE),
)


def truth_plot(comparison: Comparison) -> Figure:
    """Draw truth against measurement: a column a measurement, a row a run, a point a field.

    Both panels of a column share their axes; points on the dashed line are right.
    """
    figure = Figure(figsize=(11.5, 7.4), layout="constrained")
    grid = figure.subplots(2, len(MEASURES), squeeze=False)
    for column, measure in enumerate(MEASURES):
        low, high = _limits(comparison.rows, measure)
        for row, (run, name, color) in enumerate(RUNS):
            axes: Axes = grid[row, column]
            axes.plot([low, high], [low, high], color=MUTED, linewidth=1, dashes=(5, 3), zorder=1)
            for has_artifact, face, edge in ((False, "white", color), (True, color, "white")):
                chosen = [field for field in comparison.rows if field.has_artifact == has_artifact]
                axes.scatter(
                    [measure.of(field.truth) for field in chosen],
                    [measure.of(field.of(run)) for field in chosen],
                    s=46,
                    facecolor=face,
                    edgecolor=edge,
                    linewidth=1.3 if not has_artifact else 0.8,
                    zorder=2,
                    label="field with artifacts" if has_artifact else "clean field",
                    marker="o",
                )
            axes.set_xlim(low, high)
            axes.set_ylim(low, high)
            axes.set_title(f"{measure.name}\n{name.lower()}", loc="left", fontsize=11, color=color, fontweight="bold")
            errors = [mean_error(group, measure, run) for group in (comparison.affected, comparison.clean)]
            said = [f"{error:.1f} %" for error in errors if not math.isnan(error)]
            if said:
                axes.set_title(f"mean error\n{' / '.join(said)}", loc="right", fontsize=9, color=INK)
            axes.set_xlabel(f"simulated truth ({measure.unit})")
            axes.set_ylabel(f"CellProfiler ({measure.unit})")
            plain(axes)
    grid[0, 0].legend(loc="upper left", fontsize=9, frameon=False)
    return figure


def dose_plot(comparison: Comparison) -> Figure | None:
    """Draw the mean nuclear signal of each well against its dose; None for a plate without doses."""
    wells = sorted(
        (well for well in comparison.wells if well.dose is not None and not math.isnan(SIGNAL.of(well.truth))),
        key=lambda well: well.dose or 0.0,
    )
    if len({well.dose for well in wells}) < 2:
        return None
    figure = Figure(figsize=(11.5, 3.9), layout="constrained")
    doses = np.array([well.dose or 0.0 for well in wells])
    panels: list[Axes] = list(figure.subplots(1, 2, sharey=True).flat)
    for axes, (run, name, color) in zip(panels, RUNS, strict=True):
        truth = [SIGNAL.of(well.truth) for well in wells]
        axes.plot(doses, truth, color=INK, linewidth=1.6, marker="_", markersize=14, label="simulated truth")
        found = [SIGNAL.of(well.of(run)) for well in wells]
        axes.vlines(doses, truth, found, color=color, linewidth=1.6, alpha=0.6)
        axes.scatter(doses, found, s=52, color=color, edgecolor="white", label="CellProfiler, one well", zorder=3)
        positive = doses[doses > 0]
        if positive.size and positive.max() / positive.min() > 20:
            axes.set_xscale("symlog", linthresh=float(positive.min()))
        axes.set_title(name, loc="left", fontsize=11, color=color, fontweight="bold")
        axes.set_xlabel("dose of the well (as simulated)")
        axes.legend(fontsize=9, frameon=False)
        plain(axes)
    panels[0].set_ylabel(f"mean nuclear signal ({SIGNAL.unit})")
    return figure


def _limits(rows: Sequence[Row], measure: Measure) -> tuple[float, float]:
    values = [measure.of(values) for row in rows for values in (row.truth, row.without, row.masked)]
    defined = [value for value in values if not math.isnan(value)] or [0.0, 1.0]
    low, high = min(defined), max(defined)
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin
