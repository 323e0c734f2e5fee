"""Data frames of pandas and polars, and Arrow tables, as Parquet: those that come back identical in another process.

Whether one does is tried, not guessed: what was written is read again, a group of rows at a time, in the way in which
any other process reads it, and compared. What differs in anything, be it the type of a label, is pickled.

The schema's metadata says which library's table it is, under the key `flowstore`; without it, it is pandas'. A frame of
pandas with more columns than rows is written with rows and columns exchanged, and says so there.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import mmap
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.pandas_compat  # which pyarrow imports for the first frame: a task server does it for all its tasks

from flowstore.store.codecs import parquet
from flowstore.store.codecs.plain_json import PlainJson

KEY = b"flowstore"
_LARGE_BYTES = 16 << 20
_MARKS = {"polars": b"polars.DataFrame", "pyarrow": b"pyarrow.Table"}


def dump(value: Any, library: str) -> list[bytearray] | None:
    """Return the Parquet of a table, in pieces; `None` where it would not come back identical.

    Args:
        value: the table.
        library: of which it is: 'pandas', 'polars' or 'pyarrow'.
    """
    return {"pandas": _dump_pandas, "polars": _dump_polars, "pyarrow": _dump_arrow}[library](value)


def load(pieces: Iterator[bytes], size: int) -> Any:
    """Return the table that these bytes hold.

    Args:
        pieces: its bytes, in order.
        size: how many there are.

    Raises:
        ImportError: its library is not installed.
        ValueError: it is larger than its bytes give reason for, or has columns that none of ours have.
        pyarrow.ArrowException: it is no Parquet.
    """
    file = _open([_joined(pieces, size)])
    mark = (file.schema.metadata or {}).get(KEY)
    if mark == _MARKS["polars"]:
        import polars  # noqa: F401, ICN001  # so that a missing library is named before anything is read

        parquet.check(file, nested=True)
        table = _without_mark(parquet.load(file))
        del file  # its bytes are freed before the values are built, here and below
        return _to_polars(table)
    if mark == _MARKS["pyarrow"]:
        parquet.check(file, nested=True)
        return _without_mark(parquet.load(file))
    if mark == _EXCHANGED:
        parquet.check(file, nested=False)
        return _exchanged_back(parquet.load(file))
    if mark is not None:
        raise ValueError(f"it is a table of {mark!r}, which this flowstore does not know; a newer version may")
    parquet.check(file, nested=False)
    table = parquet.load(file)
    del file
    return _to_pandas(table)


def _joined(pieces: Iterator[bytes], size: int) -> bytes | mmap.mmap:
    """Return all bytes; many of them in memory of their own, which goes back to the system at the end."""
    if size < _LARGE_BYTES:
        return b"".join(pieces)
    memory = mmap.mmap(-1, size)
    for piece in pieces:
        memory.write(piece)
    return memory


# --- pandas


def _open(pieces: list[Any]) -> parquet.File:
    """Open a file so that all processes read it alike: pandas' types are known to pyarrow before."""
    file = parquet.File(pieces)
    if any((field.metadata or {}).get(b"ARROW:extension:name") == b"pandas.period" for field in file.schema):
        import pandas as pd

        pa.array(pd.period_range("2000", periods=1, freq="D"))  # pandas registers its types at the first use of one
        file = parquet.File(pieces)
    return file


def _to_pandas(table: Any) -> Any:
    """Return a table as a frame, independent of the options that this process has set; the table is used up."""
    import pandas as pd

    with contextlib.ExitStack() as stack:
        for storage in ("auto", "python"):  # pandas' default, and that before pandas 2.3
            with contextlib.suppress(ValueError):
                stack.enter_context(pd.option_context("mode.string_storage", storage))
                break
        return _with_usual_utc(table.to_pandas(use_threads=False, self_destruct=True))


def _with_usual_utc(frame: Any) -> Any:
    """Return a frame with the object for UTC that pandas itself uses, and pyarrow does not."""
    import pandas as pd

    def is_other(dtype: Any) -> bool:
        return isinstance(dtype, pd.DatetimeTZDtype) and str(dtype.tz) == "UTC" and dtype.tz is not dt.UTC

    for name in frame.columns[[is_other(dtype) for dtype in frame.dtypes]]:
        frame[name] = frame[name].dt.tz_convert(dt.UTC)
    index = frame.index
    if isinstance(index, pd.MultiIndex):
        for n, level in enumerate(index.levels):
            if is_other(level.dtype):
                index = index.set_levels(level.tz_convert(dt.UTC), level=n)
    elif is_other(index.dtype):
        index = index.tz_convert(dt.UTC)
    if index is not frame.index:
        frame.index = index
    return frame


def _dump_pandas(frame: Any) -> list[bytearray] | None:
    names = [*frame.columns.names, *frame.index.names]
    if not frame.columns.is_unique or not all(type(name) is str for name in frame.columns):
        return None
    if not all(name is None or type(name) is str for name in names) or _json_of(frame.attrs) is None:
        return None
    if _is_wide(frame):
        first = _dump_pandas(frame.iloc[:, :1])
        pieces = None if first is None else _dump_wide(frame, b"".join(first))
        if first is None or pieces is not None:
            return pieces
    schema = pa.Schema.from_pandas(frame)
    if KEY in (schema.metadata or {}):
        return None

    def rows(part: slice) -> Any:
        table = pa.Table.from_pandas(frame.iloc[part], schema=schema, nthreads=1)
        return table.replace_schema_metadata(schema.metadata)

    pieces = parquet.dump(rows, len(frame), schema)
    return pieces if _comes_back_to_pandas(frame, pieces) else None


def _json_of(attrs: dict[Any, Any]) -> bytes | None:
    """Return the JSON of a frame's own attributes; `None` where they are not plain."""
    encoded = PlainJson().encode(attrs)
    return None if encoded is None else b"".join(encoded.pieces)


def _comes_back_to_pandas(frame: Any, pieces: list[bytearray]) -> bool:
    file = _open(pieces)
    parquet.check(file, nested=False)
    whole = _whole_columns(frame, file)
    head = _to_pandas(parquet.load(file, []))
    part = _to_pandas(parquet.load(file, columns=whole)) if whole else head
    alike = (
        same_index(head.columns, frame.columns)
        and _json_of(head.attrs) == _json_of(frame.attrs)
        and head.flags.allows_duplicate_labels == frame.flags.allows_duplicate_labels
        and (_same_range(file.schema, frame.index) if _is_range(frame.index) else same_index(part.index, frame.index))
        and (not whole or same_columns(part, frame[[*part.columns]]))
    )
    if not alike:
        return False
    others = [name for name in file.schema.names if name not in whole]
    for number, group in parquet.groups(file):
        if others and not same_columns(_to_pandas(parquet.load(file, [number], others)), frame[others].iloc[group]):
            return False
    return True


def _is_range(index: Any) -> bool:
    import pandas as pd

    return type(index) is pd.RangeIndex


def _same_range(schema: Any, index: Any) -> bool:
    """Return whether an index that no column holds is what the metadata says."""
    stated = {"kind": "range", "name": index.name, "start": index.start, "stop": index.stop, "step": index.step}
    return bool(schema.pandas_metadata["index_columns"] == [stated])


def _whole_columns(frame: Any, file: parquet.File) -> list[str]:
    """Return the columns to compare at once: those of the index, and categories, which groups of rows may share."""
    labels = [name for name in file.schema.names if name not in frame.columns]
    named = [name for name in frame.index.names if name in file.schema.names and name not in labels]
    categories = [field.name for field in file.schema if pa.types.is_dictionary(field.type)]
    return [*dict.fromkeys([*labels, *named, *categories])]


# --- pandas, with more columns than rows

_EXCHANGED = b"pandas.DataFrame, rows and columns exchanged"
_FIRST = b"flowstore.first"  # beside it: the Parquet of the first column, with the index and all else that a frame has
_NAME, _DTYPE = "column", "dtype"
_LEAST_COLUMNS = 256  # each costs Parquet half a millisecond and a kilobyte, whatever it holds
_EXCHANGEABLE = frozenset(
    {"bool", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
)


def _is_wide(frame: Any) -> bool:
    """Return whether a frame of numbers takes less time and room where each row of the file is one of its columns."""
    rows, columns = frame.shape
    return columns >= _LEAST_COLUMNS and columns > 2 * rows and all(map(_is_exchangeable, frame.dtypes))


def _is_exchangeable(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.name in _EXCHANGEABLE and dtype.isnative and dtype.metadata is None


def _dump_wide(frame: Any, first: bytes) -> list[bytearray] | None:
    """Return a table of the name, dtype and values of each column, as numbers of one type; `None` if none holds all."""
    common = np.result_type(*{*frame.dtypes})
    fields = [(str(n), pa.from_numpy_dtype(common)) for n in range(len(frame))]
    schema = pa.schema([(_NAME, pa.string()), (_DTYPE, pa.string()), *fields])
    schema = schema.with_metadata({KEY: _EXCHANGED, _FIRST: first})

    def rows(part: slice) -> Any:
        some = frame.iloc[:, part]
        values = [pa.array(np.ascontiguousarray(line)) for line in some.to_numpy(dtype=common)]
        return pa.table([pa.array(some.columns, pa.string()), [str(kind) for kind in some.dtypes], *values], schema)

    pieces = parquet.dump(rows, len(frame.columns), schema)
    file = _open(pieces)
    parquet.check(file, nested=False)
    for number, part in parquet.groups(file):
        back, some = _exchanged_back(parquet.load(file, [number])), frame.iloc[:, part]
        if not (same_index(back.columns, some.columns) and same_index(back.index, frame.index) and back.equals(some)):
            return None
    return pieces


def _exchanged_back(table: Any) -> Any:
    """Return the frame whose columns these rows are."""
    file = _open([table.schema.metadata[_FIRST]])
    parquet.check(file, nested=False)
    first = _to_pandas(parquet.load(file))
    names, dtypes = (table.column(name).to_pylist() for name in (_NAME, _DTYPE))
    lines = [column.to_numpy() for column in table.columns[2:]]
    if len(lines) != len(first) or not _EXCHANGEABLE.issuperset(dtypes):
        raise ValueError("its rows are not the columns of a frame")
    values = np.stack(lines) if lines else np.empty((0, len(names)))
    where = {dtype: np.flatnonzero(np.equal(dtypes, dtype)) for dtype in dict.fromkeys(dtypes)}
    parts = [pd.DataFrame((values if len(where) == 1 else values[:, at]).astype(kind, copy=False))
             for kind, at in where.items()]  # fmt: skip
    frame = (
        parts[0] if len(parts) == 1 else pd.concat(parts, axis=1).iloc[:, np.argsort(np.concatenate([*where.values()]))]
    )
    frame.columns = pd.Index(names, dtype=first.columns.dtype, name=first.columns.name)
    frame.index = first.index
    frame.attrs = first.attrs
    return frame.set_flags(allows_duplicate_labels=first.flags.allows_duplicate_labels)


# --- polars and pyarrow


def _to_polars(table: Any) -> Any:
    import polars as pl

    for field in table.schema:
        _check_texts(field)
    try:
        frame = pl.from_arrow(table)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # which is no Exception
            raise
        raise ValueError(f"polars cannot read it: {error}") from None
    if not isinstance(frame, pl.DataFrame):
        raise ValueError("it holds no columns")  # noqa: TRY004  # of bytes, not of an argument
    return frame


def _check_texts(field: Any) -> None:
    """Raise UnicodeDecodeError where the metadata of a column is not text: polars would panic, and print so."""
    for text in (*(field.metadata or {}).keys(), *(field.metadata or {}).values()):
        text.decode()
    for n in range(field.type.num_fields):
        _check_texts(field.type.field(n))


def _dump_polars(frame: Any) -> list[bytearray] | None:
    schema = _marked(frame.head(0).to_arrow().schema, "polars")

    def rows(part: slice) -> Any:
        return frame[part].to_arrow().cast(schema).replace_schema_metadata(schema.metadata)

    pieces = parquet.dump(rows, len(frame), schema)
    file = _open(pieces)
    parquet.check(file, nested=True)
    for number, group in parquet.groups(file):
        back = _to_polars(_without_mark(parquet.load(file, [number])))
        if back.schema != frame.schema or not back.equals(frame[group]):
            return None
    return pieces


def _dump_arrow(table: Any) -> list[bytearray] | None:
    if KEY in (table.schema.metadata or {}):
        return None
    schema = _marked(table.schema, "pyarrow")

    def rows(part: slice) -> Any:
        taken = table.take(pa.array(range(*part.indices(len(table))), pa.int64())) if part.step else None
        taken = table.slice(part.start, part.stop - part.start) if taken is None else taken
        return taken.replace_schema_metadata(schema.metadata)

    pieces = parquet.dump(rows, len(table), schema)
    file = _open(pieces)
    parquet.check(file, nested=True)
    for number, group in parquet.groups(file):
        back = _without_mark(parquet.load(file, [number]))
        original = table.slice(group.start, group.stop - group.start)
        if not back.schema.equals(table.schema, check_metadata=True) or not _same_tables(back, original):
            return None
    return pieces


def _marked(schema: Any, library: str) -> Any:
    return schema.with_metadata({**(schema.metadata or {}), KEY: _MARKS[library]})


def _without_mark(table: Any) -> Any:
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != KEY}
    return table.replace_schema_metadata(metadata or None)


def _same_tables(one: Any, two: Any) -> bool:
    return all(map(_same_chunks, one.columns, two.columns))


def _same_chunks(one: Any, two: Any) -> bool:
    """Return whether two Arrow columns are equal, where NaN is NaN."""
    if pa.types.is_floating(one.type):
        bits = pa.uint64() if one.type.bit_width == 64 else pa.uint32() if one.type.bit_width == 32 else pa.uint16()
        one, two = one.combine_chunks().view(bits), two.combine_chunks().view(bits)
    return bool(one.equals(two))


_CELLS = frozenset({str, bytes, bool, int, type(None), dt.date, dt.time, Decimal})  # of columns of objects
_DTYPES = frozenset(
    {"BooleanDtype", "StringDtype", "Float32Dtype", "Float64Dtype", "PeriodDtype", "ArrowDtype", "CategoricalDtype"}
    | {"DatetimeTZDtype", *(f"{sign}Int{bits}Dtype" for sign in ("", "U") for bits in (8, 16, 32, 64))}
)


def same_index(one: Any, two: Any) -> bool:
    """Return whether two indexes are the same: their kind, names, values, dtypes, levels and distance."""
    if type(one) is not type(two) or list(one.names) != list(two.names) or len(one) != len(two):
        return False
    if isinstance(two, pd.MultiIndex):
        return all(map(same_index, one.levels, two.levels)) and all(
            (a == b).all() for a, b in zip(one.codes, two.codes, strict=True)
        )
    if isinstance(two, pd.RangeIndex):
        return (one.start, one.stop, one.step) == (two.start, two.stop, two.step)
    freq = getattr(one, "freq", None)
    return (
        type(freq) is type(getattr(two, "freq", None)) and freq == getattr(two, "freq", None) and _same_values(one, two)
    )


def same_columns(one: Any, two: Any) -> bool:
    """Return whether the columns of two frames are the same, by their places; their indexes are not looked at."""
    if one.shape != two.shape or list(one.columns) != list(two.columns):
        return False
    return all(_same_values(one.iloc[:, n], two.iloc[:, n]) for n in range(two.shape[1]))


def _same_values(one: Any, two: Any) -> bool:
    """Return whether two columns or indexes hold the same values of the same dtype."""
    if not _same_dtype(one.dtype, two.dtype):
        return False
    if two.dtype == object:
        return all(map(_same_cell, one, two))
    if isinstance(two.dtype, pd.ArrowDtype):
        return bool(one.array.equals(two.array)) and _same_missing(one.array, two.array)
    return bool(one.array.equals(two.array))


def _same_missing(one: Any, two: Any) -> bool:
    """Return whether NaN and missing values are in the same places: pandas takes them for equal in Arrow's arrays."""
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays = [
        pa.chunked_array(pa.array(side)) if not isinstance(side, pa.ChunkedArray) else side for side in (one, two)
    ]
    return bool(pc.is_null(arrays[0]).equals(pc.is_null(arrays[1])))


def _same_cell(one: Any, two: Any) -> bool:
    kind = type(two)
    return type(one) is kind and kind in _CELLS and one == two and (kind is not Decimal or str(one) == str(two))


def _same_dtype(one: Any, two: Any) -> bool:
    """Return whether two dtypes are the same, and NumPy's or pandas' own: others are not known everywhere."""
    if type(one) is not type(two) or one != two:
        return False
    if not hasattr(two, "na_value"):  # one of NumPy's
        return two.metadata is None
    if type(two).__name__ not in _DTYPES or getattr(pd, type(two).__name__, None) is not type(two):
        return False
    if isinstance(two, pd.CategoricalDtype):
        return one.ordered == two.ordered and same_index(one.categories, two.categories)
    if isinstance(two, pd.DatetimeTZDtype):
        return same_zone(one.tz, two.tz)
    if isinstance(two, pd.ArrowDtype):
        return bool(one.pyarrow_dtype.equals(two.pyarrow_dtype, check_metadata=True))
    return repr(one) == repr(two)


def same_zone(one: Any, two: Any) -> bool:
    """Return whether two zones are of one library and one name."""
    return type(one) is type(two) and repr(one) == repr(two)
