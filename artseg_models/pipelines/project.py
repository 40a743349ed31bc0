"""CellProfiler projects (.cpproj): HDF5 files that hold a pipeline as text, beside a list of images.

Read in the sources of CellProfiler 4.2.8.1 and 5.0.0.dev784 and in files that both wrote.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from artseg_models.errors import ArtSegError
from artseg_models.files import whole_file
from artseg_models.pipelines.insert import write_pipeline
from artseg_models.pipelines.text import PipelineText, parse_pipeline, read_pipeline

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PIPELINE = "Experiment/Pipeline_Pipeline/data"
#: what a project says of the experiment beside its pipeline, and what is no result of an earlier run
_KEPT = ("Pipeline_Pipeline", "Default_InputFolder", "Default_OutputFolder")


def is_project(path: Path) -> bool:
    """Tell whether a file is a project, by its first bytes."""
    try:
        with open(path, "rb") as opened:
            return opened.read(len(_SIGNATURE)) == _SIGNATURE
    except OSError:
        return False


def open_pipeline(path: Path) -> PipelineText:
    """Read the pipeline of a .cppipe or .cpproj file.

    Raises
    ------
    ArtSegError
        There is no such file, or it holds no pipeline that can be read.
    """
    return read_project(path) if is_project(path) else read_pipeline(path)


def save_pipeline(pipeline: PipelineText, path: Path, *, source: Path) -> None:
    """Write a changed pipeline: as a .cppipe file, or as a copy of the project it came from.

    Parameters
    ----------
    pipeline : PipelineText
    path : Path
        Ends in .cppipe or .cpproj.
    source : Path
        The file that was read; a project's list of images comes from there.

    Raises
    ------
    ArtSegError
        A project is asked for where the source is none, there is a file already, or it cannot be written.
    """
    if path.suffix.lower() != ".cpproj":
        write_pipeline(pipeline, path)
    elif is_project(source):
        write_project(pipeline, path, source=source)
    else:
        raise ArtSegError(
            f"{source.name} is a pipeline without a list of images, so no project can be written. "
            f"Write {path.stem}.cppipe instead."
        )


def read_project(path: Path) -> PipelineText:
    """Read the pipeline in a project.

    Raises
    ------
    ArtSegError
        It holds none, or one that cannot be read.
    """
    import h5py  # only projects need it

    try:
        with h5py.File(path, "r") as opened:
            text = _measurements(opened, path)[_PIPELINE].asstr(errors="surrogateescape")[0]
    except (OSError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ArtSegError(
            f"Expected a CellProfiler project with a pipeline at {path}, but it cannot be read: {error}. "
            "Open it in CellProfiler and save it anew."
        ) from error
    if "\n" not in text:  # as versions before 4.1 wrote it
        text = text.encode("latin-1", "backslashreplace").decode("unicode-escape")
    return parse_pipeline(text, source=path.name)


def write_project(pipeline: PipelineText, path: Path, *, source: Path) -> None:
    """Copy a project with another pipeline in it, whole or not at all.

    Its list of images and its folders stay. Image sets and measurements that it kept of an earlier run go, as they do
    when the pipeline is changed in CellProfiler.

    Raises
    ------
    ArtSegError
        There is a file of that name already, or it cannot be written.
    """
    import h5py

    if path.exists():
        raise ArtSegError(f"There is a file {path} already. Choose another name, or remove it first.")
    try:
        with whole_file(path) as temporary:
            shutil.copyfile(source, temporary)
            with h5py.File(temporary, "r+") as opened:
                measurements = _measurements(opened, source)
                for name in list(measurements):
                    if name != "Experiment":
                        del measurements[name]
                experiment: Any = measurements["Experiment"]
                for name in list(experiment):
                    if name not in _KEPT:
                        del experiment[name]
                measurements[_PIPELINE][0] = str(pipeline).encode("utf-8", "surrogateescape")
    except OSError as error:
        raise ArtSegError(f"Could not write {path}: {error}. Free space or choose another folder.") from error


def _measurements(opened: Any, path: Path) -> Any:
    """Give the group of measurements that CellProfiler reads: the newest, named by its time."""
    groups = sorted(opened["Measurements"]) if "Measurements" in opened else []
    if not groups:
        raise ArtSegError(f"{path.name} is an HDF5 file, but no CellProfiler project: it has no measurements.")
    return opened["Measurements"][groups[-1]]
