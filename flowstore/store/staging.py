"""Large contents on their way in: written in short transactions, invisible until they are published.

A thread writes what has arrived while the next of it arrives: SQLite, and reading from a socket, let the other go on.
"""

from __future__ import annotations

import sqlite3

from flowstore.sqlite.database import Store
from flowstore.store import blobs, trust
from flowstore.store.blobs import Aside
from flowstore.store.description import Description


class Writer:
    """Writes the staged contents of one run, batch after batch: one is written while the next one fills."""

    def __init__(self, store: Store, run_id: int) -> None:
        self.store = store
        self.run_id = run_id
        self._aside = Aside()

    def write(self, staging: Staging, batch: list[bytes]) -> None:
        """Write a batch, once the one before is written; raises what kept that out."""
        self._aside.run(staging.write, batch)

    def finish(self) -> None:
        """Wait until all that was taken is written; to be called outside of any transaction.

        Raises:
            FlowstoreError: it could not be.
        """
        self._aside.wait()

    def close(self) -> None:
        """End the thread."""
        self._aside.close()


class Staging:
    """One content.

    Args:
        writer: what writes it.
        description: what it is.
    """

    def __init__(self, writer: Writer, description: Description) -> None:
        self.writer = writer
        self._description = description
        self._missing_bytes = description.size_bytes
        self._blob_id: int | None = None
        self._batch: list[bytes] = []
        self._chunks = 0  # that are written

    @property
    def whole(self) -> bool:
        """Whether all of it has arrived."""
        return self._missing_bytes <= 0

    def take(self, chunk: bytes) -> None:
        """Take the next chunk, of `blobs.CHUNK_BYTES` but for the last one; raises what kept an earlier batch out."""
        self._batch.append(chunk)
        self._missing_bytes -= len(chunk)
        if self.whole or len(self._batch) * blobs.CHUNK_BYTES >= blobs.BATCH_BYTES:
            batch, self._batch = self._batch, []
            self.writer.write(self, batch)

    def write(self, batch: list[bytes]) -> None:
        """Write chunks, in a transaction of their own."""
        with self.writer.store.write() as db:
            if self._blob_id is None:
                self._blob_id = blobs.insert(db, self._description, staged_by=self.writer.run_id)
            rows = [(self._blob_id, self._chunks + n, chunk) for n, chunk in enumerate(batch)]
            db.executemany("insert into chunks values (?, ?, ?)", rows)
        self._chunks += len(batch)

    def publish(self, db: sqlite3.Connection, sha: bytes) -> int:
        """Make the content visible, in the caller's transaction; gives its row."""
        assert self._blob_id is not None  # all of it has been written
        codec = self._description.codec
        blob_id = blobs.publish(db, self._blob_id, sha, codec)
        trust.sign(db, self.writer.store.uuid, blob_id, sha, codec)
        return blob_id

    def drop(self, db: sqlite3.Connection) -> None:
        """Give the space back: the content is there already, or the task that sent it failed."""
        db.execute(
            "delete from blobs where id = ? and sha is null and staged_by = ?", (self._blob_id, self.writer.run_id)
        )
