"""Descriptions: what is known of a value without loading it.

A description is made once, when the value is encoded, and travels with its bytes: from the attempt to the driver in a
report, into the store, and from store to store. `packed` and `unpacked` are its only form in a message.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from flowstore import later
from flowstore.store.plain import NOTHING, Plain


@later.frozen
class Description:
    """A description of a value that can be read without loading it.

    Attributes:
        codec: the name of the codec that turns the bytes into the value again.
        size_bytes: the length of the bytes.
        type: the full name of the value's Python type.
        preview: a short text that shows the value.
        plain: the value as plain JSON, with its number and its metrics; empty where it has none.
        picture: the PNG of a figure or an image; `None` for everything else.
    """

    codec: str
    size_bytes: int
    type: str
    preview: str
    plain: Plain = NOTHING
    picture: bytes | None = None

    @property
    def packed(self) -> tuple[Any, ...]:
        """The description as a tuple of plain values, for a message."""
        plain = None if self.plain is NOTHING else _packed_plain(self.plain)
        return self.codec, self.size_bytes, self.type, self.preview, plain, self.picture

    @classmethod
    def unpacked(cls, packed: tuple[Any, ...]) -> Description:
        """Return the description that `packed` was made of."""
        codec, size_bytes, type_name, preview, plain, picture = packed
        return cls(codec, size_bytes, type_name, preview, NOTHING if plain is None else Plain(*plain), picture)


_packed_plain = attrgetter("value", "exact", "number", "numbers")


@later.frozen
class Described:
    """Something that has a description, with the parts of it that are asked for most often as properties."""

    description: Description

    @property
    def codec(self) -> str:
        """The name of the codec."""
        return self.description.codec

    @property
    def size_bytes(self) -> int:
        """The length of the bytes."""
        return self.description.size_bytes

    @property
    def type(self) -> str:
        """The name of the value's type."""
        return self.description.type

    @property
    def preview(self) -> str:
        """A short text that shows the value."""
        return self.description.preview


@later.frozen
class NewBlob(Described):
    """A blob that an attempt hands to the driver.

    Attributes:
        sha: SHA-256 of the bytes of a large blob, which are sent in chunks if the store lacks them; `None` for a small
            one, which the driver hashes itself: a forked task that touches less memory is cheaper.
        data: the bytes of a small blob; `None` for a large one.
    """

    sha: bytes | None = None
    data: bytes | None = later.field(default=None, repr=False)

    @property
    def packed(self) -> tuple[Any, ...]:
        """The blob as a tuple of plain values, for a message."""
        return self.description.packed, self.sha, self.data

    @classmethod
    def unpacked(cls, packed: tuple[Any, ...]) -> NewBlob:
        """Return the blob that `packed` was made of."""
        description, sha, data = packed
        return cls(Description.unpacked(description), sha, data)
