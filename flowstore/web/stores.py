"""The connections to one store that requests share.

A store is open only while somebody looks: connections that were idle for some seconds are closed, so that a run that
ends can leave one file. They are opened for writing where that is possible, since closing one that only reads leaves
the files of the log behind. No transaction outlives a request.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from flowstore.client.store import Store, open_store
from flowstore.errors import InvalidPathspec, NamespaceMismatch, NotFound, StoreNotFound
from flowstore.store import trust

MOST = 8  # connections: more requests wait, which is quicker than to share two cores between them
IDLE_S = 3.0
_HARMLESS = (NotFound, InvalidPathspec, NamespaceMismatch)


@attrs.define(eq=False)
class _Open:
    """An open store, whether it is the user's own, and when it was used last."""

    store: Store
    editable: bool
    used_at: float = 0.0

    def close(self) -> None:
        self.store.close()


class Stores:
    """Open stores of one file, each for one request at a time.

    Args:
        path: the file.
        read_only: change nothing in it, whoever owns it.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = Path(os.path.abspath(path))
        self._read_only = read_only
        self._limit = threading.BoundedSemaphore(MOST)
        self._lock = threading.Lock()  # of opening and closing: closing may open the file once more, beside SQLite
        self._idle: list[_Open] = []
        self._busy: set[_Open] = set()
        self._watch: _Open | None = None
        self._watches = 0

    @contextlib.contextmanager
    def lease(self) -> Iterator[tuple[Store, bool]]:
        """Lend an open store for one request, and say whether the request may change it.

        Raises:
            FlowstoreError: it can't be opened, or no longer.
        """
        with self._limit:
            lent = self._take()
            try:
                yield lent.store, lent.editable
            except _HARMLESS:
                self._put_back(lent)
                raise
            except BaseException:
                self._drop(lent)
                raise
            else:
                self._put_back(lent)

    def version(self) -> str:
        """Return a text that changes with whatever anybody commits to the file."""
        with self._lock:
            if self._watch is not None and not self._watch.store._scope.store.in_place:
                self._watch.close()
                self._watch = None
            if self._watch is None:
                self._watch = self._open()
                self._watches += 1
            self._watch.used_at = time.monotonic()
            return f"{self._watches}.{self._watch.store._scope.store.value('pragma data_version')}"

    def close_idle(self, idle_s: float = IDLE_S) -> None:
        """Close what was not used for some time."""
        before = time.monotonic() - idle_s
        with self._lock:
            for opened in [one for one in self._idle if one.used_at <= before]:
                self._idle.remove(opened)
                opened.close()
            if self._watch is not None and self._watch.used_at <= before:
                self._watch.close()
                self._watch = None

    def close(self, timeout_s: float = 1.0) -> None:
        """Interrupt what is being asked, and close the file."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                busy = [*self._busy]
            if not busy or time.monotonic() > deadline:
                break
            self._interrupt()
            time.sleep(0.01)
        self.close_idle(0.0)

    def end(self) -> None:
        """Interrupt what is being asked until the process ends, also what begins meanwhile; for a thread of its own."""
        while True:
            self._interrupt()
            time.sleep(0.02)

    def _interrupt(self) -> None:
        for lent in [*self._busy]:
            if (connection := lent.store._scope.store._connection) is not None:
                with contextlib.suppress(sqlite3.ProgrammingError):  # closed meanwhile
                    connection.interrupt()

    def _take(self) -> _Open:
        with self._lock:
            while self._idle:
                opened = self._idle.pop()
                if opened.store._scope.store.in_place:
                    break
                opened.close()
            else:
                opened = self._open()
            self._busy.add(opened)
            return opened

    def _open(self) -> _Open:
        for opened in [one for one in self._idle if not one.store._scope.store.in_place]:  # of a file that was replaced
            self._idle.remove(opened)
            opened.close()
        if not os.path.exists(self.path):  # noqa: PTH110  # answers in a folder that is forbidden, too
            raise StoreNotFound(f"There is no store at {self.path} any more.")
        store = open_store(self.path, namespace=None)
        inner = store._scope.store
        try:
            return _Open(store, not self._read_only and inner.writable and not trust.is_foreign(inner))
        except BaseException:
            store.close()
            raise

    def _put_back(self, lent: _Open) -> None:
        lent.used_at = time.monotonic()
        with self._lock:
            self._busy.discard(lent)
            self._idle.append(lent)

    def _drop(self, lent: _Open) -> None:
        with self._lock:
            self._busy.discard(lent)
            lent.close()
