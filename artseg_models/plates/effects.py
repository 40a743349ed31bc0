"""What removing artifacts changes in a plate's wells, and which fields and wells to look at first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from artseg_models.errors import ArtSegError
from artseg_models.images import read_image, read_mask_image
from artseg_models.impact.affinity import Affinity, compare_treatments
from artseg_models.impact.wells import FieldIntensity, read_layout
from artseg_models.likeness import UNLIKE, distance, image_features, summarise_features, windows
from artseg_models.metrics import mean_defined
from artseg_models.plates.tables import COUNT, Field, Key, Measured, Plate

NOTICEABLE = 0.10
"""Fields with more of their area under artifacts than this are counted in the headline."""

KEPT, REMOVED = "kept", "removed"
"""What was done with artifacts, in tables and legends of dose-response curves."""

WellKey = tuple[str, str]
"""Plate and well, or the name of a field that is in no well."""


@dataclass(frozen=True)
class WellEffect:
    """One well, or a field that is in none, without and with artifacts removed.

    Attributes
    ----------
    plate, well : str
        Where it is; the name of a field that is in no well.
    fields : tuple of Field
        Its fields.
    contaminated : float
        Mean share under artifacts, 0 to 1.
    without, masked : mapping of str to float
        Measures, `tables.COUNT` among them: objects of all fields, divided by the usable share where artifacts were
        removed. Empty where nothing was measured.
    removed : int
        How many objects fewer there are with artifacts removed.
    """

    plate: str
    well: str
    fields: tuple[Field, ...]
    contaminated: float
    without: Mapping[str, float]
    masked: Mapping[str, float]
    removed: int

    def change(self, measure: str) -> float:
        """Relative change of a measure; NaN where one side has none."""
        before, after = self.without.get(measure, math.nan), self.masked.get(measure, math.nan)
        return (after - before) / before if before else math.nan

    @property
    def is_well(self) -> bool:
        """Whether its fields' names tell a well."""
        return bool(self.fields[0].well)

    @property
    def largest_change(self) -> tuple[str, float]:
        """The measure that changed most, and by how much."""
        changes = [(name, self.change(name)) for name in self.without]
        known = [pair for pair in changes if not math.isnan(pair[1])]
        return max(known, key=lambda pair: abs(pair[1])) if known else ("", math.nan)

    @property
    def worst(self) -> Field:
        """The field with most under artifacts."""
        return max(self.fields, key=lambda one: -1.0 if math.isnan(one.contaminated) else one.contaminated)

    @property
    def shown(self) -> str:
        """What to call it on a page."""
        return f"{self.plate} {self.well}".strip()


def well_effects(plate: Plate) -> list[WellEffect]:
    """Put both measurements of every well side by side; a field whose name tells no well stands for itself."""
    wells: dict[WellKey, list[Field]] = {}
    for one in plate.fields:
        wells.setdefault(_well_of(one.key), []).append(one)
    sides = {"without": plate.without, "masked": plate.masked}
    values: dict[str, dict[WellKey, dict[str, float]]] = {}
    counts: dict[str, dict[WellKey, int]] = {}
    usable = {one.key: 1 - one.contaminated for one in plate.fields if not math.isnan(one.contaminated)}
    for side, measured in sides.items():
        values[side], counts[side] = _of_wells(measured, usable if side == "masked" else None)
    both = plate.without is not None and plate.masked is not None
    return [
        WellEffect(
            plate=key[0],
            well=key[1],
            fields=tuple(fields),
            contaminated=mean_defined(one.contaminated for one in fields),
            without=values["without"].get(key, {}) if both else {},
            masked=values["masked"].get(key, {}),
            removed=counts["without"].get(key, 0) - counts["masked"].get(key, 0) if both else 0,
        )
        for key, fields in wells.items()
    ]


def _well_of(key: Key) -> WellKey:
    return key[0], key[1] or key[2]


def _of_wells(
    measured: Measured | None, usable: Mapping[Key, float] | None
) -> tuple[dict[WellKey, dict[str, float]], dict[WellKey, int]]:
    if measured is None:
        return {}, {}
    found: dict[WellKey, dict[str, float]] = {}
    counts: dict[WellKey, int] = {}
    area: dict[WellKey, float] = {}
    for key in measured.keys:
        well = _well_of(key)
        counts.setdefault(well, 0)
        area[well] = area.get(well, 0.0) + (1.0 if usable is None else usable.get(key, 1.0))
    table = measured.objects
    places = pd.Series([_well_of(key) for key in table["key"]], index=table.index, dtype=object)
    for well, rows in table.groupby(places, sort=False).indices.items():
        own: WellKey = well  # pyright: ignore[reportAssignmentType]  - pandas calls keys scalars
        counts[own] = len(rows)
        values = {name: np.asarray(table[name], dtype=np.float64)[rows] for name in measured.measures}
        found[own] = {name: mean_defined(map(float, of_well)) for name, of_well in values.items()}
    return {
        well: {COUNT: count / area[well] if area[well] > 0 else math.nan, **found.get(well, {})}
        for well, count in counts.items()
    }, counts


def most_changed(effects: Sequence[WellEffect], number: int = 6) -> list[WellEffect]:
    """Choose the wells that change most, by the largest relative change of any measure; unchanged ones are left out."""
    ranked = sorted(
        (one for one in effects if abs(one.largest_change[1]) > 0), key=lambda one: -abs(one.largest_change[1])
    )
    return ranked[:number]


def worst_fields(fields: Iterable[Field], number: int = 8) -> list[Field]:
    """Choose the fields with most of their area under artifacts; clean ones are left out."""
    known = [one for one in fields if one.contaminated > 0]
    return sorted(known, key=lambda one: -one.contaminated)[:number]


def with_likeness(
    plate: Plate,
    reference: Mapping[str, tuple[float, float]] | None,
    *,
    progress: Callable[[Sequence[Field]], Iterable[Field]] = iter,
) -> Plate:
    """Measure how far each field's image is from the model's training images, beside its artifacts.

    Parameters
    ----------
    plate : Plate
        The fields; those without image stay unmeasured.
    reference : mapping or None
        Features of the training images (`artseg_models.likeness.summarise_features`); None compares the fields with
        one another, by their median and the spread about it.
    progress : callable
        Given the fields, passes them on one by one.

    Returns
    -------
    Plate
        With `unlike` in its fields.
    """
    described: dict[int, dict[str, float]] = {}
    for at, one in enumerate(progress(plate.fields)):
        if one.image is not None:
            try:
                pixels = read_image(one.image).pixels
            except ArtSegError:  # it is listed as not segmented
                continue
            usable = None if one.mask is None else read_mask_image(one.mask) == 0
            if usable is None or (usable.shape == pixels.shape and windows(usable).any()):
                described[at] = image_features(pixels, valid=usable)
    if reference is None:
        reference = _spread(list(described.values()))
    return replace(
        plate,
        fields=tuple(
            replace(one, unlike=distance(described[at], reference)) if at in described else one
            for at, one in enumerate(plate.fields)
        ),
    )


def _spread(described: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Give median and spread of features: half of the fields may be odd without moving them."""
    centre = summarise_features(described)
    found: dict[str, tuple[float, float]] = {}
    for name in centre:
        values = np.array([one[name] for one in described])
        middle = float(np.median(values))
        # the median distance of normal values is 0.6745 standard deviations
        found[name] = middle, float(np.median(np.abs(values - middle))) / 0.6745
    return found


def unlike_fields(plate: Plate) -> list[Field]:
    """List the fields that are unlike the reference, the farthest first."""
    return sorted((one for one in plate.fields if one.unlike >= UNLIKE), key=lambda one: -one.unlike)


def responses(
    plate: Plate,
    layout: Path,
    *,
    response: str | None = None,
    background: str | None = None,
    slope: float | None = None,
) -> tuple[Affinity, str]:
    """Fit the plate's dose-response curves without and with artifacts removed.

    Parameters
    ----------
    plate : Plate
        With measurements, or those with artifacts removed alone.
    layout : Path
        As `artseg_models.impact.wells.read_layout` takes it.
    response : str, optional
        A column of the objects (averaged over their pixels), or of the table of images; the first mean intensity of
        objects by default.
    background : str, optional
        Column of the table of images that is subtracted.
    slope : float, optional
        Fixed Hill coefficient; fitted by default.

    Returns
    -------
    Affinity
        Treatments `KEPT` and `REMOVED`, which is the reference where it is there.
    str
        What was taken as the response.

    Raises
    ------
    ArtSegError
        There are no measurements, or no such column.
    """
    sides = {KEPT: plate.without, REMOVED: plate.masked}
    measured = {name: side for name, side in sides.items() if side is not None}
    if not measured:
        raise ArtSegError(
            "Expected measurements to fit a dose-response: give CellProfiler's results of these fields as --without."
        )
    reference = REMOVED if REMOVED in measured else KEPT
    if response is None:
        intensities = [name for name in measured[reference].measures if name.startswith("Intensity")]
        response = next(iter(intensities), None)
        if response is None:
            raise ArtSegError("Expected a mean intensity among the objects' measurements. Name a column: --response.")
    compared = compare_treatments(
        read_layout(layout),
        {name: _intensities(side, response, background) for name, side in measured.items()},
        reference=reference,
        slope=slope,
    )
    return compared, response


def _intensities(measured: Measured, response: str, background: str | None) -> list[FieldIntensity]:
    images = measured.images.set_index("key") if "key" in measured.images.columns else measured.images
    for column in (response, background):
        if column is not None and column not in images.columns and column not in measured.objects.columns:
            alike = [name for name in (*measured.measures, *images.columns) if "MeanIntensity" in str(name)]
            raise ArtSegError(
                f"Expected the column {column} of objects or images; there are "
                f"{', '.join(map(str, alike[:8])) or 'none'}."
            )
    if response in images.columns:
        values: dict[Any, float] = dict(zip(images.index, images[response].astype(float), strict=True))
    else:
        values = _means(measured, response)
    empty = f"{background.replace('_MeanIntensity_', '_TotalArea_')}" if background else ""
    found: list[FieldIntensity] = []
    for key in measured.keys:
        away = 0.0 if background is None else float(images[background].astype(float).get(key, math.nan))
        if empty in images.columns and float(images[empty].astype(float).get(key, math.nan)) == 0:
            away = math.nan
        found.append(FieldIntensity(plate=key[0], well=key[1], cell=values.get(key, math.nan), background=away))
    return [one for one in found if one.well]


def _means(measured: Measured, response: str) -> dict[Any, float]:
    """Average a column over the objects of each field, weighted by their area: the mean over their pixels."""
    table = measured.objects
    value = table[response].to_numpy(dtype=np.float64)
    weight = (
        table["AreaShape_Area"].to_numpy(dtype=np.float64) if "AreaShape_Area" in table.columns else np.ones(value.size)
    )
    good = np.isfinite(value) & np.isfinite(weight)
    means: dict[Any, float] = {}
    for key, rows in table.groupby("key", sort=False).indices.items():
        own: NDArray[np.int64] = np.asarray(rows)[good[rows]]
        total = float(weight[own].sum())
        means[key] = float((value[own] * weight[own]).sum()) / total if total > 0 else math.nan
    return means
