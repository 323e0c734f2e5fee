"""Lists of runs, with columns of the user's choice, and of the tags and namespaces that they have."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import click

from flowstore import context
from flowstore.cli import output
from flowstore.cli.app import command, completed_by, gather
from flowstore.cli.settings import FORM, NAMESPACE, STORE, with_tags
from flowstore.client import Flow, Flows, Run
from flowstore.client.rows import of_runs, values_of
from flowstore.store import opening
from flowstore.store.schema import STATUSES
from flowstore.store.tags import RESERVED, listing
from flowstore.text import safe

_LEFT_OUT = ("parameters", "tags")  # of a table in which columns were chosen


@attrs.frozen(eq=False, repr=False)
class _Wanted:
    """The runs to list: of all flows or of one, with all of these tags, none of those, and one of the statuses."""

    flow: str | None
    tags: tuple[str, ...]
    without: tuple[str, ...]
    statuses: tuple[str, ...]

    def runs(self, limit: int | None) -> Iterator[Run]:
        """Yield at most `limit` runs of each flow, newest first."""
        for flow in [Flow(self.flow)] if self.flow else Flows():
            matching = (run for run in flow.runs(*self.tags) if not self.statuses or run.status in self.statuses)
            matching = (run for run in matching if not self.without or run.tags.isdisjoint(self.without))
            yield from itertools.islice(matching, limit)


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
@gather(wanted=_Wanted)
def runs(wanted: _Wanted, limit: int, columns: tuple[str, ...], sort: str | None, form: str) -> None:
    """List runs, newest first.

    Example:
        flowstore runs HelloFlow --columns metrics.accuracy,alpha --sort -metrics.accuracy
    """
    newest = sorted(
        wanted.runs(None if sort else limit + 1), key=lambda run: (run.created_at, int(run.id)), reverse=True
    )
    if sort:
        newest = _sorted(newest, sort)
        columns = tuple(dict.fromkeys([*columns, sort.removeprefix("-")]))
    rows = _with_columns(newest[:limit], columns, form=form)
    output.echo(rows, form, columns=(*output.RUN, *(name for name in columns if name not in output.RUN)))
    if len(newest) > limit and form == "table":
        click.echo(f"There are more than these {limit}; to see them: --limit {10 * limit}", err=True)


def _sorted(runs: Iterable[Run], sort: str) -> list[Run]:
    """Return runs by a column, those without it last; `-NAME` begins with the largest."""
    name = sort.removeprefix("-")
    unsorted = list(runs)
    values = [row[name] for row in _chosen(unsorted, [name])]
    pairs = list(zip(unsorted, values, strict=True))
    known = [(run, value) for run, value in pairs if value is not None]
    known.sort(key=lambda pair: _rank(pair[1]), reverse=sort.startswith("-"))
    if pairs and not known:
        click.echo(safe(f"No run here has a {name!r} to sort by."), err=True)
    return [run for run, _ in known] + [run for run, value in pairs if value is None]


def _with_columns(runs: Sequence[Run], chosen: Sequence[str], *, form: str) -> list[dict[str, Any]]:
    """Return a row a run: what `runs` shows, and the chosen columns after it."""
    errors = form != "table" or "error" in chosen
    known: list[dict[str, Any]] = [dict(row) for row in output.run_rows(runs, errors=errors)]
    if not chosen:
        return known
    left_out = _LEFT_OUT if form == "table" else ()
    return [
        {name: value for name, value in row.items() if name not in left_out or name in chosen}
        | {name: value for name, value in extra.items() if name not in row}
        for row, extra in zip(known, _chosen(runs, chosen), strict=True)
    ]


def _chosen(runs: Sequence[Run], chosen: Sequence[str]) -> list[dict[str, Any]]:
    """Return the values of these columns, a row a run: a metric, a parameter, or what `runs` shows anyway."""
    values = values_of(runs, of_runs(runs))
    known: Sequence[Mapping[str, Any]] = [{}] * len(runs)
    if set(chosen) & set(output.RUN):
        known = output.run_rows(runs, errors="error" in chosen)
    return [{name: {**value, **row}.get(name) for name in chosen} for value, row in zip(values, known, strict=True)]


def _rank(value: Any) -> tuple[int, Any]:
    """Order numbers before everything else, which goes by its text."""
    if isinstance(value, (int, float)):
        return 0, value
    return 1, str(value)


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
