"""Files beside a store that belong to another one: found, and set aside, before SQLite plays them into it.

SQLite finds `-wal` and `-journal` by the store's name alone, and plays back what it finds there. After a killed process
such a file holds what the store lacks. Where the store was removed or replaced meanwhile, the file is another store's,
and playing it back would mix the two. Neither file says which store it belongs to, so these facts decide:

- A new store has no side files: whatever lies there when it is put in place is set aside.
- A store whose header says that it has no log (every store at rest) has none: SQLite changes the header before it
  makes a log, and removes the log before it changes the header back.
- A log or journal that changes the store's identity or that of one of its runs, or makes a sound store unsound, is
  another store's. That is tried on a copy.
- A journal keeps the first page as it was, and every transaction raises the counter on that page by one. As long as the
  journal lacks that page, the page says how large the store was when the journal was begun.

A file that is set aside keeps its content, so a process that still writes to it loses nothing. It is renamed under
SQLite's own exclusive lock of the store: no process can have made it for this store meanwhile, and whoever opens the
store waits, as for any other lock.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from flowstore.errors import FlowstoreError
from flowstore.sqlite import files

if sys.platform != "win32":
    import fcntl

PATIENCE_S = 5.0  # for others that have the file open: without a log they hold their lock for one transaction
SIDES = ("-wal", "-journal", "-shm")
DATABASE = b"SQLite format 3\x00"  # how each begins (sqlite.org/fileformat)
LOGS = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
LOG_HEADER_BYTES = 32
JOURNAL = bytes.fromhex("d9d505f920a163d7")

_READERS_LOCK = (510, 0x4000_0002)  # length and offset of the bytes that SQLite locks to read (os.h)
_DEADLINE_S = 20.0
_COPIED_BYTES = 128 << 20  # a larger store is not copied to see what would become of it

_State = tuple[tuple[int, ...], tuple[int, ...]]  # identity, size and time of a store, and of its side file
_Identity = dict[int, str]

_threads = threading.RLock()  # SQLite's locks belong to the process, and don't keep its threads apart


def one_thread() -> threading.RLock:
    """Return the lock that lets one thread at a time open a file, or look into one that might be open.

    Closing any descriptor of a file drops the locks that SQLite holds on it for another thread.
    """
    _watch_forks()
    return _threads


@functools.cache
def _watch_forks() -> None:
    """See to it that children get a free lock; not when this is imported, since task servers fork and never lock."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_reset_after_fork)


def _reset_after_fork() -> None:
    """Let a child go on, even where another thread of its parent was about to set a file aside."""
    global _threads  # noqa: PLW0603  # the parent's lock can't be released here
    _threads = threading.RLock()


def begins(path: Path, size: int) -> bytes:
    """Return the first bytes of a regular file; nothing where there is none or it can't be read."""
    with contextlib.suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return file.read(size)
    return b""


@contextlib.contextmanager
def exclusively(path: Path) -> Iterator[bool]:
    """Lock a database against all other processes for a block, as SQLite does; yield whether that succeeded.

    This process must not have the file open, nor open it inside the block: closing any descriptor of a file drops the
    locks that the process holds on it.
    """
    if sys.platform == "win32":  # where a file that is open can't be renamed in the first place
        yield True
        return
    with _threads, path.open("r+b", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *_READERS_LOCK)
        except OSError:  # another process reads or writes it
            yield False
        else:
            yield True


# --- putting a store in place


def install(temporary: Path, path: Path, *, replace: bool) -> None:
    """Give a finished store its name, and set aside what another store left beside that name.

    The new file is locked until that is done: whoever finds it under its name waits.

    Args:
        temporary: the new file, which this process does not have open.
        path: its name, which is no link.
        replace: whether a store that is there gives way.

    Raises:
        FileExistsError: something is there, and is not to be replaced.
        FlowstoreError: another process uses what is there, or a side file's name is taken by a database.
    """
    check_name(path)
    files.sync(temporary)
    with exclusively(temporary), contextlib.ExitStack() as stack:
        if replace and path.exists() and not stack.enter_context(exclusively(path)):
            raise FlowstoreError(f"{path} is in use by another process, so it is not replaced.")
        files.move_to(temporary, path, replace=replace, synced=True)  # to sync it would drop the lock
        for suffix in SIDES:
            set_aside(path, suffix)


def check_name(path: Path) -> None:
    """Refuse a name for a new store that SQLite would confuse with another database's side file, or the reverse.

    Raises:
        FlowstoreError: names the other database.
    """
    for suffix in SIDES:
        side = files.side_file(path, suffix)
        if begins(side, len(DATABASE)) == DATABASE:
            raise FlowstoreError(
                f"{path} cannot be a store: SQLite would keep its log in {side.name}, which is a database. "
                "Move that one, or choose another name."
            )
        owner = path.with_name(path.name.removesuffix(suffix))
        if owner != path and begins(owner, len(DATABASE)) == DATABASE:
            raise FlowstoreError(f"{path} is where SQLite keeps the log of {owner.name}. Choose another name.")


def set_aside(path: Path, suffix: str) -> None:
    """Rename a side file, under the lock of the store at `path`, and say so; remove one without content of its own."""
    side = files.side_file(path, suffix)
    if not os.path.lexists(side):
        return
    if suffix == "-shm" or (side.is_file() and side.stat().st_size == 0):  # an index of the log, remade as needed
        side.unlink(missing_ok=True)
        return
    names = (side.with_name(f"{side.name}.stale-{n}") for n in range(1, 100_000))
    kept = next(name for name in names if not os.path.lexists(name))
    side.rename(kept)
    print(f"Set aside {side}, which another store left there: it is {kept.name} now.", file=sys.stderr)


def drop_log(path: Path, log: tuple[int, int]) -> None:
    """Remove a log that nobody needs any more, also where it was set aside."""
    import glob

    side = files.side_file(path, "-wal")
    for path_of_log in (side, *side.parent.glob(f"{glob.escape(side.name)}.stale-*")):
        if files.identity(path_of_log) == log:
            path_of_log.unlink(missing_ok=True)
            if path_of_log == side:
                files.side_file(path, "-shm").unlink(missing_ok=True)


# --- opening one


def settle(path: Path, *, writable: bool) -> bool:
    """Set aside the side files of a store that are not its own.

    Args:
        path: the store, which this process does not have open.
        writable: whether the files beside it can be renamed.

    Returns:
        Whether there is such a file that can't be renamed: then the store has to be read without it.

    Raises:
        FlowstoreError: a program keeps the store open, so nothing can be renamed.
    """
    until = time.monotonic() + PATIENCE_S
    while stale := _stale(path):
        if not writable:
            return True
        if _set_aside_unless_changed(path, stale):
            break
        if time.monotonic() > until:
            names = " and ".join(f"{path.name}{suffix}" for suffix in stale)
            raise FlowstoreError(
                f"{path} is in use by another program, and {names} beside it belongs to another store. "
                "End that program, and open the store again."
            )
        time.sleep(0.01)  # nobody announces that a lock is free
    return False


def _set_aside_unless_changed(path: Path, stale: dict[str, _State]) -> bool:
    with exclusively(path) as alone:
        if not alone or any(_state(path, suffix) != state for suffix, state in stale.items()):
            return False
        for suffix in (*stale, *(["-shm"] if "-wal" in stale else [])):
            set_aside(path, suffix)
    return True


def _state(path: Path, suffix: str) -> _State | None:
    """Return facts of a store and its side file, which change when they do; `None` where one is gone."""
    try:
        return _status(path), _status(files.side_file(path, suffix))
    except FileNotFoundError:
        return None


def _status(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _stale(path: Path) -> dict[str, _State]:
    """Find the side files that belong to another store, each with the state in which that is so."""
    states = {}
    with _threads:  # no other thread has a lock that reading the file would drop
        for suffix, belongs in (("-wal", _log_belongs), ("-journal", _journal_belongs)):
            if not files.has_side_file(path, suffix):
                continue
            before = _state(path, suffix)
            if before is not None and not belongs(path, files.side_file(path, suffix)):
                states[suffix] = before
    return states


def _log_belongs(path: Path, log: Path) -> bool:
    begin = begins(log, LOG_HEADER_BYTES)
    if len(begin) < LOG_HEADER_BYTES or begin[:4] not in LOGS:  # a power cut has torn it, perhaps
        return True  # SQLite plays back nothing of it
    header = begins(path, 100)
    if header[18:20] != b"\x02\x02" or _page_size(header) != int.from_bytes(begin[8:12], "big"):
        return False
    if _is_in_use(path):
        return True  # by one who looked before
    return not _mixes(path, log)


def _is_in_use(path: Path) -> bool:
    """Find out whether another process reads or writes the store; wait for one that settles what lies beside it."""
    if sys.platform == "win32":
        return False
    until = time.monotonic() + PATIENCE_S
    with path.open("rb", buffering=0) as file:
        while True:
            request = _flock(fcntl.F_WRLCK)
            lock_type = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, request))[_FLOCK_TYPE]
            if lock_type != fcntl.F_WRLCK or time.monotonic() > until:
                return bool(lock_type != fcntl.F_UNLCK)
            time.sleep(0.005)  # F_GETLK only looks, and F_SETLKW would take the lock


def _flock(kind: int) -> bytes:
    """Return the system's `struct flock` for the bytes that SQLite locks to read."""
    size, start = _READERS_LOCK
    fields = (start, size, 0, kind, os.SEEK_SET) if sys.platform == "darwin" else (kind, os.SEEK_SET, start, size, 0)
    return struct.pack(_FLOCK, *fields)


_FLOCK, _FLOCK_TYPE = ("qqihh", 3) if sys.platform == "darwin" else ("hhqqi", 0)


def _mixes(path: Path, side: Path) -> bool:
    """Find out whether a store that is sound alone is not itself any more once a side file is played into it."""
    try:
        size = path.stat().st_size + side.stat().st_size
    except FileNotFoundError:
        return False
    if size > _COPIED_BYTES:
        return side.name.endswith("-wal") and _differ(_identity(path, "immutable=1"), _identity(path, "mode=ro"))
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory(prefix="flowstore-") as folder:
        copy = Path(folder, "copy")
        try:
            shutil.copyfile(path, copy)
            alone = _identity(copy, "mode=ro", checked=True)
            shutil.copyfile(side, copy.with_name(f"copy{side.name[side.name.rindex('-') :]}"))
        except OSError:  # it is gone, so nobody plays it back, or there is no room for a copy
            return False
        return _differ(alone, _identity(copy, "mode=rw", checked=True))


def _identity(path: Path, mode: str, *, checked: bool = False) -> _Identity | None:
    """Read the uuids of a store's newest runs, by id, and its own, as that of run 0; `None` where it is not sound."""
    uri = files.uri(os.path.realpath(path), mode)
    until = time.monotonic() + _DEADLINE_S
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > until, 100_000)  # it may be a stranger's file
        for pragma in ("trusted_schema = off", "cell_size_check = on", "mmap_size = 0"):
            connection.execute(f"pragma {pragma}")
        rows = connection.execute("select 0, uuid from store").fetchall()
        rows += connection.execute("select id, uuid from runs order by id desc limit 500").fetchall()
        if not checked or connection.execute("pragma integrity_check(1)").fetchone() == ("ok",):
            return dict(rows)
    return None


def _differ(alone: _Identity | None, together: _Identity | None) -> bool:
    if alone is None:
        return False  # the store lacks what lies beside it
    if together is None:
        return True
    return any(together.get(key, uuid) != uuid for key, uuid in alone.items())


def _journal_belongs(path: Path, journal: Path) -> bool:
    header = begins(journal, 28)
    records, sector = (int.from_bytes(header[at : at + 4], "big") for at in (8, 20))
    if not header.startswith(JOURNAL) or records == 0 or sector < 32:  # a power cut has torn it, perhaps
        return True  # SQLite plays back nothing of it
    if _is_in_use(path):
        return True  # by one who writes, perhaps
    size = int.from_bytes(header[24:28], "big")
    page = begins(path, 65_536)[:size]
    if _page_size(page) != size:
        return False
    before = first_page(journal)
    # Of a page that a power cut has torn, the header may be from before and what follows from after.
    began = page[28:32] == header[16:20] if before is None else page[:100] == before[:100]
    if not began and (before is None or _counter(page) != _counter(before) + 1):
        return False
    return not _mixes(path, journal)


def first_page(journal: Path) -> bytes | None:
    """Return a store's first page as a journal would restore it, `None` where the journal does not hold it."""
    with contextlib.suppress(FileNotFoundError), journal.open("rb") as file:  # another process may remove it
        header = file.read(28)
        if not header.startswith(JOURNAL):
            return None
        sector, size = (int.from_bytes(header[at : at + 4], "big") for at in (20, 24))
        end = file.seek(0, os.SEEK_END)
        at = 0
        while sector >= 28 and size >= 512 and at + sector < end:
            file.seek(at)
            header = file.read(12)
            if not header.startswith(JOURNAL):
                break
            records = int.from_bytes(header[8:12], "big")
            records = min(records, (end - at - sector) // (size + 8))
            for n in range(records):
                file.seek(at + sector + n * (size + 8))
                if file.read(4) == b"\x00\x00\x00\x01":
                    return file.read(size)
            at += -(-(sector + records * (size + 8)) // sector) * sector
    return None


def _page_size(header: bytes) -> int:
    size = int.from_bytes(header[16:18], "big")
    return 65_536 if size == 1 else size


def _counter(page: bytes) -> int:
    return int.from_bytes(page[24:28], "big")
