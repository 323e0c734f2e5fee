"""Files that a user names for output. A store, or a file that SQLite keeps beside one, is never overwritten by them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from flowstore.errors import FlowstoreError
from flowstore.sqlite import database, files, side_files


def check(path: Path, *, store: Path | None = None) -> None:
    """Refuse a path where a database is, or a side file of one, whichever way the path leads there.

    Args:
        path: what is to be written.
        store: a store that is about to be made.

    Raises:
        FlowstoreError: says what is there.
    """
    real = Path(os.path.realpath(path))
    if _is_database(real) or (store is not None and real == Path(os.path.realpath(store))):
        raise FlowstoreError(f"{path} is an SQLite database, which is not overwritten. Choose another file.")
    for suffix in side_files.SIDES:
        owner = real.with_name(real.name.removesuffix(suffix) or real.name)
        if owner != real and (_is_database(owner) or owner == store):
            raise FlowstoreError(f"{path} is where SQLite keeps what belongs to {owner.name}. Choose another file.")
    beginning = side_files.begins(real, 8)
    if beginning == side_files.JOURNAL or beginning[:4] in side_files.LOGS:
        raise FlowstoreError(f"{path} is the log of an SQLite database, which is not overwritten. Choose another file.")


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a path to write to, whose bytes are at `path` at the end of the block; a pipe or device is that itself.

    Raises:
        FlowstoreError: a store is there.
    """
    check(path)
    if (path.exists() and not path.is_file()) or not os.access(path.parent, os.W_OK):
        yield path
        return
    with files.temporary_file(path) as temporary:
        yield temporary
        files.move_to(temporary, path, replace=True)


def _is_database(path: Path) -> bool:
    return database.is_open_here(path) or side_files.begins(path, len(side_files.DATABASE)) == side_files.DATABASE
