"""Metrics: the numbers inside artifacts, as rows of `numbers`, and which of them a run ends with.

A row is `final` where the run's end task sees the artifact as it was set there. Until a run has an end task, the value
that was set last counts. Whoever adds rows keeps this up by itself, since a run may be killed at any time; `settle`
computes it from what the tasks of a run have set.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence

from flowstore.sqlite.database import Database
from flowstore.store.plain import Numbers, full_name

_BATCH = 500  # runs in one query


class RunMetrics:
    """Writes the metrics of a run that is going on, and knows which tasks have set each artifact that has some.

    Args:
        run_id: the run.
    """

    def __init__(self, run_id: int) -> None:
        self._run_id = run_id
        self._setters: dict[str, list[int]] = {}  # by artifact, in the order in which they set it
        self._changed: set[str] = set()  # artifacts that have been set since the last `write`, and the numbers in them
        self._rows: list[tuple[int, str, str, float]] = []

    def record(self, task_id: int, measured: Mapping[str, Numbers], named: Iterable[str]) -> Collection[str]:
        """Take the metrics of an attempt, which are the last of their artifacts now, for `write`.

        Args:
            task_id: the attempt's task.
            measured: the numbers in each artifact.
            named: all artifacts that the attempt has set or deleted.

        Returns:
            The artifacts to hand to `drop` if the task is tried again.
        """
        changed = {*measured, *(self._setters.keys() & named)}
        for artifact in changed:
            self._setters.setdefault(artifact, []).append(task_id)
        self._changed |= changed
        self._rows += [
            (task_id, artifact, full_name(artifact, name), number)
            for artifact, numbers in measured.items()
            for name, number in numbers
        ]
        return changed

    def write(self, db: sqlite3.Connection) -> None:
        """Write what was recorded."""
        if not self._changed:
            return
        db.executemany(
            "update numbers set final = 0 where run_id = ? and artifact = ? and final = 1",
            [(self._run_id, artifact) for artifact in self._changed],
        )
        last = {artifact: self._setters[artifact][-1] for artifact in self._changed}
        db.executemany(
            "insert into numbers (run_id, task_id, artifact, name, magnitude, final) values (?, ?, ?, ?, ?, ?)",
            [(self._run_id, *row, int(row[0] == last[row[1]])) for row in self._rows],
        )
        self._changed, self._rows = set(), []

    def drop(self, db: sqlite3.Connection, task_id: int, artifacts: Iterable[str]) -> None:
        """Remove the metrics of a task that is tried again; what had been set before it counts again."""
        self.write(db)
        before = []
        for artifact in artifacts:
            setters = self._setters[artifact]
            was_last = setters[-1] == task_id
            setters.remove(task_id)
            if was_last and setters:
                before.append((self._run_id, setters[-1], artifact))
        db.execute("delete from numbers where run_id = ? and task_id = ?", (self._run_id, task_id))
        db.executemany("update numbers set final = 1 where run_id = ? and task_id = ? and artifact = ?", before)

    def take_over(self, db: sqlite3.Connection, origin_id: int, tasks: Sequence[tuple[int, int]]) -> None:
        """Give tasks of a resumed run the metrics of those that they reuse.

        Args:
            db: of an open transaction.
            origin_id: the run that is resumed.
            tasks: pairs of a task and the one that it reuses.
        """
        self.write(db)
        db.execute(
            """insert into numbers (run_id, task_id, artifact, name, magnitude, final)
               select ?, j.value ->> 0, n.artifact, n.name, n.magnitude, 0
               from json_each(?) j cross join numbers n where n.run_id = ? and n.task_id = j.value ->> 1
               order by j.key, n.id""",
            (self._run_id, json.dumps(tasks), origin_id),
        )
        settle(db, self._run_id)
        for row in db.execute(
            """select artifact, max(iif(final, task_id, null)) as setter_id from numbers
               where run_id = ? group by artifact""",
            (self._run_id,),
        ):
            setters = self._setters.setdefault(row["artifact"], [])
            if row["setter_id"] is not None and row["setter_id"] not in setters:
                setters.append(row["setter_id"])


def settle(db: sqlite3.Connection, run_id: int) -> None:
    """Compute which metrics of a run are final from what its tasks have set."""
    rows = db.execute("select distinct artifact from numbers where run_id = ?", (run_id,)).fetchall()
    if not rows:
        return
    end = db.execute(
        """select min(t.id) as end_id from runs r join steps s on s.run_id = r.id
           join tasks t on t.run_id = s.run_id and t.step_id = s.id
           where r.id = ? and s.name = coalesce(r.end_step, 'end') and t.status = 'successful'""",
        (run_id,),
    ).fetchone()["end_id"]
    for (artifact,) in rows:
        task_id = _set_last(db, run_id, artifact) if end is None else _setter(db, end, artifact)
        db.execute(
            """update numbers set final = (task_id is ?) where run_id = ? and artifact = ?
               and (final = 1 or task_id = ?)""",
            (task_id, run_id, artifact, task_id),
        )


def _setter(db: sqlite3.Connection, task_id: int, artifact: str) -> int | None:
    """Return the task that set an artifact as another task sees it: itself, one before it, or of a branch it joined."""
    pending, looked_at = [task_id], {task_id}
    blob_id = None
    while pending:
        setter = db.execute(
            """with recursive chain (id, attempt_id, base_id) as (
                 select t.id, t.attempt_id, t.base_id from tasks t where t.id = ?
                 union
                 select t.id, t.attempt_id, t.base_id from chain c join tasks t on t.id = c.base_id
               )
               select c.id as task_id, a.blob_id, a.merged from chain c
               join artifacts a on a.attempt_id = c.attempt_id and a.name = ? limit 1""",
            (pending.pop(), artifact),
        ).fetchone()
        if setter is None or setter["blob_id"] is None or blob_id not in (None, setter["blob_id"]):
            continue
        if not setter["merged"]:
            return int(setter["task_id"])
        blob_id = setter["blob_id"]
        parents = db.execute(
            "select parent_id from task_parents where task_id = ? order by parent_id desc", (setter["task_id"],)
        ).fetchall()
        pending += [parent for (parent,) in parents if parent not in looked_at]
        looked_at.update(pending)
    return None


def _set_last(db: sqlite3.Connection, run_id: int, artifact: str) -> int | None:
    """Return the task of a run that set an artifact last."""
    row = db.execute(
        """select t.id as task_id from tasks t cross join artifacts a on a.attempt_id = t.attempt_id and a.name = ?
           where t.run_id = ? and a.merged = 0 order by t.finished_at desc, t.attempt_id desc limit 1""",
        (artifact, run_id),
    ).fetchone()
    return None if row is None else int(row["task_id"])


def final(store: Database, run_ids: Collection[int]) -> dict[int, dict[str, float]]:
    """Return the final metrics of runs, by run and name."""
    by_run: dict[int, dict[str, float]] = {run_id: {} for run_id in run_ids}
    ids: Sequence[int] = [*by_run]
    for at in range(0, len(ids), _BATCH):
        rows = store.rows(  # every artifact has a name: asking for that, too, lets SQLite take the index of final ones
            """select m.run_id, m.name as metric, m.number as magnitude from json_each(?) j
               cross join metrics m on m.run_id = j.value where m.final = 1 and m.artifact > ''""",
            (json.dumps(ids[at : at + _BATCH]),),
        )
        for row in rows:
            by_run[row["run_id"]].setdefault(row["metric"], row["magnitude"])
    return by_run


def of_task(store: Database, run_id: int, task_id: int, limit: int) -> dict[str, float]:
    """Return the metrics that a task has set, by name, in the order in which it did; the first ones."""
    rows = store.rows(
        "select name as metric, number as magnitude from metrics where run_id = ? and task_id = ? limit ?",
        (run_id, task_id, limit),
    )
    return {row["metric"]: row["magnitude"] for row in rows}
