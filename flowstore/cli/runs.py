"""Lists of runs, with columns of the user's choice, and of the tags and namespaces that they have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from flowstore import context, later
from flowstore.cli import output
from flowstore.cli.app import command, completed_by, gather
from flowstore.cli.settings import FORM, NAMESPACE, STORE, time_before, with_tags
from flowstore.client.addresses import active_scope
from flowstore.client.rows import RunTable, match_of, of_runs, runs_of, table_of_runs
from flowstore.client.store import active_store
from flowstore.sqlite.typed_rows import time_of
from flowstore.store import opening
from flowstore.store.run_pages import RunQuery
from flowstore.store.schema import STATUSES
from flowstore.store.tags import RESERVED, listing
from flowstore.text import counted, safe

if TYPE_CHECKING:
    from flowstore.store.search import Search, Wanted

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
    table = table_of_runs(active_scope(), later.evolve(query, namespace=context.get_namespace()))
    rows = _with_columns(table, columns, form=form)
    for name in columns:
        if rows and name != "error" and all(row.get(name) is None for row in rows):
            purpose = " to sort by" if (query.sort or "").removeprefix("-") == name else ""
            click.echo(safe(f"No run here has a {name!r}{purpose}."), err=True)
    output.echo(rows, form, columns=(*output.RUN, *(name for name in columns if name not in output.RUN)))
    if table.after is not None and form == "table":
        shown = "this run" if query.limit == 1 else f"these {query.limit} runs"
        click.echo(f"There are more than {shown}; to see them: --limit {10 * query.limit}", err=True)


def _with_columns(table: RunTable, chosen: Sequence[str], *, form: str) -> list[dict[str, Any]]:
    """Return one row per run: what `runs` shows, and the chosen columns after it."""
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
@click.argument("text")
@click.argument("flow", required=False, shell_complete=completed_by("flows"))
@with_tags
@click.option("--before", metavar="RUN", shell_complete=completed_by("runs"), help="Only runs older than this one.")
@click.option(
    "--limit", type=click.IntRange(1, 10**9), default=20, show_default=True, metavar="N", help="List at most N runs."
)
@click.option(
    "--seconds", type=click.FloatRange(0, 10**9), default=10, show_default=True, metavar="S", help="Look for S seconds."
)
def search(
    text: str, flow: str | None, tags: tuple[str, ...], before: str | None, limit: int, seconds: float, form: str
) -> None:
    """Find runs that contain a text.

    The text is looked for in names, tags, notes, parameters, errors and logs, ignoring case, from the newest run on.
    Where there are too many runs or their logs are too long, the command says how far it looked, and how to go on.

    Example:
        flowstore search "out of memory" HelloFlow
    """
    from flowstore.client.listings import rows_of_hits
    from flowstore.store.search import Wanted, search_runs

    if not text:
        raise click.UsageError("Give a text to look for.")
    store, namespace = active_store(), context.get_namespace()
    if flow is not None:
        store.flow(flow)
    wanted = Wanted(
        text=text,
        flow=flow,
        tags=(*tags, *([] if namespace is None else [namespace])),
        before=None if before is None else match_of(store.run(before)),
        limit=limit,
        deadline_s=seconds,
    )
    result = search_runs(active_scope().store, wanted)
    hits = result.hits
    output.echo(rows_of_hits(of_runs(runs_of(active_scope(), [hit.run for hit in hits])), hits), form, columns=_HIT)
    for line in _how_far(result, wanted):
        click.echo(safe(line), err=True)


_HIT = ("run", "status", "created_at", "where", "task", "excerpt")


def _how_far(result: Search, wanted: Wanted) -> Iterator[str]:
    """Yield sentences on what was not looked at, and on how to go on."""
    import shlex

    for run in result.unread:
        more = f"--seconds {max(10 * wanted.deadline_s, 60):.0f}"
        yield f"The log of {run.pathspec} is too long to be read in {wanted.deadline_s:g} s. To read more of it: {more}"
    if not result.complete and result.last is not None:
        since = f"{time_of(result.last.created_at):%Y-%m-%d %H:%M}"
        looked = f"Looked at {counted(result.looked_at, 'run')}, back to {result.last.pathspec} of {since} UTC."
        words = [wanted.text, *([] if wanted.flow is None else [wanted.flow]), "--before", result.last.pathspec]
        yield f"{looked} To go on: flowstore search {shlex.join(words)}"


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
