"""Deleting runs: they vanish whole, with every byte that nothing else uses, and nothing else is touched."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flowstore
from flowstore.errors import NotFound
from flowstore.maintenance import check, delete, vacuum
from flowstore.store import blobs, opening, schema
from flowstore.store.description import Description
from flowstore.store.opening import open_store
from flowstore.store.staging import Staging
from support.chores import older_store
from support.cli import command
from support.flows import LINEAR, MIDDLE, flow_source
from support.processes import python, wait_for
from support.recording import add_run, store_with, tag_node
from support.stores import assert_sound, complete, rows_of, sql


def delete_runs(path, *run_ids, force=False):
    """Delete runs in this process; gives the candidates that were deleted."""
    with contextlib.closing(open_store(path)) as store:
        found = delete.candidates(store, run_ids, force=force)
        delete.delete(store, found, force=force)
    return found


# --- what goes


def test_deleting_every_run_leaves_an_empty_store(path):
    """Runs, tags, flows, contents, code, logs: nothing stays of a store whose runs are all deleted."""
    store_with(
        path, *({"tags": [f"t{n}"], "width": n, "code": f"print({n})", "x": bytes([n]) * 90_000} for n in range(4))
    )
    with contextlib.closing(open_store(path)) as store:
        tag_node(store, "F", 2, "mine", "start", task=True, artifact="x")
    command("delete", "F", "--yes")
    assert {name: count for name, count in rows_of(path).items() if count} == {}


def test_bytes_that_another_run_uses_stay(path):
    """A content goes with the last run that has it."""
    store_with(path, {"x": "shared", "only": "one"}, {"x": "shared", "only": "two"})
    delete_runs(path, 1)
    assert flowstore.use_store(path)
    assert flowstore.Run("F/2").data.x == "shared"
    assert sql(path, "select distinct cast(data as text) from blobs where codec = 'json' order by 1") == [
        '"shared"', '"two"', "true",
    ]  # fmt: skip


def test_the_bytes_are_no_longer_in_the_file(path):
    """Neither a small content, nor a large one, nor a log, a tag or a parameter can be found in the file again."""
    secrets = [f"{kind}-of-the-deleted-run" for kind in ("small", "large", "log", "tag", "parameter", "code")]
    small, large, log, tag, parameter, code = secrets
    gone = {"x": small, "y": large * 9000, "printed": log, "tags": [tag], "parameters": {"p": parameter}, "code": code}
    store_with(path, *({"x": f"kept {n}" * n} for n in range(20)), gone, *({"x": f"kept {n}" * n} for n in range(20)))
    assert all(secret.encode() in path.read_bytes() for secret in secrets)
    before = path.stat().st_size
    delete_runs(path, 21)
    content = path.read_bytes()
    assert [secret for secret in secrets if secret.encode() in content] == []
    assert before - len(content) > 200_000
    assert sql(path, "pragma freelist_count") == [0]


def test_no_copy_stays_behind_on_pages_that_were_split(path):
    """Short texts that shared their pages with others are gone too, whenever they were moved to another page."""
    with contextlib.closing(opening.ensure_store(path)) as store:
        for n in range(120):
            add_run(store, x=f"secret {n:03} " * 8)
    delete_runs(path, *range(1, 121, 3))
    content = path.read_bytes()
    assert [n for n in range(0, 120, 3) if b"secret %03d" % n in content] == []
    assert [n for n in range(1, 120, 3) if b"secret %03d" % n not in content] == []


def test_a_resumed_run_outlives_its_origin(path):
    """What it took over, the log included, is its own; the origin's log goes with the last run that shows it."""
    store_with(path, {"x": "made before", "printed": "said before\n", "fails_at": "end"})
    with contextlib.closing(open_store(path)) as store:
        add_run(store, resumes=1, x="never set", printed="")
    command("delete", "F/1", "--yes")
    flowstore.use_store(path)
    run = flowstore.Run("F/2")
    assert run.origin_run_id == "1"
    assert run.data.x == "made before"
    assert run["start"].task.stdout == "said before\n"
    assert run["start"].task.origin_pathspec == "F/1/start/1"
    command("delete", "F/2", "--yes")
    assert sql(path, "select count(*) from log_chunks") == [0]


def test_ids_are_never_used_again(path):
    """A run that is created after the newest was deleted has a new id, and so have its tasks and attempts."""
    store_with(path, {}, {})
    highest = [sql(path, f"select max(id) from {table}")[0] for table in ("runs", "tasks", "attempts")]
    delete_runs(path, 1, 2)
    store_with(path, {})
    lowest = [sql(path, f"select min(id) from {table}")[0] for table in ("runs", "tasks", "attempts")]
    assert lowest == [each + 1 for each in highest]


def test_tags_of_later_runs_are_found_whatever_was_deleted(path):
    """The ids of forgotten tags and flows may be used again, and no old pair of tags hides a new run."""
    store_with(path, *({"flow": "Old", "tags": ["a", f"b{n}"]} for n in range(5)))
    command("delete", "Old", "--yes")
    assert sql(path, "select count(*) from tag_pairs") == [0]
    store_with(path, {"flow": "New", "tags": ["c", "d"]})
    flowstore.use_store(path)
    assert [run.id for run in flowstore.Flow("New").runs("c", "d")] == ["6"]


def test_code_of_a_deployment_stays(flow):
    """A deployed snapshot and its defaults outlive all runs, and still run."""
    script = flow(flow_source(LINEAR, members="p = Parameter('p', default='deployed')", end="print(self.p)"))
    script("deploy", "create")
    script("deploy", "trigger")
    command("delete", "F", "--yes", "--force")
    assert "deployed" in script("deploy", "trigger").stdout


# --- what stays


def test_a_running_run_is_never_deleted(path):
    """Not even with --force: it is told, and when nothing else was meant the exit code is 1."""
    store_with(path, {"status": "running"}, {})
    done = command("delete", "F/1", "--yes", "--force", expect=1)
    assert "F/1 is not deleted: it is running" in done.stderr
    assert command("delete", "F", "--yes").stderr.count("is not deleted") == 1
    assert sql(path, "select id from runs") == [1]
    delete_dead(path)


def delete_dead(path):
    """Make its running runs those of a process that is gone."""
    with contextlib.closing(open_store(path)) as store, store.write() as connection:
        connection.execute("update runs set pid_started = 'long ago' where status = 'running'")


def test_a_dead_run_is_deleted_with_what_it_had_begun_to_write(path):
    """The chunks that a killed driver had staged go with its run."""
    with contextlib.closing(opening.ensure_store(path)) as store:
        add_run(store, status="running")
        staging = Staging(store)
        incoming = staging.begin(bytes(32), Description("bytes", 64 << 20, "bytes", ""))
        for _ in range(20):
            incoming.add(b"c" * blobs.CHUNK_BYTES)
        staging.wait()
        with store.write() as connection:  # as the lease of a process that is gone
            connection.execute("update leases set pid_started = 'long ago'")
    delete_dead(path)
    assert sql(path, "select count(*) from chunks")[0] >= 16
    command("delete", "F/1", "--yes")
    assert rows_of(path)["chunks"] == rows_of(path)["runs"] == 0


def test_the_origin_of_a_running_resume_is_kept(path):
    """Tasks are taken over from it until the resumed run is over."""
    store_with(path, {"fails_at": "end"})
    with contextlib.closing(open_store(path)) as store:
        add_run(store, resumes=1, status="running")
    assert "run 2, which is running, resumes it" in command("delete", "F/1", "--yes", expect=1).stderr
    delete_dead(path)
    command("delete", "F/1", "--yes")


def test_the_newest_successful_run_in_production_is_kept(path):
    """Of each flow in each production namespace, unless --force; it is told which and why."""
    store_with(path, {"system": ["production:t-1"]}, {"system": ["production:t-1"]},
               {"system": ["production:t-1"], "fails_at": "end"}, {"system": ["production:t-2"]}, {})  # fmt: skip
    done = command("delete", "F", "--yes")
    assert "F/2 is not deleted: it is the newest successful run in production:t-1" in done.stderr
    assert "F/4 is not deleted: it is the newest successful run in production:t-2" in done.stderr
    assert sql(path, "select id from runs") == [2, 4]
    command("delete", "F/2", "F/4", "--yes", "--force")
    assert sql(path, "select count(*) from runs") == [0]


def test_contents_in_use_elsewhere_are_spared(path):
    """A content that a living process leases stays; once that is gone, it goes with its last run."""
    store_with(path, {"x": os.urandom(90_000)}, {"x": "other"})
    holding = Staging(open_store(path))
    with holding.store.write() as connection:
        sha, codec = connection.execute("select sha, codec from blobs where data is null").fetchone()
        assert holding.hold(connection, bytes(sha), codec)
    assert delete_runs(path, 1)[0].bytes < 90_000
    assert sql(path, "select count(*) from chunks") == [1]
    with holding.store.write() as connection:
        assert holding.release(connection, bytes(sha), codec) is not None
    holding.store.close()
    command("vacuum")
    assert sql(path, "select count(*) from chunks") == [0]


# --- what is said


def test_a_dry_run_tells_the_bytes_and_changes_nothing(path):
    """Its bytes are those of unshared contents and logs; contents that two of the runs share count once."""
    store_with(path, {"x": "s" * 1000, "printed": "1" * 50}, {"x": "s" * 1000, "printed": ""}, {"x": "k" * 500})
    before = path.read_bytes()
    done = command("delete", "F/1", "F/2", "--dry-run", "--json")
    rows = json.loads(done.stdout)
    assert list(rows[0]) == ["run", "status", "user", "created_at", "tasks", "bytes", "kept_because", "deleted"]
    assert [(row["run"], row["bytes"], row["deleted"]) for row in rows] == [
        ("F/1", 1002 + 2 * 2 * 50, False),
        ("F/2", 0, False),
    ]
    assert "Would delete 2 runs, 1.2 kB" in done.stderr
    assert path.read_bytes() == before


def test_without_a_terminal_it_needs_yes(path):
    """Without --yes it is wrong usage, and nothing happens."""
    store_with(path, {})
    assert "--yes" in command("delete", "F/1", expect=2).stderr
    assert sql(path, "select count(*) from runs") == [1]


def test_on_a_terminal_it_asks(path):
    """Only y deletes."""
    pty = pytest.importorskip("pty")
    store_with(path, {}, {})
    for answer, left in ((b"n\n", 2), (b"y\n", 1)):
        parent, child = pty.openpty()
        with subprocess.Popen([sys.executable, "-m", "flowstore", "delete", "F/1"], stdin=child,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
            os.write(parent, answer)
            _, told_ = process.communicate(timeout=60)
        os.close(parent)
        os.close(child)
        assert b"Delete 1 run, " in told_
        assert sql(path, "select count(*) from runs") == [left]


@pytest.mark.parametrize("wrong", ["30", "d", "30s", "-1d", "1.5h", "", "3 d"])
def test_a_wrong_duration_is_wrong_usage(path, wrong):
    """Exit code 2, naming the right forms; nothing is deleted."""
    store_with(path, {})
    assert "30d" in command("delete", f"--older-than={wrong}", "--yes", expect=2).stderr
    assert "pathspecs" in command("delete", "--yes", expect=2).stderr
    assert sql(path, "select count(*) from runs") == [1]


def test_old_runs_but_the_latest(path):
    """--older-than with --keep-latest and --tag, and nothing where nothing is so old."""
    store_with(path, *({"tags": ["a" if n % 2 else "b"]} for n in range(6)))
    with contextlib.closing(open_store(path)) as store, store.write() as connection:
        connection.execute("update runs set created_at = created_at - 864000000, finished_at = created_at where id < 6")
        connection.execute("update run_tags set created_at = (select created_at from runs where id = run_id)")
    assert "nothing to delete" in command("delete", "--older-than", "2w", "--yes").stderr
    command("delete", "--older-than", "9d", "--tag", "a", "--keep-latest", "1", "--yes")
    assert sql(path, "select id from runs order by id") == [1, 3, 5, 6]
    command("delete", "--older-than", "200h", "--yes")
    assert sql(path, "select id from runs") == [6]


def test_what_is_not_there_is_told(path):
    """A missing run is one clear error, and the others stay."""
    store_with(path, {})
    assert "F/9" in command("delete", "F/1", "F/9", "--yes", expect=1).stderr
    assert "start" in command("delete", "F/1/start", "--yes", expect=1).stderr
    assert "F/9" in command("delete", "F/9", expect=1).stderr  # before anybody is asked
    assert sql(path, "select count(*) from runs") == [1]


# --- several at once, and crashes


def test_two_deletes_at_once(path):
    """Both succeed; each run is deleted once."""
    store_with(path, *({"x": n, "y": "shared"} for n in range(60)))
    code = "import sys; sys.argv[0] = 'flowstore'; from flowstore.cli.main import main; main()"
    ranges = ([f"F/{n}" for n in range(1, 41)], [f"F/{n}" for n in range(20, 61) if n != 50])
    processes = [python(code, "delete", "--json", "--yes", *some) for some in ranges]
    deleted = [row["run"] for process in processes for row in json.loads(told_or_gone(process)) if row["deleted"]]
    assert len(deleted) == len(set(deleted))
    left = {f"F/{n}" for n in sql(path, "select id from runs")}
    assert left == {f"F/{n}" for n in range(1, 61)} - set(deleted)
    assert "F/50" in left


def told_or_gone(process):
    """What a delete printed; an empty list where the other one was first, and it found no such run."""
    with process:
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0 or "no run" in stderr, stderr
    return stdout or "[]"


def test_deleting_while_a_flow_runs(flow):
    """The run goes on undisturbed, and has all of its artifacts, those that a deleted run had too."""
    script = flow(
        flow_source(
            MIDDLE,
            start="self.big = bytes(range(256)) * 4096\nself.small = 'shared'",
            middle="""
                Path(f'started-{current.run_id}').touch()
                while not Path('go').exists(): time.sleep(0.01)
                self.late = bytes(reversed(range(256))) * 4096""",
        )
    )
    (script.folder / "go").touch()
    script("run")
    (script.folder / "go").unlink()
    process = script.start("run")
    wait_for((script.folder / "started-2").exists)
    assert "F/2 is not deleted: it is running" in command("delete", "F", "--yes").stderr
    (script.folder / "go").touch()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert script.client(2).data.late == bytes(reversed(range(256))) * 4096
    assert script.client(2).data.big == bytes(range(256)) * 4096
    with pytest.raises(NotFound):
        script.client(1)


def test_killed_in_the_middle(tmp_path, path):
    """Whenever a delete of many runs is killed, each run is there as a whole or not at all, and nothing is wrong."""
    store_with(tmp_path / "base.db", *({"x": os.urandom(70_000), "y": n, "tags": [f"t{n}"]} for n in range(40)))
    code = """
        import sys
        from flowstore.store.opening import open_store
        from flowstore.maintenance import delete
        delete.RUNS_AT_A_TIME = 3
        store = open_store(sys.argv[1])
        found = delete.candidates(store, range(1, 36))
        taken = delete._delete_runs
        def told(*args, **options):
            gone = taken(*args, **options)
            print(*gone, flush=True)
            return gone
        delete._delete_runs = told
        delete.delete(store, found)"""
    for lines in (1, 4, 9):
        shutil.copyfile(tmp_path / "base.db", path)
        with python(code, path) as process:
            for _ in range(lines):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            process.communicate()
        with contextlib.closing(open_store(path)) as store:
            assert check.check(store, deep=True).problems == []
            left = {row[0] for row in store.rows("select id from runs")}
        assert 5 <= len(left) <= 40 - 3 * (lines - 1)  # the last batch that was told may not have been committed
        for table, column in (("tasks", "run_id"), ("steps", "run_id"), ("run_tags", "run_id")):
            assert set(sql(path, f"select distinct {column} from {table}")) == left
        command("vacuum")
        assert sql(path, "select count(distinct blob_id) from chunks") == [len(left)]


# --- older stores


@pytest.mark.parametrize("version", range(1, schema.SCHEMA_VERSION))
@pytest.mark.quick("1", "6")
def test_a_run_of_an_older_store(version, path):
    """A dry run reads an older store as it is; deleting brings it to the newest schema."""
    older_store(path, version)
    with contextlib.closing(open_store(path)) as store:
        assert [each.pathspec for each in delete.candidates(store, [1])] == ["F/1"]
        assert store.value("pragma user_version") == version
    delete_runs(path, 1)
    assert sql(path, "pragma user_version") == [schema.SCHEMA_VERSION]
    assert set(rows_of(path).values()) == {0}


# --- cost

SHORT_SCANS = {
    "SCAN d",
    "SCAN f",
    "SCAN uses",
    "SCAN gone",
    "SCAN sqlite_master",
    "SCAN marked",
    "SCAN temp.marked",
    "SCAN CONSTANT ROW",
}


def test_each_statement_looks_only_at_what_it_deletes(path):
    """No query of a delete scans a table of the store, but for the short lists that it has made itself."""
    store_with(path, {})
    complete(path)
    statements = [delete._FREED, delete._FREED_LOGS]
    with contextlib.closing(open_store(path)) as store, vacuum.unlinked(store), store.write() as connection:
        connection.set_trace_callback(statements.append)
        assert delete._delete_runs(connection, [1], delete._Names(), force=False) == [1]
        connection.set_trace_callback(None)
        queries = [sql for sql in statements if sql.split()[0] in {"select", "with", "update", "delete"}]
        wide = [sql for sql in queries if not re.fullmatch(r"select 1 from \w+ limit 1", sql)]  # is a table empty?
        plans = [row[3] for sql in wide for row in connection.execute(f"explain query plan {sql}").fetchall()]
    assert len(wide) > 20
    assert {plan for plan in plans if plan.startswith("SCAN")} <= SHORT_SCANS


# --- against a model

RUN = st.fixed_dictionaries(
    {
        "flow": st.sampled_from(["F", "G"]),
        "tags": st.lists(st.sampled_from(["a", "b", "c"]), unique=True),
        "x": st.integers(0, 3),
        "width": st.integers(0, 2),
        "fails_at": st.sampled_from([None, None, "start", "end"]),
        "printed": st.sampled_from(["", "one\n", "two\n"]),
        "code": st.sampled_from([None, "print(1)", "print(2)"]),
        "large": st.sampled_from([None, 1, 2]),
    }
)


def model_of(path):
    """What the store says of each run, through the views and the Client."""
    flowstore.use_store(path)
    flowstore.namespace(None)
    found = {}
    views = {"task_summary": "run_id", "artifact_values": "run_id", "object_tags": "run_id", "task_logs": "run_id"}
    for run_id, flow, *summary in sql(
        path, "select run_id, flow, status, parameters, tags, tasks, uuid from run_summary"
    ):
        run = flowstore.Run(f"{flow}/{run_id}")
        tasks = {task.pathspec: task for step in run for task in step}
        found[run_id] = {
            "summary": summary,
            "views": {
                view: sorted(map(repr, sql(path, f"select * from {view} where {column} = ?", run_id)))
                for view, column in views.items()
            },
            "tags": run.tags,
            "data": {where: {item.id: item.data for item in task} for where, task in tasks.items()},
            "logs": {where: task.stdout for where, task in tasks.items()},
            "code": run.code and run.code.flowspec,
        }
    return found


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=st.lists(RUN, min_size=1, max_size=5), data=st.data())
def test_exactly_what_should_remain_remains(tmp_path, runs, data):
    """After deleting any selection, everything else reads as before, nothing more is there, and the file is smaller."""
    path = tmp_path / "flowstore.db"
    path.unlink(missing_ok=True)
    with contextlib.closing(opening.ensure_store(path)) as store:
        for number, run in enumerate(runs, 1):
            large = {} if run["large"] is None else {"large": bytes([run["large"]]) * 150_000}
            options = {key: value for key, value in run.items() if key != "large"}
            earlier = [n for n in range(1, number) if runs[n - 1]["flow"] == run["flow"]]
            resumes = data.draw(st.sampled_from([None, *earlier]))
            add_run(store, **options, **large, resumes=resumes)
    doomed = data.draw(st.sets(st.integers(1, len(runs))))
    before, bytes_before, size_before = model_of(path), content_bytes(path), path.stat().st_size
    promised = sum(each.bytes for each in delete_runs(path, *doomed))
    assert promised == bytes_before - content_bytes(path)
    assert size_before - path.stat().st_size >= promised // 150_000 * 140_000
    with contextlib.closing(open_store(path)) as store:
        assert vacuum.vacuum(store).why_partly is None
    assert promised == bytes_before - content_bytes(path)
    assert model_of(path) == {run_id: said for run_id, said in before.items() if run_id not in doomed}
    assert_sound(path)


def content_bytes(path):
    """The bytes of all contents and logs."""
    [size] = sql(
        path,
        """select (select total(size_bytes) from blobs)
             + (select total(length(cast(text as blob))) from log_chunks)""",
    )
    return size
