"""Identities of hosts, which a driver compares with its own: what must be the same, what should be, what is lacking."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from flowstore._version import __version__
from flowstore.errors import FlowstoreError

COMPARED = ("numpy", "pandas", "pyarrow", "cloudpickle")  # packages whose versions should be the driver's


def identity() -> dict[str, Any]:
    """Return what a host says of itself: what must be the same as the driver's, and what should be."""
    versions = {}
    for package in COMPARED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "flowstore": __version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "packages": versions,
        "name": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "pid": os.getpid(),
    }


def compare(host: Mapping[str, Any], where: str) -> tuple[str | None, str | None]:
    """Compare what a host says of itself with this process.

    Args:
        host: its identity.
        where: what to call it.

    Returns:
        Why it can't run this driver's tasks, and what may go wrong; `None` each where there is nothing to say.
    """
    own = identity()
    if host.get("flowstore") is None:
        return (
            f"flowstore is not installed on {where}. Install it there: pip install flowstore=={own['flowstore']}",
            None,
        )
    for name, label in (("python", "Python"), ("flowstore", "flowstore")):
        if host.get(name) != own[name]:
            return (
                f"{where} has {label} {host.get(name)}, and this process has {label} {own[name]}: "
                "tasks and driver must have the same. Install it on one of them."
            ), None
    packages = dict(host.get("packages", {}))
    differing = [
        f"{package} {packages.get(package, '(none)')} instead of {own['packages'].get(package, 'none')}"
        for package in sorted({*packages, *own["packages"]})
        if packages.get(package) != own["packages"].get(package)
    ]
    return None, f"Warning: {where} has {', '.join(differing)}." if differing else None


def import_failure(error: BaseException) -> str:
    """Return what a host says where the import of the flow has failed there."""
    if isinstance(error, FlowstoreError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return f"{error}. Install it there, for {sys.executable}."
    return "".join(traceback.format_exception(error))
