"""What starting costs, in fresh processes: `import flowstore`, and commands that only look into a small store.

Floor of the import: a bare Python; the difference is what every script pays. Floor of the commands: a Python that
imports what they are made with, click and sqlite3.

Values are mostly classes of `flowstore.later`: attrs writes and compiles the methods of a class when it is defined,
which was half of what a command took beyond its floor.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import ROOT, Line, in_turns, run
from benchmarks.targets import floor_plus, times_floor

COMMANDS = ("--help", "--version", "runs", "tags", "show Hello/1")


def measure(settings: Settings) -> Iterator[Line]:
    with settings.folder() as folder:
        FLOWSTORE.run("hello", folder)
        code = {"floor": "pass", "flowstore": "import flowstore"}
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        starts = {who: partial(_start, folder, ["-c", code[who]], environment) for who in code}
        samples = in_turns(starts, settings.size(settings.rounds * 4, 1))
        yield Line("import flowstore", "ms", samples, floor_plus(60, "ms"))

        environment = FLOWSTORE.environment(folder)
        starts = {"floor": partial(_start, folder, ["-c", "import click, sqlite3"], environment)}
        starts |= {
            words: partial(_start, folder, ["-m", "flowstore", *words.split()], environment) for words in COMMANDS
        }
        samples = in_turns(starts, settings.size(settings.rounds * 2, 1))
        for words in COMMANDS:
            both = {"floor": samples["floor"], "flowstore": samples[words]}
            yield Line(f"flowstore {words}", "ms", both, times_floor(1.6))


def _start(folder: Path, words: Sequence[str], environment: Mapping[str, str]) -> float:
    return run([sys.executable, *words], folder, environment).wall_s * 1000
