"""`run` and `resume`, and what can be said of a flow without running it: `show`, `check`, `output-dot`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from flowstore import context, later
from flowstore.cli.app import STORE_PATH, Command, Setting, command, import_at_rest, no_such_option, settings_of
from flowstore.cli.flow.flow_file import (
    BRANCH,
    DURABLE,
    NAMESPACE_INSIDE,
    PRODUCTION,
    QUIET,
    TRIGGER,
    WITH,
    FlowFile,
    namespace_of,
    run_options,
    wrong_usage,
)
from flowstore.errors import ParameterError
from flowstore.flow.expressions import Expression
from flowstore.flow.graph import describe, to_dot
from flowstore.flow.parameters import Parameter
from flowstore.run import caller
from flowstore.text import did_you_mean

if TYPE_CHECKING:
    from flowstore.run.ownership import Assigned
    from flowstore.run.snapshot import Sources

_SETTINGS: tuple[Setting, ...] = (STORE_PATH, QUIET, NAMESPACE_INSIDE, WITH, DURABLE, BRANCH, PRODUCTION)
_RUN_SETTINGS = (*_SETTINGS, TRIGGER)


# --- parameters as options


class _ParameterType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A flow's parameter as click sees it."""

    def __init__(self, parameter: Parameter) -> None:
        self.parameter = parameter
        self.name = parameter.type_name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that a text stands for; wrong usage where it stands for none."""
        try:
            return _Given(self.parameter.convert(value))
        except ParameterError as error:
            return self.fail(str(error), param, ctx)


class _Given:
    """A value that was given, which may itself be `None`, as JSON's null is."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _parameter_option(parameter: Parameter) -> click.Option:
    names = [f"--{parameter.name.replace('_', '-')}", f"parameter_{parameter.attribute}"]
    shown = "" if parameter.default is None or callable(parameter.default) else f"  [default: {parameter.default}]"
    if parameter.is_flag:
        return click.Option(
            names, is_flag=True, default=None, envvar=parameter.environment_variables, help=parameter.help
        )
    return click.Option(
        names,
        type=_ParameterType(parameter),
        required=parameter.required and parameter.default is None,
        envvar=parameter.environment_variables,
        metavar=parameter.type_name.upper(),
        help=(parameter.help + shown).strip() or None,
    )


@functools.cache
def _parameter_options(this: FlowFile) -> list[click.Option]:
    options = [_parameter_option(parameter) for parameter in this.parameters.values()]
    given = {f"parameter_{name}" for name in _values_of_caller(this)}
    for option in options:
        option.required = option.required and option.name not in given
    return options


class _Run(Command):
    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters of the flow as options, and `run`'s own."""
        return [*_parameter_options(ctx.obj), *super().get_params(ctx)]


@functools.cache
def _values_of_caller(this: FlowFile) -> dict[str, _Given]:
    """Return the values of parameters that a program has given, which are no texts.

    Raises:
        click.UsageError: the flow has no such parameter, or the value does not fit.
    """
    exchange = caller.calling()
    if exchange is None:
        return {}
    known = {parameter.name.replace("-", "_"): parameter for parameter in this.parameters.values()}
    values: dict[str, _Given] = {}
    for name, value in exchange.values().items():
        if name not in known:
            options = {parameter.name for parameter in click.get_current_context().command.params}
            near = did_you_mean(name, {*known, *filter(None, options)})
            there = ", ".join(known) or "none"
            raise click.UsageError(f"{name!r} is no parameter of {this.name}, nor an option.{near} It has: {there}.")
        with wrong_usage(ParameterError):
            values[known[name].attribute] = _Given(known[name].convert(value))
    return values


# --- run and resume


@command(*_RUN_SETTINGS, cls=_Run)
@run_options
def run(this: FlowFile, **given: Any) -> int:
    """Run the flow.

    Exits with 0 if the run succeeded, 1 if it failed, and 130 if Ctrl-C stopped it.

    Example:
        python flow.py run --tag baseline --max-workers 4
    """
    generators = _generators(this)
    graph = this.graph
    deployment = this.deployment
    texts = {name: given[f"parameter_{name}"] for name in this.parameters} | _values_of_caller(this)
    if deployment is not None:  # which knows the defaults as they were when it was made
        texts = {name: text for name, text in texts.items() if text is not None}
    values = {name: _value(this, name, text) for name, text in texts.items()}
    options = settings_of(click.get_current_context())
    sources = sources_of(this, options)
    executor = _executor(this, options, sources, generators)
    start = import_at_rest("flowstore.run.start")
    with wrong_usage(ParameterError):
        code: int = start.run_flow(this.type, graph, values, _options(options, sources, deployment), executor)
    return code


def _value(this: FlowFile, name: str, given: Any) -> Any:
    if isinstance(given, _Given):
        return given.value
    if isinstance(given, bool):
        return given
    with wrong_usage():
        return this.parameters[name].default_value(this.name, context.username())


class _Resume(Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as usual, but refuse a parameter with the reason."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = "A resumed run keeps its origin's parameters; to change them, use run."
            raise click.UsageError(f"{no_such_option(error)} {hint}", ctx) from None


@command(*_SETTINGS, cls=_Resume)
@click.argument("step", required=False)
@click.option("--origin-run-id", metavar="RUN", help="The run to resume; default: your latest one.")
@run_options
def resume(this: FlowFile, step: str | None, origin_run_id: str | None, **_given: Any) -> int:
    """Run again what did not succeed.

    A new run takes over the tasks that succeeded, with the parameters of the run that is resumed. If STEP is given,
    that step and all steps after it run again, too. RUN is 5, latest or latest-successful.

    Example:
        python flow.py resume --origin-run-id 5
    """
    generators = _generators(this)
    named = origin_run_id is not None
    options, origin_run_id = this.configure_as_origin(settings_of(click.get_current_context()), origin_run_id)
    graph = this.graph
    deployment = this.deployment
    if step is not None and step not in graph:
        near = did_you_mean(step, graph.nodes)
        raise click.UsageError(f"There is no step {step!r}.{near} The steps are: {', '.join(graph.nodes)}.")
    sources = sources_of(this, options)
    executor = _executor(this, options, sources, generators)
    start = import_at_rest("flowstore.run.start")
    with wrong_usage(ParameterError):
        wish = _options(options, sources, deployment)
        code: int = start.resume_flow(this.type, graph, step, origin_run_id, wish, executor, named=named)
    return code


def _generators(this: FlowFile) -> Any:
    """Return the random generators as the import left them: not even a parameter's default has drawn from them yet."""
    from flowstore.run.randomness import Generators

    return Generators(sys.modules[this.type.__module__])


def sources_of(this: FlowFile, options: Mapping[str, Any]) -> Sources:
    """Return the flow's source files, with the values of its configs, once its decorators are checked."""
    from flowstore.run import checks, snapshot

    with wrong_usage():
        checks.check_decorators(this.type, options["with_"])  # which may import modules of the flow

    sources = snapshot.take(this.type, snapshot.checked_suffixes(options.get("package_suffixes", ())))
    if not Expression.are_used:
        return sources
    from flowstore.run import configs

    return later.evolve(sources, configs=configs.packed(this.type))


def _executor(this: FlowFile, options: Mapping[str, Any], sources: Sources, generators: Any) -> Any:
    """Return the executor, which is made before all else of the run: its processes must not inherit any of that."""
    from flowstore.run import checks
    from flowstore.run.executor import Setup, choose

    with wrong_usage():
        choice = choose(options["executor"], options["executor_options"])
        checks.check_fixed_defaults(this.type)
        checks.check_schedule(this.type)
        checks.check_run_id_file(options["run_id_file"], options["store"])
    setup = Setup(
        flow=this.type,
        graph=this.graph,
        sources=sources,
        generators=generators,
        address=choice.address,
        options=choice.options,
        with_=options["with_"],
        max_workers=options["max_workers"],
        method=options["start_method"],
        reuse=options["reuse_workers"],
    )
    return choice.kind(setup)


def _options(options: Mapping[str, Any], sources: Sources, deployment: Assigned | None) -> Any:
    from flowstore.run.start import Options

    return Options(
        store=options["store"],
        quiet=bool(options["quiet"]),
        namespace=namespace_of(options["namespace"]),
        with_=options["with_"],
        durable=bool(options["durable"]),
        branch=options.get("branch"),
        production=bool(options.get("production")),
        tags=options["tags"],
        max_workers=options["max_workers"],
        max_num_splits=options["max_num_splits"],
        run_id_file=options["run_id_file"],
        sources=sources,
        deployment=deployment,
        triggers=options.get("trigger", ()),
    )


# --- structure


@command()
def show(this: FlowFile) -> None:
    """Show the flow's steps.

    Example:
        python flow.py show
    """
    click.echo(describe(this.graph))


@command(WITH)
def check(this: FlowFile, with_: tuple[str, ...]) -> None:
    """Check that the flow is valid, without running it.

    Example:
        python flow.py check
    """
    from flowstore.run import checks

    graph = this.graph
    with wrong_usage():
        checks.check_flow(this.type)
        checks.check_decorators(this.type, with_)
    for sentence in checks.secrets_in_source(this.type, with_):
        click.echo(f"Warning: {sentence}", err=True)
    click.echo(f"{graph.flow} is valid.")


@command()
def output_dot(this: FlowFile) -> None:
    """Print the flow's graph for Graphviz.

    Example:
        python flow.py output-dot
    """
    click.echo(to_dot(this.graph))
