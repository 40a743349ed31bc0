"""CellProfiler from outside: finding it, and running pipelines in it without its window."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from artseg_models.bundle import pipelines_folder, plugins_folder
from artseg_models.errors import ArtSegError
from artseg_models.files import write_text
from artseg_models.pipelines.blocks import SEGMENT_ARTIFACTS
from artseg_models.pipelines.project import open_pipeline, save_pipeline
from artseg_models.pipelines.text import Module

logger = logging.getLogger(__name__)

CHANNELS = "channels.csv"
"""Beside the results: under which name CellProfiler got each file, where its channels were told by patterns."""

_LOG = "cellprofiler.log"
_SAY_EVERY_SECONDS = 15.0

# CellProfiler's Python must not look into ours
_NOT_FOR_CELLPROFILER = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")


# ---- finding ----


def find_cellprofiler(command: Sequence[str] | None = None) -> list[str]:
    """Find the command that starts CellProfiler.

    Parameters
    ----------
    command : sequence of str, optional
        Taken as it is. Without it: the executable named by the variable ARTSEG_CELLPROFILER, then the one on PATH.

    Returns
    -------
    list of str

    Raises
    ------
    ArtSegError
        There is none.
    """
    if command:
        found = shutil.which(command[0])
        if found is None:
            raise ArtSegError(f"Expected CellProfiler at {command[0]}, but no such program can be run.")
        return [found, *command[1:]]
    named = os.environ.get("ARTSEG_CELLPROFILER")
    found = shutil.which(named or "cellprofiler")
    if found is None:
        raise ArtSegError(
            f"Expected CellProfiler at {named} (named by ARTSEG_CELLPROFILER), but no such program can be run."
            if named
            else "Expected CellProfiler on this computer, but there is no program 'cellprofiler' on PATH. Install it "
            "(cellprofiler.org, or pip install cellprofiler in a Python of its own), or set ARTSEG_CELLPROFILER to its "
            "executable."
        )
    return [found]


def cellprofiler_version(command: Sequence[str]) -> str:
    """Ask CellProfiler for its version, for instance '4.2.8.1'.

    Raises
    ------
    ArtSegError
        It cannot be run or does not tell.
    """
    try:
        asked = subprocess.run(
            [*command, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            env=_environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArtSegError(f"Could not run CellProfiler ({command[0]}): {error}.") from error
    versions = re.findall(r"^\d+\.\d+\S*$", asked.stdout, flags=re.MULTILINE)
    if not versions:
        raise ArtSegError(
            f"Expected CellProfiler's version from {command[0]} --version, but it ended with exit code "
            f"{asked.returncode} and said: {(asked.stderr or asked.stdout).strip()[-500:]}"
        )
    return versions[-1]


def find_pipeline(name: str) -> Path:
    """Give the path of a pipeline: a file, or one of the examples by its name.

    Raises
    ------
    ArtSegError
        There is no such pipeline.
    """
    path = Path(name)
    if path.is_file():
        return path
    example = pipelines_folder() / f"{name.removesuffix('.cppipe')}.cppipe"
    if path.name == name and example.is_file():
        return example
    examples = ", ".join(sorted(found.stem for found in pipelines_folder().glob("*.cppipe")))
    raise ArtSegError(f"Expected a pipeline file or one of the examples ({examples}), got '{name}'.")


# ---- running ----


def run_pipeline(
    pipeline: Path,
    images: Path,
    out: Path,
    *,
    package: Path | Mapping[str, Path] | None = None,
    cellprofiler: Sequence[str] | None = None,
    plugins: Path | None = None,
    channels: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Path:
    """Run a pipeline in CellProfiler without its window.

    Parameters
    ----------
    pipeline : Path
        A .cppipe or .cpproj file.
    images : Path
        Folder with the images, CellProfiler's default input folder.
    out : Path
        Folder for the results, CellProfiler's default output folder; made where missing. Results appear there once
        the run has succeeded, with the log `cellprofiler.log` and, where a package was set, the pipeline that ran.
    package : Path or mapping of str to Path, optional
        Model package for every SegmentArtifacts in the pipeline; or one for each, by the name of the objects that it
        makes, for instance {"Artifacts": ..., "Cells": ...}. Without it, what the pipeline names.
    cellprofiler : sequence of str, optional
        Command that starts CellProfiler, see `find_cellprofiler`.
    plugins : Path, optional
        Plugins folder; by default the one that comes with artseg.
    channels : mapping of str to str, optional
        File name patterns of the channels, for instance {"brightfield": "*ch1*", "dna": "*ch5*"}. Files that agree in
        what the wildcards stand for are one field of view, and CellProfiler gets them as FIELD_brightfield.tif,
        FIELD_dna.tif, as the example pipelines expect; FIELD is made of what the wildcards stand for. `channels.csv`
        beside the results says which file (`image`) had which name (`name`).
    variables : mapping of str to str, optional
        Environment variables for CellProfiler besides those of this process.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ArtSegError
        CellProfiler is missing, failed, or wrote nothing; the message holds the cause from its log.
    """
    command = find_cellprofiler(cellprofiler)
    for path, what in ((pipeline, "a pipeline"), (images, "a folder with images")):
        if not path.exists():
            raise ArtSegError(f"Expected {what} at {path}, but there is none.")
    version = cellprofiler_version(command)
    try:
        out.mkdir(parents=True, exist_ok=True)
        # beside the results: moving the files in is then a rename; not hidden: CellProfiler skips hidden folders
        work = Path(tempfile.mkdtemp(prefix="unfinished-", dir=out))
    except OSError as error:
        raise ArtSegError(f"Could not write into {out}: {error.strerror or error}. Choose another folder.") from error
    try:
        results = work / "results"
        results.mkdir()
        staged = images.resolve()
        if channels is not None:
            given = _stage(images, channels, work / "images")
            staged = (work / "images").resolve()
            rows = pd.DataFrame(list(given.items()), columns=["name", "image"])
            write_text(results / CHANNELS, rows.to_csv(index=False, lineterminator="\n"))
        if package is not None:
            pipeline = with_package(pipeline, package, results / pipeline.name)
        arguments = [
            *("-c", "-r", "-p", str(pipeline.resolve()), "-i", str(staged), "-o", str(results.resolve())),
            *("--plugins-directory", str((plugins or plugins_folder()).resolve())),
        ]
        if int(version.split(".")[0]) >= 5:
            arguments += ["-e", "imageio_reader"]  # otherwise .tif goes to Bio-Formats, which fetches Java libraries
        logger.info("CellProfiler %s runs %s", version, pipeline.stem)
        already = sum(1 for _ in results.rglob("*"))
        code = _run([*command, *arguments], out / _LOG, _environment() | dict(variables or {}))
        log = (out / _LOG).read_text(encoding="utf-8", errors="replace")
        cause = failure_in_log(log)
        if code != 0 or cause or sum(1 for _ in results.rglob("*")) <= already:
            cause = cause or (
                f"it ended with exit code {code} and wrote nothing. The usual reason: the images in {images} do not "
                "fit the pipeline's rules for names, or every field lacks a channel"
            )
            raise ArtSegError(f"CellProfiler {version} failed on {pipeline.name}: {cause}\nIts log: {out / _LOG}")
        for warning in re.findall(r"Metadata \(.*\) for channel .* had .*", log):
            logger.warning("CellProfiler left out a field: %s", warning)
        _move_into(results, out)
    except OSError as error:
        raise ArtSegError(
            f"Could not run CellProfiler with results in {out}: {error.strerror or error}. "
            "Free space or choose another folder."
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def failure_in_log(log: str) -> str | None:
    """Find why CellProfiler failed, from its log; None where the log tells of no failure.

    CellProfiler ends with success and no results where a pipeline's module is missing.
    """
    missing = re.search(r"Could not find the (\w+) module", log)
    if missing:
        return (
            f"the pipeline needs the module {missing.group(1)}, which this CellProfiler does not have or could not "
            "load; see the log for an import error"
        )
    failed = re.search(r"Error detected during run of module (\w+)", log)
    if not failed:
        return None
    traceback = log[failed.end() :].lstrip("\n").splitlines()
    # the exception's own lines follow the indented ones of the traceback, up to CellProfiler's next line
    message: list[str] = []
    for line in traceback[1:]:
        if message and re.match(r"\[CP - |\w{3} \w{3} +\d+ [\d:]+ \d{4}: ", line):
            break
        if message or not line.startswith(" "):
            message.append(line)
    text = "\n".join(message).strip()
    return f"{failed.group(1)}: {re.sub(r'^[A-Za-z_][A-Za-z0-9_.]*: ', '', text)}"


def _run(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
    """Run CellProfiler, its words going into `log`, and say now and then how far it is."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
    )
    assert process.stdout is not None
    said = time.monotonic()
    try:
        with process.stdout, open(log, "w", encoding="utf-8") as written:
            for line in process.stdout:
                written.write(line)
                at = re.search(r"Image # (\d+), module (\w+)", line)
                if at and time.monotonic() - said > _SAY_EVERY_SECONDS:
                    said = time.monotonic()
                    logger.info("CellProfiler: image set %s, %s", at.group(1), at.group(2))
        return process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CELLPROFILER}
    environment.setdefault("ARTSEG_PYTHON", sys.executable)
    environment["PYTHONUNBUFFERED"] = "1"  # its log is read while it runs
    environment["PYTHONIOENCODING"] = "utf-8"
    return environment


def with_package(pipeline: Path, package: Path | Mapping[str, Path], target: Path) -> Path:
    """Write a copy of a pipeline or project in which every SegmentArtifacts uses a package, or each its own.

    Parameters
    ----------
    pipeline : Path
        A .cppipe or .cpproj file.
    package : Path or mapping of str to Path
        One for all, or by the name of the objects that a SegmentArtifacts makes.
    target : Path
        The copy.

    Raises
    ------
    ArtSegError
        A package is not there, or no SegmentArtifacts is there to set it in.
    """
    named: dict[str, Path] = dict(package) if isinstance(package, Mapping) else {}
    for path in named.values() if not isinstance(package, Path) else (package,):
        if not path.exists():
            raise ArtSegError(f"Expected a model package (.zip or folder) at {path}, but there is none.")
    read = open_pipeline(pipeline)
    makes = [_objects_of(module) for module in read.modules if module.name == SEGMENT_ARTIFACTS]
    if not makes:
        raise ArtSegError(f"Expected a pipeline with SegmentArtifacts, but {pipeline.name} has none to set a model in.")
    unknown = sorted(set(named) - set(makes))
    if unknown:
        raise ArtSegError(
            f"Expected a SegmentArtifacts that makes the objects {unknown[0]} in {pipeline.name}, but those there make "
            f"{', '.join(makes)}."
        )
    modules: list[Module] = []
    for module in read.modules:
        if module.name == SEGMENT_ARTIFACTS:
            own = package if isinstance(package, Path) else named.get(_objects_of(module))
            if own is not None:
                module = _with_package(module, own.resolve())
        modules.append(module)
    save_pipeline(read.with_modules(modules), target, source=pipeline)
    return target


def _objects_of(module: Module) -> str:
    """Name the objects that a SegmentArtifacts makes."""
    return next(setting.value for setting in module.settings if setting.text == "Name the artifact objects")


def _with_package(module: Module, package: Path) -> Module:
    values = {
        "Folder of the model package": f"Elsewhere...|{package.parent.as_posix()}",
        "Model package": package.name,
        "Which model?": "A package on this computer",  # not one by its id on a service
    }
    for index, setting in enumerate(module.settings):
        if setting.text in values:
            module = module.with_setting(index, values[setting.text])
    return module


def _stage(images: Path, channels: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Give the files of the channels the names that the example pipelines expect, in a folder of their own."""
    names = sorted(path.name for path in images.iterdir() if path.is_file() and not path.name.startswith("."))
    fields: dict[str, dict[str, str]] = {}
    for channel, pattern in channels.items():
        matcher = _capturing(pattern)
        for name in names:
            matched = matcher.fullmatch(name)
            if not matched:
                continue
            field = Path("".join(matched.groups()) or "field").stem
            known = fields.setdefault(re.sub(r"[^\w.-]+", "_", field).strip("-_.") or "field", {})
            if channel in known:
                raise ArtSegError(
                    f"Expected one {channel} image a field, but the pattern '{pattern}' fits both {known[channel]} and "
                    f"{name}. Narrow it."
                )
            known[channel] = name
        if not any(channel in known for known in fields.values()):
            raise ArtSegError(
                f"Expected files that fit '{pattern}' for the channel {channel} in {images}, but there are none. "
                f"Files there are, for instance: {', '.join(names[:3]) or 'none'}."
            )
    folder.mkdir(parents=True)
    given: dict[str, Path] = {}
    for field, known in fields.items():
        lacking = [channel for channel in channels if channel not in known]
        if lacking:
            raise ArtSegError(
                f"Expected the channels {', '.join(channels)} for each field, but the field of "
                f"{next(iter(known.values()))} has no {', '.join(lacking)}. "
                "Files of a field must agree in what the patterns' wildcards stand for."
            )
        for channel, name in known.items():
            target = folder / f"{field}_{channel}{Path(name).suffix}"
            _link(images / name, target)
            given[target.name] = (images / name).resolve()
    return given


def _capturing(pattern: str) -> re.Pattern[str]:
    """Compile a file name pattern so that its wildcards are groups."""
    pieces = re.split(r"([*?])", pattern)
    groups = {"*": "(.*)", "?": "(.)"}
    expression = "".join(groups.get(piece, re.escape(piece)) for piece in pieces)
    return re.compile(expression, flags=re.IGNORECASE if os.path.normcase("A") == "a" else 0)


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve())
    except OSError:  # Windows lets not everybody make links
        shutil.copyfile(source, target)


def _move_into(results: Path, out: Path) -> None:
    for path in sorted(results.rglob("*")):
        target = out / path.relative_to(results)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            os.replace(path, target)
