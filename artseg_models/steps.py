"""Long work in steps that remember: a folder in which what is done is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artseg_models.errors import ArtSegError
from artseg_models.files import read_json, write_json


@dataclass(frozen=True)
class Step:
    """One step of a longer work.

    Attributes
    ----------
    name : str
        What is done, for the person who watches and for a page.
    makes : Path
        What exists afterwards.
    run : callable
        Does it.
    """

    name: str
    makes: Path
    run: Callable[[], object]


class Progress:
    """What is done in a folder, and how long it took; kept in a JSON file there.

    Parameters
    ----------
    file : Path
        The JSON file.
    what : str
        Names the work in messages.
    settings : mapping
        Of this work; a folder that was begun with others is refused.

    Raises
    ------
    ArtSegError
        The folder holds the same work with other settings, or something else.
    """

    def __init__(self, file: Path, what: str, settings: Mapping[str, Any]) -> None:
        out = file.parent
        self._path = file
        self._settings = dict(settings)
        self.seconds: dict[str, float] = {}
        if self._path.exists():
            there = read_json(self._path)
            if there["settings"] != self._settings:
                raise ArtSegError(
                    f"{out} holds a {what} with other settings: {there['settings']}, not {self._settings}. "
                    "Choose another folder with --out, or remove this one."
                )
            self.seconds = there["seconds"]
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ArtSegError(
                f"Expected a new or empty folder, or one of an earlier {what}, but {out} holds other files. "
                "Choose another one with --out."
            )
        else:
            self._write()

    def run(self, steps: Sequence[Step], say: Callable[[str], None]) -> None:
        """Do the steps that are not done yet, and tell of each what it is and how long it took."""
        started = time.monotonic()
        for number, step in enumerate(steps, start=1):
            heading = f"Step {number} of {len(steps)}: {step.name}"
            if step.name in self.seconds and step.makes.exists():
                say(f"{heading} - done before, in {self.seconds[step.name]:.0f} s")
                continue
            say(heading)
            begun = time.monotonic()
            step.run()
            self.seconds[step.name] = round(time.monotonic() - begun, 1)
            self._write()
            say(f"  took {self.seconds[step.name]:.0f} s")
        say(f"Done in {time.monotonic() - started:.0f} s.")

    def _write(self) -> None:
        write_json(self._path, {"settings": self._settings, "seconds": self.seconds})
