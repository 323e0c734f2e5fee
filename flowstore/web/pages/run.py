"""One run."""

from __future__ import annotations

from flowstore.client import Run, rows
from flowstore.web.pages import Page, View


def run(view: View, flow: str, run_id: str) -> Page:
    """Return a run: its state, why it failed, how to go on, and its steps."""
    item = view.store.find(f"{flow}/{run_id}", Run)
    row = rows.of_run(item)
    data = {"run": row, "why": rows.explanation(item, row), "steps": rows.of_steps(item, row.status)}
    return Page("run.html", row.pathspec, data, lambda: data, runs_now=row.status == "running")
