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
from artseg_models.metrics import mean_defined
from artseg_models.report.comparison import (
    COUNT,
    MEASURES,
    RUN_NAMES,
    SIGNAL,
    Comparison,
    FieldComparison,
    FieldKey,
    Measure,
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
    if not any(field.masked.usable for field in comparison.fields):
        return "The model took every field for an artifact as a whole: with masks there was nothing left to measure."
    before, after = comparison.false_nuclei("without"), comparison.false_nuclei("masked")
    found = f"With artifact masks, CellProfiler reported {after} false nuclei instead of {before}"
    parts: list[str] = []
    for measure, name in ((COUNT, "the nuclei count"), (SIGNAL, "the mean nuclear signal")):
        first, second = (round(mean_error(_affected(comparison), measure, run), 1) for run in RUN_NAMES)
        if not (math.isnan(first) or math.isnan(second)):
            verb = "stayed at" if first == second else f"{'fell' if second < first else 'rose'} from {first:.1f} % to"
            parts.append(f"the error of {name} {verb} {second:.1f} %")
    return f"{found}; {' and '.join(parts)}." if parts else f"{found}."


def cards(comparison: Comparison) -> list[Card]:
    """Give the key figures, without and with artifact masks."""
    rows = _affected(comparison)
    where = "mean over fields with artifacts" if comparison.affected else "mean over all fields"
    found = [comparison.nuclei(run, under_artifacts=False) for run in RUN_NAMES]
    true = found[0].true_positive + found[0].false_negative

    def error(measure: Measure) -> Card:
        own = mean_error(comparison.clean, measure, "without")
        note = where if math.isnan(own) else f"{where}; the pipeline's own error in clean fields: {percent(own)}"
        first, second = (percent(mean_error(rows, measure, run)) for run in RUN_NAMES)
        return Card(f"{measure.name}: error", first, second, note)

    return [
        Card(
            "False nuclei",
            *(str(comparison.false_nuclei(run)) for run in RUN_NAMES),
            note="reported where there is no nucleus, all fields",
        ),
        *(error(measure) for measure in MEASURES),
        Card(
            "Missed nuclei",
            *(str(counts.false_negative) for counts in found),
            note=f"of {true} outside artifacts: what masks cost where they cover too much",
        ),
    ]


def chosen_fields(comparison: Comparison, number: int = _FIELDS_SHOWN) -> list[FieldComparison]:
    """Choose the fields to show: those with most area under true artifacts, and the first clean one."""
    ranked = sorted(comparison.fields, key=lambda field: float(field.truth.artifact.mean()), reverse=True)
    clean = [field for field in comparison.fields if not field.truth.artifact.any()][:1]
    affected = [field for field in ranked if field.truth.artifact.any()]
    return affected[: number - len(clean)] + clean


def fields_counted(comparison: Comparison) -> str:
    """Say how many wells and fields there are, how many hold artifacts, and how much was masked."""
    wells, fields = len(comparison.wells), len(comparison.fields)
    affected = len(comparison.affected)
    covered = mean_defined(100 * float(field.truth.artifact.mean()) for field in comparison.fields)
    masked = mean_defined(100 * (1 - field.masked.usable) for field in comparison.fields)
    return (
        f"{wells} well{'s' * (wells != 1)}, {fields} field{'s' * (fields != 1)} of view, "
        f"{affected or 'none'} of them with artifacts. {percent(covered)} of the area truly lies under artifacts, "
        f"{percent(masked)} was masked"
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
    return comparison.affected or comparison.rows


def _picture(field: FieldComparison, images: Callable[[FieldKey], FieldImages]) -> str:
    return _drawn(field_figure(field, images((field.truth.well, field.truth.site))), dpi=96)


def _drawn(figure: Figure, dpi: float = 110) -> str:
    return as_data_uri(figure, dpi=dpi)
