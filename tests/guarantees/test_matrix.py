"""Graphs x behaviours: whatever is nested how, a user sees the same, by Client, by command line and by SQL.

A graph gives the last statement of each step, how many tasks each has, and the step `target` into which a
behaviour puts something. All steps note in `executed` that they ran, and carry the ids of all tasks before
them in `done`, so that the end of a successful run knows every task of it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import attrs
import pytest

import flowstore
from flowstore import ExceptionInfo, Task
from support.flows import FOREACH, GANG, MIDDLE, flow_source

HEAD = """
def note(self, before=()):
    with (HERE / "executed").open("a") as file:
        print(current.pathspec, current.retry_count, file=file)
    self.done = sorted({int(current.task_id), *(task for flow in before for task in flow.done)})

def broken():
    return not (HERE / "mended").exists()
"""
START = """
note(self)
self.xs, self.ys, self.mode, self.turn, self.note = {items}, ["p", "q"], "yes", 0, "untouched"
"""
JOIN = """
note(self, inputs)
self.merge_artifacts(inputs, exclude=["mine", "problem", "odd", "xs"])
"""
STEP = """
note(self, [self])
"""
BRANCHES = {
    "start": "self.next(self.left, self.right)",
    "left": "self.next(self.join)",
    "right": "self.next(self.join)",
    "join": "self.next(self.end)",
    "end": "",
}


@attrs.frozen
class Graph:
    """The tails of a graph's steps, its tasks, and where a behaviour goes.

    Attributes:
        counts: tasks of each step.
        target: the step that a behaviour changes.
        caught: the same for what can't be done in `target` because that splits or chooses.
        items: what `start` fans out over.
        bodies: what else steps do.
    """

    tails: dict[str, str]
    counts: dict[str, int]
    target: str
    caught: str | None = None
    items: str = "[10, 20, 30]"
    bodies: dict[str, str] = attrs.field(factory=dict)

    def source(self, step=None, body="", *, members=""):
        """A flow of this graph, with `body` in one of its steps."""
        bodies = {}
        for name in self.tails:
            own = START.format(items=self.items) if name == "start" else JOIN if name.startswith("join") else STEP
            marks, plain = _split(body) if name == step else ("", "")
            bodies[name] = "\n".join([marks, own.strip("\n"), self.bodies.get(name, ""), plain]).strip("\n")
        head = f"HERE = Path({str(Path.cwd())!r})  # also where tasks run elsewhere\n{HEAD}"
        return flow_source(self.tails, head=head, members=members, **bodies)

    @property
    def tasks(self):
        """How many a whole run has."""
        return sum(self.counts.values())


def _split(body):
    lines = body.strip("\n").splitlines()
    marks = [line for line in lines if line.startswith("@")]
    return "\n".join(marks), "\n".join(lines[len(marks) :])


GRAPHS = {
    "linear": Graph(MIDDLE, {"start": 1, "middle": 1, "end": 1}, "middle"),
    "branch": Graph(BRANCHES, {"start": 1, "left": 1, "right": 1, "join": 1, "end": 1}, "left"),
    "nested branches": Graph(
        {
            **BRANCHES,
            "left": "self.next(self.one, self.two)",
            "one": "self.next(self.join_inner)",
            "two": "self.next(self.join_inner)",
            "join_inner": "self.next(self.join)",
        },
        {"start": 1, "left": 1, "right": 1, "one": 1, "two": 1, "join_inner": 1, "join": 1, "end": 1},
        "one",
    ),
    "foreach": Graph(FOREACH, {"start": 1, "body": 3, "join": 1, "end": 1}, "body"),
    "foreach of one": Graph(FOREACH, {"start": 1, "body": 1, "join": 1, "end": 1}, "body", items="[10]"),
    "nested foreach": Graph(
        {
            **FOREACH,
            "body": "self.next(self.inner, foreach='ys')",
            "inner": "self.next(self.join_inner)",
            "join_inner": "self.next(self.join)",
        },
        {"start": 1, "body": 2, "inner": 4, "join_inner": 2, "join": 1, "end": 1},
        "inner",
        items="(10, 20)",
    ),
    "switch": Graph(
        {
            "start": "self.next({'yes': self.taken, 'no': self.other}, condition='mode')",
            "taken": "self.next(self.end)",
            "other": "self.next(self.end)",
            "end": "",
        },
        {"start": 1, "taken": 1, "end": 1},
        "taken",
    ),
    "switch to itself": Graph(
        {
            "start": "self.next(self.again)",
            "again": "self.next({True: self.again, False: self.end}, condition='more')",
            "end": "",
        },
        {"start": 1, "again": 3, "end": 1},
        "again",
        caught="start",
        bodies={"again": "self.turn += 1; self.more = self.turn < 3"},
    ),
    "switch to an earlier step": Graph(
        {
            "start": "self.next(self.work)",
            "work": "self.next(self.choose)",
            "choose": "self.next({True: self.work, False: self.end}, condition='more')",
            "end": "",
        },
        {"start": 1, "work": 2, "choose": 2, "end": 1},
        "work",
        bodies={"choose": "self.turn += 1; self.more = self.turn < 2"},
    ),
    "switch in foreach": Graph(
        {
            **FOREACH,
            "body": "self.next({0: self.even, 1: self.uneven}, condition='odd')",
            "even": "self.next(self.join)",
            "uneven": "self.next(self.join)",
        },
        {"start": 1, "body": 3, "even": 2, "uneven": 1, "join": 1, "end": 1},
        "even",
        bodies={"body": "self.odd = self.index % 2"},
    ),
    "gang": Graph(GANG, {"start": 1, "body": 2, "join": 1, "end": 1}, "body"),
}
graphs = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)


def source(graph, body="", *, step=None, members=""):
    """The flow of a graph with a behaviour in its target; members of a gang are `@parallel`."""
    step = step or graph.target
    if graph.tails is GANG:
        body = "@parallel\n" + body.strip("\n") if step == "body" else body
    return graph.source(step, body, members=members)


def check_success(script, graph, run_id=1):
    """All ran that had to, the end follows from all of it, and the three views agree; gives the run."""
    run = script.client(run_id)
    assert (run.status, run.successful, run.finished) == ("successful", True, True)
    tasks = [task for step in run for task in step]
    assert {task.status for task in tasks} == {"successful"}
    assert run.data.done == sorted(int(task.id) for task in tasks)
    assert script.counts(run_id) == {step.id: len(list(step)) for step in run} == graph.counts
    assert script.sql("select status, tasks, failed_tasks from run_summary where run_id = ?", run_id) == [
        ("successful", graph.tasks, 0)
    ]
    edges = {(int(task.id), int(parent.id)) for task in tasks for parent in task.parent_tasks}
    assert edges == set(
        script.sql(
            "select task_id, parent_task_id from lineage join task_summary using (task_id) where run_id = ?", run_id
        )
    )
    children = {(int(child.id), int(task.id)) for task in tasks for child in task.child_tasks}
    assert children == edges
    assert [task.id for task in tasks if not list(task.parent_tasks)] == [run["start"].task.id]
    return run


def check_failure(script, graph, step, kind):
    """The run and its tasks say what failed, and nothing after it ran; gives the tasks that failed of themselves."""
    run = script.client()
    assert (run.status, run.data, run.end_task) == ("failed", None, None)
    failed = [task for task in run[step] if task.status == "failed"]
    own = [task for task in failed if task.exception.name == kind]
    assert own
    assert own == failed or graph.tails is GANG  # whose members end together
    assert script.counts(where="status = 'failed'") == {step: len(failed)}
    assert "end" not in run
    assert script.sql("select failed_tasks from run_summary") == [len(failed)]
    return own


@graphs
@pytest.mark.quick("nested branches", "switch in foreach")
def test_artifacts(graph, flow):
    """What a task sets is its own and that of the tasks after it; it is stored once."""
    script = flow(source(graph, "self.mine = {'task': current.task_id, 'at': [list(f) for f in self.foreach_stack()]}"))
    script("run")
    run = check_success(script, graph)
    mine = {task.id: task.data.mine for task in run[graph.target]}
    assert {value["task"] for value in mine.values()} == mine.keys()
    assert {json.dumps(value["at"]) for value in mine.values()} == _places(graph)
    rows = script.sql("select task_id, value from artifact_values where name = 'mine'")
    assert {str(task): json.loads(value) for task, value in rows} == mine
    assert (run.data.note, run["start"].task.data.note) == ("untouched", "untouched")
    assert script.sql("select step, value from artifact_values where name = 'note'") == [("start", '"untouched"')]
    shown = script("dump", "1/end", "--include", "note,done").stdout
    assert "note = 'untouched'" in shown
    assert f"done = {run.data.done!r}" in shown


def _places(graph):
    """What `foreach_stack` gives in the tasks of the target, as JSON."""
    items = eval(graph.items)
    if graph.target == "inner":
        stacks = [
            [(i, len(items), item), (j, 2, other)] for i, item in enumerate(items) for j, other in enumerate("pq")
        ]
    elif graph.tails is GANG:
        stacks = [[(i, 2, i)] for i in range(2)]
    elif graph.target == "body":
        stacks = [[(i, len(items), item)] for i, item in enumerate(items)]
    elif graph.target == "even":
        stacks = [[(i, 3, items[i])] for i in (0, 2)]
    else:
        stacks = [[]]
    return {json.dumps(stack) for stack in stacks}


PARAMETERS = """
my_n = Parameter("my_n", default=1)
rate = Parameter("rate", default=0.5)
title = Parameter("title", default="none")
LIMIT = {"max": 3}
"""


@pytest.mark.parametrize("option", ["--my_n", "--my-n"])
@pytest.mark.parametrize("graph", [GRAPHS["nested foreach"], GRAPHS["switch to itself"]])
def test_underscore_and_dash_are_the_same(option, graph, flow):
    """`--my_n` and `--my-n` are one option."""
    script = flow(source(graph, "self.mine = self.my_n", members=PARAMETERS))
    script("run", option, 7)
    assert check_success(script, graph).data.my_n == 7


@graphs
@pytest.mark.quick("nested branches", "switch in foreach")
def test_parameters(graph, flow):
    """Options, environment and defaults give values that every task sees and every view shows, with the tags."""
    script = flow(source(graph, "self.mine = [self.my_n, self.rate, self.LIMIT]", members=PARAMETERS))
    script("run", "--my-n", 7, "--tag", "sweep", FLOWSTORE_RUN_TITLE="from outside", FLOWSTORE_RUN_MY_N="8")
    run = check_success(script, graph)
    assert {json.dumps(task.data.mine) for task in run[graph.target]} == {'[7, 0.5, {"max": 3}]'}
    given = {"my_n": 7, "rate": 0.5, "title": "from outside"}
    assert {name: getattr(run.data, name) for name in given} == run.parameters == given
    [(parameters, tags)] = script.sql("select parameters, tags from run_summary")
    assert json.loads(parameters) == given
    assert {"sweep", "user:tester"} <= set(json.loads(tags))
    tagged = dict(script.sql("select kind, count(*) from object_tags where tag = 'sweep' group by kind"))
    assert (tagged["run"], tagged["step"], tagged["task"]) == (1, len(graph.counts), graph.tasks)
    assert tagged["artifact"] == script.sql("select count(*) from artifact_values")[0]
    assert {"sweep"} == run["end"].task["my_n"].user_tags
    shown = script("dump", "1/end", "--include", "my_n,title,LIMIT").stdout
    assert [line.strip() for line in shown.splitlines()[1:]] == [
        "LIMIT = {'max': 3}",
        "my_n = 7",
        "title = 'from outside'",
    ]


@graphs
@pytest.mark.quick("nested branches", "switch in foreach")
def test_logs(graph, flow):
    """What a task prints is shown live with its place, and kept, stream by stream."""
    script = flow(
        source(graph, 'print("größe", current.task_id)\nprint("x\\ny", current.task_id, file=sys.stderr, end="")')
    )
    live = script("run").stdout.splitlines()
    run = check_success(script, graph)
    for task in run[graph.target]:
        place = rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{3}} \[1/{graph.target}/{task.id} \(pid \d+( on \S+)?\)\] "
        for text in ("Task is starting.", f"größe {task.id}", "x", f"y {task.id}", "Task finished successfully."):
            assert sum(bool(re.fullmatch(place + re.escape(text), line)) for line in live) == 1
        assert (task.stdout, task.stderr) == (f"größe {task.id}\n", f"x\ny {task.id}")
        assert [text for _, text in task.loglines("stderr")] == ["x", f"y {task.id}"]
        assert script.sql(
            "select stream, group_concat(text, '') from task_logs where task_id = ? group by stream", int(task.id)
        ) == [("stderr", f"x\ny {task.id}"), ("stdout", f"größe {task.id}\n")]
    assert set(script.sql("select distinct step from task_logs")) == {graph.target}
    shown = script("logs", "show", f"1/{graph.target}", "--stdout").stdout
    assert re.findall(r"größe \d+", shown) == [f"größe {n}" for n in sorted(int(t.id) for t in run[graph.target])]


@graphs
@pytest.mark.quick("nested branches", "switch in foreach")
def test_retry(graph, flow):
    """A task that fails once is tried again; both attempts are kept, the second counts."""
    script = flow(
        source(
            graph,
            """
@retry(times=2, minutes_between_retries=0)
self.mine = current.retry_count
print("attempt", current.retry_count)
if current.retry_count == 0: raise RuntimeError("the first time")
""",
        )
    )
    live = script("run").stdout
    run = check_success(script, graph)
    count = graph.counts[graph.target]
    assert live.count("It will be tried again") == count
    for task in run[graph.target]:
        assert (task.data.mine, task.current_attempt, task.exception) == (1, 1, None)
        first = Task(task.pathspec, attempt=0)
        assert (first.status, first.data.mine, str(first.exception.message)) == ("failed", 0, "the first time")
        assert (first.stdout, task.stdout) == ("attempt 0\n", "attempt 1\n")
        assert "RuntimeError: the first time" in first.stderr
    assert set(script.sql("select step, attempts from task_summary where attempts > 1")) == {(graph.target, 2)}
    assert script.sql("select count(*) from artifact_values where name = 'mine'") == [count]
    assert script("logs", "show", f"1/{graph.target}", "--attempt", 0).stdout.count("attempt 0") == count
    assert script("logs", "show", f"1/{graph.target}").stdout.count("attempt 1") == count


@graphs
@pytest.mark.quick("nested branches", "switch in foreach")
def test_catch(graph, flow):
    """A caught failure lets the run go on, and is there to be looked at."""
    step = graph.caught or graph.target
    body = '@catch(var="problem")\nraise RuntimeError(f"in {current.task_id}")'
    script = flow(source(graph, body, step=step))
    live = script("run").stdout
    run = check_success(script, graph)
    count = graph.counts[step]
    assert live.count("RuntimeError: in ") == live.count("(an exception was caught)") == count
    for task in run[step]:
        assert isinstance(task.data.problem, ExceptionInfo)
        assert (task.data.problem.type, task.data.problem.message) == ("builtins.RuntimeError", f"in {task.id}")
        assert task.exception is None
        assert (task.status, task.successful) == ("successful", True)
    rows = script.sql("select step, type, value ->> '$.type' from artifact_values where name = 'problem'")
    assert [(name, kind.rpartition(".")[2], raised) for name, kind, raised in rows] == [
        (step, "ExceptionInfo", "builtins.RuntimeError")
    ] * count
    assert "RuntimeError('in" in script("dump", f"1/{step}", "--include", "problem").stdout.replace(
        "ExceptionInfo(type='builtins.RuntimeError', message=", "RuntimeError("
    )


@graphs
@pytest.mark.quick("nested branches", "switch in foreach")
def test_timeout(graph, flow):
    """A task that takes too long fails, and with it the run."""
    script = flow(source(graph, "@timeout(seconds=0.3)\ntime.sleep(100)"))
    result = script("run", expect=1)
    assert "0.3 s" in result.stdout
    failed = check_failure(script, graph, graph.target, "flowstore.errors.TimeoutExpired")
    for task in failed:
        assert "timeout of 0.3 s" in task.exception.message
        assert "time.sleep(100)" in task.stderr
    listed = script("list", "runs").stdout
    assert "failed" in listed


@graphs
@pytest.mark.quick("nested branches", "switch in foreach")
def test_killed_from_inside(graph, flow):
    """A task whose process is killed fails alone, with the signal named; resuming mends it."""
    script = flow(source(graph, "if broken(): os.kill(os.getpid(), signal.SIGKILL)"))
    result = script("run", expect=1)
    assert "SIGKILL" in result.stdout
    check_failure(script, graph, graph.target, "TaskDied")
    check_resumed(script, graph)


@graphs
@pytest.mark.quick("nested branches", "switch in foreach")
def test_resume_after_a_failure(graph, flow):
    """`resume` takes over what succeeded, and runs the rest."""
    script = flow(source(graph, "self.mine = 1\nif broken(): raise RuntimeError('boom')"))
    result = script("run", expect=1)
    assert "resume --origin-run-id 1" in result.stderr
    own = check_failure(script, graph, graph.target, "RuntimeError")
    assert result.stdout.count("Traceback") == len(own) or graph.tails is GANG  # one may end while it prints
    check_resumed(script, graph)
    assert script("list", "runs").stdout.count("successful") == 1


def check_resumed(script, graph):
    """Resume a failed run: nothing that succeeded runs again, and the result is that of a whole run."""
    good = set(script.sql("select 'F/1/' || step || '/' || task_id from task_summary where status = 'successful'"))
    before = len(script.executed())
    (script.folder / "mended").touch()
    script("resume")
    run = check_success_of_resumed(script, graph, 2)
    assert run.origin_run_id == "1"
    tasks = [task for step in run for task in step]
    reused = {task.origin_pathspec for task in tasks} - {None}
    assert reused == good
    assert len(reused) == sum(task.origin_pathspec is not None for task in tasks)
    assert len(script.executed()) - before == graph.tasks - len(reused)


def check_success_of_resumed(script, graph, run_id):
    """As `check_success`, but reused tasks know themselves by the ids that they had."""
    run = script.client(run_id)
    assert (run.status, script.counts(run_id)) == ("successful", graph.counts)
    tasks = [task for step in run for task in step]
    original = {int((task.origin_pathspec or task.pathspec).rpartition("/")[2]) for task in tasks}
    assert set(run.data.done) == original
    return run


@graphs
@pytest.mark.quick("nested branches", "switch in foreach")
def test_resume_from_each_step(graph, flow):
    """`resume STEP` runs that step and all after it again, and reuses the rest."""
    script = flow(source(graph))
    script("run")
    check_success(script, graph)
    tasks = dict(script.sql("select task_id, step from task_summary"))
    edges = script.sql("select task_id, parent_task_id from lineage")
    for run_id, step in enumerate(graph.counts, 2):
        before = len(script.executed())
        script("resume", step, "--origin-run-id", 1)
        check_success_of_resumed(script, graph, run_id)
        again = _with_descendants({task for task, name in tasks.items() if name == step}, edges)
        reused = script.sql(
            "select origin_pathspec from task_summary where run_id = ? and origin_pathspec is not null", run_id
        )
        assert set(reused) == {f"F/1/{name}/{task}" for task, name in tasks.items() if task not in again}, step
        assert len(script.executed()) - before == len(again)
    listed = script("list", "tasks", run_id).stdout
    assert all(step in listed for step in graph.counts)
    with pytest.raises(flowstore.NotFound):
        script.client(run_id + 1)


def _with_descendants(tasks, edges):
    found = set(tasks)
    for task, parent in sorted(edges):  # a task's id is greater than its parents'
        if parent in found:
            found.add(task)
    return found
