"""Measuring: processes and calls, in turns, and what a benchmark hands back."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import attrs

from benchmarks.targets import Target

T = TypeVar("T")
K = TypeVar("K")

ROOT = Path(__file__).parents[1]
MEBIBYTE = 1 << 20
_SHORTEST_SAMPLE_S = 0.02  # a call that is faster is repeated until it took this long


class Failed(Exception):
    """A process that was to be measured failed; its output is the message."""


@attrs.frozen
class Line:
    """One line of the table: the same quantity for each contestant.

    Attributes:
        benchmark: what was measured; together with the unit, the line's name in a file of results.
        unit: of all samples.
        samples: what each round gave, by contestant: 'floor', 'flowstore', a peer's name.
        target: what flowstore is held to.
        missing: the peers that are not installed.
    """

    benchmark: str
    unit: str
    samples: Mapping[str, Sequence[float]]
    target: Target | None = None
    missing: Sequence[str] = ()

    @property
    def medians(self) -> dict[str, float]:
        """The middle of each contestant's samples."""
        return {name: statistics.median(samples) for name, samples in self.samples.items() if samples}


@attrs.frozen
class Process:
    """A process that has ended.

    Attributes:
        wall_s: from before its start until it was waited for.
        peak_bytes: the resident memory of the largest among it and its descendants, at its largest.
    """

    wall_s: float
    peak_bytes: int


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str], *, expect: int = 0) -> Process:
    """Run one process to its end.

    Raises:
        Failed: its exit code is not the expected one.
    """
    with (folder / "output.txt").open("w+", encoding="utf-8") as output:
        started = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)  # `wait` would keep the usage to itself
        wall_s = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != expect:
            output.seek(0)
            raise Failed(f"exit code {child.returncode}: {' '.join(command)}\n{output.read()[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Process(wall_s, usage.ru_maxrss * unit)


def run_together(commands: Iterable[tuple[Sequence[str], Path, Mapping[str, str]]]) -> float:
    """Run processes side by side; gives the seconds until the last has ended."""
    started = time.perf_counter()
    children = []
    for number, (command, folder, environment) in enumerate(commands):
        with (folder / f"output-{number}.txt").open("w", encoding="utf-8") as output:
            children.append(
                subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
            )
    codes = [child.wait() for child in children]
    wall_s = time.perf_counter() - started
    if any(codes):
        raise Failed(f"of {len(codes)} processes side by side, {sum(map(bool, codes))} failed")
    return wall_s


def run_function(function: Callable[..., None], *arguments: object, folder: Path, before: str = "") -> Process:
    """Call a function of a benchmark in a Python process of its own, after running the code `before`.

    The process imports the function's module and what hello's floor imports, so that forks of it carry about the
    memory that those of any library would.
    """
    values = ", ".join(repr(str(value) if isinstance(value, Path) else value) for value in arguments)
    code = (
        f"{before}\nimport click, sqlite3, cloudpickle\n"
        f"from {function.__module__} import {function.__name__} as function\nfunction({values})"
    )
    return run([sys.executable, "-c", code], folder, os.environ | {"PYTHONPATH": str(ROOT)})


def in_turns(contestants: Mapping[K, Callable[[], T]], rounds: int) -> dict[K, list[T]]:
    """Call every contestant once a round, in an order that alternates.

    Args:
        contestants: by name.
        rounds: how many count. If it is more than one, another comes first: caches fill, byte code is written.

    Returns:
        What each gave, by name, in the order of the rounds.
    """
    if rounds > 1:
        for contestant in contestants.values():
            contestant()
    found: dict[K, list[T]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in list(contestants)[:: 1 if number % 2 else -1]:
            found[name].append(contestants[name]())
    return found


def call_s(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes, averaged over as many calls as it takes to be sure of the clock."""
    calls = 1
    while True:
        started = time.perf_counter()
        for _ in range(calls):
            function()
        took = time.perf_counter() - started
        if took >= _SHORTEST_SAMPLE_S:
            return took / calls
        calls *= 4
