"""The same foreach with `--reuse-workers`: tasks share processes.

Floor: `ProcessPoolExecutor` of two, and a transaction for each result. Peers: joblib, with its defaults, and the same
transactions; it hands tasks out in batches, and learns only at the end of one which have begun. Dask and redun too.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from benchmarks.fanout import POOLS, by_peer, fan_out, floor, new_database, peers, reading, slope_ms
from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import Line, in_turns
from benchmarks.targets import times_floor


def measure(settings: Settings) -> Iterator[Line]:
    sizes = settings.size(500, 10), settings.size(2500, 30)
    contestants: dict[str, Callable[[], float]] = {
        "floor": partial(slope_ms, settings, partial(floor, pooled), sizes),
        "flowstore": partial(slope_ms, settings, partial(fan_out, FLOWSTORE, ("--reuse-workers",)), sizes),
        **peers(settings),
    }
    if settings.peers.installed("joblib"):
        contestants["joblib"] = partial(slope_ms, settings, partial(by_peer, settings, "fanout_joblib"), sizes)
    samples = in_turns(contestants, settings.rounds)
    yield Line(
        "fanout, --reuse-workers", "ms/task", samples, times_floor(1.3), settings.peers.missing("joblib", *POOLS)
    )
    yield reading(settings, "fanout, tasks that read an artifact, --reuse-workers", ("--reuse-workers",), sizes)


def pooled(tasks: int, path: str) -> None:
    with ProcessPoolExecutor(2) as pool:
        results = pool.map(_double, range(tasks))  # starts the processes, before SQLite has anything open
        connection = new_database(path)
        for data in results:
            connection.execute("insert into results (data) values (?)", (data,))
    connection.close()


def _double(number: int) -> bytes:
    return pickle.dumps({"doubled": number * 2})
