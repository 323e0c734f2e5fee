"""`flowstore COMMAND`: look into a store from the shell, whatever flow made it."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from flowstore import __version__, context
from flowstore.cli import shell
from flowstore.client import DataArtifact, Flow, Flows, Run, Step, Task
from flowstore.errors import FlowstoreError, InvalidPathspec
from flowstore.store import locate

SHARED = (
    click.option("--store", metavar="PATH", help="The store's file; default: the nearest flowstore.db."),
    click.option("--namespace", metavar="TAG", help="Only what has this tag."),
    click.option("--json", "form", flag_value="json", help="Print a list of JSON objects."),
    click.option("--csv", "form", flag_value="csv", help="Print CSV."),
)


def main() -> None:
    """The console script."""
    shell.run(lambda: flowstore, "flowstore")


@click.group(cls=shell.Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="flowstore")
def flowstore(**_options: Any) -> None:
    """Look into a store: one SQLite file with everything that flows have run."""


shell.add_options(flowstore, SHARED)


def command(function: Callable[..., Any]) -> click.Command:
    """Add a command with the shared options, which also work before it; the store is opened first."""

    def call(**given: Any) -> Any:
        settings = shell.settings(click.get_current_context())
        if settings["store"] and function.__name__ != "demo":
            locate.use_store(settings["store"])
        context.namespace(settings["namespace"] or None)
        shared = {"form": settings["form"] or "table", "store": settings["store"]}
        own = {name: value for name, value in given.items() if name not in {"store", "namespace", "form"}}
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        return function(**own, **{name: value for name, value in shared.items() if name in names})

    made = click.Command(function.__name__, callback=call, help=function.__doc__)
    made.params = list(reversed(getattr(function, "__click_params__", [])))
    shell.add_options(made, SHARED)
    flowstore.add_command(made)
    return made


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


@command
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--revoke", is_flag=True, help="Trust it no longer.")
def trust(path: Path, revoke: bool) -> None:
    """Trust a store: load its pickles, which are code of whoever wrote them."""
    from flowstore.store import trust as trusted
    from flowstore.store.db import open_store

    if revoke:
        known = trusted.revoke(path)
        click.echo(f"{path} is no longer trusted." if known else f"{path} was not trusted.")
        return
    store = open_store(path)
    try:
        trusted.trust(store.path, store.uuid)
    finally:
        store.close()
    click.echo(f"Pickles in {path} are loaded from now on, as long as it is the same store.")


@command
def deployments(form: str) -> None:
    """List what is in production, with the next time that each schedule falls due."""
    from flowstore import timetable
    from flowstore.cli import render
    from flowstore.store.schedules import find_scheduler

    store = locate.active_store()
    rows = timetable.listing(store, datetime.now(UTC), context.get_namespace())
    render.echo(rows, form)
    if any(row["schedule"] for row in rows) and find_scheduler(store) is None:
        click.echo("No scheduler is running for this store; to start it: flowstore scheduler", err=True)


@command
@click.option("--once", is_flag=True, help="Start what is due now, wait for it, and end; 1 if a run failed.")
def scheduler(once: bool) -> int:
    """Start deployments as their schedules fall due, in the foreground, until Ctrl-C.

    A time that was missed, because the machine was asleep or no scheduler ran, is made up for by one run.
    """
    from flowstore.scheduler import Scheduler

    def say(text: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody is there to be told
            click.echo(shell.safe(text), err=True)

    return Scheduler(locate.active_store(), say).run(once=once)


def _command(name: str) -> str | None:
    """A command's name, where typing it starts the one of this environment."""
    found = shutil.which(name)
    return name if found is not None and Path(found).parent == Path(sys.executable).parent else None


@command
def demo(store: str | None) -> int:
    """Run a small real flow, and show where to look next."""
    import subprocess

    chosen = ["--store", store] if store else []
    flow = [sys.executable, "-m", "flowstore.tutorials.penguins"]
    code = subprocess.run([*flow, "run", *chosen], check=False).returncode
    if code != 0:
        return code
    path = Path(store) if store else (locate.find_path() or locate.candidates()[0])
    locate.use_store(path)
    run = Flow("PenguinsFlow").latest_run
    if run is None:
        raise FlowstoreError("The demo's run is not in the global namespace.")
    python = _command("python") or shlex.quote(sys.executable)
    called = _command("flowstore") or f"{python} -m flowstore"
    where = f" --store {shlex.quote(str(path))}" if store else ""
    use = f"use_store({str(path)!r}); " if store else ""
    names = "Flow, use_store" if store else "Flow"
    question = (
        "select value ->> '$.model' as model, value ->> '$.accuracy' as accuracy "
        "from artifact_values where name = 'metrics' order by run_id desc"
    )
    lines = [
        f"{called} runs{where}",
        f"{called} show {run.pathspec}{where}",
        f"{called} logs {run.pathspec}/end{where}",
        f'{called} sql{where} "{question}"',
        f"{python} -c \"from flowstore import {names}; {use}print(Flow('PenguinsFlow').latest_run.data.metrics)\"",
        f"{python} -m flowstore.tutorials.penguins run --folds 10{where}",
    ]
    click.echo(f"\nEverything is in one file, {path}. Where to look next; each line can be pasted:\n")
    for line in lines:
        click.echo(f"  {line}")
    return 0
