"""A server behind a reverse proxy with TLS, whose certificate the site has made itself."""

from __future__ import annotations

import http.client
import http.server
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from artseg_models.packages.read import read_package
from artseg_models.service.rendezvous import read_rendezvous

TOKEN = "a-secret-behind-tls-0123"
PATH = "/artseg"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that nobody but itself vouches for; its key lies beside it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH to make a certificate with")
    made = tmp_path_factory.mktemp("tls") / "site.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", made.with_suffix(".key"), "-out", made),
        ],
        check=True,
        capture_output=True,
    )
    return made


@pytest.fixture(scope="module")
def backend(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """`artseg serve` on this computer alone, as a proxy finds it; gives its port."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(package, folder / "models" / "dark")
    command = [sys.executable, "-m", "artseg_models", "serve", "--models", str(folder / "models"), "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTSEG_STATE_DIR", str(folder / "state"))
        patch.setenv("ARTSEG_SERVE_TOKEN", TOKEN)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not (announced := list((folder / "state").glob("service-*.json"))):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        place = read_rendezvous(announced[0])
        assert place is not None
        yield place.port
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def url(certificate: Path, backend: int) -> Iterator[str]:
    """Address of a reverse proxy that speaks TLS and hands on what comes below its path."""

    class ReverseProxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def hand_on(self) -> None:
            assert self.path.startswith(f"{PATH}/")
            behind = http.client.HTTPConnection("127.0.0.1", backend)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            behind.request(self.command, self.path.removeprefix(PATH), body, dict(self.headers))
            answer = behind.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            behind.close()

        def do_GET(self) -> None:
            self.hand_on()

        def do_POST(self) -> None:
            self.hand_on()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Say nothing of those who do not trust the certificate."""

    with Server(("127.0.0.1", 0), ReverseProxy) as proxy:
        # the handshake in the thread of the connection: one that is refused must not hold up the others
        proxy.socket = context.wrap_socket(proxy.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"https://localhost:{proxy.server_address[1]}{PATH}"
        proxy.shutdown()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, artseg_client: ModuleType) -> Iterator[None]:
    """The user has the token, and no connection is open."""
    from _artseg_client import _ask, _segment

    _ask._close()
    _segment._answered.clear()
    monkeypatch.setenv("ARTSEG_TOKEN", TOKEN)
    yield
    _ask._close()


def test_with_the_sites_certificate_the_server_is_used(
    artseg_client: ModuleType,
    package: Path,
    image: np.ndarray,
    url: str,
    certificate: Path,
    elsewhere: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    identifier = read_package(package).id
    assert [offer["id"] for offer in artseg_client.list_models(server=url)] == [identifier]
    for _ in range(2):  # the second one on the connection that is open
        answer = artseg_client.segment(image, model=identifier, server=url)
        assert answer.labels.max() == 1
        assert answer.probability.shape == image.shape
    assert "not encrypted" not in artseg_client.check_installation("", model=identifier, server=url)


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(
    artseg_client: ModuleType, image: np.ndarray, url: str, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(artseg_client.ServiceError, match="certificate that this computer does not trust") as caught:
        artseg_client.segment(image, model="dark", server=url)
    assert "SSL_CERT_FILE" in str(caught.value)
    assert "no image was sent" in str(caught.value)


def test_a_certificate_for_another_name_is_refused(
    artseg_client: ModuleType,
    image: np.ndarray,
    url: str,
    certificate: Path,
    elsewhere: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with pytest.raises(artseg_client.ServiceError, match=r"does not trust \(.*127\.0\.0\.1"):
        artseg_client.segment(image, model="dark", server=url.replace("localhost", "127.0.0.1"))
