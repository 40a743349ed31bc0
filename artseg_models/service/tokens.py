"""Tokens of servers elsewhere, for CellProfiler on this computer; never in a pipeline, which people pass on.

The same file and the same form of an address stand in CellProfiler's client (`plugins/_artseg_client/_token.py`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from artseg_models.errors import ArtSegError
from artseg_models.service.rendezvous import state_folder


def tokens_path() -> Path:
    """File of the tokens by address, which only this user may read."""
    return state_folder() / "tokens.json"


def remember_token(url: str, token: str) -> Path:
    """Note the token of a server.

    Parameters
    ----------
    url : str
        Address as it is given in SegmentArtifacts, for instance https://gpu.example.org/artseg.
    token : str
        What its administrator gave.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ArtSegError
        The address is none, or the file cannot be written.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ArtSegError(f"Expected the address of a server, for instance http://gpu:8300, got '{url}'.")
    path = tokens_path()
    try:
        known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    known[url.strip().rstrip("/")] = token
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as written:
            json.dump(known, written, indent=1)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtSegError(f"Could not write {path}: {error.strerror or error}.") from error
    return path
