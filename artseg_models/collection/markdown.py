"""Model cards as HTML: somebody else's text, so no markup of theirs and nothing from the network gets through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

_SAFE_ADDRESSES = ("https://", "http://", "mailto:")


def to_html(text: str, *, picture: Callable[[str], str | None], heading_below: int) -> str:
    """Turn Markdown into HTML that may stand in a page.

    Parameters
    ----------
    text : str
        CommonMark with tables. HTML in it is shown as text.
    picture : callable
        Gives the data URI of a picture of the card, or None where there is none; such a picture, and every picture from
        the network, becomes its description.
    heading_below : int
        Level of the heading under which the text stands: its own headings become smaller ones.

    Returns
    -------
    str
        Links lead to web and mail addresses only.
    """
    tokens = _parser().parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + heading_below)}"
        elif token.type == "inline":
            token.children = _safe(token.children or [], picture)
    return str(_parser().renderer.render(tokens, _parser().options, {}))


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _safe(tokens: Sequence[Token], picture: Callable[[str], str | None]) -> list[Token]:
    kept: list[Token] = []
    linked: list[bool] = []
    for token in tokens:
        if token.type == "image":
            shown = picture(str(token.attrGet("src") or ""))
            if shown is None:
                kept.append(Token("text", "", 0, content=f"[{token.content}]"))
                continue
            token.attrSet("src", shown)
        elif token.type == "link_open":
            linked.append(str(token.attrGet("href") or "").lower().startswith(_SAFE_ADDRESSES))
            if not linked[-1]:
                continue
            token.attrSet("rel", "noopener noreferrer")
        elif token.type == "link_close" and not linked.pop():
            continue
        kept.append(token)
    return kept
