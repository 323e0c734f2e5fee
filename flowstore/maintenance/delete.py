"""Deleting runs, and the bytes that nothing else uses.

A run vanishes whole: its rows and its small contents in one transaction, which it shares with others so that many
runs take few transactions, but none of them long enough to stall another writer. Only what the deleted runs used is
looked at: contents, code snapshots, logs, tags, each kept as long as one row elsewhere refers to it. A log goes with
the last attempt that shows it, which may be a resumed run's. Large contents lose their hash with their last run, and
their bytes in short transactions thereafter; whatever a crash leaves of them, the next run or `vacuum` removes.

Nothing of what was deleted can be read from the file afterwards: pages that become free leave the file
(`vacuum.shrink`), and `secure_delete = fast`, which `db` sets for everything that writes, overwrites what was on pages
that stay. Measured with 399 deleted texts of 150 to 200 characters: without it 372 could still be found; with it only
while deleting 14, copies that had been left behind when pages were split; with it always, none. `secure_delete = on`
found no fewer, and writes zeros over every free page before it leaves the file.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence

import attrs

from flowstore.maintenance import vacuum
from flowstore.sqlite import liveness
from flowstore.sqlite.database import Store
from flowstore.sqlite.liveness import Process
from flowstore.store import records, staging
from flowstore.transfer import tables

RUNS_AT_A_TIME = 200
TASKS_AT_A_TIME = 2000

_TASKS = "temp.doomed d cross join tasks t on t.run_id = d.run_id"
_ATTEMPTS = f"{_TASKS} cross join attempts n on n.task_id = t.id"


@attrs.frozen
class Candidate:
    """A run that is meant.

    Attributes:
        id: its row.
        pathspec, status, user: as the Client has them.
        created_at: milliseconds since 1970, UTC.
        tasks: how many it has.
        bytes: what deleting all candidates that are not kept would free by this one: contents and logs that
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
    """What a delete did.

    Attributes:
        runs: the ids of the runs that are gone.
        before_bytes, after_bytes: the sizes of the file, its log included.
    """

    runs: Sequence[int]
    before_bytes: int
    after_bytes: int


def candidates(store: Store, run_ids: Iterable[int], *, force: bool = False) -> list[Candidate]:
    """What deleting these runs would do; nothing is changed.

    Args:
        store: where they are.
        run_ids: their rows.
        force: also the newest successful run of a production namespace.
    """
    wanted = sorted(set(run_ids))
    with store.read() as db:
        _stand_in(db)
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
  from temp.doomed d cross join runs r on r.id = d.run_id cross join flows f on f.id = r.flow_id
  order by r.created_at, r.id"""

# What uses a content b besides runs, by the table that says so, which an older store may lack.
_OTHER_USERS = {
    "deployments": "select 1 from code_files c join deployments p on p.code_id = c.code_id where c.blob_id = b.id",
    "deployment_parameters": "select 1 from deployment_parameters p where p.blob_id = b.id",
    "leases": "select 1 from leases l where l.blob_id = b.id",
}


def _freed(db: sqlite3.Connection) -> str:
    """The bytes of contents that nothing but doomed runs uses, with the first of these."""
    others = [f" and not exists ({user})" for table, user in _OTHER_USERS.items() if tables.has(db, table)]
    return f"{_FREED}{''.join(others)} group by f.run_id"


_FREED = f"""
with
  uses (blob_id, run_id) as (
    select a.blob_id, d.run_id from {_ATTEMPTS} cross join artifacts a on a.attempt_id = n.id
    where a.blob_id is not null
    union all
    select p.blob_id, d.run_id from temp.doomed d cross join run_artifacts p on p.run_id = d.run_id
    union all
    select c.blob_id, d.run_id from temp.doomed d cross join runs r on r.id = d.run_id
    cross join code_files c on c.code_id = r.code_id
  ),
  first (blob_id, run_id) as (select blob_id, min(run_id) from uses group by blob_id)
select f.run_id, cast(total(b.size_bytes) as integer) from first f cross join blobs b on b.id = f.blob_id
where not exists (select 1 from artifacts a cross join attempts n on n.id = a.attempt_id
                  cross join tasks t on t.id = n.task_id
                  where a.blob_id = b.id and t.run_id not in (select run_id from temp.doomed))
  and not exists (select 1 from run_artifacts p
                  where p.blob_id = b.id and p.run_id not in (select run_id from temp.doomed))
  and not exists (select 1 from code_files c join runs r on r.code_id = c.code_id
                  where c.blob_id = b.id and r.id not in (select run_id from temp.doomed))"""

_FREED_LOGS = f"""
with first (log_id, run_id) as (select n.log_id, min(d.run_id) from {_ATTEMPTS} group by n.log_id)
select f.run_id, sum(length(cast(c.text as blob))) from first f cross join log_chunks c on c.log_id = f.log_id
where not exists (select 1 from attempts n cross join tasks t on t.id = n.task_id
                  where n.log_id = f.log_id and t.run_id not in (select run_id from temp.doomed))
group by f.run_id"""


def _stand_in(db: sqlite3.Connection) -> None:
    """Put an empty table in the place of each that an older schema lacks: gone with the snapshot, like all it makes."""
    for name in ("deployments", "deployment_parameters", "leases"):
        if not tables.has(db, name):
            db.execute(f"create temp table {name} (blob_id integer, code_id integer)")


def _mark(db: sqlite3.Connection, run_ids: Iterable[int]) -> None:
    db.execute("create temp table if not exists doomed (run_id integer primary key)")
    db.execute("delete from temp.doomed")
    db.executemany("insert into temp.doomed values (?)", [(run_id,) for run_id in run_ids])


# --- what stays


def _kept(db: sqlite3.Connection, run_ids: Sequence[int], *, force: bool) -> dict[int, str]:
    """Why some of these runs can't be deleted now."""
    wanted = set(run_ids)
    kept = {} if force else _in_production(db, wanted)
    for run_id, why in _in_use(db).items():
        if run_id in wanted:
            kept[run_id] = why
    return kept


def _in_use(db: sqlite3.Connection) -> dict[int, str]:
    """The runs that are alive, and those that one of them takes tasks over from."""
    found: dict[int, str] = {}
    running = db.execute(
        f"select id, {Process.columns()}, last_seen_at, origin_run_id from runs where status = 'running'"
    ).fetchall()
    for row in running:
        if not liveness.is_dead(row):
            found[row["id"]] = f"it is running (process {row['pid']} on {row['host']})"
            if row["origin_run_id"] is not None and str(row["origin_run_id"]).isdecimal():
                found.setdefault(int(row["origin_run_id"]), f"run {row['id']}, which is running, resumes it")
    return found


def _in_production(db: sqlite3.Connection, wanted: set[int]) -> dict[int, str]:
    """The newest successful run of each flow in each production namespace, as far as it is wanted."""
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


def delete(store: Store, doomed: Iterable[Candidate], *, force: bool = False) -> Deleted:
    """Delete the candidates that are not to be kept, and give their space back.

    A run that somebody else began to resume, or deleted, since the candidates were looked up is left alone.
    """
    before = vacuum.size_bytes(store)
    gone: list[int] = []
    touched = _Touched()
    with store.write():
        pass  # brings an older store to the newest schema
    records.record_dead_runs(store)
    staging.drop_dead_leases(store)
    with vacuum.unlinked(store):
        for batch in _batches(each for each in doomed if each.kept_because is None):
            began = time.monotonic()
            with store.write() as db:
                gone += _delete_runs(db, batch, touched, force=force)
            staging.drop_orphans(store)
            time.sleep(min(0.05, time.monotonic() - began))  # others who wait look for a gap only now and then
        with store.write() as db:
            vacuum.forget(db, sorted(touched.tags), sorted(touched.flows))
        vacuum.shrink(store)
    return Deleted(gone, before, vacuum.size_bytes(store))


def _batches(doomed: Iterable[Candidate]) -> Iterator[list[int]]:
    batch: list[int] = []
    tasks = 0
    for each in doomed:
        if batch and (len(batch) >= RUNS_AT_A_TIME or tasks + each.tasks > TASKS_AT_A_TIME):
            yield batch
            batch, tasks = [], 0
        batch.append(each.id)
        tasks += each.tasks
    if batch:
        yield batch


@attrs.define
class _Touched:
    """Names that the deleted runs had, which may be nobody's now."""

    tags: set[int] = attrs.field(factory=set)
    flows: set[int] = attrs.field(factory=set)


def _delete_runs(db: sqlite3.Connection, run_ids: Sequence[int], touched: _Touched, *, force: bool) -> list[int]:
    """Delete those of these runs that may go, with everything that they alone used; gives their ids."""
    kept = _kept(db, run_ids, force=force)
    _mark(db, [run_id for run_id in run_ids if run_id not in kept])
    contents, logs, codes = _ids(db, _CONTENTS), _ids(db, _LOGS), _ids(db, _CODES)
    touched.tags.update(_ids(db, _TAGS))
    touched.flows.update(_ids(db, _FLOWS))
    for statement in _DELETE_ROWS:
        db.execute(statement)
    gone = [row[0] for row in db.execute(_DELETE_RUNS).fetchall()]
    contents += vacuum.drop_codes(db, codes)
    vacuum.drop_logs(db, logs)
    vacuum.put_aside(db, sorted(set(contents)))
    return gone


def _ids(db: sqlite3.Connection, query: str) -> list[int]:
    return list(itertools.chain.from_iterable(db.execute(query).fetchall()))


_DOOMED_RUNS = "(select run_id from temp.doomed)"
_DOOMED_TASKS = f"(select t.id from {_TASKS})"
_DOOMED_ATTEMPTS = f"(select n.id from {_ATTEMPTS})"

_CONTENTS = f"""
  select a.blob_id from {_ATTEMPTS} cross join artifacts a on a.attempt_id = n.id where a.blob_id is not null
  union select p.blob_id from temp.doomed d cross join run_artifacts p on p.run_id = d.run_id"""
_LOGS = f"select distinct n.log_id from {_ATTEMPTS}"
_CODES = """select distinct r.code_id from temp.doomed d cross join runs r on r.id = d.run_id
  where r.code_id is not null"""
_TAGS = """
  select rt.tag_id from temp.doomed d cross join run_tags rt on rt.run_id = d.run_id
  union select n.tag_id from temp.doomed d cross join node_tags n on n.run_id = d.run_id"""
_FLOWS = "select distinct r.flow_id from temp.doomed d cross join runs r on r.id = d.run_id"

_DELETE_ROWS = (
    *(
        f"delete from {table} where run_id in {_DOOMED_RUNS}"
        for table in ("numbers", "node_tags", "run_artifacts", "origins", "unverified")
    ),
    """delete from run_tags where (tag_id, flow_id, created_at, run_id) in (
          select rt.tag_id, rt.flow_id, rt.created_at, rt.run_id
          from temp.doomed d cross join run_tags rt on rt.run_id = d.run_id)""",
    f"delete from artifacts where attempt_id in {_DOOMED_ATTEMPTS}",
    f"delete from task_parents where task_id in {_DOOMED_TASKS}",
    f"delete from attempts where task_id in {_DOOMED_TASKS}",
    f"delete from tasks where id in {_DOOMED_TASKS}",
    f"delete from steps where run_id in {_DOOMED_RUNS}",
    # what they had begun to write is rubbish now
    f"update blobs set staged_by = null where sha is null and staged_by in {_DOOMED_RUNS}",
)
_DELETE_RUNS = f"delete from runs where id in {_DOOMED_RUNS} returning id"
