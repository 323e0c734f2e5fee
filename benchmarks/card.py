"""A foreach of 100 trivial tasks, each of which makes its default card: what a card adds to a task.

The slope between two sizes, as in `fanout`. Floor: the same tasks without a card, so that what is more is the card.
Peer: Metaflow, with a card and, to compare with, without one; it makes each card in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.fanout import fan_out, slope_ms
from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import Line, in_turns
from benchmarks.targets import floor_plus

WITH_CARD = ("--with", "card")


def measure(settings: Settings) -> Iterator[Line]:
    sizes = settings.size(20, 5), settings.size(120, 15)
    contestants: dict[str, Callable[[], float]] = {
        "floor": partial(slope_ms, settings, partial(fan_out, FLOWSTORE, ()), sizes),
        "flowstore": partial(slope_ms, settings, partial(fan_out, FLOWSTORE, WITH_CARD), sizes),
    }
    if settings.metaflow is not None:
        few = settings.size(2, 1), settings.size(10, 2)
        for name, options in (("metaflow", WITH_CARD), ("metaflow, no card", ())):
            contestants[name] = partial(slope_ms, settings, partial(fan_out, settings.metaflow, options), few)
    samples = in_turns(contestants, settings.rounds)
    yield Line("fanout of 100, a default card per task", "ms/task", samples, floor_plus(10, "ms"),
               settings.peers.missing("metaflow"))  # fmt: skip
