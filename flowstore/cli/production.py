"""Deployments, and the scheduler that starts them."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from flowstore import context
from flowstore.cli import output
from flowstore.cli.app import command
from flowstore.cli.settings import FORM, NAMESPACE, STORE
from flowstore.store import opening
from flowstore.text import safe

if TYPE_CHECKING:
    from flowstore.sqlite.database import Database


@command(STORE, NAMESPACE, FORM)
def deployments(form: str) -> None:
    """List what is in production, and what starts it.

    Example:
        flowstore deployments
    """
    from flowstore.production import schedule

    store = opening.active_store()
    rows = schedule.listing(store, datetime.now(UTC), context.get_namespace())
    output.echo(rows, form)
    if any(row["schedule"] or row["triggers"] for row in rows):
        _check_scheduler(store)


@command(STORE)
@click.option("--once", is_flag=True, help="Start what is due now, wait for it, and end; exit 1 if a run failed.")
def scheduler(once: bool) -> int:
    """Start deployments as their times and events come.

    The scheduler runs in the foreground, until Ctrl-C. A time that was missed, because the machine was asleep or no
    scheduler ran, is made up for by one run. Events start the deployments that wait for them, even if they came while
    no scheduler ran.

    Example:
        flowstore scheduler --once
    """
    from flowstore.production.scheduler import Scheduler

    return Scheduler(opening.active_store(), _say).run(once=once)


@command(STORE)
@click.argument("name")
@click.option("--payload", metavar="JSON", default="{}", help="A JSON object; its values can set parameters.")
def event(name: str, payload: str) -> None:
    """Publish an event, for the deployments that wait for it.

    They are started by flowstore scheduler. NAME is what @trigger(event=…) says; fields of the payload that are named
    like a parameter give it its value.

    Example:
        flowstore event data_updated --payload '{"day": "2026-11-27"}'
    """
    import json

    from flowstore.client import events

    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"it is not JSON: {error}", param_hint="--payload") from None
    if not isinstance(value, dict):
        raise click.BadParameter("it has to be a JSON object, {…}", param_hint="--payload")
    store = opening.active_store()
    number = events.publish(store, name, value, context.username())
    click.echo(f"Event {safe(name)} was published; its number is {number}.")
    _check_scheduler(store)


@command(STORE)
@click.option("--once", is_flag=True, help="Run what is asked for now, and end; exit 1 if a run failed.")
@click.option(
    "--max-runs",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    metavar="N",
    help="How many runs there may be at a time.",
)
def worker(once: bool, max_runs: int) -> int:
    """Run what AWS Step Functions asks for.

    Until Ctrl-C, the worker executes the runs that AWS starts of flows deployed with step-functions create, on the
    machine that has the store. If it dies, the next one resumes its runs.

    Example:
        flowstore worker --max-runs 2
    """
    from flowstore.production.worker import of_store

    return of_store(opening.active_store(), _say, max_runs).run(once=once)


def _check_scheduler(store: Database) -> None:
    """Say how to start a scheduler, where none runs for a store."""
    from flowstore.store.schedules import find_scheduler

    if find_scheduler(store) is None:
        click.echo("No scheduler is running for this store; to start it: flowstore scheduler", err=True)


def _say(text: str) -> None:
    """Print a line for whoever operates a scheduler or a worker."""
    with contextlib.suppress(BrokenPipeError):  # the reader of stderr is gone
        click.echo(safe(text), err=True)
