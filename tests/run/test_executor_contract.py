"""What the driver and its runs may expect of an executor, held against each in the registry and against `ahead`.

`ahead` is the tests' own: its processes get four orders more than they run, and have no store (see `support.ahead`).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest

import support.ahead
from flowstore.errors import FlowstoreError
from flowstore.run import executor
from flowstore.run.executor import Executor, Setup, find_executor
from support.cli import stop
from support.flows import BRANCH, FOREACH, GANG, LINEAR, MIDDLE, flow_source
from support.processes import wait_for
from support.sources import python

TESTS = str(Path(support.ahead.__file__).parent.parent)
HEAD = "import support.ahead"
NOTED = "with open('executed', 'a') as file: file.write(f'{self.index}\\n')"  # by each attempt that has begun


@pytest.fixture
def run(request, flow, monkeypatch, tmp_path):
    """Write a flow, and return a function that runs it with an executor; tasks elsewhere find this folder as `HERE`."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])]))
    if "name" in request.fixturenames and request.getfixturevalue("name") == "slurm":
        request.getfixturevalue("slurm")

    def write(tails, **bodies):
        return flow(flow_source(tails, head=f"{HEAD}\nHERE = Path({str(tmp_path)!r})", **bodies))

    return write


MARKS = {
    "dask": pytest.mark.skipif(find_spec("distributed") is None, reason="needs flowstore[dask]"),
    "slurm": pytest.mark.cluster,
}
NAMES = [pytest.param(name, marks=MARKS.get(name, ())) for name in executor.REGISTRY]


@pytest.mark.parametrize("name", NAMES)
class TestEveryExecutor:
    """What holds whichever executor runs the tasks."""

    def test_it_fulfils_the_contract(self, name):
        """It is an `Executor` of the name under which it is found."""
        kind = find_executor(f"{name}:anywhere")
        assert issubclass(kind, Executor)
        assert kind.name == name

    def test_inputs_and_results_of_any_size(self, name, run):
        """Parameters, items and artifacts come into a task and out of it, small or large; equal ones are kept once."""
        script = run(
            FOREACH,
            members="small = Parameter('small', default='s')\nlarge = Parameter('large', default='p' * 10_000)",
            start="self.xs = ['x' * 5000 + str(i) for i in range(3)]\nself.shared = b'ab' * 1_500_000",
            body="self.last = self.input[-1]\nself.again = self.shared[:]\nassert len(self.large) == 10_000",
            join="self.lasts = [i.last for i in inputs]\nself.merge_artifacts(inputs, exclude=['last'])",
        )
        script("run", "--executor", name)
        data = script.client()["end"].task.data
        assert (data.lasts, len(data.again), data.small) == (["0", "1", "2"], 3_000_000, "s")
        assert script.sql("select count(*) from blobs where size_bytes > 1000000") == [1]
        assert f"runtime:{name}" in script.client().system_tags

    def test_results_that_several_attempts_leave_at_once(self, name, run):
        """Large results of tasks that run side by side don't get mixed up."""
        script = run(
            FOREACH,
            start="self.xs = [1, 2, 3, 4]",
            body="self.value = bytes([self.input]) * 3_000_000\nself.same = b'same' * 500_000",
            join="self.sizes = [(i.value[0], set(i.value), len(i.same)) for i in inputs]",
        )
        script("run", "--executor", name)
        assert script.client()["end"].task.data.sizes == [(n, {n}, 2_000_000) for n in (1, 2, 3, 4)]

    def test_output(self, name, run):
        """What a task prints is its own, in order, and there before the end of its attempt is shown."""
        script = run(FOREACH, start="self.xs = [0, 1, 2]", body="for n in range(50): print('line', self.input, n)")
        stdout = script("run", "--executor", name).stdout
        for task in script.client()["body"]:
            index = task.index
            assert task.stdout.splitlines() == [f"line {index} {n}" for n in range(50)]
            shown = [line.partition("] ")[2] for line in stdout.splitlines() if f"/body/{task.id} " in line]
            assert shown[0] == "Task is starting."
            assert shown[-1] == "Task finished successfully."

    def test_a_failure_is_tried_again(self, name, run):
        """An exception fails the attempt; the next one may succeed."""
        script = run(MIDDLE, middle="@retry(times=2, minutes_between_retries=0)\nassert current.retry_count == 2, 'no'")
        script("run", "--executor", name)
        assert script.sql("select number, status, error_type from attempts where error_type is not null") == [
            (0, "failed", "AssertionError"),
            (1, "failed", "AssertionError"),
        ]

    def test_a_death_is_told_from_a_failure(self, name, run):
        """An attempt whose process is killed fails with the signal; `@catch` handles it in another process."""
        script = run(
            LINEAR,
            start="@retry(times=1, minutes_between_retries=0)\n@catch(var='why')\nos.kill(os.getpid(), signal.SIGKILL)",
            end="assert 'SIGKILL' in str(self.why)",
        )
        script("run", "--executor", name)
        assert script.sql("select attempts from task_summary where step = 'start'") == [3]

    def test_a_timeout(self, name, run):
        """A step that takes too long is ended, whether or not it listens."""
        script = run(
            BRANCH,
            a="@timeout(seconds=1)\n@catch(var='why')\ntime.sleep(60)",
            b="@catch(var='why')\nself.x = 1",
            join="self.types = [i.why and i.why.type for i in inputs]",
        )
        script("run", "--executor", name)
        assert script.client()["join"].task.data.types == ["flowstore.errors.TimeoutExpired", None]

    def test_a_gang_runs_all_at_once(self, name, run):
        """The members of a gang wait for each other, however few may run at a time."""
        body = """
        @parallel
        (HERE / f"here-{current.parallel.node_index}").touch()
        while not all((HERE / f"here-{n}").exists() for n in range(current.parallel.num_nodes)): time.sleep(0.01)
        self.seen = current.parallel.num_nodes, int(current.parallel.control_task_id)
        """
        script = run(GANG, body=body, join="self.seen = [i.seen for i in inputs]")
        script("run", "--executor", name, "--max-workers", 1)
        first = int(script.sql("select min(id) from tasks where foreach_path is not null")[0])
        assert script.client()["join"].task.data.seen == [(2, first), (2, first)]

    def test_a_stop(self, name, run):
        """A run that is stopped ends its tasks, keeps what had finished, and can be resumed."""
        body = "if not (HERE / 'mended').exists(): time.sleep(300)"
        script = run(FOREACH, start="self.xs = [0, 1, 2]", body=f"(HERE / f'begun-{{self.index}}').touch()\n{body}")
        process = script.start("run", "--executor", name, "--max-workers", 1)
        wait_for((script.folder / "begun-0").exists)
        assert stop(process, signal.SIGTERM).code == 143
        assert script.counts(where="status = 'stopped'") == {"body": 1}
        (script.folder / "mended").touch()
        script("resume", "--executor", name)
        assert script.client(2).successful


class TestOrdersAhead:
    """What holds for an executor that takes orders ahead."""

    def test_nothing_shows_as_running_that_only_waits(self, run):
        """While one task runs, those whose orders wait behind it are nowhere in the store."""
        wait = "while not Path('go').exists(): time.sleep(0.01)"
        script = run(FOREACH, start="self.xs = list(range(5))", body=f"{wait}\n{NOTED}")
        process = script.start("run", "--executor", "ahead", "--max-workers", 1, AHEAD_WORKERS="1")
        with process:
            wait_for(lambda: script.db.exists() and script.counts().get("body"))
            assert script.counts() == {"start": 1, "body": 1}
            (script.folder / "go").touch()
            assert process.wait(60) == 0
            process.communicate()
        began = script.sql("select started_at from attempts order by id")
        assert began == sorted(began)
        assert sorted(script.executed()) == ["0", "1", "2", "3", "4"]
        assert script.counts() == {"start": 1, "body": 5, "join": 1, "end": 1}

    def test_orders_behind_a_killed_process_run_once(self, run):
        """A process that is killed takes one attempt with it: those that waited behind it run elsewhere, once."""
        body = f"""
        @retry(times=1, minutes_between_retries=0)
        {NOTED}
        if self.index == 1 and current.retry_count == 0: os.kill(os.getpid(), signal.SIGKILL)
        """
        script = run(FOREACH, start="self.xs = list(range(8))", body=body)
        script("run", "--executor", "ahead", AHEAD_WORKERS="1")
        assert sorted(script.executed()) == sorted("01234567" + "1")
        assert script.sql("select foreach_path from task_summary where attempts = 2") == ["1"]
        assert script.counts(where="status = 'successful'") == {"start": 1, "body": 8, "join": 1, "end": 1}
        assert script.sql("select count(*) from attempts where status = 'failed'") == [1]

    def test_a_failure_takes_back_what_waits(self, run):
        """After a task has failed for good no other begins, and none that waited is in the store."""
        script = run(FOREACH, start="self.xs = list(range(6))", body=f"{NOTED}\nassert Path('mended').exists()")
        script("run", "--executor", "ahead", "--max-workers", 1, expect=1, AHEAD_WORKERS="1")
        begun = len(script.executed())
        assert begun < 6
        assert script.counts() == {"start": 1, "body": begun}
        (script.folder / "mended").touch()
        script("resume", "--executor", "ahead")
        assert script.counts(2) == {"start": 1, "body": 6, "join": 1, "end": 1}

    def test_a_task_without_a_store_may_not_load_what_its_driver_may_not(self, run):
        """Pickles cross the connection as those of the run itself do: checked on the side that has the store."""
        script = run(MIDDLE, start="self.value = {1: object()}", middle="assert 1 in self.value")
        script("run", "--executor", "ahead")
        assert script.client().successful


# --- the registry


def test_the_name_of_no_executor(flow):
    """A wrong name is wrong usage, before there is a run; the message says which names there are."""
    script = flow(flow_source(LINEAR))
    result = script("run", "--executor", "locl", expect=2)
    assert "There is no executor 'locl'. There are: local, dask, slurm. Did you mean 'local'?" in result.stderr
    assert script("run", expect=2, FLOWSTORE_EXECUTOR="nowhere").stderr.count("There are: local, dask, slurm.") == 1
    assert not script.db.exists()


def test_a_deployment_keeps_its_executor(run):
    """The executor that `deploy create` names is shown, used by each run, and signed with the deployment."""
    script = run(LINEAR)
    assert "There is no executor 'locl'" in script("deploy", "create", "--executor", "locl", expect=2).stderr
    wrong = script("deploy", "create", "--executor-option", "lease=9", expect=2).stderr
    assert "The executor 'local' has no options, so not 'lease'." in wrong
    assert not script.db.exists()
    script("deploy", "create", "--executor", "ahead")
    assert re.search(r"^executor +ahead$", script("deploy", "show").stdout, re.MULTILINE)
    script("deploy", "trigger", FLOWSTORE_EXECUTOR="local")
    assert script.sql("select count(*) from tags where tag = 'runtime:ahead'") == [1]
    with contextlib.closing(sqlite3.connect(script.db)) as db, db:
        db.execute("update deployments set executor = null")
    assert "was changed after you made it" in script("deploy", "trigger", expect=1).stderr
    script("deploy", "create")
    script("deploy", "trigger")
    assert script.sql("select executor from deployments") == [None, None]


def test_an_executor_whose_package_is_not_installed(monkeypatch, tmp_path):
    """The message says what to install; a fault of flowstore's own is not taken for that."""
    (tmp_path / "needing.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(executor.REGISTRY, "needing", "needing:Executor")
    with pytest.raises(FlowstoreError, match=r"needs the package a_package_that_is_not_there.*flowstore\[needing\]"):
        find_executor("needing")
    monkeypatch.setitem(executor.REGISTRY, "broken", "flowstore.run.nowhere:Executor")
    with pytest.raises(ModuleNotFoundError):
        find_executor("broken")


def test_executors_are_imported_when_they_are_asked_for(tmp_path):
    """The contract can be imported without any of the executors."""
    code = "import sys, flowstore.run.executor; print('flowstore.run.local.executor' in sys.modules)"
    assert python(tmp_path, "-c", code) == "False\n"


def test_what_an_executor_may_leave_out():
    """An executor that takes nothing ahead and keeps no process has five methods to write."""

    class Least(Executor):
        name = "least"

        def __init__(self, setup):
            self.flow = setup.flow

        def launch(self, order):
            return 0

        def wait(self, timeout_s):
            return []

        def kill(self, number, how):
            pass

        def close(self):
            pass

    least = Least(Setup(flow=object, graph=None))
    least.connect(None)
    least.withdraw(0)
    assert (least.finish(), least.ahead, least.notice) == ([], 0, None)
