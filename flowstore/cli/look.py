"""Looking into a store: its runs, tags, logs, artifacts, definitions, and questions in SQL."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import click

from flowstore import context
from flowstore.cli import completion
from flowstore.cli.admin import command, with_tags
from flowstore.client import Flow, Flows, Run, Step, Task
from flowstore.client.rows import of_tasks, tasks_of
from flowstore.client.store import active_store
from flowstore.sqlite.database import Store
from flowstore.store import opening
from flowstore.store.schema import STATUSES
from flowstore.text import one_line, safe


@command
@click.argument("flow", required=False, shell_complete=completion.flows)
@with_tags
@click.option(
    "--without",
    multiple=True,
    metavar="TAG",
    shell_complete=completion.tags,
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
    "--limit", type=click.IntRange(1, 10**9), default=50, show_default=True, metavar="N", help="At most so many."
)
@click.option(
    "--columns",
    callback=lambda _context, _parameter, text: tuple(filter(None, map(str.strip, (text or "").split(",")))),
    metavar="NAME,…",
    help="Show these metrics and parameters too, such as metrics.accuracy,alpha.",
)
@click.option(
    "--sort", metavar="[-]NAME", help="Sort by this column, -NAME from the largest down; default: newest first."
)
def runs(
    flow: str | None,
    tags: tuple[str, ...],
    without: tuple[str, ...],
    statuses: tuple[str, ...],
    limit: int,
    columns: tuple[str, ...],
    sort: str | None,
    form: str,
) -> None:
    """List runs, newest first.

    Example: flowstore runs MyFlow --columns metrics.accuracy,alpha --sort -metrics.accuracy
    """
    from flowstore.cli import columns as chosen
    from flowstore.cli import render

    newest: list[Run] = []
    for each in [Flow(flow)] if flow else Flows():
        found = (run for run in each.runs(*tags) if not statuses or run.status in statuses)
        found = (run for run in found if not without or run.tags.isdisjoint(without))
        newest += itertools.islice(found, None if sort else limit + 1)
    newest.sort(key=lambda run: (run.created_at, int(run.id)), reverse=True)
    if sort:
        newest = chosen.ordered(newest, sort)
        columns = tuple(dict.fromkeys([*columns, sort.removeprefix("-")]))
    rows = chosen.rows(newest[:limit], columns, form=form)
    render.echo(rows, form, columns=(*render.RUN, *(name for name in columns if name not in render.RUN)))
    if len(newest) > limit and form == "table":
        click.echo(f"There are more than these {limit}; to see them: --limit {10 * limit}", err=True)


@command
@click.argument("pathspec", shell_complete=completion.pathspecs)
@click.option("--raw", is_flag=True, help="Keep control characters.")
def show(pathspec: str, raw: bool, form: str) -> None:
    """Show a flow's runs, a run and its steps, a step's tasks, a task's artifacts, or an artifact."""
    from flowstore.cli import render

    found: Any = active_store().find(pathspec)
    if isinstance(found, Flow):
        render.echo(render.run_rows(found), form, raw=raw, columns=render.RUN)
    elif isinstance(found, Run):
        _show_run(found, form, raw=raw)
    elif isinstance(found, Step):
        render.echo(render.task_rows(found, items=form == "table"), form, raw=raw, columns=render.TASK)
    elif isinstance(found, Task):
        _show_task(found, form, raw=raw)
    else:
        rows = [row for row in render.artifact_rows(found.parent, private=True) if row["artifact"] == found.id]
        render.echo(rows, form, raw=raw, columns=render.ARTIFACT)


def _show_run(found: Run, form: str, *, raw: bool) -> None:
    """Its own fields and its steps: in tables one below the other, else the steps as a field of the run."""
    from flowstore.cli import render

    if form != "table":
        render.echo([render.run_with_steps(found)], form, raw=raw)
        return
    render.echo(render.run_rows([found]), form, raw=raw)
    for line in render.explanations(found):
        render.say(line, raw=raw)
    click.echo()
    render.echo(render.step_rows(found), form, raw=raw)


def _show_task(found: Task, form: str, *, raw: bool) -> None:
    """Its artifacts; in a table, also why it failed."""
    from flowstore.cli import render

    render.echo(render.artifact_rows(found), form, raw=raw, columns=render.ARTIFACT)
    if form != "table":
        return
    [row] = of_tasks([found])
    if row.item is not None:
        render.say(f"foreach item: {one_line(row.item)}", raw=raw)
    why = found.exception
    if why is not None:
        render.say(f"{found.status}: {why.type}: {why.message}", raw=raw)


@command
@click.argument("left", metavar="RUN", shell_complete=completion.runs)
@click.argument("right", metavar="RUN", shell_complete=completion.runs)
@click.option("--no-code", is_flag=True, help="Say which files differ, but not how.")
@click.option("--raw", is_flag=True, help="Keep control characters.")
def diff(left: str, right: str, no_code: bool, raw: bool, form: str) -> None:
    """Compare two runs: parameters, code, tags, steps, artifacts and timings that differ."""
    from flowstore.cli import difference
    from flowstore.client.compare import compare

    store = active_store()
    runs = store.run(left), store.run(right)
    difference.echo(runs, compare(*runs, code=not no_code), form, raw=raw)


@command
def tags(form: str) -> None:
    """List every tag of a run, with how many runs have it, and when one of them was last created."""
    from flowstore.cli import render
    from flowstore.store.tags import listing

    rows = [dict(row) for row in listing(opening.active_store(), namespace=context.get_namespace())]
    render.echo(rows, form, columns=("tag", "runs", "system", "last_used"))


@command
def namespaces(form: str) -> None:
    """List the users' and the production namespaces, as `tags` does."""
    from flowstore.cli import render
    from flowstore.store.tags import RESERVED, listing

    found = listing(opening.active_store(), prefixes=RESERVED, namespace=context.get_namespace())
    rows = [{"namespace": row["tag"], "runs": row["runs"], "last_used": row["last_used"]} for row in found]
    render.echo(rows, form, columns=("namespace", "runs", "last_used"))


@command
@click.argument("pathspec", shell_complete=completion.pathspecs)
@click.option("--stdout", is_flag=True, help="Only stdout.")
@click.option("--stderr", is_flag=True, help="Only stderr.")
@click.option("--timestamps", is_flag=True, help="Begin each line with its time, in UTC.")
@click.option(
    "--attempt", type=click.IntRange(0, 10**9), metavar="N", help="Of this attempt, from 0; default: the last one."
)
@click.option("-f", "--follow", is_flag=True, help="Go on as more is printed, until the run ends.")
@click.option("--raw", is_flag=True, help="Keep control characters.")
def logs(
    pathspec: str, stdout: bool, stderr: bool, timestamps: bool, attempt: int | None, follow: bool, raw: bool, form: str
) -> None:
    """Show what the tasks of a run, step or task printed."""
    from flowstore.cli import render

    found: Any = active_store().find(pathspec, Run, Step, Task)
    streams = render.streams(stdout=stdout, stderr=stderr)
    if follow:
        if form != "table":
            raise click.UsageError(f"--follow prints lines as they come: give it without --{form}.")
        render.print_as_it_comes(found, streams, timestamps=timestamps, attempt=attempt, raw=raw)
        return
    tasks = tasks_of(found)
    if form == "table":
        render.print_log(tasks, streams, timestamps=timestamps, attempt=attempt, raw=raw)
    else:
        render.echo(render.log_rows(tasks, streams, attempt=attempt), form, raw=raw, columns=render.LOG)


@command
@click.argument("pathspec", shell_complete=completion.pathspecs)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="F", help="Write to this file."
)
@click.option("--raw", is_flag=True, help="Keep control characters.")
def get(pathspec: str, output: Path | None, raw: bool, form: str) -> None:
    """Print an artifact, or write it to a file in the form that the file's name asks for.

    .json, .npy, .parquet, .csv, .txt, .pkl; any other name takes bytes as they are, and text as UTF-8.
    """
    from flowstore.cli import natural, render

    artifact = active_store().artifact(pathspec)
    if output is not None:
        natural.write(artifact, output)
        click.echo(f"Wrote {artifact.pathspec} to {output}.", err=True)
    if output is not None and form == "table":
        return
    if form == "table":
        natural.show(artifact, raw=raw)
    else:
        render.echo([natural.row(artifact)], form, raw=raw)


@command
@click.option("--sql", is_flag=True, help="Every definition, tables and indexes too.")
def schema(sql: bool, form: str) -> None:
    """Explain the views that answer questions in SQL."""
    from flowstore.cli import render

    store = opening.active_store()
    if sql:
        definitions = "select type, name, sql from sqlite_master where sql is not null and name not like 'sqlite_%'"
        rows = [dict(row) for row in store.rows(definitions)]
    else:
        rows = _views(store)
    if form != "table":
        render.echo(rows, form)
        return
    for row in rows:
        if sql:
            click.echo(safe(f"{row['sql']};\n"))
        else:
            about = [row["view"], *row["about"].splitlines(), f"columns: {', '.join(row['columns'])}"]
            click.echo(safe("\n  ".join(about) + "\n"))


def _views(store: Store) -> list[dict[str, Any]]:
    """Return the views that are the public face of a store: the name, the explanation and the columns of each."""
    from flowstore.store.schema import PUBLIC_VIEWS, SCHEMA_VERSION, definitions

    found = []
    for view in PUBLIC_VIEWS:
        lines = (line.strip() for line in definitions(SCHEMA_VERSION)[view].strip().splitlines()[1:])
        about = [line.removeprefix("-- ") for line in itertools.takewhile(lambda line: line.startswith("--"), lines)]
        columns = [row["name"] for row in store.rows("select name from pragma_table_info(?)", (view,))]
        found.append({"view": view, "about": "\n".join(about), "columns": columns})
    return found


@command
@click.argument("query")
@click.option("--raw", is_flag=True, help="Keep control characters.")
def sql(query: str, raw: bool, form: str) -> None:
    """Ask a question in SQL; the store is only read."""
    from flowstore.cli import render
    from flowstore.sqlite.user_sql import ask
    from flowstore.store import trust

    store = opening.active_store()
    render.echo(ask(store, query, untrusted=trust.is_foreign(store)), form, raw=raw)
