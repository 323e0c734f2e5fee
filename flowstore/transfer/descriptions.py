"""Descriptions that come with a store's blobs: values as plain JSON, and pictures.

Both are an author's word. From a file of this user's own they are taken as they are. From any other, what can be read
without running code is described anew (`backlog`); of the rest the JSON is kept, as the preview is, if it is JSON, with
the number that it says.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping

from flowstore.store.blobs import insert_picture, insert_value
from flowstore.store.codecs import is_safe
from flowstore.store.json_levels import MAX_VALUE_BYTES
from flowstore.store.pictures import is_picture
from flowstore.store.plain import numbers_in
from flowstore.transfer import tables


def complete(db: sqlite3.Connection) -> bool:
    """Whether everything in a store has been described: it is not an older one, nor one that was just migrated."""
    return tables.has(db, "backlog") and db.execute("select 1 from backlog").fetchone() is None


def copy(there: sqlite3.Connection, here: sqlite3.Connection, taken: bool, blobs: Mapping[int, int]) -> None:
    """Copy the descriptions of blobs that are here now.

    Args:
        there: the other store.
        here: this one, in a transaction.
        taken: whether the other store's word is taken.
        blobs: their rows here by those there.
    """
    if not tables.has(there, "blob_values"):
        return
    for there_id, here_id in blobs.items():
        row = there.execute(
            """select v.value, v.exact, v.magnitude, b.codec from blob_values v join blobs b on b.id = v.blob_id
               where v.blob_id = ?""",
            (there_id,),
        ).fetchone()
        if row is not None and (taken or not is_safe(row["codec"])):
            values = (row["value"], row["exact"], row["magnitude"]) if taken else _checked(row)
            insert_value(here, here_id, *values)
        picture = there.execute("select png from pictures where blob_id = ?", (there_id,)).fetchone()
        if picture is not None and is_picture(picture["png"]):
            insert_picture(here, here_id, picture["png"])


def _checked(row: sqlite3.Row) -> tuple[str | None, int | None, float | None]:
    """Return what a stranger's row says, as far as it is JSON, with the number that this JSON is."""
    text = row["value"]
    if text is None or len(text.encode()) > MAX_VALUE_BYTES:
        return None, None, None
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None, None, None
    numbers = numbers_in("", text)
    number = numbers[0][1] if len(numbers) == 1 and numbers[0][0] == "" else None
    return text, int(row["exact"] == 1), number
