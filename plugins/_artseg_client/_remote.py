"""An inference server elsewhere: nothing is started there, and no path of this computer means anything to it."""

import hashlib
import os
import time

from ._ask import GoneError, UntrustedError, ask, error_message
from ._errors import ServiceError
from ._token import address, token_of

#: a server that is started again, or a network that was lost, is back by then
RETURN_SECONDS = 60.0

_hashes = {}


def remote_place(server, patience=RETURN_SECONDS):
    """Give the place of a server that answers.

    Parameters
    ----------
    server : str
        Its address.
    patience : float
        Seconds during which it may be away.

    Raises
    ------
    ServiceError
        It does not answer, or refuses; the message says which side mends it.
    """
    place = {"url": address(server), "token": token_of(server)}
    until = time.monotonic() + patience
    while True:
        try:
            status, body = ask(place, "GET", "/health")
        except UntrustedError as error:
            raise ServiceError(
                f"The inference server {place['url']} shows a certificate that this computer does not trust ({error}), "
                "so no image was sent there. If your site signs its own, ask its administrator for the certificate, "
                "and name its file in the environment variable SSL_CERT_FILE before you start CellProfiler. "
                "Otherwise check the address."
            ) from error
        except GoneError as error:
            if time.monotonic() > until:
                raise ServiceError(
                    f"The inference server {place['url']} does not answer ({error}). Check the address in "
                    "SegmentArtifacts, the network, and whether artseg serve runs there."
                ) from error
            time.sleep(min(2.0, patience / 10 + 0.1))
            continue
        if status == 200:
            return place
        if status == 401:
            raise ServiceError(
                f"The inference server {place['url']} refuses the token. Ask its administrator for the present one, "
                f"then press 'Set token' in SegmentArtifacts, or run: artseg serve --remember {place['url']}"
                + (" (the variable ARTSEG_TOKEN is set and comes first)." if os.environ.get("ARTSEG_TOKEN") else "")
            )
        if status == 426:
            raise ServiceError(error_message(status, body))
        if status not in (502, 503, 504) or time.monotonic() > until:  # a proxy whose service is just away
            raise ServiceError(
                f"Something else than artseg answers at {place['url']}: {error_message(status, body)}. "
                "Check the address in SegmentArtifacts."
            )
        time.sleep(2.0)


def identity(package):
    """Give the SHA-256 of a package on this computer, by which a server knows the same one.

    Raises
    ------
    ServiceError
        It is no zip file on this computer.
    """
    if not os.path.isfile(package):
        raise ServiceError(
            f"Expected a model package (.zip) at {package}, but there is none. To use a model of the inference "
            "server, choose it by its id in SegmentArtifacts."
        )
    try:
        state = (package, os.path.getsize(package), os.path.getmtime(package))
        if state not in _hashes:
            digest = hashlib.sha256()
            with open(package, "rb") as opened:
                for piece in iter(lambda: opened.read(2**20), b""):
                    digest.update(piece)
            _hashes[state] = digest.hexdigest()
    except OSError as error:
        raise ServiceError(f"Could not read the model package {package}: {error.strerror or error}.") from error
    return _hashes[state]
