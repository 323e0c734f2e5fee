"""`python -m flowstore.runner.triggering STORE DEPLOYMENT`: run a deployment for a program that has triggered it."""

from __future__ import annotations

import sys

from flowstore.errors import FlowstoreError
from flowstore.production.trigger import trigger
from flowstore.store import deployments
from flowstore.store.opening import open_store


def main(path: str, deployment_id: str) -> int:
    """Run a deployment, whose process finds the values of parameters in the program's folder; return the exit code."""
    store = open_store(path)
    return trigger(store, deployments.get(store, int(deployment_id)))


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except FlowstoreError as error:
        sys.exit(f"Error: {error}")
