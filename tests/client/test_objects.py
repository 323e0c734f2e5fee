"""Flows, runs, steps, tasks and artifacts tell what is known of them; objects are equal by address and store."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flowstore
from flowstore import DataArtifact, Flow, Flows, NotFound, Run, Step, Task, context, namespace, use_store
from flowstore.store import opening
from flowstore.store import runs as store_runs
from support.flows import flow_source
from support.history import BODIES, MEMBERS, SHAPE
from support.stores import make_store, task_with


def ids(objects):
    return [found.id for found in objects]


# --- flows and runs


def test_the_latest_runs(anne):
    """latest_run is the newest of the namespace, latest_successful_run the newest that succeeded; None without one."""
    assert Flow("F").latest_run.id == Flow("F").latest_successful_run.id == "5"
    namespace("late")
    assert Flow("F").latest_run.id == "4"
    assert Flow("F").latest_successful_run is None
    namespace("blue")
    assert Flow("F").latest_successful_run.id == "2"


def test_runs_by_tags(everyone):
    """Several tags mean all of them, user and system tags alike; an unknown one means none."""
    flow = Flow("F")
    assert ids(flow.runs("blue")) == ["2", "1"]
    assert ids(flow.runs("blue", "old")) == ids(flow.runs("old", "user:anne", "blue")) == ["1"]
    assert ids(flow.runs("user:anne")) == ["5", "4", "1"]
    assert ids(flow.runs("nosuch")) == ids(flow.runs("old", "user:will")) == []
    namespace("user:will")
    assert ids(flow.runs("blue")) == ["2"]


def test_an_artifact_costs_few_queries(tmp_path):
    """The first one of a run takes four, with looking the run up; each further one none, or the one for its bytes."""
    values = {"x": 1, "name": "text", "model": lambda: 2, "other": lambda: 3, "long": bytes(20_000)}
    with contextlib.closing(opening.ensure_store(tmp_path / "flowstore.db")) as store:
        task_with(store, **values)
    with use_store(tmp_path / "flowstore.db"):
        queries = []
        opening.active_store().connection().set_trace_callback(
            lambda sql: queries.append(sql) if sql not in {"begin", "rollback"} else None
        )

        def counted(look):
            queries.clear()
            look()
            return len(queries)

        namespace(None)
        run = Run("F/1")
        assert len(queries) + counted(lambda: run.data.x) <= 4
        assert [counted(lambda name=name: getattr(run.data, name)) for name in values] == [0, 0, 1, 1, 1]
        artifact = next(iter(run.end_task))
        assert counted(lambda: [artifact.sha, artifact.size, artifact.type, artifact.codec]) == 0


def test_runs_are_fetched_as_they_are_asked_for(tmp_path, monkeypatch):
    """The first of many runs costs a page of a few rows, and all are there in the end, in order."""
    path = make_store(tmp_path / "many.db")
    store = opening.open_store(path)
    with store.write() as connection:
        connection.execute(
            """with recursive n (i) as (select 1 union all select i + 1 from n where i < 3000)
               insert into runs
                 (uuid, flow_id, user, status, created_at, last_seen_at, host, boot, pid, pid_started, parameters)
               select 'u' || i, 1, 'u', 'successful', 1000 + i / 3, 1000, '', '', 1, '', '{}' from n"""
        )
    fetched = []
    page_of = store_runs._page
    monkeypatch.setattr(store_runs, "_page", lambda *args: fetched.append(page_of(*args)) or fetched[-1])
    namespace(None)
    use_store(path)
    runs = Flow("F").runs()
    assert fetched == []
    first = next(runs)
    assert sum(map(len, fetched)) <= 300
    assert [first.id, *ids(runs)] == ["1", *(str(id_) for id_ in range(3001, 1, -1))]
    fetched.clear()
    assert Flow("F").latest_run.id == "1"
    assert sum(map(len, fetched)) <= 10
    store.close()


def test_the_facts_of_a_run(everyone):
    """Every property of a successful run."""
    run = Run("F/1")
    assert (run.id, run.pathspec, run.status, run.origin_run_id) == ("1", "F/1", "successful", None)
    assert run.successful is run.finished is True
    assert_utc(run.created_at, run.finished_at)
    assert run.parent == Flow("F")
    assert run.parameters == {"alpha": 0.1, "fail": False}
    assert run.end_task == Step("F/1/end").task
    data = run.data
    assert (data.x, data.xs, data.ys, data.LEVEL, data.alpha, data.f()) == (2, [10, 20, 30], [10, 20, 30], 3, 0.1, 42)
    assert data._hidden == 2
    assert not hasattr(data, "y")
    with pytest.raises(AttributeError, match="nosuch"):
        _ = data.nosuch
    assert ids(run.steps("blue")) == ["end", "join", "body", "start"]
    assert ids(run.steps("nosuch")) == []


def assert_utc(*times):
    """Timezone-aware, in UTC, in order, and of these days."""
    assert all(at.tzinfo is dt.UTC for at in times)
    assert list(times) == sorted(times)
    assert abs(dt.datetime.now(dt.UTC) - times[0]) < dt.timedelta(hours=1)


def test_a_failed_run(everyone):
    """A failed run is finished and not successful, has no end's data, and says in its task why."""
    run = Run("F/4")
    assert (run.status, run.finished, run.successful) == ("failed", True, False)
    assert run.end_task is None
    assert run.data is None
    task = run["end"].task
    assert (task.status, task.finished, task.successful) == ("failed", True, False)
    assert (task.exception.type, task.exception.message) == ("builtins.AssertionError", "on purpose")
    assert "assert not self.fail" in task.exception.traceback
    assert task.data.ys == [10, 20, 30]


def test_a_resumed_run(everyone):
    """It names its origin, and its tasks what they stand for."""
    run = Run("F/5")
    assert (run.origin_run_id, run.status, run.data.x) == ("4", "successful", 2)
    assert run["start"].task.origin_pathspec == Run("F/4")["start"].task.pathspec
    assert run["end"].task.origin_pathspec is None
    assert run["start"].task.stdout == "hello\ntwo words\n"
    assert run["end"].task.stdout == ""
    assert "late" not in run.tags


def test_the_code_of_a_run(everyone, tmp_path):
    """The source that it ran can be read and written out, whatever became of the file."""
    code = Run("F/1").code
    assert code.script_name == "flow.py"
    assert code.flowspec == flow_source(SHAPE, members=MEMBERS, **BODIES)
    folder = code.extract(tmp_path / "code")
    assert (folder / "flow.py").read_text() == code.flowspec
    assert Run("G/3").code.flowspec != code.flowspec


def test_code_in_a_temporary_folder(everyone):
    """Without a folder, one is made, and goes when it is no longer needed."""
    code = Run("F/1").code
    with code.extract() as folder:
        assert Path(folder, "flow.py").read_text() == code.flowspec
    assert not Path(folder).exists()


def test_a_run_that_goes_on_is_fresh_each_time(tmp_path):
    """Status and tags are read afresh; what is unfinished says None."""
    path = make_store(tmp_path / "live.db")
    use_store(path)
    namespace(None)
    run = Run("F/1")
    store = context.state.store
    with store.write() as connection:
        connection.execute("update runs set status = 'running', finished_at = null")
    assert (run.status, run.finished, run.successful, run.finished_at) == ("running", False, False, None)
    with store.write() as connection:
        connection.execute("update runs set pid = 1 << 22")
        connection.execute("update tasks set status = 'running', finished_at = null")
    assert (run.status, run.finished, run["end"].task.status) == ("dead", False, "dead")
    run.add_tag("new")
    assert "new" in run.tags
    assert "new" in run["end"].task["x"].tags
    with store.write() as connection:
        connection.execute("delete from runs")
    with pytest.raises(NotFound, match="deleted"):
        _ = run.status
    assert run.parent.id == "F"


# --- steps and tasks


def test_the_facts_of_a_step(everyone):
    """task, tasks(), times, parents and children of a step."""
    step = Step("F/1/body")
    assert step.task in list(step)
    assert ids(step.tasks()) == ids(step)
    assert len(list(step)) == 3
    assert ids(step.tasks("blue")) == ids(step)
    assert list(step.tasks("nosuch")) == []
    assert_utc(step.created_at, step.finished_at)
    assert ids(step.parent_steps) == ["start"]
    assert ids(step.child_steps) == ["join"]
    assert list(Step("F/1/start").parent_steps) == []
    assert list(Step("F/1/end").child_steps) == []


def test_the_facts_of_a_task(everyone):
    """Every property of a task in a foreach."""
    start = Step("F/1/start").task
    tasks = sorted(Step("F/1/body"), key=lambda task: task.index)
    assert [task.index for task in tasks] == [0, 1, 2]
    assert start.index is None
    assert [task.data.y for task in tasks] == [10, 20, 30]
    task = tasks[0]
    assert (task.status, task.successful, task.finished, task.current_attempt) == ("successful", True, True, 0)
    assert task.exception is None
    assert task.origin_pathspec is None
    assert list(task.parent_tasks) == [start]
    assert list(start.child_tasks) == tasks
    assert list(task.child_tasks) == [Step("F/1/join").task]
    assert sorted(ids(Step("F/1/join").task.parent_tasks)) == sorted(ids(tasks))
    assert_utc(task.created_at, task.finished_at)
    assert task.metadata_dict["attempt"] == "0"
    assert {fact.name: fact.value for fact in task.metadata} == task.metadata_dict
    assert all(isinstance(value, str) for value in task.metadata_dict.values())


def test_the_log_of_a_task(everyone):
    """stdout, stderr, and lines with their times."""
    task = Step("F/1/start").task
    assert task.stdout == "hello\ntwo words\n"
    assert task.stderr == "oops\n"
    assert [line for _, line in task.loglines("stdout")] == ["hello", "two words"]
    assert [line for _, line in task.loglines("stderr")] == ["oops"]
    assert_utc(task.created_at, *(at for at, _ in task.loglines("stdout")))
    with pytest.raises(ValueError, match="stdout"):
        list(task.loglines("stdin"))


def test_the_attempts_of_a_task(everyone):
    """Task(path, attempt=n) is what that attempt printed, raised and had set; without it, the last one."""
    [last] = [task for task in Step("F/1/body") if task.index == 1]
    first = Task(last.pathspec, attempt=0)
    assert (last.current_attempt, first.current_attempt) == (1, 0)
    assert (first.status, first.successful, last.status) == ("failed", False, "successful")
    assert (first.exception.type, first.exception.message) == ("builtins.ValueError", "the first time")
    assert last.exception is None
    assert first.stdout == "attempt 0\n"
    assert last.stdout == "attempt 1\n"
    assert (first.data.y, first.data.seen, last.data.seen) == (20, 0, 1)
    assert (first["seen"].data, first.artifacts.seen.data) == (0, 0)
    assert first.finished_at <= last.finished_at
    assert (first.metadata_dict["attempt"], last.metadata_dict["attempt"]) == ("0", "1")
    for wrong in (2, -1):
        with pytest.raises(NotFound, match="attempt"):
            Task(last.pathspec, attempt=wrong)


def test_the_times_of_an_attempt(everyone):
    """An attempt that was asked for has its own end; the task begins with its first and ends with its last attempt."""
    [last] = [task for task in Step("F/1/body") if task.index == 1]
    first = Task(last.pathspec, attempt=0)
    query = "select started_at, finished_at from attempts where task_id = ? order by number"
    times = [list(row) for row in context.state.store.rows(query, (last.id,))]
    assert [[round(at.timestamp() * 1000) for at in (task.created_at, task.finished_at)] for task in (first, last)] == [
        times[0],
        [times[0][0], times[1][1]],
    ]


def test_a_caught_exception(everyone):
    """A step under @catch is successful, without an exception; its artifact says what was caught."""
    task = Step("G/3/start").task
    assert task.successful
    assert task.exception is None
    problem = task.data.problem
    assert (problem.type, problem.name, problem.exception) == ("builtins.KeyError", "KeyError", problem.message)
    assert "caught" in str(problem)
    assert problem.stacktrace == problem.traceback


def test_the_artifacts_of_a_task(everyone):
    """artifacts holds what is visible, by iteration, name and attribute; data holds the values."""
    task = Step("F/1/end").task
    assert ids(task.artifacts) == ids(task)
    assert len(task.artifacts) == 7
    assert "_hidden" not in task.artifacts
    assert task.artifacts.x == task.artifacts["x"] == task["x"] == DataArtifact(f"{task.pathspec}/x")
    assert "x" in task.artifacts
    assert "x" in task.data
    assert "nosuch" not in task.data
    with pytest.raises(AttributeError, match="nosuch"):
        _ = task.artifacts.nosuch
    with pytest.raises(NotFound):
        task["nosuch"]


def test_the_facts_of_an_artifact(everyone):
    """data, sha, size, times; the same content has the same hash in every task."""
    start, end = Step("F/1/start").task, Step("F/1/end").task
    assert (start["x"].data, end["x"].data, start["xs"].data) == (1, 2, [10, 20, 30])
    assert start["xs"].sha == end["xs"].sha != start["x"].sha
    assert len(start["xs"].sha) == 64
    assert (start["xs"].size, start["xs"].codec, start["xs"].type) == (10, "json", "list")
    assert start["f"].codec == "pickle"
    assert start["xs"].preview == "[10, 20, 30]"
    assert_utc(start["xs"].created_at, end["x"].created_at)
    assert Step("F/1/body").task["xs"].created_at == start["xs"].created_at
    assert_utc(end["alpha"].created_at)


def test_tags_are_frozen_sets_of_text(everyone):
    """tags, user_tags and system_tags of every object; those of the run hold for all that is in it."""
    run = Run("F/1")
    task = run["start"].task
    for found in (run, run["start"], task, task["x"]):
        assert found.user_tags == {"blue", "old"}
        assert found.tags == found.user_tags | found.system_tags
        assert {type(found.tags), type(found.user_tags), type(found.system_tags)} == {frozenset}
        assert "user:anne" in found.system_tags
        assert f"date:{run.created_at:%Y-%m-%d}" in found.system_tags
        assert f"flowstore_version:{flowstore.__version__}" in found.system_tags
        assert any(tag.startswith("python_version:3.") for tag in found.system_tags)
        assert any(tag.startswith("runtime:") for tag in found.system_tags)
    assert Flow("F").tags == frozenset()


# --- objects


def test_objects_are_equal_by_address_and_store(everyone, tmp_path):
    """Two objects are equal when kind, address and store are; they can be keys."""
    run = Run("F/1")
    assert run == Flow("F")["1"]
    assert hash(run) == hash(Flow("F")["1"])
    assert run != Run("F/2")
    assert run != "F/1"
    assert Flow("F") != run
    assert len({run, Run("F/1"), Run("F/2")}) == 2
    with use_store(shutil.copy(everyone.path, tmp_path / "copy.db")):
        assert Run("F/1") != run


def test_objects_print_well(everyone):
    """A repr is what would make the object again."""
    task = Step("F/1/start").task
    for found in (Flow("F"), Run("F/1"), Step("F/1/start"), task, task["x"]):
        assert eval(repr(found)) == found
    assert "x" in repr(task.artifacts)
    assert "x" in repr(task.data)
    assert "F" in repr(Flows())


def test_names_complete_with_tab(everyone):
    """dir() holds the names of artifacts."""
    task = Step("F/1/end").task
    assert {"x", "xs", "ys", "alpha"} <= set(dir(task.data))
    assert {"x", "xs"} <= set(dir(task.artifacts))


def test_objects_keep_to_their_own_store(tmp_path):
    """Objects of two stores are used side by side: each reads the store that it was made in, down and up."""
    stores = []
    for name in ("one", "two"):
        store = opening.ensure_store(tmp_path / f"{name}.db")
        task_with(store, x=name)
        if name == "one":
            task_with(store, x="more")
        store.close()
        stores.append(store.path)
    namespace(None)
    use_store(stores[0])
    flows, flow, run = Flows(), Flow("F"), Run("F/1")
    artifact = run["end"].task["x"]
    use_store(stores[1])
    assert Run("F/1").data.x == "two"
    assert run.data.x == run["end"].task.data.x == artifact.data == "one"
    assert artifact.parent.parent.parent.parent.latest_run.data.x == "more"
    assert ids(flow) == ["2", "1"]
    assert ids(Flow("F")) == ["1"]
    assert flow["2"].data.x == "more"
    assert "2" in flow
    assert [found.latest_run.data.x for found in flows] == ["more"]
    assert flowstore.get_store() == stores[1]


def test_a_listing_of_flows_keeps_to_its_own_store(tmp_path):
    """Flows()[name] looks into the store that the listing was made for."""
    one = make_store(tmp_path / "one.db", runs=2)
    two = make_store(tmp_path / "two.db")
    namespace(None)
    use_store(one)
    flows = Flows()
    use_store(two)
    assert ids(flows["F"]) == ["2", "1"]


def test_without_a_store_the_client_says_so(tmp_path):
    """Each entrance raises StoreNotFound where there is no store."""
    for make in (Flows, lambda: Flow("F"), lambda: Run("F/1"), lambda: Task("F/1/start/1")):
        with pytest.raises(flowstore.StoreNotFound, match=str(tmp_path)):
            make()
    assert list(tmp_path.iterdir()) == []


def test_star_import_gives_the_public_names(everyone):
    """`from flowstore import *` is enough for a notebook."""
    code = """
from flowstore import *
namespace(None)
print(Flow("F").latest_run.id, len(list(Flows())), callable(step), FlowSpec.__name__, current.run_id)
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=everyone.folder, capture_output=True, text=True, check=True)
    assert told.stdout == "5 2 True FlowSpec None\n"
