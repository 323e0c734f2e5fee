"""Works out which tasks came directly before others: Metaflow's local store does not record it.

It records to which steps each task went, and the task's index in each foreach. A task that went to a step comes before
the tasks of it that have the same indexes, those that have one more, which are the items that it handed out, and the
one that has one less, which joins the items.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Sequence

import attrs

Indexes = tuple[int, ...]


@attrs.frozen(eq=False)
class Spot:
    """A task in its run.

    Attributes:
        step: its step.
        indexes: its index in each foreach, the outermost first.
        targets: the steps to which it went.
    """

    step: str
    indexes: Indexes
    targets: Sequence[str]


def parents_of(spots: Sequence[Spot], joins: Collection[str] | None) -> list[list[int]]:
    """Return the tasks directly before each task, as positions in `spots`.

    Args:
        spots: the tasks of a run, in the order in which they began.
        joins: the steps that join others; `None` where that is not known: then all that follow several steps do.

    Example:
        >>> parents_of([Spot("start", (), ["end"]), Spot("end", (), [])], [])
        [[], [0]]
    """
    towards: dict[str, _Before] = defaultdict(_Before)
    for position, spot in enumerate(spots):
        for target in set(spot.targets):
            towards[target].add(spot, position)
    return [
        towards[spot.step].of(spot.indexes, position, None if joins is None else spot.step in joins)
        if spot.step in towards
        else []
        for position, spot in enumerate(spots)
    ]


class _Before:
    """The tasks that went to one step."""

    def __init__(self) -> None:
        self._at: dict[Indexes, dict[str, list[int]]] = defaultdict(dict)  # by indexes and step
        self._inside: dict[Indexes, list[int]] = defaultdict(list)  # by the indexes of the task that can join them

    def add(self, spot: Spot, position: int) -> None:
        """Add a task."""
        self._at[spot.indexes].setdefault(spot.step, []).append(position)
        if spot.indexes:
            self._inside[spot.indexes[:-1]].append(position)

    def of(self, indexes: Indexes, position: int, joins: bool | None) -> list[int]:
        """Return those that came directly before a task of the step."""
        same = self._at.get(indexes)
        if joins is not False and same is None and indexes in self._inside:
            return self._inside[indexes]
        outer = self._at.get(indexes[:-1]) if indexes else None
        by_step = same or outer or {}
        earlier = [
            positions[0] for step in by_step.values() if (positions := [p for p in reversed(step) if p < position])
        ]
        latest = sorted(earlier or (step[0] for step in by_step.values() if step[0] != position))
        return latest if joins or joins is None else latest[-1:]


def order_of(parents: Sequence[Sequence[int]]) -> list[int]:
    """Return the positions of tasks, each after those before it: a resumed run's ids may be in another order.

    Tasks that come before themselves are left out.

    Example:
        >>> order_of([[], [2], [0]])
        [0, 2, 1]
    """
    children: dict[int, list[int]] = defaultdict(list)
    for position, before in enumerate(parents):
        for parent in before:
            children[parent].append(position)
    missing = [len(set(before)) for before in parents]
    ready = [position for position, count in enumerate(missing) if count == 0]
    order = []
    while ready:
        position = heapq.heappop(ready)
        order.append(position)
        for child in children[position]:
            missing[child] -= 1
            if missing[child] == 0:
                heapq.heappush(ready, child)
    return order
