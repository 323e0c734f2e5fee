"""Questions in SQL, which only read, with a time limit; beside them the views, and the cookbook's questions."""

from __future__ import annotations

import csv
import functools
import importlib
import io
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowstore.errors import FlowstoreError
from flowstore.sqlite.user_sql import ask
from flowstore.store import trust
from flowstore.store.schema import public_views
from flowstore.text import no_formula, safe
from flowstore.web.pages import Download, Page, View
from flowstore.web.templating import dumps

DEADLINE_S = 10.0
MOST_ROWS = 1000  # on a page
_MOST_IN_A_FILE = 1_000_000
_COOKBOOK = Path(__file__).parents[2] / "docs" / "cookbook.md"


@attrs.frozen
class Answer:
    """The answer to a question.

    Attributes:
        rows: its rows.
        more: whether there are more than a page shows.
        took_s: how long it took, in seconds.
        error: why there are none.
    """

    rows: list[dict[str, Any]]
    more: bool = False
    took_s: float = 0.0
    error: str | None = None

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self.rows[0]) if self.rows else []


def sql(view: View) -> Page | Download:
    """Return a question and its answer, or the answer as a file."""
    question = view.query.get("q").strip()
    if question and view.query.get("as") == "csv":
        rows = _ask(view, question, _MOST_IN_A_FILE)
        return Download("flowstore.csv", "text/csv; charset=utf-8", _csv(rows))
    answer = _answer(view, question) if question else None
    data = {
        "question": question,
        "answer": answer,
        "views": public_views(view.database),
        "questions": cookbook(),
        "query": view.query,
    }

    def as_json() -> dict[str, Any]:
        if answer is not None and answer.error is not None:
            raise FlowstoreError(answer.error)
        rows = [] if answer is None else answer.rows
        return {"query": question, "rows": rows, "complete": answer is None or not answer.more}

    return Page("sql.html", "SQL", data, as_json)


def _ask(view: View, question: str, most: int) -> list[dict[str, Any]]:
    store = view.database
    return ask(store, question, untrusted=trust.is_foreign(store), deadline_s=DEADLINE_S, most=most)


def _answer(view: View, question: str) -> Answer:
    importlib.import_module("sqlite_utils")  # which takes a while the first time, and is no part of the answer
    began = time.monotonic()
    try:
        rows = _ask(view, question, MOST_ROWS + 1)
    except FlowstoreError as error:
        return Answer([], error=str(error))
    return Answer(rows[:MOST_ROWS], len(rows) > MOST_ROWS, time.monotonic() - began)


def _csv(rows: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    """Yield CSV in which no cell can be taken for a formula by a spreadsheet."""
    for at in range(0, max(1, len(rows)), MOST_ROWS):
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        if at == 0 and rows:
            writer.writerow(no_formula(safe(name)) for name in rows[0])
        writer.writerows([_csv_cell(value) for value in row.values()] for row in rows[at : at + MOST_ROWS])
        yield out.getvalue().encode("utf-8", "replace")


def _csv_cell(value: Any) -> Any:
    if value is None or isinstance(value, (int, float)):
        return value
    return no_formula(safe(value if isinstance(value, str) else dumps(value).strip('"')))


@functools.cache
def cookbook() -> list[tuple[str, str]]:
    """Return the cookbook's questions: each in words and in SQL."""
    text = _COOKBOOK.read_text("utf-8") if _COOKBOOK.exists() else ""
    pairs = re.findall(r"^### \d+\. ([^\n]+)\n\n```sql\n(.*?)\n```", text, re.MULTILINE | re.DOTALL)
    return [(title, question) for title, question in pairs]
