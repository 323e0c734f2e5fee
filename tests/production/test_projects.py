"""Projects and branches: a token for all their flows, and whose the runs are."""

from __future__ import annotations

import json
import re

import pytest

import flowstore
from support.cli import Script
from support.flows import LINEAR, flow_source
from support.production import FACTS, Person, active, one_message, tags_of

TRAIN = """
@project(name="birds")
class Train(FlowSpec):
    @step
    def start(self):
        self.model = MODEL
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
        self.model = Flow("Train").latest_run.data.model
        self.next(self.end)

    @step
    def end(self):
        pass
"""


def project_source(body, name, **words):
    """The source of a flow of a project."""
    for word, value in words.items():
        body = body.replace(word, value)
    return f"from flowstore import *\n{body}\nif __name__ == '__main__':\n    {name}()\n"


# --- projects


@pytest.fixture
def birds(tmp_path):
    """A training and a prediction flow of one project, both anne's, and what another person makes of them."""
    train = Script(tmp_path, project_source(TRAIN, "Train", MODEL="'good'"))
    train.file = tmp_path / "train.py"
    train.rewrite(project_source(TRAIN, "Train", MODEL="'good'"))
    predict = Script(tmp_path, "")
    predict.file = tmp_path / "predict.py"
    predict.rewrite(project_source(PREDICT, "Predict"))
    yield train, predict
    train.check()


def test_flows_of_a_project_share_a_token(birds):
    """In one branch; a new token moves them all, and lists them."""
    train, predict = (Person(script, "anne") for script in birds)
    token = train.deploy(before=["--production"])
    assert token.startswith("birds-1-")
    assert predict.deploy(before=["--production"]) == token
    other = predict.deploy(before=["--branch", "x"])
    assert other != token
    assert train.tokens() == {"project:birds/prod": token, "project:birds/test.x": other}
    told = train("--production", "deploy", "create", "--generate-new-token").stdout
    assert re.search(r"also moved:\n  Predict, version 1, deployed by anne\n", told)
    found = {(made.flow, made.branch): made.token for made in active(birds[0])}
    new = train.tokens()["project:birds/prod"]
    assert new != token
    assert found == {("Predict", "prod"): new, ("Train", "prod"): new, ("Predict", "test.x"): other}


def test_branches_are_named_as_in_runs(birds):
    """`user.NAME` by default, so that two people of a project deploy without each other's token."""
    anne, will = (Person(birds[0], name) for name in ("anne", "will"))
    for before in ([], ["--branch", "b"], ["--production"], ["--production", "--branch", "b"]):
        anne.deploy(before=before)
    will.deploy()
    assert [made.branch for made in active(birds[0])] == ["prod", "prod.b", "test.b", "user.anne", "user.will"]
    one_message(will("--production", "deploy", "create", expect=1), "anne deployed last", "birds/prod")
    one_message(Person(birds[0], "carol")("deploy", "show", expect=1), "birds/user.carol", "test.b", "--branch")


def test_a_prediction_flow_finds_the_model_in_production_only(birds):
    """That of the same project and branch; a plain run finds its user's own, in another branch there is none."""
    train, predict = (Person(script, "anne") for script in birds)
    for each in (train, predict):
        each.deploy(before=["--production"])
    train("--production", "deploy", "trigger", "--quiet")
    train.script.rewrite(project_source(TRAIN, "Train", MODEL="'experiment'"))
    train("run")
    predict("--production", "deploy", "trigger")
    predict("run")
    models = "select value from artifact_values where flow = 'Predict' and name = 'model' order by run_id"
    assert train.script.sql(models) == ['"good"', '"experiment"']
    predict.deploy(before=["--branch", "b"])
    failed = predict("--branch", "b", "deploy", "trigger", expect=1)
    assert "Train has no run in the active namespace" in failed.stdout
    carol = Person(predict.script, "carol")
    assert "Train has no run in the active namespace" in carol("run", expect=1).stdout


def test_a_plain_run_is_never_in_production(birds):
    """`run --production` stays in its user's namespace."""
    anne = Person(birds[0], "anne")
    anne.deploy(before=["--production"])
    anne("--production", "run")
    tags = tags_of(anne.script, 1)
    assert {"user:anne", "project:birds", "project_branch:prod"} <= tags
    assert not any(tag.startswith("production:") for tag in tags)


@pytest.mark.parametrize("name", ["A", "a b", "a.b", "a/b", "a-b", "é", "a\nb", "\udcff", "x" * 129])
@pytest.mark.quick("a b", "a/b")
def test_a_branch_has_a_plain_name(birds, name):
    """As in Metaflow: lower-case letters, digits and underscores; else nothing is run or deployed."""
    for command in (["run"], ["deploy", "create"]):
        one_message(birds[0]("--branch", name, *command, expect=1), "lower-case letters, digits and underscores")
    assert not birds[0].db.exists() or birds[0].sql("select count(*) from runs") == [0]


def test_branches_need_a_project(anne_and_will):
    """As they do with `run`; no store is made."""
    anne, _ = anne_and_will()
    one_message(anne("--production", "deploy", "create", expect=1), "@project")
    assert not anne.script.db.exists()


# --- whose the runs are


def test_a_production_run_is_nobodys(anne_and_will):
    """It is tagged production:TOKEN and not user:, sees that namespace, and says who deployed it."""
    anne, _ = anne_and_will(FACTS)
    token = anne.deploy("--tag", "nightly")
    anne("deploy", "trigger")
    tags = tags_of(anne.script, 1)
    assert {f"production:{token}", "nightly"} <= tags
    assert not any(tag.startswith("user:") for tag in tags)
    flowstore.namespace(f"production:{token}")
    run = anne.script.client(1)
    assert run.user == "anne"
    assert run["start"].task.data.facts == {
        "username": "anne",
        "namespace": f"production:{token}",
        "is_production": True,
        "project_name": None,
        "branch_name": None,
        "project_flow_name": None,
    }
    assert set(run["start"].task.data.tags) == run.user_tags == {"nightly"}
    flowstore.namespace("user:anne")
    with pytest.raises(flowstore.NamespaceMismatch, match=f'namespace\\("production:{token}"\\)'):
        anne.script.client(1)


@pytest.mark.parametrize(("before", "production"), [(["--production"], True), (["--branch", "b"], False)])
def test_the_project_of_a_production_run(flow, before, production):
    """Its tags and `current` name the branch; `is_production` is that of the branch, as in Metaflow."""
    source = FACTS.replace("class F(", '@project(name="birds")\nclass F(')
    anne = Person(flow(source), "anne")
    anne.deploy(before=before)
    anne(*before, "deploy", "trigger")
    branch = "prod" if production else "test.b"
    assert {"project:birds", f"project_branch:{branch}"} <= tags_of(anne.script, 1)
    [facts] = anne.script.sql("select value from artifact_values where name = 'facts'")
    facts = json.loads(facts)
    assert facts["project_flow_name"] == f"birds.{branch}.F"
    assert (facts["branch_name"], facts["is_production"]) == (branch, production)


@pytest.mark.parametrize(("asked", "seen"), [("xyz", "xyz"), ("", "None"), (None, "production:")])
def test_what_a_deployment_sees(anne_and_will, asked, seen):
    """`deploy create --namespace T` makes its runs see T; they are in their own namespace all the same."""
    anne, _ = anne_and_will()
    token = anne.deploy(*(() if asked is None else ("--namespace", asked)))
    assert f"sees {seen}" in anne("deploy", "trigger").stdout
    assert f"production:{token}" in tags_of(anne.script, 1)
    assert "sees mine" in anne("deploy", "trigger", "--namespace", "mine").stdout


def test_what_a_task_starts_is_not_in_production(anne_and_will):
    """A flow that a production run's task starts is its user's own."""
    other = "if 'again' not in os.environ: os.environ['again'] = ''; import subprocess; subprocess.run("
    anne, _ = anne_and_will(flow_source(LINEAR, start=f"{other}[sys.executable, sys.argv[0], 'run'], check=True)"))
    anne.deploy()
    anne("deploy", "trigger")
    assert "user:anne" not in tags_of(anne.script, 1)
    assert "user:anne" in tags_of(anne.script, 2)


def test_resuming_a_production_run(anne_and_will):
    """Anybody may; the result is in the resuming user's own namespace, without production's tags."""
    anne, will = anne_and_will(flow_source(LINEAR, end="assert Path('mended').exists()"))
    anne.deploy("--tag", "nightly")
    anne("deploy", "trigger", expect=1)
    (anne.script.folder / "mended").touch()
    will("resume", "--origin-run-id", "1")
    tags = tags_of(anne.script, 2)
    assert "user:will" in tags
    assert not {tag for tag in tags if tag.startswith("production:")} | (tags & {"nightly"})
    assert anne.script.sql("select origin_run_id, status from run_summary where run_id = 2") == [("1", "successful")]
