"""`step-functions create | trigger | list-runs | terminate | delete | show`: a flow that AWS starts and watches."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from flowstore import context
from flowstore.cli import output
from flowstore.cli.app import STORE, STORE_PATH, Group, command, settings_of
from flowstore.cli.flow.deploy import (
    called,
    checked_options,
    create_options,
    echo_deployed,
    echo_events,
    echo_moved,
    parameter_values,
    with_token,
)
from flowstore.cli.flow.flow_file import BRANCH, NAMESPACE_INSIDE, PRODUCTION, WITH, FlowFile
from flowstore.text import safe

if TYPE_CHECKING:
    from flowstore.production.stepfunctions.commands import InAws
    from flowstore.production.stepfunctions.creation import CreatedInAws

_MAX_HEARTBEAT_S = 24 * 60 * 60


def _find(this: FlowFile) -> InAws:
    """Return what --branch and --production choose of what is in AWS."""
    from flowstore.production.stepfunctions import commands
    from flowstore.store.opening import active_store

    options = settings_of(click.get_current_context())
    this.configure_project(options)
    store = active_store()
    return commands.find(store, this.type, options.get("branch"), production=bool(options.get("production")))


# --- create and delete


@command(STORE_PATH, NAMESPACE_INSIDE, WITH, BRANCH, PRODUCTION)
@create_options
@click.option("--max-workers", type=click.IntRange(1), metavar="N",
              help="How many tasks of a run may run at a time; default: one per core.")  # fmt: skip
@click.option("--name", metavar="NAME", help="The state machine's name; default: the flow's.")
@click.option("--role", metavar="ARN", envvar="FLOWSTORE_SFN_ROLE",
              help="The state machine's role; default: $FLOWSTORE_SFN_ROLE, or the role that it has.")  # fmt: skip
@click.option(
    "--scheduler-role",
    metavar="ARN",
    help="The role by which @schedule starts it; default: the one that it has, or --role.",
)
@click.option("--heartbeat", type=click.IntRange(3, _MAX_HEARTBEAT_S), default=60, show_default=True, metavar="SECONDS",
              help="How long AWS waits for a sign of life of a run.")  # fmt: skip
@click.option("--steps", is_flag=True, help="Make each step a state, for flows of at most about 3,000 tasks.")
@click.option("--only-json", is_flag=True, help="Print the state machine's definition, and change nothing.")
@click.option("--show-policies", is_flag=True, help="Print the policies and roles that are needed; change nothing.")
def create(this: FlowFile, only_json: bool, show_policies: bool, **_given: Any) -> None:
    """Deploy this version of the flow, and have AWS start it.

    Makes a state machine, a queue and, for @schedule, a schedule. The runs are executed by: flowstore worker

    Example:
        python flow.py step-functions create --role arn:aws:iam::123456789012:role/flowstore-states
    """
    from flowstore.production.stepfunctions import creation

    options = settings_of(click.get_current_context())
    own = creation.Options(
        name=options["name"],
        role=options["role"],
        scheduler_role=options["scheduler_role"],
        heartbeat_s=options["heartbeat"],
        max_workers=options["max_workers"],
        steps=options["steps"],
    )
    wish = checked_options(this, options)
    if only_json or show_policies:
        describe = creation.preview if only_json else creation.needed_policies
        click.echo(json.dumps(describe(this.type, wish, own), indent=2, ensure_ascii=False))
    else:
        _echo_created(creation.create(this.type, wish, own), called(options))


def _echo_created(created: CreatedInAws, called: str) -> None:
    echo_deployed(created.deployed)
    click.echo(f"State machine:         {created.address.name} in {created.address.region}")
    click.echo(f"Queue:                 {created.queue}")
    if created.schedule:
        click.echo(f"Schedule:              {created.schedule}")
    echo_events(created.deployed.deployment)
    echo_moved(created.deployed)
    click.echo(
        f"\nTo run what AWS asks for, here:\n  flowstore worker\nTo start it now:\n  {called} step-functions trigger"
    )
    click.echo(
        "To let somebody else deploy, hand on the token; it is needed once:\n"
        f"  {called} step-functions create --authorize {created.deployed.deployment.token}"
    )


@command(STORE, BRANCH, PRODUCTION)
@with_token
def delete(this: FlowFile, authorize: str | None, **_chosen: Any) -> None:
    """Remove everything that create made in AWS; the runs stay.

    Example:
        python flow.py step-functions delete
    """
    from flowstore.production.stepfunctions import commands

    removed = commands.delete(_find(this), authorize)
    click.echo(f"Removed: {', '.join(removed) or 'nothing, it was gone already'}. The runs of {this.name} stay.")


# --- trigger and terminate


@command(STORE, BRANCH, PRODUCTION)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[--PARAMETER VALUE]…")
def trigger(this: FlowFile, arguments: tuple[str, ...], **_chosen: Any) -> None:
    """Start an execution now.

    --PARAMETER VALUE replaces a value that was deployed.

    Example:
        python flow.py step-functions trigger
    """
    from flowstore.production.stepfunctions import commands
    from flowstore.store import deployments

    there = _find(this)
    values = parameter_values(deployments.parameters_of(there.store, commands.deployed(there).id), arguments)
    click.echo(
        f"Started {commands.trigger(there, values).arn}\nIts run begins when a worker takes it: flowstore worker"
    )


trigger.context_settings = {**trigger.context_settings, "ignore_unknown_options": True}


@command(STORE, BRANCH, PRODUCTION)
@with_token
@click.argument("run")
def terminate(this: FlowFile, run: str, authorize: str | None, **_chosen: Any) -> None:
    """Stop the execution of a run in AWS, and the run.

    RUN is 5, latest or latest-successful, which look into the production namespace.

    Example:
        python flow.py step-functions terminate 5
    """
    from flowstore.client.run import Run
    from flowstore.production.stepfunctions import commands

    there = _find(this)
    with context.within(commands.namespace_of(there)):
        target = this.find(run, Run, everywhere=True)
    name = commands.terminate(there, int(target.id), authorize)
    click.echo(f"Stopped the execution {name} of {target.pathspec}. Its worker stops the run.")


# --- list-runs and show


@command(STORE, BRANCH, PRODUCTION)
@click.option("--status", type=click.Choice(["running", "succeeded", "failed", "timed_out", "aborted"]),
              help="Only executions with this status in AWS.")  # fmt: skip
def list_runs(this: FlowFile, status: str | None, **_chosen: Any) -> None:
    """List executions in AWS, and the runs of each.

    Example:
        python flow.py step-functions list-runs --status failed
    """
    from flowstore.production.stepfunctions import commands

    rows = [
        {
            "execution": one.execution.name,
            "in_aws": one.execution.status.lower(),
            "started_at (UTC)": f"{one.execution.started_at:%Y-%m-%d %H:%M:%S}",
            "run": one.run and one.run.pathspec,
            "status": one.run and one.run.status,
        }
        for one in commands.executions(_find(this), status and status.upper())
    ]
    if rows:
        output.echo_table(rows)
    else:
        click.echo("AWS has no such execution. Start one: step-functions trigger", err=True)


@command(STORE, BRANCH, PRODUCTION)
def show(this: FlowFile, **_chosen: Any) -> None:
    """Show what is in AWS.

    Example:
        python flow.py step-functions show
    """
    from flowstore.production.stepfunctions import commands

    facts = commands.facts(_find(this))
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(safe(f"{name.ljust(width)}  {value}"))


step_functions = Group(
    "step-functions",
    [create, trigger, list_runs, terminate, delete, show],
    help="Have AWS start, schedule and watch the flow.",
    example="python flow.py step-functions create",
)
