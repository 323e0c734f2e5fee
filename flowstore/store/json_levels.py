"""One level of a value as plain JSON: what it is, and what is in it. `plain` walks from there.

A class decides by its exact type, or by the name of the first of its bases that is known here, so that nothing is
imported for values that a task doesn't have.
"""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flowstore import later

MAX_VALUE_BYTES = 65536


class NoJson(Exception):
    """There is no obvious JSON."""


class TooLarge(Exception):
    """There is, but of more than 64 KiB."""


def number_text(number: float) -> str:
    """Return a number as JSON that SQLite and Python read: null for NaN, ±9e999 for infinity.

    >>> number_text(-math.inf), number_text(0.5)
    ('-9e999', '0.5')
    """
    if math.isfinite(number):
        return float.__repr__(number)
    return "null" if math.isnan(number) else "9e999" if number > 0 else "-9e999"


@later.frozen
class Leaf:
    """A scalar: its JSON, its number where it is one, and whether the JSON is the value itself."""

    text: str
    number: float | None = None
    exact: bool = False


@later.frozen
class Object:
    """A value with named parts: their keys, of any type, and their values."""

    pairs: Iterable[tuple[Any, Any]]
    exact: bool = False


@later.frozen
class List:
    """A sequence: the number of its parts, how to get them, and the least size of their JSON."""

    length: int
    items: Callable[[], Iterable[Any]]
    exact: bool = False
    least_bytes: int = 0  # of its JSON


Level = Leaf | Object | List
_NULL = Leaf("null")


def open_level(value: Any) -> Level:
    """Return a value's own level of JSON; what is in it is opened when its turn comes."""
    kind = type(value)
    reader = EXACT.get(kind)
    if reader is not None:
        return reader(value)
    fields = _fields(value)
    if fields is not None:
        return Object(fields)
    for base in kind.__mro__:
        reader = _BY_NAME.get(f"{base.__module__}.{base.__qualname__}")
        if reader is not None:
            opened = reader(value)
            return later.evolve(opened, exact=False) if opened.exact else opened
    raise NoJson


def _fields(value: Any) -> Iterable[tuple[str, Any]] | None:
    """Return the names and values of what has named fields."""
    kind = type(value)
    if issubclass(kind, tuple):
        names = getattr(kind, "_fields", None)
        return zip(names, tuple.__iter__(value), strict=True) if isinstance(names, tuple) else None
    if hasattr(kind, "__dataclass_fields__"):
        import dataclasses

        return ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    if hasattr(kind, "__attrs_attrs__"):
        return ((field.name, getattr(value, field.name)) for field in kind.__attrs_attrs__)
    if hasattr(kind, "__pydantic_fields__"):
        return ((name, getattr(value, name)) for name in kind.__pydantic_fields__)
    return None


def _integer(value: Any) -> Leaf:
    try:
        number = float(int.__float__(value))
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    return Leaf(int.__repr__(value), number, exact=True)


def _float(value: Any) -> Leaf:
    if value != value:  # noqa: PLR0124  # NaN
        return _NULL
    return Leaf(number_text(value), float.__float__(value), exact=True)


def _text(value: Any) -> Leaf:
    if str.__len__(value) > MAX_VALUE_BYTES:
        raise TooLarge
    text = quoted(value)
    text.encode()  # a surrogate is no text, and ends this
    return Leaf(text, exact=True)


quoted = json.JSONEncoder(ensure_ascii=False).encode


def _sequence(value: Any) -> List:
    return List(len(value), lambda: iter(value))


def _list(value: Any) -> List:
    return List(list.__len__(value), lambda: list.__iter__(value), exact=True)


def _tuple(value: Any) -> List:
    return List(tuple.__len__(value), lambda: tuple.__iter__(value))


def _dict(value: Any) -> Object:
    return Object(dict.items(value), exact=True)


def _set(value: Any) -> List:
    return List(len(value), lambda: sorted(value, key=_rank), least_bytes=2 * len(value))


def _rank(item: Any) -> tuple[int, float, str]:
    """Order numbers before texts before the rest."""
    opened = open_level(item)
    if isinstance(opened, Leaf):
        return (1, 0.0, opened.text) if opened.number is None else (0, opened.number, opened.text)
    return 2, 0.0, repr(item)


def _enum(value: Any) -> Level:
    return open_level(value._value_)


def _decimal(value: Any) -> Leaf:
    return _float(float(value)) if not value.is_finite() else Leaf(str(value), float(value))


def _fraction(value: Any) -> Leaf:
    return _float(float(value))


def _duration(value: Any) -> Leaf:
    return _float(value.total_seconds())


def _moment(value: Any) -> Leaf:
    return _text(value.isoformat())


def _as_text(value: Any) -> Leaf:
    return _text(str(value))


def _scalar(value: Any) -> Level:
    """Open a NumPy scalar."""
    match value.dtype.kind:
        case "b":
            return EXACT[bool](bool(value))
        case "i" | "u":
            return _integer(int(value))
        case "f":
            return _float(float(value))
        case "M" | "m":
            return open_level(_listed(value.reshape(1))[0])
    raise NoJson


def is_masked(value: Any) -> bool:
    """Return whether a value is a masked array of NumPy's, without importing their module, which takes 10 ms."""
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)  # which another thread may be importing just now
    return masked is not None and isinstance(value, masked)


def _array(value: Any) -> Level:
    import numpy as np

    if value.dtype.kind not in "biufOUMm":
        raise NoJson
    array = value if is_masked(value) else np.asarray(value)
    if array.ndim == 0:
        return open_level(array.reshape(1).tolist()[0] if array.dtype.kind == "O" else array[()])
    items = (lambda: _listed(array)) if array.ndim == 1 else (lambda: iter(array))
    return List(len(array), items, least_bytes=2 * array.size)


def _listed(array: Any) -> list[Any]:
    """Return the items of a line of an array, as Python's own."""
    import numpy as np

    if array.dtype.kind == "M":
        return [None if text == "NaT" else text for text in np.datetime_as_string(array).tolist()]
    if array.dtype.kind == "m":
        return (array / np.timedelta64(1, "s")).tolist()  # type: ignore[no-any-return]
    if array.dtype.char == "g":
        return [float(item) for item in array]
    return array.tolist()  # type: ignore[no-any-return]


EXACT: Mapping[type, Callable[[Any], Level]] = {
    type(None): lambda _: Leaf("null", exact=True),
    bool: lambda value: Leaf("true" if value else "false", exact=True),
    int: _integer, float: _float, str: _text, list: _list, dict: _dict, tuple: _tuple,
    set: _set, frozenset: _set, range: _sequence, deque: _sequence,
}  # fmt: skip
LEAVES_WITHOUT_NUMBER = frozenset({type(None), bool, str})
# By name, so that nothing is imported; the first class of a value's that is here decides.
_BY_NAME: Mapping[str, Callable[[Any], Level]] = {
    **{f"builtins.{kind.__name__}": reader for kind, reader in EXACT.items()},
    "collections.deque": _sequence, "array.array": _sequence, "enum.Enum": _enum,
    "datetime.datetime": _moment, "datetime.date": _moment, "datetime.time": _moment, "datetime.timedelta": _duration,
    "decimal.Decimal": _decimal, "fractions.Fraction": _fraction, "uuid.UUID": _as_text,
    "pathlib.PurePath": _as_text, "pathlib._local.PurePath": _as_text,
    "numpy.generic": _scalar, "numpy.ndarray": _array,
    "pandas._libs.tslibs.nattype._NaT": lambda _: _NULL, "pandas._libs.missing.C_NAType": lambda _: _NULL,
}  # fmt: skip
