"""A foreach of trivial tasks, each a process of its own: what one more task costs.

The slope between two sizes, so that start-up does not count. Slower peers run fewer tasks.
Floor: fork a process for each task, two at a time; it sends its result through a pipe; one transaction stores it.
Peers: Metaflow starts a Python for each task. Dask and redun run tasks in two processes that stay,
which is what `--reuse-workers` compares with; here they show what a process of its own costs. See `peers/`.

And with tasks that each read a number that the first step has set; floor: those that read none.
"""

from __future__ import annotations

import os
import pickle
import select
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.libraries import FLOWSTORE, Library, Settings
from benchmarks.measure import Line, Process, in_turns, run_function
from benchmarks.targets import times_floor

POOLS = {  # by distribution: the program in `peers/`, and between which numbers of tasks the slope is taken
    "distributed": ("fanout_dask", 200, 1000),
    "redun": ("fanout_redun", 50, 200),
}


def measure(settings: Settings) -> Iterator[Line]:
    sizes = settings.size(200, 10), settings.size(1000, 30)
    contestants: dict[str, Callable[[], float]] = {
        "floor": partial(slope_ms, settings, partial(floor, forked), sizes),
        "flowstore": partial(slope_ms, settings, partial(fan_out, FLOWSTORE, ()), sizes),
    }
    contestants |= peers(settings)
    if settings.metaflow is not None:
        few = settings.size(5, 2), settings.size(25, 4)
        contestants["metaflow"] = partial(slope_ms, settings, partial(fan_out, settings.metaflow, ()), few)
    samples = in_turns(contestants, settings.rounds)
    yield Line(
        "fanout, a process per task",
        "ms/task",
        samples,
        times_floor(1.4, slower={"metaflow": 80, "distributed": 1}),
        settings.peers.missing("metaflow", *POOLS),
    )
    yield reading(settings, "fanout, tasks that read an artifact", (), sizes)


def reading(settings: Settings, name: str, options: tuple[str, ...], sizes: tuple[int, int]) -> Line:
    """Compare tasks that read an artifact with tasks that read none."""
    contestants = {
        who: partial(slope_ms, settings, partial(fan_out, FLOWSTORE, (*options, "--reads", reads)), sizes)
        for who, reads in (("floor", "0"), ("flowstore", "1"))
    }
    return Line(name, "ms/task", in_turns(contestants, settings.rounds), times_floor(1.2, "none (as floor)"))


def peers(settings: Settings) -> dict[str, Callable[[], float]]:
    """Return the peers that keep their processes, each with the numbers of tasks that it is given."""
    return {
        name: partial(
            slope_ms,
            settings,
            partial(by_peer, settings, program),
            (settings.size(few, 2), settings.size(many, 10)),
        )
        for name, (program, few, many) in POOLS.items()
        if settings.peers.installed(name)
    }


def by_peer(settings: Settings, program: str, tasks: int, folder: Path, options: tuple[str, ...] = ()) -> Process:
    """Run a program in `peers/` with so many tasks."""
    return settings.peers.run(program, folder, *options, tasks)


def slope_ms(settings: Settings, run: Callable[[int, Path], Process], sizes: tuple[int, int]) -> float:
    """Return what one more task costs, in milliseconds, of runs of two sizes in new folders."""
    walls = []
    for size in sizes:
        with settings.folder() as folder:
            walls.append(run(size, folder).wall_s)
    return (walls[1] - walls[0]) / (sizes[1] - sizes[0]) * 1000


def fan_out(library: Library, options: tuple[str, ...], tasks: int, folder: Path) -> Process:
    """Run the flow with so many tasks."""
    return library.run("fanout", folder, *options, "--tasks", tasks)


def floor(function: Callable[[int, str], None], tasks: int, folder: Path) -> Process:
    """Run a floor with so many tasks."""
    return run_function(function, tasks, folder / "floor.db", folder=folder)


def new_database(path: str) -> sqlite3.Connection:
    """Make a database with one table for results, in which each statement is a transaction."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    connection.execute("create table results (id integer primary key, data blob not null)")
    return connection


def forked(tasks: int, path: str) -> None:
    connection = new_database(path)
    numbers = iter(range(tasks))
    running: dict[int, int] = {}  # the pipe of each process
    while True:
        while len(running) < 2 and (number := next(numbers, None)) is not None:
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.write(writer, pickle.dumps({"doubled": number * 2}))
                os._exit(0)
            os.close(writer)
            running[reader] = pid
        if not running:
            break
        for reader in select.select(list(running), [], [])[0]:
            data = os.read(reader, 65536)
            os.close(reader)
            os.waitpid(running.pop(reader), 0)
            connection.execute("insert into results (data) values (?)", (data,))
    connection.close()
