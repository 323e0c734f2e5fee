"""The flow that a flow's command line is about, and the settings and options that its commands share."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from flowstore import context
from flowstore.cli.app import STORE, Command, Setting
from flowstore.errors import FlowstoreError, InvalidPathspec
from flowstore.flow import init
from flowstore.flow.attached import has_mutators, prepare
from flowstore.flow.expressions import Delayed, Expression
from flowstore.flow.graph import Graph, graph_of
from flowstore.flow.parameters import Parameter, check_names, parameters_of
from flowstore.flow.spec import FlowSpec

if TYPE_CHECKING:
    from flowstore.run.ownership import Assigned
    from flowstore.sqlite.database import Database

# --- settings


def _check_namespace(_ctx: click.Context, _option: click.Parameter, given: str | None) -> str | None:
    """Validate `--namespace` early: a run's first process is forked before anything else is done."""
    context.checked_namespace(given or None)
    return given


def _look_into(given: str | None) -> None:
    if given is not None:
        context.namespace(given or None)


_namespace = functools.partial(click.Option, ["--namespace"], metavar="TAG", callback=_check_namespace)

QUIET = Setting(
    "quiet",
    (click.Option(["--quiet"], is_flag=True, default=None, help="Print only warnings, errors and what tasks print."),),
    default=False,
    everywhere=True,
)
NAMESPACE = Setting(
    "namespace", (_namespace(help="Look only in this namespace; an empty TAG means all."),), apply=_look_into
)
NAMESPACE_INSIDE = Setting(
    "namespace", (_namespace(help="The namespace that the Client sees inside tasks; empty: all of the store."),)
)
_WITH = click.Option(
    ["--with", "with_"], metavar="DECO", multiple=True, help="Decorate every step, as in retry:times=4."
)
WITH = Setting("with_", (_WITH,), default=())
DURABLE = Setting(
    "durable",
    (click.Option(["--durable"], is_flag=True, default=None, help="Lose nothing in a power cut: wait for the disk."),),
    default=False,
)
BRANCH = Setting("branch", (click.Option(["--branch"], metavar="B", help="The branch of a @project."),), after=False)
PRODUCTION = Setting(
    "production",
    (click.Option(["--production"], is_flag=True, help="The production branch of a @project."),),
    default=False,
    after=False,
)
CONFIG, CONFIG_VALUE = (
    Setting(
        name.replace("-", "_"),
        (click.Option([f"--{name}"], nargs=2, multiple=True, metavar=metavar, help=help_),),
        default=(),
        everywhere=True,
        after=False,
    )
    for name, metavar, help_ in (
        ("config", "NAME FILE", "Read a Config of the flow from a file."),
        ("config-value", "NAME JSON", "Give the value of a Config."),
    )
)
TRIGGER = Setting(
    "trigger",
    (
        click.Option(
            ["--trigger"], metavar="FLOW/RUN", multiple=True, help="Run as if the end of this run had started it."
        ),
    ),
    default=(),
    after=False,
)
SETTINGS = (BRANCH, PRODUCTION, TRIGGER, CONFIG, CONFIG_VALUE, STORE, QUIET, NAMESPACE, WITH, DURABLE)


def namespace_of(given: str | None) -> str | context.Unset | None:
    """Return what --namespace asks for: a tag, `None` for everything, `UNSET` where it is not given.

    >>> namespace_of("xyz"), namespace_of("")
    ('xyz', None)
    """
    return context.UNSET if given is None else (given or None)


# --- options of `run`, whose names parameters cannot have

package_suffixes = click.option(
    "--package-suffixes", multiple=True, metavar=".A,.B", help="Keep such files with the code, too: .sql,.yaml"
)


def executor_option(default: str | None) -> Callable[[Any], Any]:
    """Return the option that says where tasks run."""
    return click.option(
        "--executor", envvar="FLOWSTORE_EXECUTOR", default=default, show_default=True, metavar="WHERE",
        help="Where tasks run: local, dask, dask:tcp://HOST:8786, dask:SCHEDULER-FILE or slurm.",
    )  # fmt: skip


executor_options = click.option(
    "--executor-option", "executor_options", multiple=True, metavar="NAME=VALUE",
    help="An option of the executor, such as lease=60; may be repeated.",
)  # fmt: skip
_RUN_OPTIONS = (
    click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag the run; may be repeated."),
    click.option("--max-workers", type=click.IntRange(1), metavar="N",
                 help="How many tasks run at a time; default: one per core."),
    click.option("--max-num-splits", type=click.IntRange(1), default=10_000, show_default=True, metavar="N",
                 help="The most tasks of one foreach."),
    click.option("--run-id-file", type=click.Path(dir_okay=False), metavar="F", help="Write the run's id here."),
    executor_option("local"),
    executor_options,
    click.option("--reuse-workers", is_flag=True, help="Tasks of a step may share a process: faster, less isolated."),
    package_suffixes,
    click.option("--start-method", type=click.Choice(["fork", "spawn"]), help="How task processes start."),
)  # fmt: skip


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `run` and `resume` share."""
    return functools.reduce(lambda decorated, option: option(decorated), reversed(_RUN_OPTIONS), function)


def _reserved_names() -> frozenset[str]:
    """Return the names of `run`'s own options."""
    options = [*Command("run", run_options(lambda: None), SETTINGS).params]
    return frozenset(
        {"help", "branch", "production", *(name.lstrip("-") for option in options for name in option.opts)}
    )


# --- the flow


class FlowFile:
    """The flow's class, its parameters as options, and its graph, which is read once."""

    def __init__(self, flow: type[FlowSpec]) -> None:
        self.type = flow
        self.name = flow.__name__

    @functools.cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The flow's parameters by attribute, checked: mutators, which may read configs, have added theirs."""
        with wrong_usage():
            prepare(self.type)
        parameters = parameters_of(self.type)
        check_names(parameters, _reserved_names())
        return parameters

    @functools.cached_property
    def deployment(self) -> Assigned | None:
        """The deployment that this process was started to run, if any."""
        from flowstore.run.ownership import assigned_deployment

        return assigned_deployment()

    def configure_project(self, settings: Mapping[str, Any]) -> None:
        """Find out the flow's project: configs are settled and mutators asked where it may depend on them."""
        if has_mutators(self.type) or any(isinstance(item, Delayed) for item in self.type._flow_decorators):
            self.configure(settings)
            with wrong_usage():
                prepare(self.type)

    def configure(self, settings: Mapping[str, Any], stored: Mapping[str, Any] | None = None) -> None:
        """Fix the values of the flow's configs, and all that depends on them.

        Args:
            settings: the options before the command.
            stored: the values that are known already, as those of a run that is resumed.

        Raises:
            click.UsageError: a value is missing or wrong, or something refuses it.
        """
        files, texts = dict(settings["config"]), dict(settings["config_value"])
        if not (Expression.are_used or files or texts):
            return
        from flowstore.flow import configs

        with wrong_usage():
            configs.settle(self.type, configs.read_values(self.type, files, texts, context.username(), stored or {}))

    def configure_deployed(self, settings: Mapping[str, Any]) -> None:
        """Fix the values of the flow's configs as they were deployed."""
        if self.deployment is None or not Expression.are_used:
            self.configure(settings)
            return
        from flowstore.run import configs, ownership
        from flowstore.store.opening import open_store

        # one reading transaction, so that what is compared with the assignment is what is taken
        with contextlib.closing(open_store(settings["store"])) as store, store.read():
            deployed = ownership.deployed(store, self.deployment).deployment
            assert deployed is not None
            stored = configs.of_deployment(store, deployed)
        self.configure(settings, stored)

    def configure_as_origin(
        self, settings: Mapping[str, Any], origin_run_id: str | None
    ) -> tuple[Mapping[str, Any], str | None]:
        """Fix the values of the flow's configs as they are in the run to resume.

        Returns:
            The settings, with the store that was chosen, and the id of the run, where it had to be found for this:
            the latest run may be another one by the time it is resumed.
        """
        if settings["config"] or settings["config_value"]:
            raise click.UsageError("A resumed run keeps its origin's configs. To change them, use run.")
        if not Expression.are_used:
            return settings, origin_run_id
        from flowstore.run import resume
        from flowstore.store.opening import find_path, open_store

        path = settings["store"] or find_path()
        if path is None:
            self.configure(settings)
            return settings, origin_run_id
        with contextlib.closing(open_store(path)) as store:
            run_id = resume.find_origin(store, self.name, origin_run_id)
            self.configure_as_run(settings, store, run_id)
        return {**settings, "store": str(path)}, str(run_id)

    def configure_as_run(self, settings: Mapping[str, Any], store: Database, run_id: int) -> None:
        """Fix the values of the flow's configs as they are in a run, but for those that are given."""
        if not Expression.are_used:
            self.configure(settings)
            return
        from flowstore.flow.configs import configs_of
        from flowstore.run import configs

        given = {name for name, _ in (*settings["config"], *settings["config_value"])}
        names = {attribute: item.name for attribute, item in configs_of(self.type).items()}
        stored = configs.of_run(store, self.type, run_id)
        self.configure(settings, {name: value for name, value in stored.items() if names[name] not in given})

    @functools.cached_property
    def graph(self) -> Graph:
        """The steps, checked."""
        from flowstore.flow.lint import check
        from flowstore.flow.members import check_members

        _ = self.parameters
        check_members(self.type)
        graph = graph_of(self.type)
        check(graph)
        init.check(self.type)
        return graph

    def find(self, address: str, *kinds: type[Any], everywhere: bool = False) -> Any:
        """Return what an address stands for.

        Args:
            address: a run's id or `latest`, and what is below it; the flow's name may come first.
            kinds: the classes of the Client that it may address.
            everywhere: whether it may be outside the active namespace; `latest` always looks there.

        Raises:
            click.UsageError: it has another form.
            NotFound: there is no such object.
            NamespaceMismatch: it is outside the active namespace.
        """
        from flowstore.client import addresses
        from flowstore.client.store import seen

        text = address if address == self.name else f"{self.name}/{address.removeprefix(f'{self.name}/')}"
        scope = addresses.active_scope()
        with wrong_usage(InvalidPathspec):
            pathspec = addresses.resolve(scope, text, [kind._DEPTH for kind in kinds])
            return seen(scope.store, None if everywhere else context.UNSET).find(pathspec, *kinds)


@contextlib.contextmanager
def wrong_usage(kind: type[FlowstoreError] = FlowstoreError) -> Iterator[None]:
    """Report errors of a kind, which are about what was asked for, as wrong usage: exit code 2."""
    try:
        yield
    except kind as error:
        raise click.UsageError(str(error)) from None
