"""A service for a lab: its own port and token, models by id; the client on another computer, so to speak."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.files import sha256
from artseg_models.packages.read import read_package
from artseg_models.predict import Predictor
from artseg_models.service.models import Catalogue
from artseg_models.service.server import ServeOptions
from artseg_models.service.tokens import tokens_path

TOKEN = "a-secret-of-the-lab-0123"


@dataclass(frozen=True)
class Lab:
    url: str
    port: int
    models: Path
    log: Path
    start: Callable[[], subprocess.Popen[bytes]]


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def as_zip(folder: Path, path: Path, **changes: object) -> Path:
    """Pack a package's folder, with other words in its description."""
    description = json.loads((folder / "rdf.yaml").read_text()) | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as packed:
        packed.write(folder / "weights.onnx", "weights.onnx")
        packed.writestr("rdf.yaml", json.dumps(description))
    return path


@pytest.fixture(scope="module")
def lab(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server with two versions of a model in its folder, another model, a damaged package and a stray file."""
    folder = tmp_path_factory.mktemp("lab")
    models = folder / "models"
    as_zip(package, models / "dark" / "0.9.0" / "dark.zip", version="0.9.0")
    as_zip(package, models / "dark" / "0.10.0" / "dark.zip", version="0.10.0")
    as_zip(package, models / "other.zip", id="other", config={"artseg": {"cutoff": 0.9, "smallest_artifact_px": 0}})
    (models / "damaged.zip").write_bytes((models / "other.zip").read_bytes()[:-100])
    (models / "notes.txt").write_text("no package")
    token, port = folder / "token", free_port()
    token.write_text(f"{TOKEN}\n")
    command = [sys.executable, "-m", "artseg_models", "serve", "--device", "cpu", "--port", str(port)]
    command += ["--token-file", str(token), "--models", str(models)]
    environment = os.environ | {"ARTSEG_STATE_DIR": str(folder / "state"), "OMP_NUM_THREADS": "1"}
    started = []

    def start() -> subprocess.Popen[bytes]:
        with open(folder / "log", "ab") as log:
            started.append(subprocess.Popen(command, env=environment, stderr=log, stdin=subprocess.DEVNULL))
        until = time.monotonic() + 60
        while not list((folder / "state").glob("*.json")):
            assert time.monotonic() < until, (folder / "log").read_text()
            assert started[-1].poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        return started[-1]

    start()
    yield Lab(f"http://127.0.0.1:{port}", port, models, folder / "log", start)
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def elsewhere(fresh_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artseg_client: ModuleType) -> Path:
    """A computer without artseg, whose user has noted nothing so far; gives its state folder."""
    monkeypatch.setenv("ARTSEG_PYTHON", str(tmp_path / "no" / "python"))
    from _artseg_client import _inform, _segment

    monkeypatch.setattr(_inform, "PATIENCE_SECONDS", 0.5)
    remote_place = _segment.remote_place
    monkeypatch.setattr(_segment, "remote_place", lambda server: remote_place(server, patience=1))
    return fresh_state


def test_a_model_by_id_or_by_the_same_package(
    lab: Lab, elsewhere: Path, artseg_client: ModuleType, image: np.ndarray, tmp_path: Path, package: Path
) -> None:
    artseg_client.remember_token(lab.url, TOKEN)
    expected = Predictor(read_package(package), device="cpu").predict(image)
    newest = artseg_client.segment(image, model="dark-artifact", server=lab.url + "/")
    assert newest.result["model_version"] == "0.10.0"
    assert np.array_equal(newest.probability, expected.probability)
    assert np.array_equal(newest.labels, expected.labels)
    assert artseg_client.segment(image, model="dark-artifact@0.9.0", server=lab.url).result["model_version"] == "0.9.0"
    mine = shutil.copyfile(lab.models / "other.zip", tmp_path / "mine.zip")
    by_file = artseg_client.segment(image, str(mine), server=lab.url)
    assert by_file.result["model_sha256"] == sha256(mine)
    assert by_file.result["cutoff"] == 0.9

    with pytest.raises(artseg_client.ServiceError, match="does not offer the model 'dark'") as caught:
        artseg_client.segment(image, model="dark", server=lab.url)
    assert "dark-artifact@0.10.0, dark-artifact@0.9.0, other@1.2.3" in str(caught.value)
    another = as_zip(package, tmp_path / "another.zip", version="7")
    with pytest.raises(
        artseg_client.ServiceError, match=f"does not offer a package with the SHA-256 {sha256(another)}"
    ):
        artseg_client.segment(image, str(another), server=lab.url)
    with pytest.raises(artseg_client.ServiceError, match="choose it by its id"):
        artseg_client.segment(image, str(tmp_path / "nowhere.zip"), server=lab.url)


def test_a_path_of_the_server_is_refused(lab: Lab, artseg_client: ModuleType, image: np.ndarray, package: Path) -> None:
    from _artseg_client import _ask, _segment

    place = {"url": lab.url, "token": TOKEN}
    options = {"package": str(package), "source": "x"}
    status, body = _ask.ask(place, "POST", "/segment", _segment._body(image, None), options)
    assert status == 422
    assert "by their id or SHA-256" in _ask.error_message(status, body)


def test_the_models_are_listed_with_what_they_are(lab: Lab, elsewhere: Path, artseg_client: ModuleType) -> None:
    artseg_client.remember_token(lab.url, TOKEN)
    offers = artseg_client.list_models(lab.url)
    assert [(offer["id"], offer["version"]) for offer in offers] == [
        ("dark-artifact", "0.10.0"),
        ("dark-artifact", "0.9.0"),
        ("other", "1.2.3"),
    ]
    assert offers[2]["sha256"] == sha256(lab.models / "other.zip")
    assert {"name", "trained_on", "cutoff", "file"} <= set(offers[0])
    shown = artseg_client.show_model("", model="other", server=lab.url)
    assert "Dark is artifact" in shown
    assert sha256(lab.models / "other.zip") in shown
    checked = artseg_client.check_installation("", model="other", server=lab.url)
    assert checked.count("[ok]") == 2
    assert "All that SegmentArtifacts needs is there" in checked
    checked = artseg_client.check_installation("", model="nothing", server=lab.url)
    assert "[missing] The service does not offer the model 'nothing'" in checked
    assert "damaged.zip is not offered" in lab.log.read_text()


def test_the_token_is_noted_for_this_user_alone(
    lab: Lab, elsewhere: Path, artseg_client: ModuleType, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def segment() -> int:
        return artseg_client.segment(image, model="other", server=lab.url).labels.max()

    with pytest.raises(artseg_client.ServiceError, match=r"No token is known .* press 'Set token'"):
        segment()
    noted = CliRunner().invoke(app, ["serve", "--remember", f"{lab.url}/"], input="wrong-but-long-enough\n")
    assert noted.exit_code == 0, noted.output
    assert tokens_path() == elsewhere / "tokens.json"
    if sys.platform != "win32":
        assert stat.S_IMODE(tokens_path().stat().st_mode) == 0o600
    with pytest.raises(artseg_client.ServiceError, match=r"refuses the token.*artseg serve --remember"):
        segment()
    assert artseg_client.check_installation("", model="other", server=lab.url).startswith("[missing]")
    monkeypatch.setenv("ARTSEG_TOKEN", TOKEN)
    assert segment() >= 1
    monkeypatch.delenv("ARTSEG_TOKEN")
    artseg_client.remember_token(lab.url, TOKEN)
    assert segment() >= 1


def test_the_state_tells_models_memory_and_queue(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTSEG_STATE_DIR", str(lab.log.parent / "state"))
    asked = CliRunner().invoke(app, ["serve", "--status", "--device", "cpu", "--port", str(lab.port)])
    status = json.loads(asked.stdout)
    assert status["port"] == lab.port
    assert {offer["id"] for offer in status["offered"]} == {"dark-artifact", "other"}
    assert status["memory"]["resident_mib"] > 20
    assert status["uptime_seconds"] > 0
    assert (status["under_way"], status["device"]) == (0, "cpu")
    assert CliRunner().invoke(app, ["serve", "--status"]).exit_code == 1  # the one for this computer alone


def test_the_log_is_one_json_object_a_line(lab: Lab, elsewhere: Path, artseg_client: ModuleType, image) -> None:
    artseg_client.remember_token(lab.url, TOKEN)
    artseg_client.segment(image, model="other", server=lab.url, source="field 12")
    lines = [json.loads(line) for line in lab.log.read_text().splitlines()]
    assert all({"time", "level", "message", "pid"} <= set(line) for line in lines)
    (last,) = [line for line in lines if line["message"].startswith("field 12:")]
    assert (last["model"], last["shape"], last["device"], last["tiles"]) == ("other", [90, 120], "cpu", 1)
    assert last["sha256"] == sha256(lab.models / "other.zip")
    assert TOKEN not in lab.log.read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_server_that_comes_back_is_waited_for(
    lab: Lab, elsewhere: Path, artseg_client: ModuleType, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from _artseg_client import _remote, _segment

    artseg_client.remember_token(lab.url, TOKEN)
    before = artseg_client.segment(image, model="other", server=lab.url)
    (announced,) = (lab.log.parent / "state").glob("*.json")
    os.kill(json.loads(announced.read_text())["pid"], signal.SIGKILL)
    announced.unlink()
    with pytest.raises(artseg_client.ServiceError, match=r"does not answer .*whether artseg serve runs there"):
        artseg_client.segment(image, model="other", server=lab.url)
    monkeypatch.setattr(_segment, "remote_place", _remote.remote_place)
    back = threading.Timer(0.5, lab.start)
    back.start()
    after = artseg_client.segment(image, model="other", server=lab.url)
    back.join()
    assert np.array_equal(after.probability, before.probability)


class Proxy(http.server.BaseHTTPRequestHandler):
    """Answers by itself and notes what it was asked."""

    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Proxy-Authorization")))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_proxies_are_asked_for_servers_elsewhere_and_never_for_this_computer(
    lab: Lab, artseg_client: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from _artseg_client import _ask

    Proxy.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://me:word@127.0.0.1:{proxy.server_address[1]}")
        for name in ("no_proxy", "NO_PROXY", "REQUEST_METHOD"):
            monkeypatch.delenv(name, raising=False)
        place = {"url": "http://gpu.invalid:8300/artseg", "token": TOKEN}
        assert _ask.ask(place, "GET", "/health") == (200, b"{}")
        assert Proxy.asked == [("http://gpu.invalid:8300/artseg/health", "Basic bWU6d29yZA==")]
        assert _ask.ask({"url": lab.url, "token": TOKEN}, "GET", "/health")[0] == 200
        assert len(Proxy.asked) == 1
        proxy.shutdown()


@pytest.mark.parametrize("server", ["gpu:8300", "ftp://gpu", "http://", "http://gpu:port"])
def test_an_address_that_is_none_is_told(artseg_client: ModuleType, image: np.ndarray, server: str) -> None:
    with pytest.raises(artseg_client.ServiceError, match="Expected the address of the inference server"):
        artseg_client.segment(image, model="other", server=server)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ServeOptions(host="0.0.0.0", port=8300), "--token-file"),
        (ServeOptions(host="gpu.example.org", port=8300), "--token-file"),
        (ServeOptions(host="0.0.0.0", token=TOKEN), "--port 8300"),
        (ServeOptions(token="short", models=Path()), "16 characters or more"),
        (ServeOptions(token=TOKEN), "--models DIR"),
        (ServeOptions(models=Path("no/such/folder")), "folder with model packages"),
    ],
)
def test_what_would_let_strangers_in_or_serve_nobody_is_refused(options: ServeOptions, message: str) -> None:
    with pytest.raises(ArtSegError, match=message):
        options.check()


def test_a_taken_port_is_told(fresh_state: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "artseg_models", "serve", "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert f"Could not listen on port {port} of 127.0.0.1" in ended.stderr
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_package_that_is_added_or_changed_is_seen(package: Path, tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path)
    assert catalogue.offers() == []
    as_zip(package, tmp_path / "a.zip", version="1.0")
    assert [offer.version for offer in catalogue.offers()] == ["1.0"]
    as_zip(package, tmp_path / "a.zip", version="1.0.1")
    shutil.copytree(package, tmp_path / "unpacked")
    assert {offer.version for offer in catalogue.offers()} == {"1.0.1", "1.2.3"}
    with pytest.raises(ArtSegError, match=r"does not offer the model 'x'.*dark-artifact@1\.2\.3"):
        catalogue.find(model="x")
