"""`dump`, `logs` and `list`: what a flow's runs left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import click

from flowstore import context, later
from flowstore.cli import logs as log
from flowstore.cli import output
from flowstore.cli.app import STORE, Group, command, gather
from flowstore.cli.flow.flow_file import NAMESPACE, FlowFile
from flowstore.client import DataArtifact, Flow, Flows, Run, Step, Task
from flowstore.client.rows import tasks_of
from flowstore.errors import ArtifactError, NotFound, UntrustedArtifact
from flowstore.text import counted, safe

# --- dump


@later.frozen
class _Choice:
    """A choice of artifacts: those that are named, or all, with or without those that begin with an underscore."""

    include: str | None
    private: bool

    @property
    def names(self) -> set[str]:
        """The names that are asked for; empty: all."""
        return set(self.include.split(",")) if self.include else set()

    def of(self, task: Task) -> dict[str, DataArtifact]:
        """Return the chosen artifacts of a task, by name."""
        names = [name for name in task._blobs() if self.private or not name.startswith("_")]
        return {name: task[name] for name in names if not self.names or name in self.names}


@command(STORE, NAMESPACE)
@click.argument("pathspec", metavar="RUN/STEP[/TASK]")
@click.option("--include", metavar="A,B", help="Only these artifacts.")
@click.option(
    "--max-value-size",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    metavar="N",
    help="Show values of at most N bytes, else their preview.",
)
@click.option("--private", is_flag=True, help="Also artifacts that begin with an underscore.")
@click.option(
    "--file", type=click.Path(dir_okay=False, path_type=Path), metavar="F", help="Write them to this file, as a pickle."
)
@gather(choice=_Choice)
def dump(this: FlowFile, pathspec: str, choice: _Choice, max_value_size: int, file: Path | None) -> None:
    """Show the artifacts of a step's tasks, or of one task.

    RUN is 5, latest or latest-successful; TASK is 17 or latest.

    Example:
        python flow.py dump 5/train/17 --include model,accuracy
    """
    of = this.find(pathspec, Step, Task, everywhere=True)
    chosen = {task.pathspec: choice.of(task) for task in tasks_of(of)}
    missing = choice.names - {name for artifacts in chosen.values() for name in artifacts}
    if missing:
        click.echo(safe(f"{pathspec} has no artifact {', '.join(sorted(missing))}."), err=True)
    if file is not None:
        _dump_to_file(chosen, file)
    else:
        for task_path, artifacts in chosen.items():
            _print_artifacts(task_path, artifacts, max_value_size)


def _print_artifacts(pathspec: str, artifacts: Mapping[str, DataArtifact], max_value_size: int) -> None:
    click.echo(safe(f"{pathspec}:"))
    for name, artifact in artifacts.items():
        shown = f"{artifact.preview}  ({artifact.type}, {counted(artifact.size, 'byte')})"
        if artifact.size <= max_value_size:
            try:
                shown = repr(artifact.data)
            except (UntrustedArtifact, ArtifactError) as error:
                shown += f"\n    {str(error).splitlines()[0]}"
        click.echo(safe(f"  {name} = {shown}"))


def _dump_to_file(chosen: Mapping[str, Mapping[str, DataArtifact]], file: Path) -> None:
    import cloudpickle

    from flowstore.sqlite import outputs

    outputs.check(file)
    values = {task: {name: item.data for name, item in artifacts.items()} for task, artifacts in chosen.items()}
    with outputs.replaced(file) as temporary:
        temporary.write_bytes(cloudpickle.dumps(values))
    click.echo(f"Wrote {counted(sum(map(len, values.values())), 'artifact')} to {file}.", err=True)


# --- logs


@command(STORE, NAMESPACE, name="show")
@click.argument("pathspec", metavar="RUN[/STEP[/TASK]]")
@log.with_options
@gather(wish=log.Wish)
def show_logs(this: FlowFile, pathspec: str, wish: log.Wish, follow: bool) -> None:
    """Show what the tasks of a run, step or task printed.

    The word `show` may be left out. RUN is 5, latest or latest-successful; TASK is 17 or latest.

    Example:
        python flow.py logs show 5/train --timestamps
    """
    of, bare = this.find(pathspec, Run, Step, Task, everywhere=True), attrs.evolve(wish, bare=True)
    if follow:
        log.show_as_it_comes(of, bare)
    else:
        log.show(tasks_of(of), bare)


class _Logs(Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as usual, but take `logs RUN` for `logs show RUN`."""
        known = {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if not args or args[0] in known else ["show", *args])


logs = _Logs(
    "logs",
    [show_logs],
    help="Show what tasks printed.\n\nRUN is 5, latest or latest-successful; TASK is 17 or latest.",
    example="python flow.py logs 5/train",
)


# --- list


@command(STORE, NAMESPACE, name="runs")
def list_runs(this: FlowFile) -> None:
    """List the runs of this flow, newest first.

    Example:
        python flow.py list runs
    """
    if this.name in Flows():
        output.echo_table(output.runs_with_errors([*Flow(this.name)]))
    else:
        click.echo(_nothing(this), err=True)


@command(STORE, NAMESPACE, name="steps")
@click.argument("run", required=False)
def list_steps(this: FlowFile, run: str | None) -> None:
    """List the steps of the latest run, or of RUN.

    RUN is 5, latest or latest-successful.

    Example:
        python flow.py list steps 5
    """
    output.echo_table(output.step_rows(_one_run(this, run)))


@command(STORE, NAMESPACE, name="tasks")
@click.argument("run", required=False)
def list_tasks(this: FlowFile, run: str | None) -> None:
    """List the tasks of the latest run, or of RUN.

    RUN is 5, latest or latest-successful.

    Example:
        python flow.py list tasks 5
    """
    output.echo_table(output.task_rows(_one_run(this, run)))


_LISTS: Sequence[click.Command] = (list_runs, list_steps, list_tasks)
list_ = Group(
    "list",
    _LISTS,
    help="List runs, steps or tasks of this flow.\n\nRuns are those in the current namespace.",
    example="python flow.py list runs",
)


def _nothing(this: FlowFile) -> str:
    active = context.get_namespace()
    with context.within(None):
        elsewhere = this.name in Flows()
    hint = ' There are runs in others: --namespace ""' if elsewhere and active is not None else ""
    return f"There is no run of {this.name} in the namespace {active!r}.{hint}"


def _one_run(this: FlowFile, run: str | None) -> Any:
    if run is not None:
        return this.find(run, Run)
    if this.name not in Flows():
        raise NotFound(_nothing(this))
    return Flow(this.name).latest_run
