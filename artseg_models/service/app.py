"""The service's HTTP interface: /health, /models, /segment, /stop, and /collection where there is one."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from artseg_models import __version__
from artseg_models.errors import ArtSegError
from artseg_models.service import shelf
from artseg_models.service.guard import bears_token
from artseg_models.service.models import Catalogue, ModelCache
from artseg_models.service.protocol import (
    LARGEST_REQUEST,
    OPTIONS_HEADER,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    SegmentOptions,
    read_arrays,
    read_options,
    write_answer,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes
    ----------
    request_bytes : int
        Most bytes of a request's body.
    waiting : int
        Most requests at a time; further ones are told to come again.
    waiting_bytes : int
        Most bytes of the bodies of all requests at a time, beyond the first.
    stalled_seconds : float
        How long a client may leave a pause while it sends an image.
    request_seconds : float
        How long a request may wait in the queue, and then how long the network may take.
    """

    request_bytes: int = LARGEST_REQUEST
    waiting: int = 256
    waiting_bytes: int = 4 * LARGEST_REQUEST
    stalled_seconds: float = 60.0
    request_seconds: float = 1800.0


@dataclass
class Activity:
    """What the service does and did, for its end when idle and for those who ask.

    Attributes
    ----------
    served, failed : int
        Requests for a segmentation that were answered with one, or with an error.
    runs : set of Process
        Processes for which the service is kept; it ends with the last of them.
    """

    started: float = field(default_factory=time.monotonic)
    served: int = 0
    failed: int = 0
    runs: set[psutil.Process] = field(default_factory=set[psutil.Process])
    under_way: int = 0
    _bytes: int = 0
    _last: float = field(default_factory=time.monotonic)

    @contextmanager
    def request(self) -> Generator[None]:
        """Count a request for a segmentation while it is under way."""
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
            self._last = time.monotonic()

    @contextmanager
    def holding(self, size: int) -> Generator[None]:
        """Count the bytes of a request's body while it is under way."""
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size

    def idle_seconds(self) -> float:
        """Seconds since the last segmentation ended; 0 while one is under way."""
        return 0.0 if self.under_way else time.monotonic() - self._last

    def full(self, limits: Limits) -> bool:
        """Tell whether no more requests may come in."""
        return self.under_way >= limits.waiting or self._bytes >= limits.waiting_bytes

    def keep_for(self, process: int) -> None:
        """Note a process for which the service is kept; one that is gone already counts for nothing."""
        if all(known.pid != process for known in self.runs):
            try:
                self.runs.add(psutil.Process(process))
            except psutil.Error:
                logger.warning("the run %d is gone already", process)

    def runs_ended(self) -> bool:
        """Tell whether the service was kept for processes, and all of them are gone."""
        return bool(self.runs) and not any(
            run.is_running() and run.status() != psutil.STATUS_ZOMBIE for run in self.runs
        )

    def report(self) -> dict[str, float | int]:
        """Numbers for /health."""
        return {
            "uptime_seconds": round(time.monotonic() - self.started, 1),
            "idle_seconds": round(self.idle_seconds(), 1),
            "under_way": self.under_way,
            "served": self.served,
            "failed": self.failed,
        }


class _Guard:
    """Lets only requests pass that bear the token and speak the protocol."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            refusal = shelf.refusal(headers, self._token) if shelf.on_shelf(scope) else self._refusal(headers)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> Response | None:
        if not bears_token(headers, self._token):
            return _error(401, "The service refused the request: its token is another one.")
        spoken = headers.get(PROTOCOL_HEADER)
        if spoken != str(PROTOCOL_VERSION):
            older = spoken is not None and spoken.isdigit() and int(spoken) > PROTOCOL_VERSION
            mend = (
                "The service is the older side: update artseg where it runs."
                if older
                else "The module is the older side: run artseg cellprofiler install and start CellProfiler again."
            )
            return _error(
                426,
                f"The service speaks protocol {PROTOCOL_VERSION} (artseg {__version__}), the client {spoken}. {mend}",
                protocol=PROTOCOL_VERSION,
            )
        return None


def create_app(
    *,
    token: str,
    device: str,
    engine: str = "auto",
    models: ModelCache,
    activity: Activity,
    stop: Callable[[], None],
    give_up: Callable[[], None] | None = None,
    catalogue: Catalogue | None = None,
    paths: bool = True,
    cpu_fallback: bool = True,
    limits: Limits | None = None,
) -> FastAPI:
    """Build the service.

    Parameters
    ----------
    token : str
        Secret that every request must bear.
    device : str
        Where models run, as asked for ("auto", "cuda", "mps", "cpu").
    engine : str
        What computes them on the CPU, as asked for.
    models : ModelCache
        Gives loaded models.
    activity : Activity
        Told of every segmentation.
    stop : callable
        Ends the service after the answers under way are sent.
    give_up : callable, optional
        Ends the service although its network does not come back; without it, `stop`.
    catalogue : Catalogue, optional
        What the service offers by id and SHA-256.
    paths : bool
        Whether a request may name a package by its path: only where all who know the token may read all files.
    cpu_fallback : bool
        Whether requests may ask for the CPU where the device's memory does not suffice.
    limits : Limits, optional
        On requests.

    Returns
    -------
    FastAPI
    """
    limits = limits or Limits()
    offered = catalogue or Catalogue(None)
    app = FastAPI(title="artseg", docs_url=None, redoc_url=None, openapi_url=None)
    # one worker behind a lock that lets in by order of arrival: the model's memory is needed once
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prediction")
    turn = asyncio.Lock()
    app.add_middleware(_Guard, token=token)
    shelf.put_up(app, offered.folder)

    @app.exception_handler(ArtSegError)
    async def refuse(  # pyright: ignore[reportUnusedFunction]
        request: Request, error: ArtSegError
    ) -> Response:
        logger.warning("refused: %s", error)
        return _error(422, str(error))

    @app.get("/health")
    async def health() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return {
            "protocol": PROTOCOL_VERSION,
            "artseg": __version__,
            "pid": os.getpid(),
            "device": device,
            "engine": engine,
            **activity.report(),
            "memory": _memory(gpu=bool(models.all())),
        }

    @app.get("/models")
    async def list_models() -> dict[str, list[dict[str, Any]]]:  # pyright: ignore[reportUnusedFunction]
        # reads packages that nobody looked at so far
        offers = await asyncio.to_thread(offered.offers)
        return {
            "offered": [
                {name: value for name, value in vars(offer).items() if name != "path"} | {"file": offer.path.name}
                for offer in offers
            ],
            "loaded": [
                {
                    **{name: getattr(model, name) for name in ("id", "name", "version", "sha256")},
                    "device": model.predictor.device,
                    "engine": model.predictor.engine,
                }
                for model in models.all()
            ],
        }

    @app.post("/stop")
    async def end() -> dict[str, bool]:  # pyright: ignore[reportUnusedFunction]
        stop()
        return {"stopping": True}

    @app.post("/segment")
    async def segment(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        options = read_options(request.headers.get(OPTIONS_HEADER))
        if options.package is not None and not paths:
            raise ArtSegError(
                "This service takes models by their id or SHA-256, not by a path: it is shared, and a path would be "
                "one of its own computer."
            )
        # one that was not started for a run stays when a run ends
        if options.run is not None and paths and activity.runs:
            activity.keep_for(options.run)
        if activity.full(limits):
            return _error(503, "The service has too much to do at present; the request may come again.")
        with activity.request():
            answer = await answered(request, options)
        if answer.status_code == 200:
            activity.served += 1
        else:
            activity.failed += 1
        return answer

    async def answered(request: Request, options: SegmentOptions) -> Response:
        body = bytearray()
        stream = aiter(request.stream())
        try:
            while True:
                async with asyncio.timeout(limits.stalled_seconds):  # wait_for would make a task for each piece
                    piece = await anext(stream, None)
                if piece is None:
                    break
                body += piece
                if len(body) > limits.request_bytes:
                    return _error(
                        413,
                        f"The image is larger than the service takes ({limits.request_bytes / 2**20:.0f} MiB). "
                        "Crop it, or segment it with artseg segment.",
                    )
        except TimeoutError:
            return _error(408, f"{options.source} stopped coming in for {limits.stalled_seconds:g} s. Send it again.")
        except ClientDisconnect:
            return _error(499, "The client is gone.")
        arrived = time.perf_counter()
        with activity.holding(len(body)):
            try:
                await asyncio.wait_for(turn.acquire(), limits.request_seconds)
            except TimeoutError:
                return _error(
                    503,
                    f"{options.source} waited {limits.request_seconds / 60:g} minutes in the queue behind others. "
                    "Use fewer workers, a faster device, or allow more minutes (artseg serve --request-minutes).",
                )
            try:
                if await request.is_disconnected():
                    logger.info("nobody waits for %s any more", options.source)
                    return _error(499, "The client is gone.")
                waited = time.perf_counter() - arrived
                return await predicted(body, options, waited)
            finally:
                turn.release()

    async def predicted(body: bytearray, options: SegmentOptions, waited: float) -> Response:
        def work() -> list[bytes]:
            # a path that the request names, or one of the service's own
            offer = None if options.package is not None else offered.find(model=options.model, sha256=options.sha256)
            path = Path(options.package or "") if offer is None else offer.path
            return _segment(body, options, models, path, cpu_fallback=cpu_fallback, waited=waited)

        job = asyncio.get_running_loop().run_in_executor(worker, work)
        try:
            pieces = await asyncio.wait_for(asyncio.shield(job), limits.request_seconds)
        except ArtSegError:
            raise
        except TimeoutError:
            logger.error("gave up on %s after %g s: ending", options.source, limits.request_seconds)
            (give_up or stop)()  # a thread cannot be stopped, its process can
            return _error(
                504,
                f"The network did not come back from {options.source} in {limits.request_seconds / 60:g} minutes, so "
                "the service ends. Use a smaller image or a faster device, or allow more minutes (artseg serve "
                "--request-minutes).",
            )
        except Exception as error:
            from artseg_models.predict import is_out_of_memory  # loaded by now

            if is_out_of_memory(error):
                raise ArtSegError(
                    f"The memory of the service's computer does not suffice for {options.source}. Close other "
                    "programs there, or bin the image."
                ) from error
            logger.exception("failed on %s", options.source)
            return _error(500, f"The service failed on {options.source}: {type(error).__name__}: {error}")

        async def one_after_the_other() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        length = str(sum(map(len, pieces)))
        return StreamingResponse(
            one_after_the_other(), media_type="application/octet-stream", headers={"Content-Length": length}
        )

    return app


def _segment(
    body: bytearray, options: SegmentOptions, models: ModelCache, path: Path, *, cpu_fallback: bool, waited: float
) -> list[bytes]:
    from artseg_models.likeness import UNLIKE, unlikeness  # as late as the networks: the service must start soon

    pixels, valid = read_arrays(body)
    model = models.get(path)
    if options.sha256 is not None and model.sha256 != options.sha256:
        raise ArtSegError(f"The package {path.name} was changed while it was loaded. Try again.")
    prediction = model.predictor.predict(
        pixels,
        valid=valid,
        cutoff=options.cutoff,
        smallest_artifact_px=options.smallest_artifact_px,
        gate=options.gate,
        gate_threshold=options.gate_threshold,
        cpu_allowed=options.cpu_allowed and cpu_fallback,
        source=options.source,
    )
    artifact = prediction.mask if valid is None else prediction.mask | ~valid
    distance = unlikeness(pixels, model.predictor.image_features, artifact=artifact)
    notes = [prediction.note] if prediction.note else []
    if distance >= UNLIKE:
        notes.append(
            f"The image looks unlike what {model.name} was trained on ({distance:.1f}; images of the same kind are at "
            "about 1). Look at its mask before you use it."
        )
    logger.info(
        "%s: %d artifacts, area fraction %.4f, %.2f s",
        options.source,
        prediction.count,
        prediction.area_fraction,
        prediction.seconds,
        extra={
            "fields": {
                "model": model.id,
                "sha256": model.sha256,
                "shape": list(pixels.shape),
                "device": prediction.device,
                "engine": prediction.engine,
                "tiles": prediction.tiles,
                "seconds": round(prediction.seconds, 4),
                "waited_seconds": round(waited, 4),
            }
        },
    )
    result = {
        "model_id": model.id,
        "model_name": model.name,
        "model_version": model.version,
        "model_sha256": model.sha256,
        "image_probability": prediction.image_probability,
        "gate_open": prediction.gate_open,
        "gate_threshold": prediction.gate_threshold,
        "cutoff": prediction.cutoff,
        "smallest_artifact_px": prediction.smallest_artifact_px,
        "device": prediction.device,
        "engine": prediction.engine,
        "tiles": prediction.tiles,
        "note": " ".join(notes) or None,
        "unlike": None if math.isnan(distance) else distance,
        "kinds": prediction.kinds,
        "object_kinds": prediction.object_kinds.tolist(),
        "image_kinds": dict(prediction.image_kinds),
        "seconds": prediction.seconds,
        "artseg": __version__,
    }
    return write_answer(prediction.probability, prediction.labels, result)


def _memory(*, gpu: bool) -> dict[str, float]:
    """Memory of this process in MiB: resident, and on the GPU where it uses one, if that is asked for."""
    memory = {"resident_mib": round(psutil.Process().memory_info().rss / 2**20, 1)}
    # not loaded only to be asked; before there is a model another thread may be loading it, and it is not whole yet
    torch: Any = sys.modules.get("torch") if gpu else None
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        memory["gpu_mib"] = round(torch.cuda.memory_reserved() / 2**20, 1)
    return memory


def _error(status: int, message: str, **more: Any) -> JSONResponse:
    return JSONResponse({"error": message, **more}, status_code=status)
