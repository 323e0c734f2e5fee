"""Write the reference of all commands from their own help.

    python flowstore/docs/write_commands.py

writes `commands.md` beside this file. Run it again when a command or its help has changed; a test says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import click

from flowstore import FlowSpec, step
from flowstore.cli import main
from flowstore.cli.flow import commands_of

PAGE = Path(__file__).with_name("commands.md")
_HEAD = """\
# Commands

Two command lines share one way of working: `flowstore …` looks into a store, ships it and keeps it tidy, and
`python flow.py …` runs the flow in a file and looks at what its runs left. Options that are listed for the whole
command line and for a command, such as `--store`, may stand before the command or after it. Those listed only for the
whole command line, such as `--branch` and `--config`, must stand before it.

The exit code is 0 on success, 1 after an error or a failed run, 2 for wrong usage, and 130 after Ctrl-C.

This page is made from the commands' own help by `python flowstore/docs/write_commands.py`.
"""
_WIDTH = 100


class HelloFlow(FlowSpec):
    """Your flow's docstring appears here. Each of its parameters becomes an option of `run`."""

    @step
    def start(self) -> None:
        """Begin."""
        self.next(self.end)

    @step
    def end(self) -> None:
        """End."""


def commands(group: click.Command, program: str) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield a command line and all of its commands, each before those below it."""
    with click.Context(group, info_name=program, max_content_width=_WIDTH, terminal_width=_WIDTH,
                       **group.context_settings) as root:  # fmt: skip
        yield from _below(group, root)


def _below(command: click.Command, ctx: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, ctx
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            assert child is not None
            with click.Context(child, info_name=name, parent=ctx, **child.context_settings) as inner:
                yield from _below(child, inner)


def page() -> str:
    """Return the page."""
    parts = [_HEAD]
    for group, program in ((main.flowstore, "flowstore"), (commands_of(HelloFlow), "python flow.py")):
        for command, ctx in commands(group, program):
            level = "##" if ctx.parent is None else "###"
            parts.append(f"{level} {ctx.command_path}\n\n{indent(command.get_help(ctx).rstrip(), '    ')}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
