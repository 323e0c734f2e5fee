"""Exports some runs of a store to a new one, row by row: what isn't selected was never in it.

Ids stay as they are, and continue after the source's. Each blob is compared with its hash as it is copied. The file is
written under another name beside its path and moved there in one step, in rollback-journal mode, so that any medium can
serve it.

Blobs larger than asked for are left out: their rows stay, with size, hash and preview, and loading one says so. An
import of the bytes later completes them.

A pickle is signed for the new store only if this user's key vouches for it as part of a run that is exported.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from flowstore._version import __version__
from flowstore.errors import FlowstoreError, NotFound, StoreCorrupt
from flowstore.progress import LARGE_BYTES, Progress
from flowstore.sqlite import files, side_files
from flowstore.sqlite.database import Database
from flowstore.store import backlog, blobs, schema, tables, tags, trust
from flowstore.store.blobs import Blob
from flowstore.store.opening import open_store
from flowstore.transfer import run_blobs
from flowstore.transfer.selection import Selection, run_ids


@attrs.frozen(kw_only=True)
class Wish:
    """A request for an export.

    Attributes:
        selection: which runs.
        logs: whether what tasks printed goes along.
        max_artifact_bytes: the largest artifact that goes along; `None`: all do.
    """

    selection: Selection
    logs: bool = True
    max_artifact_bytes: int | None = None


@attrs.frozen
class Exported:
    """The result: the file, its size, how many runs it has, and how many blobs were left out."""

    path: Path
    size_bytes: int
    runs: int
    left_out: int


def export(store: Database, out: Path, wish: Wish, *, force: bool = False) -> Exported:
    """Write a new store.

    Args:
        store: the source.
        out: where the new one is to be.
        wish: what of the source.
        force: replace a store that is there.

    Raises:
        FlowstoreError: something is there, or can't be written.
        NotFound: nothing is selected.
        StoreCorrupt: the source is damaged; names the artifact.
    """
    target = Path(os.path.realpath(out))
    _check_target(store, target, force=force)
    if store.writable and store.path.stat().st_size > LARGE_BYTES:
        store.use_wal()  # so that nobody who writes has to wait until all of it was read
    with store.read() as source:
        ids = run_ids(store, wish.selection)
        if not ids:
            raise NotFound("No run is selected, so nothing was exported.")
        files.remove_abandoned(target)
        with (
            _clear_errors(out),
            files.temporary_file(target) as temporary,
        ):  # SQLite itself would ignore a generous umask
            left_out = _fill(temporary, store, source, ids, wish)
            try:
                side_files.install(temporary, target, replace=force)
            except FileExistsError:
                raise FlowstoreError(f"{out} appeared meanwhile. Choose another file.") from None
    return Exported(out, target.stat().st_size, len(ids), left_out)


# --- the file


def _check_target(store: Database, target: Path, *, force: bool) -> None:
    if not target.parent.is_dir():
        raise FlowstoreError(f"{target} cannot be written: there is no folder {target.parent}.")
    side_files.check_name(target)
    if not os.path.lexists(target):
        return
    if target.exists() and target.samefile(store.path):
        raise FlowstoreError(f"{target} is the store that is exported. Choose another file.")
    if not force:
        raise FlowstoreError(f"{target} is there already. Choose another file, or replace that store with --force.")
    open_store(target).close()  # nothing but a store is replaced, and what a crash left beside it is dealt with
    if any(target.with_name(target.name + suffix).exists() for suffix in ("-wal", "-shm", "-journal")):
        raise FlowstoreError(f"{target} is in use by another process, so it is not replaced.")


@contextlib.contextmanager
def _clear_errors(out: Path) -> Iterator[None]:
    """Raise errors that say whether the new file or the source is at fault."""
    try:
        yield
    except OSError as error:
        raise FlowstoreError(f"{out} cannot be written: {error.strerror or error}.") from error
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_READONLY")):
            raise FlowstoreError(f"{out} cannot be written: {error}. Nothing was left there.") from error
        if isinstance(error, sqlite3.IntegrityError):
            raise StoreCorrupt(f"The store to export is damaged: {error}. flowstore check says more.") from error
        raise


# --- what is in it


def _fill(new: Path, store: Database, source: sqlite3.Connection, ids: Collection[int], wish: Wish) -> int:
    """Fill the new file; return how many blobs were left out."""
    _check_bases(source, store.path, ids)
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        schema.create(db, __version__)
        db.execute("pragma journal_mode = off")  # of this connection only: what fails here is thrown away
        db.execute("pragma synchronous = off")
        db.execute("begin")
        uuid = db.execute("select uuid from store").fetchone()["uuid"]
        left_out = _copy_blobs(source, db, store, ids, wish.max_artifact_bytes)
        for table in tables.travelling(source, tables.OUT, tables.BOTH):
            if wish.logs or table.name != "log_chunks":
                _copy_rows(source, db, table, ids)
        schema.complete_if_large(db)
        if not run_blobs.are_described(source):
            backlog.describe_runs(db, ids)
        _pair_tags(db)
        _carry_numbers(source, db)
        _sign(source, db, store, uuid, ids)
        trust.claim(db, uuid)
        for wrong in db.execute("pragma foreign_key_check"):
            raise StoreCorrupt(f"{store.path}: a row of {wrong['table']} refers to a missing one of {wrong['parent']}.")
        db.execute("commit")
    return left_out


def _copy_rows(
    source: sqlite3.Connection, db: sqlite3.Connection, table: tables.Table, run_ids: Collection[int]
) -> None:
    query = f"select * from {table.name} where {tables.where(table)}"
    with contextlib.closing(source.execute(query, tables.bound(run_ids))) as rows:
        first = rows.fetchone()
        if first is None:
            return
        schema.ensure_table(db, table.name)
        insert_rows(
            db, table.name, [column[0] for column in rows.description], map(tuple, itertools.chain([first], rows))
        )


def insert_rows(db: sqlite3.Connection, table: str, columns: Collection[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert rows of the same columns."""
    marks = ", ".join("?" * len(columns))
    db.executemany(f"insert into {table} ({', '.join(columns)}) values ({marks})", rows)


def _check_bases(source: sqlite3.Connection, path: Path, ids: Collection[int]) -> None:
    """Check that tasks start from tasks of their own run: else they would need a run that isn't selected."""
    wrong = source.execute(
        f"""select t.id from tasks t left join tasks b on b.id = t.base_id
            where t.run_id in ({tables.RUNS}) and t.base_id is not null and b.run_id is not t.run_id""",
        tables.bound(ids),
    ).fetchone()
    if wrong is not None:
        raise StoreCorrupt(f"{path}: task {wrong['id']} starts from a task of another run, which no run ever wrote.")


def _copy_blobs(
    source: sqlite3.Connection, db: sqlite3.Connection, store: Database, ids: Collection[int], largest: int | None
) -> int:
    left_out = 0
    query = f"select total(size_bytes) from blobs where {tables.where(tables.BY_NAME['blobs'])}"  # `sum` may overflow
    total = source.execute(query, tables.bound(ids)).fetchone()
    with Progress("Exporting", int(total[0])) as progress:
        for row in run_blobs.used(source, ids):
            blob = Blob.of(row)
            too_large = largest is not None and blob.size_bytes > largest and not row["is_code"]
            if row["left_out"] or too_large:
                blobs.insert(db, blob.description, sha=blob.sha, row=blob.id)
                blobs.leave_out(db, blob.id)
                left_out += 1
                continue
            pieces = blobs.chunks_of(blobs.verified(source, store, blob, row["named"]))
            if blob.data is not None:
                blobs.insert(db, blob.description, sha=blob.sha, data=b"".join(pieces), row=blob.id)
            else:
                blobs.insert(db, blob.description, sha=blob.sha, row=blob.id)
                blobs.insert_chunks(db, ((blob.id, n, chunk) for n, chunk in enumerate(pieces)))
            progress.add(blob.size_bytes)
    return left_out


def _pair_tags(db: sqlite3.Connection) -> None:
    tagged: dict[tuple[int, int, int], list[int]] = {}
    for row in db.execute("select run_id, flow_id, created_at, tag_id from run_tags"):
        tagged.setdefault((row["run_id"], row["flow_id"], row["created_at"]), []).append(row["tag_id"])
    for (_, flow_id, created_at), tag_ids in tagged.items():
        tags.pair_tags(db, flow_id, created_at, tag_ids)


def _carry_numbers(source: sqlite3.Connection, db: sqlite3.Connection) -> None:
    """Let ids go on where the source's are: an id that was used there names nothing else here."""
    for table in [name for name in tables.NUMBERED if tables.BY_NAME[name].travels]:
        row = source.execute("select seq from sqlite_sequence where name = ?", (table,)).fetchone()
        if row is not None:
            db.execute("delete from sqlite_sequence where name = ?", (table,))
            db.execute("insert into sqlite_sequence (name, seq) values (?, ?)", (table, row["seq"]))


def _sign(source: sqlite3.Connection, db: sqlite3.Connection, store: Database, uuid: str, ids: Collection[int]) -> None:
    shas = {blob_id: sha for _, blob_id, sha, doubted in run_blobs.pickles(source, ids) if not doubted}
    for blob_id in trust.signed_by_user(store, shas):
        trust.sign(db, uuid, blob_id, shas[blob_id], "pickle")
