"""The journal of a store: a write-ahead log while a run writes, a rollback journal at rest.

With a log, readers go on while a run writes, but two more files lie beside the store, and a read-only medium
can't serve it. So whoever closes last switches back. A file system that can't share memory can't have a log.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from flowstore.errors import FlowstoreError

BUSY_TIMEOUT_S = 120.0
_NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "lustre", "beegfs"}
)


def try_wal(connection: sqlite3.Connection, timeout_s: float) -> str | None:
    """Switch to a write-ahead log and prove that it works; return what failed, or `None`."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            mode = connection.execute("pragma journal_mode = wal").fetchone()[0]
            connection.execute("begin immediate")  # the shared index is first needed here
            connection.execute("rollback")
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                return str(error)
            if time.monotonic() > deadline:
                raise
            time.sleep(_jitter_s())  # the switch reports "locked" at once, whatever the timeout
        else:
            return None if mode == "wal" else f"the journal stays in mode {mode}"


def on_network(path: Path) -> bool:
    """Return whether the file system is one where a shared-memory log is unsafe (known on Linux only)."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return False
    best, kind = "", ""
    for line in lines:
        mount, filesystem = line.split(" ")[1:3]
        mount = mount.replace("\\040", " ")
        if len(mount) >= len(best) and path.is_relative_to(mount):
            best, kind = mount, filesystem
    return kind in _NETWORK_FILESYSTEMS


def back_to_rollback_journal(path: Path) -> None:
    """Return to a rollback journal if a log can't be served: alone with the file, SQLite shares no memory for it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma locking_mode = exclusive")
        connection.execute("pragma journal_mode = delete")
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)  # of no use here, and nobody else could open it


def is_wal(path: Path) -> bool:
    """Return whether the header says that there is a log (bytes 18 and 19: sqlite.org/fileformat)."""
    with path.open("rb") as file:
        return file.read(20)[18:20] == b"\x02\x02"


def leave_one_file(connection: sqlite3.Connection, path: Path) -> bool:
    """Go back to a rollback journal; False while others have the store open."""
    try:
        connection.execute("pragma busy_timeout = 0")
        if connection.execute("pragma journal_mode").fetchone()[0] == "wal":
            connection.execute("pragma journal_mode = delete")
        elif os.path.exists(f"{path}-journal"):  # noqa: PTH110
            # A process that died before it changed a page leaves a journal that nobody has to play back, and that
            # SQLite therefore leaves alone. It removes one, with the right lock, where it was set to keep journals.
            connection.execute("pragma journal_mode = persist")
            connection.execute("pragma journal_mode = delete")
    except sqlite3.OperationalError as error:
        return not is_busy(error)  # a full disk, say: the log stays, and the next one to open it recovers
    except sqlite3.DatabaseError:
        return True  # damaged: the next reader reports it, and closing must not hide what went wrong before
    return True


def leave_one_file_later(path: Path, connect: Callable[[], sqlite3.Connection]) -> None:
    """Try again a few times, with the file closed in between: those that close at one moment hinder each other."""
    for _ in range(6):
        time.sleep(_jitter_s())  # each waits for another time, so that one of them comes alone
        try:
            if not is_wal(path):
                return  # somebody else has done it
            with contextlib.closing(connect()) as connection:
                if leave_one_file(connection, path):
                    return
        except (sqlite3.Error, FlowstoreError, OSError):
            return  # removed or replaced meanwhile, or damaged, which the next one to open it reports


def _jitter_s() -> float:
    """Return a few milliseconds, a different number in each process."""
    return 0.001 + int.from_bytes(os.urandom(2), "big") / 65536 * 0.011


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether the file is in use by others, by error code rather than by message text."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
