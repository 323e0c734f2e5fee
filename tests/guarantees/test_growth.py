"""What is asked about one run takes as long as that run is large, however many others are in the store.

Counted are the steps of SQLite's own machine, the same on a busy computer and on an idle one: a scan of any table of
the store takes ten times as many in a store of ten times as many runs. `python -m benchmarks ship` has the seconds.
"""

from __future__ import annotations

import sqlite3

import pytest

from support.cli import command
from support.recording import store_with
from support.stores import complete

FEW, MANY = 40, 200
STEPS_AT_A_TIME = 10
COMMANDS = {
    "export": ["export", "out-{}.db", "F/7"],
    "diff": ["diff", "F/8", "F/9"],
    "runs": ["runs", "--limit", "5"],
    "runs with tags": ["runs", "--limit", "5", "--tag", "often", "--tag", "also"],
    "show": ["show", "F/8"],
    "logs": ["logs", "F/8"],
    "get": ["get", "F/8/start/15/x"],
    "delete, but only say so": ["delete", "F/8", "--dry-run"],
    "delete": ["delete", "F/10", "--yes"],
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores, one with ten times as many runs, each of which has a pickle, a content and a log of its own."""
    folder = tmp_path_factory.mktemp("growth")
    tags = ["often", "also"]
    runs = [{"x": n, "own": (n,), "tags": tags, "printed": f"{n}\n", "code": "print()"} for n in range(MANY)]
    paths = [store_with(folder / f"{count}.db", *runs[:count]) for count in (FEW, MANY)]
    for path in paths:
        complete(path)
    return paths


@pytest.fixture
def steps(monkeypatch):
    """Counts the steps of SQLite's machine while a command runs."""
    connect = sqlite3.connect
    counted = 0

    def count():
        nonlocal counted
        counted += STEPS_AT_A_TIME

    def counting(*args, **options):
        connection = connect(*args, **options)
        connection.set_progress_handler(count, STEPS_AT_A_TIME)
        return connection

    monkeypatch.setattr(sqlite3, "connect", counting)

    def run(*words):
        nonlocal counted
        counted = 0
        command(*words)
        return counted

    return run


@pytest.mark.parametrize("what", COMMANDS)
def test_one_run_costs_the_same_in_a_large_store(stores, steps, what):
    """Exporting, deleting, comparing or looking at it."""
    few, many = (steps("--store", path, *(word.format(path.stem) for word in COMMANDS[what])) for path in stores)
    assert few > 100
    assert many - few < MANY - FEW  # the scan of a table takes some steps for each of its rows


def test_counting_tags_costs_one_pass(stores, steps):
    """As many steps for each run as for the first, and only a few for each of its tags."""
    few, many = (steps("--store", path, "tags") for path in stores)
    assert (many - few) / (MANY - FEW) < 100
