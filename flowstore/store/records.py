"""Rows of runs, tasks and attempts: every write that a run makes of them.

All functions take the connection of an open `Database.write()`; what one call of `write()` holds becomes
visible together. Times are milliseconds since 1970, UTC.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flowstore import later
from flowstore.sqlite import liveness
from flowstore.sqlite.database import Database
from flowstore.sqlite.liveness import Process
from flowstore.store import cards, metrics, staging, tables
from flowstore.store.blobs import Blob
from flowstore.store.codecs import Encoded, decode
from flowstore.store.json_levels import MAX_VALUE_BYTES
from flowstore.store.tags import date_tag, ensure_tag, pair_tags

SMALL_PARAMETER_BYTES = 4096


def now_ms() -> int:
    """Return the time, in milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


@later.frozen
class NewRun:
    """A run before it starts.

    Attributes:
        flow, user: names.
        parameters: the JSON of each, for the `run_summary` view.
        artifacts: name, kind ('parameter' or 'constant') and blob of each.
        code_id: the snapshot of its source.
        system_tags, tags: text.
        origin_run_id: the run that it resumes.
        trigger_events: the JSON of the events that started it.
        start_step, end_step: the names of its first and last steps, where these are not `start` and `end`.
        environment: the versions of the distributions that it has imported, by name.
    """

    flow: str
    user: str
    parameters: Mapping[str, str]
    artifacts: Sequence[tuple[str, str, int]]
    code_id: int | None
    system_tags: Sequence[str]
    tags: Sequence[str]
    origin_run_id: str | None = None
    start_step: str | None = None
    end_step: str | None = None
    trigger_events: str | None = None
    environment: Mapping[str, str] = later.field(factory=dict)


def shown(parameter: Encoded | Blob) -> Any:
    """Return a parameter's value as `run_summary` shows it: JSON where it is small, else the preview."""
    data = parameter.content if isinstance(parameter, Encoded) else parameter.data
    small = parameter.codec == "json" and data is not None and parameter.size_bytes <= SMALL_PARAMETER_BYTES
    return decode("json", iter([data or b""]), parameter.size_bytes) if small else parameter.preview


def parameter_json(db: sqlite3.Connection, parameter: Encoded | Blob) -> str:
    """Return a parameter as `run_summary` shows it, by the rules of `artifact_values.value`; null where it has none."""
    data = parameter.content if isinstance(parameter, Encoded) else parameter.data
    if parameter.codec == "json":
        return data.decode() if data is not None and parameter.size_bytes <= MAX_VALUE_BYTES else "null"
    if isinstance(parameter, Encoded):
        return parameter.description.plain.value or "null"
    row = db.execute("select value from blob_values where blob_id = ?", (parameter.id,)).fetchone()
    return "null" if row is None or row["value"] is None else str(row["value"])


def create_run(db: sqlite3.Connection, run: NewRun) -> int:
    """Insert a run with its tags, parameters and constants, and return its id."""
    db.execute("insert or ignore into flows (name) values (?)", (run.flow,))
    flow_id = db.execute("select id from flows where name = ?", (run.flow,)).fetchone()[0]
    newest = "select max(m) from (select (select max(created_at) from runs r where r.flow_id = f.id) m from flows f)"
    created_at = max(now_ms(), db.execute(newest).fetchone()[0] or 0)  # never back, whatever the clock does
    me = liveness.this_process()
    cursor = db.execute(
        f"""insert into runs (uuid, flow_id, user, status, created_at, last_seen_at, {me.columns()},
              origin_run_id, parameters, code_id, start_step, end_step, trigger_events, environment)
            values (?, ?, ?, 'running', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            uuid.uuid4().hex, flow_id, run.user, created_at, created_at, *me.values, run.origin_run_id,
             _object(run.parameters), run.code_id, run.start_step, run.end_step, run.trigger_events,
             json.dumps(run.environment),
        ),
    )  # fmt: skip
    run_id = cursor.lastrowid
    assert run_id is not None
    db.executemany(
        "insert into run_artifacts (run_id, name, kind, blob_id) values (?, ?, ?, ?)",
        [(run_id, *artifact) for artifact in run.artifacts],
    )
    system = dict.fromkeys([*run.system_tags, date_tag(created_at)])
    tag_ids = {tag: ensure_tag(db, tag) for tag in dict.fromkeys([*system, *run.tags])}
    db.executemany(
        "insert into run_tags (tag_id, flow_id, created_at, run_id, system) values (?, ?, ?, ?, ?)",
        [(tag_id, flow_id, created_at, run_id, int(tag in system)) for tag, tag_id in tag_ids.items()],
    )
    pair_tags(db, flow_id, created_at, [*tag_ids.values()])
    return run_id


def add_to_environment(db: sqlite3.Connection, run_id: int, versions: Mapping[str, str]) -> None:
    """Add versions of distributions to those that a run has imported; a distribution keeps its first version."""
    text = db.execute("select environment from runs where id = ?", (run_id,)).fetchone()[0]
    known = json.loads(text or "{}")
    if versions.keys() - known:
        db.execute("update runs set environment = ? where id = ?", (json.dumps({**versions, **known}), run_id))


def _object(members: Mapping[str, str]) -> str:
    """Return a JSON object, of the JSON of its members."""
    return "{" + ", ".join(f"{json.dumps(name, ensure_ascii=False)}: {text}" for name, text in members.items()) + "}"


def ensure_step(db: sqlite3.Connection, run_id: int, name: str) -> int:
    """Return the id of a run's step, which is inserted if it is missing."""
    row = db.execute("select id from steps where run_id = ? and name = ?", (run_id, name)).fetchone()
    if row is None:
        row = db.execute(
            "insert into steps (run_id, name, created_at) values (?, ?, ?) returning id", (run_id, name, now_ms())
        ).fetchone()
    return int(row[0])


@later.frozen
class NewTask:
    """A task that begins.

    Attributes:
        run_id, step_id: where it belongs.
        parents: the tasks that it follows.
        base_id: the task whose artifacts it starts from.
        foreach_path: its index in each enclosing foreach.
        item: a preview of its foreach item.
        id: its row, if that was reserved with `reserve_ids`.
        started_at: when it began, in milliseconds since 1970; `None` for now.
    """

    run_id: int
    step_id: int
    parents: Sequence[int]
    base_id: int | None = None
    foreach_path: str | None = None
    item: str | None = None
    id: int | None = None
    started_at: int | None = None


def reserve_ids(db: sqlite3.Connection, table: str, count: int) -> range:
    """Return the next ids of a table whose ids are never used again, for rows that may or may not be inserted later."""
    update = "update sqlite_sequence set seq = seq + ? where name = ? returning seq"
    row = db.execute(update, (count, table)).fetchone()
    if row is None:
        db.execute("insert into sqlite_sequence (name, seq) values (?, ?)", (table, count))
    last = count if row is None else int(row[0])
    return range(last - count + 1, last + 1)


def start_task(db: sqlite3.Connection, task: NewTask) -> int:
    """Insert a task that runs; return its id."""
    started_at = now_ms() if task.started_at is None else task.started_at
    cursor = db.execute(
        """insert into tasks (id, run_id, step_id, status, started_at, attempts, foreach_path, base_id, item)
           values (?, ?, ?, 'running', ?, 0, ?, ?, ?)""",
        (task.id, task.run_id, task.step_id, started_at, task.foreach_path, task.base_id, task.item),
    )
    assert cursor.lastrowid is not None
    _link_parents(db, cursor.lastrowid, task.parents)
    return cursor.lastrowid


def _link_parents(db: sqlite3.Connection, task_id: int, parents: Iterable[int]) -> None:
    db.executemany("insert or ignore into task_parents values (?, ?)", [(task_id, parent) for parent in parents])


def start_attempt(
    db: sqlite3.Connection, task_id: int, number: int, attempt_id: int | None = None, started_at: int | None = None
) -> int:
    """Insert an attempt that runs; return its id.

    Args:
        db: of an open transaction.
        task_id: the task's row.
        number: the attempt's, from 0.
        attempt_id: its row, if that was reserved with `reserve_ids`.
        started_at: when it began, in milliseconds since 1970; `None` for now.
    """
    row_id = db.execute(  # a new id is what `autoincrement` would choose, needed here since its log has the same
        """insert into attempts (id, task_id, number, status, started_at, log_id) select n, ?, ?, 'running', ?, n from
           (select coalesce(?, 1 + coalesce((select seq from sqlite_sequence where name = 'attempts'), 0)) as n)""",
        (task_id, number, now_ms() if started_at is None else started_at, attempt_id),
    ).lastrowid
    assert row_id is not None
    db.execute(
        "update tasks set attempts = ?, attempt_id = ?, status = 'running', finished_at = null where id = ?",
        (number + 1, row_id, task_id),
    )
    return row_id


@later.frozen
class AttemptEnd:
    """How an attempt ended, and what it set.

    Attributes:
        status: 'successful', 'failed' or 'stopped'.
        pid: of the process that ran it.
        host: the machine on which that ran, where it is not the run's.
        artifacts: name, blob (none: deleted) and 1 where merged, of each.
        transition: what `next` asked for, as JSON.
        error: the type, message and traceback of the exception, if there was one.
        metadata: whatever else is worth keeping.
    """

    status: str
    pid: int | None = None
    host: str | None = None
    artifacts: Sequence[tuple[str, int | None, int]] = ()
    transition: str | None = None
    error: tuple[str, str, str] | None = None
    metadata: Mapping[str, Any] | None = None


def finish_attempt(db: sqlite3.Connection, task_id: int, attempt_id: int, end: AttemptEnd) -> None:
    """Record how an attempt ended, and what it set."""
    at = now_ms()
    metadata = json.dumps(end.metadata) if end.metadata else None
    db.execute(
        """update attempts set status = ?, finished_at = max(?, started_at), pid = ?, metadata = ?,
             error_type = ?, error_message = ?, traceback = ? where id = ?""",
        (end.status, at, end.pid, metadata, *(end.error or (None, None, None)), attempt_id),
    )
    if end.host is not None:
        db.execute("update attempts set ran_on = ? where id = ?", (end.host, attempt_id))
    db.execute(
        "update tasks set status = ?, finished_at = max(?, started_at), transition = ? where id = ?",
        (end.status, at, end.transition, task_id),
    )
    add_artifacts(db, [(attempt_id, *artifact) for artifact in end.artifacts])


def add_artifacts(db: sqlite3.Connection, rows: Iterable[tuple[int, str, int | None, int]]) -> None:
    """Add attempt, name, blob (none: deleted) and 1 where merged, of each artifact that attempts have set."""
    db.executemany("insert into artifacts (attempt_id, name, blob_id, merged) values (?, ?, ?, ?)", rows)


@later.frozen
class WholeTask:
    """A task whose first attempt has ended before anybody saw it begin: the task, the attempt's row, and its end."""

    task: NewTask
    attempt_id: int
    end: AttemptEnd


def add_whole_tasks(db: sqlite3.Connection, whole: Sequence[WholeTask]) -> None:
    """Insert tasks that have ended with their first attempt, all but what they set; their ids were reserved."""
    at = now_ms()
    tasks: list[tuple[Any, ...]] = []
    attempts: list[tuple[Any, ...]] = []
    parents: list[tuple[int | None, int]] = []
    for item in whole:
        task, end = item.task, item.end
        begun = at if task.started_at is None else task.started_at
        tasks.append((
            task.id, task.run_id, task.step_id, end.status, begun, max(at, begun), item.attempt_id, task.foreach_path,
            task.base_id, task.item, end.transition,
        ))  # fmt: skip
        metadata = json.dumps(end.metadata) if end.metadata else None
        attempts.append((
            item.attempt_id, task.id, end.status, begun, max(at, begun), end.pid, item.attempt_id, metadata,
            *(end.error or (None, None, None)), end.host,
        ))  # fmt: skip
        parents += [(task.id, parent) for parent in task.parents]
    db.executemany(
        """insert into tasks (id, run_id, step_id, status, started_at, finished_at, attempts, attempt_id, foreach_path,
             base_id, item, transition) values (?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?)""",
        tasks,
    )
    db.executemany("insert or ignore into task_parents values (?, ?)", parents)
    db.executemany(
        """insert into attempts (id, task_id, number, status, started_at, finished_at, pid, log_id, metadata,
             error_type, error_message, traceback, ran_on) values (?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        attempts,
    )


def reuse_task(
    db: sqlite3.Connection, run_id: int, step_id: int, origin_id: int, parents: Sequence[int], base_id: int | None
) -> int:
    """Insert a task of a resumed run that points at the results of an earlier run's task, and return its id."""
    cursor = db.execute(
        """insert into tasks (run_id, step_id, status, started_at, finished_at, attempts, foreach_path, item, base_id,
             transition, origin_pathspec)
           select ?, ?, t.status, t.started_at, t.finished_at, 1, t.foreach_path, t.item, ?, t.transition,
             coalesce(t.origin_pathspec, f.name || '/' || r.id || '/' || s.name || '/' || t.id)
           from tasks t join steps s on s.id = t.step_id join runs r on r.id = t.run_id join flows f on f.id = r.flow_id
           where t.id = ?""",
        (run_id, step_id, base_id, origin_id),
    )
    task_id = cursor.lastrowid
    assert task_id is not None
    _link_parents(db, task_id, parents)
    attempt_id = db.execute(
        """insert into attempts (task_id, number, status, started_at, finished_at, pid, log_id, metadata,
             error_type, error_message, traceback, ran_on)
           select ?, 0, a.status, a.started_at, a.finished_at, a.pid, a.log_id, a.metadata,
             a.error_type, a.error_message, a.traceback,
             coalesce(a.ran_on, case when t.origin_pathspec is null then r.host end)
           from attempts a join tasks t on t.attempt_id = a.id join runs r on r.id = t.run_id where t.id = ?""",
        (task_id, origin_id),
    ).lastrowid
    db.execute("update tasks set attempt_id = ? where id = ?", (attempt_id, task_id))
    db.execute(
        """insert into artifacts (attempt_id, name, blob_id, merged)
           select ?, a.name, a.blob_id, a.merged from artifacts a join tasks t on t.attempt_id = a.attempt_id
           where t.id = ?""",
        (attempt_id, origin_id),
    )
    assert attempt_id is not None
    cards.take_over(db, attempt_id, origin_id)
    if not tables.is_empty(db, "unverified"):
        db.execute(
            """insert or ignore into unverified
               select ?, u.blob_id from artifacts a join tasks t on t.id = ?
               join unverified u on u.run_id = t.run_id and u.blob_id = a.blob_id where a.attempt_id = ?""",
            (run_id, origin_id, attempt_id),
        )
    return task_id


def append_log(db: sqlite3.Connection, rows: Iterable[tuple[int, str, int, str]]) -> None:
    """Append log id, stream, time and text of each piece."""
    db.executemany("insert into log_chunks (log_id, stream, written_at, text) values (?, ?, ?, ?)", rows)


def finish_run(db: sqlite3.Connection, run_id: int, status: str) -> None:
    """Record how a run ended; attempts that were still running end with it."""
    at = now_ms()
    db.execute(
        "update runs set status = ?, finished_at = max(?, created_at), last_seen_at = max(?, created_at) where id = ?",
        (status, at, at, run_id),
    )
    if status == "successful":
        db.execute(
            """update run_tags set successful = 1 where (tag_id, flow_id, created_at, run_id) in
               (select tag_id, flow_id, created_at, run_id from run_tags where run_id = ?)""",
            (run_id,),
        )
    else:
        _end_tasks(db, run_id, "stopped" if status == "failed" else status, at)


def _end_tasks(db: sqlite3.Connection, run_id: int, status: str, at_ms: int) -> None:
    db.execute(
        """update attempts set status = ?, finished_at = max(?, started_at) where status = 'running'
           and task_id in (select id from tasks where run_id = ? and status = 'running')""",
        (status, at_ms, run_id),
    )
    db.execute(
        "update tasks set status = ?, finished_at = max(?, started_at) where run_id = ? and status = 'running'",
        (status, at_ms, run_id),
    )


def touch_run(db: sqlite3.Connection, run_id: int) -> None:
    """Record that the driver lives."""
    staging.keep_leases(db)
    db.execute("update runs set last_seen_at = max(?, last_seen_at) where id = ?", (now_ms(), run_id))


def record_dead_runs(store: Database) -> None:
    """Mark the runs whose driver died, and remove what they had begun to write. Whoever writes to a store does this."""
    running = store.rows(f"select id, last_seen_at, {Process.columns()} from runs where status = 'running'")
    dead = [row for row in running if liveness.is_dead(row)]
    if dead:
        with store.write() as db:
            for row in dead:
                record_death(db, row["id"], row["last_seen_at"])
    if dead or staging.has_orphans(store):
        staging.drop_dead_leases(store)
        staging.drop_orphans(store)


def record_death(db: sqlite3.Connection, run_id: int, last_seen_at: int) -> None:
    """Mark a run as dead; the caller has established that its driver is gone."""
    db.execute(
        "update runs set status = 'dead', finished_at = last_seen_at where id = ? and status = 'running'", (run_id,)
    )
    _end_tasks(db, run_id, "dead", last_seen_at)
    metrics.settle(db, run_id)
