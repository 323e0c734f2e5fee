"""`python flow.py COMMAND`: run a flow, and look at what its runs left."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from flowstore import context
from flowstore.cli import shell
from flowstore.cli.shell import safe
from flowstore.errors import NotFound, ParameterError
from flowstore.flow.graph import Graph, describe, graph_of, to_dot
from flowstore.flow.parameters import Parameter, check_names, parameters_of
from flowstore.flow.spec import FlowSpec

SETTINGS = {"token_normalize_func": lambda name: name.replace("_", "-"), "help_option_names": ["-h", "--help"]}


def main(flow: type[FlowSpec]) -> None:
    """The command line of a flow's file; called by `FlowSpec()`. Exits the process."""
    if "FLOWSTORE_WORKER" in os.environ:
        if os.environ["FLOWSTORE_FLOW"] == flow.__name__:
            from flowstore.run import worker

            worker.spawned(flow, graph_of(flow))
        return
    shell.run(_group(flow), None, f"python {Path(sys.argv[0]).name}")


class _Flow:
    """What the commands need: the flow's class, and its graph, read once."""

    def __init__(self, flow: type[FlowSpec]) -> None:
        self.type = flow
        self.name = flow.__name__
        self.parameters = parameters_of(flow)
        self._graph: Graph | None = None

    def graph(self) -> Graph:
        """The steps, checked."""
        from flowstore.flow.lint import check

        if self._graph is None:
            self._graph = graph_of(self.type)
            check(self._graph)
            check_names(self.parameters, _run_options())
        return self._graph


_SHARED = (
    click.option("--store", metavar="PATH", help="The store's file."),
    click.option("--quiet", is_flag=True, default=None, help="No banner and no progress."),
    click.option("--namespace", metavar="TAG", default=None, help="What the Client sees inside; empty: everything."),
    click.option("--with", "with_", metavar="DECO", multiple=True, help="Decorate every step, as in retry:times=4."),
    click.option("--durable", is_flag=True, default=None, help="Lose nothing at a power cut either."),
)

_RUN = (
    click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag the run; may be repeated."),
    click.option("--max-workers", type=click.IntRange(1), metavar="N", help="Tasks at a time; default: the cores."),
    click.option("--max-num-splits", type=click.IntRange(1), default=10_000, show_default=True, metavar="N",
                 help="The most tasks of one foreach."),
    click.option("--run-id-file", type=click.Path(dir_okay=False), metavar="F", help="Write the run's id here."),
    click.option("--reuse-workers", is_flag=True, help="Tasks of a step may share a process: faster, less isolated."),
    click.option("--start-method", type=click.Choice(["fork", "spawn"]), help="How task processes start."),
)  # fmt: skip


def _run_options() -> frozenset[str]:
    command = _decorated(click.Command("run"), (*_SHARED, *_RUN))
    names = {name for parameter in command.params for name in parameter.opts}
    return frozenset({*(name.lstrip("-") for name in names), "help", "branch", "production"})


def _decorated(command: click.Command, options: Sequence[shell.Option]) -> click.Command:
    shell.add_options(command, options)
    return command


def _group(flow: type[FlowSpec]) -> click.Group:
    this = _Flow(flow)

    @click.group(
        cls=shell.Group,
        invoke_without_command=True,
        context_settings=SETTINGS,
        help=(flow.__doc__ or "").strip() or f"The flow {this.name}.",
    )
    @click.option("--branch", metavar="B", help="Isolate this version of a @project.")
    @click.option("--production", is_flag=True, help="The production branch of a @project.")
    @click.pass_context
    def group(ctx: click.Context, /, **_options: Any) -> Any:
        if ctx.invoked_subcommand is None:
            return ctx.invoke(commands["check"])
        return None

    commands = {command.name: command for command in _commands(this)}
    _decorated(group, _SHARED)
    for command in commands.values():
        if command.name in {"run", "resume"}:
            _decorated(command, (*_SHARED, *_RUN))
        else:
            _decorated(command, _SHARED[:3])
        group.add_command(command)
    return group


def _commands(this: _Flow) -> Iterator[click.Command]:
    yield _run_command(this)
    yield _resume_command(this)
    yield _command("show", _show(this), "Show the flow's steps.")
    yield _command("check", _check(this), "Check that the flow is valid.")
    yield _command("output-dot", _dot(this), "Print the flow's graph for Graphviz.")
    yield _dump_command(this)
    yield _logs_command(this)
    yield _list_command(this)


def _command(name: str, callback: Callable[..., Any], help_: str, params: Any = ()) -> click.Command:
    """A command that accepts the shared options; `callback` is given its own parameters only."""

    def call(**given: Any) -> Any:
        _apply(click.get_current_context())
        own = {key: value for key, value in given.items() if key not in _SHARED_NAMES}
        return callback(**own)

    return click.Command(name, callback=call, help=help_, params=list(params))


_SHARED_NAMES = frozenset({"store", "quiet", "namespace", "with_", "durable"})


def _apply(ctx: click.Context) -> None:
    """Open the store that is asked for, and switch to the namespace."""
    from flowstore.store.locate import use_store

    settings = shell.settings(ctx)
    if settings.get("store"):
        use_store(settings["store"])
    if settings.get("namespace") is not None:
        context.namespace(settings["namespace"] or None)


# --- run and resume


class _ParameterType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A flow's parameter as click sees it."""

    def __init__(self, parameter: Parameter) -> None:
        self.parameter = parameter
        self.name = parameter.type_name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value that a text stands for; wrong usage where it stands for none."""
        try:
            return _Given(self.parameter.convert(value))
        except ParameterError as error:
            return self.fail(str(error), param, ctx)


class _Given:
    """A value that was given, which may itself be `None`, as JSON's null is."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _parameter_option(parameter: Parameter) -> click.Option:
    names = [f"--{parameter.name.replace('_', '-')}", f"parameter:{parameter.attribute}".replace(":", "_")]
    shown = "" if parameter.default is None or callable(parameter.default) else f"  [default: {parameter.default}]"
    if parameter.is_flag:
        return click.Option(
            names, is_flag=True, default=None, envvar=parameter.environment_variable, help=parameter.help
        )
    return click.Option(
        names,
        type=_ParameterType(parameter),
        required=parameter.required and parameter.default is None,
        envvar=parameter.environment_variable,
        metavar=parameter.type_name.upper(),
        help=(parameter.help + shown).strip() or None,
    )


def _run_command(this: _Flow) -> click.Command:
    def run(**given: Any) -> int:
        from flowstore.run.start import run_flow

        graph = this.graph()
        values = {name: _value(this, name, given[f"parameter_{name}"]) for name in this.parameters}
        return run_flow(this.type, graph, values, _options(click.get_current_context()))

    params = [_parameter_option(parameter) for parameter in this.parameters.values()]
    return click.Command("run", callback=run, help="Run the flow.", params=list(params))


def _value(this: _Flow, name: str, given: Any) -> Any:
    if isinstance(given, _Given):
        return given.value
    if isinstance(given, bool):
        return given
    try:
        return this.parameters[name].default_value(this.name, context.username())
    except ParameterError as error:
        raise click.UsageError(str(error)) from None


def _resume_command(this: _Flow) -> click.Command:
    def resume(step: str | None, origin_run_id: str | None, **_given: Any) -> int:
        from flowstore.run.start import resume_flow

        graph = this.graph()
        if step is not None and step not in graph:
            raise click.UsageError(f"There is no step {step!r}; there are: {', '.join(graph.nodes)}.")
        return resume_flow(this.type, graph, step, origin_run_id, _options(click.get_current_context()))

    params = [
        click.Argument(["step"], required=False),
        click.Option(["--origin-run-id"], metavar="ID", help="The run to resume; default: your latest one."),
    ]
    return _Resume("resume", callback=resume, help="Run again what did not succeed; parameters stay.", params=params)


class _Resume(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As usual, but a parameter is refused with the reason."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = "A resumed run keeps its origin's parameters; to change them, use run."
            raise click.UsageError(f"{error.format_message()} {hint}", ctx) from None


def _options(ctx: click.Context) -> Any:
    from flowstore.run.start import Options

    found = shell.settings(ctx)
    namespace = found["namespace"]
    return Options(
        store=found["store"],
        quiet=bool(found["quiet"]),
        namespace=context.DEFAULT if namespace is None else (namespace or None),
        with_=found["with_"],
        durable=bool(found["durable"]),
        branch=found.get("branch"),
        production=bool(found.get("production")),
        tags=found["tags"],
        max_workers=found["max_workers"],
        max_num_splits=found["max_num_splits"],
        run_id_file=found["run_id_file"],
        reuse_workers=found["reuse_workers"],
        start_method=found["start_method"],
    )


# --- structure


def _show(this: _Flow) -> Callable[[], None]:
    return lambda: click.echo(describe(this.graph()))


def _check(this: _Flow) -> Callable[[], None]:
    def check() -> None:
        this.graph()
        click.echo(f"{this.name} is valid.")

    return check


def _dot(this: _Flow) -> Callable[[], None]:
    return lambda: click.echo(to_dot(this.graph()))


# --- results


def _tasks(this: _Flow, pathspec: str) -> list[Any]:
    """The tasks that RUN, RUN/STEP or RUN/STEP/TASK addresses, in whichever namespace, in the order of their ids."""
    from flowstore.cli.render import tasks_of
    from flowstore.client import Run, Step, Task

    parts = pathspec.removeprefix(f"{this.name}/").split("/")
    if len(parts) > 3:
        raise click.UsageError(f"{pathspec!r} is not of the form RUN, RUN/STEP or RUN/STEP/TASK.")
    kind = (Run, Step, Task)[len(parts) - 1]
    with context.everything():
        return tasks_of(kind("/".join([this.name, *parts])))


def _dump_command(this: _Flow) -> click.Command:
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
    return _command("dump", dump, "Show the artifacts of tasks.", params)


def _print_artifacts(pathspec: str, artifacts: dict[str, Any], max_value_size: int) -> None:
    from flowstore.errors import ArtifactError, UntrustedArtifact

    click.echo(f"{pathspec}:")
    for name, artifact in artifacts.items():
        shown = f"{artifact.preview}  ({artifact.type}, {artifact.size} bytes)"
        if artifact.size <= max_value_size:
            try:
                shown = repr(artifact.data)
            except (UntrustedArtifact, ArtifactError) as error:
                shown += f"\n    {str(error).splitlines()[0]}"
        click.echo(safe(f"  {name} = {shown}"))


def _dump_to_file(found: dict[str, dict[str, Any]], file: Path) -> None:
    import cloudpickle

    values = {task: {name: item.data for name, item in artifacts.items()} for task, artifacts in found.items()}
    file.write_bytes(cloudpickle.dumps(values))
    click.echo(f"Wrote {sum(map(len, values.values()))} artifacts to {file}.", err=True)


def _logs_command(this: _Flow) -> click.Command:
    def show(pathspec: str, stdout: bool, stderr: bool, timestamps: bool, attempt: int | None) -> None:
        from flowstore.cli.render import print_log, streams

        with context.everything():
            chosen = streams(stdout=stdout, stderr=stderr)
            print_log(_tasks(this, pathspec), chosen, timestamps=timestamps, attempt=attempt)

    params = [
        click.Argument(["pathspec"], metavar="RUN[/STEP[/TASK]]"),
        click.Option(["--stdout"], is_flag=True, help="Only stdout."),
        click.Option(["--stderr"], is_flag=True, help="Only stderr."),
        click.Option(["--timestamps"], is_flag=True, help="Begin each line with its time, in UTC."),
        click.Option(
            ["--attempt"], type=click.IntRange(0), metavar="N", help="Of this attempt, from 0; default: the last."
        ),
    ]
    group = click.Group("logs", help="What tasks printed.", context_settings=SETTINGS)
    command = _command("show", show, "Show what tasks printed.", params)
    group.add_command(_decorated(command, _SHARED[:3]))
    return group


def _list_command(this: _Flow) -> click.Command:
    group = click.Group(
        "list", help="What the store has of this flow, in the current namespace.", context_settings=SETTINGS
    )

    def runs() -> None:
        from flowstore.cli.render import echo_table, run_rows
        from flowstore.client import Flow, Flows

        if this.name in Flows():
            echo_table(run_rows(Flow(this.name)))
        else:
            click.echo(_nothing(this), err=True)

    def steps(run: str | None) -> None:
        from flowstore.cli.render import echo_table, step_rows

        echo_table(step_rows(_one_run(this, run)))

    def tasks(run: str | None) -> None:
        from flowstore.cli.render import echo_table, task_rows, tasks_of

        echo_table(task_rows(tasks_of(_one_run(this, run))))

    which = [click.Argument(["run"], required=False)]
    for name, callback, params in (("runs", runs, []), ("steps", steps, which), ("tasks", tasks, which)):
        of = "" if name == "runs" else ", of the latest run or the one given"
        command = _command(name, callback, f"List {name}{of}.", params)
        group.add_command(_decorated(command, _SHARED[:3]))
    return group


def _nothing(this: _Flow) -> str:
    from flowstore.client import Flows

    active = context.get_namespace()
    with context.everything():
        elsewhere = this.name in Flows()
    hint = ' There are runs in others: --namespace ""' if elsewhere and active is not None else ""
    return f"There is no run of {this.name} in the namespace {active!r}.{hint}"


def _one_run(this: _Flow, run: str | None) -> Any:
    from flowstore.client import Flow, Flows, Run

    if run is not None:
        return Run(f"{this.name}/{run.removeprefix(this.name + '/')}")
    if this.name not in Flows():
        raise NotFound(_nothing(this))
    return Flow(this.name).latest_run
