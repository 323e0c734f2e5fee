"""Runs leave a store as they are: nothing more, nothing less, all or nothing."""

from __future__ import annotations

import json
import os

import pytest

import flowstore
from flowstore.errors import ArtifactError
from flowstore.store.opening import open_store, use_store
from support.cli import command
from support.flows import LINEAR, flow_source
from support.processes import AS_NOBODY, python, told
from support.recording import add_run, store_with
from support.shipped import VIEWS, check, dump, older, seen, sql, view
from support.stores import untouched

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
    command("export", out, "--store", source, *words)
    assert sql(out, "select id from runs order by id") == ids
    for name in VIEWS:
        assert view(out, name, ids) == view(source, name, ids), name
        assert len(sql(out, f"select 1 from {name}")) == len(view(source, name, ids))
    check(out)
    check(source)


def test_an_export_looks_the_same_to_the_client(source, out):
    """Everything that the Client shows of a run, it shows of it in the export; values of every codec load."""
    command("export", out, "F", "--store", source)
    before = seen(source)
    assert seen(out) == {uuid: run for uuid, run in before.items() if run["flow"] == "F"}


REFUSED = {
    "no such flow": (["Nothing"], 1, "no run of a flow 'Nothing'"),
    "no such flow by option": (["--flow", "Nothing"], 1, "no run of a flow 'Nothing'"),
    "no such run": (["F/77"], 1, "no run F/77"),
    "a run of another flow": (["G/1"], 1, "no run G/1"),
    "not a run's id": (["F/x"], 1, "run ids are numbers"),
    "a step": (["F/1/start"], 1, "'F/1/start' does not address a flow or a run"),
    "nothing left": (["--tag", "nobody has it"], 1, "No run is selected"),
    "elsewhere": (["F/1", "--namespace", "user:anne"], 1, "not in the active namespace"),
    "no size": (["--max-artifact-size", "big"], 2, "not a size"),
    "no number": (["--latest", "0"], 2, "--latest"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_can_not_be_exported(source, out, what):
    """One clear error, and no file."""
    words, code, message = REFUSED[what]
    assert message in command("export", out, "--store", source, *words, expect=code).stderr
    assert [item.name for item in out.parent.glob("*out.db*")] == []


def test_export_says_what_it_did(source, out):
    """A line for people; one object with stable keys for programs."""
    assert command("export", out, "G", "--store", source).stdout.startswith("Exported 1 run (")
    [found] = json.loads(command("--json", "export", out, "--force", "--store", source).stdout)
    assert found == {"path": str(out), "runs": 5, "size_bytes": out.stat().st_size, "left_out": 0}
    assert "OUT" in command("export", expect=2).stderr


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
    command("export", out, "F/1", "--store", path)
    assert secret.encode() in path.read_bytes()
    assert secret.encode() not in out.read_bytes()
    assert sql(out, "pragma freelist_count") == [0]


def test_an_export_is_a_store_of_its_own(source, out):
    """It has another uuid, is in rollback-journal mode, and a run in it goes on with the ids of the source."""
    command("export", out, "F/1", "--store", source)
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
    command("export", out, "--store", source)
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
from flowstore.cli import app, diff, formats, inspect, logs, main, maintenance, output, runs
import numpy, pandas, pyarrow.parquet, rich.cells, sqlite_utils
import flowstore.client.html, flowstore.store.codecs.parquet, flowstore.sqlite.user_sql, flowstore.store.tags
from flowstore.maintenance import check, delete, repair, vacuum
# all that loads more when it is used: the other account may not be allowed to read this Python's own files
main.flowstore, rich.cells.cell_len("日")
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
        store = [] if words[0] == "trust" else ["--store", sys.argv[1]]
        make = lambda: main.flowstore.main([*words, *store], standalone_mode=False)
        code = app.exit_code(make)
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
    assert "cannot be" in call(*words, expect=1), words
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
    command("export", shared / "out.db", "--store", script.db)
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
        command("export", out, "--store", source)
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == mode


def test_a_resumed_run_takes_its_logs_along(source, out):
    """What the reused tasks of an earlier run printed goes with them, without that run."""
    command("export", out, "F/4", "--store", source)
    flowstore.namespace(None)
    with use_store(out):
        assert [task.stdout for task in flowstore.Run("F/4")["body"]] == ["hello\n"] * 3
    check(out)


def test_without_logs(source, out):
    """--no-logs leaves out what tasks printed, and nothing else."""
    command("export", out, "F/1", "--no-logs", "--store", source)
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
    command("export", out, "--store", script.db)
    for name in ("deployments", "production_tokens", "scheduler", "due_marks"):
        assert sql(out, f"select count(*) from {name}") == [0]
    assert sql(out, "select count(*) from tags where tag like 'production:%'") == [1]


def test_a_run_that_is_going_on_is_taken_as_it_stands(tmp_path, out):
    """It is running while its driver is known to live, and dead where that can't be known."""
    path = store_with(tmp_path / "source.db", {"x": 1, "status": "running"})
    command("export", out, "--store", path)
    flowstore.namespace(None)
    with use_store(out):
        assert flowstore.Run("F/1").status == "running"
    sql(out, "update runs set host = 'elsewhere', last_seen_at = last_seen_at - 100000")
    with use_store(out):
        assert flowstore.Run("F/1").status == "dead"


def test_an_older_store_is_exported_and_imported(source, out, tmp_path):
    """It is read as it is, and not changed."""
    before = seen(source)
    older(source)
    content = source.read_bytes()
    command("export", out, "--store", source)
    command("import", source, "--store", tmp_path / "new.db")
    assert source.read_bytes() == content
    assert seen(out) == before == seen(tmp_path / "new.db")


# --- export: the file


def test_a_file_that_is_there_is_kept(source, out):
    """It is replaced with --force only, and only if it is a store."""
    out.write_text("precious")
    assert "is there already" in command("export", out, "--store", source, expect=1).stderr
    assert "not a flowstore store" in command("export", out, "--force", "--store", source, expect=1).stderr
    assert out.read_text() == "precious"
    out.unlink()
    command("export", out, "G", "--store", source)
    command("export", out, "--store", source, expect=1)
    assert sql(out, "select id from runs") == [2]
    command("export", out, "F/1", "--force", "--store", source)
    assert sql(out, "select id from runs") == [1]
    check(out)


def test_a_store_is_not_exported_over_itself(source, out):
    """Not with --force, and not by another name."""
    out.symlink_to(source)
    for name in (source, out):
        failed = command("export", name, "--force", "--store", source, expect=1)
        assert "is the store that is exported" in failed.stderr
    assert len(sql(source, "select id from runs")) == 5


def test_no_folder_no_export(source, tmp_path):
    """A place that isn't there is one clear error."""
    failed = command("export", tmp_path / "nowhere" / "out.db", "--store", source, expect=1)
    assert "there is no folder" in failed.stderr


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
def test_a_damaged_artifact_is_not_exported(source, out, target, what):
    """Each hash is compared: the error names what is damaged, and no file is left; neither is it imported."""
    statement, name = DAMAGE[what]
    sql(source, statement)
    before = dump(target)
    assert name in command("export", out, "--store", source, expect=1).stderr
    assert name in command("import", source, "--store", target, expect=1).stderr
    assert [item.name for item in out.parent.glob("*out.db*")] == []
    assert dump(target) | {"owners": []} == before | {"owners": []}
    check(target)


def test_a_killed_export_leaves_no_store(source, out):
    """Where it was to be there is nothing, whenever the process dies."""
    code = """
    import os, signal, sys
    from pathlib import Path
    from flowstore.store.opening import open_store
    from flowstore.sqlite import files
    from flowstore.transfer import export
    from flowstore.transfer.selection import Selection
    files.move_to = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    export.export(open_store(sys.argv[1]), Path(sys.argv[2]), export.Wish(selection=Selection()))
    """
    told(python(code, source, out), code=-9)
    assert not out.exists()
    seen(source)
    check(source)
    command("export", out, "--store", source)
    assert len(sql(out, "select 1 from runs")) == 5


# --- artifacts that are left out


@pytest.fixture
def lean(tmp_path, out):
    """An export without the bytes of artifacts over 100 bytes; the source has one of 200, one of 200 kB, a pickle."""
    path = store_with(
        tmp_path / "source.db", {"a": "a" * 200, "b": b"b" * 200_000, "c": ("c" * 200,), "d": 1, "code": "#" * 300}
    )
    command("export", out, "--max-artifact-size", "100", "--store", path)
    flowstore.namespace(None)
    return out


def test_what_is_left_out_can_still_be_seen(lean, tmp_path):
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
    command("import", lean, "--store", target)
    assert sql(target, "select count(*) from chunks where n = -1") == [3]
    check(target)
    add = {"a": "a" * 200, "b": b"b" * 200_000, "c": ("c" * 200,)}
    other = store_with(tmp_path / "other.db", add)
    command("import", other, "--store", target)
    command("import", lean, "--store", other)
    for path in (target, other):
        for uuid in sql(lean, "select uuid from runs"):
            assert seen(path)[uuid] == seen(tmp_path / "source.db")[uuid]
        assert sql(path, "select count(*) from chunks where n = -1") == [0]
        check(path)


def test_left_out_bytes_come_back_from_where_they_are(lean, tmp_path, target):
    """The file that an export was made of completes it, and what it was imported into, though the runs are there."""
    command("import", lean, "--store", target)
    full = seen(tmp_path / "source.db")
    for path in (lean, target):
        said = command("import", tmp_path / "source.db", "--store", path)
        assert "It brought the bytes of 3 artifacts that had been left out." in said.stdout + said.stderr
        assert {uuid: seen(path)[uuid] for uuid in full} == full
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
    command("export", tmp_path / "again.db", "--store", lean)
    for name in VIEWS:
        assert view(tmp_path / "again.db", name, [1]) == view(lean, name, [1])
    assert sql(tmp_path / "again.db", "select count(*) from chunks where n = -1") == [3]
