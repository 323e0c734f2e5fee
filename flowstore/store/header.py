"""What a file says it is, looked at before SQLite touches it: not one byte of a wrong file is written."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from flowstore.errors import FlowstoreError, NotAStore, StoreCorrupt, StoreNotFound, StoreTooNew
from flowstore.store import place, schema, sidefiles


def check(path: Path) -> None:
    """Tell wrong files apart by their first 100 bytes, before SQLite touches them (format: sqlite.org/fileformat)."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        raise StoreNotFound(f"There is no store at {path}.") from None
    except OSError as error:
        raise FlowstoreError(f"{path} can't be read: {error.strerror}.") from error
    if not header.startswith(sidefiles.DATABASE) or len(header) < 100:
        raise NotAStore(f"{path} is not a flowstore store: it is not an SQLite file.")
    _check_page(path, header)


def check_beside(path: Path) -> None:
    """Check what SQLite would make of the first page by playing back the files beside it; both stay as they are."""
    if place.beside(path, "-wal"):
        with (
            contextlib.suppress(sqlite3.OperationalError),  # it can't be read here: `check_open` looks when it is open
            contextlib.closing(sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True)) as connection,
        ):
            check_open(connection, path)
    if place.beside(path, "-journal"):
        page = sidefiles.first_page(place.side(path, "-journal"))
        if page is not None:
            _check_page(path, page)


def check_open(connection: sqlite3.Connection, path: Path) -> None:
    """Check what a connection reads, after SQLite has played back what lies beside the file.

    Raises:
        NotAStore, StoreCorrupt, StoreTooNew: as `check` does.
    """
    application, version = (connection.execute(f"pragma {name}").fetchone()[0] for name in _NAMES)
    _check(path, application, version, connection.execute("pragma encoding").fetchone()[0])


_NAMES = ("application_id", "user_version")
_ENCODINGS = {1: "UTF-8", 2: "UTF-16le", 3: "UTF-16be"}


def _check_page(path: Path, page: bytes) -> None:
    encoding, version = (int.from_bytes(page[at : at + 4], "big", signed=True) for at in (56, 60))
    _check(path, int.from_bytes(page[68:72], "big", signed=True), version, _ENCODINGS.get(encoding, str(encoding)))


def _check(path: Path, application: int, version: int, encoding: str) -> None:
    if application != schema.APPLICATION_ID:
        raise NotAStore(f"{path} is an SQLite file, but not a flowstore store.")
    if version > schema.SCHEMA_VERSION:
        raise StoreTooNew(_too_new(path, version))
    if version < 1:
        raise StoreCorrupt(f"{path} is damaged (its schema version is {version}). Restore a copy.")
    if encoding != "UTF-8":
        raise StoreCorrupt(
            f"{path} keeps its text as {encoding}, where flowstore writes UTF-8; it is not opened. "
            "Another program has written the file anew: restore a copy."
        )


def _too_new(path: Path, version: int) -> str:
    return (
        f"{path} has schema version {version}; this flowstore knows {schema.SCHEMA_VERSION} at most. "
        "Upgrade: pip install --upgrade flowstore"
    )
