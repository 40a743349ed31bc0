"""Putting packages into a collection: checked first, then all or none, never one over another."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from artseg_models.collection.index import (
    INDEX,
    Collection,
    Entry,
    PackageFile,
    read_collection,
    version_key,
    write_index,
)
from artseg_models.collection.page import PAGE, write_page
from artseg_models.errors import ArtSegError
from artseg_models.files import sha256, whole_file
from artseg_models.packages.formats import OLDER_FORMAT
from artseg_models.packages.rdf import find_description, load_yaml, read_description
from artseg_models.packages.read import Package, read_package

DOWNLOADS = "downloads"
#: an id becomes a folder's name and part of a web address
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Added:
    """What became of a package.

    Attributes
    ----------
    entry : Entry
        What the collection now states.
    source : Path
        What was given.
    new : bool
        Whether it was not there before, byte for byte.
    """

    entry: Entry
    source: Path
    new: bool


@dataclass(frozen=True)
class _Candidate:
    """A package that was read and lies unpacked in a folder that will be deleted."""

    source: Path
    package: Package
    file: PackageFile
    documentation: str | None


def add_packages(folder: Path, packages: Sequence[Path]) -> list[Added]:
    """Add packages to a collection, all or none; the collection is made where there is none.

    Parameters
    ----------
    folder : Path
        The collection.
    packages : sequence of Path
        Zip files. A model's packages in two formats become one entry with two downloads.

    Returns
    -------
    list of Added
        In the order given.

    Raises
    ------
    ArtSegError
        A package is damaged, no model that ArtSeg runs, or has no id; its id and version are there with other bytes or
        other weights; or the files cannot be written.
    """
    for path in packages:
        if not path.is_file():
            raise ArtSegError(
                f"Expected a package's zip file at {path}, but "
                f"{'it is a folder' if path.is_dir() else 'nothing is there'}. Give the zip that artseg export wrote."
            )
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder), _working_folder(folder) as temporary:
        collection = _existing(folder)
        entries = {(entry.id, entry.version): entry for entry in collection.entries}
        held = {file.sha256 for entry in entries.values() for file in entry.files}
        candidates = [_read(path, temporary) for path in packages]
        for candidate in candidates:
            _enter(entries, candidate)
        updated = Collection(folder, tuple(entries.values()))
        _write(updated, candidates)
    return [
        Added(
            entries[candidate.package.id, candidate.package.version],
            candidate.source,
            candidate.file.sha256 not in held,
        )
        for candidate in candidates
    ]


def build_collection(folder: Path) -> Collection:
    """Write a collection's index, page and unpacked packages anew from the zips in its folder `downloads`.

    Raises
    ------
    ArtSegError
        There are no zips; or one of them could not be added by `add_packages`. The index is unchanged then.
    """
    zips = _zips(folder)
    if not zips:
        raise ArtSegError(
            f"Expected packages (zip files) in {folder / DOWNLOADS}, but there are none. Add some with "
            f"artseg collection add {folder} PACKAGE."
        )
    with _locked(folder), _working_folder(folder) as temporary:
        candidates = [_read(path, temporary) for path in zips]
        entries: dict[tuple[str, str], Entry] = {}
        for candidate in candidates:
            _enter(entries, candidate)
        collection = Collection(folder, tuple(entries.values()))
        _write(collection, candidates)
    return collection


def _existing(folder: Path) -> Collection:
    """Read the collection, or begin one where there is nothing of an earlier one that it would forget."""
    if not (folder / INDEX).is_file() and _zips(folder):
        raise ArtSegError(
            f"{folder / DOWNLOADS} holds packages, but {folder / INDEX} is not there. Nothing was added. List what is "
            f"there first: artseg collection build {folder}."
        )
    return read_collection(folder) if (folder / INDEX).is_file() else Collection(folder, ())


def _zips(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / DOWNLOADS).rglob("*.zip") if not path.name.startswith("."))


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    with FileLock(folder / ".collection.lock"):
        yield


@contextmanager
def _working_folder(folder: Path) -> Generator[Path]:
    # in the collection, so that what is unpacked can be moved to its place
    temporary = Path(tempfile.mkdtemp(prefix=".adding-", dir=folder))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(path: Path, temporary: Path) -> _Candidate:
    package = read_package(path, cache=temporary, any_kind=True)
    described = read_description(load_yaml(find_description(package.folder)), source=str(path))
    if described.id is None:
        raise ArtSegError(
            f"{path} ({package.name}) states no id, by which a collection would know it. Add one to its rdf.yaml."
        )
    if not _ID.fullmatch(package.id) or package.id.casefold() in (DOWNLOADS, PAGE, INDEX):
        raise ArtSegError(
            f"The id '{package.id}' of {path} cannot be a folder of a collection; expected letters, digits, '.', '_' "
            f"and '-', and not '{DOWNLOADS}', '{PAGE}' or '{INDEX}'. Export the model under another name."
        )
    version_key(package.version)
    suffix = f"-{OLDER_FORMAT}" if package.format_version == OLDER_FORMAT else ""
    file = PackageFile(
        format_version=package.format_version,
        path=f"{DOWNLOADS}/{package.id}/{package.id}-{package.version}{suffix}.zip",
        sha256=package.sha256,
        bytes=path.stat().st_size,
        weights={name: sha256(weights) for name, weights in sorted(package.weights.items())},
    )
    return _Candidate(path, package, file, described.documentation if package.documentation else None)


def _enter(entries: dict[tuple[str, str], Entry], candidate: _Candidate) -> None:
    """Put a package into the entries, unless something else stands in its place."""
    package, file = candidate.package, candidate.file
    known = entries.get((package.id, package.version))
    for entry in entries.values():
        if entry.id != package.id and entry.id.casefold() == package.id.casefold():
            raise ArtSegError(
                f"{candidate.source} has the id {package.id}, which differs from {entry.id} in the collection in case "
                "only. Nothing was added. Export it under another name."
            )
    files = [] if known is None else list(known.files)
    what = f"{package.id} {package.version}"
    for other in files:
        same_file = other.path == file.path or other.format_version == file.format_version
        if same_file and other.sha256 != file.sha256:
            raise ArtSegError(
                f"The collection holds {what} with other bytes (SHA-256 {other.sha256[:12]}, {candidate.source} has "
                f"{file.sha256[:12]}). Nothing was added. A changed model needs a version of its own: artseg export "
                "--model-version."
            )
        common = other.weights.keys() & file.weights.keys()
        if not common or any(other.weights[name] != file.weights[name] for name in common):
            raise ArtSegError(
                f"The collection holds {what} in format {other.format_version}; {candidate.source} is in "
                f"{file.format_version} but has other weights. Nothing was added. Add both from one export."
            )
    if file not in files:
        files.append(file)
    files.sort(key=lambda one: version_key(one.format_version), reverse=True)
    # the older format is shown and unpacked: every reader opens it
    if known is None or files[-1] == file:
        known = _entry(candidate, files)
    entries[package.id, package.version] = known.model_copy(update={"files": tuple(files)})


def _entry(candidate: _Candidate, files: Sequence[PackageFile]) -> Entry:
    package = candidate.package
    return Entry(
        id=package.id,
        version=package.version,
        name=package.name,
        kind=package.kind,
        files=tuple(files),
        folder=f"{package.id}/{package.version}",
        cover=package.covers[0].relative_to(package.folder).as_posix() if package.covers else None,
        documentation=candidate.documentation,
        trained_on=package.trained_on,
        description=package.description,
        licence=package.licence,
        authors=package.authors,
        tags=package.tags,
        pixel_size_um=package.pixel_size_um,
    )


def _write(collection: Collection, candidates: Sequence[_Candidate]) -> None:
    """Write zips, unpacked files, index and page, in this order: what is named is there already."""
    try:
        by_sha = {candidate.file.sha256: candidate for candidate in candidates}
        for candidate in candidates:
            target = collection.folder / candidate.file.path
            if target.is_file() and sha256(target) != candidate.file.sha256:
                raise ArtSegError(
                    f"{target} is there with other bytes than its index states or {candidate.source} has. Move it "
                    f"away, or list it with artseg collection build {collection.folder}."
                )
            if not target.is_file():
                with whole_file(target) as unfinished:
                    shutil.copyfile(candidate.source, unfinished)
        for entry in collection.entries:
            shown = by_sha.get(entry.files[-1].sha256)
            if shown is not None:
                unpacked = collection.folder / entry.folder
                others = {path.relative_to(unpacked) for path in _files(unpacked)}
                _place_files(shown.package.folder, unpacked, remove=others)
        for identifier in dict.fromkeys(entry.id for entry in collection.entries):
            folders = [collection.folder / entry.folder for entry in collection.entries if entry.id == identifier]
            earlier = {path.relative_to(folder) for folder in folders for path in _files(folder)}
            _place_files(folders[0], collection.folder / identifier, remove=earlier)
        write_index(collection)
        write_page(collection)
    except OSError as error:
        raise ArtSegError(
            f"Could not write into the collection {collection.folder}: {error.strerror or error}. Its index is as it "
            "was; free space and add the packages again."
        ) from error


def _place_files(source: Path, target: Path, *, remove: set[Path]) -> None:
    """Put the files of a package's folder into another, the description last; then remove what it does not have."""
    names = sorted((path.relative_to(source) for path in _files(source)), key=lambda name: name.suffix == ".yaml")
    for name in names:
        there = target / name
        if there.is_file() and sha256(there) == sha256(source / name):
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        temporary = there.with_name(f".placing-{there.name}")
        temporary.unlink(missing_ok=True)
        try:
            os.link(source / name, temporary)  # the same bytes need not lie on the disk twice
        except OSError:
            shutil.copyfile(source / name, temporary)
        os.replace(temporary, there)
    for name in remove.difference(names):
        (target / name).unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
