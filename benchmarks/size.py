"""What one more run of a flow of three steps takes of the disk, on average: whole blocks, and files.

And what a store takes without a run, and with a single number.

No floor. As many runs come first that do not count: the first makes the store and keeps the flow's source, and the
next ones fill pages that a new store already has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.libraries import FLOWSTORE, Library, Settings
from benchmarks.measure import Line
from benchmarks.targets import at_most
from flowstore.store.opening import ensure_store


def measure(settings: Settings) -> Iterator[Line]:
    grown = {"flowstore": _growth(settings, FLOWSTORE, settings.size(100, 3))}
    if settings.metaflow is not None:
        grown["metaflow"] = _growth(settings, settings.metaflow, settings.size(10, 1))
    missing = settings.peers.missing("metaflow")
    size = {name: [kilobytes] for name, (kilobytes, _) in grown.items()}
    yield Line("size, 3-step run", "kB", size, at_most(6, "kB"), missing)
    files = {name: [count] for name, (_, count) in grown.items()}
    yield Line("size, 3-step run", "files", files, at_most(0, "files"), missing)
    yield from _smallest(settings)


def _smallest(settings: Settings) -> Iterator[Line]:
    """Yield what a new store takes, and one with a run that has set one number."""
    with settings.folder() as folder:
        ensure_store(folder / "flowstore.db").close()
        yield Line("size, empty store", "kB", {"flowstore": [_kilobytes(folder)]}, at_most(200, "kB"))
    with settings.folder() as folder:
        FLOWSTORE.run("number", folder)
        yield Line("size, store with one number", "kB", {"flowstore": [_kilobytes(folder)]}, at_most(200, "kB"))


def _kilobytes(folder: Path) -> float:
    return (folder / "flowstore.db").stat().st_size / 1000


def _growth(settings: Settings, library: Library, runs: int) -> tuple[float, float]:
    """Kilobytes and files that a run leaves."""
    with settings.folder() as store:
        for _ in range(runs):
            library.run("hello", store)
        bytes_before, files_before = _weigh(store)
        for _ in range(runs):
            library.run("hello", store)
        bytes_after, files_after = _weigh(store)
    return (bytes_after - bytes_before) / runs / 1000, (files_after - files_before) / runs


def _weigh(folder: Path) -> tuple[int, int]:
    sizes = [path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file() and path.name != "output.txt"]
    return sum(sizes), len(sizes)
