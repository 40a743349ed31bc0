"""One request to a service, on this computer or elsewhere."""

import atexit
import base64
import http.client
import json
import os
import ssl
import time
import urllib.parse
import urllib.request

LOOPBACK = "127.0.0.1"

#: the same number stands in `artseg_models/service/protocol.py`
PROTOCOL_VERSION = 4


#: a connection that is idle for longer is not used again: a service keeps it open for 60 s, proxies for 5 s and more
_KEPT_SECONDS = 50.0
_KEPT_SECONDS_ELSEWHERE = 4.0

#: idle connections of this process, and until when they may be used
_kept = {}


class GoneError(Exception):
    """Nothing that speaks as the service does answers at this place."""


class AwayError(GoneError):
    """Nothing listens at this place: the request was not sent."""


class UntrustedError(GoneError):
    """The certificate of the place is not one that this computer trusts."""


class LateError(GoneError):
    """The connection stands, but no answer came in time."""


def ask(place, method, path, body=(), options=None, timeout=10):
    """Send one request; give status and body.

    The connection is kept for the next request of this process.

    Parameters
    ----------
    place : dict
        `token`, and `url` of a server elsewhere or `port` on this computer.
    body : sequence of bytes-like
        Its pieces, sent one after the other without a copy.

    Returns
    -------
    status : int
    body : bytearray

    Raises
    ------
    AwayError
        There is nothing to connect to.
    UntrustedError
        It shows a certificate that is not trusted.
    LateError
        No answer came within `timeout` seconds.
    GoneError
        The connection failed or broke.
    """
    headers = {"Authorization": f"Bearer {place['token']}", "X-ArtSeg-Protocol": str(PROTOCOL_VERSION)}
    if options is not None:
        headers["X-ArtSeg-Options"] = json.dumps(options)  # ASCII, whatever the path holds
    if body:
        headers["Content-Type"] = "application/octet-stream"
        headers["Content-Length"] = str(sum(len(piece) for piece in body))
    connection = None
    try:
        opened, key, target = _way(place, path, headers)
        connection = _kept_connection(key, timeout)
        if connection is None:
            connection = _connected(opened(timeout))
        connection.request(method, target, body=list(body) or None, headers=headers)
        answer = connection.getresponse()
        status, content = answer.status, _content(answer)
    except OSError as error:
        kind = LateError if _is_timeout(error) else GoneError
        raise kind(_told(error)) from error
    except (http.client.HTTPException, ValueError) as error:  # ValueError: a token that no header can bear
        raise GoneError(_told(error)) from error
    else:
        if connection.sock is not None:  # the other side may have asked to close it
            idle = _KEPT_SECONDS_ELSEWHERE if "url" in place else _KEPT_SECONDS
            _kept[key] = connection, time.monotonic() + idle
            connection = None
        return status, content
    finally:
        if connection is not None:
            connection.close()


def _kept_connection(key, timeout):
    """Give the idle connection of a way if there is one; nobody else gets it until it is put back."""
    connection, until = _kept.pop(key, (None, 0.0))
    if connection is None:
        return None
    if connection.sock is None or time.monotonic() > until:
        connection.close()
        return None
    connection.timeout = timeout
    connection.sock.settimeout(timeout)
    return connection


@atexit.register
def _close():
    while _kept:
        _, (connection, _) = _kept.popitem()
        connection.close()


def _connected(connection):
    try:
        connection.connect()
    except OSError as error:
        connection.close()
        if isinstance(error, ssl.SSLCertVerificationError):
            raise UntrustedError(error.verify_message) from error
        raise (LateError if _is_timeout(error) else AwayError)(_told(error)) from error
    return connection


def _content(answer):
    """Read the body of an answer into memory once."""
    if answer.length is None:
        return bytearray(answer.read())
    content = bytearray(answer.length)
    at = 0
    with memoryview(content) as view:
        while at < len(content):
            read = answer.readinto(view[at:])
            if not read:
                raise http.client.IncompleteRead(bytes(content[:at]), len(content) - at)
            at += read
    answer.read()  # ends it, so that the connection can be used again
    return content


def _is_timeout(error):
    # socket.timeout is not TimeoutError before Python 3.10
    return type(error).__name__ in ("timeout", "TimeoutError")


def _told(error):
    return str(error) or type(error).__name__


def is_loopback(host):
    return host in ("localhost", "::1") or host.startswith("127.")


def error_message(status, body):
    """Message of an answer that is no success."""
    return (
        said_error(body) or f"the service answered with status {status}: {bytes(body[:200]).decode('utf-8', 'replace')}"
    )


def said_error(body):
    """Message of an answer in which a service says what is wrong; None for one of another program."""
    try:
        return json.loads(body.decode("utf-8"))["error"]
    except (ValueError, KeyError, TypeError):
        return None


def _way(place, path, headers):
    """Say how to get to a place; proxies are obeyed, but for this computer.

    Returns
    -------
    opened : callable
        Makes the connection with a timeout in seconds, and opens nothing yet.
    key : tuple
        The same for every request that may use the same connection.
    target : str
        What to ask for there.
    """
    url = place.get("url")
    process = os.getpid()  # one that was forked must not share its parent's connection
    if url is None:
        port = place["port"]
        return (
            lambda timeout: http.client.HTTPConnection(LOOPBACK, port, timeout=timeout),
            (process, LOOPBACK, port),
            path,
        )
    parts = urllib.parse.urlsplit(url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    target = parts.path.rstrip("/") + path
    proxy = None
    if not is_loopback(parts.hostname) and not urllib.request.proxy_bypass(parts.hostname):
        proxy = urllib.request.getproxies().get(parts.scheme)
    key = (process, parts.scheme, parts.netloc, proxy)
    if not proxy:
        return lambda timeout: kind(parts.hostname, parts.port, timeout=timeout), key, target
    through = urllib.parse.urlsplit(proxy if "://" in proxy else "http://" + proxy)
    known = {}
    if through.username:
        name = urllib.parse.unquote(through.username) + ":" + urllib.parse.unquote(through.password or "")
        known["Proxy-Authorization"] = "Basic " + base64.b64encode(name.encode("utf-8")).decode("ascii")

    def opened(timeout):
        connection = kind(through.hostname, through.port or 8080, timeout=timeout)
        if secure:
            connection.set_tunnel(parts.hostname, parts.port or 443, headers=known)
        return connection

    if secure:
        return opened, key, target
    headers.update(known)
    return opened, key, f"http://{parts.netloc}{target}"
