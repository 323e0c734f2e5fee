"""Files that somebody else made: their schema is compared with ours before anything is asked of them.

A trigger runs when we write, a view in place of ours answers what its author likes, a virtual table runs code
of its module. None of these is in a store that flowstore wrote. Tables, views and indexes that people add for
their own questions are left alone, because nothing here ever reads them.
"""

from __future__ import annotations

import contextlib
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
    found: dict[str, str] = {}
    for kind, name, sql in connection.execute("select type, name, sql from sqlite_master where sql is not null"):
        if kind == "trigger" or _VIRTUAL.match(sql):
            raise StoreCorrupt(f"{path} holds the {kind} {name!r}, which flowstore never makes; it is not opened.")
        found[name] = _normal(sql)
    if _wrong(found, _as_written(version)):  # an altered table reads otherwise than any migration writes it
        for name in _wrong(found, _as_made(version)):
            what = "was changed" if name in found else "is missing"
            raise StoreCorrupt(f"{path}: the definition of {name!r} {what}; it is not opened.")


def _wrong(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    return [name for name, sql in expected.items() if found.get(name) != sql]


@functools.cache
def _as_written(version: int) -> Mapping[str, str]:
    """Our definitions as the migrations of a version write them: quick, and right unless one alters a table."""
    statements = (each for _, script in schema.MIGRATIONS[:version] for each in schema.statements(script))
    return {match[3]: _normal(each) for each in statements if (match := _CREATE.match(each))}


@functools.cache
def _as_made(version: int) -> Mapping[str, str]:
    """Our definitions as SQLite has them after the migrations of a version."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for _, script in schema.MIGRATIONS[:version]:
            connection.executescript(script)
        rows = connection.execute("select name, sql from sqlite_master where sql is not null").fetchall()
    return {name: _normal(sql) for name, sql in rows if not name.startswith("sqlite_")}


def _normal(sql: str) -> str:
    """A definition as SQLite keeps it: it writes the first words its own way."""
    return _CREATE.sub(lambda match: f"{match[1] or ''}{match[2]} {match[3]}".lower(), sql.strip().rstrip(";"), count=1)
