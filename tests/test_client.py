"""Results are found again as objects: by pathspec, by iteration, by namespace and tag, each in its own store."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from harness import LINEAR, Script, flow_source
from test_store import make_store, task_with

import flowstore
from flowstore import (
    DataArtifact,
    Flow,
    Flows,
    InvalidPathspec,
    NamespaceMismatch,
    NotFound,
    Run,
    Step,
    Task,
    context,
    namespace,
    use_store,
)
from flowstore.store import db, queries

SHAPE = {
    "start": "self.next(self.body, foreach='xs')",
    "body": "self.next(self.join)",
    "join": "self.next(self.end)",
    "end": "",
}
MEMBERS = """
LEVEL = 3
alpha = Parameter("alpha", default=0.5)
fail = Parameter("fail", default=False)
"""
BODIES = {
    "start": """
        print("hello")
        print("two", "words")
        print("oops", file=sys.stderr)
        self.xs, self.x, self._hidden, self.f = [10, 20, 30], 1, 2, lambda: 42
        """,
    "body": """
        @retry(times=1, minutes_between_retries=0)
        print("attempt", current.retry_count)
        self.y = self.input
        self.seen = current.retry_count
        if self.index == 1 and current.retry_count == 0:
            raise ValueError("the first time")
        """,
    "join": "self.ys = [i.y for i in inputs]\nself.merge_artifacts(inputs, exclude=['y', 'seen'])",
    "end": "self.x = 2",
}


@attrs.frozen
class Story:
    """A store with five runs: F/1 anne's, F/2 will's, G/3 anne's, F/4 anne's that fails, F/5 resumes it."""

    folder: object
    path: object


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Made once; each test opens it."""
    folder = tmp_path_factory.mktemp("story")
    source = flow_source(SHAPE, members=MEMBERS, **BODIES)
    script = Script(folder, source)
    anne, will = ({"FLOWSTORE_USER": name, "FLOWSTORE_HOME": str(folder / "home")} for name in ("anne", "will"))
    script("run", "--tag", "blue", "--tag", "old", "--alpha", "0.1", **anne)
    script("run", "--tag", "blue", **will)
    other = flow_source(LINEAR, start='@catch(var="problem")\nraise KeyError("caught")')
    script.rewrite(other.replace("class F(", "class G(").replace("    F()", "    G()"))
    script("run", **anne)
    script.rewrite(flow_source(SHAPE, members=MEMBERS, **{**BODIES, "end": "assert not self.fail, 'on purpose'"}))
    script("run", "--fail", "true", "--tag", "late", expect=1, **anne)
    script.rewrite(source)
    script("resume", **anne)
    return Story(folder, script.db)


@pytest.fixture
def everyone(story, monkeypatch):
    """The story's store, opened by anne, looking at everything."""
    monkeypatch.setenv("FLOWSTORE_USER", "anne")
    monkeypatch.setenv("FLOWSTORE_HOME", str(story.folder / "home"))
    use_store(story.path)
    namespace(None)
    return story


@pytest.fixture
def anne(everyone):
    """The same in anne's own namespace."""
    flowstore.default_namespace()
    return everyone


def ids(objects):
    return [found.id for found in objects]


# --- addresses


def test_flows_are_listed_by_name(everyone):
    """Flows() iterates over all flows, has a length, and supports [name] and `in`."""
    assert ids(Flows()) == ["F", "G"]
    assert len(Flows()) == 2
    assert Flows()["G"] == Flow("G")
    assert "F" in Flows()
    assert "H" not in Flows()
    assert 1 not in Flows()


def test_containers_are_iterated_newest_first(everyone):
    """Runs, steps and tasks come newest first, artifacts by name."""
    assert ids(Flow("F")) == ids(Flow("F").runs()) == ["5", "4", "2", "1"]
    assert ids(Run("F/1")) == ids(Run("F/1").steps()) == ["end", "join", "body", "start"]
    assert [task.index for task in Step("F/1/body")] == [2, 1, 0]
    assert ids(Run("F/1")["end"].task) == ["LEVEL", "alpha", "f", "fail", "x", "xs", "ys"]


def test_ids_may_be_text_or_numbers(everyone):
    """[id] and `in` take both, on flows and steps; names of steps and artifacts are text."""
    task = Step("F/1/end").task
    assert Flow("F")["1"] == Flow("F")[1] == Run("F/1")
    assert Step("F/1/end")[task.id] == Step("F/1/end")[int(task.id)] == task
    assert 1 in Flow("F")
    assert "1" in Flow("F")
    assert int(task.id) in Step("F/1/end")
    assert "start" in Run("F/1")
    assert Run("F/1")["start"].task["x"].data == 1
    missing_ones = [(missing, Flow("F")) for missing in (3, "99", "x", None)]
    for missing, container in [*missing_ones, ("nosuch", Run("F/1"))]:
        assert missing not in container
        with pytest.raises((NotFound, InvalidPathspec)):
            container[missing]
    assert "nosuch" not in task
    assert 1 not in task


def test_every_object_has_its_address_and_parent(everyone):
    """pathspec, path_components, id and parent lead from an artifact up to its flow."""
    task = Step("F/1/start").task
    artifact = DataArtifact(f"{task.pathspec}/x")
    assert artifact.pathspec == f"F/1/start/{task.id}/x"
    assert artifact.path_components == ["F", "1", "start", task.id, "x"]
    chain = [artifact]
    while chain[-1] is not None:
        chain.append(chain[-1].parent)
    assert chain[1:] == [task, Step("F/1/start"), Run("F/1"), Flow("F"), None]
    assert ids(chain[:-1]) == ["x", task.id, "start", "1", "F"]


def test_parent_never_raises(anne):
    """An object's parent is there also outside of the namespace."""
    with namespace_of(None):
        artifact = Step("F/2/start").task["x"]
    assert artifact.parent.parent.parent.parent == Flow("F")
    assert artifact.parent.parent.parent.pathspec == "F/2"


def namespace_of(tag):
    return context.within(tag)


MISSING = [
    (Flow, "H"), (Flow, "f"), (Run, "F/99"), (Run, "F/3"), (Run, "G/1"), (Run, "F/x"), (Run, "F/1.0"), (Run, "F/-1"),
    (Run, "F/01"), (Run, "F/ 1"), (Run, "F/٣"), (Run, f"F/{10**30}"), (Run, "F/" + "9" * 5000), (Step, "F/1/nosuch"),
    (Step, "F/99/start"), (Step, "G/1/start"), (Task, "F/1/start/99"), (Task, "F/1/end/1"), (Task, "F/1/start/x"),
    (Task, "F/1/start/01"), (DataArtifact, "F/1/start/1/nosuch"), (DataArtifact, "F/1/start/99/x"),
    (DataArtifact, "F/2/start/1/x"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "pathspec"), MISSING, ids=lambda value: str(value)[:30])
def test_what_does_not_exist_is_not_found(everyone, kind, pathspec):
    """Addressing what doesn't exist anywhere is NotFound, which names it and is a KeyError."""
    with pytest.raises(NotFound) as caught:
        kind(pathspec)
    assert pathspec.split("/")[-1][:100] in str(caught.value)
    assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize("kind", [Flow, Run, Step, Task, DataArtifact])
@pytest.mark.parametrize("pathspec", ["", "/", "F/1/start/1/x/more", "F//start", 5, None, "F/"])
def test_what_is_no_pathspec_is_invalid(everyone, kind, pathspec):
    """Text of the wrong depth, and what isn't text, is InvalidPathspec, which shows the form."""
    with pytest.raises(InvalidPathspec, match=kind._FORM):
        kind(pathspec)


MISTAKEN = [(Run, "F"), (Flow, "F/1"), (Step, "F/1"), (Task, "F/1/start"), (DataArtifact, "F/1/start/1")]


@pytest.mark.parametrize(("kind", "pathspec"), MISTAKEN)
def test_a_pathspec_of_another_kind_is_invalid(everyone, kind, pathspec):
    """A run's pathspec doesn't address a step, and so on."""
    with pytest.raises(InvalidPathspec):
        kind(pathspec)


# --- namespaces


def test_the_default_namespace_is_the_user_s_own(anne, monkeypatch):
    """Each user sees the own runs; $FLOWSTORE_USER says who that is."""
    assert flowstore.get_namespace() == "user:anne"
    assert ids(Flow("F")) == ["5", "4", "1"]
    monkeypatch.setenv("FLOWSTORE_USER", "will")
    assert ids(Flow("F")) == ["2"]
    assert ids(Flows()) == ["F"]
    assert Flow("F").latest_run == Run("F/2")


OUTSIDE = [(Run, "F/2"), (Step, "F/2/start"), (Task, "F/2/start/{}"), (DataArtifact, "F/2/start/{}/x")]


@pytest.mark.parametrize(("kind", "pathspec"), OUTSIDE)
def test_what_is_outside_is_a_mismatch_that_says_how_to_switch(anne, kind, pathspec):
    """NamespaceMismatch names the object, the active namespace and both calls that would switch."""
    with namespace_of(None):
        pathspec = pathspec.format(Step("F/2/start").task.id)
    with pytest.raises(NamespaceMismatch) as caught:
        kind(pathspec)
    for part in (pathspec, "'user:anne'", 'namespace("user:will")', "namespace(None)"):
        assert part in str(caught.value)
    namespace("user:will")
    assert kind(pathspec).pathspec == pathspec


def test_items_outside_are_a_mismatch_too(anne, monkeypatch):
    """[id] raises what the constructor raises; `in` says no."""
    with pytest.raises(NamespaceMismatch):
        Flow("F")["2"]
    assert "2" not in Flow("F")
    with pytest.raises(NotFound):
        Flow("F")["3"]
    monkeypatch.setenv("FLOWSTORE_USER", "will")
    with pytest.raises(NamespaceMismatch, match="G"):
        Flow("G")
    assert "G" not in Flows()
    with pytest.raises(NotFound):
        Flow("H")


def test_a_tag_is_a_namespace(everyone):
    """Any tag can be one, whoever ran it."""
    namespace("blue")
    assert ids(Flow("F")) == ["2", "1"]
    assert ids(Flows()) == ["F"]
    with pytest.raises(NamespaceMismatch):
        Run("F/4")


def test_an_empty_listing_hints_at_the_global_namespace(everyone):
    """Where a namespace holds nothing but the store does, the listing says so."""
    namespace("user:nobody")
    assert list(Flows()) == []
    assert "namespace(None)" in repr(Flows())
    namespace("blue")
    assert list(Flow("F").runs("late")) == []


def test_a_namespace_is_a_tag_or_none(everyone):
    """Anything else is refused and changes nothing."""
    for wrong in ("", 5, b"user:anne"):
        with pytest.raises(flowstore.FlowstoreError):
            namespace(wrong)
    assert flowstore.get_namespace() is None
    assert namespace("a") == flowstore.get_namespace() == "a"
    assert flowstore.default_namespace() == "user:anne"


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


def test_runs_are_fetched_as_they_are_asked_for(tmp_path, monkeypatch):
    """The first of many runs costs a page of a few rows, and all are there in the end, in order."""
    path = make_store(tmp_path / "many.db")
    store = db.open_store(path)
    with store.write() as connection:
        connection.execute(
            """with recursive n (i) as (select 1 union all select i + 1 from n where i < 3000)
               insert into runs
                 (uuid, flow_id, user, status, created_at, last_seen_at, host, boot, pid, pid_started, parameters)
               select 'u' || i, 1, 'u', 'successful', 1000 + i / 3, 1000, '', '', 1, '', '{}' from n"""
        )
    fetched = []
    page_of = queries._page
    monkeypatch.setattr(queries, "_page", lambda *args: fetched.append(page_of(*args)) or fetched[-1])
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
    assert (task.exception.type, task.exception.message) == ("AssertionError", "on purpose")
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
    assert (first.exception.type, first.exception.message) == ("ValueError", "the first time")
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
    """A step under @catch is successful, and says what it caught."""
    task = Step("G/3/start").task
    assert task.successful
    assert task.exception.type == "KeyError"
    assert task.data.problem.type == "KeyError"
    assert "caught" in str(task.data.problem)


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
        store = db.ensure_store(tmp_path / f"{name}.db")
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
