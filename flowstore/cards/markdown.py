"""Markdown to HTML: a module of its own, since what it imports takes time, and a task server does that but once."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from markdown_it import MarkdownIt

from flowstore.text import safe

_LINKS = ("http://", "https://", "mailto:", "#")
_PICTURES = ("data:image/png;", "data:image/jpeg;", "data:image/gif;", "data:image/webp;")

_parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
_parser.validateLink = lambda url: url.startswith((*_LINKS, *_PICTURES))  # type: ignore[method-assign]


def _picture(self: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    """Return a picture whose bytes are in the text; in place of any other, a link to it: a card loads nothing."""
    url = str(tokens[index].attrGet("src") or "")
    if url.startswith(_PICTURES):
        return str(self.image(tokens, index, options, env))
    return f'<a href="{escape(url)}">{escape(tokens[index].content or url)}</a>'


_parser.add_render_rule("image", _picture)


def to_html(text: str) -> str:
    """Return the HTML of a text in Markdown, in which HTML is text."""
    return str(_parser.render(safe(text))).strip()
