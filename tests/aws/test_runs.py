"""Runs that AWS asks for: from `create` to the end of the execution."""

from __future__ import annotations

import json

from support.flows import LINEAR, flow_source
from support.production import one_message

ALPHA = flow_source(LINEAR, members="alpha = Parameter('alpha', default=2)", end="print('x is', self.alpha)")


def test_an_execution_has_a_run(stage):
    """It is in the production namespace, with the parameters of the execution, and both end alike."""
    stage = stage(ALPHA)
    token = stage.create()
    execution = stage.trigger("--alpha", 5)
    said = stage.work()
    assert stage.status(execution) == "SUCCEEDED"
    assert json.loads(stage.execution(execution)["output"]) == {"run": "F/1", "status": "successful"}
    assert "x is 5" in said.stdout
    [tags] = stage.script.sql("select tags from run_summary where run_id = 1")
    assert f"production:{token}" in tags
    assert f"sfn:F/{execution.rpartition(':')[2]}" in tags
    assert stage("list-runs").stdout.count("F/1") == 1


def test_a_failed_run_fails_its_execution(stage):
    """With the error and the command that resumes it; it is not run again."""
    stage = stage(flow_source(LINEAR, end="raise ValueError('no good')"))
    stage.create()
    execution = stage.trigger()
    stage.work(expect=1)
    assert stage.status(execution) == "FAILED"
    [failed] = [event for event in stage.history(execution) if event["type"] == "ExecutionFailed"]
    details = failed["executionFailedEventDetails"]
    assert details["error"] == "Flowstore.RunFailed"
    [sent] = stage.aws.calls("States.SendTaskFailure")  # the emulator forgets the cause
    assert "ValueError: no good" in sent["cause"]
    assert "resume --origin-run-id 1" in sent["cause"]
    stage.work()
    assert stage.script.sql("select status from run_summary") == ["failed"]


def test_a_name_that_is_used_again(stage):
    """AWS allows that after 90 days, or for a new state machine: each execution has a run of its own."""
    stage = stage(flow_source(LINEAR))
    for _ in range(2):
        stage.create()
        [machine] = stage.states.list_state_machines()["stateMachines"]
        stage.states.start_execution(stateMachineArn=machine["stateMachineArn"], name="nightly", input="{}")
        stage.work()
        stage("delete")
    assert stage.script.sql("select status from run_summary") == ["successful"] * 2
    stage.create()
    one_message(stage("terminate", 1, expect=1), "no longer in AWS")
