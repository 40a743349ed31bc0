"""The page's server: who is let in, which files it gives, what it says of bad ones."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from fastapi import FastAPI
from PIL import Image

from artseg_models.labelling.app import LabellingPage, create_app
from artseg_models.labelling.model import ModelPanel
from artseg_models.labelling.previews import Previews, as_grey
from artseg_models.labelling.results import ResultsPanel
from artseg_models.labelling.store import Store
from artseg_models.labelling.twins import Twins

TOKEN = "right"
HOST = "http://127.0.0.1:4711"


class Asking:
    """Asks an app without a network between, and keeps cookies as a browser does."""

    def __init__(self, app: FastAPI, headers: dict[str, str]) -> None:
        self.app = app
        self._headers = headers
        self._cookies = httpx.Cookies()

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url=HOST, cookies=self._cookies) as client:
                answer = await client.request(method, path, **more)
                self._cookies = client.cookies
                return answer

        more["headers"] = {**self._headers, **more.get("headers", {})}
        return asyncio.run(ask())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self._request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self._request("POST", path, **more)


@pytest.fixture
def page(fields: Callable[..., Path]) -> LabellingPage:
    folder = fields(5)
    store = Store([folder], folder / "labels.csv")
    return LabellingPage(store, previews=Previews(), twins=Twins(store), kinds=["dust"], who="anna", stop=lambda: None)


@pytest.fixture
def client(page: LabellingPage) -> Asking:
    app = create_app(page, model=ModelPanel(page.store), results=ResultsPanel(page.store), token=TOKEN, port=4711)
    return Asking(app, {"Authorization": f"Bearer {TOKEN}"})


def test_only_who_bears_the_token_is_let_in(client: Asking) -> None:
    stranger = Asking(client.app, {})
    for address in ("/", "/page/label.js", "/api/project", "/api/preview?image=a", "/?token=wrong", "/?token=ä"):
        answer = stranger.get(address)
        assert answer.status_code == 401
        assert "token" in answer.json()["error"]
    assert stranger.post("/api/decide", json={"images": ["a"], "label": "clean"}).status_code == 401
    assert stranger.get("/api/project", headers={"Authorization": "Bearer wrong"}).status_code == 401
    # the address that was printed lets its bearer in once and for all, without staying in the browser's history
    opened = stranger.get(f"/?token={TOKEN}")
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    assert "httponly" in opened.headers["set-cookie"].lower()
    assert stranger.get("/api/project").status_code == 200


def test_a_request_by_way_of_another_host_name_is_refused(client: Asking) -> None:
    assert client.get("/api/project", headers={"Host": "evil.example:4711"}).status_code == 403


def test_no_file_beside_the_images_is_given(client: Asking, page: LabellingPage) -> None:
    outside = page.store.table.parent.parent / "outside.tif"
    tifffile.imwrite(outside, np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    for name in ("../outside.tif", str(outside), "labels.csv", "..%2Foutside.tif", ""):
        answer = client.get("/api/preview", params={"image": name})
        assert answer.status_code == 422
        assert "none of the images" in answer.json()["error"]
        assert client.post("/api/decide", json={"images": [name], "label": "clean"}).status_code == 422
    assert client.get("/page/../app.py").status_code == 404
    assert client.get("/page/app.py").status_code == 404


def test_names_with_spaces_and_umlauts_are_shown_and_labelled(client: Asking, page: LabellingPage) -> None:
    name = "Feld 1 ok.tif"
    answer = client.get("/api/preview", params={"image": name})
    assert answer.headers["X-Image"] == "80 x 64 pixels, 16 bit"
    assert Image.open(io.BytesIO(answer.content)).size == (80, 64)
    since = client.post("/api/images", json={}).json()["revision"]
    deciding = {"images": [name], "label": "artifact", "kind": "dust", "who": " Änne ", "since": since}
    done = client.post("/api/decide", json=deciding)
    (told,) = done.json()["images"]
    assert (told["label"], told["kind"], told["votes"]) == ("artifact", "dust", {"Änne": "artifact"})


def test_an_image_that_cannot_be_read_is_told_and_the_others_go_on(client: Asking, page: LabellingPage) -> None:
    bad = page.store.table.parent / "kaputt.tif"
    bad.write_bytes(b"II*\x00 no image")
    since = client.post("/api/images", json={"since": -1}).json()["revision"]
    assert [one["name"] for one in client.post("/api/images", json={"since": since}).json()["images"]] == ["kaputt.tif"]
    answer = client.get("/api/preview", params={"image": "kaputt.tif"})
    assert answer.status_code == 422
    assert "could not be read" in answer.json()["error"]
    (told,) = client.post("/api/images", json={"since": since}).json()["images"]
    assert "could not be read" in told["error"]
    assert client.get("/api/preview", params={"image": "Feld 1 ok.tif"}).status_code == 200


def test_a_decision_that_makes_no_sense_is_refused(client: Asking) -> None:
    name = "Feld 1 ok.tif"
    for wrong in (
        {"images": [name], "label": "dusty"},
        {"images": [], "label": "clean"},
        {"images": [name], "label": "clean", "seconds": -1},
        {"images": [name], "label": "clean", "who": "a;b"},
        {"images": [name], "label": "clean", "more": 1},
    ):
        assert client.post("/api/decide", json=wrong).status_code == 422
    assert all(not one.get("label") for one in client.post("/api/images", json={}).json()["images"])


def test_two_windows_are_not_given_the_same_image(client: Asking) -> None:
    def taken(window: str, showing: str) -> list[str]:
        return client.post("/api/images", json={"window": window, "showing": showing}).json()["taken"]

    assert taken("one", "Feld 1 ok.tif") == []
    assert taken("two", "Feld 1 ok.tif") == ["Feld 1 ok.tif"]
    assert taken("one", "Feld 1 ok.tif") == []  # the second one's wish was not granted
    assert taken("one", "Feld 2 ok.tif") == []
    assert taken("two", "Feld 1 ok.tif") == ["Feld 2 ok.tif"]


def test_it_is_told_how_fast_people_are_and_how_far_they_agree(client: Asking, page: LabellingPage) -> None:
    assert client.get("/api/people").json() == {"people": [], "agreements": [], "conflicts": 0}
    names = [record.name for record in page.store.shown()]
    for number, name in enumerate(names):
        page.store.decide([name], label="artifact" if number < 2 else "clean", who="anna", seconds=2.0)
    for number, name in enumerate(names[:4]):
        page.store.decide([name], label="artifact" if number < 1 else "clean", who="ben")
    told = client.get("/api/people").json()
    assert told["people"] == [
        {"name": "anna", "images": 5, "seconds": 2.0},
        {"name": "ben", "images": 4, "seconds": None},
    ]
    # of four images three alike; by chance 2/4 * 1/4 + 2/4 * 3/4 = 1/2
    assert told["agreements"] == [{"names": ["anna", "ben"], "images": 4, "same": 3, "kappa": pytest.approx(0.5)}]
    assert told["conflicts"] == 1


def test_a_large_image_comes_small_and_whole_when_zoomed(client: Asking, page: LabellingPage) -> None:
    pixels = np.random.default_rng(0).normal(20000, 500, (2156, 2556)).astype(np.uint16)
    tifffile.imwrite(page.store.table.parent / "large.tif", pixels)
    page.store.rescan()
    small = Image.open(io.BytesIO(client.get("/api/preview", params={"image": "large.tif", "side": 1024}).content))
    assert (small.size, small.mode) == ((1024, 864), "L")
    whole = Image.open(io.BytesIO(client.get("/api/preview", params={"image": "large.tif"}).content))
    assert whole.size == (2556, 2156)
    thumbnail = Image.open(io.BytesIO(client.get("/api/thumbnail", params={"image": "large.tif"}).content))
    assert max(thumbnail.size) == 192


@pytest.mark.parametrize(
    ("pixels", "bits"),
    [
        (np.linspace(100, 180, 4096).reshape(64, 64).astype(np.uint8), 8),
        (np.linspace(900, 1200, 4096).reshape(64, 64).astype(np.uint16), 12),
        (np.linspace(0.01, 0.06, 4096).reshape(64, 64).astype(np.float32), 32),
    ],
)
def test_contrast_is_stretched_and_raw_is_not(pixels: np.ndarray, bits: int) -> None:
    stretched = as_grey(pixels, bits=bits, clip=0)
    assert (stretched.min(), stretched.max()) == (0, 255)
    harder = as_grey(pixels, bits=bits, clip=10)
    assert np.mean(harder == 0) == pytest.approx(0.1, abs=0.02)
    assert np.mean(harder == 255) == pytest.approx(0.1, abs=0.02)
    raw = as_grey(pixels, bits=bits, raw=True)
    top = 1.0 if bits == 32 else 2**bits - 1
    np.testing.assert_allclose(raw, pixels / top * 255, atol=0.51)
