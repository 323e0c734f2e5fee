"""The store is one file: found by rule, refused when it is something else, shared by processes, one again at rest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from harness import FOREACH, LINEAR, flow_source

import flowstore
from flowstore import context
from flowstore.errors import FlowstoreError, NotAStore, StoreCorrupt, StoreNotFound, StoreTooNew
from flowstore.store import blobs, codecs, db, journal, locate, place, records, schema, trust
from flowstore.store.staging import Staging, Writer

NEW_RUN = records.NewRun("F", "tester", {"alpha": 0.5}, (), None, ["user:tester"], ["blue"])
CREATE_RUN = """
import sys
from flowstore.store import db, records
def create(store):
    with store.write() as connection:
        run = records.NewRun("F", "tester", {}, (), None, ["user:tester"], ["blue"])
        return records.create_run(connection, run)
"""
AS_NOBODY = """
import os, shutil, sys, tempfile
import flowstore
from flowstore.store import blobs, codecs, db, liveness, locate, pickling, queries, records, trust
if os.geteuid() == 0:  # which may do anything, also what the file's mode forbids
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


@pytest.fixture
def path(tmp_path):
    """Where a test's store is, unless it says otherwise."""
    return tmp_path / "flowstore.db"


def make_store(path, runs=1):
    """A store at rest with some finished runs, a task and an artifact in each; gives its path."""
    store = db.ensure_store(path)
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
        task_id = records.start_task(connection, run_id, step_id, (), None, None)
        attempt_id = records.start_attempt(connection, task_id, 0)
        artifacts = [(name, blobs.put(connection, store, codecs.encode(value)), 0) for name, value in values.items()]
        records.finish_attempt(connection, task_id, attempt_id, "successful", artifacts=artifacts)
        records.finish_run(connection, run_id, "successful")
    return run_id


def python(code, *args, folder=None, **options):
    """Begin `python -c CODE`, its warnings being errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        **options,
    )


def told(process, code=0):
    """What a process printed, by the time that it ended with this exit code."""
    with process:
        try:
            stdout, stderr = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == code, stderr
    return stdout


def together(setup, body, *args, count=8):
    """Run `body` in several processes that start it at the same moment; gives what each printed."""
    gate = "\nprint('ready', flush=True); sys.stdin.readline()\n"
    code = setup + gate + textwrap.dedent(body)
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(python(code, *args)) for _ in range(count)]
        for process in processes:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return [told(process) for process in processes]


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


# --- which file


def test_the_nearest_file_of_a_parent_is_the_store_and_said_on_stderr(tmp_path, path, monkeypatch, capsys):
    """The nearest flowstore.db upwards is the store; its path is told when it is not in the current folder."""
    make_store(path)
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert flowstore.get_store() == path
    out, err = capsys.readouterr()
    assert out == ""
    assert str(path) in err


def test_the_store_of_the_current_folder_is_used_without_a_word(path, capsys):
    """A store in the current folder needs no announcement."""
    make_store(path)
    assert flowstore.get_store() == path
    assert capsys.readouterr() == ("", "")


def test_the_variable_goes_before_the_nearest_file(tmp_path, path, monkeypatch, capsys):
    """$FLOWSTORE_STORE wins over a flowstore.db in the current folder."""
    make_store(path)
    other = make_store(tmp_path / "other.db")
    monkeypatch.setenv("FLOWSTORE_STORE", "other.db")
    assert flowstore.get_store() == other
    assert capsys.readouterr().err == ""


def test_the_option_goes_before_the_variable(flow, tmp_path):
    """--store wins over $FLOWSTORE_STORE, before the command and after it."""
    script = flow(flow_source(LINEAR))
    wrong = str(tmp_path / "wrong.db")
    script("--store", "one.db", "run", FLOWSTORE_STORE=wrong)
    script("run", "--store", "one.db", FLOWSTORE_STORE=wrong)
    assert sorted(item.name for item in tmp_path.glob("*.db")) == ["one.db"]
    with contextlib.closing(sqlite3.connect(tmp_path / "one.db")) as connection:
        assert connection.execute("select count(*) from run_summary where status = 'successful'").fetchone() == (2,)


def test_a_missing_store_is_an_error_that_names_the_places(tmp_path, monkeypatch):
    """StoreNotFound lists every place that was looked at, and is a FileNotFoundError."""
    deep = tmp_path / "a"
    deep.mkdir()
    monkeypatch.chdir(deep)
    with pytest.raises(StoreNotFound) as caught:
        flowstore.get_store()
    for folder in (deep, *deep.parents):
        assert str(folder / "flowstore.db") in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    assert list(deep.iterdir()) == []


def test_a_missing_store_of_the_variable_is_the_only_place_named(tmp_path, path, monkeypatch):
    """Where $FLOWSTORE_STORE points nowhere, nothing else is taken instead."""
    make_store(path)
    monkeypatch.setenv("FLOWSTORE_STORE", str(tmp_path / "gone.db"))
    with pytest.raises(StoreNotFound) as caught:
        flowstore.Flows()
    assert "gone.db" in str(caught.value)
    assert str(path) not in str(caught.value)


def test_the_store_is_chosen_at_first_use(tmp_path, path, monkeypatch):
    """Going elsewhere afterwards doesn't change the store of the process."""
    make_store(path)
    assert flowstore.get_store() == path
    (tmp_path / "elsewhere").mkdir()
    make_store(tmp_path / "elsewhere" / "flowstore.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert flowstore.get_store() == path


def test_writing_where_there_is_none_makes_one_in_the_current_folder(tmp_path, path):
    """The default of writing commands is ./flowstore.db."""
    assert locate.ensure_active_store().path == path
    assert names_beside(path) == ["flowstore.db"]


def test_writing_below_a_store_uses_it(tmp_path, path, monkeypatch, capsys):
    """A store of a parent folder is written to, and said."""
    make_store(path)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert locate.ensure_active_store().path == path
    assert str(path) in capsys.readouterr().err


def test_use_store_switches_the_process(tmp_path):
    """Called as a function, use_store switches for good."""
    one, two = make_store(tmp_path / "one.db"), make_store(tmp_path / "two.db", runs=2)
    flowstore.namespace(None)
    flowstore.use_store(one)
    assert flowstore.get_store() == one
    assert [run.id for run in flowstore.Flow("F")] == ["1"]
    flowstore.use_store(str(two))
    assert flowstore.get_store() == two
    assert [run.id for run in flowstore.Flow("F")] == ["2", "1"]


def test_use_store_for_a_block(tmp_path):
    """As a context manager it gives the path, nests, and restores what was there, after an error too."""
    one, two = make_store(tmp_path / "one.db"), make_store(tmp_path / "two.db")
    flowstore.use_store(one)
    with pytest.raises(ZeroDivisionError), flowstore.use_store(two) as path:  # noqa: PT012
        assert path == flowstore.get_store() == two
        with flowstore.use_store(one):
            assert flowstore.get_store() == one
        assert flowstore.get_store() == two
        1 / 0  # noqa: B018
    assert flowstore.get_store() == one


def test_use_store_for_a_block_in_a_process_without_one(tmp_path, path):
    """After the block, the usual rule holds again."""
    other = make_store(tmp_path / "other.db")
    with flowstore.use_store(other):
        pass
    make_store(path)
    assert flowstore.get_store() == path


def test_a_failed_switch_changes_nothing(tmp_path, path):
    """Opening errors are raised at once, and the store of before stays."""
    make_store(path)
    flowstore.use_store(path)
    with pytest.raises(StoreNotFound, match="gone"):
        flowstore.use_store(tmp_path / "gone.db")
    assert flowstore.get_store() == path
    assert not (tmp_path / "gone.db").exists()


def test_a_store_in_a_missing_folder_is_one_clear_error(tmp_path):
    """A store is not made in a folder that isn't there."""
    with pytest.raises(FlowstoreError, match="no folder"):
        db.ensure_store(tmp_path / "missing" / "flowstore.db")
    assert list(tmp_path.iterdir()) == []


def test_paths_with_special_characters(tmp_path):
    """A path is a path, whatever a URI would make of it."""
    for name in ("a b.db", "100%25?mode=memory#x.db", "ä&ö;.db", "-v.db"):
        make_store(tmp_path / name)
        assert db.open_store(tmp_path / name).value("select count(*) from runs") == 1


# --- wrong files


def other_sqlite(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table t (x)")


def shortened(path, size):
    path.write_bytes(path.read_bytes()[:size])


def overwritten(path, at, data):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


WRONG = {
    "text": (lambda path: path.write_text("name,age\nann,3\n" * 40), NotAStore, "not an SQLite file"),
    "empty": (lambda path: path.write_bytes(b""), NotAStore, "not an SQLite file"),
    "sqlite of others": (other_sqlite, NotAStore, "not a flowstore store"),
    "folder": (lambda path: path.mkdir(), NotAStore, "folder"),
    "header only": (lambda path: (make_store(path), shortened(path, 99)), NotAStore, "not an SQLite file"),
    "cut in half": (lambda path: (make_store(path), shortened(path, 20 * schema.PAGE_SIZE)), StoreCorrupt, "damaged"),
    "cut by a page": (lambda path: (make_store(path), shortened(path, -schema.PAGE_SIZE)), StoreCorrupt, "damaged"),
    "page size": (lambda path: (make_store(path), overwritten(path, 16, b"\0\0")), StoreCorrupt, "damaged"),
    "schema page": (lambda path: (make_store(path), overwritten(path, 100, b"\xff" * 4000)), StoreCorrupt, "damaged"),
    "newer": (
        lambda path: (make_store(path), overwritten(path, 60, (schema.SCHEMA_VERSION + 1).to_bytes(4, "big"))),
        StoreTooNew,
        "pip install",
    ),
    "missing": (lambda path: None, StoreNotFound, "no store at"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_refused_and_not_written(path, kind):
    """Each kind of wrong file has its error, naming the file; not one byte is written, whether reading or writing."""
    make, error, words = WRONG[kind]
    make(path)
    with untouched(path.parent):
        with pytest.raises(error, match=words) as caught:
            flowstore.use_store(path)
        assert str(path) in str(caught.value)
        if kind != "missing":
            with pytest.raises(error, match=words):
                db.ensure_store(path)
    assert context.state.store is None


def test_a_newer_schema_in_the_log_is_not_written(path):
    """A newer schema that is still in the write-ahead log is refused, and the log stays as it is."""
    make_store(path)
    killed_writer(path, f"connection.execute('pragma user_version = {schema.SCHEMA_VERSION + 1}')")
    before = path.read_bytes(), (path.parent / "flowstore.db-wal").read_bytes()
    with pytest.raises(StoreTooNew):
        flowstore.use_store(path)
    assert (path.read_bytes(), (path.parent / "flowstore.db-wal").read_bytes()) == before


# --- schema and migration

MIGRATION = ("m999_notes", "create table notes (run_id integer) strict; alter table runs add column remark text;")


def with_migrations(monkeypatch, *migrations):
    """Make this flowstore one version newer for each."""
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, *migrations))
    monkeypatch.setattr(schema, "SCHEMA_VERSION", len(schema.MIGRATIONS))


def schema_of(make):
    """What is in a database after `make(connection)`, SQL's white space and case levelled, and the migrations noted."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        make(connection)
        rows = connection.execute("select name, type, tbl_name, sql from sqlite_master").fetchall()
        noted = connection.execute("select migration_set, name from _sqlite_migrations").fetchall()
    return {name: (*rest, "".join((sql or "").lower().split())) for name, *rest, sql in rows}, noted


def test_creating_and_migrating_give_the_same_schema():
    """A store made by `create` has the schema that sqlite-utils' migrations make from nothing."""

    def migrate(connection):
        connection.execute("begin immediate")
        schema.migrate(connection)
        connection.execute("commit")

    assert schema_of(lambda connection: schema.create(connection, "1")) == schema_of(migrate)


def test_an_older_store_is_migrated_at_the_first_write(path, monkeypatch):
    """Reading an older store leaves it as it is; the first write migrates it, once."""
    make_store(path)
    with_migrations(monkeypatch, MIGRATION)
    with untouched(path.parent):
        store = db.open_store(path)
        assert store.value("select count(*) from runs") == 1
        store.close()
    with store.write() as connection:
        connection.execute("insert into notes values (1)")
    assert store.value("pragma user_version") == schema.SCHEMA_VERSION
    assert store.value("select count(*) from _sqlite_migrations") == schema.SCHEMA_VERSION
    assert store.value("select remark from runs") is None
    store.close()
    again = db.open_store(path)
    assert again.value("select count(*) from notes") == 1
    again.close()
    assert names_beside(path) == ["flowstore.db"]


def test_an_older_store_is_read_where_it_cannot_be_written(path, monkeypatch):
    """A read-only older store is read without a migration."""
    make_store(path)
    with_migrations(monkeypatch, MIGRATION)
    with untouched(path.parent):
        store = db.Store(path, writable=False)
        assert store.value("select flow from run_summary") == "F"
        with pytest.raises(FlowstoreError, match="can't be written"), store.write():
            pass
        store.close()


@pytest.mark.parametrize("where", ["migration", "write"])
def test_migration_and_first_write_are_one_transaction(path, monkeypatch, where):
    """If the migration or the write that caused it fails, the store keeps its old schema."""
    make_store(path)
    broken = ("m999_broken", "create table notes (x); insert into nowhere values (1);")
    with_migrations(monkeypatch, broken if where == "migration" else MIGRATION)
    store = db.open_store(path)
    with pytest.raises(sqlite3.OperationalError), store.write() as connection:
        connection.execute("insert into nowhere values (1)")
    assert store.value("pragma user_version") == schema.SCHEMA_VERSION - 1
    assert store.value("select count(*) from sqlite_master where name = 'notes'") == 0
    assert store.value("select count(*) from _sqlite_migrations") == schema.SCHEMA_VERSION - 1
    store.close()


def test_eight_processes_migrate_one_store_at_once(path):
    """Whoever comes first migrates; the others find it done."""
    make_store(path)
    setup = f"""{CREATE_RUN}
import sqlite_utils
from flowstore.store import schema
schema.MIGRATIONS = (*schema.MIGRATIONS, {MIGRATION!r})
schema.SCHEMA_VERSION = len(schema.MIGRATIONS)
"""
    said = together(setup, "store = db.open_store(sys.argv[1]); print(create(store)); store.close()", path)
    assert sorted(map(int, said)) == list(range(2, 10))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma user_version").fetchone() == (schema.SCHEMA_VERSION + 1,)


def test_the_file_says_what_it_is(path):
    """application_id, user_version and a UUID of its own identify a store."""
    make_store(path)
    store, other = db.open_store(path), db.ensure_store(path.with_name("other.db"))
    assert store.value("pragma application_id") == 0x666C6F77
    assert store.value("pragma user_version") == schema.SCHEMA_VERSION
    assert len(store.uuid) == 32
    assert store.uuid != other.uuid
    store.close()
    other.close()


TAMPERED = {
    "sly": "create trigger sly after insert on runs begin delete from runs; end",
    "fts": "create virtual table fts using fts5(text)",
    "lineage": "drop view lineage; create view lineage as select 1 as task_id, 2 as parent_task_id",
    "runs_by_time": "drop index runs_by_time; create index runs_by_time on runs (user)",
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_stranger_s_schema_is_compared(path, name):
    """A store that was given a trigger, a virtual table or other definitions of our objects is refused, naming it."""
    make_store(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(TAMPERED[name])
    with pytest.raises(StoreCorrupt, match=name):
        flowstore.use_store(path)


def test_statistics_and_own_tables_are_fine(path):
    """`analyze`, and tables, views and indexes that people add to their own store, are no damage."""
    make_store(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "analyze; create table notes (text); create index notes_by_text on notes (text);"
            "create view mine as select * from run_summary"
        )
    flowstore.namespace(None)
    flowstore.use_store(path)
    assert flowstore.Run("F/1").data.x == {"accuracy": 0.5}


# --- many processes


@pytest.mark.parametrize("wal", [True, False])
def test_eight_processes_make_and_write_one_store_at_once(path, wal):
    """Making a store and writing to it from eight processes: no error, no id twice, one file at rest."""
    body = f"""
store = db.ensure_store(sys.argv[1])
if {wal}:
    store.use_wal()
print(*[create(store) for _ in range(25)])
store.close()
"""
    ids = [int(word) for said in together(CREATE_RUN, body, path) for word in said.split()]
    assert sorted(ids) == list(range(1, 201))
    assert names_beside(path) == ["flowstore.db"]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        assert connection.execute("pragma journal_mode").fetchone() == ("delete",)
        assert connection.execute("select count(*) from runs").fetchone() == (200,)


def test_reading_before_writing_in_many_processes_is_never_locked(path):
    """A transaction that reads first and then writes waits its turn, and loses nothing."""
    make_store(path)
    body = """
store = db.open_store(sys.argv[1])
store.use_wal()
for _ in range(100):
    with store.write() as connection:
        count = connection.execute("select last_seen_at from runs where id = 1").fetchone()[0]
        connection.execute("update runs set last_seen_at = ? where id = 1", (count + 1,))
    store.rows("select run_id from run_summary")
store.close()
"""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        before = connection.execute("select last_seen_at from runs").fetchone()[0]
    together(CREATE_RUN, body, path, count=4)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("select last_seen_at - ? from runs", (before,)).fetchone() == (400,)


def test_one_file_at_rest_after_eight_processes_open_and_close(path):
    """However many open and close it, readers and writers, the last one leaves one file."""
    make_store(path)
    body = """
import os
for n in range(12):
    store = db.open_store(sys.argv[1])
    if (n + os.getpid()) % 2:
        store.use_wal()
        create(store)
    store.value("select count(*) from runs")
    store.close()
"""
    together(CREATE_RUN, body, path)
    assert names_beside(path) == ["flowstore.db"]


def test_eight_that_close_at_once_leave_a_file_that_any_medium_serves(path):
    """Those who close at the same moment don't keep each other from the switch back to a rollback journal."""
    make_store(path)
    setup = f"{CREATE_RUN}\nstore = db.open_store(sys.argv[1]); store.use_wal(); create(store)"
    for _ in range(4):
        together(setup, "store.close()", path)
        assert names_beside(path) == ["flowstore.db"]
        assert path.read_bytes()[18:20] == b"\x01\x01"


def test_an_idle_reader_only_postpones_the_one_file(path):
    """While somebody has the store open the log stays; when the last one closes it is gone."""
    make_store(path)
    reader, writer = db.open_store(path), db.open_store(path)
    writer.use_wal()
    with writer.write() as connection:
        records.create_run(connection, NEW_RUN)
    assert reader.value("select count(*) from runs") == 2
    writer.close()
    assert reader.value("select count(*) from runs") == 2
    reader.close()
    assert names_beside(path) == ["flowstore.db"]


@pytest.mark.parametrize(("driver", "most"), [(True, 45 << 20), (False, 80 << 20)], ids=["of a driver", "of others"])
def test_the_log_has_a_bound(path, driver, most):
    """Whoever writes much copies the log before it is long: a run, or others while a notebook keeps the log alive."""
    make_store(path)
    reader, writer = db.open_store(path), db.open_store(path)
    with contextlib.closing(reader), contextlib.closing(writer):
        reader.use_wal()
        if driver:
            writer.use_wal()
        for n in range(160):
            with writer.write() as connection:
                records.append_log(connection, [(1, "stdout", n, "x" * (1 << 20))])
        assert place.side(path, "-wal").stat().st_size < most
    assert names_beside(path) == ["flowstore.db"]


def test_a_process_that_ends_leaves_one_file(path):
    """A script that never closes anything closes its store when it ends."""
    make_store(path)
    told(python("import flowstore; flowstore.namespace(None); print(list(flowstore.Flows()))", folder=path.parent))
    assert names_beside(path) == ["flowstore.db"]


def killed_writer(path, body="create(store)"):
    """A process writes to the store in WAL mode and is killed by SIGKILL; its side files are left."""
    code = CREATE_RUN + textwrap.dedent(
        f"""
        import os, signal
        store = db.ensure_store(sys.argv[1])
        store.use_wal()
        connection = store.connection()
        {body}
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    told(python(code, path), -signal.SIGKILL)
    assert (path.parent / "flowstore.db-wal").stat().st_size > 0


def test_a_killed_process_leaves_side_files_until_the_next_one(path):
    """What a killed process had committed is there; the next open and close leave one file."""
    make_store(path)
    killed_writer(path)
    store = db.open_store(path)
    assert store.value("select count(*) from runs") == 2
    store.close()
    assert names_beside(path) == ["flowstore.db"]


def test_what_a_killed_process_had_not_committed_is_gone(path):
    """A transaction that was open when its process was killed never happened."""
    make_store(path)
    new = "records.create_run(connection, records.NewRun('G', 'u', {}, (), None, [], []))"
    killed_writer(path, f"create(store); connection.execute('begin immediate'); {new}")
    store = db.open_store(path)
    assert store.value("select count(*) from runs") == 2
    assert store.value("pragma integrity_check") == "ok"
    store.close()


FORK = """
import os, signal, threading
def in_child(action):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return pid
def wait(pid):
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"the child ended with {status}"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("wal", [True, False])
def test_a_process_with_an_open_store_may_fork(path, wal):
    """Parent and children that use the store after a fork lose nothing and leave one file."""
    code = f"""{CREATE_RUN}{FORK}
store = db.ensure_store(sys.argv[1])
if {wal}:
    store.use_wal()
def work():
    for _ in range(30):
        create(store)
    store.close()
create(store)
for _ in range(3):
    children = [in_child(work) for _ in range(2)]
    create(store)
    for pid in children:
        wait(pid)
store.close()
"""
    told(python(code, path))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("select count(*) from runs").fetchone() == (1 + 3 * 61,)
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    assert names_beside(path) == ["flowstore.db"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_while_another_thread_reads(path):
    """A child can use the store although another thread of its parent was reading at the fork."""
    code = f"""{CREATE_RUN}{FORK}
store = db.ensure_store(sys.argv[1])
create(store)
inside, done = threading.Event(), threading.Event()
def read():
    with store.read() as connection:
        connection.execute("select count(*) from runs").fetchone()
        inside.set()
        done.wait(0.5)
thread = threading.Thread(target=read)
thread.start()
inside.wait()
pid = in_child(lambda: create(store))
done.set()
thread.join()
wait(pid)
assert create(store) == 3
store.close()
"""
    told(python(code, path))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_inside_a_read_leaves_the_child_without_the_connection(path):
    """A child forked in the middle of a read never uses its parent's connection: SQLite forbids it."""
    code = f"""{CREATE_RUN}{FORK}
store = db.ensure_store(sys.argv[1])
create(store)
with store.read() as connection:
    connection.execute("select count(*) from runs").fetchone()
    def child():
        assert store.connection() is not connection
        assert store.value("select count(*) from runs") == 1
    wait(in_child(child))
    connection.execute("select count(*) from runs").fetchone()
store.close()
"""
    told(python(code, path))


def test_a_second_store_of_one_file_keeps_the_locks_of_the_first(path):
    """Opening a file that this process has open must not drop SQLite's locks, as closing any descriptor of it would."""
    first = db.ensure_store(path)
    code = (
        "import sqlite3, sys\nfile = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "try: print(file.execute('begin immediate').fetchall())\n"
        "except sqlite3.OperationalError as error: print(error)\nfile.close()"
    )
    with first.write() as connection:
        connection.execute("insert into flows (name) values ('F')")
        second = db.open_store(path)
        assert "locked" in told(python(code, path))
    second.close()
    first.close()


def test_threads_share_a_store(path):
    """Threads of one process may use one store."""
    store = db.ensure_store(path)
    ids = []

    def work():
        for _ in range(10):
            with store.write() as connection:
                ids.append(records.create_run(connection, NEW_RUN))
            store.rows("select run_id from run_summary")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids) == list(range(1, 41))
    store.close()


def test_a_reader_sees_one_state(path):
    """All that is read within one `read` is of one moment, whatever others write meanwhile."""
    make_store(path)
    one, two = db.open_store(path), db.open_store(path)
    two.use_wal()
    with one.read() as reading:
        assert reading.execute("select count(*) from runs").fetchone()[0] == 1
        with two.write() as writing:
            records.create_run(writing, NEW_RUN)
        assert reading.execute("select count(*) from runs").fetchone()[0] == 1
    assert one.value("select count(*) from runs") == 2
    one.close()
    two.close()


def test_a_write_that_fails_writes_nothing(path):
    """An exception inside `write` undoes all of it, and the store can be used on."""
    store = db.ensure_store(path)
    with pytest.raises(KeyError), store.write() as connection:  # noqa: PT012
        records.create_run(connection, NEW_RUN)
        raise KeyError("stop")
    assert store.value("select count(*) from runs") == 0
    assert task_with(store, x=1) == 1
    store.close()


# --- media that refuse

READ_ALL = """
os.chdir("/")
flowstore.use_store(sys.argv[1])
flowstore.namespace(None)
[run] = list(flowstore.Flow("F"))
print(run.status, run.data.x["accuracy"], sorted(run.user_tags))
try:
    db.ensure_store(sys.argv[1])
except flowstore.FlowstoreError as error:
    print(error)
"""


def refusal(path, use):
    """The one clear error that an ordinary user gets for a path; anything else fails the test."""
    body = f"try:\n    {use}(sys.argv[1])\nexcept flowstore.FlowstoreError as error:\n    print(error)"
    return told(python(AS_NOBODY + body, path))


@pytest.mark.parametrize("header", ["rollback", "log"])
@pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o444, 0o777), (0o666, 0o555), (0o444, 0o555)])
def test_a_read_only_file_or_folder_can_be_read(open_folder, file_mode, folder_mode, header):
    """The Client reads a store that can't be written, also one that was left in WAL mode; writing says why."""
    path = make_store(open_folder / "flowstore.db")
    if header == "log":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("pragma journal_mode = wal")
        assert names_beside(path) == ["flowstore.db"]
    path.chmod(file_mode)
    open_folder.chmod(folder_mode)
    with untouched(open_folder):
        said = told(python(AS_NOBODY + READ_ALL, path)).splitlines()
    assert said[0] == "successful 0.5 ['blue']"
    assert "can't be written" in said[1]


def test_a_log_beside_a_read_only_file_is_a_clear_error(open_folder):
    """A store that needs recovery, where that can't be done, says so and what to do."""
    path = make_store(open_folder / "flowstore.db")
    killed_writer(path)
    (open_folder / "flowstore.db-shm").unlink()
    path.chmod(0o444)
    (open_folder / "flowstore.db-wal").chmod(0o444)
    open_folder.chmod(0o555)
    with untouched(open_folder):
        said = refusal(path, "flowstore.use_store")
    assert "needs recovery" in said
    assert "flowstore.db-wal" in said


@pytest.mark.parametrize("what", ["new store", "store that is there"])
def test_a_store_in_a_forbidden_folder_is_one_clear_error(open_folder, what):
    """A folder that may not be entered is one clear error, for reading and for writing."""
    inner = open_folder / "private"
    inner.mkdir()
    if what != "new store":
        make_store(inner / "flowstore.db")
    inner.chmod(0o700 if os.geteuid() == 0 else 0o000)
    said = [refusal(inner / "flowstore.db", use) for use in ("flowstore.use_store", "db.ensure_store")]
    inner.chmod(0o755)
    assert all(str(inner) in message for message in said)


def test_no_store_is_made_in_a_read_only_folder(open_folder):
    """Where no file can be made, that is one clear error."""
    open_folder.chmod(0o555)
    assert "can't be created" in refusal(open_folder / "flowstore.db", "db.ensure_store")
    assert list(open_folder.iterdir()) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o000, 0o666)])
def test_the_file_mode_follows_the_umask(path, umask, mode):
    """A new store's mode is what the umask leaves, so that a group can share it."""
    told(python(f"{CREATE_RUN}\ndb.ensure_store(sys.argv[1]).close()", path, umask=umask))
    assert oct(path.stat().st_mode & 0o777) == oct(mode)


NO_SHARED_MAPS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static int is_index(int fd) {
  char link[64], name[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, name, sizeof name - 1);
  if (n < 4) return 0;
  name[n] = 0;
  return strcmp(name + n - 4, "-shm") == 0;
}
void *mmap64(void *at, size_t size, int access, int flags, int fd, off_t offset) {
  static void *(*real)(void *, size_t, int, int, int, off_t);
  if (!real) real = dlsym(RTLD_NEXT, "mmap64");
  if (fd >= 0 && (flags & MAP_SHARED) && is_index(fd)) { errno = ENODEV; return MAP_FAILED; }
  return real(at, size, access, flags, fd, offset);
}
void *mmap(void *at, size_t size, int access, int flags, int fd, off_t offset) {
  return mmap64(at, size, access, flags, fd, offset);
}
"""


@pytest.mark.skipif(not shutil.which("cc") or sys.platform != "linux", reason="needs a C compiler and LD_PRELOAD")
def test_without_shared_memory_a_store_falls_back_to_a_rollback_journal(tmp_path, path):
    """On a file system without shared maps (here refused below SQLite) a run writes all the same, with a warning."""
    make_store(path)
    (tmp_path / "shim.c").write_text(NO_SHARED_MAPS)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"], check=True)
    body = """
store = db.ensure_store(sys.argv[1])
store.use_wal()
print(store.warning)
print(create(store), store.value("pragma journal_mode"))
store.close()
"""
    said = told(python(CREATE_RUN + body, path, env={**os.environ, "LD_PRELOAD": str(tmp_path / "shim.so")}))
    assert said.splitlines()[0].startswith(f"{path} can't use a write-ahead log")
    assert said.splitlines()[1:] == ["2 delete"]
    assert names_beside(path) == ["flowstore.db"]


def test_on_a_network_file_system_a_store_keeps_its_rollback_journal(path, monkeypatch):
    """Where a shared log is unsafe it isn't tried, and the warning says so."""
    monkeypatch.setattr(journal, "on_network", lambda _: True)
    store = db.ensure_store(path)
    store.use_wal()
    assert "network file system" in store.warning
    assert task_with(store, x=1) == 1
    assert store.value("pragma journal_mode") == "delete"
    store.close()


def test_a_full_disk_is_one_clear_error_and_loses_nothing(path):
    """When the file can't grow, the write fails as a whole; what was committed stays, and later writes work."""
    store = db.ensure_store(path)
    task_with(store, x=1)
    pages = store.value("pragma page_count")
    store.value(f"pragma max_page_count = {pages + 3}")
    with pytest.raises(FlowstoreError, match="disk is full"):
        task_with(store, big=os.urandom(1 << 20))
    assert store.value("select count(*) from runs") == 1
    assert store.value("pragma integrity_check") == "ok"
    store.value("pragma max_page_count = 1000000")
    assert task_with(store, big=os.urandom(1 << 20)) == 2
    store.close()


def test_a_full_disk_in_a_staged_content_is_the_same_error(path):
    """A large artifact that doesn't fit leaves no trace."""
    store = db.ensure_store(path)
    task_with(store, x=1)
    store.value(f"pragma max_page_count = {store.value('pragma page_count') + 40}")
    staging = Staging(Writer(store, 1), "bytes", 64 << 20, "bytes", "")
    with pytest.raises(FlowstoreError, match="disk is full"):  # noqa: PT012
        for _ in range(64):
            staging.take(bytes(1 << 20))
    with store.write() as connection:
        staging.drop(connection)
    assert store.value("select count(*) from blobs where sha is null") == 0
    assert store.value("select count(*) from chunks") == 0
    store.close()


def test_created_at_never_goes_back(path, monkeypatch):
    """A clock that is set back doesn't make a later run older, nor an end earlier than its start."""
    store = db.ensure_store(path)
    now = time.time_ns()
    shifts = [0, -3600, 5, -86400, 10]
    for shift in shifts:
        monkeypatch.setattr(time, "time_ns", lambda shift=shift: now + shift * 10**9)
        task_with(store, x=1)
    monkeypatch.undo()
    created = [row[0] for row in store.rows("select created_at from runs order by id")]
    assert created == sorted(created)
    assert created[-1] == now // 10**6 + 10_000
    assert store.value("select count(*) from run_summary where duration_s < 0") == 0
    flowstore.namespace(None)
    flowstore.use_store(path)
    assert [run.id for run in flowstore.Flow("F")] == ["5", "4", "3", "2", "1"]
    store.close()


def test_ids_are_never_used_again(path):
    """A run that was deleted doesn't give its ids to a later one."""
    store = db.ensure_store(path)
    task_with(store, x=1)
    with store.write() as connection:
        connection.execute("delete from runs")
    task_with(store, x=1)
    assert [tuple(row) for row in store.rows("select run_id, task_id from task_summary")] == [(2, 2)]
    store.close()


# --- the views

COLUMNS = {
    "run_summary": (
        "run_id flow user status created_at finished_at duration_s origin_run_id parameters tags tasks failed_tasks"
    ),
    "task_summary": (
        "task_id run_id flow step status attempts started_at finished_at duration_s foreach_index origin_pathspec"
    ),
    "artifact_values": "flow run_id step task_id name type codec size_bytes sha preview value",
    "object_tags": "kind flow run_id step task_id artifact tag system own",
    "lineage": "task_id parent_task_id",
    "task_logs": "flow run_id step task_id attempt stream written_at text",
}
TIME = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9] [0-9][0-9]:[0-9][0-9]:[0-9][0-9].[0-9][0-9][0-9]"


@pytest.mark.parametrize("view", COLUMNS)
def test_the_views_begin_with_the_documented_columns(path, view):
    """Each view has the columns that people were promised, in that order."""
    store = db.ensure_store(path)
    columns = [row["name"] for row in store.rows(f"pragma table_info({view})")]
    assert columns[: len(COLUMNS[view].split())] == COLUMNS[view].split()
    assert view in schema.PUBLIC_VIEWS
    store.close()


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="needs SQLite's own command")
def test_the_sqlite3_tool_reads_the_views(flow):
    """Common questions are answered by the sqlite3 command alone: JSON values, times, tags, lineage, logs."""
    script = flow(
        flow_source(
            FOREACH,
            members="alpha = Parameter('alpha', default=0.5)",
            start="self.xs = [3, 4]\nself.metrics = {'accuracy': 0.75}\nself.f = lambda: 1\nprint('hello')",
            end="self.done = True",
        )
    )
    script("run", "--tag", "blue")

    def ask(sql):
        return subprocess.run(
            ["sqlite3", "-readonly", script.db, sql], check=True, capture_output=True, text=True
        ).stdout.splitlines()

    assert ask("select value ->> '$.accuracy' from artifact_values where name = 'metrics'") == ["0.75"]
    assert ask("select name, codec, type, value is null from artifact_values where name in ('f', 'xs') order by 1") == [
        "f|pickle|function|1",
        "xs|json|list|0",
    ]
    assert ask("select flow, user, status, parameters ->> '$.alpha', tasks, failed_tasks from run_summary") == [
        "F|tester|successful|0.5|5|0"
    ]
    assert ask("select count(*) from run_summary, json_each(tags) where value in ('blue', 'user:tester')") == ["2"]
    assert ask("select step, foreach_index, attempts from task_summary order by task_id") == [
        "start||1",
        "body|0|1",
        "body|1|1",
        "join||1",
        "end||1",
    ]
    for view, column in [
        ("run_summary", "created_at"), ("run_summary", "finished_at"), ("run_summary", "last_seen_at"),
        ("task_summary", "started_at"), ("task_summary", "finished_at"), ("task_logs", "written_at"),
    ]:  # fmt: skip
        assert ask(f"select distinct {column} glob '{TIME}' from {view}") == ["1"], column
    assert ask("select count(*) from lineage") == ["5"]
    assert ask("select text from task_logs where stream = 'stdout'") == ["hello", ""]
    tagged = ask("select kind, own, count(*) from object_tags where tag = 'blue' group by 1, 2")
    assert [line.rsplit("|", 1)[0] for line in tagged] == ["artifact|0", "run|1", "step|0", "task|0"]
    assert ask("select count(*) from artifact_values where name = 'metrics'") == ["1"]
