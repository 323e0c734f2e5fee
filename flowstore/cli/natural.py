"""An artifact in its natural form: JSON, an array, a table, text or bytes, as the name of the output file asks.

Where the stored bytes are that form already they are copied, without making the value.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from flowstore.cli.render import say
from flowstore.client import DataArtifact
from flowstore.errors import ArtifactError, UntrustedArtifact
from flowstore.store import drafts
from flowstore.text import counted

_STORED_AS = {".json": "json", ".npy": "npy", ".parquet": "parquet", ".pkl": "pickle"}


def show(artifact: DataArtifact, *, raw: bool = False) -> None:
    """Print an artifact: JSON and bytes as they are, anything else, or bytes on a terminal, as its preview."""
    if artifact.codec == "bytes" and (raw or not sys.stdout.isatty()):
        artifact.copy_to(sys.stdout.buffer)
        return
    if artifact.codec == "json":
        text = json.dumps(artifact.data, ensure_ascii=False, indent=2)
    else:
        text = f"{artifact.type}, {counted(artifact.size, 'byte')}\n{artifact.preview}"
    say(text, raw=raw)


def row(artifact: DataArtifact) -> dict[str, Any]:
    """An artifact with what is known of it, and its value where that is JSON."""
    blob = artifact._blob()
    return {
        "artifact": artifact.pathspec,
        "type": blob.type,
        "size_bytes": blob.size_bytes,
        "codec": blob.codec,
        "sha": blob.sha.hex(),
        "preview": blob.preview,
        "value": artifact.data if blob.codec == "json" else None,
    }


def write(artifact: DataArtifact, path: Path) -> None:
    """Write an artifact to a file, replacing it in one step; to what is no file, such as a pipe, directly.

    Raises:
        ArtifactError: the value has no such form.
        UntrustedArtifact: the form needs the value of a pickle that this user's runs did not write.
    """
    replaced = path.is_file() or not path.exists()
    try:
        with drafts.draft(path) if replaced else nullcontext(path) as place:
            with place.open("wb") as file:
                _write(artifact, path.suffix, file)
            if replaced:
                drafts.put_in_place(place, path, replace=True)
    except UntrustedArtifact:  # a PermissionError by its class, and no fault of the file's
        raise
    except OSError as error:
        raise ArtifactError(f"{path} can't be written: {error.strerror}.") from error


def _write(artifact: DataArtifact, suffix: str, file: BinaryIO) -> None:
    form = _FORMS.get(suffix)
    if artifact.codec == _STORED_AS.get(suffix, "" if form else "bytes"):
        artifact.copy_to(file)
        return
    value = artifact.data
    try:
        (form or _write_text)(value, file)
    except ImportError as error:
        raise ArtifactError(f'Writing {suffix} needs {error.name}: pip install "flowstore[data]"') from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{artifact.pathspec} is of type {artifact.type}, which can't be written as {suffix or 'bytes'}: {error}"
        ) from error


def _write_json(value: Any, file: BinaryIO) -> None:
    if hasattr(value, "to_json"):  # a data frame or a series
        text = value.to_json(orient="records" if hasattr(value, "columns") else "split", date_format="iso", indent=2)
    else:
        text = json.dumps(value, ensure_ascii=False, indent=2, default=_listed)
    file.write(text.encode())


def _listed(value: Any) -> Any:
    """What JSON has no form for: arrays and the numbers of NumPy have one as lists and numbers."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    return value.tolist()


def _write_npy(value: Any, file: BinaryIO) -> None:
    import numpy as np

    np.save(file, np.asarray(value), allow_pickle=False)


def _write_parquet(value: Any, file: BinaryIO) -> None:
    import pandas as pd
    import pyarrow as pa  # pandas would name two packages to choose from

    try:
        (value if isinstance(value, pd.DataFrame) else pd.DataFrame(value)).to_parquet(file, engine="pyarrow")
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _write_csv(value: Any, file: BinaryIO) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    if hasattr(value, "to_csv"):
        value.to_csv(text, index=type(value.index).__name__ != "RangeIndex", lineterminator="\n")
    else:
        csv.writer(text, lineterminator="\n").writerows(_lines(value))
    text.detach()


def _lines(value: Any) -> Iterable[Iterable[Any]]:
    """The lines of a table: of a dict of columns, a list of dicts, or a list of lists; else one column."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, dict):
        columns = [each if isinstance(each, (list, tuple)) else [each] for each in value.values()]
        if len({len(column) for column in columns}) > 1:
            raise ValueError("its columns are not of one length")
        return [value.keys(), *zip(*columns, strict=True)]
    if not isinstance(value, (list, tuple)):
        raise TypeError("it is no table")
    if value and all(isinstance(each, dict) for each in value):
        names = list(dict.fromkeys(name for each in value for name in each))
        return [names, *([each.get(name) for name in names] for each in value)]
    return [each if isinstance(each, (list, tuple)) else [each] for each in value]


def _write_text(value: Any, file: BinaryIO) -> None:
    if isinstance(value, (bytes, bytearray, memoryview)):
        file.write(value)
    elif isinstance(value, str):
        file.write(value.encode())
    else:
        raise TypeError("give a name that ends in .json, .npy, .parquet, .csv or .pkl")


def _refuse_pickle(_value: Any, _file: BinaryIO) -> None:
    raise ValueError("it is stored in a safer form: give a name that ends in .json, .npy, .parquet or .csv")


_FORMS: dict[str, Callable[[Any, BinaryIO], None]] = {
    ".json": _write_json,
    ".npy": _write_npy,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".pkl": _refuse_pickle,
}
