"""Real work: 20 settings of a support vector machine, each judged on 5 folds of scikit-learn's digits, two at a time.

Floor: joblib with its defaults, which stores nothing; its two processes import scikit-learn again. Peer: Metaflow, with
the same flow, once, since it takes minutes. Each is a whole process, from its start to its end.

The last lines are the share of that time that is not the work's own: the work alone is done by two forks of a process
that has imported all and loaded the digits, which take every second task.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import attrs

from benchmarks.libraries import FLOWSTORE, Library, Settings
from benchmarks.measure import Failed, Line, in_turns, run_function
from benchmarks.targets import times_floor

Sizes = tuple[int, int]  # kernel widths, of which each is tried with four penalties; folds
REUSED = "reused"


def measure(settings: Settings) -> Iterator[Line]:
    if find_spec("sklearn") is None:
        print("digits is left out: scikit-learn is not installed here", file=sys.stderr)
        return
    sizes = settings.size(5, 1), settings.size(5, 2)
    contestants: dict[str, Callable[[], float]] = {
        "alone": partial(_alone, settings, sizes),
        "floor": partial(_joblib, settings, sizes),
        "flowstore": partial(_flow, settings, FLOWSTORE, sizes),
        REUSED: partial(_flow, settings, FLOWSTORE, sizes, "--reuse-workers"),
    }
    walls = in_turns(contestants, settings.rounds)
    missing = settings.peers.missing("metaflow", "scikit-learn")
    if settings.metaflow is not None and not missing:
        walls["metaflow"] = [_flow(settings, settings.metaflow, sizes)]
    alone, reused = statistics.median(walls.pop("alone")), walls.pop(REUSED)
    name = f"digits, {4 * sizes[0] * sizes[1]} tasks"
    own = "digits, not the work's own"
    walls_reused = {"floor": walls["floor"], "flowstore": reused}
    yield Line(f"{name}, a process per task", "s", walls, times_floor(0.95, "joblib (as floor)"), missing)
    yield Line(f"{name}, --reuse-workers", "s", walls_reused, times_floor(0.8, "joblib (as floor)"))
    yield Line(f"{own}, a process per task", "%", _shares(walls, alone), missing=missing)
    yield Line(f"{own}, --reuse-workers", "%", _shares(walls_reused, alone))


def _shares(walls: dict[str, list[float]], alone: float) -> dict[str, Sequence[float]]:
    return {who: [100 * (1 - alone / wall) for wall in samples] for who, samples in walls.items()}


def _flow(settings: Settings, library: Library, sizes: Sizes, *options: str) -> float:
    widths, folds = sizes
    with settings.folder() as folder:
        took = library.run("digits", folder, *options, "--widths", widths, "--folds", folds)
        _check(folder)
        return took.wall_s


def _joblib(settings: Settings, sizes: Sizes) -> float:
    with settings.folder() as folder:
        took = attrs.evolve(settings.peers, python=sys.executable).run("digits_joblib", folder, *sizes)
        _check(folder)
        return took.wall_s


def _check(folder: Path) -> None:
    """Raise `Failed` if the output does not name the setting that is best."""
    output = (folder / "output.txt").read_text("utf-8")
    if "best: (" not in output:
        raise Failed(f"no setting is best\n{output[-2000:]}")


def _alone(settings: Settings, sizes: Sizes) -> float:
    with settings.folder() as folder:
        run_function(work, *sizes, folder / "seconds.txt", folder=folder)
        return float((folder / "seconds.txt").read_text("utf-8"))


def work(widths: int, folds: int, report: str) -> None:
    """Do the work in two forks, and write down the seconds that it took."""
    from sklearn.datasets import load_digits

    from benchmarks.peers import digits_joblib as by_hand

    pixels, digits = load_digits(return_X_y=True)
    cases = by_hand.cases(widths, folds)  # type: ignore[no-untyped-call]
    started = time.perf_counter()
    pids = []
    for half in range(2):
        if (pid := os.fork()) == 0:
            for setting, fold in cases[half::2]:
                by_hand.fit(pixels, digits, setting, folds, fold)  # type: ignore[no-untyped-call]
            os._exit(0)
        pids.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    if any(statuses):
        raise Failed("a half of the work failed")
    Path(report).write_text(f"{time.perf_counter() - started}", "utf-8")
