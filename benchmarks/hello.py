"""A flow of three steps as a whole process, in a store that exists and in a new one.

Peers: Metaflow; Luigi, which runs its three tasks in the one process and keeps each result in a file.

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
from benchmarks.targets import times_floor

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
            if settings.peers.installed("luigi"):
                contestants["luigi"] = partial(_luigi, settings, folder)
            samples = in_turns(contestants, settings.size(settings.rounds * 2, 1))
        target = times_floor(2.0, slower={"metaflow": 8})
        yield Line(f"hello, {which} store", "ms", samples, target, settings.peers.missing("metaflow", "luigi"))


def _floor(folder: Path) -> float:
    return run([sys.executable, "-c", IMPORTS], folder, os.environ).wall_s * 1000


def _existing(library: Library, store: Path) -> float:
    return library.run("hello", store).wall_s * 1000


def _new(settings: Settings, library: Library) -> float:
    with settings.folder() as store:
        return library.run("hello", store).wall_s * 1000


def _luigi(settings: Settings, folder: Path) -> float:
    return settings.peers.run("hello_luigi", folder).wall_s * 1000
