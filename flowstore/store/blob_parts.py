"""The bytes of one blob in parts, each read by a query of its own: for pages of large values, and for slow readers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from flowstore.errors import NotFound, StoreCorrupt
from flowstore.sqlite.database import Database
from flowstore.store.blobs import CHUNK_BYTES, SEE, Blob, check_size, fetched

COMPARED_BYTES = 16 << 20  # takes some 20 ms
_KEPT_CHUNKS = 8  # in memory, of a blob that is read here and there


def stream(store: Database, blob: Blob, name: str) -> Iterator[bytes]:
    """Yield a blob's bytes like `verified`, without a transaction between the pieces: a reader may be slow.

    The last piece is held back until all are compared with the hash, so nobody gets all of a damaged blob.

    Raises:
        NotFound: it was deleted meanwhile.
    """
    part = Part(store, blob, name, most_compared=-1)  # which is done below
    digest = hashlib.sha256()
    held = b""
    for at in range(0, blob.size_bytes, CHUNK_BYTES):
        if held:
            yield held
        held = part.read(at, CHUNK_BYTES)
        digest.update(held)
    if digest.digest() != blob.sha:
        raise StoreCorrupt(f"{store.path}: the bytes of {name} do not match their hash. {SEE}")
    yield held


class Part:
    """The bytes of a blob from anywhere in it, for who needs few of many.

    Each read is a transaction of its own. To compare a blob with its hash takes all of its bytes, so a large one is not
    compared: it is for codecs that execute nothing, and whoever shows it says that it was not.

    Args:
        store: where it is.
        blob: the blob.
        name: what to call it in messages.
        most_compared: the size up to which a blob is compared with its hash first; `None`: whatever its size.

    Attributes:
        size_bytes: its length.
        is_compared: whether it is as it was written.

    Raises:
        StoreCorrupt: it is not of the size that its row claims, or does not match its hash.
        ArtifactError: its bytes were left out of this file.
    """

    def __init__(self, store: Database, blob: Blob, name: str, most_compared: int | None = COMPARED_BYTES) -> None:
        self._store = store
        self.name = name
        self.size_bytes = blob.size_bytes
        self.is_compared = most_compared is None or blob.size_bytes <= most_compared
        with store.read() as db:
            self._blob = fetched(db, blob)
            check_size(db, store, self._blob, name)
        if self.is_compared:
            for _ in stream(store, self._blob, name):
                pass
        self._kept: dict[int, bytes] = {}  # the chunks that were read last, the oldest first

    def read(self, at: int, count: int) -> bytes:
        """Return the bytes at an offset, as many as there are."""
        if self._blob.data is not None:
            return self._blob.data[at : at + count]
        end = min(at + count, self.size_bytes)
        pieces = []
        while at < end:
            n, start = divmod(at, CHUNK_BYTES)
            piece = self._chunk(n)[start : start + end - at]
            if not piece:
                raise StoreCorrupt(f"{self._store.path}: bytes of {self.name} are missing. {SEE}")
            pieces.append(piece)
            at += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _chunk(self, n: int) -> bytes:
        data = self._kept.pop(n, None)
        if data is None:
            data = self._store.value("select data from chunks where blob_id = ? and n = ?", (self._blob.id, n))
            if data is None:
                raise NotFound(f"{self.name} was deleted from {self._store.path}.")
            while len(self._kept) >= _KEPT_CHUNKS:
                del self._kept[next(iter(self._kept))]
        self._kept[n] = data
        return data
