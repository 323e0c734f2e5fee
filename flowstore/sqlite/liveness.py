"""Tells whether a run's driver still lives.

A driver is known by host, boot and process: the process id alone may be another's by now, so its start time
counts too, and a machine that was started again has a boot of its own. Where these can't be compared (another
machine, another container, a system that does not tell), the last sign of life decides.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flowstore import later
from flowstore.sqlite.typed_rows import time_of

if TYPE_CHECKING:
    from flowstore.sqlite.database import Row

HEARTBEAT_S = 5.0
SILENCE_S = 60.0  # a driver on another machine that wrote nothing for so long is taken for dead


_COLUMNS = ("host", "boot", "pid", "pid_started")


@later.frozen
class Process:
    """A process, distinguished from all others that ever ran.

    Attributes:
        host: the machine's name.
        boot: the machine's boot and process namespace, empty where the system does not tell.
        pid: the process id.
        started: when it started, in the system's own form; empty where the system does not tell.
    """

    host: str
    boot: str
    pid: int
    started: str

    @staticmethod
    def columns(alias: str = "") -> str:
        """Return the columns by which a table names a process, in the order of `values`.

        Example:
            >>> Process.columns("r")
            'r.host, r.boot, r.pid, r.pid_started'
        """
        return ", ".join(f"{alias}.{column}" if alias else column for column in _COLUMNS)

    @staticmethod
    def where() -> str:
        """Return the SQL condition on rows that name one process: bind its `values`."""
        return " and ".join(f"{column} = ?" for column in _COLUMNS)

    @property
    def values(self) -> tuple[str, str, int, str]:
        """The values of the columns for this process."""
        return self.host, self.boot, self.pid, self.started


def this_process() -> Process:
    """Return the identity of this process."""
    return Process(host(), _boot(), os.getpid(), started(os.getpid()) or "")


def is_dead(run: Row) -> bool:
    """Return whether the driver of a run that is recorded as running is gone."""
    silent = time.time() - time_of(run["last_seen_at"]).timestamp() > SILENCE_S
    if run["host"] != host() or not run["boot"] or not run["pid_started"]:
        return silent
    if run["boot"] != _boot():
        boot, _, namespace = run["boot"].partition(" ")
        own_boot, _, own_namespace = _boot().partition(" ")
        # Processes of another container can't be seen from here.
        return bool(boot != own_boot) if namespace == own_namespace else silent
    since = started(run["pid"])
    return silent if since == "" else bool(since != run["pid_started"])


def host() -> str:
    """Return the name of this machine."""
    if hasattr(os, "uname"):
        return os.uname().nodename
    import platform  # takes longer to import than all else here

    return platform.node()


@functools.cache
def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return "this" if sys.platform == "darwin" else ""  # a pid's start time alone tells boots apart there


def started(pid: int) -> str | None:
    """Return when a process started: `None` if there is no such process, empty if it is another user's and hidden."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return _started_by_ps(pid) if sys.platform == "darwin" else _hidden(pid)
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name, in parentheses, may hold blanks; see proc(5)
    return None if fields[0] in "ZX" else fields[19]


def _hidden(pid: int) -> str | None:
    """Machines that many share may hide others' processes (`hidepid`, see proc(5)), but not that there is one."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return ""
    except (OSError, OverflowError):
        return None
    return None


def _started_by_ps(pid: int) -> str | None:
    import subprocess

    listing = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listing.stdout.strip() or None
