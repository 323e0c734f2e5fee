"""SQLite errors as errors of ours, which tell what happened: by their codes, never by their texts."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType

from flowstore.errors import FlowstoreError, NotFound, StoreCorrupt
from flowstore.sqlite import journal


class StoreUnavailable(FlowstoreError):
    """The system refuses to read or write the file at the moment."""

    transient = True


class StoreLocked(StoreUnavailable):
    """Another process has locked the file for longer than was waited."""


class clearly:  # noqa: N801  # a context manager used as a function; it is around each query, so no generator
    """Turn SQLite's errors into ours."""

    __slots__ = ("_busy_timeout_s", "_path")

    def __init__(self, path: Path, busy_timeout_s: float = journal.BUSY_TIMEOUT_S) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and (ours := self._translated(error)) is not None:
            raise ours from (None if _is_undecodable(error) else error)

    def _translated(self, error: BaseException) -> FlowstoreError | None:
        if isinstance(error, sqlite3.Error) and journal.is_busy(error):
            return StoreLocked(f"{self._path} stayed locked for {self._busy_timeout_s:.0f} s by another process.")
        return _translated(self._path, error)


def _translated(path: Path, error: BaseException) -> FlowstoreError | None:
    """Return what an error means, by its code rather than its text; `None` for one that is not SQLite's."""
    if isinstance(error, UnicodeEncodeError):  # lone surrogates, as of an argument that is not UTF-8
        return NotFound(f"{error.object!r} is no Unicode text, so nothing in {path} is called that.")
    if isinstance(error, (UnicodeDecodeError, OverflowError)):  # the latter from arithmetic with numbers that were read
        return StoreCorrupt.damaged(error, path)
    if not isinstance(error, sqlite3.Error):
        return None
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return StoreUnavailable(f"{path} cannot grow: the disk is full. What was committed before is kept.")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return StoreUnavailable(f"{path} cannot be opened or written ({error}). Check its permissions.")
    if name.startswith("SQLITE_IOERR"):
        return StoreUnavailable(f"{path}: reading or writing failed ({error}, {name}). Check the disk.")
    if name.startswith("SQLITE_INTERRUPT"):
        return FlowstoreError(f"{path} was not read to the end: whoever asked for it has stopped.")
    damaged = isinstance(error, sqlite3.IntegrityError) or _is_undecodable(error)
    if damaged or name.startswith(_DAMAGED):  # not every Python has a name for each of these
        return StoreCorrupt.damaged(error, path)
    return None


_DAMAGED = tuple(f"SQLITE_{name}" for name in ("CORRUPT", "NOTADB", "TOOBIG", "CONSTRAINT", "MISMATCH", "FORMAT"))


def _is_undecodable(error: BaseException) -> bool:
    """Return whether text was not UTF-8. Its message quotes what was read, so it is better not shown as a cause."""
    return isinstance(error, sqlite3.OperationalError) and "decode to UTF-8" in str(error)
