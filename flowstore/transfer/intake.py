"""Contents on their way in from other stores: written in short transactions, unseen until they are published.

Each has a lease in the name of this process, so that nobody takes it for rubbish while the process lives, and
everybody does afterwards.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from flowstore.maintenance.vacuum import drop_aside
from flowstore.sqlite import liveness
from flowstore.sqlite.database import Store
from flowstore.store import blobs, records
from flowstore.store.blobs import BATCH_BYTES, Blob
from flowstore.store.codecs import Piece

Content = tuple[bytes, str]  # hash and codec
_BATCH_ROWS = 2000


class Intake:
    """What an import is writing to a store.

    Args:
        store: the target.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._taken: set[Content] = set()
        self._ids: dict[Content, int] = {}
        self._pending: list[tuple[Content, Blob | None, int, Piece]] = []
        self._pending_bytes = 0
        self.taken_bytes = 0

    def lacks(self, sha: bytes, codec: str) -> bool:
        """Whether a content has neither been staged nor is in the store."""
        if (sha, codec) in self._taken:
            return False
        with self._store.read() as db:
            return blobs.find(db, sha, codec) is None

    def take(self, source: sqlite3.Connection, origin: Store, blob: Blob, name: str) -> None:
        """Stage one content; StoreCorrupt, naming it, if its bytes don't match its hash."""
        content = (blob.sha, blob.codec)
        self._taken.add(content)
        self.taken_bytes += blob.size_bytes
        pieces = blobs.chunks_of(blobs.verified(source, origin, blob, name))
        if blob.size_bytes <= blobs.INLINE_BYTES:
            self._add(content, blob, 0, b"".join(pieces))
            return
        self._add(content, blob, -1, b"")
        for n, chunk in enumerate(pieces):
            self._add(content, None, n, bytes(chunk))

    def _add(self, content: Content, blob: Blob | None, n: int, data: Piece) -> None:
        self._pending.append((content, blob, n, data))
        self._pending_bytes += len(data)
        if self._pending_bytes >= BATCH_BYTES or len(self._pending) >= _BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting, in one transaction, and show that this process lives."""
        if not self._pending:
            return
        me, at = liveness.this_process(), records.now_ms()
        process = (me.host, me.boot, me.pid, me.started)
        with self._store.write() as db:
            db.execute(
                "update leases set last_seen_at = ? where host = ? and boot = ? and pid = ? and pid_started = ?",
                (at, *process),
            )
            for content, blob, n, data in self._pending:
                if blob is None:
                    db.execute("insert into chunks values (?, ?, ?)", (self._ids[content], n, data))
                    continue
                inline: Any = bytes(data) if n == 0 else None
                self._ids[content] = blobs.insert(db, blob.description, data=inline)
                db.execute("insert into leases values (?, ?, ?, ?, ?, ?)", (self._ids[content], *process, at))
        self._pending.clear()
        self._pending_bytes = 0

    def publish(self, db: sqlite3.Connection, sha: bytes, codec: str) -> int | None:
        """Make a content visible in the caller's transaction; gives its row, `None` where it has vanished."""
        staged_id = self._ids.get((sha, codec))
        staged = db.execute("select 1 from blobs where id = ? and sha is null", (staged_id,)).fetchone() is not None
        if staged_id is None or not staged:  # it was here, or came with another of the files
            return blobs.find(db, sha, codec)
        db.execute("delete from leases where blob_id = ?", (staged_id,))
        return blobs.publish(db, staged_id, sha, codec)

    def drop_rest(self) -> None:
        """Give the space back of what was not published: the import failed, or somebody else was faster."""
        with self._store.read() as db:
            mine = [(each,) for each in self._ids.values()]
            left = any(db.execute("select 1 from leases where blob_id = ?", each).fetchone() for each in mine)
        if left:
            with self._store.write() as db:
                db.executemany("delete from leases where blob_id = ?", mine)
            drop_aside(self._store)
