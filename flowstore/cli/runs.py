"""Lists of runs, with columns of the user's choice, and of the tags and namespaces that they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import click

from flowstore import context
from flowstore.cli import output
from flowstore.cli.app import command, completed_by, gather
from flowstore.cli.settings import FORM, NAMESPACE, STORE, time_before, with_tags
from flowstore.client.addresses import active_scope
from flowstore.client.rows import RunTable, table_of_runs
from flowstore.client.store import active_store
from flowstore.store import opening
from flowstore.store.run_pages import RunQuery
from flowstore.store.schema import STATUSES
from flowstore.store.tags import RESERVED, listing
from flowstore.text import safe

_LEFT_OUT = ("parameters", "tags")  # of a table in which columns were chosen


def _names(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, (text or "").split(","))))


@command(STORE, NAMESPACE, FORM)
@click.argument("flow", required=False, shell_complete=completed_by("flows"))
@with_tags
@click.option(
    "--without",
    multiple=True,
    metavar="TAG",
    shell_complete=completed_by("tags"),
    help="Only runs without this tag; may be repeated.",
)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(STATUSES),
    help="Only runs with this status; may be repeated.",
)
@click.option("--user", metavar="NAME", help="Only runs of this user.")
@click.option(
    "--since", "since_ms", callback=time_before, metavar="7d", help="Created no longer ago than this: m, h, d or w."
)
@click.option(
    "--limit", type=click.IntRange(1, 10**9), default=50, show_default=True, metavar="N", help="List at most N runs."
)
@click.option(
    "--columns",
    callback=_names,
    metavar="NAME,…",
    help="Show these metrics and parameters, too, such as metrics.accuracy,alpha.",
)
@click.option(
    "--sort", metavar="[-]NAME", help="Sort by this column, -NAME from the largest down; default: newest first."
)
@gather(query=RunQuery)
def runs(query: RunQuery, form: str) -> None:
    """List runs, newest first.

    Example:
        flowstore runs HelloFlow --columns metrics.accuracy,alpha --sort -metrics.accuracy
    """
    if query.flow is not None:
        active_store().flow(query.flow)
    columns = query.columns
    if query.sort:
        columns = tuple(dict.fromkeys([*columns, query.sort.removeprefix("-")]))
    table = table_of_runs(active_scope(), attrs.evolve(query, namespace=context.get_namespace()))
    rows = _with_columns(table, columns, form=form)
    if query.sort and rows and all(row.get(columns[-1]) is None for row in rows):
        click.echo(safe(f"No run here has a {columns[-1]!r} to sort by."), err=True)
    output.echo(rows, form, columns=(*output.RUN, *(name for name in columns if name not in output.RUN)))
    if table.after is not None and form == "table":
        click.echo(f"There are more than these {query.limit}; to see them: --limit {10 * query.limit}", err=True)


def _with_columns(table: RunTable, chosen: Sequence[str], *, form: str) -> list[dict[str, Any]]:
    """Return a row a run: what `runs` shows, and the chosen columns after it."""
    known = output.run_rows(table.runs, errors=form != "table" or "error" in chosen)
    if not chosen:
        return [dict(row) for row in known]
    left_out = _LEFT_OUT if form == "table" else ()
    return [
        {name: value for name, value in row.items() if name not in left_out or name in chosen}
        | {name: values.get(name) for name in chosen if name not in row}
        for row, values in zip(known, table.values, strict=True)
    ]


@command(STORE, NAMESPACE, FORM)
def tags(form: str) -> None:
    """List all tags of runs, with counts and last use.

    The last use is when the newest run with that tag was created.

    Example:
        flowstore tags --json
    """
    rows = [dict(row) for row in listing(opening.active_store(), namespace=context.get_namespace())]
    output.echo(rows, form, columns=("tag", "runs", "system", "last_used"))


@command(STORE, NAMESPACE, FORM)
def namespaces(form: str) -> None:
    """List the namespaces of users and of production.

    Example:
        flowstore namespaces
    """
    users = listing(opening.active_store(), prefixes=RESERVED, namespace=context.get_namespace())
    rows = [{"namespace": row["tag"], "runs": row["runs"], "last_used": row["last_used"]} for row in users]
    output.echo(rows, form, columns=("namespace", "runs", "last_used"))
