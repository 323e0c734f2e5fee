"""A flow in AWS and what is done with it, by the real commands and boto3: an emulator is in AWS's place."""

from __future__ import annotations

import importlib.util
import os
import re

import pytest

import flowstore
from support.aws import Emulator, spare
from support.cli import ended, started
from support.processes import wait_for

MOTO = os.environ.get("FLOWSTORE_TEST_MOTO")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The one emulator."""
    if MOTO is None:
        spare("needs $FLOWSTORE_TEST_MOTO: the program moto_server of an environment with moto")
    if importlib.util.find_spec("boto3") is None:
        spare("needs flowstore[aws]")
    emulator = Emulator(MOTO, tmp_path_factory.mktemp("moto"))
    yield emulator
    emulator.close()


@pytest.fixture
def aws(server, monkeypatch):
    """The emulator, with nothing in it; all commands talk to it."""
    server.reset()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, text in server.environment.items():
        monkeypatch.setenv(name, text)
    return server


class Stage:
    """A flow, its commands, and workers beside its store."""

    def __init__(self, script, aws):
        flowstore.namespace(None)  # for what tests look at themselves
        self.script = script
        self.aws = aws
        self.states = aws.client("stepfunctions")
        self.queues = aws.client("sqs")

    def __call__(self, *words, before=(), **options):
        return self.script(*before, "step-functions", *words, **options)

    def create(self, *words, **options):
        """Deploy; returns the token."""
        said = self("create", *words, **options).stdout
        return re.search(r"^Production token: +(\S+)", said, re.MULTILINE)[1]

    def trigger(self, *words, **options):
        """Start an execution; returns its ARN."""
        return re.search(r"arn:\S+", self("trigger", *words, **options).stdout)[0]

    def worker(self, *words, **env):
        """Begin a worker."""
        return started("-m", "flowstore", "worker", *words, folder=self.script.folder, **{**self.script.env, **env})

    def work(self, *words, expect=0, **env):
        """Have a worker run what is in the queue."""
        with self.worker("--once", *words, **env) as process:
            result = ended(process)
        assert result.code == expect, (result, self.aws.received[-12:])
        assert "Traceback" not in result.stderr, result.stderr
        return result

    def settle(self, arn):
        """Have a worker run until an execution is over."""
        with self.worker() as process:
            wait_for(lambda: self.status(arn) != "RUNNING", 60)
            process.terminate()  # it may be forgetting the execution's tokens: a kill would leave the store's log
            ended(process)

    def execution(self, arn):
        return self.states.describe_execution(executionArn=arn)

    def status(self, arn):
        """How an execution is or has ended."""
        return self.execution(arn)["status"]

    def executions(self):
        """The ARNs of all executions."""
        machines = self.states.list_state_machines()["stateMachines"]
        found = [self.states.list_executions(stateMachineArn=one["stateMachineArn"])["executions"] for one in machines]
        return [one["executionArn"] for executions in found for one in executions]

    def history(self, arn):
        return self.states.get_execution_history(executionArn=arn, maxResults=1000)["events"]


@pytest.fixture
def stage(flow, aws):
    """Write a flow that is to go to AWS."""
    return lambda source, **env: Stage(_with(flow(source), env), aws)


def _with(script, env):
    script.env = {**script.env, **env}
    return script
