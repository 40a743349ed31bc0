"""The service as a process when memory, disk or those who asked are gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest

from artseg_models.service.rendezvous import read_rendezvous, rendezvous_path
from artseg_models.service.server import status

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs signals or limits of a process")


@contextlib.contextmanager
def running(*arguments: str, **popen: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "artseg_models", "serve", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **({"stderr": subprocess.DEVNULL} | popen))
    try:
        wait_until(rendezvous_path("auto").exists)
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(true: Callable[[], object], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_idle_models_are_freed_before_the_service_ends(
    fresh_state: Path, artseg_client: ModuleType, package: Path, image: np.ndarray
) -> None:
    with running("--unload-minutes", "0.02", "--idle-minutes", "0") as process:
        before = artseg_client.segment(image, str(package))
        wait_until(lambda: status()["loaded"] == [])
        after = artseg_client.segment(image, str(package))
        assert np.array_equal(before.probability, after.probability)
        assert status()["served"] == 2
        assert status()["pid"] == process.pid


def test_it_ends_with_the_runs_that_it_was_kept_for(
    fresh_state: Path, artseg_client: ModuleType, package: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
    for run in runs:
        monkeypatch.setenv("ARTSEG_END_WITH", str(run.pid))
        artseg_client.segment(image, str(package))
    pid = status()["pid"]
    runs[0].communicate(b"\n")
    time.sleep(2.5)
    assert status()["pid"] == pid  # the other still runs
    runs[1].communicate(b"\n")
    wait_until(lambda: not rendezvous_path("auto").exists())
    with running("--idle-minutes", "0") as by_hand:
        run = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        monkeypatch.setenv("ARTSEG_END_WITH", str(run.pid))
        artseg_client.segment(image, str(package))
        run.communicate(b"\n")
        time.sleep(2.5)
        assert by_hand.poll() is None  # it was not started for a run
    monkeypatch.setenv("ARTSEG_END_WITH", "forever")
    with pytest.raises(artseg_client.ServiceError, match="ARTSEG_END_WITH, got 'forever'"):
        artseg_client.segment(image, str(package))


def test_a_worker_of_an_analysis_names_the_cellprofiler_that_started_it(
    artseg_client: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from _artseg_client._start import this_run

    monkeypatch.delenv("ARTSEG_END_WITH", raising=False)
    assert this_run(False) is None
    assert this_run(True) == os.getpid()
    for version_4_or_5 in ("--work-announce", "--work-server"):
        monkeypatch.setattr(sys, "argv", ["worker", version_4_or_5, "tcp://127.0.0.1:1"])
        assert this_run(True) == os.getppid()


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy
from _artseg_client import segment
print("asking", flush=True)
segment(numpy.random.default_rng(0).normal(9, 1, (3000, 3000)).astype("float32"), sys.argv[2])
"""


@posix_only
def test_a_killed_worker_leaves_no_work_and_no_process_behind(
    fresh_state: Path, artseg_client: ModuleType, package: Path, image: np.ndarray, repository: Path
) -> None:
    """As when the user cancels an analysis: its workers are killed while they wait for their image."""
    first = artseg_client.segment(image, str(package))
    service = psutil.Process(status()["pid"])
    command = [sys.executable, "-c", WORKER, str(repository / "plugins"), str(package)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    wait_until(lambda: status()["under_way"] > 0 or any(worker.poll() is not None for worker in workers))
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
    wait_until(lambda: status()["under_way"] == 0)
    again = artseg_client.segment(image, str(package))
    assert np.array_equal(again.probability, first.probability)
    assert status()["pid"] == service.pid
    assert service.children(recursive=True) == []


@posix_only
def test_a_full_disk_is_told_and_ends_nothing(
    fresh_state: Path, artseg_client: ModuleType, package: Path, image: np.ndarray, tmp_path: Path, repository: Path
) -> None:
    import resource

    np.save(tmp_path / "image.npy", image)
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); sys.path.insert(0, sys.argv[1]);"
        "import numpy; from _artseg_client import segment; segment(numpy.load(sys.argv[2]), sys.argv[3])"
    )
    command = [sys.executable, "-c", script, str(repository / "plugins"), str(tmp_path / "image.npy"), str(package)]
    failed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "ServiceError: Could not start artseg's service" in failed.stderr
    assert "Free space, or set ARTSEG_STATE_DIR" in failed.stderr
    assert not rendezvous_path("auto").exists()
    # its log cannot grow any more: the images go on
    log = tmp_path / "log"
    with (
        open(log, "ab") as stderr,
        running(stderr=stderr, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))) as process,
    ):
        for _ in range(6):
            assert artseg_client.segment(image, str(package)).labels.max() == 1
        assert process.poll() is None
        assert 600 < log.stat().st_size <= 900  # it was full


@posix_only
def test_a_state_folder_that_cannot_be_used_is_told(
    artseg_client: ModuleType, package: Path, image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ARTSEG_STATE_DIR", str(tmp_path / "file" / "state"))
    with pytest.raises(artseg_client.ServiceError, match="set ARTSEG_STATE_DIR to a folder that you may write to"):
        artseg_client.segment(image, str(package))


def test_a_service_of_before_is_told_to_be_updated(
    fresh_state: Path, artseg_client: ModuleType, package: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service of protocol 1 still runs while the module was updated already."""
    import http.server

    class Old(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = json.dumps({"error": "The service speaks protocol 1 (artseg 0.0.9), the client 2."}).encode()
            self.send_response(426)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Old) as old:
        threading.Thread(target=old.serve_forever, daemon=True).start()
        fresh_state.mkdir()
        place = {"port": old.server_address[1], "token": "t", "pid": os.getpid(), "protocol": 1}
        rendezvous_path("auto").write_text(json.dumps(place))
        with pytest.raises(artseg_client.ServiceError, match=r"protocol 1.*update artseg.*artseg serve --stop"):
            artseg_client.segment(image, str(package))
        old.shutdown()
    assert read_rendezvous(rendezvous_path("auto")) is None  # a file of before: nothing of ours to ask or to end
