"""Displacement curves as a figure, one panel an experiment."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from artseg_models.files import whole_files
from artseg_models.impact.affinity import Affinity, Curve
from artseg_models.report.drawing import BLUE, INK, MUTED, ORANGE

_STYLES = ((BLUE, "s", "-"), (ORANGE, "^", (0, (5, 2))), ("#009E73", "D", (0, (1, 1.2))), ("#CC79A7", "v", "-."))
"""Colour, mark and line of the treatments beside the reference: told apart without colour too."""
_COLUMNS = 3


def curves_figure(affinity: Affinity, *, response: str = "specific intensity") -> Figure:
    """Draw the curves of every experiment, the treatments over one another.

    Parameters
    ----------
    affinity : Affinity
        The fits.
    response : str
        What the y axis says.

    Returns
    -------
    matplotlib.figure.Figure
        A panel an experiment; a mark a well; wells that the fit left out are hollow; log IC50 and SD in the legend.
    """
    experiments = affinity.experiments
    columns = min(_COLUMNS, len(experiments))
    rows = math.ceil(len(experiments) / columns)
    figure = Figure(figsize=(4.6 * columns, 3.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    others = [name for name in affinity.treatments if name != affinity.reference]
    # the reference is drawn last, on top
    order = [*others, affinity.reference]
    for at, experiment in enumerate(experiments):
        axes: Axes = panels[at // columns, at % columns]
        for treatment in order:
            style = (INK, "o", "-") if treatment == affinity.reference else _STYLES[others.index(treatment) % 4]
            _draw(axes, affinity.curve(experiment, treatment), style)
        compound = affinity.curve(experiment, affinity.reference).compound
        name = experiment if compound in experiment else f"{compound}: {experiment}"
        axes.set_title(name, loc="left", fontsize=11, color=INK, fontweight="bold")
        axes.set_xlabel("log10 concentration", fontsize=9, color=MUTED)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=MUTED, labelsize=8)
        axes.legend(fontsize=7.5, frameon=False, loc="best", handlelength=2.6)
        if at % columns == 0:
            axes.set_ylabel(response, fontsize=9, color=MUTED)
    for at in range(len(experiments), rows * columns):
        panels[at // columns, at % columns].set_axis_off()
    return figure


def write_curves(affinity: Affinity, out: Path, *, response: str = "specific intensity") -> None:
    """Write curves.png and curves.svg into a folder."""
    figure = curves_figure(affinity, response=response)
    with whole_files([out / "curves.png", out / "curves.svg"]) as (picture, drawing):
        figure.savefig(picture, format="png", dpi=130, facecolor="white")
        figure.savefig(drawing, format="svg", facecolor="white", metadata={"Date": None})


def _draw(axes: Axes, curve: Curve, style: tuple[str, str, object]) -> None:
    color, mark, line = style
    tested = [well.place.log_concentration for well in curve.wells if math.isfinite(well.place.log_concentration)]
    if not tested:
        return
    low, high = min(tested), max(tested)
    zero = low - max(0.7, 0.13 * (high - low))  # where wells without ligand are drawn
    shown = [well for well in curve.wells if not math.isnan(well.specific)]
    for fitted in (True, False):
        own = [well for well in shown if well.fitted == fitted]
        axes.scatter(
            [max(well.place.log_concentration, zero) for well in own],
            [well.specific for well in own],
            s=22,
            marker=mark,
            facecolor=color if fitted else "white",
            edgecolor=color,
            linewidth=0.9,
            alpha=0.85,
            zorder=3,
        )
    fit = curve.fit
    said = f"{curve.treatment}: {fit.status}"
    if not math.isnan(fit.log_ic50):
        x = np.linspace(low - 0.2, high + 0.2, 200)
        # a curve that does not fix its middle is drawn faint
        axes.plot(x, fit.predict(x), color=color, linestyle=line, linewidth=1.6, alpha=1 if fit.usable else 0.4)
        if fit.usable:  # figures that the data do not fix would only look like some
            said = f"{curve.treatment}: {fit.log_ic50:.2f} \N{PLUS-MINUS SIGN} {fit.log_ic50_sd:.2f}"
    axes.plot([], [], color=color, marker=mark, markersize=4.5, linestyle=line, linewidth=1.6, label=said)
    if any(math.isinf(well.place.log_concentration) for well in curve.wells):
        ticks = [float(value) for value in range(math.ceil(low), math.floor(high) + 1, max(1, round((high - low) / 6)))]
        axes.set_xticks([zero, *ticks], ["no\nligand", *(f"{value:g}" for value in ticks)])
