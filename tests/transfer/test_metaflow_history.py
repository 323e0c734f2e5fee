"""Runs of Metaflow arrive as they were there: their values, tags, times, logs and lineage, all or nothing."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import pytest

import flowstore
from flowstore.store.opening import use_store
from support.cli import command
from support.metaflow import NEWEST, OLD_FLOW, VERSIONS, unpack
from support.shipped import check, dump, sql
from support.web import Browser


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """By version of Metaflow, the folder that it wrote: a run that succeeded and one that failed, of two users."""
    return unpack(tmp_path_factory.mktemp("metaflow"))


@pytest.fixture(params=VERSIONS)
def folder(request, folders):
    return folders[request.param]


@pytest.fixture
def imported(folder, tmp_path):
    """A store with the runs of a folder; all of it is visible."""
    path = tmp_path / "here.db"
    command("import-metaflow", folder, "--store", path)
    with use_store(path):
        flowstore.namespace(None)
        yield flowstore.Flow("OldFlow")


@pytest.mark.quick(NEWEST)
def test_values_come_as_they_were(imported):
    """Plain pickles are values that need no trust; what a task inherits it has, too."""
    run = imported["1"]
    data = run.data
    assert (data.alpha, data.label, data.alpha_seen) == (0.25, "plain", 0.25)
    assert data.juices == ["apple juice", "pear juice"]
    start = run["start"].task.data
    assert start.table == {"a": [1, 2.5, None], "b": (1, "t"), 3: {4}}
    assert start.blob == b"\x00\xff" * 10
    assert [task.data.juice for task in sorted(run["each"], key=lambda task: task.index)] == data.juices
    assert run["each"].task.data.fruits == ["apple", "pear"]


@pytest.mark.quick(NEWEST)
def test_other_pickles_stay_untrusted(imported, folder, tmp_path):
    """In the user's own store, too, unless the folder is trusted."""
    with pytest.raises(flowstore.UntrustedArtifact, match="OrderedDict"):
        _ = imported["1"]["start"].task.data.obj
    caught = imported["1"]["right"].task.data.trouble  # of Metaflow's own objects this one is known
    assert (caught.type, caught.exception) == ("builtins.KeyError", "'caught'")
    path = tmp_path / "trusted.db"
    command("import-metaflow", folder, "--trust", "--store", path)
    with use_store(path):
        assert flowstore.Run("OldFlow/1")["start"].task.data.obj == {"a": 1}


@pytest.mark.quick(NEWEST)
def test_tags_users_and_status(imported):
    """Anne's run succeeded, Will's failed; each is in the namespace of who ran it."""
    anne, will = imported["1"], imported["2"]
    assert (anne.status, will.status) == ("successful", "failed")
    assert anne.user_tags == {"good", "two words"}
    assert {"user:anne", "runtime:dev"} <= anne.system_tags
    assert "user:will" in will.system_tags
    assert imported.latest_successful_run == anne
    flowstore.namespace("user:will")
    assert [run.id for run in flowstore.Flow("OldFlow")] == ["2"]


@pytest.mark.quick(NEWEST)
def test_attempts_errors_and_logs(imported):
    """A retried task has both attempts, with what each printed and why the first failed."""
    task = imported["1"]["start"].task
    assert (task.status, task.current_attempt, task.exception) == ("successful", 1, None)
    first = flowstore.Task(task.pathspec, attempt=0)
    assert first.status == "failed"
    assert (first.exception.type, first.exception.message) == ("builtins.ValueError", "the first try fails")
    assert "Traceback" in first.exception.traceback
    assert task.stdout.strip() == "out of start"
    assert "err of start" in task.stderr
    assert all(run.created_at <= at for run in [imported["1"]] for at, _ in task.loglines())
    assert imported["2"]["last"].task.exception.message == "it is bad"


@pytest.mark.quick(NEWEST)
def test_lineage_of_branches_and_foreaches(imported):
    """Metaflow does not record it; it follows from where each task went."""
    run = imported["1"]
    parents = {
        f"{step.id}/{task.index}": sorted(parent.path_components[2] for parent in task.parent_tasks)
        for step in run
        for task in step
    }
    assert parents == {
        "start/None": [], "left/None": ["start"], "right/None": ["start"], "each/0": ["left"], "each/1": ["left"],
        "gather/None": ["each", "each"], "both/None": ["gather", "right"], "last/None": ["both"], "end/None": ["last"],
    }  # fmt: skip


@pytest.mark.quick(NEWEST)
def test_metaflow_s_addresses_find_what_was_imported(imported, tmp_path):
    """`Run`, `Task`, `show` and `search` take them, and each object names its own."""
    there = imported["1"].origin_pathspec
    run = flowstore.Run(there)
    assert run == imported["1"]
    task = flowstore.Task(f"{there}/each/5")
    assert (task.index, task.origin_pathspec) == (1, f"{there}/each/5")
    assert flowstore.DataArtifact(f"{there}/each/5/juice").data == "pear juice"
    store = tmp_path / "here.db"
    assert "pear juice" in command("show", f"{there}/each/5", "--store", store).stdout
    for text in (there, f"{there}/each/5"):
        [hit] = json.loads(command("search", text, "--json", "--store", store).stdout)
        assert hit["run"] == "OldFlow/1"
    assert sql(store, "select count(*) from task_summary where origin_pathspec = :there", there=f"{there}/each/5") == [
        1
    ]


@pytest.mark.quick(NEWEST)
def test_importing_twice_is_importing_once(folder, tmp_path):
    """Runs that are here are recognised."""
    path = tmp_path / "here.db"
    command("import-metaflow", folder, "--store", path)
    before = dump(path)
    [row] = json.loads(command("import-metaflow", folder, "--json", "--store", path).stdout)
    assert (row["runs"], len(row["known"])) == ([], 2)
    assert dump(path) == before
    check(path)


@pytest.mark.quick(NEWEST)
def test_facts_are_metaflow_s(imported):
    """Of all attempts, each with its kind and time; no own are mixed in."""
    task = imported["1"]["start"].task
    facts = [(fact.name, fact.value, fact.type) for fact in task.metadata]
    assert [value for name, value, _ in facts if name == "attempt"] == ["0", "1"]
    assert task.metadata_dict["attempt"] == "1"
    assert task.metadata_dict["origin-run-id"] == "None"
    assert all(task.created_at <= fact.created_at for fact in task.metadata)


@pytest.mark.quick(NEWEST)
def test_pages_show_what_was_imported(imported, tmp_path):
    """Like any other run; Metaflow's addresses lead there, too."""
    there = imported["2"].origin_pathspec
    with contextlib.closing(Browser(tmp_path / "here.db")) as browser:
        assert "two words" in browser.page("/runs")
        assert "it is bad" in browser.page("/run/OldFlow/2")
        assert browser.json(f"/run/{there}.json")["status"] == "failed"
        task = imported["1"]["start"].task
        assert "out of start" in browser.page(f"/task/{task.pathspec}")
        assert "OrderedDict" in browser.page(f"/artifact/{task.pathspec}/obj")
        assert "juice" in browser.page(f"/artifact/{imported['1'].end_task.pathspec}/juices")


@pytest.mark.quick(NEWEST)
def test_a_run_of_metaflow_can_be_resumed(folder, tmp_path):
    """Its tasks that succeeded are taken over, and the rest runs here, with the code as it is now."""
    source = OLD_FLOW.read_text("utf-8").replace('raise ZeroDivisionError("it is bad")', "pass")
    (tmp_path / "old_flow.py").write_text(source, "utf-8")
    command("import-metaflow", folder, "--trust", "--store", tmp_path / "flowstore.db")
    run = "-m", "flowstore.metaflow", "old_flow.py", "resume", "--origin-run-id", "2"
    done = subprocess.run([sys.executable, *run], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 tasks were taken over from OldFlow/2" in done.stderr
    with use_store(tmp_path / "flowstore.db"):
        flowstore.namespace(None)
        assert flowstore.Run("OldFlow/3").data.juices == ["apple juice", "pear juice"]
    check(tmp_path / "flowstore.db")
