"""Progress on long work: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)
_LOG_EVERY_SECONDS = 15.0

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Pass items on and show how far the work is.

    Parameters
    ----------
    items : iterable
        What is worked through.
    description : str
        What is being done, as a user would say it.
    total : int
        How many items there are.

    Yields
    ------
    object
        The items, unchanged and in order.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(description, total=total)
            for item in items:
                yield item
                progress.advance(task)
        return
    started = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _LOG_EVERY_SECONDS:
            last = now
            left = (now - started) / done * (total - done)
            logger.info("%s: %d of %d, about %.0f s left", description, done, total, left)
