"""Stores that tests make, change and look at."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import sqlite3
import textwrap

from flowstore.maintenance import check
from flowstore.store import blobs, codecs, opening, records, schema, trust
from flowstore.store.opening import open_store
from flowstore.store.untrusted import without_comments
from support.processes import python, told

NEW_RUN = records.NewRun("F", "tester", {"alpha": 0.5}, (), None, ["user:tester"], ["blue"])
CREATE_RUN = """
import sys
from flowstore.store import opening, records
def create(store):
    with store.write() as connection:
        run = records.NewRun("F", "tester", {}, (), None, ["user:tester"], ["blue"])
        return records.create_run(connection, run)
"""


def make_store(path, runs=1):
    """A store at rest with some finished runs, a task and an artifact in each; gives its path."""
    store = opening.ensure_store(path)
    for _ in range(runs):
        task_with(store, x={"accuracy": 0.5})
    store.close()
    return path


def task_with(store, **values):
    """Record a successful run of one task with these artifacts; gives the run's id."""
    with store.write() as connection:
        trust.claim(connection, store.uuid)
        run_id = records.create_run(connection, NEW_RUN)
        step_id = records.ensure_step(connection, run_id, "end")
        task_id = records.start_task(connection, records.NewTask(run_id, step_id, (), None, None))
        attempt_id = records.start_attempt(connection, task_id, 0)
        artifacts = [(name, blobs.put(connection, store, codecs.encode(value)), 0) for name, value in values.items()]
        records.finish_attempt(connection, task_id, attempt_id, records.AttemptEnd("successful", artifacts=artifacts))
        records.finish_run(connection, run_id, "successful")
    return run_id


def files(folder):
    """The names, bytes and times of all files in a folder."""
    return {
        item.name: (hashlib.sha256(item.read_bytes()).hexdigest(), item.stat().st_mtime_ns)
        for item in folder.iterdir()
        if item.is_file()
    }


@contextlib.contextmanager
def untouched(folder):
    """Nothing in the folder is written, made or removed by the block."""
    before = files(folder)
    yield
    assert files(folder) == before


def names_beside(path):
    """The files whose name begins as the store's, hidden drafts included."""
    return sorted(item.name for item in path.parent.iterdir() if path.name in item.name)


def schema_of(make, *, comments=True):
    """What is in a database after `make(connection)` but for sqlite-utils' notes, white space and case levelled."""
    level = str if comments else without_comments
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        make(connection)
        rows = connection.execute("select name, type, tbl_name, sql from sqlite_master").fetchall()
    return {
        name: (*rest, "".join(level(sql or "").lower().split()))
        for name, *rest, sql in rows
        if "_sqlite_migrations" not in name
    }


def complete(path):
    """Give a small store all tables and indexes."""
    with contextlib.closing(open_store(path)) as store, store.write() as db:
        schema.complete(db)


def killed_writer(path, body="create(store)"):
    """A process writes to the store in WAL mode and is killed by SIGKILL; its side files are left."""
    code = CREATE_RUN + textwrap.dedent(
        f"""
        import os, signal
        store = opening.ensure_store(sys.argv[1])
        store.use_wal()
        connection = store.connection()
        {body}
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    told(python(code, path), -signal.SIGKILL)
    assert (path.parent / "flowstore.db-wal").stat().st_size > 0


def assert_sound(path):
    """Nothing is wrong with the store, and no byte in it is unused."""
    with contextlib.closing(open_store(path)) as store:
        report = check.check(store, deep=True)
        assert report.problems == []
        assert [note for note in report.notes if note.kind == "orphans"] == []
        assert store.rows("pragma integrity_check")[0][0] == "ok"
        assert store.rows("pragma foreign_key_check") == []


def sql(path, query, *values):
    """Rows of the store, read without flowstore; a list of values where there is one column."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(query, values).fetchall()
    return [row[0] for row in rows] if rows and len(rows[0]) == 1 else rows


def rows_of(path):
    """How many rows each table has, without those that say what a store is or once was."""
    tables = sql(path, "select name from sqlite_master where type = 'table'")
    known = {"store", "sqlite_sequence", "_sqlite_migrations", "owners", "sqlite_stat1"}
    return {name: sql(path, f"select count(*) from {name}")[0] for name in tables if name not in known}
