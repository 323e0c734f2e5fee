"""Inputs of a task on another machine: asked for through its channel, and kept by its host in a cache.

A task's channel leads to its host. The host has a blob's bytes already, in a file that is named after their hash, or
fetches them from the driver once, however many of its tasks want them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowstore import errors
from flowstore.errors import ArtifactError, FlowstoreError, StoreCorrupt
from flowstore.run.inputs import Source, StoreSource
from flowstore.run.local import messages
from flowstore.store import codecs
from flowstore.store.blobs import CHUNK_BYTES, Blob
from flowstore.store.description import Description

if sys.platform != "win32":
    import fcntl

_TRIES = 5  # to open a file that the cache may drop just then


def pack_blobs(blobs: Mapping[str, Blob | None]) -> dict[str, Any]:
    """Return blobs as plain values, for a message; nothing for an artifact that was deleted."""
    return {
        name: () if blob is None else (blob.description.packed, blob.id, blob.sha, blob.data)
        for name, blob in blobs.items()
    }


def _unpack_blobs(packed: Mapping[str, Any]) -> dict[str, Blob | None]:
    return {
        name: Blob(Description.unpacked(values[0]), *values[1:]) if values else None for name, values in packed.items()
    }


def answered(source: StoreSource, ask: int, what: str, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """Return the message that answers a question of a task's, on the side that has the store."""
    try:
        if what == "chunk":
            blob_id, name, n = arguments
            return "answer", ask, source.chunk(source.find(blob_id), name, n)
        if what == "artifacts":
            tasks = source.artifacts(*arguments)
            return "answer", ask, [[task_id, pack_blobs(source.loadable(known))] for task_id, known in tasks.items()]
        return "answer", ask, pack_blobs(source.loadable(source.parameters()))
    except FlowstoreError as error:
        return "refusal", ask, type(error).__name__, str(error)


class ChannelSource(Source):
    """Asks the host, and through it the driver.

    Args:
        channel: to the host; this process runs one attempt at a time, so nothing else comes meanwhile.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._turn = _Turn()
        messages.share_channel(self._turn)

    def parameters(self) -> Mapping[str, Blob]:
        """Return the run's parameters and constants, by name."""
        return {name: blob for name, blob in _unpack_blobs(self._ask("parameters")).items() if blob is not None}

    def artifacts(self, task_ids: Sequence[int], name: str | None = None) -> Mapping[int, Mapping[str, Blob | None]]:
        """Return the artifacts of the first tasks of many, inherited ones included, by task and name."""
        return {task_id: _unpack_blobs(packed) for task_id, packed in self._ask("artifacts", list(task_ids), name)}

    def load(self, blob: Blob, name: str) -> Any:
        """Return the value of a blob of the run."""
        if blob.data is not None:
            if hashlib.sha256(blob.data).digest() != blob.sha:
                raise mismatch(name)
            return self._decode(blob, name, iter([blob.data]))
        for _ in range(_TRIES):
            path = self._ask("blob", blob.id, blob.sha, blob.codec, blob.size_bytes, name)
            try:
                with Path(path).open("rb") as file:
                    return self._decode(blob, name, iter(lambda: file.read(CHUNK_BYTES), b""))
            except FileNotFoundError:
                continue
        raise FlowstoreError(
            f"{name} left this host's cache before it could be read: many large artifacts are read at once. "
            "Allow more with --executor-option cache=GIB."
        )

    def _decode(self, blob: Blob, name: str, pieces: Iterator[bytes]) -> Any:
        try:
            return codecs.decode(blob.codec, pieces, blob.size_bytes)
        except ArtifactError as error:
            raise ArtifactError(f"{name}: {error}") from error

    def _ask(self, what: str, *arguments: Any) -> Any:
        question = messages.framed({"kind": "ask", "what": what, "arguments": arguments})
        with self._turn.asking():
            self._channel.sendall(question)
            answer = messages.receive(self._channel)
        if answer is None:
            raise FlowstoreError("The connection to the driver was lost while the task read its inputs.")
        if "error" in answer:
            kind, text = answer["error"]
            raise error_of(kind, text)
        return answer["answer"]


class _Turn:
    """The right to use a task's channel, which the threads of its step, and the processes that it forks, take in turn.

    The processes lock a file, which the system unlocks where one dies, and which holds something while one asks.
    """

    def __init__(self) -> None:
        global _present  # noqa: PLW0603  # a process has one channel
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # as long as there is a turn
        self.renew()
        _present = self

    def renew(self) -> None:
        """Forget the threads: of those that a forked process lacks, one may have had its turn."""
        self._threads = threading.Lock()

    def __enter__(self) -> None:
        self._threads.acquire()
        if sys.platform != "win32":
            fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if sys.platform != "win32":
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        self._threads.release()

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Take a turn for a question and its answer.

        Raises:
            FlowstoreError: somebody was ended before the answer to theirs had come.
        """
        with self:
            self._file.seek(0)
            if self._file.read(1):
                raise FlowstoreError(
                    "A thread or process of this step was ended while it read an input, so the step can read no more. "
                    "Read what it needs before it starts threads and processes."
                )
            self._file.write(b"?")
            yield
            self._file.truncate(0)


_present: _Turn | None = None


def _renew() -> None:
    if _present is not None:
        _present.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def mismatch(name: str) -> StoreCorrupt:
    """Return the error of bytes that are not what their hash says."""
    return StoreCorrupt(f"The bytes of {name} do not match their hash. The file is damaged. Restore a copy.")


def error_of(kind: str, text: str) -> FlowstoreError:
    """Return an error of flowstore's from the name of its type and its message."""
    error = getattr(errors, kind, None)
    known = isinstance(error, type) and issubclass(error, FlowstoreError)
    return error(text) if known and error is not None else FlowstoreError(text)


# --- the host's cache

Key = tuple[bytes, str]  # a hash and a codec: a driver that sends a blob allows its tasks to load it with that


class Cache:
    """The bytes of blobs in files, of which those go that were not used for the longest time.

    Args:
        folder: for the files.
        most_bytes: of all files together; the last one is kept even if it is larger.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._most_bytes = most_bytes
        self._sizes: OrderedDict[Key, int] = OrderedDict()
        self._bytes = 0

    def find(self, key: Key) -> Path | None:
        """Return the file of a blob, if it is here."""
        if key not in self._sizes:
            return None
        self._sizes.move_to_end(key)
        return self._path(key)

    def begin(self, key: Key, size_bytes: int) -> Incoming:
        """Begin a blob's file."""
        path = self._path(key)
        return Incoming(self, key, size_bytes, path.with_name(f"{path.name}.incoming"))

    def add(self, key: Key, temporary: Path) -> Path:
        """Take in a file, and drop others where they have become too much; return its path."""
        size, path = temporary.stat().st_size, self._path(key)
        temporary.rename(path)
        self._sizes[key] = size
        self._bytes += size
        while self._bytes > self._most_bytes and len(self._sizes) > 1:
            oldest, freed = self._sizes.popitem(last=False)
            self._path(oldest).unlink(missing_ok=True)
            self._bytes -= freed
        return path

    def _path(self, key: Key) -> Path:
        sha, codec = key
        return self._folder / f"{sha.hex()}.{codec}"


@attrs.define(eq=False, repr=False)
class Incoming:
    """A blob on its way into the cache.

    Attributes:
        cache: where it goes.
        key: its hash and codec.
        size_bytes: its size.
        path: the file until all of it has come.
        have_bytes: how much has come.
    """

    cache: Cache
    key: Key
    size_bytes: int
    path: Path
    have_bytes: int = 0
    _digest: Any = attrs.field(factory=hashlib.sha256)
    _file: Any = None

    def write(self, chunk: bytes) -> None:
        """Take the next chunk."""
        if self._file is None:
            self._file = self.path.open("wb")
        self._file.write(chunk)
        self._digest.update(chunk)
        self.have_bytes += len(chunk)

    @property
    def is_complete(self) -> bool:
        """Whether all of it has come."""
        return self._file is not None and self.have_bytes >= self.size_bytes

    def finish(self) -> Path | None:
        """Return the file in the cache; `None` where the bytes don't match their hash."""
        self.drop(keep=True)
        if self._digest.digest() != self.key[0]:
            self.path.unlink()
            return None
        return self.cache.add(self.key, self.path)

    def drop(self, *, keep: bool = False) -> None:
        """Close the file, and delete it unless it is to be kept."""
        if self._file is not None:
            self._file.close()
            if not keep:
                self.path.unlink(missing_ok=True)
