"""Running the labelling page on the loopback interface."""

from __future__ import annotations

import logging
import secrets
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from artseg_models.errors import ArtSegError
from artseg_models.labelling.app import LabellingPage, create_app
from artseg_models.labelling.model import ModelPanel
from artseg_models.labelling.previews import Previews
from artseg_models.labelling.results import ResultsPanel
from artseg_models.labelling.store import Store
from artseg_models.labelling.twins import Twins

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


def serve(
    store: Store,
    *,
    kinds: Sequence[str] = (),
    who: str = "",
    plane: int | None = None,
    results: Path | None = None,
    settings: Sequence[str] = (),
    port: int = 0,
    browser: bool = True,
    announce: Callable[[str], None],
) -> None:
    """Serve the page until somebody ends it, there, by Ctrl+C or by SIGTERM; what runs in the background ends with it.

    Parameters
    ----------
    store : Store
        Images and labels.
    kinds : sequence of str
        Kinds of artifact that have keys.
    who : str
        The person's name, until the page says another.
    plane : int, optional
        Which plane of files with several.
    results : Path, optional
        Output of `artseg segment` on these images, to be looked at.
    settings : sequence of str
        Changes of the preset of trainings that are started on the page, NAME=VALUE.
    port : int
        On the loopback address; 0 takes a free one.
    browser : bool
        Open the page in the user's browser.
    announce : callable
        Told the page's address, which lets its bearer in.

    Raises
    ------
    ArtSegError
        The port is taken.
    """
    twins = Twins(store, plane=plane)

    def stop() -> None:
        server.should_exit = True

    page = LabellingPage(store, previews=Previews(plane=plane), twins=twins, kinds=kinds, who=who, stop=stop)
    with socket.socket() as listening:
        try:
            listening.bind((LOOPBACK, port))
        except OSError as error:
            raise ArtSegError(
                f"Could not listen on port {port}: {error.strerror or error}. Leave --port out to take a free one."
            ) from error
        listening.listen(128)
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(24)
        shown = ResultsPanel(store, folder=results, plane=plane)
        model = ModelPanel(store, plane=plane, settings=settings, segmented=shown.open)
        app = create_app(page, model=model, results=shown, token=token, port=port)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=3,
                timeout_keep_alive=60,
            )
        )
        address = f"http://{LOOPBACK}:{port}/?token={token}"
        announce(address)
        if browser:
            # the socket listens already: the browser's request waits for the server
            webbrowser.open(address)
        twins.start()
        # uvicorn raises the signal once more when it has ended: that must not end this process before the training
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            server.run(sockets=[listening])
        finally:
            twins.stop()
            model.jobs.stop()
