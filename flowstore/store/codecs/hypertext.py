"""The codec `html`: the HTML of a card, which is UTF-8 text and never becomes anything else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flowstore.store.codecs.contract import Codec, Pieces
from flowstore.store.plain import NOTHING, Plain


class Html(str):
    """The HTML of a card, as text of a type of its own: artifacts that are plain text have another codec."""

    __slots__ = ()


class Hypertext(Codec):
    """HTML of cards, as UTF-8."""

    def encode(self, value: Any) -> Pieces | None:
        """Return the text's bytes."""
        return Pieces([value.encode("utf-8", "replace")]) if type(value) is Html else None

    def decode(self, pieces: Iterator[bytes], size_bytes: int) -> Html:  # noqa: ARG002
        """Return the text."""
        return Html(b"".join(pieces).decode())

    def preview(self, value: Any) -> str | None:
        """Return how long it is."""
        return f"HTML of {len(value):,} characters" if type(value) is Html else None

    def plain(self, value: Any) -> Plain:  # noqa: ARG002
        """Return nothing: what a page shows is no value."""
        return NOTHING
