"""The page of a study: every table and figure in one HTML file, nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from artseg_models import __version__
from artseg_models.files import write_text
from artseg_models.report.drawing import as_data_uri
from artseg_models.report.study_figures import Drawn, draw_all, write_figures
from artseg_models.study import paper
from artseg_models.study.results import (
    METRICS,
    Results,
    Row,
    choices_table,
    cost_table,
    table_1,
    tables_2_to_4,
    write_tables,
)


def write_report(results: Results, *, command: str) -> Path:
    """Write tables (CSV), figures (PNG and SVG) and the page of a study.

    Parameters
    ----------
    results : Results
        The study as it is now; cells without scores are listed.
    command : str
        What repeats it.

    Returns
    -------
    Path
        ``index.html`` in the folder of the study; the rest lies in ``tables/`` and ``figures/``.
    """
    write_tables(results, results.out / "tables")
    drawn = draw_all(results)
    models = {
        score["model"]["model_id"]: score["model"]["model_sha256"]
        for score in results.scores.values()
        if "model" in score
    }
    made_by = "; ".join(f"model {name}, SHA-256 {digest}" for name, digest in models.items())
    write_figures(drawn, results.out / "figures", models=f"artseg {__version__}; {made_by}")
    environment = Environment(
        loader=PackageLoader("artseg_models.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "minutes": _minutes}
    text = environment.get_template("study.html.jinja").render(
        study=results.study,
        methods=results.study.methods,
        names=paper.METHOD_NAMES,
        metrics=METRICS,
        datasets=[_dataset(results, name) for name in results.study.datasets],
        missing=results.missing,
        cells=len(results.cells),
        scored=len(results.scores),
        bars=_shown(drawn[0]),
        paper_rows=_paper_rows(),
        paper_metrics=paper.TABLE_1_METRICS,
        all_methods=paper.METHODS,
        seconds_a_mask=paper.SECONDS_A_MASK,
        seconds_a_label=paper.SECONDS_A_LABEL,
        figures={one.name: _shown(one) for one in drawn[1:]},
        command=command,
        version=__version__,
    )
    page = results.out / "index.html"
    write_text(page, text)
    return page


def _shown(one: Drawn) -> Mapping[str, Any]:
    picture = None if one.figure is None else as_data_uri(one.figure, dpi=100)
    return {"name": one.name, "title": one.title, "caption": one.caption, "picture": picture}


def _dataset(results: Results, name: str) -> Mapping[str, Any]:
    settings = results.study.datasets[name]

    def own(rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if row["dataset"] == name]

    choice = results.choice(name)
    return {
        "name": name,
        "title": settings.title or name,
        "settings": settings,
        "family": paper.FAMILY_NAMES.get(settings.family or ""),
        "facts": results.facts(name),
        "choice": choice,
        "table_1": _wide(own(table_1(results)), "metric"),
        "sizes": _wide(own(tables_2_to_4(results)), "smallest_object_px"),
        "size_list": paper.SIZES,
        "cost": own(cost_table(results)),
        "choices": own(choices_table(results)),
    }


def _wide(rows: Sequence[Row], by: str) -> dict[Any, dict[str, Row]]:
    wide: dict[Any, dict[str, Row]] = {}
    for row in rows:
        wide.setdefault(row[by], {})[row["method"]] = row
    return wide


def _paper_rows() -> list[Mapping[str, Any]]:
    return [
        {"family": paper.FAMILY_NAMES[family], "metric": title, "values": table[metric]}
        for family, table in paper.TABLE_1.items()
        for metric, title in paper.TABLE_1_METRICS.items()
    ]


def _figure(value: float | None, digits: int = 1) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}"


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "\N{EN DASH}"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
