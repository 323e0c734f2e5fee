"""`flowstore COMMAND`: look into a store, ship it, keep it tidy, and run what is in production."""

from __future__ import annotations

import os
from typing import Any

from flowstore import context
from flowstore.cli import app
from flowstore.cli.settings import FORM, NAMESPACE, STORE

COMMANDS = {
    "runs": "flowstore.cli.runs",
    "show": "flowstore.cli.inspect",
    "diff": "flowstore.cli.diff",
    "search": "flowstore.cli.runs",
    "note": "flowstore.cli.inspect",
    "tags": "flowstore.cli.runs",
    "namespaces": "flowstore.cli.runs",
    "logs": "flowstore.cli.inspect",
    "get": "flowstore.cli.inspect",
    "schema": "flowstore.cli.inspect",
    "sql": "flowstore.cli.inspect",
    "ui": "flowstore.cli.ui",
    "export": "flowstore.cli.transfer",
    "import": "flowstore.cli.transfer",
    "trust": "flowstore.cli.transfer",
    "delete": "flowstore.cli.maintenance",
    "vacuum": "flowstore.cli.maintenance",
    "check": "flowstore.cli.maintenance",
    "deployments": "flowstore.cli.production",
    "scheduler": "flowstore.cli.production",
    "demo": "flowstore.cli.demo",
}


def main() -> None:
    """Run the console script."""
    if "_FLOWSTORE_COMPLETE" in os.environ:
        from flowstore.cli import completion

        completion.teach_bash()
    app.run(lambda: flowstore, "flowstore")


def _see_everything(**_settings: Any) -> None:
    """Look at the whole store, whatever the user's own namespace is: `--namespace` narrows it."""
    context.namespace(None)


flowstore = app.Group(
    "flowstore",
    COMMANDS,
    help="Look into a store: one SQLite file with everything that flows have run.",
    example="flowstore demo",
    settings=(STORE, NAMESPACE, FORM),
    of_flows=("run", "resume", "card", "deploy"),
    params=[app.VERSION],
    callback=_see_everything,
)
