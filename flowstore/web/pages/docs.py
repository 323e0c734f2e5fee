"""The documentation that is installed with flowstore, as pages."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

import attrs

from flowstore.errors import NotFound
from flowstore.web.pages import Download, Page, View

if TYPE_CHECKING:
    from markdown_it.token import Token

_FOLDER = Path(__file__).parents[2] / "docs"
_START = "index"


@attrs.frozen
class Document:
    """A page of the documentation: its name in addresses, its first heading, its text, and that as HTML."""

    name: str
    title: str
    text: str
    html: str


def docs(view: View, name: str = _START) -> Page | Download:  # noqa: ARG001  # the documentation is of no store
    """Return a page of the documentation, or a picture in it."""
    picture = _FOLDER / "images" / f"{PurePosixPath(name).name}"
    if name == f"images/{picture.name}" and picture.suffix == ".svg" and picture.is_file():
        return Download(picture.name, "image/svg+xml", [picture.read_bytes()], inline=True)
    if name not in _names():
        raise NotFound(f"The documentation has no page {name!r}.")
    shown = _document(name)
    from markupsafe import Markup

    data = {"html": Markup(shown.html), "name": name}  # noqa: S704  # of our own files, and raw HTML in them is text
    return Page("docs.html", shown.title, data, lambda: {"name": name, "title": shown.title, "text": shown.text})


@functools.cache
def _names() -> frozenset[str]:
    paths = (path.relative_to(_FOLDER).with_suffix("") for path in _FOLDER.rglob("*.md"))
    return frozenset(path.as_posix() for path in paths)


@functools.cache
def _document(name: str) -> Document:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    text = (_FOLDER / f"{name}.md").read_text("utf-8")
    tokens = parser.parse(text)
    title = next((tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"), name)
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _slug(tokens[at + 1].content))
        if token.attrs.pop("style", "") == "text-align:right":  # the policy forbids styles
            token.attrSet("class", "number")
        _lead(token.children or (), PurePosixPath(name).parent)
    html = str(parser.renderer.render(tokens, parser.options, {}))
    html = html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")
    html = html.replace("<pre>", '<pre tabindex="0">')  # what scrolls must be reached by the keyboard
    return Document(name, re.sub(r"[`*]", "", title), text, html)


def _lead(tokens: Iterable[Token], folder: PurePosixPath) -> None:
    """Make links and pictures lead to pages of ours; what is not installed leads nowhere."""
    for token in tokens:
        if token.type == "image":
            token.attrSet("src", f"/docs/{quote(str(token.attrGet('src')))}")
        href = str(token.attrGet("href") or "")
        if token.type != "link_open" or re.match(r"[a-z]+:|#", href):
            continue
        path, _, part = href.partition("#")
        name = (folder / path.removesuffix(".md")).as_posix()
        if name in _names():
            token.attrSet("href", f"/docs/{quote(name)}{'#' if part else ''}{part}")
        else:
            token.attrs.pop("href")


def _slug(heading: str) -> str:
    """Return the part of an address that leads to a heading, as the pages link to it.

    >>> _slug("How `current` works, in short")
    'how-current-works-in-short'
    """
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())
