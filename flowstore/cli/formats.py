"""An artifact in its natural form: JSON, an array, a table, a picture, text or bytes, as the output file's name asks.

Where the stored bytes are that form already they are copied, without making the value. Else all of the value is
written, or the form is refused: a file with less in it than there is would pass for the whole.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from flowstore.cli import json_form
from flowstore.cli.output import say
from flowstore.client import DataArtifact
from flowstore.errors import ArtifactError, UntrustedArtifact
from flowstore.sqlite import outputs
from flowstore.store import codecs, plain
from flowstore.store.json_levels import is_masked
from flowstore.store.pictures import find_picture
from flowstore.text import counted, no_formula

_STORED_AS = {entry.suffix: entry.name for entry in codecs.REGISTRY if entry.suffix}


def show(artifact: DataArtifact, *, raw: bool = False) -> None:
    """Print an artifact: JSON and bytes as they are, anything else, or bytes on a terminal, as its preview."""
    if artifact.codec == "bytes" and (raw or not sys.stdout.isatty()):
        artifact.copy_to(sys.stdout.buffer)
        return
    if artifact.codec in codecs.NOTATIONS:  # however large
        text = _printed(artifact)
    else:
        text = f"{artifact.type}, {counted(artifact.size, 'byte')}\n{artifact.preview}"
    say(text, raw=raw)


def _printed(artifact: DataArtifact) -> str:
    """Return a value as JSON; as Python shows it where it has none, such as bytes in a list."""
    value = artifact.data
    try:
        return json_form.dumps(value)
    except ValueError:
        return repr(value)


def row(artifact: DataArtifact) -> dict[str, Any]:
    """Return an artifact as a row, with its value where that is JSON."""
    blob = artifact._blob()
    return {
        "artifact": artifact.pathspec,
        "type": blob.type,
        "size_bytes": blob.size_bytes,
        "codec": blob.codec,
        "sha": blob.sha.hex(),
        "preview": blob.preview,
        "value": _plain_value(artifact, blob.id),
    }


def _plain_value(artifact: DataArtifact, blob_id: int) -> Any:
    """Return a value as plain JSON has it, without loading a pickle; `None` where there is none."""
    if artifact.codec == "json":
        return artifact.data
    if artifact.codec in codecs.NOTATIONS:
        with contextlib.suppress(ValueError):
            return json.loads(json_form.compact(artifact.data))
        return None
    return plain.kept_value(artifact._store, blob_id)


def write(artifact: DataArtifact, path: Path) -> str:
    """Write an artifact to a file, replacing it in one step; to what is no file, such as a pipe, directly.

    Returns:
        A sentence about what was written instead of the value; empty where the value itself was.

    Raises:
        ArtifactError: the value has no such form.
        FlowstoreError: a store is there.
        UntrustedArtifact: the form needs the value of a pickle that this user's runs did not write.
    """
    try:
        with outputs.replaced(path) as temporary, temporary.open("wb") as file:
            return _write(artifact, path.suffix, file)
    except UntrustedArtifact:  # a PermissionError by its class, and no fault of the file's
        raise
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error.strerror}.") from error


def _write(artifact: DataArtifact, suffix: str, file: BinaryIO) -> str:
    form = _FORMS.get(suffix)
    if artifact.codec == _STORED_AS.get(suffix, "" if form else "bytes"):
        artifact.copy_to(file)
        return ""
    try:
        value = artifact.data
    except (ArtifactError, UntrustedArtifact) as error:
        png = find_picture(artifact._store, artifact._blob().id) if suffix == ".png" else None
        if png is None:
            raise
        file.write(png)
        why = str(error).strip().partition("\n")[0]
        return (
            f"This is the small picture that was kept when the value was set. The value itself cannot be loaded: {why}"
        )
    _write_value(artifact, value, suffix, file)
    return ""


def _write_value(artifact: DataArtifact, value: Any, suffix: str, file: BinaryIO) -> None:
    form = _FORMS.get(suffix)
    try:
        (form or _write_text)(value, file)
    except ImportError as error:
        raise ArtifactError(f'Writing {suffix} needs {error.name}: pip install "flowstore[data]"') from error
    except OSError:  # of the file
        raise
    except Exception as error:  # whoever made the value's type decides what it raises
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).strip().partition("\n")[0]
        raise ArtifactError(
            f"{artifact.pathspec} is of type {artifact.type}, which cannot be written as {suffix or 'bytes'}: "
            f"{why.removesuffix('.')}. {_advice(artifact, value)}"
        ) from error


def _advice(artifact: DataArtifact, value: Any) -> str:
    """Name the forms that work, which are tried."""
    working = [suffix for suffix in _TRIED if _works(artifact, value, suffix)]
    if not working:
        return "It has no form that other programs read."
    *others, last = working
    return f"Give a name that ends in {', '.join(others)}{' or ' if others else ''}{last}."


def _works(artifact: DataArtifact, value: Any, suffix: str) -> bool:
    if artifact.codec == _STORED_AS.get(suffix):
        return True
    try:
        with _Nowhere() as nowhere:
            (_FORMS.get(suffix) or _write_text)(value, nowhere)
    except Exception:  # as in `_write`
        return False
    return True


class _Nowhere(io.RawIOBase):
    """A file that forgets what is written to it."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return memoryview(data).nbytes


def _write_json(value: Any, file: Any) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="\n")
    try:
        json_form.write(value, text.write)
    finally:
        text.detach()


def _write_npy(value: Any, file: Any) -> None:
    import numpy as np

    if is_masked(value):
        raise TypeError("its mask would be lost")
    if isinstance(value, (np.ndarray, np.generic, bool, int, float, complex)):
        array = np.asarray(value)
    elif isinstance(value, (list, tuple)):
        array = np.asarray(value)
        if array.dtype.hasobject or not _same(array.tolist(), value):
            raise TypeError("its items are not numbers of one type")
    else:
        raise TypeError("it is no array")
    np.save(file, array, allow_pickle=False)


def _same(one: Any, two: Any) -> bool:
    if isinstance(two, (list, tuple)):
        return isinstance(one, list) and len(one) == len(two) and all(map(_same, one, two))
    return bool(one == two or (one != one and two != two)) and isinstance(one, bool) == isinstance(two, bool)  # noqa: PLR0124  # NaN


def _write_parquet(value: Any, file: Any) -> None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(value, (pd.DataFrame, pd.Series)):
        (value if isinstance(value, pd.DataFrame) else value.to_frame()).to_parquet(file, engine="pyarrow")
    elif (polars := sys.modules.get("polars")) is not None and isinstance(value, polars.DataFrame):
        value.write_parquet(file)
    else:
        pq.write_table(value if isinstance(value, pa.Table) else pa.table(_columns(value)), file)


def _columns(value: Any) -> dict[str, list[Any]]:
    """Return the columns of a table that is a list of dicts or a dict of lists."""
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        columns = value
    elif isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        columns = {
            name: [row.get(name) for row in value] for name in dict.fromkeys(key for row in value for key in row)
        }
    else:
        raise TypeError("it is no table")
    if not all(isinstance(name, str) for name in columns):
        raise TypeError("the names of its columns are no texts")
    return columns


# --- CSV


def _write_csv(value: Any, file: Any) -> None:
    import csv

    text = io.TextIOWrapper(file, "utf-8", newline="")
    try:
        csv.writer(text, lineterminator="\n").writerows([_cell(item) for item in line] for line in _lines(value))
    finally:
        text.detach()


def _cell(value: Any) -> Any:
    """Return what a cell holds: numbers as they are, text so that no spreadsheet takes it for a formula, else JSON."""
    if isinstance(value, str):
        return no_formula(str.__str__(value))
    if isinstance(value, (bool, int, float, complex)) or _is_number(value):
        return "" if value != value else value  # noqa: PLR0124  # NaN
    text = json_form.compact(value)
    return "" if text == "null" else no_formula(json.loads(text)) if text[0] == '"' else text


def _is_number(value: Any) -> bool:
    return type(value).__module__ == "numpy" and hasattr(value, "dtype") and value.dtype.kind in "iufc"


def _lines(value: Any) -> Iterable[Iterable[Any]]:
    """Return the lines of a table: of a frame, a dict of columns, a list of dicts, or a list of lists; else one column.

    Raises:
        TypeError: it is no table.
    """
    for module, lines in _FRAMES.items():
        imported = sys.modules.get(module)
        if imported is not None and (of_frame := lines(value, imported)) is not None:
            return of_frame
    if isinstance(value, dict):
        columns = [column if isinstance(column, (list, tuple)) else [column] for column in value.values()]
        if len({len(column) for column in columns}) > 1:
            raise ValueError("its columns are not of one length")
        return [value.keys(), *zip(*columns, strict=True)]
    if not isinstance(value, (list, tuple)):
        raise TypeError("it is no table")
    if value and all(isinstance(row, dict) for row in value):
        names = list(dict.fromkeys(name for row in value for name in row))
        return [names, *([row.get(name) for name in names] for row in value)]
    return [row if isinstance(row, (list, tuple)) else [row] for row in value]


def _numpy_lines(value: Any, numpy: Any) -> Iterable[Iterable[Any]] | None:
    if not isinstance(value, numpy.ndarray):
        return None
    if value.ndim not in {1, 2} or (value.dtype.kind == "V" and (value.ndim > 1 or not value.dtype.names)):
        raise TypeError("it is no table: it has not one or two dimensions")
    if value.dtype.names:
        return iter([value.dtype.names, *value.tolist()])
    rows = value.reshape(len(value), -1) if value.size else value.reshape(len(value), value.shape[-1])
    return (_python_s(row, numpy) for row in rows)


def _python_s(row: Any, numpy: Any) -> list[Any]:
    if row.dtype.kind == "M":
        return [None if numpy.isnat(item) else str(item) for item in row]
    if row.dtype.kind == "m":
        return [*(row / numpy.timedelta64(1, "s"))]
    return [*row] if row.dtype.char in "gG" and not is_masked(row) else row.tolist()


def _pandas_lines(value: Any, pandas: Any) -> Iterable[Iterable[Any]] | None:
    if isinstance(value, pandas.Series):
        value = value.to_frame()
    if not isinstance(value, pandas.DataFrame):
        return None
    has_index = not json_form.is_plain_index(value.index, pandas)
    return _with_head(value, json_form.frame_rows(value, index=has_index), has_index=has_index)


def _with_head(frame: Any, rows: Iterable[Any], *, has_index: bool) -> Iterator[Iterable[Any]]:
    """Yield the lines of pandas' frame as its `to_csv` has them."""
    index = ["" if name is None else name for name in frame.index.names] if has_index else []
    for level in range(frame.columns.nlevels):
        yield [*index, *frame.columns.get_level_values(level)]
    yield from rows


def _polars_lines(value: Any, polars: Any) -> Iterable[Iterable[Any]] | None:
    value = value.to_frame() if isinstance(value, polars.Series) else value
    if not isinstance(value, polars.DataFrame):
        return None
    return _headed(value.columns, json_form.polars_rows(value))


def _arrow_lines(value: Any, pyarrow: Any) -> Iterable[Iterable[Any]] | None:
    if not hasattr(pyarrow, "Table") or not isinstance(value, (pyarrow.Table, pyarrow.RecordBatch)):
        return None
    return _headed(value.schema.names, json_form.arrow_rows(value))


def _headed(names: Iterable[str], rows: Iterable[Any]) -> Iterator[Iterable[Any]]:
    yield names
    yield from rows


_FRAMES: dict[str, Callable[[Any, Any], Iterable[Iterable[Any]] | None]] = {
    "numpy": _numpy_lines, "pandas": _pandas_lines, "polars": _polars_lines, "pyarrow": _arrow_lines,
}  # fmt: skip


# --- pictures, text and bytes


def _write_picture(kind: str) -> Callable[[Any, Any], None]:
    def write(value: Any, file: Any) -> None:
        picture = io.BytesIO()
        try:
            if kind == "png" and "PIL.Image" in sys.modules and isinstance(value, sys.modules["PIL.Image"].Image):
                value.save(picture, "PNG")
            elif (figure := _figure_of(value)) is not None:
                figure.savefig(picture, format=kind)
            else:
                raise TypeError("it is no picture of that kind")
        except OSError as error:  # which PIL raises for a mode that PNG lacks
            raise ValueError(str(error)) from error
        file.write(picture.getvalue())

    return write


def _figure_of(value: Any) -> Any:
    """Return matplotlib's figure that is the value, or that holds the axes which are; `None` for anything else."""
    for module, name in (("matplotlib.figure", "Figure"), ("matplotlib.axes", "Axes")):
        if module in sys.modules and isinstance(value, getattr(sys.modules[module], name)):
            return value if name == "Figure" else value.figure
    return None


def _write_text(value: Any, file: Any) -> None:
    if isinstance(value, (bytes, bytearray, memoryview)):
        file.write(value)
    elif isinstance(value, str):
        file.write(value.encode())
    else:
        raise TypeError("it is neither text nor bytes")


def _refuse_pickle(_value: Any, _file: Any) -> None:
    raise ValueError("it is stored in a safer form")


_FORMS: dict[str, Callable[[Any, Any], None]] = {
    ".json": _write_json,
    ".npy": _write_npy,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".png": _write_picture("png"),
    ".svg": _write_picture("svg"),
    ".pkl": _refuse_pickle,
}
_TRIED = (".json", ".csv", ".npy", ".parquet", ".png", ".svg", ".txt", ".pkl")
