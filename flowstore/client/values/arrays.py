"""Arrays of NumPy as tables, read from the bytes of the items that are shown."""

from __future__ import annotations

import math
import sys
from typing import Any

from flowstore.client.values import Column, Table, Window, tables
from flowstore.errors import ArtifactError
from flowstore.store.blob_parts import Part
from flowstore.store.codecs.arrays import MOST_HEADER_BYTES, header_of

_TEXT_ITEM_BYTES = 2048  # of a longer text only so many are read for a page: more characters than a cell shows
_BLOCK_BYTES = 1 << 20


def look(part: Part, window: Window) -> Table:
    """Return a page of an array; of more than two dimensions, of the last two at one position in the others."""
    return tables.page(ArrayRows(part, window.index), window)


class ArrayRows(tables.Rows):
    """An array as rows and columns: one of one dimension has a single column.

    Args:
        part: its bytes.
        index: the position in each dimension but the last two; what is missing is 0, what is too large the last.

    Raises:
        ArtifactError: the bytes are no array.
    """

    type = "array"

    def __init__(self, part: Part, index: tuple[int, ...] = ()) -> None:
        self._part = part
        self._header = header_of(part.read(0, MOST_HEADER_BYTES), part.size_bytes)
        self.dtype = str(self._header.dtype)
        self.shape = self._header.shape
        outer = self.shape[:-2]
        given = (*index, *(0,) * len(outer))
        self.index = tuple(min(max(0, at), max(0, length - 1)) for at, length in zip(given, outer, strict=False))
        is_empty = math.prod(outer) == 0
        self.row_count = 0 if is_empty else self.shape[max(0, len(self.shape) - 2)] if self.shape else 1
        self.column_count = self.shape[-1] if len(self.shape) > 1 else 1
        self._item = self._header.dtype.itemsize
        self.block = max(1, _BLOCK_BYTES // max(1, self._item * self.column_count))
        self._start, self._row_step, self._column_step = self._steps()

    @property
    def is_by_row(self) -> bool:
        """Whether its bytes are in the order of its rows."""
        return len(self.shape) < 2 or not self._header.is_fortran

    def _steps(self) -> tuple[int, int, int]:
        """Return the offset of the first item that is seen, and the distances of rows and of columns, in bytes."""
        steps = []
        step = self._item
        for length in self.shape if self._header.is_fortran else reversed(self.shape):
            steps.append(step)
            step *= length
        ordered = steps if self._header.is_fortran else steps[::-1]
        start = self._header.start + sum(at * step for at, step in zip(self.index, ordered, strict=False))
        if len(ordered) < 2:
            return start, ordered[0] if ordered else self._item, self._item
        return start, ordered[-2], ordered[-1]

    def columns(self, shown: range) -> list[Column]:
        """Return its columns, which are named by their number."""
        is_number = self._header.dtype.kind in "biufcm"
        return [Column(str(n) if len(self.shape) > 1 else "value", "", is_number) for n in shown]

    def cells(self, rows: range, columns: range, most: int | None) -> tables.Cells:
        """Return items as text."""
        if not rows or not columns:
            return [[] for _ in rows]
        part = self._item
        if most is not None and self._header.dtype.kind in "SU":
            part = min(self._item, _TEXT_ITEM_BYTES)
        data = self._bytes(rows, columns, part)
        dtype = self._dtype_of(part)
        return _texts(data, dtype, (len(rows), len(columns)))

    def _dtype_of(self, part: int) -> Any:
        import numpy as np

        dtype = self._header.dtype
        return dtype if part == self._item else np.dtype(f"{dtype.byteorder}{dtype.kind}{part // _width(dtype)}")

    def _bytes(self, rows: range, columns: range, part: int) -> bytes:
        """Return the first `part` bytes of each item, row by row, with as few reads as their order allows."""
        start = self._start + rows.start * self._row_step + columns.start * self._column_step
        item, width = self._item, len(columns)
        if part == item and self._column_step == item:
            if self._row_step == width * item:
                return self._part.read(start, len(rows) * width * item)
            lines = (self._part.read(start + n * self._row_step, width * item) for n in range(len(rows)))
            return b"".join(lines)
        if part == item and self._row_step == item:
            parts = [self._part.read(start + n * self._column_step, len(rows) * item) for n in range(width)]
            return b"".join(column[n * item : (n + 1) * item] for n in range(len(rows)) for column in parts)
        offsets = [(n * self._row_step + m * self._column_step) for n in range(len(rows)) for m in range(width)]
        items = {offset: self._part.read(start + offset, part) for offset in sorted(offsets)}  # each chunk once
        return b"".join(items[offset] for offset in offsets)


def _width(dtype: Any) -> int:
    """Return the bytes of a character."""
    return 4 if dtype.kind == "U" else 1


def _texts(data: bytes, dtype: Any, shape: tuple[int, int]) -> tables.Cells:
    import numpy as np

    if dtype.itemsize == 0:
        return [[""] * shape[1] for _ in range(shape[0])]
    if dtype.kind == "U":
        characters = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if characters.max(initial=0) > sys.maxunicode:
            raise ArtifactError("Its bytes are damaged: some of its texts are not made of characters.")
    array = np.frombuffer(data, np.uint8 if dtype.kind == "b" else dtype).reshape(shape)
    if dtype.kind == "b":
        return [["True" if item else "False" for item in row] for row in array.tolist()]
    if dtype.kind == "S":
        return [[item.decode("ascii", "backslashreplace") for item in row] for row in array.tolist()]
    return [[str(item) for item in row] for row in array]
