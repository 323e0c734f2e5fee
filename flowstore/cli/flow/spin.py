"""`spin`: run one step again, on the inputs that it had in an earlier run, in the foreground."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import click

from flowstore import context
from flowstore.cli.app import STORE, command, settings_of
from flowstore.cli.flow.flow_file import BRANCH, NAMESPACE, PRODUCTION, QUIET, WITH, FlowFile, wrong_usage
from flowstore.cli.flow.run import sources_of
from flowstore.errors import ParameterError
from flowstore.flow.graph import graph_of
from flowstore.text import did_you_mean


@command(STORE, QUIET, NAMESPACE, WITH, BRANCH, PRODUCTION)
@click.argument("step", metavar="STEP|PATHSPEC")
@click.option("--spin-pathspec", metavar="PATHSPEC", help="The task whose inputs to take, as in RUN/STEP/TASK.")
@click.option(
    "--artifacts-module",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="A Python file whose dict ARTIFACTS replaces inputs.",
)
@click.option("--skip-decorators/--no-skip-decorators", default=False, help="Run the step without its decorators.")
@click.option("--persist/--no-persist", default=False, help="Store the result, in a run of its own.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag that run; may be repeated.")
@click.option("--max-log-size", hidden=True)
def spin(this: FlowFile, step: str, spin_pathspec: str | None, persist: bool, **given: Any) -> int:
    """Run one step again, on inputs of an earlier run.

    The step runs in the foreground, with the code as it is now: breakpoint() and input() work in it. It has the inputs
    of the latest run that has got as far, or of a task: PATHSPEC is RUN/STEP/TASK, or RUN/STEP for the first one.
    Nothing is stored, unless --persist is given.

    Example:
        python flow.py spin train
    """  # fmt: skip
    from flowstore.run import spin
    from flowstore.run.randomness import Generators
    from flowstore.run.start import Options
    from flowstore.store.opening import active_store

    settings = settings_of(click.get_current_context())
    generators = Generators(sys.modules[this.type.__module__])
    overrides = _overrides(given["artifacts_module"])
    store = active_store()
    address = _address(this, step, spin_pathspec)
    run_id = address.run_id
    if run_id is None:  # what leads to a step does not depend on configs, which come from the run
        run_id = spin.run_id_of(store, this.type, graph_of(this.type), address.step)
    this.configure_as_run(settings, store, run_id)
    if given["skip_decorators"]:
        spin.skip_decorators(this.type)
    wish = spin.Wish(
        step=address.step,
        run_id=run_id,
        task_id=address.task_id,
        overrides=overrides,
        persist=persist,
        skip_decorators=given["skip_decorators"],
        options=Options(
            quiet=bool(settings["quiet"]),
            namespace=context.get_namespace(),
            with_=settings["with_"],
            branch=settings.get("branch"),
            production=bool(settings.get("production")),
            tags=settings["tags"],
            sources=sources_of(this, settings),
        ),
    )
    with wrong_usage(ParameterError):
        return spin.spin_flow(this.type, this.graph, wish, store, generators)


@attrs.frozen
class _Address:
    """The step to run, and the run and the task whose inputs to take; `None` where that is open."""

    step: str
    run_id: int | None = None
    task_id: int | None = None


def _address(this: FlowFile, text: str, pathspec: str | None) -> _Address:
    """Return what STEP or PATHSPEC stand for."""
    from flowstore.client import Run, Task

    parts = (pathspec or text).removeprefix(f"{this.name}/").split("/")
    if len(parts) > 3 or (len(parts) == 1 and pathspec is not None):
        raise click.UsageError(f"{pathspec or text!r} is neither a step, nor RUN/STEP, nor RUN/STEP/TASK.")
    step = parts[min(len(parts) - 1, 1)]
    if pathspec is not None and "/" not in text and text != step:
        raise click.UsageError(f"--spin-pathspec {pathspec} is of step {step}, not of {text}.")
    steps = graph_of(this.type).nodes
    if step not in steps:
        raise click.UsageError(
            f"There is no step {step!r}.{did_you_mean(step, steps)} The steps are: {', '.join(steps)}."
        )
    if len(parts) == 1:
        return _Address(step)
    run = this.find(parts[0], Run, everywhere=True)
    task = this.find("/".join(parts), Task, everywhere=True) if len(parts) == 3 else None
    return _Address(step, int(run.id), None if task is None else int(task.id))


def _overrides(file: str | None) -> Mapping[str, Any]:
    """Return the dict of a file of Python."""
    if file is None:
        return {}
    if not Path(file).is_file():
        raise click.UsageError(f"--artifacts-module {file}: there is no such file.")
    values = runpy.run_path(file).get("ARTIFACTS")
    if not isinstance(values, dict):
        raise click.UsageError(f"--artifacts-module {file}: it defines no dict ARTIFACTS = {{…}}.")
    return values
