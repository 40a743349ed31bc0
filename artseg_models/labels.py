"""Image-level labels and pixel masks: reading, splitting, checking, writing."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import logging
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from skimage import draw

from artseg_models.agreement import Agreement, Person, agreements, conflicts, people
from artseg_models.errors import ArtSegError
from artseg_models.files import write_text
from artseg_models.images import check_pixels, find_images, read_image, read_mask_image
from artseg_models.near_duplicates import near_duplicate_groups, perceptual_hash
from artseg_models.progress import track
from artseg_models.provenance import read_history

logger = logging.getLogger(__name__)

Label = Literal["clean", "artifact"]
Split = Literal["train", "validation", "test"]
MaskPolarity = Literal["auto", "artifact-high", "artifact-low"]

UNSURE = "unsure"
"""Stands in a table where a person could not tell, or people disagree; such images take no part in anything."""

LABELS: tuple[Label, ...] = get_args(Label)
SPLITS: tuple[Split, ...] = get_args(Split)

_COLUMNS = ("image", "label", "split", "group", "mask")
_POLARITY_COLUMN = "mask_polarity"
_KINDS_COLUMN = "kinds"
_KIND_COLUMN = "kind"
"""Of tables that `artseg label` keeps: one kind an image."""
_KIND_MASKS_COLUMN = "kind_masks"
_NOT_IN_KINDS = ";=,"
"""These part names and files in tables and commands."""
RESERVED_KINDS = ("artifact", "artifacts", "background", "clean", "unsure")
"""What tables, masks and packages call something else than a kind of artifact."""
_SIMULATED = "SIMULATED.txt"
_MASKS_LOOKED_AT = 64
"""Enough masks to tell the polarity of a data set, few enough to be quick."""
_UNCLEAR = 0.1
"""Mean fractions within 0.5 +- this say nothing about polarity."""
_LOPSIDED = 10
"""More images of one class for each of the other than this are worth a warning."""
_NAMED_AT_MOST = 5
_ROUND_CORNERS = 360
"""Corners of the polygon drawn for a circle or an ellipse: within a pixel up to a radius of 26,000 pixels."""

_fill = cast(
    "Callable[..., tuple[NDArray[np.int64], NDArray[np.int64]]]",
    draw.polygon,  # pyright: ignore[reportUnknownMemberType]
)


@dataclass(frozen=True)
class MaskSource:
    """Where the pixel mask of an image comes from.

    Attributes
    ----------
    path : Path
        A mask image, or the JSON of the VGG Image Annotator (version 2 or 1).
    artifact_high : bool
        True where high values mean artifact; polygons always do.
    """

    path: Path
    artifact_high: bool = True

    @property
    def polygons(self) -> bool:
        """Whether the mask is drawn as shapes rather than stored as pixels."""
        return self.path.suffix.lower() == ".json"


@dataclass(frozen=True)
class LabelledImage:
    """An image and what a person said of it.

    Attributes
    ----------
    path : Path
        The image file.
    label : {'clean', 'artifact'}
        Whether an artifact is seen anywhere in it.
    split : {'train', 'validation', 'test'} or None
        None where nobody has said.
    group : str
        Images of one group are near-duplicates and stay in one split; an image alone has its own name here.
    mask : MaskSource or None
        For scoring and for the strongly supervised baseline; None for clean images.
    kinds : tuple of str
        Kinds of artifact that it holds, sorted, each once; empty where nobody named any, and for clean images.
    kind_masks : mapping of str to MaskSource
        Where the pixels of a kind come from, for those of `kinds` that have a mask of their own.
    """

    path: Path
    label: Label
    split: Split | None
    group: str
    mask: MaskSource | None
    kinds: tuple[str, ...] = ()
    # a dictionary has no hash
    kind_masks: Mapping[str, MaskSource] = field(default_factory=dict[str, MaskSource], hash=False)

    @property
    def kinds_drawn(self) -> bool:
        """Whether `read_kind_mask` knows the pixels of every kind that the image holds."""
        if self.label == "clean":
            return True
        one_alone = len(self.kinds) == 1 and self.mask is not None
        return bool(self.kinds) and (one_alone or all(kind in self.kind_masks for kind in self.kinds))


@dataclass(frozen=True)
class LabelSet:
    """All labelled images of one source."""

    images: tuple[LabelledImage, ...]
    source: Path

    def of_split(self, split: Split) -> tuple[LabelledImage, ...]:
        """Images of one split, in the order of the source."""
        return tuple(image for image in self.images if image.split == split)


@dataclass
class LabelReport:
    """What `check_labels` found.

    Attributes
    ----------
    source : Path
        What was checked.
    counts : dict
        (split or None, label) to the number of images.
    unsure : int
        How many images are labelled unsure; they take no part in anything.
    masks : int
        How many artifact images have a mask.
    kinds : Counter
        Kind of artifact to the number of images that name it; empty where no image names any.
    without_kind : int
        How many artifact images name no kind.
    kind_masks : int
        How many artifact images have a mask for each of the kinds that they name.
    sizes : Counter
        (width, height) in pixels to the number of readable images.
    bit_depths : Counter
        Significant bits to the number of readable images.
    pixel_sizes_um : Counter
        Pixel size in micrometres, or None, to the number of readable images.
    groups : int
        How many groups there are.
    unreadable, missing, duplicates, crossing_groups
        Messages for unreadable images, missing files; images with the same pixels; groups in several splits.
    near_duplicates : list of tuple of str
        Images that show nearly the same and are not in one group, or not in one split.
    people, agreements, conflicts
        Who labelled how much and how fast, how far they agree, and where not: from the history beside the table.
    polarity : str
        How the masks are read, and why.
    errors, warnings : list of str
        What must and what should be mended.
    """

    source: Path
    counts: dict[tuple[Split | None, Label], int] = field(default_factory=dict[tuple[Split | None, Label], int])
    unsure: int = 0
    masks: int = 0
    kinds: Counter[str] = field(default_factory=Counter[str])
    without_kind: int = 0
    kind_masks: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter[tuple[int, int]])
    bit_depths: Counter[int] = field(default_factory=Counter[int])
    pixel_sizes_um: Counter[float | None] = field(default_factory=Counter[float | None])
    groups: int = 0
    unreadable: list[str] = field(default_factory=list[str])
    missing: list[str] = field(default_factory=list[str])
    duplicates: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    near_duplicates: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    people: list[Person] = field(default_factory=list[Person])
    agreements: list[Agreement] = field(default_factory=list[Agreement])
    conflicts: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    crossing_groups: dict[str, tuple[Split, ...]] = field(default_factory=dict[str, tuple[Split, ...]])
    polarity: str = ""
    errors: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])


@dataclass
class _Found:
    """Images as the source names them, and what is wrong with it."""

    images: list[LabelledImage] = field(default_factory=list[LabelledImage])
    missing: list[str] = field(default_factory=list[str])
    problems: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])
    polarity: str = ""
    unsure: int = 0


def read_labels(source: Path, *, mask_polarity: MaskPolarity = "auto") -> LabelSet:
    """Read the labels of a data set; images themselves are not opened.

    Parameters
    ----------
    source : Path
        A CSV file with the columns image and label, and if wanted split, group, mask, kinds (such as `dust;fibre`; or
        kind, with one) and kind_masks (`dust=FILE;fibre=FILE`). Paths are relative to the file; images labelled unsure
        are left out, further columns are not read;
        a folder that holds `labels.csv`; a folder with `clean/` and `artifact/`; or a folder with `train/`,
        `validation/` and `test/` of which each has them (the layout of ArtSeg-CHO-M4R). `artifact/` may hold the
        images in `x/` and the masks of the same names in `y/`, or the JSON of the VGG Image Annotator.
    mask_polarity : {'auto', 'artifact-high', 'artifact-low'}
        What the masks' high values mean. 'auto': artifact in a CSV file's masks; in folders it is decided
        for the whole data set, by which of the two covers less of the images and less of their borders.

    Returns
    -------
    LabelSet
        The images in the order of the source.

    Raises
    ------
    ArtSegError
        There is no such source, its layout is unknown, a file is missing, a value is not one of the known,
        an image stands twice, or the masks' polarity cannot be told.
    """
    found = _find(source, mask_polarity)
    problems = [*found.problems, *found.missing]
    if problems:
        raise ArtSegError(
            f"{source}: {_some(problems)} Mend this, then look at the whole with: artseg labels check {source}"
        )
    if not found.images:
        raise ArtSegError(f"{source} names no images. Expected at least one clean and one artifact image.")
    if found.polarity:
        logger.info("%s", found.polarity)
    if found.unsure:
        logger.info("%d images are labelled unsure and left out", found.unsure)
    return LabelSet(images=tuple(found.images), source=source)


def kinds_of(images: Iterable[LabelledImage]) -> tuple[str, ...]:
    """Give the kinds of artifact that images name, sorted, each once."""
    return tuple(sorted({kind for image in images for kind in image.kinds}))


def require_both_classes(labels: LabelSet, *, split: Split | None = None) -> None:
    """Refuse labels of which only one class is there.

    Parameters
    ----------
    labels : LabelSet
        What is to be learned from.
    split : {'train', 'validation', 'test'}, optional
        Look at this split alone.

    Raises
    ------
    ArtSegError
        There is no clean or no artifact image.
    """
    images = labels.images if split is None else labels.of_split(split)
    counts = Counter(image.label for image in images)
    for label in LABELS:
        if not counts[label]:
            where = "the labels" if split is None else f"the {split} split"
            raise ArtSegError(
                f"{labels.source}: expected clean and artifact images in {where}, got {counts['clean']} clean and "
                f"{counts['artifact']} artifact. Add {label} images: what an artifact is can only be learned from both."
            )


def with_splits(
    labels: LabelSet, *, seed: int = 0, fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
) -> LabelSet:
    """Give a split to the images that have none.

    Whole groups go to one split; clean and artifact images are shared out each by the fractions, as near as groups
    allow, and no split is left without a class where there are groups enough. A group of which some images have a
    split joins it. The outcome depends on the seed and the group names, not on the order of the images.

    Parameters
    ----------
    labels : LabelSet
        Splits that are there already are kept.
    seed : int
        Another seed, another draw.
    fractions : tuple of float
        Shares of train, validation and test; they sum to 1.

    Returns
    -------
    LabelSet
        The same images in the same order, each with a split.

    Raises
    ------
    ArtSegError
        The fractions are negative or do not sum to 1.
    """
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise ArtSegError(f"Expected three shares of 0 or more that sum to 1, got {fractions}.")
    splits: dict[str, Split] = {}
    members: dict[str, list[LabelledImage]] = defaultdict(list)
    for image in labels.images:
        members[image.group].append(image)
        if image.split is not None:
            splits.setdefault(image.group, image.split)
    totals = Counter(image.label for image in labels.images)
    wanted = {(split, label): fractions[at] * totals[label] for at, split in enumerate(SPLITS) for label in LABELS}
    for image in labels.images:
        if image.split is not None:
            wanted[image.split, image.label] -= 1
    open_groups = sorted(name for name in members if name not in splits)
    random = np.random.default_rng(seed)
    drawn: list[str] = [open_groups[int(at)] for at in random.permutation(len(open_groups))]
    # the largest first: the small ones then even out what is left
    for name in sorted(drawn, key=lambda one: -len(members[one])):
        sizes = Counter(image.label for image in members[name])
        split = max(SPLITS, key=lambda one: sum(sizes[label] * wanted[one, label] for label in LABELS))
        splits[name] = split
        for label in LABELS:
            wanted[split, label] -= sizes[label]
    _fill_up(splits, members, drawn, [split for split, share in zip(SPLITS, fractions, strict=True) if share > 0])
    return LabelSet(
        images=tuple(
            image if image.split is not None else replace(image, split=splits[image.group]) for image in labels.images
        ),
        source=labels.source,
    )


def _fill_up(
    splits: dict[str, Split],
    members: Mapping[str, Sequence[LabelledImage]],
    movable: Sequence[str],
    wanted: Sequence[Split],
) -> None:
    """Move small groups from train to splits that lack a class, as long as train keeps both."""

    def classes(split: Split, without: str = "") -> set[Label]:
        return {
            image.label
            for name, images in members.items()
            if splits[name] == split and name != without
            for image in images
        }

    for split in wanted:
        for label in LABELS:
            if split == "train" or label in classes(split):
                continue
            for name in sorted(movable, key=lambda one: len(members[one])):
                has_it = any(image.label == label for image in members[name])
                if splits[name] == "train" and has_it and len(classes("train", without=name)) == len(LABELS):
                    splits[name] = split
                    break


def read_mask(item: LabelledImage, *, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read the artifact mask of an image.

    Parameters
    ----------
    item : LabelledImage
        The image; a clean one has no artifact pixels, whatever files there are.
    shape : tuple of int
        (y, x) of the image.

    Returns
    -------
    ndarray of bool of shape (y, x)
        True = artifact.

    Raises
    ------
    ArtSegError
        An artifact image without a mask, an unreadable mask, one of another size, an image without an entry in
        its JSON, or a shape that has no area.
    """
    if item.label == "clean":
        return np.zeros(shape, dtype=np.bool_)
    if item.mask is None:
        raise ArtSegError(f"{item.path} is labelled artifact and has no mask; scoring pixels needs one.")
    return _read(item.mask, item.path, shape)


def read_kind_mask(item: LabelledImage, kind: str, *, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read where the artifacts of one kind are in an image.

    Masks of several kinds may share pixels, where artifacts overlap.

    Parameters
    ----------
    item : LabelledImage
        The image. One that does not name the kind has no pixels of it; where it names this kind alone and has no mask
        of the kind, its artifact mask holds.
    kind : str
        The kind's name.
    shape : tuple of int
        (y, x) of the image.

    Returns
    -------
    ndarray of bool of shape (y, x)
        True = artifact of this kind.

    Raises
    ------
    ArtSegError
        It is not known where the kind's artifacts are: the image names no kind, or this one without a mask; or the
        mask cannot be used, as for `read_mask`.
    """
    if item.label == "clean" or (item.kinds and kind not in item.kinds):
        return np.zeros(shape, dtype=np.bool_)
    if kind in item.kind_masks:
        return _read(item.kind_masks[kind], item.path, shape)
    if item.kinds == (kind,) and item.mask is not None:
        return _read(item.mask, item.path, shape)
    raise ArtSegError(
        f"{item.path} is labelled artifact, names {' and '.join(item.kinds) or 'no kind'}, and has no mask of {kind}. "
        f"Add {kind}=FILE to its column {_KIND_MASKS_COLUMN}, and the kind to its column {_KINDS_COLUMN}."
    )


def _read(source: MaskSource, image: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    if source.polygons:
        return _draw(source.path, image, shape)
    mask = _high(read_mask_image(source.path))
    if mask.shape != shape:
        raise ArtSegError(
            f"The mask {source.path} has {mask.shape[1]} x {mask.shape[0]} pixels, its image {image} has "
            f"{shape[1]} x {shape[0]}. Mask and image must have the same size."
        )
    return mask if source.artifact_high else ~mask


def check_labels(source: Path, *, mask_polarity: MaskPolarity = "auto") -> LabelReport:
    """Look through a data set: labels, images and masks, every file.

    Parameters
    ----------
    source : Path
        As for `read_labels`.
    mask_polarity : {'auto', 'artifact-high', 'artifact-low'}
        As for `read_labels`.

    Returns
    -------
    LabelReport
        All that was found; `errors` is empty when training can start.

    Raises
    ------
    ArtSegError
        There is no such source or its layout is unknown.
    """
    found = _find(source, mask_polarity)
    report = LabelReport(source=source, missing=found.missing, polarity=found.polarity, unsure=found.unsure)
    report.errors += [*found.problems, *found.missing]
    report.warnings += found.warnings
    report.counts = dict(Counter((image.split, image.label) for image in found.images))
    _count_kinds(found.images, report)
    same: dict[str, list[LabelledImage]] = defaultdict(list)
    hashes: list[tuple[LabelledImage, NDArray[np.bool_]]] = []
    for image in track(found.images, "Reading images and masks", len(found.images)):
        _check_image(image, report, same, hashes)
    report.errors += report.unreadable
    _check_duplicates(same, report)
    _check_near_duplicates(hashes, {name for names in report.duplicates for name in names}, report)
    _check_people(source, report)
    _check_groups(found.images, report)
    _check_balance(found.images, report)
    return report


def mark_simulated(folder: Path) -> None:
    """Note in a folder of labelled images that they are simulated, so that models trained on them say so."""
    write_text(
        folder / _SIMULATED,
        "The images in this folder were made by `artseg simulate`. Models that are trained on them say so, as long as "
        "this file lies beside labels.csv.\n",
    )


def is_simulated(source: Path) -> bool:
    """Whether labelled images, a table or a folder, were made by `artseg simulate`."""
    return ((source if source.is_dir() else source.parent) / _SIMULATED).is_file()


def write_labels(path: Path, images: Sequence[LabelledImage]) -> None:
    """Write a labels CSV with paths relative to it, whole or not at all.

    Parameters
    ----------
    path : Path
        The CSV file.
    images : sequence of LabelledImage
        In the order to be written. Where masks have low values for artifacts, a column `mask_polarity` says so; where
        an image names kinds of artifact, or has masks of them, so do the columns `kinds` and `kind_masks`.

    Raises
    ------
    ArtSegError
        The file cannot be written, a kind's name or file holds what parts them in the table, or high values mean
        artifact in one mask of an image and not in another.
    """
    columns: list[str] = list(_COLUMNS)
    if any(image.kinds for image in images):
        columns.append(_KINDS_COLUMN)
    if any(image.kind_masks for image in images):
        columns.append(_KIND_MASKS_COLUMN)
    if any(not mask.artifact_high for image in images for mask in _masks(image)):
        columns.append(_POLARITY_COLUMN)
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    table.writeheader()
    for image in images:
        table.writerow(
            {
                "image": relative_name(image.path, path.parent),
                "label": image.label,
                "split": image.split or "",
                "group": image.group,
                "mask": relative_name(image.mask.path, path.parent) if image.mask else "",
                _KINDS_COLUMN: _written_kinds(image.kinds),
                _KIND_MASKS_COLUMN: _written_kind_masks(image, path.parent),
                _POLARITY_COLUMN: _written_polarity(image),
            }
        )
    write_text(path, text.getvalue())


def _masks(image: LabelledImage) -> list[MaskSource]:
    return [*([] if image.mask is None else [image.mask]), *image.kind_masks.values()]


def _written_kinds(kinds: Sequence[str]) -> str:
    wrong = [problem for kind in kinds if (problem := problem_of_kind(kind))]
    if wrong:
        raise ArtSegError(f"Expected kinds of artifact that a table can name, but {wrong[0]}")
    return ";".join(kinds)


def _written_kind_masks(image: LabelledImage, folder: Path) -> str:
    files = {kind: relative_name(mask.path, folder) for kind, mask in image.kind_masks.items()}
    for kind, name in files.items():
        if ";" in name:
            raise ArtSegError(
                f"Expected a path without semicolon for the mask of {kind} of {image.path}, since it parts masks in "
                f"the table, got {name}. Rename the file or the folder."
            )
    return ";".join(f"{kind}={name}" for kind, name in files.items())


def _written_polarity(image: LabelledImage) -> str:
    high = {mask.artifact_high for mask in _masks(image)}
    if len(high) > 1:
        raise ArtSegError(
            f"Expected one meaning of high values in all masks of {image.path}, but they mean artifact in some and not "
            "in others, which a table cannot say. Invert some of them."
        )
    return "" if not high else f"artifact-{'high' if high.pop() else 'low'}"


def problem_of_kind(name: str) -> str:
    """Say what is wrong with the name of a kind; nothing where it can be used."""
    if not name:
        return "a kind of artifact has an empty name. Write names parted by semicolons, such as dust;fibre."
    held = [sign for sign in _NOT_IN_KINDS if sign in name]
    if held:
        return (
            f"the kind of artifact '{name}' has {' and '.join(held)} in its name, which parts names and files. "
            "Write names without it, parted by semicolons, such as dust;fibre."
        )
    return ""


def problems_of_kinds(names: Iterable[str]) -> list[str]:
    """Say which kinds of artifact could be confused, with each other or with what is no kind.

    Parameters
    ----------
    names : iterable of str
        All kinds that are to be told apart.

    Returns
    -------
    list of str
        A sentence for each name that is taken, and for each set of names that differ only in capitals, blanks, hyphens
        or underscores; empty where all can be told apart.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        spellings[_plain_kind(name)].append(name)
    taken = [name for plain in RESERVED_KINDS for name in spellings.pop(plain, [])]
    return [
        *(
            f"the kind of artifact '{name}' has a name that ArtSeg uses itself ({', '.join(RESERVED_KINDS)}). "
            "Call it by what it is, such as dust."
            for name in taken
        ),
        *(
            f"the kinds of artifact {' and '.join(repr(name) for name in alike)} differ only in capitals, blanks, "
            "hyphens or underscores. Write them alike if they are one kind, else call one of them otherwise."
            for alike in spellings.values()
            if len(alike) > 1
        ),
    ]


def require_distinct_kinds(labels: LabelSet, asked: Collection[str] | None = None) -> None:
    """Refuse kinds of artifact that could be confused.

    Parameters
    ----------
    labels : LabelSet
        What is to be learned from.
    asked : collection of str, optional
        Kinds that are to be told apart, with all spellings of them in the labels; all kinds by default.

    Raises
    ------
    ArtSegError
        Names differ too little, or are those of something else.
    """
    names = set(kinds_of(labels.images))
    if asked is not None:
        plain = {_plain_kind(name) for name in asked}
        names = {*asked, *(name for name in names if _plain_kind(name) in plain)}
    problems = problems_of_kinds(names)
    if problems:
        raise ArtSegError(f"{labels.source}: {_some(problems)}")


def _plain_kind(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.casefold())


def relative_name(path: Path, folder: Path) -> str:
    """Name a file as a table in `folder` does: relative to it, with forward slashes."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive on Windows
        return path.resolve().as_posix()


def _some(messages: Sequence[str]) -> str:
    more = f" And {len(messages) - _NAMED_AT_MOST} more." if len(messages) > _NAMED_AT_MOST else ""
    return " ".join(messages[:_NAMED_AT_MOST]) + more


# ---- finding images ----


def _find(source: Path, polarity: MaskPolarity) -> _Found:
    if source.is_dir():
        if (source / "labels.csv").is_file():
            return _find_in_csv(source / "labels.csv", polarity)
        return _find_in_folders(source, polarity)
    if not source.is_file():
        raise ArtSegError(f"Expected labels at {source}: a CSV file or a folder. There is nothing; check the path.")
    if source.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise ArtSegError(f"Expected a CSV file or a folder of labels, got {source}.")
    return _find_in_csv(source, polarity)


def read_table(source: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the rows of a labels CSV as they stand: nothing is checked but the columns image and label.

    Parameters
    ----------
    source : Path
        The file: UTF-8, with commas, semicolons or tabs.

    Returns
    -------
    list of (int, dict)
        Line number, and stripped values by column name in lower case; empty rows are left out.

    Raises
    ------
    ArtSegError
        The file is unreadable or empty, or lacks one of the two columns.
    """
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtSegError(f"{source} could not be read as a UTF-8 text: {error}. Save it as CSV (UTF-8).") from error
    lines = text.splitlines()
    if not lines:
        raise ArtSegError(f"{source} is empty. Expected a first line: image,label,split,group,mask")
    # spreadsheet programs of many countries write semicolons
    delimiter = max(",;\t", key=lines[0].count)
    rows = csv.DictReader(lines, delimiter=delimiter, restval="")
    rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
    absent = [name for name in ("image", "label") if name not in rows.fieldnames]
    if absent:
        raise ArtSegError(
            f"{source}: the first line must name the columns image and label (and may name split, group, mask); "
            f"{' and '.join(absent)} missing among: {', '.join(rows.fieldnames)}."
        )
    table: list[tuple[int, dict[str, str]]] = []
    for row in rows:
        values = {name: value.strip() for name, value in row.items() if isinstance(value, str)}
        if any(values.values()):
            table.append((rows.line_num, values))
    return table


def _find_in_csv(source: Path, polarity: MaskPolarity) -> _Found:
    found = _Found()
    lines_of: dict[Path, int] = {}
    for number, values in read_table(source):
        _take_row(values, f"line {number}", source.parent, polarity, lines_of, found)
    if any(image.mask is not None for image in found.images):
        found.polarity = (
            "Masks: low values mean artifact, as asked for."
            if polarity == "artifact-low"
            else "Masks: high values (255) mean artifact, as in every labels CSV unless asked otherwise."
        )
    return found


def _take_row(
    values: Mapping[str, str],
    line: str,
    folder: Path,
    polarity: MaskPolarity,
    lines_of: dict[Path, int],
    found: _Found,
) -> None:
    label = values["label"].lower()
    split = values.get("split", "").lower()
    known = values.get(_POLARITY_COLUMN, "")
    if not values["image"]:
        found.problems.append(f"{line}: no image is named.")
        return
    if label not in (*LABELS, UNSURE):
        found.problems.append(f"{line}: the label must be clean, artifact or unsure, not '{values['label']}'.")
        return
    if split and split not in SPLITS:
        found.problems.append(f"{line}: the split must be train, validation, test or empty, not '{values['split']}'.")
        return
    if known not in ("", "artifact-high", "artifact-low"):
        found.problems.append(f"{line}: {_POLARITY_COLUMN} must be artifact-high or artifact-low, not '{known}'.")
        return
    path = _resolve(folder, values["image"])
    if path in lines_of:
        found.problems.append(f"{line}: {values['image']} stands already in line {lines_of[path]}.")
        return
    lines_of[path] = int(line.split()[1])
    if label == UNSURE:
        found.unsure += 1
        return
    if not path.is_file():
        found.missing.append(f"{line}: there is no image {values['image']}.")
        return
    mask: MaskSource | None = None
    if values.get("mask") and label == "clean":
        found.warnings.append(f"{line}: the mask of a clean image is not used.")
    elif values.get("mask"):
        meant = known if polarity == "auto" else polarity
        mask = MaskSource(_resolve(folder, values["mask"]), artifact_high=meant != "artifact-low")
        if not mask.path.is_file():
            found.missing.append(f"{line}: there is no mask {values['mask']}.")
            return
    if label == "clean" and any(values.get(name) for name in (_KINDS_COLUMN, _KIND_COLUMN, _KIND_MASKS_COLUMN)):
        found.warnings.append(f"{line}: the kinds of artifact of a clean image are not used.")
        kinds, kind_masks = (), dict[str, MaskSource]()
    else:
        high = (known if polarity == "auto" else polarity) != "artifact-low"
        kinds, kind_masks, problem = _row_kinds(values, folder, artifact_high=high)
        if problem:
            found.problems.append(f"{line}: {problem}")
            return
    absent = [str(source.path) for source in kind_masks.values() if not source.path.is_file()]
    if absent:
        found.missing.append(f"{line}: there is no mask {absent[0]}.")
        return
    found.images.append(
        LabelledImage(
            path=path,
            label=label,
            split=split if split else None,
            group=values.get("group") or values["image"],
            mask=mask,
            kinds=kinds,
            kind_masks=kind_masks,
        )
    )


def _row_kinds(
    values: Mapping[str, str], folder: Path, *, artifact_high: bool
) -> tuple[tuple[str, ...], dict[str, MaskSource], str]:
    """Give the kinds that a row names, their masks, and what is wrong with them, which is empty where nothing is."""
    listed, alone, files = (values.get(name, "") for name in (_KINDS_COLUMN, _KIND_COLUMN, _KIND_MASKS_COLUMN))
    named = [name.strip() for name in listed.split(";")] if listed else []
    named += [alone] if alone else []
    masks: dict[str, MaskSource] = {}
    for part in files.split(";") if files else []:
        kind, parted, name = (text.strip() for text in part.partition("="))
        if not parted or not name:
            return (), {}, f"{_KIND_MASKS_COLUMN} must be like dust=FILE;fibre=FILE, not '{files}'."
        if kind in masks:
            return (), {}, f"{_KIND_MASKS_COLUMN} names {kind} twice."
        masks[kind] = MaskSource(_resolve(folder, name), artifact_high=artifact_high)
    for kind in (*named, *masks):
        problem = problem_of_kind(kind)
        if problem:
            return (), {}, problem
    unknown = [kind for kind in masks if named and kind not in named]
    if unknown:
        problem = (
            f"{_KIND_MASKS_COLUMN} names {unknown[0]}, which is not among the kinds of the image: {', '.join(named)}. "
            f"Add it to the column {_KINDS_COLUMN}, or take its mask out."
        )
        return (), {}, problem
    return tuple(sorted({*named, *masks})), masks, ""


def _resolve(folder: Path, name: str) -> Path:
    path = folder / name
    # written on Windows, read elsewhere
    return folder / name.replace("\\", "/") if "\\" in name and not path.exists() else path


def _find_in_folders(source: Path, polarity: MaskPolarity) -> _Found:
    found = _Found()
    parts: list[tuple[Split | None, Path]] = [
        (split, source / split) for split in SPLITS if any((source / split / label).is_dir() for label in LABELS)
    ]
    if not parts and any((source / label).is_dir() for label in LABELS):
        parts = [(None, source)]
    if not parts:
        raise ArtSegError(
            f"{source}: expected a labels.csv, the folders clean/ and artifact/, or train/, validation/ and test/ "
            "with those two in each. None of them is there."
        )
    for split, part in parts:
        for label in LABELS:
            folder = part / label
            if not folder.is_dir():
                found.problems.append(f"there is no folder {folder.relative_to(source).as_posix()}/.")
                continue
            images = folder / "x" if (folder / "x").is_dir() else folder
            masks = _folder_masks(folder) if label == "artifact" else {}
            drawn = next((path for path in sorted({*folder.glob("*.json"), *part.glob("*.json")})), None)
            for path in find_images(images):
                at = masks.get(path.stem) or (drawn if label == "artifact" else None)
                found.images.append(
                    LabelledImage(
                        path=path,
                        label=label,
                        split=split,
                        group=path.relative_to(source).as_posix(),
                        mask=MaskSource(at) if at else None,
                    )
                )
            if (folder / "y").is_dir() and label == "artifact":
                names = {path.stem for path in find_images(images)}
                found.missing += [
                    f"the mask {path.relative_to(source).as_posix()} has no image of its name in x/."
                    for stem, path in masks.items()
                    if stem not in names
                ]
                found.missing += [
                    f"{image.path.relative_to(source).as_posix()} has no mask of its name in y/."
                    for image in found.images
                    if image.path.parent == images and image.mask is None
                ]
    _decide_polarity(found, polarity)
    return found


def _folder_masks(folder: Path) -> dict[str, Path]:
    for name in ("y", "masks"):
        if (folder / name).is_dir():
            return {path.stem: path for path in find_images(folder / name)}
    return {}


def _decide_polarity(found: _Found, polarity: MaskPolarity) -> None:
    """Decide for all mask images at once what their high values mean, and say why."""
    stored: list[MaskSource] = [
        image.mask for image in found.images if image.mask is not None and not image.mask.polygons
    ]
    if not stored:
        return
    high = True
    if polarity == "auto":
        covered: list[float] = []
        bordered: list[float] = []
        for number in np.linspace(0, len(stored) - 1, min(len(stored), _MASKS_LOOKED_AT)):
            try:
                mask = _high(read_mask_image(stored[int(number)].path))
            except ArtSegError as error:
                found.problems.append(str(error))
                return
            covered.append(float(mask.mean()))
            bordered.append(float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()))
        area, border = float(np.mean(covered)), float(np.mean(bordered))
        evidence = (
            f"high values cover {area:.1%} of the image and {border:.1%} of its border on average "
            f"over {len(covered)} masks"
        )
        # artifacts cover less than half of a field and less than half of its border
        clear = [fraction < 0.5 for fraction in (area, border) if abs(fraction - 0.5) > _UNCLEAR]
        if not clear or len(set(clear)) > 1:
            found.problems.append(
                f"whether high values in the masks mean artifact cannot be told ({evidence}). "
                "Say it with --mask-polarity artifact-high or artifact-low."
            )
            return
        high = clear[0]
        found.polarity = f"Masks: {'high' if high else 'low'} values mean artifact, because {evidence}."
    else:
        high = polarity == "artifact-high"
        found.polarity = f"Masks: {'high' if high else 'low'} values mean artifact, as asked for."
    found.images = [
        replace(image, mask=replace(image.mask, artifact_high=high))
        if image.mask is not None and not image.mask.polygons
        else image
        for image in found.images
    ]


# ---- masks ----


def _high(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Part a mask's values in two: bool, 0 and 1, 0 and 255, grey edges of lossy files, object labels, floats."""
    if values.dtype == np.bool_:
        return values
    if values.dtype.kind == "f":
        return values > 0.5
    low, top = int(values.min()), int(values.max())
    if values.dtype == np.uint8 and bool(np.any((values != low) & (values != top))):
        return values > 127
    return values > 0


@functools.lru_cache(maxsize=8)
def _annotations(path: Path, changed: int) -> dict[str, list[dict[str, Any]]]:
    """Shapes by image name from a VGG Image Annotator project or annotation export."""
    del changed  # only part of the cache's key
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ArtSegError(f"{path} could not be read as JSON ({error}).") from error
    wrong = ArtSegError(
        f"{path}: expected annotations of the VGG Image Annotator 2 (Annotation > Export as JSON, or a saved project)."
    )
    if not isinstance(content, dict):
        raise wrong
    entries = cast("dict[str, Any]", content)
    entries = cast("dict[str, Any]", entries.get("_via_img_metadata", entries))
    shapes: dict[str, list[dict[str, Any]]] = {}
    try:
        for entry in entries.values():
            regions: Any = entry["regions"]
            # version 1 numbers the regions in a dictionary
            listed: list[Any] = list(regions.values() if hasattr(regions, "values") else regions)
            shapes[str(entry["filename"])] = [dict(region["shape_attributes"]) for region in listed]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise wrong from error
    return shapes


def annotated_names(path: Path) -> set[str]:
    """Names of the images that have an entry in the JSON of the VGG Image Annotator.

    Raises
    ------
    ArtSegError
        The file cannot be read as such.
    """
    return set(_shapes(path))


def annotated_name(names: Collection[str], image: Path) -> str | None:
    """Find the name under which an image is annotated: the file's name, with as many folders before it as stand there.

    Parameters
    ----------
    names : collection of str
        As of `annotated_names`.
    image : Path
        The image file.

    Returns
    -------
    str or None
        The longest name that fits; None where none does.
    """
    parts = image.absolute().as_posix().split("/")
    named = {name.replace("\\", "/"): name for name in names}
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((named[end] for end in ends if end in named), None)


def _shapes(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        return _annotations(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise ArtSegError(f"Could not open the annotations {path}: {error.strerror or error}.") from error


def _draw(path: Path, image: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    shapes = _shapes(path)
    name = annotated_name(shapes, image)
    if name is None:
        raise ArtSegError(f"{path} has no entry for the image {image.name}. Annotate it there, or leave the mask out.")
    mask = np.zeros(shape, dtype=np.bool_)
    for one in shapes[name]:
        try:
            y, x = _outline(one)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtSegError(f"{path}: a shape of {name} is incomplete ({error!r}).") from error
        mask[_fill(y, x, shape=shape)] = True
    return mask


def _outline(one: Mapping[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners of a shape, y and x."""
    kind = one.get("name")
    if kind in ("polygon", "polyline"):  # a line drawn around an artifact is closed to its outline
        return np.asarray(one["all_points_y"], dtype=np.float64), np.asarray(one["all_points_x"], dtype=np.float64)
    if kind == "rect":
        top, left = float(one["y"]), float(one["x"])
        bottom, right = top + float(one["height"]), left + float(one["width"])
        return np.array([top, top, bottom, bottom]), np.array([left, right, right, left])
    if kind in ("circle", "ellipse"):
        along_x = float(one["r"] if kind == "circle" else one["rx"])
        along_y = float(one["r"] if kind == "circle" else one["ry"])
        turn = float(one.get("theta", 0.0))  # clockwise on the screen, as y points down
        angle = np.linspace(0.0, 2 * np.pi, _ROUND_CORNERS, endpoint=False)
        y, x = along_y * np.sin(angle), along_x * np.cos(angle)
        return (
            float(one["cy"]) + y * math.cos(turn) + x * math.sin(turn),
            float(one["cx"]) + x * math.cos(turn) - y * math.sin(turn),
        )
    raise ValueError(f"a {kind} has no area; draw a polygon, rect, circle or ellipse")


# ---- checks ----


def _check_image(
    image: LabelledImage,
    report: LabelReport,
    same: dict[str, list[LabelledImage]],
    hashes: list[tuple[LabelledImage, NDArray[np.bool_]]],
) -> None:
    try:
        opened = read_image(image.path)
        check_pixels(opened.pixels, source=str(image.path))
    except ArtSegError as error:
        report.unreadable.append(str(error))
        return
    height, width = opened.pixels.shape
    report.sizes[width, height] += 1
    report.bit_depths[opened.bits] += 1
    report.pixel_sizes_um[None if opened.pixel_size_um is None else round(opened.pixel_size_um, 4)] += 1
    digest = hashlib.sha256(f"{opened.pixels.dtype.name} {opened.pixels.shape}".encode())
    digest.update(opened.pixels.tobytes())
    same[digest.hexdigest()].append(image)
    hashes.append((image, perceptual_hash(opened.pixels)))
    for kind in image.kind_masks:
        try:
            if not read_kind_mask(image, kind, shape=(height, width)).any():
                report.warnings.append(f"{image.path} names the kind {kind} and its mask of it is empty.")
        except ArtSegError as error:
            report.errors.append(str(error))
    if image.mask is None:
        return
    report.masks += 1
    try:
        mask = read_mask(image, shape=(height, width))
    except ArtSegError as error:
        report.errors.append(str(error))
        return
    covered = float(mask.mean())
    if covered == 0:
        report.warnings.append(f"{image.path} is labelled artifact and its mask is empty.")
    elif covered > 0.5 + _UNCLEAR:
        report.warnings.append(
            f"the mask of {image.path} covers {covered:.0%} of it; is its polarity right (--mask-polarity)?"
        )


def _count_kinds(images: Sequence[LabelledImage], report: LabelReport) -> None:
    report.kinds = Counter(kind for image in images for kind in image.kinds)
    if not report.kinds:
        return
    artifact = [image for image in images if image.label == "artifact"]
    report.without_kind = sum(not image.kinds for image in artifact)
    report.kind_masks = sum(image.kinds_drawn for image in artifact)
    report.errors += problems_of_kinds(report.kinds)


def _check_duplicates(same: Mapping[str, Sequence[LabelledImage]], report: LabelReport) -> None:
    for images in same.values():
        if len(images) == 1:
            continue
        names = tuple(str(image.path) for image in images)
        report.duplicates.append(names)
        listed = " and ".join(names[:_NAMED_AT_MOST])
        if len({image.label for image in images}) > 1:
            report.errors.append(f"the same image is labelled clean and artifact: {listed}.")
        elif len({image.split for image in images}) > 1:
            report.errors.append(f"the same image is in several splits: {listed}.")
        elif len({image.group for image in images}) > 1:
            report.warnings.append(f"the same image occurs {len(images)} times; give it one group: {listed}.")
        else:
            report.warnings.append(f"the same image occurs {len(images)} times: {listed}.")


def _check_near_duplicates(
    hashes: Sequence[tuple[LabelledImage, NDArray[np.bool_]]], identical: set[str], report: LabelReport
) -> None:
    """Find copies that were saved again or slightly changed; identical ones are told already."""
    if len(hashes) < 2:
        return
    for members in near_duplicate_groups(np.stack([one for _, one in hashes])):
        images = [hashes[at][0] for at in members]
        names = tuple(str(image.path) for image in images)
        splits = {image.split for image in images}
        if len({image.group for image in images}) == 1 or set(names) <= identical:
            continue
        report.near_duplicates.append(names)
        listed = " and ".join(names[:_NAMED_AT_MOST])
        listed += f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
        if len(splits) == 1:
            if None in splits:
                report.warnings.append(f"nearly the same image, in groups of their own: {listed}. Give them one group.")
            continue
        report.warnings.append(
            f"the same image, saved again or slightly changed, seems to be in several splits: {listed}. Look at them; "
            "if they show the same field, give them one group and one split: what is tested on must not be learned."
        )


def _check_people(source: Path, report: LabelReport) -> None:
    table = source / "labels.csv" if source.is_dir() else source
    history = read_history(table)
    report.people = people(history)
    report.agreements = agreements(history)
    report.conflicts = conflicts(history)
    for image, said in list(report.conflicts.items())[:_NAMED_AT_MOST]:
        who_says = ", ".join(f"{who or 'somebody'} says {label}" for who, label in said.items())
        report.warnings.append(f"people disagree on {image}: {who_says}.")
    if len(report.conflicts) > _NAMED_AT_MOST:
        report.warnings.append(
            f"people disagree on {len(report.conflicts) - _NAMED_AT_MOST} more images; artseg label shows them all "
            "(Show: people disagree)."
        )


def _check_groups(images: Sequence[LabelledImage], report: LabelReport) -> None:
    splits: dict[str, set[Split]] = defaultdict(set)
    for image in images:
        splits[image.group].update([image.split] if image.split else [])
    report.groups = len(splits)
    report.crossing_groups = {
        name: tuple(split for split in SPLITS if split in found) for name, found in splits.items() if len(found) > 1
    }
    report.errors += [
        f"group {name} is in {' and '.join(found)}; near-duplicates must stay in one split."
        for name, found in report.crossing_groups.items()
    ]


def _check_balance(images: Sequence[LabelledImage], report: LabelReport) -> None:
    counts = Counter(image.label for image in images)
    if not images:
        report.errors.append("no image is named; expected at least one clean and one artifact image.")
        return
    few, many = sorted(counts[label] for label in LABELS)
    if few == 0:
        report.errors.append(
            f"only one class: {counts['clean']} clean and {counts['artifact']} artifact images; both are needed."
        )
        return
    if many > _LOPSIDED * few:
        report.warnings.append(
            f"{counts['clean']} clean and {counts['artifact']} artifact images; "
            "training draws both equally often, but the few will be learned by heart."
        )
    split_images = [image for image in images if image.split is not None]
    if split_images and len(split_images) < len(images):
        report.warnings.append(f"{len(images) - len(split_images)} images have no split; they will be shared out.")
    for split in sorted({image.split for image in split_images if image.split}):
        labels = {image.label for image in split_images if image.split == split}
        if len(labels) == 1:
            message = f"the {split} split has {next(iter(labels))} images only."
            (report.errors if split == "train" else report.warnings).append(message)
    if split_images and not any(image.split == "train" for image in split_images):
        report.warnings.append("no image is in the train split.")
