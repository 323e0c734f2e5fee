"""Flows in production: their schedules, when they run next, and how their last runs ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs

from flowstore.client import rows
from flowstore.client.rows import RunRow
from flowstore.production import schedule
from flowstore.store import deployments as stored
from flowstore.store.deployments import Deployment
from flowstore.store.run_pages import RunQuery
from flowstore.store.schedules import find_scheduler
from flowstore.web.pages import Page, View

_RECENT = 5


@attrs.frozen
class Deployed:
    """A deployment in force.

    Attributes:
        facts: what `flowstore deployments` lists of it.
        deployment: the deployment.
        runs: its newest runs.
    """

    facts: dict[str, Any]
    deployment: Deployment
    runs: list[RunRow]


def deployments(view: View) -> Page:
    """Return what is in production."""
    store = view.database
    active = {(item.flow, item.project, item.branch): item for item in stored.active(store)}
    listed = []
    for facts in schedule.listing(store, datetime.now(UTC)):
        item = active.get((facts["flow"], facts["project"], facts["branch"]))
        if item is not None:
            query = RunQuery(flow=item.flow, tags=(item.production_namespace,), limit=_RECENT)
            listed.append(Deployed(facts, item, rows.table_of_runs(view.store._scope, query).rows))
    scheduler = find_scheduler(store)
    waiting = any(one.facts["schedule"] or one.facts["triggers"] for one in listed) and scheduler is None
    running = any(row.status == "running" for one in listed for row in one.runs)

    def as_json() -> dict[str, Any]:
        return {
            "deployments": [
                {
                    **one.facts,
                    "parameters": one.deployment.parameters,
                    "tags": one.deployment.tags,
                    "runs": [_run_json(row) for row in one.runs],
                }
                for one in listed
            ],
            "scheduler": scheduler is not None,
        }

    data = {"listed": listed, "waiting": waiting, "recent": _RECENT}
    return Page("deployments.html", "Deployments", data, as_json, runs_now=running)


def _run_json(row: RunRow) -> dict[str, Any]:
    return {"run": row.pathspec, "status": row.status, "created_at": row.created_at}
