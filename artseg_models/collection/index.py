"""What a collection holds, by id and version, as its index states it. Light: reads one JSON file, no package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, ValidationError

from artseg_models.errors import ArtSegError
from artseg_models.files import write_text

INDEX = "collection.json"
#: format of the index; a higher one was written by a later artseg
INDEX_FORMAT = 1


class _Stated(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PackageFile(_Stated):
    """One zip of a model.

    Attributes
    ----------
    format_version : str
        Of the Model Zoo.
    path : str
        Relative to the collection's folder, with slashes.
    sha256 : str
        Of the zip.
    bytes : int
        Its size.
    weights : dict
        SHA-256 of its weight files by weight format.
    """

    format_version: str
    path: str
    sha256: str
    bytes: int
    weights: dict[str, str]


class Entry(_Stated):
    """One version of a model.

    Attributes
    ----------
    id, version, name : str
        As its package states them.
    kind : {'segmentation', 'classification'}
        Whether an image gives a map or class probabilities.
    files : tuple of PackageFile
        Its zips, at most one a format; the newest format first.
    folder : str
        Where it lies unpacked, relative to the collection's folder, with slashes.
    cover, documentation : str or None
        Files in `folder`.
    trained_on : str
        The labels it learned from, and how many images.
    description, licence, authors, tags, pixel_size_um
        From the package, for showing it.
    """

    id: str
    version: str
    name: str
    kind: Literal["segmentation", "classification"]
    files: tuple[PackageFile, ...]
    folder: str
    cover: str | None = None
    documentation: str | None = None
    trained_on: str = ""
    description: str = ""
    licence: str = ""
    authors: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    pixel_size_um: float | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of the zip in the newest format, which is what `Collection.find` gives."""
        return self.files[0].sha256


class Index(_Stated):
    """The file `collection.json`."""

    collection_format: int
    models: tuple[Entry, ...]


class Collection:
    """A collection's folder and what its index states.

    Parameters
    ----------
    folder : Path
        The collection.
    entries : sequence of Entry
        In any order.

    Attributes
    ----------
    folder : Path
        Absolute.
    entries : tuple of Entry
        Sorted by id, the newest version of each first.
    """

    def __init__(self, folder: Path, entries: Sequence[Entry]) -> None:
        self.folder = folder.absolute()
        newest_first = sorted(entries, key=lambda entry: version_key(entry.version), reverse=True)
        self.entries = tuple(sorted(newest_first, key=lambda entry: entry.id))

    def find(self, identifier: str, version: str | None = None) -> Entry:
        """Look a model up.

        Parameters
        ----------
        identifier : str
            The model's id, 'id@version', or 'id/version' as bioimageio.core takes it.
        version : str, optional
            The newest by default.

        Raises
        ------
        ArtSegError
            The collection does not hold it; the message lists what it holds.
        """
        versions = [entry for entry in self.entries if entry.id == identifier]
        if not versions and version is None and ("/" in identifier or "@" in identifier):
            identifier, _, version = identifier.replace("@", "/").rpartition("/")
            versions = [entry for entry in self.entries if entry.id == identifier]
        if not versions:
            held = ", ".join(dict.fromkeys(entry.id for entry in self.entries)) or "no model yet"
            raise ArtSegError(f"The collection {self.folder} has no model '{identifier}'; it holds: {held}.")
        if version is None:
            return versions[0]
        for entry in versions:
            if entry.version == version:
                return entry
        held = ", ".join(entry.version for entry in versions)
        raise ArtSegError(f"The collection {self.folder} has no version {version} of {identifier}; it holds: {held}.")

    def path(self, entry: Entry) -> Path:
        """Give the absolute path of an entry's zip, in the newest format that it has.

        Raises
        ------
        ArtSegError
            The file is gone, or the index leads out of the collection.
        """
        return self.inside(entry.files[0].path)

    def inside(self, name: str) -> Path:
        """Give the absolute path of a file that the index names.

        Raises
        ------
        ArtSegError
            The file is gone, or the index leads out of the collection.
        """
        parts = PurePosixPath(name).parts
        path = self.folder.joinpath(*parts)
        if not parts or not path.resolve().is_relative_to(self.folder.resolve()):
            raise ArtSegError(f"{self.folder / INDEX} names a file '{name}' outside the collection. Not read.")
        if not path.is_file():
            raise ArtSegError(
                f"{self.folder / INDEX} names {name}, which is not there. Put it back, or run "
                f"artseg collection build {self.folder} to list what is there."
            )
        return path


def read_collection(folder: Path) -> Collection:
    """Read a collection's index.

    Raises
    ------
    ArtSegError
        The folder holds no index, or a damaged one, or one of a later artseg.
    """
    path = folder / INDEX
    if not path.is_file():
        raise ArtSegError(
            f"Expected a collection of models at {folder}, but it holds no {INDEX}. Begin one with "
            f"artseg collection add {folder} PACKAGE."
        )
    mend = f"Write it anew with artseg collection build {folder}."
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and cast("dict[str, Any]", content).get("collection_format", 0) > INDEX_FORMAT:
            raise ArtSegError(f"{path} was written by a later artseg. Update artseg.")
        index = Index.model_validate(content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ArtSegError(f"{path} is damaged: {where}: {error.errors()[0]['msg']}. {mend}") from error
    except (OSError, ValueError, TypeError) as error:
        raise ArtSegError(f"Expected JSON in {path}, but it could not be read: {error}. {mend}") from error
    return Collection(folder, index.models)


def write_index(collection: Collection) -> None:
    """Write a collection's index, whole or not at all."""
    index = Index(collection_format=INDEX_FORMAT, models=collection.entries)
    write_text(collection.folder / INDEX, index.model_dump_json(indent=2) + "\n")


def find_package(folder: Path, identifier: str, version: str | None = None) -> Path:
    """Give the zip of a model in a collection, for `read_package`.

    Parameters
    ----------
    folder : Path
        The collection.
    identifier, version
        As `Collection.find` takes them.

    Returns
    -------
    Path
        Absolute.

    Raises
    ------
    ArtSegError
        The folder is no collection, or does not hold the model; the message lists what it holds.
    """
    collection = read_collection(folder)
    return collection.path(collection.find(identifier, version))


def version_key(version: str) -> Version:
    """Order versions: 0.10 comes after 0.9.

    Raises
    ------
    ArtSegError
        It is no version as Python and the Model Zoo write them.
    """
    try:
        return Version(version)
    except InvalidVersion as error:
        raise ArtSegError(
            f"'{version}' is no version; expected one as the Model Zoo takes it, such as 0.1.0. Export the package "
            "again with --model-version."
        ) from error
