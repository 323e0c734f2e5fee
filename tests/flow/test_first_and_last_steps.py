"""A run may begin and end at steps of any name, and a flow may have a single step."""

from __future__ import annotations

import contextlib
import json

import pytest

import flowstore
from flowstore.client import graphs, rows
from flowstore.errors import GraphError
from flowstore.flow import lint
from flowstore.flow.graph import graph_of
from support.flows import BRANCH, FOREACH, GANG, HEAD, LINEAR, MEND, METHODS, flow_source
from support.graphs import END, flow_of, load, to
from support.web import Browser

SWITCH = {
    "start": "self.next({True: self.again, False: self.end}, condition='more')",
    "again": "self.next({True: self.start, False: self.end}, condition='more')",
    "end": "",
}
SHAPES = {"linear": LINEAR, "branch": BRANCH, "foreach": FOREACH, "gang": GANG, "switch": SWITCH}
START = "self.xs = [1, 2]; self.more = not hasattr(self, 'more')"
ENDING = "self.metrics = {'score': 0.5}; self.seen = self.alpha"
PLAIN = {"members": "alpha = Parameter('alpha', default=3)", "start": START, "end": ENDING}


def renamed(source):
    """The source with `start` called `begin`, and `end` called `finish`."""
    for part, name in (("start", "begin"), ("end", "finish")):
        source = source.replace(f"    @step\n    def {part}(", f"    @step({part}=True)\n    def {name}(")
        source = source.replace(f"self.{part}", f"self.{name}")
    return source


def shape_of(name):
    """The source of a flow of a shape, whose steps have the usual names."""
    bodies = dict(PLAIN)
    if name == "gang":
        bodies["body"] = "@parallel"
    if name == "switch":
        bodies["again"] = "self.more = True"
    return flow_source(SHAPES[name], **bodies)


@pytest.mark.parametrize(("shape", "method"), [*((shape, "fork") for shape in SHAPES), ("switch", "spawn")])
def test_everything_follows_the_marks(flow, shape, method):
    """The end task, its artifacts and metrics, addresses, and the parameters of the first task, in every shape."""
    script = flow(renamed(shape_of(shape)))
    script("run", "--tag", "blue", *METHODS[method])
    run = script.client()
    assert run.end_task.path_components[2] == "finish"
    assert (run.data.seen, run.data.alpha, run.metrics["metrics.score"]) == (3, 3, 0.5)
    assert script.sql("select distinct step from artifact_values where name = 'alpha'") == ["begin"]
    assert script.sql("select step, final from metrics where name = 'metrics.score'") == [("finish", 1)]
    tagged = "select step, own from object_tags where artifact = 'alpha' and tag = 'blue'"
    assert script.sql(tagged) == [("begin", 0)]
    assert json.loads(script.flowstore("get", "F/1/metrics").stdout) == {"score": 0.5}
    assert script.flowstore("get", "F/latest/seen").stdout == "3\n"


def test_a_run_is_resumed_at_steps_of_these_names(flow):
    """A resumed run takes the first step over; one that resumes from it runs everything."""
    script = flow(renamed(flow_source(LINEAR, end=MEND, start="self.x = 1")))
    script("run", expect=1)
    (script.folder / "mended").touch()
    script("resume")
    assert script.counts(2, "origin_pathspec is not null") == {"begin": 1}
    script("resume", "begin", "--origin-run-id", "2")
    assert script.counts(3, "origin_pathspec is not null") == {}
    script("resume", "finish", "--origin-run-id", "2")
    assert script.counts(4, "origin_pathspec is not null") == {"begin": 1}


def test_runs_keep_their_ends_in_another_store(flow):
    """Export and import take along which steps are the first and the last."""
    script = flow(renamed(shape_of("linear")))
    script("run")
    script.flowstore("export", "out.db")
    script.flowstore("import", "out.db", "--store", "in.db")
    for store in ("out.db", "in.db"):
        assert script.flowstore("get", "F/latest/seen", "--store", store).stdout == "3\n"
        script.flowstore("check", "--deep", "--store", store)


def test_two_runs_are_compared_at_their_ends(flow):
    """Artifacts of the end task are compared once, as the run's, also where its name differs between the runs."""
    script = flow(shape_of("linear"))
    script("run")
    script.rewrite(renamed(shape_of("linear").replace("0.5", "0.75")))
    script("run")
    differing = [(row["kind"], row["name"]) for row in script.rows("diff", "F/1", "F/2")]
    assert ("artifact", "metrics") in differing
    assert not [name for kind, name in differing if kind == "set" and name.endswith("/metrics")]


@pytest.mark.parametrize("mark", ["@step", "@step()", "@step(start=True, end=True)"])
def test_a_flow_of_one_step(flow, mark):
    """The only step of a flow is its first and its last, whatever its name."""
    source = f"{HEAD}class F(FlowSpec):\n    {mark}\n    def only(self):\n        self.x = 1\n"
    script = flow(source + '\nif __name__ == "__main__":\n    F()\n')
    script("run")
    assert script.client().data.x == 1
    assert script.flowstore("get", "F/1/x").stdout == "1\n"
    assert script("show").stdout == "F\n\nonly\n\n"
    script("resume")
    assert script.counts(2, "origin_pathspec is not null") == {"only": 1}


def test_a_run_page_shows_such_a_graph(flow):
    """The graph begins with the first step, and the page shows the artifacts of the last."""
    script = flow(renamed(shape_of("foreach")))
    script("run")
    with contextlib.closing(Browser(script.db)) as browser:
        artifacts = browser.json("/run/F/1.json")["artifacts"]
    assert {"metrics", "seen"} <= {row["name"] for row in artifacts}
    run = script.client()
    assert [step.name for step in graphs.of_run(run, rows.of_run(run))] == ["begin", "body", "join", "finish"]
    dot = script("output-dot").stdout
    assert '"begin" -> "body"' in dot
    assert '"join" -> "finish"' in dot


def test_marks_are_of_the_version_that_runs():
    """A step that overrides a marked one has its own mark, or none, as with every decorator."""
    module = load(
        "class Base:\n"
        "    @step(start=True)\n    def begin(self): self.next(self.finish)\n"
        "    @step(end=True)\n    def finish(self): pass\n"
        "class Marked(Base):\n"
        "    @step(start=True)\n    def begin(self): super().begin()\n"
        "class Bare(Base):\n"
        "    @step\n    def begin(self): self.next(self.finish)\n"
    )
    for flow in (module.Base, module.Marked):
        assert lint.problems(graph_of(flow)) == []
    [problem] = lint.problems(graph_of(module.Bare))
    assert "no step 'start', where a run begins. Add one, or mark the first step with @step(start=True)." in problem


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_flow_inherits_steps_parameters_and_constants(flow, method):
    """It overrides some, calls what it overrides, and reads the parameters of its base class as its own."""
    base = """
    class Base(FlowSpec):
        size = Parameter("size", default=2)
        unit = "cm"
        @retry(times=1)
        @step(start=True)
        def load(self):
            if current.retry_count == 0: raise OSError
            self.values = list(range(self.size))
            self.next(self.report)
        @step(end=True)
        def report(self):
            self.text = f"{self.values} {self.unit} of {self.size}"
    """
    own = "@step(end=True)\ndef report(self):\n    super().report()\n    self.text = self.text.upper()"
    script = flow(flow_source({}, head=base, members=own).replace("class F(FlowSpec)", "class F(Base)"))
    script("run", "--size", "3", *METHODS[method])
    run = script.client()
    assert (run.data.text, run.data.size, run.data.unit) == ("[0, 1, 2] CM OF 3", 3, "cm")
    assert run["load"].task.current_attempt == 1


MISTAKES = {
    "two starts": (
        (f"a: {to('c')}", f"b: {to('c')}", "c: pass"),
        {"a": "start", "b": "start", "c": "end"},
        ":5: step 'b' is marked @step(start=True), and so is 'a'. Mark one of them.",
    ),
    "two ends": (
        (f"start: {to('a', 'b')}", "a: pass", "b: pass"),
        {"a": "end", "b": "end"},
        ":7: step 'b' is marked @step(end=True), and so is 'a'. Mark one of them.",
    ),
    "another start": (
        (f"start: {to('end')}", f"a: {to('start')}", END),
        {"a": "start"},
        ":3: step 'start' is named like the start of a flow, but 'a' is marked @step(start=True).",
    ),
    "another end": (
        (f"start: {to('a')}", f"a: {to('end')}", END),
        {"a": "end"},
        ":7: step 'end' is named like the end of a flow, but 'a' is marked @step(end=True).",
    ),
    "no way on": (
        (f"start: {to('a')}", "a: pass", "finish: pass"),
        {"finish": "end"},
        "step 'a' has no self.next(...). Add one as its last statement, such as self.next(self.finish).",
    ),
    "no join": (
        (f"start: {to('a', 'b')}", f"a: {to('finish')}", f"b: {to('finish')}", "finish: pass"),
        {"finish": "end"},
        "has a branch, 'a', that gets to 'finish' without a join.",
    ),
    "never reached": (
        (f"a: {to('c')}", f"b: {to('c')}", "c: pass"),
        {"a": "start", "c": "end"},
        "step 'b' is never reached from 'a'.",
    ),
}


@pytest.mark.parametrize(("steps", "marks", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(steps, marks, message):
    """A second mark, or a step that only looks like the first or the last, is one message with its line."""
    flow = flow_of(*steps)
    for name, part in marks.items():
        vars(vars(flow)[name])["parts"] = (part,)
    problems = lint.problems(graph_of(flow))
    assert any(message in problem for problem in problems), problems
    with pytest.raises(GraphError):
        lint.check(graph_of(flow))


def test_step_takes_no_other_options():
    """A wrong option of `@step` is Python's own error."""
    with pytest.raises(TypeError, match="first"):
        flowstore.step(first=True)
