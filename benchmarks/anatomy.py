"""Where the time goes that floors don't take: not a comparison, but the profile behind the figures of the others.

A task: what it takes of processor time, in all processes and in the driver alone, and how many pages of memory are
faulted in, most of them copies of what a fork shares. Floors as in `fanout` and `reuse`; the driver's is the process
that starts the others. An artifact of 256 MiB: each thing that happens to it, done alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks import fanout, reuse
from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import MEBIBYTE, Line, in_turns, run, run_function
from flowstore.sqlite.database import PAGE_SIZE
from flowstore.store.blobs import BATCH_BYTES

USAGE = """
import atexit, json, resource, runpy, sys

def report():
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    with open("usage.json", "w") as file:
        json.dump([[usage.ru_utime + usage.ru_stime, usage.ru_minflt] for usage in usages], file)

atexit.register(report)
"""
RUN = USAGE + "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"

Usage = list[list[float]]  # of the driver and of what it waited for: seconds of processor time, page faults


def measure(settings: Settings) -> Iterator[Line]:
    yield from _tasks(settings)
    size = settings.size(256, 4)
    for name, part in PARTS.items():
        times = in_turns({"flowstore": partial(_alone, settings, part, size)}, settings.rounds)["flowstore"]
        yield Line(f"anatomy, {size} MiB: {name}", "s", {"flowstore": [wall for wall, _ in times]})
        if part is written:
            waited = {"flowstore": [wall - cpu for wall, cpu in times]}
            yield Line(f"anatomy, {size} MiB: {name}, waiting for the disk", "s", waited)


# --- a task


def _tasks(settings: Settings) -> Iterator[Line]:
    sizes = settings.size(200, 10), settings.size(1200, 30)
    contestants: dict[str, Callable[[], Usage]] = {
        "floor": partial(_slope, settings, partial(_floor, fanout.forked), sizes),
        "flowstore": partial(_slope, settings, partial(_flow, ()), sizes),
    }
    found = in_turns(contestants, settings.rounds)
    yield _line("a process per task", "CPU ms/task", found, lambda usage: 1000 * sum(cpu for cpu, _ in usage))
    yield _line("a process per task, the driver", "CPU ms/task", found, lambda usage: 1000 * usage[0][0])
    yield _line("a process per task", "faults", found, lambda usage: sum(faults for _, faults in usage))
    contestants = {
        "floor": partial(_slope, settings, partial(_floor, reuse.pooled), sizes),
        "flowstore": partial(_slope, settings, partial(_flow, ("--reuse-workers",)), sizes),
    }
    found = in_turns(contestants, settings.rounds)
    yield _line("--reuse-workers, the driver", "CPU ms/task", found, lambda usage: 1000 * usage[0][0])


def _line(name: str, unit: str, found: dict[str, list[Usage]], figure: Callable[[Usage], float]) -> Line:
    return Line(f"anatomy, {name}", unit, {who: [figure(usage) for usage in usages] for who, usages in found.items()})


def _slope(settings: Settings, run_tasks: Callable[[int, Path], None], sizes: tuple[int, int]) -> Usage:
    """Return what one more task takes, of runs of two sizes in new folders."""
    usages: list[Usage] = []
    for size in sizes:
        with settings.folder() as folder:
            run_tasks(size, folder)
            usages.append(json.loads((folder / "usage.json").read_text("utf-8")))
    few, many = usages
    return [
        [(more - less) / (sizes[1] - sizes[0]) for less, more in zip(*pair, strict=True)]
        for pair in zip(few, many, strict=True)
    ]


def _flow(options: tuple[str, ...], tasks: int, folder: Path) -> None:
    python, script, *arguments = FLOWSTORE.command("fanout", folder, *options, "--tasks", tasks)
    run([python, "-c", RUN, script, *arguments], folder, FLOWSTORE.environment(folder))


def _floor(function: Callable[[int, str], None], tasks: int, folder: Path) -> None:
    run_function(function, tasks, folder / "floor.db", folder=folder, before=USAGE)


# --- an artifact


def _alone(settings: Settings, part: Callable[[int, str], tuple[float, float]], mebibytes: int) -> tuple[float, float]:
    """Return the seconds that one part takes, and those of processor time."""
    with settings.folder() as folder:
        report = folder / "report.json"
        run_function(_reported, part.__name__, mebibytes, folder, report, folder=folder)
        wall, cpu = json.loads(report.read_text("utf-8"))
        return wall, cpu


def _reported(name: str, mebibytes: int, folder: str, report: str) -> None:
    Path(report).write_text(json.dumps(globals()[name](mebibytes, folder)), "utf-8")


def _timed(action: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def hashed(mebibytes: int, _folder: str) -> tuple[float, float]:
    content = os.urandom(mebibytes * MEBIBYTE)
    return _timed(lambda: hashlib.sha256(content).digest())


def sent(mebibytes: int, _folder: str) -> tuple[float, float]:
    """To another process, that reads it and throws it away."""
    content = os.urandom(mebibytes * MEBIBYTE)
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        while theirs.recv(1 << 16):
            pass
        os._exit(0)

    def send() -> None:
        theirs.close()
        ours.sendall(content)
        ours.close()
        os.waitpid(pid, 0)

    return _timed(send)


def written(mebibytes: int, folder: str) -> tuple[float, float]:
    """With flowstore's pages, table, journal and transactions."""
    chunks = [os.urandom(MEBIBYTE)] * mebibytes
    connection = sqlite3.connect(Path(folder) / "anatomy.db", isolation_level=None)
    connection.execute(f"pragma page_size = {PAGE_SIZE}")
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    connection.execute("create table chunks (blob_id integer, n integer, data blob not null, unique (blob_id, n))")
    batch = BATCH_BYTES // MEBIBYTE

    def write() -> None:
        for at in range(0, mebibytes, batch):
            connection.execute("begin immediate")
            rows = ((1, at + n, chunk) for n, chunk in enumerate(chunks[at : at + batch]))
            connection.executemany("insert into chunks values (?, ?, ?)", rows)
            connection.execute("commit")
        connection.close()

    return _timed(write)


def loaded(mebibytes: int, folder: str) -> tuple[float, float]:
    """From that file into memory."""
    written(mebibytes, folder)
    connection = sqlite3.connect(Path(folder) / "anatomy.db")

    def load() -> None:
        rows = connection.execute("select data from chunks order by blob_id, n")
        content = bytearray(mebibytes * MEBIBYTE)
        for n, (chunk,) in enumerate(rows):
            content[n * MEBIBYTE : (n + 1) * MEBIBYTE] = chunk

    return _timed(load)


PARTS = {"hashed": hashed, "through a socket": sent, "into SQLite": written, "out of it": loaded}
