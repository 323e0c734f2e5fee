"""The attempts of a run, as its driver follows them: those that wait, those that run, and those that have finished."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from flowstore import later
from flowstore.errors import TimeoutExpired
from flowstore.run.executor import Died
from flowstore.run.lines import Lines
from flowstore.run.orders import Failure, Report
from flowstore.run.plan import PlannedTask

if TYPE_CHECKING:
    from flowstore.flow.secrets import Stream
    from flowstore.run.gate import Gate

LAST_LINES = 5  # how many of the last lines that an attempt printed are kept for the case that it dies
END_S = 10.0  # how long a process may take for what is left to do after its attempt
OVERSTAYED = (
    f"The task's process was killed: {END_S:g} s after it had delivered its result it was still ending, with threads, "
    "atexit hooks or open files. The result is kept.\n"
).encode()


@later.define
class RunningTask:
    """A task that has been handed to the executor, through all of its attempts.

    Attributes:
        planned: its place in the plan.
        id: its row, which is not in the store until its first attempt has begun.
        item: a preview of its foreach item.
        attempt, attempt_id: the number and the row of the present attempt.
        number: the executor's number of the present attempt.
        pid, host: where that runs; no host: on this machine.
        begun_at_ms: when it began; `None` while its order only waits.
        is_recorded: whether the task has been in the store since an earlier attempt.
        deadline: when it is killed.
        timed_out, stopped, reported: whether it was killed for its deadline, or with its gang, or is over.
        fallback: why the process of the last attempt died, where `@catch` is to handle that.
        measured: the artifacts that have metrics from the last attempt.
        streams: what it prints.
        hidden: what hides secrets in that, where a step of the run has some.
        last_lines: the last lines that it printed.
    """

    planned: PlannedTask
    id: int
    item: str | None = None
    attempt: int = -1
    attempt_id: int = 0
    number: int = 0
    pid: int | None = None
    host: str | None = None
    begun_at_ms: int | None = None
    is_recorded: bool = False
    deadline: float | None = None
    timed_out: bool = False
    stopped: bool = False
    reported: bool = False
    fallback: Failure | None = None
    measured: Collection[str] = ()
    streams: dict[str, Lines] = later.field(factory=dict)
    hidden: dict[str, Stream] = later.field(factory=dict)
    last_lines: deque[str] = later.field(factory=lambda: deque(maxlen=LAST_LINES))

    def is_in_gang_of(self, opener: int) -> bool:
        """Return whether it belongs to the gang that another task opened."""
        return self.planned.gang is not None and self.planned.gang.opener == opener


@later.define
class Finished:
    """The end of an attempt, on its way into the store, and what follows from it once its process has ended.

    Attributes:
        task: the task.
        report: how the attempt ended.
        due: when it has to be in the store at the latest.
        ended: whether the process has ended.
        follow: starts what follows.
    """

    task: RunningTask
    report: Report
    due: float
    ended: bool = False
    follow: Callable[[], None] = lambda: None

    def is_due(self, now: float) -> bool:
        """Return whether it has to be in the store: at once when its process has ended, for what follows from that."""
        return self.ended or now >= self.due


def cause_of_death(task: RunningTask, event: Died, timeout_s: float | None) -> Failure:
    """Return why an attempt failed whose process ended without a report.

    Args:
        task: the task.
        event: what the executor says of the process.
        timeout_s: of the step.
    """
    name, message, module = "TaskDied", str(event), ""  # no exception that somebody could catch
    if task.timed_out:
        message = f"The task took longer than its timeout of {timeout_s:g} s and was killed."
        name, module = TimeoutExpired.__name__, TimeoutExpired.__module__
    return Failure(name, message, message, module)


class Waiting:
    """The tasks that are to start.

    Members of a gang may start however many tasks run: the others of the gang may wait for them.

    Args:
        gate: where tasks wait until they are admitted, if they do.

    Attributes:
        ready: those that start for the first time, in order.
    """

    def __init__(self, gate: Gate | None = None) -> None:
        self.ready: deque[PlannedTask] = deque()
        self._held: list[PlannedTask] = []
        self._gate = gate
        self._again: list[tuple[float, int, RunningTask]] = []  # a heap: when, task id, task to try again

    def __len__(self) -> int:
        return len(self.ready) + len(self._held) + len(self._again)

    def try_again(self, task: RunningTask, when: float) -> None:
        """Add a task that is to be tried again, at a time of the clock that never goes back."""
        heapq.heappush(self._again, (when, task.id, task))

    def is_startable(self, *, free: bool) -> bool:
        """Return whether a task may start; `free`: there is room for one that is in no gang."""
        if self._gate is not None and self._held and self._gate.is_open_for(self._held):
            self.ready.extend(self._held)
            self._held.clear()
        if self._may_start_again(free=free) and self._again[0][0] <= time.monotonic():
            return True
        return bool(self.ready) and (free or self.ready[0].gang is not None)

    def next_at(self, *, free: bool) -> list[float]:
        """Return when the next task is to be tried again, if one is."""
        held = [self._gate.look_at] if self._gate is not None and self._held else []
        return [self._again[0][0], *held] if self._may_start_again(free=free) else held

    def hold(self) -> bool:
        """Hold the next task back if it is not admitted yet, and return whether it is held."""
        if self._gate is None or self._gate.admits(self.ready[0]):
            return False
        self._held.append(self.ready.popleft())
        return True

    def skip(self) -> None:
        """Remove the next task, which need not start."""
        task = self.ready.popleft()
        if self._gate is not None:
            self._gate.note(task)

    def pop_again(self, *, free: bool) -> RunningTask | None:
        """Return the task that is to be tried again now, if there is one."""
        if self._may_start_again(free=free) and self._again[0][0] <= time.monotonic():
            return heapq.heappop(self._again)[2]
        return None

    def _may_start_again(self, *, free: bool) -> bool:
        return bool(self._again) and (free or self._again[0][2].planned.gang is not None)
