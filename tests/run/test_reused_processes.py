"""Processes that run one attempt after the other, with orders ahead: `--reuse-workers` and tasks that are short."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time

import pytest

from support.cli import stop
from support.flows import FOREACH, LINEAR, flow_source
from support.processes import wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no order is handed out ahead there")

SEED = os.environ.get("SOAK_SEED", "1")
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
NOTED = "with open('executed', 'a') as file: file.write(f'{self.index}\\n')"  # by each attempt that has begun
REUSED = ("run", "--reuse-workers", "--max-workers")
WIDE = "self.xs = list(range(int(os.environ.get('COUNT', 200))))"


def executed(script):
    """How often each index has begun, by index."""
    begun = [int(line) for line in script.executed()]
    return {index: begun.count(index) for index in begun}


def assert_each_once(script, count, again=()):
    """Each task of the foreach has run once, those of `again` twice, and the store says the same."""
    assert executed(script) == {index: 2 if index in again else 1 for index in range(count)}
    assert script.counts() == {"start": 1, "body": count, "join": 1, "end": 1}
    rows = script.sql("select cast(foreach_path as integer) from task_summary where step = 'body' and attempts = 2")
    assert sorted(rows) == sorted(again)
    assert script.sql("select count(*) from attempts where status = 'failed'") == [len(again)]
    assert script.sql("select max(attempts) from task_summary") == [2 if again else 1]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_dies_with_orders_ahead(method, flow):
    """It takes one attempt with it. The orders behind that go to another process; each is run once."""
    body = f"""
    @retry(times=1, minutes_between_retries=0)
    {NOTED}
    if self.index in (50, 120) and current.retry_count == 0: os.kill(os.getpid(), signal.SIGKILL)
    self.y = self.input
    """
    script = flow(flow_source(FOREACH, start=WIDE, body=body, join="self.ys = [i.y for i in inputs]"))
    script(*REUSED, 1, "--start-method", method)
    assert_each_once(script, 200, again=[50, 120])
    assert script.client().data.ys == [*range(200)]


def strike(flow, seed):
    """Kill one of the processes of a run at a random moment, and look at what is there in the end."""
    rng = random.Random(seed)
    body = f"@retry(times=3, minutes_between_retries=0)\n{NOTED}\nself.y = self.input; self.pid = os.getpid()"
    script = flow(flow_source(FOREACH, start=WIDE, body=body, join="self.ys = [i.y for i in inputs]"))
    process = script.start(*REUSED, 2, COUNT="600")
    with process:
        wait_for(lambda: (script.folder / "executed").exists() and len(script.executed()) > rng.randrange(30, 500))
        pids = [
            int(pid) for pid in script.sql("select distinct pid from attempts where pid is not null order by id desc")
        ]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == 0
    failed = script.sql(
        "select t.foreach_path from attempts a join tasks t on t.id = a.task_id where a.status = 'failed'"
    )
    assert len(failed) <= 1  # it may have been between two attempts
    begun = executed(script)
    assert begun.keys() == {*range(600)}
    assert {str(index) for index, times in begun.items() if times > 1} <= set(failed)
    assert script.client().data.ys == [*range(600)]
    assert script.sql("select count(*) from attempts a join tasks t on t.id = a.task_id where t.foreach_path > ''") == [
        600 + len(failed)
    ]
    return len(failed)


def test_a_process_is_killed(flow):
    """Whatever it was about to do: an attempt that had begun has failed and is tried again, and no other runs twice."""
    strike(flow, SEED)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_processes_are_killed_at_random(flow, tmp_path, capsys):
    """As above, again and again for `$SOAK_SECONDS`."""
    until = time.monotonic() + SOAK_SECONDS
    runs = killed = 0
    while time.monotonic() < until:
        killed += strike(flow, f"{SEED} {runs}")
        runs += 1
        for path in tmp_path.iterdir():
            if path.is_file():
                path.unlink()
    with capsys.disabled():
        print(f"\n{runs} runs, in {killed} of which the process that was killed had begun an attempt")


def test_the_task_server_dies_after_the_run(flow):
    """A run that was successful remains so, whatever happens to the processes that it still has."""
    kill = "import atexit, signal; atexit.register(os.kill, os.getppid(), signal.SIGKILL)"
    script = flow(flow_source(LINEAR, end=kill))
    said = script("run", "--reuse-workers")
    assert "F/1 was successful" in said.stderr
    assert script.client().successful
    script.flowstore("check", "--deep")


def test_a_long_task_among_short_ones(flow):
    """No order waits behind an attempt that takes long, while another process has nothing to do."""
    body = f"{NOTED}\nif self.index == 60:\n    while len(Path('executed').read_text().split()) < 200: time.sleep(0.01)"
    script = flow(flow_source(FOREACH, start=WIDE, body=body))
    script(*REUSED, 2, timeout=60)
    assert_each_once(script, 200)


def test_what_only_waits_is_nowhere(flow):
    """Behind an attempt that runs, nothing shows as running, and a stop leaves nothing of it."""
    body = f"{NOTED}\nif self.index == 60: time.sleep(300)"
    script = flow(flow_source(FOREACH, start=WIDE, body=body))
    process = script.start(*REUSED, 1)
    wait_for(lambda: (script.folder / "executed").exists() and len(script.executed()) == 61)
    wait_for(lambda: script.counts() == {"start": 1, "body": 61})
    assert script.sql("select foreach_path from tasks where status = 'running'") == ["60"]
    assert stop(process, signal.SIGTERM).code == 143
    assert script.counts() == {"start": 1, "body": 61}
    assert script.counts(where="status = 'stopped'") == {"body": 1}


def test_a_failure_takes_back_what_waits(flow):
    """After a task has failed for good what has begun is finished, and what has not is nowhere; a resume runs it."""
    body = f"{NOTED}\nassert self.index != 60 or Path('mended').exists()"
    script = flow(flow_source(FOREACH, start=WIDE, body=body))
    script(*REUSED, 2, expect=1, COUNT="1000")
    begun = len(script.executed())
    assert 61 <= begun < 1000
    assert script.counts() == {"start": 1, "body": begun}
    assert script.counts(where="status = 'failed'") == {"body": 1}
    assert script.counts(where="status in ('running', 'stopped')") == {}
    (script.folder / "mended").touch()
    script("resume", "--reuse-workers")
    assert sorted(executed(script).values()) == [1] * 999 + [2]


def test_output_is_that_of_its_task(flow):
    """What tasks print follows one on another in a pipe: each has its own, whoever writes it, and nothing is added."""
    body = """
    print("printed", self.index)
    os.write(1, f"written {self.index}\\n".encode())
    print("complained", self.index, end="", file=sys.stderr, flush=True)
    if self.index % 50 == 49: os.system(f"echo echoed {self.index}; printf 'nul %b' '\\\\000' >&2")
    if self.index == 100: os.write(2, b"\\0" * 3)
    """
    script = flow(flow_source(FOREACH, head="import sys", start=WIDE, body=body))
    shown = script(*REUSED, 2, encoding=None).stdout
    for task in script.client()["body"]:
        index = task.index
        out = ["printed", "written", *(["echoed"] if index % 50 == 49 else [])]
        assert task.stdout.splitlines() == [f"{word} {index}" for word in out]
        assert task.stderr.startswith(f"complained {index}")
        assert len(task.stderr) == len(f"complained {index}") + (5 if index % 50 == 49 else 3 if index == 100 else 0)
        if isinstance(shown, str):
            assert f"/body/{task.id} " in shown


def test_streams_that_a_step_sends_elsewhere(flow):
    """What a task writes into a file of its own, under the numbers of its streams, is all that is there."""
    body = """
    if self.index == 60:
        keep = os.dup(1)
        os.dup2(os.open("elsewhere", os.O_WRONLY | os.O_CREAT), 1)
    print("line", self.index)
    """
    script = flow(flow_source(FOREACH, start=WIDE, body=body))
    script(*REUSED, 1)
    assert (script.folder / "elsewhere").read_text() == "".join(f"line {index}\n" for index in range(60, 200))
    assert sum(task.stdout != "" for task in script.client()["body"]) == 60


def test_a_timeout_counts_from_the_begin(flow):
    """Orders that wait behind others lose none of their time."""
    body = "@timeout(seconds=1)\ntime.sleep(0.03)"
    script = flow(flow_source(FOREACH, start=WIDE, body=body))
    script(*REUSED, 1, COUNT="60")
    assert script.counts(where="status = 'successful'") == {"start": 1, "body": 60, "join": 1, "end": 1}
    spans = script.sql("select max(finished_at - started_at) from tasks where foreach_path > ''")
    assert spans[0] < 900


def test_large_results_with_orders_ahead(flow):
    """What the driver answers about large results comes behind the orders that it has sent."""
    body = "self.y = bytes([self.index]) * 100_000 if self.index % 20 == 19 else self.index"
    script = flow(
        flow_source(FOREACH, start=WIDE, body=body, join="self.sizes = [i.y for i in inputs if i.index % 20 == 19]")
    )
    script(*REUSED, 2)
    assert script.client()["join"].task.data.sizes == [bytes([n]) * 100_000 for n in range(19, 200, 20)]
