"""Files that somebody else made: their schema is compared with ours before anything is asked of them.

A trigger runs when we write, a view in place of ours answers what its author likes, a virtual table runs code
of its module. None of these is in a store that flowstore wrote. Tables, views and indexes that people add for
their own questions are left alone, because nothing here ever reads them.
"""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from flowstore.errors import StoreCorrupt
from flowstore.store import schema

_CREATE = re.compile(r"\s*create\s+(unique\s+)?(table|view|index)\s+\"?(\w+)\"?", re.IGNORECASE)
_VIRTUAL = re.compile(r"\s*create\s+virtual\b", re.IGNORECASE)


def check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Compare a store's schema with what our migrations make.

    Raises:
        StoreCorrupt: names the trigger, the virtual table, or the definition that was changed or is missing.
    """
    version = connection.execute("pragma user_version").fetchone()[0]
    missing = dict(_definitions(version))
    for kind, name, sql in connection.execute("select type, name, sql from sqlite_master where sql is not null"):
        if kind == "trigger" or _VIRTUAL.match(sql):
            raise StoreCorrupt(f"{path} holds the {kind} {name!r}, which flowstore never makes; it is not opened.")
        ours = missing.pop(name, None)
        if ours is not None and ours != _normal(sql):
            raise StoreCorrupt(f"{path}: the definition of {name!r} was changed; it is not opened.")
    if missing:
        raise StoreCorrupt(f"{path} lacks {', '.join(sorted(missing))}, which every store has; it is not opened.")


@functools.cache
def _definitions(version: int) -> Mapping[str, str]:
    """The definition of each of our objects, by name, as a version of the schema has them."""
    found: dict[str, str] = {}
    for _, script in schema.MIGRATIONS[:version]:
        for statement in schema.statements(script):
            match = _CREATE.match(statement)
            if match:
                found[match[3]] = _normal(statement)
    return found


def _normal(sql: str) -> str:
    """A definition as SQLite keeps it: it writes the first words its own way."""
    return _CREATE.sub(lambda match: f"{match[1] or ''}{match[2]} {match[3]}".lower(), sql.strip().rstrip(";"), count=1)
