"""The backlog of an older store: the values and numbers of artifacts that it has not recorded.

The migration rewrites no row. The writers that follow describe old artifacts for at most a second each, the newest
tasks first, in transactions that are short however much there is; `vacuum` does all the rest. What can be read without
running code is read. Pickles are loaded by `vacuum` only, where this user's key vouches for them or the store is
trusted, and only small ones of plain types: what 0.1.0 had no other codec for, such as tuples and NumPy's numbers.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from flowstore.errors import FlowstoreError
from flowstore.sqlite.database import Database
from flowstore.store import blobs, codecs, metrics
from flowstore.store.blobs import COLUMNS, Blob
from flowstore.store.plain import NOTHING, Numbers, Plain, describe, full_name, numbers_in

DOSE_S = 1.0  # of each writer's time
_BATCH_S = 0.1  # of a transaction
_TASKS = 200
_MAX_BYTES = 4 << 20  # of a value that is read for its numbers
_PLAIN_TYPES = frozenset(
    {"tuple", "dict", "list", "set", "frozenset", "float", "int", "collections.OrderedDict", "decimal.Decimal"}
)
_PLAIN_MODULES = ("numpy.", "datetime.", "fractions.", "uuid.", "pathlib.")

Load = Callable[[int, Blob], Any]  # the value of a pickle, as part of a run


def work_off(store: Database, seconds: float | None = None, progress: Callable[[int], None] | None = None) -> None:
    """Describe what the tasks of an older flowstore set.

    Args:
        store: where they are.
        seconds: for how long at most; `None`: until all is done.
        progress: is called with the number of tasks that were described, after each transaction.
    """
    until = None if seconds is None else time.monotonic() + seconds
    while until is None or time.monotonic() < until:
        with store.write() as db:
            done = _batch(db)
        if done is None:
            return
        if progress is not None:
            progress(done)


def size(store: Database) -> int:
    """Return how many tasks are left at most."""
    return int(store.value("select last_task_id from backlog") or 0)


def _batch(db: sqlite3.Connection) -> int | None:
    """Describe the newest tasks that are left, as many as a short transaction can; `None` where none is left."""
    row = db.execute("select last_task_id from backlog").fetchone()
    if row is None:
        return None
    last, done, touched = row["last_task_id"], 0, set()
    until = time.monotonic() + _BATCH_S
    tasks = db.execute("select id, run_id from tasks where id <= ? order by id desc limit ?", (last, _TASKS)).fetchall()
    for task in tasks:
        describe_task(db, task["id"])
        touched.add(task["run_id"])
        last, done = task["id"] - 1, done + 1
        if time.monotonic() > until:
            break
    for run_id in touched:
        metrics.settle(db, run_id)
    if done < len(tasks) or len(tasks) == _TASKS:
        db.execute("update backlog set last_task_id = ?", (last,))
    else:
        db.execute("delete from backlog")
    return done


def describe_runs(db: sqlite3.Connection, run_ids: Iterable[int]) -> None:
    """Compute the metrics of runs from the values of their artifacts, in the caller's transaction."""
    for run_id in run_ids:
        db.execute("delete from numbers where run_id = ?", (run_id,))
        for (task_id,) in db.execute("select id from tasks where run_id = ? order by id", (run_id,)).fetchall():
            describe_task(db, task_id)
        metrics.settle(db, run_id)


def describe_task(db: sqlite3.Connection, task_id: int) -> None:
    """Describe what a task set in its last attempt, in the caller's transaction."""
    rows = db.execute(
        f"""select t.run_id, a.name, {COLUMNS}, v.blob_id is not null as is_known, v.value
            from tasks t join artifacts a on a.attempt_id = t.attempt_id join blobs b on b.id = a.blob_id
            left join blob_values v on v.blob_id = b.id
            where t.id = ? and a.merged = 0 order by a.name""",
        (task_id,),
    ).fetchall()
    for row in rows:
        blob, name, numbers = Blob.of(row), row["name"], []
        if row["is_known"]:
            numbers = [] if row["value"] is None else numbers_in(name, row["value"])
        elif (plain := _plain(db, row["run_id"], blob)) is not None:
            blobs.describe(db, blob.id, attrs.evolve(blob.description, plain=plain))
            numbers = [(full_name(name, way), number) for way, number in plain.numbers]
        _insert(db, row["run_id"], task_id, name, numbers)


def _insert(db: sqlite3.Connection, run_id: int, task_id: int, artifact: str, numbers: Numbers) -> None:
    if not artifact.startswith("_"):
        db.executemany(
            "insert into numbers (run_id, task_id, artifact, name, magnitude, final) values (?, ?, ?, ?, ?, 0)",
            [(run_id, task_id, artifact, *number) for number in numbers],
        )


def _plain(db: sqlite3.Connection, run_id: int, blob: Blob, load: Load | None = None) -> Plain | None:
    """Return what plain JSON tells of a blob; `None` where it can't be read here and now."""
    try:
        entry = codecs.entry_of(blob.codec)
        if not entry.has_json or blob.size_bytes > _MAX_BYTES:
            return None
        if entry.runs_code:
            if load is None or blob.data is None or not _is_plain_type(blob.type):
                return None
            return describe(load(run_id, blob))
        value = codecs.decode(blob.codec, iter([b"".join(blobs.read(db, blob))]), blob.size_bytes)
        return codecs.plain_of(blob.codec, value)
    except FlowstoreError:  # its codec is unknown, it was left out, is damaged, or needs a package that is not here
        return None


def _is_plain_type(name: str) -> bool:
    return name in _PLAIN_TYPES or name.startswith(_PLAIN_MODULES)


def load_pickles(store: Database) -> None:
    """Describe the pickles of an older flowstore that may be loaded here."""

    def load(run_id: int, blob: Blob) -> Any:
        return blobs.load(store, blob, "a pickle", run_id=run_id)

    pickles = store.rows(
        """select b.id as blob_id from blobs b where b.codec = 'pickle' and b.data is not null
           and exists (select 1 from artifacts a where a.blob_id = b.id)
           and not exists (select 1 from blob_values v where v.blob_id = b.id)"""
    )
    for pickle in pickles:
        with store.write() as db:
            row = db.execute(f"select {COLUMNS} from blobs b where b.id = ?", (pickle["blob_id"],)).fetchone()
            if row is not None and _is_plain_type(row["type"]):
                _describe_everywhere(db, Blob.of(row), load)
    parameters = store.rows(
        f"""select p.run_id, {COLUMNS} from run_artifacts p join blobs b on b.id = p.blob_id
            where b.codec = 'pickle' and not exists (select 1 from blob_values v where v.blob_id = b.id)"""
    )
    for row in parameters:
        blob = Blob.of(row)
        with store.write() as db:
            plain = _plain(db, row["run_id"], blob, load) or NOTHING
            blobs.describe(db, blob.id, attrs.evolve(blob.description, plain=plain))


def _describe_everywhere(db: sqlite3.Connection, blob: Blob, load: Load) -> None:
    """Describe a pickle that is new, and add its numbers to all tasks that set it, or leave it as it is."""
    tasks = db.execute(
        """select t.id, t.run_id, a.name from artifacts a join tasks t on t.attempt_id = a.attempt_id
           where a.blob_id = ? and a.merged = 0 order by t.id""",
        (blob.id,),
    ).fetchall()
    plains = (_plain(db, run_id, blob, load) for run_id in dict.fromkeys(task["run_id"] for task in tasks))
    plain = next((known for known in plains if known is not None), None)
    if plain is None:
        return
    blobs.describe(db, blob.id, attrs.evolve(blob.description, plain=plain))
    for task in tasks:
        _insert(
            db, task["run_id"], task["id"], task["name"],
            [(full_name(task["name"], way), number) for way, number in plain.numbers],
        )  # fmt: skip
    for run_id in {task["run_id"] for task in tasks}:
        metrics.settle(db, run_id)
