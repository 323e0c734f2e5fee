"""The contract of a page, and the list of all pages.

A page is a function from a `View`, and the names in its URL, to a frozen `Page`. Both forms of it are made of that one
object: the HTML by its template, and what the same URL with `.json` after its path returns.

    def flow(view: View, name: str) -> Page:
        runs = rows.of_runs(view.store.flow(name).runs())
        return Page("flow.html", name, {"runs": runs}, lambda: {"runs": [as_json(row) for row in runs]})

A function that is asked by POST changes something and returns a `Redirect`, so that it works without JavaScript. One
that returns a `Download` sends bytes to be kept. Errors of `flowstore.errors` are raised, and become clear pages.

It runs in a thread, with a store that nobody else uses meanwhile, and reads it in short transactions. It loads no
artifact and runs no code of the store; the templates escape all text, and drop what plays tricks on a reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

import attrs

from flowstore.client.rows import RunRow
from flowstore.client.store import Store
from flowstore.errors import FlowstoreError
from flowstore.sqlite.database import Database

# The URL, whether it is asked by GET or POST, and the module and function that answer. A name in braces is one part
# of the path, with `:path` all the rest of it. Modules are imported when they are first asked for.
ROUTES = (
    ("/", "GET", "flowstore.web.pages.runs:runs"),
    ("/runs", "GET", "flowstore.web.pages.runs:runs"),
    ("/flows", "GET", "flowstore.web.pages.runs:flows"),
    ("/flow/{name}", "GET", "flowstore.web.pages.runs:flow"),
    ("/run/{flow}/{run_id}", "GET", "flowstore.web.pages.run:run"),
    ("/run/{flow}/{run_id}/tags", "POST", "flowstore.web.pages.run:change_tags"),
    ("/run/{flow}/{run_id}/note", "POST", "flowstore.web.pages.run:change_note"),
    ("/task/{flow}/{run_id}/{step}/{task_id}", "GET", "flowstore.web.pages.task:task"),
    ("/card/{flow}/{run_id}/{step}/{task_id}/{n}", "GET", "flowstore.web.pages.cards:card"),
    ("/cards/{flow}/{run_id}", "GET", "flowstore.web.pages.cards:of_run"),
    ("/artifact/{flow}/{run_id}/{step}/{task_id}/{name:path}", "GET", "flowstore.web.pages.artifact:artifact"),
    ("/docs", "GET", "flowstore.web.pages.docs:docs"),
    ("/docs/{name:path}", "GET", "flowstore.web.pages.docs:docs"),
    ("/code/{flow}/{run_id}", "GET", "flowstore.web.pages.run:code"),
    ("/compare", "GET", "flowstore.web.pages.compare:compare"),
    ("/search", "GET", "flowstore.web.pages.search:search"),
    ("/sql", "GET", "flowstore.web.pages.sql:sql"),
    ("/deployments", "GET", "flowstore.web.pages.deployments:deployments"),
)

QUESTIONS = frozenset({"/sql", "/search"})  # the pages whose answer may take many seconds


@attrs.frozen
class Query:
    """The part of a URL behind its question mark: filters, sorting, columns, what is opened."""

    pairs: tuple[tuple[str, str], ...] = ()

    def get(self, name: str, default: str = "") -> str:
        """Return the last value of a name that is not empty."""
        return next((value for key, value in reversed(self.pairs) if key == name and value), default)

    def all(self, name: str) -> list[str]:
        """Return all values of a name that are not empty, in order."""
        return [value for key, value in self.pairs if key == name and value]

    def whole(self, name: str, default: int, most: int) -> int:
        """Return a value as a whole number from 0 to `most`."""
        text = self.get(name)
        return min(int(text), most) if text.isascii() and text.isdecimal() and len(text) < 19 else default

    def with_(self, **values: str | Iterable[str] | None) -> str:
        """Return the query with other values, ready to stand behind a path; `None` removes a name.

        >>> Query((("flow", "F"), ("sort", "user"))).with_(sort="-user", flow=None)
        '?sort=-user'
        """
        names = {name.rstrip("_"): value for name, value in values.items()}
        kept = [(key, value) for key, value in self.pairs if key not in names and value]
        for name, value in names.items():
            listed = [] if value is None else [value] if isinstance(value, str) else value
            kept += [(name, one) for one in listed]
        return f"?{urlencode(kept)}" if kept else "?"


@attrs.frozen
class View:
    """A request, as a page sees it.

    Attributes:
        store: the open store, with everything in it visible.
        path: of the URL, without `.json`.
        query: what stands behind it.
        editable: whether tags and notes may be changed.
        form: what was sent to be changed.
    """

    store: Store
    path: str = "/"
    query: Query = Query()
    editable: bool = False
    form: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def database(self) -> Database:
        """The open file, for functions of `store/`."""
        return self.store._scope.store


@attrs.frozen
class Page:
    """A page, ready to be shown.

    Attributes:
        template: the file in `templates/`.
        title: of the window; the store's name is added.
        data: the names that the template uses.
        json: returns what the `.json` form shows: plain values, and rows of `attrs` classes.
        runs_now: whether something in it is going on, so that it changes without the file being changed.
    """

    template: str
    title: str
    data: Mapping[str, Any]
    json: Callable[[], Any]
    runs_now: bool = False


@attrs.frozen
class Redirect:
    """The page to show after a change."""

    url: str


@attrs.frozen
class Download:
    """Bytes to be kept as a file.

    Attributes:
        name: of the file.
        type: the media type.
        chunks: the bytes; no transaction may be open between two of them.
        inline: whether a browser may show it in a page rather than keep it.
        headers: more of them.
    """

    name: str
    type: str
    chunks: Iterable[bytes]
    inline: bool = False
    headers: Mapping[str, str] = attrs.field(factory=dict)


def run_json(row: RunRow) -> dict[str, Any]:
    """Return a run with the keys that it has in the JSON of every page."""
    return {"run": row.pathspec, "run_id": row.run_id, "duration_s": row.duration_s, **attrs.asdict(row)}


class NotEditable(FlowstoreError):
    """A change of a store that is only to be looked at."""


def check_editable(view: View) -> None:
    """Raise `NotEditable` where nothing may be changed."""
    if not view.editable:
        raise NotEditable(
            f"{view.store.path} cannot be changed here: it is not your own file, it is read-only, or flowstore ui was "
            "started with --read-only."
        )
