"""Writes the runs that were read from Metaflow's folder, in the caller's transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import attrs

from flowstore.client.facts import FROM_METAFLOW
from flowstore.sqlite.database import Database
from flowstore.store import blobs, cards, metrics, records, snapshots, tags, trust
from flowstore.store.cards import RenderedCard
from flowstore.store.description import NewBlob
from flowstore.store.origins import METAFLOW
from flowstore.transfer.export import insert_rows
from flowstore.transfer.import_ids import last_id
from flowstore.transfer.importing import is_ours, kept_apart
from flowstore.transfer.metaflow_history import attachments
from flowstore.transfer.metaflow_history.folder import Folder
from flowstore.transfer.metaflow_history.runs import Attempt, Run, Task, is_internal
from flowstore.transfer.metaflow_history.values import Artifact, Value, Values

_RUN = """uuid, flow_id, user, status, created_at, finished_at, last_seen_at, host, boot, pid, pid_started,
  parameters, code_id, origin_run_id, start_step, end_step"""


@attrs.frozen(eq=False)
class _Row:
    """A task on its way into the table.

    Attributes:
        task: the task.
        id: its row.
        first_attempt: the row of its first attempt; the others follow.
        parents: the rows of the tasks directly before it.
        before: the artifacts of each of these.
    """

    task: Task
    id: int
    first_attempt: int
    parents: list[int]
    before: list[Mapping[str, Artifact]]

    @property
    def base(self) -> Mapping[str, Artifact]:
        """The artifacts that it starts from: those of the one task before it."""
        return self.before[0] if len(self.before) == 1 else {}

    @property
    def base_id(self) -> int | None:
        """The task that it starts from."""
        return self.parents[0] if len(self.parents) == 1 else None

    def has_from_before(self, name: str, artifact: Artifact) -> bool:
        """Return whether a task before it had this very artifact."""
        return any(name in other and other[name].sha1 == artifact.sha1 for other in self.before)


class Writer:
    """Writes runs into a store.

    Args:
        db: of an open transaction.
        store: the store.
        folder: the folder that the runs come from, whose logs and code are read as they are written.
        values: what of it is staged.
        here: by their addresses in Metaflow, the runs of the folder that are in the store; those written are added.
        trusted: whether their pickles may be loaded.

    Attributes:
        kept_apart: the tags that would have put a run into a production namespace of this store, as they are now.
        untrusted: how many pickles nobody vouches for.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        store: Database,
        folder: Folder,
        values: Values,
        here: dict[str, int],
        *,
        trusted: bool,
    ) -> None:
        self._db = db
        self._store = store
        self._folder = folder
        self._values = values
        self._here = here
        self._trusted = trusted
        self._latest_ms = records.now_ms()
        self._blob_ids: dict[int, int] = {}
        self._tag_ids: dict[str, int] = {}
        self._code_ids: dict[tuple[str, str], int | None] = {}
        self._task_ids: dict[str, dict[str, int]] = {}
        self._next_task, self._next_attempt = last_id(db, "tasks") + 1, last_id(db, "attempts") + 1
        self.kept_apart: dict[str, str] = {}
        self.untrusted = 0

    def write(self, run: Run) -> str:
        """Write a run; return its pathspec here."""
        self._db.execute("insert or ignore into flows (name) values (?)", (run.flow,))
        flow_id = int(self._db.execute("select id from flows where name = ?", (run.flow,)).fetchone()[0])
        run_id = self._insert_run(run, flow_id)
        fixed = [
            (run_id, name, kind, self._blob(run_id, artifact)) for name, (kind, artifact) in run.parameters.items()
        ]
        insert_rows(self._db, "run_artifacts", ["run_id", "name", "kind", "blob_id"], fixed)
        self._write_tags(run, run_id, flow_id)
        self._write_tasks(run, run_id)
        self._db.execute("insert into origins values (?, ?, ?, ?)", (run_id, METAFLOW, run.pathspec, self._latest_ms))
        self._here[run.pathspec] = run_id
        return f"{run.flow}/{run_id}"

    def _at(self, at_ms: int) -> int:
        """Return a time as it is here: no run is from the future, else none of ours would be newer."""
        return min(at_ms, self._latest_ms)

    def _insert_run(self, run: Run, flow_id: int) -> int:
        texts = {
            name: self._values.stage(artifact).json
            for name, (kind, artifact) in run.parameters.items()
            if kind == "parameter"
        }
        shown = ", ".join(f"{json.dumps(name, ensure_ascii=False)}: {text}" for name, text in texts.items())
        created_at = self._at(run.created_at)
        finished_at = max(created_at, self._at(run.finished_at))
        origin_id = None if run.origin_id is None else self._origin(f"{run.flow}/{run.origin_id}")
        row = (
            run.uuid, flow_id, run.user, run.status, created_at, finished_at, finished_at, "", "", 0, "",
            f"{{{shown}}}", self._code(run), origin_id,
            None if run.start_step == "start" else run.start_step, None if run.end_step == "end" else run.end_step,
        )  # fmt: skip
        cursor = self._db.execute(f"insert into runs ({_RUN}) values ({', '.join('?' * len(row))})", row)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _origin(self, there: str) -> str:
        """Return what names the run that another one resumed: its id where it is here, else its address in Metaflow."""
        return str(self._here[there]) if there in self._here else f"{METAFLOW}/{there}"

    def _code(self, run: Run) -> int | None:
        """Return the snapshot of a run's code, which is inserted unless it is here."""
        if run.code is None:
            return None
        if run.code not in self._code_ids:
            code = attachments.code_of(self._values, run.flow, *run.code)
            if code is None:
                self._code_ids[run.code] = None
            else:  # which says `from metaflow import …`
                program = snapshots.Program(code.script_name, launcher="flowstore.metaflow")
                self._code_ids[run.code] = snapshots.ensure(self._db, self._store, program, code.files)
        return self._code_ids[run.code]

    # --- tags

    def _write_tags(self, run: Run, run_id: int, flow_id: int) -> None:
        created_at = self._at(run.created_at)
        system = dict.fromkeys([*run.system_tags, tags.date_tag(created_at)])
        is_system = {tag: int(tag in system or _is_reserved(tag)) for tag in (*system, *run.tags) if tag}
        ids = {self._tag(tag): value for tag, value in is_system.items()}
        successful = int(run.status == "successful")
        columns = ["tag_id", "flow_id", "created_at", "run_id", "system", "successful"]
        rows = [(tag_id, flow_id, created_at, run_id, value, successful) for tag_id, value in ids.items()]
        insert_rows(self._db, "run_tags", columns, rows)
        tags.pair_tags(self._db, flow_id, created_at, [*ids])

    def _tag(self, tag: str) -> int:
        if tag not in self._tag_ids:
            here = tag
            if tag.startswith("production:") and is_ours(self._db, tag):
                here = self.kept_apart[tag] = kept_apart(tag, METAFLOW)
            self._tag_ids[tag] = tags.ensure_tag(self._db, here)
        return self._tag_ids[tag]

    # --- tasks

    def _write_tasks(self, run: Run, run_id: int) -> None:
        steps = "insert into steps (run_id, name, created_at) values (?, ?, ?) returning id"
        step_ids = {
            name: int(self._db.execute(steps, (run_id, name, self._at(at))).fetchone()[0])
            for name, at in run.steps.items()
        }
        rows = self._numbered(run)
        columns = (
            "id run_id step_id status started_at finished_at attempts attempt_id foreach_path base_id transition item "
            "origin_pathspec imported_from"
        )
        insert_rows(
            self._db, "tasks", columns.split(), [self._task(run, row, run_id, step_ids[row.task.step]) for row in rows]
        )
        parents = [(row.id, parent) for row in rows for parent in row.parents]
        insert_rows(self._db, "task_parents", ["task_id", "parent_id"], parents)
        measured = metrics.RunMetrics(run_id)
        for row in rows:
            self._write_attempts(run, run_id, row)
            self._measure(run, row, measured)
        metrics.settle(self._db, run_id)

    def _numbered(self, run: Run) -> list[_Row]:
        """Return the tasks of a run with their rows."""
        first, attempt_id = self._next_task, self._next_attempt
        rows = []
        for position, task in enumerate(run.tasks):
            parents = [*run.parents[position]]
            before = [run.tasks[parent].last.artifacts for parent in parents]
            rows.append(_Row(task, first + position, attempt_id, [first + parent for parent in parents], before))
            attempt_id += len(task.attempts)
        self._next_task, self._next_attempt = first + len(rows), attempt_id
        return rows

    def _task(self, run: Run, row: _Row, run_id: int, step_id: int) -> tuple[Any, ...]:
        task = row.task
        started_at = self._at(task.created_at)
        return (
            row.id, run_id, step_id, task.last.status, started_at, max(started_at, self._at(task.last.finished_at)),
            len(task.attempts), row.first_attempt + len(task.attempts) - 1, "/".join(map(str, task.indexes)) or None,
            row.base_id, json.dumps(task.transition) if task.transition else None, task.item,
            self._origin_of_task(run, task), f"{run.pathspec}/{task.step}/{task.id}",
        )  # fmt: skip

    def _origin_of_task(self, run: Run, task: Task) -> str | None:
        """Return what names the task that another one was taken over from."""
        if task.origin is None:
            return None
        origin_run, origin_task = task.origin
        there = f"{run.flow}/{origin_run}/{task.step}/{origin_task}"
        run_here = self._origin(f"{run.flow}/{origin_run}")
        task_here = self._tasks_of(run_here).get(there) if run_here.isdecimal() else None
        return f"{METAFLOW}/{there}" if task_here is None else f"{run.flow}/{run_here}/{task.step}/{task_here}"

    def _tasks_of(self, run_id: str) -> dict[str, int]:
        """Return the tasks of a run that comes from Metaflow, by their addresses there."""
        if run_id not in self._task_ids:  # read once: a resumed run takes over thousands of tasks of the same run
            rows = self._db.execute(
                "select imported_from, id from tasks where run_id = ? and imported_from is not null", (int(run_id),)
            )
            self._task_ids[run_id] = {row[0]: row[1] for row in rows}
        return self._task_ids[run_id]

    # --- attempts

    def _write_attempts(self, run: Run, run_id: int, row: _Row) -> None:
        columns = "id task_id number status started_at finished_at log_id metadata error_type error_message traceback"
        attempts = [(row.first_attempt + number, attempt) for number, attempt in enumerate(row.task.attempts)]
        values = [self._attempt(attempt, attempt_id, row.id) for attempt_id, attempt in attempts]
        insert_rows(self._db, "attempts", columns.split(), values)
        for attempt_id, attempt in attempts:
            artifacts = self._changes(run, run_id, row, attempt, attempt_id)
            insert_rows(self._db, "artifacts", ["attempt_id", "name", "blob_id", "merged"], artifacts)
            times = self._at(attempt.started_at), self._latest_ms
            lines = attachments.log_rows(self._folder, attempt_id, attempt.logs, times)
            records.append_log(self._db, lines)
            for n, card in enumerate(attempt.cards):
                value = attachments.stage_card(self._values, self._folder, card)
                rendered = RenderedCard(n, card.type, card.id, NewBlob(value.description, value.incoming.sha))
                cards.put(self._db, attempt_id, rendered, self._publish(value), self._at(attempt.finished_at))

    def _attempt(self, attempt: Attempt, attempt_id: int, task_id: int) -> tuple[Any, ...]:
        facts: dict[str, Any] = {
            FROM_METAFLOW: [(fact.name, fact.value, fact.type, self._at(fact.at_ms)) for fact in attempt.facts]
        }
        kind, message, trace = attempt.error or (None, None, None)
        metadata = facts if kind is None else {**facts, "exception-type": kind}
        started_at = self._at(attempt.started_at)
        return (
            attempt_id, task_id, attempt.number, attempt.status, started_at,
            max(started_at, self._at(attempt.finished_at)), attempt_id, json.dumps(metadata),
            None if kind is None else kind.rpartition(".")[2], message, trace,
        )  # fmt: skip

    def _changes(
        self, run: Run, run_id: int, row: _Row, attempt: Attempt, attempt_id: int
    ) -> Iterator[tuple[int, str, int | None, int]]:
        """Yield the rows of what an attempt has set: what it had, without what it has from the task before it."""
        for name, artifact in sorted(_own(run, attempt.artifacts).items()):
            if name not in row.base or row.base[name].sha1 != artifact.sha1:
                merged = int(row.has_from_before(name, artifact))
                yield attempt_id, name, self._blob(run_id, artifact), merged
        if attempt.artifacts:
            gone = _own(run, row.base).keys() - attempt.artifacts.keys()
            yield from ((attempt_id, name, None, 0) for name in sorted(gone))

    def _measure(self, run: Run, row: _Row, measured: metrics.RunMetrics) -> None:
        """Record the numbers in what a task has set."""
        numbers = {
            name: self._values.stage(artifact).numbers
            for name, artifact in _own(run, row.task.last.artifacts).items()
            if not name.startswith("_") and not row.has_from_before(name, artifact)
        }
        named: Collection[str] = numbers.keys()
        measured.record(row.id, {name: inside for name, inside in numbers.items() if inside}, named)
        measured.write(self._db)

    # --- blobs

    def _blob(self, run_id: int, artifact: Artifact) -> int:
        """Return the row of an artifact's value, which is published."""
        value = self._values.stage(artifact)
        blob_id = self._publish(value)
        if value.is_pickle and not self._trusted:
            trust.mark_unverified(self._db, run_id, [blob_id])
            self.untrusted += 1
        return blob_id

    def _publish(self, value: Value) -> int:
        blob_id = self._blob_ids.get(id(value))
        if blob_id is None:
            blob_id = self._blob_ids[id(value)] = value.incoming.publish(self._db)
            if not value.is_pickle:  # of a pickle, `vacuum` may find out more where it is trusted
                blobs.describe(self._db, blob_id, value.description)
            if value.is_ours or (value.is_pickle and self._trusted):
                value.incoming.sign(self._db, blob_id)
        return blob_id


def vouch(db: sqlite3.Connection, store: Database, uuid: str, shas: Collection[bytes]) -> None:
    """Sign those pickles of a run that was imported before without trust whose SHA-256 is among `shas`."""
    rows = db.execute(
        """select u.run_id, u.blob_id, b.sha from runs r join unverified u on u.run_id = r.id
           join blobs b on b.id = u.blob_id where r.uuid = ? and b.codec = 'pickle'""",
        (uuid,),
    ).fetchall()
    for row in rows:
        if row["sha"] in shas:
            trust.sign(db, store.uuid, row["blob_id"], row["sha"], "pickle")
            trust.clear_unverified(db, row["run_id"], row["blob_id"])


def _own(run: Run, artifacts: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Return the artifacts that are neither Metaflow's own nor the run's parameters."""
    return {
        name: artifact
        for name, artifact in artifacts.items()
        if not is_internal(name) and (name not in run.parameters or run.parameters[name][1].sha1 != artifact.sha1)
    }


def _is_reserved(tag: str) -> bool:
    """Return whether a tag of a user's is one that users cannot set here: it is kept as one of the system's."""
    return tag.startswith(tags.RESERVED) or len(tag) > tags.MAX_LENGTH
