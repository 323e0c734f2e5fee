"""Values that Metaflow has stored under the hash of their bytes: artifacts, and packages of code.

They are compressed. They are unpacked piece by piece, as far as their record says, and compared with the SHA-1
by which Metaflow knows them. An artifact is a pickle: one of builtins is stored as the value that it is, one of bytes
as these bytes, whatever their size, and any other as the pickle, which nobody loads who does not trust it.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from flowstore.client.task import ExceptionInfo
from flowstore.store import blobs, codecs
from flowstore.store.codecs import Encoded
from flowstore.store.codecs.hypertext import Html
from flowstore.store.description import Description
from flowstore.store.json_levels import MAX_VALUE_BYTES
from flowstore.store.plain import Numbers
from flowstore.store.preview import preview
from flowstore.store.staging import Incoming, Staging
from flowstore.transfer.metaflow_history import pickles
from flowstore.transfer.metaflow_history.folder import Folder, Problem, clean

_PIECE = 1 << 20
_HEAD = 64
_WRAPPER = "MetaflowExceptionWrapper"
_PLAIN = ("json", "bytes", "typed-json")
_MOST_UNRECORDED = 1 << 30
_MAX_INTERNAL = 4 << 20  # of what Metaflow stores for itself
_SHA1 = re.compile("[0-9a-f]{40}")
_TYPE = re.compile(r"<(?:class|type) '([^'\x00-\x1f]{1,500})'>")


@attrs.frozen(eq=False)
class Artifact:
    """An artifact as the record of a task describes it.

    Attributes:
        flow: the flow, in whose folder the bytes are.
        sha1: their address.
        size_bytes: their length; `None` where it is not recorded.
        type: the value's type, as Python prints it.
    """

    flow: str
    sha1: str
    size_bytes: int | None
    type: str

    @property
    def path(self) -> str:
        """The path of its file."""
        return f"{self.flow}/data/{self.sha1[:2]}/{self.sha1}"


@attrs.frozen(eq=False)
class Value:
    """A value on its way into the store.

    Attributes:
        description: what is known of it.
        incoming: its bytes, which are staged.
        json: the value as JSON of at most 64 KiB, `null` where it has none.
        is_ours: whether flowstore has written the bytes itself, so that they are a pickle that may be loaded.
    """

    description: Description
    incoming: Incoming
    json: str = "null"
    is_ours: bool = False

    @property
    def numbers(self) -> Numbers:
        """The numbers in it."""
        return self.description.plain.numbers

    @property
    def is_pickle(self) -> bool:
        """Whether loading it runs code of whoever wrote the folder."""
        return self.description.codec == "pickle" and not self.is_ours


class Values:
    """Reads and stages the values of one folder, each once.

    Args:
        folder: the folder.
        staging: where values wait for their rows.
    """

    def __init__(self, folder: Folder, staging: Staging) -> None:
        self._folder = folder
        self._staging = staging
        self._staged: dict[tuple[str, str], Value] = {}
        self._pages: dict[str, Value] = {}
        self._outlines: dict[tuple[str, str], Any] = {}
        self.read_bytes = 0

    def outline(self, artifact: Artifact) -> Any:
        """Return what Metaflow stores for itself, with outlines for its objects; `None` where that cannot be read.

        Raises:
            Problem: its bytes are missing or damaged.
        """
        key = artifact.flow, artifact.sha1
        if key not in self._outlines:
            size = self._measure(artifact) if artifact.size_bytes is None else artifact.size_bytes
            try:
                if size > _MAX_INTERNAL:
                    raise pickles.NotPlain("it is too large")
                self._outlines[key] = pickles.outline(b"".join(self.pieces(artifact)))
            except pickles.NotPlain:
                self._outlines[key] = None
        return self._outlines[key]

    def stage(self, artifact: Artifact) -> Value:
        """Return an artifact's value, which is staged; raise Problem where its bytes are missing or damaged."""
        key = artifact.flow, artifact.sha1
        if key not in self._staged:
            size = self._measure(artifact) if artifact.size_bytes is None else artifact.size_bytes
            if size <= pickles.MAX_BYTES:
                self._staged[key] = self._stage_small(artifact, b"".join(self.pieces(artifact)))
            else:
                self._staged[key] = self._stage_large(attrs.evolve(artifact, size_bytes=size))
            self.read_bytes += size
        return self._staged[key]

    def stage_html(self, path: str, read: Callable[[], str]) -> Value:
        """Return the HTML of a file, which is staged; it is read when it is first asked for."""
        if path not in self._pages:
            encoded = codecs.encode(Html(read()))
            self.read_bytes += encoded.size_bytes
            self._pages[path] = self._stage_encoded(encoded)
        return self._pages[path]

    def _stage_encoded(self, encoded: Encoded) -> Value:
        incoming = self._staging.begin(encoded.sha, encoded.description)
        _add(incoming, iter([encoded.content]))
        return Value(encoded.description, incoming, _json_of(encoded))

    def _measure(self, artifact: Artifact) -> int:
        """Return a length that is not recorded; since nobody knows how long is too long, there is a limit."""
        size = 0
        for piece in self.pieces(artifact):
            size += len(piece)
            if size > _MOST_UNRECORDED:
                raise Problem(artifact.path, "its length is not recorded, and it is very long")
        return size

    def _stage_small(self, artifact: Artifact, data: bytes) -> Value:
        encoded = _encoded(data)
        if encoded is not None:
            return self._stage_encoded(encoded)
        if _WRAPPER.encode() in data[:_HEAD] and (caught := exception_of(self.outline(artifact))) is not None:
            return attrs.evolve(self._stage_encoded(codecs.encode(ExceptionInfo(*caught))), is_ours=True)
        return self._stage_encoded(Encoded(_of_pickle(artifact, len(data)), [data]))

    def _stage_large(self, artifact: Artifact) -> Value:
        """Stage a value that is not to be in memory as a whole: its bytes are read three times, piece by piece."""
        size, head, tail = artifact.size_bytes or 0, b"", b""
        for piece in self.pieces(artifact):
            head = (head + piece[:_HEAD])[:_HEAD]
            tail = (tail + piece)[-_HEAD:]
        payload = pickles.payload_of(head, tail, size)
        if payload is None:
            begin, length, description = 0, size, _of_pickle(artifact, size)
        else:
            begin, length = payload
            shown = preview(next(_part(self.pieces(artifact), begin, 1000)))
            description = Description("bytes", length, "bytes", shown)
        digest = hashlib.sha256()
        for piece in _part(self.pieces(artifact), begin, length):
            digest.update(piece)
        incoming = self._staging.begin(digest.digest(), description)
        _add(incoming, _part(self.pieces(artifact), begin, length))
        return Value(description, incoming)

    def hashes(self, artifacts: Iterable[Artifact]) -> set[bytes]:
        """Return the SHA-256 of the bytes of artifacts; raise Problem where these are missing or damaged."""
        shas = set()
        for artifact in {(artifact.flow, artifact.sha1): artifact for artifact in artifacts}.values():
            digest = hashlib.sha256()
            for piece in self.pieces(artifact):
                digest.update(piece)
            shas.add(digest.digest())
        return shas

    def pieces(self, artifact: Artifact) -> Iterator[bytes]:
        """Yield the bytes of an artifact, unpacked.

        Raises:
            Problem: they are missing, more or less than recorded, or not what their hash says.
        """
        if not _SHA1.fullmatch(artifact.sha1):
            raise Problem(artifact.path[:200], "its name is not a hash")
        file = self._folder.open(artifact.path)
        if file is None:
            raise Problem(artifact.path, "it is missing")
        record = self._folder.json(f"{artifact.path}_meta") or {}
        size, digest = 0, hashlib.sha1(usedforsecurity=False)
        with file:
            packed = iter(lambda: file.read(_PIECE), b"")
            for piece in packed if record.get("cas_raw") else unpacked(packed, artifact.path):
                size += len(piece)
                if artifact.size_bytes is not None and size > artifact.size_bytes:
                    break
                digest.update(piece)
                yield piece
        if artifact.size_bytes not in (None, size):
            raise Problem(artifact.path, f"it has not the {artifact.size_bytes} bytes that are recorded")
        if digest.hexdigest() != artifact.sha1:
            raise Problem(artifact.path, "its bytes do not match their hash")


def exception_of(stored: Any) -> tuple[str, str, str] | None:
    """Return type, message and traceback of what Metaflow stores for an exception; `None` of anything else."""
    if type(stored) is not pickles.Outline or not stored.name.endswith(_WRAPPER) or type(stored.state) is not dict:
        return None
    texts = (stored.state.get(name) for name in ("type", "exception", "stacktrace"))
    kind, message, trace = (clean(text) if type(text) is str else "" for text in texts)
    return kind or "builtins.Exception", message, trace


def unpacked(packed: Iterator[bytes], path: str) -> Iterator[bytes]:
    """Yield the bytes of a gzip file, in pieces of a bounded length."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        for piece in packed:
            rest = piece
            while rest:
                yield unpacker.decompress(rest, _PIECE)
                rest = unpacker.unconsumed_tail
            if unpacker.eof:
                break
        if not unpacker.eof or unpacker.unused_data or next(packed, b""):
            raise Problem(path, "it is cut off, or goes on after its end")
    except zlib.error as error:
        raise Problem(path, "it cannot be unpacked") from error


def _part(pieces: Iterator[bytes], begin: int, length: int) -> Iterator[bytes]:
    """Yield a part of some bytes; all of them are read, since their hash is compared at the end."""
    at, end = 0, begin + length
    for piece in pieces:
        part = piece[max(0, begin - at) : max(0, end - at)]
        at += len(piece)
        if part:
            yield part


def _add(incoming: Incoming, pieces: Iterator[bytes]) -> None:
    if incoming.description.size_bytes <= blobs.INLINE_BYTES:
        incoming.add(b"".join(pieces))
        return
    for chunk in blobs.chunks_of(pieces):
        incoming.add(bytes(chunk))


def _encoded(data: bytes) -> Encoded | None:
    """Return the value of a pickle of builtins, encoded without a pickle; `None` where it is another pickle."""
    try:
        value = pickles.load(data)
    except pickles.NotPlain:
        return None
    for name in _PLAIN:
        codec = codecs.entry_of(name).codec
        try:
            pieces = codec.encode(value)
        except Exception:  # noqa: S112  # whatever the value is, it can stay the pickle that it was
            continue
        if pieces is not None:
            kind, plain = type(value).__name__, codecs.plain_of(name, value)
            description = Description(name, pieces.size_bytes, kind, codecs.preview(value), plain)
            return Encoded(description, pieces.pieces, pieces.keep)
    return None


def _of_pickle(artifact: Artifact, size: int) -> Description:
    """Return the description of a pickle that is not read: nothing but the type is known of it."""
    match = _TYPE.fullmatch(artifact.type)
    kind = clean(match[1]).removeprefix("builtins.").removeprefix("__main__.") if match else "object"
    return Description("pickle", size, kind, f"<{kind}, stored by Metaflow>")


def _json_of(encoded: Encoded) -> str:
    if encoded.codec == "json":
        return encoded.content.decode() if encoded.size_bytes <= MAX_VALUE_BYTES else "null"
    return encoded.description.plain.value or "null"
