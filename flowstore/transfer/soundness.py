"""Checks that an imported file keeps the invariants that our own writers guarantee.

Types and hashes are compared where rows and blobs are copied. Here is the rest: what would make the Client go round in
circles, show one run's artifacts in another, or put ours out of order. An import asks all of it before it writes.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from flowstore.errors import StoreCorrupt
from flowstore.store import invariants, tables
from flowstore.store.problems import location

_SET_BY_USERS = "select tag_id from run_tags where system = 0 union select tag_id from node_tags"

# What no version let a user set. The rules of today are not asked: tightened, they would keep old stores out.
_TAGS = {
    "holds an empty tag": "select 1 from tags where tag = ''",
    "holds a tag of more than 500 characters that a user set": f"""
        select 1 from tags where length(tag) > 500 and id in ({_SET_BY_USERS})""",  # their names were of any length
    "holds a tag that only flowstore sets as one that a user set": f"""
        select 1 from tags where id in ({_SET_BY_USERS}) and (tag glob 'user:*' or tag glob 'production:*')""",
}


def check(db: sqlite3.Connection, path: Path) -> None:
    """Check the whole file.

    Raises:
        StoreCorrupt: it is damaged, or breaks an invariant; says which.
    """
    message = db.execute("pragma quick_check(1)").fetchone()[0]
    if message != "ok":
        raise StoreCorrupt(f"{path} is damaged ({message}). Nothing was imported.")
    for rule in (*invariants.references(db), *invariants.ROWS):
        if not rule.tolerated and _is_imported(db, rule.table, rule.column):
            _check_rule(db, rule, path)
    _check_tags(db, path)
    for table in tables.travelling(db, tables.OUT, tables.BOTH):
        if "blob_id" not in table.owner:
            _exhaust(db.execute(f"select * from {table.name}"))  # each value is of its type, and text is UTF-8
    _exhaust(db.execute("select sha, codec, size_bytes, type, preview from blobs"))


def _is_imported(db: sqlite3.Connection, table: str, column: str) -> bool:
    """Return whether a table, or a column of it, is read by an import: an older file lacks some."""
    return (table == "blobs" or tables.BY_NAME[table].travels != "") and tables.has(db, table, column)


def _check_rule(db: sqlite3.Connection, rule: invariants.Rule, path: Path) -> None:
    with contextlib.closing(db.execute(rule.find)) as rows:
        row = rows.fetchone()
    if row is not None:
        problem = rule.problem.format(**dict(zip(row.keys(), row, strict=True)))
        about = location(db, row, rule.table)
        raise StoreCorrupt(f"{path}: {about}: {problem}, which no run of flowstore wrote. Nothing was imported.")


def _exhaust(rows: sqlite3.Cursor) -> None:
    with contextlib.closing(rows):  # an error would keep it half read, and the file locked for as long as it is held
        for _ in rows:
            pass


def _check_tags(db: sqlite3.Connection, path: Path) -> None:
    for problem, sql in _TAGS.items():
        if db.execute(f"{sql} limit 1").fetchone() is not None:
            raise StoreCorrupt(f"{path} {problem}, which no run of flowstore wrote. Nothing was imported.")
