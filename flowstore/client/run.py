"""Flows, runs and steps: the containers of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flowstore import context
from flowstore.client import addresses
from flowstore.client.addresses import Scope, active_scope
from flowstore.client.artifact import Data
from flowstore.client.base import Container, Ending, InStore, Tagged, status_of
from flowstore.client.code import Code
from flowstore.client.task import Task, Visible
from flowstore.errors import ArtifactError, FlowstoreError, NotFound, UntrustedArtifact
from flowstore.sqlite.database import Row
from flowstore.sqlite.typed_rows import json_of, time_of
from flowstore.store import blobs, metrics, origins, queries, tags
from flowstore.store.blobs import Blob
from flowstore.store.runs import environment_of, find_runs
from flowstore.text import safe

if TYPE_CHECKING:
    import pandas as pd

    from flowstore.client.events import Trigger


MAX_NOTE = 10_000  # characters


class Flows(InStore):
    """All flows that have a run in the active namespace, by name."""

    def __init__(self) -> None:
        self._scope = active_scope()

    @classmethod
    def _in(cls, scope: Scope) -> Flows:
        flows = cls.__new__(cls)
        flows._scope = scope
        return flows

    def _names(self) -> list[str]:
        return queries.flow_names(self._store, self._scope.namespace)

    @property
    def flows(self) -> list[Flow]:
        """The flows, as a list."""
        return [*self]

    def __iter__(self) -> Iterator[Flow]:
        return (Flow._at(self._scope, name) for name in self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __getitem__(self, name: str) -> Flow:
        return Flow._get(self._scope, name)

    def __contains__(self, name: object) -> bool:
        is_name = isinstance(name, str) and context.is_text(name)
        return is_name and queries.has_run(self._store, str(name), self._scope.namespace)

    def _ipython_key_completions_(self) -> list[str]:
        return self._names()

    def __repr__(self) -> str:
        active = self._scope.namespace
        names = self._names()
        others = 0 if names or active is None else len(queries.flow_names(self._store, None))
        hint = f"none in {active!r}, {others} in all: namespace(None)" if others else ""
        return safe(f"Flows({', '.join(names) or hint})")


class Flow(Container["Run"]):
    """A flow: all of its runs.

    Args:
        pathspec: the flow's name.

    Raises:
        NotFound: no flow of that name was ever run in this store.
        NamespaceMismatch: none of its runs is in the active namespace.
    """

    _KIND, _DEPTH = "flow", 1

    def _check_exists(self) -> None:
        if not queries.has_run(self._store, self.id, None):
            raise addresses.missing(self._store, [self.id])

    def _check_namespace(self) -> None:
        active = self._scope.namespace
        if active is not None and not queries.has_run(self._store, self.id, active):
            raise self._scope.mismatch(f"Flow {self.id} has no run in", "To see all runs:")

    @property
    def parent(self) -> None:
        """A flow has no parent."""
        return

    def _effective_tags(self) -> tuple[set[str], set[str]]:
        return set(), set()

    def runs(self, *tags: str) -> Iterator[Run]:
        """Return the runs in the namespace that have all tags, newest first, fetched as they are asked for.

        Example:
            Flow("HelloFlow").runs("checked", "user:anne")
        """
        return self._runs(tags)

    def _runs(self, tags: Sequence[str], *, successful: bool = False) -> Iterator[Run]:
        active = self._scope.namespace
        wanted = [*tags, *([active] if active is not None else [])]
        name = self.id
        for run_id in find_runs(self._store, name, wanted, successful=successful):
            yield Run._at(self._scope, f"{name}/{run_id}")

    def to_dataframe(self, *tags: str) -> pd.DataFrame:
        """Return a data frame of the runs that `runs(*tags)` returns: one row per run.

        Its columns are what is known of the run, its parameters, small artifacts of its end task, and its metrics.

        Raises:
            FlowstoreError: pandas is not installed.
        """
        from flowstore.client.rows import frame_of

        return frame_of(self.runs(*tags))

    def _repr_html_(self) -> str:
        from flowstore.client import html

        return html.flow(self)

    def __iter__(self) -> Iterator[Run]:
        return self._runs(())

    @property
    def latest_run(self) -> Run | None:
        """The newest run in the active namespace, or `None`."""
        return next(self._runs(()), None)

    @property
    def latest_successful_run(self) -> Run | None:
        """The newest run in the active namespace that succeeded, or `None`."""
        return next(self._runs((), successful=True), None)


class Run(Tagged, Container["Step"], Ending):
    """One run of a flow.

    Args:
        pathspec: `FlowName/run_id`.

    Raises:
        NotFound: there is no such run.
        NamespaceMismatch: it is not in the active namespace.
    """

    _KIND, _DEPTH = "run", 2

    _kept: Row | None = None  # its row when it was first read: but for its end, nothing in it changes
    _end: Task | None = None  # its end task, once that has succeeded

    def _check_exists(self) -> None:
        flow, run_id = self.path_components
        self._kept = queries.find_run(self._store, flow, addresses.number("run", run_id))
        if self._kept is None:
            raise addresses.missing(self._store, self.path_components)

    def _row(self) -> Row:
        """Return its row as it is now."""
        flow, run_id = self.path_components
        row = queries.find_run(self._store, flow, int(run_id))
        if row is None:
            raise NotFound(f"Run {self.pathspec} was deleted from {self._store.path}.")
        self._kept = row
        return row

    def _facts(self) -> Row:
        """Return its row for what never changes: all but its status, `last_seen_at` and `finished_at`."""
        return self._row() if self._kept is None else self._kept

    def _effective_tags(self) -> tuple[set[str], set[str]]:
        rows = tags.run_tags(self._store, int(self.id))
        return {row["tag"] for row in rows if not row["system"]}, {row["tag"] for row in rows if row["system"]}

    def _node(self) -> tags.Node:
        return tags.Node(self.pathspec, int(self.id))

    @property
    def parent(self) -> Flow:
        """The flow."""
        return Flow._at(self._scope, self.path_components[0])

    @property
    def status(self) -> str:
        """'running', 'successful', 'failed', 'stopped', or 'dead' if its process died."""
        return status_of(self._row())

    @property
    def created_at(self) -> datetime:
        """When it was created, in UTC."""
        return time_of(self._facts()["created_at"])

    @property
    def finished_at(self) -> datetime | None:
        """When it ended, in UTC; `None` while it runs."""
        at = self._row()["finished_at"]
        return None if at is None else time_of(at)

    @property
    def origin_pathspec(self) -> str | None:
        """Its pathspec in Metaflow, where it was imported from there; else that of the run that it resumed."""
        flow, run_id = self.path_components
        there = origins.pathspec_in_metaflow(self._store, addresses.number("run", run_id))
        return there or (None if self.origin_run_id is None else f"{flow}/{self.origin_run_id}")

    @property
    def trigger(self) -> Trigger | None:
        """The events that started it; `None` where none did."""
        from flowstore.client.events import Trigger
        from flowstore.store import events

        recorded = json_of(events.of_run(self._store, int(self.id)) or "[]", list)
        everywhere = Scope(self._store, None)
        return Trigger(recorded, lambda pathspec: Run._get(everywhere, pathspec)) if recorded else None

    @property
    def origin_run_id(self) -> str | None:
        """The run that it resumed, or `None`."""
        run_id: str | None = self._facts()["origin_run_id"]
        return run_id

    @property
    def imported_from(self) -> str | None:
        """Where it came from, as the other store's uuid and its pathspec there, `UUID/Flow/5`; else `None`."""
        return origins.imported_from(self._store, int(self.id))

    @property
    def user(self) -> str:
        """Who ran it."""
        return str(self._facts()["user"])

    @property
    def parameters(self) -> dict[str, Any]:
        """The values of its parameters; of one that can't be loaded here, its preview."""
        listed = self._listed_parameters()
        for row in queries.parameters_of(self._store, int(self.id)):
            if row["kind"] == "parameter":
                listed[row["name"]] = self._value_of(row["name"], Blob.of(row))
        return listed

    def _value_of(self, name: str, blob: Blob) -> Any:
        try:
            return blobs.load(self._store, blob, f"{self.pathspec}: {name}", run_id=int(self.id))
        except (ArtifactError, UntrustedArtifact):
            return blob.preview

    def _listed_parameters(self) -> dict[str, Any]:
        """Return its parameters as plain values, without loading any: for tables of many runs."""
        return json_of(self._facts()["parameters"], dict)

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers in its artifacts, by name such as 'metrics.accuracy': as its end task sees them.

        Of a run without an end task, those that were set last.
        """
        return metrics.final(self._store, [int(self.id)])[int(self.id)]

    @property
    def note(self) -> str | None:
        """A note on the run, as text; set it to `None` to remove it."""
        text: str | None = self._store.value("select note from run_summary where run_id = ?", (int(self.id),))
        return text

    @note.setter
    def note(self, text: str | None) -> None:
        if text is not None and not (isinstance(text, str) and context.is_text(text) and len(text) <= MAX_NOTE):
            raise FlowstoreError(f"A note is a text of at most {MAX_NOTE:,} characters, or None to remove it.")
        with self._store.write() as db:
            changed = db.execute("update runs set note = ? where id = ?", (text or None, int(self.id))).rowcount
        if not changed:
            raise NotFound(f"Run {self.pathspec} was deleted from {self._store.path}.")

    @property
    def code(self) -> Code | None:
        """The source that it ran, or `None` where there was no file."""
        code_id = self._facts()["code_id"]
        return None if code_id is None else Code(self._scope, code_id)

    @property
    def environment(self) -> dict[str, str] | None:
        """The versions of the distributions whose modules it imported, by name; `None` where they are not known.

        Example:
            {"numpy": "2.3.1", "pandas": "3.0.0"}
        """
        text = environment_of(self._store, int(self.id))
        return None if text is None else json_of(text, dict)

    def steps(self, *tags: str) -> Iterator[Step]:
        """Yield the steps that have begun and have all tags, the latest first."""
        for row in queries.steps(self._store, int(self.id), self._lacking(tags)):
            yield Step._at(self._scope, f"{self.pathspec}/{row['name']}")

    def _repr_html_(self) -> str:
        from flowstore.client import html

        return html.run(self)

    def __iter__(self) -> Iterator[Step]:
        return self.steps()

    @property
    def end_task(self) -> Task | None:
        """The task of the last step, or `None` while there is none that succeeded."""
        if self._end is None:
            row = queries.end_task(self._store, int(self.id))
            if row is None or row["status"] != "successful":
                return None
            self._end = Task._of(self._scope, self.path_components[0], row)
        return self._end

    @property
    def data(self) -> Data | None:
        """The artifacts of the end task, inherited ones included; `None` while there is none."""
        end = self.end_task
        return None if end is None else end.data


class Step(Tagged, Container[Task]):
    """One step of a run: all of its tasks.

    Args:
        pathspec: `FlowName/run_id/step`.
    """

    _KIND, _DEPTH = "step", 3

    _kept: Row | None = None  # its row, in which nothing changes

    def _check_exists(self) -> None:
        flow, run_id, name = self.path_components
        self._kept = queries.find_step(self._store, flow, addresses.number("run", run_id), name)
        if self._kept is None:
            raise addresses.missing(self._store, self.path_components)

    def _row(self) -> Row:
        if self._kept is None:
            flow, run_id, name = self.path_components
            self._kept = queries.find_step(self._store, flow, int(run_id), name)
        if self._kept is None:
            raise NotFound(f"Step {self.pathspec} was deleted from {self._store.path}.")
        return self._kept

    def _node(self) -> tags.Node:
        row = self._row()
        return tags.Node(self.pathspec, row["run_id"], row["id"])

    @property
    def parent(self) -> Run:
        """The run."""
        run: Run = self._above(2)
        return run

    def _effective_tags(self) -> tuple[set[str], set[str]]:
        user, system = self.parent._effective_tags()
        row = self._row()
        return user | set(tags.node_tags(self._store, row["run_id"], row["id"], 0, "")), system

    @property
    def created_at(self) -> datetime:
        """When its first task started, in UTC; for a task that a resumed run took over, when it originally ran."""
        row = self._row()
        return time_of(queries.step_began_at(self._store, row["run_id"], row["id"], row["created_at"]))

    @property
    def finished_at(self) -> datetime | None:
        """When its last task ended, in UTC; `None` while one runs."""
        ends = [task.finished_at for task in self]
        return None if None in ends else max((end for end in ends if end is not None), default=None)

    @property
    def task(self) -> Task | None:
        """One of its tasks: the first, where there are many."""
        row = self._row()
        first = queries.first_task(self._store, row["run_id"], row["id"])
        return None if first is None else Task._of(self._scope, self.path_components[0], first)

    def tasks(self, *tags: str) -> Iterator[Task]:
        """Yield the tasks that have all tags, the latest first."""
        row = self._row()
        for page in queries.tasks(self._store, row["run_id"], row["id"], self._lacking(tags)):
            visible = Visible.of_final(self._store, page)
            yield from (Task._of(self._scope, self.path_components[0], task, visible) for task in page)

    def _repr_html_(self) -> str:
        from flowstore.client import html

        return html.step(self)

    def __iter__(self) -> Iterator[Task]:
        return self.tasks()

    @property
    def origin_pathspec(self) -> str | None:
        """The pathspec of this step in the run that was resumed; `None` where none was."""
        origin = self.parent.origin_pathspec
        return None if origin is None else f"{origin}/{self.id}"

    @property
    def control_task(self) -> Task | None:
        """The first task of its first gang; `None` where the step is not `@parallel`."""
        return next(self.control_tasks(), None)

    def control_tasks(self, *tags: str) -> Iterator[Task]:
        """Yield the first task of each gang, if it has all tags; none where the step is not `@parallel`."""
        lacking = self._lacking(tags)
        for row in queries.control_tasks(self._store, self._row()["id"]):
            task = Task._of(self._scope, self.path_components[0], row)
            if not lacking or lacking <= task.tags:
                yield task

    @property
    def environment_info(self) -> dict[str, str] | None:
        """The versions of what its run imported, by the distribution's name; see `Run.environment`."""
        return self.parent.environment

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
            yield Step._at(self._scope, f"{self.parent.pathspec}/{name}")
