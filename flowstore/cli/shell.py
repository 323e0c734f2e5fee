"""What both command lines share: exit codes, and one message for each error.

0 success, 1 an error of ours or a failed run, 2 wrong usage, 128 + n stopped by signal n.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any, NoReturn

import click

from flowstore._version import __version__
from flowstore.errors import FlowstoreError, NamespaceMismatch
from flowstore.text import safe


def run(make: Callable[[], click.Command], program: str) -> NoReturn:
    """Make a command line and run it to its end; exits."""
    code = _exit_code(lambda: make().main(prog_name=program, standalone_mode=False))
    gc.freeze()  # all is about to go: to search it for cycles first would take 9 ms
    sys.exit(code)


def _exit_code(call: Callable[[], Any]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # like stderr: a file's name need not be text, nor a terminal UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result = call()
        sys.stdout.flush()
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        message = io.StringIO()
        error.show(message)  # which quotes what was given, a file's name perhaps
        click.echo(safe(message.getvalue()), err=True, nl=False)
        return error.exit_code
    except FlowstoreError as error:
        told = error.told(_namespace_option) if isinstance(error, NamespaceMismatch) else error
        click.echo(f"Error: {told}", err=True)
        return 1
    except MemoryError:
        click.echo("Error: There is not enough memory for this. Ask for less at a time.", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("Stopped.", err=True)
        return 130
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # whoever read our output went away, as `head` does
            mute(sys.stdout)
            return 0
        click.echo(safe(f"Error: {_told(error)}."), err=True)
        return 1
    return result if isinstance(result, int) else 0


def _namespace_option(tag: str | None) -> str:
    import shlex

    return f"--namespace {shlex.quote(tag)}" if tag else '--namespace ""'


def _told(error: OSError) -> str:
    """What the system refused, and to what: a file of that name, or our own output."""
    what = error.strerror or str(error)
    with contextlib.suppress(ValueError):
        try:
            sys.stdout.flush()
        except OSError:
            mute(sys.stdout)
    if error.filename is None:
        return f"The output can't be written: {what}" if error.errno == errno.ENOSPC else what
    return f"{os.fsdecode(error.filename)}: {what}"


def mute(stream: IO[str]) -> None:
    """Write to nowhere from now on; what waits in a buffer would else raise once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Group(click.Group):
    """A group that lists its commands in the order of definition, and makes one when it is asked for.

    Attributes:
        makers: by name, what makes the commands that are not made yet.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.makers: dict[str, Callable[[], click.Command]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Their names."""
        return [*self.makers, *(name for name in self.commands if name not in self.makers)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name."""
        if cmd_name in self.makers and cmd_name not in self.commands:
            self.add_command(self.makers[cmd_name]())
        return super().get_command(ctx, cmd_name)


def versions() -> str:
    """Return what a bug report needs: the versions of flowstore, Python and SQLite, and the platform, in one line."""
    import platform
    import sqlite3

    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"flowstore {__version__}, {python}, SQLite {sqlite3.sqlite_version}, {platform.platform()}"


def _print_versions(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:  # which is how click completes a command line
        click.echo(versions())
        ctx.exit()


version_option = click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_versions,
    help="Print the versions of flowstore, Python and SQLite, and the platform.",
)

Option = Callable[[Callable[..., Any]], Callable[..., Any]]


def add_options(command: click.Command, options: Sequence[Option]) -> None:
    """Give a command further options."""

    def holder() -> None:
        """Collects them: click keeps options on the function that they decorate."""

    for option in reversed(options):
        option(holder)
    command.params += reversed(getattr(holder, "__click_params__", []))


def settings(ctx: click.Context) -> dict[str, Any]:
    """All options, of the command and of the groups above it: what is given later wins, lists add up."""
    found = settings(ctx.parent) if ctx.parent is not None else {}
    for name, value in ctx.params.items():
        if isinstance(value, tuple) and isinstance(found.get(name), tuple):
            found[name] = (*found[name], *value)
        elif value is not None or name not in found:
            found[name] = value
    return found
