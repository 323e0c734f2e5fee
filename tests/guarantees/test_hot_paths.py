"""What a run and a question ask of SQLite, counted: a regression that a clock on a busy machine would miss.

A `sitecustomize` in a folder of the test has every process of a flow write down each statement that it runs.
"""

from __future__ import annotations

import os
import resource
import sys
from collections import Counter

import pytest

from flowstore import DataArtifact, Flow, Run
from flowstore.client.rows import of_runs
from flowstore.store.opening import active_store
from support.flows import FOREACH, MIDDLE, flow_source

pytestmark = pytest.mark.untraced

TRACE = """\
import os, sqlite3

connect = sqlite3.connect

def traced(*args, **kwargs):
    connection = connect(*args, **kwargs)
    log = os.open(os.environ["SQL_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(statement):
        os.write(log, f"{os.getpid()} {' '.join(statement.split())[:60]}\\n".encode())

    connection.set_trace_callback(write)
    return connection

sqlite3.connect = traced
"""
WIDE = flow_source(
    FOREACH, start="self.xs = list(range(300))", body="self.y = self.input", join="self.t = sum(i.y for i in inputs)"
)


RANGE = "import os; self.xs = list(range(int(os.environ['COUNT'])))"


class Log:
    """The statements of a flow's processes."""

    def __init__(self, path):
        lines = [line.split(" ", 1) for line in path.read_text().splitlines()]
        self.driver = [sql for pid, sql in lines if pid == lines[0][0]]
        self.tasks = [sql for pid, sql in lines if pid != lines[0][0]]

    def commits(self):
        """How many transactions the driver wrote."""
        return sum(sql.lower() == "commit" for sql in self.driver)


@pytest.fixture
def traced(flow, tmp_path):
    """Runs a flow, and gives the statements."""
    (tmp_path / "trace").mkdir()
    (tmp_path / "trace" / "sitecustomize.py").write_text(TRACE)

    def run(script, *args):
        log = tmp_path / "trace" / "sql.log"
        log.unlink(missing_ok=True)
        script(
            *args, PYTHONPATH=f"{tmp_path / 'trace'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", SQL_LOG=str(log)
        )
        return Log(log)

    return run


def test_a_small_run(flow, traced):
    """A run of three steps in a store that is there: a transaction to begin with, and one as each task ends."""
    script = flow(flow_source(MIDDLE, start="self.x = 1"))
    script("run")
    log = traced(script, "run")
    assert log.commits() <= 5
    assert len(log.driver) <= 120
    assert log.tasks == []


@pytest.mark.parametrize("options", [(), ("--reuse-workers",)], ids=["", "reuse"])
def test_a_wide_foreach(flow, traced, options):
    """Of 300 tasks each costs the driver at most one transaction and fifteen statements, and asks nothing itself.

    The join reads what they set in a few queries, not in some for each.
    """
    script = flow(WIDE)
    script("run", "--reuse-workers")
    log = traced(script, "run", *options)
    kinds = Counter(sql.split(" ", 2)[0].lower() for sql in log.driver)
    assert log.commits() <= 310
    assert len(log.driver) <= 300 * 15, kinds
    assert sum("run_tags" in sql for sql in log.driver) <= 20  # nobody edits them
    assert len(log.tasks) <= 80, Counter(log.tasks).most_common(9)


DEEP = {
    "start": "self.next(self.body, foreach='xs')",
    "body": "self.next(self.after)",
    "after": "self.next(self.join)",
    "join": "self.next(self.end)",
    "end": "",
}


@pytest.mark.parametrize("options", [(), ("--reuse-workers",)], ids=["", "reuse"])
def test_tasks_do_not_open_the_store_for_small_artifacts(flow, traced, options):
    """Their order holds what they read, also over several steps and attempts; only the join queries the store."""
    script = flow(
        flow_source(
            DEEP,
            start="self.xs, self.rate = [1, 2, 3], {'x': 10}",
            body="self.y = self.input * self.rate['x']",
            after="""
@retry(times=1, minutes_between_retries=0)
if current.retry_count == 0: raise RuntimeError("boom")
self.z = self.y + self.rate["x"]
""",
            join="self.t = sum(i.z for i in inputs)",
            end="self.u = self.t + 1",
        )
    )
    log = traced(script, "run", *options)
    assert script.client().data.u == 91
    assert sum("with recursive" in sql.lower() for sql in log.tasks) <= 1, log.tasks
    assert len(log.tasks) <= 20, log.tasks


@pytest.mark.skipif(sys.platform != "linux", reason="tasks fork")
@pytest.mark.fresh
def test_the_memory_that_a_task_touches(flow):
    """One more trivial task costs at most 720 page faults: each is a page that its process copied from its server."""
    script = flow(flow_source(FOREACH, start=RANGE, body="self.y = self.input"))

    def faults(count):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
        script("run", COUNT=str(count))
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - before

    script("run", COUNT="1")
    assert min((faults(130) - faults(30)) / 100 for _ in range(3)) < 720  # they vary by 10 from run to run


def test_resuming_a_wide_foreach(flow, traced):
    """What a resumed run takes over is written in one transaction, and costs a few statements a task."""
    script = flow(WIDE)
    script("run")
    log = traced(script, "resume", "end")
    assert log.commits() <= 6
    assert len(log.driver) <= 300 * 9
    assert len(log.tasks) <= 10


class Asked:
    """The questions that the Client has asked since this was made."""

    def __init__(self):
        self.statements = []
        active_store().connection().set_trace_callback(self.statements.append)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        active_store().connection().set_trace_callback(None)

    def __len__(self):
        return sum(statement.lower().startswith(("select", "with")) for statement in self.statements)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A store with a run of 303 tasks."""
    from support.cli import Script

    script = Script(tmp_path_factory.mktemp("wide"), WIDE)
    script("run", "--tag", "a", "--tag", "b", "--reuse-workers", FLOWSTORE_USER="tester")
    return script


def test_iterating_over_a_run(wide):
    """All artifacts of 303 tasks are fetched by the page, and each step's tasks with them."""
    wide.client()
    with Asked() as asked:
        values = [artifact.data for step in Run("F/1") for task in step for artifact in task if artifact.id != "xs"]
    assert len(values) > 300
    assert len(asked) <= 80, Counter(asked.statements).most_common(5)


VALUES = {"small": "1", "inline": "list(range(9000))", "a pickle": "lambda: 42"}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_the_first_artifact_of_a_run(flow, value):
    """`run.data.x` costs 4 queries at most, the further artifacts of that task one each, and their facts none."""
    script = flow(flow_source(MIDDLE, start=f"self.x = {value}; self.y = {value}; self.z = 3"))
    script("run")
    run = script.client()
    with Asked() as asked:
        assert run.data.x is not None
    assert len(asked) <= 4, asked.statements
    with Asked() as asked:
        assert run.data.y is not None
    assert len(asked) <= 1, asked.statements
    with Asked() as asked:
        assert run.data.z == 3
    assert len(asked) == 0, asked.statements


def test_the_facts_of_an_artifact(wide):
    """What cannot change is asked once, when it is looked up: for the task, for what it has, for the namespace."""
    run = wide.client()
    end = run.end_task.pathspec
    with Asked() as asked:
        artifact = DataArtifact(f"{end}/t")
    assert len(asked) <= 6, asked.statements
    with Asked() as asked:
        assert [artifact.sha, artifact.size, artifact.type, artifact.codec, artifact.preview, artifact.data][2] == "int"
    assert len(asked) == 0, asked.statements


def test_a_table_of_runs(wide):
    """Rows of many runs are two queries."""
    runs = [wide.client()] * 3
    with Asked() as asked:
        assert [row.status for row in of_runs(runs)] == ["successful"] * 3
    assert len(asked) == 2, asked.statements


def test_finding_runs(wide):
    """A question for runs is a statement, and where there are several tags one before it."""
    wide.client()
    flow = Flow("F")
    with Asked() as asked:
        assert flow.latest_run.id == "1"
    assert len(asked) == 1
    with Asked() as asked:
        assert next(flow.runs("a", "b")).id == "1"
    assert len(asked) == 2
