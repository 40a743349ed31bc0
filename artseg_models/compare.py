"""Compare what CellProfiler measured in two runs of a pipeline, say without and with artifact masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from artseg_models.errors import ArtSegError

#: Columns that number or place objects: their mean says nothing.
_NO_MEASUREMENT = (
    "ImageNumber",
    "ObjectNumber",
    "Number_",
    "Location_",
    "Parent_",
    "Children_",
    "FileName_",
    "PathName_",
)


@dataclass(frozen=True)
class Change:
    """One measurement in both runs.

    Attributes
    ----------
    measurement : str
        CellProfiler's name, or "Count".
    before, after : float
        The number of objects for "Count", else the mean over all objects, in CellProfiler's own units.
    """

    measurement: str
    before: float
    after: float

    @property
    def relative(self) -> float:
        """Change as a share of `before`; NaN where that is 0."""
        return (self.after - self.before) / self.before if self.before else float("nan")


def compare_runs(
    before: Path, after: Path, *, objects: str = "Nuclei", measurements: tuple[str, ...] = ()
) -> list[Change]:
    """Compare the objects of two result folders.

    Parameters
    ----------
    before, after : Path
        Folders with ``OBJECTS.csv`` as ExportToSpreadsheet writes it.
    objects : str
        Name of the objects.
    measurements : tuple of str
        Keep the columns whose name holds one of these; all by default.

    Returns
    -------
    list of Change
        The count first, then every numeric measurement that both runs have.

    Raises
    ------
    ArtSegError
        A table is missing or cannot be read, or no measurement fits.
    """
    tables = [_read(folder, objects) for folder in (before, after)]
    common = [
        column
        for column in tables[0].columns
        if column in tables[1].columns
        and not column.startswith(_NO_MEASUREMENT)
        and all(table.empty or pd.api.types.is_numeric_dtype(table[column]) for table in tables)
        and (not measurements or any(wanted in column for wanted in measurements))
    ]
    if not common:
        raise ArtSegError(
            f"Expected measurements with {' or '.join(measurements) or 'numbers'} in both {objects}.csv, but there are "
            f"none. {before / (objects + '.csv')} has: {', '.join(map(str, tables[0].columns))}."
        )
    means = [[float(table[column].mean()) for column in common] for table in tables]
    count = Change("Count", float(len(tables[0])), float(len(tables[1])))
    return [count, *(Change(*row) for row in zip(common, *means, strict=True))]


def _read(folder: Path, objects: str) -> pd.DataFrame:
    file = folder / f"{objects}.csv"
    try:
        return pd.read_csv(file)
    except (OSError, ValueError) as error:
        there = ", ".join(sorted(path.stem for path in folder.glob("*.csv"))) or "no tables"
        raise ArtSegError(
            f"Expected CellProfiler's table at {file}, but it could not be read ({error}). {folder} has: {there}. "
            "Name the objects with --objects."
        ) from error
