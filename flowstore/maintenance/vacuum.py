"""Gives space back: what a crash left behind is dropped, and free pages leave the file.

A store is created with `auto_vacuum = incremental`: pages that become free stay in the file until they are asked
for, a few at a time, each time in a short transaction. Alone with the file, `VACUUM` rewrites it, which also
closes the gaps inside pages. It stalls everybody else for as long as it takes, so it is for `flowstore vacuum`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

import attrs

from flowstore.errors import FlowstoreError, StoreCorrupt
from flowstore.progress import Progress
from flowstore.sqlite import journal
from flowstore.sqlite.database import BUSY_TIMEOUT_S, Database
from flowstore.store import backlog, blobs, records, staging, tables

PAGES_AT_A_TIME = 2048  # 16 MiB
ROWS_AT_A_TIME = 2000
PATIENCE_S = 2.0  # for others who read or write: longer than any one transaction of a run

_UNUSED_BLOB = tables.unused("blob", "b.id")
_UNUSED_CODE = tables.unused("code", "c.id")
_UNUSED_LOG = tables.unused("log", "c.log_id")
_UNUSED_TAG = tables.unused("tag", "g.id")
_UNUSED_FLOW = tables.unused("flow", "f.id")


@attrs.frozen
class Vacuumed:
    """The result of a vacuum.

    Attributes:
        before_bytes, after_bytes: the sizes of the file, its log included.
        why_partly: what kept it from rewriting the file, or `None`.
    """

    before_bytes: int
    after_bytes: int
    why_partly: str | None


def vacuum(store: Database) -> Vacuumed:
    """Drop what nothing uses, and give all free space back.

    Where others use the file, the free pages are given back, and the gaps inside pages stay.
    """
    before = size_bytes(store)
    with store.write():
        pass  # brings an older store to the newest schema
    _describe(store)
    staging.drop_dead_leases(store)
    with unlinked(store):
        staging.drop_orphans(store)
    records.record_dead_runs(store)
    with unlinked(store):
        _drop_unused(store)
        why_partly = _rewrite(store)
        if why_partly is not None:
            shrink(store)
    return Vacuumed(before, size_bytes(store), why_partly)


def _describe(store: Database) -> None:
    """Describe all that an older flowstore stored, as far as it can be read here."""
    with Progress("Describing old artifacts", backlog.size(store), items=True) as progress:
        backlog.work_off(store, progress=progress.add)
    backlog.load_pickles(store)


def size_bytes(store: Database) -> int:
    """Return the size of the file and of the log beside it."""
    log = store.path.with_name(f"{store.path.name}-wal")
    return store.path.stat().st_size + (log.stat().st_size if log.exists() else 0)


@contextlib.contextmanager
def unlinked(store: Database) -> Iterator[None]:
    """Let rows that go together be removed by code that knows them all.

    SQLite, following the foreign keys, would scan all blobs for each run (who is writing it?) and all tags of
    nodes for each step, for want of indexes that nothing else needs.
    """
    store.rows("pragma foreign_keys = off")
    try:
        yield
    finally:
        store.rows("pragma foreign_keys = on")


def shrink(store: Database) -> None:
    """Take the free pages out of the file, in short transactions; and out of the log, if nobody reads it."""
    free = 0
    while True:
        with store.write() as db:
            before, free = free, db.execute("pragma freelist_count").fetchone()[0]
            if free in (0, before):  # none left, or a file that another program wrote without `auto_vacuum`
                break
            # `execute` would stop after one page, a row without columns; `executescript` commits before it begins
            db.executescript(f"begin immediate; pragma incremental_vacuum({PAGES_AT_A_TIME})")
    with _patience(store):
        store.rows("pragma wal_checkpoint(truncate)")


@contextlib.contextmanager
def _patience(store: Database) -> Iterator[None]:
    store.rows(f"pragma busy_timeout = {PATIENCE_S * 1000:.0f}")
    try:
        yield
    finally:
        store.rows(f"pragma busy_timeout = {BUSY_TIMEOUT_S * 1000:.0f}")


def _rewrite(store: Database) -> str | None:
    """Rewrite the file; return what was in the way, or `None`."""
    with _patience(store):
        try:
            if store.rows("pragma journal_mode = delete")[0][0] != "delete":
                return "another process uses the store"
            store.connection().execute("vacuum")
        except sqlite3.OperationalError as error:
            if journal.is_busy(error):
                return "another process uses the store"
            return f"the file could not be rewritten ({error})"
        except FlowstoreError:
            return "another process uses the store"
    return None


def _drop_unused(store: Database) -> None:
    """Drop what nothing refers to, a range of rows at a time."""
    for some in _ranges(store, "codes", "id"):
        with store.write() as db:
            unused = f"select c.id from codes c where c.id between ? and ? and {_UNUSED_CODE}"
            drop_codes(db, [row[0] for row in db.execute(unused, some).fetchall()])
    for some in _ranges(store, "blobs", "id"):
        unused = f"select b.id from blobs b where b.id between ? and ? and b.sha is not null and {_UNUSED_BLOB}"
        if ids := [row[0] for row in store.rows(unused, some)]:
            with store.write() as db:
                put_aside(db, ids)
    staging.drop_orphans(store)
    for some in _ranges(store, "log_chunks", "log_id"):
        unused = f"select distinct c.log_id from log_chunks c where c.log_id between ? and ? and {_UNUSED_LOG}"
        if ids := [row[0] for row in store.rows(unused, some)]:
            with store.write() as db:
                drop_logs(db, ids)
    drop_names(store)


def _ranges(store: Database, table: str, key: str) -> Iterator[tuple[int, int]]:
    """Yield ranges of a key, each with some of a table's rows, however far apart their keys are."""
    some = f"select max(k) from (select {key} as k from {table} where {key} > ? order by 1 limit {ROWS_AT_A_TIME})"
    last = -1
    while (end := store.value(some, (last,))) is not None:
        if type(end) is not int:
            raise StoreCorrupt(
                f"{store.path} is damaged ({table}.{key} is no number). flowstore check --deep says more."
            )
        yield last + 1, end
        last = end


def drop_codes(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Remove those of these code snapshots that nothing uses."""
    for code_id in ids:
        if db.execute(f"delete from codes as c where c.id = ? and {_UNUSED_CODE}", (code_id,)).rowcount:
            db.execute("delete from code_files where code_id = ?", (code_id,))


def drop_logs(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Remove those of these logs that no attempt shows."""
    db.executemany(f"delete from log_chunks as c where c.log_id = ? and {_UNUSED_LOG}", [(log_id,) for log_id in ids])


def put_aside(db: sqlite3.Connection, ids: Sequence[int]) -> int:
    """Remove blobs that nothing refers to; return their bytes.

    A large one becomes an orphan, which `staging.drop_orphans` removes piece by piece. It has no hash, so nobody finds
    it, and should this process die then the next run removes it.
    """
    freed = 0
    for blob_id in ids:
        row = db.execute(
            f"select b.size_bytes, b.data is null from blobs b where b.id = ? and b.sha is not null and {_UNUSED_BLOB}",
            (blob_id,),
        ).fetchone()
        if row is None:
            continue
        freed += row[0]
        blobs.discard(db, blob_id, is_large=bool(row[1]))
    return freed


def drop_names(store: Database) -> None:
    """Forget tags and flows that nothing has any more, with the pairs that name them: their ids may be used again."""
    with store.write() as db:
        tags = db.execute(f"select g.id from tags g where {_UNUSED_TAG}").fetchall()
        flows = db.execute(f"select f.id from flows f where {_UNUSED_FLOW}").fetchall()
        forget(db, [row[0] for row in tags], [row[0] for row in flows])


def forget(db: sqlite3.Connection, tag_ids: Sequence[int], flow_ids: Sequence[int]) -> None:
    """Remove those of these tags and flows that nothing has."""
    removed = 0
    for tag_id in tag_ids:
        removed += db.execute(f"delete from tags as g where g.id = ? and {_UNUSED_TAG}", (tag_id,)).rowcount
    for flow_id in flow_ids:
        gone = db.execute(f"delete from flows as f where f.id = ? and {_UNUSED_FLOW}", (flow_id,)).rowcount
        if gone:
            db.execute("delete from tag_pairs where flow_id = ?", (flow_id,))
    if not tables.is_empty(db, "backlog"):
        db.execute("delete from backlog where not exists (select 1 from tasks t where t.id <= last_task_id)")
    if removed:
        db.execute(
            """delete from tag_pairs where b not in (select id from tags)
               or (a <> 0 and a not in (select id from tags))"""
        )
