"""Loaded models, by the SHA-256 of their package."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from artseg_models.errors import ArtSegError

if TYPE_CHECKING:
    from artseg_models.predict import Device, Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes
    ----------
    id, name, version : str
        From the package.
    sha256 : str
        Of the package.
    predictor : Predictor
        Ready to predict.
    """

    id: str
    name: str
    version: str
    sha256: str
    predictor: Predictor


def load_model(path: Path, device: str) -> LoadedModel:
    """Verify a package and load it.

    Raises
    ------
    ArtSegError
        The package is missing or damaged, or the device is not there.
    """
    # heavy, and not needed to answer the first question after the start
    from artseg_models.packages.read import read_package
    from artseg_models.predict import Predictor

    package = read_package(path)
    predictor = Predictor(package, device=cast("Device", device))
    logger.info("loaded %s %s (%s) on %s", package.name, package.version, package.sha256[:12], predictor.device)
    return LoadedModel(
        id=package.id,
        name=package.name,
        version=str(package.version),
        sha256=package.sha256,
        predictor=predictor,
    )


class ModelCache:
    """The few models used last.

    Parameters
    ----------
    device : str
        Where models run.
    keep : int
        How many stay in memory.
    load : callable
        Loads a package's path for a device.
    """

    def __init__(self, *, device: str, keep: int = 2, load: Callable[[Path, str], LoadedModel] = load_model) -> None:
        self._device = device
        self._keep = keep
        self._load = load
        self._by_sha: OrderedDict[str, LoadedModel] = OrderedDict()
        self._sha_of_state: dict[tuple[object, ...], str] = {}

    def get(self, package: str) -> LoadedModel:
        """Give the model of the package at an absolute path, loading it where needed.

        A package that changed on disk is read and verified again.

        Raises
        ------
        ArtSegError
            As `load_model`; or the path is not absolute.
        """
        path = Path(package)
        if not path.is_absolute():
            raise ArtSegError(f"Expected the absolute path of a model package, got '{package}'.")
        state = _state(path)
        known = self._by_sha.get(self._sha_of_state.get(state, ""))
        if known is None:
            loaded = self._load(path, self._device)
            # the same bytes under another path need not stand in memory twice
            known = self._by_sha.setdefault(loaded.sha256, loaded)
            self._sha_of_state[state] = known.sha256
        self._by_sha.move_to_end(known.sha256)
        while len(self._by_sha) > self._keep:
            _, dropped = self._by_sha.popitem(last=False)
            logger.info("dropped %s from memory", dropped.name)
        return known

    def all(self) -> list[LoadedModel]:
        """Models in memory, the one used last at the end."""
        return list(self._by_sha.values())


def _state(path: Path) -> tuple[object, ...]:
    """Path, sizes and times of a package's files: equal as long as nobody touched them."""
    try:
        files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
        return (str(path), *((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    except OSError as error:
        raise ArtSegError(
            f"Expected a model package (.zip or folder) at {path}, but it cannot be read: {error.strerror or error}. "
            "Choose the package again in SegmentArtifacts."
        ) from error
