"""The plan of a run: the tasks that become ready as others finish. Pure: no clock, no process, no store.

A task carries a stack of frames, one for each split (branch, foreach, gang) that is still open around it.
A join waits until as many tasks have arrived as the innermost frame counts, and closes it. Since a frame
names the task that opened it, the same join entered again by a switch that goes back, or by another item
of an outer foreach, counts on its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from flowstore import later
from flowstore.flow.graph import Graph


@later.frozen
class Frame:
    """One open split around a task.

    Attributes:
        opener: the key of the task that opened it.
        kind: 'branch', 'foreach' or 'gang'.
        index, count: the task's place in it, and how many there are.
    """

    opener: int
    kind: str
    index: int
    count: int


@later.frozen
class PlannedTask:
    """A task that is ready to run.

    Attributes:
        key: its number in the plan, from 0.
        step: the step's name.
        parents: keys of the tasks that it follows; several for a join, in branch order.
        frames: the splits that are open around it, outermost first.
        closes: the split that it closes, for a join.
    """

    key: int
    step: str
    parents: tuple[int, ...]
    frames: tuple[Frame, ...]
    closes: Frame | None = None

    @property
    def foreach_path(self) -> str | None:
        """Its index in each enclosing foreach or gang, such as '3/0'; `None` outside one."""
        indexes = [str(frame.index) for frame in self.frames if frame.kind != "branch"]
        return "/".join(indexes) or None

    @property
    def gang(self) -> Frame | None:
        """The frame that its gang's start opened, for members of a gang in their first step."""
        last = self.frames[-1] if self.frames else None
        return last if last is not None and last.kind == "gang" and self.parents == (last.opener,) else None


@later.frozen
class Outcome:
    """The next steps, as a finished task asked for them.

    Attributes:
        targets: the steps that come next; for a switch the chosen one.
        count: the number of tasks of a foreach or gang.
        gang: whether they must run all at once.
        items_from: the artifact that holds the items of a foreach.
    """

    targets: tuple[str, ...] = ()
    count: int | None = None
    gang: bool = False
    items_from: str | None = None


class Plan:
    """Turns outcomes into the tasks that they make ready.

    Example:
        >>> from flowstore.flow.graph import Graph, Node
        >>> node = lambda name, kind, *targets: Node(
        ...     name=name, kind=kind, targets=targets, is_join=False, foreach=None, condition=None, cases=None,
        ...     file="", line=0, next_line=0, doc="", decorators=(), problem=None)
        >>> nodes = {"start": node("start", "linear", "end"), "end": node("end", "end")}
        >>> plan = Plan(Graph(flow="F", file="", line=0, doc="", nodes=nodes))
        >>> [end] = plan.finish(plan.start(), Outcome(("end",)))
        >>> end.step, end.parents, plan.finish(end, Outcome()), plan.done
        ('end', (0,), [], True)
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._keys = 0
        self._arrived: dict[tuple[str, int], dict[int, int]] = {}
        self.done = False

    def start(self) -> PlannedTask:
        """Return the first task."""
        return self._new(self._graph.start, (), ())

    def finish(self, task: PlannedTask, outcome: Outcome) -> list[PlannedTask]:
        """Return the tasks that become ready because `task` finished with `outcome`."""
        if not outcome.targets:
            self.done = True
            return []
        if outcome.count is not None:
            [target] = outcome.targets
            kind = "gang" if outcome.gang else "foreach"
            parents = (task.key,)
            frames = [Frame(task.key, kind, index, outcome.count) for index in range(outcome.count)]
            return [self._new(target, parents, (*task.frames, frame)) for frame in frames]
        if len(outcome.targets) == 1:
            return self._enter(outcome.targets[0], task.key, task.frames)
        ready: list[PlannedTask] = []
        for index, target in enumerate(outcome.targets):
            frame = Frame(task.key, "branch", index, len(outcome.targets))
            ready += self._enter(target, task.key, (*task.frames, frame))
        return ready

    def _enter(self, step: str, parent: int, frames: tuple[Frame, ...]) -> list[PlannedTask]:
        if not self._graph[step].is_join:
            return [self._new(step, (parent,), frames)]
        frame = frames[-1]
        arrived = self._arrived.setdefault((step, frame.opener), {})
        arrived[frame.index] = parent
        if len(arrived) < frame.count:
            return []
        del self._arrived[(step, frame.opener)]
        return [self._new(step, _in_order(arrived), frames[:-1], frame)]

    def _new(
        self, step: str, parents: tuple[int, ...], frames: tuple[Frame, ...], closes: Frame | None = None
    ) -> PlannedTask:
        self._keys += 1
        return PlannedTask(self._keys - 1, step, parents, frames, closes)


def _in_order(arrived: Mapping[int, int]) -> tuple[int, ...]:
    return tuple(arrived[index] for index in sorted(arrived))
