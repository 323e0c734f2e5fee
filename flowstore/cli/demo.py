"""`flowstore demo`: a small real flow, and where to look next."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import click

from flowstore.cli.app import command
from flowstore.cli.settings import FORM, STORE_PATH
from flowstore.client import Flow
from flowstore.errors import FlowstoreError
from flowstore.store import opening


def _command(name: str) -> str | None:
    """Return a command's name if typing it starts the one of this environment, else `None`."""
    path = shutil.which(name)
    return name if path is not None and Path(path).parent == Path(sys.executable).parent else None


@command(STORE_PATH, FORM)
def demo(store: str | None, form: str) -> int:
    """Run a small real flow, and show where to look next.

    Example:
        flowstore demo
    """
    import subprocess

    chosen = ["--store", store] if store else []
    flow = [sys.executable, "-m", "flowstore.tutorials.penguins"]
    shown = None if form == "table" else sys.stderr.fileno()  # what the run prints is no row
    code = subprocess.run([*flow, "run", *chosen], check=False, stdout=shown).returncode
    if code != 0:
        return code
    path = Path(store) if store else (opening.find_path() or opening.candidates()[0])
    opening.use_store(path)
    run = Flow("PenguinsFlow").latest_run
    if run is None:
        raise FlowstoreError("The demo has left no run in this store.")
    python = _command("python") or shlex.quote(sys.executable)
    called = _command("flowstore") or f"{python} -m flowstore"
    where = f" --store {shlex.quote(str(path))}" if store else ""
    use = f"use_store({str(path)!r}); " if store else ""
    names = "Flow, use_store" if store else "Flow"
    question = (
        "select value ->> '$.model' as model, value ->> '$.accuracy' as accuracy "
        "from artifact_values where name = 'metrics' order by run_id desc"
    )
    lines = [
        f"{called} runs{where}",
        f"{called} show {run.pathspec}{where}",
        f"{called} logs {run.pathspec}/end{where}",
        f'{called} sql{where} "{question}"',
        f"{python} -c \"from flowstore import {names}; {use}print(Flow('PenguinsFlow').latest_run.data.metrics)\"",
        f"{python} -m flowstore.tutorials.penguins run --folds 10{where}",
        f"{called} ui{where}",
    ]
    if form != "table":
        from flowstore.cli import output

        output.echo([{"store": str(path), "run": run.pathspec, "status": run.status, "commands": lines}], form)
        return 0
    click.echo(f"\nEverything is in one file, {path}. Where to look next; each line can be pasted:\n")
    for line in lines:
        click.echo(f"  {line}")
    return 0
