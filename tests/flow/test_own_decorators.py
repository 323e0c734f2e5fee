"""Decorators of a user's own run around a step, can skip it, replace it, and catch what it raises."""

from __future__ import annotations

import pytest

import flowstore
from flowstore.errors import GraphError
from support.cli import failure
from support.flows import FOREACH, LINEAR, METHODS, flow_source

HEAD = """
    @user_step_decorator
    def outer(step_name, flow, inputs=None, attributes=None):
        '''Notes when it ran, and what it was given.'''
        flow.seen = [f"outer {step_name} {attributes}"]
        yield
        flow.seen = [*flow.seen, "outer ends"]

    @user_step_decorator
    def inner(step_name, flow, inputs):
        flow.seen = [*getattr(flow, "seen", []), "inner"]
        yield
        flow.seen = [*flow.seen, "inner ends"]

    @user_step_decorator
    def skipping(step_name, flow, inputs=None, attributes=None):
        flow.skipped = step_name
        yield attributes.get("next", {})

    @user_step_decorator
    def replacing(step_name, flow, inputs=None, attributes=None):
        def instead(self, *inputs):
            self.x = "replaced"
            if inputs:
                self.total = sum(one.x for one in inputs[0])
        yield instead

    @user_step_decorator
    def swallowing(step_name, flow, inputs=None, attributes=None):
        try:
            yield
        except KeyError as error:
            flow.x = f"swallowed {error}"

    @user_step_decorator
    def explaining(step_name, flow, inputs=None, attributes=None):
        try:
            yield
        except Exception as error:
            raise RuntimeError("explained") from error
"""
STEP = "self.seen = [*self.seen, 'step']; self.x = 1"


def source(marks, body=STEP, tails=LINEAR, **bodies):
    """The source of a flow whose step `start` has decorators."""
    return flow_source(tails, head=HEAD, start=f"{marks}\n{body}", **bodies)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_outermost_one_begins_first_and_ends_last(flow, method):
    """Each sees the flow as the step does; its attributes are a dict, which need not be taken."""
    script = flow(source("@outer(size=3)\n@inner"))
    script("run", *METHODS[method])
    seen = ["outer start {'size': 3}", "inner", "step", "inner ends", "outer ends"]
    assert script.client().data.seen == seen


def test_one_may_stand_twice(flow):
    """Unlike flowstore's own, which a step has once."""
    script = flow(source("@outer\n@inner\n@inner()"))
    script("run")
    assert script.client().data.seen[1:4] == ["inner", "inner", "step"]


def test_it_is_added_with_an_option(flow):
    """`--with` adds it to every step that has it not, outside of all others, the last one outermost."""
    script = flow(source("@inner", end="print(self.seen)"))
    script("run", "--with", "inner", "--with", "outer:size=1,name=x")
    [start], [end] = script.client()["start"], script.client()["end"]
    both = "{'size': 1, 'name': 'x'}"
    assert start.data.seen == [f"outer start {both}", "inner", "step", "inner ends", "outer ends"]
    assert end.data.seen[:2] == [f"outer end {both}", "inner"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_comes_from_a_module_that_the_flow_does_not_import(flow, method, tmp_path):
    """The module is imported, is kept with the code of the run, and serves a deployment too."""
    script = flow(flow_source(LINEAR))
    (tmp_path / "marks.py").write_text(
        "from flowstore import user_step_decorator\n\n@user_step_decorator\n"
        "def marked(step_name, flow, inputs=None, attributes=None):\n    flow.mark = step_name\n    yield\n"
    )
    script("run", "--with", "marks.marked", *METHODS[method])
    assert script.client().data.mark == "end"
    assert "marks.py" in script.client().code.files
    script("deploy", "create", "--with", "marks.marked")
    (tmp_path / "marks.py").unlink()
    script("deploy", "trigger")
    flowstore.namespace(None)
    assert script.client(2).data.mark == "end"
    assert "no decorator 'marks.other'" in script("run", "--with", "marks.other", expect=2).stderr


SKIPPED = {
    "linear": (LINEAR, "@skipping", {}, {"start": 1, "end": 1}),
    "foreach": (FOREACH, "@skipping(next={'foreach': 'items'})", {"items": [1, 2, 3]}, {"body": 3}),
    "foreach of the source": (FOREACH, "@skipping", {"xs": [1, 2]}, {"body": 2}),
}


@pytest.mark.parametrize(("tails", "mark", "values", "counts"), SKIPPED.values(), ids=SKIPPED)
def test_a_dict_skips_the_step(flow, tails, mark, values, counts):
    """The run goes where the source says, with the options of the dict; the step itself does not run."""
    text = HEAD.replace("flow.skipped = step_name", f"flow.skipped = step_name; vars(flow).update({values!r})")
    script = flow(flow_source(tails, head=text, start=f"{mark}\n@inner\nraise ValueError"))
    script("run")
    assert counts.items() <= script.counts().items()
    start = script.client()["start"].task
    assert start.data.skipped == "start"
    assert "seen" not in start


def test_a_switch_is_skipped_where_its_condition_is_set(flow):
    """The decorator sets what chooses."""
    tails = {"start": "self.next({1: self.a, 2: self.end}, condition='x')", "a": "self.next(self.end)", "end": ""}
    script = flow(flow_source(tails, head=HEAD.replace("flow.skipped", "flow.x = 1; flow.skipped"), start="@skipping"))
    script("run")
    assert script.counts() == {"start": 1, "a": 1, "end": 1}


def test_a_function_replaces_the_step(flow):
    """It is given the flow, and in a join the inputs; where it calls no `self.next`, the source says what follows."""
    body = {"start": "self.xs = [1, 2]", "body": "self.x = self.input", "join": "@replacing\nraise ValueError"}
    script = flow(flow_source(FOREACH, head=HEAD, **body))
    script("run")
    assert (script.client().data.x, script.client().data.total) == ("replaced", 3)


@pytest.mark.parametrize(
    ("marks", "kind"),
    [("@explaining", "RuntimeError"), ("@explaining\n@swallowing", None), ("@catch(var='x')\n@explaining", None)],
)
def test_an_exception_is_caught_or_replaced(flow, marks, kind):
    """Whoever is outside sees what comes out of the one within; `@catch` and `@retry` what comes out of all."""
    script = flow(source(marks, "raise KeyError('k')"))
    script("run", expect=0 if kind is None else 1)
    if kind is not None:
        assert (failure(script).name, failure(script).message) == (kind, "explained")
        assert "KeyError: 'k'" in failure(script).traceback
    elif "swallowing" in marks:
        assert script.client().data.x == "swallowed 'k'"
    else:
        assert script.client().data.x.type == "builtins.RuntimeError"


def test_it_runs_in_each_attempt_and_in_a_resumed_run(flow):
    """A retry begins it again, and a task that is taken over does not run it."""
    once = "if current.retry_count == 0: raise OSError"
    script = flow(
        flow_source(LINEAR, head=HEAD, start=f"@outer\n@retry(times=1)\n{once}", end="@inner\nraise KeyError")
    )
    script("run", expect=1)
    script("resume", "--with", "swallowing")
    run = script.client(2)
    assert run["start"].task.data.seen == ["outer start {}", "outer ends"]
    assert (run.data.seen[-1], run.data.x) == ("inner", "swallowed ")


WRONG = {
    "twice": ("yield\n    yield", "@odd must yield once, and yielded twice in step start."),
    "never": ("if 0: yield", "@odd ended before it reached `yield`, so step start did not run."),
    "a number": ("yield 3", "@odd yielded 3. Yield nothing to run the step, a dict to skip it, or a function"),
    "an option": ("yield {'to': 1}", "self.next has no option 'to'; it has: foreach, num_parallel, condition."),
}


@pytest.mark.parametrize(("body", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_one_fails_the_task(flow, body, message):
    """The message names the decorator, the step, and what to write."""
    odd = f"@user_step_decorator\ndef odd(step_name, flow, inputs=None, attributes=None):\n    {body}\n"
    script = flow(flow_source(LINEAR, head=odd, start="@odd"))
    script("run", expect=1)
    assert message in failure(script).message


def test_what_is_no_decorator_is_refused_at_once():
    """A function that does not yield, one of other arguments, and a use that is none."""
    with pytest.raises(GraphError, match="functions that yield, which plain is not"):

        @flowstore.user_step_decorator
        def plain(step_name, flow, inputs=None, attributes=None):
            return None

    with pytest.raises(GraphError, match="short must take"):

        @flowstore.user_step_decorator
        def short(step_name):
            yield

    @flowstore.user_step_decorator
    def fine(step_name, flow, inputs=None, attributes=None):
        yield flowstore.USER_SKIP_STEP

    with pytest.raises(GraphError, match="write it above @step"):
        fine(lambda self: None)
    with pytest.raises(GraphError, match=r"attributes are given by name, as in @fine\(size=3\)"):
        fine(1, 2)
