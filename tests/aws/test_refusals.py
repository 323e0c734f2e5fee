"""Each refusal is one message, and leaves nothing half made."""

from __future__ import annotations

import hashlib
import re

import pytest

from support.aws import ROLE
from support.cli import Script, ended
from support.flows import LINEAR, flow_source
from support.production import Person, one_message, unchanged

PLAIN = flow_source(LINEAR)


def is_empty(stage):
    """Return whether nothing was made in AWS."""
    return (
        stage.states.list_state_machines()["stateMachines"] == []
        and "QueueUrls" not in stage.queues.list_queues()
        and stage.aws.client("scheduler").list_schedules()["Schedules"] == []
    )


SETTINGS = {
    "no credentials": (
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, (), ["no credentials", "$AWS_ACCESS_KEY_ID"]),
    "no role": ({"FLOWSTORE_SFN_ROLE": ""}, (), ["needs a role", "--role ARN", "$FLOWSTORE_SFN_ROLE"]),
    "no such role": ({}, ("--role", "states"), ["'states' is not the ARN of a role"]),
    "no such scheduler's role": ({}, ("--scheduler-role", "clock"), ["'clock' is not the ARN of a role"]),
    "no region": ({"AWS_DEFAULT_REGION": ""}, (), ["No AWS region", "$AWS_DEFAULT_REGION"]),
    "no such region": ({"AWS_DEFAULT_REGION": "eu-nowhere-1"}, (), ["no AWS region 'eu-nowhere-1'"]),
    "no such profile": ({"AWS_PROFILE": "nobody"}, (), ["nobody"]),
    "nobody there": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, (), ["cannot be reached", "127.0.0.1:9"]),
    "a name that is none": ({}, ("--name", "a name"), ["at most 80 letters"]),
}  # fmt: skip


@pytest.mark.parametrize(("env", "words", "said"), SETTINGS.values(), ids=SETTINGS)
def test_a_setting_that_is_wrong(stage, env, words, said):
    """Nothing is deployed, here or there."""
    stage = stage(PLAIN)
    one_message(stage("create", *words, expect=1, **env), *said)
    assert not stage.script.db.exists()
    assert is_empty(stage)


ANSWERS = {
    "access denied": (400, "AccessDeniedException", ["do not allow it", "--show-policies"]),
    "throttled": (400, "ThrottlingException", ["asked too often"]),
    "expired": (403, "ExpiredTokenException", ["does not accept your credentials"]),
}


@pytest.mark.parametrize(("status", "code", "said"), ANSWERS.values(), ids=ANSWERS)
def test_aws_refuses(stage, status, code, said):
    """At first sight: nothing is made. In the middle: what was made is listed, and `delete` removes it."""
    stage = stage(PLAIN)
    stage.aws.answer("States.DescribeStateMachine", status, code, "no")
    one_message(stage("create", expect=1), *said)
    assert not stage.script.db.exists()
    assert is_empty(stage)
    stage.aws.answers.clear()
    stage.aws.answer("States.CreateStateMachine", status, code, "no")
    one_message(stage("create", expect=1), *said, "version 1 in", "the queue flowstore-", "step-functions delete")
    stage.aws.answers.clear()
    assert "the queue" in stage("delete").stdout
    assert is_empty(stage)
    assert stage.script.rows("deployments") == []


def test_what_was_half_made_is_made_whole(stage):
    """By `create`, once AWS does not refuse any more."""
    stage = stage(PLAIN)
    stage.aws.answer("States.CreateStateMachine", 400, "AccessDeniedException")
    stage("create", expect=1)
    stage.aws.answers.clear()
    stage.create()
    execution = stage.trigger()
    stage.work()
    assert stage.status(execution) == "SUCCEEDED"


def test_the_state_machine_of_another_store(stage, tmp_path_factory):
    """It is refused, unless its token is shown; then it is taken over, with a token of this store's own."""
    first = stage(PLAIN)
    token = first.create()
    other = type(first)(Script(tmp_path_factory.mktemp("other"), PLAIN), first.aws)
    one_message(other("create", expect=1), "belongs to another store", "deployed by tester", "--name")
    one_message(other("create", "--authorize", "f-1-wrong", expect=1), "not its production token")
    [machine] = other.states.list_state_machines()["stateMachines"]
    tag = {"key": "flowstore:token-sha256", "value": "é"}
    hashed = {**tag, "value": hashlib.sha256(token.encode()).hexdigest()}
    other.states.tag_resource(resourceArn=machine["stateMachineArn"], tags=[tag])
    one_message(other("create", "--authorize", token, expect=1), "not its production token")
    other.states.tag_resource(resourceArn=machine["stateMachineArn"], tags=[hashed])
    assert not other.script.db.exists()
    assert other.create("--name", "Second") != token
    other("delete")
    assert other.create("--authorize", token) != token
    execution = other.trigger()
    other.work()
    assert other.status(execution) == "SUCCEEDED"
    one_message(first("trigger", expect=1), "belongs to another store now")
    assert "the state machine" not in first("delete").stdout  # which is no longer this store's
    assert other.states.list_state_machines()["stateMachines"] != []


def test_a_state_machine_that_somebody_made_by_hand(stage):
    """Nobody's token is for it."""
    stage = stage(PLAIN)
    stage.states.create_state_machine(
        name="F", definition='{"StartAt": "A", "States": {"A": {"Type": "Succeed"}}}', roleArn=ROLE
    )
    one_message(stage("create", expect=1), "flowstore did not make", "--name")
    assert not stage.script.db.exists()


def test_somebody_else_is_refused_until_authorized(stage):
    """As for `deploy create`; neither the store nor AWS is changed."""
    stage = stage(PLAIN)
    anne, will = Person(stage.script, "anne"), Person(stage.script, "will")
    token = re.search(r"token: +(\S+)", anne("step-functions", "create").stdout)[1]
    [machine] = stage.states.list_state_machines()["stateMachines"]
    before = stage.states.describe_state_machine(stateMachineArn=machine["stateMachineArn"])["definition"]
    for words in (("create",), ("create", "--generate-new-token"), ("delete",)):
        with unchanged(stage.script):
            said = one_message(will("step-functions", *words, expect=1), "anne deployed last", "--authorize TOKEN")
        assert token not in said
    after = stage.states.describe_state_machine(stateMachineArn=machine["stateMachineArn"])["definition"]
    assert before == after
    will("step-functions", "create", "--authorize", token)
    will("step-functions", "create")
    will("step-functions", "delete")
    assert is_empty(stage)


def test_without_a_deployment(stage):
    """Commands about what is not in AWS, and a worker that has nothing to do."""
    stage = stage(PLAIN)
    stage.script("run")
    for words in (("trigger",), ("list-runs",), ("show",), ("delete",), ("terminate", "1")):
        one_message(stage(*words, expect=1), "is not in AWS", "step-functions create")
    with stage.worker("--once") as process:
        one_message(ended(process), "nothing to work for", "step-functions create")


def test_a_run_that_no_execution_started(stage):
    """It cannot be terminated in AWS."""
    stage = stage(PLAIN)
    stage.create()
    stage.script("run")
    one_message(stage("terminate", 1, expect=1), "was not started by the state machine F")


def test_a_flow_that_is_no_longer_deployed(stage):
    """Its executions fail with the reason; `trigger` says so first."""
    stage = stage(PLAIN)
    stage.create()
    execution = stage.trigger()
    assert "still in AWS" in stage.script("deploy", "delete").stdout
    one_message(stage("trigger", expect=1), "no longer deployed")
    stage.work(expect=1)
    assert stage.status(execution) == "FAILED"
    [sent] = stage.aws.calls("States.SendTaskFailure")
    assert sent["error"] == "Flowstore.NotStarted"
    assert "not deployed in this store any more" in sent["cause"]


def test_the_code_of_somebody_else_is_not_run(stage):
    """A worker runs what its user deployed, or what is in a store that they trust."""
    stage = stage(PLAIN)
    anne = Person(stage.script, "anne")
    anne("step-functions", "create")
    execution = re.search(r"arn:\S+", anne("step-functions", "trigger").stdout)[0]
    stage.work(expect=1)
    assert stage.status(execution) == "FAILED"
    assert "made by anne, not by you" in stage.aws.calls("States.SendTaskFailure")[0]["cause"]


def test_a_queue_that_was_deleted(stage):
    """A worker says so, whether it starts or waits."""
    stage = stage(PLAIN)
    stage.create()
    worker = stage.worker()
    url = stage.queues.list_queues()["QueueUrls"][0]
    assert b"Waiting for" in worker.stderr.readline()
    stage.queues.delete_queue(QueueUrl=url)
    result = ended(worker)
    assert result.code == 1
    one_message(result, "The queue is gone", "step-functions create")
    with stage.worker("--once") as process:
        one_message(ended(process), "somebody has deleted it", "step-functions create")
    stage.create()
    execution = stage.trigger()
    stage.work()
    assert stage.status(execution) == "SUCCEEDED"


def test_parameters_that_do_not_fit(stage):
    """Wrong names are refused at once; a wrong value fails the execution with the reason."""
    stage = stage(flow_source(LINEAR, members="alpha = Parameter('alpha', default=1)"))
    stage.create()
    assert "is not a parameter" in stage("trigger", "--beta", 2, expect=2).stderr
    execution = stage.trigger("--alpha", "many")
    stage.work(expect=1)
    assert stage.status(execution) == "FAILED"
    assert "alpha" in stage.aws.calls("States.SendTaskFailure")[0]["cause"]
    for given in ('{"parameters": [1]}', '{"parameters": {"beta": 1}}', "[1]"):
        stage.states.start_execution(
            stateMachineArn=stage.states.list_state_machines()["stateMachines"][0]["stateMachineArn"],
            name=f"x{abs(hash(given))}",
            input=given,
        )
    stage.work(expect=1)
    assert sorted(stage.script.sql("select status from run_summary")) == ["successful"]


def test_only_json_changes_nothing(stage):
    """And asks nobody; neither do policies."""
    stage = stage(PLAIN)
    for words in (("--only-json",), ("--show-policies",)):
        assert stage("create", *words).stdout.startswith("{")
    assert not stage.script.db.exists()
    assert stage.aws.sent == []


def test_boto3_is_missing(stage, tmp_path):
    """The message says what to install; a definition can be had all the same."""
    stage = stage(PLAIN)
    (tmp_path / "boto3.py").write_text("raise ModuleNotFoundError('no boto3', name='boto3')")
    one_message(stage("create", expect=1, PYTHONPATH=tmp_path), "boto3", "flowstore[aws]")
    assert '"StartAt"' in stage("create", "--only-json", PYTHONPATH=tmp_path).stdout
