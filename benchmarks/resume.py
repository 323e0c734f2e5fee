"""Resuming a run of 1,000 tasks of which the last one failed. Whole processes.

Floor: running all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import Line, in_turns, run
from benchmarks.targets import times_floor


def measure(settings: Settings) -> Iterator[Line]:
    tasks = settings.size(1000, 20)
    with settings.folder() as store:
        failing = FLOWSTORE.environment(store) | {"BENCH_FAIL": "1"}
        run(FLOWSTORE.command("fanout", store, "--tasks", tasks), store, failing, expect=1)
        contestants = {
            "floor": partial(_run_s, store, "run", "--tasks", tasks),
            "flowstore": partial(_run_s, store, "resume", "--origin-run-id", 1),
        }
        samples = in_turns(contestants, settings.rounds)
    yield Line(f"resume, 1 of {tasks} tasks failed", "s", samples, times_floor(0.3, "running (as floor)"))


def _run_s(store: Path, verb: str, *arguments: object) -> float:
    return FLOWSTORE.run("fanout", store, *arguments, verb=verb).wall_s
