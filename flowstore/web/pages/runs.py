"""The list of runs."""

from __future__ import annotations

import itertools

from flowstore.client import rows
from flowstore.web.pages import Page, View

_AT_ONCE = 50


def runs(view: View) -> Page:
    """Return the newest runs."""
    newest = [run for flow in view.store.flows() for run in itertools.islice(flow, _AT_ONCE)]
    listed = rows.of_runs(newest)
    listed.sort(key=lambda row: row.created_at, reverse=True)
    running = any(row.status == "running" for row in listed)
    return Page("runs.html", "Runs", {"runs": listed}, lambda: {"runs": listed}, runs_now=running)
