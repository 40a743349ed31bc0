"""Tokens of servers elsewhere: in a file of the user's own, never in a pipeline, which people pass on.

The same file and the same form of an address stand in `artseg_models/service/tokens.py`, which this cannot import.
"""

import json
import os
import urllib.parse

from ._errors import ServiceError
from ._place import state_folder


def tokens_path():
    return os.path.join(state_folder(), "tokens.json")


def address(server):
    """Bring the address of a server into its one form.

    Raises
    ------
    ServiceError
        It is no address.
    """
    server = server.strip().rstrip("/")
    try:
        parts = urllib.parse.urlsplit(server)
        if parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0):
            return server
    except ValueError:  # a port that is no number
        pass
    raise ServiceError(
        f"Expected the address of the inference server in SegmentArtifacts, for instance http://gpu:8300, "
        f"got '{server}'."
    )


def token_of(server):
    """Give the token of a server: the variable ARTSEG_TOKEN, else the one that was noted.

    Raises
    ------
    ServiceError
        None is known.
    """
    token = os.environ.get("ARTSEG_TOKEN") or _known().get(address(server))
    if token:
        return token.strip()
    raise ServiceError(
        f"No token is known for the inference server {address(server)}. Ask its administrator, then press 'Set token' "
        f"in SegmentArtifacts, or run: artseg serve --remember {address(server)}. For jobs without a window the "
        "variable ARTSEG_TOKEN may hold it."
    )


def remember_token(server, token):
    """Note the token of a server for this user; a blank one is forgotten.

    Raises
    ------
    ServiceError
        The address is none, or the file cannot be written.
    """
    known = _known()
    known[address(server)] = token.strip()
    if not token.strip():
        del known[address(server)]
    path = tokens_path()
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as written:
            json.dump(known, written, indent=1)
        os.replace(temporary, path)
    except OSError as error:
        raise ServiceError(f"Could not write {path}: {error.strerror or error}.") from error
    return path


def _known():
    try:
        with open(tokens_path(), encoding="utf-8") as opened:
            known = json.load(opened)
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}
