"""Images and what people said of them: the state behind the page, and the table that training reads."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from artseg_models.agreement import PAUSE_SECONDS
from artseg_models.errors import ArtSegError
from artseg_models.files import write_text
from artseg_models.images import IMAGE_SUFFIXES, natural_order, read_image, write_image
from artseg_models.labels import (
    LABELS,
    SPLITS,
    UNSURE,
    LabelledImage,
    MaskSource,
    read_labels,
    read_mask,
    read_table,
    relative_name,
    with_splits,
)
from artseg_models.provenance import TABLE, Decision, History, What, history_path, take_vote

Order = Literal["random", "name"]

COLUMNS = ("image", "label", "split", "group", "mask", "kind", "annotator", "labelled_at", "seconds")
RUNS = "artseg-runs"
MASKS = "artseg-masks"
EXPORT = "artseg-export"
IMPORT = "artseg-import"
"""Folders beside the table for what is trained, painted, exported and imported here."""
VERDICTS = (*LABELS, UNSURE)

_PACE_OF = 30
"""So many of the latest decisions tell the pace."""
_CLAIM_SECONDS = 90.0
_OURS = {"configuration.json", "segmentation.csv"}
"""A folder that holds one of these is a run or the output of a segmentation: its images are not to be labelled."""


@dataclass
class Record:
    """One image.

    Attributes
    ----------
    name : str
        As in the table: relative to it, with forward slashes.
    path : Path
        The file.
    rank : float
        Place in the order of showing.
    votes : dict
        Each person's last word.
    group, split, mask : str
        As decided here; where empty, `table` may have them.
    apart : bool
        Whether somebody said that it has no near-duplicates.
    near : str
        Name of the group of near-duplicates that it was found in.
    table : dict
        Its row of the table as last read: groups, splits, masks and columns of others are kept.
    shown : bool
        Whether it belongs to the images to be labelled and is there.
    error : str
        Why it cannot be shown.
    guess : (float, str) or None
        How sure a model is, 0..1, and whether it says 'clean' or 'artifact'.
    revision : int
        The store's revision at its last change.
    """

    name: str
    path: Path
    rank: float = 0.0
    votes: dict[str, Decision] = field(default_factory=dict[str, Decision])
    group: str = ""
    split: str = ""
    mask: str = ""
    apart: bool = False
    near: str = ""
    table: dict[str, str] = field(default_factory=dict[str, str])
    shown: bool = False
    error: str = ""
    guess: tuple[float, str] | None = None
    revision: int = 0

    def verdict(self) -> tuple[str, str]:
        """Label and kind of artifact: what most say; unsure where as many say otherwise; empty before anybody spoke."""
        if not self.votes:
            return "", ""
        counts = Counter(vote.value for vote in self.votes.values()).most_common()
        label = counts[0][0]
        if len(counts) > 1 and counts[1][1] == counts[0][1]:
            return UNSURE, ""
        kinds = Counter(vote.kind for vote in self.votes.values() if vote.value == label and vote.kind)
        return label, kinds.most_common(1)[0][0] if kinds else ""

    def conflict(self) -> bool:
        """Whether people disagree."""
        return len({vote.value for vote in self.votes.values()}) > 1

    def group_name(self) -> str:
        """Name of its group; alone it is its own."""
        if self.group:
            return self.group
        if self.apart:
            return self.name
        return self.table.get("group") or self.near or self.name


class Store:
    """Labels of the images of some folders, kept in one table.

    Parameters
    ----------
    sources : sequence of Path
        Image files and folders; folders with their subfolders.
    table : Path
        ``labels.csv``. What stands in it is kept.
    order : {'random', 'name'}
        How images follow each other. The random order is the same after a restart.

    Raises
    ------
    ArtSegError
        There are no images, or table or history cannot be read.
    """

    def __init__(self, sources: Sequence[Path], table: Path, *, order: Order = "random") -> None:
        self.sources = [source.absolute() for source in sources]
        self.table = table.absolute()
        self._order: Order = order
        self.history = History(history_path(self.table))
        self._lock = threading.RLock()
        self._records: dict[str, Record] = {}
        self._latest: list[Decision] = []
        self._columns: list[str] = list(COLUMNS)
        self._revision = 0
        self._table_seen: tuple[int, int] | None = None
        self._written = ""
        self._lines: dict[str, tuple[int, str]] = {}
        self._sorted: list[Record] | None = None
        self._flat_names: Counter[str] | None = None
        self._claims: dict[str, tuple[str, float]] = {}
        self.problem = ""
        """Why the table could not be written; the history has every decision all the same."""
        self.rescan()
        if not any(record.shown for record in self._records.values()):
            raise ArtSegError(
                f"Expected images in {', '.join(map(str, sources))} ({', '.join(IMAGE_SUFFIXES)}), but there are none. "
                "Name another folder."
            )
        with self._writing():
            pass
        if self.problem:
            raise ArtSegError(self.problem)

    # ---- reading ----

    def record(self, name: str) -> Record:
        """Give one of the images; a name that is none of theirs is refused, wherever it points.

        Raises
        ------
        ArtSegError
            No such image.
        """
        with self._lock:
            record = self._records.get(name)
            if record is None or not record.shown:
                raise ArtSegError(f"{name!r} is none of the images that are labelled here.")
            return record

    def shown(self) -> list[Record]:
        """All images that are there, in the order of showing."""
        with self._lock:
            return sorted((one for one in self._records.values() if one.shown), key=lambda one: (one.rank, one.name))

    def file_name(self, record: Record) -> str:
        """Name a file after an image, whatever folder that lies in; no two images share one."""
        flat = _flat(record.name)
        with self._lock:
            if self._flat_names is None:
                self._flat_names = Counter(_flat(name) for name in self._records)
            alone = self._flat_names[flat] < 2
        return flat if alone else f"{flat}-{_digest(record.name).hex()[:8]}"

    def mask_of(self, record: Record) -> str:
        """Name of an image's mask in the table; empty where it has none, or is not called an artifact."""
        return record.mask or record.table.get("mask", "") if record.verdict()[0] == "artifact" else ""

    def read_mask(self, record: Record, *, plane: int | None = None) -> NDArray[np.bool_]:
        """Read the mask of an image, (y, x), True = artifact.

        Raises
        ------
        ArtSegError
            It has none, or it cannot be read or has another size.
        """
        named = self.mask_of(record)
        if not named:
            raise ArtSegError(f"{record.name} has no mask. Accept or import one first.")
        height, width = read_image(record.path, plane=plane).pixels.shape
        source = MaskSource(self.table.parent / named)
        return read_mask(LabelledImage(record.path, "artifact", None, record.name, source), shape=(height, width))

    def keep_mask(self, record: Record, mask: NDArray[np.bool_]) -> str:
        """Write the pixel mask of an image (True = artifact) into ``artseg-masks/``; gives its name in the table."""
        path = self.table.parent / MASKS / f"{self.file_name(record)}_mask.png"
        write_image(path, mask)
        return relative_name(path, self.table.parent)

    def changes(self, since: int) -> tuple[int, list[Record]]:
        """Give the store's revision, and the images that changed after an earlier one."""
        with self._lock:
            return self._revision, [one for one in self._records.values() if one.revision > since]

    def pace(self, who: str) -> float | None:
        """Median seconds of a person's latest decisions; None before the third."""
        with self._lock:
            seconds = [
                one.seconds
                for one in self._latest
                if one.who == who and one.seconds is not None and one.seconds < PAUSE_SECONDS
            ]
        return statistics.median(seconds[-_PACE_OF:]) if len(seconds) > 2 else None

    def rescan(self) -> None:
        """Look which images are there now; those that went keep their labels."""
        there = dict(self._find())
        with self._lock:
            new = [name for name in there if name not in self._records or not self._records[name].shown]
            for position, name in enumerate(sorted(new, key=natural_order)):
                record = self._records.get(name) or self._new(name, there[name])
                record.shown, record.error = True, ""
                record.rank = position if self._order == "name" else _shuffled(name)
                self._changed(record)
            for record in self._records.values():
                if record.shown and record.name not in there:
                    record.shown = False
                    self._changed(record)

    def refresh(self) -> None:
        """Take over what other processes have written to the history meanwhile."""
        with self._lock:
            self._take(self.history.read_on())

    # ---- deciding ----

    def decide(
        self,
        names: Sequence[str],
        *,
        label: str,
        kind: str = "",
        who: str = "",
        seconds: float | None = None,
        mask: str | None = None,
    ) -> list[Record]:
        """Label images; when this returns, history and table have it on disk.

        Parameters
        ----------
        names : sequence of str
            Which images.
        label : str
            'clean', 'artifact', 'unsure', or empty to take the person's label back.
        kind : str
            Kind of artifact.
        who : str
            The person's name.
        seconds : float, optional
            How long the first of the images was looked at; nobody looked at the others alone.
        mask : str, optional
            The pixel mask that goes with the label, relative to the table; empty takes an earlier one away.

        Returns
        -------
        list of Record
            The images as they stand now.

        Raises
        ------
        ArtSegError
            An unknown image or label, or the history could not be written: then nothing is changed. A table that could
            not be written is told in `problem`.
        """
        if label not in (*VERDICTS, ""):
            raise ArtSegError(f"Expected the label clean, artifact or unsure, got {label!r}.")
        if who == TABLE or "\n" in who or ";" in who:
            raise ArtSegError(f"{who!r} cannot be a person's name. Choose one without semicolons.")
        records = [self.record(name) for name in names]
        kind = kind if label == "artifact" else ""
        with self._writing():
            self._append(
                [
                    Decision(one.name, "label", label, kind, who, _now(), None if at else seconds)
                    for at, one in enumerate(records)
                ]
                + [
                    Decision(one.name, "mask", mask, "", who, _now())
                    for one in records
                    if mask is not None and mask != one.mask
                ]
            )
        return records

    def set_aside(self, names: Sequence[str], what: What, value: str, *, who: str) -> None:
        """Keep another decision on images: their group, split or mask, or that they are no near-duplicates.

        Raises
        ------
        ArtSegError
            As `decide`.
        """
        records = [self.record(name) for name in names]
        with self._writing():
            self._append([Decision(one.name, what, value, "", who, _now()) for one in records])

    def propose_splits(self, *, who: str, seed: int = 0) -> dict[str, Counter[str]]:
        """Share the labelled images out to train, validation and test: whole groups, both labels in each.

        Images that have a split keep it.

        Returns
        -------
        dict
            Split to the numbers of clean and artifact images.

        Raises
        ------
        ArtSegError
            Nothing is labelled, or the decision cannot be kept.
        """
        with self._writing():
            labelled = with_splits(read_labels(self.table), seed=seed)
            splits = {relative_name(one.path, self.table.parent): one.split or "" for one in labelled.images}
            self._append(
                [
                    Decision(name, "split", split, "", who, _now())
                    for name, split in splits.items()
                    if name in self._records and self._split(self._records[name]) != split
                ]
            )
        counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
        for one in labelled.images:
            counts[one.split or ""][one.label] += 1
        return counts

    def set_near(self, groups: Sequence[Sequence[str]]) -> None:
        """Take over which images were found to be near-duplicates."""
        with self._lock:
            near = {name: members[0] for members in groups for name in members}
            for record in self._records.values():
                if record.near != near.get(record.name, ""):
                    record.near = near.get(record.name, "")
                    self._changed(record)
            with self._writing():
                pass  # the table names the groups

    def set_error(self, name: str, error: str) -> None:
        """Remember that an image cannot be shown, and why."""
        with self._lock:
            record = self._records[name]
            if record.error != error:
                record.error = error
                self._changed(record)

    def set_guesses(self, guesses: Mapping[Path, tuple[float, str]]) -> None:
        """Take over what a model says: by file, how sure it is and its label."""
        with self._lock:
            for record in self._records.values():
                guess = guesses.get(record.path)
                if guess != record.guess:
                    record.guess = guess
                    self._changed(record)

    def claim(self, window: str, name: str) -> set[str]:
        """Say which image a window wants to show next; the first that says so has it.

        Returns
        -------
        set of str
            What other windows show, `name` among them if it is theirs.
        """
        now = time.monotonic()
        with self._lock:
            self._claims.pop(window, None)
            for other in [one for one, (_, at) in self._claims.items() if now - at > _CLAIM_SECONDS]:
                del self._claims[other]
            taken = {claimed for claimed, _ in self._claims.values()}
            if name and name not in taken:
                self._claims[window] = name, now
            return taken

    # ---- inside ----

    def _find(self) -> Iterator[tuple[str, Path]]:
        for source in self.sources:
            if source.is_dir():
                for at, folders, names in os.walk(source):
                    if not _OURS.isdisjoint(names):
                        folders[:] = []
                        continue
                    folders[:] = sorted(
                        name
                        for name in folders
                        if not name.startswith(".") and name not in (RUNS, MASKS, EXPORT, IMPORT)
                    )
                    folder = Path(at)
                    # once a folder: ten thousand times would be felt
                    within = relative_name(folder, self.table.parent)
                    within = "" if within == "." else f"{within}/"
                    for name in names:
                        if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                            yield within + name, folder / name
            elif source.suffix.lower() in IMAGE_SUFFIXES and source.is_file():
                yield relative_name(source, self.table.parent), source

    @contextmanager
    def _writing(self) -> Generator[None]:
        """Hold the lock, take over what others wrote before; afterwards write the table."""
        with self._lock, self.history.locked():
            self._take(self.history.read_on())
            try:
                self._read_changed_table()
                readable = True
            except ArtSegError as error:
                # never written over: the user's changes are in it
                self.problem, readable = str(error), False
            yield
            if readable:
                self._write_table()

    def _append(self, decisions: Sequence[Decision]) -> None:
        if decisions:
            self.history.append(decisions)
            self._take(self.history.read_on())

    def _take(self, decisions: Sequence[Decision]) -> None:
        for one in decisions:
            record = self._records.get(one.image)
            if record is None:
                # of an image that is gone, or not among those to be labelled here
                record = self._new(one.image, self.table.parent / one.image)
            if one.what == "label":
                take_vote(record.votes, one)
                self._latest = [*self._latest[-4 * _PACE_OF :], one]
            elif one.what == "group":
                record.group = one.value
            elif one.what == "split":
                record.split = one.value
            elif one.what == "mask":
                record.mask = one.value
            else:
                record.apart = bool(one.value)
            self._changed(record)

    def _new(self, name: str, path: Path) -> Record:
        self._sorted = self._flat_names = None
        record = self._records[name] = Record(name, path)
        return record

    def _changed(self, record: Record) -> None:
        self._revision += 1
        record.revision = self._revision

    def _split(self, record: Record) -> str:
        return record.split or record.table.get("split", "").lower()

    def _read_changed_table(self) -> None:
        """Take over what somebody changed in the table by hand."""
        seen = _signature(self.table)
        if seen is None or seen == self._table_seen:
            return
        rows = read_table(self.table)
        written = _signature(self.history.path)
        # older than the history: the computer failed between the two, and the history knows better
        by_hand = written is None or seen[0] > written[0]
        adopted: list[Decision] = []
        for line, row in rows:
            label = row["label"].lower()
            if label not in VERDICTS:
                raise ArtSegError(
                    f"{self.table}, line {line}: the label must be clean, artifact or unsure, not '{row['label']}'. "
                    "Mend the table; what is decided here meanwhile is kept in its history."
                )
            name = row["image"].replace("\\", "/")
            record = self._records.get(name)
            if record is None:
                record = self._new(name, self.table.parent / name)
            record.table = row
            self._changed(record)
            if by_hand and (label, row.get("kind", "")) != record.verdict():
                adopted.append(Decision(name, "label", label, row.get("kind", ""), TABLE, _now()))
        further = [name for _, row in rows[:1] for name in row if name and name not in self._columns]
        if further:
            self._columns += further
            self._lines.clear()
        self._append(adopted)
        self._table_seen = seen

    def _write_table(self) -> None:
        """Write the table whole; a failure is kept in `problem` and tried again with the next decision."""
        if self._sorted is None:
            self._sorted = sorted(self._records.values(), key=lambda one: natural_order(one.name))
        text = "".join([_csv_line(self._columns), *(self._line(one) for one in self._sorted if one.votes)])
        try:
            if text != self._written or _signature(self.table) != self._table_seen:
                write_text(self.table, text)
            self._written = text
            self._table_seen = _signature(self.table)
            self.problem = ""
        except ArtSegError as error:
            self.problem = (
                f"{error} No decision is lost: {self.history.path.name} has them all, and the table follows with the "
                "next decision."
            )

    def _line(self, record: Record) -> str:
        """Its line of the table; made anew only when it changed, or ten thousand would hold up each decision."""
        made, line = self._lines.get(record.name, (-1, ""))
        if made != record.revision:
            row = self._row(record)
            line = _csv_line([row.get(name, "") for name in self._columns])
            self._lines[record.name] = record.revision, line
        return line

    def _row(self, record: Record) -> Mapping[str, Any]:
        label, kind = record.verdict()
        last = max(record.votes.values(), key=lambda vote: vote.when, default=None)
        people = [who for who in record.votes if who and who != TABLE]
        return {
            **record.table,
            "image": record.name,
            "label": label,
            "split": self._split(record),
            "group": record.group_name(),
            "mask": record.mask or record.table.get("mask", "") if label == "artifact" else "",
            "kind": kind,
            "annotator": ";".join(people) or record.table.get("annotator", ""),
            "labelled_at": last.when if last else "",
            "seconds": "" if last is None or last.seconds is None else f"{last.seconds:.2f}",
        }


def _flat(name: str) -> str:
    return "_".join(part for part in name.split("/") if part != "..")


def _shuffled(name: str) -> float:
    """Place of an image in a random order that is the same at every start, whatever images come and go."""
    return int.from_bytes(_digest(name)[:6]) / 2**48


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def _csv_line(values: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _signature(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
