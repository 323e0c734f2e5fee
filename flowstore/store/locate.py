"""Which file is the store: `--store`, `$FLOWSTORE_STORE`, else the nearest `flowstore.db`.

One store is active in a process at a time; `use_store` switches it.
"""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path
from types import TracebackType
from typing import cast

from flowstore.context import state
from flowstore.errors import StoreNotFound
from flowstore.store.db import Store, ensure_store, open_store

FILENAME = "flowstore.db"


def candidates() -> list[Path]:
    """The places where a store is looked for, first one first."""
    if chosen := os.environ.get("FLOWSTORE_STORE"):
        return [Path(chosen).absolute()]
    here = Path.cwd()
    return [folder / FILENAME for folder in (here, *here.parents)]


def find_path() -> Path | None:
    """The store that is there, if any; says so on stderr when it is in a parent folder."""
    for path in candidates():
        if os.path.exists(path):  # noqa: PTH110  # answers in a folder that is forbidden, too
            if path.name == FILENAME and path.parent != Path.cwd() and not os.environ.get("FLOWSTORE_STORE"):
                print(f"Using the store {path}", file=sys.stderr)
            return path
    return None


def active_store() -> Store:
    """The store of this process, opened at first use.

    Raises:
        StoreNotFound: there is none; names the places looked at.
    """
    if state.store is None and state.task_store is not None:
        file, trusted = state.task_store  # the driver has looked at it, and holds it open
        activate(Store(Path(file), writable=True, trusted=trusted))
    if state.store is None:
        path = find_path()
        if path is None:
            looked = "\n  ".join(str(path) for path in candidates())
            raise StoreNotFound(
                f"No store found. Looked at:\n  {looked}\n"
                "Run a flow here to make one, or choose one with --store, $FLOWSTORE_STORE or use_store(path)."
            )
        activate(open_store(path))
    return cast("Store", state.store)


def ensure_active_store(path: str | os.PathLike[str] | None = None) -> Store:
    """The store to write to: the one chosen, else the nearest, else a new one in the current folder."""
    if path is None:
        path = find_path() or candidates()[0]
    return activate(ensure_store(path))


_beside: weakref.WeakValueDictionary[str, Store] = weakref.WeakValueDictionary()


def store_at(path: str) -> Store:
    """Return the store at an absolute path: the active one where it is that, else one that is open beside it.

    Raises:
        StoreNotFound, NotAStore, StoreCorrupt, StoreTooNew: it can't be opened.
    """
    task_store = state.task_store
    of_task = task_store is not None and task_store[0] == path
    if of_task and state.store is None:
        return active_store()
    if state.store is not None and str(state.store.path) == path:
        return cast("Store", state.store)
    store = _beside.get(path)
    if store is None:
        store = Store(Path(path), writable=True, trusted=task_store[1]) if task_store and of_task else open_store(path)
        _beside[path] = store
    return store


def close_beside() -> None:
    """Close the stores that `store_at` opened; each opens again when it is used again."""
    for path, store in list(_beside.items()):
        store.close(tidy=state.task_store is None or state.task_store[0] != path)


def activate(store: Store) -> Store:
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
        self._before: Store | None = state.store
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
    """The path of this process's store.

    Raises:
        StoreNotFound: there is none.
    """
    return active_store().path
