"""`deploy create | trigger | show | list-runs | delete`: a flow in production."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flowstore import context
from flowstore.cli import shell
from flowstore.cli.options import PACKAGE_SUFFIXES, SHARED, FlowFile, command, group, namespace, wrong_usage
from flowstore.sqlite.typed_rows import time_of
from flowstore.text import safe

if TYPE_CHECKING:
    from flowstore.production.deploy import Created, Deployment
    from flowstore.sqlite.database import Store
    from flowstore.store.deployments import DeployedParameter

_AUTHORIZE = click.Option(["--authorize"], metavar="TOKEN", help="The production token; kept, so needed once.")


def _deploy_group(this: FlowFile) -> click.Command:
    commands = [
        _create_command(this),
        _trigger_command(this),
        command("show", lambda: _show(*_find(this)), "Show what is deployed."),
        command("list-runs", lambda: _list_runs(_find(this)[1]), "List the runs in the production namespace."),
        _delete_command(this),
    ]
    return group("deploy", "Put this version of the flow into production, and run it there.", commands)


def _elsewhere(name: str, _this: FlowFile) -> click.Command:
    """A command of Metaflow's that has another name here."""

    def refuse(**_given: Any) -> NoReturn:
        raise click.UsageError(f"There is no {name}: flowstore deploys into its own file, with: deploy create")

    return click.Command(
        name,
        callback=refuse,
        help="Not here: see deploy.",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
    )


def _find(this: FlowFile) -> tuple[Store, Deployment]:
    """The deployment that --branch and --production choose."""
    from flowstore.production import deploy
    from flowstore.store.opening import active_store

    found = shell.settings(click.get_current_context())
    store = active_store()
    return store, deploy.find(store, this.type, found.get("branch"), production=bool(found.get("production")))


# --- create and delete


def _create_command(this: FlowFile) -> click.Command:
    def create(
        authorize: str | None,
        generate_new_token: bool,
        tags: tuple[str, ...],
        package_suffixes: tuple[str, ...],
        **_given: Any,
    ) -> None:
        from flowstore.production import deploy
        from flowstore.run import checks
        from flowstore.run.snapshot import checked_suffixes

        this.graph()
        found = shell.settings(click.get_current_context())
        asked = deploy.Asked(
            store=found["store"],
            branch=found.get("branch"),
            production=bool(found.get("production")),
            authorize=authorize,
            generate_new_token=generate_new_token,
            tags=tags,
            with_=found["with_"],
            namespace=namespace(found),
            suffixes=checked_suffixes(package_suffixes),
        )
        with wrong_usage():
            checks.check_flow(this.type)
            checks.check_with(this.type, asked.with_)
        _tell_created(deploy.create(this.type, asked), _called(found))

    params = [
        _AUTHORIZE,
        click.Option(["--generate-new-token"], is_flag=True, help="Begin a fresh, empty production namespace."),
        click.Option(["--tag", "tags"], multiple=True, metavar="TAG", help="Tag its runs; may be repeated."),
    ]
    made = click.Command("create", callback=create, help="Deploy this version of the flow.", params=list(params))
    shell.add_options(made, (*SHARED, PACKAGE_SUFFIXES))
    return made


def _called(found: dict[str, Any]) -> str:
    """How to call this flow's command line again, about the same deployment."""
    parts: list[str] = []
    for name in ("store", "branch"):
        parts += [f"--{name}", str(found[name])] if found.get(name) else []
    parts += ["--production"] if found.get("production") else []
    return " ".join([context.called_as(), *map(shlex.quote, parts)])


def _tell_created(created: Created, called: str) -> None:
    made = created.deployment
    seen = made.production_namespace
    where = f" in {made.project}/{made.branch}" if made.project else ""
    click.echo(f"Deployed {made.flow}{where}, version {made.version}.")
    click.echo(f"Production token:      {made.token}{' (new)' if created.new_token else ''}")
    click.echo(f"Production namespace:  {seen}")
    if made.schedule:
        click.echo(f"Schedule:              {_schedule(made)}; started by: flowstore scheduler")
    if created.moved:
        click.echo("The new token also moved:")
        for other in created.moved:
            click.echo(f"  {other.flow}, version {other.version}, deployed by {safe(other.deployed_by)}")
    click.echo(
        f'\nTo run it now:\n  {called} deploy trigger\nTo look at its results, in Python:\n  namespace("{seen}")'
    )
    click.echo(f"To let somebody else deploy, hand on the token; it is needed once:\n  {called} deploy create "
               f"--authorize {made.token}")  # fmt: skip


def _delete_command(this: FlowFile) -> click.Command:
    def delete(authorize: str | None) -> None:
        from flowstore.production import deploy

        store, deployment = _find(this)
        deploy.delete(store, deployment, authorize)
        click.echo(
            f"{deployment.flow} is no longer deployed. Its runs stay in {deployment.production_namespace}, "
            "where it goes on if it is deployed again."
        )

    return command("delete", delete, "Take the flow out of production; its runs stay.", [_AUTHORIZE])


# --- trigger


def _trigger_command(this: FlowFile) -> click.Command:
    def trigger(arguments: tuple[str, ...]) -> int:
        from flowstore.production import deploy
        from flowstore.store.deployments import parameters_of

        found = shell.settings(click.get_current_context())
        store, deployment = _find(this)
        values = _values(parameters_of(store, deployment.id), arguments)
        return deploy.trigger(
            store,
            deployment,
            values,
            quiet=bool(found["quiet"]),
            durable=bool(found.get("durable")),
            namespace=namespace(found),
        )

    made = command(
        "trigger",
        trigger,
        "Run the deployment now; --PARAMETER VALUE replaces what was deployed.",
        [click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED, metavar="[--PARAMETER VALUE]…")],
    )
    made.context_settings = {"ignore_unknown_options": True}
    return made


def _values(parameters: Sequence[DeployedParameter], arguments: Sequence[str]) -> dict[str, str]:
    """Values of the deployed parameters, from the arguments and the environment: today's file may have others."""
    from flowstore.production.trigger import variable

    known = {item.option: item for item in parameters}
    values = {item.option: os.environ[variable(item)] for item in parameters if variable(item) in os.environ}
    left = list(arguments)
    while left:
        text, equals, value = left.pop(0).partition("=")
        option = text.removeprefix("--").replace("_", "-")
        if not text.startswith("--") or option not in known:
            there = ", ".join(f"--{name}" for name in known) or "none"
            raise click.UsageError(f"{text!r} is not a parameter of what is deployed; those are: {there}.")
        if known[option].is_flag and not equals:
            value = "true"
        elif not equals:
            if not left:
                raise click.UsageError(f"--{option} needs a value.")
            value = left.pop(0)
        values[option] = value
    return values


# --- show and list-runs


def _show(store: Store, made: Deployment) -> None:
    from flowstore.cli.render import echo_table
    from flowstore.store.deployments import parameters_of
    from flowstore.store.queries import code_files

    at = time_of(made.deployed_at)
    sees = made.production_namespace if isinstance(made.namespace, context.Unset) else made.namespace
    facts: list[tuple[str, Any]] = [
        ("flow", made.flow),
        ("version", str(made.version)),
        *([("project", made.project), ("branch", made.branch)] if made.project else []),
        ("deployed by", made.deployed_by),
        ("deployed at", f"{at:%Y-%m-%d %H:%M:%S} UTC"),
        ("namespace", made.production_namespace),
        ("its runs see", sees or "everything"),
        ("schedule", _schedule(made)),
        *([("tags", ", ".join(made.tags))] if made.tags else []),
        *([("with", ", ".join(made.with_))] if made.with_ else []),
        *((f"parameter {item.name}", _value(item, made.parameters)) for item in parameters_of(store, made.id)),
        ("script", made.script_name),
        *([("module", made.module)] if made.module else []),
    ]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(safe(f"{name.ljust(width)}  {value}"))
    click.echo()
    files = code_files(store, made.code_id)
    echo_table([{"file": path, "size_bytes": blob.size_bytes} for path, blob in files.items()])


def _schedule(made: Deployment) -> str:
    if made.schedule is None:
        return "none"
    return f"{made.schedule['cron']} ({made.schedule['timezone'] or 'UTC'})"


def _value(parameter: DeployedParameter, shown: Mapping[str, Any]) -> str:
    return "has to be given" if parameter.blob is None else repr(shown[parameter.name])


def _list_runs(made: Deployment) -> None:
    from flowstore.cli.render import echo_table, run_rows
    from flowstore.client import Flow, Flows

    with context.within(made.production_namespace):
        if made.flow in Flows():
            echo_table(run_rows(Flow(made.flow)))
        else:
            click.echo(f"No run of {made.flow} in {made.production_namespace} yet. Start one: deploy trigger", err=True)


MAKERS: dict[str, Callable[[FlowFile], click.Command]] = {
    "deploy": _deploy_group,
    **{name: functools.partial(_elsewhere, name) for name in ("step-functions", "argo-workflows")},
}
