"""Who is the scheduler of this store, and up to when each deployment's due times are dealt with.

A due time is marked in a transaction that also sees that the scheduler is still the one, before its run is
started. So no due time runs twice: not with two schedulers, not after a crash, not when the clock is set back.
Each version of a deployment is a row of its own, so a new version starts afresh at the moment it was deployed.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime

from flowstore.errors import FlowstoreError
from flowstore.sqlite import liveness
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.liveness import Process
from flowstore.sqlite.typed_rows import time_of
from flowstore.store import schema, tables
from flowstore.store.records import now_ms


def claim(store: Database, me: Process) -> None:
    """Make a process the scheduler of the store, in place of one that died.

    Raises:
        FlowstoreError: another one lives.
    """
    with store.write() as db:
        schema.complete(db)
        other = db.execute("select * from scheduler").fetchone()
        if other is not None and not liveness.is_dead(other):
            since = time_of(other["started_at"])
            raise FlowstoreError(
                f"{store.path} has a scheduler already: process {other['pid']} on {other['host']}, "
                f"since {since:%Y-%m-%d %H:%M:%S} UTC. Stop that one first; a store has one scheduler."
            )
        db.execute(
            f"""insert or replace into scheduler (id, {Process.columns()}, started_at, last_seen_at)
                values (1, ?, ?, ?, ?, ?, ?)""",
            (*me.values, now_ms(), now_ms()),
        )


def keep(db: sqlite3.Connection, me: Process) -> bool:
    """Record that the scheduler lives; false where another process has taken over, or another store its place."""
    if tables.is_empty(db, "scheduler"):
        return False
    kept = db.execute(f"update scheduler set last_seen_at = ? where {Process.where()}", (now_ms(), *me.values))
    return kept.rowcount > 0


def leave(store: Database, me: Process) -> None:
    """Be the scheduler no longer."""
    with store.write() as db:
        if not tables.is_empty(db, "scheduler"):
            db.execute(f"delete from scheduler where {Process.where()}", me.values)


def find_scheduler(store: Database) -> Row | None:
    """Return the living scheduler of the store, if there is one."""
    if not _has_tables(store):
        return None
    row = store.row("select * from scheduler")
    return None if row is None or liveness.is_dead(row) else row


def mark(db: sqlite3.Connection, deployment_id: int, due_at: datetime) -> None:
    """Record that a due time, and all before it, are dealt with."""
    db.execute(
        "insert or replace into due_marks (deployment_id, due_at) values (?, ?)",
        (deployment_id, int(due_at.timestamp()) * 1000),
    )


def marks(store: Database) -> dict[int, datetime]:
    """Up to when due times are dealt with, by deployment, in UTC."""
    if not _has_tables(store):
        return {}
    return {
        row["deployment_id"]: time_of(row["due_at"])
        for row in store.rows("select deployment_id, due_at from due_marks")
    }


def _has_tables(store: Database) -> bool:
    """Return whether the store has them: not an older one, which is read as it is, nor a small one."""
    return bool(store.value("select 1 from sqlite_master where type = 'table' and name = 'scheduler'"))
