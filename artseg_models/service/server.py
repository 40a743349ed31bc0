"""Running, asking and ending the service."""

from __future__ import annotations

import http.client
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from artseg_models.errors import ArtSegError
from artseg_models.service.protocol import PROTOCOL_HEADER
from artseg_models.service.rendezvous import (
    LOOPBACK,
    Rendezvous,
    hold_place,
    new_rendezvous,
    read_rendezvous,
    remove_rendezvous,
    rendezvous_path,
    write_rendezvous,
)

logger = logging.getLogger(__name__)

#: exit code of a service that found another one in its place; the client then waits for that one
ALREADY_RUNNING = 75

#: exit code of a service whose network did not come back
GAVE_UP = 70

_SHORTEST_TOKEN = 16


class AlreadyRunningError(ArtSegError):
    """Another service of this user, host and device runs."""


@dataclass(frozen=True)
class ServeOptions:
    """How to serve.

    Attributes
    ----------
    device : {"auto", "cuda", "mps", "cpu"}
        Where models run.
    engine : str or None
        What computes them on the CPU; None: as the variable ARTSEG_ENGINE says, else the fastest by a measurement.
    host : str
        Address to listen on; any other than this computer's loopback demands a token and models.
    port : int
        0: any free one.
    token : str or None
        What every request must bear; None: a random one in the rendezvous file, which only this user may read.
    models : Path or None
        Folder of the packages that are offered by their id.
    unload_minutes, idle_minutes : float
        Minutes without an image after which the models leave the memory, and after which the service ends; 0: never.
    end_with : int or None
        Process with which the service ends.
    cpu_fallback : bool
        Whether an image that does not fit into the device's memory may go to the CPU, where its sender allows that.
    request_minutes : float
        How long an image may wait in the queue, and how long the network may take.
    """

    device: str = "auto"
    engine: str | None = None
    host: str = LOOPBACK
    port: int = 0
    token: str | None = None
    models: Path | None = None
    unload_minutes: float = 5.0
    idle_minutes: float = 15.0
    end_with: int | None = None
    cpu_fallback: bool = True
    request_minutes: float = 30.0

    @property
    def shared(self) -> bool:
        """Whether others than this user may ask: they must not name files of this computer."""
        return self.token is not None

    def check(self) -> None:
        """Refuse what would let strangers in or serve nobody.

        Raises
        ------
        ArtSegError
            With what to add to the command.
        """
        if not is_loopback(self.host):
            if self.token is None:
                raise ArtSegError(
                    f"Expected a token to serve on {self.host}, where other computers reach the service. Give one with "
                    "--token-file FILE, or serve on this computer alone and let others in through SSH."
                )
            if not self.port:
                raise ArtSegError(f"Expected a port to serve on {self.host}, for instance --port 8300.")
        if self.token is not None and len(self.token) < _SHORTEST_TOKEN:
            raise ArtSegError(
                f"Expected a token of {_SHORTEST_TOKEN} characters or more, got {len(self.token)}. Make one with: "
                'python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        if self.shared and self.models is None:
            raise ArtSegError(
                "Expected a folder with model packages (--models DIR): with a token of its own the service is for "
                "others too, who name models by their ids, not by paths on this computer."
            )
        if self.models is not None and not self.models.is_dir():
            raise ArtSegError(f"Expected a folder with model packages at {self.models}, but there is none.")


def is_loopback(host: str) -> bool:
    """Tell whether an address or name is this computer's own, which no other reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(options: ServeOptions | None = None) -> None:
    """Serve until idle for some time, until the run that it belongs to has ended, or until told to stop.

    Raises
    ------
    AlreadyRunningError
        Another service of this user, host, device and port runs.
    ArtSegError
        The options do not fit, the port is taken, or the state folder cannot be used.
    """
    options = options or ServeOptions()
    options.check()
    path = rendezvous_path(options.device, options.port)
    try:
        place = hold_place(path)
    except BlockingIOError as error:
        raise AlreadyRunningError(
            f"A service for device '{options.device}' runs already ({path}). See artseg serve --status, "
            "artseg serve --stop."
        ) from error
    try:
        with _listening(options) as listening:
            _serve(path, listening, options)
    finally:
        place.release()


def _listening(options: ServeOptions) -> socket.socket:
    """Open the port."""
    # a name may stand for several addresses; the first is the one that a client tries first
    try:
        family, kind, _, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind)
    except OSError as error:
        raise ArtSegError(f"Could not listen on '{options.host}': {error.strerror or error}. Check --host.") from error
    try:
        if sys.platform != "win32":  # there it would let two programs have one port
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(128)
    except OSError as error:
        opened.close()
        raise ArtSegError(
            f"Could not listen on port {options.port} of {options.host}: {error.strerror or error}. Another program "
            "may have it: choose another with --port, or end that program."
        ) from error
    return opened


def _serve(path: Path, listening: socket.socket, options: ServeOptions) -> None:
    # they take their time; a second service must give way before
    import httptools
    import uvicorn

    from artseg_models.service.app import Activity, Limits, create_app
    from artseg_models.service.models import Catalogue, ModelCache, load_model
    from artseg_models.service.shelf import SHELF

    activity = Activity()
    models = ModelCache(device=options.device, load=partial(load_model, engine=options.engine))
    ended, stuck = threading.Event(), threading.Event()
    if options.end_with is not None:
        activity.keep_for(options.end_with)
        if not activity.runs:
            raise ArtSegError(f"There is no process {options.end_with} to end with.")

    def stop() -> None:
        server.should_exit = True

    def give_up() -> None:
        stuck.set()
        stop()

    def watch() -> None:
        while not ended.wait(1.0 if options.idle_minutes == 0 else min(1.0, options.idle_minutes * 6)):
            idle = activity.idle_seconds()
            if 0 < options.unload_minutes * 60 <= idle and models.clear():
                logger.info("no image for %g minutes: models freed", options.unload_minutes)
            if 0 < options.idle_minutes * 60 <= idle:
                logger.info("no image for %g minutes: ending", options.idle_minutes)
                stop()
                return
            if activity.runs_ended() and not activity.under_way:
                logger.info("the run that this belonged to has ended: ending")
                stop()
                return

    host, port = str(listening.getsockname()[0]), int(listening.getsockname()[1])
    reached_by = LOOPBACK if host == "0.0.0.0" else "::1" if host == "::" else host
    rendezvous = new_rendezvous(port, host=reached_by, token=options.token)
    app = create_app(
        token=rendezvous.token,
        device=options.device,
        engine=options.engine or os.environ.get("ARTSEG_ENGINE") or "auto",
        models=models,
        activity=activity,
        stop=stop,
        give_up=give_up,
        catalogue=Catalogue(options.models),
        paths=not options.shared,
        cpu_fallback=options.cpu_fallback,
        limits=Limits(request_seconds=options.request_minutes * 60),
    )
    # in pure Python, HTTP takes twice the processor's time for an image
    logger.debug("HTTP by httptools %s", httptools.__version__)
    config = uvicorn.Config(app, http="httptools", log_config=None, access_log=False, timeout_keep_alive=60)
    server = uvicorn.Server(config)
    watcher = threading.Thread(target=watch, daemon=True)
    # uvicorn ends gracefully, then raises the signal again: leave by the `finally` below even so
    signal.signal(signal.SIGTERM, _leave)
    try:
        write_rendezvous(path, rendezvous)
        logger.info("artseg service %d listens on http://%s:%d", rendezvous.pid, host, port)
        if any(getattr(route, "path", "") == SHELF for route in app.routes):
            logger.info("models to look at and download: http://%s:%d%s/", host, port, SHELF)
        watcher.start()
        server.run(sockets=[listening])
    finally:
        ended.set()
        remove_rendezvous(path, rendezvous)
        logger.info("artseg service %d ended", rendezvous.pid)
        if stuck.is_set():
            os._exit(GAVE_UP)  # Python would wait for the thread that does not come back


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def status(*, device: str = "auto", port: int = 0) -> dict[str, Any] | None:
    """Ask the service what it is, what it does and which models it holds.

    Returns
    -------
    dict or None
        `pid`, `protocol`, `artseg`, `device`, `engine` (as asked for; each of `loaded` has its own), `host`, `port`,
        `started`, `uptime_seconds`, `idle_seconds`, `under_way` (images in the queue, the one in work included),
        `served`, `failed`, `memory`, `offered`, `loaded`; None where no service answers.
    """
    rendezvous = read_rendezvous(rendezvous_path(device, port))
    if rendezvous is None:
        return None
    try:
        return {
            **_ask(rendezvous, "GET", "/health"),
            "host": rendezvous.host,
            "port": rendezvous.port,
            "started": rendezvous.started,
            **_ask(rendezvous, "GET", "/models"),
        }
    except (OSError, http.client.HTTPException):
        return None


def stop(*, device: str = "auto", port: int = 0, wait_seconds: float = 30.0) -> bool:
    """End the service after the requests under way; False where none answers.

    Raises
    ------
    ArtSegError
        It does not end in time.
    """
    path = rendezvous_path(device, port)
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
    # http.client knows no proxies, as it should be for this computer
    connection = http.client.HTTPConnection(rendezvous.host, rendezvous.port, timeout=10)
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
