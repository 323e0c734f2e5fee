"""Resolves the artifacts of tasks: those that they set, and those that they inherit. Works on many tasks per query.

No row says what a task inherits: `tasks.base_id` points to the task whose artifacts it starts from, and so on up
to the start. Tasks that run side by side mostly share that chain, so it is walked once for all of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping

from flowstore.sqlite.database import Database, Row
from flowstore.store.blobs import COLUMNS, Blob

FETCHED_BYTES = 4096  # blobs of at most this size are fetched with the rest, larger ones when they are loaded
_BATCH = 500  # values in one query
_RUN = 0  # stands for the run among its tasks, whose ids begin at 1: it has the parameters

Names = dict[str, int | None]  # by name, a blob; none where the artifact was deleted


def visible_artifacts(
    db: sqlite3.Connection, tasks: Mapping[int, int | None], name: str | None = None
) -> dict[int, dict[str, Blob]]:
    """Return what tasks of one run have after an attempt: what it set, what they inherit, and the run's parameters.

    Args:
        db: of an open transaction.
        tasks: by id, the attempt of each; none: the last one.
        name: only this artifact.

    Returns:
        By task, the blob of each artifact, in the order of the names.
    """
    return {
        task: {name: blob for name, blob in names.items() if blob is not None}
        for task, names in known_artifacts(db, tasks, name).items()
    }


def known_artifacts(
    db: sqlite3.Connection, tasks: Mapping[int, int | None], name: str | None = None
) -> dict[int, dict[str, Blob | None]]:
    """Return the same as `visible_artifacts`, and `None` for each artifact that was deleted."""
    own, bases = _walked(db, tasks, name)
    fixed = own.pop(_RUN, {})
    inherited: dict[int | None, Names] = {}
    had: dict[int, Names] = {}
    for task in tasks:
        base = bases.get(task)
        if base not in inherited:
            inherited[base] = _nearest(base, own, bases)
        had[task] = {**fixed, **inherited[base], **own.get(task, {})}
    blobs = _blobs(db, {blob for names in had.values() for blob in names.values() if blob is not None})
    return {
        task: {name: None if blob is None else blobs.get(blob) for name, blob in sorted(names.items())}
        for task, names in had.items()
    }


def _walked(
    db: sqlite3.Connection, tasks: Mapping[int, int | None], name: str | None
) -> tuple[dict[int, Names], dict[int, int | None]]:
    """Return what the run, each of the tasks, and each that they inherit from has set; and the base of each."""
    own: dict[int, Names] = {}
    bases: dict[int, int | None] = {}
    for batch in _batches(tasks):
        heads = ", ".join("(?, ?)" for _ in batch)
        rows = db.execute(
            f"""with recursive chain (id, attempt_id, base_id) as (
                  select t.id, coalesce(h.column2, t.attempt_id), t.base_id
                  from (values {heads}) h join tasks t on t.id = h.column1
                  union
                  select t.id, t.attempt_id, t.base_id from chain c join tasks t on t.id = c.base_id
                )
                select c.id, c.base_id, a.name as artifact, a.blob_id from chain c
                left join artifacts a on a.attempt_id = c.attempt_id and (? is null or a.name = ?)
                union all
                select ?, null, p.name, p.blob_id from run_artifacts p
                where p.run_id = (select run_id from tasks where id = ?) and (? is null or p.name = ?)""",
            [*(value for task in batch for value in (task, tasks[task])), name, name, _RUN, batch[0], name, name],
        ).fetchall()
        for row in rows:
            bases[row["id"]] = row["base_id"]
            names = own.setdefault(row["id"], {})
            if row["artifact"] is not None:
                names[row["artifact"]] = row["blob_id"]
    return own, bases


def _nearest(task: int | None, own: Mapping[int, Names], bases: Mapping[int, int | None]) -> Names:
    """Return what a task has set or inherits; a circle, as in a file that was tampered with, is walked once."""
    names: Names = {}
    walked: set[int] = set()
    while task is not None and task in own and task not in walked:
        walked.add(task)
        names = {**own[task], **names}
        task = bases[task]
    return names


def _blobs(db: sqlite3.Connection, blob_ids: Iterable[int]) -> dict[int, Blob]:
    by_id: dict[int, Blob] = {}
    columns = COLUMNS.replace("b.data", f"iif(b.size_bytes <= {FETCHED_BYTES}, b.data, null) as data")
    for batch in _batches(blob_ids):
        marks = ", ".join("?" * len(batch))
        rows = db.execute(f"select {columns} from blobs b where b.id in ({marks})", batch).fetchall()
        by_id.update((row["blob_id"], Blob.of(row)) for row in rows)
    return by_id


def _batches(values: Iterable[int]) -> Iterator[list[int]]:
    every = list(values)
    return (every[at : at + _BATCH] for at in range(0, len(every), _BATCH))


def setter_of(store: Database, task_id: int, attempt_id: int, name: str) -> Row | None:
    """Return the task that set an artifact, this one or the nearest that it inherits from; `None` for a parameter.

    The row has the task's `task_id`, `run_id` and `step`, and `at`, when the attempt that set the artifact finished.

    In a file that was tampered with tasks may flow into each other in a circle, so the walk ends after as many
    steps as there can be tasks; the nearest are right all the same.
    """
    return store.row(
        """with recursive chain (depth, id, attempt_id, base_id) as (
             select 0, t.id, :attempt_id, t.base_id from tasks t where t.id = :task_id
             union all
             select c.depth + 1, t.id, t.attempt_id, t.base_id from chain c join tasks t on t.id = c.base_id
             limit (select max(1, min(coalesce(max(id), 1), 1000000)) from tasks)
           )
           select t.id as task_id, t.run_id, s.name as step, coalesce(at.finished_at, at.started_at) as at
           from chain c join artifacts a on a.attempt_id = c.attempt_id and a.name = :name
           join attempts at on at.id = c.attempt_id join tasks t on t.id = c.id join steps s on s.id = t.step_id
           order by c.depth limit 1""",
        {"attempt_id": attempt_id, "task_id": task_id, "name": name},
    )


def same_bytes(store: Database, blob_id: int, but: tuple[int, str], limit: int) -> list[str]:
    """Return the pathspecs of other artifacts that tasks have set to the same bytes, the latest first.

    Args:
        store: the store.
        blob_id: the bytes.
        but: the task and the name of the artifact that is looked at.
        limit: the most that are wanted.
    """
    rows = store.rows(
        """select f.name as flow, t.run_id, s.name as step, t.id, a.name as artifact
           from artifacts a join attempts at on at.id = a.attempt_id
           join tasks t on t.id = at.task_id and t.attempt_id = at.id
           join steps s on s.id = t.step_id join runs r on r.id = t.run_id join flows f on f.id = r.flow_id
           where a.blob_id = ? and a.merged = 0 and (t.id, a.name) <> (?, ?) order by a.attempt_id desc limit ?""",
        (blob_id, *but, limit),
    )
    return [f"{row['flow']}/{row['run_id']}/{row['step']}/{row['id']}/{row['artifact']}" for row in rows]
