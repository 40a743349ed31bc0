"""The labelling page's HTTP interface: the page, pictures, decisions."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from artseg_models import __version__
from artseg_models.agreement import agreements, conflicts, people
from artseg_models.errors import ArtSegError
from artseg_models.labelling.model import ENOUGH, ModelPanel
from artseg_models.labelling.previews import THUMBNAIL_SIDE, Previews
from artseg_models.labelling.results import ResultsPanel
from artseg_models.labelling.store import Record, Store
from artseg_models.labelling.twins import Twins
from artseg_models.provenance import read_history
from artseg_models.service.guard import bears_token, same_secret

logger = logging.getLogger(__name__)

_FILES = {
    "label.css": "text/css",
    "label.js": "text/javascript",
    "model.js": "text/javascript",
    "results.js": "text/javascript",
}
_LARGEST_SIDE = 20_000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Deciding(_Body):
    """A label for one image or more; `window` wants to show `showing` next."""

    images: list[str] = Field(min_length=1)
    label: str
    kind: str = ""
    who: str = ""
    seconds: float | None = Field(default=None, ge=0)
    since: int = 0
    window: str = ""
    showing: str = ""


class Showing(_Body):
    """What a window shows, and up to which revision it knows the images."""

    since: int = -1
    who: str = ""
    window: str = ""
    showing: str = ""


class Naming(_Body):
    """Images and who speaks of them."""

    images: list[str] = []
    who: str = ""


class LabellingPage:
    """The page over one store.

    Parameters
    ----------
    store : Store
        Images and labels.
    previews : Previews
        Makes pictures.
    twins : Twins
        Looks for near-duplicates in the background.
    kinds : sequence of str
        Kinds of artifact that have keys.
    who : str
        The person's name, until the page says another.
    stop : callable
        Ends the server after the answer is sent.
    """

    def __init__(
        self,
        store: Store,
        *,
        previews: Previews,
        twins: Twins,
        kinds: Sequence[str],
        who: str,
        stop: Callable[[], None],
    ) -> None:
        self.store = store
        self._previews = previews
        self._twins = twins
        self._kinds = list(kinds)
        self._who = who
        self._stop = stop
        self.router = APIRouter()
        self.router.add_api_route("/api/project", self.project)
        self.router.add_api_route("/api/preview", self.preview)
        self.router.add_api_route("/api/people", self.people)
        self.router.add_api_route("/api/images", self.images, methods=["POST"])
        self.router.add_api_route("/api/decide", self.decide, methods=["POST"])
        self.router.add_api_route("/api/apart", self.apart, methods=["POST"])
        self.router.add_api_route("/api/together", self.together, methods=["POST"])
        self.router.add_api_route("/api/splits", self.splits, methods=["POST"])
        self.router.add_api_route("/api/stop", self.stop, methods=["POST"])

    def project(self) -> dict[str, Any]:
        """Tell what is labelled here and where the labels are."""
        return {
            "folder": ", ".join(source.name for source in self.store.sources if source.is_dir()),
            "table": str(self.store.table),
            "kinds": self._kinds,
            "who": self._who,
            "enough": ENOUGH,
            "artseg": __version__,
        }

    def images(self, showing: Showing) -> Response:
        """Give the images that changed since the window last asked."""
        if showing.since >= 0:  # at the start they were looked for just now
            self.store.rescan()
        self.store.refresh()
        return self._news(showing.since, showing.who, showing.window, showing.showing)

    def preview(self, image: str, side: int = 0, clip: float = 0.5, raw: bool = False) -> Response:
        """Give the picture of an image; one that cannot be read is marked as such."""
        record = self.store.record(image)
        try:
            picture = self._previews.picture(
                record.path, side=min(max(side, 0), _LARGEST_SIDE), clip=min(max(clip, 0.0), 20.0), raw=raw
            )
        except ArtSegError as error:
            self.store.set_error(image, str(error))
            raise
        headers = {
            "Cache-Control": "private, max-age=600",
            "X-Image": f"{picture.width} x {picture.height} pixels, {picture.bits} bit",
        }
        return Response(picture.jpeg, media_type="image/jpeg", headers=headers)

    def people(self) -> dict[str, Any]:
        """Tell how fast people label, how far each two of them agree, and on how many images they do not."""
        decisions = read_history(self.store.table)
        return {
            "people": [{"name": one.name, "images": one.images, "seconds": one.seconds} for one in people(decisions)],
            "agreements": [
                {"names": one.names, "images": one.images, "same": one.same, "kappa": one.kappa}
                for one in agreements(decisions)
            ],
            "conflicts": len(conflicts(decisions)),
        }

    def decide(self, deciding: Deciding) -> Response:
        """Label images; the answer comes when it is on disk."""
        self.store.decide(
            deciding.images,
            label=deciding.label,
            kind=deciding.kind,
            who=deciding.who.strip(),
            seconds=deciding.seconds,
        )
        return self._news(deciding.since, deciding.who, deciding.window, deciding.showing)

    def apart(self, naming: Naming) -> dict[str, Any]:
        """Say that images are no near-duplicates."""
        self.store.set_aside(naming.images, "apart", "yes", who=naming.who)
        return {}

    def together(self, naming: Naming) -> dict[str, Any]:
        """Give images one group, named after the first."""
        self.store.set_aside(naming.images, "group", naming.images[0], who=naming.who)
        return {}

    def splits(self, naming: Naming) -> dict[str, Any]:
        """Share the labelled images out to train, validation and test."""
        counts = self.store.propose_splits(who=naming.who)
        return {split: dict(labels) for split, labels in counts.items()}

    def stop(self) -> dict[str, Any]:
        """End the server."""
        self._stop()
        return {}

    def _news(self, since: int, who: str, window: str, showing: str) -> Response:
        revision, changed = self.store.changes(since)
        taken = self.store.claim(window, showing) if window else set[str]()
        news = {
            "revision": revision,
            "images": [_described(record) for record in changed if record.shown or since >= 0],
            "taken": sorted(taken),
            "pace": self.store.pace(who.strip()),
            "problem": self.store.problem,
            "twins": {"done": self._twins.done, "total": self._twins.total},
        }
        # not by way of FastAPI, which would look through ten thousand images once more
        return JSONResponse(news)


def _described(record: Record) -> dict[str, Any]:
    """One image for the page; what is empty is left out, for there may be ten thousand."""
    label, kind = record.verdict()
    group = record.group_name()
    described: dict[str, Any] = {
        "name": record.name,
        "rank": record.rank,
        "gone": not record.shown,
        "label": label,
        "kind": kind,
        "conflict": record.conflict(),
        "votes": {who: vote.value for who, vote in record.votes.items()},
        "group": group if group != record.name else "",
        "split": record.split or record.table.get("split", ""),
        "error": record.error,
        "sure": record.guess[0] if record.guess else None,
        "guess": record.guess[1] if record.guess else "",
    }
    return {name: value for name, value in described.items() if value or (value == 0 and name in ("rank", "sure"))}


def create_app(page: LabellingPage, *, model: ModelPanel, results: ResultsPanel, token: str, port: int) -> FastAPI:
    """Serve a page to whoever bears the token.

    The address that opens the page carries the token once; from then on it is a cookie that scripts cannot read.

    Parameters
    ----------
    page : LabellingPage
        What is served.
    model : ModelPanel
        The part of the page that trains.
    results : ResultsPanel
        The part of the page that shows masks.
    token : str
        The secret.
    port : int
        Where the server listens; requests that were meant for another host are refused.

    Returns
    -------
    FastAPI
    """
    app = FastAPI(title="artseg label", docs_url=None, redoc_url=None, openapi_url=None)
    hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
    # cookies know no ports: two servers on one computer must not take each other's
    cookie = f"artseg-label-{port}"

    @app.middleware("http")
    async def guard(  # pyright: ignore[reportUnusedFunction]
        request: Request, proceed: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if request.headers.get("Host") not in hosts:
            return _error(403, f"The request was meant for {request.headers.get('Host')}, not for this server.")
        asked = request.query_params.get("token")
        if request.url.path == "/" and asked is not None and same_secret(asked, token):
            answer: Response = RedirectResponse("/", status_code=303)
            answer.set_cookie(cookie, token, httponly=True, samesite="strict")
        elif not (bears_token(request.headers, token) or same_secret(request.cookies.get(cookie, ""), token)):
            return _error(
                401,
                "This page is for the person who started artseg label: the token is missing or not the right one. Open "
                "the address that artseg label printed.",
            )
        else:
            answer = await proceed(request)
        answer.headers["Content-Security-Policy"] = "default-src 'self'; img-src 'self' blob: data:"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        return answer

    @app.exception_handler(ArtSegError)
    async def refuse(request: Request, error: ArtSegError) -> Response:  # pyright: ignore[reportUnusedFunction]
        logger.debug("refused: %s", error)
        return _error(422, str(error))

    files = resources.files("artseg_models.labelling") / "page"

    @app.get("/")
    def index() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response((files / "index.html").read_text(encoding="utf-8"), media_type="text/html")

    @app.get("/page/{name}")
    def file(name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        if name not in _FILES:
            return _error(404, f"There is no {name} here.")
        return Response((files / name).read_text(encoding="utf-8"), media_type=_FILES[name])

    @app.get("/api/thumbnail")
    def thumbnail(image: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return page.preview(image, side=THUMBNAIL_SIDE)

    app.include_router(page.router)
    app.include_router(model.router)
    app.include_router(results.router)
    return app


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)
