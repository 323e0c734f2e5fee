"""`import flowstore` in a fresh process. Floor: a bare Python; the difference is what every script pays.

Value objects on the way of every run are made with `eq=False, repr=False` where nobody compares or prints them: attrs
writes and compiles each method when a class is made, which were a fifth of all instructions up to the first task.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.libraries import Settings
from benchmarks.measure import ROOT, Line, in_turns, run
from benchmarks.targets import floor_plus


def measure(settings: Settings) -> Iterator[Line]:
    with settings.folder() as folder:
        contestants = {
            "floor": partial(_start, folder, "pass"),
            "flowstore": partial(_start, folder, "import flowstore"),
        }
        samples = in_turns(contestants, settings.size(settings.rounds * 4, 1))
    yield Line("import flowstore", "ms", samples, floor_plus(60, "ms"))


def _start(folder: Path, code: str) -> float:
    return run([sys.executable, "-c", code], folder, {**os.environ, "PYTHONPATH": str(ROOT)}).wall_s * 1000
