"""Selects runs, for `export` and `delete`.

Pathspecs and a flow name the runs to look at, all of the store's where nothing is named. The other conditions
narrow that down, and so does the active namespace. Counting the newest runs of a flow counts those with all
tags, whatever their age.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import attrs

from flowstore import context
from flowstore.client import Flow, Run
from flowstore.client.store import seen
from flowstore.sqlite.database import Database, Row


@attrs.frozen(kw_only=True, repr=False)  # compared: without a choice, nothing is deleted
class Selection:
    """A user's choice of runs.

    Attributes:
        pathspecs: `Flow` or `Flow/run` each.
        flow: one more flow's name.
        tags: all of these, on the run.
        latest: only the newest so many of each flow.
        older_than_ms: only runs created before this time.
        keep_latest: not the newest so many of each flow.
    """

    pathspecs: Sequence[str] = ()
    flow: str | None = None
    tags: Sequence[str] = ()
    latest: int | None = None
    older_than_ms: int | None = None
    keep_latest: int | None = None


def run_ids(store: Database, selection: Selection) -> list[int]:
    """Return the selected runs, in the order in which they were created.

    Raises:
        InvalidPathspec: a pathspec addresses neither a flow nor a run.
        NotFound: there is no such flow or run.
        NamespaceMismatch: it is not in the active namespace.
    """
    with store.read():
        by_flow: dict[int, list[Row]] = {}
        for row in _candidates(store, selection):
            by_flow.setdefault(row["flow_id"], []).append(row)
        chosen = [row for rows in by_flow.values() for row in _counted(rows, selection)]
    if selection.older_than_ms is not None:
        chosen = [row for row in chosen if row["created_at"] < selection.older_than_ms]
    return [row["id"] for row in sorted(chosen, key=lambda row: (row["created_at"], row["id"]))]


def _candidates(store: Database, selection: Selection) -> list[Row]:
    """Return the named runs that have all tags, oldest first."""
    flows, ids = _named(store, selection)
    conditions, values = ["true"], {"flows": json.dumps(flows), "ids": json.dumps(ids)}
    if flows or ids:
        conditions.append(
            """(r.id in (select value from json_each(:ids))
                or r.flow_id in (select f.id from flows f join json_each(:flows) n on n.value = f.name))"""
        )
    active = context.get_namespace()
    for n, tag in enumerate([*selection.tags, *([active] if active is not None else [])]):
        conditions.append(
            f"""exists (select 1 from run_tags rt join tags g on g.id = rt.tag_id
                where rt.run_id = r.id and g.tag = :tag{n})"""
        )
        values[f"tag{n}"] = tag
    return store.rows(
        f"""select r.id, r.flow_id, r.created_at from runs r
            where {" and ".join(conditions)} order by r.created_at, r.id""",
        values,
    )


def _named(store: Database, selection: Selection) -> tuple[list[str], list[int]]:
    """Return the names of flows and the ids of runs that are named; each exists, in the active namespace."""
    flows, ids = [], []
    results = seen(store)
    for pathspec in selection.pathspecs:
        item = results.find(pathspec, Flow, Run)
        if isinstance(item, Flow):
            flows.append(item.id)
        else:
            ids.append(int(item.id))
    if selection.flow is not None:
        flows.append(results.flow(selection.flow).id)
    return flows, ids


def _counted(rows: Sequence[Row], selection: Selection) -> Sequence[Row]:
    """Return the runs of a flow, oldest first, that `latest` and `keep_latest` leave."""
    if selection.latest is not None:
        rows = rows[max(len(rows) - selection.latest, 0) :]
    if selection.keep_latest is not None:
        rows = rows[: max(len(rows) - selection.keep_latest, 0)]
    return rows
