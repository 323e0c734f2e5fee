"""Artifacts as files to download: each form is named by its suffix, and streamed in pieces.

A piece is read by a query of its own, so that a slow reader keeps no transaction open, and no more than a piece is in
memory. A pickle is downloaded as the bytes that it is; nothing loads it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import TypeVar

import attrs

from flowstore.client.artifact import DataArtifact
from flowstore.client.values import tables, texts
from flowstore.errors import ArtifactError, NotFound
from flowstore.store import codecs
from flowstore.store.blob_parts import Part, stream
from flowstore.store.blobs import Blob
from flowstore.store.pictures import find_picture

T = TypeVar("T")
_TYPES = {
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".png": "image/png",
}


@attrs.frozen
class Download:
    """A form in which an artifact can be downloaded.

    Attributes:
        suffix: of the file's name, such as '.npy'.
        about: what it is, where the suffix does not say it.
        size_bytes: its length; `None` where only writing it tells.
    """

    suffix: str
    about: str = ""
    size_bytes: int | None = None

    @property
    def media_type(self) -> str:
        """The media type of the response."""
        return _TYPES.get(self.suffix, "application/octet-stream")


def downloads(artifact: DataArtifact) -> list[Download]:
    """Return the forms in which an artifact can be downloaded, its natural one first."""
    blob = artifact._blob()
    png = find_picture(artifact._store, blob.id)
    forms = [] if png is None else [Download(".png", "the picture that was kept", len(png))]
    if _is_text(artifact, blob):
        forms.append(Download(".txt"))
    suffix, about = _stored_as(blob)
    forms.append(Download(suffix, about, blob.size_bytes))
    if _table(artifact, blob) is not None:
        forms.append(Download(".csv"))
    return forms


def pieces(artifact: DataArtifact, suffix: str) -> Iterator[bytes]:
    """Yield an artifact in one of its forms.

    Raises:
        NotFound: it has no such form, or was deleted.
        StoreCorrupt: its bytes are damaged; where they are copied, this may show at the end.
        ArtifactError: they were left out when this file was exported.
    """
    blob = artifact._blob()
    if suffix == _stored_as(blob)[0]:
        yield from stream(artifact._store, blob, artifact.pathspec)
    elif suffix == ".png" and (png := find_picture(artifact._store, blob.id)) is not None:
        yield png
    elif suffix == ".txt" and _is_text(artifact, blob):
        yield from texts.unescaped_pieces(Part(artifact._store, blob, artifact.pathspec, None))
    elif suffix == ".csv" and (table := _table(artifact, blob)) is not None:
        Part(artifact._store, blob, artifact.pathspec, None)  # which compares all of it with its hash
        yield from tables.csv_pieces(table)
    else:
        raise NotFound(f"{artifact.pathspec} cannot be downloaded as {suffix[:20]}.")


def _stored_as(blob: Blob) -> tuple[str, str]:
    """Return the suffix of the bytes as they are stored, and what they are."""
    if blob.codec == "typed-json":
        return ".json", "with the types of its values"
    if blob.codec == "pickle":
        return ".pickle", "which runs its author's code when it is loaded"
    try:
        return codecs.entry_of(blob.codec).suffix or ".bin", ""
    except ArtifactError:  # a newer version's
        return ".bin", ""


def _is_text(artifact: DataArtifact, blob: Blob) -> bool:
    return blob.codec == "json" and _safely(lambda: Part(artifact._store, blob, "", -1).read(0, 1)) == b'"'


def _table(artifact: DataArtifact, blob: Blob) -> tables.Rows | None:
    """Return an artifact as a table that can be written as CSV row by row; `None` where it is none."""
    if blob.codec == "npy" and importlib.util.find_spec("numpy"):
        from flowstore.client.values.arrays import ArrayRows

        array = _safely(lambda: ArrayRows(Part(artifact._store, blob, artifact.pathspec, -1)))
        if array is None or len(array.shape) not in {1, 2}:
            return None
        return array if array.is_by_row or blob.size_bytes <= tables.MOST_CSV_BYTES else None
    if blob.codec == "parquet" and importlib.util.find_spec("pyarrow"):
        from flowstore.client.values.frames import FrameRows

        return _safely(lambda: FrameRows(Part(artifact._store, blob, artifact.pathspec, -1)))
    return None


def _safely(call: Callable[[], T]) -> T | None:
    """Return what a call returns; `None` where the bytes are damaged, which their page says."""
    try:
        return call()
    except Exception:  # damaged bytes trip libraries in many ways
        return None
