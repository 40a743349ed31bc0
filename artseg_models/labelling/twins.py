"""Looks for near-duplicates while somebody labels."""

from __future__ import annotations

import logging
import threading

import numpy as np

from artseg_models.errors import ArtSegError
from artseg_models.images import read_image
from artseg_models.labelling.store import Store
from artseg_models.near_duplicates import near_duplicate_groups, perceptual_hash

logger = logging.getLogger(__name__)

_TELL_EVERY = 500
_LOOK_AGAIN_SECONDS = 10.0
_FIRST_SECONDS = 2.0
"""The first images are to be on the screen before anything else is done."""


class Twins:
    """Hashes the images of a store, one after the other, and tells it which show nearly the same.

    Parameters
    ----------
    store : Store
        Whose images; new ones are looked at as they come.
    plane : int, optional
        Which plane of files with several.
    """

    def __init__(self, store: Store, *, plane: int | None = None) -> None:
        self._store = store
        self._plane = plane
        self._ended = threading.Event()
        self.done = 0
        self.total = 0
        self._hashes: dict[str, np.ndarray] = {}
        self._failed: set[str] = set()

    def start(self) -> None:
        """Look in a thread of its own until `stop`."""
        threading.Thread(target=self._watch, daemon=True, name="near-duplicates").start()

    def stop(self) -> None:
        """End the thread after the image that it is at."""
        self._ended.set()

    def look(self) -> None:
        """Hash the images that are new, and group all."""
        records = self._store.shown()
        new = [one for one in records if one.name not in self._hashes and one.name not in self._failed]
        self.total, self.done = len(records), len(records) - len(new)
        for count, record in enumerate(new, start=1):
            if self._ended.is_set():
                return
            try:
                self._hashes[record.name] = perceptual_hash(read_image(record.path, plane=self._plane).pixels)
            except ArtSegError:
                self._failed.add(record.name)  # it is told when the image is to be shown
            self.done += 1
            if count % _TELL_EVERY == 0:
                self._group()
            # the person who labels goes first
            self._ended.wait(0.005)
        if new:
            self._group()

    def _group(self) -> None:
        names = [record.name for record in self._store.shown() if record.name in self._hashes]
        if len(names) > 1:
            groups = near_duplicate_groups(np.stack([self._hashes[name] for name in names]))
            self._store.set_near([sorted(names[at] for at in members) for members in groups])

    def _watch(self) -> None:
        self._ended.wait(_FIRST_SECONDS)
        while not self._ended.is_set():
            try:
                self.look()
            except ArtSegError as error:
                logger.warning("near-duplicates: %s", error)
            self._ended.wait(_LOOK_AGAIN_SECONDS)
