"""Putting a flow into AWS: a deployment in the store, and with it a state machine, a queue and a schedule.

`create` checks all that can be checked before it changes anything: the flow, the token, the role, the credentials, the
name in AWS and who owns it. Then it deploys, notes in the store what it is about to make in AWS, and makes it: so what
an error or a crash leaves behind is known, and `delete` removes it.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from flowstore import context
from flowstore.errors import FlowstoreError, TokenError
from flowstore.flow.graph import graph_of
from flowstore.flow.spec import FlowSpec
from flowstore.production import deploy
from flowstore.production.stepfunctions import definition, masking, policies, schedules, step_states
from flowstore.production.stepfunctions.aws import Address, Aws
from flowstore.production.stepfunctions.definition import DEFAULT_HEARTBEAT_S, hash_of, name_of, schedule_name
from flowstore.run.ownership import project_of
from flowstore.sqlite.database import Database
from flowstore.store import deployments as rows
from flowstore.store import state_machines
from flowstore.store.deployments import Deployment
from flowstore.store.opening import activate, active_store, find_path, open_store
from flowstore.store.state_machines import StateMachine

_MAX_DEFINITION_BYTES = 1 << 20  # that AWS takes


@attrs.frozen(kw_only=True)
class Options:
    """The options of `step-functions create`, beside those of `deploy create`."""

    name: str | None = None
    role: str | None = None
    scheduler_role: str | None = None
    heartbeat_s: int = DEFAULT_HEARTBEAT_S
    max_workers: int | None = None
    steps: bool = False


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
    schedule = _schedule_of(flow)
    if own.steps:
        preview(flow, options, own)  # fails where the graph cannot be expressed
    plan = _plan(flow, options, own)
    created = deploy.create(flow, plan.options)
    deployment, store = created.deployment, active_store()
    machine = StateMachine(deployment.flow, deployment.scope, plan.address.arn, deployment.deployed_by)
    with store.write() as db:
        state_machines.put(db, machine)
    done = [f"version {deployment.version} in {store.path}"]
    try:
        _make(plan, own, store, deployment, done)
        _make_schedule(plan, own, schedule, done, had_one=rows.had_schedule(store, deployment.flow, deployment.scope))
    except FlowstoreError as error:
        raise type(error)(
            f"{error} Until then there was made: {', '.join(done)}. Run create again when that is repaired, or remove "
            "what was made: step-functions delete"
        ) from None
    shown = None if schedule is None else f"{schedule.cron} in {schedule.timezone}"
    return CreatedInAws(created, plan.address, definition.queue_name(store.uuid), shown)


@attrs.frozen
class _Schedule:
    """A schedule as AWS has it."""

    cron: str
    timezone: str


def _schedule_of(flow: type[FlowSpec]) -> _Schedule | None:
    """Return the schedule of a flow, if it has one.

    Raises:
        GraphError: AWS cannot express it.
    """
    schedule = deploy.schedule_of(flow)
    if schedule is None:
        return None
    return _Schedule(schedules.expression(schedule), schedule["timezone"] or "UTC")


@attrs.frozen
class _Plan:
    """The plan for AWS, after all checks.

    Attributes:
        flow: the flow's class.
        aws: where.
        options: those for `deploy.create`.
        address: of the state machine.
        role: its role.
        present: what is there of the state machine.
    """

    flow: type[FlowSpec]
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
    for arn in filter(None, (role, own.scheduler_role)):
        Address.beside(arn, aws.region, name)  # fails where it is not the ARN of a role
    if store is not None and rows.find_token(store, scope) is not None:
        _check_token(store, flow.__name__, scope, options)
    if present is not None:
        options = _check_owner(aws, address, store, flow.__name__, scope, options)
    return _Plan(flow, aws, options, address, role, present)


def _find_store(options: deploy.Options) -> Database | None:
    """Open the store to deploy to, if it is there."""
    path = find_path() if options.store is None else Path(options.store)
    return activate(open_store(path)) if path is not None and path.exists() else None


def _no_role() -> FlowstoreError:
    return FlowstoreError(
        "A state machine needs a role, by which AWS may write to the queue. Give it with --role ARN, or set "
        "$FLOWSTORE_SFN_ROLE. What it has to allow is printed by: step-functions create --show-policies"
    )


def _check_token(store: Database, flow: str, scope: str, options: deploy.Options) -> None:
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
    aws: Aws, address: Address, store: Database | None, flow: str, scope: str, options: deploy.Options
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
    if given is None or not hmac.compare_digest(
        hash_of(given).encode(), tags.get("flowstore:token-sha256", "").encode()
    ):
        wrong = "" if given is None else ", and that is not its production token"
        raise TokenError(
            f"The state machine {address.name} belongs to another store{wrong}. It was deployed by "
            f"{tags.get('flowstore:owner')}. Choose another name with --name, or ask there for the production token "
            "and take it over with --authorize TOKEN. Nothing was changed."
        )
    return attrs.evolve(options, authorize=None)


def _make(plan: _Plan, own: Options, store: Database, deployment: Deployment, done: list[str]) -> None:
    """Make the queue and the state machine; `done` collects what is there."""
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
        steps=own.steps,
    )
    text = _definition(machine, plan.flow)
    masking.check_secret(store, text, machine.tags)
    aws.put_machine(address, text, plan.role, machine.tags, exists=plan.present is not None)
    done.append(f"the state machine {address.name}")


def _definition(machine: definition.Machine, flow: type[FlowSpec]) -> dict[str, Any]:
    """Return the state machine's definition: with a state for the whole run, or one for each step."""
    if not machine.steps:
        return definition.of_run(machine)
    text = step_states.of_steps(machine, graph_of(flow))
    if len(json.dumps(text)) > _MAX_DEFINITION_BYTES:
        raise FlowstoreError(f"{flow.__name__} has too many steps for a definition in AWS: leave out --steps.")
    return text


def _make_schedule(plan: _Plan, own: Options, schedule: _Schedule | None, done: list[str], *, had_one: bool) -> None:
    """Make the schedule of the state machine, or remove one that a former version had."""
    name = schedule_name(plan.address.name)
    present = plan.aws.find_schedule(name, may_be_denied=not had_one)
    if schedule is None:
        if present is not None and present["Target"]["Arn"] == plan.address.arn:
            plan.aws.delete_schedule(name)
        return
    if present is not None and present["Target"]["Arn"] != plan.address.arn:
        raise FlowstoreError(f"AWS has a schedule {name} that starts something else. Remove it, or use --name.")
    role = own.scheduler_role or (plan.role if present is None else present["Target"]["RoleArn"])
    arn = plan.address.arn
    plan.aws.put_schedule(name, schedule.cron, schedule.timezone, arn, role, exists=present is not None)
    done.append(f"the schedule {name}")


# --- what `create` would do


def preview(flow: type[FlowSpec], options: deploy.Options, own: Options) -> dict[str, Any]:
    """Return the definition that `create` would make, and change nothing anywhere.

    What is not known before anything is made stands there as `${Name}`, the form that AWS has for substitutions.
    """
    _schedule_of(flow)
    store, address = _intended(flow, options, own)
    scope = deploy.scope_of(flow, options.branch, production=options.production)
    held = None if store is None else rows.find_token(store, scope)
    deployment = None if store is None else rows.find(store, flow.__name__, scope)
    uuid_ = "${StoreId}" if store is None else store.uuid
    host = "amazonaws.com.cn" if address.partition == "aws-cn" else "amazonaws.com"
    machine = definition.Machine(
        flow=flow.__name__,
        scope=scope,
        version=1 if deployment is None else deployment.version + 1,
        owner=context.username(),
        store=uuid_,
        token_sha256=None if held is None or deploy.is_guessable(held["token"]) else hash_of(held["token"]),
        queue_url=f"https://sqs.{address.region}.{host}/{address.account}/{definition.queue_name(uuid_)}",
        partition=address.partition,
        heartbeat_s=own.heartbeat_s,
        max_workers=own.max_workers,
        steps=own.steps,
    )
    return _definition(machine, flow)


def needed_policies(flow: type[FlowSpec], options: deploy.Options, own: Options) -> dict[str, Any]:
    """Return every policy that is needed for a flow in AWS; see `policies.policies`."""
    store, address = _intended(flow, options, own)
    scope = deploy.scope_of(flow, options.branch, production=options.production)
    has_schedule = _schedule_of(flow) is not None or (
        store is not None and rows.had_schedule(store, flow.__name__, scope)
    )
    uuid_ = "*" if store is None else store.uuid
    return policies.policies(address, uuid_, own.role, own.scheduler_role, has_schedule=has_schedule)


def _intended(flow: type[FlowSpec], options: deploy.Options, own: Options) -> tuple[Database | None, Address]:
    """Return the store, if it is there, and the address that a state machine has or would have; asks nobody."""
    project = project_of(flow, options.branch, production=options.production)
    scope = deploy.scope_of(flow, options.branch, production=options.production)
    store = _find_store(options)
    known = None if store is None else state_machines.find(store, flow.__name__, scope)
    if known is not None:
        return store, Address.parse(known.arn)
    name = own.name or name_of(flow.__name__, project.get("project_name"), project.get("branch_name"))
    try:
        region = Aws().region
    except FlowstoreError:  # none is chosen yet, or boto3 is not installed
        region = "${AWS::Region}"
    if own.role is not None:
        return store, Address.beside(own.role, region, name)
    return store, Address("aws", region, "${AWS::AccountId}", name)
