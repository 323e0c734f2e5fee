"""Previews of the items of a foreach whose opener a resumed run has taken over: only its list is stored."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Sequence

from flowstore.errors import FlowstoreError
from flowstore.store import blobs, codecs
from flowstore.store.db import Store
from flowstore.store.preview import preview
from flowstore.store.visible import visible_artifacts

MAX_ITEM = 200  # characters of an item's preview
_READ = frozenset({"json", "typed-json", "npy"})  # codecs whose decoding runs no code and makes something to index
_MAX_BYTES = 4 << 20


def item_preview(item: object) -> str:
    """Return a preview of a foreach item."""
    return preview(item)[:MAX_ITEM]


def later(
    store: Store, opener_id: int, items_from: str | None, count: int | None
) -> Callable[[], Sequence[str | None]] | None:
    """Return what finds the previews of a foreach's items when it is first called; `None` where there is no foreach."""
    if items_from is None or count is None:
        return None

    @functools.cache
    def previews() -> Sequence[str | None]:
        with store.read() as db:
            return previews_of(db, opener_id, items_from, count)

    return previews


def previews_of(db: sqlite3.Connection, opener_id: int, items_from: str, count: int) -> Sequence[str | None]:
    """Return a preview of each item of a foreach: from the tasks that had them, else from the list where it is safe.

    Args:
        db: of an open transaction.
        opener_id: the task that opened the foreach.
        items_from: the artifact that holds the items.
        count: how many there are.
    """
    previews: list[str | None] = [None] * count
    rows = db.execute(
        """select t.foreach_path, t.item from task_parents p join tasks t on t.id = p.task_id
           where p.parent_id = ? and t.item is not null""",
        (opener_id,),
    ).fetchall()
    for row in rows:
        index = (row["foreach_path"] or "").rpartition("/")[2]
        if index.isdecimal() and int(index) < count:
            previews[int(index)] = row["item"]
    if None in previews:
        items = _stored(db, opener_id, items_from)
        if items is not None and len(items) == count:
            previews = [known or item_preview(item) for known, item in zip(previews, items, strict=True)]
    return previews


def _stored(db: sqlite3.Connection, opener_id: int, items_from: str) -> Sequence[object] | None:
    """Return the list of items as the store has it; `None` where that is large, or a pickle."""
    blob = visible_artifacts(db, {opener_id: None}, items_from)[opener_id].get(items_from)
    if blob is None or blob.codec not in _READ or blob.size_bytes > _MAX_BYTES:
        return None
    try:
        items = codecs.decode(blob.codec, iter([b"".join(blobs.read(db, blob))]), blob.size_bytes)
        return items if hasattr(items, "__len__") and hasattr(items, "__getitem__") else None
    except FlowstoreError:  # it is damaged, which a task that needs it will tell
        return None
