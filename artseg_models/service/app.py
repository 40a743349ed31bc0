"""The service's HTTP interface: /health, /models, /segment, /stop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from artseg_models import __version__
from artseg_models.errors import ArtSegError
from artseg_models.service.guard import bears_token
from artseg_models.service.models import ModelCache
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


class Activity:
    """How long nobody has asked for anything; requests under way count as activity."""

    def __init__(self) -> None:
        self._under_way = 0
        self._last = time.monotonic()

    def __enter__(self) -> None:
        self._under_way += 1

    def __exit__(self, *error: object) -> None:
        self._under_way -= 1
        self._last = time.monotonic()

    def idle_seconds(self) -> float:
        """Seconds since the last request ended; 0 while one is under way."""
        return 0.0 if self._under_way else time.monotonic() - self._last


def create_app(
    *,
    token: str,
    device: str,
    models: ModelCache,
    activity: Activity,
    stop: Callable[[], None],
    largest_request: int = LARGEST_REQUEST,
) -> FastAPI:
    """Build the service.

    Parameters
    ----------
    token : str
        Secret that every request must bear.
    device : str
        Where models run, as asked for ("auto", "cuda", "mps", "cpu").
    models : ModelCache
        Gives loaded models.
    activity : Activity
        Told of every segmentation.
    stop : callable
        Ends the service after the answer is sent.
    largest_request : int
        Most bytes of a request's body.

    Returns
    -------
    FastAPI
    """
    app = FastAPI(title="artseg", docs_url=None, redoc_url=None, openapi_url=None)
    # one worker: requests are served in order, and the model's memory is needed once
    queue = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prediction")

    @app.middleware("http")
    async def guard(  # pyright: ignore[reportUnusedFunction]
        request: Request, proceed: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if not bears_token(request.headers, token):
            return _error(401, "The service refused the request: its token is not the one in the rendezvous file.")
        spoken = request.headers.get(PROTOCOL_HEADER)
        if spoken != str(PROTOCOL_VERSION):
            return _error(
                426, f"The service speaks protocol {PROTOCOL_VERSION} (artseg {__version__}), the client {spoken}."
            )
        with activity:
            return await proceed(request)

    @app.exception_handler(ArtSegError)
    async def refuse(  # pyright: ignore[reportUnusedFunction]
        request: Request, error: ArtSegError
    ) -> Response:
        logger.warning("refused: %s", error)
        return _error(422, str(error))

    @app.get("/health")
    async def health() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return {"protocol": PROTOCOL_VERSION, "artseg": __version__, "pid": os.getpid(), "device": device}

    @app.get("/models")
    async def loaded() -> list[dict[str, str]]:  # pyright: ignore[reportUnusedFunction]
        return [
            {"id": m.id, "name": m.name, "version": m.version, "sha256": m.sha256, "device": m.predictor.device}
            for m in models.all()
        ]

    @app.post("/stop")
    async def end() -> dict[str, bool]:  # pyright: ignore[reportUnusedFunction]
        stop()
        return {"stopping": True}

    @app.post("/segment")
    async def segment(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        options = read_options(request.headers.get(OPTIONS_HEADER))
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > largest_request:
                return _error(
                    413,
                    f"The image is larger than the service takes ({largest_request / 2**20:.0f} MiB). "
                    "Crop it, or segment it with artseg segment.",
                )
        try:
            answer = await asyncio.get_running_loop().run_in_executor(queue, _segment, bytes(body), options, models)
        except ArtSegError:
            raise
        except Exception as error:
            logger.exception("failed on %s", options.source)
            return _error(500, f"The service failed on {options.source}: {type(error).__name__}: {error}")
        return Response(answer, media_type="application/octet-stream")

    return app


def _segment(body: bytes, options: SegmentOptions, models: ModelCache) -> bytes:
    pixels, valid = read_arrays(body)
    model = models.get(options.package)
    prediction = model.predictor.predict(
        pixels,
        valid=valid,
        cutoff=options.cutoff,
        smallest_artifact_px=options.smallest_artifact_px,
        gate=options.gate,
        gate_threshold=options.gate_threshold,
        source=options.source,
    )
    logger.info(
        "%s: %d artifacts, area fraction %.4f, %.2f s",
        options.source,
        prediction.count,
        prediction.area_fraction,
        prediction.seconds,
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
        "seconds": prediction.seconds,
        "artseg": __version__,
    }
    return write_answer(prediction.probability, prediction.labels, result)


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)
