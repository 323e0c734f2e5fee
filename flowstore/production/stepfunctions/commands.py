"""Commands about a flow that is in AWS: starting, listing and stopping its executions, and taking it out again."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flowstore import context
from flowstore.errors import FlowstoreError, NotFound
from flowstore.flow.spec import FlowSpec
from flowstore.production import deploy
from flowstore.production.stepfunctions import definition, masking
from flowstore.production.stepfunctions.aws import Address, Aws, Execution
from flowstore.production.stepfunctions.calls import AwsError
from flowstore.production.stepfunctions.definition import schedule_name
from flowstore.sqlite.database import Database
from flowstore.store import deployments as rows
from flowstore.store import state_machines
from flowstore.store.deployments import Deployment
from flowstore.store.state_machines import ExecutionRun, StateMachine

# --- trigger, list-runs, terminate


@attrs.frozen
class InAws:
    """A flow of this store in AWS."""

    store: Database
    machine: StateMachine
    address: Address
    aws: Aws


def find(store: Database, flow: type[FlowSpec], branch: str | None, *, production: bool) -> InAws:
    """Return what is in AWS of a flow, or of a branch of its project.

    Raises:
        NotFound: nothing is.
    """
    return of_scope(store, flow.__name__, deploy.scope_of(flow, branch, production=production))


def of_scope(store: Database, flow: str, scope: str) -> InAws:
    """Return what is in AWS of a flow in a scope.

    Raises:
        NotFound: nothing is.
    """
    machine = state_machines.find(store, flow, scope)
    if machine is None:
        where = "" if scope.startswith("flow:") else f" in {scope.removeprefix('project:')}"
        raise NotFound(f"{flow}{where} of {store.path} is not in AWS. Put it there with: step-functions create")
    address = Address.parse(machine.arn)
    return InAws(store, machine, address, Aws(address.region))


def namespace_of(there: InAws) -> str:
    """Return the production namespace of a flow in AWS."""
    held = rows.find_token(there.store, there.machine.scope)
    assert held is not None  # its row refers to it
    return f"production:{held['token']}"


def deployed(there: InAws) -> Deployment:
    """Return what the executions of a flow in AWS run.

    Raises:
        NotFound: it is no longer deployed.
    """
    deployment = rows.find(there.store, there.machine.flow, there.machine.scope)
    if deployment is None:
        raise NotFound(
            f"{there.machine.flow} is in AWS, but no longer deployed in {there.store.path}. Deploy it with: "
            "step-functions create"
        )
    return deployment


def trigger(there: InAws, values: Mapping[str, str]) -> Execution:
    """Start an execution, and return it.

    Raises:
        ParameterError: there is no parameter of that name.
        FlowstoreError: AWS refuses, or a value holds a production token.
    """
    deploy.check_names(there.store, deployed(there), values)
    given = {"parameters": dict(values)}
    masking.check_secret(there.store, given)
    if not _is_ours(there):
        raise FlowstoreError(
            f"The state machine {there.address.name} belongs to another store now, which has taken it over. Remove it "
            "from this one with: step-functions delete"
        )
    return there.aws.start(there.address.arn, str(uuid.uuid4()), given)


@attrs.frozen
class Listed:
    """An execution, with its newest run; `None` before a worker has started one."""

    execution: Execution
    run: ExecutionRun | None


def executions(there: InAws, status: str | None = None) -> Sequence[Listed]:
    """Return the newest executions of a flow, newest first."""
    return [
        Listed(one, state_machines.newest_run(there.store, one.tag))
        for one in there.aws.executions(there.address.arn, status)
    ]


def terminate(there: InAws, run_id: int, authorize: str | None) -> str:
    """Stop the execution of a run, and thereby the run; return the execution's name.

    Raises:
        TokenError: somebody else deployed it.
        FlowstoreError: the run does not belong to an execution of this flow.
    """
    deploy.check_authorized(there.store, there.machine.flow, there.machine.scope, authorize)
    tag = state_machines.execution_of(there.store, run_id)
    machine, name = ("", "") if tag is None else state_machines.names_of(tag)
    if machine != there.address.name:
        raise FlowstoreError(
            f"The run {there.machine.flow}/{run_id} was not started by the state machine {there.address.name}. Those "
            "that were are listed by: step-functions list-runs"
        )
    execution = there.aws.find_execution(there.address.execution(name))
    if execution is None or execution.tag != tag:
        raise FlowstoreError(f"The execution {name} of the run {there.machine.flow}/{run_id} is no longer in AWS.")
    there.aws.stop(execution.arn, f"stopped by {context.username()}")
    return name


# --- delete


def delete(there: InAws, authorize: str | None) -> list[str]:
    """Remove everything that `create` made in AWS, and take the flow out of production; its runs stay.

    Returns:
        What was removed.

    Raises:
        TokenError: somebody else deployed it, and its token was not given; nothing was changed.
    """
    store, machine = there.store, there.machine
    deploy.check_authorized(store, machine.flow, machine.scope, authorize)
    removed: list[str] = []
    try:
        _remove(there, removed)
    except AwsError as error:
        done = f" Until then there was removed: {', '.join(removed)}." if removed else ""
        raise type(error)(f"{error}{done} Run delete again when that is repaired.") from None
    deployment = rows.find(store, machine.flow, machine.scope)
    if deployment is not None:
        deploy.delete(store, deployment, authorize)
    with store.write() as db:
        state_machines.remove(db, machine)
    return [*removed, *([] if deployment is None else [f"version {deployment.version} from production"])]


def _remove(there: InAws, removed: list[str]) -> None:
    store, address, aws = there.store, there.address, there.aws
    name, is_ours = schedule_name(address.name), _is_ours(there)
    schedule = _find_schedule(there)
    if is_ours and schedule is not None and schedule["Target"]["Arn"] == address.arn:
        aws.delete_schedule(name)
        removed.append(f"the schedule {name}")
    if is_ours and aws.find_machine(address.arn) is not None:
        aws.delete_machine(address.arn)
        removed.append(f"the state machine {address.name}")
    if len(state_machines.all_of(store)) == 1 and aws.find_queue(store.uuid) is not None:
        aws.delete_queue(store.uuid)
        removed.append(f"the queue {definition.queue_name(store.uuid)}")


def _find_schedule(there: InAws) -> dict[str, Any] | None:
    had_one = rows.had_schedule(there.store, there.machine.flow, there.machine.scope)
    return there.aws.find_schedule(schedule_name(there.address.name), may_be_denied=not had_one)


def _is_ours(there: InAws) -> bool:
    """Return whether a state machine is this store's, and not one that has taken its name since."""
    present = there.aws.find_machine(there.address.arn)
    return present is None or there.aws.machine_tags(there.address.arn).get("flowstore:store") == there.store.uuid


# --- show


def facts(there: InAws) -> dict[str, str]:
    """Return what is in AWS of a flow, by name, for people."""
    present = there.aws.find_machine(there.address.arn)
    tags = {} if present is None else there.aws.machine_tags(there.address.arn)
    schedule = _find_schedule(there)
    missing = "is not there: run step-functions create"
    return {
        "state machine": there.address.arn if present is not None else f"{there.address.arn} {missing}",
        "role": present["roleArn"] if present is not None else "",
        "version": tags.get("flowstore:version", ""),
        "deployed by": tags.get("flowstore:owner", ""),
        "queue": there.aws.find_queue(there.store.uuid) or missing,
        "schedule": "none"
        if schedule is None
        else f"{schedule['ScheduleExpression']} ({schedule.get('ScheduleExpressionTimezone', 'UTC')})",
    }
