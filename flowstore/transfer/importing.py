"""Imports the runs of other stores: of all files that are named, or nothing.

A run is recognised by its uuid, so importing twice is importing once. The ids of runs, tasks and attempts stay as
they are where none of them was ever used here; else they get new ones, a run's tasks all together so that they
stay in order, and whatever names them is changed along. Times stay. `origins` says where each run was.

Blobs come first, under a lease (see `store.staging`); then all rows in one transaction. An older file is read as it
is: what its schema lacks, it has no rows of. Runs that are still going on there are left for another time; those
whose driver died are dead.

A pickle that this user's key vouches for in the other file, as part of the run that it comes with, is signed for
this store. So is any, where the user trusts the other file. Every other one is `unverified` as part of its run.
Deployments stay where they are, and a tag `production:…` authorizes nothing. From a file that is neither the user's own
nor trusted, a tag that names a namespace of this user or store is changed (see `namespaces`), and a time that lies in
the future becomes the present.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import attrs

from flowstore import context
from flowstore.errors import FlowstoreError, StoreCorrupt
from flowstore.progress import Progress
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.liveness import Process, is_dead
from flowstore.store import backlog, blobs, records, schema, snapshots, tables, tags, trust
from flowstore.store.blobs import Blob
from flowstore.store.opening import open_store
from flowstore.store.origins import METAFLOW
from flowstore.store.staging import Incoming, Staging
from flowstore.transfer import run_blobs, soundness
from flowstore.transfer.export import insert_rows
from flowstore.transfer.import_ids import Numbering, Tracing

_RUNS = f"""select r.id, r.uuid, f.name as flow, r.flow_id, r.created_at, r.code_id, r.status, r.last_seen_at,
             {Process.columns("r")}
           from runs r join flows f on f.id = r.flow_id order by r.id"""

_TIMES = frozenset({"created_at", "started_at", "finished_at", "last_seen_at", "written_at", "updated_at"})


@attrs.frozen
class Source:
    """Another store, one state of which is being read.

    Attributes:
        store: the file.
        db: its connection.
        trusted: whether the user trusts it.
        runs: all of its runs.
        running: the ids of those that are still going on.
        measured: whether its values and metrics are taken as they are: this user's runs wrote all of them.
        foreign: whether it is neither the user's own nor trusted: then names and times are not taken at its word.
    """

    store: Database
    db: sqlite3.Connection
    trusted: bool
    runs: Sequence[Row]
    running: Collection[int]
    measured: bool
    foreign: bool


@attrs.define
class Imported:
    """The result of an import.

    Attributes:
        runs: the store's uuid and pathspec there, and the pathspec here, of each run that was added.
        known: the pathspecs there of those that were here already.
        running: of those that are still going on.
        completed: how many left-out blobs of runs that were here already got their bytes.
        copied_bytes: how many bytes of contents were not here before.
        kept_apart: the tags that would have put a run into a namespace of this user or store, and what they are now.
    """

    runs: list[tuple[str, str, str]] = attrs.field(factory=list)
    known: list[str] = attrs.field(factory=list)
    running: list[str] = attrs.field(factory=list)
    completed: int = 0
    copied_bytes: int = 0
    kept_apart: dict[str, str] = attrs.field(factory=dict)


@contextlib.contextmanager
def opened(paths: Sequence[Path]) -> Iterator[list[Source]]:
    """Open files to import from, and look at the whole of each.

    Raises:
        StoreNotFound, NotAStore, StoreCorrupt, StoreTooNew: one can't be imported.
    """
    with contextlib.ExitStack() as stack:
        sources = []
        for path in paths:
            store = open_store(path)
            stack.callback(store.close)
            db = stack.enter_context(store.read())
            soundness.check(db, store.path)
            runs = db.execute(_RUNS).fetchall()
            running = {row["id"] for row in runs if row["status"] == "running" and not is_dead(row)}
            trusted, foreign = trust.is_trusted(store.path, store.uuid), trust.is_foreign(store)
            measured = run_blobs.are_described(db) and not foreign
            sources.append(Source(store, db, trusted, runs, running, measured, foreign))
        yield sources


def import_runs(store: Database, sources: Sequence[Source]) -> Imported:
    """Add the runs of other stores.

    Raises:
        FlowstoreError: a source is the store itself.
        StoreCorrupt: a source is damaged, or breaks a rule that flowstore keeps; nothing was added.
    """
    for source in sources:
        if source.store.path.samefile(store.path):
            raise FlowstoreError(f"{store.path} cannot be imported into itself.")
    store.use_wal()  # others may read while this writes
    records.record_dead_runs(store)
    intake = _Intake(store)
    try:
        done = None
        while done is None:
            _stage(store, sources, intake)
            done = _commit(store, sources, intake)
    finally:
        intake.staging.close()
    done.copied_bytes = intake.taken_bytes
    return done


class _Intake:
    """The blobs that an import brings.

    Attributes:
        staging: where they wait until their rows refer to them.
        taken_bytes: how many bytes there are of them.
    """

    def __init__(self, store: Database) -> None:
        self.staging = Staging(store)
        self.taken_bytes = 0
        self._incoming: dict[tuple[bytes, str], Incoming] = {}
        self.completing: list[Blob] = []  # of runs that are here, without these bytes

    def lacks(self, blob: Blob) -> bool:
        """Return whether a blob has neither been staged nor is in the store."""
        if (blob.sha, blob.codec) in self._incoming:
            return False
        with self.staging.store.read() as db:
            return blobs.find(db, blob.sha, blob.codec) is None

    def left_out(self) -> set[tuple[bytes, str]]:
        """Return hash and codec of each blob whose bytes were left out of the store, and have not been staged."""
        with self.staging.store.read() as db:
            rows = db.execute("select b.sha, b.codec from chunks c join blobs b on b.id = c.blob_id where c.n = -1")
            return {(row["sha"], row["codec"]) for row in rows} - self._incoming.keys()

    def take(self, source: Source, blob: Blob, name: str) -> None:
        """Stage one blob; raise StoreCorrupt, naming it, if its bytes don't match its hash."""
        incoming = self.staging.begin(blob.sha, blob.description)
        self._incoming[blob.sha, blob.codec] = incoming
        self.taken_bytes += blob.size_bytes
        pieces = blobs.chunks_of(blobs.verified(source.db, source.store, blob, name))
        if blob.size_bytes <= blobs.INLINE_BYTES:
            incoming.add(b"".join(pieces))
        else:
            for chunk in pieces:
                incoming.add(bytes(chunk))

    def publish(self, db: sqlite3.Connection, blob: Blob) -> int | None:
        """Make a blob visible in the caller's transaction; return its row, or `None` where it has vanished."""
        incoming = self._incoming.get((blob.sha, blob.codec))
        if incoming is None:  # it was here
            return blobs.find(db, blob.sha, blob.codec)
        return incoming.publish(db)


def _fresh(db: sqlite3.Connection, source: Source) -> list[Row]:
    """Return the runs of a source that are neither here nor still going on."""
    known = {row["uuid"] for row in db.execute("select uuid from runs")}
    return [row for row in source.runs if row["uuid"] not in known and row["id"] not in source.running]


def _stage(store: Database, sources: Sequence[Source], intake: _Intake) -> None:
    """Copy the contents that are not here."""
    with store.read() as db:
        wanted = [(source, [row["id"] for row in _fresh(db, source)]) for source in sources]
    total = sum(row["size_bytes"] for source, ids in wanted for row in run_blobs.used(source.db, ids))
    with Progress("Importing", total) as progress:
        for source, ids in wanted:
            for row in run_blobs.used(source.db, ids):
                blob = Blob.of(row)
                if row["is_code"] and blob.codec != "bytes":
                    raise StoreCorrupt(f"{source.store.path}: {row['named']} is no file's. Nothing was imported.")
                if not row["left_out"] and intake.lacks(blob):
                    intake.take(source, blob, row["named"])
                    progress.add(blob.size_bytes)
        for source, ids in wanted:
            _complete(source, {row["id"] for row in source.runs} - {*ids, *source.running}, intake)
        intake.staging.wait()


def _complete(source: Source, known: Collection[int], intake: _Intake) -> None:
    """Copy what the store lacks, since it was left out, of runs that it has."""
    left_out = intake.left_out()
    for row in run_blobs.used(source.db, known) if left_out else ():
        blob = Blob.of(row)
        if not row["left_out"] and (blob.sha, blob.codec) in left_out:
            intake.take(source, blob, row["named"])
            intake.completing.append(blob)


def _commit(store: Database, sources: Sequence[Source], intake: _Intake) -> Imported | None:
    """Add all rows in one transaction; `None` if contents that were here have vanished meanwhile."""
    done = Imported()
    try:
        with store.write() as db:
            schema.complete(db)
            trust.claim(db, store.uuid)
            done.completed = sum(intake.publish(db, blob) is not None for blob in intake.completing)
            for source in sources:
                fresh = _fresh(db, source)
                added = {row["id"] for row in fresh}
                for row in source.runs:
                    there = f"{row['flow']}/{row['id']}"
                    if row["id"] in source.running:
                        done.running.append(there)
                    elif row["id"] not in added:
                        done.known.append(there)
                arrival = _Arrival(db, store, source, fresh, intake)
                done.runs += arrival.add()
                done.kept_apart |= arrival.kept_apart
    except _Vanished:
        return None
    except sqlite3.IntegrityError as error:
        paths = ", ".join(str(source.store.path) for source in sources)
        raise StoreCorrupt(f"{paths}: a row is not as flowstore writes it ({error}). Nothing was imported.") from error
    return done


class _Vanished(Exception):  # nobody but `_commit` sees it
    """A content that was here when contents were staged has been deleted since."""


class _Arrival:
    """The rows of one source, on their way into the caller's transaction."""

    def __init__(
        self, db: sqlite3.Connection, store: Database, source: Source, fresh: Sequence[Row], intake: _Intake
    ) -> None:
        self._db = db
        self._store = store
        self._source = source
        self._fresh = fresh
        self._intake = intake
        self._ids = [row["id"] for row in fresh]
        self._new = Numbering(source.store.path)
        self._latest_ms = records.now_ms() if source.foreign else None
        self.kept_apart: dict[str, str] = {}

    def add(self) -> list[tuple[str, str, str]]:
        """Insert them; return store, pathspec there and pathspec here of each run."""
        if not self._fresh:
            return []
        self._share()
        self._new.number(self._source.db, self._db, self._ids)
        for table in tables.travelling(self._source.db, tables.BOTH):
            if table.name != "numbers" or self._source.measured:
                self._copy(table)
        self._record_deaths()
        if not self._source.measured:
            backlog.describe_runs(self._db, [self._new["run"][run_id] for run_id in self._ids])
        self._pair_tags()
        self._vouch()
        uuids = {row["id"]: row["uuid"] for row in self._source.runs}
        Tracing(self._source.db, self._db, self._source.store.uuid, uuids).translate(self._ids, self._new)
        return self._record_origins()

    def _share(self) -> None:
        """Find or insert what is shared between runs: contents, snapshots, flows and tags."""
        there, new = self._source.db, self._new
        shas: dict[int, bytes] = {}
        for row in run_blobs.used(there, self._ids):
            blob = Blob.of(row)
            shas[blob.id] = blob.sha
            new["blob"][blob.id] = self._content(blob, left_out=bool(row["left_out"]))
        run_blobs.copy_descriptions(there, self._db, self._source.measured, new["blob"])
        for row in self._used("flows"):
            self._db.execute("insert or ignore into flows (name) values (?)", (row["name"],))
            flow = self._db.execute("select id from flows where name = ?", (row["name"],)).fetchone()
            new["flow"][row["id"]] = flow["id"]
        for row in self._used("tags"):
            new["tag"][row["id"]] = tags.ensure_tag(self._db, self._tag(row["tag"]))
        for row in self._used("codes"):
            new["code"][row["id"]] = self._snapshot(row, shas)

    def _used(self, table: str) -> list[Row]:
        """Return the rows of a shared table that the runs use, as they are there."""
        query = f"select * from {table} where {tables.where(tables.BY_NAME[table])}"
        return self._source.db.execute(query, tables.bound(self._ids)).fetchall()

    def _tag(self, tag: str) -> str:
        """Return the tag to have here: an untrusted one does not put its run into a namespace of this user or store."""
        if not (self._source.foreign and is_ours(self._db, tag)):
            return tag
        self.kept_apart[tag] = kept_apart(tag, self._source.store.uuid)
        return self.kept_apart[tag]

    def _time(self, at_ms: int) -> int:
        """Return a time as it is here: an untrusted run is not from the future, else no run of ours would be newer."""
        return at_ms if self._latest_ms is None else min(at_ms, self._latest_ms)

    def _content(self, blob: Blob, *, left_out: bool) -> int:
        blob_id = self._intake.publish(self._db, blob)
        if blob_id is not None:
            return blob_id
        if not left_out:
            raise _Vanished
        blob_id, _ = blobs.find_described(self._db, blob.sha, blob.codec)
        if blob_id is None:
            blob_id = blobs.insert(self._db, blob.description, sha=blob.sha)
            blobs.leave_out(self._db, blob_id)
        return blob_id

    def _snapshot(self, code: Row, shas: dict[int, bytes]) -> int:
        """Return the row of a snapshot, whose digest is checked, since our own runs look snapshots up by it."""
        rows = self._source.db.execute("select path, blob_id from code_files where code_id = ?", (code["id"],))
        files = {row["path"]: row["blob_id"] for row in rows}
        program = snapshots.Program.of(code)
        sha = snapshots.digest(program, {path: shas[blob_id] for path, blob_id in files.items()})
        if sha != code["sha"]:
            path, name = self._source.store.path, code["script_name"]
            raise StoreCorrupt(f"{path}: a code snapshot of {name} does not match its hash. Nothing was imported.")
        code_id = snapshots.find(self._db, sha)
        if code_id is not None:
            return code_id
        blob_ids = {path: self._new["blob"][blob_id] for path, blob_id in files.items()}
        return snapshots.insert(self._db, sha, program, blob_ids)

    def _copy(self, table: tables.Table) -> None:
        order = "id" if "id" in table.refers else "1, 2"  # new ids are in the order of the old ones
        query = f"select * from {table.name} where {tables.where(table)} order by {order}"
        with contextlib.closing(self._source.db.execute(query, tables.bound(self._ids))) as rows:
            names = [column[0] for column in rows.description]
            maps = [self._mapping(table, name) for name in names]
            renumbered = (
                tuple(
                    value if mapped is None or value is None else mapped(value)
                    for mapped, value in zip(maps, row, strict=True)
                )
                for row in rows
            )
            insert_rows(self._db, table.name, names, renumbered)

    def _mapping(self, table: tables.Table, column: str) -> Callable[[int], int] | None:
        """Return what makes a column's values those that they are here; `None` where they stay."""
        if column in table.refers:
            return self._new[table.refers[column]].__getitem__
        return self._time if column in _TIMES and self._source.foreign else None

    def _record_deaths(self) -> None:
        """Record the death of runs whose driver is gone; nobody else could tell from here."""
        for row in self._fresh:
            if row["status"] == "running":
                records.record_death(self._db, self._new["run"][row["id"]], self._time(row["last_seen_at"]))

    def _pair_tags(self) -> None:
        for row in self._fresh:
            run_id, flow_id = self._new["run"][row["id"]], self._new["flow"][row["flow_id"]]
            rows = self._db.execute("select tag_id from run_tags where run_id = ?", (run_id,)).fetchall()
            tags.pair_tags(self._db, flow_id, self._time(row["created_at"]), [tag["tag_id"] for tag in rows])

    def _vouch(self) -> None:
        pickles = [*run_blobs.pickles(self._source.db, self._ids)]
        mine = trust.signed_by_user(self._source.store, {blob_id for _, blob_id, *_ in pickles})
        for run_id, blob_id, sha, doubted in pickles:
            here = self._new["blob"][blob_id]
            if self._source.trusted or (blob_id in mine and not doubted):
                trust.sign(self._db, self._store.uuid, here, sha, "pickle")
            else:
                trust.mark_unverified(self._db, self._new["run"][run_id], [here])

    def _record_origins(self) -> list[tuple[str, str, str]]:
        at, uuid = records.now_ms(), self._source.store.uuid
        from_metaflow = self._from_metaflow()  # whose addresses keep finding them, in whichever file they come
        added = []
        for row in self._fresh:
            there, run_id = f"{row['flow']}/{row['id']}", self._new["run"][row["id"]]
            origin = (METAFLOW, from_metaflow[row["id"]]) if row["id"] in from_metaflow else (uuid, there)
            self._db.execute("insert into origins values (?, ?, ?, ?)", (run_id, *origin, at))
            added.append((uuid, there, f"{row['flow']}/{run_id}"))
        return added

    def _from_metaflow(self) -> dict[int, str]:
        """Return the addresses in Metaflow of the runs there that come from it, by id."""
        if not tables.has(self._source.db, "origins"):
            return {}
        rows = self._source.db.execute("select run_id, pathspec from origins where store_uuid = ?", (METAFLOW,))
        return {row["run_id"]: row["pathspec"] for row in rows}


def is_ours(db: sqlite3.Connection, tag: str) -> bool:
    """Return whether a tag names this user's namespace or a production namespace of this store, present or past."""
    kind, _, name = tag.partition(":")
    if kind == "user":
        with contextlib.suppress(FlowstoreError):  # an account without a name has no namespace
            return name == context.username()
    if kind != "production":
        return False
    if db.execute("select 1 from production_tokens where token = ?", (name,)).fetchone():
        return True
    return bool(
        db.execute(
            """select 1 from run_tags t join tags g on g.id = t.tag_id where g.tag = ?
               and not exists (select 1 from origins o where o.run_id = t.run_id) limit 1""",
            (tag,),
        ).fetchone()
    )


def kept_apart(tag: str, store_uuid: str) -> str:
    """Return the tag together with the store that it comes from.

    Example:
        >>> kept_apart("user:me", "1a2b3c4d" * 4)
        'user:me@1a2b3c4d'
    """
    proper = re.fullmatch("[0-9a-f]{32}", store_uuid)
    store = store_uuid[:8] if proper else hashlib.sha256(store_uuid.encode()).hexdigest()[:8]
    return f"{tag[: tags.MAX_LENGTH - 9]}@{store}"
