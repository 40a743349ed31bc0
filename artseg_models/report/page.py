"""The page that shows what artifact masks change in CellProfiler's measurements: one HTML file, nothing beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from artseg_models.files import write_text
from artseg_models.report.comparison import (
    MEASURES,
    Comparison,
    FieldComparison,
    FieldKey,
    Row,
    mean_error,
)
from artseg_models.report.drawing import BLUE, ORANGE, as_data_uri
from artseg_models.report.panels import FieldImages, field_figure
from artseg_models.report.plots import dose_plot, truth_plot

_NOT_DEFINED = "\N{EN DASH}"
_FIELDS_SHOWN = 6


@dataclass(frozen=True)
class Facts:
    """What the page says about how its figures came about.

    Attributes
    ----------
    simulated : sequence of str
        What was simulated, a sentence each.
    command : str
        What repeats the page.
    steps : sequence of (str, float)
        What was done, and for how many seconds.
    provenance : mapping
        Names and values: model, SHA-256, cutoff, versions, seed.
    model : mapping or None
        `Evaluation.summary()` of the model on simulated test images, where it was evaluated.
    """

    simulated: Sequence[str]
    command: str
    steps: Sequence[tuple[str, float]]
    provenance: Mapping[str, str]
    model: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Card:
    """One key figure, without and with artifact masks."""

    name: str
    without: str
    masked: str
    note: str


def write_page(path: Path, comparison: Comparison, images: Callable[[FieldKey], FieldImages], facts: Facts) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    path : Path
        The HTML file.
    comparison : Comparison
        What the page is about.
    images : callable
        Gives the images of a field by well and site; called for the fields that are shown.
    facts : Facts
        How the figures came about.
    """
    environment = Environment(
        loader=PackageLoader("artseg_models.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "duration": duration}
    doses = dose_plot(comparison)
    shown = chosen_fields(comparison)
    text = environment.get_template("comparison.html.jinja").render(
        headline=headline(comparison),
        cards=cards(comparison),
        comparison=comparison,
        counted=fields_counted(comparison),
        measures=MEASURES,
        truth_plot=_drawn(truth_plot(comparison)),
        dose_plot=None if doses is None else _drawn(doses),
        shown=[(field, _picture(field, images)) for field in shown],
        facts=facts,
        blue=BLUE,
        orange=ORANGE,
    )
    write_text(path, text)


def headline(comparison: Comparison) -> str:
    """Say the main finding in a sentence, with the figures as they came out."""
    rows = _affected(comparison)
    before, after = comparison.false_nuclei("without"), comparison.false_nuclei("masked")
    parts = [f"false nuclei {_went(before, after)} from {before} to {after}"]
    for measure in MEASURES:
        errors = mean_error(rows, measure, "without"), mean_error(rows, measure, "masked")
        if any(math.isnan(error) for error in errors):
            continue
        name = {"Nuclei per field": "nuclei count"}.get(measure.name, measure.name.lower())
        verb = _went(round(errors[0], 1), round(errors[1], 1))
        parts.append(f"the error of the {name} {verb} from {errors[0]:.1f} % to {errors[1]:.1f} %")
    listed = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    return f"With artifact masks, {listed}."


def cards(comparison: Comparison) -> list[Card]:
    """Give the key figures, without and with artifact masks."""
    rows = _affected(comparison)
    where = "mean error, fields with artifacts" if any(row.has_artifact for row in rows) else "mean error, all fields"
    found = [comparison.nuclei(run, under_artifacts=False) for run in ("without", "masked")]
    errors = [
        Card(
            f"{measure.name}: error",
            percent(mean_error(rows, measure, "without")),
            percent(mean_error(rows, measure, "masked")),
            where,
        )
        for measure in MEASURES
    ]
    return [
        Card(
            "False nuclei",
            str(comparison.false_nuclei("without")),
            str(comparison.false_nuclei("masked")),
            "reported where there is no nucleus, all fields",
        ),
        *errors,
        Card(
            "Missed nuclei outside artifacts",
            f"{found[0].false_negative} of {found[0].true_positive + found[0].false_negative}",
            f"{found[1].false_negative} of {found[1].true_positive + found[1].false_negative}",
            "what the mask costs where it covers too much",
        ),
    ]


def chosen_fields(comparison: Comparison, number: int = _FIELDS_SHOWN) -> list[FieldComparison]:
    """Choose the fields to show: those with most area under true artifacts, and the first clean one."""
    ranked = sorted(comparison.fields, key=lambda field: float(field.truth.artifact.mean()), reverse=True)
    clean = [field for field in comparison.fields if not field.truth.artifact.any()][:1]
    affected = [field for field in ranked if field.truth.artifact.any()]
    return affected[: number - len(clean)] + clean


def fields_counted(comparison: Comparison) -> str:
    """Say how many wells and fields there are, and how many fields hold artifacts."""
    wells, fields = len(comparison.wells), len(comparison.fields)
    affected = sum(row.has_artifact for row in comparison.rows)
    return (
        f"{wells} well{'s' * (wells != 1)}, {fields} field{'s' * (fields != 1)} of view, "
        f"{affected or 'none'} of them with artifacts"
    )


def number(value: float | None, digits: int = 0) -> str:
    """Write a number, or a dash where it is not defined."""
    return _NOT_DEFINED if value is None or math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """Write per cent, or a dash where the value is not defined."""
    return _NOT_DEFINED if value is None or math.isnan(value) else f"{value:.{digits}f} %"


def duration(seconds: float) -> str:
    """Write a time as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _affected(comparison: Comparison) -> Sequence[Row]:
    """Give the fields with artifacts, or all where there are none."""
    return [row for row in comparison.rows if row.has_artifact] or comparison.rows


def _went(before: float, after: float) -> str:
    if after == before:
        return "stayed"
    return "fell" if after < before else "rose"


def _picture(field: FieldComparison, images: Callable[[FieldKey], FieldImages]) -> str:
    return _drawn(field_figure(field, images((field.truth.well, field.truth.site))), dpi=96)


def _drawn(figure: Figure, dpi: float = 110) -> str:
    return as_data_uri(figure, dpi=dpi)
