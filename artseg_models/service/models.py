"""Which models the service offers, and which of them are in memory, by the SHA-256 of their package."""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from artseg_models.collection.index import INDEX, read_collection
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


def load_model(path: Path, device: str, *, engine: str | None = None) -> LoadedModel:
    """Verify a package and load it.

    Parameters
    ----------
    path : Path
        The package.
    device : str
        Where it runs.
    engine : str, optional
        What computes it on the CPU, as `Predictor` has it.

    Raises
    ------
    ArtSegError
        The package is missing or damaged, or the device or the engine is not there.
    """
    # heavy, and not needed to answer the first question after the start
    from artseg_models.packages.read import read_package
    from artseg_models.predict import Predictor

    package = read_package(path)
    predictor = Predictor(package, device=cast("Device", device), engine=engine)
    logger.info(
        "loaded %s %s (%s) on %s by %s",
        package.name,
        package.version,
        package.sha256[:12],
        predictor.device,
        predictor.engine,
    )
    return LoadedModel(
        id=package.id,
        name=package.name,
        version=str(package.version),
        sha256=package.sha256,
        predictor=predictor,
    )


class ModelCache:
    """The few models used last; may be asked from several threads.

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
        self._lock = threading.Lock()
        self._by_sha: OrderedDict[str, LoadedModel] = OrderedDict()
        self._sha_of_state: dict[tuple[object, ...], str] = {}

    def get(self, package: Path) -> LoadedModel:
        """Give the model of the package at an absolute path, loading it where needed.

        A package that changed on disk is read and verified again.

        Raises
        ------
        ArtSegError
            As `load_model`; or the path is not absolute.
        """
        if not package.is_absolute():
            raise ArtSegError(f"Expected the absolute path of a model package, got '{package}'.")
        with self._lock:
            state = _state(package)
            known = self._by_sha.get(self._sha_of_state.get(state, ""))
            if known is None:
                loaded = self._load(package, self._device)
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

    def clear(self) -> bool:
        """Free the memory of all models; tell whether there were any."""
        with self._lock:
            if not self._by_sha:
                return False
            self._by_sha.clear()
        from artseg_models.predict import release_memory

        release_memory()
        return True


@dataclass(frozen=True)
class Offer:
    """A package in the folder of the service.

    Attributes
    ----------
    path : Path
        Zip file or folder.
    id, name, version, format_version, sha256, trained_on : str
        As `Package` has them.
    cutoff : float
        Stated by the package.
    kinds : tuple of str
        Kinds of artifact that it tells apart, in their order; empty where it tells none.
    """

    path: Path
    id: str
    name: str
    version: str
    format_version: str
    sha256: str
    trained_on: str
    cutoff: float
    kinds: tuple[str, ...]


class Catalogue:
    """The segmentation models in a folder, at any depth: zip files, and unpacked packages; of a collection, its zips.

    A package is read and verified when it is first looked at, and again when it changed on disk.

    Parameters
    ----------
    folder : Path or None
        None: nothing is offered.

    Attributes
    ----------
    folder : Path or None
        Absolute.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = None if folder is None else folder.absolute()
        self._lock = threading.Lock()
        self._known: dict[tuple[object, ...], Offer | None] = {}

    def offers(self) -> list[Offer]:
        """List what can be used, by id, the newest version first; packages that cannot are named in the log.

        Raises
        ------
        ArtSegError
            The folder cannot be read.
        """
        if self.folder is None:
            return []
        with self._lock:
            found = [offer for path in self._packages(self.folder) if (offer := self._offer(path)) is not None]
        newest_first = sorted(found, key=lambda offer: (numbers(offer.version), numbers(offer.format_version)))[::-1]
        return sorted(newest_first, key=lambda offer: offer.id)

    def find(self, *, model: str | None = None, sha256: str | None = None) -> Offer:
        """Find a package by the model's id, by ID@VERSION, or by its SHA-256.

        Raises
        ------
        ArtSegError
            There is none; the message lists those that there are.
        """
        offers = self.offers()
        for offer in offers:
            if sha256 is not None and offer.sha256 == sha256:
                return offer
            if model is not None and model in (offer.id, f"{offer.id}@{offer.version}"):
                return offer
        wanted = f"the model '{model}'" if model is not None else f"a package with the SHA-256 {sha256}"
        there = ", ".join(dict.fromkeys(f"{offer.id}@{offer.version}" for offer in offers)) or "none"
        mend = (
            "Choose one of them, or have the package put into the folder that the service was started with (--models)"
        )
        raise ArtSegError(f"The service does not offer {wanted}. Models there: {there}. {mend}.")

    def _packages(self, folder: Path) -> list[Path]:
        if not folder.is_dir():
            raise ArtSegError(f"Expected a folder with model packages at {folder}, but there is none.")
        if (folder / INDEX).is_file():
            # its unpacked files are the same models once more
            collection = read_collection(folder)
            return [collection.inside(file.path) for entry in collection.entries for file in entry.files]
        zips = [path for path in folder.rglob("*.zip") if not path.name.startswith(".")]
        return sorted(zips + [path.parent for path in folder.rglob("rdf.yaml")])

    def _offer(self, path: Path) -> Offer | None:
        from artseg_models.packages.read import read_package

        try:
            state = _state(path)
            if state not in self._known:
                package = read_package(path, any_kind=True)
                self._known[state] = (
                    Offer(
                        path=path,
                        id=package.id,
                        name=package.name,
                        version=package.version,
                        format_version=package.format_version,
                        sha256=package.sha256,
                        trained_on=package.trained_on,
                        cutoff=package.cutoff,
                        kinds=package.kinds,
                    )
                    if package.kind == "segmentation"
                    else None  # a classifier gives no map
                )
        except ArtSegError as error:
            logger.warning("%s is not offered: %s", path, error)
            return None
        return self._known[state]


def numbers(version: str) -> list[int]:
    """Numbers of a version, to compare: 0.10.0 comes after 0.9.0."""
    return [int(number) for number in re.findall(r"\d+", version)]


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
