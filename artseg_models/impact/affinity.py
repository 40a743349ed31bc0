"""Ligand affinity with and without artifacts removed: curves per experiment and treatment, and what differs.

A treatment is one way to deal with artifacts: manual masks, a model's masks, none. Every treatment is compared with
the reference (manual masks, or the true ones of a simulated plate).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from artseg_models.errors import ArtSegError
from artseg_models.files import write_text
from artseg_models.impact.dose_response import FloatArray, HillFit, find_outliers, fit_hill
from artseg_models.impact.wells import (
    LEAST_USABLE,
    MOST_SATURATED,
    FieldIntensity,
    Place,
    Well,
    average_wells,
    beside_the_layout,
    mark_outliers,
)
from artseg_models.metrics import mean_defined

Outliers = Literal["keep", "drop"]

PAPER: Mapping[str, Mapping[str, float]] = {
    "manual": {"r2": 0.89, "between_replicates": 0.11},
    "model": {"difference": 0.16, "r2": 0.86, "r": 0.98},
    "none": {"difference": 0.29, "r2": 0.74, "r": 0.93},
}
"""Section 3.3.2 of Ali et al. (Scientific Reports 12:11404, 2022): their ten experiments on CHO-K1-hM4R cells."""
_OF_A_PAIR = ("difference", "r")


def paper_figures(treatment: str, reference: str) -> Mapping[str, float]:
    """Give the paper's figures of a treatment; differences and correlations only where the reference is the paper's.

    The paper compares with manual masks; the true masks of a simulated plate stand for them.
    """
    found = PAPER.get("manual" if treatment == "true" else treatment, {})
    if reference in ("manual", "true"):
        return found
    return {name: value for name, value in found.items() if name not in _OF_A_PAIR}


@dataclass(frozen=True)
class Curve:
    """One experiment under one treatment.

    Attributes
    ----------
    experiment, compound, treatment : str
        What it is.
    wells : tuple of Well
        All wells of the experiment, also those that the fit left out.
    fit : HillFit
        The curve.
    true_log_ic50 : float
        Of a simulated plate; otherwise NaN.
    """

    experiment: str
    compound: str
    treatment: str
    wells: tuple[Well, ...]
    fit: HillFit
    true_log_ic50: float

    @property
    def fitted(self) -> tuple[Well, ...]:
        """The wells that took part in the fit."""
        return tuple(well for well in self.wells if well.fitted)


@dataclass(frozen=True)
class Summary:
    """One treatment against the reference, over all experiments.

    Attributes
    ----------
    treatment : str
        Which one.
    experiments, compared : int
        How many there are, and how many have a usable half-maximal dose here and under the reference.
    difference : float
        Mean absolute difference of log_ic50 from the reference; NaN for the reference itself.
    largest_difference : float
        The largest one.
    from_truth : float
        Mean absolute difference of log_ic50 from the simulation's truth; NaN for real plates.
    r2 : float
        Mean R2 of the fits.
    r : float
        Pearson correlation of the wells' specific intensities with those of the reference, over all wells that both
        have.
    between_replicates : float
        Standard deviation of log_ic50 between experiments of the same compound, pooled over compounds.
    wells_left_out, outliers : int
        Wells that no fit could use or that were dropped, and wells that were named outliers.
    """

    treatment: str
    experiments: int
    compared: int
    difference: float
    largest_difference: float
    from_truth: float
    r2: float
    r: float
    between_replicates: float
    wells_left_out: int
    outliers: int


@dataclass(frozen=True)
class Affinity:
    """All curves and their comparison.

    Attributes
    ----------
    reference : str
        The treatment that others are compared with.
    curves : tuple of Curve
        Experiments in the layout's order, for each the treatments in the order given.
    summaries : tuple of Summary
        One a treatment.
    notes : tuple of str
        What was left out or cannot be believed, a sentence each.
    """

    reference: str
    curves: tuple[Curve, ...]
    summaries: tuple[Summary, ...]
    notes: tuple[str, ...]

    @property
    def treatments(self) -> tuple[str, ...]:
        """Names of the treatments."""
        return tuple(one.treatment for one in self.summaries)

    @property
    def experiments(self) -> tuple[str, ...]:
        """Names of the experiments."""
        return tuple(dict.fromkeys(curve.experiment for curve in self.curves))

    def curve(self, experiment: str, treatment: str) -> Curve:
        """Give the curve of one experiment under one treatment."""
        return next(one for one in self.curves if (one.experiment, one.treatment) == (experiment, treatment))


def compare_treatments(
    places: Sequence[Place],
    treatments: Mapping[str, Sequence[FieldIntensity]],
    *,
    reference: str,
    slope: float | None = -1.0,
    outliers: Outliers = "keep",
    most_saturated: float = MOST_SATURATED,
    least_usable: float = LEAST_USABLE,
) -> Affinity:
    """Fit every experiment under every treatment and compare with the reference.

    Parameters
    ----------
    places : sequence of Place
        The layout.
    treatments : mapping of str to sequence of FieldIntensity
        The measurements under each treatment.
    reference : str
        One of them.
    slope : float or None
        Fixed Hill coefficient; None fits it.
    outliers : {"keep", "drop"}
        Whether outliers (see `dose_response.find_outliers`) stay in the fit; they are named in any case.
    most_saturated, least_usable : float
        See `wells.average_wells`.

    Returns
    -------
    Affinity

    Raises
    ------
    ArtSegError
        The reference is none of the treatments, or a treatment has no well of the layout.
    """
    if reference not in treatments:
        raise ArtSegError(
            f"Expected the reference '{reference}' among the treatments {', '.join(treatments)}. Choose it with "
            "--reference."
        )
    notes: list[str] = []
    curves: list[Curve] = []
    averaged: dict[str, list[Well]] = {}
    for treatment, fields in treatments.items():
        averaged[treatment] = average_wells(places, fields, most_saturated=most_saturated, least_usable=least_usable)
        if all(well.state == "not measured" for well in averaged[treatment]):
            measured = sorted({field.well for field in fields})
            raise ArtSegError(
                f"No well of the layout was measured under '{treatment}'. The layout has {places[0].well}"
                f"{f' of plate {places[0].plate}' if places[0].plate else ''} ..., the measurements have "
                f"{', '.join(measured[:4])} ..."
                + ("" if not fields or not fields[0].plate else f" of plate {fields[0].plate}. Give plates one name.")
            )
        others = beside_the_layout(places, fields)
        if others:
            notes.append(f"{treatment}: {len(others)} measured wells are not in the layout: {_few(others)}.")
    for experiment in dict.fromkeys(place.experiment for place in places):
        for treatment, wells in averaged.items():
            own = [well for well in wells if well.place.experiment == experiment]
            curve = _fit(experiment, treatment, own, slope=slope, outliers=outliers)
            curves.append(curve)
            notes += _notes(curve, outliers)
    summaries = tuple(_summary(name, reference, curves) for name in treatments)
    return Affinity(reference=reference, curves=tuple(curves), summaries=summaries, notes=tuple(notes))


def write_affinity(affinity: Affinity, out: Path) -> None:
    """Write wells.csv, fits.csv, summary.csv and notes.txt into a folder."""
    wells = [
        {
            "experiment": curve.experiment,
            "compound": curve.compound,
            "treatment": curve.treatment,
            "plate": well.place.plate,
            "well": well.place.well,
            "log_concentration": well.place.log_concentration,
            "cell": well.cell,
            "background": well.background,
            "specific": well.specific,
            "fields": well.fields,
            "fields_used": well.fields_used,
            "usable_share": well.usable,
            "saturated_share": well.saturated,
            "state": well.state,
            "in_fit": int(well.fitted),
        }
        for curve in affinity.curves
        for well in curve.wells
    ]
    fits: list[dict[str, object]] = []
    for curve in affinity.curves:
        fit, base = curve.fit, affinity.curve(curve.experiment, affinity.reference)
        both = fit.usable and base.fit.usable
        fits.append(
            {
                "experiment": curve.experiment,
                "compound": curve.compound,
                "treatment": curve.treatment,
                "status": fit.status,
                "log_ic50": fit.log_ic50,
                "sd": fit.log_ic50_sd,
                "ci95_low": fit.log_ic50_low,
                "ci95_high": fit.log_ic50_high,
                "top": fit.top,
                "bottom": fit.bottom,
                "slope": fit.slope,
                "r2": fit.r2,
                "residual_sd": fit.residual_sd,
                "wells_fitted": fit.points,
                "wells": len(curve.wells),
                "difference_from_reference": fit.log_ic50 - base.fit.log_ic50 if both else math.nan,
                "r_with_reference": _pearson([(curve, base)]),
                "true_log_ic50": curve.true_log_ic50,
            }
        )
    summary = [
        {
            "treatment": one.treatment,
            "reference": affinity.reference,
            "experiments": one.experiments,
            "experiments_compared": one.compared,
            "mean_absolute_log_ic50_difference": one.difference,
            "largest_log_ic50_difference": one.largest_difference,
            "mean_absolute_difference_from_truth": one.from_truth,
            "mean_r2": one.r2,
            "pearson_r": one.r,
            "sd_between_replicates": one.between_replicates,
            "wells_left_out": one.wells_left_out,
            "outliers": one.outliers,
            "paper_log_ic50_difference": paper_figures(one.treatment, affinity.reference).get("difference", math.nan),
            "paper_r2": paper_figures(one.treatment, affinity.reference).get("r2", math.nan),
            "paper_pearson_r": paper_figures(one.treatment, affinity.reference).get("r", math.nan),
            "paper_sd_between_replicates": paper_figures(one.treatment, affinity.reference).get(
                "between_replicates", math.nan
            ),
        }
        for one in affinity.summaries
    ]
    for name, rows in (("wells", wells), ("fits", fits), ("summary", summary)):
        text = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_text(out / f"{name}.csv", text)
    write_text(out / "notes.txt", "".join(f"{note}\n" for note in affinity.notes))


def _fit(experiment: str, treatment: str, wells: Sequence[Well], *, slope: float | None, outliers: Outliers) -> Curve:
    usable = [well for well in wells if well.state == "used"]
    found = find_outliers(*_points(usable), slope=slope)
    marked = iter(mark_outliers(usable, found, drop=outliers == "drop"))
    whole = tuple(next(marked) if well.state == "used" else well for well in wells)
    fit = fit_hill(*_points([well for well in whole if well.fitted]), slope=slope)
    return Curve(
        experiment=experiment,
        compound=wells[0].place.compound,
        treatment=treatment,
        wells=whole,
        fit=fit,
        true_log_ic50=wells[0].place.true_log_ic50,
    )


def _points(wells: Sequence[Well]) -> tuple[FloatArray, FloatArray]:
    return (
        np.array([well.place.log_concentration for well in wells], dtype=np.float64),
        np.array([well.specific for well in wells], dtype=np.float64),
    )


def _notes(curve: Curve, outliers: Outliers) -> list[str]:
    where = f"{curve.experiment}, {curve.treatment}"
    notes: list[str] = []
    for state in ("not measured", "lost to artifacts", "empty", "no background", "saturated"):
        names = [well.place.well for well in curve.wells if well.state == state]
        if names:
            notes.append(f"{where}: {len(names)} wells left out, {state}: {_few(names)}.")
    names = [well.place.well for well in curve.wells if well.state == "outlier"]
    if names:
        kept = "kept in the fit" if outliers == "keep" else "left out of the fit"
        notes.append(f"{where}: {len(names)} outliers, {kept}: {_few(names)}.")
    if not curve.fit.usable:
        notes.append(f"{where}: no half-maximal dose ({curve.fit.status}); left out of the comparison.")
    elif curve.fit.top < curve.fit.bottom:
        notes.append(f"{where}: the response goes the other way than the fixed slope says (top lies below bottom).")
    return notes


def _summary(treatment: str, reference: str, curves: Sequence[Curve]) -> Summary:
    own = [curve for curve in curves if curve.treatment == treatment]
    base = {curve.experiment: curve for curve in curves if curve.treatment == reference}
    pairs = [(curve, base[curve.experiment]) for curve in own]
    apart = [abs(one.fit.log_ic50 - other.fit.log_ic50) for one, other in pairs if one.fit.usable and other.fit.usable]
    is_reference = treatment == reference
    wells = [well for curve in own for well in curve.wells]
    return Summary(
        treatment=treatment,
        experiments=len(own),
        compared=len(apart),
        difference=math.nan if is_reference else mean_defined(apart),
        largest_difference=math.nan if is_reference or not apart else max(apart),
        from_truth=mean_defined(abs(curve.fit.log_ic50 - curve.true_log_ic50) for curve in own if curve.fit.usable),
        r2=mean_defined(curve.fit.r2 for curve in own),
        r=math.nan if is_reference else _pearson(pairs),
        between_replicates=_between_replicates(own),
        wells_left_out=sum(not well.fitted for well in wells),
        outliers=sum(well.state == "outlier" for well in wells),
    )


def _pearson(pairs: Sequence[tuple[Curve, Curve]]) -> float:
    """Correlate the specific intensities of wells that both sides measured."""
    values = [
        (one.specific, other.specific)
        for curve, base in pairs
        for one, other in zip(curve.wells, base.wells, strict=True)
        if one.state in ("used", "outlier") and other.state in ("used", "outlier")
    ]
    if len(values) < 3:
        return math.nan
    first, second = np.array(values).T
    if first.std() == 0 or second.std() == 0:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def _between_replicates(curves: Sequence[Curve]) -> float:
    squares, free = 0.0, 0
    for compound in {curve.compound for curve in curves}:
        found = [curve.fit.log_ic50 for curve in curves if curve.compound == compound and curve.fit.usable]
        if len(found) > 1:
            squares += float(np.var(found)) * len(found)
            free += len(found) - 1
    return math.sqrt(squares / free) if free else math.nan


def _few(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
