"""`python -m flowstore.runner.triggering STORE DEPLOYMENT`: run a deployment for a program that has triggered it."""

from __future__ import annotations

import sys

from flowstore.production.trigger import trigger
from flowstore.store import deployments
from flowstore.store.opening import open_store


def main(path: str, deployment_id: str) -> int:
    """Run a deployment, whose process takes the values of parameters from the program's folder; return the exit code."""
    store = open_store(path)
    return trigger(store, deployments.get(store, int(deployment_id)))


if __name__ == "__main__":
    from flowstore.cli.app import exit_code

    sys.exit(exit_code(lambda: main(*sys.argv[1:])))
