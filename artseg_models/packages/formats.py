"""One description in two formats of the Model Zoo: the newest, and the one that every older reader opens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artseg_models.files import sha256

#: The last format before card and cover became mappings: bioimageio.core up to 0.10, ilastik and deepImageJ read it.
OLDER_FORMAT = "0.5.10"


def newest_format() -> str:
    """Give the format that the installed bioimageio.spec writes."""
    from bioimageio.spec.model.v0_5 import ModelDescr

    return str(ModelDescr.implemented_format_version)


def in_format(
    content: Mapping[str, Any], format_version: str, *, documentation: Path, cover: Path
) -> Mapping[str, Any]:
    """Complete a description by what depends on the format.

    Parameters
    ----------
    content : mapping
        Every other field of rdf.yaml.
    format_version : str
        `OLDER_FORMAT` or what `newest_format` gives.
    documentation, cover : Path
        Files in the package's folder.

    Returns
    -------
    mapping
        The whole description, its format first.
    """
    files: dict[str, Any]
    if format_version == OLDER_FORMAT:
        files = {"documentation": documentation.name, "covers": [cover.name]}
    else:
        listed = [{"source": path.name, "sha256": sha256(path)} for path in (documentation, cover)]
        files = {"documentation": listed[0], "covers": listed[1:]}
    return {**content, "format_version": format_version, **files}
