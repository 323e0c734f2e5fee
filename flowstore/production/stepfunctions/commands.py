"""The commands of `step-functions`: a deployment in the store, and with it a state machine, queue and schedule in AWS.

`create` checks all that can be checked before it changes anything: the flow, the token, the role, the credentials, the
name in AWS and who owns it. Then it deploys, notes in the store what it is about to make in AWS, and makes it: so what
an error or a crash leaves behind is known, and `delete` removes it.
"""

from __future__ import annotations

import hmac
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowstore import context
from flowstore.errors import FlowstoreError, NotFound, TokenError
from flowstore.flow.spec import FlowSpec
from flowstore.production import deploy
from flowstore.production.stepfunctions import definition, masking
from flowstore.production.stepfunctions.aws import Address, Aws, AwsError, Execution
from flowstore.production.stepfunctions.definition import DEFAULT_HEARTBEAT_S, hash_of, name_of, schedule_name
from flowstore.run.ownership import project_of
from flowstore.sqlite.database import Store
from flowstore.store import deployments as rows
from flowstore.store import state_machines
from flowstore.store.deployments import Deployment
from flowstore.store.opening import activate, active_store, find_path, open_store
from flowstore.store.state_machines import ExecutionRun, StateMachine


@attrs.frozen(kw_only=True)
class Options:
    """The options of `step-functions create` beside those of `deploy create`."""

    name: str | None = None
    role: str | None = None
    scheduler_role: str | None = None
    heartbeat_s: int = DEFAULT_HEARTBEAT_S
    max_workers: int | None = None


@attrs.frozen
class CreatedInAws:
    """The result of `create`.

    Attributes:
        deployed: what `deploy create` did.
        address: of the state machine.
        queue: its name.
        schedule: the schedule's cron text and time zone, as AWS has them.
    """

    deployed: deploy.Created
    address: Address
    queue: str
    schedule: str | None


# --- create


def create(flow: type[FlowSpec], options: deploy.Options, own: Options) -> CreatedInAws:
    """Put this version of a flow into production, and into AWS.

    Raises:
        TokenError: it is in production, here or in AWS, and the token that authorizes was not given.
        FlowstoreError: it cannot be deployed. Nothing was changed, or the message says what was made.
    """
    plan = _plan(flow, options, own)
    created = deploy.create(flow, plan.options)
    deployment, store = created.deployment, active_store()
    machine = StateMachine(deployment.flow, deployment.scope, plan.address.arn, deployment.deployed_by)
    with store.write() as db:
        state_machines.put(db, machine)
    done = [f"version {deployment.version} in {store.path}"]
    try:
        schedule = _make(plan, own, store, deployment, done)
    except FlowstoreError as error:
        raise type(error)(
            f"{error} Until then there was made: {', '.join(done)}. Run create again when that is repaired, or remove "
            "what was made: step-functions delete"
        ) from None
    return CreatedInAws(created, plan.address, definition.queue_name(store.uuid), schedule)


@attrs.frozen
class _Plan:
    """The plan for AWS, after all checks.

    Attributes:
        aws: where.
        options: those for `deploy.create`.
        address: of the state machine.
        role: its role.
        present: what is there of the state machine.
    """

    aws: Aws
    options: deploy.Options
    address: Address
    role: str
    present: Mapping[str, Any] | None


def _plan(flow: type[FlowSpec], options: deploy.Options, own: Options) -> _Plan:
    """Check all that can be checked before anything is changed."""
    project = project_of(flow, options.branch, production=options.production)
    scope = deploy.scope_of(flow, options.branch, production=options.production)
    store = _find_store(options)
    if store is not None:
        options = attrs.evolve(options, store=str(store.path))
    known = None if store is None else state_machines.find(store, flow.__name__, scope)
    if own.name is not None and not re.fullmatch("[A-Za-z0-9_-]{1,80}", own.name):
        raise FlowstoreError(f"--name {own.name!r}: a name has at most 80 letters, digits, underscores and dashes.")
    name = own.name or name_of(flow.__name__, project.get("project_name"), project.get("branch_name"))
    aws = Aws(None if known is None else Address.parse(known.arn).region)
    if known is not None:
        address = Address.parse(known.arn)
        if own.name not in {None, address.name}:
            raise FlowstoreError(
                f"{flow.__name__} is in AWS as {address.name}. To give it another name, first run: "
                "step-functions delete"
            )
    elif own.role is None:
        raise _no_role()
    else:
        address = Address.beside(own.role, aws.region, name)
    present = aws.find_machine(address.arn)
    role = own.role or (None if present is None else present["roleArn"])
    if role is None:
        raise _no_role()
    Address.beside(role, aws.region, name)
    if store is not None and rows.find_token(store, scope) is not None:
        _check_token(store, flow.__name__, scope, options)
    if present is not None:
        options = _check_owner(aws, address, store, flow.__name__, scope, options)
    return _Plan(aws, options, address, role, present)


def _find_store(options: deploy.Options) -> Store | None:
    """Open the store to deploy to, if it is there."""
    path = find_path() if options.store is None else Path(options.store)
    return activate(open_store(path)) if path is not None and path.exists() else None


def _no_role() -> FlowstoreError:
    return FlowstoreError(
        "A state machine needs a role, by which AWS may write to the queue. Give it with --role ARN, or set "
        "$FLOWSTORE_SFN_ROLE. What it has to allow is printed by: step-functions create --show-policies"
    )


def _check_token(store: Store, flow: str, scope: str, options: deploy.Options) -> None:
    """Refuse a token that is so short that its hash would tell it."""
    held = rows.find_token(store, scope)
    assert held is not None
    if options.generate_new_token or not deploy.is_guessable(held["token"]):
        return
    deploy.check_authorized(store, flow, scope, options.authorize)
    raise TokenError(
        f"The production token of {flow} was made by an older flowstore and is so short that it could be guessed from "
        "its hash, which AWS learns. Make a new one, and with it a fresh namespace: step-functions create "
        "--generate-new-token"
    )


def _check_owner(
    aws: Aws, address: Address, store: Store | None, flow: str, scope: str, options: deploy.Options
) -> deploy.Options:
    """Refuse a state machine that is not this flow's; return the options without a token that was for that alone."""
    tags = aws.machine_tags(address.arn)
    owner = tags.get("flowstore:store")
    if owner is None:
        raise FlowstoreError(
            f"AWS has a state machine {address.name} that flowstore did not make. Choose another name with --name. "
            "Nothing was changed."
        )
    if store is not None and owner == store.uuid:
        if (tags.get("flowstore:flow"), tags.get("flowstore:scope")) != (flow, definition.fit_for_a_tag(scope)):
            raise FlowstoreError(
                f"The state machine {address.name} is that of {tags.get('flowstore:flow')} in the same store. Choose "
                "another name with --name. Nothing was changed."
            )
        return options
    given = options.authorize
    if given is None or not hmac.compare_digest(hash_of(given), tags.get("flowstore:token-sha256", "")):
        wrong = "" if given is None else ", and that is not its production token"
        raise TokenError(
            f"The state machine {address.name} belongs to another store{wrong}. It was deployed by "
            f"{tags.get('flowstore:owner')}. Choose another name with --name, or ask there for the production token "
            "and take it over with --authorize TOKEN. Nothing was changed."
        )
    return attrs.evolve(options, authorize=None)


def _make(plan: _Plan, own: Options, store: Store, deployment: Deployment, done: list[str]) -> str | None:
    """Make everything in AWS; `done` collects what is there."""
    aws, address = plan.aws, plan.address
    of_store = {"flowstore:store": store.uuid}
    queue_url = aws.ensure_queue(store.uuid, of_store)
    done.append(f"the queue {definition.queue_name(store.uuid)}")
    machine = definition.of_deployment(
        deployment,
        store.uuid,
        queue_url=queue_url,
        partition=address.partition,
        heartbeat_s=own.heartbeat_s,
        max_workers=own.max_workers,
    )
    text = definition.of_run(machine)
    masking.check_secret(store, text, machine.tags)
    aws.put_machine(address, text, plan.role, machine.tags, exists=plan.present is not None)
    done.append(f"the state machine {address.name}")
    return None


# --- trigger, list-runs, terminate


@attrs.frozen
class InAws:
    """A flow of this store in AWS."""

    store: Store
    machine: StateMachine
    address: Address
    aws: Aws


def find(store: Store, flow: type[FlowSpec], branch: str | None, *, production: bool) -> InAws:
    """Return what is in AWS of a flow, or of a branch of its project.

    Raises:
        NotFound: nothing is.
    """
    scope = deploy.scope_of(flow, branch, production=production)
    machine = state_machines.find(store, flow.__name__, scope)
    if machine is None:
        where = "" if scope.startswith("flow:") else f" in {scope.removeprefix('project:')}"
        raise NotFound(
            f"{flow.__name__}{where} of {store.path} is not in AWS. Put it there with: step-functions create"
        )
    address = Address.parse(machine.arn)
    return InAws(store, machine, address, Aws(address.region))


def trigger(there: InAws, values: Mapping[str, str]) -> str:
    """Start an execution, and return its ARN.

    Raises:
        FlowstoreError: AWS refuses, or a value holds a production token.
    """
    given = {"parameters": dict(values)}
    masking.check_secret(there.store, given)
    return there.aws.start(there.address.arn, str(uuid.uuid4()), given)


@attrs.frozen
class Listed:
    """An execution, with its newest run; `None` before a worker has started one."""

    execution: Execution
    run: ExecutionRun | None


def executions(there: InAws, status: str | None = None) -> Sequence[Listed]:
    """Return the newest executions of a flow, newest first."""
    return [
        Listed(one, state_machines.newest_run(there.store, state_machines.execution_tag(one.arn)))
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
    machine, _, name = ("" if tag is None else tag.removeprefix(state_machines.TAG)).partition("/")
    if machine != there.address.name:
        raise FlowstoreError(
            f"The run {there.machine.flow}/{run_id} was not started by the state machine {there.address.name}. Those "
            "that were are listed by: step-functions list-runs"
        )
    there.aws.stop(there.address.execution(name), f"stopped by {context.username()}")
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
    name = schedule_name(address.name)
    if aws.find_schedule(name) is not None and _is_ours(there):
        aws.delete_schedule(name)
        removed.append(f"the schedule {name}")
    if aws.find_machine(address.arn) is not None and _is_ours(there):
        aws.delete_machine(address.arn)
        removed.append(f"the state machine {address.name}")
    if len(state_machines.all_of(store)) == 1 and aws.find_queue(store.uuid) is not None:
        aws.delete_queue(store.uuid)
        removed.append(f"the queue {definition.queue_name(store.uuid)}")


def _is_ours(there: InAws) -> bool:
    """Return whether a state machine is this store's, and not one that has taken its name since."""
    present = there.aws.find_machine(there.address.arn)
    return present is None or there.aws.machine_tags(there.address.arn).get("flowstore:store") == there.store.uuid


# --- show


def facts(there: InAws) -> dict[str, str]:
    """Return what is in AWS of a flow, by name, for people."""
    present = there.aws.find_machine(there.address.arn)
    tags = {} if present is None else there.aws.machine_tags(there.address.arn)
    schedule = there.aws.find_schedule(schedule_name(there.address.name))
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
