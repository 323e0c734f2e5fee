"""Runs that hold a text: the same search as the command's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

import attrs

from flowstore.client import rows
from flowstore.client.listings import rows_of_hits
from flowstore.client.rows import RunRow
from flowstore.sqlite.typed_rows import time_of
from flowstore.store.search import Hit, Search, Wanted, search_runs
from flowstore.web.pages import Page, View

DEADLINE_S = 3.0  # after which a page says how far it looked
_AT_ONCE = 50


@attrs.frozen
class RunHit:
    """A run that holds the text: its row, where it holds it, and the text as it was typed."""

    row: RunRow
    hit: Hit
    text: str

    @property
    def pieces(self) -> tuple[str, str, str]:
        """The excerpt as what stands before the text, the text itself, and what stands behind it."""
        match = re.search(re.escape(self.text), self.hit.excerpt, re.IGNORECASE)
        start, end = (0, 0) if match is None else match.span()
        return self.hit.excerpt[:start], self.hit.excerpt[start:end], self.hit.excerpt[end:]

    @property
    def address(self) -> str:
        """The pathspec that the text belongs to: of the run, or of a task in it."""
        return self.row.pathspec if self.hit.task is None else f"{self.row.pathspec}/{self.hit.task}"


def search(view: View) -> Page:
    """Return the runs that hold a text, newest first."""
    text, flow = view.query.get("q"), view.query.get("flow") or None
    if not text.strip():
        return Page("search.html", "Search", {"text": "", "flow": flow, "result": None}, lambda: _as_json(None, []))
    before = view.query.get("before")
    wanted = Wanted(
        text=text,
        flow=flow,
        before=rows.match_of(view.store.run(before)) if before else None,
        limit=_AT_ONCE,
        deadline_s=DEADLINE_S,
    )
    result = search_runs(view.database, wanted)
    runs = rows.runs_of(view.store._scope, [hit.run for hit in result.hits])
    hits = [RunHit(row, hit, text) for row, hit in zip(rows.of_runs(runs), result.hits, strict=True)]
    last = result.last
    data = {
        "text": text,
        "flow": flow,
        "result": result,
        "hits": hits,
        "reached": None if last is None else time_of(last.created_at),
        "next": None if result.complete or last is None else view.query.with_(before=last.pathspec),
        "before": before,
        "command": f"flowstore search {shlex.join([text, *([flow] if flow else [])])} --seconds 60",
    }
    return Page("search.html", f"Search: {text}", data, lambda: _as_json(result, hits))


def _as_json(result: Search | None, hits: Sequence[RunHit]) -> dict[str, Any]:
    complete = result is None or result.complete
    return {
        "runs": rows_of_hits([one.row for one in hits], [one.hit for one in hits]),
        "looked_at": 0 if result is None else result.looked_at,
        "complete": complete,
        "before": None if complete or result is None or result.last is None else result.last.pathspec,
    }
