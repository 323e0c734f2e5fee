"""The Client: results as objects, found by namespace and tag.

    Flows() ─ Flow ─ Run ─ Step ─ Task ─ DataArtifact

Each is addressed by a pathspec, `Flow/run/step/task/artifact`, is iterable over what it holds, newest first,
and supports `[id]` and `in`. Making an object checks at once that it exists and is in the active namespace;
everything else is read when it is asked for. Status and tags are read afresh each time.

An object belongs to the store that was active when it was made, so that objects of two stores can be used
side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

import attrs

from flowstore import context
from flowstore.errors import InvalidPathspec, NamespaceMismatch, NotFound
from flowstore.store import blobs, queries
from flowstore.store.blobs import Blob
from flowstore.store.db import Row, Store
from flowstore.store.liveness import is_dead
from flowstore.store.locate import active_store

_LARGEST_ID = 2**63 - 1
_DONE = frozenset({"successful", "failed", "stopped"})
_STREAMS = ("stdout", "stderr")


def _time(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC)


def _number(kind: str, text: str) -> int:
    """An id as a number; what isn't one can't exist."""
    if not (text.isascii() and text.isdecimal()) or int(text) > _LARGEST_ID:
        raise NotFound(f"There is no {kind} {text!r}: {kind} ids are numbers.")
    return int(text)


class _Object:
    """What all objects have in common: an address, a parent, tags."""

    _KIND: ClassVar[str]
    _FORM: ClassVar[str]
    _DEPTH: ClassVar[int]

    _store: Store
    pathspec: str

    def _open(self, pathspec: str) -> list[str]:
        if not isinstance(pathspec, str):
            raise InvalidPathspec(f"A {self._KIND} is addressed by text of the form {self._FORM}, not {pathspec!r}.")
        parts = pathspec.split("/")
        if len(parts) != self._DEPTH or not all(parts):
            raise InvalidPathspec(f"{pathspec!r} does not address a {self._KIND}: give {self._FORM}.")
        self._store = active_store()
        self.pathspec = pathspec
        return parts

    @property
    def path_components(self) -> list[str]:
        """The parts of the pathspec."""
        return self.pathspec.split("/")

    @property
    def id(self) -> str:
        """The last part of the pathspec."""
        return self.path_components[-1]

    def _effective_tags(self) -> tuple[set[str], set[str]]:
        """User tags and system tags, own and inherited."""
        raise AssertionError  # each kind of object defines it

    @property
    def tags(self) -> frozenset[str]:
        """All tags, the inherited ones included."""
        user, system = self._effective_tags()
        return frozenset(user | system)

    @property
    def user_tags(self) -> frozenset[str]:
        """The tags that people set."""
        return frozenset(self._effective_tags()[0])

    @property
    def system_tags(self) -> frozenset[str]:
        """The tags that flowstore set."""
        return frozenset(self._effective_tags()[1])

    def _check_namespace(self) -> None:
        active = context.get_namespace()
        if active is None or active in self.tags:
            return
        owners = sorted(tag for tag in self.system_tags if tag.startswith(("user:", "production:")))
        switch = f'namespace("{owners[0]}") or ' if owners else ""
        raise NamespaceMismatch(
            f"{self._KIND.capitalize()} {self.pathspec} is not in the active namespace, {active!r}. "
            f"To use it: {switch}namespace(None)"
        )

    def _has(self, tags: Iterable[str]) -> bool:
        """Whether this object is in the active namespace and has all tags."""
        wanted = set(tags)
        if (active := context.get_namespace()) is not None:
            wanted.add(active)
        return wanted <= self.tags

    @classmethod
    def _at(cls, store: Store, pathspec: str) -> Self:
        """An object that is known to exist, without looking."""
        made = cls.__new__(cls)
        made._store = store
        made.pathspec = pathspec
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.pathspec!r})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Object)
            and type(other) is type(self)
            and other.pathspec == self.pathspec
            and other._store.path == self._store.path
        )

    def __hash__(self) -> int:
        return hash((type(self), self.pathspec, self._store.path))


class Flows:
    """All flows that have a run in the active namespace, by name."""

    def __init__(self) -> None:
        self._store = active_store()

    def __iter__(self) -> Iterator[Flow]:
        for name in queries.flow_names(self._store, context.get_namespace()):
            yield Flow._at(self._store, name)

    def __len__(self) -> int:
        return len(queries.flow_names(self._store, context.get_namespace()))

    def __getitem__(self, name: str) -> Flow:
        return Flow(name)

    def __contains__(self, name: object) -> bool:
        return name in queries.flow_names(self._store, context.get_namespace())

    def __repr__(self) -> str:
        return f"Flows({', '.join(queries.flow_names(self._store, context.get_namespace()))})"


class Flow(_Object):
    """A flow: all of its runs.

    Args:
        pathspec: the flow's name.

    Raises:
        NotFound: no flow of that name was ever run in this store.
        NamespaceMismatch: none of its runs is in the active namespace.
    """

    _KIND, _FORM, _DEPTH = "flow", "FlowName", 1

    def __init__(self, pathspec: str) -> None:
        [name] = self._open(pathspec)
        if name not in queries.flow_names(self._store, None):
            raise NotFound(f"There is no run of a flow {name!r} in {self._store.path}.")
        active = context.get_namespace()
        if active is not None and name not in queries.flow_names(self._store, active):
            raise NamespaceMismatch(
                f"Flow {name} has no run in the active namespace, {active!r}. To see all runs: namespace(None)"
            )

    @property
    def parent(self) -> None:
        """A flow has no parent."""
        return

    def _effective_tags(self) -> tuple[set[str], set[str]]:
        return set(), set()

    def runs(self, *tags: str) -> Iterator[Run]:
        """The runs in the active namespace that have all tags, newest first, fetched as they are asked for."""
        return self._runs(tags)

    def _runs(self, tags: Sequence[str], *, successful: bool = False, page: int = queries.PAGE) -> Iterator[Run]:
        active = context.get_namespace()
        wanted = [*tags, *([active] if active is not None else [])]
        for row in queries.runs(self._store, self.id, wanted, successful=successful, page=page):
            yield Run._at(self._store, f"{self.id}/{row['id']}")

    def __iter__(self) -> Iterator[Run]:
        return self._runs(())

    def __getitem__(self, run_id: str | int) -> Run:
        with _using(self._store):
            return Run(f"{self.id}/{run_id}")

    def __contains__(self, run_id: object) -> bool:
        return _is_there(self, run_id)

    @property
    def latest_run(self) -> Run | None:
        """The newest run in the active namespace, or `None`."""
        return next(self._runs((), page=1), None)

    @property
    def latest_successful_run(self) -> Run | None:
        """The newest run in the active namespace that succeeded, or `None`."""
        return next(self._runs((), successful=True, page=1), None)


class Run(_Object):
    """One run of a flow.

    Args:
        pathspec: `FlowName/run_id`.

    Raises:
        NotFound: there is no such run.
        NamespaceMismatch: it is not in the active namespace.
    """

    _KIND, _FORM, _DEPTH = "run", "FlowName/run_id", 2

    def __init__(self, pathspec: str) -> None:
        flow, run_id = self._open(pathspec)
        if queries.find_run(self._store, flow, _number("run", run_id)) is None:
            raise NotFound(f"There is no run {pathspec} in {self._store.path}.")
        self._check_namespace()

    def _row(self) -> Row:
        flow, run_id = self.path_components
        row = queries.find_run(self._store, flow, int(run_id))
        if row is None:
            raise NotFound(f"Run {self.pathspec} was deleted from {self._store.path}.")
        return row

    def _effective_tags(self) -> tuple[set[str], set[str]]:
        rows = queries.run_tags(self._store, int(self.id))
        return {row["tag"] for row in rows if not row["system"]}, {row["tag"] for row in rows if row["system"]}

    @property
    def parent(self) -> Flow:
        """The flow."""
        return Flow._at(self._store, self.path_components[0])

    @property
    def status(self) -> str:
        """'running', 'successful', 'failed', 'stopped', or 'dead' if its process died."""
        return _status(self._row())

    @property
    def successful(self) -> bool:
        """Whether all of it went well."""
        return self.status == "successful"

    @property
    def finished(self) -> bool:
        """Whether it came to an end: successful, failed or stopped."""
        return self.status in _DONE

    @property
    def created_at(self) -> datetime:
        """When it was created, in UTC."""
        return datetime.fromtimestamp(self._row()["created_at"] / 1000, UTC)

    @property
    def finished_at(self) -> datetime | None:
        """When it ended, in UTC; `None` while it runs."""
        return _time(self._row()["finished_at"])

    @property
    def origin_run_id(self) -> str | None:
        """The run that it resumed, or `None`."""
        found: str | None = self._row()["origin_run_id"]
        return found

    @property
    def user(self) -> str:
        """Who ran it."""
        return str(self._row()["user"])

    @property
    def parameters(self) -> dict[str, Any]:
        """Its parameters, large or unusual values as their previews."""
        found: dict[str, Any] = json.loads(self._row()["parameters"])
        return found

    @property
    def code(self) -> Code | None:
        """The source that it ran, or `None` where there was no file."""
        code_id = self._row()["code_id"]
        return None if code_id is None else Code(self._store, code_id)

    def steps(self, *tags: str) -> Iterator[Step]:
        """The steps that have begun and have all tags, the latest first."""
        for row in queries.steps(self._store, int(self.id)):
            found = Step._at(self._store, f"{self.pathspec}/{row['name']}")
            if found._has(tags):
                yield found

    def __iter__(self) -> Iterator[Step]:
        return self.steps()

    def __getitem__(self, name: str) -> Step:
        with _using(self._store):
            return Step(f"{self.pathspec}/{name}")

    def __contains__(self, name: object) -> bool:
        return _is_there(self, name)

    @property
    def end_task(self) -> Task | None:
        """The task of the step `end`, or `None` while there is none that succeeded."""
        row = queries.find_step(self._store, int(self.id), "end")
        if row is None:
            return None
        task = next(queries.tasks(self._store, int(self.id), row["id"]), None)
        if task is None or task["status"] != "successful":
            return None
        return Task._of(self._store, self.path_components[0], task)

    @property
    def data(self) -> Data | None:
        """The artifacts of `end`, inherited ones included; `None` while there is no end."""
        end = self.end_task
        return None if end is None else end.data


class Step(_Object):
    """One step of a run: all of its tasks.

    Args:
        pathspec: `FlowName/run_id/step`.
    """

    _KIND, _FORM, _DEPTH = "step", "FlowName/run_id/step", 3

    def __init__(self, pathspec: str) -> None:
        flow, run_id, _ = self._open(pathspec)
        if queries.find_run(self._store, flow, _number("run", run_id)) is None or self._find() is None:
            raise NotFound(f"There is no step {pathspec} in {self._store.path}.")
        self._check_namespace()

    def _find(self) -> Row | None:
        return queries.find_step(self._store, int(self.path_components[1]), self.id)

    def _row(self) -> Row:
        row = self._find()
        if row is None:
            raise NotFound(f"Step {self.pathspec} was deleted from {self._store.path}.")
        return row

    @property
    def parent(self) -> Run:
        """The run."""
        return Run._at(self._store, "/".join(self.path_components[:2]))

    def _effective_tags(self) -> tuple[set[str], set[str]]:
        user, system = self.parent._effective_tags()
        row = self._row()
        return user | set(queries.node_tags(self._store, row["run_id"], row["id"], 0, "")), system

    @property
    def created_at(self) -> datetime:
        """When its first task started, in UTC."""
        return datetime.fromtimestamp(self._row()["created_at"] / 1000, UTC)

    @property
    def finished_at(self) -> datetime | None:
        """When its last task ended, in UTC; `None` while one runs."""
        ends = [task.finished_at for task in self]
        return None if None in ends else max((end for end in ends if end is not None), default=None)

    @property
    def task(self) -> Task | None:
        """One of its tasks: the first, where there are many."""
        row = self._row()
        tasks = list(queries.tasks(self._store, row["run_id"], row["id"]))
        return Task._of(self._store, self.path_components[0], tasks[-1]) if tasks else None

    def tasks(self, *tags: str) -> Iterator[Task]:
        """The tasks that have all tags, the latest first."""
        row = self._row()
        for found in queries.tasks(self._store, row["run_id"], row["id"]):
            task = Task._of(self._store, self.path_components[0], found)
            if task._has(tags):
                yield task

    def __iter__(self) -> Iterator[Task]:
        return self.tasks()

    def __getitem__(self, task_id: str | int) -> Task:
        with _using(self._store):
            return Task(f"{self.pathspec}/{task_id}")

    def __contains__(self, task_id: object) -> bool:
        return _is_there(self, task_id)

    @property
    def parent_steps(self) -> Iterator[Step]:
        """The steps whose tasks ran directly before this one's."""
        return self._related(children=False)

    @property
    def child_steps(self) -> Iterator[Step]:
        """The steps whose tasks ran directly after this one's."""
        return self._related(children=True)

    def _related(self, *, children: bool) -> Iterator[Step]:
        for name in queries.related_steps(self._store, self._row()["id"], children=children):
            yield Step._at(self._store, f"{self.parent.pathspec}/{name}")


class Task(_Object):
    """One task: its artifacts, what it printed, how it went.

    Args:
        pathspec: `FlowName/run_id/step/task_id`.
        attempt: look at this attempt, from 0, rather than at the last one.
    """

    _KIND, _FORM, _DEPTH = "task", "FlowName/run_id/step/task_id", 4

    def __init__(self, pathspec: str, attempt: int | None = None) -> None:
        *_, task_id = self._open(pathspec)
        _number("task", task_id)
        self._attempt = attempt
        row = self._find()
        if row is None:
            raise NotFound(f"There is no task {pathspec} in {self._store.path}.")
        if attempt is not None and queries.find_attempt(self._store, row["id"], attempt) is None:
            raise NotFound(f"Task {pathspec} has no attempt {attempt}; it has {row['attempts']}, counted from 0.")
        self._check_namespace()

    @classmethod
    def _of(cls, store: Store, flow: str, row: Row) -> Task:
        made = cls._at(store, f"{flow}/{row['run_id']}/{row['step']}/{row['id']}")
        made._attempt = None
        return made

    def _find(self) -> Row | None:
        flow, run_id, step, task_id = self.path_components
        if queries.find_run(self._store, flow, _number("run", run_id)) is None:
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

    @property
    def parent(self) -> Step:
        """The step."""
        return Step._at(self._store, "/".join(self.path_components[:3]))

    def _effective_tags(self) -> tuple[set[str], set[str]]:
        user, system = self.parent.parent._effective_tags()
        row = self._row()
        return user | set(queries.node_tags(self._store, row["run_id"], row["step_id"], row["id"], "")), system

    @property
    def status(self) -> str:
        """'running', 'successful', 'failed', 'stopped' or 'dead'."""
        status: str = self._row()["status"] if self._attempt is None else self._attempt_row()["status"]
        return "dead" if status == "running" and self.parent.parent.status == "dead" else status

    @property
    def successful(self) -> bool:
        """Whether it went well, or its failure was caught."""
        return self.status == "successful"

    @property
    def finished(self) -> bool:
        """Whether it came to an end: successful, failed or stopped."""
        return self.status in _DONE

    @property
    def created_at(self) -> datetime:
        """When it started, in UTC."""
        return datetime.fromtimestamp(self._row()["started_at"] / 1000, UTC)

    @property
    def finished_at(self) -> datetime | None:
        """When it ended, in UTC; `None` while it runs."""
        return _time(self._row()["finished_at"])

    @property
    def current_attempt(self) -> int:
        """The number of the attempt that is looked at, from 0."""
        return self._row()["attempts"] - 1 if self._attempt is None else self._attempt

    @property
    def index(self) -> int | None:
        """Its place in the innermost foreach; `None` outside one."""
        path = self._row()["foreach_path"]
        return None if path is None else int(path.rpartition("/")[2])

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
        return ExceptionInfo(row["error_type"], row["error_message"], row["traceback"])

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
            at = datetime.fromtimestamp(row["written_at"] / 1000, UTC)
            *lines, rests[row["stream"]] = (rests[row["stream"]] + row["text"]).split("\n")
            yield from ((at, line) for line in lines)
        yield from ((at, rest) for rest in rests.values() if rest)

    @property
    def metadata(self) -> list[Metadata]:
        """What is known about the attempt beside its artifacts."""
        at = self.created_at
        return [Metadata(name, value, at, self) for name, value in self.metadata_dict.items()]

    @property
    def metadata_dict(self) -> dict[str, str]:
        """The same, by name; all values are text."""
        attempt, run = self._attempt_row(), self.parent.parent._row()
        found: dict[str, Any] = {
            "attempt": attempt["number"],
            "attempt_ok": attempt["status"] == "successful",
            "pid": attempt["pid"],
            "host": run["host"],
            "user": run["user"],
            "origin-task": self.origin_pathspec,
            "origin-run-id": run["origin_run_id"],
            **json.loads(attempt["metadata"] or "{}"),
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
        with self._store.read() as db:
            attempt = self._attempt_row()
            return queries.visible_artifacts(db, attempt["task_id"], attempt["id"], name)

    @property
    def artifacts(self) -> Artifacts:
        """Its artifacts, inherited ones included, without those that begin with an underscore."""
        return Artifacts(self, [name for name in self._blobs() if not name.startswith("_")])

    @property
    def data(self) -> Data:
        """The values of its artifacts, inherited ones included, loaded when they are asked for."""
        return Data(self)

    def __iter__(self) -> Iterator[DataArtifact]:
        return iter(self.artifacts)

    def __getitem__(self, name: str) -> DataArtifact:
        if not isinstance(name, str) or name not in self._blobs(name):
            raise NotFound(f"Task {self.pathspec} has no artifact {name!r}.")
        return DataArtifact._of(self, name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._blobs(name)


class DataArtifact(_Object):
    """One artifact of a task.

    Args:
        pathspec: `FlowName/run_id/step/task_id/name`.
    """

    _KIND, _FORM, _DEPTH = "artifact", "FlowName/run_id/step/task_id/name", 5

    def __init__(self, pathspec: str) -> None:
        *above, name = self._open(pathspec)
        self._task = Task._at(self._store, "/".join(above))
        self._task._attempt = None
        _number("task", above[-1])
        if self._task._find() is None or name not in self._task._blobs(name):
            raise NotFound(f"There is no artifact {pathspec} in {self._store.path}.")
        self._check_namespace()

    @classmethod
    def _of(cls, task: Task, name: str) -> DataArtifact:
        made = cls._at(task._store, f"{task.pathspec}/{name}")
        made._task = task
        return made

    @property
    def parent(self) -> Task:
        """The task."""
        return self._task

    def _effective_tags(self) -> tuple[set[str], set[str]]:
        user, system = self._task._effective_tags()
        row = self._task._row()
        return user | set(queries.node_tags(self._store, row["run_id"], row["step_id"], row["id"], self.id)), system

    def _blob(self) -> Blob:
        found = self._task._blobs(self.id).get(self.id)
        if found is None:
            raise NotFound(f"Artifact {self.pathspec} was deleted from {self._store.path}.")
        return found

    @property
    def data(self) -> Any:
        """The value.

        Raises:
            UntrustedArtifact: it is a pickle that this user's runs did not write.
            ArtifactError: it can't be rebuilt here.
            StoreCorrupt: its bytes are damaged.
        """
        return blobs.load(self._store, self._blob(), self.pathspec)

    def copy_to(self, file: BinaryIO) -> None:
        """Write its bytes to an open file, as they are stored, without making the value.

        Raises:
            StoreCorrupt: they are damaged.
        """
        blobs.copy(self._store, self._blob(), file, self.pathspec)

    @property
    def sha(self) -> str:
        """SHA-256 of its bytes, in hex."""
        return self._blob().sha.hex()

    @property
    def size(self) -> int:
        """Its size, in bytes."""
        return self._blob().size_bytes

    @property
    def codec(self) -> str:
        """How its bytes become a value: 'json', 'bytes', 'npy', 'parquet' or 'pickle'."""
        return self._blob().codec

    @property
    def type(self) -> str:
        """The name of its Python type."""
        return self._blob().type

    @property
    def preview(self) -> str:
        """A short text that shows it, without loading it."""
        return self._blob().preview

    @property
    def created_at(self) -> datetime:
        """When the attempt that set it ended, in UTC."""
        attempt = self._task._attempt_row()
        at = queries.artifact_created_at(self._store, attempt["task_id"], attempt["id"], self.id)
        return self._task.parent.parent.created_at if at is None else datetime.fromtimestamp(at / 1000, UTC)


class Artifacts:
    """A task's artifacts: iterable, by attribute, by name."""

    def __init__(self, task: Task, names: Sequence[str]) -> None:
        self._task = task
        self._names = names

    def __iter__(self) -> Iterator[DataArtifact]:
        return (DataArtifact._of(self._task, name) for name in self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> DataArtifact:
        return self._task[name]

    def __getattr__(self, name: str) -> DataArtifact:
        if name.startswith("__") or name not in self._task:
            raise AttributeError(f"Task {self._task.pathspec} has no artifact {name!r}.")
        return self._task[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._names]

    def __repr__(self) -> str:
        return f"Artifacts({', '.join(self._names)})"


class Data:
    """The values of a task's artifacts, by attribute."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self._task:
            raise AttributeError(f"Task {self._task.pathspec} has no artifact {name!r}.")
        return self._task[name].data

    def __contains__(self, name: object) -> bool:
        return name in self._task

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._task.artifacts._names]

    def __repr__(self) -> str:
        return f"Data({', '.join(self._task.artifacts._names)})"


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


class Code:
    """The source that a run ran: the flow's file, and the modules beside it that it imported.

    Attributes:
        script_name: the name of the flow's file.
    """

    def __init__(self, store: Store, code_id: int) -> None:
        self._store = store
        self._files = queries.code_files(store, code_id)
        self.script_name = queries.script_name(store, code_id)

    @property
    def flowspec(self) -> str:
        """The text of the flow's file."""
        return self._read(self.script_name).decode("utf-8", "replace")

    @property
    def files(self) -> list[str]:
        """The paths of all files, relative to the flow's folder."""
        return list(self._files)

    def extract(self, folder: str | Path) -> Path:
        """Write the files below `folder`, which is made if it is missing; gives it.

        Raises:
            StoreCorrupt: a path points outside of the folder, which no run of flowstore wrote.
        """
        from flowstore.errors import StoreCorrupt

        target = Path(folder).resolve()
        places = {path: (target / path).resolve() for path in self._files}
        for path, place in places.items():
            if not place.is_relative_to(target) or place == target:
                raise StoreCorrupt(f"{self._store.path}: the code holds the path {path!r}, which points outside.")
        for path, place in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(self._read(path))
        return target

    def _read(self, path: str) -> bytes:
        value: bytes = blobs.load(self._store, self._files[path], path)
        return value

    def __repr__(self) -> str:
        return f"Code({self.script_name!r}, {len(self._files)} files)"


def _status(run: Row) -> str:
    status: str = run["status"]
    return "dead" if status == "running" and is_dead(run) else status


def _is_there(container: Any, key: object) -> bool:
    try:
        container[key]
    except (NotFound, NamespaceMismatch, InvalidPathspec):
        return False
    return True


class _using:  # noqa: N801  # a context manager used as a function
    """Make an object's store the active one while another object of it is made."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._before = context.state.store
        context.state.store = self._store

    def __exit__(self, *_: object) -> None:
        context.state.store = self._before
