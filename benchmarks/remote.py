"""Tasks on clusters of this machine, with two slots: what more a task, a large artifact and the start cost.

Floor: the same flow with tasks of this machine, each a process of its own. Peer of Dask: Dask by hand, with an
interpreter for each task, which imports nothing but pickle; see `peers/fanout_dask.py`. Slurm is a controller and two
nodes, started for this, or the cluster that SLURM_CONF names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec

from benchmarks.artifact import by_flow
from benchmarks.fanout import by_peer, fan_out, slope_ms
from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import MEBIBYTE, ROOT, Failed, Line, in_turns
from benchmarks.targets import times_floor

PROGRAM = "fanout_dask"


def measure(settings: Settings) -> Iterator[Line]:
    if find_spec("distributed") is not None:
        peer, missing = settings.peers.installed("distributed"), settings.peers.missing("distributed")
        yield from measure_one(settings, "Dask", ("--executor", "dask"), peer, missing)
    if shutil.which("sbatch") is not None and ("SLURM_CONF" in os.environ or os.getuid() == 0):
        with slurm():
            yield from measure_one(settings, "Slurm", ("--executor", "slurm"), [], [])


def measure_one(
    settings: Settings, engine: str, options: tuple[str, ...], peer: list[str], missing: list[str]
) -> Iterator[Line]:
    """Measure what finds machines, beside tasks of this one and, where there is one, a peer by hand."""
    sizes = settings.size(200, 4), settings.size(1000, 12)
    few = settings.size(50, 2), settings.size(250, 6)
    fan_outs: dict[str, Callable[[], float]] = {
        "floor": partial(slope_ms, settings, partial(fan_out, FLOWSTORE, ()), sizes),
        "flowstore": partial(slope_ms, settings, partial(fan_out, FLOWSTORE, options), sizes),
        **{
            name: partial(slope_ms, settings, partial(by_peer, settings, PROGRAM, options=("process",)), few)
            for name in peer
        },
    }
    target = times_floor(2.5, "local", slower=dict.fromkeys(peer, 1))
    yield Line(f"{engine}: fanout, a process per task", "ms/task", in_turns(fan_outs, settings.rounds), target, missing)

    size = settings.size(256, 4) * MEBIBYTE
    artifacts = {
        "floor": partial(by_flow, settings, FLOWSTORE, "bytes", size),
        "flowstore": partial(by_flow, settings, FLOWSTORE, "bytes", size, options),
    }
    measured = in_turns(artifacts, min(settings.rounds, 3))
    times = {name: [one.took_s for one in rounds] for name, rounds in measured.items()}
    yield Line(f"{engine}: artifact, bytes of {size // MEBIBYTE} MiB", "s", times, times_floor(2.5, "local"))

    starts: dict[str, Callable[[], float]] = {
        "floor": partial(_start_s, settings, ()),
        "flowstore": partial(_start_s, settings, options),
        **{name: partial(_peer_start_s, settings) for name in peer},
    }
    started = "a cluster" if engine == "Dask" else "a job"
    samples = in_turns(starts, min(settings.rounds, 3))
    yield Line(f"{engine}: {started}, two tasks, the end", "s", samples, missing=missing)


@contextmanager
def slurm() -> Iterator[None]:
    """Have Slurm's commands find a cluster: the one that is there, or one that is started for this."""
    if "SLURM_CONF" in os.environ:
        yield
        return
    command = [sys.executable, "-m", "support.slurm"]
    with subprocess.Popen(command, cwd=ROOT / "tests", stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        _, _, config = process.stdout.readline().strip().partition("SLURM_CONF=")
        if not config:
            process.terminate()
            raise Failed("no Slurm cluster could be started")
        os.environ["SLURM_CONF"] = config
        try:
            yield
        finally:
            del os.environ["SLURM_CONF"]
            process.terminate()


def _start_s(settings: Settings, options: tuple[str, ...]) -> float:
    with settings.folder() as folder:
        return fan_out(FLOWSTORE, options, 2, folder).wall_s


def _peer_start_s(settings: Settings) -> float:
    with settings.folder() as folder:
        return by_peer(settings, PROGRAM, 2, folder, ("process",)).wall_s
