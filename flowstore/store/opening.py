"""Chooses and opens a store: `--store`, `$FLOWSTORE_STORE`, else the nearest `flowstore.db`.

One store is active in a process at a time; `use_store` switches it. Before SQLite touches a file its header is checked,
so that not one byte of a wrong file is written.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import weakref
from pathlib import Path
from types import TracebackType
from typing import cast

from flowstore.context import state
from flowstore.errors import FlowstoreError, NotAStore, StoreCorrupt, StoreNotFound, StoreTooNew
from flowstore.sqlite import database, files, side_files
from flowstore.sqlite.database import Database, Layout
from flowstore.store import schema, tables, untrusted

MINIMUM_SQLITE = (3, 38, 0)
FILENAME = "flowstore.db"
ELSEWHERE = (
    "This task runs on another machine than the store, so the Client cannot be used in it. "
    "Hand over what the step needs as an artifact or a parameter."
)


def _prepare(connection: sqlite3.Connection) -> int:
    """Give a connection to an older file the newest views, and no other connection; return the file's version."""
    version: int = connection.execute("pragma user_version").fetchone()[0]
    schema.drop_views(connection)
    if version < schema.VIEWS_SINCE:
        schema.create_views(connection)
    return version


def _migrate(connection: sqlite3.Connection) -> bool:
    """Bring an older file to the newest schema; return whether there was nothing to do."""
    had_views = schema.drop_views(connection)  # which another process, that migrated the file, knows nothing of
    if connection.execute("pragma user_version").fetchone()[0] >= schema.SCHEMA_VERSION:
        return not had_views
    schema.migrate(connection)
    return False


def _work_off_backlog(store: Database) -> None:
    """Describe some of the values that an older flowstore wrote."""
    if store.value("select 1 from backlog") is not None:
        from flowstore.store import backlog

        backlog.work_off(store, backlog.DOSE_S)


LAYOUT = Layout(schema.SCHEMA_VERSION, tables.TYPES, _prepare, _migrate, schema.complete_if_large, _work_off_backlog)


def candidates() -> list[Path]:
    """Return the paths where a store is looked for, first one first."""
    if chosen := os.environ.get("FLOWSTORE_STORE"):
        return [Path(chosen).absolute()]
    return _nearest()


def _nearest() -> list[Path]:
    here = Path.cwd()
    return [folder / FILENAME for folder in (here, *here.parents)]


def option_for(path: Path) -> str:
    """Return the option by which a command in this folder finds a store, with a blank before it; often nothing."""
    import shlex

    try:
        nearest, here = _nearest(), Path.cwd()
    except OSError:  # the folder is gone
        return f" --store {shlex.quote(str(path))}"
    usual = next((file for file in nearest if os.path.exists(file)), nearest[0])  # noqa: PTH110  # as above
    if os.path.realpath(path) == os.path.realpath(usual):
        return ""
    return f" --store {shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))}"


def find_path() -> Path | None:
    """Return the path of the store that is there, or `None`; say so on stderr if it is in a parent folder."""
    for path in candidates():
        if os.path.exists(path):  # noqa: PTH110  # answers in a folder that is forbidden, too
            if path.name == FILENAME and path.parent != Path.cwd() and not os.environ.get("FLOWSTORE_STORE"):
                print(f"Using the store {path}", file=sys.stderr)
            return path
    return None


def active_store() -> Database:
    """Return the store of this process, opened at first use.

    Raises:
        StoreNotFound: there is none; names the paths looked at.
    """
    if state.store is None and state.task_store is not None:
        file, trusted = state.task_store  # the driver has looked at it, and holds it open
        if not file:
            raise FlowstoreError(ELSEWHERE)
        activate(Database(Path(file), LAYOUT, writable=True, trusted=trusted))
    if state.store is None:
        path = find_path()
        if path is None:
            looked = "\n  ".join(str(path) for path in candidates())
            raise StoreNotFound(
                f"No store found. Looked at:\n  {looked}\n"
                "Run a flow here to make one, or choose one with --store, $FLOWSTORE_STORE or use_store(path)."
            )
        activate(open_store(path))
    return cast("Database", state.store)


def ensure_active_store(path: str | os.PathLike[str] | None = None) -> Database:
    """Open the store to write to: the one chosen, else the nearest, else a new one in the current folder."""
    if path is None:
        path = find_path() or candidates()[0]
    return activate(ensure_store(path))


_beside: weakref.WeakValueDictionary[str, Database] = weakref.WeakValueDictionary()


def store_at(path: str) -> Database:
    """Return the store at an absolute path: the active one where it is that, else one that is open beside it.

    Raises:
        StoreNotFound, NotAStore, StoreCorrupt, StoreTooNew: it can't be opened.
    """
    task_store = state.task_store
    of_task = task_store is not None and task_store[0] == path
    if of_task and state.store is None:
        return active_store()
    if state.store is not None and str(state.store.path) == path:
        return cast("Database", state.store)
    store = _beside.get(path)
    if store is None:
        store = (
            Database(Path(path), LAYOUT, writable=True, trusted=task_store[1])
            if task_store and of_task
            else open_store(path)
        )
        _beside[path] = store
    return store


def close_beside() -> None:
    """Close the stores that `store_at` opened; each opens again when it is used again."""
    for path, store in list(_beside.items()) if len(_beside) else ():  # most often there are none
        store.close(tidy=state.task_store is None or state.task_store[0] != path)


def activate(store: Database) -> Database:
    """Make an open store this process's own."""
    if state.store is not None and state.store is not store:
        state.store.close()
    state.store = store
    return store


class use_store:  # noqa: N801  # reads as a function, like `open`
    """Switch this process to the store at `path`; as a context manager, for a block.

    Args:
        path: the file.
        trust: load its pickles, which may run any code that whoever wrote the file put there.

    Raises:
        StoreNotFound, NotAStore, StoreCorrupt, StoreTooNew: at once.

    Example:
        >>> from flowstore import use_store
        >>> use_store("elsewhere.db")
        Traceback (most recent call last):
        ...
        flowstore.errors.StoreNotFound: There is no store at ...elsewhere.db.
    """

    def __init__(self, path: str | os.PathLike[str], *, trust: bool = False) -> None:
        store = open_store(path, trusted=trust)
        self._before: Database | None = state.store
        self.path = store.path
        if state.store is not None:
            state.store.close()  # only its file: it opens again when it is used again
        state.store = store

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        state.store.close()
        state.store = self._before

    def __repr__(self) -> str:
        return f"use_store({str(self.path)!r})"


def get_store() -> Path:
    """Return the path of this process's store.

    Raises:
        StoreNotFound: there is none.
    """
    return active_store().path


# --- opening


def open_store(
    path: str | os.PathLike[str], *, trusted: bool = False, busy_timeout_s: float = database.BUSY_TIMEOUT_S
) -> Database:
    """Open an existing store, for reading and, where the system permits, writing.

    Args:
        path: the file.
        trusted: whether the user said that its pickles may be loaded.
        busy_timeout_s: how long to wait, in seconds, for another process that has locked the file.

    Raises:
        StoreNotFound, NotAStore, StoreCorrupt, StoreTooNew: nothing was written.
    """
    _check_library()
    path = Path(os.path.abspath(path))
    untrusted.check_file(path)
    untrusted.check_beside(path)
    writable, alone = _may_write(path), False
    with side_files.one_thread():
        if not database.is_open_here(path):
            _check_header(path)
            alone = side_files.settle(path, writable=writable)
            if not alone:
                _check_header_beside(path)
        store = Database(path, LAYOUT, writable=writable, trusted=trusted, alone=alone, busy_timeout_s=busy_timeout_s)
        try:
            with store.read() as connection:
                _check_open(connection, path)
                extras = untrusted.check_schema(connection, path)
            if extras:
                untrusted.check_extras(store, extras)
        except BaseException:
            store.close(tidy=False)
            raise
    return store


def ensure_store(path: str | os.PathLike[str]) -> Database:
    """Open the store at `path`, creating it where there is none. Safe for many processes at once."""
    _check_library()
    path = Path(os.path.abspath(path))
    if not os.path.exists(path):  # noqa: PTH110  # unlike Path's, it answers in a folder that is forbidden, too
        _create(path)
    store = open_store(path)
    if not store.writable:
        store.close()
        raise FlowstoreError(
            f"{path} cannot be written: the file or its folder is read-only. Choose another with --store."
        )
    return store


def _create(path: Path) -> None:
    """Create a complete store under another name, then link it to its own: nobody sees half a store."""
    from flowstore._version import __version__

    if not path.parent.is_dir():
        raise StoreNotFound(f"{path} cannot be created: there is no folder {path.parent}.")
    side_files.check_name(path)
    try:
        with files.temporary_file(path) as temporary:  # created by us, because SQLite would ignore a generous umask
            with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
                connection.execute("pragma synchronous = off")  # one fsync at the end instead of several
                connection.execute("pragma journal_mode = off")  # what fails is thrown away
                schema.create(connection, __version__)
            with contextlib.suppress(FileExistsError):  # somebody was faster, which is as good
                side_files.install(temporary, path, replace=False)
    except (OSError, sqlite3.Error) as error:
        raise FlowstoreError(f"{path} cannot be created: {error}. Choose another with --store.") from error


def _check_library() -> None:
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise FlowstoreError(
            f"flowstore needs SQLite 3.38 or later; this Python has {sqlite3.sqlite_version}. Use a newer Python build."
        )


def _may_write(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


# --- the header


def _check_header(path: Path) -> None:
    """Recognise wrong files by their first 100 bytes, before SQLite touches them (format: sqlite.org/fileformat)."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        raise StoreNotFound(f"There is no store at {path}.") from None
    except OSError as error:
        raise FlowstoreError(f"{path} cannot be read: {error.strerror}.") from error
    if not header.startswith(side_files.DATABASE) or len(header) < 100:
        raise NotAStore(f"{path} is not a flowstore store: it is not an SQLite file.")
    _check_page(path, header)


def _check_header_beside(path: Path) -> None:
    """Check what SQLite would make of the first page by playing back the files beside it; both stay as they are."""
    if files.has_side_file(path, "-wal"):
        with (
            contextlib.suppress(sqlite3.OperationalError),  # it can't be read here: `_check_open` looks when it is open
            contextlib.closing(sqlite3.connect(files.uri(path, "mode=ro"), uri=True)) as connection,
        ):
            _check_open(connection, path)
    if files.has_side_file(path, "-journal"):
        page = side_files.first_page(files.side_file(path, "-journal"))
        if page is not None:
            _check_page(path, page)


def _check_open(connection: sqlite3.Connection, path: Path) -> None:
    """Check what a connection reads, after SQLite has played back what lies beside the file.

    Raises:
        NotAStore, StoreCorrupt, StoreTooNew: as `_check_header` does.
    """
    application, version = (connection.execute(f"pragma {name}").fetchone()[0] for name in _HEADER_FIELDS)
    _check_identity(path, application, version, connection.execute("pragma encoding").fetchone()[0])


_HEADER_FIELDS = ("application_id", "user_version")
_ENCODINGS = {1: "UTF-8", 2: "UTF-16le", 3: "UTF-16be"}


def _check_page(path: Path, page: bytes) -> None:
    encoding, version = (int.from_bytes(page[at : at + 4], "big", signed=True) for at in (56, 60))
    _check_identity(
        path, int.from_bytes(page[68:72], "big", signed=True), version, _ENCODINGS.get(encoding, str(encoding))
    )


def _check_identity(path: Path, application: int, version: int, encoding: str) -> None:
    if application != schema.APPLICATION_ID:
        raise NotAStore(f"{path} is an SQLite file, but not a flowstore store.")
    if version > schema.SCHEMA_VERSION:
        raise StoreTooNew(_too_new(path, version))
    if version < 1:
        raise StoreCorrupt.damaged(f"its schema version is {version}", path)
    if encoding != "UTF-8":
        raise StoreCorrupt(
            f"{path} keeps its text as {encoding}, where flowstore writes UTF-8; it is not opened. "
            "Another program has rewritten the file: restore a copy."
        )


def _too_new(path: Path, version: int) -> str:
    return (
        f"{path} has schema version {version}; this flowstore knows {schema.SCHEMA_VERSION} at most. "
        "Upgrade: pip install --upgrade flowstore"
    )
