"""Unpacking a zip that somebody else made, without trusting it."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from artseg_models.errors import ArtSegError

#: the largest package unpacked, in bytes
LARGEST_PACKAGE = 4 * 2**30
#: the most files in a package; those in the Zoo have about ten
MOST_FILES = 1000
#: weights shrink by a tenth; what unpacks to so many times its size, beyond a small size, is no package
_LARGEST_RATIO = 200
_RATIO_COUNTS_FROM = 64 * 2**20


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip into an existing, empty folder.

    Parameters
    ----------
    archive : Path
        The zip file.
    folder : Path
        Where its files go.

    Raises
    ------
    ArtSegError
        It is no zip or is damaged; a name leads out of the folder, is a link or stands twice; it is encrypted; it
        would unpack to more than `LARGEST_PACKAGE` bytes or to far more than its own size.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            _check_members(archive, members)
            for member in members:
                target = folder.joinpath(*PurePosixPath(member.filename).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, open(target, "xb") as written:
                    shutil.copyfileobj(source, written, 2**20)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ArtSegError(
            f"Expected a Model Zoo package (a zip file) at {archive}, but it is damaged or no zip: {error}. "
            "Download or export it again."
        ) from error
    except OSError as error:
        raise ArtSegError(f"Could not unpack {archive} into {folder}: {error.strerror or error}.") from error


def _check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MOST_FILES:
        raise ArtSegError(f"{archive} holds {len(members)} files; a package has at most {MOST_FILES}. Not unpacked.")
    seen: set[str] = set()
    for member in members:
        name = member.filename
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name or not path.parts:
            raise ArtSegError(f"{archive} holds a file '{name}' that leads out of its folder. Not unpacked.")
        mode = member.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise ArtSegError(f"{archive} holds '{name}', a link or special file; expected plain files. Not unpacked.")
        if member.flag_bits & 0x1:
            raise ArtSegError(f"{archive} holds '{name}' encrypted; expected a package without password. Not unpacked.")
        if path.as_posix().casefold() in seen:
            raise ArtSegError(f"{archive} holds '{name}' twice, or in names that differ in case only. Not unpacked.")
        seen.add(path.as_posix().casefold())
    total = sum(member.file_size for member in members)
    if total > LARGEST_PACKAGE:
        raise ArtSegError(
            f"{archive} would unpack to {total / 2**30:.1f} GiB; at most {LARGEST_PACKAGE / 2**30:.0f} GiB may be. "
            "Not unpacked."
        )
    packed = archive.stat().st_size
    if total > _RATIO_COUNTS_FROM and total > _LARGEST_RATIO * packed:
        raise ArtSegError(
            f"{archive} has {packed} bytes and would unpack to {total}, which no package of weights does. Not unpacked."
        )
