"""What a value is, in a word and in a few: made when it is written, so that anybody can see it without loading it."""

from __future__ import annotations

import reprlib
import sys
from typing import Any

MAX_PREVIEW = 400  # characters

_repr = reprlib.Repr()
_repr.maxlevel = 3
_repr.maxstring = _repr.maxother = _repr.maxlong = 160
_repr.maxlist = _repr.maxtuple = _repr.maxset = _repr.maxfrozenset = _repr.maxdeque = _repr.maxarray = 8
_repr.maxdict = 8


_SHORT = frozenset({int, float, bool, type(None)})


def type_name(value: Any) -> str:
    """The type's full name, without `builtins` and `__main__`.

    >>> type_name({}), type_name(reprlib.Repr())
    ('dict', 'reprlib.Repr')
    """
    kind = type(value)
    prefix = "" if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}."
    return f"{prefix}{kind.__qualname__}"


def in_line(text: str) -> str:
    r"""A stored text within a message: without line breaks, so that none of its lines passes for the message's own.

    >>> in_line("2 rows\n   x")
    '2 rows ⏎    x'
    """
    return " ⏎ ".join(text.splitlines())


def preview(value: Any) -> str:
    """A short text: the shape and first values of arrays and frames, the length of collections, else the repr.

    >>> preview({"accuracy": 0.5})
    "{'accuracy': 0.5}"
    >>> preview(list(range(100)))
    '[0, 1, 2, 3, 4, 5, 6, 7, ...] (100 items)'
    """
    try:
        text = _preview(value)
    except Exception as error:  # a user's __repr__ may raise anything, and must not fail the task
        text = f"<no preview: {type(error).__name__}>"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_PREVIEW else text[: MAX_PREVIEW - 1] + "…"


def _preview(value: Any) -> str:
    if type(value) in _SHORT:
        return repr(value)
    if type(value) in {list, tuple, dict, set, frozenset} and len(value) > 8:
        return f"{_repr.repr(value)} ({len(value)} items)"
    if type(value) in {str, bytes, bytearray}:
        short = repr(value[:160])
        return (
            short if len(value) <= 160 else f"{short}… ({len(value)} {'characters' if type(value) is str else 'bytes'})"
        )
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if numpy is not None and isinstance(value, numpy.ndarray):
        head = ", ".join(str(item) for item in value.ravel()[:6].tolist()) if value.dtype.kind != "O" else "…"
        return f"{value.dtype}{list(value.shape)} [{head}{', …' if value.size > 6 else ''}]"
    if pandas is not None and isinstance(value, pandas.DataFrame):
        rows, columns = value.shape
        return f"{rows} rows × {columns} columns\n{value.iloc[:4, :8].to_string(max_colwidth=16)}"
    if pandas is not None and isinstance(value, pandas.Series):
        return f"{len(value)} values, {value.dtype}\n{value.iloc[:4].to_string()}"
    return _repr.repr(value)
