"""What artifact masks change: CellProfiler's measurements with and without them against the simulated truth.

Three measurements are compared with the truth:

- nuclei per field: the count divided by the usable share of the field, so that a masked area is no missing nuclei;
- mean nuclear area in pixels;
- mean signal: the mean over nuclei of the signal channel, in stored grey values.

An error is the absolute difference from the truth in per cent of the truth; of several fields the mean is given.
Nuclei that the image's border cuts count nowhere: CellProfiler discards them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from artseg_models.errors import ArtSegError
from artseg_models.images import read_mask_image
from artseg_models.metrics import (
    BoolArray,
    Counts,
    FloatArray,
    LabelMap,
    match_objects,
    match_positions,
    mean_defined,
    pool,
)

FieldKey = tuple[str, str]
"""Well and site."""

Run = Literal["without", "masked"]
RUN_NAMES: tuple[Run, Run] = ("without", "masked")

_GREY_VALUES_16_BIT = 65535.0  # CellProfiler divides 16-bit images by it


@dataclass(frozen=True)
class Values:
    """The compared measurements of a field or a well; NaN where one is not defined.

    Attributes
    ----------
    count : float
        Nuclei per field of view.
    area_px : float
        Mean nuclear area in pixels.
    signal : float
        Mean over nuclei of their mean signal, in stored grey values.
    """

    count: float
    area_px: float
    signal: float


@dataclass(frozen=True)
class Measure:
    """One of the compared measurements: its name, its unit and how it is read off."""

    name: str
    unit: str
    digits: int
    of: Callable[[Values], float]


COUNT = Measure("Nuclei per field", "nuclei", 1, lambda values: values.count)
AREA = Measure("Mean nuclear area", "px", 0, lambda values: values.area_px)
SIGNAL = Measure("Mean nuclear signal", "grey values", 0, lambda values: values.signal)
MEASURES = (SIGNAL, COUNT, AREA)


@dataclass(frozen=True)
class FieldTruth:
    """The truth of one simulated field of view.

    Attributes
    ----------
    well, site : str
        Where the field lies.
    nuclei : integer array, (y, x)
        Label map of the true nuclei, 0 = background.
    artifact : bool array, (y, x)
        True on artifacts.
    signal : float
        Mean over nuclei of the signal as it would be without artifacts, in stored grey values.
    dose : float or None
        Concentration in the well, where the plate has a layout.
    """

    well: str
    site: str
    nuclei: LabelMap
    artifact: BoolArray
    signal: float
    dose: float | None = None

    @cached_property
    def whole_nuclei(self) -> LabelMap:
        """The label map without the nuclei that the border cuts."""
        border = np.concatenate([self.nuclei[0], self.nuclei[-1], self.nuclei[:, 0], self.nuclei[:, -1]])
        return np.where(np.isin(self.nuclei, np.unique(border)), 0, self.nuclei)

    @cached_property
    def values(self) -> Values:
        """The true measurements."""
        count = int(np.count_nonzero(np.unique(self.whole_nuclei)))
        area = int(np.count_nonzero(self.whole_nuclei)) / count if count else math.nan
        return Values(count, area, self.signal)


@dataclass(frozen=True)
class Measured:
    """What one CellProfiler run measured in one field of view.

    Attributes
    ----------
    nuclei : integer array, (y, x)
        Label map of the nuclei, 0 = background.
    positions : float array, (N, 2)
        Centres of the nuclei as (y, x) in pixels.
    areas : float array, (N,)
        Areas in pixels.
    signals : float array, (N,)
        Mean signal of each nucleus in stored grey values.
    mask : bool array, (y, x), or None
        True on what was masked as artifact; None where nothing was.
    """

    nuclei: LabelMap
    positions: FloatArray
    areas: FloatArray
    signals: FloatArray
    mask: BoolArray | None = None

    @cached_property
    def usable(self) -> float:
        """Share of the field that was not masked, 0..1."""
        return 1.0 if self.mask is None else 1.0 - float(self.mask.mean())

    @property
    def values(self) -> Values:
        """The measurements to compare."""
        return _values([self])


@dataclass(frozen=True)
class Row:
    """A field or a well: the true measurements and those of both runs."""

    well: str
    site: str
    dose: float | None
    has_artifact: bool
    truth: Values
    without: Values
    masked: Values

    def error(self, measure: Measure, run: Run) -> float:
        """Absolute error in per cent of the truth; NaN where truth or measurement is not defined."""
        true, found = measure.of(self.truth), measure.of(self.of(run))
        return abs(found - true) / true * 100 if true else math.nan

    def of(self, run: Run) -> Values:
        """Give the measurements of one run."""
        return self.without if run == "without" else self.masked


@dataclass(frozen=True)
class FieldComparison:
    """One field of view: the truth and what both runs measured."""

    truth: FieldTruth
    without: Measured
    masked: Measured

    @property
    def row(self) -> Row:
        """The field as a line of the table."""
        return _row([self], site=self.truth.site)

    def nuclei(self, run: Run, *, under_artifacts: bool) -> Counts:
        """Nuclei found, false or split, and missed, either under true artifacts or outside them.

        A reported nucleus is true when its centre lies in a true nucleus that no other has found.
        """
        truth = self.truth
        area = truth.artifact if under_artifacts else ~truth.artifact
        cut = (truth.nuclei > 0) & (truth.whole_nuclei == 0)
        return match_positions(truth.nuclei, self.measured(run).positions, valid=area & ~cut)

    def false_positions(self, run: Run) -> FloatArray:
        """Centres (N, 2) of the reported nuclei that lie in no true nucleus, cut ones included."""
        positions, (height, width) = self.measured(run).positions, self.truth.nuclei.shape
        nearest = np.clip(np.rint(positions).astype(np.int64), 0, [height - 1, width - 1])
        return positions[self.truth.nuclei[nearest[:, 0], nearest[:, 1]] == 0]

    def outlines(self, run: Run) -> Counts:
        """Nuclei outside true artifacts whose outline agrees with a true one (intersection over union 0.5 or more)."""
        beside = ~self.truth.artifact
        return match_objects(
            mostly_inside(self.truth.whole_nuclei, beside), mostly_inside(self.measured(run).nuclei, beside)
        )

    def measured(self, run: Run) -> Measured:
        """Give the measurements of one run."""
        return self.without if run == "without" else self.masked


@dataclass(frozen=True)
class Comparison:
    """All fields of view of a plate, in the order of the truth."""

    fields: tuple[FieldComparison, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """One line a field."""
        return tuple(field.row for field in self.fields)

    @property
    def affected(self) -> tuple[Row, ...]:
        """One line for each field that truly holds artifacts."""
        return tuple(row for row in self.rows if row.has_artifact)

    @property
    def clean(self) -> tuple[Row, ...]:
        """One line for each field without artifacts."""
        return tuple(row for row in self.rows if not row.has_artifact)

    @property
    def wells(self) -> tuple[Row, ...]:
        """One line a well: the nuclei of its fields pooled."""
        names = dict.fromkeys(field.truth.well for field in self.fields)
        return tuple(_row([field for field in self.fields if field.truth.well == name], site="all") for name in names)

    def nuclei(self, run: Run, *, under_artifacts: bool) -> Counts:
        """Nuclei found, false and missed, added up over all fields."""
        return pool(field.nuclei(run, under_artifacts=under_artifacts) for field in self.fields)

    def outlines(self, run: Run) -> Counts:
        """Nuclei outside artifacts with the right outline, added up over all fields."""
        return pool(field.outlines(run) for field in self.fields)

    def false_nuclei(self, run: Run) -> int:
        """Count the reported nuclei that lie in no true nucleus, over all fields."""
        return sum(len(field.false_positions(run)) for field in self.fields)


def mean_error(rows: Sequence[Row], measure: Measure, run: Run) -> float:
    """Mean over fields or wells of the absolute error in per cent; NaN when it is defined in none."""
    return mean_defined(row.error(measure, run) for row in rows)


def compare(
    truth: Sequence[FieldTruth], without: Mapping[FieldKey, Measured], masked: Mapping[FieldKey, Measured]
) -> Comparison:
    """Put truth and both runs side by side.

    Raises
    ------
    ArtSegError
        A field of the truth is missing in a run.
    """
    for name, run in (("without", without), ("with", masked)):
        missing = [f"{field.well} {field.site}" for field in truth if (field.well, field.site) not in run]
        if missing:
            raise ArtSegError(
                f"The CellProfiler run {name} artifact masks has no measurements for {len(missing)} of {len(truth)} "
                f"fields, the first: {missing[0]}. Run it again over all images."
            )
    return Comparison(
        tuple(
            FieldComparison(field, without[field.well, field.site], masked[field.well, field.site]) for field in truth
        )
    )


def read_measurements(folder: Path) -> dict[FieldKey, Measured]:
    """Read what one of the example pipelines wrote.

    Parameters
    ----------
    folder : Path
        Holds Image.csv (with Metadata_Field, Metadata_Well and Metadata_Site), Nuclei.csv (with AreaShape_Area,
        Location_Center_X/Y and the mean intensity of Signal), and in images/ for each field the label map
        FIELD_brightfield_nuclei and, where artifacts were masked, FIELD_brightfield_artifacts (TIFF or PNG).

    Returns
    -------
    dict
        Measurements by well and site.

    Raises
    ------
    ArtSegError
        A file or a column is missing.
    """
    images = _table(folder / "Image.csv", ("ImageNumber", "Metadata_Field", "Metadata_Well", "Metadata_Site"))
    objects = _table(
        folder / "Nuclei.csv",
        ("ImageNumber", "AreaShape_Area", "Location_Center_X", "Location_Center_Y", "Intensity_MeanIntensity_Signal"),
    )
    numbers = objects["ImageNumber"].to_numpy()
    positions = objects[["Location_Center_Y", "Location_Center_X"]].to_numpy(dtype=np.float64)
    areas = objects["AreaShape_Area"].to_numpy(dtype=np.float64)
    signals = objects["Intensity_MeanIntensity_Signal"].to_numpy(dtype=np.float64) * _GREY_VALUES_16_BIT
    found: dict[FieldKey, Measured] = {}
    for row in images.to_dict("records"):
        own = numbers == row["ImageNumber"]
        labels = _saved(folder, str(row["Metadata_Field"]), "nuclei")
        if labels is None:
            raise ArtSegError(
                f"Expected the label map {row['Metadata_Field']}_brightfield_nuclei (TIFF or PNG) in "
                f"{folder / 'images'}. Let the pipeline save the nuclei as the example pipelines do."
            )
        mask = _saved(folder, str(row["Metadata_Field"]), "artifacts")
        found[str(row["Metadata_Well"]), str(row["Metadata_Site"])] = Measured(
            nuclei=read_mask_image(labels),
            positions=positions[own],
            areas=areas[own],
            signals=signals[own],
            mask=None if mask is None else read_mask_image(mask) > 0,
        )
    return found


def mostly_inside(labels: LabelMap, area: BoolArray) -> LabelMap:
    """Keep the objects that lie in an area with at least half of their pixels."""
    sizes = np.bincount(labels.ravel())
    inside = np.bincount(labels.ravel(), weights=area.ravel())
    return np.where((2 * inside >= sizes)[labels], labels, 0)


def read_truth(plate: Path) -> list[FieldTruth]:
    """Read the truth that `artseg_models.simulate.simulate_plate` wrote.

    Parameters
    ----------
    plate : Path
        Holds truth.csv, truth_nuclei.csv, and in truth/ for each field FIELD_nuclei.tiff and FIELD_artifacts.tiff.

    Returns
    -------
    list of FieldTruth
        In the order of truth.csv; the signal is the mean over the nuclei that the border does not cut.

    Raises
    ------
    ArtSegError
        A file or a column is missing.
    """
    fields = _table(plate / "truth.csv", ("well", "site", "dose"))
    nuclei = _table(plate / "truth_nuclei.csv", ("well", "site", "nucleus", "true_signal"))
    truth: list[FieldTruth] = []
    for row in fields.to_dict("records"):
        well, site = str(row["well"]), str(row["site"])
        own = nuclei[(nuclei["well"].astype(str) == well) & (nuclei["site"].astype(str) == site)]
        signals = dict(zip(own["nucleus"].tolist(), own["true_signal"].tolist(), strict=True))
        stem = plate / "truth" / field_name(well, site)
        field = FieldTruth(
            well=well,
            site=site,
            nuclei=read_mask_image(stem.with_name(f"{stem.name}_nuclei.tiff")),
            artifact=read_mask_image(stem.with_name(f"{stem.name}_artifacts.tiff")) > 0,
            signal=math.nan,
            dose=float(row["dose"]),
        )
        whole = [number for number in np.unique(field.whole_nuclei).tolist() if number]
        truth.append(replace(field, signal=mean_defined(float(signals[number]) for number in whole)))
    return truth


def field_name(well: str, site: str) -> str:
    """Give the part of a field's file names before the channel."""
    return f"{well}_s{site}"


def _saved(folder: Path, field: str, what: str) -> Path | None:
    names = (folder / "images" / f"{field}_brightfield_{what}{suffix}" for suffix in (".tiff", ".tif", ".png"))
    return next((path for path in names if path.is_file()), None)


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ArtSegError(
            f"Expected a table in {path}, but it could not be read: {error}. Let the pipeline export Image and "
            "Nuclei with ExportToSpreadsheet, or simulate the plate again."
        ) from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ArtSegError(
            f"Expected the column {missing[0]} in {path}, which has {', '.join(map(str, table.columns[:8]))} ... "
            "Let the pipeline measure and export it."
        )
    return table


def _values(fields: Sequence[Measured]) -> Values:
    usable = sum(field.usable for field in fields)
    count = sum(len(field.areas) for field in fields)
    return Values(
        count=count / usable if usable else math.nan,
        area_px=mean_defined(value for field in fields for value in field.areas.tolist()),
        signal=mean_defined(value for field in fields for value in field.signals.tolist()),
    )


def _row(fields: Sequence[FieldComparison], *, site: str) -> Row:
    truths = [field.truth.values for field in fields]
    nuclei = sum(values.count for values in truths)

    def weighted(values: list[float]) -> float:
        total = sum(value * truth.count for value, truth in zip(values, truths, strict=True) if truth.count)
        return total / nuclei if nuclei else math.nan

    return Row(
        well=fields[0].truth.well,
        site=site,
        dose=fields[0].truth.dose,
        has_artifact=any(field.truth.artifact.any() for field in fields),
        truth=Values(
            count=nuclei / len(fields),
            area_px=weighted([truth.area_px for truth in truths]),
            signal=weighted([truth.signal for truth in truths]),
        ),
        without=_values([field.without for field in fields]),
        masked=_values([field.masked for field in fields]),
    )
