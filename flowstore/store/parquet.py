"""Data frames as Parquet, read back in bounded memory.

A few bytes of Parquet can stand for any number of rows: a column that is one value, or one long text that each row
refers to. So a file is measured before its rows are made, and batch by batch while they are read, with each text of
a column in memory once. What would grow past the bound is not read, nor written: such a frame is pickled. Columns
of lists and structures never come back identical, so there are none; types that pyarrow does not know itself
are refused but for pandas' own, since versions of pyarrow have unpickled others.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SMALL_BYTES = 256 << 20  # a frame of so many may be compressed as far as it goes
MOST_EXPANDED = 64  # a larger one this often at most
_BATCH_ROWS = 1 << 16
_SAMPLE_ROWS = 4096
_SLICES, _SLICE_ROWS = 8, 512
_KNOWN_EXTENSIONS = frozenset({b"pandas.period", b"pandas.interval"})


def dump(frame: Any) -> memoryview:
    """A data frame's bytes."""
    table = pa.Table.from_pandas(frame, nthreads=1)
    encodings = _encodings(table)
    content = _written(table, encodings, _compression(table, encodings))
    if table.nbytes > _most_bytes(content):  # counts and the like take next to nothing, which `load` would not believe
        content = _written(table, dict.fromkeys(encodings, "PLAIN"), "zstd")
    return content


def _written(table: Any, encodings: dict[str, str], compression: str | dict[str, str]) -> memoryview:
    """A table's bytes; columns without an encoding get dictionaries."""
    pq.write_table(
        table,
        stream := pa.BufferOutputStream(),
        compression=compression,
        use_dictionary=[name for name in table.column_names if name not in encodings],
        column_encoding=encodings,
    )
    return memoryview(stream.getvalue()).cast("B")


def _encodings(table: Any) -> dict[str, str]:
    """How columns of numbers and times are written that hardly repeat, by a sample: smaller than plain, and as fast.

    A dictionary would cost time for nothing.
    """
    sample = table.take(pa.array(range(0, len(table), max(1, len(table) // _SAMPLE_ROWS)), pa.int64()))
    found = {}
    for name, column in zip(sample.column_names, sample.columns, strict=True):
        kind = column.type
        is_float = kind in (pa.float32(), pa.float64())
        is_number = is_float or pa.types.is_integer(kind) or pa.types.is_temporal(kind)
        if is_number and pc.count_distinct(column).as_py() > 0.9 * len(sample):
            found[name] = "BYTE_STREAM_SPLIT" if is_float else "DELTA_BINARY_PACKED"
    return found


def _compression(table: Any, encodings: dict[str, str]) -> dict[str, str]:
    """How each column is compressed: not at all where it has an encoding, and a sample is not made smaller by a fifth.

    Less is not worth the time that it costs whoever writes or reads the frame.
    """
    starts = range(0, len(table), max(_SLICE_ROWS, len(table) // _SLICES))
    sample = pa.concat_tables([table.slice(at, _SLICE_ROWS) for at in starts or [0]])
    with pq.ParquetFile(pa.BufferReader(_written(sample, encodings, "zstd"))) as file:
        group = file.metadata.row_group(0)
        columns = [group.column(n) for n in range(group.num_columns)]
    return {
        column.path_in_schema: "none"
        if column.path_in_schema in encodings and column.total_compressed_size > 0.8 * column.total_uncompressed_size
        else "zstd"
        for column in columns
    }


def load(content: bytes | memoryview) -> Any:
    """The data frame.

    Raises:
        ValueError: it is larger than its bytes give reason for, or has columns that none of ours have.
        pyarrow.ArrowException: it is no Parquet.
    """
    most = _most_bytes(content)
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        schema = file.schema_arrow
        _check_columns(schema, file.schema)
        metadata = file.metadata
        _check_size(metadata.num_rows * max(1, metadata.num_columns) * 8, most)
        for group in range(metadata.num_row_groups):
            _check_size(metadata.row_group(group).total_byte_size, most)
        texts = [field.name for field in schema if _is_text(field.type)]
    with pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts) as file:
        batches = []
        size = 0
        for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
            size += sum(_expanded(column, field.type) for column, field in zip(batch.columns, schema, strict=True))
            _check_size(size, most)
            batches.append(batch)
        table = pa.Table.from_batches(batches, file.schema_arrow)
    columns = [
        column.cast(field.type) if _is_text(field.type) else column
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema).to_pandas(use_threads=False)


def _most_bytes(content: bytes | memoryview) -> int:
    """How much memory a frame of these bytes may take."""
    return max(SMALL_BYTES, MOST_EXPANDED * len(content))


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise ValueError(f"it would take {size} bytes of memory, more than {most}")


def _check_columns(schema: Any, columns: Any) -> None:
    if len(columns) != len(schema) or any(columns.column(n).max_repetition_level for n in range(len(columns))):
        raise ValueError("it has columns of lists or structures")
    for field in schema:
        name = (field.metadata or {}).get(b"ARROW:extension:name")
        if isinstance(field.type, pa.BaseExtensionType):
            name = field.type.extension_name.encode()
        if name is not None and name not in _KNOWN_EXTENSIONS:
            raise ValueError(f"the column {field.name!r} is of the unknown type {name!r}")


def _is_text(kind: Any) -> bool:
    test = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(each(kind) for each in test)


def _expanded(column: Any, kind: Any) -> int:
    """How many bytes a column takes as the type that it gets in the end."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pc.sum(pc.binary_length(column.dictionary).take(column.indices)) if _is_text(kind) else None
    return 8 * len(column) + int((lengths and lengths.as_py()) or 0)
