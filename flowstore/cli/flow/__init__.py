"""`python flow.py COMMAND`: run a flow, look at what its runs left, put it into production.

A flow's file ends with `HelloFlow()`, which starts this command line where the file is the program that runs.
Notebooks, test runners and prompts contain a flow without being it: their arguments are not its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from flowstore import context
from flowstore.cli import app
from flowstore.cli.app import Listed
from flowstore.cli.flow.flow_file import SETTINGS, FlowFile
from flowstore.errors import FlowstoreError
from flowstore.flow.spec import FlowSpec
from flowstore.run import caller

COMMANDS = {
    "run": Listed("flowstore.cli.flow.run", "Run the flow."),
    "resume": Listed("flowstore.cli.flow.run", "Run again what did not succeed."),
    "spin": Listed("flowstore.cli.flow.spin", "Run one step again, on inputs of an earlier run."),
    "show": Listed("flowstore.cli.flow.run", "Show the flow's steps."),
    "check": Listed("flowstore.cli.flow.run", "Check that the flow is valid, without running it."),
    "output-dot": Listed("flowstore.cli.flow.run", "Print the flow's graph for Graphviz."),
    "dump": Listed("flowstore.cli.flow.results", "Show the artifacts of a step's tasks, or of one task."),
    "logs": Listed("flowstore.cli.flow.results", "Show what tasks printed."),
    "list": Listed("flowstore.cli.flow.results", "List runs, steps or tasks of this flow."),
    "tag": Listed("flowstore.cli.flow.tags", "Tag runs, and what is in them."),
    "card": Listed("flowstore.cli.flow.cards", "Show and save the cards of tasks."),
    "deploy": Listed("flowstore.cli.flow.deploy", "Put the flow into production, and run it there."),
    "step-functions": Listed("flowstore.cli.flow.step_functions", "Have AWS start, schedule and watch the flow."),
    "argo-workflows": Listed("flowstore.cli.flow.deploy", "Say what to use instead: deploy."),
}
_WITHOUT_CONFIGS = frozenset({
    "dump", "logs", "list", "tag", "card",  # look at results
    "resume", "spin", "deploy", "step-functions",  # find out themselves which values are the right ones
})  # fmt: skip
_HELP = frozenset(app.HELP_NAMES["help_option_names"])
_KERNELS = frozenset({"ipykernel_launcher.py", "colab_kernel_launcher.py"})


def main(flow: type[FlowSpec]) -> None:
    """Run the command line of a flow's file, and exit; called by `FlowSpec()`.

    Where another program has loaded the flow, only say how to run it.
    """
    caller.calling()  # before any child starts: it removes the variable, which children must not inherit
    host = name_of_host(flow)
    if host is None:
        app.run(lambda: commands_of(flow), _program())
    else:
        click.echo(message(flow, host), err=True)


def commands_of(flow: type[FlowSpec]) -> click.Group:
    """Return the tree of commands of a flow."""
    this = FlowFile(flow)
    group = app.Group(
        this.name,
        COMMANDS,
        help=(flow.__doc__ or "").strip() or f"The flow {this.name}.",
        example="python flow.py run",
        settings=SETTINGS,
        params=[app.VERSION],
        callback=_begin,
        invoke_without_command=True,
        context_settings={"obj": this, "token_normalize_func": lambda name: name.replace("_", "-")},
    )
    if context.state.add_options is not None:
        context.state.add_options(group)
    return group


@click.pass_context
def _begin(ctx: click.Context, /, **settings: Any) -> Any:
    """Give the flow's configs their values for the command; where there is none, check the flow."""
    _note_project(ctx)
    _configure(ctx.obj, ctx.invoked_subcommand, settings)
    if ctx.invoked_subcommand is not None:
        return None
    assert isinstance(ctx.command, app.Group)
    check = ctx.command.get_command(ctx, "check")
    assert check is not None
    with check.make_context("check", [], parent=ctx) as inner:
        return check.invoke(inner)


def _note_project(ctx: click.Context) -> None:
    """Let the defaults of parameters read the flow's project; a mistake in it is reported later."""
    flow = ctx.obj.type
    if not flow._flow_decorators:  # as in most flows, which need not import this
        return
    from flowstore.run.ownership import project_of

    with contextlib.suppress(FlowstoreError):
        context.state.project = project_of(flow, ctx.params["branch"], production=bool(ctx.params["production"]))


def _configure(this: FlowFile, command: str | None, settings: dict[str, Any]) -> None:
    if command in _WITHOUT_CONFIGS:
        return
    configure = this.configure_deployed if command == "run" else this.configure
    try:
        configure(settings)
    except click.UsageError:
        if _HELP.isdisjoint(sys.argv):  # a command can be explained without them
            raise


def _program() -> str:
    """Return how messages call this command line; a deployment runs from a temporary copy, which nobody can call."""
    called = context.called_as()
    if "FLOWSTORE_DEPLOYMENT" in os.environ:
        return called.replace(sys.argv[0], Path(sys.argv[0]).name)
    return called


# --- programs that contain a flow without being it


def name_of_host(flow: type) -> str | None:
    """Name the program that has loaded the flow where it is not its own: 'a notebook', 'pytest' and so on.

    A flow's file that a notebook runs with `%run flow.py run`, or that a test runs as `__main__` with arguments of its
    own, is the program.
    """
    module = sys.modules.get(flow.__module__)
    file = getattr(module, "__file__", None)
    is_program = flow.__module__ == "__main__" and file is not None and _is_same(file, sys.argv[0])
    if is_program:
        return None
    if Path(sys.argv[0]).name in _KERNELS or _in_ipython():
        return "a notebook"
    if flow.__module__ != "__main__" and "_pytest.config" in sys.modules and _pytest_runs():
        return "pytest"
    if flow.__module__ != "__main__" and "unittest.main" in sys.modules and _main_name().startswith("unittest"):
        return "unittest"
    return "an interactive Python" if hasattr(sys, "ps1") else None


def message(flow: type, host: str) -> str:
    """Return the line that says how to run the flow."""
    file = getattr(sys.modules.get(flow.__module__), "__file__", None)
    if file is None:
        guard = f'if __name__ == "__main__": {flow.__name__}()'
        how = f"save it in a file that ends with `{guard}`, and run that: python flow.py run"
        how += f", or in a notebook: NBRunner({flow.__name__}).nbrun()" if host == "a notebook" else ""
    else:
        import shlex

        path = os.path.relpath(file)
        how = f"run it: python {shlex.quote(path)} run, or in Python: Runner({path!r}).run()"
    return f"{flow.__name__}() made an object and ran nothing, since this is {host}. To run the flow, {how}"


def _is_same(file: str, other: str) -> bool:
    return os.path.realpath(file) == os.path.realpath(other)


def _in_ipython() -> bool:
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and get_ipython() is not None


def _pytest_runs() -> bool:
    """Return whether pytest is more than imported: it says so to its processes since 8.2, and in each test."""
    marks = ("PYTEST_VERSION", "PYTEST_CURRENT_TEST")
    return any(mark in os.environ for mark in marks) or "pytest" in sys.argv[0] or "py.test" in sys.argv[0]


def _main_name() -> str:
    return str(getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", None) or "")
