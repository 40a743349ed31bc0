"""The page of a plate: one HTML file, nothing beside it, that a biologist reads without help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from artseg_models import __version__
from artseg_models.files import write_text
from artseg_models.impact.affinity import Affinity
from artseg_models.impact.curves import curves_figure
from artseg_models.likeness import UNLIKE
from artseg_models.metrics import mean_defined
from artseg_models.plates.effects import (
    NOTICEABLE,
    WellEffect,
    most_changed,
    unlike_fields,
    well_effects,
    worst_fields,
)
from artseg_models.plates.figures import changes_figure, drift_figure, measure_name, thumbnail
from artseg_models.plates.tables import COUNT, Field, Plate
from artseg_models.report.drawing import BLUE, ORANGE, as_data_uri
from artseg_models.report.page import number, percent

_FULL_COLOR = 0.25
"""Wells of this share and more are drawn in the full colour of the map."""
_PLATE_SIZES = ((8, 12), (16, 24), (32, 48))


@dataclass(frozen=True)
class MapCell:
    """One well of the plate map.

    Attributes
    ----------
    well : str
        Its name.
    share : float or None
        Contaminated share, 0 to 1; None where the well was not imaged.
    tint : float
        0 is white, 1 the full colour.
    """

    well: str
    share: float | None
    tint: float


@dataclass(frozen=True)
class Shown:
    """A field with its picture and what there is to say of it."""

    title: str
    picture: str | None
    lines: tuple[str, ...]


def write_plate_page(
    path: Path,
    plate: Plate,
    *,
    source: str,
    likeness_of: str,
    response: tuple[Affinity, str] | None = None,
) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    path : Path
        The HTML file.
    plate : Plate
        What it is about.
    source : str
        What was read, for the page's foot.
    likeness_of : str
        What the fields were compared with, for instance "the model's training images"; empty where they were not.
    response : tuple, optional
        Of `artseg_models.plates.effects.responses`.
    """
    environment = Environment(
        loader=PackageLoader("artseg_models.plates", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "signed": signed, "figure": _figure}
    effects = well_effects(plate)
    compared = plate.without is not None and plate.masked is not None
    measures = list(dict.fromkeys(name for one in effects for name in one.without)) if compared else []
    changed = most_changed(effects) if compared else []
    odd = unlike_fields(plate) if likeness_of else []
    text = environment.get_template("plate.html.jinja").render(
        headline=headline(plate, effects),
        cards=cards(plate, effects),
        maps=[(name, plate_map(effects, name)) for name in plate.plates if any(_on(effects, name))],
        full=_FULL_COLOR,
        worst=[_shown(one, effects) for one in worst_fields(plate.fields)],
        drift=as_data_uri(drift_figure(plate.fields)) if len(plate.fields) > 2 else None,
        changes=as_data_uri(changes_figure(effects, measures)) if measures and effects else None,
        changed=[(one, _shown(one.worst, effects, reasons(one))) for one in changed],
        changed_rows=[(one, [(one.without.get(name), one.change(name)) for name in measures]) for one in changed],
        measures=[measure_name(name) for name in measures],
        rule=plate.rule,
        odd=[(one, thumbnail(one)) for one in odd[:4]],
        odd_count=len(odd),
        measured_likeness=sum(not math.isnan(one.unlike) for one in plate.fields),
        likeness_of=likeness_of,
        unlike_from=UNLIKE,
        curves=None if response is None else as_data_uri(curves_figure(response[0], response=response[1]), dpi=95),
        curve_columns=1 if response is None else min(3, len(response[0].experiments)),
        response=None if response is None else response[0],
        response_name="" if response is None else response[1],
        failed=[one for one in plate.fields if one.error],
        model=plate.model,
        notes=plate.notes,
        source=source,
        version=__version__,
        blue=BLUE,
        orange=ORANGE,
    )
    write_text(path, text)


def headline(plate: Plate, effects: Sequence[WellEffect]) -> str:
    """Say the main finding in a sentence or two."""
    known = [one for one in plate.fields if not math.isnan(one.contaminated)]
    heavy = [one for one in known if one.contaminated > NOTICEABLE]
    clean = [one for one in known if one.contaminated == 0]
    found = (
        f"{len(heavy)} of {len(known)} fields have more than {100 * NOTICEABLE:.0f} % of their area under artifacts, "
        f"{len(clean)} have none."
    )
    changed = most_changed(effects, 1)
    if not changed:
        return found
    one = changed[0]
    name, change = one.largest_change
    said = measure_name(name).removesuffix(" in px")
    what = "well" if one.is_well else "field"
    return f"{found} Removing artifacts changes {what} {one.shown} most: its {said} by {signed(change)}."


def signed(change: float, digits: int = 0) -> str:
    """Write a relative change in per cent, with its sign."""
    return f"{100 * change:+.{digits}f} %".replace("-", "\N{MINUS SIGN}")


def cards(plate: Plate, effects: Sequence[WellEffect]) -> list[tuple[str, str, str]]:
    """Give the key figures: name, figure, note."""
    known = [one for one in plate.fields if not math.isnan(one.contaminated)]
    mean = mean_defined(one.contaminated for one in known)
    wells = sum(one.is_well for one in effects)
    found = [
        ("Fields", f"{len(plate.fields)}", f"{wells} well{'s' * (wells != 1)}" if wells else "no wells in their names"),
        ("Area under artifacts", percent(100 * mean), "mean over all fields"),
        (
            "Fields with artifacts",
            f"{sum(one.contaminated > 0 for one in known)}",
            f"{sum(one.contaminated > NOTICEABLE for one in known)} with more than {100 * NOTICEABLE:.0f} % of it",
        ),
    ]
    if plate.without is not None and plate.masked is not None:
        before, after = len(plate.without.objects), len(plate.masked.objects)
        found.append(("Objects", f"{before} \N{RIGHTWARDS ARROW} {after}", "counted without removal, and with"))
    if effects:
        worst = max(effects, key=lambda one: -1.0 if math.isnan(one.contaminated) else one.contaminated)
        found.append(
            (
                "Worst well" if worst.is_well else "Worst field",
                worst.shown,
                f"{percent(100 * worst.contaminated)} of its area under artifacts",
            )
        )
    return found


def _on(effects: Sequence[WellEffect], name: str) -> list[WellEffect]:
    return [one for one in effects if one.plate == name and one.is_well]


def plate_map(effects: Sequence[WellEffect], name: str) -> list[list[MapCell]]:
    """Lay the wells of a plate out as rows of cells, on the smallest usual plate that holds them."""
    own = {one.well: one for one in _on(effects, name)}
    places = [(_row_number(well), int(well[-2:])) for well in own]
    rows, columns = max((row for row, _ in places), default=1), max((column for _, column in places), default=1)
    size = next((size for size in _PLATE_SIZES if rows <= size[0] and columns <= size[1]), (rows, columns))
    return [
        [_cell(f"{_row_name(row)}{column:02d}", own) for column in range(1, size[1] + 1)]
        for row in range(1, size[0] + 1)
    ]


def _cell(well: str, effects: dict[str, WellEffect]) -> MapCell:
    one = effects.get(well)
    if one is None or math.isnan(one.contaminated):
        return MapCell(well, None, 0.0)
    return MapCell(well, one.contaminated, min(1.0, one.contaminated / _FULL_COLOR))


def _row_number(well: str) -> int:
    value = 0
    for letter in well[:-2]:
        value = 26 * value + ord(letter) - ord("A") + 1
    return value


def _row_name(row: int) -> str:
    return chr(ord("A") + row - 1) if row <= 26 else "A" + chr(ord("A") + row - 27)


def reasons(effect: WellEffect) -> tuple[str, ...]:
    """Say why a well changed, a line each."""
    of_field = f", {percent(100 * effect.worst.contaminated)} of this field's" if len(effect.fields) > 1 else ""
    whole = "of the well's area" if effect.is_well else "of its area"
    lines = [f"{percent(100 * effect.contaminated)} {whole} lies under artifacts{of_field}."]
    if effect.removed:
        lines.append(f"{_objects(effect.removed)} with artifacts removed.")
    changes = sorted(
        ((name, effect.change(name)) for name in effect.without if not math.isnan(effect.change(name))),
        key=lambda pair: -abs(pair[1]),
    )
    for name, change in changes[:3]:
        if change:
            lines.append(
                f"{measure_name(name)[0].upper()}{measure_name(name)[1:]}: {_figure(effect.without[name])} "
                f"\N{RIGHTWARDS ARROW} {_figure(effect.masked[name])} ({signed(change)})."
            )
    return tuple(lines)


def _objects(removed: int) -> str:
    count = abs(removed)
    return f"{count} object{'s' * (count != 1)} {'fewer' if removed > 0 else 'more'}"


def _figure(value: float | None) -> str:
    """Write a measure with three digits or more, never as a power of ten where it is large."""
    if value is None or math.isnan(value):
        return "\N{EN DASH}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _shown(field: Field, effects: Sequence[WellEffect], lines: tuple[str, ...] | None = None) -> Shown:
    if lines is None:
        said = [f"{percent(100 * field.contaminated)} of its area under artifacts."]
        own = next((one for one in effects if field in one.fields), None)
        if own is not None and own.without.get(COUNT) and own.removed:
            said.append(f"{'Its well: ' if own.is_well else ''}{_objects(own.removed)} with artifacts removed.")
        lines = tuple(said)
    return Shown(field.shown, thumbnail(field), lines)
