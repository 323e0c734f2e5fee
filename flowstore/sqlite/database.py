"""An open store, and the only two ways to use it: `read()` and `write()`.

Invariants: a write is one `begin immediate … commit`, because a deferred transaction that reads first and
writes later fails with "database is locked" whatever the timeout. No cursor outlives its transaction,
because a half-read one keeps others from switching the journal. No connection is open across a `fork`,
because SQLite's locks don't survive it: they are closed just before, and opened again at the next use.

At rest a store is one file in rollback-journal mode, which any medium can serve. A driver switches to a
write-ahead log for its run; whoever closes last switches back.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sqlite3
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowstore import later
from flowstore.errors import FlowstoreError, StoreCorrupt
from flowstore.sqlite import files, journal, side_files, typed_rows
from flowstore.sqlite.clear_errors import StoreUnavailable, clearly

BUSY_TIMEOUT_S = journal.BUSY_TIMEOUT_S
PAGE_SIZE = 4096  # measured: less for a small commit than with 8 KiB, and as much for 256 MiB, within the noise
LOG_BYTES = 32 << 20  # of a log: the next commit of those who `use_wal` copies it
_PRAGMAS = (
    "trusted_schema = off",
    "cell_size_check = on",
    "foreign_keys = on",
    "mmap_size = 0",
    f"wal_autocheckpoint = {2 * LOG_BYTES // PAGE_SIZE}",  # others leave that to them: sqlite.org/wal.html#walresetbug
    "secure_delete = fast",  # also for what is only moved to another page: its copy would outlive a later delete
)

# As `full`, and where there is no log the removal of the journal, which commits, is on the disk too.
_DURABLE = "pragma synchronous = extra"

Row = sqlite3.Row
_open_stores: weakref.WeakSet[Database] = weakref.WeakSet()


@later.frozen
class Layout:
    """The schema of a store, as far as opening and writing the file must know it.

    Attributes:
        newest: the version of the newest schema.
        types: the types that a column of a name may have when a row is read.
        prepare: called with each new connection, and when the file has been migrated since, for what an older file
            needs to be read; returns the schema version.
        migrate: called in a write transaction; brings an older file to the newest schema, and returns whether there was
            nothing to do for it.
        complete: called before each commit until it returns true; makes what a file needs that has grown.
        after_first_write: called once, after the first transaction that this process has committed.
    """

    newest: int
    types: Mapping[str, frozenset[type]]
    prepare: Callable[[sqlite3.Connection], int]
    migrate: Callable[[sqlite3.Connection], bool]
    complete: Callable[[sqlite3.Connection], bool]
    after_first_write: Callable[[Database], None]


class Database:
    """The database in a store's file, opened; what users see of it is `client.store.Store`.

    Attributes:
        path: the file, absolute.
        writable: whether this process may change it.
        trusted: whether the user said, for this process, that its pickles may be loaded.
        durable: whether a commit waits until it is on the disk; to be set before the store is used.
        warning: what a user should know of how it was opened, or `None`.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        *,
        writable: bool,
        trusted: bool = False,
        alone: bool = False,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self.path = path
        self._layout = layout
        self.writable = writable
        self.trusted = trusted
        self._busy_timeout_s = busy_timeout_s  # how long it waits for others who lock the file
        self._alone = alone  # read without the files beside it, which are another store's
        self.durable = False
        self.warning: str | None = None
        self._wal = False
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        self._clearly = clearly(path, busy_timeout_s)
        self._uuid: str | None = None
        self._version = 0
        self._has_written = False
        self._is_newest = False  # its schema, as this connection has seen
        self._is_complete = False
        self._opened: tuple[int, int] | None = None  # which file this connection has open: device and inode
        self._log: tuple[int, int] | None = None  # and which log
        _open_stores.add(self)
        _watch_forks()

    @property
    def uuid(self) -> str:
        """The store's identity."""
        if self._uuid is None:
            self._uuid = str(self.value("select uuid from store"))
        return self._uuid

    @property
    def version(self) -> int:
        """The schema version, as this connection reads the file."""
        with self._lock:
            self.connection()
            return self._version

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Open a snapshot: all statements see the same state of the file."""
        with self._lock, self._clearly:
            connection = self.connection()
            if connection.in_transaction:
                yield connection
                return
            connection.execute("begin")
            try:
                yield connection
            finally:
                typed_rows.release(connection)
                if connection.in_transaction:  # SQLite itself rolls back on a full disk or an I/O error
                    connection.execute("rollback")

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction: everything inside becomes visible together, or not at all."""
        if not self.writable:
            raise StoreUnavailable(f"{self.path} cannot be written: the file, its folder or its medium is read-only.")
        with self._lock, self._clearly:
            connection = self.connection()
            connection.execute("begin immediate")
            try:
                self._check_in_place()  # from here on nobody replaces the file, whose journal lies at its path
                self._ensure_newest_schema(connection)
                yield connection
                self._check_in_place()
                is_complete = self._is_complete or self._layout.complete(connection)
                connection.execute("commit")
                self._is_complete = is_complete  # which a rolled back transaction says nothing of
                self._finish_first_write()
            except BaseException:
                typed_rows.release(connection)
                if connection.in_transaction:
                    connection.execute("rollback")
                raise

    def rows(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[Row]:
        """Return all rows of a query."""
        with self._lock, self._clearly:
            cursor = self.connection().execute(sql, parameters)
            try:
                return cursor.fetchall()
            except BaseException:
                cursor.close()  # half read, it would keep the file locked for as long as the error is held
                raise

    def row(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> Row | None:
        """Return the first row of a query, or `None`."""
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None

    def value(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> Any:
        """Return the first column of the first row, or `None`."""
        row = self.row(sql, parameters)
        return row[0] if row else None

    def connection(self) -> sqlite3.Connection:
        """Return the open connection, for those that hold the lock of `read` or `write`."""
        if self._connection is None:
            with self._clearly:
                self._connection, self._opened = self._connect_in_place()
                self._is_newest = self._is_complete = False
                self._version = self._layout.prepare(self._connection)
                if self.durable:
                    self._connection.execute(_DURABLE)
                if self._wal:
                    self._switch_to_wal(self._connection)
        elif self._version < self._layout.newest and not self._connection.in_transaction:
            with self._clearly:
                if self._connection.execute("pragma user_version").fetchone()[0] != self._version:  # migrated since
                    self._version = self._layout.prepare(self._connection)
        return self._connection

    def _connect_in_place(self) -> tuple[sqlite3.Connection, tuple[int, int] | None]:
        """Connect to the file that is at the path now, and say which: it may be replaced at any moment."""
        connect = functools.partial(_connect, types=self._layout.types, alone=self._alone)
        while True:
            before = files.identity(self.path)
            with side_files.one_thread():  # which no thread can be that looks at the file's header
                connection = connect(self.path, writable=self.writable, busy_timeout_s=self._busy_timeout_s)
            if files.identity(self.path) == before:
                return connection, before
            connection.close()

    def use_wal(self) -> None:
        """Let readers go on while this process writes; where that can't work, say so in `warning`."""
        with self._lock:
            self._wal = True
            with self._clearly:
                self._switch_to_wal(self.connection())

    def _switch_to_wal(self, connection: sqlite3.Connection) -> None:
        self._check_in_place()  # else SQLite would write to the log of the store that is there now
        problem = (
            "it is on a network file system"
            if journal.on_network(self.path)
            else journal.try_wal(connection, self._busy_timeout_s)
        )
        if problem is None:
            self._log = files.identity(files.side_file(self.path, "-wal"))
            page_size = connection.execute("pragma page_size").fetchone()[0]  # older stores have larger pages
            connection.execute(f"pragma wal_autocheckpoint = {LOG_BYTES // page_size}")
            connection.execute(_DURABLE if self.durable else "pragma synchronous = normal")
            return
        self._wal = False
        self._connection = None
        connection.close()
        journal.back_to_rollback_journal(self.path)
        self.warning = (
            f"{self.path} cannot use a write-ahead log ({problem}): readers wait while a run writes. "
            "A local disk is faster and safer."
        )

    def _ensure_newest_schema(self, connection: sqlite3.Connection) -> None:
        if not self._is_newest:  # nor after a migration, which counts only once this transaction is committed
            self._is_newest = self._layout.migrate(connection)

    def _finish_first_write(self) -> None:
        if not self._has_written:
            self._has_written = True
            with contextlib.suppress(FlowstoreError, sqlite3.Error):  # what was to be written is committed already
                self._layout.after_first_write(self)

    @property
    def in_place(self) -> bool:
        """Whether the open file is the one that its path leads to; if not, what is written to it is lost on closing."""
        if self._connection is None:
            return True
        try:
            return files.identity(self.path) == self._opened
        except OSError:  # a folder that may no longer be entered does not tell
            return True

    def _check_in_place(self) -> None:
        if not self.in_place:
            raise StoreUnavailable(f"{self.path} was removed or replaced while it was in use.")

    def rescue(self, copy: Path) -> None:
        """Write all that the open file holds to a new one, as long as this process can still reach it.

        Its log goes then: SQLite would take it for that of whatever store comes to lie at this path.
        """
        with self._lock, clearly(copy):
            try:
                with files.temporary_file(copy) as temporary:
                    self.connection().execute("vacuum into cast(? as text)", (os.fsencode(temporary),))
                    side_files.install(temporary, copy, replace=False)
            except OSError as error:
                raise FlowstoreError(f"{copy} cannot be written: {error.strerror}.") from error
            if self._log is not None:
                side_files.drop_log(self.path, self._log)

    def interrupt(self) -> None:
        """End what another thread is asking the file, with an error there."""
        if (connection := self._connection) is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed meanwhile
                connection.interrupt()

    def close(self, *, tidy: bool = True) -> None:
        """Close the file; where `tidy`, leave just that one file if nobody else has it open."""
        with self._lock:
            tidy = tidy and self.writable and self.in_place  # else the side files at this path are another store's
            connection, self._connection = self._connection, None
            if connection is None:
                return
            tidy = tidy and not connection.in_transaction
            try:
                left = journal.leave_one_file(connection, self.path) if tidy else True
            finally:
                connection.close()
            if tidy:
                files.remove_abandoned(self.path)
            if not left and not is_open_here(self.path):
                journal.leave_one_file_later(
                    self.path,
                    functools.partial(
                        _connect,
                        self.path,
                        types=self._layout.types,
                        writable=True,
                        busy_timeout_s=self._busy_timeout_s,
                    ),
                )

    def __del__(self) -> None:
        if getattr(self, "_connection", None) is not None:  # else it failed to open, or was closed
            self.close()

    def __repr__(self) -> str:
        return f"<Database {self.path}>"


def is_open_here(path: Path) -> bool:
    """Return whether this process has the file open: then nothing but SQLite may open it too.

    Closing any descriptor of a file drops all POSIX locks that the process holds on it, SQLite's as well
    (sqlite.org/howtocorrupt.html, 2.2).
    """
    opened = [store for store in list(_open_stores) if store._connection is not None]
    if not opened:
        return False
    real = os.path.realpath(path)
    return any(os.path.realpath(store.path) == real or _is_same_file(store.path, path) for store in opened)


def _is_same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file; False where one of them can't be looked at."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _connect(
    path: Path, *, types: Mapping[str, frozenset[type]], writable: bool, busy_timeout_s: float, alone: bool = False
) -> sqlite3.Connection:
    # An own store is opened read-write even to read: the last closer of a `mode=ro` connection leaves side files.
    mode = "mode=rw" if writable else "mode=ro"
    if alone or (not writable and journal.is_wal(path) and not files.has_side_file(path, "-wal")):
        mode += "&immutable=1"  # a read-only medium can't hold the side files that even reading a log needs
    connection = sqlite3.connect(
        files.uri(path, mode),
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    connection.row_factory = typed_rows.Checked(path, types)
    try:
        _harden(connection)
        for pragma in _PRAGMAS:
            connection.execute(f"pragma {pragma}")
        connection.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        if not writable and (files.has_side_file(path, "-wal") or files.has_side_file(path, "-journal")):
            raise FlowstoreError(
                f"{path} needs recovery after a crash, and cannot be written here. Copy it together with "
                f"{path.name}-wal or {path.name}-journal to a folder that can be written, and open the copy."
            ) from error
        if error.sqlite_errorname == "SQLITE_ERROR":  # such as a format number that no SQLite knows
            raise StoreCorrupt.damaged(error, path) from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _harden(connection: sqlite3.Connection) -> None:
    """Forbid triggers, and statements that can damage the file: our own stores need neither."""
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, False)


@atexit.register
def _close_all() -> None:
    for store in list(_open_stores):
        store.close()


_held: list[Database] = []  # the stores whose lock is held across a fork


def _before_fork() -> None:
    """Close what other threads are done with, and hold the locks, so that the child inherits none that is taken."""
    for store in list(_open_stores):
        if store._lock.acquire(timeout=5):
            _held.append(store)
            if store._connection is not None and not store._connection.in_transaction:
                store.close()


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop()._lock.release()


def _after_fork_in_child() -> None:
    """Leave connections alone that were in use, and so can't be closed in time: the child only reads their stores."""
    for store in list(_open_stores):
        store._lock = threading.RLock()
        if store._connection is not None:
            _abandoned.append(store._connection)
            store._connection = None
            store.writable = False
    _held.clear()


_abandoned: list[sqlite3.Connection] = []  # never closed, since that would drop the parent's locks


@functools.cache
def _watch_forks() -> None:
    """Have these functions called, from the first store on: a task server has none, and its forks are to be cheap."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
        )


# --- SQLite's errors
