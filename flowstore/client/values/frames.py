"""Data frames and Arrow tables, read from the row groups and columns of their Parquet that are shown."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
from typing import Any

import pyarrow as pa

from flowstore.client.values import Column, Table, Window, tables
from flowstore.store.blob_parts import Part
from flowstore.store.codecs import parquet
from flowstore.text import size

MOST_BYTES = 128 << 20  # of memory for what is shown at once
_KEY = b"flowstore"
_MOST_ITEMS, _MOST_DEPTH = 10, 4  # of lists in a cell
_PLAIN = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
_TEXTS = (pa.types.is_string, pa.types.is_large_string)


def look(part: Part, window: Window) -> Table:
    """Return a page of a frame."""
    return tables.page(FrameRows(part), window)


class FrameRows(tables.Rows):
    """A frame as rows and columns, those of its index first.

    Args:
        part: its bytes.

    Raises:
        ValueError: it has columns that none of ours have.
        pyarrow.ArrowException: it is no Parquet.
    """

    def __init__(self, part: Part) -> None:
        self._file = parquet.PartlyRead(part.read, part.size_bytes)
        parquet.check_schema(self._file, nested=True)
        counts = [rows.stop - rows.start for _, rows in parquet.groups(self._file)]
        self._ends = list(itertools.accumulate(counts))
        metadata = self._file.schema.metadata or {}
        self.type = metadata.get(_KEY, b"pandas.DataFrame").decode("utf-8", "replace")
        self._index = _index_of(metadata, self._file.schema.names)
        self._names = [*self._index, *(name for name in self._file.schema.names if name not in self._index)]
        self.row_count = self._ends[-1] if self._ends else 0
        self.column_count = len(self._names)
        self.shape = (self.row_count, self.column_count - len(self._index))
        self._last: tuple[int, list[str], Any] = (-1, [], None)
        self.block = max(1, min(counts, default=1), 1024)

    def columns(self, shown: range) -> list[Column]:
        """Return its columns; one of the index that has no name is called so."""
        return [self._column(self._names[n]) for n in shown]

    def _column(self, name: str) -> Column:
        kind = self._file.schema.field(name).type
        title = "" if name in self._index and name.startswith("__index_level_") else name
        is_number = any(test(kind) for test in _PLAIN) and not pa.types.is_boolean(kind)
        return Column(title, str(kind), is_number, is_index=name in self._index)

    def cells(self, rows: range, columns: range, most: int | None) -> tables.Cells:
        """Return values as text; missing ones are `None`."""
        names = [self._names[n] for n in columns]
        lines: tables.Cells = []
        group = bisect.bisect_right(self._ends, rows.start)
        while names and len(lines) < len(rows):
            begin = self._ends[group - 1] if group else 0
            first = rows.start + len(lines) - begin
            table = self._group(group, names).slice(first, rows.stop - begin - first)
            texts = [_texts(table.column(name), most) for name in names]
            lines += map(list, zip(*texts, strict=True))
            group += 1
        return lines

    def _group(self, number: int, names: list[str]) -> Any:
        """Return some columns of a group of rows."""
        if self._last[:2] == (number, names):
            return self._last[2]
        try:
            parquet.check_part(self._file, number, names, MOST_BYTES)
            table = parquet.load(self._file, [number], names, MOST_BYTES)
        except parquet.TooLarge as error:
            raise ValueError(
                f"these rows would take {size(error.size_bytes)} of memory, so they are not read"
            ) from None
        self._last = (number, names, table)
        return table


def _index_of(metadata: dict[bytes, bytes], names: list[str]) -> list[str]:
    """Return the columns that are pandas' index, as its metadata names them."""
    try:
        stated = json.loads(metadata.get(b"pandas", b"{}")).get("index_columns", [])
        return [name for name in dict.fromkeys(stated) if isinstance(name, str) and name in names]
    except (ValueError, TypeError, AttributeError, RecursionError):  # a stranger's
        return []


def _texts(column: Any, most: int | None) -> list[str | None]:
    """Return the values of a column as text."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _extension_texts(column)
    if any(test(kind) for test in _TEXTS):
        if most is not None:
            column = pa.compute.utf8_slice_codeunits(column, 0, most + 1)
        return list(column.to_pylist())
    if any(test(kind) for test in _PLAIN):
        return [None if value is None else str(value) for value in column.to_pylist()]
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        with contextlib.suppress(pa.ArrowException):
            return _without_zeros(column.cast(pa.string()).to_pylist())
    return [_scalar_text(scalar) for scalar in column]


def _without_zeros(times: list[str | None]) -> list[str | None]:
    """Return times without the fractions of a second, and without the time of day, where all of them are zero."""
    for zeros in (".000000000", ".000000", ".000", " 00:00:00"):
        if all(time is None or time.endswith(zeros) for time in times):
            times = [None if time is None else time.removesuffix(zeros) for time in times]
    return times


def _scalar_text(scalar: Any) -> str | None:
    if not scalar.is_valid:
        return None
    if pa.types.is_nested(scalar.type):
        return _nested_text(scalar)
    return _leaf_text(scalar)


def _leaf_text(scalar: Any) -> str:
    try:
        return str(scalar.as_py())
    except (ValueError, OverflowError, ImportError):  # a time that Python has no type for
        return str(scalar)


def _nested_text(scalar: Any, depth: int = _MOST_DEPTH) -> str:
    """Return the beginning of a list or structure, as Python shows such values."""
    if not scalar.is_valid:
        return "None"
    if isinstance(scalar, pa.ListScalar):
        if not depth:
            return "[…]"
        items = [_nested_text(item, depth - 1) for item in scalar.values[:_MOST_ITEMS]]
        return f"[{', '.join([*items, *(['…'] if len(scalar.values) > _MOST_ITEMS else [])])}]"
    if isinstance(scalar, pa.StructScalar):
        if not depth:
            return "{…}"
        names = [field.name for field in scalar.type][: _MOST_ITEMS + 1]
        members = [f"{name!r}: {_nested_text(scalar[n], depth - 1)}" for n, name in enumerate(names[:_MOST_ITEMS])]
        return f"{{{', '.join([*members, *(['…'] if len(names) > _MOST_ITEMS else [])])}}}"
    text = _leaf_text(scalar)
    return repr(text) if any(test(scalar.type) for test in _TEXTS) else text


def _extension_texts(column: Any) -> list[str | None]:
    """Return what pandas shows of values of its own types."""
    series = column.to_pandas()
    return [None if missing else str(value) for value, missing in zip(series, series.isna(), strict=True)]
