"""What the module's buttons show: texts on the installation and on a model."""

import os
import subprocess
import time

from ._errors import ServiceError
from ._find_python import artseg_command, installed_version, not_installed
from ._start import child_environment, find_or_start

#: importing everything from a cold network disk takes long
ANSWER_SECONDS = 180

WELL = "[ok]      "
MISSING = "[missing] "


def check_installation(package, device="auto", python=""):
    """Say what the module needs, what of it is there, and what to do for the rest.

    Starts the service where none runs, as the first image would.

    Parameters
    ----------
    package : str
        Path of the model package.
    device : str
        "auto", "cuda", "mps" or "cpu".
    python : str
        Path of the Python that has artseg as given in the module; blank to find it.

    Returns
    -------
    str
        A line for each thing, and what to do.
    """
    lines = []
    mends = []
    for check in (_check_python, _check_service, _check_package):
        try:
            lines.append(WELL + check(package, device, python))
        except ServiceError as error:
            lines.append(MISSING + str(error))
            mends.append(error)
            if check is _check_python:
                break  # all else needs it
    closing = (
        "Mend what is missing as its line says, then press the button again."
        if mends
        else "All that SegmentArtifacts needs is there."
    )
    return "\n\n".join([*lines, closing])


def show_model(package, python=""):
    """Describe a model package: what it is, what it was trained on, which cutoff it states; or why it cannot be used.

    Parameters
    ----------
    package : str
        Path of the model package.
    python : str
        Path of the Python that has artseg; blank to find it.

    Returns
    -------
    str
    """
    try:
        return f"{package}\n\n{_describe(package, python)}"
    except ServiceError as error:
        return str(error)


def _check_python(package, device, python):
    command = artseg_command(python)
    version = _run(command, "--version").split()[-1]
    noted = installed_version()
    if noted is not None and noted != version:
        raise ServiceError(
            f"This module comes from artseg {noted}, but {command[0]} has artseg {version}. "
            "Run there: artseg cellprofiler install, and start CellProfiler again."
        )
    return f"artseg {version} in {command[0]}"


def _check_service(package, device, python):
    started = time.time()
    place = find_or_start(device, python)
    return (
        f"The service answers (process {place['pid']}, port {place['port']}, device {device}; "
        f"{time.time() - started:.1f} s until the answer)"
    )


def _check_package(package, device, python):
    described = dict(line.split(None, 1) for line in _describe(package, python).splitlines() if line[:4].strip())
    return f"Model package {package}: {described.get('name', '')}, version {described.get('version', '')}"


def _describe(package, python):
    if not os.path.exists(package):
        raise ServiceError(
            f"There is no model package at {package}. Choose it in the module's settings, or make one: "
            "artseg export RUN"
        )
    return _run(artseg_command(python), "package", "info", package)


def _run(command, *arguments):
    """Run artseg and give what it says."""
    environment = child_environment()
    environment.update(COLUMNS="100", NO_COLOR="1", TERM="dumb", PYTHONIOENCODING="utf-8")
    try:
        ran = subprocess.run(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ANSWER_SECONDS,
            env=environment,
            cwd=os.path.dirname(os.path.abspath(command[0])),  # nothing of the user's may be imported from here
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"Could not run {command[0]}: {error}. Install artseg again.") from error
    # rich fills table cells with blanks up to their column's width
    said, complained = (
        "\n".join(line.rstrip() for line in stream.decode("utf-8", "replace").strip().splitlines())
        for stream in (ran.stdout, ran.stderr)
    )
    if "No module named" in complained and "artseg_models" in complained:
        raise ServiceError(not_installed(command[0]))
    if ran.returncode != 0 or not said:
        raise ServiceError(complained or f"{command[0]} ended with exit code {ran.returncode} and said nothing.")
    return said
