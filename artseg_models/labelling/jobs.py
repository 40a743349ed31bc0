"""Commands of artseg that run in the background, one after the other, and what they say."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, cast

import psutil
from filelock import FileLock, Timeout

from artseg_models.errors import ArtSegError
from artseg_models.files import read_json, write_json

logger = logging.getLogger(__name__)

_TAIL_BYTES = 6000
_STOP_SECONDS = 10.0
_LOCK_SECONDS = 30.0
_NICENESS = 10


def command_line(arguments: Sequence[str]) -> str:
    """Write a command as one would type it."""
    return shlex.join(["artseg", *arguments])


@dataclasses.dataclass(frozen=True)
class Job:
    """One command.

    Attributes
    ----------
    name : str
        What it does, as the user would say it.
    arguments : list of str
        Of artseg.
    makes : str
        Path of a file that stands there when it has ended well; empty where there is none.
    log : str
        Path of the file that gets what it says, after what stands there.
    """

    name: str
    arguments: list[str]
    makes: str = ""
    log: str = ""


class Jobs:
    """Runs commands of artseg, each in a process of its own that outlives this one.

    What runs is written down, so that a server that starts after another was killed finds it.

    Parameters
    ----------
    record : Path
        The JSON file that says what runs or ran last.
    done : callable, optional
        Called whenever a command has ended well.
    """

    def __init__(self, record: Path, *, done: Callable[[], None] | None = None) -> None:
        self.done = done
        self._record = record
        self._watching: threading.Thread | None = None
        told = self._read()
        if told and "well" not in told:  # it runs, or has ended while no server was there
            self._watch(None, told)

    def start(self, jobs: Sequence[Job]) -> None:
        """Start commands, one after the other; the next one only where the one before has ended well.

        Raises
        ------
        ArtSegError
            Another command still runs, or it cannot be written down what is started.
        """
        with self._alone():
            if self.running():
                raise ArtSegError(f"{self._read()['name']} still runs. Wait for its end, or stop it.")
            process = self._launch(jobs)
            self._watch(process, self._read())

    def stop(self) -> None:
        """End the command that runs, if one does, and start none of those that were to follow."""
        with self._alone():
            if not self.running():
                return
            self._write({**self._read(), "stopped": True, "next": []})
            process = self._process()
            if process is not None:
                _end(process)
        if self._watching is not None:
            self._watching.join(_STOP_SECONDS)

    def running(self) -> bool:
        """Whether a command runs or is about to follow, whichever server started it."""
        if "well" in self._read():
            return False
        return self._process() is not None or (self._watching is not None and self._watching.is_alive())

    def state(self) -> dict[str, Any]:
        """Tell what runs or ran last.

        Returns
        -------
        dict
            `name`, `command`, `running`, `stopped`, `failed`, `partly` (it failed, but what it makes is there: some
            images may be missing) and `log` (its end).
        """
        told = self._read()
        if not told:
            return {"name": "", "running": False}
        running = self.running()
        stopped = bool(told.get("stopped"))
        failed = not running and not stopped and not told.get("well", self._made(told))
        return {
            "name": told["name"],
            "command": command_line(told["arguments"]),
            "running": running,
            "failed": failed,
            "partly": failed and bool(told.get("makes")) and self._made(told),
            "stopped": stopped,
            "log": end_of(Path(told["log"]), _TAIL_BYTES),
        }

    # ---- inside ----

    def _launch(self, jobs: Sequence[Job]) -> subprocess.Popen[bytes]:
        job = jobs[0]
        log = Path(job.log) if job.log else self._record.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        started = log.stat().st_size if job.log and log.exists() else 0
        with open(log, "ab" if started else "wb") as output:
            output.write(f"$ {command_line(job.arguments)}\n".encode())
            output.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "artseg_models", *job.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "COLUMNS": "160", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
            )
        with contextlib.suppress(psutil.Error, OSError):
            # the person who labels meanwhile goes first
            found = psutil.Process(process.pid)
            found.nice(_NICENESS if sys.platform != "win32" else psutil.BELOW_NORMAL_PRIORITY_CLASS)
        try:
            self._write(
                {
                    "name": job.name,
                    "arguments": list(job.arguments),
                    "makes": job.makes,
                    "made_before": _changed(job.makes),
                    "log": str(log),
                    "pid": process.pid,
                    "created": _created(process.pid),
                    "next": [dataclasses.asdict(one) for one in jobs[1:]],
                }
            )
        except ArtSegError:
            process.kill()  # nobody would find it again
            process.wait()
            raise
        return process

    def _watch(self, process: subprocess.Popen[bytes] | None, told: dict[str, Any]) -> None:
        self._watching = threading.Thread(target=self._wait, args=(process, told), daemon=True, name="job")
        self._watching.start()

    def _wait(self, process: subprocess.Popen[bytes] | None, watched: dict[str, Any]) -> None:
        """Wait for the end of what runs, and start what follows; a process that another server started has no code."""
        while True:
            if process is not None:
                well = process.wait() == 0
            else:
                found = self._process()
                if found is not None:
                    found.wait()
                well = self._made(watched)
            if self.done is not None and (well or self._made(watched)):
                self.done()
            with self._alone():
                told = self._read()
                if told.get("pid") != watched["pid"]:
                    return  # another server that watched as well has gone on
                well = well and not told.get("stopped")
                following = [Job(**one) for one in told["next"]] if well else []
                if not following:
                    with contextlib.suppress(ArtSegError):
                        self._write({**told, "well": well, "next": []})
                    return
                try:
                    process, watched = self._launch(following), self._read()
                except (ArtSegError, OSError):
                    logger.exception("%s could not be started", following[0].name)
                    return

    @contextlib.contextmanager
    def _alone(self) -> Generator[None]:
        """Keep other threads, and other servers on these images, from starting something meanwhile."""
        try:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._record.with_suffix(".lock"), timeout=_LOCK_SECONDS):
                yield
        except Timeout as error:
            raise ArtSegError("Another window starts or stops a command just now. Try again.") from error
        except OSError as error:
            raise ArtSegError(f"Could not write into {self._record.parent}: {error.strerror or error}.") from error

    def _process(self) -> psutil.Process | None:
        told = self._read()
        try:
            process = psutil.Process(int(told["pid"]))
            # numbers of processes are used again: only one that began then is ours
            ours = abs(process.create_time() - float(told["created"])) < 1.0
            return process if ours and process.status() != psutil.STATUS_ZOMBIE else None
        except (KeyError, psutil.Error):
            return None

    def _made(self, told: dict[str, Any]) -> bool:
        makes = told.get("makes", "")
        return not makes or _changed(makes) not in (0, told.get("made_before"))

    def _read(self) -> dict[str, Any]:
        if not self._record.exists():
            return {}
        try:
            return cast("dict[str, Any]", read_json(self._record))
        except ArtSegError:
            return {}

    def _write(self, told: dict[str, Any]) -> None:
        write_json(self._record, told)


def _end(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(_STOP_SECONDS)


def end_of(path: Path, most: int) -> str:
    """Read the end of a log, at most so many bytes; empty where there is none."""
    try:
        with open(path, "rb") as opened:
            opened.seek(0, os.SEEK_END)
            opened.seek(max(0, opened.tell() - most))
            return opened.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _changed(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns if path else 0
    except OSError:
        return 0


def _created(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0
