"""Who labelled what, when and how fast: every decision of every person, one line each, never rewritten.

`labels.csv` says what holds now and is what training reads. Beside it `labels.history.jsonl` keeps how it came to that:
one JSON object a line, appended and forced to disk before anybody is told that the decision stands.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast, get_args

from filelock import FileLock, Timeout

from artseg_models.errors import ArtSegError

What = Literal["label", "group", "split", "mask", "apart"]

TABLE = "labels.csv"
"""The name under which labels stand that came with the table, or were changed in it by hand."""

_LOCK_SECONDS = 20.0


@dataclasses.dataclass(frozen=True)
class Decision:
    """One line of the history.

    Attributes
    ----------
    image : str
        As in the table: the path relative to it, with forward slashes.
    what : {'label', 'group', 'split', 'mask', 'apart'}
        What was decided; 'apart' means that the image belongs to no near-duplicates, whatever their likeness.
    value : str
        For a label 'clean', 'artifact', 'unsure', or empty: taken back.
    kind : str
        Kind of artifact, where one was named.
    who : str
        The person's name.
    when : str
        Coordinated universal time, ISO 8601.
    seconds : float or None
        From the image's appearance to the decision; None where nobody looked at this image alone, as in a grid.
    """

    image: str
    what: What
    value: str
    kind: str = ""
    who: str = ""
    when: str = ""
    seconds: float | None = None


def history_path(table: Path) -> Path:
    """Path of the history that belongs to a table: `labels.csv` has `labels.history.jsonl`."""
    return table.with_name(f"{table.stem}.history.jsonl")


class History:
    """The file of decisions: read on from where one was, append safely while others do.

    Parameters
    ----------
    path : Path
        The file; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_to = 0

    @contextmanager
    def locked(self) -> Generator[None]:
        """Keep every other process from writing the history and its table.

        Raises
        ------
        ArtSegError
            The folder cannot be written, or another process keeps the lock.
        """
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout as error:
            raise ArtSegError(
                f"{self.path} has been kept locked by another program for {_LOCK_SECONDS:.0f} s. Close other windows "
                "of artseg label on these images and try again."
            ) from error
        except OSError as error:
            raise ArtSegError(
                f"Could not write into {self.path.parent}: {error.strerror or error}. Choose a place for the labels "
                "with --out."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def read_on(self) -> list[Decision]:
        """Read what was appended since the last call, by whomever.

        Raises
        ------
        ArtSegError
            The file cannot be read, or a line is no decision.
        """
        try:
            if not self.path.exists():
                return []
            with open(self.path, "rb") as opened:
                opened.seek(self._read_to)
                new = opened.read()
        except OSError as error:
            raise ArtSegError(f"Could not read {self.path}: {error.strerror or error}.") from error
        # a last line without its end was being written when the computer failed; nobody was told that it stands
        whole = new[: new.rfind(b"\n") + 1]
        decisions = [_parse(line, self.path) for line in whole.splitlines() if line.strip()]
        self._read_to += len(whole)
        return decisions

    def append(self, decisions: Sequence[Decision]) -> None:
        """Add decisions; when this returns they are on the disk. To be called within `locked`.

        Raises
        ------
        ArtSegError
            They could not be written; the file is then as it was.
        """
        lines = "".join(json.dumps(_content(one), ensure_ascii=False, allow_nan=False) + "\n" for one in decisions)
        try:
            # without a buffer: after a failure nothing may be left over that closing would write
            with open(self.path, "a+b", buffering=0) as opened:
                end = _whole_lines(opened)
                opened.truncate(end)
                try:
                    left = memoryview(lines.encode())
                    while left:
                        left = left[opened.write(left) :]
                    os.fsync(opened.fileno())
                except OSError:
                    opened.truncate(end)
                    raise
        except OSError as error:
            raise ArtSegError(
                f"Could not write {self.path}: {error.strerror or error}. The decision is not saved, all earlier ones "
                "are. Free space, then decide again."
            ) from error


def read_history(table: Path) -> list[Decision]:
    """Read all decisions that belong to a table; none where it has no history.

    Raises
    ------
    ArtSegError
        The history cannot be read.
    """
    return History(history_path(table)).read_on()


def _whole_lines(opened: Any) -> int:
    """Length of the file up to its last line's end."""
    end = int(opened.seek(0, os.SEEK_END))
    while end:
        start = max(0, end - 4096)
        opened.seek(start)
        at = opened.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _content(decision: Decision) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(decision).items() if value not in ("", None)} | {
        "value": decision.value
    }


def _parse(line: bytes, path: Path) -> Decision:
    names = {one.name for one in dataclasses.fields(Decision)}
    try:
        content = cast("dict[str, Any]", json.loads(line))
        decision = Decision(**{name: value for name, value in content.items() if name in names})
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtSegError(
            f"{path}: expected a decision as JSON in each line, but one is {line[:80]!r}. Restore the file, or move it "
            "away: the labels in the table stay."
        ) from error
    if decision.what not in get_args(What):
        raise ArtSegError(f"{path}: a newer artseg wrote '{decision.what}' decisions here. Update artseg.")
    return decision


def votes_of(decisions: Iterable[Decision]) -> dict[str, dict[str, Decision]]:
    """Collect each person's last word on each image.

    Parameters
    ----------
    decisions : iterable of Decision
        In the order they were made.

    Returns
    -------
    dict
        Image to person to decision. A label set in the table by hand replaces what was said before, and is replaced by
        what a person says after; a label taken back is gone.
    """
    votes: dict[str, dict[str, Decision]] = {}
    for one in decisions:
        if one.what == "label":
            take_vote(votes.setdefault(one.image, {}), one)
    return {image: said for image, said in votes.items() if said}


def take_vote(said: dict[str, Decision], new: Decision) -> None:
    """Put one more decision on an image to what people said of it so far, in place."""
    if new.who == TABLE:
        said.clear()
    else:
        said.pop(TABLE, None)
    said.pop(new.who, None)
    if new.value:
        said[new.who] = new
