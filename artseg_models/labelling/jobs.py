"""Commands of artseg that run in the background, one after the other, and what they say."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from artseg_models.errors import ArtSegError

_TAIL_BYTES = 6000
_WHOLE_LOG_BYTES = 2**20
_EPOCH = re.compile(r"(\S+): epoch (\d+) of (\d+), loss ([\d.]+), validation ([\d.]+)")


def command_line(arguments: Sequence[str]) -> str:
    """Write a command as one would type it."""
    return shlex.join(["artseg", *arguments])


class Jobs:
    """Runs one command of artseg at a time, in a process of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path(tempfile.mkdtemp(prefix="artseg-label-")) / "job.log"
        self._name = ""
        self._arguments: list[str] = []
        self._stopped = False

    def start(self, name: str, arguments: Sequence[str], *, done: Callable[[], None] | None = None) -> None:
        """Start a command.

        Parameters
        ----------
        name : str
            What it does, as the user would say it.
        arguments : sequence of str
            Of artseg.
        done : callable, optional
            Called when it has ended well.

        Raises
        ------
        ArtSegError
            Another command still runs.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                raise ArtSegError(f"{self._name} still runs. Wait for its end, or stop it.")
            self._name, self._arguments, self._stopped = name, list(arguments), False
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "artseg_models", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "COLUMNS": "160", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
                )
            threading.Thread(target=self._wait, args=(self._process, done), daemon=True).start()

    def stop(self) -> None:
        """End the command that runs, if one does."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._stopped = True
                self._process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(10)
                if self._process.poll() is None:
                    self._process.kill()

    def state(self) -> dict[str, Any]:
        """Tell what runs or ran last.

        Returns
        -------
        dict
            `name`, `command`, `running`, `failed`, `stopped`, `log` (its end), and `losses`: for each network its
            epochs as (epoch, of, loss, validation loss).
        """
        process = self._process
        if process is None:
            return {"name": "", "running": False}
        text = _end_of(self._log, _WHOLE_LOG_BYTES)
        losses: dict[str, list[tuple[int, int, float, float]]] = {}
        for network, epoch, of, loss, validation in _EPOCH.findall(" ".join(text.split())):
            losses.setdefault(network, []).append((int(epoch), int(of), float(loss), float(validation)))
        running = process.poll() is None
        return {
            "name": self._name,
            "command": command_line(self._arguments),
            "running": running,
            "failed": not running and process.returncode != 0 and not self._stopped,
            "stopped": self._stopped,
            "log": text[-_TAIL_BYTES:],
            "losses": losses,
        }

    def _wait(self, process: subprocess.Popen[bytes], done: Callable[[], None] | None) -> None:
        if process.wait() == 0 and done is not None:
            done()


def _end_of(path: Path, most: int) -> str:
    with open(path, "rb") as opened:
        opened.seek(0, os.SEEK_END)
        opened.seek(max(0, opened.tell() - most))
        return opened.read().decode("utf-8", "replace")
