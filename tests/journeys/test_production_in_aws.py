"""The section on production of Metaflow's page "Organizing Results", sentence by sentence, with AWS.

Anne and Will share a store. Anne puts two flows of a project into production with `step-functions create`: one that
makes a model, and one that predicts with it. One worker runs what AWS asks for.
"""

from __future__ import annotations

import re

import pytest

import flowstore
from flowstore import Flow, Run, namespace
from support.cli import Script
from support.production import Person, one_message, unchanged
from support.stage import Stage, aws, server

pytestmark = pytest.mark.aws
__all__ = ["aws", "server"]

HEAD = "from flowstore import *\n\n"
MAIN = "\n\nif __name__ == '__main__':\n    {}()\n"
TRAIN = """
@project(name="birds")
class Train(FlowSpec):
    good = Parameter("good", default="good")

    @step
    def start(self):
        self.model = f"a {self.good} model"
        self.next(self.end)

    @step
    def end(self):
        pass
"""
PREDICT = """
@project(name="birds")
class Predict(FlowSpec):
    @step
    def start(self):
        self.used = Flow("Train").latest_run.data.model
        self.next(self.end)

    @step
    def end(self):
        pass
"""
PRODUCTION = ("--production",)


class Project:
    """The two flows, whoever calls them, and the worker, which is Anne's."""

    def __init__(self, folder, aws):
        self.train, self.predict = Script(folder, ""), Script(folder, "")
        for script, text in ((self.train, TRAIN), (self.predict, PREDICT)):
            name = "Train" if script is self.train else "Predict"
            script.file = folder / f"{name.lower()}.py"
            script.rewrite(HEAD + text + MAIN.format(name))
        self.aws = aws
        self.anne = {script: Person(script, "anne") for script in (self.train, self.predict)}
        self.will = {script: Person(script, "will") for script in (self.train, self.predict)}
        self.stage = Stage(self.train, aws)

    def create(self, who, script, *words, expect=0):
        """Deploy to production; returns the token, or what was said."""
        result = who[script](*PRODUCTION, "step-functions", "create", *words, expect=expect)
        return re.search(r"token: +(\S+)", result.stdout)[1] if expect == 0 else result

    def produce(self, who, script, *words, expect=0):
        """Start an execution, and have Anne's worker run it."""
        who[script](*PRODUCTION, "step-functions", "trigger", *words)
        self.stage.work(expect=expect, **self.anne[script].environment)

    def machines(self):
        return {one["name"] for one in self.stage.states.list_state_machines()["stateMachines"]}


@pytest.fixture
def project(tmp_path, aws, monkeypatch):
    """The project; this process looks at its store as Anne's notebook does."""
    project = Project(tmp_path, aws)
    monkeypatch.setenv("FLOWSTORE_HOME", str(project.anne[project.train].home))
    monkeypatch.setenv("FLOWSTORE_USER", "anne")
    yield project
    project.train.check()


def test_production_in_aws(project):
    """The section's statements, in their order."""
    anne, will, train, predict = project.anne, project.will, project.train, project.predict

    # "When you deploy a Flow to production for the first time, Metaflow creates a new, isolated production namespace."
    token = project.create(anne, train)
    assert project.machines() == {"birds-prod-Train"}
    assert project.create(anne, predict) == token  # flows of a project share it
    project.produce(anne, train)

    # "You can examine production results in a notebook by switching to the production namespace."
    flowstore.use_store(train.db)
    namespace(f"production:{token}")
    assert Flow("Train").latest_run.data.model == "a good model"

    # "The production namespace is made separate from the user namespace": experiments are not in it.
    anne[train]("run", "--good", "bad")
    will[train]("run", "--good", "worse")
    assert Flow("Train").latest_run == Run("Train/1")
    assert "user:anne" not in Run("Train/1").tags

    # "The prediction flow can access the previously built model as long as one exists in the same namespace."
    project.produce(anne, predict)
    assert Flow("Predict").latest_run.data.used == "a good model"

    # "Even if they ran step-functions create, they could not overwrite a production version without explicit consent."
    with unchanged(train):
        said = project.create(will, train, expect=1)
    assert token not in one_message(said, "anne deployed last", "--authorize TOKEN")
    assert will[train].tokens() == {}

    # "After you have shared the production token, they can deploy a new version": once, for the whole project.
    assert project.create(will, train, "--authorize", token) == token
    assert project.create(will, train) == token
    assert project.machines() == {"birds-prod-Train", "birds-prod-Predict"}

    # "If you call step-functions create again, it will deploy an updated version in the existing namespace."
    assert project.create(anne, train) == token
    project.produce(anne, train, "--good", "better")
    assert [run.data.model for run in Flow("Train").runs()] == ["a better model", "a good model"]

    # "This will deploy a new version in production using a fresh, empty namespace."
    fresh = project.create(anne, train, "--generate-new-token")
    assert fresh != token
    project.produce(anne, predict, expect=1)  # no model is there yet
    project.produce(anne, train, "--good", "new")
    project.produce(anne, predict)
    namespace(f"production:{fresh}")
    assert Flow("Predict").latest_run.data.used == "a new model"
    assert len(list(Flow("Train").runs())) == 1
    project.create(will, train, "--authorize", token, expect=1)

    # "The resume command is smart enough to work across production and personal namespaces."
    will[train]("resume", "--origin-run-id", "1")
    namespace("user:will")
    assert Flow("Train").latest_run.origin_run_id == "1"


def test_branches_are_deployed_apart(project):
    """A branch has a state machine, a token and a namespace of its own; `delete` leaves the others."""
    train = project.train
    token = project.create(project.anne, train)
    said = project.anne[train]("--branch", "trial", "step-functions", "create").stdout
    assert re.search(r"token: +(\S+)", said)[1] != token
    assert len(project.machines()) == 2
    project.anne[train]("--branch", "trial", "step-functions", "trigger")
    project.stage.work(**project.anne[train].environment)
    project.anne[train]("--branch", "trial", "step-functions", "delete")
    assert project.machines() == {"birds-prod-Train"}
    assert "QueueUrls" in project.stage.queues.list_queues()
    project.anne[train](*PRODUCTION, "step-functions", "delete")
    assert "QueueUrls" not in project.stage.queues.list_queues()
    assert train.sql("select count(*) from runs") == [1]
