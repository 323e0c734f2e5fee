"""What is deployed, and the scheduler that starts it."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import click

from flowstore import context
from flowstore.cli.admin import command
from flowstore.store import opening
from flowstore.text import safe


@command
def deployments(form: str) -> None:
    """List what is in production, with the next time that each schedule falls due."""
    from flowstore.cli import render
    from flowstore.production import schedule
    from flowstore.store.schedules import find_scheduler

    store = opening.active_store()
    rows = schedule.listing(store, datetime.now(UTC), context.get_namespace())
    render.echo(rows, form)
    if any(row["schedule"] for row in rows) and find_scheduler(store) is None:
        click.echo("No scheduler is running for this store; to start it: flowstore scheduler", err=True)


@command
@click.option("--once", is_flag=True, help="Start what is due now, wait for it, and end; 1 if a run failed.")
def scheduler(once: bool) -> int:
    """Start deployments as their schedules fall due, in the foreground, until Ctrl-C.

    A time that was missed, because the machine was asleep or no scheduler ran, is made up for by one run.
    """
    from flowstore.production.scheduler import Scheduler

    def say(text: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody is there to be told
            click.echo(safe(text), err=True)

    return Scheduler(opening.active_store(), say).run(once=once)
