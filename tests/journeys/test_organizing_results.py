"""Metaflow's page "Organizing Results", sentence by sentence, in its order; production has a folder of its own.

Anne and Will work in one folder on PredictionFlow and FeatureFlow, each with a name and a home of their own, and their
runs are interleaved in one store. Run ids are the page's.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest

import flowstore
from flowstore import (
    DataArtifact,
    Flow,
    Flows,
    NamespaceMismatch,
    NotFound,
    Run,
    Step,
    Task,
    UntrustedArtifact,
    context,
    default_namespace,
    get_namespace,
    namespace,
)
from flowstore.store import records
from flowstore.store.opening import ensure_store
from flowstore.store.tags import runtime_tags
from support.cli import Script, ended, started
from support.flows import flow_source

TUTORIALS = Path(flowstore.__file__).parent / "tutorials"

HELLO = """\
from flowstore import FlowSpec, step

class HelloFlow(FlowSpec):
    @step
    def start(self):
        self.greeting = "hello"
        self.next(self.end)

    @step
    def end(self):
        print(self.greeting)

if __name__ == "__main__":
    HelloFlow()
"""

CURRENT = """\
from flowstore import FlowSpec, current, step

class CurrentFlow(FlowSpec):
    @step
    def start(self):
        print(f"flow name: {current.flow_name}")
        print(f"run id: {current.run_id}")
        print(f"origin run id: {current.origin_run_id}")
        print(f"step name: {current.step_name}")
        print(f"task id: {current.task_id}")
        print(f"pathspec: {current.pathspec}")
        print(f"username: {current.username}")
        self.next(self.end)

    @step
    def end(self):
        self.origin = current.origin_run_id
        print("end of", current.run_id)

if __name__ == "__main__":
    CurrentFlow()
"""

# Fails in its middle until the file `mended` is there. {value} is what the reused start leaves.
SHAKY = """\
from pathlib import Path
from flowstore import Flow, FlowSpec, Parameter, current, step

class ShakyFlow(FlowSpec):
    size = Parameter("size", default=1)

    @step
    def start(self):
        self.value = {value}
        self.next(self.middle)

    @step
    def middle(self):
        if not Path("mended").exists():
            raise RuntimeError("boom")
        self.seen = current.namespace
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    ShakyFlow()
"""


class Project(Script):
    """A folder with everybody's flow files, the store beside them, and a home for each person."""

    def __init__(self, folder):
        self.folder = folder
        self.db = folder / "flowstore.db"

    def home(self, who):
        return self.folder / "homes" / who

    def command(self, who, *words, expect=0):
        """Run a command as somebody, to its end."""
        person = {"FLOWSTORE_USER": who, "FLOWSTORE_HOME": self.home(who)}
        with started(*words, folder=self.folder, fresh=False, **person) as process:
            done = ended(process)
        assert done.code == expect, f"{who}: {words} ended with {done.code}:\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def run(self, who, flow, *words, expect=0):
        """Run `python FLOW.py WORDS` as somebody."""
        return self.command(who, f"{flow}.py", *words, expect=expect)

    def record(self, *runs):
        """Insert runs of a flow and a user, without their tasks: what amongst other people went on."""
        store = ensure_store(self.db)
        with store.write() as db:
            for flow, user in runs:
                tags = [f"user:{user}", *runtime_tags("0")]
                run_id = records.create_run(db, records.NewRun(flow, user, {}, [], None, tags, []))
                records.finish_run(db, run_id, "successful")
        store.close()

    def record_until(self, run_id, task_id=0):
        """Insert other people's runs, so that the next run has the id `run_id`, its first task `task_id`."""
        done = self.sql("select coalesce(max(id), 0) from runs")[0] if self.db.exists() else 0
        self.record(*[("OtherFlow", "jge")] * (run_id - 1 - done))
        store = ensure_store(self.db)
        with store.write() as db:
            step = records.ensure_step(db, run_id - 1, "start")
            for _ in range(task_id - 1):
                records.start_task(db, records.NewTask(run_id - 1, step, [], None, None))
        store.close()


@pytest.fixture(scope="module")
def first_weeks(copy_of):
    """The runs of the page's figure."""
    return Project(copy_of("first-weeks", _work_for_weeks))


def _work_for_weeks(folder):
    project = Project(folder)
    for name in ("features", "predictions"):
        shutil.copy(TUTORIALS / f"{name}.py", project.folder)
    (project.folder / "helloworld.py").write_text(HELLO)
    project.run("anne", "features", "run", "--island", "Dream")  # FeatureFlow/1
    project.run("will", "features", "run", "--island", "Biscoe")  # FeatureFlow/2
    project.run("anne", "predictions", "run")  # PredictionFlow/3
    project.record(("PredictionFlow", "will"))
    project.run("will", "predictions", "run")  # PredictionFlow/5
    project.record(("PredictionFlow", "anne"), ("FeatureFlow", "jge"))
    project.run("anne", "predictions", "run", "--feature", "bill_shape")  # PredictionFlow/8
    project.record(("PredictionFlow", "jge"))


@pytest.fixture
def project(first_weeks, tmp_path):
    """The project as it is after its first weeks, for one test to go on with; its store is checked at the end."""
    made = Project(tmp_path / "project")
    shutil.copytree(first_weeks.folder, made.folder)
    yield made
    if context.state.store is not None:
        context.state.store.close()
    made.check()


@pytest.fixture
def notebook(project, monkeypatch):
    """Somebody opens a notebook: `notebook("anne")` makes this process hers, from the beginning."""

    def open_as(who):
        monkeypatch.setenv("FLOWSTORE_USER", who)
        monkeypatch.setenv("FLOWSTORE_HOME", str(project.home(who)))
        context.state.namespace = context.UNSET
        flowstore.use_store(project.db)

    return open_as


def specs(objects):
    """The pathspecs of objects, in order."""
    return [each.pathspec for each in objects]


# --- Organizing Results


def test_every_run_gets_a_unique_id(project, notebook):
    """Every run gets a unique run ID, e.g. HelloFlow/546, which can be used to refer to a set of results."""
    project.record_until(546)
    project.run("anne", "helloworld", "run")
    notebook("anne")
    run = Run("HelloFlow/546")
    assert (run.pathspec, run.id, run.data.greeting) == ("HelloFlow/546", "546", "hello")
    assert run == Flow("HelloFlow")["546"] == Flow("HelloFlow")[546] == Flow("HelloFlow").latest_run
    assert project.sql("select count(*) - count(distinct run_id) from run_summary") == [0]


@pytest.mark.parametrize("other", ["03", "003", " 3", "3 ", "+3", "3.0", "٣", "-3", "0x3", ""])
def test_a_run_has_one_id(other, notebook):
    """An id is written in one way only: what merely counts to the same number addresses nothing."""
    notebook("anne")
    with pytest.raises((NotFound, flowstore.InvalidPathspec)):
        Run(f"PredictionFlow/{other}")
    assert other not in Flow("PredictionFlow")


def test_all_runs_and_artifacts_are_kept(project, notebook):
    """All runs and all the data artifacts that they produce are persisted; the Client API gives access to them."""
    notebook("anne")
    assert specs(Flow("PredictionFlow")) == ["PredictionFlow/8", "PredictionFlow/6", "PredictionFlow/3"]
    earlier, later = Run("PredictionFlow/3"), Run("PredictionFlow/8")
    assert (earlier.data.feature, later.data.feature) == ("flipper_mm", "bill_shape")
    assert earlier.data.line != later.data.line
    assert later.data.metrics.keys() == {"error_g", "error_of_mean_g"}
    assert [artifact.id for artifact in later["fit"].task] == ["feature", "features_from", "line", "metrics", "table"]
    assert DataArtifact(f"{later['fit'].task.pathspec}/line").data == later.data.line


def test_many_users_run_concurrently(project, notebook):
    """Many users can use Metaflow concurrently: no run is lost, and each finds their own, in notebooks and in flows."""
    islands = {"anne": "Dream", "will": "Biscoe", "jge": "Torgersen"}

    def work(who):
        for _ in range(2):
            project.run(who, "features", "run", "--island", islands[who])
            project.run(who, "predictions", "run")

    with ThreadPoolExecutor(len(islands)) as pool:
        list(pool.map(work, islands))
    found = set()
    for who, island in islands.items():
        notebook(who)
        features, predictions = ([*islice(Flow(name).runs(), 2)] for name in ("FeatureFlow", "PredictionFlow"))
        assert [run.parameters["island"] for run in features] == [island] * 2
        assert [run.data.features_from for run in predictions] == specs(features)
        assert all(run.successful and run.user == who for run in features + predictions)
        found |= {run.id for run in features + predictions}
    assert found == {str(number) for number in range(10, 22)}


# --- namespaces


@pytest.mark.parametrize(("who", "run_id"), [("anne", 8), ("will", 5)])
def test_runs_are_tagged_with_the_username(who, run_id, project, notebook):
    """When Anne runs PredictionFlow, her runs are automatically tagged with her username, prefixed with `user:`."""
    notebook(who)
    run = Run(f"PredictionFlow/{run_id}")
    assert [tag for tag in run.tags if tag.startswith("user:")] == [f"user:{who}"]
    assert run.user == who
    sql = "select tag from object_tags where kind = 'run' and run_id = ? and tag like 'user:%' and system"
    assert project.sql(sql, run_id) == [f"user:{who}"]


def test_who_one_is(monkeypatch):
    """The name is $FLOWSTORE_USER, else $USERNAME, else $USER, else the account's; an empty one is none."""
    monkeypatch.setenv("FLOWSTORE_USER", "anne")
    monkeypatch.setenv("USERNAME", "will")
    monkeypatch.setenv("USER", "jge")
    for variable, name in (("FLOWSTORE_USER", "anne"), ("USERNAME", "will"), ("USER", "jge")):
        assert get_namespace() == default_namespace() == f"user:{name}"
        monkeypatch.setenv(variable, "")
    assert get_namespace().removeprefix("user:")


@pytest.mark.parametrize("who", ["anne", "will"])
def test_the_default_namespace(who, project, notebook):
    """By default, when Anne uses the Client API, the API only returns results that are tagged with `user:anne`."""
    notebook(who)
    assert get_namespace() == f"user:{who}"
    assert specs(Flows()) == ["FeatureFlow", "PredictionFlow"]
    runs = [run for flow in Flows() for run in flow]
    assert all(f"user:{who}" in each.tags for run in runs for each in [run, *run, *(t for step in run for t in step)])
    mine = project.sql("select flow || '/' || run_id from run_summary where user = ?", who)
    assert sorted(specs(runs)) == sorted(mine)


@pytest.mark.parametrize(("who", "latest"), [("anne", "PredictionFlow/8"), ("will", "PredictionFlow/5")])
def test_latest_run(who, latest, notebook):
    """For Anne, `latest_run` returns PredictionFlow/8. For Will, it returns PredictionFlow/5."""
    notebook(who)
    run = Flow("PredictionFlow").latest_run
    assert run.pathspec == Flow("PredictionFlow").latest_successful_run.pathspec == latest
    assert run.data.metrics == Run(latest).data.metrics


@pytest.mark.parametrize(
    ("who", "run_id", "used"),
    [("anne", 3, "FeatureFlow/1"), ("will", 5, "FeatureFlow/2"), ("anne", 8, "FeatureFlow/1")],
)
def test_a_flow_finds_the_results_of_its_own_user(who, run_id, used, notebook):
    """The same code, run by Anne and by Will, built on the features of whoever ran it."""
    notebook(who)
    run = Run(f"PredictionFlow/{run_id}")
    assert run.data.features_from == used
    assert run.data.table == Run(used).data.features
    assert f"from {used}, as seen in the namespace user:{who}" in run["start"].task.stdout


# --- switching namespaces


def test_namespaces_are_not_about_security(project, notebook):
    """Namespaces are not about security or access control: whoever has the file sees all of it."""
    notebook("anne")
    assert project.sql("select distinct user from run_summary order by user") == ["anne", "jge", "will"]
    assert namespace("user:will") == "user:will"
    assert Run("PredictionFlow/5").data.metrics


def test_exploring_the_results_of_others(notebook):
    """Anne can freely explore: after switching, `latest_run` is Will's latest, PredictionFlow/5; and back again."""
    notebook("anne")
    namespace("user:will")
    assert get_namespace() == "user:will"
    assert Flow("PredictionFlow").latest_run.pathspec == "PredictionFlow/5"
    assert specs(Flow("PredictionFlow")) == ["PredictionFlow/5", "PredictionFlow/4"]
    assert default_namespace() == "user:anne"
    assert Flow("PredictionFlow").latest_run.pathspec == "PredictionFlow/8"


def test_another_namespace_hides_ones_own_results(notebook):
    """In Will's namespace Anne does not get her own results by accident either."""
    notebook("anne")
    namespace("user:will")
    with pytest.raises(NamespaceMismatch, match=re.escape('namespace("user:anne")')):
        Run("PredictionFlow/8")


@pytest.mark.parametrize(
    "address",
    [
        lambda: Flow("PredictionFlow")["5"],
        lambda: Flow("PredictionFlow")[5],
        lambda: Run("PredictionFlow/5"),
        lambda: Step("PredictionFlow/5/start"),
        lambda: Task(context_free_task().pathspec),
        lambda: DataArtifact(f"{context_free_task().pathspec}/table"),
    ],
    ids=["[id]", "[number]", "run", "step", "task", "artifact"],
)
def test_access_by_id_fails_in_another_namespace(address, notebook):
    """Given its ID directly, this fails for Anne, since PredictionFlow/5 is in Will's namespace."""
    notebook("anne")
    with pytest.raises(NamespaceMismatch) as caught:
        address()
    message = str(caught.value)
    assert "PredictionFlow/5" in message
    assert "'user:anne'" in message
    calls = re.findall(r"namespace\([^)]*\)", message)
    assert calls == ['namespace("user:will")', "namespace(None)"]
    for call in calls:  # as printed, each of them switches
        exec(call, {"namespace": namespace})
        assert address().pathspec.startswith("PredictionFlow/5")


def context_free_task():
    """A task of Will's PredictionFlow/5, found whatever the namespace."""
    with context.within(None):
        return Step("PredictionFlow/5/start").task


def test_others_results_are_not_in_the_containers(notebook):
    """You can't accidentally use someone else's results: neither by `in`, nor by iteration, nor by filtering."""
    notebook("anne")
    flow = Flow("PredictionFlow")
    assert ("5" in flow, 5 in flow, "8" in flow) == (False, False, True)
    assert "PredictionFlow/5" not in specs(flow)
    assert list(flow.runs("user:will")) == []


def test_what_does_not_exist_is_not_a_mismatch(notebook):
    """A run that is in nobody's namespace is told apart from one that is in somebody else's."""
    notebook("anne")
    for address in ("PredictionFlow/99", "FeatureFlow/8", "NoFlow/1"):
        with pytest.raises(NotFound):
            Run(address)


def test_switching_explicitly(notebook):
    """If Anne wants to access Will's results, she must do so explicitly by switching to Will's namespace."""
    notebook("anne")
    namespace("user:will")
    run = Flow("PredictionFlow")["5"]
    assert run.data.features_from == "FeatureFlow/2"
    assert run["start"].task.data.table == run.data.table


def test_a_flow_that_nobody_ran_here(notebook):
    """A flow of which the namespace has no run exists elsewhere, and the error says how to see it."""
    notebook("mallory")
    with pytest.raises(NamespaceMismatch, match=re.escape("namespace(None)")):
        Flow("PredictionFlow")
    assert list(Flows()) == []
    assert "namespace(None)" in repr(Flows())


# --- --namespace on the command line


@pytest.mark.parametrize(
    "words", [["--namespace", "user:anne", "run"], ["run", "--namespace", "user:anne"]], ids=" ".join
)
def test_namespace_option(words, project, notebook):
    """If you use the Client API in your flows, --namespace on the command line switches what it sees there."""
    said = project.run("will", "predictions", *words)
    assert "from FeatureFlow/1, as seen in the namespace user:anne" in said.stdout
    notebook("will")  # the run itself stays his
    run = Flow("PredictionFlow").latest_run
    assert run.pathspec == "PredictionFlow/10"
    assert run.data.features_from == "FeatureFlow/1"
    assert {tag for tag in run.tags if tag.startswith("user:")} == {"user:will"}


def test_namespace_option_with_nothing_in_it(project):
    """A namespace without features: the task fails, and its error says how to look elsewhere."""
    said = project.run("mallory", "predictions", "run", expect=1)
    assert "NamespaceMismatch: Flow FeatureFlow has no run in the active namespace, 'user:mallory'" in said.stdout


def test_the_global_namespace_on_the_command_line(project):
    """An empty --namespace is the global one: the newest run of anybody, however unfinished."""
    project.run("anne", "features", "run", "--island", "Torgersen")
    said = project.run("mallory", "predictions", "--namespace", "", "run")
    assert "from FeatureFlow/10, as seen in the namespace None" in said.stdout


def test_a_task_sees_its_own_run(flow):
    """Whatever namespace a task looks at, `current.run` and `current.task` are there, with all that is in them."""
    script = flow(
        flow_source(
            {"start": "self.next(self.end)", "end": ""},
            start="self.x = 1",
            end="""
                self.below = [current.run["start"].task.data.x, current.run["start"].pathspec]
                self.steps = [step.id for step in current.run]
                self.tasks = [task.id for task in current.task.parent]
                self.before = [task["x"].pathspec for task in current.task.parent_tasks]
                """,
        )
    )
    script("run", "--namespace", "user:nobody")
    data = script.client().data
    assert data.before == ["F/1/start/1/x"]
    assert data.below == [1, "F/1/start"]
    assert (data.steps, data.tasks) == (["end", "start"], ["2"])


@pytest.mark.parametrize("tag", ["", 5, b"user:anne", ["user:anne"]])
def test_what_is_no_namespace(tag):
    """A namespace is a tag or None; a mistake is told, and the namespace stays."""
    with pytest.raises(flowstore.FlowstoreError, match="namespace is a tag"):
        namespace(tag)
    assert get_namespace() == "user:tester"


def test_a_hardcoded_namespace(project, notebook):
    """A hardcoded call of namespace() in the flow works, too; it holds for that task alone."""
    text = HELLO.replace("FlowSpec, step", "Flow, FlowSpec, current, default_namespace, get_namespace, namespace, step")
    text = text.replace(
        'self.greeting = "hello"',
        'namespace("user:will"); self.found = Flow("FeatureFlow").latest_run.pathspec; self.here = current.namespace',
    ).replace("print(self.greeting)", "self.there = get_namespace()")
    (project.folder / "helloworld.py").write_text(text)
    project.run("anne", "helloworld", "run")
    notebook("anne")
    data = Flow("HelloFlow").latest_run.data
    assert (data.found, data.here, data.there) == ("FeatureFlow/2", "user:anne", "user:anne")


def test_the_command_lines_listings(project):
    """A flow's own command line lists what the namespace has; `flowstore` lists the whole file unless narrowed."""
    listed = project.run("anne", "predictions", "list", "runs").stdout
    assert re.findall(r"PredictionFlow/\d+", listed) == ["PredictionFlow/8", "PredictionFlow/6", "PredictionFlow/3"]
    listed = project.run("anne", "predictions", "list", "runs", "--namespace", "user:will").stdout
    assert re.findall(r"PredictionFlow/\d+", listed) == ["PredictionFlow/5", "PredictionFlow/4"]
    listed = project.command("anne", "-m", "flowstore", "runs").stdout
    assert re.findall(r"Flow/(\d)", listed) == list("987654321")
    listed = project.command("anne", "-m", "flowstore", "runs", "--namespace", "user:will").stdout
    assert re.findall(r"Flow/(\d)", listed) == list("542")


# --- the global namespace


def test_the_global_namespace(notebook):
    """If you know a run ID, but not whose namespace it belongs to: you can access all results in the global one."""
    notebook("anne")
    assert namespace(None) is None
    assert get_namespace() is None
    run = Flow("PredictionFlow")["5"]
    assert (run.pathspec, run.user) == ("PredictionFlow/5", "will")
    assert [run.id for run in Flow("PredictionFlow")] == ["9", "8", "6", "5", "4", "3"]
    assert {run.user for flow in Flows() for run in flow} == {"anne", "will", "jge"}


def test_latest_run_makes_little_sense_there(project, notebook):
    """Relative references make little sense in the global namespace, since anyone can produce a new run at any time."""
    notebook("anne")
    namespace(None)
    assert Flow("PredictionFlow").latest_run.user == "jge"
    project.record(("PredictionFlow", "mallory"))
    assert Flow("PredictionFlow").latest_run.user == "mallory"
    namespace("user:anne")
    assert Flow("PredictionFlow").latest_run.pathspec == "PredictionFlow/8"


# --- resuming across namespaces


@pytest.fixture
def shaky(project):
    """Anne's ShakyFlow/10 failed in its middle; what its start left is plain. Now the cause is mended."""
    (project.folder / "shaky.py").write_text(SHAKY.format(value="{'plain': 1}"))
    project.run("anne", "shaky", "run", "--size", "7", "--tag", "annes_idea", expect=1)
    (project.folder / "mended").touch()
    return project


def test_resuming_a_run_of_another_user(shaky, notebook):
    """You can resume runs of other users; the results are always created in your personal namespace."""
    shaky.run("will", "shaky", "resume", "--origin-run-id", "10", "--tag", "wills_turn")
    notebook("will")
    run = Flow("ShakyFlow").latest_run
    assert (run.pathspec, run.status, run.origin_run_id) == ("ShakyFlow/11", "successful", "10")
    assert (run.data.value, run.data.size, run.data.seen) == ({"plain": 1}, 7, "user:will")
    assert run["start"].task.origin_pathspec.startswith("ShakyFlow/10/start/")
    assert run["middle"].task.origin_pathspec is None
    assert run.user_tags == {"wills_turn"}
    assert {tag for tag in run.tags if tag.startswith("user:")} == {"user:will"}
    notebook("anne")  # hers is as it was
    assert specs(Flow("ShakyFlow")) == ["ShakyFlow/10"]
    assert (Run("ShakyFlow/10").status, Run("ShakyFlow/10").user_tags) == ("failed", {"annes_idea"})


def test_resuming_needs_nothing_special(shaky, notebook):
    """You can resume without doing anything special with namespaces: the active one plays no role."""
    shaky.run("will", "shaky", "resume", "--origin-run-id", "10", "--namespace", "user:jge")
    notebook("will")
    run = Flow("ShakyFlow").latest_run
    assert (run.pathspec, run.data.seen) == ("ShakyFlow/11", "user:jge")


def test_what_is_resumed_by_default(shaky, notebook):
    """Without an id, one's own latest run is resumed, never somebody else's."""
    refused = shaky.run("will", "shaky", "resume", expect=1)
    assert "will has no run of ShakyFlow to resume" in refused.stderr
    assert "--origin-run-id" in refused.stderr
    shaky.run("will", "shaky", "resume", "--origin-run-id", "10")
    shaky.run("anne", "shaky", "resume")
    shaky.run("anne", "shaky", "resume")
    notebook("anne")
    assert [(run.id, run.origin_run_id) for run in Flow("ShakyFlow")] == [("13", "12"), ("12", "10"), ("10", None)]


def test_a_resumed_run_is_not_tagged_like_its_origin(shaky, notebook):
    """Tags of the origin, set when it ran or later, are not the resumed run's."""
    notebook("anne")
    Run("ShakyFlow/10").add_tag("later")
    Step("ShakyFlow/10/start").add_tag("a_step")
    shaky.run("anne", "shaky", "resume")
    run = Flow("ShakyFlow").latest_run
    assert run.pathspec == "ShakyFlow/11"
    assert {tag for each in [run, *run, *(task for step in run for task in step)] for tag in each.user_tags} == set()


def test_resuming_past_others_pickles_needs_trust(project, notebook):
    """The one departure: a pickle is code, so others' pickles need one `flowstore trust`, which the refusal prints."""
    (project.folder / "shaky.py").write_text(SHAKY.format(value="range(1, 4)"))
    project.run("anne", "shaky", "run", expect=1)
    (project.folder / "mended").touch()
    runs = project.sql("select count(*) from runs")

    refused = project.run("will", "shaky", "resume", "--origin-run-id", "10", expect=1)
    assert "'value'" in refused.stderr
    assert project.sql("select count(*) from runs") == runs, "refused before anything started"

    [command] = re.findall(r"flowstore trust .*", refused.stderr)
    project.command("will", "-m", *shlex.split(command))
    project.run("will", "shaky", "resume", "--origin-run-id", "10")
    notebook("will")
    assert Flow("ShakyFlow").latest_run.data.value == range(1, 4)


def test_resuming_from_the_start_takes_no_pickles_over(project, notebook):
    """Where nothing of the other's is taken over, none of it needs to be trusted."""
    (project.folder / "shaky.py").write_text(SHAKY.format(value="range(1, 4)"))
    project.run("anne", "shaky", "run", expect=1)
    (project.folder / "mended").touch()
    project.run("will", "shaky", "resume", "start", "--origin-run-id", "10")
    notebook("will")
    assert Flow("ShakyFlow").latest_run.data.value == range(1, 4)


def test_loading_others_pickles_needs_trust(project, notebook):
    """In the Client, too, the refusal prints the command; plain artifacts of the same run load without."""
    (project.folder / "shaky.py").write_text(SHAKY.format(value="range(1, 4)"))
    (project.folder / "mended").touch()
    project.run("anne", "shaky", "run")
    notebook("anne")
    assert Run("ShakyFlow/10").data.value == range(1, 4)
    notebook("will")
    namespace("user:anne")
    data = Run("ShakyFlow/10").data
    assert data.seen == "user:anne"
    with pytest.raises(UntrustedArtifact) as caught:
        _ = data.value
    [command] = re.findall(r"flowstore trust .*", str(caught.value))
    project.command("will", "-m", *shlex.split(command))
    assert data.value == range(1, 4)


# --- tags


def test_the_user_tag_is_assigned_automatically(project, notebook):
    """The user: tag is assigned automatically, and is not anybody's to set or to take away."""
    notebook("anne")
    run = Run("PredictionFlow/8")
    for change in (lambda: run.add_tag("user:will"), lambda: run.remove_tag("user:anne")):
        with pytest.raises(flowstore.TaggingError):
            change()
    refused = project.run("anne", "helloworld", "run", "--tag", "user:will", expect=1)
    assert "'user:will'" in refused.stderr
    assert project.sql("select count(*) from run_summary where flow = 'HelloFlow'") == [0]


def test_arbitrary_tags_can_be_added_and_removed(notebook):
    """In addition you can add and remove arbitrary tags in objects, so that others find results of interest."""
    notebook("anne")
    run = Run("PredictionFlow/8")
    run.add_tag("good enough")
    run["fit"].task.add_tag("look here")
    notebook("will")
    namespace("user:anne")
    [found] = Flow("PredictionFlow").runs("good enough")
    assert found.pathspec == "PredictionFlow/8"
    assert specs(found["fit"].tasks("look here")) == [found["fit"].task.pathspec]
    found.remove_tag("good enough")
    assert list(Flow("PredictionFlow").runs("good enough")) == []


def test_the_tag_option(project, notebook):
    """--tag annotates a run, and several --tag options add several tags."""
    project.run("anne", "helloworld", "run", "--tag", "crazy_test")
    project.run("anne", "helloworld", "run", "--tag", "crazy_test", "--tag", "date:2020-06-01")
    notebook("anne")
    assert [run.user_tags for run in Flow("HelloFlow")] == [{"crazy_test", "date:2020-06-01"}, {"crazy_test"}]


def test_the_tag_option_tags_all_objects(project, notebook):
    """The tag is assigned to all objects produced by the run: the run itself, its steps, tasks and data artifacts."""
    project.run("anne", "helloworld", "run", "--tag", "crazy_test")
    notebook("anne")
    run = Flow("HelloFlow").latest_run
    steps = list(run.steps("crazy_test"))
    tasks = [task for step in steps for task in step.tasks("crazy_test")]
    artifacts = [artifact for task in tasks for artifact in task]
    assert [len(steps), len(tasks), len(artifacts)] == [2, 2, 2]
    assert all({"crazy_test", "user:anne"} < each.tags for each in [run, *steps, *tasks, *artifacts])
    counts = "select kind, count(*) from object_tags where run_id = ? and tag = 'crazy_test' group by kind"
    set_only = {"run": 1, "step": 2, "task": 2, "artifact": 1}  # `end` inherits the artifact, it does not set it
    assert dict(project.sql(counts, int(run.id))) == set_only


# --- accessing tags


@pytest.fixture
def tagged(project):
    """HelloFlow/10 to 13: Anne's crazy_test, her crazy_test of a date, her plain one, Will's crazy_test."""
    project.run("anne", "helloworld", "run", "--tag", "crazy_test")
    project.run("anne", "helloworld", "run", "--tag", "crazy_test", "--tag", "date:2020-06-01")
    project.run("anne", "helloworld", "run")
    project.run("will", "helloworld", "run", "--tag", "crazy_test")
    return project


def test_accessing_tags(tagged, notebook):
    """`runs(tag)`: the latest run with a tag in your namespace, by the namespace and the tag; several tags mean all.

    You can access runs, or steps or tasks, with a certain tag.
    """
    notebook("anne")
    flow = Flow("HelloFlow")
    assert next(flow.runs("crazy_test")).pathspec == "HelloFlow/11"
    assert [run.id for run in flow.runs("crazy_test")] == ["11", "10"]
    assert [run.id for run in flow.runs("crazy_test", "date:2020-06-01")] == ["11"]
    assert [run.id for run in flow.runs("date:2020-06-01", "crazy_test", "user:anne")] == ["11"]
    assert [list(flow.runs("crazy_test", "no such tag")), list(flow.runs("no such tag"))] == [[], []]
    assert [step.id for step in Run("HelloFlow/11").steps("crazy_test", "date:2020-06-01")] == ["end", "start"]
    assert list(Run("HelloFlow/12").steps("crazy_test")) == []
    assert list(Step("HelloFlow/12/end").tasks("crazy_test")) == []

    namespace("user:will")
    assert [run.id for run in flow.runs("crazy_test")] == ["13"]
    namespace(None)
    assert [run.id for run in flow.runs("crazy_test")] == ["13", "11", "10"]
    assert [run.id for run in flow.runs("crazy_test", "user:anne")] == ["11", "10"]
    sql = "select run_id from object_tags where kind = 'run' and tag = 'crazy_test' order by run_id"
    assert tagged.sql(sql) == [10, 11, 13]


def test_the_tags_property(project, notebook):
    """`run.tags` is a set with a string crazy_test amongst other automatically assigned tags."""
    project.run("anne", "helloworld", "run", "--tag", "crazy_test")
    notebook("anne")
    run = Flow("HelloFlow").latest_run
    assert isinstance(run.tags, frozenset)
    assert run.tags == run.user_tags | run.system_tags
    assert run.user_tags == {"crazy_test"}
    assert run.system_tags == {
        "user:anne",
        "runtime:local",
        f"date:{run.created_at:%Y-%m-%d}",
        "python_version:{}.{}.{}".format(*sys.version_info[:3]),
        f"flowstore_version:{flowstore.__version__}",
    }


# --- tags as namespaces


def test_tags_as_namespaces(project, notebook):
    """Features regardless of the user who ran the flow: FeatureFlow/34, which happened to be run by Anne.

    If Will runs the flow again, his results will be the latest results in this namespace.
    """
    project.record_until(34)
    project.run("anne", "features", "run", "--tag", "xyz_features")
    notebook("will")
    assert Flow("FeatureFlow").latest_run.pathspec == "FeatureFlow/2"
    namespace("xyz_features")
    run = Flow("FeatureFlow").latest_run
    assert (run.pathspec, run.user) == ("FeatureFlow/34", "anne")
    assert specs(Flows()) == ["FeatureFlow"]
    with pytest.raises(NamespaceMismatch):
        Run("FeatureFlow/2")  # his own, but not one of these

    project.run("will", "features", "run", "--tag", "xyz_features")
    assert Flow("FeatureFlow").latest_run.pathspec == "FeatureFlow/35"
    notebook("anne")
    namespace("xyz_features")
    assert [(run.pathspec, run.user) for run in Flow("FeatureFlow")] == [
        ("FeatureFlow/35", "will"),
        ("FeatureFlow/34", "anne"),
    ]


def test_a_descriptive_tag_can_come_later(project, notebook):
    """They could add a descriptive tag to runs that are there: it is a namespace from then on, in flows as well."""
    project.run("anne", "features", "tag", "add", "--run-id", "1", "xyz_features")
    project.run("will", "features", "tag", "add", "--run-id", "2", "xyz_features")
    said = project.run("mallory", "predictions", "--namespace", "xyz_features", "run")
    assert "from FeatureFlow/2, as seen in the namespace xyz_features" in said.stdout
    notebook("anne")
    namespace("xyz_features")
    assert specs(Flow("FeatureFlow")) == ["FeatureFlow/2", "FeatureFlow/1"]


def test_namespaces_and_tags_combined(tagged, notebook):
    """We encourage a combination of namespaces, domain-specific tags, and filtering by tags."""
    notebook("will")
    namespace("crazy_test")
    assert [run.id for run in Flow("HelloFlow").runs("user:anne")] == ["11", "10"]
    assert [run.id for run in Flow("HelloFlow").runs("user:anne", "date:2020-06-01")] == ["11"]
    assert Flow("HelloFlow").latest_run.id == "13"


# --- current


@pytest.fixture
def current_flow(tmp_path):
    """The page's CurrentFlow, whose next run is 198, and its first task 1139."""
    project = Project(tmp_path)
    (tmp_path / "current_flow.py").write_text(CURRENT)
    project.record_until(198, task_id=1139)
    yield project
    project.check()


def printed(result, label):
    """What the task of a label printed, without the times, which have the page's form."""
    form = rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{3}} \[{label} \(pid \d+\)\] (.*)"
    found = [re.fullmatch(form, line) for line in result.stdout.splitlines()]
    return [match[1] for match in found if match]


def test_current(current_flow):
    """The singleton `current` represents the identity of the running task; its output has the page's shape."""
    result = current_flow.run("jge", "current_flow", "run")
    assert printed(result, "198/start/1139") == [
        "Task is starting.",
        "flow name: CurrentFlow",
        "run id: 198",
        "origin run id: None",
        "step name: start",
        "task id: 1139",
        "pathspec: CurrentFlow/198/start/1139",
        "username: jge",
        "Task finished successfully.",
    ]
    assert printed(result, "198/end/1140") == ["Task is starting.", "end of 198", "Task finished successfully."]
    assert len(result.stdout.splitlines()) == 12, "nothing else is on stdout"


def test_origin_run_id(current_flow):
    """`current.origin_run_id` is None in a regular run, and in a resumed one the origin that was chosen."""
    current_flow.run("jge", "current_flow", "run")
    result = current_flow.run("jge", "current_flow", "resume", "start")
    assert "origin run id: 198" in printed(result, "199/start/1141")
    assert "run id: 199" in printed(result, "199/start/1141")
    result = current_flow.run("jge", "current_flow", "resume", "end")
    assert printed(result, r"200/start/\d+") == [], "start was taken over, from a run that was itself resumed"
    values = "select value from artifact_values where name = 'origin' order by run_id"
    assert current_flow.sql(values) == ["null", '"198"', '"199"']


def test_origin_run_id_can_be_overridden(current_flow):
    """If a user explicitly overrides --origin-run-id, `current` reflects that value."""
    current_flow.run("jge", "current_flow", "run")
    current_flow.run("jge", "current_flow", "run")
    result = current_flow.run("jge", "current_flow", "resume", "start", "--origin-run-id", "198")
    assert "origin run id: 198" in printed(result, r"200/start/\d+")
    assert current_flow.sql("select origin_run_id from run_summary where run_id >= 198") == [None, None, "198"]


def test_current_outside_a_task():
    """Outside a task nothing runs, so there is nothing to say."""
    current = flowstore.current
    assert not current.is_running_flow
    assert {name for name in dir(current) if name.endswith("_id") and getattr(current, name) is not None} == set()
    assert current.get("run_id", "none") == "none"
    assert "run_id" not in current


def test_current_tags_when_the_task_started(flow):
    """`current.tags` are the run's user tags when the task started, those set meanwhile included."""
    tails = {"start": "self.next(self.end)", "end": ""}
    script = flow(
        flow_source(
            tails, start="current.run.add_tag('found'); self.before = current.tags", end="self.after = current.tags"
        )
    )
    script("run", "--tag", "given")
    data = script.client().data
    assert (data.before, data.after) == ({"given"}, {"given", "found"})
    assert type(data.before) is set


# --- the tutorial's command line


def test_the_tutorials_run_as_modules(project, notebook):
    """The tutorials' first lines say `python -m …`, and the hint after a failure can be typed as it is."""
    for file in ("features.py", "predictions.py"):
        (project.folder / file).unlink()
    project.command("anne", "-m", "flowstore.tutorials.features", "run", "--island", "Biscoe")
    failed = project.command("anne", "-m", "flowstore.tutorials.predictions", "run", "--feature", "beard", expect=1)
    assert "choose one of flipper_mm, bill_mm, bill_shape, mass_g" in failed.stdout
    [hint] = re.findall(r"to go on: python (.*)", failed.stderr)
    assert "choose one of" in project.command("anne", *shlex.split(hint), expect=1).stdout


def test_the_hint_of_a_flow_in_another_folder(project):
    """The hint of a flow that was run from another folder can be typed as it is, too."""
    (project.folder / "flows").mkdir()
    shutil.move(project.folder / "predictions.py", project.folder / "flows")
    failed = project.command("anne", "flows/predictions.py", "run", "--feature", "beard", expect=1)
    [hint] = re.findall(r"to go on: python (.*)", failed.stderr)
    assert "choose one of" in project.command("anne", *shlex.split(hint), expect=1).stdout


def test_a_wrong_island(project):
    """A mistake in the parameters is told with the choices."""
    failed = project.run("anne", "features", "run", "--island", "Atlantis", expect=1)
    assert "choose one of Biscoe, Dream, Torgersen or all" in failed.stdout
