"""Blobs: the bytes of artifacts, addressed by their hash, so that equal bytes are stored once, whoever writes them.

The bytes of a small blob are in its row. Those of a large one are in `chunks` of 1 MiB. A row without a hash is a blob
that somebody is still writing, or an orphan that a crash left (see `staging`). Nobody else sees either.

A row with a hash, without `data`, and with an empty chunk of number -1 stands for bytes that an export left out: its
description is all there is of it. Whoever brings the bytes fills it.

Every read compares the bytes with the hash. A pickle is compared before it is loaded, and is loaded only if `trust`
allows it. This module makes every write to `blobs`, `chunks`, `blob_values` and `pictures`, but for repairs.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from flowstore import later
from flowstore.errors import ArtifactError, StoreCorrupt, UntrustedArtifact
from flowstore.sqlite.database import Database, Row
from flowstore.store import codecs, schema, tables, trust
from flowstore.store.codecs import Encoded, Piece
from flowstore.store.description import Described, Description
from flowstore.store.preview import MAX_PREVIEW, in_line
from flowstore.text import counted

if TYPE_CHECKING:
    import hashlib

INLINE_BYTES = 65536
CHUNK_BYTES = 1 << 20
BATCH_BYTES = 16 << 20  # a transaction: fast, and no other writer waits longer than 0.3 s
THREAD_BYTES = 16 << 20  # to hash so many is worth a thread

SEE = "The file is damaged. Restore a copy."

COLUMNS = (  # no longer than flowstore writes them: texts of an untrusted file may be as long as memory
    "b.id as blob_id, b.sha, b.codec, b.size_bytes, substr(b.type, 1, 1000) as type, "
    f"substr(b.preview, 1, {MAX_PREVIEW}) as preview, b.data"
)


@later.frozen
class Blob(Described):
    """A blob's address and description.

    Attributes:
        id: its row.
        sha: SHA-256 of its bytes.
        data: its bytes where they are few and were fetched with the row.
    """

    id: int
    sha: bytes
    data: bytes | None = later.field(repr=False)

    @classmethod
    def of(cls, row: Row) -> Blob:
        """Return the blob of a row with `COLUMNS`; raise StoreCorrupt where it is not described."""
        if None in (row["sha"], row["codec"], row["size_bytes"], row["type"], row["preview"]):
            raise StoreCorrupt.damaged(f"blob {row['blob_id']} is not described")
        description = Description(row["codec"], row["size_bytes"], row["type"], row["preview"])
        return cls(description, row["blob_id"], row["sha"], row["data"])


# Of a row `b` of blobs: its bytes were left out of the file that it came with.
LEFT_OUT = "exists (select 1 from chunks c where c.blob_id = b.id and c.n = -1)"


def find(db: sqlite3.Connection, sha: bytes, codec: str) -> int | None:
    """Return the row of a blob whose bytes are here; `None` where there is none."""
    blob_id, whole = find_described(db, sha, codec)
    return blob_id if whole else None


def find_described(db: sqlite3.Connection, sha: bytes, codec: str) -> tuple[int | None, bool]:
    """Return the row that describes a blob, if there is one, and whether its bytes are here, too."""
    row = db.execute(
        f"select b.id, not {LEFT_OUT} as whole from blobs b where b.sha = ? and b.codec = ?",
        (sha, codec),
    ).fetchone()
    return (row[0], bool(row[1])) if row else (None, False)


def put(db: sqlite3.Connection, store: Database, encoded: Encoded) -> int:
    """Store a blob in the caller's transaction, unless it is here; return its row."""
    sha = encoded.sha
    blob_id, whole = find_described(db, sha, encoded.codec)
    if blob_id is None or not whole:
        small = encoded.size_bytes <= INLINE_BYTES
        data = encoded.content if small else None
        if blob_id is None:
            blob_id = insert(db, encoded.description, sha=sha, data=data)
        else:
            _take_in(db, blob_id, data)
        if not small:
            insert_chunks(db, ((blob_id, n, chunk) for n, chunk in enumerate(chunks_of(encoded.pieces))))
    describe(db, blob_id, encoded.description)
    trust.sign(db, store.uuid, blob_id, sha, encoded.codec)
    return blob_id


def describe(db: sqlite3.Connection, blob_id: int, description: Description) -> None:
    """Store the plain JSON and the picture of a blob, unless its bytes are that JSON."""
    entry = codecs.entry_of(description.codec)
    if entry.has_json and not entry.is_json:
        plain = description.plain
        exact = None if plain.value is None else int(plain.exact)
        insert_value(db, blob_id, plain.value, exact, plain.number)
    if description.picture is not None:
        insert_picture(db, blob_id, description.picture)


def insert_value(
    db: sqlite3.Connection, blob_id: int, value: str | None, exact: int | None, number: float | None
) -> None:
    """Insert the plain JSON of a blob, unless it is there."""
    db.execute("insert or ignore into blob_values values (?, ?, ?, ?)", (blob_id, value, exact, number))


def insert_picture(db: sqlite3.Connection, blob_id: int, png: bytes) -> None:
    """Insert the picture of a blob, unless it is there."""
    schema.ensure_table(db, "pictures")
    db.execute("insert or ignore into pictures values (?, ?)", (blob_id, png))


def leave_out(db: sqlite3.Connection, blob_id: int) -> None:
    """Mark a row without bytes as one whose bytes were left out."""
    insert_chunks(db, [(blob_id, -1, b"")])


def _take_in(db: sqlite3.Connection, blob_id: int, data: bytes | None) -> None:
    """Record that bytes which were left out have come: as `data` where they are few, else as chunks."""
    db.execute("delete from chunks where blob_id = ? and n = -1", (blob_id,))
    db.execute("update blobs set data = ? where id = ?", (data, blob_id))


def insert(
    db: sqlite3.Connection,
    description: Description,
    *,
    sha: bytes | None = None,
    data: bytes | None = None,
    row: int | None = None,
) -> int:
    """Insert one row of `blobs`, of an id of its own or a new one; return its id."""
    values = description.codec, description.size_bytes, description.type, description.preview
    cursor = db.execute(
        "insert into blobs (id, sha, codec, size_bytes, type, preview, data) values (?, ?, ?, ?, ?, ?, ?)",
        (row, sha, *values, data),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def chunks_of(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield bytes in chunks of exactly `CHUNK_BYTES`, except for the last one; large pieces are not copied."""
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


def publish(db: sqlite3.Connection, staged_id: int, sha: bytes, codec: str) -> int:
    """Give a staged row its hash in the caller's transaction, or drop it where the blob is here; return the row."""
    blob_id, whole = find_described(db, sha, codec)
    if blob_id is None:
        db.execute("update blobs set sha = ?, staged_by = null where id = ?", (sha, staged_id))
        return staged_id
    if not whole:
        _take_in(db, blob_id, db.execute("select data from blobs where id = ?", (staged_id,)).fetchone()[0])
        db.execute("update chunks set blob_id = ? where blob_id = ?", (blob_id, staged_id))
    db.execute("delete from blobs where id = ? and sha is null", (staged_id,))
    return blob_id


def insert_chunks(db: sqlite3.Connection, rows: Iterable[tuple[int, int, Piece]]) -> None:
    """Insert chunks: the row of the blob, the chunk's number and its bytes, of each."""
    schema.ensure_table(db, "chunks")
    db.executemany("insert into chunks values (?, ?, ?)", rows)


def delete_chunks(db: sqlite3.Connection, blob_id: int, count: int) -> int:
    """Delete some chunks of a blob; return how many there were, at most `count`."""
    rows = db.execute("select n from chunks where blob_id = ? order by n limit ?", (blob_id, count)).fetchall()
    for (n,) in rows:  # where there are none, not even a statement: in a small store, a view stands for the table
        db.execute("delete from chunks where blob_id = ? and n = ?", (blob_id, n))
    return len(rows)


def discard(db: sqlite3.Connection, blob_id: int, *, is_large: bool) -> None:
    """Remove a blob that nothing refers to, with what is known of it.

    A large blob loses its hash and so becomes an orphan: deleting all of its chunks here would keep others waiting.
    """
    for table in tables.with_blob():
        if table.name != "chunks" and not tables.is_empty(db, table.name):
            db.execute(f"delete from {table.name} where blob_id = ?", (blob_id,))
    if is_large:
        db.execute("update blobs set sha = null, staged_by = null where id = ?", (blob_id,))
    else:
        db.execute("delete from blobs where id = ?", (blob_id,))


def delete_staged(db: sqlite3.Connection, blob_id: int) -> None:
    """Delete the row of a blob that has no hash, with its chunks and its lease."""
    db.execute("delete from blobs where id = ? and sha is null", (blob_id,))


def load(store: Database, blob: Blob, name: str, *, run_id: int | None = None) -> Any:
    """Return the value of a blob.

    Args:
        store: where it is.
        blob: the blob.
        name: what to call it in messages: an artifact's name or pathspec.
        run_id: the run as a part of which it is loaded; `None` for what is part of no run.

    Raises:
        StoreCorrupt: the bytes don't match their hash.
        UntrustedArtifact: it is a pickle that this user neither wrote nor trusts.
        ArtifactError: it can't be rebuilt here, or was left out of this file.
    """
    if blob.data is not None and codecs.is_safe(blob.codec):
        return _value(None, store, blob, name)
    with store.read() as db:
        check_trust(store, blob, name, run_id)
        return _value(db, store, fetched(db, blob), name)


def _value(db: sqlite3.Connection | None, store: Database, blob: Blob, name: str) -> Any:
    """Return the value of a blob; without a connection, of one that was fetched with all of its bytes."""
    pieces = verified(db, store, blob, name)
    if not codecs.is_safe(blob.codec):  # its code must not run before all of it was compared
        _exhaust(pieces)
        pieces = read(db, blob)
    try:
        value = codecs.decode(blob.codec, pieces, blob.size_bytes)
    except ArtifactError as error:
        _exhaust(verified(db, store, blob, name))  # damage is the better explanation
        raise ArtifactError(f"{name}: {error}") from error
    _exhaust(pieces)  # a decoder may stop early, and the hash is compared at the end
    return value


def check_trust(store: Database, blob: Blob, name: str, run_id: int | None) -> None:
    """Raise UntrustedArtifact where a blob may not be loaded; see `load`."""
    if blob.codec == "pickle" and not trust.may_load(store, run_id, blob.id, blob.sha, blob.codec):
        raise UntrustedArtifact(
            f"{name} is a pickle ({in_line(blob.type)}) that your own runs did not write; loading it runs its author's "
            f"code.\nPreview: {in_line(blob.preview)}\nIf you trust the file: {trust.command(store.path)}"
        )


def fetched(db: sqlite3.Connection | None, blob: Blob) -> Blob:
    """Return a blob with its bytes, if they are few; they may not have been fetched with the rest."""
    if blob.data is not None or blob.size_bytes > INLINE_BYTES:
        return blob
    assert db is not None
    row = db.execute("select data from blobs where id = ?", (blob.id,)).fetchone()
    return blob if row is None else later.evolve(blob, data=row["data"])


def check_size(db: sqlite3.Connection | None, store: Database, blob: Blob, name: str) -> None:
    """Compare the size that a row claims with what is there, before anybody makes room for it."""
    if blob.data is None:
        assert db is not None
        row = db.execute("select sum(length(data)), min(n) from chunks where blob_id = ?", (blob.id,)).fetchone()
        if row[1] == -1:
            raise ArtifactError(
                f"{name} ({blob.type}, {counted(blob.size_bytes, 'byte')}) was left out of {store.path} "
                "when that was exported. "
                "Its bytes come with: flowstore import FILE, of a file that has them."
            )
        size = row[0] or 0
    else:
        size = len(blob.data)
    if size != blob.size_bytes:
        raise StoreCorrupt(f"{store.path}: {name} has {counted(size, 'byte')} instead of {blob.size_bytes}. {SEE}")


def copy(store: Database, blob: Blob, file: BinaryIO, name: str) -> None:
    """Write a blob's bytes to a file; raise like `verified`."""
    with store.read() as db:
        file.writelines(verified(db, store, blob, name))


def read(db: sqlite3.Connection | None, blob: Blob) -> Iterator[bytes]:
    """Yield a blob's bytes, piece by piece; each is a query of its own, so that no cursor stays open.

    A blob that was fetched with all of its bytes needs no connection, here and below.
    """
    if blob.data is not None:
        yield blob.data
        return
    assert db is not None
    for n in range((blob.size_bytes + CHUNK_BYTES - 1) // CHUNK_BYTES):
        if not (data := chunk(db, blob, n)):
            return
        yield data


def chunk(db: sqlite3.Connection, blob: Blob, n: int) -> bytes:
    """Return a chunk of a blob; empty where it is missing."""
    blob = fetched(db, blob)
    if blob.data is not None:
        return blob.data
    row = db.execute("select data from chunks where blob_id = ? and n = ?", (blob.id, n)).fetchone()
    return b"" if row is None else row[0]


def verified(db: sqlite3.Connection | None, store: Database, blob: Blob, name: str) -> Iterator[bytes]:
    """Yield a blob's bytes, piece by piece, and compare them with its hash at the end.

    Raises:
        StoreCorrupt: they don't match.
        ArtifactError: they were left out of this file.
    """
    import hashlib  # OpenSSL, which most commands do without

    blob = fetched(db, blob)
    check_size(db, store, blob, name)
    digest = hashlib.sha256()
    hashed = _hashed_meanwhile if blob.size_bytes > THREAD_BYTES else _hashed
    yield from hashed(read(db, blob), digest)
    if digest.digest() != blob.sha:
        raise StoreCorrupt(f"{store.path}: the bytes of {name} do not match their hash. {SEE}")


def _hashed(pieces: Iterator[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece


def _hashed_meanwhile(pieces: Iterator[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    """Yield the pieces; each is hashed while the caller takes it and the next one is read."""
    with contextlib.closing(Background()) as background:
        for piece in pieces:
            background.run(digest.update, piece)
            yield piece


def _exhaust(pieces: Iterator[bytes]) -> None:
    for _ in pieces:
        pass


class Background:
    """Runs calls in a thread, one after the other. Where no thread can be started, each call runs at once."""

    def __init__(self) -> None:
        try:
            from concurrent.futures import ThreadPoolExecutor  # here, since it takes 6 ms to import

            self._thread: Any = ThreadPoolExecutor(1)
            self._last: Any = self._thread.submit(int)  # starts it
        except RuntimeError:  # a limit on processes is reached, or Python is about to end
            self._thread = self._last = None

    def run(self, call: Callable[..., object], *arguments: Any) -> None:
        """Run a call once the one before is done, so that no more than one waits; raise what that one raised."""
        self.wait()
        try:
            self._last = self._thread and self._thread.submit(call, *arguments)
        except RuntimeError:  # Python began to end
            self._last = None
        if self._last is None:
            call(*arguments)

    def wait(self) -> None:
        """Wait until the last call is done; raise what it raised."""
        if self._last is not None:
            self._last.result()

    def close(self) -> None:
        """Wait until the last call is done, whether or not it succeeded, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown()
