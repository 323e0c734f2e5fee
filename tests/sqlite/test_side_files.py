"""What another store left beside a path is never played into the store that comes to lie there."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import flowstore
from flowstore.errors import FlowstoreError, NotAStore, StoreCorrupt, StoreTooNew
from flowstore.store import opening, schema
from support.cli import command
from support.flows import LINEAR, flow_source
from support.processes import wait_for
from support.stores import make_store, untouched

SLOW = flow_source(
    LINEAR,
    start="""
        Path("begun").touch()
        while not Path("go").exists():
            time.sleep(0.01)
        self.x = "slow"
        """,
)
QUICK = flow_source(LINEAR, start="self.x = 'new'")


@contextlib.contextmanager
def running(script):
    """A run in the middle of its first task; killed at the end of the block, if it still runs."""
    script.rewrite(SLOW)
    with script.start("run") as process:
        wait_for((script.folder / "begun").exists)
        (script.folder / "begun").unlink()
        script.rewrite(QUICK)
        yield process
        process.kill()
        process.communicate()


def kill_run(script):
    """Kill a run in the middle of its first task: its log stays beside the store."""
    with running(script):
        pass
    assert Path(f"{script.db}-wal").stat().st_size > 0


def killed_with(path, *statements):
    """Kill a process after it has executed statements on a file."""
    code = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for sql in sys.argv[2:]: db.execute(sql).fetchall()\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, path, *statements], check=False)


HALF = (  # of a transaction, in the file already: its journal says how to take that back
    "pragma cache_size = 1",
    "begin immediate",
    "update runs set user = 'half'",
    """with n(i) as (values (1) union all select i + 1 from n where i < 900)
       insert into flows (name) select hex(randomblob(2000)) from n""",
)


def kill_writer(path):
    """Kill a process in a transaction: its journal stays beside the store."""
    killed_with(path, *HALF)
    assert Path(f"{path}-journal").stat().st_size > 0


def uuids(path):
    """The runs of a store, as SQLite finds them; the file is sound."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        return [row[0] for row in connection.execute("select uuid from runs order by id")]


def taken_aside(folder):
    """The names of the side files that were set aside, which are removed."""
    found = sorted(folder.glob("*.stale-*"))
    for path in found:
        path.unlink()
    return [path.name for path in found]


# --- a new store where one was removed

LEFT = {
    "log": (kill_run, ["flowstore.db-wal.stale-1"]),
    "journal": (lambda script: (script("run"), kill_writer(script.db)), ["flowstore.db-journal.stale-1"]),
}


@pytest.fixture(params=LEFT)
def removed(request, flow):
    """A script whose store was removed after a kill, and the names of what is to be set aside."""
    script = flow(QUICK)
    leave, names = LEFT[request.param]
    leave(script)
    script.db.unlink()
    return script, names


def test_a_run_makes_a_store_of_its_own(removed):
    """The new store holds the new run alone, and one line says what became of the old file."""
    script, names = removed
    said = script("run").stderr
    assert (said.count("Set aside"), said.count(names[0])) == (1, 1)
    assert script.sql("select status from runs") == ["successful"]
    assert taken_aside(script.folder) == names


def test_an_export_is_what_was_exported(removed):
    """No run of the removed store is in it."""
    script, names = removed
    source = make_store(script.folder / "source.db", runs=3)
    assert "Set aside" in command("--store", source, "export", script.db).stderr
    assert uuids(script.db) == uuids(source)
    assert taken_aside(script.folder) == names


def test_an_import_makes_a_store_of_its_own(removed):
    """What is imported is what is there."""
    script, names = removed
    source = make_store(script.folder / "source.db", runs=3)
    assert "Set aside" in command("import", source).stderr
    assert uuids(script.db) == uuids(source)
    assert taken_aside(script.folder) == names


def test_a_deployment_makes_a_store_of_its_own(removed):
    """The store that it makes is sound, and the flow can be run in it."""
    script, names = removed
    script("deploy", "create")
    script("deploy", "trigger")
    assert script.sql("select status from runs") == ["successful"]
    assert taken_aside(script.folder) == names


def test_what_was_set_aside_before_stays(removed):
    """A name that is taken is not used again."""
    script, names = removed
    taken = script.folder / names[0]
    taken.write_text("precious")
    script("run")
    assert taken.read_text() == "precious"
    assert taken_aside(script.folder) == [names[0], names[0].replace("-1", "-2")]


def test_many_that_create_a_store_at_once_agree(flow):
    """One of them makes it and sets the log aside, and nobody ever sees the old runs, nor loses a new one."""
    script = flow(QUICK)
    kill_run(script)
    script.db.unlink()
    processes = [script.start("run") for _ in range(6)]
    said = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, said
    assert script.sql("select status from runs") == ["successful"] * 6
    assert taken_aside(script.folder) == ["flowstore.db-wal.stale-1"]


def test_the_run_of_a_removed_store_is_rescued_whole(flow):
    """Its log is still its own while another run makes a store of that name; once it is rescued, the log goes."""
    script = flow(QUICK)
    with running(script) as first:
        script.db.unlink()
        assert "Set aside" in script("run").stderr
        (script.folder / "go").touch()
        said = first.communicate(timeout=60)[1].decode()
    assert "What had finished is kept in" in said
    assert len(uuids(script.db)) == 1
    rescued = script.folder / "flowstore.db.rescued-1"
    assert not set(uuids(rescued)) & set(uuids(script.db))
    assert taken_aside(script.folder) == []
    rescued.unlink()


def test_a_rescue_is_not_mixed_with_an_older_one(flow):
    """What lies beside the name of a rescued store is set aside, too."""
    script = flow(QUICK)
    kill_run(script)
    Path(f"{script.db}-wal").rename(script.folder / "flowstore.db.rescued-1-wal")
    for path in script.folder.glob("flowstore.db*"):
        if "rescued" not in path.name:
            path.unlink()
    with running(script) as process:
        script.db.unlink()
        (script.folder / "go").touch()
        said = process.communicate(timeout=60)[1].decode()
    assert "flowstore.db.rescued-1-wal.stale-1" in said
    assert len(uuids(script.folder / "flowstore.db.rescued-1")) == 1
    taken_aside(script.folder)
    (script.folder / "flowstore.db.rescued-1").unlink()


def test_a_database_is_not_taken_for_a_side_file(tmp_path):
    """A store whose name another one needs for its log is left alone, in both orders."""
    first = make_store(tmp_path / "a.db-wal")
    with untouched(tmp_path):
        with pytest.raises(FlowstoreError, match=r"a\.db-wal, which is a database"):
            opening.ensure_store(tmp_path / "a.db")
        command("--store", first, "export", tmp_path / "a.db", expect=1)
    second = make_store(tmp_path / "b.db")
    with untouched(tmp_path):
        with pytest.raises(FlowstoreError, match=r"keeps the log of b\.db"):
            opening.ensure_store(tmp_path / "b.db-journal")
        command("--store", second, "export", tmp_path / "b.db-wal", expect=1)


# --- a store that was copied to where another one's files lie


@pytest.mark.parametrize("left", LEFT)
def test_a_copy_is_read_as_it_is(flow, left):
    """What the store that was there before left is not played into the copy."""
    script = flow(QUICK)
    leave, names = LEFT[left]
    leave(script)
    copied = make_store(script.folder / "copied.db", runs=3)
    shutil.copyfile(copied, script.db)
    assert "Set aside" in command("runs", "--namespace", "").stderr
    assert uuids(script.db) == uuids(copied)
    assert taken_aside(script.folder) == names


def test_a_copy_that_needs_a_log_does_not_get_another_s(flow):
    """The main file of one killed run beside the log of another is read without that log."""
    script = flow(QUICK)
    script("run")
    kill_run(script)
    shutil.copyfile(script.db, script.folder / "other")
    for path in script.folder.glob("flowstore.db*"):
        path.unlink()
    script("run")
    kill_run(script)
    shutil.copyfile(script.folder / "other", script.db)
    assert "Set aside" in command("runs", "--namespace", "").stderr
    assert len(uuids(script.db)) == 1
    assert taken_aside(script.folder) == ["flowstore.db-wal.stale-1"]


@pytest.mark.parametrize("left", LEFT)
def test_a_copy_that_can_only_be_read_is_read_as_it_is(flow, left, monkeypatch):
    """Where nothing may be renamed, the store is read without what lies beside it."""
    script = flow(QUICK)
    leave, names = LEFT[left]
    leave(script)
    shutil.copyfile(make_store(script.folder / "copied.db", runs=3), script.db)
    monkeypatch.setattr(opening, "_may_write", lambda path: False)
    flowstore.namespace(None)
    with untouched(script.folder), flowstore.use_store(script.db):
        assert len([*flowstore.Flow("F")]) == 3
    monkeypatch.undo()
    opening.open_store(script.db).close()
    assert taken_aside(script.folder) == names


def test_a_killed_store_keeps_its_log(flow):
    """What the killed run recorded is there for the next one."""
    script = flow(QUICK)
    script("run")
    kill_run(script)
    assert "Set aside" not in script("run").stderr
    assert script.sql("select status from runs") == ["successful", "dead", "successful"]


def test_a_log_that_a_power_cut_has_torn_is_nobody_else_s(flow):
    """It has not even its header, so it holds nothing: it is used again, and gone at the end."""
    script = flow(QUICK)
    script("run")
    kill_run(script)
    for suffix, size in (("-wal", 11), ("-shm", 0)):
        os.truncate(f"{script.db}{suffix}", size)
    assert "Set aside" not in script("run").stderr
    assert script.sql("select status from runs")[0] == "successful"


@pytest.mark.parametrize("size", [12, 28, 4612])
def test_a_journal_that_a_power_cut_has_torn_is_nobody_else_s(flow, size):
    """Its header breaks off, in the file or in zeros, so it takes nothing back, and is gone at the end."""
    script = flow(QUICK)
    script("run")
    header = bytes.fromhex("d9d505f920a163d700000001")
    Path(f"{script.db}-journal").write_bytes(header + bytes(size - len(header)))
    assert "Set aside" not in script("run").stderr
    assert script.sql("select status from runs") == ["successful", "successful"]


def test_a_killed_store_keeps_its_journal(flow):
    """What the killed process had begun to write is taken back."""
    script = flow(QUICK)
    script("run")
    kill_writer(script.db)
    assert "Set aside" not in command("runs").stderr
    assert script.sql("select user from runs") == ["tester"]
    assert script.sql("select count(*) from flows") == [1]


def test_a_program_that_keeps_the_copy_open_is_told_of(flow, monkeypatch):
    """Nothing is renamed under it: SQLite itself may have taken the log for the store's."""
    monkeypatch.setattr("flowstore.sqlite.side_files.PATIENCE_S", 0.1)
    script = flow(QUICK)
    kill_run(script)
    shutil.copyfile(make_store(script.folder / "copied.db"), script.db)
    code = f"import fcntl; f = open({str(script.db)!r}, 'rb'); fcntl.lockf(f, fcntl.LOCK_SH, 510, 0x40000002); input()"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code.replace('; input()', '')}; print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        other.stdout.readline()
        with pytest.raises(FlowstoreError, match="in use by another program"):
            opening.open_store(script.db)
        other.communicate(b"\n")
    opening.open_store(script.db).close()
    assert taken_aside(script.folder) == ["flowstore.db-wal.stale-1"]


# --- a file that is replaced


def test_a_store_that_is_open_elsewhere_is_not_replaced(flow):
    """`export --force` onto the store of a run that is going on is refused, and the run ends well."""
    script = flow(QUICK)
    source = make_store(script.folder / "source.db")
    with running(script) as process:
        assert "in use" in command("--store", source, "export", "--force", script.db, expect=1).stderr
        (script.folder / "go").touch()
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert script.sql("select status from runs") == ["successful"]


def test_who_has_the_old_file_open_writes_nothing_beside_the_new_one(tmp_path):
    """A store that was replaced under an idle process is told, before a journal of the old one can lie there."""
    path = make_store(tmp_path / "flowstore.db")
    source = make_store(tmp_path / "source.db", runs=2)
    idle = opening.open_store(path)
    assert idle.value("select count(*) from runs") == 1
    subprocess.run([sys.executable, "-m", "flowstore", "--store", source, "export", "--force", path], check=True)
    with pytest.raises(FlowstoreError, match="replaced"), idle.write() as connection:
        connection.execute("update runs set user = 'old'")
    with pytest.raises(FlowstoreError, match="replaced"):
        idle.use_wal()
    idle.close()
    assert uuids(path) == uuids(source)


# --- what a log or a journal says of the store

CHANGED = {
    "version": ("pragma user_version = 99", StoreTooNew, "schema version 99"),
    "application": ("pragma application_id = 7", NotAStore, "not a flowstore store"),
    "no version": ("pragma user_version = 0", StoreCorrupt, "schema version is 0"),
}


@pytest.mark.parametrize("index", ["with an index", "without an index"])
@pytest.mark.parametrize("what", CHANGED)
def test_a_log_can_t_change_what_the_store_is(tmp_path, what, index):
    """What the header says once the log is played back is what counts."""
    path = make_store(tmp_path / "flowstore.db")
    statement, error, words = CHANGED[what]
    killed_with(path, "pragma journal_mode = wal", statement)
    if index == "without an index":
        Path(f"{path}-shm").unlink()
    before = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    with pytest.raises(error, match=words):
        opening.open_store(path)
    assert (path.read_bytes(), Path(f"{path}-wal").read_bytes()) == before


@pytest.mark.parametrize("what", CHANGED)
def test_a_journal_can_t_change_what_the_store_is(tmp_path, what):
    """A file that is only a store until its journal is played back is none."""
    path = make_store(tmp_path / "flowstore.db")
    statement, error, words = CHANGED[what]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
    kill_writer(path)
    with path.open("r+b") as file:  # as if the process had got as far as to write the first page
        file.seek(24)
        counter = int.from_bytes(file.read(4), "big")
        for at, value in ((24, counter + 1), (60, schema.SCHEMA_VERSION), (68, schema.APPLICATION_ID)):
            file.seek(at)
            file.write(value.to_bytes(4, "big"))
    with untouched(tmp_path), pytest.raises(error, match=words):
        opening.open_store(path)


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_store_in_another_encoding_is_refused(tmp_path, encoding):
    """It would show garbage where SQL reads bytes as text; the message names the encoding."""
    path = make_store(tmp_path / "flowstore.db")
    with contextlib.closing(sqlite3.connect(path)) as old:
        script = "\n".join(old.iterdump())
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as new:
        new.execute(f"pragma encoding = '{encoding}'")
        new.execute(f"pragma application_id = {schema.APPLICATION_ID}")
        new.execute(f"pragma user_version = {schema.SCHEMA_VERSION}")
        new.executescript(script)
    with untouched(tmp_path), pytest.raises(StoreCorrupt, match=encoding):
        opening.open_store(path)
    assert encoding in command("runs", expect=1).stderr
    assert encoding in command("import", path, "--store", "new.db", expect=1).stderr
    assert not Path("new.db").exists()
