"""Arrow tables as Parquet, written and read in pieces, and read in bounded memory.

A few bytes of Parquet can stand for any number of rows: a column that is one value, or one long text that each row
refers to; and eight bytes of a date become a Python object of forty. So a file is measured before its rows are made:
by the headers of its pages, which can't lie about what unpacking them takes, by its number of rows and the objects
that each becomes, and batch by batch for texts, each of which is in memory once. What would grow past the bound is not
read, nor written: such a frame is pickled. Extension types that pyarrow does not know itself are refused but for
pandas' own, since versions of pyarrow have unpickled others.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowstore.store.codecs.parquet_pages import Chunk, chunks, pages

SMALL_BYTES = 256 << 20  # a frame of so many may be compressed as far as it goes
MOST_FOOTER_BYTES = 16 << 20  # of a file that is read in parts
MOST_EXPANDED = 64  # a larger one this often at most
GROUP_BYTES = 4 << 20  # rows that are written, and compared, at once
_PIECE_BYTES = 1 << 20
_BATCH_ROWS = 1 << 16
_SAMPLE_ROWS = 4096
_SLICES, _SLICE_ROWS = 8, 512
_PERIOD = b"pandas.period"
# Encodings in which a page holds its values themselves, or refers to a dictionary: PLAIN, PLAIN_DICTIONARY, RLE,
# DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, RLE_DICTIONARY, BYTE_STREAM_SPLIT. In DELTA_BYTE_ARRAY a few bytes
# repeat the text before.
_ENCODINGS = frozenset({0, 2, 3, 5, 6, 8, 9})
_BY_NUMBER = frozenset({2, 8})
_TEXT_BYTES = 57  # of a Python text or bytes object, without its characters

Rows = Callable[[slice], Any]  # the rows of a frame as an Arrow table


# --- writing


def dump(rows: Rows, count: int, schema: Any) -> list[bytearray]:
    """Return the Parquet of a frame, in pieces.

    Args:
        rows: returns some of its rows; called with a step to take a sample.
        count: how many there are.
        schema: of all tables that `rows` returns.
    """
    encodings, sample = _encodings(rows, count)
    compression = _compression(rows, count, encodings)
    step = _group_rows(sample, count)
    pieces = _written(rows, count, step, schema, encodings, compression)
    if _expected(file := File(pieces)) > _most_bytes(
        file.size_bytes
    ):  # counts and the like take next to nothing: no reader believes it
        pieces = _written(rows, count, step, schema, dict.fromkeys(encodings, "PLAIN"), "zstd")
    return pieces


def _group_rows(sample: Any, count: int) -> int:
    """Return how many rows are written at once."""
    row_bytes = sample.nbytes / max(1, len(sample))
    return min(max(1024, int(GROUP_BYTES / max(1, row_bytes))), max(1, count))


def _written(
    rows: Rows, count: int, step: int, schema: Any, encodings: dict[str, str], compression: str | dict[str, str]
) -> list[bytearray]:
    """Return a frame's bytes; texts and numbers without an encoding get dictionaries, parts of structures do not."""
    sink = _Sink()
    numbered = [field.name for field in schema if _may_repeat(field.type) and field.name not in encodings]
    options = {"compression": compression, "use_dictionary": numbered, "column_encoding": encodings}
    with pa.PythonFile(sink, mode="w") as file, pq.ParquetWriter(file, schema, **options) as writer:
        for at in range(0, count, step):
            writer.write_table(rows(slice(at, at + step)), step)
    return sink.pieces


def _may_repeat(kind: Any) -> bool:
    """Return whether a column may refer to a dictionary; of others nobody could say how much memory that takes."""
    odd = (pa.types.is_nested, pa.types.is_string_view, pa.types.is_binary_view)
    return not any(test(kind) for test in odd)


class _Sink:
    """A file that is written once, as pieces of about a MiB: a growing buffer would be copied each time."""

    closed = False

    def __init__(self) -> None:
        self.pieces = [bytearray()]

    def write(self, data: bytes) -> int:
        if len(self.pieces[-1]) >= _PIECE_BYTES:
            self.pieces.append(bytearray())
        self.pieces[-1] += data
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _encodings(rows: Rows, count: int) -> tuple[dict[str, str], Any]:
    """Return how columns of numbers and times are written that hardly repeat, by a sample; and the sample.

    It makes them smaller than plain, and is as fast. A dictionary would cost time for nothing.
    """
    sample = rows(slice(0, count, max(1, count // _SAMPLE_ROWS)))
    encodings = {}
    for name, column in zip(sample.column_names, sample.columns, strict=True):
        kind = column.type
        is_float = kind in (pa.float32(), pa.float64())
        is_number = is_float or pa.types.is_integer(kind) or pa.types.is_temporal(kind)
        if is_number and pc.count_distinct(column).as_py() > 0.9 * len(sample):
            encodings[name] = "BYTE_STREAM_SPLIT" if is_float else "DELTA_BINARY_PACKED"
    return encodings, sample


def _compression(rows: Rows, count: int, encodings: dict[str, str]) -> str | dict[str, str]:
    """Return how each column is compressed: not at all if it has an encoding and a sample hardly shrinks.

    Less is not worth the time that it costs whoever writes or reads the frame.
    """
    if count <= _SAMPLE_ROWS:
        return "zstd"
    starts = range(0, count, count // _SLICES)
    sample = pa.concat_tables([rows(slice(at, at + _SLICE_ROWS)) for at in starts])
    pieces = _written(lambda _: sample, len(sample), len(sample), sample.schema, encodings, "zstd")
    group = File(pieces).metadata.row_group(0)
    columns = [group.column(n) for n in range(group.num_columns)]
    return {
        column.path_in_schema: "none"
        if column.path_in_schema in encodings and column.total_compressed_size > 0.8 * column.total_uncompressed_size
        else "zstd"
        for column in columns
    }


# --- reading


class File:
    """A Parquet file in memory, in pieces.

    Args:
        pieces: its bytes.

    Raises:
        pyarrow.ArrowException: it is no Parquet.
    """

    def __init__(self, pieces: Sequence[Any]) -> None:
        self.pieces = pieces
        self._ends = list(itertools.accumulate(map(len, pieces)))
        self._look()

    def _look(self) -> None:
        with self.open() as file:
            self.metadata = file.metadata
            self.schema = file.schema_arrow
            self.columns = file.schema

    def open(self, dictionaries: Sequence[str] = ()) -> Any:
        """Return a reader of it, in which the named columns are read as dictionaries."""
        source = pa.BufferReader(self.pieces[0]) if len(self.pieces) == 1 else pa.PythonFile(_Source(self), mode="r")
        return pq.ParquetFile(source, read_dictionary=list(dictionaries))

    @property
    def footer(self) -> bytes:
        """Return the footer, which describes the file."""
        length = int.from_bytes(self.read(self.size_bytes - 8, 4), "little")
        return self.read(self.size_bytes - 8 - length, length)

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return self._ends[-1] if self._ends else 0

    def read(self, at: int, count: int) -> bytes:
        """Return the bytes at an offset, as many as there are."""
        parts = []
        n = bisect.bisect_right(self._ends, at)
        while count > 0 and n < len(self.pieces):
            start = at - (self._ends[n] - len(self.pieces[n]))
            parts.append(memoryview(self.pieces[n])[start : start + count])
            at += len(parts[-1])
            count -= len(parts[-1])
            n += 1
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)


class PartlyRead(File):
    """A Parquet file of which only what is asked for is read.

    Args:
        read: returns the bytes at an offset, as many as are asked for or there are.
        size_bytes: its length.

    Raises:
        ValueError: what describes it is larger than a file of ours has.
        pyarrow.ArrowException: it is no Parquet.
    """

    def __init__(self, read: Callable[[int, int], bytes], size_bytes: int) -> None:
        self.pieces = ()
        self._read = read
        self._size_bytes = size_bytes
        if int.from_bytes(read(max(0, size_bytes - 8), 4), "little") > MOST_FOOTER_BYTES:
            raise ValueError("the footer is too large")
        self._look()

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return self._size_bytes

    def read(self, at: int, count: int) -> bytes:
        """Return the bytes at an offset, as many as there are."""
        return self._read(at, count)


class _Source:
    """A `File` as pyarrow reads it."""

    closed = False

    def __init__(self, file: File) -> None:
        self._file = file
        self._at = 0

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(self._at, self._file.size_bytes if count < 0 else count)
        self._at += len(data)
        return data

    def seek(self, at: int, whence: int = 0) -> int:
        self._at = at + (0, self._at, self._file.size_bytes)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None: ...


def load(
    file: File, groups: Sequence[int] | None = None, columns: Sequence[str] | None = None, most: int | None = None
) -> Any:
    """Return the Arrow table of a file that was checked, or of some of its groups of rows and columns.

    Args:
        file: the file.
        groups: the numbers of the groups; `None` for all.
        columns: their names; `None` for all.
        most: how many bytes of memory its texts may take; `None` for as many as its own bytes give reason for.

    Raises:
        ValueError: it is larger than its bytes give reason for.
    """
    schema = pa.schema([field for field in file.schema if columns is None or field.name in columns])  # in this order
    schema = schema.with_metadata(file.schema.metadata)
    texts = [field.name for field in schema if _is_text(field.type)]
    most = _most_bytes(file.size_bytes) if most is None else most
    with file.open(texts) as reader:
        batches = []
        size = 0
        for batch in reader.iter_batches(_BATCH_ROWS, row_groups=groups, columns=schema.names, use_threads=False):
            size += sum(_text_bytes(batch.column(name)) for name in texts)
            _check_size(size, most)
            batches.append(_with_texts(batch, schema))
    return pa.Table.from_batches(batches, schema)


def _with_texts(batch: Any, schema: Any) -> Any:
    """Return a batch with its texts as such, not as dictionaries."""
    columns = [
        column.cast(field.type) if _is_text(field.type) else column
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def check(file: File, *, nested: bool) -> None:
    """Refuse a file that a frame of ours can't have been written as, or that would take too much memory.

    Args:
        file: anybody's.
        nested: whether columns of lists and structures are possible.

    Raises:
        ValueError: it is refused.
    """
    check_schema(file, nested=nested)
    _check_size(_expected(file), _most_bytes(file.size_bytes))


def check_part(file: File, group: int, columns: Sequence[str], most: int) -> None:
    """Refuse some columns of a group of rows that would take more memory than `most`, of a file with a checked schema.

    Raises:
        ValueError: they are refused.
    """
    wanted = {*columns}
    layout = next(itertools.islice(chunks(file.footer), group, None), [])
    size = 0
    for n, chunk in zip(range(len(file.columns)), layout, strict=True):
        column = file.columns.column(n)
        if column.path in wanted or column.path.partition(".")[0] in wanted:
            size += _column_bytes(file, chunk, column, _cost(file, column))
    _check_size(size, most)


def check_schema(file: File, *, nested: bool) -> None:
    """Refuse a file with columns that no frame of ours has; see `check`."""
    for field in file.schema:
        _check_names(field)
        name = (field.metadata or {}).get(b"ARROW:extension:name")
        if isinstance(field.type, pa.BaseExtensionType):
            name = field.type.extension_name.encode()
        if name is not None and name != _PERIOD:
            raise ValueError(f"the column {field.name!r} is of the unknown type {name!r}")
        if pa.types.is_nested(field.type) and not nested:
            raise ValueError(f"the column {field.name!r} holds lists or structures")
    names = file.schema.names
    if len({*names}) < len(names) or (len(names) < len(file.columns) and any("." in name for name in names)):
        raise ValueError("names of its columns are ambiguous")


def _check_names(field: Any) -> None:
    """Raise UnicodeDecodeError where a name is no text: polars would panic."""
    assert field.name is not None
    for n in range(field.type.num_fields):
        _check_names(field.type.field(n))


def _expected(file: File) -> int:
    """Return how much memory the rows of a file take at most, without what its texts take that dictionaries hold."""
    columns = [file.columns.column(n) for n in range(len(file.columns))]
    costs = [_cost(file, column) for column in columns]
    size = 0
    for group in chunks(file.footer):
        for chunk, column, cost in zip(group, columns, costs, strict=True):
            size += _column_bytes(file, chunk, column, cost)
    return size


def _column_bytes(file: File, chunk: Chunk, column: Any, cost: int) -> int:
    """Return how much memory one column of one group of rows takes, by the headers of its pages."""
    kind = _flat_type(file, column)
    values = size = 0
    for page in pages(file.read, chunk.start, chunk.length):
        by_number = page.encoding in _BY_NUMBER and not page.is_dictionary
        if page.encoding not in _ENCODINGS or (
            by_number and _is_bytes(column) and not (kind and (_is_text(kind) or pa.types.is_dictionary(kind)))
        ):
            raise ValueError(f"the column {column.path!r} is written in a way in which few bytes repeat long texts")
        size += page.size_bytes
        values += 0 if page.is_dictionary else page.values
        if _is_bytes(column) and not by_number:  # each may become an object
            size += page.values * _TEXT_BYTES
    if kind is not None and values != chunk.rows:
        raise ValueError(f"the column {column.path!r} has {values} values in {chunk.rows} rows")
    return values * cost + size if _is_bytes(column) else max(values * cost, size)


def _flat_type(file: File, column: Any) -> Any:
    """Return the type of a column that is one of the table's; `None` for a part of lists or structures."""
    index = file.schema.get_field_index(column.path)
    kind = file.schema.field(index).type if index >= 0 else None
    return None if kind is None or pa.types.is_nested(kind) else kind


def _is_bytes(column: Any) -> bool:
    return str(column.physical_type) == "BYTE_ARRAY"


def _cost(file: File, column: Any) -> int:
    """Return the memory that a value of a column takes, as an item of an array or as a Python object."""
    kind = _flat_type(file, column)
    in_array = max(8, column.length) * (1 + column.max_repetition_level)
    return int(max(in_array, 8 if kind is None else _object_bytes(kind)))


def _object_bytes(kind: Any) -> int:
    """Return the memory of a Python object and the reference to it; 8 where pandas has arrays of such values."""
    if pa.types.is_date(kind) or pa.types.is_time(kind):
        return 56
    if pa.types.is_decimal(kind):
        return 112
    if pa.types.is_fixed_size_binary(kind):
        return 8 + _TEXT_BYTES + int(kind.byte_width)
    return 8


def _text_bytes(column: Any) -> int:
    """Return how many bytes a column takes as an array of texts, which refers to a dictionary now."""
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(lengths).as_py() or 0)


def _most_bytes(size_bytes: int) -> int:
    """Return how much memory a frame of so many bytes may take."""
    return max(SMALL_BYTES, MOST_EXPANDED * size_bytes)


class TooLarge(ValueError):
    """Rows would take more memory than is allowed; `size_bytes` is how much."""

    def __init__(self, size_bytes: int, most: int) -> None:
        super().__init__(f"it would take {size_bytes} bytes of memory, more than {most}")
        self.size_bytes = size_bytes


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise TooLarge(size, most)


def _is_text(kind: Any) -> bool:
    test = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(check(kind) for check in test)


def groups(file: File) -> Iterator[tuple[int, slice]]:
    """Yield the groups of rows: each group's number, and its rows."""
    start = 0
    for number in range(file.metadata.num_row_groups):
        count = file.metadata.row_group(number).num_rows
        yield number, slice(start, start + count)
        start += count
