"""What a worker is told: an order, a message of plain values, that says where the task's inputs are.

For that the driver remembers of each finished task its row, and of each that opened a foreach its items. A
task's artifacts come from `base_id`: the nearest task before it that set any, or none for a join.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from flowstore.flow.graph import Graph
from flowstore.run.local.messages import Small
from flowstore.run.plan import Frame, PlannedTask
from flowstore.run.resume import Origin


@attrs.frozen(eq=False, repr=False)
class StepPolicy:
    """What a step's decorators ask of the driver."""

    retries: int = 0
    retry_delay_s: float = 0
    timeout_s: float = 0
    catch: Mapping[str, Any] | None = None
    environment: Mapping[str, str] = attrs.field(factory=dict)
    metadata: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(eq=False, repr=False)
class RunPlan:
    """All that the driver needs to know of a run.

    Attributes:
        flow, run_id: its address.
        graph: its steps.
        policies: by step.
        template: what every order holds; see `Orders.order`.
        max_workers: how many attempts run at a time.
        origin: the run that it resumes.
    """

    flow: str
    run_id: int
    graph: Graph
    policies: Mapping[str, StepPolicy]
    template: Mapping[str, Any]
    max_workers: int
    origin: Origin | None = None


Shown = Callable[[], Sequence[str | None] | None]  # a preview of each item of a foreach, found out when one is needed


@attrs.frozen(eq=False, repr=False)
class _Opened:
    """A task that opened a foreach or gang: where its tasks find their items."""

    task_id: int
    items_from: str | None
    items: Sequence[Small] | None
    shown: Shown | None


class Orders:
    """Writes the orders of one run."""

    def __init__(self, run: RunPlan) -> None:
        self._run = run
        self._finished: dict[int, tuple[int, str, int | None]] = {}  # plan's key: task id, step, base for what follows
        self._opened: dict[int, _Opened] = {}

    def note(
        self,
        planned: PlannedTask,
        task_id: int,
        base_id: int | None,
        asked: Mapping[str, Any],
        items: Sequence[Small] | None,
        shown: Shown | None = None,
    ) -> None:
        """Remember a finished task.

        Args:
            planned: the task.
            task_id: its row.
            base_id: where the tasks after it find their artifacts.
            asked: its transition.
            items: of the foreach that it opened, where all are small.
            shown: returns a preview of each of its items.
        """
        self._finished[planned.key] = (task_id, planned.step, base_id)
        if asked.get("count") is not None:
            self._opened[planned.key] = _Opened(task_id, asked.get("items_from"), items, shown)

    def parents(self, planned: PlannedTask) -> list[int]:
        """The rows of the tasks before a planned one."""
        return [self._finished[parent][0] for parent in planned.parents]

    def base(self, planned: PlannedTask) -> int | None:
        """The row of the task whose artifacts a planned one starts from."""
        if self._run.graph[planned.step].is_join or not planned.parents:
            return None
        return self._finished[planned.parents[0]][2]

    def item(self, planned: PlannedTask) -> str | None:
        """Return the preview of the item that a planned task has in its innermost foreach."""
        frames = [frame for frame in planned.frames if frame.kind != "branch"]
        shown = self._opened[frames[-1].opener].shown if frames and frames[-1].kind == "foreach" else None
        previews = None if shown is None else shown()
        return None if previews is None else previews[frames[-1].index]

    def order(
        self, planned: PlannedTask, task_id: int, attempt: int, fallback: Mapping[str, str] | None
    ) -> dict[str, Any]:
        """What a worker needs to run an attempt.

        Args:
            planned: the task.
            task_id: its row.
            attempt: its number, from 0.
            fallback: why the last attempt's process died, if all that is left to do is to catch that.
        """
        run = self._run
        policy = run.policies[planned.step]
        inputs, joined = self._inputs(planned) if run.graph[planned.step].is_join else ([], None)
        current = {
            **run.template["current"],
            "step_name": planned.step,
            "task_id": str(task_id),
            "pathspec": f"{run.flow}/{run.run_id}/{planned.step}/{task_id}",
            "retry_count": attempt,
            "parallel": _gang(task_id, planned.gang),
        }
        return {
            **run.template,
            "current": current,
            "step": planned.step,
            "base_id": self.base(planned),
            "frames": [self._frame(frame) for frame in planned.frames if frame.kind != "branch"],
            "inputs": inputs,
            "joined": joined,
            "environment": dict(policy.environment),
            "timeout_s": policy.timeout_s,
            "catch": policy.catch,
            "last_attempt": attempt >= policy.retries,
            "fallback": fallback,
        }

    def _frame(self, frame: Frame) -> dict[str, Any]:
        items = self._opened[frame.opener].items
        return {**self._place(frame), "index": frame.index, "item": items[frame.index] if items is not None else None}

    def _place(self, frame: Frame) -> dict[str, Any]:
        opened = self._opened[frame.opener]
        return {"kind": frame.kind, "count": frame.count, "opener": opened.task_id, "items_from": opened.items_from}

    def _inputs(self, planned: PlannedTask) -> tuple[list[tuple[int, str, int]], dict[str, Any] | None]:
        """The tasks that a join joins, and the foreach or gang that they were in."""
        parents = [self._finished[parent] for parent in planned.parents]
        inputs = [(task_id, step, index) for index, (task_id, step, _) in enumerate(parents)]
        closed = planned.closes
        return inputs, None if closed is None or closed.kind == "branch" else self._place(closed)


def _gang(task_id: int, frame: Frame | None) -> dict[str, Any] | None:
    """What `current.parallel` says to a member of a gang."""
    if frame is None:
        return None
    first = task_id - frame.index  # members are inserted one after the other, in one transaction
    return {
        "main_ip": "127.0.0.1",
        "num_nodes": frame.count,
        "node_index": frame.index,
        "control_task_id": str(first),
    }
