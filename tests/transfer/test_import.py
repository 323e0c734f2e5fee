"""Runs arrive in a store as they are: nothing more, nothing less, all or nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

import flowstore
from flowstore.store import records
from flowstore.store.opening import open_store, use_store
from support.cli import command
from support.flows import LINEAR, flow_source
from support.processes import python, together, told
from support.recording import add_run, store_with
from support.shipped import VIEWS, check, dump, older, seen, sql, view

# --- import: which ids


def test_import_makes_a_store_where_there_is_none(source, tmp_path, monkeypatch):
    """In the current folder, or where --store says; ids, times and everything else are kept."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    said = command("import", source).stdout
    assert said.startswith("Imported 5 runs (")
    command("import", source, "--store", tmp_path / "new.db")
    for path in (tmp_path / "here" / "flowstore.db", tmp_path / "new.db"):
        assert seen(path) == seen(source)
        for name in VIEWS:
            assert view(path, name, [1, 2, 3, 4, 5]) == view(source, name, [1, 2, 3, 4, 5])
        check(path)


def test_importing_twice_is_importing_once(source, target):
    """Runs that are here are recognised, whichever file they come in."""
    command("import", source, source, "--store", target)
    before = dump(target)
    [found] = json.loads(command("import", source, "--json", "--store", target).stdout)
    assert found == {"runs": [], "known": ["F/1", "G/2", "F/3", "F/4", "F/5"], "running": [], "copied_bytes": 0}
    assert dump(target) == before
    said = command("import", target, "--store", source).stdout
    assert "Imported 2 runs" in said
    assert "5 of 7 were here already" in said
    assert seen(source) == seen(target)
    check(source)


def test_ids_that_were_used_get_new_ones(source, target):
    """Those of runs that are or were here are not given again; the others are kept."""
    command("import", source, "--store", target)
    uuids = dict(sql(source, "select uuid, id from runs"))
    here = {uuids[uuid]: run_id for run_id, uuid in sql(target, "select id, uuid from runs") if uuid in uuids}
    assert here == {1: 6, 2: 7, 3: 3, 4: 4, 5: 5}
    assert len(sql(target, "select id from tasks")) == len(set(sql(target, "select id from tasks")))
    kept = sql(source, "select id from tasks where run_id in (3, 4, 5)")
    assert sql(target, "select id from tasks where run_id in (3, 4, 5)") == kept
    both = seen(target)
    for uuid, run in seen(source).items():
        assert both[uuid] == run
    check(target)


def test_ids_of_deleted_runs_count_as_used(source, target):
    """What a deleted run was called is never the name of an imported one."""
    store = open_store(target)
    add_run(store, width=5)
    store.close()
    with contextlib.closing(sqlite3.connect(target)) as connection, connection:
        connection.execute("pragma foreign_keys = on")
        connection.execute("delete from runs where id = 3")
    command("import", source, "--store", target)
    assert 3 not in sql(target, "select id from runs")
    assert sorted(sql(target, "select id from runs where id > 2")) == [4, 5, 6, 7, 8]


def test_huge_ids_are_not_kept(source, target):
    """A file can't use up the ids that are left."""
    sql(source, "pragma foreign_keys = off")
    with contextlib.closing(sqlite3.connect(source)) as connection, connection:
        for table in ("run_artifacts", "run_tags", "node_tags", "steps", "tasks"):
            connection.execute(f"update {table} set run_id = 9223372036854775806 where run_id = 5")
        connection.execute("update runs set id = 9223372036854775806 where id = 5")
    command("import", source, "--store", target)
    assert max(sql(target, "select id from runs")) < 10


def test_an_imported_old_run_is_not_the_latest(tmp_path, target):
    """Runs are in the order of their creation, whatever their ids."""
    path = store_with(tmp_path / "source.db", {"x": "old"})
    sql(path, "update runs set created_at = created_at - 1000000")
    sql(path, "update run_tags set created_at = created_at - 1000000")
    command("import", path, "--store", target)
    flowstore.namespace(None)
    use_store(target)
    assert [run.id for run in flowstore.Flow("F")] == ["2", "1", "3"]
    assert flowstore.Flow("F").latest_run.id == "2"


# --- import: what is renamed along


def test_origins_are_called_as_they_are_here(source, target):
    """A resumed run names its origin by the id that it got here, and so do its tasks."""
    store = open_store(target)
    add_run(store, width=9)
    add_run(store, width=9)
    store.close()
    command("import", source, "--store", target)
    [[run, origin]] = sql(target, "select id, origin_run_id from runs where origin_run_id is not null")
    uuids = dict(sql(target, "select id, uuid from runs"))
    assert uuids[int(origin)] == sql(source, "select uuid from runs where id = 3")[0]
    flowstore.namespace(None)
    use_store(target)
    for task in flowstore.Run(f"F/{run}")["body"]:
        assert flowstore.Task(task.origin_pathspec).index == task.index


def test_an_origin_that_was_here_already(source, target, out):
    """It is found by its uuid, also where it is not part of the file's news."""
    command("export", out, "F/3", "--store", source)
    store = open_store(target)
    add_run(store, width=9)
    store.close()
    command("import", out, "--store", target)
    command("import", source, "--store", target)
    [[_, origin]] = sql(target, "select id, origin_run_id from runs where origin_run_id is not null")
    assert sql(target, f"select uuid from runs where id = {origin}") == sql(
        source, "select uuid from runs where id = 3"
    )
    [task] = sql(target, "select origin_pathspec from task_summary where origin_pathspec like '%/start/%'")
    flowstore.namespace(None)
    use_store(target)
    assert flowstore.Task(task).parent.id == "start"


def test_an_origin_that_is_nowhere(source, target, out):
    """It is named with the store that it comes from, whether or not an own run has its id."""
    command("export", out, "F/4", "--store", source)
    command("import", out, "--store", target)
    uuid = sql(out, "select uuid from store")[0]
    assert sql(target, "select origin_run_id from runs where id = 4") == [f"{uuid}/F/3"]
    store = open_store(target)
    sql(target, "delete from runs where id = 4")
    add_run(store, width=2)
    store.close()
    command("import", out, "--store", target)
    assert sql(target, "select origin_run_id from runs where origin_run_id is not null") == [f"{uuid}/F/3"]
    task = sql(target, "select max(origin_pathspec) from tasks where run_id > 5 and origin_pathspec like '%/start/%'")
    assert task[0].startswith(f"{uuid}/F/3/start/")


def test_an_imported_run_says_where_it_is_from(source, target):
    """Run.imported_from, and `flowstore show`, give the other store's uuid and the pathspec there."""
    command("import", source, "--store", target)
    uuid = sql(source, "select uuid from store")[0]
    flowstore.namespace(None)
    with use_store(target):
        found = {run.pathspec: run.imported_from for flow in flowstore.Flows() for run in flow}
    assert found["F/6"] == f"{uuid}/F/1"
    assert found["F/3"] == f"{uuid}/F/3"
    assert found["F/1"] is None
    assert f"Imported from {uuid}/F/1." in command("show", "F/6", "--store", target).stdout
    with use_store(older(source)):
        assert flowstore.Run("F/1").imported_from is None


def test_imported_runs_are_found_by_their_tags(source, target):
    """By several tags at once, too, together with those that were here."""
    command("import", source, "--store", target)
    flowstore.namespace(None)
    use_store(target)
    assert [run.id for run in flowstore.Flow("F").runs("blue", "red")] == ["6"]
    assert [run.id for run in flowstore.Flow("F").runs("blue", "user:tester")] == ["3", "6"]
    assert [step.id for step in flowstore.Run("F/6").steps("of a step")] == ["start"]
    assert flowstore.Flow("F").latest_successful_run.id == "2"


# --- import: all or nothing


LIES = {
    "a base in another run": "update tasks set base_id = 1 where run_id = 3 and base_id is not null",
    "a base that comes later": "update tasks set base_id = id + 1 where run_id = 1",
    "a task that is its own base": "update tasks set base_id = id",
    "a parent in another run": "insert into task_parents select max(id), 1 from tasks",
    "a parent that comes later": "insert into task_parents values (1, 2)",
    "a step of another run": "update tasks set step_id = 1 where run_id = 4",
    "another's attempt": "update tasks set attempt_id = 1 where run_id = 4",
    "an attempt's status": "update attempts set status = 'fine'",
    "a place in a foreach": "update tasks set foreach_path = '1/x'",
    "parameters": "update runs set parameters = '[1]'",
    "parameters that are no JSON": "update runs set parameters = '{'",
    "a transition": "update tasks set transition = '7'",
    "metadata": "update attempts set metadata = 'x'",
    "JSON": "update blobs set data = x'7b', sha = sha(x'7b'), size_bytes = 1 where codec = 'json' and data is not null"
    " and id = (select max(id) from blobs where codec = 'json' and data is not null)",
    "a time to come": "update runs set created_at = created_at + 1000000000000000",
    "a time before time": "update tasks set started_at = -1",
    "a time of a tag": "update run_tags set created_at = created_at + 1",
    "a flow of a tag": "update run_tags set flow_id = 2 where flow_id = 1",
    "the success of a tag": "update run_tags set successful = 1 where run_id = 3",
    "a tag of a task elsewhere": "update node_tags set task_id = 1 where task_id > 1",
    "an empty tag": "update tags set tag = '' where tag = 'blue'",
    "a long tag": "update tags set tag = printf('%600d', 1) where tag = 'blue'",
    "a user tag as a namespace": "update tags set tag = 'user:will' where tag = 'blue'",
    "a namespace on a task": "update tags set tag = 'production:x' where tag = 'of a task'",
    "a flow's name": "update flows set name = 'a/b' where id = 1",
    "a code's hash": "update codes set sha = zeroblob(32) where id = 1",
    "a code's name": "update codes set script_name = 'other.py' where id = 1",
    "no code file": "delete from code_files where code_id = 1",
    "a reference": "update artifacts set blob_id = 999 where name = 'x'",
    "no run": "delete from runs where id = 1",
    "an id": "update attempts set log_id = -1",
    "a content without a hash": "update blobs set sha = null where codec = 'bytes'",
    "text that is none": "update runs set user = cast(x'ff' as text)",
    "a trigger": "create trigger t after insert on runs begin select 1; end",
    "no flowstore": "pragma application_id = 7",
    "a newer schema": "pragma user_version = 99",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_file_changes_nothing(source, target, lie, tmp_path):
    """Whatever in a file breaks a rule, and however good the other files are: one clear error, and no change."""
    sql(source, LIES[lie])
    good = store_with(tmp_path / "good.db", {"x": "good" * 30_000})
    before = dump(target)
    assert str(source) in command("import", good, source, "--store", target, expect=1).stderr
    assert dump(target) | {"owners": []} == before | {"owners": []}
    check(target)


def test_damaged_pages_change_nothing(source, target):
    """The whole file is looked at first; damage that SQLite can't see is in bytes, which have a hash."""
    content, before = source.read_bytes(), dump(target)
    damaged = source.with_name("damaged.db")
    for at in range(8192 * 3, len(content), 8192 * 7):
        damaged.write_bytes(content[:at] + bytes(64) + content[at + 64 :])
        command("import", damaged, "--store", target, expect=1)
        assert dump(target) | {"owners": []} == before | {"owners": []}
    check(target)


def test_a_store_is_not_imported_into_itself(source, tmp_path):
    """Not by another name either; a copy of it is another file, and what is only there comes along."""
    (tmp_path / "link.db").symlink_to(source)
    for name in (source, tmp_path / "link.db"):
        failed = command("import", name, "--store", source, expect=1)
        assert "cannot be imported into itself" in failed.stderr
    copied = Path(shutil.copy(source, tmp_path / "copy.db"))
    store = open_store(copied)
    add_run(store, x="new")
    store.close()
    command("import", copied, "--store", source)
    assert seen(source) == seen(copied)


def test_running_runs_are_left_for_another_time(tmp_path, target):
    """One whose driver lives is skipped, with a word; one whose driver is gone is dead."""
    path = store_with(tmp_path / "source.db", {"x": 1, "status": "running"}, {"x": 2, "status": "running"})
    sql(path, "update runs set pid_started = '1' where id = 2")
    done = command("import", path, "--store", target)
    assert "Imported 1 run " in done.stdout
    assert "Skipped F/1, which is still running" in done.stderr
    assert sql(target, "select status, finished_at = last_seen_at from runs where id = 3") == [("dead", 1)]
    assert sql(target, "select status from tasks where run_id = 3") == ["successful", "dead"]
    assert sql(target, "select count(*) from runs") == [3]
    sql(path, "update runs set pid_started = '1'")
    command("import", path, "--store", target)
    assert sql(target, "select count(*) from runs where status = 'dead'") == [2]
    check(target)


def test_import_needs_files(tmp_path):
    """No file is wrong usage; one that isn't there is one clear error, and makes no store."""
    command("import", "--store", tmp_path / "new.db", expect=2)
    assert "no store" in command("import", tmp_path / "nothing.db", "--store", tmp_path / "new.db", expect=1).stderr
    assert not (tmp_path / "new.db").exists()


def test_deployments_are_not_imported(flow, target):
    """A production run comes with its tag, which authorizes nothing."""
    script = flow(flow_source(LINEAR))
    script("deploy", "create")
    script("deploy", "trigger")
    command("import", script.db, "--store", target)
    found = dump(target)
    assert [found[name] for name in ("deployments", "production_tokens")] == [[], []]
    [tag] = sql(target, "select tag from tags where tag like 'production:%'")
    flowstore.namespace(tag)
    use_store(target)
    assert flowstore.Flow("F").latest_run.id == "3"


def test_a_code_snapshot_that_is_here_is_shared(source, tmp_path):
    """The same source is stored once, and stays the one that runs here look up."""
    path = store_with(tmp_path / "target.db", {"x": 1, "code": "print('one')"})
    command("import", source, "--store", path)
    assert sql(path, "select count(*) from codes") == [2]
    assert sql(path, "select count(distinct code_id) from runs where code_id = 1 and id in (1, 6)") == [1]


# --- import: crashes and company

KILLED = """
import os, signal, sys
from pathlib import Path
from flowstore.store.opening import ensure_store
from flowstore.store.staging import Staging
from flowstore.transfer import importing, import_ids as tracing
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
wait = Staging.wait
if sys.argv[3] == "staging":
    Staging.wait = lambda self: (wait(self), die())
elif sys.argv[3] == "rows":
    tracing.Tracing.translate = die
with importing.opened([Path(sys.argv[1])]) as sources:
    importing.import_runs(ensure_store(sys.argv[2]), sources)
"""


@pytest.mark.parametrize("where", ["staging", "rows"])
@pytest.mark.parametrize("then", ["import", "run"])
def test_a_killed_import_leaves_only_rubbish(source, target, where, then):
    """No run of it is visible, and the next import, or run, removes what it left."""
    told(python(KILLED, source, target, where), code=-9)
    assert sql(target, "select id from runs") == [1, 2]
    assert sql(target, "select count(*) > 0 from blobs where sha is null") == [1]
    if then == "import":
        command("import", source, "--store", target)
        assert len(sql(target, "select 1 from runs")) == 7
    else:
        store = open_store(target)
        records.record_dead_runs(store)
        store.close()
    seen(target)
    check(target)


def test_what_a_living_import_has_written_is_spared(source, target):
    """A driver that starts meanwhile takes it for no rubbish."""
    code = KILLED.replace("die())", "print('staged', flush=True), sys.stdin.readline())")
    with python(code, source, target, "staging") as process:
        assert process.stdout.readline() == "staged\n"
        store = open_store(target)
        records.record_dead_runs(store)
        add_run(store, x="meanwhile")
        store.close()
        assert sql(target, "select count(*) > 3 from blobs where sha is null") == [1]
        process.communicate("go\n" * 100, timeout=60)
        assert process.returncode == 0
    uuids = sql(source, "select uuid from runs")
    both = seen(target)
    assert [both[uuid] for uuid in uuids] == [seen(source)[uuid] for uuid in uuids]
    assert len(both) == 8


def test_contents_that_vanish_meanwhile_are_fetched_again(tmp_path):
    """What another process deletes between looking and writing is copied after all."""
    path = store_with(tmp_path / "source.db", {"x": "shared"})
    target = store_with(tmp_path / "target.db", {"x": "shared"})
    code = """
    import sys
    from pathlib import Path
    from flowstore.store.opening import ensure_store
    from flowstore.transfer import importing
    commit = importing._commit
    def wait(*given):
        print("staged", flush=True)
        sys.stdin.readline()
        return commit(*given)
    importing._commit = wait
    with importing.opened([Path(sys.argv[1])]) as sources:
        importing.import_runs(ensure_store(sys.argv[2]), sources)
    """
    with python(code, path, target) as process:
        assert process.stdout.readline() == "staged\n"
        with contextlib.closing(sqlite3.connect(target)) as connection, connection:
            connection.execute("pragma foreign_keys = on")
            for table in ("runs", "blobs", "tag_pairs"):
                connection.execute(f"delete from {table}")
        process.communicate("go\n" * 9, timeout=60)
        assert process.returncode == 0
    assert sql(target, "select value from artifact_values where name = 'x'") == ['"shared"']
    check(target)


def test_imports_at_once(source, tmp_path):
    """Four processes import two files into one new store: each run is there once."""
    other = store_with(tmp_path / "other.db", *({"x": n, "width": 2, "y": "y" * 90_000} for n in range(4)))
    body = """
    import sys
    from pathlib import Path
    from flowstore.store.opening import ensure_store
    from flowstore.transfer import importing
    with importing.opened([Path(path) for path in sys.argv[2:]]) as sources:
        importing.import_runs(ensure_store(sys.argv[1]), sources)
    """
    together("import sys\nimport flowstore.transfer.importing", body, tmp_path / "new.db", source, other, count=4)
    assert seen(tmp_path / "new.db") == seen(source) | seen(other)
    check(tmp_path / "new.db")
