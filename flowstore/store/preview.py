"""A value's type name and a short preview, computed when it is stored, so that nobody has to load it to see it."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flowstore.text import counted

MAX_PREVIEW = 400  # characters
CELL = 20  # characters of a cell in the head of a table
ROWS, COLUMNS, ITEMS = 4, 8, 6  # how much of a table or an array is shown
_MOST_SORTED = 1000  # items of a set


class _Repr(reprlib.Repr):
    """As `reprlib` shortens values, but dicts keep their order, and a large set is not sorted as a whole."""

    def repr_dict(self, x: Mapping[Any, Any], level: int) -> str:
        """Return the first items of a dict, in the order in which it has them."""
        if not x:
            return "{}"
        if level <= 0:
            return "{...}"
        items = itertools.islice(x.items(), self.maxdict)
        shown = [f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}" for key, value in items]
        return f"{{{', '.join([*shown, *(['...'] if len(x) > self.maxdict else [])])}}}"

    def repr_OrderedDict(self, x: Mapping[Any, Any], level: int) -> str:  # noqa: N802  # reprlib's form of names
        """Return the first items of a kind of dict, after its name."""
        return f"{type(x).__name__}({self.repr_dict(x, level)})"

    repr_defaultdict = repr_Counter = repr_OrderedDict  # noqa: N815

    def repr_set(self, x: set[Any], level: int) -> str:
        """Return the least items of a set, or any of a large one."""
        return super().repr_set(x if len(x) <= _MOST_SORTED else self._some(x), level)

    def repr_frozenset(self, x: frozenset[Any], level: int) -> str:
        """Return the least items of a frozen set, or any of a large one."""
        return super().repr_frozenset(x if len(x) <= _MOST_SORTED else frozenset(self._some(x)), level)

    def _some(self, x: Iterable[Any]) -> set[Any]:
        return set(itertools.islice(x, self.maxset + 1))  # one more than are shown: then there is an ellipsis


_repr = _Repr()
_repr.maxlevel = 3
_repr.maxstring = _repr.maxother = _repr.maxlong = 160
_repr.maxlist = _repr.maxtuple = _repr.maxset = _repr.maxfrozenset = _repr.maxdeque = _repr.maxarray = 8
_repr.maxdict = 8


_SHORT = frozenset({int, float, bool, type(None)})


def type_name(value: Any) -> str:
    """Return the type's full name, without `builtins` and `__main__`.

    >>> type_name({}), type_name(reprlib.Repr())
    ('dict', 'reprlib.Repr')
    """
    kind = type(value)
    prefix = "" if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}."
    return f"{prefix}{kind.__qualname__}"


def in_line(text: str) -> str:
    r"""Return a stored text for a message: without line breaks, so that none of its lines passes for the message's own.

    >>> in_line("2 rows\n   x")
    '2 rows ⏎    x'
    """
    return " ⏎ ".join(text.splitlines())


def preview(value: Any, ask: Callable[[Any], str | None] = lambda _: None) -> str:
    """Return a short text: the length of collections, what `ask` says of a library's types, else the repr.

    >>> preview({"accuracy": 0.5})
    "{'accuracy': 0.5}"
    >>> preview(list(range(100)))
    '[0, 1, 2, 3, 4, 5, 6, 7, ...] (100 items)'
    """
    try:
        text = _of_builtin(value) or ask(value) or _repr.repr(value)
    except Exception as error:  # a user's __repr__ may raise anything, and must not fail the task
        text = f"<no preview: {type(error).__name__}>"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_PREVIEW else text[: MAX_PREVIEW - 1] + "…"


def _of_builtin(value: Any) -> str | None:
    if type(value) in _SHORT:
        return repr(value)
    if type(value) in {list, tuple, dict, set, frozenset}:
        return f"{_repr.repr(value)} ({counted(len(value), 'item')})" if len(value) > 8 else _repr.repr(value)
    if type(value) in {str, bytes, bytearray}:
        short, what = repr(value[:160]), "character" if type(value) is str else "byte"
        return short if len(value) <= 160 else f"{short}… ({counted(len(value), what)})"
    return None


# --- what codecs build the previews of tables and arrays from


def shape_of(rows: int, columns: int) -> str:
    """Return the shape of a table in words."""
    return f"{counted(rows, 'row')} × {counted(columns, 'column')}"


def first_of(items: Iterable[Any], count: int) -> str:
    """Return the first items of so many; those of NumPy, since its times print as dates, not as integers."""
    return ", ".join([*map(str, itertools.islice(items, ITEMS)), *(["…"] if count > ITEMS else [])])


def head_of(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return the head of a table as text: cells are aligned to the right, and cut."""
    lines = [[_cut(str(cell)) for cell in line[:COLUMNS]] for line in (names, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cut(text: str) -> str:
    return text if len(text) <= CELL else text[: CELL - 1] + "…"
