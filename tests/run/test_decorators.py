"""`@catch`, `@retry`, `@environment`, `--with`, `@resources`."""

from __future__ import annotations

import json

import pytest

from support.flows import FOREACH, GANG, LINEAR, MEND, flow_source


@pytest.mark.parametrize("shown", [True, False])
def test_catch_prints_the_exception_or_not(shown, flow):
    """`print_exception` decides whether the traceback is shown; `var` is None where nothing was raised."""
    script = flow(
        flow_source(
            FOREACH,
            start="self.xs = range(2)",
            body=f"@catch(var='problem', print_exception={shown})\nassert self.index == 0, 'odd one'",
            join="self.problems = [i.problem for i in inputs]",
        )
    )
    assert ("Traceback" in script("run").stdout) == shown
    none, problem = script.client().data.problems
    assert none is None
    assert (problem.type, problem.message) == ("builtins.AssertionError", "odd one")
    assert "odd one" in problem.traceback


def test_catch_after_retries(flow):
    """`@catch` comes into play when the last retry has failed, also when the process died each time."""
    start = "@catch(var='problem')\n@retry(times=1, minutes_between_retries=0)\nos.kill(os.getpid(), signal.SIGKILL)"
    script = flow(flow_source(LINEAR, start=start, end="self.told = self.problem.message"))
    script("run")
    run = script.client()
    assert "SIGKILL" in run.data.told
    assert run["start"].task.successful
    assert script.sql("select status, count(*) from attempts group by status") == [("failed", 2), ("successful", 2)]


SWITCH = {"start": "self.next({1: self.body, 2: self.end}, condition='mode')", "body": "self.next(self.end)", "end": ""}


@pytest.mark.parametrize(("tails", "body"), [(FOREACH, ""), (GANG, "@parallel"), (SWITCH, "")])
def test_catch_where_the_step_chooses_is_refused(tails, body, flow):
    """A caught step can't say how many tasks follow, or which: that is one message before anything runs."""
    script = flow(flow_source(tails, start="@catch(var='problem')\nraise RuntimeError('boom')", body=body))
    result = script("run", expect=1)
    assert "catch" in result.stderr
    assert "start" in result.stderr
    assert not script.db.exists() or script.sql("select count(*) from runs") == [0]


def test_what_was_caught_is_known_after_a_resume(flow):
    """A reused task tells of its caught exception, and prints it in its logs, as the first one does."""
    start = "@catch(var='problem')\nprint('hello')\nraise RuntimeError('boom')"
    script = flow(flow_source(LINEAR, start=start, end=MEND))
    script("run", expect=1)
    (script.folder / "mended").touch()
    script("resume")
    first, again = script.client(1)["start"].task, script.client(2)["start"].task
    assert again.origin_pathspec == first.pathspec
    assert (again.stdout, again.stderr, again.created_at) == (first.stdout, first.stderr, first.created_at)
    assert again.data.problem == first.data.problem
    assert again.data.problem.name == "RuntimeError"


def test_environment_is_the_steps_own(flow):
    """`@environment` sets variables for its step's tasks only."""
    start = "@environment(vars={'COLOR': 'red', 'N': 3})\nself.seen = [os.environ['COLOR'], os.environ['N']]"
    script = flow(flow_source(LINEAR, start=start, end="self.later = os.environ.get('COLOR')"))
    script("run")
    assert (script.client().data.seen, script.client().data.later) == (["red", "3"], None)


def test_with_attaches_to_every_step(flow):
    """`--with retry` retries every step that has no retry of its own, and so do two of them before and after."""
    body = "if current.retry_count < 1: raise RuntimeError('once')"
    script = flow(flow_source(LINEAR, start=body, end=body))
    script("--with", "retry:times=1,minutes_between_retries=0", "run", "--with", "timeout:seconds=60")
    assert script.sql("select attempts from task_summary") == [2, 2]


def test_resources_are_recorded(flow):
    """`@resources` is found in the task's metadata."""
    script = flow(flow_source(LINEAR, start="@resources(cpu=2, memory=500)"))
    script("run")
    found = script.client()["start"].task.metadata_dict
    assert json.loads(found["resources"]) == {"cpu": 2, "memory": 500}
