"""Values put into a store, or bytes that no encoder made."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from flowstore.store import blobs, codecs
from flowstore.store.description import Description


def blob_of(store, blob_id):
    """The description of a content by its row."""
    return blobs.Blob.of(store.row(f"select {blobs.COLUMNS} from blobs b where b.id = ?", (blob_id,)))


def put(store, value):
    """Store a value as a parameter is stored; gives its blob."""
    with store.write() as connection:
        blob_id = blobs.put(connection, store, codecs.encode(value))
    return blob_of(store, blob_id)


def raw(store, codec, content, size_bytes=None):
    """Store bytes that no encoder made, with their true hash."""
    with store.write() as connection:
        size = len(content) if size_bytes is None else size_bytes
        sha = hashlib.sha256(content).digest()
        blob_id = blobs.insert(connection, Description(codec, size, "t", "p"), sha=sha, data=content)
    return blob_of(store, blob_id)


# --- frames


def frame(**columns):
    return pd.DataFrame(columns)


# --- damage

VALUES = {
    "json": {"text": "abc" * 50, "numbers": list(range(40))},
    "bytes": bytes(range(256)),
    "npy": np.arange(50.0).reshape(5, 10),
    "parquet": frame(a=[1, 2, 3], b=["x", "y", "z"]),
    "typed-json": (1, "two", {3}),
    "pickle": [1, "two", range(3)],
}
