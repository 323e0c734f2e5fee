"""Which deployment a process is to run: told by the process that starts it, in its environment.

It takes that out of its environment, so that a flow started by one of its tasks is not in production by accident.
"""

from __future__ import annotations

import os

from flowstore.errors import FlowstoreError
from flowstore.run.worker import die_with_parent

VARIABLE = "FLOWSTORE_DEPLOYMENT"  # holds ID:PARENT:DIGEST:TOKEN


def told_deployment() -> str | None:
    """Which deployment this process was told to run, if any; forgets it, and lives no longer than who told."""
    told = os.environ.pop(VARIABLE, None)
    if told is None:
        return None
    parts = told.split(":", 3)
    if len(parts) < 4 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        raise FlowstoreError(f"${VARIABLE} is set by deploy trigger, and by nobody else. Unset it.")
    die_with_parent(int(parts[1]))
    return told
