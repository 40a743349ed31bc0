"""The command that runs artseg, in a Python of its own outside CellProfiler."""

import json
import os
import shutil
import sys

from ._errors import ServiceError

#: written by `artseg cellprofiler install`
INSTALLATION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "installation.json")


def artseg_command(setting=""):
    """Find the command that runs artseg.

    Parameters
    ----------
    setting : str
        Path of a Python as given in the module; blank for none.

    Returns
    -------
    list of str
        To be followed by artseg's arguments.

    Raises
    ------
    ServiceError
        No Python with artseg is known, or the one that is named does not exist.
    """
    for python, origin in (
        (os.environ.get("ARTSEG_PYTHON"), "the variable ARTSEG_PYTHON"),
        (setting.strip(), "the setting 'Python that has artseg' of SegmentArtifacts"),
        (_installed_python(), INSTALLATION),
    ):
        if not python:
            continue
        if not os.path.isfile(python):
            raise ServiceError(
                f"Expected the Python that has artseg at {python} (named by {origin}), but there is no such file. "
                "Install artseg again and run: artseg cellprofiler install"
            )
        return [python, "-m", "artseg_models"]
    built = _built_python()
    if built:
        return [built, "-m", "artseg_models"]
    on_path = shutil.which("artseg")
    if on_path:
        return [on_path]
    raise ServiceError(
        "ArtSeg runs in a Python of its own, and none is known here. Install it (pip install artseg, in Python 3.11 "
        "or newer), then run: artseg cellprofiler install. Or name its Python in the setting 'Python that has artseg'; "
        "or, in CellProfiler 5, build it: File > Plugins, segmentartifacts, Build Environment."
    )


def installed_version():
    """Version of artseg that installed this client; None where it came another way."""
    return _noted("artseg")


def not_installed(python):
    """Tell what to do where a Python turned out to lack artseg."""
    return (
        f"artseg is not installed in {python}. Install it there: {python} -m pip install artseg; "
        "or, if it is in another Python, run there: artseg cellprofiler install"
    )


def _installed_python():
    return _noted("python")


def _built_python():
    """Python of the environment that CellProfiler 5 builds from pixi.toml (File > Plugins); None where there is none.

    Appose, which CellProfiler 5 builds it with, names its folder by the name in that file.
    """
    environments = os.environ.get("APPOSE_ENVS_DIR") or os.path.join(
        os.path.expanduser("~"), ".local", "share", "appose"
    )
    built = os.path.join(environments, "artseg", ".pixi", "envs", "default")
    python = os.path.join(built, "python.exe") if sys.platform == "win32" else os.path.join(built, "bin", "python")
    return python if os.path.isfile(python) else None


def _noted(name):
    try:
        with open(INSTALLATION, encoding="utf-8") as opened:
            return json.load(opened)[name]
    except (OSError, ValueError, KeyError, TypeError):
        return None
