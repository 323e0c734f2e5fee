"""Frames and arrays as tables: a page of rows and columns of them, and all of their rows as CSV."""

from __future__ import annotations

import abc
import csv
import io
from collections.abc import Iterator, Sequence

from flowstore.client.values import Column, Pages, Table, Window
from flowstore.text import no_formula, shorten, visible

PAGE_ROWS = 50
PAGE_COLUMNS = 20
MOST_CSV_BYTES = 64 << 20  # of a table whose bytes are not in the order of its rows
_CELL_CHARACTERS = 300  # of which a page shows the first, and all to whoever points at it
_NAME_CHARACTERS = 200

Cells = list[list[str | None]]


class Rows(abc.ABC):
    """A table that can be read here and there.

    Attributes:
        type: 'array', or the type of the frame.
        dtype: of an array; empty for a frame.
        shape: its length in each dimension.
        index: the position in each dimension but the last two.
        row_count, column_count: of the rows and columns that are seen of it.
        block: how many rows are best read at once.
    """

    type: str
    dtype: str = ""
    shape: tuple[int, ...]
    index: tuple[int, ...] = ()
    row_count: int
    column_count: int
    block: int

    @abc.abstractmethod
    def columns(self, shown: range) -> list[Column]:
        """Return some of its columns."""

    @abc.abstractmethod
    def cells(self, rows: range, columns: range, most: int | None) -> Cells:
        """Return the values of some rows and columns as text; of long ones at least `most` characters and one more.

        Raises:
            ValueError: they would take too much memory, or the bytes are damaged.
        """


def page(table: Rows, window: Window) -> Table:
    """Return a page of a table."""
    row_pages = Pages.of(window.page, table.row_count, PAGE_ROWS)
    column_pages = Pages.of(window.columns, table.column_count, PAGE_COLUMNS)
    rows = range(row_pages.first, min(row_pages.first + PAGE_ROWS, table.row_count))
    columns = range(column_pages.first, min(column_pages.first + PAGE_COLUMNS, table.column_count))
    cells = table.cells(rows, columns, _CELL_CHARACTERS) if rows else []
    return Table(
        type=table.type,
        dtype=table.dtype,
        shape=table.shape,
        index=table.index,
        columns=tuple(_shown(column) for column in table.columns(columns)),
        rows=tuple(tuple(_cut(cell) for cell in row) for row in cells),
        row_pages=row_pages,
        column_pages=column_pages,
    )


def _shown(column: Column) -> Column:
    name = shorten(visible(column.name), _NAME_CHARACTERS)
    return Column(name, shorten(visible(column.type), _NAME_CHARACTERS), column.is_number, column.is_index)


def _cut(cell: str | None) -> str | None:
    return None if cell is None else shorten(visible(cell), _CELL_CHARACTERS)


def csv_pieces(table: Rows) -> Iterator[bytes]:
    """Yield a table as CSV; no text in it is a formula to a spreadsheet, and a missing value is empty."""
    columns = range(table.column_count)
    described = table.columns(columns)
    if any(column.name for column in described) and table.type != "array":
        yield _csv([[no_formula(column.name) for column in described]])
    for first in range(0, table.row_count, table.block):
        rows = range(first, min(first + table.block, table.row_count))
        yield _csv(
            [_csv_cell(cell, column) for cell, column in zip(row, described, strict=True)]
            for row in table.cells(rows, columns, None)
        )


def _csv_cell(cell: str | None, column: Column) -> str:
    if cell is None or (column.is_number and cell == "nan"):
        return ""
    return cell if column.is_number else no_formula(cell)


def _csv(lines: Sequence[Sequence[str]] | Iterator[Sequence[str]]) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue().encode("utf-8", "replace")
