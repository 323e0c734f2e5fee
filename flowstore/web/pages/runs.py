"""Runs as a table, of all flows or of one, with columns, filters and order in the URL; and the list of flows."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from flowstore.client import graphs, rows
from flowstore.client.rows import RunRow, RunTable, table_of_runs
from flowstore.drawing.plot import Point, plot
from flowstore.errors import FlowstoreError
from flowstore.production import schedule
from flowstore.store import queries
from flowstore.store.run_pages import RunQuery, ms_ago
from flowstore.store.schema import STATUSES
from flowstore.text import is_number
from flowstore.web.pages import Page, View, run_json
from flowstore.web.templating import pathspec

AT_ONCE = 50  # runs on a page
MOST_AT_ONCE = 1000  # that somebody may ask for
MOST_POINTS = 500  # runs in a plot
MOST_COLUMNS = 40
_MOST_FLOWS = 500  # that can be chosen from
_MOST_NAMES = 200  # of parameters and metrics, to choose as columns
_FILTERS = ("flow", "tag", "without", "namespace", "status", "user", "since", "q")


@attrs.frozen
class Listed:
    """A run in the table.

    Attributes:
        row: what is known of it.
        values: its parameters and final metrics, by name.
        error: why it failed, in one line.
    """

    row: RunRow
    values: dict[str, Any]
    error: str | None

    def as_json(self) -> dict[str, Any]:
        """Return it with the keys that it has in every JSON."""
        parameters = self.row.parameters
        return {
            **run_json(self.row),
            "metrics": {name: value for name, value in self.values.items() if name not in parameters},
            "error": self.error,
        }


def runs(view: View) -> Page:
    """Return the runs that the filters in the URL find."""
    data, listed = _listing(view, view.query.get("flow") or None)
    data |= {
        "store_path": shlex.quote(str(view.store.path)),
        "flows": queries.flow_names(view.database, None)[:_MOST_FLOWS],
    }
    return Page("runs.html", "Runs", data, lambda: _json(listed, data), runs_now=data["runs_now"])


def flow(view: View, name: str) -> Page:
    """Return a flow: the graph of its latest run, its runs and its deployments."""
    from markupsafe import Markup

    item = view.store.flow(name)
    data, listed = _listing(view, name)
    latest = item.latest_run
    steps = graphs.of_flow(item)

    def to_step(step: graphs.GraphStep) -> str | None:
        return None if latest is None else pathspec(f"{latest.pathspec}/{step.name}")

    deployments = [row for row in schedule.listing(item._store, datetime.now(UTC)) if row["flow"] == name]
    data |= {
        "latest": None if latest is None else rows.of_run(latest),
        "graph": Markup(graphs.draw(steps, to_step, label=f"Steps of {name}")),  # noqa: S704  # made by `drawing`, escaped there
        "steps": steps,
        "deployments": deployments,
    }

    def as_json() -> dict[str, Any]:
        named = [{"name": step.name, "targets": step.targets, "kind": step.kind} for step in steps]
        return {"flow": name, "steps": named, "deployments": deployments, **_json(listed, data)}

    return Page("flow.html", name, data, as_json, runs_now=data["runs_now"])


def flows(view: View) -> Page:
    """Return all flows, each with its latest run."""
    named = list(itertools.islice(view.store.flows(), MOST_AT_ONCE))
    latest = [run for run in (flow.latest_run for flow in named) if run is not None]
    listed = rows.of_runs(latest)
    data = {"runs": listed, "store_path": shlex.quote(str(view.store.path))}

    def as_json() -> dict[str, Any]:
        return {"flows": [row.flow for row in listed], "runs": [*map(run_json, listed)]}

    return Page("flows.html", "Flows", data, as_json, runs_now=any(row.status == "running" for row in listed))


def _json(listed: Sequence[Listed], data: dict[str, Any]) -> dict[str, Any]:
    return {"runs": [one.as_json() for one in listed], "after": data["after"]}


def _listing(view: View, flow: str | None) -> tuple[dict[str, Any], list[Listed]]:
    """Return what the table of runs shows, and the runs in it."""
    query = _query(view, flow)
    table = table_of_runs(view.store._scope, query)
    listed = _listed(table)
    names = dict.fromkeys(name for one in listed for name in one.values)
    data: dict[str, Any] = {
        "listed": listed,
        "after": table.after,
        "query": view.query,
        "chosen": query,
        "columns": query.columns,
        "names": [*dict.fromkeys((*query.columns, *names))][:_MOST_NAMES],
        "statuses": STATUSES,
        "filtered": any(view.query.get(name) for name in _FILTERS),
        "runs_now": any(row.status == "running" for row in table.rows),
        **_plotted(view, query, listed),
    }
    return data, listed


def _listed(table: RunTable) -> list[Listed]:
    failures = rows.failures(table.runs, table.rows)
    return [
        Listed(row, values, None if failure is None else f"{failure.task}: {failure.error}")
        for row, values, failure in zip(table.rows, table.values, failures, strict=True)
    ]


def _query(view: View, flow: str | None) -> RunQuery:
    given = view.query
    columns = [name.strip() for text in given.all("columns") for name in text.split(",") if name.strip()]
    return RunQuery(
        flow=flow,
        tags=tuple(dict.fromkeys(given.all("tag"))),
        without=tuple(dict.fromkeys(given.all("without"))),
        namespace=given.get("namespace") or None,
        statuses=_statuses(given.all("status")),
        user=given.get("user") or None,
        since_ms=ms_ago(since) if (since := given.get("since")) else None,
        text=given.get("q") or None,
        columns=tuple(dict.fromkeys(columns))[:MOST_COLUMNS],
        sort=given.get("sort") or None,
        after=given.get("after") or None,
        limit=max(1, given.whole("limit", AT_ONCE, MOST_AT_ONCE)),
    )


def _statuses(given: Sequence[str]) -> tuple[str, ...]:
    wrong = next((status for status in given if status and status not in STATUSES), None)
    if wrong is not None:
        raise FlowstoreError(f"{wrong!r} is not a status: a run is {', '.join(STATUSES[:-1])} or {STATUSES[-1]}.")
    return tuple(filter(None, given))


# --- a plot


def _plotted(view: View, query: RunQuery, listed: Sequence[Listed]) -> dict[str, Any]:
    """Return the plot of a column over time or over another column, if there is a column of numbers."""
    from markupsafe import Markup

    numeric = [name for name in query.columns if any(is_number(one.values.get(name)) for one in listed)]
    y = view.query.get("plot", numeric[0] if numeric else "")
    x = view.query.get("over", "time")
    if not y or y == "none":
        return {"plot": "", "plot_y": y, "plot_x": x}
    newest = table_of_runs(view.store._scope, attrs.evolve(query, sort=None, after=None, limit=MOST_POINTS))
    points = [
        Point(
            row.created_at if x == "time" else _position(values.get(x)),
            values[y] if is_number(values.get(y)) else None,
            title=row.pathspec,
            href=pathspec(row.pathspec),
        )
        for row, values in zip(newest.rows, newest.values, strict=True)
    ]
    drawn = plot(points, x_label=x, y_label=y)
    return {"plot": Markup(drawn), "plot_y": y, "plot_x": x}  # noqa: S704  # made by `drawing`, which escapes


def _position(value: Any) -> float | str | None:
    """Return a value as a position on the horizontal axis of a plot."""
    return value if value is None or is_number(value) or isinstance(value, str) else str(value)
