"""Due times of deployments, for the scheduler and for `flowstore deployments`."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any

import attrs

from flowstore.errors import GraphError
from flowstore.flow import cron
from flowstore.production import events
from flowstore.sqlite.database import Database
from flowstore.sqlite.typed_rows import time_of
from flowstore.store import deployments, schedules, state_machines
from flowstore.store.deployments import Deployment


@attrs.frozen
class Entry:
    """A deployment with a schedule.

    Attributes:
        deployment: what runs.
        since: up to when due times are dealt with: the last one that was started, at first when it was deployed.
    """

    deployment: Deployment
    since: datetime

    @property
    def cron(self) -> str:
        """The schedule's cron line."""
        return str((self.deployment.schedule or {}).get("cron", ""))

    @property
    def timezone(self) -> str | None:
        """The schedule's time zone, `None` for UTC."""
        zone: str | None = (self.deployment.schedule or {}).get("timezone")
        return zone

    def due(self, now: datetime) -> datetime | None:
        """Return the time to make up for now, if any."""
        return cron.due(self.cron, self.timezone, self.since, now)

    def next_due(self, after: datetime) -> datetime:
        """Return the next due time after a moment, but none that is dealt with."""
        return cron.next_due(self.cron, self.timezone, max(after, self.since))

    def local(self, due_at: datetime) -> str:
        """Return a due time in the schedule's time zone."""
        return f"{due_at.astimezone(cron.zone(self.timezone)):%Y-%m-%d %H:%M:%S %Z}"

    def shown(self, due_at: datetime) -> str:
        """Return a due time in UTC, and in the schedule's time zone where that is another."""
        return f"{due_at:%Y-%m-%d %H:%M:%S} UTC" + (f" ({self.local(due_at)})" if self.timezone else "")

    def __str__(self) -> str:
        deployment = self.deployment
        return f"{deployment.flow} version {deployment.version}" + (
            f" in {deployment.project}/{deployment.branch}" if deployment.project else ""
        )


def entries(store: Database, *, of_scheduler: bool = False) -> dict[int, Entry]:
    """Return the deployments in force that have a schedule, by id.

    Args:
        store: where they are.
        of_scheduler: only those that `flowstore scheduler` starts, since AWS starts the others.
    """
    in_aws = {(machine.flow, machine.scope) for machine in state_machines.all_of(store)} if of_scheduler else set()
    marks = schedules.marks(store)
    return {
        deployment.id: Entry(deployment, marks.get(deployment.id) or time_of(deployment.deployed_at))
        for deployment in deployments.active(store)
        if deployment.schedule is not None and (deployment.flow, deployment.scope) not in in_aws
    }


def listing(store: Database, now: datetime, namespace: str | None = None) -> list[dict[str, Any]]:
    """Return the deployments in force, each with its next due time.

    Args:
        store: where they are.
        now: the present.
        namespace: only those whose runs have this tag.

    Returns:
        A row each, as `flowstore deployments` shows it; `next_due_local` is in the schedule's time zone.
    """
    scheduled = entries(store)
    return [
        {
            "flow": deployment.flow,
            "project": deployment.project,
            "branch": deployment.branch,
            "version": deployment.version,
            "deployed_by": deployment.deployed_by,
            "deployed_at": time_of(deployment.deployed_at),
            **_columns(scheduled.get(deployment.id), now),
            "triggers": events.waits_for(deployment),
        }
        for deployment in deployments.active(store)
        if namespace in {None, deployment.production_namespace, *deployment.tags}
    ]


def _columns(entry: Entry | None, now: datetime) -> dict[str, Any]:
    upcoming = None
    with contextlib.suppress(GraphError):  # of a bad line in the store; the scheduler says what is wrong with it
        upcoming = entry and entry.next_due(now)
    return {
        "schedule": entry and entry.cron,
        "timezone": entry and (entry.timezone or "UTC"),
        "next_due_at": upcoming,
        "next_due_local": entry.local(upcoming) if entry and upcoming else None,
    }
