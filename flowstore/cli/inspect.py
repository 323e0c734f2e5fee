"""Looking into a store: an object, a log, an artifact, the views, and questions in SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flowstore.cli import output
from flowstore.cli.app import command, completed_by, gather
from flowstore.cli.logs import Wish, with_options
from flowstore.cli.settings import FORM, NAMESPACE, STORE, with_raw
from flowstore.client import Flow, Run, Step, Task
from flowstore.client.rows import of_tasks, tasks_of
from flowstore.client.store import active_store
from flowstore.sqlite import liveness
from flowstore.store import opening
from flowstore.text import one_line, safe


@command(STORE, NAMESPACE, FORM)
@click.argument("pathspec", shell_complete=completed_by("pathspecs"))
@with_raw
def show(pathspec: str, raw: bool, form: str) -> None:
    """Show a flow, a run, a step, a task or an artifact.

    A flow is shown with its runs, a run with its steps, a step with its tasks, and a task with its artifacts.

    PATHSPEC is F, F/5, F/5/step, F/5/step/17 or F/5/step/17/x. F/latest and F/latest-successful are runs,
    F/5/step/latest is a task, and F/5/x is an artifact of the run's end.

    Example:
        flowstore show HelloFlow/5
    """
    shown: Any = active_store().find(pathspec)
    if isinstance(shown, Flow):
        output.echo(output.run_rows(shown, errors=form != "table"), form, raw=raw, columns=output.RUN)
    elif isinstance(shown, Run):
        _show_run(shown, form, raw=raw)
    elif isinstance(shown, Step):
        output.echo(output.task_rows(shown, items=form != "table"), form, raw=raw, columns=output.TASK)
    elif isinstance(shown, Task):
        _show_task(shown, form, raw=raw)
    else:
        rows = [row for row in output.artifact_rows(shown.parent, private=True) if row["artifact"] == shown.id]
        output.echo(rows, form, raw=raw, columns=output.ARTIFACT)


def _show_run(run: Run, form: str, *, raw: bool) -> None:
    """Print a run and its steps: in tables one below the other, else the steps as a field of the run."""
    if form != "table":
        output.echo([output.run_with_steps(run)], form, raw=raw)
        return
    output.echo(output.run_rows([run]), form, raw=raw)
    for line in output.explanations(run):
        output.say(line, raw=raw)
    click.echo()
    output.echo(output.step_rows(run), form, raw=raw)


def _show_task(task: Task, form: str, *, raw: bool) -> None:
    """Print a task's artifacts; in a table, also why it failed."""
    output.echo(output.artifact_rows(task), form, raw=raw, columns=output.ARTIFACT)
    if form != "table":
        return
    [row] = of_tasks([task])
    if row.item is not None:
        output.say(f"foreach item: {one_line(row.item)}", raw=raw)
    host = task.metadata_dict.get("host")
    if host and host != liveness.host():
        output.say(f"ran on: {one_line(host)}", raw=raw)
    why = task._failure()
    if why is not None:
        how = "caught" if task.successful else task.status
        output.say(f"{how}: {why.name}: {why.message}", raw=raw)


@command(STORE, NAMESPACE, FORM)
@click.argument("run", shell_complete=completed_by("runs"))
@click.argument("text", required=False)
@with_raw
def note(run: str, text: str | None, raw: bool, form: str) -> None:
    """Show the note on a run, or write one.

    RUN is F/5, or F/latest for the newest. Without TEXT the note is shown; an empty TEXT removes it.

    Example:
        flowstore note HelloFlow/5 "Trained on the March data."
    """
    noted = active_store().run(run)
    if text is not None:
        noted.note = text
    if form != "table":
        output.echo([{"run": noted.pathspec, "note": noted.note}], form, raw=raw)
    elif text is None:
        output.say(noted.note or f"{noted.pathspec} has no note.", raw=raw)
    else:
        click.echo(f"{'Noted on' if text else 'Removed the note on'} {noted.pathspec}.", err=True)


@command(STORE, NAMESPACE, FORM)
@click.argument("pathspec", shell_complete=completed_by("pathspecs"))
@with_options
@gather(wish=Wish)
def logs(pathspec: str, wish: Wish, follow: bool, form: str) -> None:
    """Show what the tasks of a run, step or task printed.

    PATHSPEC is F/5, F/5/step or F/5/step/17. F/latest is the newest run, and so is F.

    Example:
        flowstore logs HelloFlow/5/start --timestamps
    """
    from flowstore.cli import logs as log

    of: Any = active_store().find(pathspec, Run, Step, Task)
    if follow and form != "table":
        raise click.UsageError(f"--follow prints lines as they come: give it without --{form}.")
    if follow:
        log.show_as_it_comes(of, wish)
    elif form == "table":
        log.show(tasks_of(of), wish)
    else:
        output.echo(log.rows(tasks_of(of), wish), form, raw=wish.raw, columns=log.COLUMNS)


@command(STORE, NAMESPACE, FORM)
@click.argument("pathspec", shell_complete=completed_by("pathspecs"))
@click.option(
    "-o", "--output", "file", type=click.Path(dir_okay=False, path_type=Path), metavar="F", help="Write to this file."
)
@with_raw
def get(pathspec: str, file: Path | None, raw: bool, form: str) -> None:
    """Print an artifact, or write it to a file.

    PATHSPEC is F/5/step/17/x, or F/5/x for an artifact of the run's end; F/latest/x is one of the newest run.
    The file's name decides in which form it is written: .json, .npy, .parquet,
    .csv, .txt, .png, .svg or .pkl. With any other name, bytes are written as they are, and text as UTF-8.

    Example:
        flowstore get HelloFlow/5/train/17/metrics -o metrics.json
    """
    from flowstore.cli import formats

    artifact = active_store().artifact(pathspec)
    if file is not None:
        instead = formats.write(artifact, file)
        click.echo(safe(f"Wrote {artifact.pathspec} to {file}.\n{instead}".rstrip()), err=True)
    if form != "table":
        output.echo([formats.row(artifact)], form, raw=raw)
    elif file is None:
        formats.show(artifact, raw=raw)


@command(STORE, FORM)
@click.option("--sql", is_flag=True, help="Every definition, tables and indexes, too.")
def schema(sql: bool, form: str) -> None:
    """Explain the views that answer questions in SQL.

    Example:
        flowstore schema --sql
    """
    store = opening.active_store()
    if sql:
        definitions = "select type, name, sql from sqlite_master where sql is not null and name not like 'sqlite_%'"
        rows = [dict(row) for row in store.rows(definitions)]
    else:
        from flowstore.store.schema import public_views

        rows = [{"view": view.name, "about": view.about, "columns": view.columns} for view in public_views(store)]
    if form != "table":
        output.echo(rows, form)
        return
    for row in rows:
        if sql:
            click.echo(safe(f"{row['sql']};\n"))
        else:
            about = [row["view"], *row["about"].splitlines(), f"columns: {', '.join(row['columns'])}"]
            click.echo(safe("\n  ".join(about) + "\n"))


@command(STORE, FORM)
@click.argument("query")
@with_raw
def sql(query: str, raw: bool, form: str) -> None:
    """Ask a question in SQL; the store is only read.

    Example:
        flowstore sql "select run_id, status, duration_s from run_summary limit 10"
    """
    from flowstore.sqlite.user_sql import ask
    from flowstore.store import trust

    store = opening.active_store()
    output.echo(ask(store, query, untrusted=trust.is_foreign(store)), form, raw=raw)
