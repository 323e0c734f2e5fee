"""What a file says it is, looked at before SQLite touches it: not one byte of a wrong file is written."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from flowstore.errors import FlowstoreError, NotAStore, StoreNotFound, StoreTooNew
from flowstore.store import schema

_MAGIC = b"SQLite format 3\x00"


def check(path: Path) -> None:
    """Tell wrong files apart by their first 100 bytes, before SQLite touches them (format: sqlite.org/fileformat)."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        raise StoreNotFound(f"There is no store at {path}.") from None
    except OSError as error:
        raise FlowstoreError(f"{path} can't be read: {error.strerror}.") from error
    if not header.startswith(_MAGIC) or len(header) < 100:
        raise NotAStore(f"{path} is not a flowstore store: it is not an SQLite file.")
    if int.from_bytes(header[68:72], "big") != schema.APPLICATION_ID:
        raise NotAStore(f"{path} is an SQLite file, but not a flowstore store.")
    version = int.from_bytes(header[60:64], "big")
    if version > schema.SCHEMA_VERSION:
        raise StoreTooNew(_too_new(path, version))


def check_log(path: Path) -> None:
    """The same for a version that is still in the write-ahead log; looking at it read-only leaves it as it is."""
    with contextlib.suppress(sqlite3.OperationalError):  # it needs recovery, which opening it for writing does
        with contextlib.closing(sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True)) as connection:
            version = connection.execute("pragma user_version").fetchone()[0]
        if version > schema.SCHEMA_VERSION:
            raise StoreTooNew(_too_new(path, version))


def _too_new(path: Path, version: int) -> str:
    return (
        f"{path} has schema version {version}; this flowstore knows {schema.SCHEMA_VERSION} at most. "
        "Upgrade: pip install --upgrade flowstore"
    )
