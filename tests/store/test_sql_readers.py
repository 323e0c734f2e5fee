"""Other programs that read the file: DuckDB's own reading of it, and how much work a view's answer is."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from pathlib import Path

import pytest

from benchmarks import filled
from flowstore.store.schema import PUBLIC_VIEWS
from support.cli import Script
from support.flows import LINEAR, flow_source

START = """
self.metrics = {"accuracy": 0.5, "folds": (3, 4), "bad": float("nan"), "top": float("inf"), "name": "ü\\n'"}
self.one, self.text = 3, "x" * 100
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A run with values of all kinds, a failed one, tags of all kinds."""
    folder = tmp_path_factory.mktemp("readers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSTORE_HOME", str(folder / "home"))
        patch.setenv("FLOWSTORE_USER", "tester")
        made = Script(folder, flow_source(LINEAR, members="a = Parameter('a', default=1)", start=START))
        made("run", "--tag", "blue", "--with", "card")
        made("tag", "add", "thing", "--pathspec", "1/start/1/metrics")
        made.rewrite(flow_source(LINEAR, start="raise ValueError('no\\nmore')"))
        made("run", expect=1)
    return made


@pytest.fixture(scope="module")
def duck(script):
    """DuckDB with the store attached as `store`; its extension comes as a package, so nothing is downloaded."""
    duckdb = pytest.importorskip("duckdb")
    package = pytest.importorskip("duckdb_extension_sqlite_scanner")
    [extension] = Path(package.__file__).parent.rglob("sqlite_scanner.duckdb_extension")
    with contextlib.closing(duckdb.connect()) as connection:
        connection.execute(f"load '{extension}'")
        connection.execute(f"attach '{script.db}' as store (type sqlite, read_only)")
        yield lambda query: connection.execute(query).fetchall()


@pytest.mark.parametrize("view", [*PUBLIC_VIEWS, "set_artifacts"])
def test_duckdb_reads_every_view(duck, script, view):
    """The same rows and columns as SQLite gives, also where it is only asked what they are."""
    with contextlib.closing(sqlite3.connect(script.db)) as connection:
        cursor = connection.execute(f"select * from {view}")
        names, rows = [column[0] for column in cursor.description], cursor.fetchall()
    assert [name for name, *_ in duck(f"describe store.{view}")] == names
    found = duck(f"from store.{view}")
    assert len(found) == len(rows) > 0
    assert sorted(map(_plain, found)) == sorted(map(_plain, rows))


def _plain(row):
    """A row as text: DuckDB gives numbers of some views as text."""
    return [None if value is None else _text(value) for value in row].__repr__()


def _text(value):
    with contextlib.suppress(ValueError):
        return f"{float(value):.9g}"
    return str(value)


def test_duckdb_lists_all_tables(duck):
    """One view that it could not read would fail the whole listing."""
    assert {"runs", "blobs", "numbers"} <= {row[2] for row in duck("show all tables")}


def test_duckdb_looks_into_values(duck):
    """JSON stays JSON, whatever is in it."""
    query = "select value ->> '$.accuracy', value ->> '$.name' from store.artifact_values where name = 'metrics'"
    assert duck(query) == [("0.5", "ü\n'")]


def test_duckdb_sorts_metrics_as_numbers(duck):
    """The view of numbers has the types of numbers."""
    rows = duck("select name, number, final from store.metrics where artifact = 'metrics' order by number desc")
    assert rows == [
        ("metrics.top", math.inf, 1), ("metrics.folds.1", 4.0, 1), ("metrics.folds.0", 3.0, 1),
        ("metrics.accuracy", 0.5, 1),
    ]  # fmt: skip


def test_an_error_is_one_line(script):
    """The first line of the first failure, by the run and by the task."""
    assert script.sql("select error from run_summary order by run_id") == [None, "ValueError: no"]
    assert script.sql("select error from task_summary where run_id = 2") == ["ValueError: no"]


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """Connections to a store of 300 runs, and to one of 1,200."""
    folder = tmp_path_factory.mktemp("sizes")
    with contextlib.ExitStack() as stack:
        connections = []
        for runs in (300, 1200):
            path = folder / f"{runs}.db"
            filled.fill(path, runs, contents=True)
            connection = stack.enter_context(contextlib.closing(sqlite3.connect(path)))
            connection.executescript(
                """insert into numbers (run_id, task_id, artifact, name, magnitude, final)
                     select run_id, id, 'm', 'm.x', id, 1 from tasks;
                   insert into cards select id, 0, 'default', null, 1, null, 0 from attempts;
                   insert into run_artifacts select id, 'alpha', 'parameter', 1 from runs;
                   insert into node_tags select run_id, id, 0, '', 1 from steps where run_id % 10 = 1;"""
            )
            connections.append(connection)
        yield connections


def steps(connection, query):
    """How many times 50 steps of SQLite's machine a question takes."""
    count = 0

    def tick():
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(tick, 50)
    try:
        connection.execute(query).fetchall()
    finally:
        connection.set_progress_handler(None, 0)
    return count


@pytest.mark.parametrize("view", PUBLIC_VIEWS)
@pytest.mark.parametrize(
    "question", ["limit 20", "order by {key} desc limit 20", "where {key} = 200", "where {key} = 200 order by 1, 2"]
)
def test_an_answer_takes_no_longer_in_a_larger_store(sizes, view, question):
    """Some rows, the newest rows, and all about one run."""
    key = "task_id" if view == "lineage" else "run_id"
    small, large = (steps(each, f"select * from {view} {question.format(key=key)}") for each in sizes)
    assert large <= 1.3 * small + 10


def test_the_best_by_a_metric_takes_no_longer_in_a_larger_store(sizes):
    """An index orders the numbers of a name."""
    query = "select run_id, number from metrics where name = 'm.x' order by number desc limit 20"
    small, large = (steps(each, query) for each in sizes)
    assert large <= 1.3 * small + 10
    assert sizes[1].execute(query).fetchone() == (1200, 3600.0)


def test_counting_all_tags_is_a_few_steps_a_row(sizes):
    """Those of 20,000 runs take well under a second: no row of `run_tags` is looked up for its own sake."""
    [count] = sizes[1].execute("select count(*) from object_tags").fetchone()
    assert 50 * steps(sizes[1], "select count(*) from object_tags") <= 30 * count
    plan = [row[3] for row in sizes[1].execute("explain query plan select count(*) from object_tags")]
    assert {step for step in plan if " rt " in step} == {"SEARCH rt USING COVERING INDEX run_tags_by_run (run_id=?)"}


@pytest.mark.parametrize("view", ["object_tags", "artifact_values"])
def test_the_newest_rows_take_no_longer_where_no_run_has_parameters(tmp_path, view):
    """Nothing looks for the first parameter of a store that has none."""
    counts = []
    for runs in (300, 1200):
        filled.fill(tmp_path / f"{runs}.db", runs, contents=True)
        with contextlib.closing(sqlite3.connect(tmp_path / f"{runs}.db")) as connection:
            counts.append(steps(connection, f"select * from {view} order by run_id desc limit 20"))
    assert counts[1] <= 1.3 * counts[0] + 10


def test_object_tags_are_what_they_were(sizes):
    """Each object has its own tags and those above it, each once."""
    connection = sizes[0]
    assert connection.execute(
        """select count(*) from (select 1 from object_tags group by kind, run_id, step, task_id, artifact, tag
           having count(*) > 1)"""
    ).fetchone() == (0,)
    rows = connection.execute(
        "select kind, system, own, count(*) from object_tags where run_id = 11 and tag like 'user:%' group by 1, 2, 3"
    ).fetchall()
    assert sorted(rows) == [("artifact", 1, 0, 3), ("run", 1, 1, 1), ("step", 1, 0, 3), ("task", 1, 0, 3)]
