"""Deletes runs, and the bytes that nothing else uses.

A run vanishes completely: its rows and its small blobs in one transaction, which it shares with others so that many
runs take few transactions, but none of them long enough to stall another writer. Only what the deleted runs used is
looked at: blobs, code snapshots, logs, tags, each kept as long as a row elsewhere refers to it. A log goes with the
last attempt that shows it, which may be a resumed run's. Large blobs lose their hash with their last run, and their
bytes in short transactions thereafter; whatever a crash leaves of them, the next run or `vacuum` removes.

Nothing of what was deleted can be read from the file afterwards: pages that become free leave the file
(`vacuum.shrink`), and `secure_delete = fast`, which `db` sets for everything that writes, overwrites what was on pages
that stay. Measured with 399 deleted texts of 150 to 200 characters: without it 372 could still be found; with it only
while deleting 14, copies that had been left behind when pages were split; with it always, none. `secure_delete = on`
found no fewer, and writes zeros over every free page before it leaves the file.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence

import attrs

from flowstore.maintenance import vacuum
from flowstore.sqlite import liveness
from flowstore.sqlite.database import Database
from flowstore.sqlite.liveness import Process
from flowstore.store import records, staging, tables, tags

RUNS_AT_A_TIME = 200
TASKS_AT_A_TIME = 2000

_MARKED = "select run_id from temp.marked"
_TASKS = "temp.marked d cross join tasks t on t.run_id = d.run_id"
_ATTEMPTS = f"{_TASKS} cross join attempts n on n.task_id = t.id"


@attrs.frozen
class Candidate:
    """A run matched by the selection.

    Attributes:
        id: its row.
        pathspec, status, user: as the Client has them.
        created_at: milliseconds since 1970, UTC.
        tasks: how many it has.
        bytes: what deleting all candidates that are not kept would free by this one: blobs and logs that
            several of them share count for the first.
        kept_because: why it stays, or `None`.
    """

    id: int
    pathspec: str
    status: str
    user: str
    created_at: int
    tasks: int
    bytes: int
    kept_because: str | None


@attrs.frozen
class Deleted:
    """The result of a delete.

    Attributes:
        runs: the ids of the runs that are gone.
        before_bytes, after_bytes: the sizes of the file, its log included.
    """

    runs: Sequence[int]
    before_bytes: int
    after_bytes: int


def candidates(store: Database, run_ids: Iterable[int], *, force: bool = False) -> list[Candidate]:
    """Return what deleting these runs would do; nothing is changed.

    Args:
        store: where they are.
        run_ids: their rows.
        force: also the newest successful run of a production namespace.
    """
    wanted = sorted(set(run_ids))
    with store.read() as db:
        kept = _kept(db, wanted, force=force)
        _mark(db, [run_id for run_id in wanted if run_id not in kept])
        sizes = dict(db.execute(_freed(db)).fetchall())
        for run_id, size in db.execute(_FREED_LOGS).fetchall():
            sizes[run_id] = sizes.get(run_id, 0) + size
        _mark(db, wanted)
        rows = db.execute(_DESCRIBED).fetchall()
    return [
        Candidate(
            row["id"], f"{row['flow']}/{row['id']}", row["status"], row["user"], row["created_at"], row["tasks"],
            sizes.get(row["id"], 0), kept.get(row["id"]),
        )
        for row in rows
    ]  # fmt: skip


_DESCRIBED = """select r.id, f.name as flow, r.status, r.user, r.created_at,
    (select count(*) from tasks t where t.run_id = r.id) as tasks
  from temp.marked d cross join runs r on r.id = d.run_id cross join flows f on f.id = r.flow_id
  order by r.created_at, r.id"""


def _freed(db: sqlite3.Connection) -> str:
    """Return the query for the bytes of blobs that only marked runs use, with the first of these runs."""
    users = [name for name, _ in tables.keepers("blob") if not tables.BY_NAME[name].travels and tables.has(db, name)]
    others = [f" and not exists (select 1 from {name} u where u.blob_id = b.id)" for name in users]
    if tables.has(db, "deployments"):
        others.append(
            """ and not exists (select 1 from code_files c join deployments p on p.code_id = c.code_id
                                where c.blob_id = b.id)"""
        )
    return f"{_FREED}{''.join(others)} group by f.run_id"


_FREED = f"""
with
  uses (blob_id, run_id) as (
    select a.blob_id, d.run_id from {_ATTEMPTS} cross join artifacts a on a.attempt_id = n.id
    where a.blob_id is not null
    union all
    select a.blob_id, d.run_id from {_ATTEMPTS} cross join cards a on a.attempt_id = n.id
    union all
    select p.blob_id, d.run_id from temp.marked d cross join run_artifacts p on p.run_id = d.run_id
    union all
    select c.blob_id, d.run_id from temp.marked d cross join runs r on r.id = d.run_id
    cross join code_files c on c.code_id = r.code_id
  ),
  first (blob_id, run_id) as (select blob_id, min(run_id) from uses group by blob_id)
select f.run_id, cast(total(b.size_bytes) as integer) from first f cross join blobs b on b.id = f.blob_id
where not exists (select 1 from artifacts a cross join attempts n on n.id = a.attempt_id
                  cross join tasks t on t.id = n.task_id
                  where a.blob_id = b.id and t.run_id not in (select run_id from temp.marked))
  and not exists (select 1 from cards a cross join attempts n on n.id = a.attempt_id
                  cross join tasks t on t.id = n.task_id
                  where a.blob_id = b.id and t.run_id not in (select run_id from temp.marked))
  and not exists (select 1 from run_artifacts p
                  where p.blob_id = b.id and p.run_id not in (select run_id from temp.marked))
  and not exists (select 1 from code_files c join runs r on r.code_id = c.code_id
                  where c.blob_id = b.id and r.id not in (select run_id from temp.marked))"""

_FREED_LOGS = f"""
with first (log_id, run_id) as (select n.log_id, min(d.run_id) from {_ATTEMPTS} group by n.log_id)
select f.run_id, sum(length(cast(c.text as blob))) from first f cross join log_chunks c on c.log_id = f.log_id
where not exists (select 1 from attempts n cross join tasks t on t.id = n.task_id
                  where n.log_id = f.log_id and t.run_id not in (select run_id from temp.marked))
group by f.run_id"""


def _mark(db: sqlite3.Connection, run_ids: Iterable[int]) -> None:
    db.execute("create temp table if not exists marked (run_id integer primary key)")
    db.execute("delete from temp.marked")
    db.executemany("insert into temp.marked values (?)", [(run_id,) for run_id in run_ids])


# --- what stays


def _kept(db: sqlite3.Connection, run_ids: Sequence[int], *, force: bool) -> dict[int, str]:
    """Return the reasons why some of these runs can't be deleted now."""
    wanted = set(run_ids)
    kept = {} if force else _in_production(db, wanted)
    for run_id, why in _in_use(db).items():
        if run_id in wanted:
            kept[run_id] = why
    return kept


def _in_use(db: sqlite3.Connection) -> dict[int, str]:
    """Return why runs are in use: they are alive, or one that is takes over their tasks."""
    reasons: dict[int, str] = {}
    running = db.execute(
        f"select id, {Process.columns()}, last_seen_at, origin_run_id from runs where status = 'running'"
    ).fetchall()
    for row in running:
        if not liveness.is_dead(row):
            reasons[row["id"]] = f"it is running (process {row['pid']} on {row['host']})"
            if row["origin_run_id"] is not None and str(row["origin_run_id"]).isdecimal():
                reasons.setdefault(int(row["origin_run_id"]), f"run {row['id']}, which is running, resumes it")
    return reasons


def _in_production(db: sqlite3.Connection, wanted: set[int]) -> dict[int, str]:
    """Return the wanted runs that are a flow's newest successful one in a production namespace, and why they stay."""
    rows = db.execute(
        """with places as (
             select g.tag, g.id as tag_id, f.id as flow_id from tags g cross join flows f
             where g.tag >= 'production:' and g.tag < 'production;'
               and exists (select 1 from run_tags rt where rt.tag_id = g.id and rt.flow_id = f.id)
           )
           select p.tag, (select rt.run_id from run_tags rt
             where rt.tag_id = p.tag_id and rt.flow_id = p.flow_id and rt.successful = 1
             order by rt.created_at desc, rt.run_id desc limit 1) as run_id
           from places p"""
    ).fetchall()
    return {
        row["run_id"]: f"it is the newest successful run in {row['tag']}: --force deletes it too"
        for row in rows
        if row["run_id"] in wanted
    }


# --- deleting


def delete(store: Database, chosen: Iterable[Candidate], *, force: bool = False) -> Deleted:
    """Delete the candidates that are not to be kept, and give their space back.

    A run that somebody else began to resume, or deleted, since the candidates were looked up is left alone.
    """
    before = vacuum.size_bytes(store)
    gone: list[int] = []
    names = _Names()
    with store.write():
        pass  # brings an older store to the newest schema
    records.record_dead_runs(store)
    staging.drop_dead_leases(store)
    with vacuum.unlinked(store):
        for batch in _batches(run for run in chosen if run.kept_because is None):
            began = time.monotonic()
            with store.write() as db:
                gone += _delete_runs(db, batch, names, force=force)
            staging.drop_orphans(store)
            time.sleep(min(0.05, time.monotonic() - began))  # others who wait look for a gap only now and then
        with store.write() as db:
            vacuum.forget(db, sorted(names.tags), sorted(names.flows))
        vacuum.shrink(store)
    return Deleted(gone, before, vacuum.size_bytes(store))


def _batches(chosen: Iterable[Candidate]) -> Iterator[list[int]]:
    batch: list[int] = []
    tasks = 0
    for run in chosen:
        if batch and (len(batch) >= RUNS_AT_A_TIME or tasks + run.tasks > TASKS_AT_A_TIME):
            yield batch
            batch, tasks = [], 0
        batch.append(run.id)
        tasks += run.tasks
    if batch:
        yield batch


@attrs.define
class _Names:
    """Names that the deleted runs had, which may be nobody's now."""

    tags: set[int] = attrs.field(factory=set)
    flows: set[int] = attrs.field(factory=set)


def _delete_runs(db: sqlite3.Connection, run_ids: Sequence[int], names: _Names, *, force: bool) -> list[int]:
    """Delete those of these runs that may go, with everything that they alone used; return their ids."""
    kept = _kept(db, run_ids, force=force)
    _mark(db, [run_id for run_id in run_ids if run_id not in kept])
    shared = {kind: _ids(db, tables.ids(kind, _MARKED)) for kind in tables.SHARED}
    names.tags.update(shared["tag"])
    names.flows.update(shared["flow"])
    db.execute(f"update blobs set staged_by = null where sha is null and staged_by in ({_MARKED})")  # orphans now
    gone = _ids(db, f"select id from runs where id in ({_MARKED})")
    tags.uncount(db, f"run_id in ({_MARKED})", {})
    for table in (table for table in tables.of_a_run() if not tables.is_empty(db, table.name)):
        owner = table.owner[0]
        db.execute(f"delete from {table.name} where {owner} in ({tables.ids(table.refers[owner], _MARKED)})")
    vacuum.drop_codes(db, shared["code"])
    vacuum.drop_logs(db, shared["log"])
    vacuum.put_aside(db, shared["blob"])
    return gone


def _ids(db: sqlite3.Connection, query: str) -> list[int]:
    return sorted({row[0] for row in db.execute(query).fetchall()} - {None})
