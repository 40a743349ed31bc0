"""A collection over the service: for who knows the token, in a browser and in bioimageio.core; for nobody else."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from artseg_models.collection.store import add_packages
from artseg_models.files import sha256
from artseg_models.service.models import Catalogue

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TOKEN = "a-secret-of-the-lab-0123"
UNET = "artseg-tiny-run-unet"


@pytest.fixture(scope="module")
def models(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf") / "models"
    add_packages(folder, [packages["unet"], packages["older_unet"], packages["classifier"]])
    (folder / UNET / "evil.html").write_text("<script>document.title = 'ran'</script>")
    return folder


@pytest.fixture(scope="module")
def port(models: Path) -> Iterator[int]:
    """A service that offers the collection."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
    state = models.parent / "state"
    command = [sys.executable, "-m", "artseg_models", "serve", "--device", "cpu", "--port", str(port)]
    environment = os.environ | {"ARTSEG_STATE_DIR": str(state), "ARTSEG_SERVE_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    with open(models.parent / "log", "wb") as log:
        service = subprocess.Popen([*command, "--models", str(models)], env=environment, stderr=log)
    until = time.monotonic() + 60
    while not list(state.glob("*.json")):
        assert service.poll() is None, (models.parent / "log").read_text()
        assert time.monotonic() < until
        time.sleep(0.05)
    yield port
    service.kill()
    service.wait()
    assert f":{port}/collection/" in (models.parent / "log").read_text()


def ask(port: int, path: str, *, password: str | None = None, method: str = "GET") -> tuple[int, bytes]:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    if password is not None:
        asked.add_header("Authorization", f"Basic {base64.b64encode(f'anyone:{password}'.encode()).decode()}")
    try:
        with urllib.request.urlopen(asked) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_who_knows_the_token_reads_as_from_any_web_server(port: int, models: Path) -> None:
    for path in ("index.html", "collection.json", f"{UNET}/rdf.yaml", f"{UNET}/0.1.0/weights.onnx"):
        assert ask(port, f"/collection/{path}", password=TOKEN) == (200, (models / path).read_bytes())
    assert ask(port, "/collection/", password=TOKEN)[1] == (models / "index.html").read_bytes()


@pytest.mark.parametrize("password", [None, "", "another", TOKEN[:-1]])
def test_who_does_not_is_asked_for_it(port: int, password: str | None) -> None:
    for path in ("/collection/", f"/collection/{UNET}/rdf.yaml", "/collection/nothing"):
        assert ask(port, path, password=password)[0] == 401


def test_a_password_opens_the_collection_alone(port: int) -> None:
    for path, method in (("/health", "GET"), ("/models", "GET"), ("/stop", "POST"), ("/collection/", "POST")):
        assert ask(port, path, password=TOKEN, method=method)[0] == 401


@pytest.mark.parametrize("path", [".collection.lock", "../log", "%2e%2e/log", f"{UNET}/../../log", "..%2flog"])
def test_nothing_else_is_read(port: int, path: str, models: Path) -> None:
    assert (models / ".collection.lock").exists()
    assert ask(port, f"/collection/{path}", password=TOKEN)[0] in (401, 404)


def test_a_browser_that_was_told_the_token_shows_and_downloads(
    port: int, models: Path, chromium: Browser, packages: dict[str, Path], tmp_path: Path
) -> None:
    address = f"http://127.0.0.1:{port}/collection/"
    context = chromium.new_context(http_credentials={"username": "me", "password": TOKEN})
    page = context.new_page()
    page.goto(address)
    assert page.locator(f"#model-{UNET} img.cover").evaluate("image => image.naturalWidth") == 640
    with page.expect_download() as waiting:
        page.get_by_role("link", name=f"Download {UNET}-0.1.0.zip").click()
    waiting.value.save_as(tmp_path / "got.zip")
    assert sha256(tmp_path / "got.zip") == sha256(packages["unet"])
    # a page that somebody packed with a model shows, and does nothing
    page.goto(f"{address}{UNET}/evil.html")
    assert page.title() != "ran"
    context.close()


def test_bioimageio_core_reads_a_model_by_id_with_the_token_in_the_address(port: int, tmp_path: Path) -> None:
    script = f"""
from bioimageio.spec import load_model_description
model = load_model_description("{UNET}", perform_io_checks=True)
assert model.id == "{UNET}" and len(model.inputs[0].test_tensor.get_reader().read()) > 1000
"""
    environment = os.environ | {
        "BIOIMAGEIO_COLLECTION_HTTP_PATTERN": f"http://me:{TOKEN}@127.0.0.1:{port}/collection/{{bioimageio_id}}/rdf.yaml",
        "BIOIMAGEIO_CACHE_PATH": str(tmp_path / "cache"),
    }
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        environment.pop(variable, None)
        environment.pop(variable.upper(), None)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_service_offers_each_model_of_a_collection_once_a_format(models: Path, packages: dict[str, Path]) -> None:
    offers = Catalogue(models).offers()
    assert [(offer.id, offer.format_version == "0.5.10") for offer in offers] == [(UNET, False), (UNET, True)]
    assert Catalogue(models).find(model=UNET).sha256 == sha256(packages["unet"])


def test_a_folder_that_is_no_collection_stays_closed(packages: dict[str, Path], tmp_path: Path) -> None:
    from fastapi import FastAPI

    from artseg_models.service.shelf import put_up

    (tmp_path / "model.zip").write_bytes(packages["unet"].read_bytes())
    assert not put_up(FastAPI(), tmp_path)
    assert not put_up(FastAPI(), None)
