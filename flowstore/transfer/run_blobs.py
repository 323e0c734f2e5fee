"""The blobs that runs use, their descriptions, and which of them are pickles.

Descriptions, that is values as plain JSON and pictures, are an author's word. From a file of this user's own they are
taken as they are. From any other, what can be read without running code is described again (`backlog`); of the rest the
JSON is kept, as the preview is, if it is JSON, with the number that it is.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping

from flowstore.store import tables
from flowstore.store.blobs import COLUMNS, LEFT_OUT, insert_picture, insert_value
from flowstore.store.codecs import is_safe
from flowstore.store.json_levels import MAX_VALUE_BYTES
from flowstore.store.pictures import is_picture
from flowstore.store.plain import numbers_in

_NAME = """coalesce(
  (select f.name || '/' || r.id || '/' || s.name || '/' || t.id || '/' || a.name
   from artifacts a join attempts o on o.id = a.attempt_id join tasks t on t.id = o.task_id
   join steps s on s.id = t.step_id join runs r on r.id = t.run_id join flows f on f.id = r.flow_id
   where a.blob_id = b.id limit 1),
  (select p.kind || ' ' || p.name || ' of ' || f.name || '/' || r.id
   from run_artifacts p join runs r on r.id = p.run_id join flows f on f.id = r.flow_id
   where p.blob_id = b.id limit 1),
  (select 'a card of ' || f.name || '/' || r.id || '/' || s.name || '/' || t.id
   from cards a join attempts o on o.id = a.attempt_id join tasks t on t.id = o.task_id
   join steps s on s.id = t.step_id join runs r on r.id = t.run_id join flows f on f.id = r.flow_id
   where a.blob_id = b.id limit 1),
  (select 'the code file ' || c.path from code_files c where c.blob_id = b.id limit 1))"""


def used(db: sqlite3.Connection, run_ids: Collection[int]) -> Iterator[sqlite3.Row]:
    """Return the blobs that runs use: `blobs.COLUMNS`, `left_out`, `is_code`, and `named`, a name for messages."""
    return db.execute(
        f"""select {COLUMNS}, {LEFT_OUT} as left_out, {_NAME} as named,
              exists (select 1 from code_files c where c.blob_id = b.id and c.code_id in ({tables.ids("code")}))
                as is_code
            from blobs b where b.id in ({tables.ids("blob")}) order by b.id""",
        tables.bound(run_ids),
    )


def pickles(db: sqlite3.Connection, run_ids: Collection[int]) -> Iterator[tuple[int, int, bytes, bool]]:
    """Yield the pickles of runs: run, blob, its hash, and whether it came with that run unverified."""
    doubted: set[tuple[int, int]] = set()
    if tables.has(db, "unverified"):
        rows = db.execute(
            f"select run_id, blob_id from unverified where run_id in ({tables.RUNS})", tables.bound(run_ids)
        )
        doubted = {(row["run_id"], row["blob_id"]) for row in rows}
    rows = db.execute(
        f"""select distinct u.run_id, u.blob_id, b.sha from (
              select t.run_id, a.blob_id from artifacts a join attempts o on o.id = a.attempt_id
              join tasks t on t.id = o.task_id where t.run_id in ({tables.RUNS})
              union select run_id, blob_id from run_artifacts where run_id in ({tables.RUNS})
            ) u join blobs b on b.id = u.blob_id where b.codec = 'pickle'""",
        tables.bound(run_ids),
    )
    for row in rows:
        pair = (row["run_id"], row["blob_id"])
        yield *pair, row["sha"], pair in doubted


def are_described(db: sqlite3.Connection) -> bool:
    """Return whether all blobs of a store have been described: not in an older one, nor one that was just migrated."""
    return tables.has(db, "backlog") and db.execute("select 1 from backlog").fetchone() is None


def copy_descriptions(
    there: sqlite3.Connection, here: sqlite3.Connection, taken: bool, blobs: Mapping[int, int]
) -> None:
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
