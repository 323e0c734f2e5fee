"""Bytes <-> content-addressed rows: each content once, whoever writes it, of any size.

Small contents stand in their `blobs` row. Large ones are in `chunks` of 1 MiB, written a few at a time
under a row without a hash, which nobody else sees; the transaction that finishes the task gives the row
its hash, or drops it where the same content was already there. A row without a hash whose run is over is
rubbish from a crash.

Every read compares the content with its hash. Pickles are compared before they are loaded, and loaded only
if `trust` allows it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import attrs

from flowstore.errors import ArtifactError, StoreCorrupt, UntrustedArtifact
from flowstore.store import codecs, trust
from flowstore.store.codecs import Encoded, Piece
from flowstore.store.db import Row, Store

INLINE_BYTES = 65536
CHUNK_BYTES = 1 << 20
BATCH_BYTES = (
    16 << 20
)  # a transaction: long enough to be fast, short enough to keep other writers waiting 0.3 s at most

_SEE = "The file is damaged: restore a copy."

COLUMNS = "b.id as blob_id, b.sha, b.codec, b.size_bytes, b.type, b.preview, b.data"


@attrs.frozen
class Blob:
    """A content's address and description; `data` is its bytes where it is small.

    Attributes:
        id: the row.
        sha: SHA-256 of the content.
        codec, size_bytes, type, preview: as in `codecs.Encoded`.
    """

    id: int
    sha: bytes
    codec: str
    size_bytes: int
    type: str
    preview: str
    data: bytes | None = attrs.field(repr=False)

    @classmethod
    def of(cls, row: Row) -> Blob:
        """From a row with `COLUMNS`."""
        return cls(
            row["blob_id"], row["sha"], row["codec"], row["size_bytes"], row["type"], row["preview"], row["data"]
        )


def find(db: sqlite3.Connection, sha: bytes, codec: str) -> int | None:
    """The row that holds this content, if it is there."""
    row = db.execute("select id from blobs where sha = ? and codec = ?", (sha, codec)).fetchone()
    return row[0] if row else None


def put(db: sqlite3.Connection, store: Store, encoded: Encoded) -> int:
    """Store a content in the caller's transaction, unless it is there; gives its row."""
    blob_id = find(db, encoded.sha, encoded.codec)
    if blob_id is None:
        small = encoded.size_bytes <= INLINE_BYTES
        data = encoded.content if small else None
        blob_id = insert(
            db, encoded.codec, encoded.size_bytes, encoded.type, encoded.preview, sha=encoded.sha, data=data
        )
        if not small:
            for n, chunk in enumerate(chunks_of(encoded.pieces)):
                db.execute("insert into chunks values (?, ?, ?)", (blob_id, n, chunk))
    if encoded.codec == "pickle":
        trust.sign(db, store.uuid, blob_id, encoded.sha, encoded.codec)
    return blob_id


def insert(
    db: sqlite3.Connection,
    codec: str,
    size_bytes: int,
    type_name: str,
    preview: str,
    *,
    sha: bytes | None = None,
    data: bytes | None = None,
    staged_by: int | None = None,
) -> int:
    """Insert one `blobs` row."""
    cursor = db.execute(
        "insert into blobs (sha, codec, size_bytes, type, preview, data, staged_by) values (?, ?, ?, ?, ?, ?, ?)",
        (sha, codec, size_bytes, type_name, preview, data, staged_by),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def chunks_of(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """A content in chunks of exactly `CHUNK_BYTES`, but for the last one; what is large is not copied."""
    pending = bytearray()
    for piece in pieces:
        view = memoryview(piece).cast("B")
        at = 0
        while at < len(view):
            if not pending and len(view) - at >= CHUNK_BYTES:
                yield view[at : at + CHUNK_BYTES]
                at += CHUNK_BYTES
                continue
            room = CHUNK_BYTES - len(pending)
            pending += view[at : at + room]
            at += room
            if len(pending) == CHUNK_BYTES:
                yield pending
                pending = bytearray()
    if pending:
        yield pending


class Staging:
    """A large content on its way in: written in short transactions, invisible until it is published."""

    def __init__(self, store: Store, run_id: int, codec: str, size_bytes: int, type_name: str, preview: str) -> None:
        self._store = store
        self._run_id = run_id
        self._row = (codec, size_bytes, type_name, preview)
        self._blob_id: int | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._next = 0
        self.received_bytes = 0

    def write(self, chunk: bytes) -> None:
        """Take the next chunk, of `CHUNK_BYTES` but for the last one."""
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        self.received_bytes += len(chunk)
        if self._pending_bytes >= BATCH_BYTES or self.received_bytes >= self._row[1]:
            with self._store.write() as db:
                if self._blob_id is None:
                    codec, size_bytes, type_name, preview = self._row
                    self._blob_id = insert(db, codec, size_bytes, type_name, preview, staged_by=self._run_id)
                rows = [(self._blob_id, self._next + n, chunk) for n, chunk in enumerate(self._pending)]
                db.executemany("insert into chunks values (?, ?, ?)", rows)
            self._next += len(rows)
            self._pending.clear()
            self._pending_bytes = 0

    def publish(self, db: sqlite3.Connection, sha: bytes) -> int:
        """Make the content visible, in the caller's transaction; gives its row."""
        codec = self._row[0]
        blob_id = find(db, sha, codec)
        if blob_id is None:
            assert self._blob_id is not None  # all of it has been written
            blob_id = self._blob_id
            db.execute("update blobs set sha = ?, staged_by = null where id = ?", (sha, blob_id))
        elif blob_id != self._blob_id:
            self.drop(db)
        if codec == "pickle":
            trust.sign(db, self._store.uuid, blob_id, sha, codec)
        return blob_id

    def drop(self, db: sqlite3.Connection) -> None:
        """Give the space back: the content is there already, or the task that sent it failed."""
        db.execute("delete from blobs where id = ? and sha is null and staged_by = ?", (self._blob_id, self._run_id))


def drop_orphans(db: sqlite3.Connection) -> None:
    """Remove what crashed runs had begun to write."""
    db.execute(
        """delete from blobs where sha is null and (staged_by is null
           or not exists (select 1 from runs where runs.id = blobs.staged_by and runs.status = 'running'))"""
    )


def load(store: Store, blob: Blob, name: str) -> Any:
    """The value of a content.

    Args:
        store: where it is.
        blob: its row.
        name: what to call it in messages: an artifact's name or pathspec.

    Raises:
        StoreCorrupt: the bytes don't match their hash.
        UntrustedArtifact: it is a pickle that this user neither wrote nor trusts.
        ArtifactError: it can't be rebuilt here.
    """
    with store.read() as db:
        _check_trust(store, blob, name)
        _check_size(db, store, blob, name)
        pieces = _verified(db, store, blob, name)
        if blob.codec == "pickle":  # its code must not run before all of it was compared
            _exhaust(pieces)
            pieces = read(db, blob)
        try:
            value = codecs.decode(blob.codec, pieces, blob.size_bytes)
        except ArtifactError as error:
            _exhaust(_verified(db, store, blob, name))  # damage is the better explanation
            raise ArtifactError(f"{name}: {error}") from error
        _exhaust(pieces)  # a decoder may stop early, and the hash is compared at the end
        return value


def _check_trust(store: Store, blob: Blob, name: str) -> None:
    if blob.codec == "pickle" and not trust.may_load(store, blob.id, blob.sha, blob.codec):
        raise UntrustedArtifact(
            f"{name} is a pickle ({blob.type}) that your own runs did not write; loading it runs its author's code.\n"
            f"Preview: {blob.preview}\nIf you trust the file: {trust.command(store.path)}"
        )


def _check_size(db: sqlite3.Connection, store: Store, blob: Blob, name: str) -> None:
    """Compare the size that a row claims with what is there, before anybody makes room for it."""
    if blob.data is None:
        row = db.execute("select sum(length(data)) from chunks where blob_id = ?", (blob.id,)).fetchone()
        size = row[0] or 0
    else:
        size = len(blob.data)
    if size != blob.size_bytes:
        raise StoreCorrupt(f"{store.path}: {name} has {size} bytes instead of {blob.size_bytes}. {_SEE}")


def copy(store: Store, blob: Blob, file: BinaryIO, name: str) -> None:
    """Write a content's bytes to a file; StoreCorrupt if they don't match their hash."""
    with store.read() as db:
        file.writelines(_verified(db, store, blob, name))


def read(db: sqlite3.Connection, blob: Blob) -> Iterator[bytes]:
    """A content's bytes, piece by piece; each is a query of its own, so that no cursor stays open."""
    if blob.data is not None:
        yield blob.data
        return
    for n in range((blob.size_bytes + CHUNK_BYTES - 1) // CHUNK_BYTES):
        row = db.execute("select data from chunks where blob_id = ? and n = ?", (blob.id, n)).fetchone()
        if row is None:
            return
        yield row[0]


def _verified(db: sqlite3.Connection, store: Store, blob: Blob, name: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for piece in read(db, blob):
        digest.update(piece)
        yield piece
    if digest.digest() != blob.sha:
        raise StoreCorrupt(f"{store.path}: the bytes of {name} don't match their hash. {_SEE}")


def _exhaust(pieces: Iterator[bytes]) -> None:
    for _ in pieces:
        pass
