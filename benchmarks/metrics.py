"""Numbers in artifacts: what one more task of a foreach costs whose dict holds 0, 1, 5 or 100 numbers.

The slope between two sizes, as in `fanout`. Floor: the same tasks, whose dicts hold texts of about the same length
instead, so that the ratio is what describing, storing and indexing the numbers costs. A dict for 0 numbers has five
texts on both sides: its ratio is how rough the measurement is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.fanout import slope_ms
from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import Line, Process, in_turns

NUMBERS = (0, 1, 5, 100)


def measure(settings: Settings) -> Iterator[Line]:
    sizes = settings.size(200, 10), settings.size(1000, 30)
    for numbers in NUMBERS:
        entries = numbers or 5
        contestants = {
            "floor": partial(slope_ms, settings, partial(fan_out, entries, True), sizes),
            "flowstore": partial(slope_ms, settings, partial(fan_out, entries, numbers == 0), sizes),
        }
        yield Line(f"metrics, {numbers} numbers a task", "ms/task", in_turns(contestants, settings.rounds))


def fan_out(entries: int, texts: bool, tasks: int, folder: Path) -> Process:
    """Run the flow with so many tasks, whose dicts have so many entries."""
    return FLOWSTORE.run("measured", folder, "--tasks", tasks, "--entries", entries, "--texts", str(texts).lower())
