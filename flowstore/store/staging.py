"""Blobs on their way into a store: the one protocol for what a run's attempts and an import bring.

1. `Staging.begin` announces a blob. Its bytes come in chunks and are written in batches, each in a transaction of its
   own, under a row without a hash. Nobody finds such a row.
2. The row has a lease: the name of the process that writes it.
3. `Incoming.publish` gives the row its hash in the caller's transaction, the same that refers to the blob. Where the
   store has the blob by then, the row is dropped instead.
4. `Staging.close` drops whatever was not published. After a crash nobody does, and the lease names a process that is
   gone: then `drop_orphans`, which every writer calls, removes the row.

A lease also protects a blob that the store has: `hold` keeps it from being deleted until whoever counts on it refers to
it. A lease has one holder. Whoever finds a blob held by another process that lives brings a copy of its own.
"""

from __future__ import annotations

import sqlite3
import time

from flowstore.sqlite import liveness
from flowstore.sqlite.database import Database
from flowstore.store import blobs, trust
from flowstore.store.blobs import BATCH_BYTES, INLINE_BYTES, Background
from flowstore.store.description import Description

_BATCH_ROWS = 2000
_CHUNKS_AT_A_TIME = 64  # that are deleted in one transaction: 64 MiB
_PROCESS = "host = ? and boot = ? and pid = ? and pid_started = ?"

# Of a row b of blobs without a hash: nobody who lives is writing it. `staged_by` names the run that was writing a row
# of an older flowstore. A lease stands for its process, which `drop_dead_leases` looks at.
ORPHANED = """(b.sha is null
  and not exists (select 1 from runs r where r.id = b.staged_by and r.status = 'running')
  and not exists (select 1 from leases l where l.blob_id = b.id))"""


class Staging:
    """Brings blobs into one store, in the name of this process.

    One batch is written in the background while the next one fills: SQLite, and reading from a socket or a file, let
    other threads run.

    Args:
        store: where the blobs go.
    """

    def __init__(self, store: Database) -> None:
        self.store = store
        self._process = _this_process()
        self._background: Background | None = None
        self._pending: list[tuple[Incoming, bytes]] = []
        self._pending_bytes = 0
        self._staged: set[int] = set()  # rows that were written; the store says which of them were published
        self._held: dict[int, int] = {}  # by row, how often `hold` was called

    def begin(self, sha: bytes, description: Description) -> Incoming:
        """Announce a blob whose chunks will be added."""
        return Incoming(self, sha, description)

    def add(self, incoming: Incoming, chunk: bytes) -> None:
        """Add a chunk of an announced blob; called by `Incoming.add`."""
        self._pending.append((incoming, chunk))
        self._pending_bytes += len(chunk)
        if self._pending_bytes >= BATCH_BYTES or len(self._pending) >= _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._background is None:  # a thread, for those that bring something
            self._background = Background()
        batch, self._pending, self._pending_bytes = self._pending, [], 0
        self._background.run(self._write, batch)

    def _write(self, batch: list[tuple[Incoming, bytes]]) -> None:
        """Write one batch in a transaction of its own."""
        rows: dict[Incoming, int] = {}  # what the objects know is what was committed
        chunks: list[tuple[int, int, bytes]] = []
        counts: dict[Incoming, int] = {}
        with self.store.write() as db:
            keep_leases(db, self._process)
            for incoming, chunk in batch:
                small = incoming.description.size_bytes <= INLINE_BYTES
                blob_id = rows.get(incoming, incoming.blob_id)
                if blob_id is None:
                    blob_id = blobs.insert(db, incoming.description, data=chunk if small else None)
                    rows[incoming] = blob_id
                    self._lease(db, blob_id)
                if not small:
                    n = counts.get(incoming, incoming.written)
                    chunks.append((blob_id, n, chunk))
                    counts[incoming] = n + 1
            blobs.insert_chunks(db, chunks)
        for incoming, blob_id in rows.items():
            incoming.blob_id = blob_id
            self._staged.add(blob_id)
        for incoming, count in counts.items():
            incoming.written = count

    def wait(self) -> None:
        """Wait until every chunk that was added is written; to be called outside of any transaction.

        Raises:
            FlowstoreError: it could not be written.
        """
        if self._background is not None:
            self._flush()
            self._background.wait()
        elif self._pending:  # all of it is one batch, for which a thread would be of no use
            batch, self._pending, self._pending_bytes = self._pending, [], 0
            self._write(batch)

    def hold(self, db: sqlite3.Connection, sha: bytes, codec: str) -> bool:
        """Keep a blob of the store from being deleted until `release`, or `close`.

        Args:
            db: of an open transaction.
            sha: the blob's hash.
            codec: its codec.

        Returns:
            False where the store has no such blob, or another process holds it: its bytes are to be brought.
        """
        blob_id = blobs.find(db, sha, codec)
        if blob_id is None:
            return False
        if blob_id not in self._held:
            holder = db.execute("select * from leases where blob_id = ?", (blob_id,)).fetchone()
            if holder is not None and not liveness.is_dead(holder):
                return False
            self._lease(db, blob_id)
        self._held[blob_id] = self._held.get(blob_id, 0) + 1
        return True

    def release(self, db: sqlite3.Connection, sha: bytes, codec: str) -> int | None:
        """Return the row of a blob that was held, in the transaction that refers to it, and let go of it."""
        blob_id = blobs.find(db, sha, codec)
        if blob_id in self._held:
            self._held[blob_id] -= 1
            if self._held[blob_id] == 0:
                del self._held[blob_id]
                self._end_lease(db, blob_id)
        return blob_id

    def publish(self, db: sqlite3.Connection, blob_id: int, sha: bytes, codec: str) -> int | None:
        """Give a written row its hash; return the row of the blob. Called by `Incoming.publish`."""
        if self._is_staged(db, blob_id):
            self._end_lease(db, blob_id)
            return blobs.publish(db, blob_id, sha, codec)
        return blobs.find(db, sha, codec)  # it was published in this transaction, or in one before

    def drop(self, db: sqlite3.Connection, blob_id: int) -> None:
        """Remove a written row, unless it has its hash by now. Called by `Incoming.drop`."""
        if self._is_staged(db, blob_id):
            blobs.delete_staged(db, blob_id)
            self._staged.discard(blob_id)

    def _is_staged(self, db: sqlite3.Connection, blob_id: int) -> bool:
        """Return whether a row has no hash yet, and this process's lease."""
        row = db.execute(
            f"select 1 from leases join blobs b on b.id = blob_id where blob_id = ? and b.sha is null and {_PROCESS}",
            (blob_id, *self._process),
        ).fetchone()
        return row is not None

    def _lease(self, db: sqlite3.Connection, blob_id: int) -> None:
        """Write a lease in the name of this process; one of a process that is gone is replaced."""
        db.execute("insert or replace into leases values (?, ?, ?, ?, ?, ?)", (blob_id, *self._process, _now_ms()))

    def _end_lease(self, db: sqlite3.Connection, blob_id: int) -> None:
        db.execute(f"delete from leases where blob_id = ? and {_PROCESS}", (blob_id, *self._process))

    def close(self) -> None:
        """End the thread, and drop what was not published: nobody will ask for it."""
        self._pending = []
        if self._background is not None:
            self._background.close()
        if not self._staged and not self._held:
            return
        with self.store.write() as db:
            rows = db.execute(
                f"select b.id, b.sha is null as is_staged from leases join blobs b on b.id = blob_id where {_PROCESS}",
                self._process,
            ).fetchall()
            left = [row["id"] for row in rows if row["is_staged"] and row["id"] in self._staged]
            for blob_id in (*left, *self._held):
                self._end_lease(db, blob_id)
        self._staged, self._held = set(), {}
        if left:
            drop_orphans(self.store)


class Incoming:
    """One blob on its way in; made by `Staging.begin`.

    Attributes:
        sha: SHA-256 of its bytes.
        description: what it is.
        blob_id: its row, once a batch with its first chunk is written.
        written: how many of its chunks are in the store.
    """

    def __init__(self, staging: Staging, sha: bytes, description: Description) -> None:
        self._staging = staging
        self.sha = sha
        self.description = description
        self.blob_id: int | None = None
        self.written = 0
        self._missing_bytes = description.size_bytes

    @property
    def is_complete(self) -> bool:
        """Whether all of its bytes have been added."""
        return self._missing_bytes <= 0

    def add(self, chunk: bytes) -> None:
        """Add the next chunk, of `blobs.CHUNK_BYTES` except for the last one; a small blob is one chunk.

        Raises:
            FlowstoreError: the store could not take an earlier chunk.
        """
        self._missing_bytes -= len(chunk)
        self._staging.add(self, chunk)

    def publish(self, db: sqlite3.Connection) -> int:
        """Make the blob visible in the caller's transaction; return its row.

        All of it has been written: `Staging.wait` was called. A publication that is undone with its transaction can be
        repeated.
        """
        assert self.blob_id is not None
        blob_id = self._staging.publish(db, self.blob_id, self.sha, self.description.codec)
        assert blob_id is not None
        return blob_id

    def sign(self, db: sqlite3.Connection, blob_id: int) -> None:
        """Record that this user's run wrote the blob."""
        trust.sign(db, self._staging.store.uuid, blob_id, self.sha, self.description.codec)

    def drop(self, db: sqlite3.Connection) -> None:
        """Remove the blob: the attempt that sent it failed. Nothing is removed that was published or is another's."""
        if self.blob_id is not None:
            self._staging.drop(db, self.blob_id)


def _this_process() -> tuple[str, str, int, str]:
    me = liveness.this_process()
    return me.host, me.boot, me.pid, me.started


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def keep_leases(db: sqlite3.Connection, process: tuple[str, str, int, str] | None = None) -> None:
    """Show that this process lives, for those on other machines that can't look for it."""
    db.execute(f"update leases set last_seen_at = ? where {_PROCESS}", (_now_ms(), *(process or _this_process())))


def drop_dead_leases(store: Database) -> None:
    """End the leases of processes that are gone."""
    dead = [(row["blob_id"],) for row in store.rows("select * from leases") if liveness.is_dead(row)]
    if dead:
        with store.write() as db:
            db.executemany("delete from leases where blob_id = ?", dead)


def has_orphans(store: Database) -> bool:
    """Return whether there may be rows without a hash, whoever writes them."""
    return bool(store.value("select 1 from blobs where sha is null limit 1"))


def drop_orphans(store: Database) -> None:
    """Remove what nobody will publish, in transactions that are short whatever its size."""
    while True:
        with store.write() as db:
            row = db.execute(f"select b.id from blobs b where {ORPHANED} limit 1").fetchone()
            if row is None:
                return
            if blobs.delete_chunks(db, row["id"], _CHUNKS_AT_A_TIME) < _CHUNKS_AT_A_TIME:
                blobs.delete_staged(db, row["id"])
