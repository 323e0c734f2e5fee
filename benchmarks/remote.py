"""Tasks on a Dask cluster of this machine, with two slots: what more a task, a large artifact and the start cost.

Floor: the same flow with tasks of this machine, each a process of its own. Peer: Dask by hand, with an interpreter for
each task, which imports nothing but pickle; see `peers/fanout_dask.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

from benchmarks.artifact import by_flow
from benchmarks.fanout import by_peer, fan_out, slope_ms
from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import MEBIBYTE, Line, in_turns
from benchmarks.targets import times_floor

DASK = ("--executor", "dask")
PROGRAM = "fanout_dask"


def measure(settings: Settings) -> Iterator[Line]:
    if find_spec("distributed") is None:
        return
    peer = settings.peers.installed("distributed")
    missing = settings.peers.missing("distributed")
    sizes = settings.size(200, 4), settings.size(1000, 12)
    few = settings.size(50, 2), settings.size(250, 6)
    fan_outs: dict[str, Callable[[], float]] = {
        "floor": partial(slope_ms, settings, partial(fan_out, FLOWSTORE, ()), sizes),
        "flowstore": partial(slope_ms, settings, partial(fan_out, FLOWSTORE, DASK), sizes),
        **{name: partial(slope_ms, settings, partial(by_peer, settings, PROGRAM, "process"), few) for name in peer},
    }
    target = times_floor(2.5, "local", slower={"distributed": 1})
    yield Line("Dask: fanout, a process a task", "ms/task", in_turns(fan_outs, settings.rounds), target, missing)

    size = settings.size(256, 4) * MEBIBYTE
    artifacts = {
        "floor": partial(by_flow, settings, FLOWSTORE, "bytes", size),
        "flowstore": partial(by_flow, settings, FLOWSTORE, "bytes", size, DASK),
    }
    found = in_turns(artifacts, min(settings.rounds, 3))
    times = {name: [one.took_s for one in measured] for name, measured in found.items()}
    yield Line(f"Dask: artifact, bytes of {size // MEBIBYTE} MiB", "s", times, times_floor(2.5, "local"))

    starts: dict[str, Callable[[], float]] = {
        "floor": partial(_start_s, settings, ()),
        "flowstore": partial(_start_s, settings, DASK),
        **{name: partial(_peer_start_s, settings) for name in peer},
    }
    yield Line("Dask: a cluster, two tasks, the end", "s", in_turns(starts, min(settings.rounds, 3)), missing=missing)


def _start_s(settings: Settings, options: tuple[str, ...]) -> float:
    with settings.folder() as folder:
        return fan_out(FLOWSTORE, options, 2, folder).wall_s


def _peer_start_s(settings: Settings) -> float:
    with settings.folder() as folder:
        return by_peer(settings, PROGRAM, "process", 2, folder).wall_s
