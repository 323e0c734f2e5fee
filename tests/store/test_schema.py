"""The schema: made, migrated, told from a stranger's; its ids, times and views."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import time

import pytest

import flowstore
from flowstore.errors import FlowstoreError, StoreCorrupt
from flowstore.sqlite import database
from flowstore.store import deployments, events, opening, schema, untrusted
from flowstore.store.migrations import Migration
from support.chores import older_store
from support.cli import command
from support.flows import FOREACH, LINEAR, flow_source
from support.processes import together
from support.recording import store_with
from support.stores import CREATE_RUN, assert_sound, make_store, names_beside, schema_of, sql, task_with, untouched

# --- schema and migration

MIGRATION = Migration(
    "m999_notes", "a test", "create table notes (run_id integer) strict; alter table runs add column remark text;"
)


def with_migrations(monkeypatch, *migrations):
    """Make this flowstore one version newer for each."""
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, *migrations))
    monkeypatch.setattr(schema, "SCHEMA_VERSION", len(schema.MIGRATIONS))


def test_creating_and_migrating_give_the_same_schema():
    """A store made by `create` has, when it is complete, the schema that sqlite-utils' migrations make from nothing."""

    def migrate(connection):
        connection.execute("begin immediate")
        schema.migrate(connection)
        connection.execute("commit")

    def grow(connection):
        schema.create(connection, "1")
        schema.complete(connection)

    assert schema_of(lambda connection: schema.create(connection, "1", small=False)) == schema_of(migrate)
    assert schema_of(grow) == schema_of(migrate)


def test_an_older_store_is_migrated_at_the_first_write(path, monkeypatch):
    """Reading an older store leaves it as it is; the first write migrates it, once."""
    make_store(path)
    with_migrations(monkeypatch, MIGRATION)
    with untouched(path.parent):
        store = opening.open_store(path)
        assert store.value("select count(*) from runs") == 1
        store.close()
    with store.write() as connection:
        connection.execute("insert into notes values (1)")
    assert store.value("pragma user_version") == schema.SCHEMA_VERSION
    assert store.value("select count(*) from _sqlite_migrations") == schema.SCHEMA_VERSION
    assert store.value("select remark from runs") is None
    store.close()
    again = opening.open_store(path)
    assert again.value("select count(*) from notes") == 1
    again.close()
    assert names_beside(path) == ["flowstore.db"]


def test_an_older_store_is_read_where_it_cannot_be_written(path, monkeypatch):
    """A read-only older store is read without a migration."""
    make_store(path)
    with_migrations(monkeypatch, MIGRATION)
    with untouched(path.parent):
        store = database.Database(path, opening.LAYOUT, writable=False)
        assert store.value("select flow from run_summary") == "F"
        with pytest.raises(FlowstoreError, match="cannot be written"), store.write():
            pass
        store.close()


@pytest.mark.parametrize("where", ["migration", "write"])
def test_migration_and_first_write_are_one_transaction(path, monkeypatch, where):
    """If the migration or the write that caused it fails, the store keeps its old schema."""
    make_store(path)
    broken = Migration("m999_broken", "a test", "create table notes (x); insert into nowhere values (1);")
    with_migrations(monkeypatch, broken if where == "migration" else MIGRATION)
    store = opening.open_store(path)
    with pytest.raises(sqlite3.OperationalError), store.write() as connection:
        connection.execute("insert into nowhere values (1)")
    assert store.value("pragma user_version") == schema.SCHEMA_VERSION - 1
    assert store.value("select count(*) from sqlite_master where name = 'notes'") == 0
    assert store.value("select count(*) from sqlite_master where name = '_sqlite_migrations'") == 0
    store.close()


def test_eight_processes_migrate_one_store_at_once(path):
    """Whoever comes first migrates; the others find it done."""
    make_store(path)
    setup = f"""{CREATE_RUN}
import sqlite_utils
from flowstore.store import schema
from flowstore.store.migrations import Migration
schema.MIGRATIONS = (*schema.MIGRATIONS, {MIGRATION!r})
schema.SCHEMA_VERSION = len(schema.MIGRATIONS)
"""
    said = together(setup, "store = opening.open_store(sys.argv[1]); print(create(store)); store.close()", path)
    assert sorted(map(int, said)) == list(range(2, 10))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma user_version").fetchone() == (schema.SCHEMA_VERSION + 1,)


def test_the_file_says_what_it_is(path):
    """application_id, user_version and a UUID of its own identify a store."""
    make_store(path)
    store, other = opening.open_store(path), opening.ensure_store(path.with_name("other.db"))
    assert store.value("pragma application_id") == 0x666C6F77
    assert store.value("pragma user_version") == schema.SCHEMA_VERSION
    assert len(store.uuid) == 32
    assert store.uuid != other.uuid
    store.close()
    other.close()


# --- small stores


def is_small(path):
    """Whether the store has no index that a large one needs, and all tables or views that it had as a new one."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        ours = "select name from sqlite_master where sql is not null and name <> 'sqlite_sequence'"
        names = {name for (name,) in connection.execute(ours)}
        return names == schema.small_definitions(schema.SCHEMA_VERSION).keys()


def test_a_store_with_one_number_is_small(path):
    """It takes at most 200 kB, and stays as it is when it is read, tagged, exported and its runs are deleted."""
    make_store(path)
    for args in (["runs"], ["deployments"], ["check", "--deep"], ["export", path.with_name("out.db")], ["vacuum"]):
        command("--store", path, *args)
    assert path.stat().st_size <= 200_000
    assert is_small(path.with_name("out.db"))
    command("--store", path, "delete", "F/1", "--yes")
    assert is_small(path)


def test_the_commit_that_makes_a_store_large_gives_it_its_indexes(path):
    """Neither earlier nor later; so whoever finds a large file finds its rows quickly."""
    store = opening.ensure_store(path)
    while store.value("pragma page_count") <= schema.SMALL_PAGES - 12:
        task_with(store, x="long " * 500)
        assert is_small(path)
    task_with(store, x="very long " * 6_000)
    assert not is_small(path)
    store.close()
    assert_sound(path)


@pytest.mark.parametrize(
    "write",
    [
        lambda db: deployments.put_token(db, "flow:F", "token", "tester"),
        lambda db: events.publish(db, "event", "name", {}, "tester"),
    ],
)
def test_writing_to_a_table_that_a_small_store_lacks_makes_it_complete(path, write):
    """In the transaction of whoever writes: one that fails leaves a small store, which works as before."""
    make_store(path)
    with contextlib.closing(opening.open_store(path)) as store:
        with pytest.raises(sqlite3.OperationalError), store.write() as db:  # noqa: PT012
            write(db)
            db.execute("insert into nowhere values (1)")
        assert is_small(path)
        with store.write() as db:
            write(db)
        assert not is_small(path)
        task_with(store, x=2)
    assert_sound(path)


def definitions_in(connection):
    """Return type, name and statement of each definition, ordered by name."""
    return connection.execute(
        "select type, name, sql from sqlite_master where sql is not null order by name"
    ).fetchall()


def test_a_store_that_was_made_now_is_recognized_by_its_digest():
    """A small one, one that was complete from the beginning, and one that has grown; so opening it is quick."""
    for small in (True, False):
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            schema.create(connection, "1", small=small)
            digest = untrusted.digest(schema.SCHEMA_VERSION, definitions_in(connection))
            assert digest == schema.DIGESTS[not small]
            schema.complete(connection)
            assert untrusted.digest(schema.SCHEMA_VERSION, definitions_in(connection)) == schema.DIGESTS[1]


@pytest.mark.parametrize("table", ["cards", "pictures", "chunks", "unverified", "backlog", "origins"])
def test_a_store_is_recognized_with_each_table_that_it_needed_since(table):
    """But not where its definition was changed, though only by a word."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.create(connection, "1")
        schema.ensure_table(connection, table)
        defined = definitions_in(connection)
        assert untrusted.is_as_made(schema.SCHEMA_VERSION, defined)
        for ours, theirs in ((" strict", ""), ("integer", "integer check (x())"), ("CREATE TABLE", "create table")):
            changed = [(kind, name, sql.replace(ours, theirs) if name == table else sql) for kind, name, sql in defined]
            assert not untrusted.is_as_made(schema.SCHEMA_VERSION, changed), theirs


NEEDED = {
    "cards": "@card(type='blank')",
    "pictures": "from PIL import Image; self.x = Image.new('RGB', (9, 9))",
}


@pytest.mark.parametrize("table", NEEDED)
def test_a_store_gets_the_table_that_a_run_needs_and_no_other(flow, table):
    """It stays small, also when the run is resumed, exported, and deleted."""
    run = flow(flow_source(LINEAR, start=NEEDED[table]))
    for args in (["run"], ["resume", "end"]):
        run(*args)
        assert deferred(run.db) == {table}
    run.flowstore("export", "out.db", "F/1")
    assert deferred(run.folder / "out.db") == {table}
    run.flowstore("delete", "F/1", "F/2", "--yes")
    run.flowstore("vacuum")
    run("run")
    assert is_small(run.db)
    assert_sound(run.db)


def deferred(path):
    """The tables of a store that a new one does without."""
    return {*sql(path, "select name from sqlite_master where type = 'table'")} & {*schema.DEFERRED}


def test_marks_of_an_import_are_exported_to_a_small_store(tmp_path, stranger):
    """A file from a stranger is imported and exported again: the new one has the two tables that say so."""
    theirs = store_with(tmp_path / "theirs.db", {"width": 1})  # a task sets a tuple, which is pickled
    stranger()
    ours, again = make_store(tmp_path / "ours.db"), tmp_path / "again.db"
    command("--store", ours, "import", theirs)
    command("--store", ours, "export", again, "F/2")
    assert deferred(again) == {"origins", "unverified"}
    assert is_small(again)
    assert_sound(again)


@pytest.mark.parametrize("table", [*NEEDED, "chunks", "unverified", "backlog"])
def test_a_small_store_may_have_any_of_these_tables_and_none_twice(path, table):
    """Small stores once had them from the beginning; the commit that makes a store large leaves them as they are."""
    make_store(path)
    with contextlib.closing(opening.open_store(path)) as store, store.write() as db:
        schema.ensure_table(db, table)
    command("--store", path, "check", "--deep")
    with contextlib.closing(opening.open_store(path)) as store:
        task_with(store, x="very long " * 60_000)
    assert not is_small(path)
    assert_sound(path)


def test_many_writers_make_a_store_complete_once(path):
    """Whoever comes first; the others go on with what is there then."""
    opening.ensure_store(path).close()
    body = """store = opening.open_store(sys.argv[1])
for _ in range(40):
    create(store)
store.close()
"""
    together(CREATE_RUN, body, path)
    assert not is_small(path)
    assert_sound(path)


# --- what a stranger may have changed

TAMPERED = {
    "sly": "create trigger sly after insert on runs begin delete from runs; end",
    "fts": "create virtual table fts using fts5(text)",
    "lineage": "drop view lineage; create view lineage as select 1 as task_id, 2 as parent_task_id",
    "runs_by_time": "drop index runs_by_time; create index runs_by_time on runs (user)",
    "origins": "drop view origins; create view origins as select 1 as run_id, '' as store_uuid, '' as pathspec",
    "cards": "drop view cards; create table cards (attempt_id, n, type, card_id, blob_id, data, updated_at)",
    "chunks": "pragma writable_schema = on; update sqlite_master set type = 'table' where name = 'chunks'",
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_stranger_s_schema_is_compared(path, name):
    """A store that was given a trigger, a virtual table or other definitions of our objects is refused, naming it."""
    make_store(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(TAMPERED[name])
    with pytest.raises(StoreCorrupt, match=name):
        flowstore.use_store(path)


def test_an_old_file_with_a_view_of_a_new_one_is_refused(path):
    """No version had both: it is neither a small store nor a complete one."""
    older_store(path, 1)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create view production_tokens as select 1 as scope")
    with pytest.raises(StoreCorrupt, match="it is not opened"):
        flowstore.use_store(path)


def test_only_the_comments_of_a_definition_may_differ(path):
    """Older files have other comments; text that only looks like one, inside quotes or after NUL, counts."""
    make_store(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        [sql] = connection.execute("select sql from sqlite_master where name = 'lineage'").fetchone()

    def redefine(text):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("pragma writable_schema = on")
            connection.execute("update sqlite_master set sql = ? where name = 'lineage'", (text,))
            connection.commit()

    redefine(sql.replace("--", "/* another */ -- and one more", 1))
    opening.open_store(path).close()
    for text in (
        sql.replace("from", ", '--' as evil from"),
        sql.replace("from", "from tasks, [/*] evil [*/]"),
        sql.replace("from", "-- \0 \n from"),
        sql.replace("select", "select/* '*/ 1 as evil, /*' */"),
    ):
        redefine(text)
        with pytest.raises(StoreCorrupt):
            opening.open_store(path)


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


def test_created_at_never_goes_back(path, monkeypatch):
    """A clock that is set back doesn't make a later run older, nor an end earlier than its start."""
    store = opening.ensure_store(path)
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
    store = opening.ensure_store(path)
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
    store = opening.ensure_store(path)
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
