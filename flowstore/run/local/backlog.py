"""Orders that wait for a process which is reused, and how many of a step such a process may have ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from flowstore.run.orders import Order

_BUSY_S = 0.02  # a process has orders for so long: more than a driver takes to write a few hundred rows
_MOST_AHEAD = 100
_KNOWN, _LAST = 3, 5  # the pace of a step is known from so many attempts, and depends on so many

Waiting = tuple[int, Order]  # with the attempt's number


class Backlog:
    """The orders that no process has. They leave in the order of their tasks: what is tried again comes first."""

    def __init__(self) -> None:
        self._by_step: dict[str, deque[Waiting]] = {}
        self._took_s: dict[str, deque[float]] = {}  # by step, of its last attempts

    def add(self, number: int, order: Order) -> None:
        """Add an order at the end or, if its task was tried before, at the beginning."""
        waiting = self._by_step.setdefault(order.step, deque())
        if order.attempt:
            waiting.appendleft((number, order))
        else:
            waiting.append((number, order))

    def put_back(self, orders: Iterable[Waiting]) -> None:
        """Put orders of a step back in front of the others."""
        for number, order in reversed([*orders]):
            self._by_step.setdefault(order.step, deque()).appendleft((number, order))

    def remove(self, number: int) -> bool:
        """Remove an order; return whether it was here."""
        for waiting in self._by_step.values():
            for item in waiting:
                if item[0] == number:
                    waiting.remove(item)
                    return True
        return False

    def first(self) -> Waiting | None:
        """Return the order that is next."""
        return min((waiting[0] for waiting in self._by_step.values() if waiting), key=_task_id, default=None)

    def pop(self, step: str) -> Waiting:
        """Remove and return the first order of a step."""
        return self._by_step[step].popleft()

    def note(self, step: str, took_s: float) -> None:
        """Take into account how long an attempt took."""
        self._took_s.setdefault(step, deque(maxlen=_LAST)).append(took_s)

    def at_once(self, step: str) -> int:
        """Return how many orders of a step a process may have, with the one that it runs: one if they take long."""
        took_s = sorted(self._took_s.get(step, ()))
        if len(took_s) < _KNOWN:
            return 1
        return max(1, min(_MOST_AHEAD, int(_BUSY_S / max(took_s[len(took_s) // 2], 1e-6))))


def _task_id(item: Waiting) -> int:
    return item[1].task_id
