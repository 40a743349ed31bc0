"""Intensities of wells: a plate layout, and cell and background intensity from tables or from images.

The intensity of a well is that of its fields, averaged; the specific intensity is cell minus background, as in the
paper. What cannot be used gets a state that says why, and stays in every table.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from artseg_models.errors import ArtSegError
from artseg_models.images import find_images, read_image, read_mask_image

MOST_SATURATED = 0.01
"""Wells in which more of the cells' pixels are at the camera's top are not used."""
LEAST_USABLE = 0.05
"""Wells of whose area less than this is free of artifacts count as lost to artifacts."""

WellState = Literal["used", "not measured", "empty", "lost to artifacts", "no background", "saturated", "outlier"]

_UNITS = {"M": 0.0, "mM": -3.0, "uM": -6.0, "nM": -9.0, "pM": -12.0}


@dataclass(frozen=True)
class Place:
    """One well of the layout.

    Attributes
    ----------
    plate, well : str
        Where it is; the well as letter and two digits, A01.
    experiment, compound : str
        Wells of one experiment are fitted together; experiments of one compound are replicates.
    log_concentration : float
        log10 of the concentration in mol/l (or in the layout's own unit where its column names none); -inf for 0.
    true_log_ic50 : float
        Of a simulated plate; otherwise NaN.
    """

    plate: str
    well: str
    experiment: str
    compound: str
    log_concentration: float
    true_log_ic50: float = math.nan


@dataclass(frozen=True)
class FieldIntensity:
    """What was measured in one field of view.

    Attributes
    ----------
    plate, well : str
        Where it is; the plate is empty where the table names none.
    cell, background : float
        Mean intensity of cell pixels and of the others, masked pixels left out; NaN where there are none.
    usable : float
        Share of the field that was not masked, 0 to 1; NaN where it is not known.
    saturated : float
        Share of the cells' pixels at the camera's top; NaN where it is not known.
    """

    plate: str
    well: str
    cell: float
    background: float
    usable: float = math.nan
    saturated: float = math.nan


@dataclass(frozen=True)
class Well:
    """A well under one treatment of artifacts.

    Attributes
    ----------
    place : Place
        Where it is and what is in it.
    cell, background : float
        Averages over the fields that have them.
    fields, fields_used : int
        How many fields were measured, and how many of them have a cell intensity.
    usable, saturated : float
        Means over the fields; NaN where not known.
    state : str
        "used", or why it is not: see `average_wells`; "outlier" is set by the fit.
    fitted : bool
        Whether the well took part in the fit.
    """

    place: Place
    cell: float
    background: float
    fields: int
    fields_used: int
    usable: float
    saturated: float
    state: WellState
    fitted: bool

    @property
    def specific(self) -> float:
        """Cell intensity above background."""
        return self.cell - self.background


# ---- layout ----


def well_name(name: object) -> str:
    """Give a well's name as letter and two digits: 'a1', 'A-01' and 'A01' are all A01.

    Raises
    ------
    ArtSegError
        It is no well.
    """
    found = re.fullmatch(r"\s*([A-Za-z]{1,2})[\s_-]*0*(\d{1,2})(?:\.0)?\s*", str(name))
    if found is None:
        raise ArtSegError(f"Expected the name of a well such as A01, got '{name}'.")
    return f"{found.group(1).upper()}{int(found.group(2)):02d}"


def read_layout(path: Path) -> list[Place]:
    """Read a plate layout.

    Parameters
    ----------
    path : Path
        CSV, a line a well. Columns: well; concentration, or concentration_M, _mM, _uM, _nM or _pM; and if wanted
        plate, experiment, compound and true_log_ic50. Wells without a concentration (controls of another kind, empty
        ones) are no part of any curve and are left out.

    Returns
    -------
    list of Place
        In the order of the file.

    Raises
    ------
    ArtSegError
        A column is missing, a concentration is negative or no number, or a well occurs twice.
    """
    table = _read_csv(path)
    units = [name for name in table.columns if re.fullmatch(r"concentration(_(M|mM|uM|nM|pM))?", name)]
    if "well" not in table.columns or len(units) != 1:
        raise ArtSegError(
            f"Expected in {path} the column well and one of concentration, concentration_M, concentration_nM ..., "
            f"but it has {', '.join(map(str, table.columns))}."
        )
    shift = _UNITS.get(units[0].partition("_")[2], 0.0)
    places: list[Place] = []
    for row in table.to_dict("records"):
        if _missing(row[units[0]]):
            continue
        try:
            amount = float(str(row[units[0]]))
        except ValueError:
            amount = math.nan
        if not amount >= 0 or math.isinf(amount):
            raise ArtSegError(
                f"Expected a concentration of 0 or more for well {row['well']} in {path}, got '{row[units[0]]}'."
            )
        truth = row.get("true_log_ic50")
        places.append(
            Place(
                plate=_word(row.get("plate"), ""),
                well=well_name(row["well"]),
                experiment=_word(row.get("experiment"), _word(row.get("compound"), "experiment")),
                compound=_word(row.get("compound"), _word(row.get("experiment"), "compound")),
                log_concentration=math.log10(amount) + shift if amount > 0 else -math.inf,
                true_log_ic50=math.nan if _missing(truth) else float(str(truth)),
            )
        )
    seen: set[tuple[str, str]] = set()
    for place in places:
        if (place.plate, place.well) in seen:
            raise ArtSegError(
                f"Well {place.well}{f' of plate {place.plate}' if place.plate else ''} occurs twice in {path}. Give "
                "each well one line; plates are told apart by a column plate."
            )
        seen.add((place.plate, place.well))
    if not places:
        raise ArtSegError(f"Expected wells with a concentration in {path}, but there are none.")
    return places


# ---- CellProfiler's tables ----


def read_measurements(
    source: Path,
    *,
    cell: str,
    background: str | None,
    usable: str | None = None,
    saturated: str | None = None,
    well: str | None = None,
    plate: str | None = None,
) -> list[FieldIntensity]:
    """Read the intensities of fields from what CellProfiler wrote.

    Parameters
    ----------
    source : Path
        A folder with Image.csv, a folder of such folders, one a plate and named as the layout names it, a CSV file
        with a line an image, or an SQLite file of ExportToDatabase (its table ..._Per_Image).
    cell, background : str
        Columns of the cells' and the background's mean intensity. `OBJECT:COLUMN` takes a column of OBJECT.csv
        beside Image.csv and averages it over the image's objects, weighted by AreaShape_Area where that is measured:
        that is the mean over their pixels. A background of None counts as 0.
    usable, saturated : str, optional
        Columns of the share of the field without artifacts (an ArtSeg_AreaFraction column is turned round), and of
        the share of saturated pixels (an ImageQuality_PercentMaximal column is divided by 100).
    well, plate : str, optional
        Columns of the names; without them Metadata_Well, or row and column apart, and Metadata_Plate are looked for.

    Returns
    -------
    list of FieldIntensity
        A line an image.

    Raises
    ------
    ArtSegError
        A file or column is missing, or a well's name cannot be read.
    """
    plates_of = plate_folders(source)
    if plates_of:
        return [
            replace(field, plate=folder.name)
            for folder in plates_of
            for field in read_measurements(
                folder,
                cell=cell,
                background=background,
                usable=usable,
                saturated=saturated,
                well=well,
                plate=plate,
            )
        ]
    table = _image_table(source)
    wells = _wells_of(table, well, source)
    plates = _optional(table, plate or "Metadata_Plate", source, needed=plate is not None)
    values = {
        "cell": _numbers(table, cell, source),
        "background": np.zeros(len(table)) if background is None else _numbers(table, background, source),
        "usable": _shares(table, usable, source),
        "saturated": _shares(table, saturated, source),
    }
    return [
        FieldIntensity(
            plate="" if plates is None else _word(plates[at], ""),
            well=wells[at],
            **{name: float(column[at]) for name, column in values.items()},
        )
        for at in range(len(table))
    ]


def plate_folders(source: Path) -> list[Path]:
    """Give the folders of plates that hold CellProfiler's tables, where `source` has no Image.csv itself."""
    if not source.is_dir() or (source / "Image.csv").is_file():
        return []
    return [folder for folder in sorted(source.iterdir()) if (folder / "Image.csv").is_file()]


# ---- images ----


def measure_images(
    images: Path,
    cells: Path,
    *,
    masks: Path | None = None,
    channel: str = "signal",
    pattern: str = r"(?:(?P<plate>.+)_)?(?P<well>[A-P]\d{1,2})_s\d+",
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> list[FieldIntensity]:
    """Measure the intensities of fields from images, label maps of cells and artifact masks.

    Parameters
    ----------
    images : Path
        Folder with FIELD_channel.tiff (or .tif, .png); FIELD fits `pattern`. Or a folder of such folders, one a plate;
        then `cells` and `masks` hold a folder a plate too, under the same names, and where that has a folder `truth`
        (a simulated plate), it is taken from there.
    cells : Path
        Folder with FIELD_cells.tiff, or FIELD_brightfield_cells.tif as `artseg segment` writes with a package of cells:
        label maps, 0 = background.
    masks : Path, optional
        Folder with FIELD_artifacts.tiff or FIELD_brightfield_artifacts.tiff: above 0 = artifact. Their pixels count
        neither as cell nor as background. A field without a mask is an error, a clean field has an empty mask.
    channel : str
        Which images are measured.
    pattern : str
        Regular expression with the group `well` and if wanted `plate`.
    progress : callable
        Given the images, passes them on one by one.

    Returns
    -------
    list of FieldIntensity
        A line a field, intensities in grey values.

    Raises
    ------
    ArtSegError
        No image fits, or a label map or mask is missing or of another size.
    """
    plates = [(None, images, cells, masks)]
    if images.is_dir() and not any(path.stem.endswith(f"_{channel}") for path in _images_of(images)):
        # a folder a plate
        plates = [
            (
                folder.name,
                folder,
                _truth_of(cells / folder.name),
                None if masks is None else _truth_of(masks / folder.name),
            )
            for folder in sorted(images.iterdir())
            if folder.is_dir() and any(path.stem.endswith(f"_{channel}") for path in _images_of(folder))
        ]
    found = [
        (path, plate, of_cells, of_masks)
        for plate, folder, of_cells, of_masks in plates
        for path in find_images(folder)
        if path.stem.endswith(f"_{channel}")
    ]
    if not found:
        raise ArtSegError(f"Expected images named FIELD_{channel}.tiff in {images}, but there are none.")
    places = iter(found)
    measured: list[FieldIntensity] = []
    for _ in progress([path for path, *_ in found]):
        path, plate, of_cells, of_masks = next(places)
        field = path.stem.removesuffix(f"_{channel}")
        named = re.fullmatch(pattern, field)
        if named is None:
            raise ArtSegError(
                f"Expected names such as A01_s1_{channel}.tiff, from which the well can be read, got {path.name}."
            )
        pixels = read_image(path).pixels
        inside = _beside(of_cells, field, ("cells", "brightfield_cells"), pixels.shape) > 0
        kept = np.ones(pixels.shape, dtype=np.bool_)
        if of_masks is not None:
            kept = _beside(of_masks, field, ("artifacts", "brightfield_artifacts"), pixels.shape) == 0
        top = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else math.inf
        on, off = pixels[inside & kept], pixels[~inside & kept]
        measured.append(
            FieldIntensity(
                plate=plate or named.groupdict().get("plate") or "",
                well=well_name(named["well"]),
                cell=float(on.mean()) if on.size else math.nan,
                background=float(off.mean()) if off.size else math.nan,
                usable=float(kept.mean()),
                saturated=float((on >= top).mean()) if on.size else math.nan,
            )
        )
    return measured


def _images_of(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() in (".tif", ".tiff", ".png")]


def _truth_of(folder: Path) -> Path:
    """Give the plate's own folder, or the truth in it where it is a simulated plate."""
    return folder / "truth" if (folder / "truth").is_dir() else folder


# ---- wells ----


def average_wells(
    places: Sequence[Place],
    fields: Sequence[FieldIntensity],
    *,
    most_saturated: float = MOST_SATURATED,
    least_usable: float = LEAST_USABLE,
) -> list[Well]:
    """Average fields to wells and say of each whether it can be used.

    The first rule that applies gives the state: "not measured" (no field of it in the table), "lost to artifacts"
    (less than `least_usable` of its area is free of artifacts), "empty" (no field has cells), "no background" (no
    field has pixels without cells), "saturated" (more than `most_saturated` of the cells' pixels at the camera's
    top), else "used".

    Parameters
    ----------
    places : sequence of Place
        The layout; wells that are not in it are left out.
    fields : sequence of FieldIntensity
        The measurements. The plate is compared where both sides name one.
    most_saturated, least_usable : float
        See above.

    Returns
    -------
    list of Well
        In the layout's order.
    """
    by_plate: dict[tuple[str, str], list[FieldIntensity]] = {}
    for field in fields:
        by_plate.setdefault((field.plate, field.well), []).append(field)
    plates = {field.plate for field in fields}
    known = {place.plate for place in places}
    # a plate's name that only one side has (a barcode in the file names) tells nothing apart
    single = len(plates) == 1 and len(known) == 1
    wells: list[Well] = []
    for place in places:
        own = by_plate.get((next(iter(plates)) if single else place.plate, place.well), [])
        usable, saturated = _mean(one.usable for one in own), _mean(one.saturated for one in own)
        cell, background = _mean(one.cell for one in own), _mean(one.background for one in own)
        state: WellState = "used"
        if not own:
            state = "not measured"
        elif usable < least_usable:
            state = "lost to artifacts"
        elif math.isnan(cell):
            state = "empty"
        elif math.isnan(background):
            state = "no background"
        elif saturated > most_saturated:
            state = "saturated"
        wells.append(
            Well(
                place=place,
                cell=cell,
                background=background,
                fields=len(own),
                fields_used=sum(not math.isnan(one.cell) for one in own),
                usable=usable,
                saturated=saturated,
                state=state,
                fitted=state == "used",
            )
        )
    return wells


def beside_the_layout(places: Sequence[Place], fields: Sequence[FieldIntensity]) -> list[str]:
    """Name the measured wells that the layout does not have: they take part in no curve."""
    known = {place.well for place in places}
    return sorted({field.well for field in fields} - known)


def mark_outliers(wells: Sequence[Well], outliers: NDArray[np.bool_], *, drop: bool) -> list[Well]:
    """Call the wells outliers that are, and take them out of the fit if asked for.

    Parameters
    ----------
    wells : sequence of Well
        All of them in use.
    outliers : ndarray of bool of shape (N,)
        Which of them are outliers.
    drop : bool
        Whether outliers are kept out of the fit; otherwise they are named and stay in it.
    """
    return [
        replace(well, state="outlier", fitted=not drop) if outlier else well
        for well, outlier in zip(wells, outliers.tolist(), strict=True)
    ]


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _beside(folder: Path, field: str, names: Sequence[str], shape: tuple[int, ...]) -> NDArray[Any]:
    places = [folder / f"{field}_{name}{suffix}" for name in names for suffix in (".tiff", ".tif", ".png")]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise ArtSegError(
            f"Expected {places[0].name} in {folder}, but it is not there. Every field needs one, clean ones too."
        )
    image = read_mask_image(found)
    if image.shape != shape:
        raise ArtSegError(f"{found} is {image.shape[::-1]} pixels, its image {shape[::-1]}; make them alike.")
    return image


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ArtSegError(f"Expected a CSV table at {path}, but it could not be read: {error}.") from error


def _image_table(source: Path) -> pd.DataFrame:
    if source.is_dir():
        table = _read_csv(source / "Image.csv")
        table.attrs["folder"] = source
        return table
    if source.suffix.lower() not in (".db", ".sqlite", ".sqlite3"):
        table = _read_csv(source)
        table.attrs["folder"] = source.parent
        return table
    if not source.is_file():
        raise ArtSegError(f"Expected an SQLite file at {source}, but there is none.")
    try:
        with closing(sqlite3.connect(f"file:{source.as_posix()}?mode=ro", uri=True)) as opened:
            names = [row[0] for row in opened.execute("select name from sqlite_master where type in ('table','view')")]
            tables = [name for name in names if name.lower().endswith("per_image")]
            if len(tables) != 1:
                raise ArtSegError(
                    f"Expected one table ..._Per_Image in {source}, but it has {', '.join(names) or 'no tables'}. "
                    "Let ExportToDatabase write one experiment a file."
                )
            table = pd.read_sql_query(f'select * from "{tables[0]}"', opened)
    except sqlite3.Error as error:
        raise ArtSegError(f"Expected an SQLite file of ExportToDatabase at {source}: {error}.") from error
    return table.rename(columns=lambda name: str(name).removeprefix("Image_"))


def _numbers(table: pd.DataFrame, column: str, source: Path) -> NDArray[np.float64]:
    name, colon, own = column.partition(":")
    if colon:
        return _of_objects(table, name, own, source)
    if column not in table.columns:
        alike = [str(one) for one in table.columns if column.split("_")[-1].lower() in str(one).lower()][:8]
        raise ArtSegError(
            f"Expected the column {column} in {source}, but there is none. "
            + (f"Columns like it: {', '.join(alike)}." if alike else "Let the pipeline measure and export it.")
        )
    values = np.asarray(pd.to_numeric(table[column], errors="coerce"), dtype=np.float64)
    feature, mean, image = column.partition("_MeanIntensity_")
    pixels = f"{feature}_TotalArea_{image}"
    if mean and pixels in table.columns:
        # MeasureImageIntensity gives 0 for an image of which every pixel is masked
        values = np.where(np.asarray(table[pixels], dtype=np.float64) > 0, values, np.nan)
    return values


def _of_objects(table: pd.DataFrame, name: str, column: str, source: Path) -> NDArray[np.float64]:
    folder = table.attrs.get("folder")
    if folder is None:
        raise ArtSegError(f"{name}:{column} needs {name}.csv; from an SQLite file take the column of image means.")
    objects = _read_csv(Path(folder) / f"{name}.csv")
    for needed in (column, "ImageNumber"):
        if needed not in objects.columns:
            raise ArtSegError(f"Expected the column {needed} in {Path(folder) / f'{name}.csv'}, but there is none.")
    if "ImageNumber" not in table.columns:
        raise ArtSegError(f"Expected the column ImageNumber in {source}, but there is none.")
    value = np.asarray(pd.to_numeric(objects[column], errors="coerce"), dtype=np.float64)
    weight = (
        np.asarray(objects["AreaShape_Area"], dtype=np.float64)
        if "AreaShape_Area" in objects.columns
        else np.ones(value.size)
    )
    of_image = np.asarray(objects["ImageNumber"])
    good = np.isfinite(value) & np.isfinite(weight)
    means: list[float] = []
    for number in np.asarray(table["ImageNumber"]).tolist():
        own = good & (of_image == number)
        total = float(weight[own].sum())
        means.append(float((value[own] * weight[own]).sum()) / total if total > 0 else math.nan)
    return np.array(means, dtype=np.float64)


def _shares(table: pd.DataFrame, column: str | None, source: Path) -> NDArray[np.float64]:
    if column is None:
        return np.full(len(table), np.nan)
    values = _numbers(table, column, source)
    if "AreaFraction" in column:
        return 1 - values
    return values / 100 if "Percent" in column else values


def _optional(table: pd.DataFrame, column: str, source: Path, *, needed: bool) -> list[Any] | None:
    if column in table.columns:
        return table[column].tolist()
    if needed:
        raise ArtSegError(f"Expected the column {column} in {source}, but there is none.")
    return None


def _wells_of(table: pd.DataFrame, column: str | None, source: Path) -> list[str]:
    if column is not None or "Metadata_Well" in table.columns:
        values = _optional(table, column or "Metadata_Well", source, needed=True)
        assert values is not None
        return [well_name(value) for value in values]
    pairs: Mapping[str, str] = {"Metadata_WellRow": "Metadata_WellColumn", "Metadata_Row": "Metadata_Column"}
    for row, across in pairs.items():
        if row in table.columns and across in table.columns:
            return [well_name(f"{one}{two}") for one, two in zip(table[row], table[across], strict=True)]
    raise ArtSegError(
        f"Expected the well of each image in {source}, as Metadata_Well or as Metadata_WellRow and "
        "Metadata_WellColumn. Let the Metadata module read it from the file names, or name the column."
    )


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() == ""


def _word(value: object, otherwise: str) -> str:
    if _missing(value):
        return otherwise
    text = str(value).strip()
    return text.removesuffix(".0") if isinstance(value, float) else text
