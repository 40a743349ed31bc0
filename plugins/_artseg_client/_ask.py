"""One request to the service over loopback."""

import http.client
import json

LOOPBACK = "127.0.0.1"

#: the same number stands in `artseg_models/service/protocol.py`
PROTOCOL_VERSION = 1


class GoneError(Exception):
    """Nothing that speaks as the service does answers at this place."""


def ask(place, method, path, body=None, options=None, timeout=10):
    """Send one request; give status and body.

    http.client knows no proxy variables, as it should be for loopback.

    Raises
    ------
    GoneError
        The connection failed or broke.
    """
    headers = {"Authorization": f"Bearer {place['token']}", "X-ArtSeg-Protocol": str(PROTOCOL_VERSION)}
    if options is not None:
        headers["X-ArtSeg-Options"] = json.dumps(options)  # ASCII, whatever the path holds
    if body is not None:
        headers["Content-Type"] = "application/octet-stream"
    connection = http.client.HTTPConnection(LOOPBACK, place["port"], timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise GoneError(str(error) or type(error).__name__) from error
    finally:
        connection.close()


def error_message(status, body):
    """Message of an answer that is no success."""
    try:
        return json.loads(body.decode("utf-8"))["error"]
    except (ValueError, KeyError, TypeError):
        return f"the service answered with status {status}: {body[:200].decode('utf-8', 'replace')}"
