"""The codec `json`: None, bool, int of 64 bits, finite float, text, and lists and dicts of them, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from flowstore.context import is_text
from flowstore.errors import ArtifactError
from flowstore.store.codecs.contract import Codec, Piece, Pieces
from flowstore.store.plain import Plain, describe_json

MAX_DEPTH = 100
_LARGE_TEXT = 1 << 20
_SCALARS = frozenset({bool, type(None)})


class PlainJson(Codec):
    """Values that JSON brings back equal and of the same types, in SQLite's reading of it, too."""

    def encode(self, value: Any) -> Pieces | None:
        """Return the JSON of a plain value."""
        return Pieces(_pieces(value)) if is_plain_json(value) else None

    def decode(self, pieces: Iterator[bytes], size_bytes: int) -> Any:  # noqa: ARG002
        """Return the value; JSON that `encode` can't have written, or that others read otherwise, is refused."""
        try:
            text = b"".join(pieces).decode()
            value, end = _DECODER.raw_decode(text)
            if end != len(text):
                raise ValueError(f"it goes on after character {end}")
            plain = is_plain_json(value)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"Its bytes are not JSON: {error}") from error
        if not plain:
            raise ArtifactError(
                "Its bytes are not plain JSON: a number is too large, a text is invalid, or it is nested too deeply."
            )
        return value

    def plain(self, value: Any) -> Plain:
        """Return the metrics of the value; its bytes are its JSON."""
        return describe_json(value)


def is_plain_json(value: Any) -> bool:
    """Return whether JSON brings the value back equal and of the same types, in SQLite's reading of it, too.

    >>> is_plain_json({"a": [1, 2.5, None]}), is_plain_json((1,)), is_plain_json({1: 2}), is_plain_json(2**64)
    (True, False, False, False)
    """
    return _is_plain(value, set(), MAX_DEPTH)


def _is_plain(value: Any, seen: set[int], depth: int) -> bool:
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is str:
        return is_text(value)
    if kind is int:
        return bool(-(2**63) <= value < 2**63)
    if kind is float:
        return math.isfinite(value)
    if kind not in {list, dict} or depth == 0 or id(value) in seen:
        return False
    seen.add(id(value))  # a part that occurs twice would come back as two
    if kind is dict:
        if not all(type(key) is str and is_text(key) for key in value):
            return False
        value = list(value.values())
    kinds = set(map(type, value))
    if kinds == {float}:
        return all(map(math.isfinite, value))
    if kinds == {int}:
        return bool(min(value) >= -(2**63) and max(value) < 2**63)
    return all(_is_plain(item, seen, depth - 1) for item in value)


def _pieces(value: Any) -> list[Piece]:
    if type(value) is str and len(value) > _LARGE_TEXT:  # one copy of a large text, not three
        inner = (_ENCODER.encode(value[at : at + _LARGE_TEXT]) for at in range(0, len(value), _LARGE_TEXT))
        return [b'"', *(piece[1:-1].encode() for piece in inner), b'"']
    if type(value) is int or type(value) is float:  # as the encoder writes them, without its set-up
        return [repr(value).encode()]
    return [_ENCODER.encode(value).encode()]


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key occurs twice")
    return members


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(object_pairs_hook=_unambiguous)
