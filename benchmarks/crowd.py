"""Eight processes that run a flow of 100 tasks each, on one store.

Floor: the same eight, each on a store of its own. What is left of their speed is the inverse of the ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import Line, in_turns, run_together
from benchmarks.targets import times_floor

PROCESSES = 8


def measure(settings: Settings) -> Iterator[Line]:
    tasks = settings.size(100, 5)
    contestants = {
        "floor": partial(_together_s, settings, tasks, stores=PROCESSES),
        "flowstore": partial(_together_s, settings, tasks, stores=1),
    }
    samples = in_turns(contestants, settings.rounds)
    yield Line(f"crowd, {PROCESSES} processes on one store", "s", samples, times_floor(1.43, "8 stores (as floor)"))


def _together_s(settings: Settings, tasks: int, stores: int) -> float:
    with settings.folder() as folder:
        made = [folder / f"store{number}" for number in range(stores)]
        for store in made:
            store.mkdir()
            FLOWSTORE.run("hello", store)  # so that the stores are there, as they usually are
        turns = [made[number % stores] for number in range(PROCESSES)]
        return run_together(
            (FLOWSTORE.command("fanout", store, "--tasks", tasks), store, FLOWSTORE.environment(store))
            for store in turns
        )
