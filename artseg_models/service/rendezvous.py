"""How processes of one user find the service: a small private file, and a lock that lives as long as the service.

The same folder and file names stand in CellProfiler's client (`plugins/_artseg_client`), which cannot import this.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import socket
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from artseg_models import __version__
from artseg_models.errors import ArtSegError
from artseg_models.service.protocol import PROTOCOL_VERSION

LOOPBACK = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Rendezvous:
    """Where a service listens and what it takes to be let in.

    Attributes
    ----------
    port : int
        Of the address `host`.
    token : str
        Secret that every request bears.
    pid : int
        The service's process.
    protocol : int
        Its `PROTOCOL_VERSION`.
    artseg : str
        Its version of artseg.
    python : str
        The Python that it runs in.
    started : float
        When it started, in seconds since 1970.
    host : str
        Address by which this computer reaches it.
    """

    port: int
    token: str
    pid: int
    protocol: int
    artseg: str
    python: str
    started: float
    host: str = LOOPBACK


def state_folder() -> Path:
    """Per-user folder of rendezvous files, locks and logs; the variable ARTSEG_STATE_DIR overrides it."""
    override = os.environ.get("ARTSEG_STATE_DIR")
    if override:
        return Path(override)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "artseg"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "artseg"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "artseg"


def rendezvous_path(device: str, port: int = 0) -> Path:
    """File of the service for `device` on this host: home folders are shared between the hosts of a network.

    A service with a port of its own, as one for a lab has, stands beside the one that CellProfiler's module starts.
    """
    host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()) or "host"
    return state_folder() / f"service-{host}-{device}{f'-{port}' if port else ''}.json"


def new_rendezvous(port: int, *, host: str = LOOPBACK, token: str | None = None) -> Rendezvous:
    """Describe this process, with a fresh token where none is given."""
    return Rendezvous(
        port=port,
        host=host,
        token=token or secrets.token_urlsafe(32),
        pid=os.getpid(),
        protocol=PROTOCOL_VERSION,
        artseg=__version__,
        python=sys.executable,
        started=time.time(),
    )


def hold_place(path: Path) -> FileLock:
    """Lock the place of the one service at `path`; released when the process ends, however it ends.

    Raises
    ------
    BlockingIOError
        Another service holds it.
    ArtSegError
        The state folder cannot be used.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire(timeout=1)
    except Timeout as error:
        raise BlockingIOError(f"another service runs for {path}") from error
    except OSError as error:
        raise ArtSegError(
            f"Could not use {path.parent} to announce the service: {error.strerror or error}. "
            "Set ARTSEG_STATE_DIR to a folder that you may write to."
        ) from error
    return lock


def write_rendezvous(path: Path, rendezvous: Rendezvous) -> None:
    """Write the file whole, readable by its owner only from the first byte on."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as written:
            json.dump(dataclasses.asdict(rendezvous), written)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtSegError(
            f"Could not write {path}: {error.strerror or error}. "
            "Free space, or set ARTSEG_STATE_DIR to a folder that you may write to."
        ) from error


def read_rendezvous(path: Path) -> Rendezvous | None:
    """Read the file; None where there is none or it is no rendezvous file."""
    try:
        return Rendezvous(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remove_rendezvous(path: Path, rendezvous: Rendezvous) -> None:
    """Remove the file if it still is this service's own."""
    if read_rendezvous(path) == rendezvous:
        path.unlink(missing_ok=True)
