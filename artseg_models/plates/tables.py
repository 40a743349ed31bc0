"""Fields, wells and objects of a plate, out of a `segment` run or out of what CellProfiler wrote."""

from __future__ import annotations

import contextlib
import math
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from artseg_models.cellprofiler import CHANNELS
from artseg_models.errors import ArtSegError
from artseg_models.images import read_mask_image
from artseg_models.impact.wells import plate_folders, well_name

COUNT = "Count"
_MEASURED = ("AreaShape_Area", "Intensity_MeanIntensity_")
"""What is compared of objects: size and mean intensities."""
_PATTERN = r"(?:(?P<plate>[^/\\]+?)_)?(?P<well>[A-P]\d{1,2})(?:[_-](?:s|f|site|field)?(?P<site>\d+))?(?![0-9])"
_CENTRE = ("Location_Center_Y", "Location_Center_X")

Key = tuple[str, str, str]
"""Plate, well and site; where a name tells no well, the site is the name itself."""


@dataclass(frozen=True)
class Field:
    """One field of view.

    Attributes
    ----------
    plate, well, site : str
        Where it is; the well is empty where its name tells none.
    name : str
        Of the image, without its ending.
    contaminated : float
        Share of the field under artifacts, 0 to 1; NaN where it could not be segmented.
    probability : float
        The classifier's probability of artifact; NaN where there is none.
    image, mask : Path or None
        The brightfield image and its artifact mask, where they are still there.
    error : str
        Why it could not be segmented.
    unlike : float
        Distance from the training images (`artseg_models.likeness`); NaN where it was not measured.
    taken : datetime or None
        When the image was taken, as its file says.
    """

    plate: str
    well: str
    site: str
    name: str
    contaminated: float
    probability: float = math.nan
    image: Path | None = None
    mask: Path | None = None
    error: str = ""
    unlike: float = math.nan
    taken: datetime | None = None

    @property
    def key(self) -> Key:
        """Plate, well and site."""
        return self.plate, self.well, self.site

    @property
    def shown(self) -> str:
        """What to call it on a page."""
        if not self.well:
            return self.name
        return f"{self.plate + ' ' if self.plate else ''}{self.well}{', site ' + self.site if self.site else ''}"


@dataclass(frozen=True)
class Measured:
    """What one run of a pipeline measured.

    Attributes
    ----------
    objects : DataFrame
        A line an object: `key` (a `Key`), AreaShape_Area and mean intensities.
    keys : tuple of Key
        All fields that were measured, also those without objects.
    images : DataFrame
        The table of images, with `key`.
    """

    objects: pd.DataFrame
    keys: tuple[Key, ...]
    images: pd.DataFrame

    @property
    def measures(self) -> list[str]:
        """Names of what was measured of objects, size first."""
        return [name for name in self.objects.columns if name.startswith(_MEASURED)]


@dataclass(frozen=True)
class Plate:
    """Everything that the report is about.

    Attributes
    ----------
    fields : tuple of Field
        In the order of the tables, which is that of acquisition where files are named so.
    without, masked : Measured or None
        Objects without and with artifacts removed; None where no measurements were given.
    model : mapping
        Which model, with which settings.
    rule : str
        How artifacts were taken out of `masked`, in words.
    notes : tuple of str
        What could not be read or told.
    """

    fields: tuple[Field, ...]
    without: Measured | None = None
    masked: Measured | None = None
    model: Mapping[str, str] = field(default_factory=dict[str, str])
    rule: str = ""
    notes: tuple[str, ...] = ()

    @property
    def plates(self) -> tuple[str, ...]:
        """Names of plates, in order."""
        return tuple(dict.fromkeys(one.plate for one in self.fields))


def place_of(name: str, pattern: str | None = None) -> Key:
    """Read plate, well and site from the name of an image.

    Parameters
    ----------
    name : str
        Without ending.
    pattern : str, optional
        Regular expression with the groups well and if wanted plate and site; by default names such as A01_s1,
        plate1_A01_f03 or A1-2 anywhere in the name.

    Raises
    ------
    ArtSegError
        The pattern is no regular expression or has no group well.
    """
    try:
        found = re.search(pattern or rf"(?<![A-Za-z0-9]){_PATTERN}", name)
    except re.error as error:
        raise ArtSegError(
            f"Expected a regular expression for the names of images, got '{pattern}': {error}."
        ) from error
    if found is None:
        return "", "", name
    groups = found.groupdict()
    if "well" not in groups:
        raise ArtSegError(f"Expected a group (?P<well>...) in the pattern '{pattern}'.")
    return groups.get("plate") or "", well_name(groups["well"]), groups.get("site") or ""


# ---- a run of artseg segment ----


def read_segmented(folder: Path, *, images: Path | None = None, pattern: str | None = None) -> Plate:
    """Read what `artseg segment` wrote.

    Parameters
    ----------
    folder : Path
        With segmentation.csv and the masks.
    images : Path, optional
        Where the images are now, if not where they were segmented.
    pattern : str, optional
        See `place_of`.

    Raises
    ------
    ArtSegError
        The table is missing or damaged.
    """
    table = _csv(folder / "segmentation.csv")
    if "image" not in table.columns or "area_fraction" not in table.columns:
        raise ArtSegError(f"Expected {folder / 'segmentation.csv'} of `artseg segment`, but it has other columns.")
    stems = [Path(str(image)).stem for image in table["image"]]
    if len(set(stems)) < len(stems):
        stems = [f"{Path(str(image)).parent.name}_{Path(str(image)).stem}" for image in table["image"]]
    fields: list[Field] = []
    for row, stem in zip(table.to_dict("records"), stems, strict=True):
        image = Path(str(row["image"]))
        mask = folder / f"{stem}_artifacts.tif"
        plate, well, site = place_of(stem, pattern)
        fields.append(
            Field(
                plate=plate,
                well=well,
                site=site,
                name=stem,
                contaminated=_number(row.get("area_fraction")),
                probability=_number(row.get("artifact_probability")),
                image=_first_file(image, None if images is None else images / image.name),
                mask=_first_file(mask),
                error="" if _blank(row.get("error")) else str(row["error"]),
            )
        )
    if not fields:
        raise ArtSegError(f"{folder / 'segmentation.csv'} names no images. Segment some first.")
    done = table[table["model_id"].notna()] if "model_id" in table.columns else table.iloc[:0]
    model = _model_of(done, {name: name for name in ("model_id", "model_version", "model_sha256", "cutoff")})
    return Plate(tuple(fields), model=model)


# ---- CellProfiler's tables ----


def read_results(
    source: Path,
    *,
    objects: str = "Nuclei",
    brightfield: str = "Brightfield",
    images: Path | None = None,
    pattern: str | None = None,
) -> tuple[list[Field], Measured, dict[str, str]]:
    """Read what CellProfiler wrote: fields with their artifacts, and objects.

    Parameters
    ----------
    source : Path
        A folder with Image.csv and OBJECTS.csv, a folder of such, one a plate, or the SQLite file of ExportToDatabase.
    objects : str
        Which objects.
    brightfield : str
        Name of the brightfield image in the pipeline.
    images : Path, optional
        Where the brightfield images are now.
    pattern : str, optional
        See `place_of`, for tables without Metadata_Well.

    Returns
    -------
    fields : list of Field
        `contaminated` is NaN where the pipeline measured no ArtSeg_AreaFraction.
    measured : Measured
        The objects.
    model : dict
        Which model the pipeline used; empty where none.

    Raises
    ------
    ArtSegError
        A table or column is missing.
    """
    plates_of = plate_folders(source)
    if plates_of:
        parts = [
            read_results(
                folder,
                objects=objects,
                brightfield=brightfield,
                images=None
                if images is None
                else (images / folder.name if (images / folder.name).is_dir() else images),
                pattern=pattern,
            )
            for folder in plates_of
        ]
        return _joined([folder.name for folder in plates_of], parts)
    image_table, object_table, folder = _tables(source, objects)
    names = _names_of(image_table, brightfield)
    keys = _keys_of(image_table, names, pattern)
    area = next((name for name in image_table.columns if str(name).startswith("ArtSeg_AreaFraction")), None)
    probability = next((name for name in image_table.columns if re.match(r"ArtSeg_Probability", str(name))), None)
    masks = {} if folder is None else {path.stem: path for path in sorted(folder.rglob("*_artifacts.tif*"))}
    given = {} if folder is None else _files_given(folder / CHANNELS)
    fields: list[Field] = []
    for row, key, name in zip(image_table.to_dict("records"), keys, names, strict=True):
        there = _path_of(row, brightfield)
        fields.append(
            Field(
                *key,
                name=name,
                contaminated=math.nan if area is None else _number(row[area]),
                probability=math.nan if probability is None else _number(row[probability]),
                image=_first_file(
                    there,
                    None if there is None else given.get(there.name),
                    *(() if images is None or there is None else _moved(there.name, given, images)),
                ),
                mask=masks.get(f"{name}_artifacts"),
            )
        )
    wanted = ["ImageNumber", *(name for name in object_table.columns if str(name).startswith((*_MEASURED, *_CENTRE)))]
    own = object_table[[name for name in wanted if name in object_table.columns]].copy()
    key_of = dict(zip(image_table["ImageNumber"].tolist(), keys, strict=True))
    own = own[own["ImageNumber"].isin(list(key_of))]
    own = _keyed(own.drop(columns="ImageNumber"), [key_of[number] for number in own["ImageNumber"].tolist()])
    image_table = _keyed(image_table, keys)
    model = _model_of(
        image_table,
        {
            "model_id": "ArtSeg_ModelID",
            "model_version": "ArtSeg_ModelVersion",
            "model_sha256": "ArtSeg_ModelSHA256",
            "cutoff": "ArtSeg_Cutoff",
        },
    )
    return fields, Measured(own, tuple(keys), image_table), model


def without_artifacts(measured: Measured, fields: Sequence[Field]) -> Measured:
    """Leave out the objects whose centre lies under the artifact mask of their field.

    Parameters
    ----------
    measured : Measured
        Objects of a run without ArtSeg, with Location_Center_X and _Y.
    fields : sequence of Field
        With masks; objects of fields without one stay.

    Raises
    ------
    ArtSegError
        The objects have no location.
    """
    if not set(_CENTRE) <= set(measured.objects.columns):
        raise ArtSegError(
            f"Expected {' and '.join(_CENTRE)} of the objects, to tell which of them lie under artifacts. Let the "
            "pipeline export all measurements."
        )
    masks = {one.key: one.mask for one in fields}
    kept = np.ones(len(measured.objects), dtype=np.bool_)
    rows_of = measured.objects.groupby("key", sort=False).indices
    for key, rows in rows_of.items():
        path = masks.get(key)  # pyright: ignore[reportArgumentType, reportCallIssue]  - pandas calls keys scalars
        if path is None:
            continue
        mask: NDArray[Any] = read_mask_image(path) > 0
        centres = measured.objects[list(_CENTRE)].to_numpy(dtype=np.float64)[rows]
        nearest = np.clip(np.nan_to_num(np.rint(centres)).astype(np.int64), 0, np.array(mask.shape) - 1)
        kept[rows] = ~mask[nearest[:, 0], nearest[:, 1]]
    return replace(measured, objects=measured.objects[kept])


def with_times(plate: Plate) -> Plate:
    """Read when the images were taken; nothing changes unless every file says so (tag DateTime of TIFF)."""
    taken = [None if one.image is None else _time_of(one.image) for one in plate.fields]
    if any(time is None for time in taken):
        return plate
    fields = [replace(one, taken=time) for one, time in zip(plate.fields, taken, strict=True)]
    return replace(plate, fields=tuple(fields))


def _time_of(path: Path) -> datetime | None:
    with contextlib.suppress(OSError, ValueError, tifffile.TiffFileError), tifffile.TiffFile(path) as opened:
        tag: Any = opened.pages.first.tags.get("DateTime")
        return None if tag is None else datetime.strptime(str(tag.value).strip(), "%Y:%m:%d %H:%M:%S")
    return None


def read_plate(
    source: Path,
    *,
    without: Path | None = None,
    objects: str = "Nuclei",
    brightfield: str = "Brightfield",
    images: Path | None = None,
    pattern: str | None = None,
) -> Plate:
    """Read a plate from a `segment` run or from CellProfiler's results, and measurements without removal of artifacts.

    Parameters
    ----------
    source : Path
        Folder of `artseg segment`, or results of a pipeline with SegmentArtifacts (folder, folder of plates, SQLite).
    without : Path, optional
        Results of the pipeline without artifacts removed. Beside a `segment` run these are all that is needed: objects
        whose centre lies under a mask are taken out. Beside results they are compared with these.
    objects, brightfield, images, pattern
        As in `read_results`.

    Raises
    ------
    ArtSegError
        Nothing of the kind is there, or the two have no field in common.
    """
    options: dict[str, Any] = {"objects": objects, "brightfield": brightfield, "pattern": pattern}
    if (source / "segmentation.csv").is_file():
        plate = read_segmented(source, images=images, pattern=pattern)
        if without is None:
            return plate
        _, before, _ = read_results(without, **options)
        before = _matched(before, plate.fields, source, without)
        return replace(
            plate,
            without=before,
            masked=without_artifacts(before, plate.fields),
            rule=f"{objects} whose centre lies under an artifact are left out.",
        )
    fields, masked, model = read_results(source, images=images, **options)
    if all(math.isnan(one.contaminated) for one in fields):
        raise ArtSegError(
            f"Expected ArtSeg_AreaFraction in the table of images of {source}: results of a pipeline with "
            "SegmentArtifacts. For results without it, run `artseg segment` on the brightfield images and give its "
            "folder, and these results as --without."
        )
    before = None
    if without is not None:
        _, before, _ = read_results(without, **options)
        before = _matched(before, fields, source, without)
    return Plate(
        tuple(fields),
        without=before,
        masked=masked,
        model=model,
        rule="the pipeline's own: what it measured with artifacts masked.",
    )


def _matched(measured: Measured, fields: Sequence[Field], source: Path, without: Path) -> Measured:
    """Give measurements the names of the fields, where only one side names plates; refuse two that do not belong."""
    known = {one.key for one in fields}
    if not known & set(measured.keys):
        by_place = {one.key[1:]: one.key for one in fields}
        if len(by_place) == len(fields) and any(key[1:] in by_place for key in measured.keys):
            renamed = {key: by_place.get(key[1:], key) for key in measured.keys}
            objects = _keyed(measured.objects, [renamed[key] for key in measured.objects["key"]])
            images = _keyed(measured.images, [renamed[key] for key in measured.images["key"]])
            return Measured(objects, tuple(renamed[key] for key in measured.keys), images)
        raise ArtSegError(
            f"{source} and {without} have no field in common: {_few(known)} against {_few(set(measured.keys))}. Give "
            "results of the same fields; --pattern tells wells and sites in the names of images."
        )
    return measured


def _keyed(table: pd.DataFrame, keys: Sequence[Key]) -> pd.DataFrame:
    """Give a table the column `key`, in place of another."""
    column = pd.Series(list(keys), index=table.index, name="key", dtype=object)
    return pd.concat([table.drop(columns="key", errors="ignore"), column], axis=1)


def _few(keys: set[Key]) -> str:
    return ", ".join(" ".join(part for part in key if part) for key in sorted(keys)[:3])


def _joined(
    names: Sequence[str], parts: Sequence[tuple[list[Field], Measured, dict[str, str]]]
) -> tuple[list[Field], Measured, dict[str, str]]:
    fields: list[Field] = []
    objects: list[pd.DataFrame] = []
    images: list[pd.DataFrame] = []
    keys: list[Key] = []
    for name, (own, measured, _) in zip(names, parts, strict=True):
        fields += [replace(one, plate=name) for one in own]
        keys += [(name, *key[1:]) for key in measured.keys]
        objects.append(_keyed(measured.objects, [(name, key[1], key[2]) for key in measured.objects["key"]]))
        images.append(_keyed(measured.images, [(name, key[1], key[2]) for key in measured.images["key"]]))
    joined = Measured(pd.concat(objects, ignore_index=True), tuple(keys), pd.concat(images, ignore_index=True))
    return fields, joined, parts[0][2]


def _tables(source: Path, objects: str) -> tuple[pd.DataFrame, pd.DataFrame, Path | None]:
    if source.is_dir():
        images, own = _csv(source / "Image.csv"), _csv(source / f"{objects}.csv")
        folder: Path | None = source
    else:
        images, own = _sqlite(source, objects)
        folder = source.parent
    for table, what in ((images, "images"), (own, objects)):
        if "ImageNumber" not in table.columns:
            raise ArtSegError(f"Expected the column ImageNumber in the table of {what} of {source}, but there is none.")
    return images, own, folder


def _sqlite(source: Path, objects: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    if not source.is_file():
        raise ArtSegError(f"Expected results of CellProfiler or of `artseg segment` at {source}, but nothing is there.")
    try:
        with closing(sqlite3.connect(f"file:{source.as_posix()}?mode=ro", uri=True)) as opened:
            names = [row[0] for row in opened.execute("select name from sqlite_master where type in ('table','view')")]
            of_images = [name for name in names if name.lower().endswith("per_image")]
            # one table of all objects, or one for each kind of object
            of_objects = [name for name in names if name.lower().endswith((f"per_{objects.lower()}", "per_object"))]
            if len(of_images) != 1 or not of_objects:
                raise ArtSegError(
                    f"Expected the tables ..._Per_Image and ..._Per_Object (or ..._Per_{objects}) in {source}, but it "
                    f"has {', '.join(names) or 'no tables'}. Let ExportToDatabase write one experiment a file."
                )
            images = pd.read_sql_query(f'select * from "{of_images[0]}"', opened)
            own = pd.read_sql_query(f'select * from "{of_objects[0]}"', opened)
    except (sqlite3.Error, pd.errors.DatabaseError) as error:
        raise ArtSegError(f"Expected an SQLite file of ExportToDatabase at {source}: {error}.") from error
    images = images.rename(columns=lambda name: str(name).removeprefix("Image_"))
    own = own.rename(columns=lambda name: str(name).removeprefix(f"{objects}_"))
    return images, own


def _csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ArtSegError(f"Expected a CSV table at {path}, but it could not be read: {error}.") from error


def _names_of(images: pd.DataFrame, brightfield: str) -> list[str]:
    """Name each field after its brightfield image, or the first image that the table has."""
    columns = [name for name in images.columns if str(name).startswith("FileName_")]
    chosen = f"FileName_{brightfield}" if f"FileName_{brightfield}" in columns else next(iter(columns), None)
    if chosen is None:
        return [f"image {number}" for number in images["ImageNumber"]]
    return [Path(str(name)).stem for name in images[chosen]]


def _keys_of(images: pd.DataFrame, names: Sequence[str], pattern: str | None) -> list[Key]:
    if pattern is None and "Metadata_Well" in images.columns:
        plates = images["Metadata_Plate"] if "Metadata_Plate" in images.columns else [""] * len(images)
        site = next((name for name in ("Metadata_Site", "Metadata_Field") if name in images.columns), None)
        sites = [""] * len(images) if site is None else images[site]
        return [
            place_of(name)
            if _blank(well)
            else ("" if _blank(plate) else str(plate), well_name(well), "" if _blank(one) else _plain(one))
            for name, plate, well, one in zip(names, plates, images["Metadata_Well"], sites, strict=True)
        ]
    return [place_of(name, pattern) for name in names]


def _path_of(row: Mapping[Any, Any], brightfield: str) -> Path | None:
    name, folder = row.get(f"FileName_{brightfield}"), row.get(f"PathName_{brightfield}")
    return None if _blank(name) else Path("." if _blank(folder) else str(folder)) / str(name)


def _files_given(path: Path) -> dict[str, Path]:
    """Tell which file each name stood for, where `artseg cellprofiler run` found channels by patterns."""
    if not path.is_file():
        return {}
    table = _csv(path)
    return {str(name): Path(str(image)) for name, image in zip(table["name"], table["image"], strict=True)}


def _moved(name: str, given: Mapping[str, Path], images: Path) -> tuple[Path, ...]:
    """Say where a file may be whose folder was moved: under the name that CellProfiler saw, or under its own."""
    return (images / name, *((images / given[name].name,) if name in given else ()))


def _first_file(*places: Path | None) -> Path | None:
    return next((place for place in places if place is not None and place.is_file()), None)


def _model_of(table: pd.DataFrame, columns: Mapping[str, str]) -> dict[str, str]:
    """Say which model it was; a column may end with the name of the artifact objects."""
    found: dict[str, str] = {}
    for name, column in columns.items():
        own = next((one for one in table.columns if one == column or str(one).startswith(f"{column}_")), None)
        if own is not None and len(table):
            found[name] = ", ".join(dict.fromkeys(_plain(value) for value in table[own] if not _blank(value)))
    return found


def _number(value: object) -> float:
    return math.nan if _blank(value) else float(str(value))


def _plain(value: object) -> str:
    text = str(value)
    return text.removesuffix(".0") if isinstance(value, float) else text


def _blank(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() == ""
