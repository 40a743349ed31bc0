"""What the service answers, request by request."""

from __future__ import annotations

import asyncio
import io
import json
import pickle
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from artseg_models.errors import ArtSegError
from artseg_models.service.app import Activity, create_app
from artseg_models.service.models import LoadedModel, ModelCache, load_model
from artseg_models.service.protocol import OPTIONS_HEADER, PROTOCOL_HEADER, PROTOCOL_VERSION, read_arrays

HEADERS = {"Authorization": "Bearer right", PROTOCOL_HEADER: str(PROTOCOL_VERSION)}


class InProcess:
    """Asks an app without a network between."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def request(self, method: str, path: str, **more: object) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.request(method, path, **more)  # type: ignore[arg-type]

        return asyncio.run(ask())

    def get(self, path: str, **more: object) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: object) -> httpx.Response:
        return self.request("POST", path, **more)


@pytest.fixture
def stopped() -> list[bool]:
    return []


@pytest.fixture
def service(stopped: list[bool]) -> InProcess:
    app = create_app(
        token="right",
        device="cpu",
        models=ModelCache(device="cpu"),
        activity=Activity(),
        stop=lambda: stopped.append(True),
        largest_request=50_000,
    )
    return InProcess(app)


def npy(*arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array)
    return stream.getvalue()


def options(package: Path, **more: object) -> dict[str, str]:
    return HEADERS | {OPTIONS_HEADER: json.dumps({"package": str(package), **more})}


def test_only_the_token_opens_it(service: InProcess, stopped: list[bool]) -> None:
    for path in ("/health", "/models", "/stop", "/segment", "/nothing"):
        for headers in ({}, HEADERS | {"Authorization": "Bearer wrong"}, HEADERS | {"Authorization": "right"}):
            answer = service.request("POST" if path in ("/stop", "/segment") else "GET", path, headers=headers)
            assert answer.status_code == 401
            assert "token" in answer.json()["error"]
    assert not stopped
    assert service.get("/health", headers=HEADERS).json()["protocol"] == PROTOCOL_VERSION
    assert service.post("/stop", headers=HEADERS).status_code == 200
    assert stopped


def test_another_protocol_is_refused(service: InProcess) -> None:
    answer = service.get("/health", headers=HEADERS | {PROTOCOL_HEADER: "0"})
    assert answer.status_code == 426
    assert f"protocol {PROTOCOL_VERSION}" in answer.json()["error"]


def test_an_image_gives_probability_objects_and_model(service: InProcess, package: Path, image: np.ndarray) -> None:
    answer = service.post("/segment", content=npy(image), headers=options(package))
    assert answer.status_code == 200
    arrays = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert (arrays["probability"].dtype, arrays["labels"].dtype) == (np.float32, np.int32)
    assert np.array_equal(np.argwhere(arrays["labels"])[[0, -1]], [[20, 40], [29, 49]])
    assert json.loads(arrays["result"].tobytes())["model_id"] == "dark-artifact"
    (model,) = service.get("/models", headers=HEADERS).json()
    assert model["id"] == "dark-artifact"
    assert model["device"] == "cpu"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "could not be read"),
        (b"\x93NUMPY\x01\x00", "could not be read"),
        (pickle.dumps([1]), "could not be read"),
        (npy(np.zeros((40, 40), np.float32))[:-1], "Expected 6400 bytes"),
        (npy(np.zeros((2, 40, 40), np.float32)), "Expected a grey image"),
        (npy(np.zeros((40, 40), complex)), "Expected a grey image"),
        (npy(np.zeros((40, 40), np.float32), np.ones((40, 41), bool)), "Expected the mask"),
        (npy(np.zeros((40, 40), np.float32), np.ones((40, 40), np.uint8)), "Expected the mask"),
    ],
)
def test_a_body_that_is_no_image_is_refused(service: InProcess, package: Path, body: bytes, message: str) -> None:
    answer = service.post("/segment", content=body, headers=options(package))
    assert answer.status_code == 422
    assert message in answer.json()["error"]


def test_objects_and_false_sizes_are_refused_before_memory_is_taken() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ArtSegError, match="Expected numbers"):
        read_arrays(stream.getvalue())
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**20)}
    np.lib.format.write_array_header_1_0(stream, header)
    with pytest.raises(ArtSegError, match="got 0"):
        read_arrays(stream.getvalue())


def test_too_much_is_refused(service: InProcess, package: Path) -> None:
    answer = service.post("/segment", content=npy(np.zeros((200, 200), np.float32)), headers=options(package))
    assert answer.status_code == 413
    assert "Crop it" in answer.json()["error"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"cutoff": 2}, "cutoff"),
        ({"gate_threshold": -1}, "gate_threshold"),
        ({"smallest_artifact_px": -1}, "smallest_artifact_px"),
        ({"cutof": 0.5}, "cutof"),
    ],
)
def test_options_that_are_wrong_are_named(
    service: InProcess, package: Path, image: np.ndarray, more: dict[str, object], message: str
) -> None:
    answer = service.post("/segment", content=npy(image), headers=options(package, **more))
    assert answer.status_code == 422
    assert message in answer.json()["error"]


def test_a_relative_package_is_refused(service: InProcess, image: np.ndarray) -> None:
    answer = service.post("/segment", content=npy(image), headers=options(Path("model.zip")))
    assert answer.status_code == 422
    assert "absolute path" in answer.json()["error"]


def test_an_unforeseen_failure_is_an_answer_too(image: np.ndarray, package: Path) -> None:
    def fail(path: Path, device: str) -> LoadedModel:
        raise MemoryError("no memory left")

    app = create_app(
        token="right",
        device="cpu",
        models=ModelCache(device="cpu", load=fail),
        activity=Activity(),
        stop=lambda: None,
    )
    answer = InProcess(app).post("/segment", content=npy(image), headers=options(package, source="field 3"))
    assert answer.status_code == 500
    assert answer.json()["error"] == "The service failed on field 3: MemoryError: no memory left"


def test_a_model_is_loaded_once_and_again_when_it_changed(package: Path, tmp_path: Path) -> None:
    loads: list[Path] = []

    def load(path: Path, device: str) -> LoadedModel:
        loads.append(path)
        return load_model(path, device)

    cache = ModelCache(device="cpu", keep=1, load=load)
    first, second = shutil.copytree(package, tmp_path / "a"), shutil.copytree(package, tmp_path / "b")
    model = cache.get(str(first))
    assert cache.get(str(first)) is model
    assert cache.get(str(second)) is model  # the same bytes elsewhere
    assert len(loads) == 2
    description = json.loads((first / "rdf.yaml").read_text())
    (first / "rdf.yaml").write_text(json.dumps(description | {"version": "1.2.4"}))
    changed = cache.get(str(first))
    assert changed.version == "1.2.4"
    assert changed.sha256 != model.sha256
    assert cache.all() == [changed]  # one is kept
