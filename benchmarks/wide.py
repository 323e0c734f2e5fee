"""A wide foreach: what a task takes of time and of memory, against narrower ones.

Each task is a process of its own, which is where a driver has most to do for it. Time: floor is a task among 1,000;
both are without what a run of ten tasks takes, its start-up. Memory: what a task adds to the largest process beyond
1,000 of them, which fit into what a run needs anyway; floor is one of 5,000. With `--full`, 50,000 tasks, and 100,000
in processes that are reused, one round of them; else 10,000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import Line, Process, in_turns
from benchmarks.targets import times_floor


def measure(settings: Settings) -> Iterator[Line]:
    wide = 50_000 if settings.full else settings.size(10_000, 60)
    yield from _lines(settings, wide, f"wide, {wide:,} tasks", ())
    if settings.full:
        yield from _lines(settings, 100_000, "wide, 100,000 tasks, --reuse-workers", ("--reuse-workers",))


def _lines(settings: Settings, wide: int, name: str, options: tuple[str, ...]) -> Iterator[Line]:
    ten, usual, more = 10, settings.size(1000, 30), settings.size(5000, 45)
    contestants = {tasks: partial(_fan_out, settings, tasks, options) for tasks in (ten, usual, more, wide)}
    found = in_turns(contestants, 1 if settings.full else min(settings.rounds, 3))

    def slopes(few: int, many: int, figure: Callable[[Process], float]) -> list[float]:
        pairs = zip(found[few], found[many], strict=True)
        return [(figure(wider) - figure(narrower)) / (many - few) for narrower, wider in pairs]

    def ms(process: Process) -> float:
        return process.wall_s * 1000

    def kilobytes(process: Process) -> float:
        return process.peak_bytes / 1000

    times = {"floor": slopes(ten, usual, ms), "flowstore": slopes(ten, wide, ms)}
    yield Line(name, "ms/task", times, times_floor(1.2, f"{usual:,} tasks (as floor)"))
    memory = {"floor": slopes(usual, more, kilobytes), "flowstore": slopes(usual, wide, kilobytes)}
    yield Line(name, "kB/task", memory, times_floor(1.2, f"{more:,} tasks (as floor)"))


def _fan_out(settings: Settings, tasks: int, options: tuple[str, ...]) -> Process:
    with settings.folder() as store:
        return FLOWSTORE.run("fanout", store, *options, "--tasks", tasks, "--max-num-splits", tasks)
