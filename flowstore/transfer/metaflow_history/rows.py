"""Writes the runs that were read from Metaflow's folder, in the caller's transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from flowstore.sqlite.database import Store
from flowstore.store import blobs, metrics, records, tags, trust
from flowstore.store.queries import METAFLOW
from flowstore.transfer.export import insert_rows
from flowstore.transfer.importing import is_ours, kept_apart
from flowstore.transfer.metaflow_history import logs
from flowstore.transfer.metaflow_history.folder import Folder
from flowstore.transfer.metaflow_history.runs import Attempt, Run, Task, is_internal
from flowstore.transfer.metaflow_history.values import Value, Values

_RUNS = [
    "uuid",
    "flow_id",
    "user",
    "status",
    "created_at",
    "finished_at",
    "last_seen_at",
    "host",
    "boot",
    "pid",
    "pid_started",
    "parameters",
    "code_id",
]
_TASKS = [
    "id",
    "run_id",
    "step_id",
    "status",
    "started_at",
    "finished_at",
    "attempts",
    "attempt_id",
    "foreach_path",
    "base_id",
    "transition",
    "item",
    "imported_from",
]
_ATTEMPTS = [
    "id",
    "task_id",
    "number",
    "status",
    "started_at",
    "finished_at",
    "log_id",
    "metadata",
    "error_type",
    "error_message",
    "traceback",
]


class Writer:
    """Writes runs into a store.

    Args:
        db: of an open transaction.
        store: the store.
        folder: the folder that the runs come from, whose logs are read as they are written.
        trusted: whether their pickles may be loaded.
    """

    def __init__(self, db: sqlite3.Connection, store: Store, folder: Folder, *, trusted: bool) -> None:
        self._db = db
        self._store = store
        self._folder = folder
        self._trusted = trusted
        self._latest_ms = records.now_ms()
        self._blob_ids: dict[int, int] = {}
        self._tag_ids: dict[str, int] = {}
        self._next = {table: _last_id(db, table) + 1 for table in ("tasks", "attempts")}
        self.kept_apart: dict[str, str] = {}

    def write(self, run: Run, values: Values) -> str:
        """Write a run; return its pathspec here."""
        db = self._db
        db.execute("insert or ignore into flows (name) values (?)", (run.flow,))
        flow_id = int(db.execute("select id from flows where name = ?", (run.flow,)).fetchone()[0])
        run_id = self._insert_run(run, flow_id, values)
        step_ids = {
            name: db.execute(
                "insert into steps (run_id, name, created_at) values (?, ?, ?) returning id",
                (run_id, name, self._at(at)),
            ).fetchone()[0]
            for name, at in run.steps.items()
        }
        self._write_tags(run, run_id, flow_id)
        self._write_tasks(run, run_id, step_ids, values)
        db.execute("insert into origins values (?, ?, ?, ?)", (run_id, METAFLOW, run.pathspec, self._latest_ms))
        return f"{run.flow}/{run_id}"

    def _at(self, at_ms: int) -> int:
        """Return a time as it is here: no run is from the future, else none of ours would be newer."""
        return min(at_ms, self._latest_ms)

    def _insert_run(self, run: Run, flow_id: int, values: Values) -> int:
        parameters = {
            name: values.stage(artifact).json
            for name, (kind, artifact) in run.parameters.items()
            if kind == "parameter"
        }
        shown = "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in parameters.items()) + "}"
        created_at, finished_at = self._at(run.created_at), self._at(run.finished_at)
        row = (
            run.uuid, flow_id, run.user, run.status, created_at, max(created_at, finished_at),
            max(created_at, finished_at), "", "", 0, "", shown, None,
        )  # fmt: skip
        marks = ", ".join("?" * len(row))
        cursor = self._db.execute(f"insert into runs ({', '.join(_RUNS)}) values ({marks})", row)
        assert cursor.lastrowid is not None
        run_id = cursor.lastrowid
        insert_rows(
            self._db, "run_artifacts", ["run_id", "name", "kind", "blob_id"],
            [(run_id, name, kind, self._blob(run_id, values.stage(artifact)))
             for name, (kind, artifact) in run.parameters.items()],
        )  # fmt: skip
        return run_id

    # --- tags

    def _write_tags(self, run: Run, run_id: int, flow_id: int) -> None:
        created_at = self._at(run.created_at)
        system = dict.fromkeys([*run.system_tags, tags.date_tag(created_at)])
        ids = {self._tag(tag): int(tag in system) for tag in dict.fromkeys([*system, *run.tags]) if tag}
        insert_rows(
            self._db, "run_tags", ["tag_id", "flow_id", "created_at", "run_id", "system", "successful"],
            [(tag_id, flow_id, created_at, run_id, is_system, int(run.status == "successful"))
             for tag_id, is_system in ids.items()],
        )  # fmt: skip
        tags.pair_tags(self._db, flow_id, created_at, [*ids])

    def _tag(self, tag: str) -> int:
        if tag not in self._tag_ids:
            here = tag
            if tag.startswith("production:") and is_ours(self._db, tag):
                here = self.kept_apart[tag] = kept_apart(tag, METAFLOW)
            self._tag_ids[tag] = tags.ensure_tag(self._db, here)
        return self._tag_ids[tag]

    # --- tasks

    def _write_tasks(self, run: Run, run_id: int, step_ids: Mapping[str, int], values: Values) -> None:
        first, attempt_id = self._next["tasks"], self._next["attempts"]
        tasks, attempts, chunks = [], [], []
        measured = metrics.RunMetrics(run_id)
        artifacts: list[tuple[int, str, int | None, int]] = []
        for position, task in enumerate(run.tasks):
            last_id = attempt_id + len(task.attempts) - 1
            parents = run.parents[position]
            base = parents[0] if len(parents) == 1 else None
            tasks.append(
                self._task_row(run, task, first + position, (run_id, step_ids[task.step], last_id), base, first)
            )
            for attempt in task.attempts:
                attempts.append(self._attempt_row(attempt, attempt_id, first + position))
                artifacts += self._changes(run, run_id, position, attempt, attempt_id, values)
                chunks.append((attempt_id, attempt.logs, self._at(attempt.started_at)))
                attempt_id += 1
        insert_rows(self._db, "tasks", _TASKS, tasks)
        insert_rows(
            self._db, "task_parents", ["task_id", "parent_id"],
            [(first + position, first + parent) for position, parents in enumerate(run.parents) for parent in parents],
        )  # fmt: skip
        insert_rows(self._db, "attempts", _ATTEMPTS, attempts)
        insert_rows(self._db, "artifacts", ["attempt_id", "name", "blob_id", "merged"], artifacts)
        for log_id, files, began_at in chunks:
            records.append_log(self._db, logs.rows(self._folder, log_id, files, began_at))
        self._next = {"tasks": first + len(tasks), "attempts": attempt_id}
        self._measure(run, measured, first, values)
        metrics.settle(self._db, run_id)

    def _task_row(
        self, run: Run, task: Task, task_id: int, ids: tuple[int, int, int], base: int | None, first: int
    ) -> tuple[Any, ...]:
        run_id, step_id, attempt_id = ids
        started_at = self._at(task.created_at)
        return (
            task_id, run_id, step_id, task.last.status, started_at, max(started_at, self._at(task.last.finished_at)),
            len(task.attempts), attempt_id, "/".join(map(str, task.indexes)) or None,
            None if base is None else first + base, json.dumps(task.transition) if task.transition else None, task.item,
            f"{run.pathspec}/{task.step}/{task.id}",
        )  # fmt: skip

    def _attempt_row(self, attempt: Attempt, attempt_id: int, task_id: int) -> tuple[Any, ...]:
        facts = {fact.name: fact.value for fact in attempt.facts}
        started_at = self._at(attempt.started_at)
        return (
            attempt_id, task_id, attempt.number, attempt.status, started_at,
            max(started_at, self._at(attempt.finished_at)), attempt_id, json.dumps(facts) if facts else None,
            *(attempt.error or (None, None, None)),
        )  # fmt: skip

    # --- artifacts

    def _changes(
        self, run: Run, run_id: int, position: int, attempt: Attempt, attempt_id: int, values: Values
    ) -> Iterator[tuple[int, str, int | None, int]]:
        """Yield the rows of what an attempt has set: what it had, without what it has from the tasks before it."""
        before = [run.tasks[parent].last.artifacts for parent in run.parents[position]]
        base = before[0] if len(before) == 1 else {}
        own = {name: artifact for name, artifact in attempt.artifacts.items() if not is_internal(name)}
        for name, artifact in sorted(own.items()):
            fixed = run.parameters.get(name)
            if fixed is not None and fixed[1].sha1 == artifact.sha1:
                continue
            if name in base and base[name].sha1 == artifact.sha1:
                continue
            merged = len(before) > 1 and any(name in other and other[name].sha1 == artifact.sha1 for other in before)
            yield attempt_id, name, self._blob(run_id, values.stage(artifact)), int(merged)
        if attempt.artifacts:
            gone = (name for name in base if name not in own and not is_internal(name) and name not in run.parameters)
            yield from ((attempt_id, name, None, 0) for name in sorted(gone))

    def _blob(self, run_id: int, value: Value) -> int:
        """Publish a value, and return its row."""
        blob_id = self._blob_ids.get(id(value))
        if blob_id is None:
            blob_id = self._blob_ids[id(value)] = value.incoming.publish(self._db)
            if not value.is_pickle:
                blobs.describe(self._db, blob_id, value.description)
            elif self._trusted:
                value.incoming.sign(self._db, blob_id)
        if value.is_pickle and not self._trusted:
            trust.mark_unverified(self._db, run_id, [blob_id])
        return blob_id

    def _measure(self, run: Run, measured: metrics.RunMetrics, first: int, values: Values) -> None:
        for position, task in enumerate(run.tasks):
            base = [run.tasks[parent].last.artifacts for parent in run.parents[position]]
            numbers = {}
            for name, artifact in task.last.artifacts.items():
                if (
                    name[:1] == "_"
                    or name in run.parameters
                    or any(name in b and b[name].sha1 == artifact.sha1 for b in base)
                ):
                    continue
                if inside := values.stage(artifact).numbers:
                    numbers[name] = inside
            if numbers:
                measured.record(self._db, first + position, numbers, numbers)


def _last_id(db: sqlite3.Connection, table: str) -> int:
    row = db.execute(
        f"""select max(coalesce((select max(seq) from sqlite_sequence where name = ?), 0),
                       coalesce((select max(id) from {table}), 0))""",
        (table,),
    ).fetchone()
    return int(row[0])
