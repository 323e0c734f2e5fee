"""Rows of cards: the reports that tasks make of themselves. This module owns the table `cards`.

A card belongs to an attempt and has a number there. Its HTML is a blob of the codec `html`, which is never anything but
text. While the attempt runs the driver replaces the HTML; what it replaced is removed, unless something else has it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from flowstore import later
from flowstore.errors import StoreCorrupt
from flowstore.sqlite.database import Database, Row
from flowstore.store import blobs, schema, tables
from flowstore.store.blobs import COLUMNS, Blob
from flowstore.store.description import NewBlob

CODEC = "html"


@later.frozen
class RenderedCard:
    """A card as an attempt hands it to the driver.

    Attributes:
        n: its number in the attempt.
        type: of which kind it is.
        card_id: the id that `@card` has.
        blob: the HTML.
        data: JSON that the card's `refresh` returned; `None` to keep what is there.
    """

    n: int
    type: str
    card_id: str | None
    blob: NewBlob
    data: bytes | None = None

    @property
    def packed(self) -> tuple[Any, ...]:
        """The card as a tuple of plain values, for a message."""
        return self.n, self.type, self.card_id, self.blob.packed, self.data

    @classmethod
    def unpacked(cls, packed: tuple[Any, ...]) -> RenderedCard:
        """Return the card that `packed` was made of.

        Raises:
            ValueError: these are not the values of a card.
        """
        try:
            n, kind, card_id, blob, data = packed
            return cls(n, kind, card_id, NewBlob.unpacked(blob), data)
        except TypeError as error:
            raise ValueError(f"this is not a card: {error}") from error


def put(db: sqlite3.Connection, attempt_id: int, card: RenderedCard, blob_id: int, at_ms: int) -> None:
    """Store a card of an attempt, with its HTML, in place of what it was before."""
    row = db.execute("select blob_id, data from cards where attempt_id = ? and n = ?", (attempt_id, card.n)).fetchone()
    data = card.data if card.data is not None or row is None else row["data"]
    schema.ensure_table(db, "cards")
    db.execute(
        """insert or replace into cards (attempt_id, n, type, card_id, blob_id, data, updated_at)
           values (?, ?, ?, ?, ?, ?, ?)""",
        (attempt_id, card.n, card.type, card.card_id, blob_id, data, at_ms),
    )
    if row is not None and row["blob_id"] != blob_id:
        _discard_unused(db, row["blob_id"])


def _discard_unused(db: sqlite3.Connection, blob_id: int) -> None:
    """Remove a blob that was a card's, unless something else refers to it."""
    unused = f"select 1 from blobs b where b.id = ? and {tables.unused('blob', 'b.id')}"
    if db.execute(unused, (blob_id,)).fetchone() is not None:
        blobs.discard(db, blob_id, is_large=False)  # its few chunks go at once, as a state of a card is no large value


def take_over(db: sqlite3.Connection, attempt_id: int, origin_id: int) -> None:
    """Give an attempt of a resumed run the cards of the task that it stands for."""
    if not tables.is_empty(db, "cards"):
        db.execute(
            """insert into cards (attempt_id, n, type, card_id, blob_id, data, updated_at)
               select ?, c.n, c.type, c.card_id, c.blob_id, c.data, c.updated_at
               from tasks t join cards c on c.attempt_id = t.attempt_id where t.id = ?""",
            (attempt_id, origin_id),
        )


_SELECT = f"""select c.attempt_id, c.n, substr(c.type, 1, 1000) as type, substr(c.card_id, 1, 1000) as card_id,
    c.data as refreshed, c.updated_at, {COLUMNS}
  from cards c join blobs b on b.id = c.blob_id"""


def of_attempt(store: Database, attempt_id: int) -> Sequence[Row]:
    """Return the cards of an attempt, in order, with `blobs.COLUMNS`."""
    return store.rows(f"{_SELECT} where c.attempt_id = ? order by c.n", (attempt_id,))


def of_run(store: Database, run_id: int, most: int) -> Sequence[Row]:
    """Return cards of the last attempts of a run's tasks, with the ids and steps of these, the newest first."""
    return store.rows(
        f"""select t.id as task_id, s.name as step, t.attempts, x.* from tasks t join steps s on s.id = t.step_id
            join ({_SELECT}) x on x.attempt_id = t.attempt_id
            where t.run_id = ? order by x.updated_at desc, t.id desc, x.n limit ?""",
        (run_id, most),
    )


def are_in(store: Database, run_id: int) -> bool:
    """Return whether the last attempt of any of a run's tasks has a card; quick in a store without cards."""
    sql = """select exists (select 1 from cards) and exists (
               select 1 from tasks t cross join cards c on c.attempt_id = t.attempt_id where t.run_id = ?)"""
    return bool(store.value(sql, (run_id,)))


def html(store: Database, blob: Blob, name: str) -> str:
    """Return the HTML of a card; nothing else is ever loaded in its name.

    Raises:
        StoreCorrupt: the bytes do not match their hash, or are not a card's.
        ArtifactError: they were left out of this file.
    """
    if blob.codec != CODEC:
        raise StoreCorrupt.damaged(f"{name} is not a card", store.path)
    return str(blobs.load(store, blob, name))
