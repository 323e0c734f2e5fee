"""What the commands of a flow's command line share: options, and the flow that they are about."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import click

from flowstore import context
from flowstore.cli import shell
from flowstore.errors import FlowstoreError
from flowstore.flow import init
from flowstore.flow.graph import Graph, graph_of
from flowstore.flow.parameters import check_names, parameters_of
from flowstore.flow.spec import FlowSpec

SETTINGS = {"token_normalize_func": lambda name: name.replace("_", "-"), "help_option_names": ["-h", "--help"]}


def _checked_namespace(_ctx: click.Context, _option: click.Parameter, given: str | None) -> str | None:
    """What can be no namespace is told before anything is done: a run's first process is forked very early."""
    context.checked_namespace(given or None)
    return given


SHARED = (
    click.option("--store", metavar="PATH", help="The store's file."),
    click.option("--quiet", is_flag=True, default=None, help="Only what tasks print, warnings and errors."),
    click.option(
        "--namespace",
        metavar="TAG",
        default=None,
        callback=_checked_namespace,
        help="What the Client sees inside; empty: everything.",
    ),
    click.option("--with", "with_", metavar="DECO", multiple=True, help="Decorate every step, as in retry:times=4."),
    click.option("--durable", is_flag=True, default=None, help="Lose nothing at a power cut either."),
)

PACKAGE_SUFFIXES = click.option(
    "--package-suffixes", multiple=True, metavar=".A,.B", help="Keep such files with the code, too: .sql,.yaml"
)

RUN = (
    click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag the run; may be repeated."),
    click.option("--max-workers", type=click.IntRange(1), metavar="N", help="Tasks at a time; default: the cores."),
    click.option("--max-num-splits", type=click.IntRange(1), default=10_000, show_default=True, metavar="N",
                 help="The most tasks of one foreach."),
    click.option("--run-id-file", type=click.Path(dir_okay=False), metavar="F", help="Write the run's id here."),
    click.option("--executor", envvar="FLOWSTORE_EXECUTOR", default="local", show_default=True, metavar="WHERE",
                 help="Where tasks run."),
    click.option("--reuse-workers", is_flag=True, help="Tasks of a step may share a process: faster, less isolated."),
    PACKAGE_SUFFIXES,
    click.option("--start-method", type=click.Choice(["fork", "spawn"]), help="How task processes start."),
)  # fmt: skip


_NAMES = frozenset({"store", "quiet", "namespace", "with_", "durable"})


class FlowFile:
    """What the commands need: the flow's class, and its graph, read once."""

    def __init__(self, flow: type[FlowSpec]) -> None:
        self.type = flow
        self.name = flow.__name__
        self.parameters = parameters_of(flow)
        check_names(self.parameters, run_option_names())
        self._graph: Graph | None = None

    def graph(self) -> Graph:
        """The steps, checked."""
        from flowstore.flow.lint import check
        from flowstore.flow.members import check_members

        if self._graph is None:
            check_members(self.type)
            self._graph = graph_of(self.type)
            check(self._graph)
            init.check(self.type)
        return self._graph


def run_option_names() -> frozenset[str]:
    """The names that parameters can't have."""
    command = click.Command("run")
    shell.add_options(command, (*SHARED, *RUN))
    names = {name.lstrip("-") for parameter in command.params for name in parameter.opts}
    return frozenset({*names, "help", "branch", "production"})


def command(
    name: str, callback: Callable[..., Any], help_: str, params: Iterable[click.Parameter] = ()
) -> click.Command:
    """A command that accepts the shared options; `callback` is given its own parameters only."""

    def call(**given: Any) -> Any:
        apply(click.get_current_context())
        own = {key: value for key, value in given.items() if key not in _NAMES}
        return callback(**own)

    made = click.Command(name, callback=call, help=help_, params=list(params))
    shell.add_options(made, SHARED[:3])
    return made


def group(name: str, help_: str, commands: Iterable[click.Command]) -> click.Group:
    """A command that has commands of its own."""
    made = shell.Group(name, help=help_, context_settings=SETTINGS)
    for each in commands:
        made.add_command(each)
    return made


@contextlib.contextmanager
def wrong_usage(kind: type[FlowstoreError] = FlowstoreError) -> Iterator[None]:
    """Report errors of a kind, which are about what was asked for, as wrong usage: exit code 2."""
    try:
        yield
    except kind as error:
        raise click.UsageError(str(error)) from None


def apply(ctx: click.Context) -> None:
    """Open the store that is asked for, and switch to the namespace."""
    from flowstore.store.opening import use_store

    settings = shell.settings(ctx)
    if settings.get("store"):
        use_store(settings["store"])
    asked = namespace(settings)
    if not isinstance(asked, context.Unset):
        context.namespace(asked)


def namespace(settings: Mapping[str, Any]) -> str | context.Unset | None:
    """What --namespace asks for: a tag, `None` for everything, `UNSET` where it is not given.

    >>> namespace({"namespace": "xyz"}), namespace({"namespace": ""})
    ('xyz', None)
    """
    given = settings.get("namespace")
    return context.UNSET if given is None else (given or None)
