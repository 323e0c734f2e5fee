"""Rows as they are read: each value is of a type that its column declares, or the file is damaged.

SQLite checks the types of a strict table when it writes, not when it reads. One flipped bit turns a number into
text, and a stranger writes what he likes. Whatever reads rows relies on their types, so they are compared here,
at the one place that all rows come through, and by the column's name, which means the same in every table. (The
views show times as text: they are for people, and `readonly` reads them.)
"""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from flowstore.errors import StoreCorrupt

_NONE = type(None)
_NAMES: dict[str, frozenset[type]] = {
    "id run_id parent_id task_id tag_id attempts runs number log_id system generation final last_task_id": frozenset(
        {int}
    ),
    "flow_id step_id pid code_id attempt_id base_id blob_id size_bytes is_flag exact": frozenset({int, _NONE}),
    "created_at started_at last_seen_at written_at deployed_at newest_at": frozenset({int}),
    "finished_at due_at begun": frozenset({int, _NONE}),
    "flow user host boot pid_started uuid parameters name kind tag stream text path": frozenset({str}),
    "script_name scope token created_by deployed_by option": frozenset({str}),
    "step artifact status run_status codec type preview foreach_path transition": frozenset({str, _NONE}),
    "origin_pathspec origin_run_id": frozenset({str, _NONE}),
    "metadata error_type error_message traceback schedule namespace project branch": frozenset({str, _NONE}),
    "note item ran_on module value": frozenset({str, _NONE}),
    "magnitude": frozenset({float, _NONE}),
    "sha data key_id mac png": frozenset({bytes, _NONE}),
}
_ALLOWED = {name: kinds for names, kinds in _NAMES.items() for name in names.split()}
Value = TypeVar("Value")
PAGE = 256  # rows of a listing that are fetched at once
LATER = 2**62  # than any time, or id
Key = TypeVar("Key", int, tuple[int, int])


class Checked:
    """Makes a connection's rows; remembers the combinations of types that it has seen, so it costs little."""

    def __init__(self, path: Path) -> None:
        self._path = path
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
            if name in _ALLOWED and type(value) not in _ALLOWED[name]:
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
    """A stored time, in UTC; StoreCorrupt if no clock can have shown it."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise StoreCorrupt.damaged(f"{at_ms!r} is not a time in milliseconds: {error}") from error


def place_of(foreach_path: str) -> tuple[int, ...]:
    """The index in each enclosing foreach; StoreCorrupt if it is no such path.

    >>> place_of("3/0")
    (3, 0)
    """
    parts = foreach_path.split("/")
    if not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
        raise StoreCorrupt.damaged(f"{foreach_path[:60]!r} is not a position in a foreach")
    return tuple(map(int, parts))


def texts_of(text: str) -> list[str]:
    """What a column holds that is a JSON list of texts; StoreCorrupt if it holds anything else."""
    found = json_of(text, list)
    if not all(isinstance(item, str) for item in found):
        raise StoreCorrupt.damaged(f"{text[:60]!r} is not a list of texts")
    return found


def json_of(text: str, kind: type[Value]) -> Value:
    """What a column of JSON holds, an object (`dict`) or a list; StoreCorrupt if it holds anything else."""
    try:
        found: Any = json.loads(text)
        if "\\u" in text:  # half a character, perhaps, which nobody can print
            json.dumps(found, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreCorrupt.damaged(f"{text[:60]!r} is not JSON: {error}") from error
    if type(found) is not kind:
        raise StoreCorrupt.damaged(f"{text[:60]!r} is not a JSON {kind.__name__}")
    return found
