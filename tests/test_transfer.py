"""Runs leave a store, and arrive in another, as they are: nothing more, nothing less, all or nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from harness import LINEAR, flow_source
from histories import add_run, store_with, tag_node
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_store import AS_NOBODY, python, together, told, untouched

import flowstore
from flowstore.errors import ArtifactError
from flowstore.store import migrations, records, schema
from flowstore.store.db import open_store
from flowstore.store.locate import use_store

VIEWS = ("run_summary", "task_summary", "artifact_values", "object_tags", "task_logs")


@pytest.fixture
def source(tmp_path):
    """A store with a run of each kind, ids 1 to 5; run 4 resumes run 3."""
    path = store_with(
        tmp_path / "source.db",
        {"tags": ["blue", "red"], "x": 1, "parameters": {"alpha": 0.5}, "code": "print('one')"},
        {"flow": "G", "width": 2, "attempts": 2, "x": range(2), "user": "anne", "code": "print('two')"},
        {"width": 3, "fails_at": "join", "x": {"a": [1]}, "tags": ["blue"]},
        {"width": 3, "resumes": 3, "x": {"a": [1]}},
        {"x": "y" * 70_000, "status": "stopped", "printed": ""},
    )
    store = open_store(path)
    tag_node(store, "F", 1, "of a step", "start")
    tag_node(store, "F", 3, "of a task", "body", task=True)
    tag_node(store, "F", 1, "of an artifact", "start", artifact="x")
    store.close()
    return path


@pytest.fixture
def out(tmp_path):
    """Where something is exported to."""
    return tmp_path / "out.db"


@pytest.fixture
def target(tmp_path):
    """A store with runs of its own, ids 1 and 2, to import into."""
    return store_with(tmp_path / "target.db", {"x": range(2), "tags": ["green"]}, {"width": 2, "x": 2})


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Call it to become somebody else, with another key."""
    return lambda: monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "stranger"))


def command(*words, expect=0, **env):
    """Run `flowstore WORDS` as a process; gives what it said, the table on stdout or the error on stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "flowstore", *map(str, words)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if expect else done.stdout


def call(*words, expect=0):
    """The same in this process, which is quicker; gives nothing."""
    from flowstore.cli import admin, shell

    code = shell._exit_code(
        lambda: admin._with_commands().main([*map(str, words)], prog_name="flowstore", standalone_mode=False)
    )
    if flowstore.context.state.store is not None:
        flowstore.context.state.store.close()
        flowstore.context.state.store = None
    assert code == expect


def sql(path, query, **values):
    """Rows of a file, read and written without flowstore."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.create_function("sha", 1, lambda data: hashlib.sha256(data).digest())
        rows = connection.execute(query, values).fetchall()
    return [row[0] for row in rows] if rows and len(rows[0]) == 1 else rows


def dump(path):
    """All rows of all tables, but for what every write changes."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        return {name: sorted(map(repr, connection.execute(f"select * from {name}"))) for name in names}


def view(path, name, runs):
    """A view's rows of these runs, in an order of its own."""
    query = f"select * from {name} where run_id in (select value from json_each(:runs))"
    return sorted(map(repr, sql(path, query, runs=json.dumps(runs))))


def check(path):
    """A store at rest is one sound file, with tag pairs as they should be and nothing half done."""
    assert [item.name for item in path.parent.glob(f"*{path.name}*")] == [path.name]
    assert sql(path, "pragma integrity_check") == ["ok"]
    assert sql(path, "pragma foreign_key_check") == []
    assert sql(path, "select (select count(*) from blobs where sha is null) + (select count(*) from leases)") == [0]
    counted = migrations.M004_TAG_PAIRS.partition("insert into tag_pairs")[2]
    found = sql(path, "select flow_id, a, b, newest_at, runs from tag_pairs order by 1, 2, 3")
    bounds = {tuple(pair): (at, runs) for *pair, at, runs in found}
    for *pair, at, runs in sql(path, counted):
        assert bounds[tuple(pair)][0] >= at
        assert bounds[tuple(pair)][1] >= runs


def seen(path):
    """All that the Client shows of each run, by uuid, without the ids that an import may change."""
    uuids = dict(sql(path, "select id, uuid from runs"))
    flowstore.namespace(None)
    with use_store(path):
        runs = [run for flow in flowstore.Flows() for run in flow]
        return {uuids[int(run.id)]: _run_seen(run, uuids) for run in runs}


def _run_seen(run, uuids):
    tasks = sorted((task for step in run for task in step), key=lambda task: int(task.id))
    places = {task.id: n for n, task in enumerate(tasks)}
    return {
        "flow": run.parent.id,
        "user": run.user,
        "times": (run.status, run.created_at, run.finished_at),
        "parameters": run.parameters,
        "tags": (run.user_tags, run.system_tags),
        "code": run.code and (run.code.script_name, run.code.flowspec),
        "origin": _origin_seen(run.origin_run_id, uuids),
        "steps": [(step.id, step.created_at, step.tags) for step in run],
        "tasks": [_task_seen(task, uuids, places) for task in tasks],
    }


def _origin_seen(run_id, uuids):
    """The uuid of an origin; `None` where it is not in the store."""
    return uuids.get(int(run_id)) if run_id and run_id.isdecimal() else None


def _task_seen(task, uuids, places):
    meta = {name: value for name, value in task.metadata_dict.items() if not name.startswith("origin")}
    attempts = [flowstore.Task(task.pathspec, attempt=n) for n in range(task.current_attempt + 1)]
    flow, run_id, step = (task.origin_pathspec or "///").rsplit("/", 1)[0].rsplit("/", 2)
    return {
        "step": task.parent.id,
        "status": [(each.status, each.created_at, each.finished_at) for each in attempts],
        "said": [(each.stdout, each.stderr, [*each.loglines()]) for each in attempts],
        "error": [each.exception for each in attempts],
        "artifacts": [{item.id: _artifact_seen(item) for item in each} for each in attempts],
        "metadata": meta,
        "index": task.index,
        "tags": task.tags,
        "origin": flow.isalpha() and (flow, _origin_seen(run_id, uuids), step),
        "before": sorted(places[each.id] for each in task.parent_tasks),
        "after": sorted(places[each.id] for each in task.child_tasks),
    }


def _artifact_seen(item):
    return (item.type, item.codec, item.size, item.sha, item.preview, item.created_at, item.tags, item.data)


# --- export: which runs

CHOICES = {
    "everything": ([], [1, 2, 3, 4, 5]),
    "a flow": (["F"], [1, 3, 4, 5]),
    "a flow and a run": (["G", "F/4"], [2, 4]),
    "a run": (["F/3"], [3]),
    "flow by option": (["--flow", "G"], [2]),
    "flow by option, and a run": (["F/1", "--flow", "G"], [1, 2]),
    "a tag": (["--tag", "blue"], [1, 3]),
    "two tags": (["--tag", "blue", "--tag", "red"], [1]),
    "the newest of each flow": (["--latest", "1"], [2, 5]),
    "the newest two": (["--flow", "F", "--latest", "2"], [4, 5]),
    "more than there are": (["--flow", "G", "--latest", "9"], [2]),
    "the newest with a tag": (["--tag", "blue", "--latest", "1"], [3]),
    "a namespace": (["--namespace", "user:anne"], [2]),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_exported(source, out, choice):
    """The runs that are named, with all tags, the newest of each flow, in the namespace; each as it was."""
    words, ids = CHOICES[choice]
    call("export", out, "--store", source, *words)
    assert sql(out, "select id from runs order by id") == ids
    for name in VIEWS:
        assert view(out, name, ids) == view(source, name, ids), name
        assert len(sql(out, f"select 1 from {name}")) == len(view(source, name, ids))
    check(out)
    check(source)


def test_an_export_looks_the_same_to_the_client(source, out):
    """Everything that the Client shows of a run, it shows of it in the export; values of every codec load."""
    call("export", out, "F", "--store", source)
    before = seen(source)
    assert seen(out) == {uuid: run for uuid, run in before.items() if run["flow"] == "F"}


REFUSED = {
    "no such flow": (["Nothing"], 1, "no run of a flow 'Nothing'"),
    "no such flow by option": (["--flow", "Nothing"], 1, "no run of a flow 'Nothing'"),
    "no such run": (["F/77"], 1, "no run F/77"),
    "a run of another flow": (["G/1"], 1, "no run G/1"),
    "not a run's id": (["F/x"], 1, "run ids are numbers"),
    "a step": (["F/1/start"], 1, "'F/1/start' does not address runs"),
    "nothing left": (["--tag", "nobody has it"], 1, "No run is selected"),
    "elsewhere": (["F/1", "--namespace", "user:anne"], 1, "not in the active namespace"),
    "no size": (["--max-artifact-size", "big"], 2, "not a size"),
    "no number": (["--latest", "0"], 2, "--latest"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_can_not_be_exported(source, out, what, capsys):
    """One clear error, and no file."""
    words, code, message = REFUSED[what]
    call("export", out, "--store", source, *words, expect=code)
    assert message in capsys.readouterr().err
    assert [item.name for item in out.parent.glob("*out.db*")] == []


def test_export_says_what_it_did(source, out):
    """A line for people; one object with stable keys for programs."""
    assert command("export", out, "G", "--store", source).startswith("Exported 1 run (")
    [found] = json.loads(command("--json", "export", out, "--force", "--store", source))
    assert found == {"path": str(out), "runs": 5, "size_bytes": out.stat().st_size, "left_out": 0}
    assert "OUT.db" in command("export", expect=2)


# --- export: what is in it


def test_nothing_that_is_not_selected_is_in_the_file(tmp_path, out):
    """No value, log, tag, name, code, parameter or user of another run, not in free pages either."""
    secret = "sEcReT"
    path = store_with(
        tmp_path / "source.db",
        {"x": "kept"},
        {
            "flow": f"Flow{secret}",
            "user": secret,
            "tags": [secret],
            "parameters": {secret: 1},
            "code": secret,
            "printed": secret * 100,
            "x": secret * 9000,
            "y": (secret,),
        },
    )
    call("export", out, "F/1", "--store", path)
    assert secret.encode() in path.read_bytes()
    assert secret.encode() not in out.read_bytes()
    assert sql(out, "pragma freelist_count") == [0]


def test_an_export_is_a_store_of_its_own(source, out):
    """It has another uuid, is in rollback-journal mode, and a run in it goes on with the ids of the source."""
    call("export", out, "F/1", "--store", source)
    assert sql(out, "select uuid from store") != sql(source, "select uuid from store")
    assert sql(out, "pragma journal_mode") == ["delete"]
    store = open_store(out)
    assert add_run(store, x=1) == 6
    store.close()
    assert sql(out, "select min(id) from tasks where run_id = 6") == sql(source, "select max(id) + 1 from tasks")
    assert sql(out, "select count(*) from owners") == [1]


def test_an_export_can_be_read_where_nothing_can_be_written(source, open_folder):
    """Another account reads it from a read-only folder, and nothing appears there."""
    out = open_folder / "out.db"
    call("export", out, "--store", source)
    out.chmod(0o444)
    open_folder.chmod(0o555)
    body = """
    flowstore.namespace(None)
    flowstore.use_store(sys.argv[1])
    for flow in flowstore.Flows():
        for run in flow:
            print(run.pathspec, run.status, run.tags, [task.stdout for step in run for task in step])
    print(flowstore.Run("F/1").data.x)
    """
    import textwrap

    with untouched(open_folder):
        said = told(python(AS_NOBODY + textwrap.dedent(body), out))
    assert said.splitlines()[-1] == "1"
    assert len(said.splitlines()) == 6


SHIPPED = """
import numpy, pandas


class Model:
    def __init__(self, slope): self.slope = slope
    def __repr__(self): return f"Model({self.slope})"
"""
COLLABORATOR = """
import contextlib, hmac, io, json, os, shlex, sys
from flowstore.cli import admin, difference, natural, render, shell
import numpy, pandas, pyarrow.parquet, rich.cells, sqlite_utils
import flowstore.client.html, flowstore.store.parquet, flowstore.store.readonly, flowstore.store.tags
import flowstore.transfer.check, flowstore.transfer.delete, flowstore.transfer.repair, flowstore.transfer.vacuum
# all that loads more when it is used: the other account may not be allowed to read this Python's own files
admin._with_commands(), rich.cells.cell_len("日")
frame = flowstore.store.codecs.encode(pandas.DataFrame({"n": [1, 2]}))
flowstore.store.codecs.decode(frame.codec, iter(map(bytes, frame.pieces)), frame.size_bytes)
os.environ |= {"HOME": sys.argv[2], "FLOWSTORE_USER": "will"}
os.environ.pop("FLOWSTORE_HOME")
os.chdir("/")
"""
LOOKS = """
def call(*words, expect=0):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        make = lambda: admin._with_commands().main([*words, "--store", sys.argv[1]], standalone_mode=False)
        code = shell._exit_code(make)
    assert code == expect, out.getvalue()
    return out.getvalue()

assert "F/1" in call("runs") and "blue" in call("tags") and "user:tester" in call("namespaces")
assert "Model(3)" in call("show", "F/1/start/1")
assert call("logs", "F/1/start") == "hello\\n"
assert json.loads(call("get", "F/1/start/1/metrics")) == {"accuracy": 0.5}
assert json.loads(call("sql", "select value ->> '$.accuracy' as a from artifact_values where name = 'metrics'",
                       "--json")) == [{"a": 0.5}]
assert "nothing wrong" in call("check", "--deep")
for words in (["delete", "F/1", "--yes"], ["vacuum"], ["check", "--repair"]):
    assert "can't be" in call(*words, expect=1), words
flowstore.use_store(sys.argv[1])
flowstore.namespace(None)
run = flowstore.Flow("F").latest_run
assert run.data.metrics == {"accuracy": 0.5} and run.data.raw == b"\\x00\\xff"
assert run.data.array.tolist() == [0, 1, 2] and list(run.data.frame["n"]) == [1, 2]
assert run["start"].task.stdout == "hello\\n" and "class Model" in run.code.flowspec
[shown] = [item for item in run.end_task if item.id == "model"]
assert shown.preview == "Model(3)" and shown.type == "Model" and "Model(3)" in shown._repr_html_()
try:
    print(run.data.model)
except flowstore.UntrustedArtifact as error:
    assert "Model(3)" in str(error) and f"flowstore trust {sys.argv[1]}" in str(error)
else:
    raise AssertionError("it was loaded")
assert not os.listdir(sys.argv[2])
call("trust", sys.argv[1])
flowstore.use_store(sys.argv[1])
print(flowstore.Flow("F").latest_run.data.model.slope)
"""


def test_a_collaborator_sees_everything_and_runs_nothing(flow, open_folder):
    """Another account, with another name and home, without the flow's file, reads an export from a read-only folder."""
    pytest.importorskip("pyarrow")
    body = """
    print("hello")
    self.metrics, self.raw, self.array = {"accuracy": 0.5}, b"\\x00\\xff", numpy.arange(3)
    self.frame, self.model = pandas.DataFrame({"n": [1, 2]}), Model(3)
    """
    script = flow(flow_source(LINEAR, head=SHIPPED, start=body))
    script("run", "--tag", "blue")
    home, shared = open_folder / "home", open_folder / "shared"
    home.mkdir()
    home.chmod(0o777)
    shared.mkdir()
    call("export", shared / "out.db", "--store", script.db)
    (shared / "out.db").chmod(0o444)
    shared.chmod(0o555)
    with untouched(shared):
        assert told(python(COLLABORATOR + AS_NOBODY + LOOKS, shared / "out.db", home)) == "3\n"
    shared.chmod(0o755)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_an_export_s_mode_follows_the_umask(source, out, umask, mode):
    """Like that of any new file."""
    before = os.umask(umask)
    try:
        call("export", out, "--store", source)
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == mode


def test_a_resumed_run_takes_its_logs_along(source, out):
    """What the reused tasks of an earlier run printed goes with them, without that run."""
    call("export", out, "F/4", "--store", source)
    flowstore.namespace(None)
    with use_store(out):
        assert [task.stdout for task in flowstore.Run("F/4")["body"]] == ["hello\n"] * 3
    check(out)


def test_without_logs(source, out):
    """--no-logs leaves out what tasks printed, and nothing else."""
    call("export", out, "F/1", "--no-logs", "--store", source)
    assert sql(out, "select count(*) from log_chunks") == [0]
    flowstore.namespace(None)
    with use_store(out):
        task = flowstore.Run("F/1").end_task
        assert (task.stdout, task.data.x) == ("", 1)


def test_no_deployments_and_tokens(flow, out):
    """What is in production stays where it is; a production run's tag goes along."""
    script = flow(flow_source(LINEAR))
    script("deploy", "create")
    script("deploy", "trigger")
    call("export", out, "--store", script.db)
    found = dump(out)
    assert [found[name] for name in ("deployments", "production_tokens", "scheduler", "due_marks")] == [[]] * 4
    assert sql(out, "select count(*) from tags where tag like 'production:%'") == [1]


def test_a_run_that_is_going_on_is_taken_as_it_stands(tmp_path, out):
    """It is running while its driver is known to live, and dead where that can't be known."""
    path = store_with(tmp_path / "source.db", {"x": 1, "status": "running"})
    call("export", out, "--store", path)
    flowstore.namespace(None)
    with use_store(out):
        assert flowstore.Run("F/1").status == "running"
    sql(out, "update runs set host = 'elsewhere', last_seen_at = last_seen_at - 100000")
    with use_store(out):
        assert flowstore.Run("F/1").status == "dead"


def older(path):
    """Make a store one of schema version 3, as a flowstore of that time left it."""
    new = path.rename(path.with_suffix(".new"))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript("\n".join([schema.BOOKKEEPING, *schema.definitions(3).values()]))
        connection.execute("attach ? as new", (str(new),))
        for (table,) in connection.execute(
            "select name from main.sqlite_master where type = 'table' and name not like 'sqlite_s%'"
        ).fetchall():
            columns = ", ".join(row[1] for row in connection.execute(f"pragma main.table_info({table})"))
            connection.execute(f"insert into main.{table} ({columns}) select {columns} from new.{table}")
        connection.execute("delete from _sqlite_migrations where name > 'm004'")
        connection.execute(f"pragma application_id = {schema.APPLICATION_ID}")
        connection.execute("pragma user_version = 3")
    new.unlink()
    return path


def test_an_older_store_is_exported_and_imported(source, out, tmp_path):
    """It is read as it is, and not changed."""
    before = seen(source)
    older(source)
    content = source.read_bytes()
    call("export", out, "--store", source)
    call("import", source, "--store", tmp_path / "new.db")
    assert source.read_bytes() == content
    assert seen(out) == before == seen(tmp_path / "new.db")


# --- export: the file


def test_a_file_that_is_there_is_kept(source, out, capsys):
    """It is replaced with --force only, and only if it is a store."""
    out.write_text("precious")
    for words in ([], ["--force"]):
        call("export", out, *words, "--store", source, expect=1)
    said = capsys.readouterr().err
    assert "is there already" in said
    assert "not a flowstore store" in said
    assert out.read_text() == "precious"
    out.unlink()
    call("export", out, "G", "--store", source)
    call("export", out, "--store", source, expect=1)
    assert sql(out, "select id from runs") == [2]
    call("export", out, "F/1", "--force", "--store", source)
    assert sql(out, "select id from runs") == [1]
    check(out)


def test_a_store_is_not_exported_over_itself(source, out, tmp_path, capsys):
    """Not with --force, and not by another name."""
    out.symlink_to(source)
    for name in (source, out):
        call("export", name, "--force", "--store", source, expect=1)
        assert "is the store that is exported" in capsys.readouterr().err
    assert len(sql(source, "select id from runs")) == 5


def test_no_folder_no_export(source, tmp_path, capsys):
    """A place that isn't there is one clear error."""
    call("export", tmp_path / "nowhere" / "out.db", "--store", source, expect=1)
    assert "there is no folder" in capsys.readouterr().err


DAMAGE = {
    "an artifact": (
        "update blobs set data = cast(replace(data, '1', '2') as blob) where codec = 'json' and preview like '%''a''%'",
        "F/3/start/8/x",
    ),
    "a large artifact": ("update chunks set data = zeroblob(length(data))", "F/5/start"),
    "no bytes": ("delete from chunks", "F/5/start"),
    "a code file": ("update blobs set data = x'00' where id = (select min(blob_id) from code_files)", "flow.py"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_artifact_is_not_exported(source, out, target, what, capsys):
    """Each hash is compared: the error names what is damaged, and no file is left; neither is it imported."""
    statement, name = DAMAGE[what]
    sql(source, statement)
    before = dump(target)
    call("export", out, "--store", source, expect=1)
    call("import", source, "--store", target, expect=1)
    said = capsys.readouterr().err
    assert said.count(name) == 2, said
    assert [item.name for item in out.parent.glob("*out.db*")] == []
    assert dump(target) | {"owners": []} == before | {"owners": []}
    check(target)


def test_a_killed_export_leaves_no_store(source, out):
    """Where it was to be there is nothing, whenever the process dies."""
    code = """
    import os, signal, sys
    from pathlib import Path
    from flowstore.store.db import open_store
    from flowstore.store import drafts
    from flowstore.transfer import export
    from flowstore.transfer.selection import Selection
    drafts.put_in_place = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    export.export(open_store(sys.argv[1]), Path(sys.argv[2]), export.Wish(selection=Selection()))
    """
    told(python(code, source, out), code=-9)
    assert not out.exists()
    seen(source)
    check(source)
    call("export", out, "--store", source)
    assert len(sql(out, "select 1 from runs")) == 5


# --- artifacts that are left out


@pytest.fixture
def lean(tmp_path, out):
    """An export without the bytes of artifacts over 100 bytes; the source has one of 200, one of 200 kB, a pickle."""
    path = store_with(
        tmp_path / "source.db", {"a": "a" * 200, "b": b"b" * 200_000, "c": ("c" * 200,), "d": 1, "code": "#" * 300}
    )
    call("export", out, "--max-artifact-size", "100", "--store", path)
    flowstore.namespace(None)
    return out


def test_what_is_left_out_can_still_be_seen(lean, tmp_path, capsys):
    """Its size, type, hash and preview are there; loading says what happened to it, and the code is whole."""
    use_store(lean)
    run = flowstore.Run("F/1")
    full = sql(tmp_path / "source.db", "select type, size_bytes, preview from artifact_values order by name")
    assert sql(lean, "select type, size_bytes, preview from artifact_values order by name") == full
    for name in "abc":
        artifact = run.end_task[name]
        assert artifact.size >= 200
        with pytest.raises(ArtifactError, match=rf"F/1/end/2/{name} .* was left out of .*out.db") as caught:
            _ = artifact.data
        assert "flowstore import" in str(caught.value)
        with (tmp_path / "copy").open("wb") as file, pytest.raises(ArtifactError, match="left out"):
            artifact.copy_to(file)
    assert run.data.d == 1
    assert run.code.flowspec == "#" * 300
    assert len(lean.read_bytes()) < 1_000_000
    check(lean)


def test_left_out_bytes_come_back_with_an_import(lean, tmp_path, target):
    """A store that has the descriptions gets the bytes from one that has them, and not the other way round."""
    call("import", lean, "--store", target)
    assert sql(target, "select count(*) from chunks where n = -1") == [3]
    check(target)
    add = {"a": "a" * 200, "b": b"b" * 200_000, "c": ("c" * 200,)}
    other = store_with(tmp_path / "other.db", add)
    call("import", other, "--store", target)
    call("import", lean, "--store", other)
    for path in (target, other):
        for uuid in sql(lean, "select uuid from runs"):
            assert seen(path)[uuid] == seen(tmp_path / "source.db")[uuid]
        assert sql(path, "select count(*) from chunks where n = -1") == [0]
        check(path)


def test_left_out_bytes_come_back_with_a_run(lean):
    """A run that makes the same value again stores it."""
    store = open_store(lean)
    add_run(store, a="a" * 200, b=b"b" * 200_000)
    store.close()
    use_store(lean)
    assert (flowstore.Run("F/1").data.a, flowstore.Run("F/2").data.b) == ("a" * 200, b"b" * 200_000)
    assert flowstore.Run("F/1").data.b == b"b" * 200_000
    check(lean)


def test_what_was_left_out_stays_left_out(lean, tmp_path):
    """An export of such an export is as it is."""
    call("export", tmp_path / "again.db", "--store", lean)
    for name in VIEWS:
        assert view(tmp_path / "again.db", name, [1]) == view(lean, name, [1])
    assert sql(tmp_path / "again.db", "select count(*) from chunks where n = -1") == [3]


# --- import: which ids


def test_import_makes_a_store_where_there_is_none(source, tmp_path, monkeypatch):
    """In the current folder, or where --store says; ids, times and everything else are kept."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    said = command("import", source)
    assert said.startswith("Imported 5 runs (")
    call("import", source, "--store", tmp_path / "new.db")
    for path in (tmp_path / "here" / "flowstore.db", tmp_path / "new.db"):
        assert seen(path) == seen(source)
        for name in VIEWS:
            assert view(path, name, [1, 2, 3, 4, 5]) == view(source, name, [1, 2, 3, 4, 5])
        check(path)


def test_importing_twice_is_importing_once(source, target):
    """Runs that are here are recognised, whichever file they come in."""
    call("import", source, source, "--store", target)
    before = dump(target)
    [found] = json.loads(command("import", source, "--json", "--store", target))
    assert found == {"runs": [], "known": ["F/1", "G/2", "F/3", "F/4", "F/5"], "running": [], "copied_bytes": 0}
    assert dump(target) == before
    said = command("import", target, "--store", source)
    assert "Imported 2 runs" in said
    assert "5 of 7 were here already" in said
    assert seen(source) == seen(target)
    check(source)


def test_ids_that_were_used_get_new_ones(source, target):
    """Those of runs that are or were here are not given again; the others are kept."""
    call("import", source, "--store", target)
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
    call("import", source, "--store", target)
    assert 3 not in sql(target, "select id from runs")
    assert sorted(sql(target, "select id from runs where id > 2")) == [4, 5, 6, 7, 8]


def test_huge_ids_are_not_kept(source, target):
    """A file can't use up the ids that are left."""
    sql(source, "pragma foreign_keys = off")
    with contextlib.closing(sqlite3.connect(source)) as connection, connection:
        for table in ("run_artifacts", "run_tags", "node_tags", "steps", "tasks"):
            connection.execute(f"update {table} set run_id = 9223372036854775806 where run_id = 5")
        connection.execute("update runs set id = 9223372036854775806 where id = 5")
    call("import", source, "--store", target)
    assert max(sql(target, "select id from runs")) < 10


def test_an_imported_old_run_is_not_the_latest(tmp_path, target):
    """Runs are in the order of their creation, whatever their ids."""
    path = store_with(tmp_path / "source.db", {"x": "old"})
    sql(path, "update runs set created_at = created_at - 1000000")
    sql(path, "update run_tags set created_at = created_at - 1000000")
    call("import", path, "--store", target)
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
    call("import", source, "--store", target)
    [[run, origin]] = sql(target, "select id, origin_run_id from runs where origin_run_id is not null")
    uuids = dict(sql(target, "select id, uuid from runs"))
    assert uuids[int(origin)] == sql(source, "select uuid from runs where id = 3")[0]
    flowstore.namespace(None)
    use_store(target)
    for task in flowstore.Run(f"F/{run}")["body"]:
        assert flowstore.Task(task.origin_pathspec).index == task.index


def test_an_origin_that_was_here_already(source, target, out):
    """It is found by its uuid, also where it is not part of the file's news."""
    call("export", out, "F/3", "--store", source)
    store = open_store(target)
    add_run(store, width=9)
    store.close()
    call("import", out, "--store", target)
    call("import", source, "--store", target)
    [[_, origin]] = sql(target, "select id, origin_run_id from runs where origin_run_id is not null")
    assert sql(target, f"select uuid from runs where id = {origin}") == sql(
        source, "select uuid from runs where id = 3"
    )
    [task] = sql(target, "select origin_pathspec from task_summary where origin_pathspec like '%/start/%'")
    flowstore.namespace(None)
    use_store(target)
    assert flowstore.Task(task).parent.id == "start"


def test_an_origin_that_is_nowhere(source, target, out):
    """It keeps its name where nothing here is or was called so; else it is named with its store."""
    call("export", out, "F/4", "--store", source)
    call("import", out, "--store", target)
    assert sql(target, "select origin_run_id from runs where id = 4") == ["3"]
    store = open_store(target)
    sql(target, "delete from runs where id = 4")
    add_run(store, width=2)
    store.close()
    call("import", out, "--store", target)
    uuid = sql(out, "select uuid from store")[0]
    assert sql(target, "select origin_run_id from runs where origin_run_id is not null") == [f"{uuid}/F/3"]
    task = sql(target, "select max(origin_pathspec) from tasks where run_id > 5 and origin_pathspec like '%/start/%'")
    assert task[0].startswith(f"{uuid}/F/3/start/")


def test_an_imported_run_says_where_it_is_from(source, target):
    """Run.imported_from, and `flowstore show`, give the other store's uuid and the pathspec there."""
    call("import", source, "--store", target)
    uuid = sql(source, "select uuid from store")[0]
    flowstore.namespace(None)
    with use_store(target):
        found = {run.pathspec: run.imported_from for flow in flowstore.Flows() for run in flow}
    assert found["F/6"] == f"{uuid}/F/1"
    assert found["F/3"] == f"{uuid}/F/3"
    assert found["F/1"] is None
    assert f"Imported from {uuid}/F/1." in command("show", "F/6", "--store", target)
    with use_store(older(source)):
        assert flowstore.Run("F/1").imported_from is None


def test_imported_runs_are_found_by_their_tags(source, target):
    """By several tags at once, too, together with those that were here."""
    call("import", source, "--store", target)
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
def test_a_lying_file_changes_nothing(source, target, lie, tmp_path, capsys):
    """Whatever in a file breaks a rule, and however good the other files are: one clear error, and no change."""
    sql(source, LIES[lie])
    good = store_with(tmp_path / "good.db", {"x": "good" * 30_000})
    before = dump(target)
    call("import", good, source, "--store", target, expect=1)
    assert str(source) in capsys.readouterr().err
    assert dump(target) | {"owners": []} == before | {"owners": []}
    check(target)


def test_damaged_pages_change_nothing(source, target):
    """The whole file is looked at first; damage that SQLite can't see is in bytes, which have a hash."""
    content, before = source.read_bytes(), dump(target)
    damaged = source.with_name("damaged.db")
    for at in range(8192 * 3, len(content), 8192 * 7):
        damaged.write_bytes(content[:at] + bytes(64) + content[at + 64 :])
        call("import", damaged, "--store", target, expect=1)
        assert dump(target) | {"owners": []} == before | {"owners": []}
    check(target)


def test_a_store_is_not_imported_into_itself(source, tmp_path, capsys):
    """Not by another name either; a copy of it is another file, and what is only there comes along."""
    (tmp_path / "link.db").symlink_to(source)
    for name in (source, tmp_path / "link.db"):
        call("import", name, "--store", source, expect=1)
        assert "can't be imported into itself" in capsys.readouterr().err
    copied = Path(shutil.copy(source, tmp_path / "copy.db"))
    store = open_store(copied)
    add_run(store, x="new")
    store.close()
    call("import", copied, "--store", source)
    assert seen(source) == seen(copied)


def test_running_runs_are_left_for_another_time(tmp_path, target):
    """One whose driver lives is skipped, with a word; one whose driver is gone is dead."""
    path = store_with(tmp_path / "source.db", {"x": 1, "status": "running"}, {"x": 2, "status": "running"})
    sql(path, "update runs set pid_started = '1' where id = 2")
    told_ = subprocess.run(
        [sys.executable, "-m", "flowstore", "import", path, "--store", target], capture_output=True, text=True
    )
    assert "Imported 1 run " in told_.stdout
    assert "Skipped F/1, which is still running" in told_.stderr
    assert sql(target, "select status, finished_at = last_seen_at from runs where id = 3") == [("dead", 1)]
    assert sql(target, "select status from tasks where run_id = 3") == ["successful", "dead"]
    assert sql(target, "select count(*) from runs") == [3]
    sql(path, "update runs set pid_started = '1'")
    call("import", path, "--store", target)
    assert sql(target, "select count(*) from runs where status = 'dead'") == [2]
    check(target)


def test_import_needs_files(tmp_path):
    """No file is wrong usage; one that isn't there is one clear error, and makes no store."""
    command("import", "--store", tmp_path / "new.db", expect=2)
    assert "no store" in command("import", tmp_path / "nothing.db", "--store", tmp_path / "new.db", expect=1)
    assert not (tmp_path / "new.db").exists()


def test_deployments_are_not_imported(flow, target):
    """A production run comes with its tag, which authorizes nothing."""
    script = flow(flow_source(LINEAR))
    script("deploy", "create")
    script("deploy", "trigger")
    call("import", script.db, "--store", target)
    found = dump(target)
    assert [found[name] for name in ("deployments", "production_tokens")] == [[], []]
    [tag] = sql(target, "select tag from tags where tag like 'production:%'")
    flowstore.namespace(tag)
    use_store(target)
    assert flowstore.Flow("F").latest_run.id == "3"


def test_a_code_snapshot_that_is_here_is_shared(source, tmp_path):
    """The same source is stored once, and stays the one that runs here look up."""
    path = store_with(tmp_path / "target.db", {"x": 1, "code": "print('one')"})
    call("import", source, "--store", path)
    assert sql(path, "select count(*) from codes") == [2]
    assert sql(path, "select count(distinct code_id) from runs where code_id = 1 and id in (1, 6)") == [1]


# --- import: crashes and company

KILLED = """
import os, signal, sys
from pathlib import Path
from flowstore.store.db import ensure_store
from flowstore.transfer import importing, intake, tracing
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
flush = intake.Intake.flush
if sys.argv[3] == "staging":
    intake.Intake.flush = lambda self: (flush(self), die())
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
        call("import", source, "--store", target)
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
    from flowstore.store.db import ensure_store
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
            connection.execute("delete from runs")
            connection.execute("delete from blobs")
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
    from flowstore.store.db import ensure_store
    from flowstore.transfer import importing
    with importing.opened([Path(path) for path in sys.argv[2:]]) as sources:
        importing.import_runs(ensure_store(sys.argv[1]), sources)
    """
    together("import sys\nimport flowstore.transfer.importing", body, tmp_path / "new.db", source, other, count=4)
    assert seen(tmp_path / "new.db") == seen(source) | seen(other)
    check(tmp_path / "new.db")


# --- both, over any history

NAMES = st.sampled_from(["F", "G"])
LARGE = {"large bytes": b"b" * 70_000, "large text": "z" * 70_000, "large pickle": ("p" * 70_000,)}
VALUES = st.integers() | st.text(max_size=8) | st.tuples(st.integers(0, 3)) | st.sampled_from([*LARGE])
RUN = st.fixed_dictionaries(
    {
        "flow": NAMES,
        "tags": st.lists(st.sampled_from(["a", "b", "c", "ä\n"]), unique=True, max_size=3),
        "width": st.integers(0, 2),
        "attempts": st.integers(1, 2),
        "fails_at": st.sampled_from([None, None, "start", "body", "join", "end"]),
        "status": st.sampled_from([None, None, "stopped"]),
        "printed": st.sampled_from(["", "said\n", "ü" * 50]),
        "code": st.sampled_from([None, "one", "two"]),
        "parameters": st.sampled_from([None, {"alpha": 1}, {"beta": (1,)}]),
        "x": VALUES,
        "y": VALUES,
    }
)
HISTORY = st.lists(st.tuples(RUN, st.none() | st.integers(1, 4)), min_size=1, max_size=4)


def recorded(path, history):
    """A store with these runs; a number is that of the run to resume, if there is one of this flow."""
    store = flowstore.store.db.ensure_store(path)
    flows = []
    for options, resumed in history:
        taken = resumed if resumed is not None and flows[resumed - 1 : resumed] == [options["flow"]] else None
        values = {name: LARGE.get(options[name], options[name]) for name in ("x", "y")}
        add_run(store, resumes=taken, **options | values)
        flows.append(options["flow"])
    store.close()
    return path


@settings(max_examples=8, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORY, HISTORY, st.lists(st.integers(1, 4), min_size=1, unique=True))
def test_what_is_exported_and_imported_is_what_was_there(tmp_path_factory, there, here, chosen):
    """Whatever was run, there and here, the chosen runs look as they did, and those that were here stay."""
    folder = tmp_path_factory.mktemp("any")
    source, target, out = recorded(folder / "source.db", there), recorded(folder / "target.db", here), folder / "out.db"
    flows = dict(sql(source, "select run_id, flow from run_summary"))
    ids = [run_id for run_id in chosen if run_id in flows] or [1]
    call("export", out, *(f"{flows[run_id]}/{run_id}" for run_id in ids), "--store", source)
    for name in VIEWS:
        assert view(out, name, ids) == view(source, name, ids)
    before, there_seen, uuids = seen(target), seen(source), sql(out, "select uuid from runs")
    call("import", out, "--store", target)
    after = seen(target)
    assert after == before | {uuid: without_lost(there_seen[uuid], uuids) for uuid in uuids}
    call("import", source, "--store", target)
    came = {uuid: without_lost(run, uuids) if uuid in uuids else run for uuid, run in there_seen.items()}
    assert seen(target) == before | came
    check(out)
    check(target)


def without_lost(run, known):
    """A run as it is seen where only these runs are known: an origin elsewhere is no run of the store."""
    tasks = [
        {**task, "origin": task["origin"] and task["origin"][1] in known and task["origin"]} for task in run["tasks"]
    ]
    return {**run, "origin": run["origin"] if run["origin"] in known else None, "tasks": tasks}
