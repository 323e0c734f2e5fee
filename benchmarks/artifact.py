"""One large artifact: from its assignment in one task until it is loaded in the next; and the memory that takes.

Making the value does not count; starting the second task does. Peak memory is that of the
largest process, its imports included.
Floor: the value's bytes (a frame's: its pickle) in chunks of 1 MiB, with SHA-256, into a plain SQLite file; a
checkpoint; and back. Peers: Metaflow, and pickle into a file with fsync.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from benchmarks.libraries import Library, Settings
from benchmarks.measure import MEBIBYTE, Line, Process, in_turns, run, run_function
from benchmarks.targets import at_most, times_floor


@attrs.frozen
class Measured:
    """One round of one contestant: seconds from value to value, and the largest process's peak."""

    took_s: float
    peak_bytes: int


def measure(settings: Settings) -> Iterator[Line]:
    sizes = {
        "bytes": settings.size(256, 4) * MEBIBYTE,
        "array": settings.size(256, 4) * MEBIBYTE,
        "frame": settings.size(1_000_000, 10_000),
    }
    missing = settings.peers.missing("metaflow")
    yield from _wide(settings, missing)
    for kind, size in sizes.items():
        shown = f"{size:,} rows" if kind == "frame" else f"{size // MEBIBYTE} MiB"
        contestants = _contestants(settings, kind, size)
        found = in_turns(contestants, min(settings.rounds, 3))  # the peer needs half a minute a round
        times = {name: [one.took_s for one in measured] for name, measured in found.items()}
        pickled = {name: times[name] for name in times if name in {"floor", "flowstore", "pickle"}}
        del times["pickle"]
        yield Line(
            f"artifact, {kind} of {shown}",
            "s",
            times,
            times_floor(1.15) if kind == "array" else times_floor(1.25, slower={"metaflow": 10}),
            missing,
        )
        yield Line(f"artifact, {kind}: pickle and fsync", "s", pickled)
        if kind == "frame":
            continue  # the imports weigh more than the frame
        peaks = {
            name: [one.peak_bytes / size for one in measured] for name, measured in found.items() if name != "pickle"
        }
        yield Line(f"artifact, {kind}: peak memory", "x artifact", peaks, at_most(2, "x artifact"), missing)


def _wide(settings: Settings, missing: list[str]) -> Iterator[Line]:
    """Yield what a frame of 50 rows and many columns takes; that it comes back as it was is checked by the flow."""
    columns = settings.size(20_000, 500)
    measured = in_turns(_contestants(settings, "wide", columns), min(settings.rounds, 3))
    times = {name: [one.took_s for one in samples] for name, samples in measured.items()}
    del times["pickle"]
    yield Line(f"artifact, frame of 50 rows and {columns:,} columns", "s", times, at_most(1, "s"), missing)


def _contestants(settings: Settings, kind: str, size: int) -> dict[str, Callable[[], Measured]]:
    found: dict[str, Callable[[], Measured]] = {
        "floor": partial(_by_hand, settings, chunked, kind, size),
        "pickle": partial(_by_hand, settings, pickled, kind, size),
    }
    return found | {library.name: partial(by_flow, settings, library, kind, size) for library in settings.libraries}


def _by_hand(settings: Settings, function: Callable[..., None], kind: str, size: int) -> Measured:
    with settings.folder() as folder:
        report = folder / "report.txt"
        process = run_function(function, kind, size, folder / "floor.db", report, folder=folder)
        return _measured(process, report)


def by_flow(settings: Settings, library: Library, kind: str, size: int, options: tuple[str, ...] = ()) -> Measured:
    """Run the flow with an artifact of a kind and size."""
    with settings.folder() as store:
        report = store / "report.txt"
        command = library.command("artifact", store, *options, "--kind", kind, "--size", size)
        process = run(command, store, library.environment(store) | {"BENCH_REPORT": str(report)})
        return _measured(process, report)


def _measured(process: Process, report: Path) -> Measured:
    return Measured(float(report.read_text("utf-8")), process.peak_bytes)


def chunked(kind: str, size: int, path: str, report: str) -> None:
    from benchmarks.flows.artifact import make

    value = make(kind, size)
    started = time.monotonic()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma page_size = 16384")
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    connection.execute("create table chunks (n integer primary key, data blob not null)")
    digest = hashlib.sha256()
    connection.execute("begin immediate")
    content = _content(kind, value)
    for n, at in enumerate(range(0, content.nbytes, MEBIBYTE)):
        chunk = content[at : at + MEBIBYTE]
        digest.update(chunk)
        connection.execute("insert into chunks values (?, ?)", (n, chunk))
    connection.execute("commit")
    connection.execute("pragma wal_checkpoint(truncate)")
    length = content.nbytes
    del chunk, content, value  # a chunk is a view that would keep the value
    loaded = _load(kind, length, (row[0] for row in connection.execute("select data from chunks order by n")))
    Path(report).write_text(str(time.monotonic() - started), "utf-8")
    del loaded


def pickled(kind: str, size: int, path: str, report: str) -> None:
    from benchmarks.flows.artifact import make

    value = make(kind, size)
    started = time.monotonic()
    with Path(path).open("wb") as file:
        pickle.dump(value, file, protocol=5)
        file.flush()
        os.fsync(file.fileno())
    del value
    with Path(path).open("rb") as file:
        loaded = pickle.load(file)
    Path(report).write_text(str(time.monotonic() - started), "utf-8")
    del loaded


def _content(kind: str, value: Any) -> memoryview:
    """Return the value's bytes: its own memory, but for a frame."""
    content: Any = pickle.dumps(value, protocol=5) if kind in {"frame", "wide"} else value
    return memoryview(content).cast("B")


def _load(kind: str, length: int, chunks: Iterator[bytes]) -> Any:
    if kind == "array":
        import numpy as np

        array = np.empty(length // 8)
        at, target = 0, _content(kind, array)
        for chunk in chunks:
            target[at : at + len(chunk)] = chunk
            at += len(chunk)
        return array
    buffer = io.BytesIO()
    for chunk in chunks:
        buffer.write(chunk)
    return buffer.getvalue() if kind == "bytes" else pickle.loads(buffer.getbuffer())
