"""One artifact: what it is, where it comes from, and its value, a page at a time."""

from __future__ import annotations

import itertools
import re
from typing import Any

import attrs

from flowstore.client import Task, values
from flowstore.client.artifact import DataArtifact, provenance
from flowstore.client.values import Table, Text, Window
from flowstore.client.values.downloads import downloads, pieces
from flowstore.errors import NotFound
from flowstore.store.pictures import find_picture
from flowstore.text import safe
from flowstore.web.pages import Download, Page, View

_LARGEST = 10**12  # number of a page


def artifact(view: View, flow: str, run_id: str, step: str, task_id: str, name: str) -> Page | Download:
    """Return an artifact as a page, as a file in one of its forms, or as its picture."""
    task = view.store.find(f"{flow}/{run_id}/{step}/{task_id}", Task)
    if view.query.get("attempt"):
        task = task._as_of(view.query.whole("attempt", 0, _LARGEST))
    shown = task[name]
    if view.query.get("picture"):
        return _picture(shown)
    form = view.query.get("download")
    if form:
        return _download(shown, form)
    return _page(view, shown)


def _page(view: View, shown: DataArtifact) -> Page:
    value = values.look_at(shown, _window(view))
    origin = provenance(shown)
    facts = {
        "artifact": shown.pathspec,
        "name": shown.id,
        "type": shown.type,
        "size_bytes": shown.size,
        "codec": shown.codec,
        "sha": shown.sha,
        "preview": shown.preview,
        "set_by": origin.set_by,
        "created_at": origin.set_at,
        "same_bytes": origin.elsewhere,
    }

    def as_json() -> dict[str, Any]:
        return {
            **facts,
            "value": None if value.problem else values.plain_value(shown),
            "problem": value.problem or None,
            "has_picture": value.has_picture,
            "table": attrs.asdict(value.look) if isinstance(value.look, Table) else None,
            "text": attrs.asdict(value.look) if isinstance(value.look, Text) else None,
            "downloads": [form.suffix for form in downloads(shown)],
        }

    data = {
        **facts,
        "task": shown.parent.pathspec,
        "value": value,
        "kind": type(value.look).__name__,
        "downloads": downloads(shown),
        "query": view.query,
        "attempt": view.query.get("attempt"),
    }
    return Page("artifact.html", shown.pathspec, data, as_json)


def _window(view: View) -> Window:
    """Return the part of the value that the URL asks for."""
    query = view.query
    return Window(
        page=query.whole("page", 1, _LARGEST),
        columns=query.whole("columns", 1, _LARGEST),
        index=_numbers(query.get("slice")),
        at=_numbers(query.get("at")),
    )


def _numbers(text: str) -> tuple[int, ...]:
    """Return the whole numbers in a text such as '3,0'.

    >>> _numbers("3,0"), _numbers("x")
    ((3, 0), ())
    """
    return tuple(int(part) for part in re.findall(r"\d{1,12}", text, re.ASCII)[:100])


def _picture(shown: DataArtifact) -> Download:
    png = find_picture(shown._store, shown._blob().id)
    if png is None:
        raise NotFound(f"There is no picture of {shown.pathspec}.")
    return Download("picture.png", "image/png", [png], inline=True, headers={"content-length": str(len(png))})


def _download(shown: DataArtifact, suffix: str) -> Download:
    form = next((form for form in downloads(shown) if form.suffix == suffix), None)
    if form is None:
        raise NotFound(f"{shown.pathspec} cannot be downloaded as {suffix[:20]}.")
    name = "".join("_" if character in '/\\:*?"<>|' else character for character in safe(shown.id))
    headers = {} if form.size_bytes is None else {"content-length": str(form.size_bytes)}
    chunks = pieces(shown, suffix)
    first = next(chunks, b"")  # what is wrong with it becomes a page, rather than a file that is cut off
    return Download(f"{name}{suffix}", form.media_type, itertools.chain([first], chunks), headers=headers)
