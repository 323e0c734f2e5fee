"""The codec `bytes`: bytes as they are."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from flowstore.store.codecs.contract import Codec, Pieces
from flowstore.store.plain import NOTHING, Plain


class RawBytes(Codec):
    """Bytes, of which nothing is copied."""

    def encode(self, value: Any) -> Pieces | None:
        """Return the value itself as the only piece."""
        return Pieces([value]) if type(value) is bytes else None

    def decode(self, pieces: Iterator[bytes], size_bytes: int) -> bytes:
        """Return the bytes."""
        first = next(pieces, b"")
        if len(first) == size_bytes:
            return first
        buffer = io.BytesIO(first)  # grows in place, and its getvalue shares the memory: one copy
        buffer.seek(0, io.SEEK_END)
        for piece in pieces:
            buffer.write(piece)
        return buffer.getvalue()

    def plain(self, value: Any) -> Plain:  # noqa: ARG002
        """Return nothing: bytes have no obvious JSON."""
        return NOTHING
