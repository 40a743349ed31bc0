"""Finding the service, or starting it where none runs.

Many CellProfiler workers may come here at once. Each may start a service; the services settle among themselves by a
lock which one stays, the others end with ALREADY_RUNNING, and every worker finds the one through its rendezvous file.
"""

import json
import os
import re
import subprocess
import sys
import time

from ._ask import PROTOCOL_VERSION, GoneError, ask, error_message
from ._errors import ServiceError
from ._find_python import artseg_command, not_installed
from ._place import log_path, read_rendezvous, rendezvous_path

#: exit code of a service that found another in its place; stands also in `artseg_models/service/server.py`
ALREADY_RUNNING = 75

#: importing everything from a cold network disk takes long; a service that fails is noticed at once
START_SECONDS = 180.0

_LARGEST_LOG = 4 * 2**20

#: started by this process; kept, so that none is left as a zombie uncollected
_children = []

# what CellProfiler sets for itself and its workers would lead another Python astray
_NOT_FOR_CHILDREN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__")


def find_or_start(device, python="", start_seconds=START_SECONDS, run=None):
    """Give the place of a service that answers.

    Parameters
    ----------
    device : str
        "auto", "cuda", "mps" or "cpu".
    python : str
        Path of the Python that has artseg; blank to find it.
    start_seconds : float
        How long a service may take to start.
    run : int, optional
        Process with which a service that is started here ends.

    Returns
    -------
    dict
        `port`, `token`, `pid`, `protocol`, `device`.

    Raises
    ------
    ServiceError
        No service could be reached or started; the message says why.
    """
    place = read_rendezvous(device)
    if place is None or _answers(place) != "yes":
        place = _start(device, [*artseg_command(python), *_arguments(device, run)], start_seconds)
    return dict(place, device=device)


def this_run(wanted):
    """Give the process of the run that a service is to end with; None where it is to stay for the next.

    A worker of an analysis gives the CellProfiler that started it. The variable ARTSEG_END_WITH asks for the same
    without the setting (its value is then "run"), or names another process, such as a batch job's shell.
    """
    named = os.environ.get("ARTSEG_END_WITH", "").strip()
    if named.isdigit():
        return int(named)
    if named and named != "run":
        raise ServiceError(f"Expected the number of a process or 'run' in the variable ARTSEG_END_WITH, got '{named}'.")
    if not wanted and not named:
        return None
    # how CellProfiler 4 and 5 start their workers
    is_worker = any(argument.split("=")[0] in ("--work-announce", "--work-server") for argument in sys.argv)
    return os.getppid() if is_worker else os.getpid()


def _arguments(device, run):
    return ["serve", "--device", device, *([] if run is None else ["--end-with", str(run)])]


def last_log_lines(device, since=0):
    """Give the end of the service's log as a text for a message."""
    try:
        with open(log_path(device), "rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(since if since < size else 0, size - 4000))
            lines = opened.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(_plain(line) for line in lines[-12:]) or "(the log is empty)"


def _plain(line):
    """Give a line of the log, which is JSON but for what broke before the service could log, as people read it."""
    try:
        said = json.loads(line)
        text = "{} {}".format(str(said["time"])[11:19], said["message"])
        return text + ("\n" + str(said["exception"]) if said.get("exception") else "")
    except (ValueError, KeyError, TypeError):
        return line


def _answers(place):
    """Tell whether the service at a place answers: "yes", "gone", or "refused" for a token it does not know."""
    try:
        status, body = ask(place, "GET", "/health")
    except GoneError:
        return "gone"
    if status == 200:
        return "yes"
    if status == 401:
        return "refused"
    if status == 426:
        theirs = place["protocol"]
        older = isinstance(theirs, int) and theirs < PROTOCOL_VERSION
        mend = (
            "The service is the older side: update artseg (pip install --upgrade artseg), then: artseg serve --stop"
            if older
            else "The module is the older side: run artseg cellprofiler install and start CellProfiler again."
        )
        # services before protocol 2 did not say which side to mend
        told = error_message(status, body)
        raise ServiceError(told if "older side" in told else f"{told} {mend}")
    return "gone"  # some other program got the port of a service that ended


def _start(device, command, start_seconds):
    log = log_path(device)
    child, since = _launch(command, device, log)
    launched = time.monotonic()
    deadline = launched + start_seconds
    refusals = 0
    while time.monotonic() < deadline:
        place = read_rendezvous(device)
        state = "gone" if place is None else _answers(place)
        if state == "yes":
            return place
        code = child.poll()
        if code == ALREADY_RUNNING:
            # another worker's service is still starting, or one is just ending
            refusals += state == "refused"
            if refusals > 2:
                raise ServiceError(
                    f"The service (process {place['pid']}) refuses the token in {rendezvous_path(device)}: "
                    "the file was changed. End that process and delete the file; the next image starts a new service."
                )
            if time.monotonic() - launched > 2:
                child, since = _launch(command, device, log)
                launched = time.monotonic()
        elif code is not None:
            raise ServiceError(_why_it_died(command, code, log, last_log_lines(device, since)))
        time.sleep(0.1)
    if child.poll() is None:
        child.kill()
        child.wait()
    raise ServiceError(
        f"The service did not answer within {start_seconds:.0f} s. "
        f"Its log is {log} and ends with:\n{last_log_lines(device, since)}"
    )


def child_environment():
    """Give the variables for a Python that is not CellProfiler's."""
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}
    if getattr(sys, "frozen", False):
        for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"):  # the desktop app points them into itself
            original = environment.pop(name + "_ORIG", None)
            environment.pop(name, None)
            if original:
                environment[name] = original
    return environment


def _launch(command, device, log):
    """Start a service that outlives this process and takes nothing of it along."""
    environment = child_environment()
    if environment.get("ARTSEG_STATE_DIR"):
        environment["ARTSEG_STATE_DIR"] = os.path.dirname(log)
    if sys.platform == "win32":
        detached = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    else:
        detached = {"start_new_session": True}
    folder = os.path.dirname(log)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.path.exists(log) and os.path.getsize(log) > _LARGEST_LOG:
            os.replace(log, log + ".old")
        with open(log, "ab", buffering=0) as written:
            since = written.tell()
            written.write(b'{"time": "%s", "level": "INFO", "message": "starting"}\n' % _now())  # shows a full disk
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,  # a worker's stdin is the pipe that tells it to end
                stdout=written,
                stderr=written,
                cwd=folder,  # Python looks into the working folder first: nothing of the user's may stand there
                env=environment,
                **detached,
            )
    except OSError as error:
        raise ServiceError(
            f"Could not start artseg's service with {command[0]} (log {log}): {error.strerror or error}. "
            "Free space, or set ARTSEG_STATE_DIR to a folder that you may write to."
        ) from error
    _children[:] = [known for known in _children if known.poll() is None] + [child]
    return child, since


def _now():
    return time.strftime("%Y-%m-%dT%H:%M:%S").encode("ascii")


def _why_it_died(command, code, log, lines):
    if re.search("No module named '?artseg_models", lines):
        return not_installed(command[0])
    return f"artseg's service ended at its start with exit code {code}. Its log is {log} and ends with:\n{lines}"
