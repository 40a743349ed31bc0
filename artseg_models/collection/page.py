"""The page of a collection: one HTML file that shows covers and cards and links the downloads beside it."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from packaging.version import Version
from PIL import Image

from artseg_models.collection.index import Collection, Entry
from artseg_models.collection.markdown import to_html
from artseg_models.files import write_text

PAGE = "index.html"
#: the first format that older readers do not open
_FORMAT_OF_NEW_READERS = Version("0.5.11")
_COVER_WIDTH, _PICTURE_WIDTH = 640, 1280
#: pixels that a picture may have; a small file can claim more than memory holds
_MOST_PIXELS = 40_000_000
_LARGEST_CARD = 2**20


@dataclass(frozen=True)
class _Download:
    name: str
    address: str
    format_version: str
    readers: str
    size: str
    sha256: str


@dataclass(frozen=True)
class _Model:
    entry: Entry
    anchor: str
    cover: str | None
    card: Markup | None
    downloads: Sequence[_Download]
    earlier: Sequence[tuple[Entry, Sequence[_Download]]]


def write_page(collection: Collection) -> Path:
    """Write the page of a collection, whole or not at all.

    It holds no script and fetches nothing: covers and the cards' pictures are inside. So it works from a web server as
    from a folder.

    Parameters
    ----------
    collection : Collection
        With its packages unpacked in its folder.

    Returns
    -------
    Path
        The page.
    """
    environment = Environment(
        loader=PackageLoader("artseg_models.collection", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    by_id: dict[str, list[Entry]] = {}
    for entry in collection.entries:
        by_id.setdefault(entry.id, []).append(entry)
    models = [_model(collection, *entries) for entries in by_id.values()]
    path = collection.folder / PAGE
    write_text(path, environment.get_template("page.html.jinja").render(models=models))
    return path


def _model(collection: Collection, newest: Entry, *earlier: Entry) -> _Model:
    folder = collection.folder / newest.folder
    return _Model(
        entry=newest,
        anchor=f"model-{newest.id}",
        cover=None if newest.cover is None else _picture(folder, newest.cover, width=_COVER_WIDTH),
        card=_card(folder, newest.documentation),
        downloads=_downloads(newest),
        earlier=[(entry, _downloads(entry)) for entry in earlier],
    )


def _card(folder: Path, name: str | None) -> Markup | None:
    if name is None:
        return None
    path = _inside(folder, name)
    if path is None or path.stat().st_size > _LARGEST_CARD:
        return None
    text = path.read_text(encoding="utf-8", errors="replace")

    def picture(source: str) -> str | None:
        return _picture(folder, source, width=_PICTURE_WIDTH)

    # made safe there: every tag is its own
    return Markup(to_html(text, picture=picture, heading_below=2))


def _picture(folder: Path, name: str, *, width: int) -> str | None:
    """Give a picture of a package as data URI, at most `width` pixels wide; None where it is none."""
    path = _inside(folder, name)
    if path is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as opened:
                if opened.width * opened.height > _MOST_PIXELS:
                    return None
                shown = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    shown.thumbnail((width, 4 * width))
    written = io.BytesIO()
    shown.save(written, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def _inside(folder: Path, name: str) -> Path | None:
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, ValueError):
        return None


def _downloads(entry: Entry) -> list[_Download]:
    return [
        _Download(
            name=file.path.rsplit("/", 1)[-1],
            address=quote(file.path),
            format_version=file.format_version,
            readers=_readers(file.format_version),
            size=f"{file.bytes / 1e6:.1f} MB",
            sha256=file.sha256,
        )
        for file in entry.files
    ]


def _readers(format_version: str) -> str:
    if Version(format_version) < _FORMAT_OF_NEW_READERS:
        return "deepImageJ, ilastik, older readers; ArtSeg too"
    return "ArtSeg, CellProfiler, bioimageio.core from 0.11"
