"""Snapshots of code in the store: a flow's file and the modules beside it, each snapshot once, found by its digest.

`flowstore.run.snapshot` takes a snapshot from the running interpreter; this module owns its rows, `codes` and
`code_files`, whose bytes are blobs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from flowstore.sqlite.database import Row, Store
from flowstore.store import blobs
from flowstore.store.blobs import COLUMNS, Blob
from flowstore.store.codecs import encode


def digest(script_name: str, files: Mapping[str, bytes], module: str | None = None) -> bytes:
    """Return the SHA-256 by which a snapshot is recognised.

    Args:
        script_name: the path of the flow's file in the snapshot.
        files: the SHA-256 of each file, by path.
        module: the module that `python -m` runs, if any.
    """
    import hashlib  # OpenSSL, which most commands do without

    start = [script_name] if module is None else [script_name, "-m", module]
    listing = "\0".join([*start, *(f"{path}\0{sha.hex()}" for path, sha in sorted(files.items()))])
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).digest()


def ensure(
    db: sqlite3.Connection, store: Store, script_name: str, files: Mapping[str, bytes], module: str | None = None
) -> int:
    """Store a snapshot of source files, unless it is there, and return its row's id."""
    import hashlib  # OpenSSL, which most commands do without

    shas = {path: hashlib.sha256(source).digest() for path, source in files.items()}  # those of their blobs
    sha = digest(script_name, shas, module)
    code_id = find(db, sha)
    if code_id is not None:
        return code_id
    blob_ids = {path: blobs.put(db, store, encode(source)) for path, source in sorted(files.items())}
    return insert(db, sha, script_name, module, blob_ids)


def find(db: sqlite3.Connection, sha: bytes) -> int | None:
    """Return the id of the snapshot with a digest, or `None`."""
    row = db.execute("select id from codes where sha = ?", (sha,)).fetchone()
    return None if row is None else int(row[0])


def insert(
    db: sqlite3.Connection, sha: bytes, script_name: str, module: str | None, blob_ids: Mapping[str, int]
) -> int:
    """Insert the rows of a snapshot whose files are stored as blobs, and return its id."""
    code_id = db.execute(
        "insert into codes (sha, script_name, module) values (?, ?, ?) returning id", (sha, script_name, module)
    ).fetchone()[0]
    db.executemany(
        "insert into code_files (code_id, path, blob_id) values (?, ?, ?)",
        [(code_id, path, blob_id) for path, blob_id in blob_ids.items()],
    )
    return int(code_id)


def files(store: Store, code_id: int) -> dict[str, Blob]:
    """Return the files of a snapshot, by path."""
    rows = store.rows(
        f"""select c.path, {COLUMNS} from code_files c join blobs b on b.id = c.blob_id
            where c.code_id = ? order by c.path""",
        (code_id,),
    )
    return {row["path"]: Blob.of(row) for row in rows}


def facts(store: Store, code_id: int) -> list[Any]:
    """Return all that decides what a snapshot runs, from its rows as they are now, as JSON can hold it.

    The recorded digest says nothing about rows that were changed since.
    """
    rows = store.rows(
        """select c.path, b.sha, b.codec from code_files c join blobs b on b.id = c.blob_id where c.code_id = ?
           order by c.path""",
        (code_id,),
    )
    return [
        [script_name(store, code_id), module_name(store, code_id)],
        [[row["path"], (row["sha"] or b"").hex(), row["codec"]] for row in rows],
    ]


def script_name(store: Store, code_id: int) -> str:
    """Return the path of the flow's file in a snapshot."""
    return str(store.value("select script_name from codes where id = ?", (code_id,)))


def module_name(store: Store, code_id: int) -> str | None:
    """Return the module that a snapshot's flow is, where it runs with `python -m`."""
    row = store.row("select * from codes where id = ?", (code_id,))
    return None if row is None else module_of(row)


def module_of(code: Row) -> str | None:
    """Return the module in a row of `codes`, which lacks this column in an older file."""
    return code["module"] if "module" in code.keys() else None  # noqa: SIM118  # a row's values are not its keys
