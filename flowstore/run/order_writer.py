"""Writing a run's orders, from what the plan says is ready and from the tasks that have finished.

The driver remembers the row of each finished task, and the items of each foreach that was opened. A task's artifacts
come from `base_id`: the nearest task before it that set any, or none for a join. Small ones that were set in this run
travel with the order, since opening the store would take a task longer than everything else it does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowstore import later
from flowstore.flow.graph import Graph
from flowstore.run.orders import Failure, Inline, OpenSplit, Order, Report, RunFacts
from flowstore.run.plan import Frame, Outcome, PlannedTask
from flowstore.run.policies import StepPolicy
from flowstore.run.resume import Origin

if TYPE_CHECKING:
    from flowstore.run.gate import Gate


@later.frozen
class FinishEvent:
    """The event that a run publishes when it succeeds: its flow, the event's payload, and the user."""

    flow: str
    payload: Mapping[str, Any]
    user: str


@later.frozen
class RunPlan:
    """All that the driver needs to know of a run.

    Attributes:
        facts: what all orders of the run share.
        graph: its steps.
        policies: by step.
        max_workers: how many attempts run at a time.
        origin: the run that it resumes.
        finished: the event to publish when it succeeds.
        gate: where tasks wait until they are admitted.
    """

    facts: RunFacts
    graph: Graph
    policies: Mapping[str, StepPolicy]
    max_workers: int
    origin: Origin | None = None
    finished: FinishEvent | None = None
    gate: Gate | None = None

    @property
    def run_id(self) -> int:
        """The run's id."""
        return self.facts.run_id


Previews = Callable[[], Sequence[str | None] | None]  # a preview of each item of a foreach, computed when first needed


@later.frozen
class FinishedTask:
    """A task that has finished, as those after it need to know it.

    Attributes:
        id: its row.
        base_id: the task with the artifacts that the next ones start from.
        outcome: what it asked for.
        items: the items of the foreach that it opened, where all are small.
        previews: returns a preview of each of these items, of whatever size.
    """

    id: int
    base_id: int | None
    outcome: Outcome
    items: Sequence[Inline] | None = None
    previews: Previews | None = None


_VALUE_BYTES = 2048  # an artifact of at most this size travels with orders,
_VALUES_BYTES = 4096  # and at most so much with each: more would leave a reused process fewer orders ahead
_HELD_BYTES = 32 << 20  # of all that are remembered, each counted where it was set

_Values = Mapping[str, tuple[str, bytes]]


class _SmallValues:
    """The small artifacts that tasks have, for the orders of those that follow, until they are too many.

    Those that were not asked for the longest are forgotten first.
    """

    def __init__(self) -> None:
        self._by_task: dict[int, tuple[_Values, int]] = {}  # by key in the plan, with the bytes that the task has added
        self._bytes = 0

    def after(self, key: int) -> _Values:
        """Return the small artifacts of a finished task, own and inherited."""
        if key not in self._by_task:
            return {}
        values, _ = self._by_task[key] = self._by_task.pop(key)
        return values

    def note(self, key: int, inherited: _Values, report: Report) -> None:
        """Remember what a task has: what it inherited, without what it deleted, and with what it set.

        The items of the foreach that it opens are left out: each task gets its own.
        """
        items_from = None if report.outcome is None else report.outcome.items_from
        gone = {*report.deleted, *report.artifacts, items_from}
        values = {name: value for name, value in inherited.items() if name not in gone}
        own = {
            name: (blob.codec, blob.data)
            for name, blob in report.artifacts.items()
            if blob.data is not None and len(blob.data) <= _VALUE_BYTES and name != items_from
        }
        kept = _smallest({**values, **own})
        added = 300 + sys.getsizeof(kept) + sum(_size(name, value) for name, value in own.items())
        self._by_task[key] = kept, added
        self._bytes += added
        while self._bytes > _HELD_BYTES:
            self._bytes -= self._by_task.pop(next(iter(self._by_task)))[1]


def _smallest(values: _Values) -> _Values:
    """Return as many as may travel with one order, the smallest first."""
    if sum(_size(name, value) for name, value in values.items()) <= _VALUES_BYTES:
        return values
    kept: dict[str, tuple[str, bytes]] = {}
    room = _VALUES_BYTES
    for name in sorted(values, key=lambda name: len(values[name][1])):
        room -= _size(name, values[name])
        if room < 0:
            break
        kept[name] = values[name]
    return kept


def _size(name: str, value: tuple[str, bytes]) -> int:
    return len(name) + len(value[1]) + 50


class OrderWriter:
    """Writes the orders of one run."""

    def __init__(self, run: RunPlan) -> None:
        self._run = run
        self._finished: dict[int, tuple[int, str, int | None]] = {}  # plan's key: task id, step, base for what follows
        self._opened: dict[int, FinishedTask] = {}  # plan's key: a task that opened a foreach or gang
        self._values = _SmallValues()

    def note(self, planned: PlannedTask, task: FinishedTask, report: Report | None = None) -> None:
        """Remember a finished task.

        Args:
            planned: the task.
            task: what those after it need to know.
            report: its report, if it ran in this run.
        """
        self._finished[planned.key] = (task.id, planned.step, task.base_id)
        if task.outcome.count is not None:
            self._opened[planned.key] = task
        followed = not all(self._run.graph[step].is_join for step in task.outcome.targets)  # a join asks for its inputs
        if report is not None and followed:
            self._values.note(planned.key, self._inherited(planned), report)

    def _inherited(self, planned: PlannedTask) -> _Values:
        if self._run.graph[planned.step].is_join or not planned.parents:
            return {}
        return self._values.after(planned.parents[0])

    def parents(self, planned: PlannedTask) -> list[int]:
        """Return the rows of the tasks before a planned one."""
        return [self._finished[parent][0] for parent in planned.parents]

    def base(self, planned: PlannedTask) -> int | None:
        """Return the row of the task with the artifacts that a planned one starts from."""
        if self._run.graph[planned.step].is_join or not planned.parents:
            return None
        return self._finished[planned.parents[0]][2]

    def item(self, planned: PlannedTask) -> str | None:
        """Return the preview of the item that a planned task has in its innermost foreach."""
        frames = [frame for frame in planned.frames if frame.kind != "branch"]
        previews = self._opened[frames[-1].opener].previews if frames and frames[-1].kind == "foreach" else None
        shown = None if previews is None else previews()
        return None if shown is None else shown[frames[-1].index]

    def order(
        self, planned: PlannedTask, task_id: int, attempt: int, tags: Sequence[str], fallback: Failure | None
    ) -> Order:
        """Return the order for an attempt.

        Args:
            planned: the task.
            task_id: its row.
            attempt: its number, from 0.
            tags: the run's, as they are now.
            fallback: why the last attempt's process died, if all that is left to do is to catch that.
        """
        policy = self._run.policies[planned.step]
        is_join, closes, gang = self._run.graph[planned.step].is_join, planned.closes, planned.gang
        parents = [self._finished[parent] for parent in planned.parents] if is_join else []
        return Order(
            run=self._run.facts,
            step=planned.step,
            task_id=task_id,
            attempt=attempt,
            last_attempt=attempt >= policy.retries,
            base_id=self.base(planned),
            splits=[self._split(frame, frame.index) for frame in planned.frames if frame.kind != "branch"],
            inputs=[(parent_id, step) for parent_id, step, _ in parents],
            joined=self._split(closes) if is_join and closes is not None and closes.kind != "branch" else None,
            node_index=None if gang is None else gang.index,
            num_nodes=0 if gang is None else gang.count,
            first_node_id=0 if gang is None else task_id - gang.index,  # a gang's ids follow on one another
            tags=tags,
            environment=policy.environment,
            secrets=policy.secrets,
            timeout_s=policy.timeout_s,
            catch=policy.catch,
            fallback=fallback,
            values=self._inherited(planned),
        )

    def _split(self, frame: Frame, index: int | None = None) -> OpenSplit:
        opener = self._opened[frame.opener]
        item = None if index is None or opener.items is None else opener.items[index]
        return OpenSplit(frame.kind, frame.count, opener.id, opener.outcome.items_from, index, item)
