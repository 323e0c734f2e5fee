"""`Deployer(…).step_functions()`: a flow put into AWS, and started there, from Python."""

from __future__ import annotations

import pytest

from flowstore import DeployedFlow, Deployer, FlowstoreError, ParameterError
from support.aws import ROLE
from support.flows import LINEAR, flow_source


def test_from_python(stage):
    """A deployment is triggered in AWS; its run begins when a worker takes it, with the values that were given."""
    stage = stage(flow_source(LINEAR, members="alpha = Parameter('alpha', default=1)"))
    deployer = Deployer("flow.py", show_output=False)
    with pytest.raises(FlowstoreError, match="step-functions create failed"):
        deployer.step_functions(name="not a name!").create(role=ROLE)
    deployed = deployer.step_functions(name="own-name").create(role=ROLE)
    triggered = deployed.trigger(alpha=5)
    assert (triggered.status, triggered.run, triggered.terminate()) == ("pending", None, False)
    stage.work()
    triggered.wait_for_completion(timeout=60)
    assert (triggered.status, triggered.run.data.alpha) == ("successful", 5)
    assert f"production:{deployed.production_token}" in triggered.run.system_tags
    with pytest.raises(ParameterError, match="no parameter 'beta'"):
        deployed.trigger(beta=1)
    failing = DeployedFlow.from_deployment("F").trigger(alpha="many")
    stage.work(expect=1)
    failing.wait_for_completion(timeout=60)
    with pytest.raises(FlowstoreError, match="ended in AWS before a run began"):
        failing.wait_for_run(timeout=60)
    deployed.delete()
    with pytest.raises(FlowstoreError):
        deployed.trigger()
