"""Tasks: how one went, what it printed, and its artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from flowstore import context
from flowstore.client.artifact import Artifacts, Data, DataArtifact
from flowstore.client.base import Ending, Tagged, number
from flowstore.errors import NotFound, StoreCorrupt
from flowstore.sqlite.database import Row, Store
from flowstore.sqlite.typed_rows import json_of, place_of, time_of
from flowstore.store import queries
from flowstore.store.blobs import Blob
from flowstore.store.inheritance import visible_artifacts

if TYPE_CHECKING:
    from flowstore.client.run import Run, Step
    from flowstore.store.tags import Node

_STREAMS = ("stdout", "stderr")


def last_state(line: str) -> str:
    r"""Return what a terminal shows of a line at last: a progress bar writes over it after each `\r`.

    >>> last_state("10%\r20%\r"), last_state("plain\r")
    ('20%', 'plain')
    """
    return line.rstrip("\r").rpartition("\r")[2]


@attrs.frozen
class Metadata:
    """One fact about a task's attempt."""

    name: str
    value: str
    created_at: datetime
    task: Task


@attrs.frozen
class ExceptionInfo:
    """Why an attempt failed: what `@catch` stores, and `Task.exception` gives.

    Attributes:
        type: the exception's class.
        message: its text.
        traceback: as printed.
    """

    type: str
    message: str
    traceback: str = attrs.field(default="", repr=False)

    def __str__(self) -> str:
        return self.traceback or f"{self.type}: {self.message}"


class Listed:
    """Tasks that were listed together: what they have is fetched for all at once, by the first that is asked.

    Only of those that have succeeded, since that stays as it is.
    """

    def __init__(self, store: Store, rows: Sequence[Row]) -> None:
        self._store = store
        self._attempts = {row["id"]: row["attempt_id"] for row in rows if row["status"] == "successful"}
        self._blobs: dict[int, dict[str, Blob]] | None = None

    def blobs(self, task_id: int) -> dict[str, Blob] | None:
        """The contents that a task has; `None` if it may still change."""
        if task_id not in self._attempts:
            return None
        if self._blobs is None:
            with self._store.read() as db:
                self._blobs = visible_artifacts(db, self._attempts)
        return self._blobs[task_id]


class Task(Tagged, Ending):
    """One task: its artifacts, what it printed, how it went.

    Args:
        pathspec: `FlowName/run_id/step/task_id`.
        attempt: look at this attempt, from 0, rather than at the last one.
    """

    _KIND, _FORM, _DEPTH = "task", "FlowName/run_id/step/task_id", 4
    _PICKLED = ("pathspec", "_attempt")
    _attempt: int | None = None
    _listed: Listed | None = None

    def __init__(self, pathspec: str, attempt: int | None = None) -> None:
        *_, task_id = self._open(pathspec)
        number("task", task_id)
        self._attempt = attempt
        row = self._find()
        if row is None:
            raise NotFound(f"There is no task {pathspec} in {self._store.path}.")
        if attempt is not None and queries.find_attempt(self._store, row["id"], attempt) is None:
            raise NotFound(f"Task {pathspec} has no attempt {attempt}; it has {row['attempts']}, counted from 0.")
        self._check_namespace()

    @classmethod
    def _of(cls, store: Store, flow: str, row: Row, listed: Listed | None = None) -> Task:
        made = cls._at(store, f"{flow}/{row['run_id']}/{row['step']}/{row['id']}")
        made._listed = listed
        return made

    def _find(self) -> Row | None:
        flow, run_id, step, task_id = self.path_components
        if queries.find_run(self._store, flow, number("run", run_id)) is None:
            return None
        step_row = queries.find_step(self._store, int(run_id), step)
        return None if step_row is None else queries.find_task(self._store, int(run_id), step_row["id"], int(task_id))

    def _row(self) -> Row:
        row = self._find()
        if row is None:
            raise NotFound(f"Task {self.pathspec} was deleted from {self._store.path}.")
        return row

    def _attempt_row(self) -> Row:
        row = self._row()
        number = row["attempts"] - 1 if self._attempt is None else self._attempt
        found = queries.find_attempt(self._store, row["id"], number)
        if found is None:
            raise NotFound(f"Task {self.pathspec} has no attempt {number}.")
        return found

    def _node(self) -> Node:
        from flowstore.store.tags import Node

        row = self._row()
        return Node(self.pathspec, row["run_id"], row["step_id"], row["id"])

    @property
    def _run(self) -> Run:
        run: Run = self._above(2)
        return run

    @property
    def parent(self) -> Step:
        """The step."""
        step: Step = self._above(3)
        return step

    def _effective_tags(self) -> tuple[set[str], set[str]]:
        user, system = self._run._effective_tags()
        row = self._row()
        return user | set(queries.node_tags(self._store, row["run_id"], row["step_id"], row["id"], "")), system

    @property
    def status(self) -> str:
        """'running', 'successful', 'failed', 'stopped' or 'dead'."""
        status: str = self._row()["status"] if self._attempt is None else self._attempt_row()["status"]
        return "dead" if status == "running" and self._run.status == "dead" else status

    @property
    def created_at(self) -> datetime:
        """When it started, in UTC."""
        row = self._row() if self._attempt is None else self._attempt_row()
        return time_of(row["started_at"])

    @property
    def finished_at(self) -> datetime | None:
        """When it ended, in UTC; `None` while it runs."""
        at = (self._row() if self._attempt is None else self._attempt_row())["finished_at"]
        return None if at is None else time_of(at)

    @property
    def current_attempt(self) -> int:
        """The number of the attempt that is looked at, from 0."""
        return self._row()["attempts"] - 1 if self._attempt is None else self._attempt

    @property
    def index(self) -> int | None:
        """Its place in the innermost foreach; `None` outside one."""
        path = self._row()["foreach_path"]
        return None if path is None else place_of(path)[-1]

    @property
    def origin_pathspec(self) -> str | None:
        """The task that this one stands for, in a resumed run that took it over; else `None`."""
        found: str | None = self._row()["origin_pathspec"]
        return found

    @property
    def exception(self) -> ExceptionInfo | None:
        """Why the attempt failed, or what was caught; `None` if nothing was raised."""
        row = self._attempt_row()
        if row["error_type"] is None:
            return None
        return ExceptionInfo(row["error_type"], row["error_message"] or "", row["traceback"] or "")

    @property
    def stdout(self) -> str:
        """What it printed."""
        return self._text("stdout")

    @property
    def stderr(self) -> str:
        """What it printed on stderr, tracebacks too."""
        return self._text("stderr")

    def _text(self, stream: str) -> str:
        return "".join(row["text"] for row in queries.log(self._store, self._attempt_row()["log_id"], stream))

    def loglines(self, *streams: str) -> Iterator[tuple[datetime, str]]:
        """The lines of 'stdout', 'stderr' or, by default, both in order; each with when it was read."""
        for stream in streams:
            if stream not in _STREAMS:
                raise ValueError(f"There is no stream {stream!r}; there are stdout and stderr.")
        rests = dict.fromkeys(_STREAMS, "")
        at = self.created_at
        for row in queries.log(self._store, self._attempt_row()["log_id"], streams[0] if len(streams) == 1 else None):
            at = time_of(row["written_at"])
            if row["stream"] not in rests:
                raise StoreCorrupt(f"{self._store.path} is damaged: {self.pathspec} has the log of no stream.")
            *lines, rests[row["stream"]] = (rests[row["stream"]] + row["text"]).split("\n")
            yield from ((at, last_state(line)) for line in lines)
        yield from ((at, last_state(rest)) for rest in rests.values() if rest)

    @property
    def metadata(self) -> list[Metadata]:
        """What is known about the attempt beside its artifacts."""
        at = self.created_at
        return [Metadata(name, value, at, self) for name, value in self.metadata_dict.items()]

    @property
    def metadata_dict(self) -> dict[str, str]:
        """The same, by name; all values are text."""
        attempt, run = self._attempt_row(), self._run._row()
        found: dict[str, Any] = {
            "attempt": attempt["number"],
            "attempt_ok": attempt["status"] == "successful",
            "pid": attempt["pid"],
            "host": run["host"],
            "user": run["user"],
            "origin-task": self.origin_pathspec,
            "origin-run-id": run["origin_run_id"],
            **json_of(attempt["metadata"] or "{}", dict),
        }
        as_text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}
        return {name: text for name, text in as_text.items() if text != "null"}

    @property
    def parent_tasks(self) -> Iterator[Task]:
        """The tasks that ran directly before this one."""
        return self._relatives(children=False)

    @property
    def child_tasks(self) -> Iterator[Task]:
        """The tasks that ran directly after this one."""
        return self._relatives(children=True)

    def _relatives(self, *, children: bool) -> Iterator[Task]:
        for row in queries.relatives(self._store, self._row()["id"], children=children):
            yield Task._of(self._store, self.path_components[0], row)

    def _blobs(self, name: str | None = None) -> dict[str, Blob]:
        """The contents of what the attempt has, set or inherited."""
        if self._listed is not None and (known := self._listed.blobs(int(self.id))) is not None:
            return known
        with self._store.read() as db:
            attempt = self._attempt_row()
            return visible_artifacts(db, {attempt["task_id"]: attempt["id"]}, name)[attempt["task_id"]]

    @property
    def artifacts(self) -> Artifacts:
        """Its artifacts, inherited ones included, without those that begin with an underscore."""
        return Artifacts(self, [name for name in self._blobs() if not name.startswith("_")])

    @property
    def data(self) -> Data:
        """The values of its artifacts, inherited ones included, loaded when they are asked for."""
        return Data(self)

    def _repr_html_(self) -> str:
        from flowstore.client import html

        return html.task(self)

    def __iter__(self) -> Iterator[DataArtifact]:
        return iter(self.artifacts)

    def __getitem__(self, name: str) -> DataArtifact:
        if name not in self:
            raise NotFound(f"Task {self.pathspec} has no artifact {name!r}.")
        return DataArtifact._of(self, name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and context.is_text(name) and name in self._blobs(name)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.artifacts._names)
