"""Workers that die, stop and get the same message twice: each execution has one run that ends, and ends as that did."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from support.cli import ended
from support.flows import FOREACH, LINEAR, MIDDLE, flow_source
from support.processes import wait_for
from support.production import one_message

THIRTY = flow_source(
    FOREACH,
    start="self.xs = list(range(30))",
    body="""
        time.sleep(0.05)
        with open('executed', 'a') as file: file.write(f'{self.input}\\n')
        """,
)
WAITING = flow_source(MIDDLE, middle="Path('begun').touch()\nwhile not Path('go').exists(): time.sleep(0.05)")


def begun(stage):
    """Begin a worker, and wait until the waiting flow is in its middle."""
    worker = stage.worker()
    wait_for((stage.script.folder / "begun").exists, 60)
    return worker


def statuses(stage):
    return stage.script.sql("select status from run_summary order by run_id")


def test_a_killed_worker_takes_its_run_along_and_the_next_one_resumes_it(stage):
    """AWS misses the heartbeat and asks again; the execution ends as the resumed run does."""
    stage = stage(WAITING)
    stage.create("--heartbeat", 3)
    execution = stage.trigger()
    worker = begun(stage)
    worker.kill()
    ended(worker)
    wait_for(lambda: stage.script.client(1).status == "dead", 30)
    (stage.script.folder / "go").touch()
    wait_for(lambda: states_entered(stage, execution).count("Queued") == 2, 30)
    stage.settle(execution)
    assert stage.status(execution) == "SUCCEEDED"
    assert json.loads(stage.execution(execution)["output"])["run"] == "F/2"
    assert statuses(stage) == ["dead", "successful"]
    assert stage.script.sql("select origin_run_id from run_summary where run_id = 2") == ["1"]


def states_entered(stage, execution):
    """The names of the states that an execution has entered."""
    entered = [event.get("stateEnteredEventDetails") for event in stage.history(execution)]
    return [details["name"] for details in entered if details]


def test_a_run_that_was_successful_is_not_repeated(stage):
    """The worker was killed before it could report: the next one reports."""
    stage = stage(flow_source(LINEAR))
    stage.create("--heartbeat", 3)
    execution = stage.trigger()
    stage.aws.answer("States.SendTaskSuccess", 500, "InternalFailure", when=lambda body: "F/1" in body)
    worker = stage.worker()
    wait_for(lambda: stage.script.db.exists() and statuses(stage) == ["successful"], 60)
    worker.kill()
    ended(worker)
    stage.aws.answers.clear()
    wait_for(lambda: states_entered(stage, execution).count("Queued") == 2, 30)
    stage.settle(execution)
    assert stage.status(execution) == "SUCCEEDED"
    assert statuses(stage) == ["successful"]


def test_sigterm_gives_the_run_back(stage):
    """It is stopped, and AWS asks for it at once: the next worker goes on."""
    stage = stage(WAITING)
    stage.create()
    execution = stage.trigger()
    worker = begun(stage)
    worker.send_signal(signal.SIGTERM)
    result = ended(worker)
    assert result.code == 143, result
    assert statuses(stage) == ["stopped"]
    assert stage.status(execution) == "RUNNING"
    (stage.script.folder / "go").touch()
    stage.settle(execution)
    assert stage.status(execution) == "SUCCEEDED"
    assert statuses(stage) == ["stopped", "successful"]


def test_stopping_an_execution_stops_its_run(stage):
    """By `terminate`, or in AWS's console."""
    stage = stage(WAITING)
    stage.create("--heartbeat", 3)
    execution = stage.trigger()
    worker = begun(stage)
    said = stage("terminate", "latest").stdout
    assert execution.rpartition(":")[2] in said
    wait_for(lambda: statuses(stage) == ["stopped"], 30)
    assert stage.status(execution) != "RUNNING"
    worker.send_signal(signal.SIGTERM)
    assert "was stopped in AWS" in ended(worker).stderr
    stage.work()
    assert statuses(stage) == ["stopped"]


def test_a_message_that_comes_twice_yields_one_run(stage):
    """To the same worker, to two of them, and after all is over."""
    stage = stage(WAITING)
    stage.create("--heartbeat", 5)
    execution = stage.trigger()
    worker = begun(stage)
    bodies = [json.loads(text)["Messages"] for text in stage.aws.received if '"Messages"' in text]
    bodies = [message["Body"] for messages in bodies for message in messages]
    url = stage.queues.list_queues()["QueueUrls"][0]
    other = stage.worker()
    for body in bodies * 3:
        stage.queues.send_message(QueueUrl=url, MessageBody=body)
    wait_for(lambda: stage.queues.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
             ["ApproximateNumberOfMessages"] == "0", 30)  # fmt: skip
    (stage.script.folder / "go").touch()
    wait_for(lambda: stage.status(execution) == "SUCCEEDED", 30)
    for body in bodies:
        stage.queues.send_message(QueueUrl=url, MessageBody=body)
    for one in (worker, other):
        one.send_signal(signal.SIGTERM)
        ended(one)
    stage.work()
    assert statuses(stage) == ["successful"]


def test_another_run_at_a_time_waits_for_room(stage):
    """With `--max-runs 1`; both run in the end."""
    stage = stage(WAITING)
    stage.create()
    executions = [stage.trigger(), stage.trigger()]
    worker = stage.worker("--max-runs", "1")
    wait_for((stage.script.folder / "begun").exists, 60)
    time.sleep(1)
    assert statuses(stage) == ["running"]
    (stage.script.folder / "go").touch()
    wait_for(lambda: [stage.status(one) for one in executions] == ["SUCCEEDED"] * 2, 60)
    worker.send_signal(signal.SIGTERM)
    ended(worker)


def test_a_run_that_the_driver_lost_goes_on(stage):
    """Its process was killed, not the worker: AWS asks for it again."""
    stage = stage(WAITING)
    stage.create()
    execution = stage.trigger()
    worker = begun(stage)
    [pid] = stage.script.sql("select pid from runs")
    (stage.script.folder / "go").touch()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: stage.status(execution) == "SUCCEEDED", 60)
    worker.send_signal(signal.SIGTERM)
    ended(worker)
    assert statuses(stage)[-1] == "successful"


def test_what_is_no_message_is_dropped(stage):
    """With one line each; the worker goes on."""
    stage = stage(flow_source(LINEAR))
    stage.create()
    url = stage.queues.list_queues()["QueueUrls"][0]
    for body in ("{", "[]", "null", '{"flowstore": 2}', '{"flowstore": 1, "state": "run"}', "[" * 5000):
        stage.queues.send_message(QueueUrl=url, MessageBody=body)
    execution = stage.trigger()
    [store] = stage.script.sql("select uuid from store")
    forged = {
        "flowstore": 1, "state": "step", "store": store, "flow": "F", "scope": "flow:F", "heartbeat": 60, "token": "x",
        "execution": execution, "started": "2026-01-02T03:04:05Z", "step": "start", "path": "",
    }  # fmt: skip
    stage.queues.send_message(QueueUrl=url, MessageBody=json.dumps(forged))
    with contextlib.closing(sqlite3.connect(stage.script.db)) as db, db:
        db.execute("insert into step_tokens values (7, 'sfn:F/over/00000000', 'start', '', 0, 'stale', 0)")
    result = stage.work()
    assert result.stderr.count("cannot be understood") == 6
    assert stage.status(execution) == "SUCCEEDED"
    assert stage.script.sql("select count(*) from step_tokens") == [0]


def test_what_the_system_refuses_is_tried_again(stage):
    """A full disk, say: the execution waits, and its run begins when there is room."""
    stage = stage(flow_source(LINEAR))
    (stage.script.folder / "large.bin").write_bytes(bytes(20 << 20))
    stage.create("--heartbeat", 3, "--package-suffixes", ".py,.bin")
    execution = stage.trigger()
    limited = f"ulimit -f {16 << 10}; exec {sys.executable} -m flowstore worker --once"
    said = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=60, cwd=stage.script.folder)
    assert (said.returncode, stage.status(execution)) == (1, "RUNNING"), said
    assert "cannot be written" in said.stderr
    assert "Traceback" not in said.stderr
    assert [call["error"] for call in stage.aws.calls("States.SendTaskFailure")] == ["Flowstore.NotNow"]
    stage.work()
    assert stage.status(execution) == "SUCCEEDED"
    assert statuses(stage) == ["successful"]


def test_a_call_that_aws_denies_ends_no_worker(stage):
    """The policy lacks a state machine, say: a line says so, and the worker goes on with the others."""
    stage = stage(flow_source(LINEAR))
    stage.create()
    executions = [stage.trigger(), stage.trigger()]
    stage.aws.answer("States.SendTaskSuccess", 400, "AccessDeniedException", "not for you", times=1)
    assert "your credentials do not allow it (not for you)" in stage.work(expect=1).stderr
    assert sorted(map(stage.status, executions)) == ["RUNNING", "SUCCEEDED"]
    stage.trigger()
    stage.aws.answer("SQS.DeleteMessage", 400, "AccessDeniedException")
    one_message(stage.work(expect=1), "refused to delete a message")


def soaked(stage, seed, kills, copies):
    """Run 30 tasks while workers are killed and messages come again; check what came of it."""
    chance = random.Random(seed)
    stage.create("--heartbeat", 3, "--max-workers", 2)
    execution = stage.trigger()
    url = stage.queues.list_queues()["QueueUrls"][0]
    deadline = time.monotonic() + 60 + 30 * kills
    while stage.status(execution) == "RUNNING":
        assert time.monotonic() < deadline
        worker = stage.worker()
        moment = time.monotonic() + chance.uniform(0.3, 3.5) if kills else deadline
        while time.monotonic() < moment and stage.status(execution) == "RUNNING":
            time.sleep(0.05)
        kills -= 1
        worker.kill()
        ended(worker)
        for body in seen(stage) if copies else []:
            if chance.random() < 0.3:
                stage.queues.send_message(QueueUrl=url, MessageBody=body, DelaySeconds=chance.randrange(3))
    check_soaked(stage, execution)


def seen(stage):
    """The bodies of all messages that were received so far."""
    answers = [json.loads(text) for text in stage.aws.received if '"Messages"' in text]
    return [message["Body"] for answer in answers for message in answer["Messages"]]


def check_soaked(stage, execution):
    """One successful run; no task that had finished was done again; the execution ended as the run did."""
    assert stage.status(execution) == "SUCCEEDED"
    wait_for(lambda: "running" not in [stage.script.client(run).status for run in runs(stage)], 30)
    found = [stage.script.client(run).status for run in runs(stage)]
    assert found.count("successful") == 1
    assert set(found) <= {"successful", "dead", "stopped"}
    own = "select foreach_index from task_summary where step = 'body' and status = 'successful'"
    assert sorted(stage.script.sql(f"{own} and origin_pathspec is null")) == list(range(30))
    assert json.loads(stage.execution(execution)["output"])["status"] == "successful"


def runs(stage):
    return stage.script.sql("select run_id from run_summary order by run_id")


def test_workers_are_killed_at_random(stage):
    """A few times, with messages that come again; the long form is a soak."""
    soaked(stage(THIRTY), 1, kills=3, copies=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_workers_are_killed_at_50_random_moments(stage, seed):
    """In ten runs, five times each."""
    soaked(stage(THIRTY), 100 + seed, kills=5, copies=seed % 2 == 0)
