"""Problems of a store's rows, and the pathspecs that say where they are."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

REPAIR = "flowstore check --repair"
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)  # the latter if SQLite's message quotes what it can't decode
Values = Mapping[str, Any] | Sequence[Any]


@attrs.frozen
class Problem:
    """One thing that is wrong with a store.

    Attributes:
        kind: a stable name of what kind it is.
        where: the pathspec of what it concerns, else a table or 'the file'.
        problem: what is wrong.
        remedy: what can be done.
        note: whether it is only worth knowing.
        repair: what repairing does about it.
        statements: the statements that do so, each with its values; empty where rows can't.
    """

    kind: str
    where: str
    problem: str
    remedy: str
    note: bool = False
    repair: str = ""
    statements: Sequence[tuple[str, Values]] = attrs.field(default=(), repr=False)

    @classmethod
    def repairable(
        cls, kind: str, where: str, problem: str, repair: str, statements: Sequence[tuple[str, Values]] = ()
    ) -> Problem:
        """Return one that `repair` does something about."""
        return cls(kind, where, problem, f"{REPAIR} {repair}", repair=repair, statements=statements)


def location(db: sqlite3.Connection, row: Mapping[str, Any], otherwise: str) -> str:
    """Return the pathspec of what a row is about, as far as the rows above it are there."""
    keys = row.keys()
    name = f"/{row['name']}" if "name" in keys and row["name"] is not None else ""
    if "attempt_id" in keys and row["attempt_id"] is not None:
        task_id = _value(db, "select task_id from attempts where id = ?", row["attempt_id"])
        return (f"attempt {row['attempt_id']}" if task_id is None else _task(db, task_id)) + name
    if "task_id" in keys and row["task_id"]:
        return _task(db, row["task_id"]) + name
    if "step_id" in keys and row["step_id"]:
        return _step(db, row["step_id"])
    if "run_id" in keys and row["run_id"] is not None:
        return _run(db, row["run_id"]) + name
    if "blob_id" in keys and row["blob_id"] is not None:
        return blob_location(db, row["blob_id"])
    return otherwise


def blob_location(db: sqlite3.Connection, blob_id: int) -> str:
    """Return the first of the artifacts, parameters or files that have a blob."""
    row = _row(db, "select attempt_id, name from artifacts where blob_id = ? order by attempt_id limit 1", blob_id)
    if row is not None:
        return location(db, row, "")
    row = _row(db, "select run_id, name from run_artifacts where blob_id = ? order by run_id limit 1", blob_id)
    if row is not None:
        return location(db, row, "")
    row = _row(db, "select attempt_id, n from cards where blob_id = ? order by attempt_id limit 1", blob_id)
    if row is not None:
        return f"{location(db, row, '')}: card {row['n']}"
    row = _row(db, "select code_id, path from code_files where blob_id = ? limit 1", blob_id)
    if row is not None:
        run_id = _value(db, "select min(id) from runs where code_id = ?", row["code_id"])
        return f"{'a deployment' if run_id is None else _run(db, run_id)}: code, {row['path']}"
    row = _row(db, "select deployment_id, name from deployment_parameters where blob_id = ? limit 1", blob_id)
    if row is not None:
        return f"deployment {row['deployment_id']}, {row['name']}"
    return f"blob {blob_id}"


def _task(db: sqlite3.Connection, task_id: int) -> str:
    row = _row(db, "select step_id from tasks where id = ?", task_id)
    return f"task {task_id}" if row is None else f"{_step(db, row['step_id'])}/{task_id}"


def _step(db: sqlite3.Connection, step_id: int) -> str:
    row = _row(db, "select run_id, name from steps where id = ?", step_id)
    return f"step {step_id}" if row is None else f"{_run(db, row['run_id'])}/{row['name']}"


def _run(db: sqlite3.Connection, run_id: int) -> str:
    flow = _value(db, "select f.name from runs r join flows f on f.id = r.flow_id where r.id = ?", run_id)
    return f"run {run_id}" if flow is None else f"{flow}/{run_id}"


def _row(db: sqlite3.Connection, sql: str, value: Any) -> Any:
    try:
        return db.execute(sql, (value,)).fetchone()
    except UNREADABLE:
        return None  # it is on an unreadable page: the location is less precise


def _value(db: sqlite3.Connection, sql: str, value: Any) -> Any:
    row = _row(db, sql, value)
    return None if row is None else row[0]
