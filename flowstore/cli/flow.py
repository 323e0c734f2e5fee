"""`python flow.py COMMAND`: run a flow, and look at what its runs left."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowstore import context
from flowstore.cli import host, shell
from flowstore.cli.options import RUN, SETTINGS, SHARED, FlowFile, command, namespace, wrong_usage
from flowstore.errors import ParameterError
from flowstore.flow.graph import describe, to_dot
from flowstore.flow.parameters import Parameter
from flowstore.flow.spec import FlowSpec

if TYPE_CHECKING:
    from flowstore.run.snapshot import Sources


def main(flow: type[FlowSpec]) -> None:
    """The command line of a flow's file; called by `FlowSpec()`. Exits the process, if that is the flow's own."""
    where = host.name_of_host(flow)
    if where is not None:
        click.echo(host.message(flow, where), err=True)
        return
    shell.run(lambda: _group(flow), _program())


def _program() -> str:
    """How messages call this command line; a deployment runs from a temporary copy, which nobody can call."""
    called = context.called_as()
    if "FLOWSTORE_DEPLOYMENT" in os.environ and not called.startswith("python -m "):
        return f"python {Path(sys.argv[0]).name}"
    return called


def _group(flow: type[FlowSpec]) -> click.Group:
    this = FlowFile(flow)

    @click.group(
        cls=shell.Group,
        invoke_without_command=True,
        context_settings=SETTINGS,
        help=(flow.__doc__ or "").strip() or f"The flow {this.name}.",
    )
    @click.option("--branch", metavar="B", help="Isolate this version of a @project.")
    @click.option("--production", is_flag=True, help="The production branch of a @project.")
    @shell.version_option
    @click.pass_context
    def group(ctx: click.Context, /, **_options: Any) -> Any:
        if ctx.invoked_subcommand is None:
            return ctx.invoke(group.makers["check"]())
        return None

    shell.add_options(group, SHARED)
    group.makers.update((name, functools.partial(make, this)) for name, make in _MAKERS.items())
    return group


def _from_results(name: str, this: FlowFile) -> click.Command:
    from flowstore.cli import results

    return results.MAKERS[name](this)


def _from_tag(this: FlowFile) -> click.Command:
    from flowstore.cli import tag

    return tag.tag_group(this)


def _from_deploy(name: str, this: FlowFile) -> click.Command:
    from flowstore.cli import deploy

    return deploy.MAKERS[name](this)


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


def _run_command(this: FlowFile) -> click.Command:
    def run(**given: Any) -> int:
        from flowstore.run import import_start
        from flowstore.run.ownership import told_deployment

        generators = _generators(this)
        graph = this.graph()
        deployment = told_deployment()
        texts = {name: given[f"parameter_{name}"] for name in this.parameters}
        if deployment is not None:  # which knows the defaults as they were when it was made
            texts = {name: text for name, text in texts.items() if text is not None}
        values = {name: _value(this, name, text) for name, text in texts.items()}
        asked = shell.settings(click.get_current_context())
        sources = _sources(this, asked)
        executor = _executor(this, asked, sources, generators)
        start = import_start()
        with wrong_usage(ParameterError):
            code: int = start.run_flow(this.type, graph, values, _options(asked, sources, deployment), executor)
            return code

    params = [_parameter_option(parameter) for parameter in this.parameters.values()]
    made = click.Command("run", callback=run, help="Run the flow.", params=list(params))
    shell.add_options(made, (*SHARED, *RUN))
    return made


def _value(this: FlowFile, name: str, given: Any) -> Any:
    if isinstance(given, _Given):
        return given.value
    if isinstance(given, bool):
        return given
    with wrong_usage():
        return this.parameters[name].default_value(this.name, context.username())


def _resume_command(this: FlowFile) -> click.Command:
    def resume(step: str | None, origin_run_id: str | None, **_given: Any) -> int:
        from flowstore.run import import_start

        generators = _generators(this)
        graph = this.graph()
        if step is not None and step not in graph:
            raise click.UsageError(f"There is no step {step!r}; there are: {', '.join(graph.nodes)}.")
        asked = shell.settings(click.get_current_context())
        sources = _sources(this, asked)
        executor = _executor(this, asked, sources, generators)
        start = import_start()
        with wrong_usage(ParameterError):
            code: int = start.resume_flow(this.type, graph, step, origin_run_id, _options(asked, sources), executor)
            return code

    params = [
        click.Argument(["step"], required=False),
        click.Option(["--origin-run-id"], metavar="ID", help="The run to resume; default: your latest one."),
    ]
    made = _Resume("resume", callback=resume, help="Run again what did not succeed; parameters stay.", params=params)
    shell.add_options(made, (*SHARED, *RUN))
    return made


class _Resume(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As usual, but a parameter is refused with the reason."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = "A resumed run keeps its origin's parameters; to change them, use run."
            raise click.UsageError(f"{error.format_message()} {hint}", ctx) from None


def _generators(this: FlowFile) -> Any:
    """The random generators as the import left them: not even a parameter's default has drawn from them yet."""
    from flowstore.run.randomness import Generators

    return Generators(sys.modules[this.type.__module__])


def _sources(this: FlowFile, asked: Mapping[str, Any]) -> Sources:
    from flowstore.run import snapshot

    return snapshot.take(this.type, snapshot.checked_suffixes(asked["package_suffixes"]))


def _executor(this: FlowFile, asked: Mapping[str, Any], sources: Sources, generators: Any) -> Any:
    """Make what runs the tasks, before anything else of the run, which it must know nothing of."""
    from flowstore.run import checks
    from flowstore.run.executor import Setup, find_executor

    with wrong_usage():
        kind = find_executor(asked["executor"])
        checks.check_fixed_defaults(this.type)
        checks.check_schedule(this.type)
        checks.check_with(this.type, asked["with_"])
        checks.check_run_id_file(asked["run_id_file"], asked["store"])
    setup = Setup(
        flow=this.type,
        graph=this.graph(),
        sources=sources,
        generators=generators,
        address=asked["executor"].partition(":")[2],
        method=asked["start_method"],
        reuse=asked["reuse_workers"],
    )
    return kind(setup)


def _options(asked: Mapping[str, Any], sources: Sources, deployment: str | None = None) -> Any:
    from flowstore.run.start import Options

    return Options(
        store=asked["store"],
        quiet=bool(asked["quiet"]),
        namespace=namespace(asked),
        with_=asked["with_"],
        durable=bool(asked["durable"]),
        branch=asked.get("branch"),
        production=bool(asked.get("production")),
        tags=asked["tags"],
        max_workers=asked["max_workers"],
        max_num_splits=asked["max_num_splits"],
        run_id_file=asked["run_id_file"],
        sources=sources,
        deployment=deployment,
    )


# --- structure


def _show_command(this: FlowFile) -> click.Command:
    return command("show", lambda: click.echo(describe(this.graph())), "Show the flow's steps.")


def _check_command(this: FlowFile) -> click.Command:
    def check() -> None:
        from flowstore.run import checks

        this.graph()
        with wrong_usage():
            checks.check_flow(this.type)
        click.echo(f"{this.name} is valid.")

    return command("check", check, "Check that the flow is valid.")


def _dot_command(this: FlowFile) -> click.Command:
    return command("output-dot", lambda: click.echo(to_dot(this.graph())), "Print the flow's graph for Graphviz.")


_MAKERS: dict[str, Callable[[FlowFile], click.Command]] = {  # in the order of the help
    "run": _run_command,
    "resume": _resume_command,
    "show": _show_command,
    "check": _check_command,
    "output-dot": _dot_command,
    **{name: functools.partial(_from_results, name) for name in ("dump", "logs", "list")},
    "tag": _from_tag,
    **{name: functools.partial(_from_deploy, name) for name in ("deploy", "step-functions", "argo-workflows")},
}
