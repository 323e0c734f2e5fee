"""The frame of both command lines: how commands are declared and found, and how they end.

`flowstore …` (`cli.main`) and `python flow.py …` (`cli.flow`) are trees of commands. A `Group` knows its commands by
name, module and summary, and imports the module when the command is asked for. A command is a function:

    @command(STORE, NAMESPACE, FORM)
    @click.argument("pathspec")
    def show(pathspec: str, form: str) -> None: ...

Its docstring is the help: a summary, the form of a PATHSPEC, and last a section "Example:" with one command line.

The decorator lists the settings that mean something to the command. They may stand before the command or after it;
any other setting is refused. Commands of a flow's command line take its `FlowFile` as their first argument.

Exit codes: 0 success, 1 an error of ours or a failed run, 2 wrong usage, 128 + n stopped by signal n.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import errno
import functools
import gc
import importlib
import io
import os
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import click
from click.core import ParameterSource

from flowstore import context, later
from flowstore._version import __version__
from flowstore.errors import FlowstoreError, NamespaceMismatch, is_transient
from flowstore.text import did_you_mean, safe

if TYPE_CHECKING:
    from types import ModuleType

    from click.shell_completion import CompletionItem

HELP_NAMES = {"help_option_names": ["-h", "--help"]}
_EXAMPLE = "Example:\n"
_Function = TypeVar("_Function", bound=Callable[..., Any])


# --- settings and commands


class Setting(NamedTuple):  # `--help` does without attrs, whose import takes longer than all else of it
    """An option that may stand before a command as well as after it.

    Attributes:
        name: of the value.
        options: the options that set it.
        apply: called with the value before the command runs; if there is none, the command gets the value by its name.
        default: the value where none is given.
        everywhere: whether it may stand before any command, also before one to which it means nothing.
        after: whether it may stand after the command, too.
    """

    name: str
    options: tuple[click.Option, ...]
    apply: Callable[[Any], None] | None = None
    default: Any = None
    everywhere: bool = False
    after: bool = True


class _WithExample(click.Command):
    """A command whose help ends with an example, a command line."""

    example = ""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example, in one line however long: it is there to be pasted."""
        if self.example:
            with formatter.section("Example"):
                example = self.example.replace("python flow.py", ctx.find_root().command_path)
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class Command(_WithExample):
    """A command: its own parameters, the settings that it takes, and an example at the end of its help.

    Args:
        name: what is typed.
        function: what is called; its docstring is the help.
        settings: those that mean something to it.
    """

    def __init__(self, name: str, function: Callable[..., Any], settings: Sequence[Setting] = ()) -> None:
        text, _, example = (function.__doc__ or "").partition(_EXAMPLE)
        super().__init__(name, callback=function, help=text.strip(), context_settings=HELP_NAMES)
        self.example = example.strip()
        self.settings = tuple(settings)
        self.params = list(reversed(getattr(function, "__click_params__", [])))
        self.params += [option for setting in settings if setting.after for option in setting.options]

    def invoke(self, ctx: click.Context) -> Any:
        """Apply the settings, and call the function with its own parameters."""
        _refuse_unused(ctx, self.settings)
        given = settings_of(ctx)
        names = {setting.name for setting in self.settings}
        own = {name: value for name, value in ctx.params.items() if name not in names}
        for setting in self.settings:
            value = given.get(setting.name)
            if setting.apply is not None:
                setting.apply(value)
            else:
                own[setting.name] = setting.default if value is None else value
        assert self.callback is not None
        return ctx.invoke(self.callback, *(() if ctx.obj is None else (ctx.obj,)), **own)


def command(
    *settings: Setting, name: str | None = None, cls: type[Command] = Command
) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function, called as the function is unless `name` is given."""

    def make(function: Callable[..., Any]) -> Command:
        return cls(name or function.__name__.rstrip("_").replace("_", "-"), function, settings)

    return make


def gather(**classes: type[Any]) -> Callable[[_Function], _Function]:
    """Hand several parameters over as one value: `gather(selection=Selection)` takes those named as its attributes."""

    def wrap(function: _Function) -> _Function:
        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            for name, kind in classes.items():
                fields = [field for field in later.names(kind) if field in given]
                given[name] = kind(**{field: given.pop(field) for field in fields})
            return function(*args, **given)

        return call  # type: ignore[return-value]

    return wrap


def settings_of(ctx: click.Context) -> dict[str, Any]:
    """Return all options, of the command and of the groups above it: the last one counts, and lists add up."""
    values = settings_of(ctx.parent) if ctx.parent is not None else {}
    for name, value in ctx.params.items():
        if isinstance(value, tuple) and isinstance(values.get(name), tuple):
            values[name] = (*values[name], *value)
        elif value is not None or name not in values:
            values[name] = value
    return values


def _refuse_unused(ctx: click.Context, taken: Sequence[Setting]) -> None:
    """Raise a usage error where a setting before the command means nothing to it."""
    root = ctx.find_root()
    names = {setting.name for setting in taken}
    for setting in getattr(root.command, "settings", ()):
        given = root.params.get(setting.name)
        if setting.everywhere or setting.name in names or not given:
            continue
        if root.get_parameter_source(setting.name) is ParameterSource.COMMANDLINE:
            option = next((one for one in setting.options if one.flag_value == given), setting.options[0])
            raise click.UsageError(f"{ctx.command_path} has no use for {option.opts[0]}.", ctx)


# --- groups


class Listed(NamedTuple):
    """A command in the list of a group, which imports nothing for its help.

    Attributes:
        module: where the command is.
        summary: the first sentence of the command's own help.
    """

    module: str
    summary: str


class Group(_WithExample, click.Group):
    """A group of commands, in the order in which they are listed; each is imported when it is asked for.

    Args:
        name: the group's.
        commands: where each command is, by the command's name; or the commands themselves.
        help: what the group is for.
        example: a command line.
        settings: what may stand before its commands.
        of_flows: names that are commands of a flow's own file instead.
        options: further click arguments.

    Attributes:
        added: further options of commands, by the command's name.
    """

    def __init__(
        self,
        name: str,
        commands: Mapping[str, Listed] | Sequence[click.Command],
        *,
        help: str,  # click's name
        example: str,
        settings: Sequence[Setting] = (),
        of_flows: Collection[str] = (),
        **options: Any,
    ) -> None:
        options["context_settings"] = {**HELP_NAMES, **options.get("context_settings", {})}
        super().__init__(name, help=help, **options)
        self.example = example
        self.settings = tuple(settings)
        self.added: Mapping[str, Sequence[click.Option]] = {}
        self._of_flows = of_flows
        self.params += [option for setting in settings for option in setting.options]
        self._listed: Mapping[str, Listed] = {}
        if isinstance(commands, Mapping):
            self._listed = commands
        else:
            for member in commands:
                self.add_command(member)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return the names of the commands."""
        return [*self._listed] or [*self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name, or `None`."""
        if cmd_name in self._listed and cmd_name not in self.commands:
            members = vars(import_at_rest(self._listed[cmd_name].module)).values()
            command = next(one for one in members if isinstance(one, click.Command) and one.name == cmd_name)
            if cmd_name in self.added:
                command = copy.copy(command)
                command.params = [*command.params, *self.added[cmd_name]]
            self.add_command(command)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their summaries."""
        if not self._listed:
            super().format_commands(ctx, formatter)
            return
        limit = formatter.width - 6 - max(map(len, self._listed))
        with formatter.section("Commands"):
            one_line = (click.Command(name, help=one.summary) for name, one in self._listed.items())
            formatter.write_dl([(str(command.name), command.get_short_help_str(limit)) for command in one_line])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments begin with; a wrong name is answered by the nearest ones."""
        known = self.list_commands(ctx)
        name = ctx.token_normalize_func(args[0]) if ctx.token_normalize_func else args[0]
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            hint = f" A flow's own file has it: python flow.py {name}" if name in self._of_flows else ""
            raise click.UsageError(f"There is no command {name!r}.{hint or did_you_mean(name, known)}", ctx)
        return super().resolve_command(ctx, args)


def import_at_rest(module: str) -> ModuleType:
    """Import a module, with all that it imports, while the garbage collector rests.

    A command imports much and then often runs for a fraction of a second, of which the collector took a tenth. What was
    imported is not frozen: a flow's own objects are there already, and its open files must be seen when a task ends.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        if was_enabled:
            gc.enable()


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


VERSION = click.Option(
    ["--version"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_versions,
    help="Print the versions of flowstore, Python and SQLite, and the platform.",
)


def completed_by(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Return the function of `cli.completion` with that name, which is imported when a shell asks."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        completion = importlib.import_module("flowstore.cli.completion")
        words: list[CompletionItem] = getattr(completion, kind)(ctx, parameter, incomplete)
        return words

    return complete


# --- the one setting that both command lines have


def _use_store(path: str | None) -> None:
    if path:
        from flowstore.store.opening import use_store

        use_store(path)


_STORE = click.Option(
    ["--store"],
    metavar="PATH",
    shell_complete=completed_by("files"),
    help="The store's file; default: the nearest flowstore.db.",
)
STORE = Setting("store", (_STORE,), apply=_use_store, everywhere=True)
STORE_PATH = Setting("store", (_STORE,))  # for commands that open or create the store themselves


# --- running to an exit code


def run(group: Callable[[], click.Command], program: str, *, is_ours: bool = False) -> NoReturn:
    """Run the command line that `group` returns with this process's arguments, and exit.

    Args:
        group: makes the command line.
        program: its name.
        is_ours: whether nothing but flowstore has been imported, so that nothing else waits for Python's end.
    """
    code = exit_code(lambda: group().main(prog_name=program, standalone_mode=False))
    gc.freeze()  # all is about to go: to search it for cycles first would take 9 ms
    if is_ours and threading.active_count() == 1 and sys.gettrace() is None and sys.getprofile() is None:
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # to take each module and object apart would take as long again
    sys.exit(code)


def exit_code(call: Callable[[], Any]) -> int:
    """Call something, print its error as one message, and return the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # like stderr: a file's name need not be text, nor a terminal UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result = call()
        sys.stdout.flush()
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        _show_usage(error)
        return error.exit_code
    except FlowstoreError as error:
        message = error.message(_namespace_option) if isinstance(error, NamespaceMismatch) else error
        click.echo(f"Error: {message}", err=True)
        return context.state.transient_code if is_transient(error) else 1
    except MemoryError:
        click.echo("Error: There is not enough memory for this. Ask for less at a time.", err=True)
        return context.state.transient_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Stopped.", err=True)
        return 130
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output went away, as `head` does
            mute(sys.stdout)
            return 0
        click.echo(safe(f"Error: {_refusal(error)}."), err=True)
        return context.state.transient_code if is_transient(error) else 1
    return result if isinstance(result, int) else 0


def _show_usage(error: click.ClickException) -> None:
    """Print a usage error; click quotes what was given, a file's name perhaps."""
    if isinstance(error, click.NoSuchOption):
        error = click.UsageError(no_such_option(error), error.ctx)
    elif isinstance(error, click.BadParameter) and (variable := _variable_of(error)):
        message = f"{error.message} It is the value of ${variable}."
        error = click.BadParameter(message, error.ctx, error.param, error.param_hint)
    text = io.StringIO()
    error.show(text)
    click.echo(safe(text.getvalue()), err=True, nl=False)


def _variable_of(error: click.BadParameter) -> str | None:
    """Return the environment variable that a wrong value came from, if it did."""
    ctx, parameter = error.ctx, error.param
    if ctx is None or parameter is None or not parameter.name:
        return None
    if ctx.get_parameter_source(parameter.name) is not ParameterSource.ENVIRONMENT:
        return None
    names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or ()
    return next((name for name in names if os.environ.get(name)), None)


def no_such_option(error: click.NoSuchOption) -> str:
    """Return the message for a wrong option; the dashes, which all options have, make none alike."""
    near = {name.lstrip("-"): name for name in error.possibilities or ()}
    return f"There is no option {error.option_name}.{did_you_mean(error.option_name.lstrip('-'), near, near.get)}"


def _namespace_option(tag: str | None) -> str:
    import shlex

    return f"--namespace {shlex.quote(tag)}" if tag else '--namespace ""'


def _refusal(error: OSError) -> str:
    """Return what the system refused, and to what: a file of that name, or our own output."""
    what = error.strerror or str(error)
    with contextlib.suppress(ValueError):
        try:
            sys.stdout.flush()
        except OSError:
            mute(sys.stdout)
    if error.filename is None:
        return f"The output cannot be written: {what}" if error.errno == errno.ENOSPC else what
    return f"{os.fsdecode(error.filename)}: {what}"


def mute(stream: IO[str]) -> None:
    """Write to nowhere from now on; what waits in a buffer would else raise once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
