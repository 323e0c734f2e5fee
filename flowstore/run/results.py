"""The blobs of attempts on their way into the store: small ones come with the report, large ones before it.

Large blobs are offered by hash, and those that the store lacks are handed over. They are staged as they come, and
become visible in the transaction that ends the attempt.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from flowstore import later
from flowstore.run.order_writer import RunPlan
from flowstore.run.orders import Report
from flowstore.sqlite.database import Database
from flowstore.store import blobs, trust
from flowstore.store.cards import RenderedCard
from flowstore.store.codecs import Encoded
from flowstore.store.description import NewBlob
from flowstore.store.staging import Incoming, Staging


@later.define
class _Arriving:
    """The large blobs of one attempt.

    Attributes:
        staged: by hash and codec, those that are handed over.
        awaited: those that are not complete yet, in the order in which they come.
    """

    staged: dict[tuple[bytes | None, str], Incoming] = later.field(factory=dict)
    awaited: list[Incoming] = later.field(factory=list)


@later.frozen
class Published:
    """The rows that an attempt leaves, whose blobs are in the store.

    Attributes:
        artifacts: name, blob (none: deleted) and 1 where merged, of each.
        cards: each with its blob.
    """

    artifacts: Sequence[tuple[str, int | None, int]]
    cards: Sequence[tuple[RenderedCard, int]]


class StoredResults:
    """Takes the blobs of one run's attempts; see `executor.Results`.

    Args:
        store: the run's.
        run: the run.
    """

    def __init__(self, store: Database, run: RunPlan) -> None:
        self._store = store
        self._run = run
        self._arriving: dict[int, _Arriving] = {}  # by the attempt's number
        self._staging = Staging(store)

    def finish(self) -> None:
        """Wait until all that came is written, or raise what kept it out; to be called outside of any transaction."""
        self._staging.wait()

    def close(self) -> None:
        """End the thread that writes, if there is one."""
        self._staging.close()

    def missing(self, number: int, offered: Sequence[NewBlob]) -> list[int]:
        """Return the indexes of an attempt's large blobs that the store lacks, each blob once."""
        wanted: dict[tuple[bytes, str], int] = {}
        with self._store.write() as db:
            for index, blob in enumerate(offered):
                assert blob.sha is not None
                if not self._staging.hold(db, blob.sha, blob.codec):
                    wanted.setdefault((blob.sha, blob.codec), index)
        arriving = self._arriving[number] = _Arriving()
        for index in sorted(wanted.values()):
            blob = offered[index]
            incoming = self._staging.begin(blob.sha or b"", blob.description)
            arriving.staged[blob.sha, blob.codec] = incoming
            arriving.awaited.append(incoming)
        return sorted(wanted.values())

    def take(self, number: int, chunk: bytes) -> None:
        """Take the next chunk of an attempt's; raise what kept an earlier batch out of the store."""
        awaited = self._arriving[number].awaited
        awaited[0].add(chunk)
        if awaited[0].is_complete:
            awaited.pop(0)

    def publish(self, db: sqlite3.Connection, number: int, report: Report) -> Published:
        """Publish the blobs of what an attempt set, in the transaction that ends it; return the rows to write."""
        arriving = self._arriving.pop(number, None)
        staged = {} if arriving is None else arriving.staged
        artifacts: list[tuple[str, int | None, int]] = []
        for name, blob in report.artifacts.items():
            blob_id = self._publish(db, blob, staged)
            if self._run.origin is not None:
                trust.clear_unverified(db, self._run.run_id, blob_id)
            artifacts.append((name, blob_id, 0))
        cards = [(card, self._publish(db, card.blob, staged)) for card in report.cards]
        for incoming in staged.values():
            incoming.drop(db)  # the attempt ended without naming what it had sent
        artifacts += [(name, blob_id, 1) for name, blob_id in report.merged.items()]
        artifacts += [(name, None, 0) for name in report.deleted]
        return Published(artifacts, cards)

    def _publish(self, db: sqlite3.Connection, blob: NewBlob, staged: dict[tuple[bytes | None, str], Incoming]) -> int:
        """Return the row of a blob that a report names; a staged one is removed from `staged`."""
        if blob.data is not None:
            return blobs.put(db, self._store, Encoded(blob.description, [blob.data]))
        assert blob.sha is not None
        incoming = staged.pop((blob.sha, blob.codec), None)
        if incoming is None:  # the store had it already, or another name has the same blob
            blob_id = self._find_large(db, blob.sha, blob.codec)
        else:
            blob_id = incoming.publish(db)
            incoming.sign(db, blob_id)
        blobs.describe(db, blob_id, blob.description)
        return blob_id

    def _find_large(self, db: sqlite3.Connection, sha: bytes, codec: str) -> int:
        blob_id = self._staging.release(db, sha, codec)
        assert blob_id is not None  # the offer found it, and what somebody holds is not removed
        trust.sign(db, self._store.uuid, blob_id, sha, codec)
        return blob_id
