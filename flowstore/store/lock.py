"""One process at a time, where a file is read, changed and replaced.

The lock is SQLite's, on an empty file that stays: every system has it, and it goes with its process, however that ends.
A file that is a lock by being there would outlive a process that was killed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from flowstore.store.db import BUSY_TIMEOUT_S


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock `path` for a block; others wait.

    Raises:
        sqlite3.Error: the file can't be made, or somebody holds it for very long.
    """
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
        connection.execute("begin exclusive")
        yield
