"""The same foreach with `--reuse-workers`: tasks share processes.

Floor: `ProcessPoolExecutor` of two, and a transaction for each result. Peer: joblib, with its defaults, and the same
transactions; it hands tasks out in batches, which neither of the others may do.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from benchmarks.fanout import fan_out, floor, new_database, slope_ms
from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import Line, in_turns


def measure(settings: Settings) -> Iterator[Line]:
    sizes = settings.size(500, 10), settings.size(2500, 30)
    contestants = {
        "floor": partial(slope_ms, settings, partial(floor, pooled), sizes),
        "flowstore": partial(slope_ms, settings, partial(fan_out, FLOWSTORE, ("--reuse-workers",)), sizes),
    }
    missing = None if importlib.util.find_spec("joblib") else "joblib"
    if missing is None:
        contestants["joblib"] = partial(slope_ms, settings, partial(floor, batched), sizes)
    samples = in_turns(contestants, settings.rounds)
    yield Line("fanout, --reuse-workers", "ms/task", samples, "<= 2.5 x floor", missing)


def pooled(tasks: int, path: str) -> None:
    with ProcessPoolExecutor(2) as pool:
        results = pool.map(_double, range(tasks))  # starts the processes, before SQLite has anything open
        connection = new_database(path)
        for data in results:
            connection.execute("insert into results (data) values (?)", (data,))
    connection.close()


def batched(tasks: int, path: str) -> None:
    from joblib import Parallel, delayed  # type: ignore[import-untyped,unused-ignore]

    connection = new_database(path)
    double = delayed(_double)
    for data in Parallel(n_jobs=2, return_as="generator")(double(number) for number in range(tasks)):
        connection.execute("insert into results (data) values (?)", (data,))
    connection.close()


def _double(number: int) -> bytes:
    return pickle.dumps({"doubled": number * 2})
