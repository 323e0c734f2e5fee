"""The column chunks and pages of a Parquet file, as its footer and the headers of its pages describe them.

What a file says of itself at its end may be a lie: a page of a few bytes can stand for gigabytes, and a reader finds
that out when it has unpacked them. So the header of each page is read first. These are structures of Thrift's compact
protocol (parquet-format: `FileMetaData`, `PageHeader`); this reads what tells sizes, and skips the rest. pyarrow has
the footer too, but its `RowGroupMetaData.column` ends the process where a footer is damaged in some ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_WINDOW = 512  # bytes to read a header from, at first
_MAX_HEADER = 1 << 20
_MAX_DEPTH = 12
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_HEADER_OF = {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}  # the field that describes a page of that type


class Page(NamedTuple):
    """One page.

    Attributes:
        is_dictionary: whether it holds the values that other pages refer to.
        size_bytes: its size when it is unpacked.
        values: how many values it stands for, missing ones included.
        encoding: how they are written, by its number in the format.
    """

    is_dictionary: bool
    size_bytes: int
    values: int
    encoding: int


class Chunk(NamedTuple):
    """One column in one group of rows.

    Attributes:
        rows: of the group.
        start: where its first page begins.
        length: how many bytes its pages take.
    """

    rows: int
    start: int
    length: int


def chunks(footer: bytes) -> Iterator[list[Chunk]]:
    """Yield the columns of each group of rows.

    Args:
        footer: the file's `FileMetaData`.

    Raises:
        ValueError: it is damaged.
    """
    try:
        groups = _struct(footer, 0, 0)[0].get(4, [])
    except IndexError:
        raise ValueError("the footer is cut off") from None
    for group in _dicts(groups):
        yield [_chunk(column.get(3), group.get(3)) for column in _dicts(group.get(1))]


def _chunk(described: Any, rows: Any) -> Chunk:
    """Return a column by its `ColumnMetaData`: it begins at its dictionary, if it has one."""
    [metadata] = _dicts([described])
    offsets = [at for at in (metadata.get(9), metadata.get(11)) if type(at) is int and at > 0]
    length = metadata.get(7)
    if not offsets or type(length) is not int or length < 0 or type(rows) is not int:
        raise ValueError("the footer is damaged")
    return Chunk(rows, min(offsets), length)


def _dicts(values: Any) -> list[dict[int, Any]]:
    if type(values) is not list or not all(type(value) is dict for value in values):
        raise ValueError("the footer is damaged")
    return values


def pages(read: Callable[[int, int], bytes], start: int, length: int) -> Iterator[Page]:
    """Yield the pages of one column in one group of rows.

    Args:
        read: returns the bytes of the file at an offset, as many as are asked for or there are.
        start: where its first page begins.
        length: how many bytes its pages take.

    Raises:
        ValueError: the headers are damaged.
    """
    end = start + length
    while start < end:
        header, size = _header(read, start, end - start)
        kind = header.get(1)
        described = header.get(_HEADER_OF.get(kind or 0, -1))
        unpacked, packed = header.get(2), header.get(3)
        if type(unpacked) is not int or type(packed) is not int or packed < 0 or unpacked < 0:
            raise ValueError("the header of a page is damaged")
        start += size + packed
        if type(described) is dict:
            values, encoding = described.get(1), described.get(4 if kind == _DATA_V2 else 2)
            if type(values) is not int or type(encoding) is not int or values < 0:
                raise ValueError("the header of a page is damaged")
            yield Page(kind == _DICTIONARY, unpacked, values, encoding)
        elif kind != 1:  # an index page, which readers skip
            raise ValueError("a page is of an unknown type")


def _header(read: Callable[[int, int], bytes], start: int, most: int) -> tuple[dict[int, Any], int]:
    """Return the header at an offset, and its length."""
    window = min(_WINDOW, most)
    while True:
        data = read(start, window)
        try:
            return _struct(data, 0, 0)
        except IndexError:
            if len(data) < window or window >= min(most, _MAX_HEADER):
                raise ValueError("the header of a page is cut off") from None
            window = min(most, _MAX_HEADER)


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a structure, by number, and where it ends."""
    if depth > _MAX_DEPTH:
        raise ValueError("the header of a page is too deep")
    fields: dict[int, Any] = {}
    field = 0
    while (first := data[at]) != 0:
        at += 1
        kind = first & 15
        if first >> 4:
            field += first >> 4
        else:
            field, at = _zigzag(data, at)
        fields[field], at = _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in {_TRUE, _FALSE}:
        return kind == _TRUE, at
    if kind in {_I16, _I32, _I64}:
        return _zigzag(data, at)
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)
    if kind == _BINARY:
        length, at = _varint(data, at)
        return None, _within(data, at + length)
    if kind in {_BYTE, _DOUBLE}:
        return None, _within(data, at + (1 if kind == _BYTE else 8))
    if kind in {_LIST, _SET}:
        return _list(data, at, depth + 1)
    raise ValueError("a header holds a field of an unexpected type")  # maps


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    count, kind = data[at] >> 4, data[at] & 15
    at += 1
    if count == 15:
        count, at = _varint(data, at)
    if count > len(data) - at:  # each takes a byte at least
        raise IndexError
    values = []
    for _ in range(count):
        if kind in {_TRUE, _FALSE}:  # which are a byte each in lists
            at = _within(data, at + 1)
            continue
        value, at = _value(data, at, kind, depth)
        values.append(value)
    return values, at


def _within(data: bytes, at: int) -> int:
    if at > len(data):
        raise IndexError
    return at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("the header of a page holds a number that is too long")


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
