"""The gate before tasks that AWS admits one by one, each as the state of its step is entered.

A worker writes the tokens that arrive into the store; the driver looks there. Tokens and tasks are counted for each
step and foreach path: a switch that goes back enters the same state again, and the second token is for the second
task. The members of a gang share a token. Tasks that a resumed run takes over need none.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable

from flowstore.run.plan import PlannedTask
from flowstore.sqlite.database import Database
from flowstore.store import state_machines

_POLL_S = 0.2
_Key = tuple[str, str]


class Gate:
    """Decides which tasks of a run may start.

    Args:
        store: where the tokens are.
        execution: the tag of the run's execution.

    Attributes:
        look_at: when to look for tokens again, by the monotonic clock.
    """

    def __init__(self, store: Database, execution: str) -> None:
        self._store = store
        self._execution = execution
        self._arrived: dict[_Key, int] = {}
        self._passed: collections.Counter[_Key] = collections.Counter()
        self._gangs: set[tuple[str, tuple[int, ...]]] = set()  # steps of gangs that were admitted, with their openers
        self.look_at = 0.0

    def is_open_for(self, tasks: Iterable[PlannedTask]) -> bool:
        """Look for tokens, if it is time to, and return whether any of some tasks may start now."""
        if time.monotonic() < self.look_at:
            return False
        self.look_at = time.monotonic() + _POLL_S
        self._arrived = state_machines.tokens_by_step(self._store, self._execution)
        return any(self._may_pass(task) for task in tasks)

    def admits(self, task: PlannedTask) -> bool:
        """Return whether a task may start, and count it as started if it may."""
        if not self._may_pass(task):
            return False
        self.note(task)
        return True

    def note(self, task: PlannedTask) -> None:
        """Count a task as started."""
        gang = _gang(task)
        if gang is None or gang not in self._gangs:
            self._passed[_key(task)] += 1
        if gang is not None:
            self._gangs.add(gang)

    def _may_pass(self, task: PlannedTask) -> bool:
        return _gang(task) in self._gangs or self._arrived.get(_key(task), 0) > self._passed[_key(task)]


def _key(task: PlannedTask) -> _Key:
    return task.step, "/".join(str(frame.index) for frame in task.frames if frame.kind == "foreach")


def _gang(task: PlannedTask) -> tuple[str, tuple[int, ...]] | None:
    """Return what is the same for the members of a gang in one of its steps; `None` outside of gangs."""
    openers = tuple(frame.opener for frame in task.frames if frame.kind == "gang")
    return (task.step, openers) if openers else None
