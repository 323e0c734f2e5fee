"""A value of any size as JSON: the rules of `store.plain` without its bound, and tables.

NaN is null, an infinity ±9e999, tuples and arrays are lists, times ISO text. A table of pandas, polars or pyarrow is a
list of objects, one a row, which begin with the index where that says more than the place of the row. Where names are
no distinct texts it is an object of `columns`, `index` and `data`, as pandas' "split" form; so is a Series, with its
`name`. Every digit of a number is written.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from flowstore.store import plain
from flowstore.store.json_levels import Leaf, Level, List, NoJson, Object, is_masked, number_text, open_level, quoted

_ROWS = 10_000  # that are made Python's own at a time


def write(value: Any, out: Callable[[str], Any], default: Callable[[Any], Any] | None = None) -> None:
    """Write a value as JSON, indented by two spaces.

    Args:
        value: any.
        out: takes the text, in pieces.
        default: what stands for a value that is not plain JSON; `None`: what the rules say.

    Raises:
        ValueError: something in it has no JSON, or it contains itself.
    """
    _Writer(out, default).put(value, "\n")


def dumps(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Return a value as JSON, indented by two spaces; see `write`."""
    pieces: list[str] = []
    write(value, pieces.append, default)
    return "".join(pieces)


def compact(value: Any) -> str:
    """Return a value as JSON in one line.

    >>> compact([(1, float("inf")), float("nan"), {}])
    '[[1, 9e999], null, {}]'
    """
    pieces: list[str] = []
    _Writer(pieces.append, None).put(value, "")
    return "".join(pieces)


class _Writer:
    def __init__(self, out: Callable[[str], Any], default: Callable[[Any], Any] | None) -> None:
        self._out = out
        self._default = default
        self._within: set[int] = set()  # the values that are being written

    def put(self, value: Any, line: str) -> None:
        """Write a value; `line` begins a line at its depth."""
        text = _leaf(value)
        if text is None:
            opened = self._open(value)
            if isinstance(opened, Leaf):
                text = opened.text
            else:
                self._put_level(value, opened, line)
                return
        self._out(text)

    def _open(self, value: Any) -> Level:
        if self._default is not None and not isinstance(value, (dict, list, tuple)):
            value = self._default(value)
            if (text := _leaf(value)) is not None:
                return Leaf(text)
        try:
            return _open(value)
        except NoJson:
            raise ValueError(f"{type(value).__name__} has no form in JSON") from None

    def _put_level(self, value: Any, opened: Object | List, line: str) -> None:
        if id(value) in self._within:
            raise ValueError("it contains itself")
        self._within.add(id(value))
        inner, gap = (f"{line}  ", "") if line else ("", " ")
        opening, closing = ("{", "}") if isinstance(opened, Object) else ("[", "]")
        comma = opening
        if isinstance(opened, Object):
            for key, item in _keyed(opened):
                self._out(f"{comma}{inner}{quoted(key)}: ")
                self.put(item, inner)
                comma = f",{gap}"
        else:
            for item in opened.items():
                self._out(f"{comma}{inner}")
                self.put(item, inner)
                comma = f",{gap}"
        self._out(f"{opening}{closing}" if comma == opening else f"{line}{closing}")
        self._within.discard(id(value))


def _keyed(opened: Object) -> Iterator[tuple[str, Any]]:
    try:
        for key, item, _ in plain._keyed(opened.pairs):
            yield key, item
    except NoJson:
        raise ValueError("two of its keys become one text, or one has no text") from None


def _leaf(value: Any) -> str | None:
    kind = type(value)
    if kind is float:
        return number_text(value)
    if kind is int:
        return int.__repr__(value)
    if kind is bool or value is None:
        return "null" if value is None else "true" if value else "false"
    return quoted(str.__str__(value)) if isinstance(value, str) and not hasattr(value, "_value_") else None


def _open(value: Any) -> Level:
    for module, opener in _OPENERS.items():
        imported = sys.modules.get(module)
        if imported is not None and (opened := opener(value, imported)) is not None:
            return opened
    return open_level(value)


# --- numbers of NumPy that Python has no type for


def _of_numpy(value: Any, numpy: Any) -> Level | None:
    if getattr(getattr(value, "dtype", None), "char", "") != "g":
        return None
    if isinstance(value, numpy.generic):
        return Leaf(long_text(value))
    if isinstance(value, numpy.ndarray) and value.ndim == 1:
        return List(len(value), lambda: iter(value.tolist() if is_masked(value) else value))
    return None


def long_text(number: Any) -> str:
    """Return a number of more digits than Python's floats have as JSON."""
    if math.isfinite(number):
        return str(number)
    return number_text(float(number))


# --- tables


def _of_pandas(value: Any, pandas: Any) -> Level | None:
    if value is pandas.NaT or value is pandas.NA:
        return Leaf("null")
    if isinstance(value, pandas.DataFrame):
        return _table(value, has_index=not is_plain_index(value.index, pandas))
    if isinstance(value, pandas.Series):
        parts = {"name": value.name, "index": value.index, "data": _Many(len(value), lambda: _cells(value))}
        return Object(parts.items())
    if isinstance(value, pandas.Index):
        return List(len(value), lambda: iter(value.tolist()))
    if isinstance(value, (pandas.Period, pandas.Interval)):
        return Leaf(quoted(str(value)))
    return None


def is_plain_index(index: Any, pandas: Any) -> bool:
    """Return whether an index only counts the rows."""
    return type(index) is pandas.RangeIndex and (index.start, index.step, index.name) == (0, 1, None)


def _table(frame: Any, *, has_index: bool) -> Level:
    levels = [*frame.index.names] if has_index else []
    names = [f"level_{n}" if len(levels) > 1 else "index" if name is None else name for n, name in enumerate(levels)]
    names = [new if old is None else old for new, old in zip(names, levels, strict=True)]
    keys = [*names, *frame.columns]
    if all(isinstance(key, str) for key in keys) and len({*keys}) == len(keys):
        return List(
            len(frame), lambda: (dict(zip(keys, row, strict=True)) for row in frame_rows(frame, index=has_index))
        )
    parts = {
        "columns": [*frame.columns],
        "index": frame.index,
        "data": _Many(len(frame), lambda: frame_rows(frame, index=False)),
    }
    if frame.columns.nlevels > 1 or frame.columns.name is not None:
        parts["column_names"] = [*frame.columns.names]
    if has_index and levels != [None]:
        parts["index_names"] = levels
    return Object(parts.items())


class _Many:
    """Items that are made when they are written."""

    def __init__(self, length: int, items: Callable[[], Iterable[Any]]) -> None:
        self.length, self.items = length, items


def _of_many(value: Any, _module: Any) -> Level | None:
    return List(value.length, value.items) if isinstance(value, _Many) else None


def frame_rows(frame: Any, *, index: bool) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of pandas' frame as Python's own values, those of the index first where it is asked for."""
    for at in range(0, len(frame), _ROWS):
        part = frame.iloc[at : at + _ROWS]
        levels = [part.index.get_level_values(n).tolist() for n in range(part.index.nlevels)] if index else []
        columns = [part.iloc[:, n].tolist() for n in range(part.shape[1])]
        yield from zip(*levels, *columns, strict=True) if levels or columns else (() for _ in range(len(part)))


def _cells(series: Any) -> Iterator[Any]:
    for at in range(0, len(series), _ROWS):
        yield from series.iloc[at : at + _ROWS].tolist()


def _of_polars(value: Any, polars: Any) -> Level | None:
    if isinstance(value, polars.DataFrame):
        return List(value.height, lambda: (dict(zip(value.columns, row, strict=True)) for row in polars_rows(value)))
    if isinstance(value, polars.Series):
        parts = {
            "name": value.name,
            "data": _Many(len(value), lambda: (row[0] for row in polars_rows(value.to_frame()))),
        }
        return Object(parts.items())
    return None


def polars_rows(frame: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of polars' frame as Python's own values; times as text where they have nanoseconds."""
    for at in range(0, frame.height, _ROWS):
        yield from (
            frame[at : at + _ROWS].select([_with_nanoseconds(column) for column in frame[at : at + _ROWS]]).rows()
        )


def _with_nanoseconds(column: Any) -> Any:
    import polars as pl

    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_unit == "ns":
        return column.dt.strftime(f"%Y-%m-%dT%H:%M:%S%.9f{'%:z' if column.dtype.time_zone else ''}")
    if column.dtype == pl.Time:
        return column.dt.strftime("%H:%M:%S%.9f")
    if isinstance(column.dtype, pl.Duration) and column.dtype.time_unit == "ns":
        return column.dt.total_nanoseconds() / 1e9
    return column


def _of_pyarrow(value: Any, pyarrow: Any) -> Level | None:
    if not hasattr(pyarrow, "Table") or not isinstance(value, (pyarrow.Table, pyarrow.RecordBatch)):
        return None
    names = value.schema.names
    if len({*names}) == len(names):
        return List(value.num_rows, lambda: (dict(zip(names, row, strict=True)) for row in arrow_rows(value)))
    return Object({"columns": names, "data": _Many(value.num_rows, lambda: arrow_rows(value))}.items())


def arrow_rows(table: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of pyarrow's table as Python's own values."""
    for at in range(0, table.num_rows, _ROWS):
        part = table.slice(at, _ROWS)
        columns: Sequence[Any] = [part.column(n).to_pylist() for n in range(part.num_columns)]
        yield from zip(*columns, strict=True)


_OPENERS: dict[str, Callable[[Any, Any], Level | None]] = {
    __name__: _of_many,
    "numpy": _of_numpy,
    "pandas": _of_pandas,
    "polars": _of_polars,
    "pyarrow": _of_pyarrow,
}
