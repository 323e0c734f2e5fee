"""A large artifact on its way through ten steps that do not touch it, as against one such step.

Whole processes. Floor: the run with one step. What a step inherits must be neither read nor written again.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import MEBIBYTE, Line, in_turns
from benchmarks.targets import times_floor


def measure(settings: Settings) -> Iterator[Line]:
    size = settings.size(256, 4) * MEBIBYTE
    contestants = {
        "floor": partial(_run_s, settings, "relay1", size),
        "flowstore": partial(_run_s, settings, "relay10", size),
    }
    samples = in_turns(contestants, settings.rounds)
    yield Line(f"passthrough, {size // MEBIBYTE} MiB, 10 steps", "s", samples, times_floor(1.5, "1 step (as floor)"))


def _run_s(settings: Settings, flow: str, size: int) -> float:
    with settings.folder() as store:
        return FLOWSTORE.run(flow, store, "--size", size).wall_s
