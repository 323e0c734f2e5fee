"""`dump`, `logs show` and `list`: what a flow's runs left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flowstore import context
from flowstore.cli import shell
from flowstore.cli.options import SETTINGS, FlowFile, command, group
from flowstore.errors import NotFound
from flowstore.text import counted, safe


def _tasks(this: FlowFile, pathspec: str) -> list[Any]:
    """Return the tasks of what `_found` returns, in the order of their ids."""
    from flowstore.client.rows import tasks_of

    return tasks_of(_found(this, pathspec))


def _found(this: FlowFile, pathspec: str) -> Any:
    """Return what RUN, RUN/STEP or RUN/STEP/TASK addresses, in whichever namespace."""
    from flowstore.client import Run, Step, Task
    from flowstore.client.store import seen
    from flowstore.store.opening import active_store

    path = pathspec.removeprefix(f"{this.name}/")
    if path.count("/") > 2:
        raise click.UsageError(f"{pathspec!r} is not of the form RUN, RUN/STEP or RUN/STEP/TASK.")
    return seen(active_store(), None).find(f"{this.name}/{path}", Run, Step, Task)


def _dump_command(this: FlowFile) -> click.Command:
    def dump(pathspec: str, include: str | None, max_value_size: int, private: bool, file: str | None) -> None:
        if "/" not in pathspec.removeprefix(f"{this.name}/"):
            raise click.UsageError(f"{pathspec!r} is not of the form RUN/STEP or RUN/STEP/TASK.")
        wanted = set(include.split(",")) if include else None
        found: dict[str, dict[str, Any]] = {}
        tasks = _tasks(this, pathspec)
        for task in tasks:
            names = [name for name in task._blobs() if private or not name.startswith("_")]
            chosen = [name for name in names if wanted is None or name in wanted]
            found[task.pathspec] = {name: task[name] for name in chosen}
        missing = (wanted or set()) - {name for artifacts in found.values() for name in artifacts}
        if missing:
            raise NotFound(f"{pathspec} has no artifact {', '.join(sorted(missing))}.")
        if file is not None:
            _dump_to_file(found, Path(file))
        else:
            for task_path, artifacts in found.items():
                _print_artifacts(task_path, artifacts, max_value_size)

    params = [
        click.Argument(["pathspec"], metavar="RUN/STEP[/TASK]"),
        click.Option(["--include"], metavar="A,B", help="Only these artifacts."),
        click.Option(["--max-value-size"], type=click.IntRange(0), default=1000, show_default=True, metavar="N",
                     help="Show values of at most so many bytes, else their preview."),
        click.Option(["--private"], is_flag=True, help="Also artifacts that begin with an underscore."),
        click.Option(["--file"], type=click.Path(dir_okay=False), metavar="F", help="Write them here, as a pickle."),
    ]  # fmt: skip
    return command("dump", dump, "Show the artifacts of tasks.", params)


def _print_artifacts(pathspec: str, artifacts: dict[str, Any], max_value_size: int) -> None:
    from flowstore.errors import ArtifactError, UntrustedArtifact

    click.echo(safe(f"{pathspec}:"))
    for name, artifact in artifacts.items():
        shown = f"{artifact.preview}  ({artifact.type}, {counted(artifact.size, 'byte')})"
        if artifact.size <= max_value_size:
            try:
                shown = repr(artifact.data)
            except (UntrustedArtifact, ArtifactError) as error:
                shown += f"\n    {str(error).splitlines()[0]}"
        click.echo(safe(f"  {name} = {shown}"))


def _dump_to_file(found: dict[str, dict[str, Any]], file: Path) -> None:
    import cloudpickle

    from flowstore.sqlite import outputs

    outputs.check(file)
    values = {task: {name: item.data for name, item in artifacts.items()} for task, artifacts in found.items()}
    with outputs.replaced(file) as place:
        place.write_bytes(cloudpickle.dumps(values))
    click.echo(f"Wrote {counted(sum(map(len, values.values())), 'artifact')} to {file}.", err=True)


def _logs_command(this: FlowFile) -> click.Command:
    def show(pathspec: str, stdout: bool, stderr: bool, timestamps: bool, attempt: int | None, follow: bool) -> None:
        from flowstore.cli import render

        streams = render.streams(stdout=stdout, stderr=stderr)
        with context.within(None):
            if follow:
                found = _found(this, pathspec)
                render.print_as_it_comes(found, streams, timestamps=timestamps, attempt=attempt, bare=True)
            else:
                tasks = _tasks(this, pathspec)
                render.print_log(tasks, streams, timestamps=timestamps, attempt=attempt, bare=True)

    params = [
        click.Argument(["pathspec"], metavar="RUN[/STEP[/TASK]]"),
        click.Option(["--stdout"], is_flag=True, help="Only stdout."),
        click.Option(["--stderr"], is_flag=True, help="Only stderr."),
        click.Option(["--timestamps"], is_flag=True, help="Begin each line with its time, in UTC."),
        click.Option(
            ["--attempt"],
            type=click.IntRange(0, 10**9),
            metavar="N",
            help="Of this attempt, from 0; default: the last.",
        ),
        click.Option(["-f", "--follow"], is_flag=True, help="Go on as more is printed, until the run ends."),
    ]
    made = _Logs("logs", help="What tasks printed: logs RUN[/STEP[/TASK]].", context_settings=SETTINGS)
    made.add_command(command("show", show, "Show what tasks printed; `show` may be left out.", params))
    return made


class _Logs(shell.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As usual, but `logs RUN` is short for `logs show RUN`."""
        known = {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if not args or args[0] in known else ["show", *args])


def _list_command(this: FlowFile) -> click.Command:
    def runs() -> None:
        from flowstore.cli.render import echo_table, runs_with_errors
        from flowstore.client import Flow, Flows

        if this.name in Flows():
            echo_table(runs_with_errors([*Flow(this.name)]))
        else:
            click.echo(_nothing(this), err=True)

    def steps(run: str | None) -> None:
        from flowstore.cli.render import echo_table, step_rows

        echo_table(step_rows(_one_run(this, run)))

    def tasks(run: str | None) -> None:
        from flowstore.cli.render import echo_table, task_rows

        echo_table(task_rows(_one_run(this, run), items=True))

    which = [click.Argument(["run"], required=False)]
    of = "of the latest run, or of the one given"
    return group(
        "list",
        "What the store has of this flow, in the current namespace.",
        [
            command("runs", runs, "List runs."),
            command("steps", steps, f"List the steps {of}.", which),
            command("tasks", tasks, f"List the tasks {of}.", which),
        ],
    )


def _nothing(this: FlowFile) -> str:
    from flowstore.client import Flows

    active = context.get_namespace()
    with context.within(None):
        elsewhere = this.name in Flows()
    hint = ' There are runs in others: --namespace ""' if elsewhere and active is not None else ""
    return f"There is no run of {this.name} in the namespace {active!r}.{hint}"


def _one_run(this: FlowFile, run: str | None) -> Any:
    from flowstore.client import Flow, Flows, Run

    if run is not None:
        return Run(f"{this.name}/{run.removeprefix(this.name + '/')}")
    if this.name not in Flows():
        raise NotFound(_nothing(this))
    return Flow(this.name).latest_run


MAKERS = {"dump": _dump_command, "logs": _logs_command, "list": _list_command}
