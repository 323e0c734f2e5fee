"""An artifact in its natural form: JSON, an array, a table or bytes, as the name of the output file asks.

Where the stored bytes are that form already they are copied, without making the value.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from flowstore.cli.shell import safe
from flowstore.client import DataArtifact
from flowstore.errors import ArtifactError

_STORED_AS = {".json": "json", ".npy": "npy", ".parquet": "parquet", ".pkl": "pickle"}


def show(artifact: DataArtifact) -> None:
    """Print an artifact: JSON and bytes as they are, anything else as its preview."""
    if artifact.codec == "bytes":
        sys.stdout.buffer.write(artifact.data)
    elif artifact.codec == "json":
        click.echo(safe(json.dumps(artifact.data, ensure_ascii=False, indent=2)))
    else:
        click.echo(safe(f"{artifact.type}, {artifact.size} bytes\n{artifact.preview}"))


def write(artifact: DataArtifact, path: Path) -> None:
    """Write an artifact to a file, replacing it in one step.

    Raises:
        ArtifactError: the value has no such form.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        with draft.open("wb") as file:
            if _STORED_AS.get(path.suffix) == artifact.codec:
                artifact.copy_to(file)
            else:
                file.write(_converted(artifact, path.suffix))
        draft.replace(path)
    except OSError as error:
        raise ArtifactError(f"{path} can't be written: {error.strerror}.") from error
    finally:
        draft.unlink(missing_ok=True)


def _converted(artifact: DataArtifact, suffix: str) -> bytes:
    value: Any = artifact.data
    form: Callable[[Any], bytes] = _FORMS.get(suffix, _as_bytes)
    try:
        return form(value)
    except (TypeError, ValueError, AttributeError, ImportError) as error:
        raise ArtifactError(
            f"{artifact.pathspec} is of type {artifact.type}, which can't be written as {suffix or 'bytes'}: {error}"
        ) from error


def _as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2).encode()


def _as_npy(value: Any) -> bytes:
    import io

    import numpy as np

    out = io.BytesIO()
    np.save(out, np.asarray(value), allow_pickle=False)
    return out.getvalue()


def _as_csv(value: Any) -> bytes:
    import pandas as pd

    frame = value if isinstance(value, (pd.DataFrame, pd.Series)) else pd.DataFrame(value)
    text: str = frame.to_csv(index=not isinstance(frame.index, pd.RangeIndex))
    return text.encode()


def _as_parquet(value: Any) -> bytes:
    import io

    import pandas as pd

    out = io.BytesIO()
    (value if isinstance(value, pd.DataFrame) else pd.DataFrame(value)).to_parquet(out)
    return out.getvalue()


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    raise TypeError("give a name that ends in .json, .npy, .parquet, .csv or .pkl")


_FORMS: dict[str, Callable[[Any], bytes]] = {
    ".json": _as_json,
    ".npy": _as_npy,
    ".csv": _as_csv,
    ".parquet": _as_parquet,
}
