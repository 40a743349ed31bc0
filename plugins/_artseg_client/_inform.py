"""What the module's buttons show: texts on the installation and on a model."""

import json
import os
import re
import subprocess
import time
import urllib.parse

from ._ask import GoneError, ask, error_message, is_loopback
from ._errors import ServiceError
from ._find_python import artseg_command, installed_version, not_installed
from ._remote import identity, remote_place
from ._start import child_environment, find_or_start

#: importing everything from a cold network disk takes long
ANSWER_SECONDS = 180

WELL = "[ok]      "
MISSING = "[missing] "

#: somebody waits at a button
PATIENCE_SECONDS = 4.0


def check_installation(package, device="auto", python="", model="", server=""):
    """Say what the module needs, what of it is there, and what to do for the rest.

    Starts the service on this computer where none runs, as the first image would.

    Parameters
    ----------
    package : str
        Path of the model package.
    device : str
        "auto", "cuda", "mps" or "cpu".
    python : str
        Path of the Python that has artseg as given in the module; blank to find it.
    model : str
        Id of a model of the service, instead of a package.
    server : str
        Address of an inference server; blank for this computer.

    Returns
    -------
    str
        A line for each thing, and what to do.
    """
    lines = []
    mends = []
    checks = [_check_python, _check_service, _check_package]
    if server:
        checks = [lambda *_: _check_server(server), lambda *_: _check_offer(package, model, server=server)]
    elif model:
        checks[2] = lambda *_: _check_offer(package, model, device=device, python=python)
    for check in checks:
        try:
            lines.append(WELL + check(package, device, python))
        except ServiceError as error:
            lines.append(MISSING + str(error))
            mends.append(error)
            if check is checks[0]:
                break  # all else needs it
    closing = (
        "Mend what is missing as its line says, then press the button again."
        if mends
        else "All that SegmentArtifacts needs is there."
    )
    return "\n\n".join([*lines, closing])


def list_models(server="", device="auto", python=""):
    """List the models that the service offers, on this computer or on a server elsewhere.

    Returns
    -------
    list of dict
        `id`, `name`, `version`, `sha256`, `trained_on`, `cutoff`, `kinds`, `file`, `format_version`; the newest version
        of a model first.

    Raises
    ------
    ServiceError
        The service does not answer.
    """
    place = remote_place(server, PATIENCE_SECONDS) if server else find_or_start(device, python)
    try:
        status, body = ask(place, "GET", "/models", timeout=ANSWER_SECONDS)
    except GoneError as error:
        raise ServiceError(f"The service does not say which models it has: {error}. Try again.") from error
    if status != 200:
        raise ServiceError(error_message(status, body))
    return json.loads(body.decode("utf-8"))["offered"]


def describe_offer(offer):
    """Give what a list of models says of one, as text."""
    rows = [
        ("id", offer["id"]),
        ("name", offer["name"]),
        ("version", offer["version"]),
        ("SHA-256", offer["sha256"]),
        ("cutoff", offer["cutoff"]),
        ("trained on", offer["trained_on"]),
        ("file", offer["file"]),
    ]
    if offer["kinds"]:
        rows.append(("kinds", ", ".join(f"{number} {kind}" for number, kind in enumerate(offer["kinds"], 1))))
    return "\n".join(f"{title:<12}{value}" for title, value in rows)


def show_model(package, python="", model="", server="", device="auto"):
    """Describe a model: what it is, what it was trained on, which cutoff it states; or why it cannot be used.

    Parameters
    ----------
    package : str
        Path of the model package.
    python : str
        Path of the Python that has artseg; blank to find it.
    model : str
        Id of a model of the service, instead of a package.
    server : str
        Address of an inference server; blank for this computer.
    device : str
        Of the service on this computer.

    Returns
    -------
    str
    """
    try:
        if model or server:
            found = _find_offer(package, model, server=server, device=device, python=python)
            return f"{server or 'This computer'}\n\n{describe_offer(found)}"
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


def _check_server(server):
    started = time.time()
    place = remote_place(server, PATIENCE_SECONDS)
    answered = f"The inference server {place['url']} answers and takes the token ({time.time() - started:.1f} s)"
    parts = urllib.parse.urlsplit(place["url"])
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        answered += (
            ". The connection is not encrypted: images and token can be read on the way. On a network that you do not "
            "trust use https or an SSH tunnel"
        )
    return answered


def _check_offer(package, model, **where):
    found = _find_offer(package, model, **where)
    return f"Model {found['id']}, version {found['version']}, SHA-256 {found['sha256']}"


def _find_offer(package, model, server="", device="auto", python=""):
    """Find what the service offers under an id, or under the SHA-256 of a package on this computer."""
    offers = list_models(server, device, python)
    wanted = model.strip() or identity(package)
    for offer in offers:
        if wanted in (offer["id"], f"{offer['id']}@{offer['version']}", offer["sha256"]):
            return offer
    there = ", ".join(sorted({f"{offer['id']}@{offer['version']}" for offer in offers})) or "none"
    named = f"the model '{wanted}'" if model else f"the package {package} (SHA-256 {wanted})"
    raise ServiceError(
        f"The service does not offer {named}. Models there: {there}. Choose one of them ('List models'), or have the "
        "package put into the folder that the service was started with (--models)."
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
    if re.search("No module named '?artseg_models", complained):
        raise ServiceError(not_installed(command[0]))
    if ran.returncode != 0 or not said:
        raise ServiceError(complained or f"{command[0]} ended with exit code {ran.returncode} and said nothing.")
    return said
