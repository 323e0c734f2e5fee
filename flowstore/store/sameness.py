"""Whether two values are the same, though their bytes differ.

A pickle depends on more than the value: on which equal texts were one object, on the order in which a set was filled,
on caches. So two values are compared as pickle takes them apart (`__reduce_ex__`), down to what has no parts.

`is_unchanged` compares a value that a task has read with what it read. It must never call a changed value unchanged:
the order of dicts counts, and which parts are one object, and no `__eq__` of the user's own is asked. `is_equal`
compares the values of branches that meet in a join, where those don't count.
"""

from __future__ import annotations

import collections
import copyreg
import math
import sys
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from flowstore.store.json_levels import is_masked

_ATOMS = frozenset({bool, int, str, bytes, type(None), type(Ellipsis), type(NotImplemented)})
_GLOBALS = (type, BuiltinFunctionType, ModuleType)
_PROTOCOL = 4  # the newest that hands over no buffers apart


def is_unchanged(value: Any, before: Any) -> bool:
    """Return whether a value is what it was, in all that a later step could notice."""
    return _compared(value, before, strict=True)


def is_equal(one: Any, two: Any) -> bool:
    """Return whether two values are of one type and equal, so that either can stand for both."""
    return _compared(one, two, strict=False)


def _compared(one: Any, two: Any, *, strict: bool) -> bool:
    try:
        return _Comparison(strict=strict).same(one, two)
    except Exception:  # the values' own methods may raise anything: what can't be compared differs
        return False


class _Comparison:
    """One walk over two values."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._partners: dict[int, int] = {}  # the ids of parts that were met, and of those that they stand for
        self._partners_back: dict[int, int] = {}
        self._keep: list[Any] = []  # the parts themselves, so that no id is used twice

    def same(self, one: Any, two: Any) -> bool:
        """Return whether two parts are the same."""
        kind = type(one)
        if kind is not type(two):
            return False
        if kind in _ATOMS:
            return bool(one == two)
        if kind is float:
            return _same_float(one, two)
        if kind is range and not self._strict:  # of which those with the same numbers are equal
            return bool(one == two)
        if kind is complex:
            return _same_float(one.real, two.real) and _same_float(one.imag, two.imag)
        if isinstance(one, _GLOBALS):
            return one is two
        if (met := self._met(one, two)) is not None:
            return met
        if self._same_parts(kind, one, two):
            return True
        # The builtin containers hold `[1] == [True]`; only a class written in Python may know better.
        return not self._strict and isinstance(kind.__eq__, FunctionType) and _says_equal(one, two)

    def _met(self, one: Any, two: Any) -> bool | None:
        """Return whether two parts that were met before were met together; `None` for new ones, which are noted."""
        partner, back = self._partners.get(id(one)), self._partners_back.get(id(two))
        if partner == id(two):
            return True
        if self._strict and not isinstance(one, (tuple, frozenset)) and (partner is not None or back is not None):
            return False  # parts that were one object are two now, or the other way round
        self._partners[id(one)], self._partners_back[id(two)] = id(two), id(one)
        self._keep += (one, two)
        return None

    def _same_parts(self, kind: type, one: Any, two: Any) -> bool:
        if kind in (list, tuple):
            return self._same_items(one, two)
        if kind is dict:
            return self._same_dicts(one, two)
        if kind in (set, frozenset):
            return self._same_sets(one, two)
        if kind is bytearray:
            return bool(one == two)
        if (numpy := sys.modules.get("numpy")) is not None and isinstance(one, numpy.ndarray):
            return self._same_arrays(one, two)
        if (pandas := sys.modules.get("pandas")) is not None and isinstance(one, (pandas.DataFrame, pandas.Series)):
            return self._same_frames(one, two)
        if pandas is not None and isinstance(one, pandas.Index):
            return self._same_index(one, two)
        return self._same_objects(one, two)

    def _same_items(self, one: Iterable[Any], two: Iterable[Any]) -> bool:
        first, second = list(one), list(two)
        if len(first) != len(second):
            return False
        if set(map(type, first)) <= _ATOMS:
            return first == second and list(map(type, first)) == list(map(type, second))
        return all(map(self.same, first, second))

    def _same_dicts(self, one: dict[Any, Any], two: dict[Any, Any]) -> bool:
        if len(one) != len(two):
            return False
        if self._strict:
            return self._same_items(one, two) and self._same_items(one.values(), two.values())
        partners = {key: key for key in two}
        return all(key in two and self.same(key, partners[key]) and self.same(one[key], two[key]) for key in one)

    def _same_sets(self, one: set[Any] | frozenset[Any], two: set[Any] | frozenset[Any]) -> bool:
        partners = {item: item for item in two}
        return len(one) == len(two) and all(item in two and self.same(item, partners[item]) for item in one)

    def _same_arrays(self, one: Any, two: Any) -> bool:
        import numpy as np

        if one.dtype != two.dtype or one.shape != two.shape:
            return False
        if self._strict and one.flags.fnc != two.flags.fnc:
            return False
        if is_masked(one):  # whose state changes when it is only shown
            parts = ((a.data, np.ma.getmaskarray(a), a.fill_value, a.hardmask) for a in (one, two))
            return all(map(self.same, *parts))
        if type(one) is not np.ndarray:
            return self._same_objects(one, two)
        if one.dtype.hasobject and one.dtype.names is None:
            return self._same_items(one.ravel(), two.ravel())
        if one.dtype.names is not None:  # between whose fields any bytes may be
            return all(self._same_arrays(one[name], two[name]) for name in one.dtype.names)
        if not self._strict and one.dtype.kind in "fcmM":
            return bool(np.array_equal(one, two, equal_nan=True))
        return one.dtype.itemsize == 0 or bool(np.array_equal(_octets(one), _octets(two)))

    def _same_frames(self, one: Any, two: Any) -> bool:
        import pandas as pd

        if isinstance(one, pd.Series):
            return self.same(one.name, two.name) and self._same_frames(one.to_frame("x"), two.to_frame("x"))
        return (
            list(one.dtypes) == list(two.dtypes)
            and self.same(one.attrs, two.attrs)
            and all(self._same_index(a, b) for a, b in ((one.index, two.index), (one.columns, two.columns)))
            and all(self._same_column(one.iloc[:, at], two.iloc[:, at]) for at in range(one.shape[1]))
        )

    def _same_index(self, one: Any, two: Any) -> bool:
        if type(one) is not type(two) or not self.same(list(one.names), list(two.names)):
            return False
        if self._strict and type(one).__name__ == "RangeIndex" and not self.same(_bounds(one), _bounds(two)):
            return False
        return self._same_column(one, two)

    def _same_column(self, one: Any, two: Any) -> bool:
        if one.dtype == object:
            return self._same_items(one, two)
        same_freq = getattr(one, "freq", None) == getattr(two, "freq", None)
        return bool(one.dtype == two.dtype and same_freq and one.equals(two))

    def _same_objects(self, one: Any, two: Any) -> bool:
        """Compare two objects by what pickle would write of them."""
        if isinstance(one, FunctionType):
            return _same_bytes(one, two)
        first, second = _reduced(one), _reduced(two)
        if isinstance(first, str) or isinstance(second, str):
            return bool(first == second)
        if len(first) != len(second):
            return False
        self._keep += (first, second)
        return all(map(self.same, self._parts(one, first), self._parts(two, second)))

    def _parts(self, value: Any, reduced: tuple[Any, ...]) -> list[Any]:
        """Return the parts of what `__reduce_ex__` returned, with the items of lists and dicts instead of iterators."""
        *parts, items, pairs = (*reduced, None, None, None, None)[:5]
        is_ordered = self._strict or isinstance(value, collections.OrderedDict)
        return [
            *parts,
            None if items is None else list(items),
            None if pairs is None else list(pairs) if is_ordered else dict(pairs),
            *reduced[5:],
        ]


def _bounds(index: Any) -> range:
    return range(index.start, index.stop, index.step)


def _reduced(value: Any) -> Any:
    reducer = copyreg.dispatch_table.get(type(value))
    return reducer(value) if reducer is not None else value.__reduce_ex__(_PROTOCOL)


def _same_float(one: float, two: float) -> bool:
    if math.isnan(one) or math.isnan(two):
        return math.isnan(one) and math.isnan(two)
    return one == two and math.copysign(1, one) == math.copysign(1, two)


def _same_bytes(one: Any, two: Any) -> bool:
    """Compare what has no parts to compare, as functions of the flow's file, by its bytes."""
    from flowstore.store.codecs import encode

    return bool(one is two or encode(one, described=False).sha == encode(two, described=False).sha)


def _octets(array: Any) -> Any:
    import numpy as np

    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.ascontiguousarray(array)
    return array.ravel(order="K").view(np.uint8)


def _says_equal(one: Any, two: Any) -> bool:
    result = one == two
    return result is True or (type(result).__name__ in {"bool", "bool_"} and bool(result))
