"""Running, asking and ending the service."""

from __future__ import annotations

import http.client
import json
import logging
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from artseg_models.errors import ArtSegError
from artseg_models.service.protocol import PROTOCOL_HEADER
from artseg_models.service.rendezvous import (
    Rendezvous,
    hold_place,
    new_rendezvous,
    read_rendezvous,
    remove_rendezvous,
    rendezvous_path,
    write_rendezvous,
)

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

#: exit code of a service that found another one in its place; the client then waits for that one
ALREADY_RUNNING = 75


class AlreadyRunningError(ArtSegError):
    """Another service of this user, host and device runs."""


def serve(*, device: str = "auto", idle_minutes: float = 10.0) -> None:
    """Serve until idle for some time, or told to stop.

    Parameters
    ----------
    device : {"auto", "cuda", "mps", "cpu"}
        Where models run.
    idle_minutes : float
        Minutes without a request after which the service ends; 0 means never.

    Raises
    ------
    AlreadyRunningError
        Another service of this user, host and device runs.
    ArtSegError
        The state folder cannot be used.
    """
    path = rendezvous_path(device)
    try:
        place = hold_place(path)
    except BlockingIOError as error:
        raise AlreadyRunningError(
            f"A service for device '{device}' runs already ({path}). See artseg serve --status, artseg serve --stop."
        ) from error
    try:
        _serve(path, device=device, idle_minutes=idle_minutes)
    finally:
        place.release()


def _serve(path: Path, *, device: str, idle_minutes: float) -> None:
    import uvicorn  # takes its time; a second service must give way before

    from artseg_models.service.app import Activity, create_app
    from artseg_models.service.models import ModelCache

    activity = Activity()
    ended = threading.Event()

    def stop() -> None:
        server.should_exit = True

    def watch() -> None:
        while not ended.wait(min(1.0, idle_minutes * 6)):
            if activity.idle_seconds() >= idle_minutes * 60:
                logger.info("nothing to do for %g minutes: ending", idle_minutes)
                stop()
                return

    with socket.socket() as listening:
        listening.bind((LOOPBACK, 0))
        listening.listen(128)
        rendezvous = new_rendezvous(listening.getsockname()[1])
        app = create_app(
            token=rendezvous.token,
            device=device,
            models=ModelCache(device=device),
            activity=activity,
            stop=stop,
        )
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_keep_alive=60))
        watcher = threading.Thread(target=watch, daemon=True)
        # uvicorn ends gracefully, then raises the signal again: leave by the `finally` below even so
        signal.signal(signal.SIGTERM, _leave)
        try:
            write_rendezvous(path, rendezvous)
            logger.info("artseg service %d listens on %s:%d", rendezvous.pid, LOOPBACK, rendezvous.port)
            if idle_minutes > 0:
                watcher.start()
            server.run(sockets=[listening])
        finally:
            ended.set()
            remove_rendezvous(path, rendezvous)
            logger.info("artseg service %d ended", rendezvous.pid)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def status(*, device: str = "auto") -> dict[str, Any] | None:
    """Ask the service what it is and which models it holds.

    Returns
    -------
    dict or None
        `pid`, `protocol`, `artseg`, `device`, `port`, `started`, `models`; None where no service answers.
    """
    rendezvous = read_rendezvous(rendezvous_path(device))
    if rendezvous is None:
        return None
    try:
        health = _ask(rendezvous, "GET", "/health")
        return {
            **health,
            "port": rendezvous.port,
            "started": rendezvous.started,
            "models": _ask(rendezvous, "GET", "/models"),
        }
    except (OSError, http.client.HTTPException):
        return None


def stop(*, device: str = "auto", wait_seconds: float = 30.0) -> bool:
    """End the service after the requests under way; False where none answers.

    Raises
    ------
    ArtSegError
        It does not end in time.
    """
    path = rendezvous_path(device)
    rendezvous = read_rendezvous(path)
    if rendezvous is None:
        return False
    try:
        _ask(rendezvous, "POST", "/stop")
    except (OSError, http.client.HTTPException):
        return False
    until = time.monotonic() + wait_seconds
    while read_rendezvous(path) == rendezvous:
        if time.monotonic() > until:
            raise ArtSegError(
                f"The service (process {rendezvous.pid}) did not end in {wait_seconds:.0f} s; it may still work on an "
                "image. Try again, or end the process."
            )
        time.sleep(0.1)
    return True


def _ask(rendezvous: Rendezvous, method: str, path: str) -> Any:
    # http.client knows no proxies, as it should be for loopback
    connection = http.client.HTTPConnection(LOOPBACK, rendezvous.port, timeout=10)
    try:
        headers = {"Authorization": f"Bearer {rendezvous.token}", PROTOCOL_HEADER: str(rendezvous.protocol)}
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        content = json.loads(answer.read())
    except ValueError as error:
        raise http.client.HTTPException(f"no answer of the service: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise http.client.HTTPException(f"{answer.status}: {content}")
    return content
