"""Flows with a state for each step: every kind of graph, tasks that AWS admits, and workers that die meanwhile."""

from __future__ import annotations

import json
import signal

import pytest

from support.cli import ended
from support.flows import BRANCH, FOREACH, GANG, LINEAR, flow_source
from support.graphs import LOOP, NESTED, SPLIT_IN_FOREACH, SWITCH
from support.processes import wait_for

FLOWS = {
    "linear": (flow_source(LINEAR), {"start": 1, "end": 1}),
    "branch": (flow_source(BRANCH), {"start": 1, "a": 1, "b": 1, "join": 1, "end": 1}),
    "nested foreach": (NESTED, {"start": 1, "outer": 2, "inner": 5, "join_inner": 2, "join_outer": 1, "end": 1}),
    "switch": (SWITCH, {"start": 1, "b": 1, "end": 1}),
    "loop": (LOOP, {"start": 1, "body": 3, "end": 1}),
    "gang": (flow_source(GANG, body="@parallel"), {"start": 1, "body": 2, "join": 1, "end": 1}),
    "branches in a foreach": (SPLIT_IN_FOREACH, {
        "start": 1, "body": 3, "a": 3, "b": 3, "join_branches": 3, "join": 1, "end": 1}),
}  # fmt: skip


@pytest.mark.parametrize(("source", "counts"), FLOWS.values(), ids=FLOWS)
def test_each_step_is_a_state(stage, source, counts):
    """The execution enters the state of a step once for each of its tasks, once for a gang; both end alike."""
    stage = stage(source)
    stage.create("--steps")
    execution = stage.trigger()
    stage.work()
    assert stage.status(execution) == "SUCCEEDED"
    assert json.loads(stage.execution(execution)["output"]) == {"run": "F/1", "status": "successful"}
    assert stage.script.counts() == counts
    entered = [event.get("stateEnteredEventDetails", {}).get("name") for event in stage.history(execution)]
    states = {step: entered.count(step) for step in counts}
    assert states == (counts if "parallel" not in source else {**counts, "body": 1})
    assert stage.script.sql("select count(*) from step_tokens") == [0]


def test_a_foreach_of_200(stage):
    """Whatever order AWS enters the states in, forty at a time."""
    stage = stage(flow_source(FOREACH, start="self.xs = list(range(200))"))
    stage.create("--steps")
    execution = stage.trigger()
    stage.work()
    assert stage.status(execution) == "SUCCEEDED"
    assert stage.script.counts() == {"start": 1, "body": 200, "join": 1, "end": 1}


def test_a_task_waits_for_its_state(stage):
    """It does not start before AWS has entered the state of its step."""
    stage = stage(flow_source(LINEAR))
    stage.create("--steps")
    execution = stage.trigger()
    answer = json.dumps(json.dumps({"next": "end"}))[1:-2]  # a text in a text
    stage.aws.answer("States.SendTaskSuccess", 500, "InternalFailure", when=lambda body: answer in body)
    worker = stage.worker()
    wait_for(lambda: stage.script.db.exists() and stage.script.counts() == {"start": 1}, 60)
    wait_for(lambda: len(stage.aws.calls("States.SendTaskSuccess")) > 2, 60)
    assert stage.script.counts() == {"start": 1}
    stage.aws.answers.clear()
    wait_for(lambda: stage.status(execution) == "SUCCEEDED", 60)
    worker.send_signal(signal.SIGTERM)
    ended(worker)


def test_a_killed_worker_loses_no_token(stage):
    """The next one resumes the run, and answers for tasks that had finished."""
    stage = stage(
        flow_source(
            FOREACH,
            start="self.xs = list(range(6))",
            body="""
                if self.input == 3 and not Path('go').exists():
                    Path('begun').touch()
                    time.sleep(60)
                """,
        )
    )
    stage.create("--steps", "--heartbeat", 3, "--max-workers", 2)
    execution = stage.trigger()
    worker = stage.worker()
    wait_for((stage.script.folder / "begun").exists, 60)
    worker.kill()
    ended(worker)
    (stage.script.folder / "go").touch()
    stage.settle(execution)
    assert stage.status(execution) == "SUCCEEDED"
    assert stage.script.sql("select status from run_summary order by run_id") == ["dead", "successful"]


def test_a_failed_task_fails_the_execution(stage):
    """And nothing goes on."""
    stage = stage(flow_source(BRANCH, a="raise ValueError('no good')"))
    stage.create("--steps")
    execution = stage.trigger()
    stage.work(expect=1)
    assert stage.status(execution) == "FAILED"
    assert stage.script.sql("select status from run_summary") == ["failed"]


def test_more_tasks_than_aws_can_record(stage):
    """The execution fails with the reason, before any of them runs, rather than in the middle."""
    stage = stage(flow_source(FOREACH, start="self.xs = list(range(3100))"))
    stage.create("--steps")
    execution = stage.trigger()
    stage.work(expect=1)
    assert stage.status(execution) == "FAILED"
    [sent] = [call for call in stage.aws.calls("States.SendTaskFailure") if call["error"] == "Flowstore.HistoryTooLong"]
    assert "Deploy without --steps" in sent["cause"]
    assert stage.script.counts() == {"start": 1}
