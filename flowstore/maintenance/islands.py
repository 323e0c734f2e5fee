"""Reading a table around pages that can't be read.

A scan ends at the first such page. So the table is read from both ends towards the damage, and what lies between is
halved and tried again, until what is left is what SQLite can't read. Keys are integers: the row's id, or the first
column of the primary key, of which a piece may then be given twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from flowstore.maintenance.problems import UNREADABLE

_MOST = 2**62
MAX_TRIES = 20_000  # of pieces of one table


def rows(db: sqlite3.Connection, table: str, key: str, columns: str, lost: list[str]) -> Iterator[Any]:
    """The rows that can be read, each range in order of the key; what can't be is told in `lost`.

    Args:
        db: where the table is.
        table: its name.
        key: its integer key, which is the first of `columns`.
        columns: what to select.
        lost: takes SQLite's messages.
    """
    pending, tries = [(-_MOST, _MOST)], 0
    while pending and tries < MAX_TRIES:
        low, high = pending.pop()
        tries += 1
        up = _Scan(db, f"select {columns} from {table} where {key} > ? and {key} < ? order by {key}", low, high)
        yield from up
        if up.error is None:
            continue
        if up.error not in lost:
            lost.append(up.error)
        low = low if up.last is None else up.last
        sql = f"select {columns} from {table} where {key} > ? and {key} < ? order by {key} desc"
        down = _Scan(db, sql, low, high)
        yield from down
        high = high if down.last is None else down.last
        if down.error is None or high - low < 2:
            continue
        low, high = _known(db, table, low, high)
        if high - low >= 2:
            middle = (low + high) // 2
            pending += [(middle - 1, high), (low, middle)]


def _known(db: sqlite3.Connection, table: str, low: int, high: int) -> tuple[int, int]:
    """A range no wider than what ids can be in: those that were ever given."""
    if high < _MOST and low > -_MOST:
        return low, high
    try:
        last = db.execute("select max(seq) from sqlite_sequence where name = ?", (table,)).fetchone()[0]
    except UNREADABLE:
        last = None
    return max(low, -1), min(high, last + 1 if last is not None else max(low, 0) + (1 << 24))


class _Scan:
    """The rows of one query up to the first that can't be read."""

    def __init__(self, db: sqlite3.Connection, sql: str, low: int, high: int) -> None:
        self._db, self._sql, self._range = db, sql, (low, high)
        self.last: int | None = None
        self.error: str | None = None

    def __iter__(self) -> Iterator[Any]:
        cursor = self._db.cursor()
        try:
            cursor.execute(self._sql, self._range)
            while True:
                row = cursor.fetchone()
                if row is None:
                    return
                self.last = row[0]
                yield row
        except UNREADABLE as error:
            self.error = str(error)
        finally:
            cursor.close()
