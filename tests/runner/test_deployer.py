"""`Deployer`: a flow's file, put into production from Python."""

from __future__ import annotations

import pytest

import flowstore
from flowstore import DeployedFlow, Deployer, FlowstoreError, NotFound, ParameterError, TokenError
from flowstore.cli.flow.deploy import create
from flowstore.cli.flow.step_functions import create as create_in_aws
from flowstore.runner import words
from support.flows import LINEAR, flow_source

MEMBERS = "alpha = Parameter('alpha', default=1)\nparts = Parameter('parts', separator=',', default='a')"
SLOW = "if self.alpha == 13:\n    Path('here').touch()\n    time.sleep(60)"


@pytest.fixture
def deployer(flow):
    """A flow with a deployer."""
    flow(flow_source(LINEAR, members=MEMBERS, start=SLOW))
    return Deployer("flow.py", show_output=False)


def test_deploying_and_triggering(deployer):
    """A deployment runs in its namespace, with the given parameters, in the background."""
    deployed = deployer.local().create(tags=["nightly"])
    assert (deployed.name, deployed.flow_name) == ("F", "F")
    triggered = deployed.trigger(alpha=5, parts=["x", "y,z"])
    run = triggered.wait_for_run(timeout=60)
    triggered.wait_for_completion()
    assert (triggered.status, triggered.is_running, triggered.run.pathspec) == ("successful", False, "F/1")
    assert (run.data.alpha, run.data.parts) == (5, ["x", "y,z"])
    assert {f"production:{deployed.production_token}"} <= run.system_tags
    assert run.user_tags == {"nightly"}
    assert "Task is starting" in triggered.stdout
    assert "successful" in triggered.stderr
    assert triggered.terminate() is False


def test_deployed_earlier(deployer):
    """A deployment is found by its name, and can be taken out of production."""
    name = deployer.local().create().name
    flowstore.use_store("flowstore.db")
    earlier = DeployedFlow.from_deployment(name)
    assert repr(earlier) == "<DeployedFlow F>"
    triggered = earlier.trigger()
    triggered.wait_for_completion()
    assert triggered.run.successful
    earlier.delete()
    with pytest.raises(NotFound, match=r"F is not deployed in .*. Deployed are: nothing."):
        DeployedFlow.from_deployment(name)


def test_stopping(deployer, tmp_path):
    """`terminate` stops the run."""
    triggered = deployer.local().create().trigger(alpha=13)
    with pytest.raises(TimeoutError, match=r"The run has not ended after 0 s"):
        triggered.wait_for_completion(timeout=0)
    triggered.wait_for_run(check_interval=0.01)
    while not (tmp_path / "here").exists():
        assert triggered.is_running, triggered.stderr
    assert triggered.terminate() is True
    assert triggered.status == "stopped"


def test_what_is_refused(deployer, monkeypatch):
    """Wrong options, wrong parameters, and a deployment that needs a token."""
    with pytest.raises(ParameterError, match=r"deploy create has no option 'tag'. Did you mean 'tags'"):
        deployer.local().create(tag="x")
    with pytest.raises(ParameterError, match=r"Deployer has no option 'quite'"):
        Deployer("flow.py", quite=True)
    with pytest.raises(FlowstoreError, match=r"There is no argo-workflows"):
        deployer.argo_workflows()
    deployed = deployer.local().create()
    triggered = deployed.trigger(alhpa=1)
    with pytest.raises(ParameterError, match=r"'alhpa' is no parameter of F"):
        triggered.wait_for_run()
    monkeypatch.setenv("FLOWSTORE_HOME", "elsewhere")
    with pytest.raises(FlowstoreError, match=r"deploy create failed .*F is in production, and you hold no token"):
        deployer.local().create()
    with pytest.raises(TokenError):
        deployed.delete()


def test_options_are_those_of_the_command_line():
    """Each option of `create` has a name in Python, and no other is passed on."""
    for command, kind in (("deploy create", create), ("step-functions create", create_in_aws)):
        options = {option.opts[0] for option in kind.params} - {"--store", "--only-json", "--show-policies"}
        assert set(words.OPTIONS[command].values()) == options
