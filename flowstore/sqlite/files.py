"""Files at a path of a store or beside it: identity, temporary files that are moved to their final path.

A file is written completely under a temporary name beside its path and then moved there in one step.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from flowstore.sqlite import liveness


def identity(path: Path) -> tuple[int, int] | None:
    """What tells the file at a path from any other, or `None` where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  # with each commit, so as fast as can be
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def side_file(path: Path, suffix: str) -> Path:
    """A side file: SQLite follows a link to the store before it names them."""
    return Path(os.path.realpath(path) + suffix)


def has_side_file(path: Path, suffix: str) -> bool:
    """Whether there is such a side file, with something in it."""
    try:
        return side_file(path, suffix).stat().st_size > 0
    except FileNotFoundError:  # others remove it at any moment
        return False


_OWNER = r"([0-9a-f]{8})-([0-9]+)-([0-9a-f]{8})-[0-9a-f]{8}"  # machine, process, when it started, chance
_ABANDONED_AFTER_S = 86_400.0  # a draft of another machine, or of another boot, that nobody has written to for so long


def temporary_name() -> str:
    """A name of this process's own, which tells others when it is gone."""
    me = liveness.this_process()
    return f"{_machine(me)}-{me.pid}-{_hash(me.started)}-{os.urandom(4).hex()}"


@contextlib.contextmanager
def temporary_file(place: Path, mode: int = 0o666) -> Iterator[Path]:
    """An empty file beside `place`, which is gone at the end of the block unless it was put in place."""
    path = place.with_name(f".{place.name}.{temporary_name()}")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode))
    try:
        yield path
    finally:
        for suffix in ("", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def move_to(path: Path, place: Path, *, replace: bool, synced: bool = False) -> None:
    """Give a draft its name, for good; no connection to it may be open here.

    Args:
        path: the draft.
        place: its name.
        replace: whether a file that is there gives way.
        synced: whether its content is on the disk already.

    Raises:
        FileExistsError: something is there, and is not to be replaced.
    """
    if not synced:
        sync(path)
    if replace:
        path.replace(place)
    else:
        _link(path, place)
    sync_folder(place.parent)


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: the window is between these two lines
        if place.exists():
            raise FileExistsError(place) from None
        path.replace(place)


def sync(path: Path) -> None:
    """Write a file's content to the disk."""
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


# --- rubbish


def temporary_files_of(place: Path, *, abandoned: bool = False) -> list[Path]:
    """The drafts of a place; where `abandoned`, only those whose process is gone."""
    pattern = re.compile(rf"\.{re.escape(place.name)}\.{_OWNER}(-journal)?")
    with contextlib.suppress(OSError), os.scandir(place.parent) as entries:  # it may not be read, or is gone
        found = [(entry, named) for entry in entries if (named := pattern.fullmatch(entry.name))]
        return [Path(entry) for entry, named in found if not abandoned or _is_abandoned(named, entry)]
    return []


def remove_abandoned(place: Path) -> None:
    """Remove the drafts of a place whose process is gone."""
    for path in temporary_files_of(place, abandoned=True):
        with contextlib.suppress(OSError):  # somebody else's, or somebody else was faster
            path.unlink()


def remove_abandoned_folders(parent: Path, prefix: str) -> None:
    """Remove the folders in `parent` whose names begin with `prefix` and a `name`, and whose process is gone."""
    import shutil

    pattern = re.compile(rf"{re.escape(prefix)}{_OWNER}-.*")
    with contextlib.suppress(OSError):
        with os.scandir(parent) as entries:
            found = [(entry, named) for entry in entries if (named := pattern.fullmatch(entry.name))]
        for entry, named in found:
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
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
