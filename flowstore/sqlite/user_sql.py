"""SQL that a user types: it can read the store's tables and views, and nothing else.

An authorizer refuses everything but reading, since even a connection that is opened read-only could attach
other files or call functions that give away more than rows. The rows of an untrusted file can make a harmless
question endless, so there is a deadline for those.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import sys
import time
from collections.abc import Iterator
from typing import Any

from flowstore.errors import FlowstoreError
from flowstore.sqlite.database import Database

DEADLINE_S = 30.0
HEAP_BYTES = 256 << 20  # of SQLite, for a query to an untrusted file
RESULT_BYTES = 128 << 20  # of the rows of such a query, as Python has them
_UNTRUSTED_LIMITS = {  # a row has at most 400 MB: SQLite shares the values of equal columns, and Python copies each
    sqlite3.SQLITE_LIMIT_LENGTH: 4 << 20,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
}
_QUERY_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 64 << 20,  # bytes of a value; the largest of ours is a chunk of 1 MiB
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,  # matching takes the square of it
}
_STEPS_BETWEEN_LOOKS = 100_000  # a millisecond or so
_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_SAVEPOINT = 32  # sqlite-utils sets one around a query; sqlite3 names no constant for it
_DECLARES = (sqlite3.SQLITE_UPDATE, "sqlite_master")  # asked where json_each is first used; nothing can be written
_REFUSALS = ("not authorized", "prohibited", "may not be modified", "only be used with SQL that returns rows")
_FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})
_PRAGMAS = frozenset({"table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list"})


def ask(
    store: Database, query: str, *, untrusted: bool, deadline_s: float | None = None, most: int | None = None
) -> list[dict[str, Any]]:
    """Return the rows of a query, as dicts.

    Args:
        store: the store that is asked.
        query: one statement that only reads.
        untrusted: whether the file may be hostile; its queries are bounded in time and memory.
        deadline_s: how long it may take, in seconds, whoever wrote the file; its memory is bounded then, too.
        most: how many rows are returned at most.

    Raises:
        FlowstoreError: it is not SQL, or does more than read, or takes too long.
    """
    import sqlite_utils

    bounded = untrusted or deadline_s is not None
    late = DEADLINE_S if deadline_s is None else deadline_s
    instead = "trust the file: flowstore trust PATH" if deadline_s is None else "ask on a command line: flowstore sql"
    with store.read() as connection, _limited(connection, late) if bounded else contextlib.nullcontext():
        database = sqlite_utils.Database(connection, execute_plugins=False, recursive_triggers=False)
        checked, connection.row_factory = connection.row_factory, None  # a query names its columns as it likes
        before = {what: connection.getlimit(what) for what in _UNTRUSTED_LIMITS}
        connection.execute("pragma query_only = on")
        if untrusted:
            _limit_memory(connection)
        connection.set_authorizer(_authorize)
        try:
            rows = database.query(query)
            return _bounded(rows, most, instead) if bounded else list(itertools.islice(rows, most))
        except (sqlite3.DatabaseError, sqlite3.ProgrammingError, ValueError, OverflowError, MemoryError) as error:
            # without its traceback, which holds a cursor that is half read and so would keep the file locked
            raise _translated(error.with_traceback(None), query, late, instead) from None
        finally:
            connection.set_authorizer(None)
            connection.execute("pragma query_only = off")
            connection.row_factory = checked
            for what, value in before.items():
                connection.setlimit(what, value)


def _limit_memory(connection: sqlite3.Connection) -> None:
    """Bound what SQLite itself takes, from here on in this process, and how large one row can get."""
    connection.execute(f"pragma hard_heap_limit = {HEAP_BYTES}")
    for what, most in _UNTRUSTED_LIMITS.items():
        connection.setlimit(what, most)


def _bounded(rows: Iterator[dict[str, Any]], most: int | None, instead: str) -> list[dict[str, Any]]:
    """Collect rows as long as there is room for them.

    Raises:
        FlowstoreError: there are too many, or they are too large.
    """
    collected: list[dict[str, Any]] = []
    room = RESULT_BYTES
    with contextlib.closing(rows):  # type: ignore[type-var]  # a generator, whose cursor would keep the file locked
        for row in itertools.islice(rows, most):
            room -= sys.getsizeof(row) + sum(map(sys.getsizeof, row.values()))
            if room < 0:
                raise FlowstoreError(
                    f"The result takes more than {RESULT_BYTES >> 20} MiB, which is all that it is given here. "
                    f"Ask for less, with a limit, or {instead}"
                )
            collected.append(row)
    return collected


def _translated(error: Exception, query: str, late: float, instead: str) -> FlowstoreError:
    if isinstance(error, MemoryError):
        return FlowstoreError(
            "The query needs more memory than it can have. Ask for less, with a limit or fewer columns."
        )
    if any(words in str(error) for words in _REFUSALS):
        return FlowstoreError(f"Only reading is allowed here, so this was not run: {query}")
    if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
        return FlowstoreError(
            f"The query took more than {late:.0f} s, which is all that it is given here. Ask for less, or {instead}"
        )
    return FlowstoreError(f"SQLite says: {error}\nThe views that can be asked: flowstore schema")


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _inner: str | None) -> int:
    if action in _READING or action == _SAVEPOINT:
        return sqlite3.SQLITE_OK
    if (action, first) == _DECLARES:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_PRAGMA and (first or "").lower() in _PRAGMAS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


@contextlib.contextmanager
def _limited(connection: sqlite3.Connection, deadline_s: float) -> Iterator[None]:
    """Bound the time and memory of the queries in a block.

    SQLite ends it with SQLITE_INTERRUPT or SQLITE_TOOBIG. Our own queries need no such limits: each is bounded by
    the rows that the file holds, and SQLite reads no value that is larger than the file.
    """
    until = time.monotonic() + deadline_s
    before = {what: connection.setlimit(what, most) for what, most in _QUERY_LIMITS.items()}
    connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)
        for what, most in before.items():
            connection.setlimit(what, most)
