"""A wide foreach: what a task takes of time and of the driver's memory, against a foreach of 1,000.

Each task is a process of its own, which is where a driver has most to do for it. Floor: a task among 1,000. Both are
without what a run of ten tasks takes: its start-up, and the memory of its imports. 50,000 tasks with `--full`, one
round of them; else 5,000.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import Line, Process, in_turns
from benchmarks.targets import times_floor

TENS = 10


def measure(settings: Settings) -> Iterator[Line]:
    usual = settings.size(1000, 30)
    wide = 50_000 if settings.full else settings.size(5000, 60)
    sizes = {"start": TENS, "floor": usual, "flowstore": wide}
    contestants = {name: partial(_fan_out, settings, tasks) for name, tasks in sizes.items()}
    found = in_turns(contestants, 1 if settings.full else min(settings.rounds, 3))
    times = {
        name: [
            (process.wall_s - start.wall_s) / (sizes[name] - TENS) * 1000
            for process, start in zip(found[name], found["start"], strict=True)
        ]
        for name in ("floor", "flowstore")
    }
    yield Line(f"wide, {wide:,} tasks", "ms/task", times, times_floor(1.2, f"{usual:,} tasks (as floor)"))
    memory = {
        name: [
            (process.peak_bytes - start.peak_bytes) / (sizes[name] - TENS) / 1000
            for process, start in zip(found[name], found["start"], strict=True)
        ]
        for name in ("floor", "flowstore")
    }
    yield Line(f"wide, {wide:,} tasks", "kB/task", memory, times_floor(1.2, f"{usual:,} tasks (as floor)"))


def _fan_out(settings: Settings, tasks: int) -> Process:
    with settings.folder() as store:
        return FLOWSTORE.run("fanout", store, "--tasks", tasks, "--max-num-splits", tasks)
