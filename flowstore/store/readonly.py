"""SQL that a user types: it can read the store's tables and views, and nothing else.

An authorizer refuses everything but reading, since even a connection that is opened read-only could attach
other files or call functions that give away more than rows.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from flowstore.errors import FlowstoreError
from flowstore.store.db import Store

_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_SAVEPOINT = 32  # sqlite-utils sets one around a query; sqlite3 names no constant for it
_FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})
_PRAGMAS = frozenset({"table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list"})


def ask(store: Store, query: str) -> list[dict[str, Any]]:
    """The rows that a query gives, as dicts.

    Raises:
        FlowstoreError: it is not SQL, or does more than read.
    """
    from sqlite_utils import Database

    with store.read() as connection:
        database = Database(connection, execute_plugins=False, recursive_triggers=False)
        connection.set_authorizer(_authorize)
        try:
            return list(database.query(query))
        except (sqlite3.DatabaseError, sqlite3.ProgrammingError, ValueError, OverflowError) as error:
            if "not authorized" in str(error) or "prohibited" in str(error):
                raise FlowstoreError(f"Only reading is allowed here, so this was not run: {query}") from None
            raise FlowstoreError(f"SQLite says: {error}\nThe views that can be asked: flowstore schema") from None
        finally:
            connection.set_authorizer(None)


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _inner: str | None) -> int:
    if action in _READING or action == _SAVEPOINT:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_PRAGMA and (first or "").lower() in _PRAGMAS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY
