"""A collection of models over the service: for browsers and for bioimageio.core, which send no headers of ours."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from artseg_models.collection.index import INDEX
from artseg_models.service.guard import bears_token, same_secret

SHELF = "/collection"

#: packages are made by others: a page among their files may neither run scripts nor fetch anything
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox allow-downloads",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}


class _Shelf(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        """Give a file of the folder that is not hidden."""
        if any(part.startswith(".") for part in Path(path).parts):
            return PlainTextResponse("Not found", 404)
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def put_up(app: Starlette, folder: Path | None) -> bool:
    """Let a service offer the files of a folder below `SHELF`, if it is a collection; tell whether it is.

    A folder that is none stays closed: besides packages it may hold what is not meant to be read.
    """
    if folder is None or not (folder / INDEX).is_file():
        return False
    app.mount(SHELF, _Shelf(directory=folder, html=True))
    return True


def on_shelf(scope: Scope) -> bool:
    """Whether a request asks to read below `SHELF`."""
    path = str(scope["path"])
    return scope["method"] in ("GET", "HEAD") and (path == SHELF or path.startswith(f"{SHELF}/"))


def refusal(headers: Mapping[str, str], token: str) -> Response | None:
    """Refuse a reader who does not know the token; a browser then asks for it, as the password of any user.

    Only reading is let in that way: what a browser sends by itself must not end the service or take its time.
    """
    if bears_token(headers, token) or same_secret(_password(headers.get("Authorization", "")), token):
        return None
    return PlainTextResponse(
        "The password is the service's token.",
        401,
        {"WWW-Authenticate": 'Basic realm="artseg models; the password is the token of the service", charset="UTF-8"'},
    )


def _password(authorization: str) -> str:
    scheme, _, sent = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(sent, validate=True).decode("utf-8").partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
