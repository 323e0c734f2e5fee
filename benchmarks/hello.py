"""A flow of three steps as a whole process, in a store that exists and in a new one.

Floor: a bare Python that imports what any such library needs: click, sqlite3, cloudpickle.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.libraries import Library, Settings
from benchmarks.measure import Line, in_turns, run

IMPORTS = "import click, sqlite3, cloudpickle"


def measure(settings: Settings) -> Iterator[Line]:
    for which in ("existing", "new"):
        with settings.folder() as folder:
            contestants = {"floor": partial(_floor, folder)}
            for library in settings.libraries:
                store = folder / library.name
                store.mkdir()
                if which == "existing":
                    library.run("hello", store)
                    contestants[library.name] = partial(_existing, library, store)
                else:
                    contestants[library.name] = partial(_new, settings, library)
            samples = in_turns(contestants, settings.size(settings.rounds * 2, 1))
        target = "<= 2.5 x floor; Metaflow >= 8 x"
        yield Line(f"hello, {which} store", "ms", samples, target, settings.missing)


def _floor(folder: Path) -> float:
    return run([sys.executable, "-c", IMPORTS], folder, os.environ).wall_s * 1000


def _existing(library: Library, store: Path) -> float:
    return library.run("hello", store).wall_s * 1000


def _new(settings: Settings, library: Library) -> float:
    with settings.folder() as store:
        return library.run("hello", store).wall_s * 1000
