"""Who is let in: the secret that every request to a local server of ArtSeg must bear."""

from __future__ import annotations

import hmac
from collections.abc import Mapping


def bears_token(headers: Mapping[str, str], token: str) -> bool:
    """Whether a request's `Authorization` is ``Bearer TOKEN``, compared in constant time.

    Parameters
    ----------
    headers : mapping
        Of the request; names in any case where the mapping takes them so.
    token : str
        The secret, ASCII.

    Returns
    -------
    bool
    """
    return same_secret(headers.get("Authorization", ""), f"Bearer {token}")


def same_secret(sent: str, secret: str) -> bool:
    """Compare what was sent, which may be any text, with a secret; how long that takes tells nothing."""
    return hmac.compare_digest(sent.encode("utf-8", "replace"), secret.encode("utf-8"))
