"""Files that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from artseg_models.errors import ArtSegError


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """Give a temporary path beside `path`; on leaving without an error it becomes `path`.

    Parameters
    ----------
    path : Path
        Where the finished file belongs. Missing parent folders are made, and removed again after an error.

    Yields
    ------
    Path
        A path in the same folder and with the same suffix, to be written by the caller.

    Raises
    ------
    ArtSegError
        The file cannot be written (disk full, no permission); `path` is left as it was.
    """
    with whole_files([path]) as (temporary,):
        yield temporary


@contextmanager
def whole_files(paths: Sequence[Path]) -> Generator[list[Path]]:
    """As `whole_file`, for files that belong together: on leaving without an error all appear, otherwise none.

    Parameters
    ----------
    paths : sequence of Path
        At least one, where the finished files belong.

    Yields
    ------
    list of Path
        A temporary path for each, in the same order.

    Raises
    ------
    ArtSegError
        One of the files cannot be written; all are left as they were.
    """
    temporaries: list[Path] = []
    made = sorted({folder for path in paths for folder in path.parents if not folder.exists()}, reverse=True)
    written = False
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
            os.close(handle)
            temporaries.append(Path(name))
        yield list(temporaries)
        # mkstemp makes files private; results are to be shared as any other file of the user
        umask = os.umask(0)
        os.umask(umask)
        for temporary in temporaries:
            with open(temporary, "rb") as opened:  # a full disk may show only here
                os.fsync(opened.fileno())
            temporary.chmod(0o666 & ~umask)
        for temporary, path in zip(tuple(temporaries), paths, strict=True):
            os.replace(temporary, path)
            temporaries.remove(temporary)
        written = True
    except OSError as error:
        others = f" and {len(paths) - 1} files that belong to it" if len(paths) > 1 else ""
        raise ArtSegError(
            f"Could not write {paths[0]}{others}: {error.strerror or error}. Free space or choose another folder; "
            "what stood there before is unchanged."
        ) from error
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        for folder in [] if written else made:
            with suppress(OSError):  # somebody else has put something there
                folder.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write JSON (indented, keys in the order given), whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that ArtSeg wrote.

    Raises
    ------
    ArtSegError
        The file is missing, unreadable or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtSegError(f"Expected a JSON file at {path}, but it could not be read: {error}.") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file as 64 lower-case hexadecimal digits."""
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
