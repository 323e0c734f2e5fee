"""A wide foreach: what a task takes of time and of memory, against narrower ones.

Each task is a process of its own, which is where a driver has most to do for it. Time: floor is a task among 1,000;
both are without what a run of ten tasks takes, its start-up. Memory: what a task adds to the largest process beyond
1,000 of them, which fit into what a run needs anyway; floor is one of 5,000. 50,000 tasks with `--full`, one round of
them; else 10,000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import Line, Process, in_turns
from benchmarks.targets import times_floor


def measure(settings: Settings) -> Iterator[Line]:
    ten, usual, more = 10, settings.size(1000, 30), settings.size(5000, 45)
    wide = 50_000 if settings.full else settings.size(10_000, 60)
    contestants = {tasks: partial(_fan_out, settings, tasks) for tasks in (ten, usual, more, wide)}
    found = in_turns(contestants, 1 if settings.full else min(settings.rounds, 3))

    def slopes(few: int, many: int, figure: Callable[[Process], float]) -> list[float]:
        pairs = zip(found[few], found[many], strict=True)
        return [(figure(wider) - figure(narrower)) / (many - few) for narrower, wider in pairs]

    def ms(process: Process) -> float:
        return process.wall_s * 1000

    def kilobytes(process: Process) -> float:
        return process.peak_bytes / 1000

    times = {"floor": slopes(ten, usual, ms), "flowstore": slopes(ten, wide, ms)}
    yield Line(f"wide, {wide:,} tasks", "ms/task", times, times_floor(1.2, f"{usual:,} tasks (as floor)"))
    memory = {"floor": slopes(usual, more, kilobytes), "flowstore": slopes(usual, wide, kilobytes)}
    yield Line(f"wide, {wide:,} tasks", "kB/task", memory, times_floor(1.2, f"{more:,} tasks (as floor)"))


def _fan_out(settings: Settings, tasks: int) -> Process:
    with settings.folder() as store:
        return FLOWSTORE.run("fanout", store, "--tasks", tasks, "--max-num-splits", tasks)
