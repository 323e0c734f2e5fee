"""The connections to one store that requests share.

A store is open only while somebody looks: connections that were idle for some seconds are closed, so that a run that
ends can leave one file. They are opened for writing where that is possible, since closing one that only reads leaves
the files of the log behind. No transaction outlives a request.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from flowstore.client.store import Store, seen
from flowstore.errors import FlowstoreError, InvalidPathspec, NamespaceMismatch, NotFound, StoreNotFound
from flowstore.sqlite.clear_errors import StoreLocked
from flowstore.sqlite.database import Database
from flowstore.store import opening, trust

MOST = 8  # pages that are made at once: more requests wait, which is quicker than to share two cores between them
IDLE_S = 3.0
BUSY_S = 2.0  # for which a page waits for another process that has locked the file; it is asked for again anyway
_LOCKED_S = 1.0  # in which all who waited meanwhile get the same answer, rather than wait one after the other
_HARMLESS = (NotFound, InvalidPathspec, NamespaceMismatch)


class Stopped(FlowstoreError):
    """A request that has no answer, because the pages are no longer served."""


@attrs.define(eq=False)
class _Open:
    """An open store, whether it is the user's own, and when it was used last."""

    store: Store
    editable: bool
    used_at: float = 0.0

    @property
    def database(self) -> Database:
        """The open file itself."""
        return self.store._scope.store

    def close(self) -> None:
        self.store.close()


class Stores:
    """Open stores of one file, each for one request at a time.

    Args:
        path: the file.
        read_only: change nothing in it, whoever owns it.

    Attributes:
        path: the file, absolute.
        turns: for the time in which a page is made. What is downloaded holds a store for longer, since that lasts as
            long as the browser wants.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = Path(os.path.abspath(path))
        self._read_only = read_only
        self.turns = threading.BoundedSemaphore(MOST)
        self._lock = threading.Lock()  # of opening and closing: closing may open the file once more, beside SQLite
        self._idle: list[_Open] = []
        self._busy: set[_Open] = set()
        self._watch: _Open | None = None
        self._watches = 0
        self._stopped = False
        self._locked: tuple[float, StoreLocked] | None = None  # when the file could not be read, and the error

    @contextlib.contextmanager
    def lease(self) -> Iterator[tuple[Store, bool]]:
        """Lend an open store for one request, and say whether the request may change it.

        Raises:
            FlowstoreError: it can't be opened, or no longer.
        """
        lent = self._take()
        try:
            yield lent.store, lent.editable
        except _HARMLESS:
            self._put_back(lent)
            raise
        except BaseException as error:
            self._drop(lent)
            if self._stopped and isinstance(error, Exception):
                raise _stopped() from error
            raise
        else:
            self._put_back(lent)

    def version(self) -> str:
        """Return a text that changes with whatever anybody commits to the file."""
        with self._using_the_file():
            if self._watch is not None and not self._watch.database.in_place:
                self._watch.close()
                self._watch = None
            if self._watch is None:
                self._watch = self._open()
                self._watches += 1
            self._watch.used_at = time.monotonic()
            return f"{self._watches}.{self._watch.database.value('pragma data_version')}"

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
        """Interrupt what is being asked, and close the file for good."""
        self._stopped = True
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
        self._stopped = True
        while True:
            self._interrupt()
            time.sleep(0.02)

    def _interrupt(self) -> None:
        for lent in [*self._busy]:
            lent.database.interrupt()

    @contextlib.contextmanager
    def _using_the_file(self) -> Iterator[None]:
        """Hold the lock, unless the pages are no longer served, or somebody else has just locked the file."""
        with self._lock:
            if self._stopped:
                raise _stopped()
            if self._locked is not None and time.monotonic() < self._locked[0] + _LOCKED_S:
                raise StoreLocked(str(self._locked[1]))
            try:
                yield
            except StoreLocked as error:
                self._locked = time.monotonic(), error
                raise

    def _take(self) -> _Open:
        with self._using_the_file():
            while self._idle:
                opened = self._idle.pop()
                if opened.database.in_place:
                    break
                opened.close()
            else:
                opened = self._open()
            self._busy.add(opened)
            return opened

    def _open(self) -> _Open:
        for opened in [one for one in self._idle if not one.database.in_place]:  # of a file that was replaced
            self._idle.remove(opened)
            opened.close()
        if not os.path.exists(self.path):  # noqa: PTH110  # answers in a folder that is forbidden, too
            raise StoreNotFound(f"There is no store at {self.path} any more.")
        inner = opening.open_store(self.path, busy_timeout_s=BUSY_S)
        store = seen(inner, None)
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


def _stopped() -> Stopped:
    return Stopped("These pages are no longer served: flowstore ui was stopped.")
