"""Tasks: their status, their output, and their artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Self, overload

from flowstore import context, later
from flowstore.client import addresses
from flowstore.client.addresses import Scope
from flowstore.client.artifact import Artifacts, Data, DataArtifact
from flowstore.client.base import Ending, Tagged
from flowstore.client.facts import Metadata, Origin, facts_of, is_from_metaflow, metadata_of
from flowstore.errors import NotFound, StoreCorrupt
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.typed_rows import json_of, positions_of, time_of
from flowstore.store import log_chunks, origins, queries, tags
from flowstore.store.blobs import Blob
from flowstore.store.inheritance import visible_artifacts
from flowstore.text import did_you_mean

if TYPE_CHECKING:
    from flowstore.client.code import Code
    from flowstore.client.run import Run, Step

_STREAMS = ("stdout", "stderr")


def last_state(line: str) -> str:
    r"""Return what a terminal shows of a line at last: a progress bar writes over it after each `\r`.

    >>> last_state("10%\r20%\r"), last_state("plain\r")
    ('20%', 'plain')
    """
    return line.rstrip("\r").rpartition("\r")[2]


@later.frozen(eq=True, repr=True)
class ExceptionInfo:
    """Why an attempt failed: what `@catch` stores, and `Task.exception` returns.

    Stored pickles name it `flowstore.client.task.ExceptionInfo`, so this path is part of the file format.

    Attributes:
        type: the exception's class, with its module, as in `builtins.ValueError`.
        message: its text; `exception` is the same.
        traceback: as printed; `stacktrace` is the same.
    """

    type: str
    message: str
    traceback: str = later.field(default="", repr=False)

    @property
    def exception(self) -> str:
        """The text of the exception."""
        return self.message

    @property
    def stacktrace(self) -> str:
        """The traceback, as printed."""
        return self.traceback

    @property
    def name(self) -> str:
        """The exception's class as a traceback names it: without the module where that is a builtin's or the flow's."""
        return self.type.removeprefix("builtins.").removeprefix("__main__.")

    def __str__(self) -> str:
        return self.traceback or f"{self.name}: {self.message}"


class Visible:
    """Artifacts of several tasks, fetched for all of them at first use. They cannot change.

    Args:
        store: where they are.
        attempts: by task, an attempt that has ended for good.
    """

    def __init__(self, store: Database, attempts: Mapping[int, int | None]) -> None:
        self._store = store
        self._attempts = attempts
        self._blobs: dict[int, dict[str, Blob]] | None = None

    @classmethod
    def of_final(cls, store: Database, rows: Iterable[Row]) -> Self:
        """Return that of those tasks of a listing that have ended for good."""
        return cls(store, {row["id"]: row["attempt_id"] for row in rows if is_final(row)})

    def blobs(self, task_id: int) -> dict[str, Blob] | None:
        """Return the blobs of a task's artifacts, by name; `None` if they may still change."""
        if task_id not in self._attempts:
            return None
        if self._blobs is None:
            with self._store.read() as db:
                self._blobs = visible_artifacts(db, self._attempts)
        return self._blobs[task_id]


def is_final(row: Row) -> bool:
    """Return whether a task will never be tried again: nothing in its row changes any more."""
    return "running" not in (row["status"], row["run_status"]) or row["status"] == "successful"


class Task(Tagged, Ending):
    """One task: its artifacts, its output, its status.

    Args:
        pathspec: `FlowName/run_id/step/task_id`.
        attempt: look at this attempt, from 0, rather than at the last one.
    """

    _KIND, _DEPTH = "task", 4
    _PICKLED = ("pathspec", "_attempt")
    _attempt: int | None = None
    _kept: Row | None = None  # its row, once that is final
    _visible: Visible | None = None

    def __init__(self, pathspec: str, attempt: int | None = None) -> None:
        self._attempt = attempt
        super().__init__(pathspec)

    @classmethod
    def _at_attempt(cls, scope: Scope, pathspec: str, attempt: int) -> Task:
        """Return a task as an attempt of it was; raise as the constructor does."""
        task = cls.__new__(cls)
        task._attempt = attempt
        task._look_up(lambda: scope, pathspec)
        return task

    def _as_of(self, attempt: int) -> Task:
        """Return this task as an attempt of it was; raise as the constructor does."""
        return self._at_attempt(self._scope, self.pathspec, attempt)

    def _check_exists(self) -> None:
        task_id = addresses.number("task", self.id)
        row = self._find()
        if row is None:
            raise addresses.missing(self._store, self.path_components)
        if self._attempt is not None and queries.find_attempt(self._store, task_id, self._attempt) is None:
            attempts = f"it has {row['attempts']}, counted from 0"
            raise NotFound(f"Task {self.pathspec} has no attempt {self._attempt}; {attempts}.")

    @classmethod
    def _of(cls, scope: Scope, flow: str, row: Row, visible: Visible | None = None) -> Task:
        task = cls._at(scope, f"{flow}/{row['run_id']}/{row['step']}/{row['id']}")
        task._keep(row)
        task._visible = visible
        return task

    def _keep(self, row: Row) -> None:
        if is_final(row):
            self._kept = row

    def _find(self) -> Row | None:
        flow, run_id, step, task_id = self.path_components
        row = queries.find_task(self._store, flow, addresses.number("run", run_id), step, int(task_id))
        if row is not None:
            self._keep(row)
        return row

    def _row(self) -> Row:
        """Return its row, as it was when it was last read if that is final."""
        return self._fresh_row() if self._kept is None else self._kept

    def _fresh_row(self) -> Row:
        row = self._find()
        if row is None:
            raise NotFound(f"Task {self.pathspec} was deleted from {self._store.path}.")
        return row

    def _attempt_row(self) -> Row:
        row = self._row()
        number = row["attempts"] - 1 if self._attempt is None else self._attempt
        attempt = queries.find_attempt(self._store, row["id"], number)
        if attempt is None:
            raise NotFound(f"Task {self.pathspec} has no attempt {number}.")
        return attempt

    def _node(self) -> tags.Node:
        row = self._row()
        return tags.Node(self.pathspec, row["run_id"], row["step_id"], row["id"])

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
        return user | set(tags.node_tags(self._store, row["run_id"], row["step_id"], row["id"], "")), system

    @property
    def status(self) -> str:
        """'running', 'successful', 'failed', 'stopped' or 'dead'."""
        status: str = (self._fresh_row() if self._attempt is None else self._attempt_row())["status"]
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
        """Its position in the innermost foreach; `None` outside one."""
        path = self._row()["foreach_path"]
        return None if path is None else positions_of(path)[-1]

    @property
    def origin_pathspec(self) -> str | None:
        """The task that this one stands for, in a resumed run that took it over; else `None`.

        Of a task that was imported from Metaflow, its pathspec there.
        """
        row = self._row()
        pathspec: str | None = row["origin_pathspec"]
        return origins.pathspec_in_metaflow(self._store, row["run_id"], row["id"]) or pathspec

    @property
    def exception(self) -> ExceptionInfo | None:
        """Why the attempt failed; `None` if it succeeded, also where `@catch` took the failure."""
        return None if self._attempt_row()["status"] == "successful" else self._failure()

    def _failure(self) -> ExceptionInfo | None:
        """Return why the attempt failed, or what was caught."""
        row = self._attempt_row()
        if row["error_type"] is None:
            return None
        kind = json_of(row["metadata"] or "{}", dict).get("exception-type", row["error_type"])
        return ExceptionInfo(str(kind), row["error_message"] or "", row["traceback"] or "")

    @property
    def stdout(self) -> str:
        """The text that it printed."""
        return self._text("stdout")

    @property
    def stderr(self) -> str:
        """The text that it printed on stderr, tracebacks too."""
        return self._text("stderr")

    @property
    def stdout_size(self) -> int:
        """The size of `stdout`, in bytes."""
        return log_chunks.size_bytes(self._store, self._attempt_row()["log_id"], "stdout")

    @property
    def stderr_size(self) -> int:
        """The size of `stderr`, in bytes."""
        return log_chunks.size_bytes(self._store, self._attempt_row()["log_id"], "stderr")

    def _text(self, stream: str) -> str:
        return "".join(row["text"] for row in log_chunks.read(self._store, self._attempt_row()["log_id"], stream))

    @overload
    def loglines(self, *streams: str, as_unicode: Literal[True] = True) -> Iterator[tuple[datetime, str]]: ...
    @overload
    def loglines(self, *streams: str, as_unicode: Literal[False]) -> Iterator[tuple[datetime, bytes]]: ...

    def loglines(self, *streams: str, as_unicode: bool = True) -> Iterator[tuple[datetime, str | bytes]]:
        """Yield the lines of 'stdout', 'stderr' or, by default, both in order; each with when it was read.

        Args:
            streams: which streams.
            as_unicode: whether lines are text, or else bytes.
        """
        for at, line in self._loglines(*streams):
            yield at, line if as_unicode else line.encode()

    def _loglines(self, *streams: str) -> Iterator[tuple[datetime, str]]:
        for stream in streams:
            if stream not in _STREAMS:
                raise ValueError(f"There is no stream {stream!r}; there are stdout and stderr.")
        rests = dict.fromkeys(_STREAMS, "")
        at = self.created_at
        for row in log_chunks.read(
            self._store, self._attempt_row()["log_id"], streams[0] if len(streams) == 1 else None
        ):
            at = time_of(row["written_at"])
            if row["stream"] not in rests:
                raise StoreCorrupt(f"{self._store.path} is damaged: {self.pathspec} has the log of no stream.")
            *lines, rests[row["stream"]] = (rests[row["stream"]] + row["text"]).split("\n")
            yield from ((at, last_state(line)) for line in lines)
        yield from ((at, last_state(rest)) for rest in rests.values() if rest)

    @property
    def metadata(self) -> list[Metadata]:
        """The facts that are recorded beside its artifacts: of all attempts, or of the one that is looked at."""
        one = self._attempt is not None
        attempts = [self._attempt_row()] if one else queries.all_attempts(self._store, self._row()["id"])
        return [*metadata_of(self, attempts, self._origin)]

    @property
    def metadata_dict(self) -> dict[str, str]:
        """The facts that are recorded of the last attempt, or the one that is looked at, by name; all are text.

        A task imported from Metaflow has the facts of all its attempts, because old versions of Metaflow do not record
        which attempt a fact belongs to.
        """
        attempt = self._attempt_row()
        if is_from_metaflow(attempt):
            return {fact.name: fact.value for fact in self.metadata}
        return facts_of(attempt, self._origin())

    def _origin(self) -> Origin:
        """Return what its facts have from elsewhere."""
        run = self._run
        code = run.code
        script = None if code is None else code.script_name
        return Origin(run._row(), run._effective_tags()[1], script, self.origin_pathspec)

    @property
    def runtime_name(self) -> str | None:
        """The executor that its run was started with, such as 'local' or 'dask'."""
        return self.metadata_dict.get("runtime")

    @property
    def code(self) -> Code | None:
        """The source that its run ran; see `Run.code`."""
        return self._run.code

    @property
    def environment_info(self) -> dict[str, str] | None:
        """The versions of what its run imported, by the distribution's name; see `Run.environment`."""
        return self._run.environment

    @property
    def parent_tasks(self) -> Iterator[Task]:
        """The tasks that ran directly before this one."""
        return self._relatives(children=False)

    @property
    def child_tasks(self) -> Iterator[Task]:
        """The tasks that ran directly after this one."""
        return self._relatives(children=True)

    @property
    def parent_task_pathspecs(self) -> Iterator[str]:
        """The pathspecs of the tasks that ran directly before this one."""
        return (task.pathspec for task in self.parent_tasks)

    @property
    def child_task_pathspecs(self) -> Iterator[str]:
        """The pathspecs of the tasks that ran directly after this one."""
        return (task.pathspec for task in self.child_tasks)

    def _relatives(self, *, children: bool) -> Iterator[Task]:
        for row in queries.relatives(self._store, self._row()["id"], children=children):
            yield Task._of(self._scope, self.path_components[0], row)

    def _blobs(self, name: str | None = None) -> dict[str, Blob]:
        """Return the blobs of its artifacts, set or inherited, by name.

        Args:
            name: the one that is wanted, where no more than that should be fetched if they may still change.
        """
        if self._visible is not None and (known := self._visible.blobs(int(self.id))) is not None:
            return known
        row = self._row()
        attempt_id, is_over = row["attempt_id"], is_final(row)
        if self._attempt is not None:
            attempt = self._attempt_row()
            attempt_id, is_over = attempt["id"], attempt["status"] != "running"
        if is_over:
            self._visible = Visible(self._store, {row["id"]: attempt_id})
            return self._blobs()
        with self._store.read() as db:
            return visible_artifacts(db, {row["id"]: attempt_id}, name)[row["id"]]

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
            hint = did_you_mean(name, self._blobs()) if isinstance(name, str) else ""
            raise NotFound(f"Task {self.pathspec} has no artifact {name!r}.{hint}")
        return DataArtifact._of(self, name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and context.is_text(name) and name in self._blobs(name)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.artifacts._names)
