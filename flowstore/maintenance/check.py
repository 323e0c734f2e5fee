"""Checks a store: its pages, the invariants of its rows and, in a deep check, every byte of every blob.

Everything is read in one snapshot, so others may write meanwhile; nothing is written. What can't be read is reported
and skipped, so that one damaged page doesn't hide other problems. `repair` fixes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from flowstore.errors import FlowstoreError
from flowstore.sqlite.database import Database
from flowstore.store import codecs, invariants, schema, snapshots, tables
from flowstore.store.blobs import CHUNK_BYTES
from flowstore.store.invariants import Rule
from flowstore.store.problems import REPAIR, UNREADABLE, Problem, blob_location, location
from flowstore.store.staging import ORPHANED
from flowstore.store.tags import COUNTS_SINCE
from flowstore.text import counted

_TYPES = {"INTEGER": "integer", "TEXT": "text", "BLOB": "blob", "REAL": "real"}
_UNUSED = tables.unused("blob", "b.id")
_INDEX = re.compile(r"row \d+ missing from index|wrong # of entries in index|non-unique entry in index")
_VALUE = re.compile(r"value in \w+\.\w+|CHECK constraint failed in")


@attrs.frozen
class Report:
    """The result of a check.

    Attributes:
        problems: what is wrong.
        notes: what is worth knowing.
        runs, blobs: how many there are.
    """

    problems: list[Problem]
    notes: list[Problem]
    runs: int
    blobs: int


def check(store: Database, *, deep: bool = False) -> Report:
    """Look for what is wrong with a store.

    Args:
        store: an open one; it is only read.
        deep: compare every blob with its hash, and every value with its type.
    """
    with _plainly(store) as db:
        items = [*_problems(db, deep=deep)]
        counts = [_count(db, table) for table in ("runs", "blobs where sha is not null")]
    items += library()
    return Report([item for item in items if not item.note], [item for item in items if item.note], *counts)


def _problems(db: sqlite3.Connection, *, deep: bool) -> Iterator[Problem]:
    yield from _pages(db, deep=deep)
    tables = _tables(db)
    yield from _identity(db)
    if deep:
        for table in tables:
            yield from _values(db, table)
    for rule in _rules(db):
        if deep or not rule.deep:
            yield from _broken(db, rule)
    yield from _codes(db)
    yield from _orphans(db)
    if deep:
        yield from _blobs(db)
        yield from _descriptions(db)


@contextlib.contextmanager
def _plainly(store: Database) -> Iterator[sqlite3.Connection]:
    """Read a snapshot without type checks; undecodable text is shown with U+FFFD."""
    with store.read() as db:
        factories = db.row_factory, db.text_factory
        db.row_factory, db.text_factory = sqlite3.Row, _text
        try:
            yield db
        finally:
            db.row_factory, db.text_factory = factories


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _count(db: sqlite3.Connection, what: str) -> int:
    try:
        return int(db.execute(f"select count(*) from {what}").fetchone()[0])
    except UNREADABLE:
        return 0


def _rows(db: sqlite3.Connection, sql: str, values: Any = ()) -> tuple[list[Any], str | None]:
    """Return a query's rows, or none and SQLite's message if it meets an unreadable page."""
    try:
        return db.execute(sql, values).fetchall(), None
    except UNREADABLE as error:
        if "no such table" in str(error) and _version(db) < schema.SCHEMA_VERSION:
            return [], None  # an older store, which is read as it is
        return [], str(error)


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("pragma user_version").fetchone()[0])


# --- the file


def library(version: tuple[int, int, int] = sqlite3.sqlite_version_info[:3]) -> Iterator[Problem]:
    """Yield a note if SQLite itself has a bug that can lose commits (sqlite.org/wal: the WAL-reset bug).

    >>> [note.where for note in library((3, 50, 6))], list(library((3, 51, 3))), list(library((3, 44, 6)))
    (['SQLite 3.50.6'], [], [])
    """
    fixed = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    if not fixed and version >= (3, 7, 0):
        yield Problem(
            "library",
            f"SQLite {'.'.join(map(str, version))}",
            "it has a rare bug that can lose commits where several processes write at once",
            "use a Python whose SQLite is 3.51.3 or later, 3.50.7 or 3.44.6",
            note=True,
        )


def unopened(error: str) -> Problem:
    """Return the problem of a file that can't even be opened."""
    return Problem("file", "the file", error, f"{REPAIR} saves what can be read", repair="saves the rest")


def _pages(db: sqlite3.Connection, *, deep: bool) -> Iterator[Problem]:
    pragma = "integrity_check" if deep else "quick_check"
    messages = _messages(db, pragma)
    if not messages:
        return
    named = {message: table for table in _tables(db) for message in _messages(db, f"{pragma}({table})")}
    for message in dict.fromkeys([*messages, *named]):
        where = named.get(message, "the file")
        if _INDEX.search(message):
            yield Problem.repairable("index", where, message, "builds the index again; nothing is lost")
        elif _VALUE.search(message):
            yield Problem("value", where, message, "flowstore check --deep names the rows")
        else:
            yield _unreadable(where, message)


def _unreadable(where: str, error: str) -> Problem:
    return Problem(
        "page", where, error, f"restore a copy, or: {REPAIR} saves what can be read", repair="saves the rest"
    )


def _messages(db: sqlite3.Connection, pragma: str) -> list[str]:
    """Return the messages of SQLite's own check."""
    rows, error = _rows(db, f"pragma {pragma}")
    messages = [str(row[0]).removeprefix("*** in database main ***\n") for row in rows] + ([error] if error else [])
    return [line for message in messages for line in message.split("\n") if line != "ok"]


def _tables(db: sqlite3.Connection) -> list[str]:
    """Return our tables that the store has; people look after those that they add."""
    rows, _ = _rows(db, "select name from sqlite_master where type = 'table'")
    return [row[0] for row in rows if row[0] in tables.BY_NAME]


def _identity(db: sqlite3.Connection) -> Iterator[Problem]:
    rows, error = _rows(db, "select uuid from store")
    if error is None and len(rows) != 1:
        yield Problem.repairable(
            "identity", "store", "the row that says who this store is has been lost", "gives it a new identity",
            statements=[("insert or ignore into store values (1, lower(hex(randomblob(16))), 0, '')", ())],
        )  # fmt: skip


# --- rows


def _rules(db: sqlite3.Connection) -> list[Rule]:
    try:
        references = [*invariants.references(db)]
    except UNREADABLE:  # the definition of a table, which is reported as a page
        references = []
    counted = db.execute("pragma user_version").fetchone()[0] >= COUNTS_SINCE
    counts = [invariants.COUNTS] if counted else []
    return [*references, *(rule for rule in invariants.ROWS if not _lacks(db, rule)), invariants.PAIRS, *counts]


def _lacks(db: sqlite3.Connection, rule: Rule) -> bool:
    """Return whether a rule is about a column that the file lacks, because its schema is older."""
    if not rule.column:
        return False
    rows, error = _rows(db, f"pragma table_info({rule.table})")
    return error is None and rule.column not in {row["name"] for row in rows}


def _broken(db: sqlite3.Connection, rule: Rule) -> Iterator[Problem]:
    rows, error = _rows(db, rule.find)
    if error is not None:
        yield _unreadable(rule.table, error)
    for row in rows:
        values = {key: row[key] for key in row.keys()}  # noqa: SIM118  # a row iterates over its values
        where = location(db, row, rule.table)
        yield Problem.repairable(
            rule.kind, where, rule.problem.format(**values), rule.repair,
            statements=[(statement, values) for statement in rule.statements],
        )  # fmt: skip


def _values(db: sqlite3.Connection, table: str) -> Iterator[Problem]:
    """Yield the values of another type than their column's, and text that is not UTF-8."""
    db.create_function("is_text", 1, _is_text, deterministic=True)
    columns, _ = _rows(db, f"pragma table_info({table})")
    keys = [column["name"] for column in columns if column["pk"]]
    has_rowid = _rows(db, f"select rowid from {table} limit 0")[1] is None
    identity = ["rowid"] if has_rowid else [f"cast({key} as blob)" for key in keys]
    kind_of = tables.BY_NAME[table].refers.get("id")
    for column in columns:
        name, kind = column["name"], _TYPES[column["type"]]
        kinds = f"('{kind}')" if column["notnull"] or column["pk"] else f"('{kind}', 'null')"
        wrong = f"typeof({name}) not in {kinds}"
        if kind == "text":
            wrong += f" or not is_text(cast({name} as blob))"
        sql = f"select {', '.join(identity)}, cast({name} as blob) from {table} where {wrong}"
        rows, error = _rows(db, sql)
        if error is not None:
            yield _unreadable(table, error)
        for *ids, value in rows:
            where = location(db, {f"{kind_of}_id": ids[0]}, table) if kind_of else table
            same = " and ".join(f"{key} is ?" for key in identity)
            text = _text(bytes(value or b""))
            drop = f"delete from {table} where {same}"
            if name in keys or value is None:
                statements, done = [(drop, ids)], "drops the row"
            else:
                update = f"update or ignore {table} set {name} = cast(? as {kind}) where {same}"
                statements = [
                    (update, [text if kind == "text" else value, *ids]),
                    (f"{drop} and cast({name} as blob) = ? and ? <> ?", [*ids, value, value, text.encode()]),
                ]
                done = "keeps of it what can be read"
            yield Problem.repairable("value", where, f"its {name} is not {kind} ({text[:60]!r})", done, statements)


def _is_text(data: bytes | None) -> bool:
    try:
        (data or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _codes(db: sqlite3.Connection) -> Iterator[Problem]:
    """Yield code snapshots that differ from their hash; names that are not text are reported by `_values`."""
    rows, error = _rows(db, "select * from codes where typeof(script_name) = 'text'")
    if error is not None:
        yield _unreadable("codes", error)
    for row in rows:
        if not isinstance(snapshots.module_of(row), str | None):
            continue
        files, _ = _rows(
            db,
            """select c.path, b.sha from code_files c join blobs b on b.id = c.blob_id
               where c.code_id = ? and typeof(c.path) = 'text'""",
            (row["id"],),
        )
        shas = {path: sha if isinstance(sha, bytes) else b"" for path, sha in files}
        sha = snapshots.digest(snapshots.Program.of(row), shas)
        if sha == row["sha"]:
            continue
        run_id = db.execute("select min(id) from runs where code_id = ?", (row["id"],)).fetchone()[0]
        where = location(db, {"run_id": run_id}, f"code {row['id']}")
        whole = any(path == row["script_name"] for path, _ in files)
        ids = {"id": row["id"], "sha": sha}
        if whole and not _rows(db, "select 1 from codes where sha = ?", (sha,))[0]:
            statements: list[tuple[str, Mapping[str, Any]]] = [("update codes set sha = :sha where id = :id", ids)]
            done = "keeps the files that are there"
        else:
            drops = (
                "update runs set code_id = null where code_id = :id",
                """delete from deployment_parameters
                   where deployment_id in (select id from deployments where code_id = :id)""",
                "delete from deployments where code_id = :id",
                "delete from code_files where code_id = :id",
                "delete from codes where id = :id",
            )
            statements, done = [(statement, ids) for statement in drops], "drops the snapshot"
        yield Problem.repairable("code", where, "its code snapshot is not complete", done, statements)


# --- blobs


def _blobs(db: sqlite3.Connection) -> Iterator[Problem]:
    lost: list[str] = []
    for row in from_both_ends(db, "select id, sha, size_bytes, data from blobs order by id", lost):
        if row["sha"] is None:
            continue
        wrong = _wrong_bytes(db, row)
        if wrong == _LEFT_OUT:
            where = blob_location(db, row["id"])
            yield Problem(
                "left out", where,
                f"its value ({counted(row['size_bytes'], 'byte')}) was left out when the file was exported",
                "flowstore import FILE, of a file that has them", note=True,
            )  # fmt: skip
        elif wrong is not None:
            yield _bad_bytes(db, row["id"], wrong)
    for error in dict.fromkeys(lost):
        yield _unreadable("blobs", error)


def from_both_ends(db: sqlite3.Connection, query: str, lost: list[str]) -> Iterator[Any]:
    """Yield the rows of a query in its order up to an unreadable page, and then from the other end up to one.

    Args:
        db: what to read from.
        query: it ends with an `order by` of columns that identify a row, the first of those that it selects.
        lost: takes SQLite's messages if rows between the two ends can't be read.
    """
    for direction in ("", " desc"):
        try:
            yield from db.execute(query + direction)
        except UNREADABLE as error:
            lost.append(str(error))
        else:
            return


_LEFT_OUT = "left out"


def _wrong_bytes(db: sqlite3.Connection, row: Any) -> str | None:
    """Return what is wrong with a blob's bytes, or `None`."""
    if not isinstance(row["size_bytes"], int) or not isinstance(row["sha"], bytes) or len(row["sha"]) != 32:
        return "its size or hash is malformed"
    digest = hashlib.sha256()
    size, n = 0, -1
    if row["data"] is not None:
        if not isinstance(row["data"], bytes):
            return "its data is not a blob"
        size = len(row["data"])
        digest.update(row["data"])
    while True:
        rows, error = _rows(
            db, "select n, data from chunks where blob_id = ? and n >= ? order by n limit 1", (row["id"], n)
        )
        if error is not None:
            return f"its bytes cannot be read ({error})"
        if not rows:
            break
        if rows[0]["n"] == -1:
            return _LEFT_OUT if row["data"] is None else "it has bytes, and is said to have been left out"
        expected = max(n, 0)
        if row["data"] is not None or rows[0]["n"] != expected or not isinstance(rows[0]["data"], bytes):
            return f"its bytes are not complete: piece {expected} is missing or out of place"
        if size != expected * CHUNK_BYTES:
            return f"its bytes are not complete: the piece before {expected} is too short"
        size += len(rows[0]["data"])
        digest.update(rows[0]["data"])
        n = expected + 1
    if size != row["size_bytes"]:
        return f"it has {counted(size, 'byte')} instead of {row['size_bytes']}"
    return None if digest.digest() == row["sha"] else "its bytes do not match their hash"


def _bad_bytes(db: sqlite3.Connection, blob_id: int, wrong: str) -> Problem:
    used = sum(
        db.execute(f"select count(*) from {table} where {column} = ?", (blob_id,)).fetchone()[0]
        for table, column in tables.keepers("blob")
        if table != "leases" and tables.has(db, table)
    )
    others = f"; so is that of {used - 1} more" if used > 1 else ""
    return Problem(
        "content", blob_location(db, blob_id), f"{wrong}{others}", f"restore a copy, or: {REPAIR} drops it",
        repair="drops it",
        statements=[(statement, {"blob_id": blob_id}) for statement in invariants.without_blob()],
    )  # fmt: skip


def _descriptions(db: sqlite3.Connection) -> Iterator[Problem]:
    """Yield values as plain JSON that are not those of their bytes, if these can be read without running code."""
    marks = ", ".join("?" * len(codecs.WITH_JSON_BESIDE))
    rows, error = _rows(
        db,
        f"""select v.blob_id, v.value, b.codec, b.size_bytes, b.data from blob_values v join blobs b on b.id = v.blob_id
           where b.codec in ({marks}) and v.value is not null and typeof(b.data) = 'blob'""",
        codecs.WITH_JSON_BESIDE,
    )
    if error is not None:
        yield _unreadable("blob_values", error)
    for row in rows:
        try:
            plain = codecs.plain_of(row["codec"], codecs.decode(row["codec"], iter([row["data"]]), row["size_bytes"]))
        except FlowstoreError:  # its bytes are damaged, which is reported elsewhere, or need a package that is not here
            continue
        if plain.value != row["value"]:
            values = {
                "blob_id": row["blob_id"],
                "value": plain.value,
                "exact": int(plain.exact),
                "number": plain.number,
            }
            yield Problem.repairable(
                "value", blob_location(db, row["blob_id"]), "its value as plain JSON is not that of its bytes",
                "writes it again",
                statements=[(
                    """update blob_values set value = :value, exact = :exact, magnitude = :number
                       where blob_id = :blob_id""",
                    values,
                )],
            )  # fmt: skip


def _orphans(db: sqlite3.Connection) -> Iterator[Problem]:
    """Yield a note about what a crash left: nobody sees it, and `vacuum` removes it."""
    rows, _ = _rows(
        db,
        f"""select count(*), cast(total(size_bytes) as integer) from blobs b
            where case when sha is null then {ORPHANED} else {_UNUSED} end""",
    )
    for count, size in rows:
        if count:
            yield Problem(
                "orphans", "blobs", f"{count} of {size} bytes are not used, as after a crash", "flowstore vacuum",
                note=True,
            )  # fmt: skip
