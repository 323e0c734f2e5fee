"""Tags on the command line: listed by flow and by store, changed by many processes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import flowstore
from flowstore import DataArtifact, Run, Step, Task
from flowstore.store import records
from flowstore.store.opening import active_store, ensure_store
from support.cli import command
from support.flows import LINEAR, flow_source
from support.tagging import SYSTEM, new_run


@pytest.fixture
def script(flow):
    """A flow file `F`, and beside it a store with the run F/1: `start` with the tasks 1 and 2, `end` with 3."""
    made = flow(flow_source(LINEAR))
    ensure_store(made.db).close()
    flowstore.use_store(made.db)
    new_run()
    return made


# --- many processes

CHANGES = """
import sys
from flowstore import Run, Task

me, count = sys.argv[1], int(sys.argv[2])
run, task = Run("F/1"), Task("F/1/start/1")
print("ready", flush=True)
sys.stdin.readline()
for n in range(count):
    run.add_tags([f"new {me} {n}", f"shared {n}"])
    run.remove_tag(f"old {me} {n}")
    task.replace_tags([f"turn {me} {n - 1}"], [f"turn {me} {n}"])
"""


def test_changes_of_eight_processes(script):
    """Eight processes change the tags of one run at once; no change is lost, and none is done twice."""
    people, count = range(8), 8
    run = Run("F/1")
    run.add_tags([f"old {me} {n}" for me in people for n in range(count + 1)])
    active_store().close()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CHANGES, str(me), str(count)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for me in people
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        with process:
            assert process.communicate() == ("", "")
        assert process.returncode == 0
    left = {f"new {me} {n}" for me in people for n in range(count)} | {f"shared {n}" for n in range(count)}
    assert run.user_tags == left | {f"old {me} {count}" for me in people}
    assert Task("F/1/start/1").user_tags - run.user_tags == {f"turn {me} {count - 1}" for me in people}
    assert script.sql("select tag from tags group by tag having count(*) > 1") == []


# --- listing tags


@pytest.fixture
def listed(script):
    """F/1 is tagged a and b, F/2 a, F/3 of somebody else c, and the newest, F/4, nothing; G/5 is another flow's."""
    Run("F/1").add_tags(["b", "a"])
    new_run(given=["a"])
    new_run(given=["c"], user="will")
    new_run()
    new_run(flow="G", given=["a", "g"])
    return script


SYSTEM_PREFIXES = ("date:", "flowstore_version:", "python_version:", "runtime:", "user:")


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([], []),
        (["--run-id", "1"], ["a", "b"]),
        (["--run-id", "F/1"], ["a", "b"]),
        (["--pathspec", "1/start/1/x"], ["a", "b"]),
        (["--run-id", "1", "--flat"], ["a", "b"]),
        (["--run-id", "1", "--group-by-run"], ["F/1", "  a", "  b"]),
        (["--run-id", "1", "--group-by-tag"], ["a", "  F/1", "b", "  F/1"]),
        (["--my-runs"], ["F/4", "F/2", "  a", "F/1", "  a", "  b"]),
        (["--my-runs", "--flat"], ["a", "b"]),
        (["--my-runs", "--group-by-tag"], ["a", "  F/2", "  F/1", "b", "  F/1"]),
        (["--all", "--group-by-run"], ["F/4", "F/3", "  c", "F/2", "  a", "F/1", "  a", "  b"]),
        (["--all", "--group-by-tag"], ["c", "  F/3", "a", "  F/2", "  F/1", "b", "  F/1"]),
        (["--namespace", "user:will"], ["c"]),
        (["--namespace", "a", "--my-runs", "--flat"], ["a", "b"]),
        (["--namespace", "user:nobody", "--all", "--flat"], ["c", "a", "b"]),
    ],
    ids=lambda value: " ".join(value) or "-",
)
def test_tag_list(words, lines, listed):
    """`tag list`: of the latest run, a named one, one's own or all runs of the flow; flat, by tag or by run."""
    shown = listed("tag", "list", *words, "--hide-system-tags").stdout.splitlines()
    assert sorted(shown) == sorted(lines) if "--flat" in words else shown == lines


@pytest.mark.parametrize(("words", "run_id"), [([], 4), (["--run-id", "1"], 1), (["--pathspec", "1/end/3"], 1)])
def test_tag_list_shows_system_tags(words, run_id, listed):
    """Unless told otherwise, all tags are listed, a line each, in order."""
    lines = listed("tag", "list", *words).stdout.splitlines()
    assert lines == sorted(Run(f"F/{run_id}").tags)
    assert sum(line.startswith(SYSTEM_PREFIXES) for line in lines) == 5


def test_tag_list_of_nothing(flow):
    """Where there is no run, that is said, with exit code 1."""
    script = flow(flow_source(LINEAR))
    ensure_store(script.db).close()
    assert "no run of F" in script("tag", "list", expect=1).stderr


def last_used(script, run_id):
    """When a run was created, as views say it."""
    return script.sql("select created_at from run_summary where run_id = ?", run_id)[0]


def test_flowstore_tags(listed):
    """`flowstore tags` lists every tag with the number of runs and the last use, of the whole file or a namespace."""
    rows = json.loads(command("tags", "--json").stdout)
    found = {row["tag"]: (row["runs"], row["system"]) for row in rows}
    assert {tag: found[tag] for tag in ("a", "b", "c", "g", "user:tester", "user:will", "runtime:local")} == {
        "a": (3, 0), "b": (1, 0), "c": (1, 0), "g": (1, 0),
        "user:tester": (4, 1), "user:will": (1, 1), "runtime:local": (5, 1),
    }  # fmt: skip
    assert len(found) == len(rows) == 10
    [used] = [row["last_used"] for row in rows if row["tag"] == "c"]
    assert used == last_used(listed, 3)
    narrow = {
        row["tag"]: row["runs"] for row in json.loads(command("--json", "tags", "--namespace", "user:will").stdout)
    }
    assert {tag: runs for tag, runs in narrow.items() if ":" not in tag or "user" in tag} == {"c": 1, "user:will": 1}


def test_flowstore_tags_lists_every_tag(listed):
    """A tag that is set on a step, a task or an artifact alone is listed, too: every tag."""
    Step("F/1/start").add_tag("on a step")
    Task("F/1/start/1").add_tag("on a task")
    DataArtifact("F/1/start/1/x").add_tag("on an artifact")
    found = {row["tag"] for row in json.loads(command("tags", "--json").stdout)}
    assert found >= {"on a step", "on a task", "on an artifact"}


def test_flowstore_namespaces(listed):
    """`flowstore namespaces` lists the users and the deployments with their runs and the last use."""
    store = active_store()
    with store.write() as db:
        deployed = ["production:F-x7", *SYSTEM]
        records.create_run(db, records.NewRun("F", "tester", {}, [], None, deployed, []))
    rows = json.loads(command("namespaces", "--json").stdout)
    assert rows == [
        {"namespace": "production:F-x7", "runs": 1, "last_used": last_used(listed, 6)},
        {"namespace": "user:tester", "runs": 4, "last_used": last_used(listed, 5)},
        {"namespace": "user:will", "runs": 1, "last_used": last_used(listed, 3)},
    ]
    table = command("namespaces").stdout.splitlines()
    assert table[0].split() == ["namespace", "runs", "last_used", "(UTC)"]
    assert [line.split()[:2] for line in table[1:]] == [
        ["production:F-x7", "1"],
        ["user:tester", "4"],
        ["user:will", "1"],
    ]


def test_a_tag_that_nothing_has_is_gone(script):
    """A tag that was taken from everything is not listed any more."""
    Run("F/1").add_tag("once")
    Run("F/1").remove_tag("once")
    assert "once" not in {row["tag"] for row in json.loads(command("tags", "--json").stdout)}


def test_the_counts_of_tags_are_kept_exactly(listed, tmp_path):
    """Whatever happens to tags and runs, `tags` says the same as counting them in a namespace that all runs are in."""

    def agree():
        kept, counted = (
            json.loads(command("tags", "--json", *words).stdout) for words in ([], ["--namespace", "runtime:local"])
        )
        assert kept == counted
        return {row["tag"]: row["runs"] for row in kept}

    before = agree()
    Run("F/1").add_tags(["a", "fresh"])
    Run("F/2").add_tag("fresh")
    Run("F/1").add_tags(f"many {n}" for n in range(40))
    assert agree()["fresh"] == 2
    Run("F/2").remove_tag("fresh")
    Run("F/1").replace_tag("fresh", "fresher")
    Run("F/1").remove_tags(f"many {n}" for n in range(39))
    assert {tag: runs for tag, runs in agree().items() if tag not in before} == {"fresher": 1, "many 39": 1}
    command("export", tmp_path / "out.db", "F/1", "F/3")
    command("delete", "F/1", "F/2", "--yes")
    assert agree()["runtime:local"] == before["runtime:local"] - 2
    command("import", tmp_path / "out.db")
    assert agree()["runtime:local"] == before["runtime:local"] - 1
    assert "nothing wrong" in command("check", "--deep").stdout
