"""What the service answers, request by request."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pickle
import shutil
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from artseg_models.errors import ArtSegError
from artseg_models.likeness import UNLIKE, image_features, summarise_features
from artseg_models.packages.read import read_package
from artseg_models.predict import Predictor
from artseg_models.service.app import Activity, Limits, create_app
from artseg_models.service.models import Catalogue, LoadedModel, ModelCache, load_model
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
        limits=Limits(request_bytes=50_000),
    )
    return InProcess(app)


def npy(*arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array)
    return stream.getvalue()


def arrays(answer: bytes) -> list[np.ndarray]:
    """The arrays of an answer, one after the other, as NumPy itself reads them."""
    stream = io.BytesIO(answer)
    return [np.lib.format.read_array(stream, allow_pickle=False) for _ in range(3)]


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
    result, probability, labels = arrays(answer.content)
    assert probability.dtype == np.float32
    assert labels.dtype.kind == "u"
    assert np.array_equal(np.argwhere(labels)[[0, -1]], [[20, 40], [29, 49]])
    assert json.loads(result.tobytes())["model_id"] == "dark-artifact"
    (model,) = service.get("/models", headers=HEADERS).json()["loaded"]
    assert model["id"] == "dark-artifact"
    assert (model["device"], model["engine"]) == ("cpu", os.environ["ARTSEG_ENGINE"])


def test_the_kind_of_each_artifact_is_told(
    service: InProcess, package: Path, package_of_kinds: Path, image: np.ndarray
) -> None:
    image[5:10, 60:80] = image[50:60, 10:30] = 0.07

    def ask(model: Path) -> tuple[dict[str, Any], np.ndarray]:
        answer = service.post("/segment", content=npy(image), headers=options(model))
        result, _, labels = arrays(answer.content)
        return json.loads(result.tobytes()), labels

    result, labels = ask(package_of_kinds)
    assert [int(labels[place]) for place in ((5, 60), (20, 40), (50, 10))] == [1, 2, 3]
    assert result["kinds"] == ["dust", "fibre"]
    assert result["object_kinds"] == [2, 1, 2]
    assert result["image_kinds"] == {"dust": 0.75, "fibre": 0.25}
    result, labels = ask(package)
    assert labels.max() == 1
    assert (result["kinds"], result["object_kinds"], result["image_kinds"]) == ([], [], {})


def test_the_list_of_models_tells_their_kinds(
    package: Path, package_of_kinds: Path, tmp_path: Path, artseg_client: ModuleType
) -> None:
    from _artseg_client._inform import describe_offer

    for model in (package, package_of_kinds):
        shutil.copytree(model, tmp_path / model.name)
    service = InProcess(build(ModelCache(device="cpu"), catalogue=Catalogue(tmp_path)))
    offered = {offer["id"]: offer for offer in service.get("/models", headers=HEADERS).json()["offered"]}
    assert {name: offer["kinds"] for name, offer in offered.items()} == {
        "dark-artifact": [],
        "far-artifact": ["dust", "fibre"],
    }
    assert describe_offer(offered["far-artifact"]).endswith("\nkinds       1 dust, 2 fibre")
    assert "kinds " not in describe_offer(offered["dark-artifact"])


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


def test_the_state_is_told_while_the_first_model_is_loading(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as another thread's import leaves it until it is through
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    assert service.get("/health", headers=HEADERS).json()["memory"]["resident_mib"] > 0


def test_an_unforeseen_failure_is_an_answer_too(image: np.ndarray, package: Path) -> None:
    def fail(path: Path, device: str) -> LoadedModel:
        raise KeyError("nobody thought of this")

    app = create_app(
        token="right",
        device="cpu",
        models=ModelCache(device="cpu", load=fail),
        activity=Activity(),
        stop=lambda: None,
    )
    answer = InProcess(app).post("/segment", content=npy(image), headers=options(package, source="field 3"))
    assert answer.status_code == 500
    assert answer.json()["error"] == "The service failed on field 3: KeyError: 'nobody thought of this'"


def test_a_model_is_loaded_once_and_again_when_it_changed(package: Path, tmp_path: Path) -> None:
    loads: list[Path] = []

    def load(path: Path, device: str) -> LoadedModel:
        loads.append(path)
        return load_model(path, device)

    cache = ModelCache(device="cpu", keep=1, load=load)
    first, second = shutil.copytree(package, tmp_path / "a"), shutil.copytree(package, tmp_path / "b")
    model = cache.get(first)
    assert cache.get(first) is model
    assert cache.get(second) is model  # the same bytes elsewhere
    assert len(loads) == 2
    description = json.loads((first / "rdf.yaml").read_text())
    (first / "rdf.yaml").write_text(json.dumps(description | {"version": "1.2.4"}))
    changed = cache.get(first)
    assert changed.version == "1.2.4"
    assert changed.sha256 != model.sha256
    assert cache.all() == [changed]  # one is kept


# ---- too much, too slow, too little memory ----


@pytest.fixture
def two_models(package: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The model, and one whose cutoff is another."""
    other = shutil.copytree(package, tmp_path / "other")
    description = json.loads((other / "rdf.yaml").read_text())
    description["config"]["artseg"]["smallest_artifact_px"] = 0
    (other / "rdf.yaml").write_text(json.dumps(description | {"id": "keeps-all"}))
    return package, other


def build(models: ModelCache, *, activity: Activity | None = None, limits: Limits | None = None, **more: object):
    return create_app(
        token="right",
        device="cpu",
        models=models,
        activity=activity or Activity(),
        stop=lambda: None,
        limits=limits,
        **more,
    )


def ask_all(app: object, requests: list[tuple[bytes, dict[str, str]]]) -> list[httpx.Response]:
    """Send requests at the same time, in this order."""

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            posts = [client.post("/segment", content=body, headers=headers, timeout=60) for body, headers in requests]
            return await asyncio.gather(*posts)

    return asyncio.run(ask())


class Recorder:
    """Loads models that note who comes when, and that nobody comes beside another."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.order: list[str] = []
        self.at_once = 0
        self.seconds = seconds
        self.until = threading.Event()

    def load(self, path: Path, device: str) -> LoadedModel:
        model = load_model(path, device)
        predict = model.predictor.predict

        def noted(*arguments: object, **more: object):
            self.at_once += 1
            assert self.at_once == 1
            self.order.append(str(more["source"]))
            self.until.wait(self.seconds)
            try:
                return predict(*arguments, **more)
            finally:
                self.at_once -= 1

        model.predictor.predict = noted  # type: ignore[method-assign]
        return model


def test_images_are_served_in_order_and_each_as_if_it_were_alone(two_models: tuple[Path, Path]) -> None:
    random = np.random.default_rng(0)
    images = [random.normal(100, 5 + n, (60 + n, 80)).astype(np.float32) for n in range(8)]
    for n, pixels in enumerate(images):
        pixels[10 : 14 + n, 10:20] -= 80
    alone = [Predictor(read_package(two_models[n % 2]), device="cpu").predict(image) for n, image in enumerate(images)]
    recorder = Recorder()
    cache = ModelCache(device="cpu", keep=1, load=recorder.load)  # every image throws the other's model out
    requests = [(npy(image), options(two_models[n % 2], source=str(n))) for n, image in enumerate(images)]
    answers = ask_all(build(cache), requests)
    assert recorder.order == [str(n) for n in range(8)]
    for answer, expected in zip(answers, alone, strict=True):
        _, probability, labels = arrays(answer.content)
        assert np.array_equal(probability, expected.probability)
        assert np.array_equal(labels, expected.labels)
    assert len({int(arrays(answer.content)[2].max()) for answer in answers}) > 1


def test_who_comes_to_a_full_queue_is_told_to_come_again(package: Path, image: np.ndarray) -> None:
    recorder, activity = Recorder(seconds=0.5), Activity()
    app = build(ModelCache(device="cpu", load=recorder.load), activity=activity, limits=Limits(waiting=2))
    answers = ask_all(app, [(npy(image), options(package))] * 4)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503]
    assert "come again" in next(answer for answer in answers if answer.status_code == 503).json()["error"]
    assert activity.report()["under_way"] == 0


def test_a_network_that_does_not_come_back_ends_the_service(package: Path, image: np.ndarray) -> None:
    recorder, gave_up = Recorder(seconds=30), []
    app = build(
        ModelCache(device="cpu", load=recorder.load),
        limits=Limits(request_seconds=0.3),
        give_up=lambda: gave_up.append(True),
    )
    first, second = ask_all(app, [(npy(image), options(package, source=name)) for name in ("field 1", "field 2")])
    recorder.until.set()
    assert first.status_code == 504
    assert "did not come back from field 1" in first.json()["error"]
    assert "--request-minutes" in first.json()["error"]
    assert second.status_code in (503, 504)
    assert gave_up


def test_an_image_that_stops_coming_in_is_let_go(package: Path, image: np.ndarray) -> None:
    app = build(ModelCache(device="cpu"), limits=Limits(stalled_seconds=0.2))

    async def half_an_image():
        yield npy(image)[:1000]
        await asyncio.sleep(60)

    async def ask() -> httpx.Response:
        # httpx's own transport would wait for the whole body: hand it over as a server does
        sent, pieces = [], half_an_image()

        async def receive() -> dict:
            return {"type": "http.request", "body": await anext(pieces), "more_body": True}

        async def send(message: dict) -> None:
            sent.append(message)

        headers = [(name.lower().encode(), value.encode()) for name, value in options(package).items()]
        scope = {"type": "http", "method": "POST", "path": "/segment", "headers": headers, "query_string": b""}
        await app(scope, receive, send)
        return httpx.Response(sent[0]["status"], content=sent[1]["body"])

    answer = asyncio.run(ask())
    assert answer.status_code == 408
    assert "stopped coming in" in answer.json()["error"]


def test_models_leave_the_memory_and_come_back(package: Path, image: np.ndarray) -> None:
    models = ModelCache(device="cpu")
    service = InProcess(build(models))
    before = service.post("/segment", content=npy(image), headers=options(package))
    assert models.clear()
    assert service.get("/models", headers=HEADERS).json()["loaded"] == []
    assert not models.clear()
    after = service.post("/segment", content=npy(image), headers=options(package))
    assert np.array_equal(arrays(before.content)[1], arrays(after.content)[1])


def test_an_image_unlike_the_training_images_is_said(package: Path, image: np.ndarray, tmp_path: Path) -> None:
    service = InProcess(build(ModelCache(device="cpu")))

    def ask(model: Path, pixels: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        answer = service.post("/segment", content=npy(pixels), headers=options(model))
        result, _, labels = arrays(answer.content)
        return json.loads(result.tobytes()), labels

    silent, artifacts = ask(package, image)
    assert silent["unlike"] is None
    assert silent["note"] is None
    knowing = tmp_path / "knows-its-images"
    shutil.copytree(package, knowing)
    description = json.loads((knowing / "rdf.yaml").read_text())
    known = summarise_features([image_features(image, valid=artifacts == 0)])
    description["config"]["artseg"]["image_features"] = {name: list(values) for name, values in known.items()}
    (knowing / "rdf.yaml").write_text(json.dumps(description))
    alike, other = ask(knowing, image)[0], ask(knowing, image.cumsum(0))[0]
    assert alike["unlike"] < 1
    assert alike["note"] is None
    assert other["unlike"] > UNLIKE
    assert "looks unlike what Dark is artifact was trained on" in other["note"]


def test_what_memory_made_different_is_said(package: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole_is_too_large(self: Predictor, pixels: np.ndarray, source: str) -> np.ndarray:
        if self.device != "cpu":
            raise MemoryError
        return whole(self, pixels, source)

    whole = Predictor._whole
    monkeypatch.setattr(Predictor, "_whole", whole_is_too_large)

    def load(path: Path, device: str) -> LoadedModel:
        model = load_model(path, device)
        model.predictor.device = "cuda"
        return model

    for fallback in (True, False):
        service = InProcess(build(ModelCache(device="cpu", load=load), cpu_fallback=fallback))
        refused = service.post("/segment", content=npy(image), headers=options(package, source="field 3"))
        assert refused.status_code == 422
        assert "The memory (cuda) does not suffice for field 3 (90 x 120 pixels)" in refused.json()["error"]
        answer = service.post("/segment", content=npy(image), headers=options(package, cpu_allowed=True))
        assert answer.status_code == (200 if fallback else 422)
        if fallback:
            result = json.loads(arrays(answer.content)[0].tobytes())
            assert (result["device"], result["tiles"]) == ("cpu", 1)
            assert result["note"].startswith("not enough memory on cuda (whole")
            assert "on the CPU" in result["note"]
