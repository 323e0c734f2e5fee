"""Files at a path of a store or beside it: identity, temporary files that are moved to their final path.

A file is written completely under a temporary name beside its path and then moved there in one step.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from flowstore.sqlite import liveness


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells the file at a path from any other, or `None` if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  # with each commit, so as fast as can be
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def uri(path: str | os.PathLike[str], parameters: str) -> str:
    """Return the URI by which SQLite opens a file (sqlite.org/uri.html), whatever characters its path has.

    Example:
        >>> uri("100% mine?.db", "mode=ro")
        'file:100%25 mine%3f.db?mode=ro'
    """
    name = os.fspath(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    authority = "//" if name.startswith("/") else ""  # without one, what follows two slashes would be taken for it
    return f"file:{authority}{name}?{parameters}"


def side_file(path: Path, suffix: str) -> Path:
    """Return the path of a side file: SQLite follows a link to the store before it names them."""
    return Path(os.path.realpath(path) + suffix)


def has_side_file(path: Path, suffix: str) -> bool:
    """Return whether there is such a side file, with something in it."""
    try:
        return side_file(path, suffix).stat().st_size > 0
    except FileNotFoundError:  # others remove it at any moment
        return False


_OWNER = r"([0-9a-f]{8})-([0-9]+)-([0-9a-f]{8})-[0-9a-f]{8}"  # machine, process, when it started, chance
_ABANDONED_AFTER_S = 86_400.0  # of a temporary file of another machine or boot that nobody writes to


def temporary_name() -> str:
    """Return a name by which others recognise when this process is gone."""
    me = liveness.this_process()
    return f"{_machine(me)}-{me.pid}-{_hash(me.started)}-{os.urandom(4).hex()}"


@contextlib.contextmanager
def temporary_file(final: Path, mode: int = 0o666) -> Iterator[Path]:
    """Create an empty file beside `final`, which is removed at the end of the block unless it was moved there."""
    path = final.with_name(f".{final.name}.{temporary_name()}")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode))
    try:
        yield path
    finally:
        for suffix in ("", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def move_to(path: Path, final: Path, *, replace: bool, synced: bool = False) -> None:
    """Give a temporary file its final name; no connection to it may be open here.

    Args:
        path: the temporary file.
        final: its name.
        replace: whether a file that is there gives way.
        synced: whether its bytes are on the disk already.

    Raises:
        FileExistsError: something is there, and is not to be replaced.
    """
    if not synced:
        sync(path)
    if replace:
        path.replace(final)
    else:
        _link(path, final)
    sync_folder(final.parent)


def _link(path: Path, final: Path) -> None:
    try:
        os.link(path, final)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: the window is between these two lines
        if final.exists():
            raise FileExistsError(final) from None
        path.replace(final)


def sync(path: Path) -> None:
    """Write a file's bytes to the disk."""
    _sync(path, os.O_RDWR)


def sync_folder(folder: Path) -> None:
    """See to it that the names in a folder outlive a power cut, where the system can do that."""
    if sys.platform != "win32":
        _sync(folder, os.O_RDONLY)


def _sync(path: Path, how: int) -> None:
    descriptor = os.open(path, how)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- abandoned files


def remove_abandoned(final: Path, *, siblings: bool = False) -> None:
    """Remove the temporary files of a path whose process is gone.

    Args:
        final: the path.
        siblings: whether to remove those of all paths in its folder, to which nothing but flowstore writes.
    """
    prefix = "." if siblings else f".{final.name}."
    with contextlib.suppress(OSError), os.scandir(final.parent) as entries:  # it may not be read, or is gone
        near = [entry for entry in entries if entry.name.startswith(prefix)]  # mostly none, and no pattern is compiled
        pattern = re.escape(prefix) + (r".+\." if siblings else "") + rf"{_OWNER}(-journal)?"
        matches = [(entry, named) for entry in near if (named := re.fullmatch(pattern, entry.name))]
        for entry, named in matches:
            if _is_abandoned(named, entry):
                with contextlib.suppress(OSError):  # somebody else's, or somebody else was faster
                    Path(entry).unlink()


def remove_abandoned_folders(parent: Path, prefix: str) -> None:
    """Remove the folders in `parent` whose names begin with `prefix` and a `name`, and whose process is gone."""
    import shutil

    pattern = re.compile(rf"{re.escape(prefix)}{_OWNER}-.*")
    with contextlib.suppress(OSError):
        with os.scandir(parent) as entries:
            matches = [(entry, named) for entry in entries if (named := pattern.fullmatch(entry.name))]
        for entry, named in matches:
            if entry.is_dir(follow_symlinks=False) and _is_abandoned(named, entry):
                shutil.rmtree(entry.path, ignore_errors=True)  # others' can't be removed


def _is_abandoned(named: re.Match[str], entry: os.DirEntry[str]) -> bool:
    machine, pid, started = named[1], int(named[2]), named[3]
    me = liveness.this_process()
    since = liveness.started(pid) if machine == _machine(me) else ""
    if since != "" and me.boot and me.started:
        return since is None or _hash(since) != started
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_AFTER_S
    except OSError:
        return False


def _machine(process: liveness.Process) -> str:
    return _hash(f"{process.host}\n{process.boot}")


def _hash(text: str) -> str:
    import hashlib  # OpenSSL, which most commands do without

    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
