"""The service as its own process, started and asked by the client that runs inside CellProfiler."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.packages.read import read_package
from artseg_models.predict import Predictor
from artseg_models.service.protocol import PROTOCOL_VERSION
from artseg_models.service.rendezvous import new_rendezvous, read_rendezvous, rendezvous_path, write_rendezvous
from artseg_models.service.server import ALREADY_RUNNING

WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy
from _artseg_client import segment
from _artseg_client._place import read_rendezvous
print(segment(numpy.load(sys.argv[2]), sys.argv[3]).labels.max(), read_rendezvous("auto")["pid"])
"""


def test_the_client_gets_what_the_predictor_says(
    artseg_client: ModuleType, package: Path, image: np.ndarray, shared_state: Path
) -> None:
    valid = np.ones(image.shape, bool)
    valid[:, 45:] = False
    predictor = Predictor(read_package(package), device="cpu")
    whole = artseg_client.segment(image, str(package))
    for options in (
        {},
        {"valid": valid},
        {"cutoff": 0.9},
        {"smallest_artifact_px": 0},
        {"gate": False},
    ):
        here = predictor.predict(image, **options)
        there = artseg_client.segment(image, str(package), **options)
        assert np.array_equal(there.labels, here.labels)
        assert np.array_equal(there.probability, here.probability)
        assert there.result["cutoff"] == here.cutoff
        assert there.result["smallest_artifact_px"] == here.smallest_artifact_px
    assert whole.labels.max() == 1
    assert (whole.labels > 0).sum() == 100  # the square of 9 pixels is below the smallest artifact
    assert whole.result["model_id"] == "dark-artifact"
    assert whole.result["model_version"] == "1.2.3"
    assert whole.result["model_sha256"] == read_package(package).sha256
    assert whole.result["image_probability"] is None
    assert whole.result["seconds"] > 0
    if sys.platform != "win32":
        assert stat.S_IMODE(rendezvous_path("auto").stat().st_mode) == 0o600
        assert stat.S_IMODE(shared_state.stat().st_mode) == 0o700


def test_the_client_gets_the_kinds_that_the_predictor_tells(
    artseg_client: ModuleType, package_of_kinds: Path, image: np.ndarray
) -> None:
    image[50:60, 10:30] = 0.07
    here = Predictor(read_package(package_of_kinds), device="cpu").predict(image)
    there = artseg_client.segment(image, str(package_of_kinds))
    assert np.array_equal(there.labels, here.labels)
    assert there.result["kinds"] == list(here.kinds) == ["dust", "fibre"]
    assert there.result["object_kinds"] == here.object_kinds.tolist() == [1, 2]
    assert there.result["image_kinds"] == here.image_kinds


def test_workers_that_start_at_once_share_one_service(
    repository: Path, package: Path, image: np.ndarray, tmp_path: Path, fresh_state: Path
) -> None:
    np.save(tmp_path / "image.npy", image)
    command = [sys.executable, "-c", WORKER, str(repository / "plugins"), str(tmp_path / "image.npy"), str(package)]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: subprocess.check_output(command, text=True), range(3)))
    assert len(set(answers)) == 1, answers
    objects, pid = answers[0].split()
    assert objects == "1"
    assert psutil.pid_exists(int(pid))  # it outlives the workers that started it
    log = rendezvous_path("auto").with_suffix(".log").read_text()
    assert log.count("listens on") == 1


def test_a_killed_service_is_started_again(
    artseg_client: ModuleType, package: Path, image: np.ndarray, kill_service: Callable[[], int], service_pid: Callable
) -> None:
    before = artseg_client.segment(image, str(package))
    dead = kill_service()
    after = artseg_client.segment(image, str(package))
    assert np.array_equal(before.labels, after.labels)
    assert service_pid() != dead


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals that stop a process")
def test_a_service_killed_while_it_works_costs_no_image(
    artseg_client: ModuleType, package: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, service_pid: Callable
) -> None:
    from _artseg_client import _segment

    ask = _segment.ask
    killed = []

    def freeze_once(place: dict, *arguments: object) -> tuple:
        if not killed:
            killed.append(place["pid"])
            os.kill(place["pid"], signal.SIGSTOP)  # it takes the request and never answers
            threading.Timer(0.5, os.kill, (place["pid"], signal.SIGKILL)).start()
        return ask(place, *arguments)

    monkeypatch.setattr(_segment, "ask", freeze_once)
    assert artseg_client.segment(image, str(package)).labels.max() == 1
    assert service_pid() != killed[0]


def test_after_the_first_image_each_takes_one_request_on_the_same_connection(
    artseg_client: ModuleType, package: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, shared_state: Path
) -> None:
    from _artseg_client import _ask

    asked: list[str] = []

    class Watched(_ask.http.client.HTTPConnection):
        def connect(self) -> None:
            asked.append("connect")
            super().connect()

        def request(self, method: str, url: str, *arguments: object, **options: object) -> None:
            asked.append(f"{method} {url}")
            super().request(method, url, *arguments, **options)

    artseg_client.segment(image, str(package))
    _ask._close()
    monkeypatch.setattr(_ask.http.client, "HTTPConnection", Watched)
    answers = [artseg_client.segment(image, str(package)) for _ in range(2)]
    assert asked == ["connect", "POST /segment", "POST /segment"]
    assert answers[0].labels.dtype == np.uint8
    assert np.array_equal(answers[0].labels, answers[1].labels)


class NotFound(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.mark.parametrize("somebody_has_the_port", [False, True])
def test_a_stale_rendezvous_is_replaced(
    artseg_client: ModuleType, package: Path, image: np.ndarray, fresh_state: Path, somebody_has_the_port: bool
) -> None:
    fresh_state.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotFound) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        if not somebody_has_the_port:
            other.shutdown()
            other.server_close()
        stale = new_rendezvous(other.server_address[1])
        write_rendezvous(rendezvous_path("auto"), stale)
        assert artseg_client.segment(image, str(package)).labels.max() == 1
        other.shutdown()
    fresh = read_rendezvous(rendezvous_path("auto"))
    assert fresh is not None
    assert fresh.token != stale.token


def test_another_program_on_the_port_of_a_service_that_answered_is_noticed(
    artseg_client: ModuleType, package: Path, image: np.ndarray, fresh_state: Path, kill_service: Callable[[], int]
) -> None:
    artseg_client.segment(image, str(package))
    killed = read_rendezvous(rendezvous_path("auto"))
    assert killed is not None
    kill_service()
    until = time.monotonic() + 10
    while True:
        try:
            other = http.server.ThreadingHTTPServer(("127.0.0.1", killed.port), NotFound)
            break
        except OSError:  # the last thread of the process still holds it
            assert time.monotonic() < until
            time.sleep(0.05)
    with other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        assert artseg_client.segment(image, str(package)).labels.max() == 1
        other.shutdown()
    assert read_rendezvous(rendezvous_path("auto")) != killed


def test_a_changed_token_is_told_with_the_file_and_the_process(
    artseg_client: ModuleType, package: Path, image: np.ndarray, service_pid: Callable, fresh_state: Path
) -> None:
    artseg_client.segment(image, str(package))
    path = rendezvous_path("auto")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"token": "guessed"}))
    with pytest.raises(artseg_client.ServiceError, match="refuses the token") as caught:
        artseg_client.segment(image, str(package))
    assert str(path) in str(caught.value)
    assert str(service_pid()) in str(caught.value)


@pytest.mark.parametrize(
    ("spoken", "older"),
    [(PROTOCOL_VERSION + 1, "The service is the older"), (PROTOCOL_VERSION - 1, "The module is the older")],
)
def test_versions_that_do_not_fit_tell_which_side_to_update(
    artseg_client: ModuleType,
    package: Path,
    image: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    spoken: int,
    older: str,
) -> None:
    from _artseg_client import _ask, _start

    artseg_client.segment(image, str(package))
    monkeypatch.setattr(_ask, "PROTOCOL_VERSION", spoken)
    monkeypatch.setattr(_start, "PROTOCOL_VERSION", spoken)
    with pytest.raises(artseg_client.ServiceError, match=older):
        artseg_client.segment(image, str(package))


def test_bad_input_comes_back_as_the_message_of_its_cause(
    artseg_client: ModuleType, package: Path, image: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(artseg_client.ServiceError, match=r"Expected a model package .* there is none"):
        artseg_client.segment(image, str(tmp_path / "missing.zip"))
    damaged = shutil.copytree(package, tmp_path / "damaged")
    weights = damaged / "weights.onnx"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(artseg_client.ServiceError, match="SHA-256"):
        artseg_client.segment(image, str(damaged))
    for pixels, message in (
        (np.full((64, 64), 0.3, np.float32), "all pixels have the value"),
        (np.where(image == image.max(), np.nan, image), "NaN|finite"),
        (image[:1, :1], "pixel"),
        (np.zeros((40, 40, 3), np.float32), "grey"),
    ):
        with pytest.raises(artseg_client.ServiceError, match=message) as caught:
            artseg_client.segment(pixels, str(package), source="Brightfield of image set 7")
        assert "Traceback" not in str(caught.value)
    assert artseg_client.segment(image, str(package)).labels.max() == 1  # the service went on


def test_a_hostile_environment_does_not_reach_the_service(
    artseg_client: ModuleType,
    package: Path,
    image: np.ndarray,
    tmp_path: Path,
    fresh_state: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CellProfiler's workers hand on their own PYTHONPATH; a proxy must not be asked for loopback."""
    poison = tmp_path / "poison"
    for folder in (poison, fresh_state):
        folder.mkdir()
    (poison / "fastapi.py").write_text("raise RuntimeError('the wrong library')")
    monkeypatch.setenv("PYTHONPATH", str(poison))
    monkeypatch.setenv("PYTHONHOME", str(poison))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert artseg_client.segment(image, str(package)).labels.max() == 1


def test_no_python_is_told_with_where_it_was_named(
    artseg_client: ModuleType,
    package: Path,
    image: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fresh_state: Path,
) -> None:
    monkeypatch.setenv("ARTSEG_PYTHON", str(tmp_path / "gone" / "python"))
    with pytest.raises(artseg_client.ServiceError, match=r"gone.*ARTSEG_PYTHON.*artseg cellprofiler install"):
        artseg_client.segment(image, str(package))
    monkeypatch.delenv("ARTSEG_PYTHON")
    with pytest.raises(artseg_client.ServiceError, match="Python that has artseg"):
        artseg_client.segment(image, str(package), python=str(tmp_path / "nowhere"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(artseg_client.ServiceError, match="pip install artseg"):
        artseg_client.segment(image, str(package))


def test_a_python_without_artseg_is_told(
    artseg_client: ModuleType,
    package: Path,
    image: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fresh_state: Path,
) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    monkeypatch.setenv("ARTSEG_PYTHON", str(python))
    with pytest.raises(artseg_client.ServiceError, match=r"artseg is not installed in .*bare"):
        artseg_client.segment(image, str(package))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script")
def test_a_service_that_dies_at_its_start_shows_its_last_words(
    artseg_client: ModuleType,
    package: Path,
    image: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fresh_state: Path,
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no space for the network >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("ARTSEG_PYTHON", str(broken))
    started = time.monotonic()
    with pytest.raises(artseg_client.ServiceError, match=r"exit code 3(.|\n)*no space for the network"):
        artseg_client.segment(image, str(package))
    assert time.monotonic() - started < 10


def test_serve_tells_its_state_stops_and_ends_when_idle(fresh_state: Path) -> None:
    command = [sys.executable, "-m", "artseg_models", "serve"]
    runner = CliRunner()
    assert runner.invoke(app, ["serve", "--status"]).exit_code == 1
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for_service()
    status = json.loads(runner.invoke(app, ["serve", "--status"]).stdout)
    assert status["pid"] == process.pid
    assert status["protocol"] == PROTOCOL_VERSION
    assert status["loaded"] == []
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == ALREADY_RUNNING
    assert "runs already" in second.stderr
    assert "has ended" in runner.invoke(app, ["serve", "--stop"]).stdout
    assert process.wait(10) == 0
    assert "No service" in runner.invoke(app, ["serve", "--stop"]).stdout

    process = subprocess.Popen([*command, "--idle-minutes", "0.03"], stderr=subprocess.DEVNULL)
    wait_for_service()
    assert process.wait(15) == 0
    assert not rendezvous_path("auto").exists()

    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for_service()
    process.terminate()
    process.wait(10)
    assert sys.platform == "win32" or not rendezvous_path("auto").exists()


def wait_for_service() -> None:
    until = time.monotonic() + 20
    while not rendezvous_path("auto").exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_the_engine_that_was_asked_for_computes_and_is_named(
    artseg_client: ModuleType, package: Path, image: np.ndarray, fresh_state: Path
) -> None:
    command = [sys.executable, "-m", "artseg_models", "serve", "--engine", "openvino"]  # the tests' own is another
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for_service()
        assert artseg_client.segment(image, str(package)).result["engine"] == "openvino"
        status = json.loads(CliRunner().invoke(app, ["serve", "--status"]).stdout)
        assert [status["engine"], *(model["engine"] for model in status["loaded"])] == ["openvino", "openvino"]
        process.terminate()


def test_both_sides_name_the_same_files(artseg_client: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from _artseg_client import _ask, _place, _start

    for device in ("auto", "cuda"):
        assert _place.rendezvous_path(device) == str(rendezvous_path(device))
        monkeypatch.delenv("ARTSEG_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    assert _place.rendezvous_path("cpu") == str(rendezvous_path("cpu"))
    assert set(asdict(new_rendezvous(1))) >= {"port", "token", "pid", "protocol"}
    assert (_ask.PROTOCOL_VERSION, _start.ALREADY_RUNNING) == (PROTOCOL_VERSION, ALREADY_RUNNING)
