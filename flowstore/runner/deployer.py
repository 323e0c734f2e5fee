"""Flows put into production from Python: `Deployer`, what it deploys, and the runs that are triggered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flowstore.errors import FlowstoreError, NotFound
from flowstore.runner import words
from flowstore.runner.process import FlowCommands, FlowProcess, seen_whole

if TYPE_CHECKING:
    from flowstore.client import Run
    from flowstore.production.stepfunctions.aws import Execution
    from flowstore.production.stepfunctions.commands import InAws
    from flowstore.store.deployments import Deployment
    from flowstore.store.state_machines import ExecutionRun

_PAUSE_S = 0.1
_ASK_S = 2.0  # between two questions to AWS
_KNOWN_S = 60.0  # until all of AWS knows of an execution


class Deployer(FlowCommands):
    """Puts a flow's file into production.

    Args:
        flow_file: the path of the flow's file, relative to this process's folder.
        show_output: print what the commands print.
        profile: accepted for Metaflow's sake, and ignored.
        env: environment variables for the flow, besides this process's own.
        cwd: the folder to deploy from; by default this process's own, and then to the store that is active in it.
        file_read_timeout: accepted for Metaflow's sake, and ignored.
        options: options before the command, as for `Runner`: `branch`, `production`, `config` and so on.

    Raises:
        FileNotFoundError: there is no such file.
        ParameterError: there is no such option.

    Example:
        >>> from flowstore import Deployer
        >>> deployed = Deployer("flow.py").local().create(tags=["nightly"])
        Traceback (most recent call last):
        ...
        FileNotFoundError: There is no flow's file at ...flow.py.
    """

    def local(self) -> LocalDeployer:
        """Return what deploys to the store itself, as `deploy` does."""
        return LocalDeployer(self)

    def step_functions(self, name: str | None = None) -> StepFunctionsDeployer:
        """Return what deploys to AWS Step Functions, as `step-functions` does.

        Args:
            name: of the state machine; by default the flow's.
        """
        return StepFunctionsDeployer(self, name)

    def argo_workflows(self, name: str | None = None) -> LocalDeployer:  # noqa: ARG002  # Metaflow's
        """Refuse: a flow is deployed to its own store, or to AWS Step Functions."""
        raise FlowstoreError(
            "There is no argo-workflows: flowstore deploys into its own file. Use Deployer(…).local()."
        )

    def command(self, *command: str) -> FlowProcess:
        """Run a command of the flow's file to its end, which must be a success.

        Raises:
            ParameterError, FlowstoreError: it was refused, with the message of the command line.
        """
        process = FlowProcess([self.flow_file, *self._before(), *command], {}, self._env, self._cwd)
        process.finish(show=self.show_output)
        process.need_success(" ".join(command[:2]))
        process.remove_files()
        return process


class _Kind:
    """A way to deploy."""

    _COMMAND: str

    def __init__(self, deployer: Deployer, name: str | None = None) -> None:
        self.deployer = deployer
        self._name = name

    def _create(self, arguments: Mapping[str, Any]) -> tuple[str, int]:
        """Run `create`; return the store and the deployment's id."""
        known = words.OPTIONS[f"{self._COMMAND} create"]
        options, unknown = words.split({"name": self._name, **arguments}, known)
        if unknown:
            raise words.no_option(f"{self._COMMAND} create", next(iter(unknown)), known)
        started = self.deployer.command(self._COMMAND, "create", *options).need_started("The deployment")
        return started.store, int(started.pathspec.rpartition("/")[2])


class LocalDeployer(_Kind):
    """Deploys to the store itself."""

    _COMMAND = "deploy"

    def create(self, **arguments: Any) -> DeployedFlow:
        """Deploy this version of the flow.

        Args:
            arguments: `tags`, `authorize`, `generate_new_token`, `namespace`, `decospecs`, `package_suffixes`.

        Raises:
            FlowstoreError: it cannot be deployed, or not without a token; nothing was changed.
        """
        return DeployedFlow(*self._create(arguments), self.deployer)


class StepFunctionsDeployer(_Kind):
    """Deploys to AWS Step Functions, which start runs; a worker runs them."""

    _COMMAND = "step-functions"

    def create(self, **arguments: Any) -> DeployedFlow:
        """Deploy this version of the flow, and make its state machine.

        Args:
            arguments: those of a local deployment, and `role`, `scheduler_role`, `max_workers`, `heartbeat`, `steps`.

        Raises:
            FlowstoreError: it cannot be deployed, or AWS refuses; the message is the command line's.
        """
        return StepFunctionsDeployedFlow(*self._create(arguments), self.deployer)


class DeployedFlow:
    """A flow in production.

    Attributes:
        deployer: the deployer; `None` where this was found with `from_deployment`.
    """

    def __init__(self, store: str, deployment_id: int, deployer: Deployer | None = None) -> None:
        self.deployer = deployer
        self._store = store
        self._deployment_id = deployment_id

    @classmethod
    def from_deployment(cls, identifier: str) -> DeployedFlow:
        """Return a deployment of the active store by its `name`; one that is in AWS is triggered and deleted there.

        Raises:
            NotFound: nothing of that name is deployed.
        """
        from flowstore.store import deployments, state_machines
        from flowstore.store.opening import active_store

        store = active_store()
        names = {_name(deployment): deployment for deployment in deployments.active(store)}
        if identifier not in names:
            there = ", ".join(names) or "nothing"
            raise NotFound(f"{identifier} is not deployed in {store.path}. Deployed are: {there}.")
        chosen = names[identifier]
        kind = cls if state_machines.find(store, chosen.flow, chosen.scope) is None else StepFunctionsDeployedFlow
        return kind(str(store.path), chosen.id)

    @property
    def name(self) -> str:
        """The name of the deployment: the flow's or, in a project, `project.branch.flow`."""
        return _name(self._deployment)

    @property
    def flow_name(self) -> str:
        """The name of the flow."""
        return self._deployment.flow

    @property
    def production_token(self) -> str:
        """The production token, which authorizes others to deploy; the namespace of the runs is `production:TOKEN`."""
        return self._deployment.token

    def trigger(self, **arguments: Any) -> TriggeredRun:
        """Start a run of what is deployed, in the background.

        Args:
            arguments: values of parameters, by name.
        """
        module = "flowstore.runner.triggering"
        process = FlowProcess(["-m", module, self._store, str(self._deployment_id)], arguments, {}, None)
        return LocalTriggeredRun(self, process)

    def delete(self, authorize: str | None = None) -> None:
        """Take the flow out of production; its runs stay.

        Args:
            authorize: the production token, where somebody else has deployed.

        Raises:
            TokenError: it is needed, or wrong; nothing was changed.
        """
        from flowstore.production import deploy
        from flowstore.store.opening import store_at

        deploy.delete(store_at(self._store), self._deployment, authorize)

    @property
    def _deployment(self) -> Deployment:
        from flowstore.store import deployments
        from flowstore.store.opening import store_at

        return deployments.get(store_at(self._store), self._deployment_id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def _name(deployment: Deployment) -> str:
    parts = (deployment.project, deployment.branch) if deployment.project else ()
    return ".".join([*filter(None, parts), deployment.flow])


class StepFunctionsDeployedFlow(DeployedFlow):
    """A flow in production that AWS Step Functions start."""

    def trigger(self, **arguments: Any) -> TriggeredRun:
        """Start an execution in AWS; its run begins when a worker takes it."""
        from flowstore.production.stepfunctions import commands

        there = self._in_aws
        return StepFunctionsTriggeredRun(
            self, there, commands.trigger(there, {name: words.text(value) for name, value in arguments.items()})
        )

    def delete(self, authorize: str | None = None) -> None:
        """Remove everything that `create` made in AWS; the runs stay."""
        from flowstore.production.stepfunctions import commands

        commands.delete(self._in_aws, authorize)

    @property
    def _in_aws(self) -> InAws:
        from flowstore.production.stepfunctions import commands
        from flowstore.store.opening import store_at

        deployment = self._deployment
        return commands.of_scope(store_at(self._store), deployment.flow, deployment.scope)


class TriggeredRun:
    """A run of a deployment that was triggered, which may not have begun yet."""

    def __init__(self, deployed: DeployedFlow) -> None:
        self.deployer = deployed.deployer
        self.deployed_flow = deployed

    @property
    def run(self) -> Run | None:
        """The run, as the Client shows it; `None` before it has begun."""
        raise AssertionError  # each kind has its own

    @property
    def status(self) -> str:
        """`'pending'` before the run has begun, then the run's status."""
        run = self.run
        return "pending" if run is None else run.status

    @property
    def is_running(self) -> bool:
        """Whether the run has not ended; one that has not begun is waiting, and so has not."""
        return self.status in {"pending", "running"}

    def wait_for_run(self, check_interval: float | None = None, timeout: float | None = None) -> Run:
        """Wait until the run has begun, and return it.

        Args:
            check_interval: how often to look, in seconds.
            timeout: how long to wait at most, in seconds; `None` for ever.

        Raises:
            TimeoutError: it has not begun in time.
            FlowstoreError: it cannot begin; the message says why.
        """
        _wait(lambda: self.run is not None, check_interval, timeout, "The run has not begun")
        run = self.run
        assert run is not None
        return run

    def wait_for_completion(self, check_interval: float | None = None, timeout: float | None = None) -> None:
        """Wait until the run has ended; see `wait_for_run`.

        Raises:
            TimeoutError: it has not ended in time.
        """
        _wait(lambda: not self.is_running, check_interval, timeout, "The run has not ended")

    def terminate(self) -> bool:
        """Stop the run; return whether there was anything to stop."""
        raise AssertionError  # each kind has its own


class LocalTriggeredRun(TriggeredRun):
    """A run of a local deployment."""

    def __init__(self, deployed: DeployedFlow, process: FlowProcess) -> None:
        super().__init__(deployed)
        self._process = process

    @property
    def run(self) -> Run | None:
        """The run, as the Client shows it; `None` before it has begun.

        Raises:
            ParameterError, FlowstoreError: it could not be started.
        """
        if self._process.started is None and self._process.returncode is None:
            return None
        started = self._process.need_started("The run")
        return seen_whole(started.store).run(started.pathspec)

    @property
    def stdout(self) -> str:
        """The output so far: lines about tasks, and what these printed."""
        return self._process.text("stdout")

    @property
    def stderr(self) -> str:
        """The messages so far: banner, progress, warnings and errors."""
        return self._process.text("stderr")

    @property
    def is_running(self) -> bool:
        """Whether the run has not ended."""
        return self._process.returncode is None

    def terminate(self) -> bool:
        """Stop the run, which is then `'stopped'`; return whether it was running."""
        return self._process.stop()


class StepFunctionsTriggeredRun(TriggeredRun):
    """A run that AWS Step Functions were asked for."""

    def __init__(self, deployed: DeployedFlow, there: InAws, execution: Execution) -> None:
        super().__init__(deployed)
        self.execution = execution.arn
        self._there = there
        self._execution: Execution | None = execution  # as AWS has shown it last
        self._ask_at = time.monotonic() + _ASK_S
        self._known_at = time.monotonic() + _KNOWN_S
        self._tag = execution.tag

    @property
    def run(self) -> Run | None:
        """The run, as the Client shows it; `None` before a worker has taken it.

        Raises:
            FlowstoreError: the execution has ended in AWS without a run.
        """
        newest = self._newest_run
        if newest is None and not self._is_over():
            return None
        newest = newest or self._newest_run  # which may have begun and ended meanwhile
        if newest is not None:
            return seen_whole(str(self._there.store.path)).run(newest.pathspec)
        why = "it is gone" if self._execution is None else self._execution.error or self._execution.status.lower()
        raise FlowstoreError(f"The execution {self.execution} has ended in AWS before a run began: {why}.")

    @property
    def is_running(self) -> bool:
        """Whether the run has not ended; before there is one, whether the execution has not."""
        newest = self._newest_run
        return not self._is_over() if newest is None else newest.status == "running"

    @property
    def _newest_run(self) -> ExecutionRun | None:
        from flowstore.store import state_machines

        return state_machines.newest_run(self._there.store, self._tag)

    def _is_over(self) -> bool:
        """Return whether the execution has ended, as far as is known: AWS is asked every few seconds at most."""
        if time.monotonic() >= self._ask_at and self._execution is not None and self._execution.goes_on:
            self._ask_at = time.monotonic() + _ASK_S
            try:
                newest = self._there.aws.find_execution(self.execution)
            except FlowstoreError as error:
                if not error.transient:
                    raise
                return False
            if newest is not None or time.monotonic() > self._known_at:
                self._execution = newest
        return self._execution is None or not self._execution.goes_on

    def terminate(self) -> bool:
        """Stop the execution, and so the run; return whether there was a run to stop."""
        from flowstore.production.stepfunctions import commands

        newest = self._newest_run
        if newest is None or newest.status != "running":
            return False
        commands.terminate(self._there, newest.id, None)
        return True


def _wait(is_over: Callable[[], bool], interval: float | None, timeout: float | None, what: str) -> None:
    end = None if timeout is None else time.monotonic() + timeout
    while not is_over():
        if end is not None and time.monotonic() >= end:
            raise TimeoutError(f"{what} after {timeout:g} s.")
        time.sleep(_PAUSE_S if interval is None else interval)  # the run is in another process, or in AWS
