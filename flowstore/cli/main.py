"""`flowstore COMMAND`: look into a store, ship it, keep it tidy, and run what is in production."""

from __future__ import annotations

import os
from typing import Any

from flowstore import context
from flowstore.cli import app
from flowstore.cli.app import Listed
from flowstore.cli.settings import FORM, NAMESPACE, STORE

COMMANDS = {
    "runs": Listed("flowstore.cli.runs", "List runs, newest first."),
    "show": Listed("flowstore.cli.inspect", "Show a flow, a run, a step, a task or an artifact."),
    "diff": Listed("flowstore.cli.diff", "Compare two runs, and show what differs."),
    "search": Listed("flowstore.cli.runs", "Find runs that contain a text."),
    "note": Listed("flowstore.cli.inspect", "Show the note on a run, or write one."),
    "tags": Listed("flowstore.cli.runs", "List all tags of runs, with counts and last use."),
    "namespaces": Listed("flowstore.cli.runs", "List the namespaces of users and of production."),
    "logs": Listed("flowstore.cli.inspect", "Show what the tasks of a run, step or task printed."),
    "get": Listed("flowstore.cli.inspect", "Print an artifact, or write it to a file."),
    "schema": Listed("flowstore.cli.inspect", "Explain the views that answer questions in SQL."),
    "sql": Listed("flowstore.cli.inspect", "Ask a question in SQL; the store is only read."),
    "ui": Listed("flowstore.cli.ui", "Show the store as web pages, until Ctrl-C."),
    "export": Listed("flowstore.cli.transfer", "Write selected runs, or all, to a new store or HTML file."),
    "import": Listed("flowstore.cli.transfer", "Add the runs of other stores to this one."),
    "import-metaflow": Listed("flowstore.cli.transfer", "Add the runs of Metaflow's local store to this one."),
    "trust": Listed("flowstore.cli.transfer", "Trust a store, so that its pickles are loaded."),
    "delete": Listed("flowstore.cli.maintenance", "Delete runs, and the bytes that nothing else uses."),
    "vacuum": Listed("flowstore.cli.maintenance", "Give back the space that deleted runs and crashes left."),
    "check": Listed("flowstore.cli.maintenance", "Check that the store is sound."),
    "deployments": Listed("flowstore.cli.production", "List what is in production, and what starts it."),
    "event": Listed("flowstore.cli.production", "Publish an event, for the deployments that wait for it."),
    "scheduler": Listed("flowstore.cli.production", "Start deployments as their times and events come."),
    "worker": Listed("flowstore.cli.production", "Run what AWS Step Functions asks for."),
    "demo": Listed("flowstore.cli.demo", "Run a small real flow, and show where to look next."),
}


def main() -> None:
    """Run the console script."""
    if "_FLOWSTORE_COMPLETE" in os.environ:
        from flowstore.cli import completion

        completion.teach_bash()
    app.run(lambda: flowstore, "flowstore", is_ours=True)


def _see_everything(**_settings: Any) -> None:
    """Look at the whole store, whatever the user's own namespace is: `--namespace` narrows it."""
    context.namespace(None)


flowstore = app.Group(
    "flowstore",
    COMMANDS,
    help="Look into a store: one SQLite file with everything that flows have run.",
    example="flowstore demo",
    settings=(STORE, NAMESPACE, FORM),
    of_flows=("run", "resume", "card", "deploy", "step-functions"),
    params=[app.VERSION],
    callback=_see_everything,
)
