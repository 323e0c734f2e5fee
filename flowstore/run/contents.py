"""What attempts leave, on its way into the store: small contents come with the report, large ones before it.

An attempt offers its large contents by hash and sends those that the store lacks. They are staged as they come, and
become visible in the transaction that ends the attempt.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from flowstore.run.orders import RunPlan
from flowstore.sqlite.database import Store
from flowstore.store import blobs, trust
from flowstore.store.codecs import Encoded
from flowstore.store.description import NewBlob
from flowstore.store.staging import Incoming, Staging


@attrs.define(eq=False, repr=False)
class Arriving:
    """The large contents of one attempt.

    Attributes:
        offered: each, with what takes it where it is to be sent.
        awaited: those that are not whole yet, in the order in which they are sent.
    """

    offered: list[tuple[NewBlob, Incoming | None]] = attrs.field(factory=list)
    awaited: list[Incoming] = attrs.field(factory=list)

    def take(self, data: bytes) -> None:
        """Take the next chunk; raises what kept an earlier batch out of the store."""
        staging = self.awaited[0]
        staging.add(data)
        if staging.is_complete:
            self.awaited.pop(0)


class Contents:
    """Takes the contents of one run's attempts.

    Args:
        store: the run's.
        run: the run.
    """

    def __init__(self, store: Store, run: RunPlan) -> None:
        self._store = store
        self._run = run
        self._staging = Staging(store)

    def finish(self) -> None:
        """Wait until all that came is written, or raise what kept it out; to be called outside of any transaction."""
        self._staging.wait()

    def close(self) -> None:
        """End the thread that writes, if there is one."""
        self._staging.close()

    def offered(self, arriving: Arriving, large: Sequence[NewBlob]) -> list[int]:
        """Which of an attempt's large contents it is to send, by their places: what the store lacks, each once."""
        wanted: dict[tuple[bytes, str], int] = {}
        with self._store.write() as db:
            for index, blob in enumerate(large):
                assert blob.sha is not None
                if not self._staging.hold(db, blob.sha, blob.codec):
                    wanted.setdefault((blob.sha, blob.codec), index)
        for index, blob in enumerate(large):
            staging = self._staging.begin(blob.sha or b"", blob.description) if index in wanted.values() else None
            arriving.offered.append((blob, staging))
            if staging is not None:
                arriving.awaited.append(staging)
        return sorted(wanted.values())

    def rows(
        self, db: sqlite3.Connection, arriving: Arriving, report: Mapping[str, Any]
    ) -> Iterator[tuple[str, int | None, int]]:
        """The rows of what an attempt set, in the transaction that ends it: name, blob, whether merged."""
        staged = {(blob.sha, blob.codec): staging for blob, staging in arriving.offered if staging}
        for name, blob in report.get("artifacts", ()):
            if blob.data is not None:
                blob_id = blobs.put(db, self._store, Encoded(blob.description, [blob.data]))
            else:
                staging = staged.pop((blob.sha, blob.codec), None)
                if staging is not None:
                    blob_id = staging.publish(db)
                    staging.sign(db, blob_id)
                else:  # it was here, or another name has the same content
                    blob_id = self._find_large(db, blob.sha, blob.codec)
                blobs.describe(db, blob_id, blob.description)
            if self._run.origin is not None:
                trust.clear_unverified(db, self._run.run_id, blob_id)
            yield name, blob_id, 0
        for staging in staged.values():
            staging.drop(db)  # the attempt ended without naming what it had sent
        for name, blob_id in report.get("merged", {}).items():
            yield name, blob_id, 1
        for name in report.get("deleted", ()):
            yield name, None, 0

    def _find_large(self, db: sqlite3.Connection, sha: bytes, codec: str) -> int:
        blob_id = self._staging.release(db, sha, codec)
        assert blob_id is not None  # the offer found it, and what somebody holds is not removed
        trust.sign(db, self._store.uuid, blob_id, sha, codec)
        return blob_id
