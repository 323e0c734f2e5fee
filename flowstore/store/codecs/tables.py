"""The codec `parquet`: data frames of pandas and polars, and pyarrow's tables, as Parquet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from flowstore.errors import ArtifactError
from flowstore.store.codecs.contract import Codec, Pieces
from flowstore.store.plain import NOTHING, Plain
from flowstore.store.preview import CELL, COLUMNS, ITEMS, ROWS, first_of, head_of, shape_of
from flowstore.text import counted

_TABLES = (("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "Table"))


class Tables(Codec):
    """Tables that come back identical in another process, which is tried and not guessed (see `frames`)."""

    def encode(self, value: Any) -> Pieces | None:
        """Return the Parquet of a table, or `None` where it would not come back identical."""
        library = _library_of(type(value))
        if library is None:
            return None
        try:
            from flowstore.store.codecs import frames
        except ImportError:  # without pyarrow it is pickled
            return None
        pieces = frames.dump(value, library)
        return None if pieces is None else Pieces(pieces)

    def decode(self, pieces: Iterator[bytes], size_bytes: int) -> Any:
        """Return the table, of the library that wrote it."""
        from flowstore.store.codecs import frames

        try:
            return frames.load(pieces, size_bytes)
        except ImportError:
            raise
        except Exception as error:  # damaged bytes and metadata trip pyarrow and pandas in many ways
            raise ArtifactError(f"Its bytes are not Parquet: {type(error).__name__}: {error}") from error

    def preview(self, value: Any) -> str | None:
        """Return the shape and the head of a table, or the first values of a column or an index."""
        for module, show in _SHOWN.items():
            imported = sys.modules.get(module)
            if imported is not None and (text := show(value, imported)) is not None:
                return text
        return None

    def plain(self, value: Any) -> Plain:  # noqa: ARG002
        """Return nothing: a table has no obvious JSON."""
        return NOTHING


def _library_of(kind: type) -> str | None:
    """Return the library that has this type of tables."""
    for name, attribute in _TABLES if kind.__name__ in {"DataFrame", "Table"} else ():
        if getattr(sys.modules.get(name), attribute, None) is kind:
            return name
    return None


def _of_pandas(value: Any, pandas: Any) -> str | None:
    if isinstance(value, pandas.DataFrame):
        rows, columns = value.shape
        return f"{shape_of(rows, columns)}\n{value.iloc[:ROWS, :COLUMNS].to_string(max_colwidth=CELL)}"
    if isinstance(value, pandas.Series):
        return f"{counted(len(value), 'value')}, {value.dtype}\n{value.iloc[:ROWS].to_string()}"
    if isinstance(value, pandas.Index):
        return f"{counted(len(value), 'value')}, {value.dtype} [{first_of(value[:ITEMS], len(value))}]"
    return None


def _of_polars(value: Any, polars: Any) -> str | None:
    if isinstance(value, polars.DataFrame):
        names, rows = value.columns[:COLUMNS], value.head(ROWS).rows()
        return f"{shape_of(value.height, value.width)}\n{head_of(names, rows)}".rstrip()
    if isinstance(value, polars.Series):
        return f"{counted(len(value), 'value')}, {value.dtype} [{first_of(value.head(ITEMS).to_list(), len(value))}]"
    return None


def _of_pyarrow(value: Any, pyarrow: Any) -> str | None:
    if not hasattr(pyarrow, "RecordBatch") or not isinstance(value, (pyarrow.Table, pyarrow.RecordBatch)):
        return None
    columns = [value.column(n).slice(0, ROWS).to_pylist() for n in range(min(COLUMNS, value.num_columns))]
    head = head_of(value.schema.names[:COLUMNS], list(zip(*columns, strict=True)))
    return f"{shape_of(value.num_rows, value.num_columns)}\n{head}".rstrip()


_SHOWN = {"pandas": _of_pandas, "polars": _of_polars, "pyarrow": _of_pyarrow}
