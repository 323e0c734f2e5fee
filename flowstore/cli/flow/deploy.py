"""`deploy create | trigger | show | list-runs | delete`: a flow in production."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flowstore import context
from flowstore.cli import output
from flowstore.cli.app import STORE, STORE_PATH, Group, command, settings_of
from flowstore.cli.flow.flow_file import (
    BRANCH,
    DURABLE,
    NAMESPACE_INSIDE,
    PRODUCTION,
    QUIET,
    WITH,
    FlowFile,
    executor_option,
    executor_options,
    namespace_of,
    package_suffixes,
    wrong_usage,
)
from flowstore.run import caller
from flowstore.sqlite.typed_rows import time_of
from flowstore.text import did_you_mean, safe

if TYPE_CHECKING:
    from flowstore.production.deploy import Created, Deployment, Options
    from flowstore.sqlite.database import Database
    from flowstore.store.deployments import DeployedParameter

with_token = click.option("--authorize", metavar="TOKEN", help="The production token; kept, so needed once.")


def _find(this: FlowFile) -> tuple[Database, Deployment]:
    """Return the store and the deployment that --branch and --production choose."""
    from flowstore.production import deploy
    from flowstore.store.opening import active_store

    options = settings_of(click.get_current_context())
    this.configure_project(options)
    store = active_store()
    return store, deploy.find(store, this.type, options.get("branch"), production=bool(options.get("production")))


# --- create and delete


_CREATE_OPTIONS = (
    with_token,
    click.option("--generate-new-token", is_flag=True, help="Begin a fresh, empty production namespace."),
    click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag its runs; may be repeated."),
    executor_option(None),
    executor_options,
    package_suffixes,
)


def create_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that all forms of `create` share."""
    return functools.reduce(lambda decorated, option: option(decorated), reversed(_CREATE_OPTIONS), function)


@command(STORE_PATH, NAMESPACE_INSIDE, WITH, BRANCH, PRODUCTION)
@create_options
def create(this: FlowFile, **_given: Any) -> None:
    """Deploy this version of the flow.

    Example:
        python flow.py deploy create --tag nightly
    """
    from flowstore.production import deploy

    options = settings_of(click.get_current_context())
    _echo_created(deploy.create(this.type, checked_options(this, options)), called(options))


def checked_options(this: FlowFile, options: Mapping[str, Any]) -> Options:
    """Return what the options ask for; wrong usage where the flow cannot be deployed so."""
    from flowstore.production import deploy
    from flowstore.run import checks
    from flowstore.run.executor import choose
    from flowstore.run.snapshot import checked_suffixes

    this.configure(options)
    _ = this.graph  # a mistake in it is reported first
    wish = deploy.Options(
        store=options["store"],
        branch=options.get("branch"),
        production=bool(options.get("production")),
        authorize=options["authorize"],
        generate_new_token=options["generate_new_token"],
        tags=options["tags"],
        with_=options["with_"],
        namespace=namespace_of(options["namespace"]),
        suffixes=checked_suffixes(options["package_suffixes"]),
        executor=options["executor"],
        executor_options=options["executor_options"],
    )
    with wrong_usage():
        checks.check_flow(this.type)
        checks.check_decorators(this.type, wish.with_)
        choose(wish.executor or "local", wish.executor_options)
    return wish


def called(options: Mapping[str, Any]) -> str:
    """Return how to call this flow's command line again, about the same deployment."""
    parts: list[str] = []
    for name in ("store", "branch"):
        parts += [f"--{name}", str(options[name])] if options.get(name) else []
    parts += ["--production"] if options.get("production") else []
    return " ".join([context.called_as(), *map(shlex.quote, parts)])


def _echo_created(created: Created, called: str) -> None:
    deployment = created.deployment
    seen = deployment.production_namespace
    echo_deployed(created)
    in_aws = _is_in_aws(deployment)
    if deployment.schedule:
        by = "AWS, as it was when the flow was put there" if in_aws else "flowstore scheduler"
        click.echo(f"Schedule:              {schedule_text(deployment)}; started by: {by}")
    if in_aws:
        click.echo("In AWS:                its executions run this version; for the rest: step-functions create")
    echo_events(deployment)
    echo_moved(created)
    click.echo(
        f'\nTo run it now:\n  {called} deploy trigger\nTo look at its results, in Python:\n  namespace("{seen}")'
    )
    click.echo(f"To let somebody else deploy, hand on the token; it is needed once:\n  {called} deploy create "
               f"--authorize {deployment.token}")  # fmt: skip


def _is_in_aws(deployment: Deployment) -> bool:
    from flowstore.store import state_machines
    from flowstore.store.opening import active_store

    return state_machines.find(active_store(), deployment.flow, deployment.scope) is not None


def echo_deployed(created: Created) -> None:
    """Print what was deployed, its token and its namespace."""
    deployment = created.deployment
    seen = deployment.production_namespace
    where = f" in {deployment.project}/{deployment.branch}" if deployment.project else ""
    click.echo(f"Deployed {deployment.flow}{where}, version {deployment.version}.")
    click.echo(f"Production token:      {deployment.token}{' (new)' if created.new_token else ''}")
    click.echo(f"Production namespace:  {seen}")
    caller.announce(f"{deployment.flow}/{deployment.id}", context.state.store.path)


def echo_events(deployment: Deployment) -> None:
    """Print which events start a deployment, in AWS or not."""
    if deployment.triggers:
        from flowstore.production.events import waits_for

        click.echo(f"Started on:            {waits_for(deployment)}, by: flowstore scheduler")


def echo_moved(created: Created) -> None:
    """Print which other deployments a new token has moved."""
    if created.moved:
        click.echo("The new token also moved:")
        for other in created.moved:
            click.echo(f"  {other.flow}, version {other.version}, deployed by {safe(other.deployed_by)}")


@command(STORE, BRANCH, PRODUCTION)
@with_token
def delete(this: FlowFile, authorize: str | None, **_chosen: Any) -> None:
    """Take the flow out of production; its runs stay.

    Example:
        python flow.py deploy delete
    """
    from flowstore.production import deploy

    store, deployment = _find(this)
    deploy.delete(store, deployment, authorize)
    click.echo(
        f"{deployment.flow} is no longer deployed. Its runs stay in {deployment.production_namespace}, "
        "where it goes on if it is deployed again."
    )
    if _is_in_aws(deployment):
        click.echo("It is still in AWS, where its executions will fail. To remove it there: step-functions delete")


# --- trigger


@command(STORE, QUIET, NAMESPACE_INSIDE, DURABLE, BRANCH, PRODUCTION)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[--PARAMETER VALUE]…")
def trigger(
    this: FlowFile, arguments: tuple[str, ...], quiet: bool, namespace: str | None, durable: bool, **_chosen: Any
) -> int:
    """Run the deployment now.

    --PARAMETER VALUE replaces a value that was deployed.

    Example:
        python flow.py deploy trigger --quiet
    """
    from flowstore.production import deploy
    from flowstore.store.deployments import parameters_of

    store, deployment = _find(this)
    values = parameter_values(parameters_of(store, deployment.id), arguments)
    return deploy.trigger(store, deployment, values, quiet=quiet, durable=durable, namespace=namespace_of(namespace))


trigger.context_settings = {**trigger.context_settings, "ignore_unknown_options": True}


def parameter_values(parameters: Sequence[DeployedParameter], arguments: Sequence[str]) -> dict[str, str]:
    """Return values of the deployed parameters, from arguments and environment: today's file may have others."""
    from flowstore.production.trigger import variable

    known = {item.option: item for item in parameters}
    values = {item.option: os.environ[variable(item)] for item in parameters if variable(item) in os.environ}
    left = list(arguments)
    while left:
        text, equals, value = left.pop(0).partition("=")
        option = text.removeprefix("--").replace("_", "-")
        if not text.startswith("--") or option not in known:
            names = [f"--{name}" for name in known]
            near = did_you_mean(option, known, "--{}".format) if text.startswith("--") else ""
            there = ", ".join(names) or "none"
            raise click.UsageError(f"{text!r} is not a parameter of what is deployed; those are: {there}.{near}")
        if known[option].is_flag and not equals:
            value = "true"
        elif not equals:
            if not left:
                raise click.UsageError(f"--{option} needs a value.")
            value = left.pop(0)
        values[option] = value
    return values


# --- show and list-runs


@command(STORE, BRANCH, PRODUCTION)
def show(this: FlowFile, **_chosen: Any) -> None:
    """Show what is deployed.

    Example:
        python flow.py deploy show
    """
    from flowstore.production.events import waits_for
    from flowstore.store import snapshots
    from flowstore.store.deployments import configs_of, parameters_of
    from flowstore.store.records import shown

    store, deployment = _find(this)
    at = time_of(deployment.deployed_at)
    sees = deployment.production_namespace if isinstance(deployment.namespace, context.Unset) else deployment.namespace
    facts: list[tuple[str, Any]] = [
        ("flow", deployment.flow),
        ("version", str(deployment.version)),
        *([("project", deployment.project), ("branch", deployment.branch)] if deployment.project else []),
        ("deployed by", deployment.deployed_by),
        ("deployed at", f"{at:%Y-%m-%d %H:%M:%S} UTC"),
        ("namespace", deployment.production_namespace),
        ("its runs see", sees or "everything"),
        ("schedule", schedule_text(deployment)),
        *([("started by", waits)] if (waits := waits_for(deployment)) else []),
        *([("tags", ", ".join(deployment.tags))] if deployment.tags else []),
        *([("with", ", ".join(deployment.with_))] if deployment.with_ else []),
        *([("executor", ", ".join(deployment.executor))] if deployment.executor else []),
        *(
            (f"parameter {item.name}", _value(item, deployment.parameters))
            for item in parameters_of(store, deployment.id)
        ),
        *((item.option, shown(item.blob)) for item in configs_of(store, deployment.id) if item.blob is not None),
        ("script", deployment.script_name),
        *([("module", deployment.module)] if deployment.module else []),
    ]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(safe(f"{name.ljust(width)}  {value}"))
    click.echo()
    files = snapshots.files(store, deployment.code_id)
    output.echo_table([{"file": path, "size_bytes": blob.size_bytes} for path, blob in files.items()])


def schedule_text(deployment: Deployment) -> str:
    """Return the schedule of a deployment, for people."""
    if deployment.schedule is None:
        return "none"
    return f"{deployment.schedule['cron']} ({deployment.schedule['timezone'] or 'UTC'})"


def _value(parameter: DeployedParameter, shown: Mapping[str, Any]) -> str:
    return "has to be given" if parameter.blob is None else repr(shown[parameter.name])


@command(STORE, BRANCH, PRODUCTION)
def list_runs(this: FlowFile, **_chosen: Any) -> None:
    """List the runs in the production namespace.

    Example:
        python flow.py deploy list-runs
    """
    from flowstore.client import Flow, Flows

    _, deployment = _find(this)
    with context.within(deployment.production_namespace):
        if deployment.flow in Flows():
            output.echo_table(output.run_rows(Flow(deployment.flow)))
        else:
            click.echo(
                f"No run of {deployment.flow} in {deployment.production_namespace} yet. "
                f"Start one: {called(settings_of(click.get_current_context()))} deploy trigger",
                err=True,
            )


deploy = Group(
    "deploy",
    [create, trigger, show, list_runs, delete],
    help="Put the flow into production, and run it there.",
    example="python flow.py deploy create",
)


# --- commands of Metaflow's that have another name here


def _elsewhere(name: str) -> click.Command:
    def refuse(_this: FlowFile, **_given: Any) -> NoReturn:
        """Say what to use instead: deploy.

        Example:
            python flow.py deploy create
        """
        instead = f"{context.called_as()} deploy create"
        raise click.UsageError(f"There is no {name}: flowstore deploys into its own file, with: {instead}")

    arguments = click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    refusal = command(name=name)(arguments(refuse))
    refusal.add_help_option = False
    refusal.context_settings = {"ignore_unknown_options": True, "allow_interspersed_args": False}
    return refusal


argo_workflows = _elsewhere("argo-workflows")
