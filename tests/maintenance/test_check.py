"""`check` names whatever is wrong with a store, and `check --repair` drops that and nothing else."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
import sys

import pytest

import flowstore
from flowstore.errors import FlowstoreError
from flowstore.maintenance import check, repair
from flowstore.store import invariants, schema
from flowstore.store.opening import open_store
from support.canaries import full_store, without_types
from support.cli import command
from support.damage import damaged, make_original, read_all
from support.hostile import changed
from support.recording import add_run, store_with
from support.stores import make_store

LARGE = b"large" * 40_000
CODE = "codec = 'bytes' and data is not null"
EXTRA = "insert into chunks select id, 7, sha from blobs where data is null"
SMALL = "cast(data as text) = '\"small\"'"


@pytest.fixture
def path(tmp_path):
    """A store of two runs; the first has a small content, a large one, code and a tag of its own."""
    return store_with(
        tmp_path / "flowstore.db",
        {"x": "small", "big": LARGE, "code": "print(1)", "tags": ["mine"], "parameters": {"alpha": 0.5}},
        {"x": "other", "width": 2},
    )


def problems(path, *options, expect=1):
    """What `flowstore check` finds, as programs read it."""
    return json.loads(command("check", "--json", "--store", path, *options, expect=expect).stdout)


def values(path):
    """The values of all artifacts, by pathspec; the name of the refusal where there is one."""
    found = {}
    with flowstore.use_store(path):
        flowstore.namespace(None)
        for flow in flowstore.Flows():
            for artifact in (each for run in flow for step in run for task in step for each in task):
                try:
                    found[artifact.pathspec] = artifact.data
                except FlowstoreError as error:
                    found[artifact.pathspec] = type(error).__name__
    return found


# --- what is found, and mended


def test_nothing_is_wrong_with_a_sound_store(path):
    """Exit code 0, a line for people, an empty list for programs; repairing it changes not one byte."""
    before = path.read_bytes()
    for options in ((), ("--deep",)):
        assert "2 runs, " in command("check", "--store", path, *options).stdout
        assert problems(path, *options, expect=0) == []
    assert command("check", "--repair", "--store", path).stdout == "Nothing was wrong.\n"
    assert path.read_bytes() == before


DAMAGE = {  # what was done, the kind of problem, where it is told, and the artifacts that go with its repair
    "other bytes": (f"update blobs set data = cast('sMall' as blob) where {SMALL}", "content", "F/1/start/1/x", {"x"}),
    "a piece is missing": ("delete from chunks where n = 0", "content", "F/1/start/1/big", {"big"}),
    "a piece too many": (EXTRA, "content", "F/1/start/1/big", {"big"}),
    "another size": (f"update blobs set size_bytes = 9 where {SMALL}", "content", "F/1/start/1/x", {"x"}),
    "no content": (f"delete from blobs where {SMALL}", "reference", "F/1/start/1/x", {"x"}),
    "other code": (f"update blobs set data = x'00' where {CODE}", "content", "F/1: code, flow.py", set()),
    "a code file of another": ("update code_files set path = 'other.py'", "code", "F/1", set()),
    "a flow's name": ("delete from flows", "reference", "run 1", None),
    "a step's name": ("delete from steps where id = 1", "reference", "step 1/1", None),
    "a task before itself": ("update tasks set base_id = id where id = 2", "lineage", "F/1/end/2", {"x", "big"}),
    "a tag of nothing": ("delete from tags where tag = 'mine'", "reference", "F/1", set()),
    "a tag at another time": ("update run_tags set created_at = 5 where run_id = 1", "tag", "F/1", set()),
    "pairs of tags": ("delete from tag_pairs", "tag", "tag_pairs", set()),
    "the runs of a tag": ("update tag_pairs set runs = 7 where a = b", "tag", "tag_pairs", set()),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_wrong_is_named_and_mended(path, what):
    """It says where, and what can be done; a repair says what it did, and all that is not damaged stays as it was."""
    statement, kind, where, gone = DAMAGE[what]
    before = values(path)
    changed(path, (statement,))
    found = problems(path, "--deep")
    assert (kind, where) in {(each["kind"], each["where"]) for each in found}
    assert all("flowstore check --repair" in each["remedy"] for each in found)
    assert where in command("check", "--repair", "--store", path).stdout
    assert problems(path, "--deep", expect=0) == []
    if gone is not None:
        after = values(path)
        lost = {pathspec for pathspec in before if before[pathspec] != after.get(pathspec)}
        assert {pathspec.rpartition("/")[2] for pathspec in lost} == gone
        assert all(pathspec.startswith("F/1/") for pathspec in lost)


def test_a_store_that_lost_its_identity_gets_another(path):
    """What was signed for the old one has to be trusted; all else is there."""
    before = values(path)
    changed(path, ("delete from store",))
    assert [each["kind"] for each in problems(path)] == ["identity"]
    command("check", "--repair", "--store", path)
    after = values(path)
    assert {after[each] for each in before if after[each] != before[each]} == {"UntrustedArtifact"}
    command("trust", path)
    assert values(path) == before


def test_every_reference_that_leads_nowhere_is_found_and_mended(tmp_path):
    """Of every column that names a row of another table."""
    good = tmp_path / "good.db"
    full_store(good)
    with contextlib.closing(open_store(good)) as store, store.read() as db:
        rules = [*invariants.references(db)]
    assert len(rules) >= 36
    for number, rule in enumerate(rules):
        path = tmp_path / f"{number}.db"
        path.write_bytes(good.read_bytes())
        column = re.search(r"where x\.(\w+) is not null", rule.find)[1]
        lost = "'nowhere'" if column == "scope" else "987654"
        changed(path, (f"update or ignore {rule.table} set {column} = {lost}",))
        with contextlib.closing(open_store(path)) as store:
            told = rule.problem.format(missing=lost.strip("'"))
            assert told in {each.problem for each in check.check(store).problems}, (rule.table, column)
            assert repair.repair(store).left == []
            assert check.check(store, deep=True).problems == []


BROKEN = (  # statements that break each of the other rules
    "update runs set status = 'x'", "update tasks set status = 'x'", "update attempts set status = 'x'",
    "update log_chunks set stream = 'x'", "update run_artifacts set kind = 'x'", "update store set id = 2",
    "update scheduler set id = 2", "update runs set created_at = -1", "update tasks set finished_at = 1",
    "update attempts set started_at = -1", "update runs set last_seen_at = -1", "update runs set finished_at = null",
    "update steps set created_at = -1", "update log_chunks set written_at = -1", "update runs set parameters = '[]'",
    "update tasks set transition = '['", "update attempts set metadata = '5'",
    "update deployments set schedule = '[]'", "update deployments set tags = '{}'",
    "update deployments set with_decorators = ''", "update tags set json = '\"x\"'",
    "update deployments set triggers = '[]'", "update deployments set executor = '{}'",
    "update runs set trigger_events = '{}'", "update runs set environment = '[]'",
    "delete from attempts where task_id = 1", "update tasks set attempts = 7", "update attempts set number = 3",
    "update tasks set attempt_id = 99 where id = 1", "update tasks set run_id = 2", "update tasks set base_id = id",
    "update tasks set base_id = 99", "insert into task_parents values (1, 77)",
    "update run_tags set system = 5", "update node_tags set task_id = 99",
    "update signatures set mac = x'00'", "update owners set mac = x'00'", "update deployments set mac = x'00'",
    "update numbers set final = 7", "update numbers set name = 'other'", "update numbers set run_id = 2",
    "update runs set id = -5", "update tasks set id = -5 where id = 1", "update attempts set id = -5 where id = 1",
    "update attempts set log_id = 0", "update flows set name = 'a/b'", "update steps set name = '' where id = 1",
    "update codes set script_name = ''", "update or ignore code_files set path = ''", "update blobs set sha = null",
    "update blobs set data = x'7b' where codec = 'json'", "insert into task_parents values (1, 1)",
    "update tasks set foreach_path = 'x'", "update blob_values set magnitude = 5.0, value = '[1]'",
    "update blob_values set value = 'no'", "update blob_values set exact = 7", "update pictures set png = x'00'",
    "insert into cards select 1, -1, 'default', null, min(id), null, 0 from blobs",
)  # fmt: skip


def test_every_rule_is_kept(tmp_path):
    """Each is broken by one of these statements, then named, and mended without a complaint."""
    good = tmp_path / "good.db"
    full_store(good)
    another = (
        "create temp table others as select * from runs",
        "update others set id = 2, uuid = 'other'",
        "insert into runs select * from others",
        "insert into steps values (77, 2, 'start', 0)",
        """insert into tasks (id, run_id, step_id, status, started_at, finished_at)
           values (77, 2, 77, 'successful', 0, 0)""",
        """insert into tasks (id, run_id, step_id, status, started_at, finished_at, base_id)
           values (78, 2, 77, 'successful', 0, 0, 1)""",
    )
    unbroken = {rule.problem: rule for rule in invariants.ROWS}
    for statement in (*BROKEN, another):
        path = tmp_path / "broken.db"
        path.write_bytes(good.read_bytes())
        statements = [statement] if isinstance(statement, str) else [*statement]
        if "values (1, 77)" in statements[0]:
            statements = [*another[:5], *statements]
        with without_types(path):
            changed(path, *[(each,) for each in statements])
        with sqlite3.connect(path) as connection:
            connection.row_factory = sqlite3.Row
            for problem, rule in list(unbroken.items()):
                if connection.execute(rule.find).fetchone() is not None:
                    del unbroken[problem]
        connection.close()
        with contextlib.closing(open_store(path)) as store:
            done = repair.repair(store)
            assert done.problems, statement
            assert done.left == [], statement
            assert check.check(store, deep=True).problems == [], statement
    assert list(unbroken) == []


# --- pages that can't be read


@pytest.mark.parametrize("seed", [*range(1, 9), 150, 172, 294])
def test_a_damaged_file_is_mended_or_left_as_it_is(tmp_path, seed):
    """What a repair leaves is sound, and every artifact in it is right or gone; else one clear error, and no change."""
    right = make_original(tmp_path / "original.db")
    content, _ = damaged((tmp_path / "original.db").read_bytes(), seed)
    path = tmp_path / "flowstore.db"
    path.write_bytes(content)
    ran = command("check", "--repair", "--store", path, expect=None)
    if ran.code == 0:
        assert problems(path, "--deep", expect=0) == []
        assert read_all(path, right).keys() <= {"UntrustedArtifact"}  # where who signed what has been lost
    else:
        assert ran.stderr.startswith("Error: ")
        assert path.read_bytes() == content
        assert sorted(each.name for each in tmp_path.glob("*flowstore*")) == ["flowstore.db"]


def damage_a_page(path):
    """Overwrite the page where a table begins; gives what the file holds then."""
    content = bytearray(path.read_bytes())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        [page] = connection.execute("select rootpage from sqlite_master where name = 'task_parents'").fetchone()
    content[(page - 1) * schema.PAGE_SIZE : page * schema.PAGE_SIZE] = b"\xff" * schema.PAGE_SIZE
    path.write_bytes(content)
    return bytes(content)


def test_the_damaged_file_is_kept(path):
    """A new one takes its place, with its file mode and all that could be read; both are named."""
    path.chmod(0o640)
    content = damage_a_page(path)
    assert {each["kind"] for each in problems(path, "--deep")} == {"page"}
    said = command("check", "--repair", "--store", path)
    assert "task_parents" in said.stdout
    assert "kept as flowstore.db.damaged" in said.stderr
    assert path.with_name("flowstore.db.damaged").read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o640
    assert problems(path, "--deep", expect=0) == []
    assert values(path)["F/1/start/1/big"] == LARGE
    assert command("runs", "--store", path).stdout.count("successful") == 2


def test_a_file_whose_end_is_missing(path):
    """SQLite reads nothing of it; what lies before is saved."""
    store = open_store(path)
    for n in range(3):
        add_run(store, "Later", big=bytes([n]) * 300_000)
    store.close()
    before = values(path)
    content = path.read_bytes()[: -20 * schema.PAGE_SIZE]
    path.write_bytes(content)
    assert "Restore a copy" in command("runs", "--store", path, expect=1).stderr
    assert [each["kind"] for each in problems(path)] == ["file"]
    said = command("check", "--repair", "--store", path)
    assert "kept as flowstore.db.damaged" in said.stderr
    assert problems(path, "--deep", expect=0) == []
    after = values(path)
    assert after.items() <= before.items()
    assert after["F/1/start/1/big"] == LARGE
    assert "Later/5/start/12/big" not in after


def test_an_index_is_made_anew(path):
    """Nothing is lost, and no other file takes the place of this one."""
    before = values(path)
    changed(
        path,
        ("create table other (user)",),
        (
            """update sqlite_master set rootpage = (select rootpage from sqlite_master where name = 'other')
               where name = 'runs_by_code'""",
        ),
        ("delete from sqlite_master where name = 'other'",),
    )  # fmt: skip
    assert {each["kind"] for each in problems(path, "--deep")} & {"index", "page"}
    command("check", "--repair", "--store", path)
    assert problems(path, "--deep", expect=0) == []
    assert values(path) == before


BUSY = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("begin")
connection.execute("select count(*) from sqlite_master").fetchone()
print("reading", flush=True)
sys.stdin.read()
"""


def test_a_file_that_is_in_use_is_not_replaced(path, monkeypatch):
    """One clear error, and no change: the other process would go on with a file that nobody sees."""
    monkeypatch.setattr(repair, "_PATIENCE_S", 0.1)
    content = damage_a_page(path)
    other = [sys.executable, "-c", BUSY, str(path)]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout.readline() == b"reading\n"
        assert "in use by another process" in command("check", "--repair", "--store", path, expect=1).stderr
        reader.stdin.close()
    assert path.read_bytes() == content


def test_what_is_read_only_is_checked_and_not_repaired(tmp_path):
    """Another account's file is looked at; a repair is one clear error."""
    path = make_store(tmp_path / "flowstore.db")
    with contextlib.closing(open_store(path)) as store:
        store.writable = False
        assert check.check(store, deep=True).problems == []
        with pytest.raises(FlowstoreError, match="cannot be repaired"):
            repair.repair(store)


def test_what_a_crash_left_is_worth_a_note_only(path):
    """It is no problem, and `vacuum` is what removes it."""
    changed(path, ("insert into blobs (codec, size_bytes, type, preview) values ('bytes', 5, 'bytes', '')",))
    said = command("check", "--store", path)
    assert "1 of 5 bytes are not used" in said.stderr
    assert "flowstore vacuum" in said.stderr
    command("vacuum", "--store", path)
    assert "not used" not in command("check", "--store", path).stderr


def test_the_library_is_told_of_where_it_can_lose_commits():
    """SQLite's own bug, by its version."""
    assert [note.where for note in check.library((3, 40, 1))] == ["SQLite 3.40.1"]
    assert [*check.library((3, 51, 3)), *check.library((3, 50, 7)), *check.library((3, 44, 6))] == []


def test_a_small_store_is_saved_from_its_tables(tmp_path):
    """Nothing is read from the views that stand for some: newer SQLites refuse to order a view by `rowid`."""
    path, statements = make_store(tmp_path / "flowstore.db"), []
    with (
        contextlib.closing(sqlite3.connect(path)) as old,
        contextlib.closing(repair._new(tmp_path / "new.db")) as new,
    ):
        old.set_trace_callback(statements.append)
        assert [*repair._copied(old, new, path)] == []
        assert new.execute("select count(*) from artifacts").fetchone() == (1,)
    assert any("from artifacts" in sql for sql in statements)
    assert not any("from chunks" in sql for sql in statements)
