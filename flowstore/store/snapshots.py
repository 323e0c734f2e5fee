"""Snapshots of code in the store: a flow's file and the modules beside it, each snapshot once, found by its digest.

`flowstore.run.snapshot` takes a snapshot from the running interpreter; this module owns its rows, `codes` and
`code_files`, whose bytes are blobs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from flowstore import later
from flowstore.sqlite.database import Database, Row
from flowstore.store import blobs
from flowstore.store.blobs import COLUMNS, Blob
from flowstore.store.codecs import encode

LAUNCHERS = frozenset({"flowstore.metaflow"})  # no file may name another module to be run


@later.frozen
class Program:
    """The program of a snapshot.

    Attributes:
        script_name: the path of the flow's file.
        module: the module that `python -m` runs, if any.
        launcher: the module that runs the program, as in `python -m LAUNCHER flow.py`, if any; one of `LAUNCHERS`.
    """

    script_name: str
    module: str | None = None
    launcher: str | None = None

    @classmethod
    def of(cls, code: Row) -> Program:
        """Return the program of a row of `codes`, which lacks columns in an older file."""
        launcher = code["launcher"] if "launcher" in code.keys() else None  # noqa: SIM118  # of a row
        return cls(code["script_name"], module_of(code), launcher if launcher in LAUNCHERS else None)

    @property
    def words(self) -> list[str]:
        """The arguments of `python` that call it, where it has its own name."""
        launched = [] if self.launcher is None else ["-m", self.launcher]
        return [*launched, *([self.script_name] if self.module is None else ["-m", self.module])]

    @property
    def called_as(self) -> str:
        """The command that runs it, as a user would type it."""
        return " ".join(["python", *self.words])


def digest(program: Program, files: Mapping[str, bytes]) -> bytes:
    """Return the SHA-256 by which a snapshot is recognised.

    Args:
        program: its program.
        files: the SHA-256 of each file, by path.
    """
    import hashlib  # OpenSSL, which most commands do without

    start = [program.script_name] if program.module is None else [program.script_name, "-m", program.module]
    start += [] if program.launcher is None else ["by", program.launcher]
    listing = "\0".join([*start, *(f"{path}\0{sha.hex()}" for path, sha in sorted(files.items()))])
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).digest()


def ensure(db: sqlite3.Connection, store: Database, program: Program, files: Mapping[str, bytes]) -> int:
    """Store a snapshot of source files, unless it is there, and return its row's id."""
    import hashlib  # OpenSSL, which most commands do without

    shas = {path: hashlib.sha256(source).digest() for path, source in files.items()}  # those of their blobs
    sha = digest(program, shas)
    code_id = find(db, sha)
    if code_id is not None:
        return code_id
    blob_ids = {path: blobs.put(db, store, encode(source)) for path, source in sorted(files.items())}
    return insert(db, sha, program, blob_ids)


def find(db: sqlite3.Connection, sha: bytes) -> int | None:
    """Return the id of the snapshot with a digest, or `None`."""
    row = db.execute("select id from codes where sha = ?", (sha,)).fetchone()
    return None if row is None else int(row[0])


def insert(db: sqlite3.Connection, sha: bytes, program: Program, blob_ids: Mapping[str, int]) -> int:
    """Insert the rows of a snapshot whose files are stored as blobs, and return its id."""
    code_id = db.execute(
        "insert into codes (sha, script_name, module, launcher) values (?, ?, ?, ?) returning id",
        (sha, program.script_name, program.module, program.launcher),
    ).fetchone()[0]
    db.executemany(
        "insert into code_files (code_id, path, blob_id) values (?, ?, ?)",
        [(code_id, path, blob_id) for path, blob_id in blob_ids.items()],
    )
    return int(code_id)


def files(store: Database, code_id: int) -> dict[str, Blob]:
    """Return the files of a snapshot, by path."""
    rows = store.rows(
        f"""select c.path, {COLUMNS} from code_files c join blobs b on b.id = c.blob_id
            where c.code_id = ? order by c.path""",
        (code_id,),
    )
    return {row["path"]: Blob.of(row) for row in rows}


def facts(store: Database, code_id: int) -> list[Any]:
    """Return all that decides what a snapshot runs, from its rows as they are now, as JSON can hold it.

    The recorded digest says nothing about rows that were changed since.
    """
    rows = store.rows(
        """select c.path, b.sha, b.codec from code_files c join blobs b on b.id = c.blob_id where c.code_id = ?
           order by c.path""",
        (code_id,),
    )
    program = program_of(store, code_id)
    launched = [] if program.launcher is None else [program.launcher]
    return [
        [program.script_name, program.module, *launched],
        [[row["path"], (row["sha"] or b"").hex(), row["codec"]] for row in rows],
    ]


def script_name(store: Database, code_id: int) -> str:
    """Return the path of the flow's file in a snapshot."""
    return str(store.value("select script_name from codes where id = ?", (code_id,)))


def program_of(store: Database, code_id: int) -> Program:
    """Return the program of a snapshot."""
    [row] = store.rows("select * from codes where id = ?", (code_id,))
    return Program.of(row)


def module_of(code: Row) -> str | None:
    """Return the module in a row of `codes`, which lacks this column in an older file."""
    return code["module"] if "module" in code.keys() else None  # noqa: SIM118  # a row's values are not its keys
