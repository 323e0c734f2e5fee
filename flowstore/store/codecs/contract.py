"""The contract of codecs: how values of some types become bytes, and how those become the values again."""

from __future__ import annotations

import abc
import functools
import io
from collections.abc import Iterator, Sequence
from typing import Any

from flowstore import later
from flowstore.store.description import Described
from flowstore.store.plain import Plain
from flowstore.store.plain import describe as describe_plain

Piece = bytes | bytearray | memoryview


@later.frozen
class Pieces:
    """The bytes of a value.

    Attributes:
        pieces: the bytes, in order. Large pieces are views of the value's own memory, so that a large value is never
            in memory twice.
        keep: an object that keeps that memory alive.
    """

    pieces: Sequence[Piece]
    keep: object = None

    @property
    def size_bytes(self) -> int:
        """The length of all pieces."""
        if len(self.pieces) == 1:  # as most have, and quicker
            return memoryview(self.pieces[0]).nbytes
        return sum(memoryview(piece).nbytes for piece in self.pieces)


@later.frozen
class Encoded(Described):
    """A value as bytes, with its description.

    Attributes:
        pieces: the bytes, in order; large ones are views of the value's own memory.
        keep: an object that keeps that memory alive.
    """

    pieces: Sequence[Piece] = later.field(repr=False)
    keep: object = later.field(default=None, repr=False)

    @property
    def content(self) -> bytes:
        """All pieces as one; a copy, so for small values."""
        return b"".join(self.pieces)

    @functools.cached_property
    def sha(self) -> bytes:
        """SHA-256 of all pieces, computed when it is first asked for: not everything that is encoded is stored."""
        import hashlib  # OpenSSL, which most commands do without

        digest = hashlib.sha256()
        for piece in self.pieces:
            digest.update(piece)
        return digest.digest()


class Codec(abc.ABC):
    """One way to turn values into bytes and back.

    A value is encoded with the first codec of the registry (`flowstore.store.codecs.REGISTRY`) that can do it, and the
    codec's name is stored with the bytes for ever. What a name means must never change: a new form gets a new name.

    A codec promises:

    - *It is faithful.* What `decode` returns in another process, which has other modules imported, is equal to the
      value and of the same type, down to what a user can see of it. Where that is not certain `encode` returns `None`,
      and the next codec is asked. The last one, `pickle`, takes everything.
    - *It is safe.* Bytes may come from anybody. `decode` executes no code that they choose, takes memory and time in
      proportion to their length, and raises ArtifactError for bytes that `encode` can't have written. Only `pickle`
      is exempt, so it is loaded only where the user trusts its author.
    - *It is light.* Its module imports nothing but the standard library and flowstore when it is loaded. `encode` is
      called only when one of the libraries that its entry names has been imported, since without it there can be no
      value of its types.

    Example:
        A codec for arrays of the standard library, without its line in the registry:

        >>> import array
        >>> class Arrays(Codec):
        ...     def encode(self, value):
        ...         if type(value) is not array.array or value.typecode != "d":
        ...             return None
        ...         return Pieces([memoryview(value).cast("B")], keep=value)
        ...     def decode(self, pieces, size_bytes):
        ...         if size_bytes % 8:
        ...             raise ArtifactError("Its bytes are no array of numbers.")
        ...         value = array.array("d")
        ...         value.frombytes(b"".join(pieces))
        ...         return value
        >>> encoded = Arrays().encode(array.array("d", [1.0, 2.0]))
        >>> Arrays().decode(map(bytes, encoded.pieces), 16)
        array('d', [1.0, 2.0])
    """

    @abc.abstractmethod
    def encode(self, value: Any) -> Pieces | None:
        """Return the value's bytes, or `None` where this codec can't bring the value back as it is.

        Anything that it raises is taken for `None`, except for ArtifactError, which fails the task.

        Args:
            value: any value at all: most are not of this codec's types, and are to be declined at once, by their type.
        """

    @abc.abstractmethod
    def decode(self, pieces: Iterator[bytes], size_bytes: int) -> Any:
        """Return the value of these bytes.

        Args:
            pieces: the bytes, in order, however they are cut. Take them one by one: they may be larger than memory
                allows twice.
            size_bytes: their length, which has been compared with what is there.

        Raises:
            ArtifactError: they can't have been written by `encode`. Any other exception but ImportError becomes one.
            ImportError: a package is missing here; the message that users see says how to install it.
        """

    def preview(self, value: Any) -> str | None:  # noqa: ARG002  # for those who have one
        """Return a short text that shows a value of this codec's libraries; `None` where the usual one will do.

        It is asked about all values, whatever codec stores them: a pandas Series is shown, though it is pickled.
        """
        return None

    def plain(self, value: Any) -> Plain:
        """Return the value as plain JSON with its metrics; see `store.plain`. Called for values that `encode` took."""
        return describe_plain(value)


class File(io.RawIOBase):
    """Pieces as a file that is read from its beginning, without joining them."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, target: Any, /) -> int:
        """Read some bytes into a buffer; return how many."""
        view = memoryview(target).cast("B")
        piece = self.read_piece(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def read_piece(self, most: int) -> memoryview:
        """Return the next bytes, at most so many, without copying them; none at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._rest = memoryview(piece)
        taken, self._rest = self._rest[:most], self._rest[most:]
        return taken
