"""One request to a service, on this computer or elsewhere."""

import base64
import http.client
import json
import urllib.parse
import urllib.request

LOOPBACK = "127.0.0.1"

#: the same number stands in `artseg_models/service/protocol.py`
PROTOCOL_VERSION = 2


class GoneError(Exception):
    """Nothing that speaks as the service does answers at this place."""


class LateError(GoneError):
    """The connection stands, but no answer came in time."""


def ask(place, method, path, body=None, options=None, timeout=10):
    """Send one request; give status and body.

    Parameters
    ----------
    place : dict
        `token`, and `url` of a server elsewhere or `port` on this computer.

    Raises
    ------
    LateError
        No answer came within `timeout` seconds.
    GoneError
        The connection failed or broke.
    """
    headers = {"Authorization": f"Bearer {place['token']}", "X-ArtSeg-Protocol": str(PROTOCOL_VERSION)}
    if options is not None:
        headers["X-ArtSeg-Options"] = json.dumps(options)  # ASCII, whatever the path holds
    if body is not None:
        headers["Content-Type"] = "application/octet-stream"
    connection = None
    try:
        connection, target = _connection(place, path, headers, timeout)
        connection.request(method, target, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError as error:
        # socket.timeout is not TimeoutError before Python 3.10
        kind = LateError if type(error).__name__ in ("timeout", "TimeoutError") else GoneError
        raise kind(str(error) or type(error).__name__) from error
    except (http.client.HTTPException, ValueError) as error:  # ValueError: a token that no header can bear
        raise GoneError(str(error) or type(error).__name__) from error
    finally:
        if connection is not None:
            connection.close()


def is_loopback(host):
    return host in ("localhost", "::1") or host.startswith("127.")


def error_message(status, body):
    """Message of an answer that is no success."""
    try:
        return json.loads(body.decode("utf-8"))["error"]
    except (ValueError, KeyError, TypeError):
        return f"the service answered with status {status}: {body[:200].decode('utf-8', 'replace')}"


def _connection(place, path, headers, timeout):
    """Open nothing yet; give the connection and what to ask it for. Proxies are obeyed, but for this computer."""
    url = place.get("url")
    if url is None:
        return http.client.HTTPConnection(LOOPBACK, place["port"], timeout=timeout), path
    parts = urllib.parse.urlsplit(url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    target = parts.path.rstrip("/") + path
    proxy = None
    if not is_loopback(parts.hostname) and not urllib.request.proxy_bypass(parts.hostname):
        proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy:
        return kind(parts.hostname, parts.port, timeout=timeout), target
    through = urllib.parse.urlsplit(proxy if "://" in proxy else "http://" + proxy)
    known = {}
    if through.username:
        name = urllib.parse.unquote(through.username) + ":" + urllib.parse.unquote(through.password or "")
        known["Proxy-Authorization"] = "Basic " + base64.b64encode(name.encode("utf-8")).decode("ascii")
    connection = kind(through.hostname, through.port or 8080, timeout=timeout)
    if secure:
        connection.set_tunnel(parts.hostname, parts.port or 443, headers=known)
        return connection, target
    headers.update(known)
    return connection, f"http://{parts.netloc}{target}"
