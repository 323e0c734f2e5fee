"""A disk whose power fails: what processes told it is written down, and replayed up to any moment.

`recorder.c` writes down every change of a folder's files, in order, with the moments at which they were synced.
A `Disk` takes these one after the other and says what could be found after a cut: what was synced, and of the rest
nothing, everything, the first of it, or any of its sectors in any order. Names outlive a cut once their folder was
synced; of those that changed since, the first few do, as on file systems that keep a journal of such changes. That is
harder than most disks are, and as hard as SQLite expects them to be (sqlite.org/atomiccommit).
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import attrs

_HEADER = struct.Struct("<c3xIIQQ")
_HOW = ("nothing", "everything", "in order", "torn")
_BARRIERS = frozenset("SDULR")


@attrs.frozen
class Change:
    """What a process told the disk: see `recorder.c` for the letters."""

    what: str
    path: str
    other: str
    offset: int
    data: bytes | int


def build_recorder(folder):
    """Compile the recorder; gives the library to preload."""
    source = Path(__file__).with_name("recorder.c")
    library = folder / "recorder.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def record(library, folder, log, *command, env=None, expect=0):
    """Run a Python command in a folder; gives what it told the disk."""
    log.unlink(missing_ok=True)
    told = {"LD_PRELOAD": str(library), "RECORD_FOLDER": str(folder), "RECORD_LOG": str(log), **(env or {})}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env={**os.environ, **told}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return list(_changes(log.read_bytes()))


def _changes(log):
    at = 0
    while at < len(log):
        what, first, second, offset, size = _HEADER.unpack_from(log, at)
        at += _HEADER.size
        path, other = log[at : at + first].decode(), log[at + first : at + first + second].decode()
        at += first + second
        kind = what.decode()
        data = log[at : at + size] if kind in "WO" else offset
        at += size if kind in "WO" else 0
        yield Change(kind, path, other, offset, data)


class _File:
    """A file's bytes on the disk, and what it was told since it was last synced."""

    def __init__(self, content=b""):
        self.synced = bytearray(content)
        self.pending = []

    def sync(self):
        for change in self.pending:
            _apply(self.synced, change)
        self.pending.clear()

    def content(self, how, rng):
        found = bytearray(self.synced)
        if how == "everything":
            kept = self.pending
        elif how == "nothing":
            kept = []
        elif how == "in order":
            kept = [*self.pending[: rng.randrange(len(self.pending) + 1)]]
            if kept and kept[-1].what == "W":
                kept[-1] = attrs.evolve(kept[-1], data=kept[-1].data[: rng.randrange(len(kept[-1].data) + 1)])
        else:
            kept = _sectors(self.pending, rng)
        for change in kept:
            _apply(found, change)
        if how == "torn" and rng.random() < 0.5:  # that it has grown may be known before what it has grown by
            ends = [change.offset + len(change.data) for change in self.pending if change.what == "W"]
            found += bytes(max([0, *ends, len(found)]) - len(found))
        return bytes(found)


def _apply(content, change):
    if change.what == "T":
        del content[change.offset :]
        content += bytes(change.offset - len(content))
    else:
        content += bytes(max(0, change.offset - len(content)))
        content[change.offset : change.offset + len(change.data)] = change.data


def _sectors(pending, rng):
    """Some of the sectors of what was written, in the order in which they were."""
    size, share = rng.choice((512, 4096)), rng.choice((0.1, 0.5, 0.9))
    for change in pending:
        if change.what == "T":
            if rng.random() < share:
                yield change
            continue
        at, end = change.offset, change.offset + len(change.data)
        while at < end:
            to = min(end, (at // size + 1) * size)
            if rng.random() < share:
                yield attrs.evolve(change, offset=at, data=change.data[at - change.offset : to - change.offset])
            at = to


class Disk:
    """The files of a folder, as processes see them and as the disk has them.

    Args:
        files: what is there, whole and synced, by path.
    """

    def __init__(self, files):
        self._seen = {path: _File(content) for path, content in files.items()}
        self._named = dict(self._seen)  # what the disk knows of names
        self._renamed = []  # changes of names since their folder was synced

    def take(self, change):
        """Do what a process told."""
        if change.what in "WT" and change.path in self._seen:
            self._seen[change.path].pending.append(change)
        elif change.what == "S" and change.path in self._seen:
            self._seen[change.path].sync()
        elif change.what == "D":
            mine = [each for each in self._renamed if os.path.dirname(each[0].path) == change.path]  # noqa: PTH120
            self._renamed = [each for each in self._renamed if each not in mine]
            for each in mine:
                _rename(self._named, *each)
        elif change.what in "CULR":
            file = _File() if change.what == "C" else self._seen.get(change.path)
            self._renamed.append((change, file))
            _rename(self._seen, change, file)

    def after_a_cut(self, how, rng):
        """What may be found, by path, if the power fails now."""
        names = dict(self._named)
        most = len(self._renamed)
        kept = {"nothing": 0, "everything": most}.get(how, rng.randrange(most + 1))
        for change, file in self._renamed[:kept]:
            _rename(names, change, file)
        return {path: file.content(how, rng) for path, file in names.items()}


def _rename(names, change, file):
    if change.what == "C":
        names[change.path] = file
    elif change.what == "U":
        names.pop(change.path, None)
    elif file is not None:
        names[change.other] = file
        if change.what == "R":
            names.pop(change.path, None)


@attrs.frozen
class Cut:
    """A moment at which the power fails.

    Attributes:
        at: how many changes came before.
        how: what became of those that were not synced.
        files: what is found, by path.
        printed: what had been printed until then.
        secure: the same until the log was last synced.
    """

    at: int
    how: str
    files: dict[str, bytes] = attrs.field(repr=False)
    printed: str = attrs.field(repr=False)
    secure: str = attrs.field(repr=False)


def cuts(changes, files, seed, count=None):
    """Moments at which the power fails, in order: around each sync and each change of a name, and in between.

    Args:
        changes: what was recorded.
        files: what was there before, by path.
        seed: of what is lost.
        count: how many, chosen by the seed; default: all around syncs, and as many others.
    """
    rng = random.Random(seed)
    around = {at + by for at, change in enumerate(changes) if change.what in _BARRIERS for by in (0, 1)}
    all_ = [(at, how) for at in sorted(around) for how in _HOW]
    all_ += [(rng.randrange(len(changes) + 1), rng.choice(_HOW)) for _ in all_]
    chosen = sorted(all_ if count is None else rng.sample(all_, min(count, len(all_))))
    disk, printed, secure, seen = Disk(files), "", "", set()
    at = 0
    for until, how in chosen:
        for change in changes[at:until]:
            disk.take(change)
            printed += change.data.decode(errors="replace") if change.what == "O" else ""
            secure = printed if change.what == "S" and change.path.endswith("-wal") else secure
        at = until
        found = disk.after_a_cut(how, rng)
        key = (hash(frozenset(found.items())), printed)
        if key not in seen:
            seen.add(key)
            yield Cut(at, how, found, printed, secure)


def files_of(folder):
    """What is in a folder, by path."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def restore(cut, old, new):
    """Put what is found after a cut into another folder."""
    new.mkdir()
    for path, content in cut.files.items():
        place = new / Path(path).relative_to(old)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
