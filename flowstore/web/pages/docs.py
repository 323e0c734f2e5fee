"""The documentation that comes with the package, as pages."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from flowstore.errors import NotFound
from flowstore.web.pages import Page, Redirect, View

if TYPE_CHECKING:
    from markdown_it.token import Token
    from markupsafe import Markup

_FOLDER = Path(__file__).parents[2] / "docs"
FIRST = "index.md"


@attrs.frozen
class Document:
    """A page of the documentation.

    Attributes:
        name: its path in the folder of the documentation.
        title: its first heading.
        text: the Markdown.
    """

    name: str
    title: str
    text: str


def first(view: View) -> Redirect:
    """Return the way to the first page, to which the addresses in it are relative."""
    del view
    return Redirect(f"/docs/{FIRST}")


def docs(view: View, name: str) -> Page:
    """Return a page of the documentation."""
    del view
    document = documents().get(name)
    if document is None:
        raise NotFound(f"The documentation has no page {name!r}.")
    data = {
        "name": name,
        "body": _rendered(name),
        "pages": [one for one in documents().values() if "/" not in one.name],
    }
    return Page("docs.html", document.title, data, lambda: document)


@functools.cache
def documents() -> Mapping[str, Document]:
    """Return all pages by name, the first one first. A name that is not here leads nowhere, whatever it looks like."""
    files = sorted(_FOLDER.rglob("*.md"), key=lambda file: (file.name != FIRST, file))
    texts = {file.relative_to(_FOLDER).as_posix(): file.read_text("utf-8") for file in files}
    return {name: Document(name, _title(text), text) for name, text in texts.items()}


def _title(text: str) -> str:
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    return heading[1].replace("`", "") if heading else "Documentation"


@functools.cache
def _rendered(name: str) -> Markup:
    """Return the HTML of a page; HTML within it would be shown as text."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(documents()[name].text)
    for n, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(tokens[n + 1].content))
        _without_links_outside(token.children or [])
    return Markup(reader.renderer.render(tokens, reader.options, {}))  # noqa: S704  # of our own files


def anchor(heading: str) -> str:
    """Return the id of a heading, as links within the documentation name it.

    >>> anchor("### `flowstore runs`: a list")
    'flowstore-runs-a-list'
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def _without_links_outside(tokens: list[Token]) -> None:
    """Turn links that lead out of the documentation, into the repository, into plain text."""
    outside: list[bool] = []
    for token in tokens:
        if token.type == "link_open":
            outside.append(str(token.attrGet("href")).startswith("../../"))
        if token.type in {"link_open", "link_close"} and outside[-1]:
            token.tag, token.attrs = "span", {}
        if token.type == "link_close":
            outside.pop()
