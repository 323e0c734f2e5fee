"""`flowstore COMMAND`: the command that its modules add to, with the options that all of them take."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from flowstore import context
from flowstore.cli import completion, shell
from flowstore.store import opening

with_tags = click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="TAG",
    shell_complete=completion.tags,
    help="Only runs with this tag; may be repeated.",
)

SHARED = (
    click.option("--store", metavar="PATH", shell_complete=completion.files,
                 help="The store's file; default: the nearest flowstore.db."),
    click.option("--namespace", metavar="TAG", shell_complete=completion.namespaces, help="Only what has this tag."),
    click.option("--json", "form", flag_value="json", help="Print a list of JSON objects."),
    click.option("--csv", "form", flag_value="csv", help="Print CSV."),
)  # fmt: skip


def main() -> None:
    """The console script."""
    if "_FLOWSTORE_COMPLETE" in os.environ:
        from flowstore.cli import bash  # noqa: F401  # teaches click to complete there
    shell.run(_with_commands, "flowstore")


def _with_commands() -> click.Command:
    from flowstore.cli import look, ship, tidy, production, demo  # noqa: F401, I001  # each adds its commands, in the order of the help

    return flowstore


@click.group(cls=shell.Group, context_settings={"help_option_names": ["-h", "--help"]})
@shell.version_option
def flowstore(**_options: Any) -> None:
    """Look into a store: one SQLite file with everything that flows have run."""


shell.add_options(flowstore, SHARED)


def command(function: Callable[..., Any]) -> click.Command:
    """Add a command with the shared options, which also work before it; the store is opened first."""

    def call(**given: Any) -> Any:
        settings = shell.settings(click.get_current_context())
        if settings["store"] and function.__name__ not in {"demo", "import_", "check"}:
            opening.use_store(settings["store"])
        context.namespace(settings["namespace"] or None)
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        if settings["form"] and "form" not in names:
            raise click.UsageError(f"{made.name} prints no rows, so --{settings['form']} has no meaning for it.")
        shared = {"form": settings["form"] or "table", "store": settings["store"]}
        own = {name: value for name, value in given.items() if name not in {"store", "namespace", "form"}}
        return function(**own, **{name: value for name, value in shared.items() if name in names})

    made = click.Command(function.__name__.rstrip("_"), callback=call, help=function.__doc__)
    made.params = list(reversed(getattr(function, "__click_params__", [])))
    shell.add_options(made, SHARED)
    flowstore.add_command(made)
    return made
