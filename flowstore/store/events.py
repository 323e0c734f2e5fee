"""Rows of events, and of how far each deployment has used them up: all SQL of them.

An event starts a deployment once. The transaction that creates the run also moves the mark of its deployment to the
event, and only if nobody has moved it: so whatever dies when, there is one run, or the event still waits.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flowstore import later
from flowstore.errors import FlowstoreError, NotFound
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.typed_rows import PAGE, json_of
from flowstore.store import queries, schema
from flowstore.store.records import now_ms

EVENT, RUN = "event", "run"  # kinds


@later.frozen(eq=True, repr=True)
class Event:
    """Something that has happened.

    Attributes:
        id: its row.
        kind: 'event', or 'run' of a deployment that was successful.
        name: the event's; of a run, its flow's.
        payload: what came with it; of a run its pathspec, project and branch.
        published_at: milliseconds since 1970, UTC.
        published_by: the user.
    """

    id: int
    kind: str
    name: str
    payload: Mapping[str, Any]
    published_at: int
    published_by: str

    @classmethod
    def of(cls, row: Row) -> Event:
        """Return the event of a row."""
        names = ("id", "kind", "name", "published_at", "published_by")
        return cls(**{name: row[name] for name in names}, payload=json_of(row["payload"], dict))


def publish(db: sqlite3.Connection, kind: str, name: str, payload: Mapping[str, Any], user: str) -> int:
    """Insert an event, in the caller's transaction, and return its row."""
    schema.complete(db)
    row = db.execute(
        "insert into events (kind, name, payload, published_at, published_by) values (?, ?, ?, ?, ?) returning id",
        (kind, name, json.dumps(payload, ensure_ascii=False), now_ms(), user),
    ).fetchone()
    return int(row[0])


def since(store: Database, event_id: int, names: Collection[str]) -> list[Event]:
    """Return the first events of some names after another event, in order."""
    rows = store.rows(
        "select * from events where id > ? and name in (select value from json_each(?)) order by id limit ?",
        (event_id, json.dumps([*names]), PAGE),
    )
    return [Event.of(row) for row in rows]


def by_ids(store: Database, ids: Sequence[int]) -> list[Event]:
    """Return events by their rows, in the order in which they were published."""
    rows = store.rows(
        "select * from events where id in (select value from json_each(?)) order by id", (json.dumps([*ids]),)
    )
    return [Event.of(row) for row in rows]


# --- how far they are used up


def begin(db: sqlite3.Connection, deployment_id: int, flow: str, scope: str) -> None:
    """Set the mark of a new version: that of the version before it, so that no event is lost, else the last event.

    The version before that counts for nothing: what came while a version waited for no event has passed.
    """
    db.execute(
        """insert into event_marks (deployment_id, event_id) values (:id, coalesce(
             (select (select event_id from event_marks where deployment_id = d.id) from deployments d
              where d.flow = :flow and d.scope = :scope and d.id < :id and d.deleted_at is null
              order by d.id desc limit 1),
             (select max(id) from events), 0))""",
        {"id": deployment_id, "flow": flow, "scope": scope},
    )


def marks(store: Database) -> dict[int, int]:
    """Return the last event that each deployment has used up."""
    if not store.value("select 1 from sqlite_master where type = 'table' and name = 'event_marks'"):
        return {}
    return {row["deployment_id"]: row["event_id"] for row in store.rows("select * from event_marks")}


def move_mark(db: sqlite3.Connection, deployment_id: int, from_id: int, to_id: int) -> bool:
    """Note that events are used up; return whether nobody else had done so.

    A later version takes over the mark of the one before it (`begin`), which cannot use up events any more.
    """
    moved = db.execute(
        """update event_marks set event_id = ? where deployment_id = ? and event_id = ? and not exists (
             select 1 from deployments d join deployments n on n.flow = d.flow and n.scope = d.scope and n.id > d.id
             where d.id = event_marks.deployment_id)""",
        (to_id, deployment_id, from_id),
    )
    return moved.rowcount > 0


@later.frozen
class Claim:
    """The events that a run of a deployment is to be started by.

    Attributes:
        deployment_id: the deployment.
        mark: the last event that it had used up before.
        ids: the events, in order; the last one is the next mark.
    """

    deployment_id: int
    mark: int
    ids: Sequence[int]

    def take(self, db: sqlite3.Connection) -> None:
        """Use the events up, in the transaction that creates the run.

        Raises:
            FlowstoreError: another run was started by them, or a later version of the deployment takes them.
        """
        if not move_mark(db, self.deployment_id, self.mark, self.ids[-1]):
            raise FlowstoreError(
                "No run was started: another one was started by this event already, or a later version was deployed."
            )


def recorded(events: Sequence[Event]) -> str:
    """Return the JSON that a run keeps of the events that started it."""
    return json.dumps([later.as_dict(event) for event in events], ensure_ascii=False)


def ends_of(store: Database, pathspecs: Sequence[str]) -> list[Event]:
    """Return the ends of runs as if they were events, for a run that somebody tries out.

    Raises:
        NotFound: there is no such run.
    """
    ends: list[Event] = []
    for pathspec in pathspecs:
        flow, _, run_id = pathspec.partition("/")
        row = queries.find_run(store, flow, queries.parse_id("run", run_id))
        if row is None:
            raise NotFound(f"There is no run {pathspec} in {store.path} that could have started this one.")
        at = row["finished_at"] or row["created_at"]
        ends.append(Event(len(ends), RUN, flow, {"pathspec": pathspec}, at, row["user"]))
    return ends


def named(kind: str, name: str, payload: Mapping[str, Any]) -> str:
    """Return how messages and pages name an event."""
    return f"event {name}" if kind == EVENT else f"end of run {payload.get('pathspec')}"


def of_run(store: Database, run_id: int) -> str | None:
    """Return the JSON of the events that started a run; `None` in a file of an older version too."""
    if store.value("select 1 from pragma_table_info('runs') where name = 'trigger_events'") is None:
        return None
    events: str | None = store.value("select trigger_events from runs where id = ?", (run_id,))
    return events
