"""Runs of Metaflow as they were read, and which artifacts of theirs are Metaflow's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flowstore.transfer.metaflow_history.attachments import Card
from flowstore.transfer.metaflow_history.values import Artifact

_INTERNAL = frozenset(
    {
        "_catch_exception", "_configs_processed", "_control_mapper_tasks", "_control_task_is_mapper_zero",
        "_current_step", "_exception", "_foreach_num_splits", "_foreach_stack", "_foreach_values", "_foreach_var",
        "_graph_info", "_iteration_stack", "_parallel_ubf_iter", "_success", "_task_ok", "_transition",
        "_unbounded_foreach",
    }
)  # fmt: skip


def is_internal(name: str) -> bool:
    """Return whether an artifact is what Metaflow stores for itself."""
    return name in _INTERNAL


@attrs.frozen(eq=False)
class Fact:
    """One of the facts that Metaflow records of an attempt.

    Attributes:
        name: its name.
        value: its value, as text.
        type: its kind.
        at_ms: when it was recorded.
    """

    name: str
    value: str
    type: str
    at_ms: int


@attrs.frozen(eq=False)
class Attempt:
    """One attempt of a task.

    Attributes:
        number: 0, 1, …
        status: as in flowstore's table.
        started_at, finished_at: in milliseconds since 1970.
        artifacts: by name, private ones included.
        facts: what is recorded of it.
        error: type, message and traceback of the exception that made it fail.
        logs: by stream, the files of what it printed.
        cards: its cards.
    """

    number: int
    status: str
    started_at: int
    finished_at: int
    artifacts: Mapping[str, Artifact]
    facts: Sequence[Fact]
    error: tuple[str, str, str] | None
    logs: Mapping[str, Sequence[str]]
    cards: Sequence[Card] = ()

    def fact(self, name: str) -> str | None:
        """Return the value of the fact of a name that was recorded last; `None` where there is none."""
        return next((fact.value for fact in reversed(self.facts) if fact.name == name), None)


@attrs.frozen(eq=False)
class Task:
    """One task.

    Attributes:
        id: its id in Metaflow: mostly a number.
        step: its step.
        created_at: in milliseconds since 1970.
        attempts: at least one.
        indexes: its index in each foreach, the outermost first.
        item: its foreach item, as text.
        transition: to which steps it went, as flowstore records it.
        origin: the run and the task in Metaflow that it was taken over from, in a run that was resumed.
    """

    id: str
    step: str
    created_at: int
    attempts: Sequence[Attempt]
    indexes: tuple[int, ...] = ()
    item: str | None = None
    transition: Mapping[str, Any] = attrs.field(factory=dict)
    origin: tuple[str, str] | None = None

    @property
    def last(self) -> Attempt:
        """Its last attempt."""
        return self.attempts[-1]


@attrs.frozen(eq=False)
class Run:
    """One run.

    Attributes:
        flow, id: its address in Metaflow.
        uuid: the id by which it is recognised when it is imported again, from a copy of the folder, too.
        user: who ran it.
        created_at: in milliseconds since 1970.
        tags, system_tags: its tags.
        steps: by name, when each was created.
        tasks: in the order in which they began.
        parents: the positions of the tasks directly before each task.
        parameters: what all tasks have, by name; of each the artifact, and its kind: 'parameter' or 'constant'.
        origin_id: the run that it resumed.
        code: the address of the package of its code, and the path of the flow's file.
        start_step, end_step: the names of its first and last step.
    """

    flow: str
    id: str
    uuid: str
    user: str
    created_at: int
    tags: Sequence[str]
    system_tags: Sequence[str]
    steps: Mapping[str, int]
    tasks: Sequence[Task]
    parents: Sequence[Sequence[int]]
    parameters: Mapping[str, tuple[str, Artifact]]
    origin_id: str | None = None
    code: tuple[str, str] | None = None
    start_step: str = "start"
    end_step: str = "end"

    @property
    def pathspec(self) -> str:
        """Its pathspec in Metaflow."""
        return f"{self.flow}/{self.id}"

    @property
    def status(self) -> str:
        """Its status, as in flowstore's table; one that is unfinished is `dead`, since nobody is going on with it."""
        if any(task.step == self.end_step and task.last.status == "successful" for task in self.tasks):
            return "successful"
        return "failed" if any(task.last.status == "failed" for task in self.tasks) else "dead"

    @property
    def finished_at(self) -> int:
        """When its last task ended."""
        return max((task.last.finished_at for task in self.tasks), default=self.created_at)
