"""Putting the modules into CellProfiler's plugins folders, looking after them there, and taking them out again.

Where CellProfiler keeps its preferences was read in the sources of CellProfiler 4.2.8.1 and 5.0.0.dev784 and of
wxWidgets, which writes them.
"""

from __future__ import annotations

import json
import logging
import os
import plistlib
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from artseg_models import __version__
from artseg_models.bundle import plugins_folder
from artseg_models.errors import ArtSegError
from artseg_models.files import read_json, sha256, whole_file, write_json

logger = logging.getLogger(__name__)

MODULES = ("segmentartifacts.py", "measureartifactoverlap.py")
CLIENT = "_artseg_client"
INSTALLATION = f"{CLIENT}/installation.json"

_PREFERENCES = "CellProfilerLocal.cfg"
#: CellProfiler 4 and 5 share this key
_KEY = "PluginDirectoryCP4"
#: where wxWidgets may put them under HKEY_CURRENT_USER
_REGISTRY_KEYS = (
    rf"Software\{_PREFERENCES}",
    rf"Software\BroadInstitute\{_PREFERENCES}",
    r"Software\BroadInstitute\CellProfiler",
)
_SERVICE_SECONDS = 300


# ---- finding ----


@dataclass(frozen=True)
class Computer:
    """What the search looks at.

    Attributes
    ----------
    system : 'linux', 'darwin' or 'win32'
    home : Path
        The user's home folder.
    variables : mapping of str to str
        Environment variables.
    registry : callable
        Gives a value of HKEY_CURRENT_USER by key and name, or None.
    root : Path
        Under which programs are installed.
    """

    system: str
    home: Path
    variables: Mapping[str, str]
    registry: Callable[[str, str], str | None]
    root: Path

    @classmethod
    def this(cls) -> Computer:
        """Describe the computer that this runs on, with its present user."""
        system = sys.platform if sys.platform in ("darwin", "win32") else "linux"
        return cls(system, Path.home(), os.environ, _registry_value, Path(Path.home().anchor))

    def _xdg(self, variable: str, *default: str) -> Path:
        # CellProfiler, as the XDG specification has it, takes no relative ones
        named = Path(self.variables.get(variable, ""))
        return named if named.is_absolute() else self.home.joinpath(*default)

    @property
    def _roaming(self) -> Path:
        return Path(self.variables.get("APPDATA") or self.home)

    def data_folder(self, name: str = "CellProfiler") -> Path:
        """Where CellProfiler 5 keeps a user's data; CellProfiler 4 does under a name with its version."""
        if self.system == "win32":
            return self._roaming / name
        if self.system == "darwin":
            return self.home / "Library" / "Application Support" / name
        # wxWidgets, which CellProfiler 4 asks, hides its folder in the home folder
        return (
            self._xdg("XDG_DATA_HOME", ".local", "share") / name if name == "CellProfiler" else self.home / f".{name}"
        )

    def preference_files(self) -> dict[Path, str]:
        """Where preferences may lie, with the version of CellProfiler that keeps them there."""
        if self.system == "win32":
            return {self.data_folder() / _PREFERENCES: "5"}
        if self.system == "darwin":
            return {
                self.data_folder() / _PREFERENCES: "5",
                self.home / "Library" / "Preferences" / _PREFERENCES: "4",
            }
        configuration = self._xdg("XDG_CONFIG_HOME", ".config")
        return {
            configuration / "CellProfiler" / _PREFERENCES: "5",
            configuration / _PREFERENCES: "4",
            self.home / f".{_PREFERENCES}": "4",
        }


def _registry_value(key: str, name: str) -> str | None:
    if sys.platform == "win32":
        import winreg

        try:
            with winreg.OpenKey(winreg.HKEY_CURRENT_USER, key) as opened:
                return str(winreg.QueryValueEx(opened, name)[0])
        except OSError:
            return None
    return None


@dataclass(frozen=True)
class Program:
    """An installed CellProfiler.

    Attributes
    ----------
    path : Path
    version : str
        Empty where the files do not tell.
    """

    path: Path
    version: str


def find_programs(computer: Computer | None = None) -> list[Program]:
    """Find CellProfilers on this computer: named by ARTSEG_CELLPROFILER, on PATH, and the desktop apps.

    Their versions are read from their files; none is started.

    Returns
    -------
    list of Program
    """
    computer = computer or Computer.this()
    named = [computer.variables.get(name) for name in ("ARTSEG_CELLPROFILER", "ARTSEG_CELLPROFILER4")]
    on_path = shutil.which("cellprofiler", path=computer.variables.get("PATH", ""))
    paths = [Path(path) for path in (*named, on_path) if path]
    if computer.system == "darwin":
        for applications in (computer.root / "Applications", computer.home / "Applications"):
            paths += sorted(applications.glob("CellProfiler*.app"))
    if computer.system == "win32":
        for variable in ("ProgramFiles", "ProgramFiles(x86)", "LOCALAPPDATA"):
            folder = computer.variables.get(variable)
            if folder:
                paths += sorted(Path(folder).glob("CellProfiler*/CellProfiler.exe"))
    return [Program(path, _version_in_files(path)) for path in dict.fromkeys(paths) if path.exists()]


def _version_in_files(program: Path) -> str:
    if program.suffix == ".app":
        try:
            return str(plistlib.loads((program / "Contents" / "Info.plist").read_bytes())["CFBundleShortVersionString"])
        except (OSError, ValueError, KeyError):
            return ""
    environment = program.parent.parent
    for site in (*environment.glob("lib/python3*/site-packages"), environment / "Lib" / "site-packages"):
        for noted in (*site.glob("cellprofiler-[0-9]*.dist-info"), *site.glob("cellprofiler_nightly-[0-9]*.dist-info")):
            return noted.name.removesuffix(".dist-info").rpartition("-")[2]
    return ""


@dataclass(frozen=True)
class Place:
    """A plugins folder of CellProfiler.

    Attributes
    ----------
    folder : Path
        It may be missing yet.
    origin : str
        Why it is taken for one.
    """

    folder: Path
    origin: str


def find_places(computer: Computer | None = None) -> list[Place]:
    """Find the plugins folders of this user's CellProfiler 4 and 5.

    Those that preferences name; and where none are named, the one that this version of CellProfiler takes then.

    Returns
    -------
    list of Place
        Without repetition.
    """
    computer = computer or Computer.this()
    places: list[Place] = []
    five = computer.data_folder() / "plugins"  # where nothing is set
    for path, version in computer.preference_files().items():
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        named = re.search(rf"(?m)^{_KEY}=(.+)$", text)
        if named:
            # wxWidgets escapes backslashes and quotes values with blanks at their ends
            value = named.group(1).strip().strip('"').replace("\\\\", "\\")
            places.append(Place(Path(value), f"CellProfiler {version}'s preferences, {path}"))
        elif version == "5":
            places.append(Place(five, f"CellProfiler 5's own; its preferences, {path}, name none"))
    for key in (*_REGISTRY_KEYS, rf"Software\{computer.data_folder() / _PREFERENCES}"):
        value = computer.registry(key, _KEY)
        if value:
            places.append(Place(Path(value), rf"CellProfiler's preferences, registry HKEY_CURRENT_USER\{key}"))
    if five.is_dir():
        places.append(Place(five, "CellProfiler 5's own"))
    for program in find_programs(computer):
        if program.version.startswith("5."):
            places.append(Place(five, f"CellProfiler {program.version}'s own, {program.path}"))
        elif program.version.startswith("4."):
            own = computer.data_folder(f"CellProfiler{program.version}") / "plugins"
            if own.is_dir() or not places:
                places.append(Place(own, f"CellProfiler {program.version}'s own, {program.path}"))
    unique: dict[Path, Place] = {}
    for place in places:
        unique.setdefault(place.folder, place)
    return list(unique.values())


# ---- installing ----


def install(*, plugins: Path | None = None, for_everybody: bool = False) -> list[Path]:
    """Put the modules into CellProfiler's plugins folder and note there where this Python is.

    Parameters
    ----------
    plugins : Path, optional
        The plugins folder, made where missing. Without it, all that `find_places` finds.
    for_everybody : bool
        Let every user of the computer read what is written.

    Returns
    -------
    list of Path
        The folders that now hold the modules.

    Raises
    ------
    ArtSegError
        No plugins folder is known, or it cannot be written.
    """
    folders = [plugins] if plugins is not None else [place.folder for place in find_places()]
    if not folders:
        raise ArtSegError(
            "Found no CellProfiler of yours, neither its preferences nor its program. Start CellProfiler once and set "
            "'CellProfiler plugins directory' in File > Preferences to a folder of yours; or name a folder here: "
            "artseg cellprofiler install --plugins-folder FOLDER"
        )
    for folder in folders:
        try:
            _install_into(folder.resolve(), for_everybody=for_everybody)
        except OSError as error:
            raise ArtSegError(
                f"Could not write into the plugins folder {folder}: {error.strerror or error}. Choose one that you may "
                "write to (File > Preferences in CellProfiler, or --plugins-folder), or let the owner install."
            ) from error
    return folders


def _sources() -> dict[str, Path]:
    """Files to install, by their path in the plugins folder."""
    source = plugins_folder().resolve()
    client = source / CLIENT
    files = [source / name for name in MODULES]
    files += sorted(path for path in client.rglob("*") if path.is_file() and path.suffix in (".py", ".toml"))
    return {path.relative_to(source).as_posix(): path for path in files}


def _install_into(folder: Path, *, for_everybody: bool) -> None:
    files = _sources()
    hashes = {name: sha256(path) for name, path in files.items()}
    noted = {"python": sys.executable, "artseg": __version__, "files": hashes}
    if folder == plugins_folder().resolve():  # of the checkout itself: nothing to copy
        write_json(folder / INSTALLATION, noted)
        return
    before = _noted_files(folder)
    for name, path in files.items():
        with whole_file(folder / name) as temporary:
            shutil.copyfile(path, temporary)
    # of an earlier version, which may have noted no files
    stale = [path.relative_to(folder).as_posix() for path in (folder / CLIENT).glob("*.py")]
    for name in {*before, *stale} - set(files):
        (folder / name).unlink(missing_ok=True)
    write_json(folder / INSTALLATION, noted)
    if for_everybody:
        written = [folder / name for name in (*files, INSTALLATION)]
        for path in {*written, *(path.parent for path in written)}:
            more = stat.S_IRGRP | stat.S_IROTH
            if path.is_dir():
                more |= stat.S_IXGRP | stat.S_IXOTH
            path.chmod(path.stat().st_mode | more)


def private_to_me(python: Path) -> Path | None:
    """Find the folder on the way to a Python that other users may not enter; None where they may.

    Windows answers None: its permissions are not in the file mode.
    """
    if sys.platform == "win32":
        return None
    for folder in reversed(python.absolute().parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


# ---- checking ----


@dataclass
class Finding:
    """What `check` found at one place, or of the service.

    Attributes
    ----------
    what : str
    problems : list of str
        Empty where all is well.
    """

    what: str
    problems: list[str] = field(default_factory=list[str])


def check_place(folder: Path) -> Finding:
    """Compare what is installed in a plugins folder with this artseg.

    Returns
    -------
    Finding
    """
    present = [name for name in MODULES if (folder / name).is_file()]
    if not present:
        return Finding(f"{folder}: nothing installed", ["SegmentArtifacts is not there"])
    noted = _noted(folder)
    version = noted.get("artseg")
    python = noted.get("python")
    found = Finding(f"{folder}: artseg {version or 'of unknown version'}, started with {python or 'no known Python'}")
    if version != __version__:
        found.problems.append(f"it comes from artseg {version or 'of unknown version'}, this is {__version__}")
    else:
        files = _sources()
        changed = [
            name
            for name, path in files.items()
            if not (folder / name).is_file() or sha256(folder / name) != sha256(path)
        ]
        if changed:
            found.problems.append(f"differs from this artseg: {', '.join(changed)}")
    if not python:
        found.problems.append("it does not know where artseg's Python is")
    elif not Path(python).is_file():
        found.problems.append(f"its Python {python} is gone")
    elif Path(python) != Path(sys.executable):
        found.problems.append(f"it starts another artseg than this one, whose Python is {sys.executable}")
    return found


_ASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
from _artseg_client._errors import ServiceError
from _artseg_client._place import read_rendezvous
from _artseg_client._start import find_or_start
before = read_rendezvous("auto")
try:
    place = find_or_start("auto")
except ServiceError as error:
    print(json.dumps({"error": str(error)}))
else:
    ours = before is None or before.get("pid") != place.get("pid")
    print(json.dumps({"pid": place["pid"], "port": place["port"], "started": ours}))
"""


def check_service(folder: Path) -> Finding:
    """Let the client that is installed in a plugins folder find or start the service, as a first image would.

    A service that was started for this is ended again.

    Returns
    -------
    Finding
    """
    asked = subprocess.run(
        [sys.executable, "-c", _ASK, str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SERVICE_SECONDS,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(asked.stdout)
    except ValueError:
        return Finding("the service", [asked.stderr.strip()[-500:] or "the installed client does not run"])
    if "error" in answer:
        return Finding("the service does not start", [answer["error"]])
    if not answer["started"]:
        return Finding(f"the service runs (process {answer['pid']}, port {answer['port']})")
    # by the noted Python's own command: what is installed may be another artseg than this one
    python = _noted(folder).get("python") or sys.executable
    subprocess.run(
        [python, "-m", "artseg_models", "serve", "--stop", "--device", "auto"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_SERVICE_SECONDS,
        check=False,
    )
    return Finding("the service starts (and was ended again)")


# ---- removing ----


@dataclass
class Removal:
    """What `uninstall` did in one folder.

    Attributes
    ----------
    folder : Path
    removed, kept : list of str
        Files; those that were changed since they were installed are kept.
    """

    folder: Path
    removed: list[str] = field(default_factory=list[str])
    kept: list[str] = field(default_factory=list[str])


def uninstall(folder: Path) -> Removal:
    """Take out of a plugins folder exactly what `install` put there, by its own note.

    Raises
    ------
    ArtSegError
        The folder is that of artseg itself, has no note of an installation, or cannot be changed.
    """
    folder = folder.resolve()
    if folder == plugins_folder().resolve():
        raise ArtSegError(f"{folder} belongs to artseg itself; uninstall artseg instead: pip uninstall artseg")
    files = _noted_files(folder)
    if not files:
        raise ArtSegError(
            f"Expected an installation in {folder} that notes its files in {INSTALLATION}, but there is none. "
            "One of an older artseg notes none: run 'artseg cellprofiler install' there first, then this again."
        )
    done = Removal(folder)
    try:
        for name, installed in files.items():
            path = folder / name
            if not path.is_file():
                continue
            if sha256(path) != installed:
                done.kept.append(name)
                continue
            path.unlink()
            done.removed.append(name)
            for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
                compiled.unlink()
        (folder / INSTALLATION).unlink()
        for emptied in sorted({(folder / name).parent for name in files}, key=lambda path: -len(path.parts)):
            for path in (emptied / "__pycache__", emptied):
                if path != folder and path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
    except OSError as error:
        raise ArtSegError(f"Could not remove files from {folder}: {error.strerror or error}.") from error
    return done


def _noted(folder: Path) -> dict[str, Any]:
    path = folder / INSTALLATION
    if not path.is_file():
        return {}
    try:
        noted = read_json(path)
    except ArtSegError:
        return {}
    return cast("dict[str, Any]", noted) if isinstance(noted, dict) else {}


def _noted_files(folder: Path) -> dict[str, str]:
    files = _noted(folder).get("files", {})
    # a note is a file that anybody may have written: nothing outside the folder is touched because of it
    return {
        name: installed
        for name, installed in files.items()
        if not Path(name).is_absolute() and ".." not in Path(name).parts
    }
