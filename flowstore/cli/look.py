"""Looking into a store: its runs, tags, logs, artifacts, definitions, and questions in SQL."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import click

from flowstore import context
from flowstore.cli import shell
from flowstore.cli.admin import command
from flowstore.client import DataArtifact, Flow, Flows, Run, Step, Task
from flowstore.errors import InvalidPathspec
from flowstore.store import locate


def find(pathspec: str) -> Any:
    """The object that a pathspec addresses, by its depth."""
    kinds = (Flow, Run, Step, Task, DataArtifact)
    depth = len(pathspec.split("/"))
    if depth > len(kinds):
        raise InvalidPathspec(f"{pathspec!r} is too deep: the deepest is Flow/run/step/task/artifact.")
    return kinds[depth - 1](pathspec)


@command
@click.argument("flow", required=False)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only runs with this tag; may be repeated.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="At most so many.")
def runs(flow: str | None, tags: tuple[str, ...], limit: int, form: str) -> None:
    """List runs, newest first."""
    from flowstore.cli import render

    flows = [Flow(flow)] if flow else list(Flows())
    newest = [run for each in flows for run in itertools.islice(each.runs(*tags), limit)]
    newest.sort(key=lambda run: (run.created_at, int(run.id)), reverse=True)
    render.echo(render.run_rows(newest[:limit]), form)


@command
@click.argument("pathspec")
@click.option("--raw", is_flag=True, help="Keep control characters.")
def show(pathspec: str, raw: bool, form: str) -> None:
    """Show a flow's runs, a run's steps, a step's tasks, a task's artifacts, or an artifact."""
    from flowstore.cli import render

    found = find(pathspec)
    if isinstance(found, Flow):
        rows = render.run_rows(found)
    elif isinstance(found, Run):
        if form == "table":
            render.echo(render.run_rows([found]), form, raw=raw)
            click.echo()
        rows = render.step_rows(found)
    elif isinstance(found, Step):
        rows = render.task_rows(found)
    elif isinstance(found, Task):
        rows = render.artifact_rows(found)
    else:
        rows = [row for row in render.artifact_rows(found.parent) if row["artifact"] == found.id]
    render.echo(rows, form, raw=raw)


@command
def tags(form: str) -> None:
    """List every tag of a run, with how many runs have it, and when one of them was last created."""
    from flowstore.cli import render
    from flowstore.store.tags import listing

    render.echo([dict(row) for row in listing(locate.active_store(), namespace=context.get_namespace())], form)


@command
def namespaces(form: str) -> None:
    """List the users' and the production namespaces, as `tags` does."""
    from flowstore.cli import render
    from flowstore.store.tags import RESERVED, listing

    found = listing(locate.active_store(), prefixes=RESERVED, namespace=context.get_namespace())
    render.echo([{"namespace": row["tag"], "runs": row["runs"], "last_used": row["last_used"]} for row in found], form)


@command
@click.argument("pathspec")
@click.option("--stdout", is_flag=True, help="Only stdout.")
@click.option("--stderr", is_flag=True, help="Only stderr.")
@click.option("--timestamps", is_flag=True, help="Begin each line with its time, in UTC.")
@click.option("--attempt", type=click.IntRange(0), metavar="N", help="Of this attempt, from 0; default: the last one.")
@click.option("--raw", is_flag=True, help="Keep control characters.")
def logs(pathspec: str, stdout: bool, stderr: bool, timestamps: bool, attempt: int | None, raw: bool) -> None:
    """Show what the tasks of a run, step or task printed."""
    from flowstore.cli import render

    found = find(pathspec)
    if not isinstance(found, (Run, Step, Task)):
        raise InvalidPathspec(f"{pathspec!r} does not address a run, a step or a task.")
    streams = render.streams(stdout=stdout, stderr=stderr)
    render.print_log(render.tasks_of(found), streams, timestamps=timestamps, attempt=attempt, raw=raw)


@command
@click.argument("pathspec")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="F", help="Write to this file."
)
def get(pathspec: str, output: Path | None) -> None:
    """Print an artifact, or write it to a file in the form that the file's name asks for.

    .json, .npy, .parquet, .csv, .pkl; any other name takes bytes as they are, and text as UTF-8.
    """
    from flowstore.cli import natural

    artifact = DataArtifact(pathspec)
    if output is None:
        natural.show(artifact)
    else:
        natural.write(artifact, output)
        click.echo(f"Wrote {artifact.pathspec} to {output}.", err=True)


@command
@click.option("--sql", is_flag=True, help="Every definition, tables and indexes too.")
def schema(sql: bool) -> None:
    """Explain the views that answer questions in SQL."""
    from flowstore.store.schema import PUBLIC_VIEWS

    store = locate.active_store()
    if sql:
        for row in store.rows("select sql from sqlite_master where sql is not null and name not like 'sqlite_%'"):
            click.echo(shell.safe(f"{row['sql']};\n"))
        return
    for view in PUBLIC_VIEWS:
        text = store.value("select sql from sqlite_master where type = 'view' and name = ?", (view,))
        lines = (line.strip() for line in text.splitlines()[1:])
        told = [line.removeprefix("-- ") for line in itertools.takewhile(lambda line: line.startswith("--"), lines)]
        columns = ", ".join(row["name"] for row in store.rows("select name from pragma_table_info(?)", (view,)))
        click.echo(shell.safe("\n  ".join([view, *told, f"columns: {columns}"]) + "\n"))


@command
@click.argument("query")
@click.option("--raw", is_flag=True, help="Keep control characters.")
def sql(query: str, raw: bool, form: str) -> None:
    """Ask a question in SQL; the store is only read."""
    from flowstore.cli import render
    from flowstore.store.readonly import ask

    render.echo(ask(locate.active_store(), query), form, raw=raw)
