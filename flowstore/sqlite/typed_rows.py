"""Checks that the values of rows have the types that their columns declare; else the file is damaged.

SQLite checks the types of a strict table when it writes, not when it reads. One flipped bit turns a number into
text, and the author of an untrusted file writes anything. All code that reads rows relies on their types, so they are
compared here, in the one place that all rows pass, and by the column's name, which means the same in every table. (The
views show times as text: they are for people, and `user_sql` reads them.)
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from flowstore.errors import StoreCorrupt

Value = TypeVar("Value")
PAGE = 256  # rows of a listing that are fetched at once
LATER = 2**62  # than any time, or id
Key = TypeVar("Key", int, tuple[int, int])


class Checked:
    """Makes a connection's rows; remembers the combinations of types that it has seen, so it costs little.

    Args:
        path: the file, for messages.
        types: the types that a column of a name may have; columns of other names may have any.
    """

    def __init__(self, path: Path, types: Mapping[str, frozenset[type]]) -> None:
        self._path = path
        self._types = types
        self._description: Any = None
        self._sound: set[tuple[type, ...]] = set()
        self._seen: dict[Any, set[tuple[type, ...]]] = {}  # by the description of a statement's columns
        self.half_read: list[sqlite3.Cursor] = []

    def __call__(self, cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> sqlite3.Row:
        if (description := cursor.description) is not self._description:  # a new one whenever a statement is executed
            self._description = description
            self._sound = self._seen.setdefault(description, set())
        if (kinds := tuple(map(type, values))) not in self._sound:
            self._check(cursor, values)
            self._sound.add(kinds)
        return sqlite3.Row(cursor, values)

    def _check(self, cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> None:
        for (name, *_), value in zip(cursor.description, values, strict=True):
            if name in self._types and type(value) not in self._types[name]:
                self.half_read.append(cursor)
                raise StoreCorrupt.damaged(f"{name} is {type(value).__name__}", self._path)


def release(connection: sqlite3.Connection) -> None:
    """Close the cursors that a damaged row has stopped: they would keep the file locked."""
    if isinstance(checked := connection.row_factory, Checked):
        while checked.half_read:
            checked.half_read.pop().close()


def onward(path: Path, last: Key, row: Key) -> Key:
    """Return where the next page of a listing begins: at the key of the last row of this one.

    Args:
        path: the file, for the message.
        last: the key that this page began below.
        row: the key of its last row; the rows are in falling order.

    Raises:
        StoreCorrupt: the rows are out of order, so an index is damaged and would be read round and round.
    """
    if not row < last:
        raise StoreCorrupt.damaged("rows are out of order", path)
    return row


def time_of(at_ms: int) -> datetime:
    """Return a stored time, in UTC; raise StoreCorrupt if no clock can have shown it."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise StoreCorrupt.damaged(f"{at_ms!r} is not a time in milliseconds: {error}") from error


def positions_of(foreach_path: str) -> tuple[int, ...]:
    """Return the index in each enclosing foreach; raise StoreCorrupt if the path is malformed.

    >>> positions_of("3/0")
    (3, 0)
    """
    parts = foreach_path.split("/")
    if not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
        raise StoreCorrupt.damaged(f"{foreach_path[:60]!r} is not a position in a foreach")
    return tuple(map(int, parts))


def texts_of(text: str) -> list[str]:
    """Return a column's JSON list of texts; raise StoreCorrupt if it is anything else."""
    value = json_of(text, list)
    if not all(isinstance(item, str) for item in value):
        raise StoreCorrupt.damaged(f"{text[:60]!r} is not a list of texts")
    return value


def json_of(text: str, kind: type[Value]) -> Value:
    """Return a column's JSON object (`dict`) or list; raise StoreCorrupt if it is anything else."""
    try:
        value: Any = json.loads(text)
        if "\\u" in text:  # half a character, perhaps, which nobody can print
            json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreCorrupt.damaged(f"{text[:60]!r} is not JSON: {error}") from error
    if type(value) is not kind:
        raise StoreCorrupt.damaged(f"{text[:60]!r} is not a JSON {kind.__name__}")
    return value
