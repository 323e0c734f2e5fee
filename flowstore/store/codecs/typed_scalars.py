"""Scalars that JSON lacks, as JSON and back: part of the codec `typed-json`.

Each kind of scalar has a mark, and two functions: `write` turns a value into JSON (a text, a number or a short list),
`read` turns that into the value again. `read` checks its argument, since anybody may have written it, and takes bounded
time; the caller compares what it returns with what `write` makes of it, so that each value has one notation.
For that reason the notation of a kind must never change: add a new mark instead.

A kind is found by the exact type of a value. No module is imported because of a value, nor by a name in a notation.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from flowstore.context import is_text

MAX_BYTES = 65536  # longer bytes, and numbers of more digits, are pickled
_DECIMAL_BITS = 2048  # a longer int is written in base 16: base 10 takes quadratic time, and Python limits it
_MAX_HEX = 65536
_MAX_DECIMAL = 1000


class Unwritable(Exception):
    """A value has no notation; it is pickled."""


class Scalar(NamedTuple):
    """One kind of scalar.

    Attributes:
        mark: its name in the notation, without the dollar sign.
        write: makes JSON of a value; raises Unwritable.
        read: makes a value of JSON; raises ValueError, TypeError, OverflowError or ArithmeticError.
    """

    mark: str
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


# --- numbers


def number_of(value: float) -> float | str:
    """Return a float as JSON: NaN and infinities as text.

    >>> number_of(0.5), number_of(math.inf), number_of(math.nan)
    (0.5, 'inf', 'nan')
    """
    return value if math.isfinite(value) else repr(value)


def _float(notation: Any) -> float:
    if type(notation) is float or notation in {"nan", "inf", "-inf"}:
        return float(notation)
    raise ValueError(f"{_short(notation)} is no float")


def _write_int(value: int) -> str:
    """Return the text of an int that JSON's readers would change, such as 2**64."""
    if value.bit_length() <= _DECIMAL_BITS:
        return str(value)
    if value.bit_length() > _MAX_HEX * 4:
        raise Unwritable
    return hex(value)


def _read_int(notation: Any) -> int:
    text = _matched(re.compile(rf"-?(\d{{1,620}}|0x[0-9a-f]{{1,{_MAX_HEX}}})"), notation)[0]
    return int(text, 16 if "x" in text else 10)


def _write_complex(value: complex) -> list[float | str]:
    return [number_of(value.real), number_of(value.imag)]


def _read_complex(notation: Any) -> complex:
    real, imag = _list_of(notation, 2)
    return complex(_float(real), _float(imag))


def _write_decimal(value: Any) -> str:
    text = str(value)
    if len(text) > _MAX_DECIMAL:
        raise Unwritable
    return text


def _read_decimal(notation: Any) -> Any:
    from decimal import Decimal

    return Decimal(_matched(re.compile(rf"[-+.0-9A-Za-z]{{1,{_MAX_DECIMAL}}}"), notation)[0])


def _write_fraction(value: Any) -> str:
    if value.numerator.bit_length() > _DECIMAL_BITS or value.denominator.bit_length() > _DECIMAL_BITS:
        raise Unwritable
    return f"{value.numerator}/{value.denominator}"


def _read_fraction(notation: Any) -> Any:
    from fractions import Fraction

    match = _matched(re.compile(r"(-?\d{1,620})/(\d{1,620})"), notation)
    return Fraction(int(match[1]), int(match[2]))


# --- dates and times

_OFFSET = r"[+-]\d\d:\d\d(?::\d\d(?:\.\d{6})?)?"
_ZONE = rf"(?:{_OFFSET}(?:\([^()]{{1,100}}\))?|\[[A-Za-z0-9_+-]{{1,40}}(?:/[A-Za-z0-9_+-]{{1,40}}){{0,3}}\])"
_TIME = r"\d\d:\d\d:\d\d(?:\.\d{6})?"
_DATETIME_TEXT = re.compile(rf"(\d{{4}}-\d\d-\d\dT{_TIME})({_ZONE})?( fold=1)?", re.ASCII)
_TIME_TEXT = re.compile(rf"({_TIME})({_ZONE})?( fold=1)?", re.ASCII)
_ZONE_TEXT = re.compile(_ZONE, re.ASCII)
_TIMEDELTA_TEXT = re.compile(r"(-?)PT(\d{1,14})(?:\.(\d{1,6}))?S", re.ASCII)
_SECOND = dt.timedelta(seconds=1)
_MICROSECOND = dt.timedelta(microseconds=1)


def _write_moment(value: Any) -> str:
    """Return a datetime or a time as ISO's text, then its zone, if any, and `fold=1` where it is the second of two.

    >>> _write_moment(dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc))
    '2020-01-01T00:00:00+00:00'
    """
    zone = "" if value.tzinfo is None else _write_zone(value.tzinfo)
    return f"{value.replace(tzinfo=None, fold=0).isoformat()}{zone}{' fold=1' if value.fold else ''}"


def _read_datetime(notation: Any) -> dt.datetime:
    match = _matched(_DATETIME_TEXT, notation)
    zone = _read_zone(match[2]) if match[2] else None
    return dt.datetime.fromisoformat(match[1]).replace(tzinfo=zone, fold=1 if match[3] else 0)


def _read_time(notation: Any) -> dt.time:
    match = _matched(_TIME_TEXT, notation)
    zone = _read_zone(match[2]) if match[2] else None
    return dt.time.fromisoformat(match[1]).replace(tzinfo=zone, fold=1 if match[3] else 0)


def _write_zone(zone: Any) -> str:
    """Return a zone: `+02:00`, `+02:00(CEST)` with a name of its own, or `[Europe/Berlin]`.

    >>> _write_zone(dt.timezone(dt.timedelta(hours=2), "CEST"))
    '+02:00(CEST)'
    """
    if type(zone) is dt.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]  # typeshed has no such method
        text = _offset_text(offset) + (f"({name[0]})" if name else "")
    else:
        zoneinfo = sys.modules.get("zoneinfo")
        if zoneinfo is None or type(zone) is not zoneinfo.ZoneInfo or zone.key is None:
            raise Unwritable
        text = f"[{zone.key}]"
        if _ZONE_TEXT.fullmatch(text) and zoneinfo.ZoneInfo(zone.key) is not zone:  # made by other means, and not equal
            raise Unwritable
    if not _ZONE_TEXT.fullmatch(text) or not is_text(text):
        raise Unwritable
    return text


def _offset_text(offset: dt.timedelta) -> str:
    minutes, rest = divmod(abs(offset), dt.timedelta(minutes=1))
    clock = f"{minutes // 60:02}:{minutes % 60:02}"
    if rest:
        clock += f":{rest.seconds:02}" + (f".{rest.microseconds:06}" if rest.microseconds else "")
    return ("-" if offset < dt.timedelta(0) else "+") + clock


def _read_zone(notation: Any) -> dt.tzinfo:
    text = _matched(_ZONE_TEXT, notation)[0]
    if text.startswith("["):
        return _read_zoneinfo(text[1:-1])
    offset, _, name = text.rstrip(")").partition("(")
    hours, minutes, seconds = (*offset[1:].split(":"), "0")[:3]
    size = dt.timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))
    return dt.timezone(-size if offset[0] == "-" else size, *([name] if name else []))


def _read_zoneinfo(key: str) -> dt.tzinfo:
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(key)
    except (zoneinfo.ZoneInfoNotFoundError, OSError, ValueError):
        raise ValueError(f"the time zone {key} is not known here (pip install tzdata)") from None


def _write_timedelta(value: dt.timedelta) -> str:
    """Return a duration in seconds, as ISO 8601 writes it.

    >>> _write_timedelta(dt.timedelta(days=-1, microseconds=500_000))
    '-PT86399.5S'
    """
    sign, size = ("-", -(value // _MICROSECOND)) if value < dt.timedelta(0) else ("", value // _MICROSECOND)
    seconds, rest = divmod(size, 1_000_000)
    return f"{sign}PT{seconds}{f'.{rest:06}'.rstrip('0') if rest else ''}S"


def _read_timedelta(notation: Any) -> dt.timedelta:
    match = _matched(_TIMEDELTA_TEXT, notation)
    size = int(match[2]) * 1_000_000 + int((match[3] or "").ljust(6, "0"))
    return _MICROSECOND * (-size if match[1] else size)


# --- bytes, identifiers and paths


def _write_bytes(value: bytes | bytearray) -> str:
    r"""Return bytes as a text whose characters are their numbers, so that ASCII can be read.

    >>> _write_bytes(b"GIF\xff")
    'GIFÿ'
    """
    if len(value) > MAX_BYTES:
        raise Unwritable
    return value.decode("latin-1")


def _read_bytes(notation: Any) -> bytes:
    return _text_of(notation).encode("latin-1")


def _read_bytearray(notation: Any) -> bytearray:
    return bytearray(_read_bytes(notation))


def _write_uuid(value: Any) -> str:
    from uuid import SafeUUID

    if value.is_safe is not SafeUUID.unknown:
        raise Unwritable
    return str(value)


def _read_uuid(notation: Any) -> Any:
    from uuid import UUID

    return UUID(_matched(re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), notation)[0])


def _write_path(value: Any) -> str:
    text = str(value)
    if not is_text(text) or len(text) > MAX_BYTES:
        raise Unwritable
    return text


def _path(name: str) -> Scalar:
    """Return the kind of a path; one of another system's files comes back in its pure form."""

    def read(notation: Any) -> Any:
        import os
        import pathlib

        other = "PosixPath" if os.name == "nt" else "WindowsPath"  # it can't be made here: its pure form is
        cls = getattr(pathlib, f"Pure{name}" if name == other else name)
        return cls(_text_of(notation))

    return Scalar(name, _write_path, read)


# --- NumPy


def _numpy_number(name: str, kind: str) -> Scalar:
    """Return a kind of NumPy scalars of a fixed width: written as Python numbers, and complex ones as a pair."""

    def write(value: Any) -> Any:
        plain = value.item()
        if kind == "c":
            return _write_complex(plain)
        if kind == "f":
            return number_of(plain)
        return plain if kind == "b" or -(2**63) <= plain < 2**63 else str(plain)

    def read(notation: Any) -> Any:
        import numpy as np

        make = getattr(np, name)
        if kind in "cf":
            with np.errstate(over="ignore"):  # the caller finds the difference
                return make(_read_complex(notation) if kind == "c" else _float(notation))
        if type(notation) is str:
            notation = int(_matched(re.compile(r"\d{19,20}"), notation)[0])
        if type(notation) is not (bool if kind == "b" else int):
            raise ValueError(f"{_short(notation)} is no {name}")
        if kind != "b" and not np.iinfo(make).min <= notation <= np.iinfo(make).max:
            raise ValueError(f"a number is beyond {name}")
        return make(notation)

    return Scalar(f"numpy.{name}", write, read)


def _write_numpy_text(value: Any) -> str:
    plain = str(value)
    if not is_text(plain) or len(plain) > MAX_BYTES:
        raise Unwritable
    return plain


def _read_numpy_text(notation: Any) -> Any:
    import numpy as np

    return np.str_(_text_of(notation))


def _read_numpy_bytes(notation: Any) -> Any:
    import numpy as np

    return np.bytes_(_read_bytes(notation))


_UNIT = re.compile(r"(?:\d{1,9})?(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)", re.ASCII)
_NUMPY_TIME = re.compile(r"-?\d{4,6}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d(\.\d{1,18})?)?)?)?)?)?|NaT", re.ASCII)


def _unit_of(value: Any) -> str:
    """Return the unit of a NumPy time, such as `ns` or `25s`; empty where it has none."""
    return str(value.dtype.str.partition("[")[2].rstrip("]"))


def _write_numpy_time(value: Any) -> list[Any]:
    """Return a NumPy time: its ISO text, or its count where NumPy does not read that text; and its unit."""
    import numpy as np

    unit = _unit_of(value)
    if not unit:  # which NumPy is about to give up
        raise Unwritable
    if np.isnat(value):
        return ["NaT", unit]
    text = str(value)
    with contextlib.suppress(ValueError, OverflowError):
        if _read_numpy_time([text, unit]) == value:
            return [text, unit]
    return [int(value.view("i8")), unit]


def _write_numpy_duration(value: Any) -> list[Any]:
    import numpy as np

    unit = _unit_of(value)
    if unit:
        return ["NaT" if np.isnat(value) else int(value.view("i8")), unit]
    raise Unwritable


def _numpy_time(name: str) -> Callable[[Any], Any]:
    def read(notation: Any) -> Any:
        import numpy as np

        count, unit = _list_of(notation, 2)
        if unit != "":
            _matched(_UNIT, unit)
        if type(count) is not int:
            _matched(_NUMPY_TIME, count)
        return getattr(np, name)(count, *([unit] if unit else []))

    return read


_read_numpy_time = _numpy_time("datetime64")


# --- the table


def _matched(pattern: re.Pattern[str], notation: Any) -> re.Match[str]:
    if type(notation) is str and (match := pattern.fullmatch(notation)):
        return match
    raise ValueError(f"{_short(notation)} is not of its form")


def _list_of(notation: Any, count: int) -> list[Any]:
    if type(notation) is list and len(notation) == count:
        return notation
    raise ValueError(f"{_short(notation)} is not of its form")


def _text_of(notation: Any) -> str:
    if type(notation) is str:
        return notation
    raise ValueError(f"{_short(notation)} is no text")


def _short(notation: Any) -> str:
    return repr(notation)[:40] if type(notation) in {str, float, bool, type(None)} else f"a {type(notation).__name__}"


_NUMPY_NUMBERS = {
    "b": ("bool",),
    "i": ("int8", "int16", "int32", "int64"),
    "u": ("uint8", "uint16", "uint32", "uint64"),
    "f": ("float16", "float32", "float64"),
    "c": ("complex64", "complex128"),
}

# By the module and the name of the type. `int` and `float` are the ones that JSON would change.
_BY_NAME: dict[tuple[str, str], Scalar] = {
    ("builtins", "int"): Scalar("int", _write_int, _read_int),
    ("builtins", "float"): Scalar("float", number_of, _float),
    ("builtins", "complex"): Scalar("complex", _write_complex, _read_complex),
    ("builtins", "bytes"): Scalar("bytes", _write_bytes, _read_bytes),
    ("builtins", "bytearray"): Scalar("bytearray", _write_bytes, _read_bytearray),
    ("datetime", "date"): Scalar("date", dt.date.isoformat, dt.date.fromisoformat),
    ("datetime", "time"): Scalar("time", _write_moment, _read_time),
    ("datetime", "datetime"): Scalar("datetime", _write_moment, _read_datetime),
    ("datetime", "timedelta"): Scalar("timedelta", _write_timedelta, _read_timedelta),
    ("datetime", "timezone"): Scalar("zone", _write_zone, _read_zone),
    ("zoneinfo", "ZoneInfo"): Scalar("zone", _write_zone, _read_zone),
    ("decimal", "Decimal"): Scalar("decimal", _write_decimal, _read_decimal),
    ("fractions", "Fraction"): Scalar("fraction", _write_fraction, _read_fraction),
    ("uuid", "UUID"): Scalar("uuid", _write_uuid, _read_uuid),
    **{
        ("pathlib", name): _path(name)
        for name in ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath")
    },
    **{("numpy", name): _numpy_number(name, kind) for kind, names in _NUMPY_NUMBERS.items() for name in names},
    ("numpy", "bool_"): _numpy_number("bool", "b"),  # its name before NumPy 2
    ("numpy", "str_"): Scalar("numpy.str", _write_numpy_text, _read_numpy_text),
    ("numpy", "bytes_"): Scalar("numpy.bytes", _write_bytes, _read_numpy_bytes),
    ("numpy", "datetime64"): Scalar("numpy.datetime64", _write_numpy_time, _read_numpy_time),
    ("numpy", "timedelta64"): Scalar("numpy.timedelta64", _write_numpy_duration, _numpy_time("timedelta64")),
}  # fmt: skip
BY_MARK = {scalar.mark: scalar for scalar in _BY_NAME.values()}
_by_type: dict[type, Scalar] = {}


def scalar_of(kind: type) -> Scalar | None:
    """Return the kind of scalar that values of exactly this type are, or `None`."""
    if kind in _by_type:
        return _by_type[kind]
    module = kind.__module__
    top = module.partition(".")[0] if type(module) is str else ""
    scalar = _BY_NAME.get((top, kind.__name__))
    if scalar is None or getattr(sys.modules.get(top), kind.__name__, None) is not kind:
        return None  # whatever calls itself so
    _by_type[kind] = scalar
    return scalar
