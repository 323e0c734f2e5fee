"""Commands that touch one run, or a few, as whole processes, in a small store and in one of 100 times as many runs.

Floor: the same command in the small store, so that the ratio is the growth. Starting Python and flowstore is part of
both; the line `help`, which opens no store, tells how much of them that is, and the growth of the rest is larger
by as much. `tags` counts the runs of every tag, of which the larger store also has more: one for each day.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.filled import fill
from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import Line, in_turns, run
from benchmarks.targets import times_floor

COMMANDS = ("help", "runs", "tags", "diff", "export", "delete")


def measure(settings: Settings) -> Iterator[Line]:
    few, many = settings.size(1000, 30), settings.size(100_000, 300)
    with settings.folder() as folder:
        stores = {"floor": folder / "few", "flowstore": folder / "many"}
        for store, runs in zip(stores.values(), (few, many), strict=True):
            store.mkdir()
            fill(store / "flowstore.db", runs, contents=True)
        numbers = itertools.count(1)  # each measurement takes other runs: a deleted one is gone
        for name in COMMANDS:
            contestants = {who: partial(_ms, store, name, numbers) for who, store in stores.items()}
            samples = in_turns(contestants, settings.rounds)
            target = None if name == "help" else times_floor(1.5, f"{few:,} runs (as floor)")
            yield Line(f"ship, {name}, {many:,} runs", "ms", samples, target)


def _ms(store: Path, name: str, numbers: Iterator[int]) -> float:
    command = [sys.executable, "-m", "flowstore", *_arguments(name, next(numbers), store)]
    return run(command, store, FLOWSTORE.environment(store)).wall_s * 1000


def _arguments(name: str, number: int, store: Path) -> list[str]:
    """Return the words of a command, about the run of that number and the one after it."""
    this, other = f"Bench/{number}", f"Bench/{number + 1}"
    return {
        "help": ["--help"],
        "runs": ["runs", "--limit", "20"],
        "tags": ["tags"],
        "diff": ["diff", this, other],
        "export": ["export", str(store / f"out-{number}.db"), this],
        "delete": ["delete", this, "--yes"],
    }[name]
