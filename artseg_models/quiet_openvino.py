"""OpenVINO without its telemetry: it tells its makers of every import over the internet, and does not ask first."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Generator
from typing import Any, cast

from artseg_models.errors import ArtSegError

#: what OpenVINO and NNCF send by; they do without where it is missing
_SENDER = "openvino_telemetry"


def is_installed() -> bool:
    """Tell whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


def openvino() -> Any:
    """Import OpenVINO; nothing is sent, and nothing written into the home folder.

    Raises
    ------
    ArtSegError
        It is not installed.
    """
    with _quietly("openvino"):
        import openvino as imported
    return imported


def nncf() -> Any:
    """Import NNCF, which quantises networks; as quietly.

    Raises
    ------
    ArtSegError
        It is not installed.
    """
    with _quietly("nncf"):
        import nncf as imported
    return imported


@contextlib.contextmanager
def _quietly(name: str) -> Generator[None]:
    """Let the import of the sender fail as if it were not installed; one that somebody imported before stays."""
    cast("dict[str, Any]", sys.modules).setdefault(_SENDER, None)
    try:
        yield
    except ImportError as error:
        raise ArtSegError(
            f"Expected {name} for this engine, but it is not installed. Install it: pip install {name}"
        ) from error
