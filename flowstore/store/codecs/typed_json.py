"""The codec `typed-json`: values of plain JSON's kinds mixed with those that it lacks, as JSON that a person can read.

A value that plain JSON lacks is an object with one key that begins with a dollar sign, its mark:

    {"accuracy": {"$numpy.float64": 0.97}, "folds": {"$tuple": [3, 4]}, "day": {"$date": "2024-02-29"},
     "by age": {"$dict": [[30, 0.5], [40, {"$float": "nan"}]]}, "labels": {"$set": ["a", "b"]}}

Any other object is a dict; a dict that looks like such an object is written as `$dict`. Scalars are in
`typed_scalars`. Members of sets are sorted, so that equal sets are the same bytes.

Only values without subclasses and without shared or recursive parts are written, and only such come back: `dump` and
`load` check a value in the same way. A small tuple of scalars may stand in several places, since the
compiler makes one object of equal constants.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from flowstore.context import is_text
from flowstore.errors import ArtifactError
from flowstore.store.codecs.contract import Codec, Pieces
from flowstore.store.codecs.typed_scalars import BY_MARK, Unwritable, scalar_of

MAX_DEPTH = 100  # of containers
MAX_TEXT = 1 << 20  # characters
_MOST_ALIKE = 100  # members of a set, or keys, of one hash: comparing them takes quadratic time
_SMALL = 16  # members of a tuple that may stand in several places

Tree = Any  # what the JSON encoder takes


class TypedJson(Codec):
    """Values of builtins that plain JSON lacks, in a notation that a person can read."""

    def encode(self, value: Any) -> Pieces | None:
        """Return the value in the notation, if it has one."""
        text = dump(value)
        return None if text is None else Pieces([text])

    def decode(self, pieces: Iterator[bytes], size_bytes: int) -> Any:  # noqa: ARG002
        """Return the value of a notation that `encode` can have written."""
        try:
            return load(b"".join(pieces))
        except ValueError as error:
            raise ArtifactError(f"Its bytes are not typed JSON: {error}") from error


def dump(value: Any) -> bytes | None:
    """Return the value's bytes, or `None` where it has no notation."""
    try:
        _check(value)
        return _ENCODER.encode(_tree(value)).encode()
    except Unwritable:
        return None


def load(notation: bytes) -> Any:
    """Return the value of these bytes.

    Raises:
        ValueError: `dump` can't have written them.
    """
    try:
        text = notation.decode()
        value, end = _DECODER.raw_decode(text)
        if end != len(text):
            raise ValueError(f"it goes on after character {end}")
        _check(value)
    except Unwritable:
        raise ValueError("a number or a text is not one that is written so, or it is nested too deeply") from None
    except (TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return value


# --- which values


def _check(value: Any) -> None:
    """Raise Unwritable unless the value and all its parts have a notation, as far as types, texts and places tell.

    It looks at one level of parts at a time, and at all parts of one type together: a million tuples take a second
    less than one by one, and a part of an unknown type is found before anything below its neighbours is looked at.
    """
    seen: set[int] = set()
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        containers = _check_level(level)
        if not containers:
            return
        level = []
        for kind, group in containers.items():
            _check_places(kind, group, seen)
            level += _children(kind, group)
    if _check_level(level):
        raise Unwritable


def _check_level(level: list[Any]) -> dict[type, list[Any]]:
    """Check the parts of one level; returns its containers by type."""
    kinds = set(map(type, level))
    if any(kind not in _PLAIN and kind not in _CONTAINERS and scalar_of(kind) is None for kind in kinds):
        raise Unwritable
    if str in kinds:
        _check_texts([part for part in level if type(part) is str])
    return {kind: [part for part in level if type(part) is kind] for kind in kinds & _CONTAINERS}


def _check_texts(texts: Collection[str]) -> None:
    if max(map(len, texts), default=0) > MAX_TEXT or not (all(map(str.isascii, texts)) or all(map(is_text, texts))):
        raise Unwritable


def _check_places(kind: type, group: list[Any], seen: set[int]) -> None:
    """Refuse a part that stands in several places, unless it is a small constant."""
    if kind is tuple or kind is frozenset:
        group = [part for part in group if not _is_constant(part)]
    places = set(map(id, group))
    if len(places) < len(group) or not seen.isdisjoint(places):
        raise Unwritable
    seen |= places


def _is_constant(part: Collection[Any]) -> bool:
    return len(part) <= _SMALL and _CONTAINERS.isdisjoint(map(type, part))


def _children(kind: type, group: list[Any]) -> Iterable[Any]:
    """Return all parts of containers of one type, with those keys of dicts that are no text."""
    if kind is dict:
        for part in group:
            if set(map(type, part)) <= {str}:
                _check_texts(part)
            else:
                _check_hashes(part)
                yield from part
            yield from part.values()
        return
    if kind is set or kind is frozenset:
        for part in group:
            _check_hashes(part)
    yield from itertools.chain.from_iterable(group) if kind is not bytearray else ()


def _check_hashes(values: Collection[Any]) -> None:
    """Refuse members that are made to have one hash: a million of them would keep a reader busy for hours."""
    if len(values) > _MOST_ALIKE and max(Counter(map(hash, values)).values()) > _MOST_ALIKE:
        raise Unwritable


# --- writing


def _tree(value: Any) -> Tree:
    """Return the value as the JSON encoder takes it; what is plain JSON is not copied."""
    kind = type(value)
    if kind is list:
        return _trees(value)
    if kind is dict:
        return _dict_tree(value)
    if kind is tuple:
        return {"$tuple": _trees(value)}
    if kind is set or kind is frozenset:
        return {f"${kind.__name__}": _in_order(_trees(value))}
    if kind in _TRIVIAL or (kind is int and -(2**63) <= value < 2**63) or (kind is float and math.isfinite(value)):
        return value
    scalar = scalar_of(kind)
    if scalar is None:
        raise Unwritable
    return {f"${scalar.mark}": scalar.write(value)}


def _trees(values: Collection[Any]) -> Collection[Tree]:
    kinds = set(map(type, values))
    if kinds <= _TRIVIAL:
        return values
    if kinds == {float} and all(map(math.isfinite, values)):
        return values
    if kinds == {int} and min(values) >= -(2**63) and max(values) < 2**63:
        return values
    return list(map(_tree, values))


def _dict_tree(value: dict[Any, Any]) -> Tree:
    parts = _trees(value.values())
    if not set(map(type, value)) <= {str}:
        return {"$dict": list(zip(_trees(value.keys()), parts, strict=True))}
    if len(value) == 1 and next(iter(value)).startswith("$"):
        return {"$dict": list(zip(value, parts, strict=True))}
    return dict(zip(value, parts, strict=True))


def _in_order(members: Collection[Tree]) -> list[Tree]:
    """Return a set's members in an order of their own: that of numbers or texts, else that of their notation."""
    kinds = set(map(type, members))
    return sorted(members) if kinds in ({str}, {int}, {float}) else sorted(members, key=_ENCODER.encode)


_TRIVIAL = frozenset({type(None), bool, str})
_PLAIN = _TRIVIAL | {int, float}
_CONTAINERS = frozenset({list, dict, tuple, set, frozenset, bytearray})  # a bytearray is one, since it can be changed
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


# --- reading


def _read_object(pairs: list[tuple[str, Any]]) -> Any:
    """Called for each JSON object, the inner ones first."""
    if len(pairs) == 1 and pairs[0][0].startswith("$"):
        mark, notation = pairs[0]
        container = _READERS.get(mark)
        return _read_scalar(mark, notation) if container is None else container(notation)
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key occurs twice")
    return members


def _read_scalar(mark: str, notation: Any) -> Any:
    scalar = BY_MARK.get(mark[1:])
    if scalar is None:
        raise ValueError(f"the mark {mark[:40]!r} is unknown to this flowstore; a newer version may know it")
    value = scalar.read(notation)
    if scalar.write(value) != notation:
        raise ValueError(f"a {mark[1:]} is not written as this flowstore writes it")
    return value


def _read_dict(notation: Any) -> dict[Any, Any]:
    pairs = _list(notation)
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2:
            raise ValueError("a $dict is a list of pairs")
    return dict(zip(*_distinct([[key for key, _ in pairs], [value for _, value in pairs]]), strict=True))


def _read_tuple(notation: Any) -> tuple[Any, ...]:
    return tuple(_list(notation))


def _read_set(notation: Any) -> set[Any]:
    return set(*_distinct([_list(notation)]))


def _read_frozenset(notation: Any) -> frozenset[Any]:
    return frozenset(*_distinct([_list(notation)]))


def _distinct(columns: list[list[Any]]) -> list[list[Any]]:
    """Return the columns, if the first one's members are distinct, and so are most of their hashes."""
    members = columns[0]
    _check_hashes(members)
    if len(set(members)) != len(members):
        raise ValueError("a member or key occurs twice")
    return columns


def _list(notation: Any) -> list[Any]:
    if type(notation) is not list:
        raise ValueError(f"a list belongs there, not a {type(notation).__name__}")
    return notation


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_READERS: dict[str, Callable[[Any], Any]] = {
    "$dict": _read_dict, "$tuple": _read_tuple, "$set": _read_set, "$frozenset": _read_frozenset,
}  # fmt: skip
_DECODER = json.JSONDecoder(object_pairs_hook=_read_object, parse_constant=_refuse)
