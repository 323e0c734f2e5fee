"""How flows are written: names, properties, decorators and base classes of the user's own, and what is no value."""

from __future__ import annotations

import re
import sqlite3
import sys

import pytest

import flowstore
from support.cli import command
from support.flows import BRANCH, FOREACH, LINEAR, MIDDLE, flow_source
from support.sources import python


def failure(script, run_id=1):
    """The failure of the one task that failed in a run."""
    [task] = [task for step in script.client(run_id) for task in step if task.status == "failed"]
    return task.exception


# --- names that FlowSpec needs

OWN = ["input", "index", "next", "name", "foreach_stack", "merge_artifacts"]
DEFINED = {
    "a parameter": "{name} = Parameter('x', default=1)",
    "a file": "{name} = IncludeFile('x', default='flow.py')",
    "a constant": "{name} = 1",
    "an annotated constant": "{name}: int = 1",
    "a step": "@step\ndef {name}(self):\n    pass",
}


@pytest.mark.parametrize("kind", DEFINED)
@pytest.mark.parametrize("name", OWN)
def test_members_named_like_flowspecs_are_refused(name, kind, flow):
    """A member of the class that would hide what FlowSpec has is refused by check, with its file and line."""
    source = flow_source(LINEAR, members="x = 1\n" + DEFINED[kind].format(name=name))
    line = source.splitlines().index("    " + DEFINED[kind].format(name=name).splitlines()[0]) + 1
    script = flow(source)
    told = script("check", expect=1).stderr
    assert f"flow.py:{line}: the" in told
    assert f"'{name}' is named like FlowSpec's own" in told


def test_no_run_begins_with_such_a_member(flow):
    """The same holds before a run: there is not even a store afterwards."""
    script = flow(flow_source(FOREACH, members="input = Parameter('input', default=1)", start="self.xs = [1, 2]"))
    assert "FlowSpec's own 'input'" in script("run", expect=1).stderr
    assert not script.db.exists()


def test_inherited_members_named_like_flowspecs_are_refused(flow):
    """A base class or a mixin, before or after FlowSpec, makes no difference; the line is the base's."""
    for bases in ("(Mixin, FlowSpec)", "(FlowSpec, Mixin)"):
        source = flow_source(LINEAR, head="class Mixin:\n    index = 7\n").replace("(FlowSpec)", bases)
        line = source.splitlines().index("    index = 7") + 1
        assert f"flow.py:{line}: the constant 'index'" in flow(source)("check", expect=1).stderr


ASSIGNED = [
    "self.input = 1", "self.x, self.input = 1, 2", "[self.x, *self.input] = 1, 2", "self.input: int = 1",
    "for self.input in [1]: pass", "with open('flow.py') as self.input: pass", "if 1 > 0:\n    self.input = 1",
    "try:\n    pass\nfinally:\n    self.input = 1", "self.input += 1",
]  # fmt: skip


@pytest.mark.parametrize("statement", ASSIGNED)
def test_artifacts_named_like_flowspecs_are_refused_where_the_source_shows_it(statement, flow):
    """Whatever statement of a step gives an artifact such a name, check says so with the line."""
    source = flow_source(LINEAR, start=statement)
    line = next(at for at, text in enumerate(source.splitlines(), 1) if "self.input" in text)
    assert f"flow.py:{line}: step 'start' assigns self.input" in flow(source)("check", expect=1).stderr


SET_LATE = [
    "setattr(self, 'input', 1)", "helper(self)", "vars(self)['input'] = 1", "self.__dict__.update(input=1)",
    "object.__setattr__(self, 'PI', 4)" , "vars(self)['n'] = 2", "vars(self)['start'] = 2",
]  # fmt: skip


@pytest.mark.parametrize("statement", SET_LATE)
def test_names_that_are_taken_are_refused_when_they_are_set(statement, flow):
    """What the source does not show fails the task, past `self.name = value` too, and names the artifact."""
    head = "def helper(flow):\n    flow.input = 1\n"
    members = "PI = 3\nn = Parameter('n', default=1)"
    script = flow(flow_source(LINEAR, head=head, members=members, start=f"self.kept = 1\n{statement}"))
    script("run", expect=1)
    assert "Use another name." in failure(script).message
    name = next((name for name in ("'PI'", "'n'", "'start'") if name in statement), "input").strip("'")
    assert name in failure(script).message


# --- names that no artifact can have

BAD_NAMES = ["val/loss", "", ".", "..", "a\nb", "a\x00b", "\x9b31m", "\ud800", "a\udcffb"]
WAYS = [
    "setattr(self, {name!r}, 0.5)", "vars(self)[{name!r}] = 0.5", "self.__dict__.update({{{name!r}: 0.5}})",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_fails_its_task_only(name, way, flow):
    """A name that no address can hold fails that task, naming it; retry and catch see to the rest as ever."""
    source = flow_source(
        MIDDLE,
        start="self.kept = 1",
        middle=f"@retry(times=1)\n@catch(var='problem', print_exception=False)\n{way.format(name=name)}",
    )
    script = flow(source)
    script("run")
    run = script.client()
    assert run["middle"].task.current_attempt == 1
    assert f"cannot be named {name!r}" in run.data.problem.message
    assert [artifact.id for artifact in run.end_task] == ["kept", "problem"]


def test_a_failed_attempt_keeps_what_has_a_good_name(flow):
    """A name put past `self` is left out of what a failed attempt keeps for the post-mortem."""
    script = flow(flow_source(LINEAR, start="self.kept = 1; vars(self)['a/b'] = 2; 1 / 0"))
    script("run", expect=1)
    [task] = script.client()["start"]
    assert [artifact.id for artifact in task] == ["kept"]


@pytest.mark.parametrize("name", ["val loss", "größe", "a.b", "1", "...", "-x", "😀", "a:b"])
def test_unusual_names_are_fine(name, flow):
    """All other text is a name: it flows on, is listed, and is found by its address."""
    script = flow(flow_source(LINEAR, start=f"setattr(self, {name!r}, 7)", end=f"assert getattr(self, {name!r}) == 7"))
    script("run")
    task = script.client().end_task
    assert [artifact.id for artifact in task] == [name]
    assert flowstore.DataArtifact(f"{task.pathspec}/{name}").data == 7


CATCH_NAMES = ["val/loss", "", "input", "start", "PI", "n"]


@pytest.mark.parametrize("way", ["decorator", "option"])
@pytest.mark.parametrize("name", CATCH_NAMES)
def test_catch_takes_a_name_that_an_artifact_can_have(name, way, flow):
    """@catch(var=…) and --with catch:var=… are checked before a run exists."""
    members = "PI = 3\nn = Parameter('n', default=1)"
    decorated = {"start": f"@catch(var={name!r})"} if way == "decorator" else {}
    script = flow(flow_source(LINEAR, members=members, **decorated))
    options = ["--with", f'catch:var="{name}"'] if way == "option" else []
    told = script("run", *options, expect=2 if way == "option" else 1).stderr
    assert "Use another name." in told
    assert not script.db.exists()


@pytest.mark.parametrize("name", ["val/loss", "..", "a\tb", ""])
def test_an_old_stores_bad_names_are_shown_and_reached(name, flow):
    """Version 0.1.0 stored such names: they are listed, and what has a slash is found by its address."""
    script = flow(flow_source(LINEAR, start="self.loss = 0.5; self.other = 1"))
    script("run")
    with sqlite3.connect(script.db) as connection:
        connection.execute("update artifacts set name = ? where name = 'loss'", (name,))
    connection.close()
    task = script.client().end_task
    assert {artifact.id: artifact.data for artifact in task} == {name: 0.5, "other": 1}
    assert task[name].data == getattr(task.data, name) == 0.5
    assert task[name].parent == task
    assert task[name].pathspec == f"{task.pathspec}/{name}"
    assert "0.5" in script("dump", "1/end").stdout
    if name:
        assert flowstore.DataArtifact(f"{task.pathspec}/{name}").data == 0.5
        flowstore.DataArtifact(f"{task.pathspec}/{name}").add_tag("odd")
        assert "odd" in task[name].user_tags


# --- errors inside properties

PROPERTIES = {
    "property": "@property\ndef table(self):\n    {body}",
    "cached property": "@functools.cached_property\ndef table(self):\n    {body}",
    "descriptor": "class D:\n    def __get__(self, flow, owner=None):\n        {body}\ntable = D()",
}


@pytest.mark.parametrize("kind", PROPERTIES)
@pytest.mark.parametrize("error", ["return None.columns", "return 1 / 0", "raise AttributeError('my own words')"])
def test_errors_inside_a_property_are_shown_as_they_are(error, kind, flow):
    """Whatever a property raises is what the task's error says, and it has run once only."""
    body = f"print('looking'); {error}"
    source = flow_source(
        LINEAR, head="import functools\n", members=PROPERTIES[kind].format(body=body), start="self.x = self.table"
    )
    script = flow(source)
    assert script("run", expect=1).stdout.count("] looking\n") == 1
    words = {"return N": "no attribute 'columns'", "return 1": "division by zero", "raise At": "my own words"}
    assert words[error[:8]] in failure(script).message
    assert "no artifact" not in failure(script).message


def test_a_property_that_reads_a_missing_artifact_names_that_one(flow):
    """The name in the message is what is missing, however deep in properties it was read."""
    members = "@property\ndef inner(self):\n    return self.missing\n@property\ndef outer(self):\n    return self.inner"
    script = flow(flow_source(LINEAR, members=members, start="assert not hasattr(self, 'outer')\nself.outer"))
    script("run", expect=1)
    assert failure(script).message == "Flow F has no artifact 'missing' in step start."


def test_a_mistyped_artifact_is_answered_by_the_near_one(flow):
    """Of those that are inherited, and of those that the step has set, as Python does for any attribute."""
    script = flow(
        flow_source(LINEAR, start="self.model = 1", end="self.score = 2\nassert 'model' in dir(self)\nself.modle")
    )
    script("run", expect=1)
    assert ("Did you mean: 'model'?" in failure(script).traceback) == (sys.version_info >= (3, 12))
    script.rewrite(flow_source(LINEAR, end="current.card"))
    script("run", expect=1)
    assert "Did you mean" not in failure(script, 2).traceback


# --- decorators of the user's own

PLAIN = """
import functools
def plain(function):
    def wrapper(*args):
        print("before")
        return function(*args)
    return wrapper
def good(function):
    @functools.wraps(function)
    def wrapper(*args):
        print("before")
        return function(*args)
    return wrapper
def arguments(word):
    return plain
"""


@pytest.mark.parametrize("marks", ["@plain", "@plain\n@plain", "@good\n@plain", "@plain\n@good", "@arguments('x')"])
@pytest.mark.parametrize("place", ["above @step", "below @step"])
def test_a_decorator_without_wraps_leaves_a_step_a_step(place, marks, flow):
    """The step, its place in the graph, its other decorators and its inputs are those of the function inside."""
    source = flow_source(FOREACH, head=PLAIN, start="self.xs = [1, 2]", body="@retry(times=3)\nself.y = self.input",
                         join="self.ys = [i.y for i in inputs]")  # fmt: skip
    for name in ("start", "body", "join", "end"):
        for inputs in ("(self)", "(self, inputs)"):
            whole = f"    @step\n    def {name}{inputs}"
            above = marks.replace("\n", "\n    ")
            new = (
                f"    {above}\n{whole}" if place == "above @step" else f"    @step\n    {above}\n    def {name}{inputs}"
            )
            source = source.replace(whole, new)
    script = flow(source)
    assert "body @retry" in script("show").stdout
    assert script("run").stdout.count("before") == 5 * (marks.count("@"))
    assert script.client().data.ys == [1, 2]


def test_retry_above_a_decorator_without_wraps_holds(flow):
    """Decorators on either side of a wrapper all hold."""
    source = flow_source(LINEAR, head=PLAIN, start="if current.retry_count < 1: raise ValueError").replace(
        "@step\n    def start", "@retry(times=1)\n    @plain\n    @timeout(seconds=50)\n    @step\n    def start"
    )
    script = flow(source)
    script("run")
    assert "start @retry @timeout" in script("show").stdout.replace("@timeout @retry", "@retry @timeout")


HIDING = {
    "class": "class hide:\n    def __init__(self, f): self.f = f\n    def __call__(self, *a): return self.f(*a)\n",
    "partial": "import functools\nhide = functools.partial(functools.partial)\n",
    "registry": "known = {}\ndef hide(f):\n    known[1] = f\n    def w(self): known[1](self)\n    return w\n",
}


@pytest.mark.parametrize("kind", HIDING)
@pytest.mark.parametrize("place", ["above @step", "below @step"])
def test_a_decorator_that_hides_a_step_is_named(place, kind, flow):
    """Where the step can't be seen through the decorator, the message names that, and says functools.wraps."""
    marks = "@hide\n    @step" if place == "above @step" else "@step\n    @hide"
    script = flow(flow_source(MIDDLE, head=HIDING[kind]).replace("@step\n    def middle", f"{marks}\n    def middle"))
    told = script("check", expect=1).stderr
    if (place, kind) != ("above @step", "registry"):  # where nothing is left that tells it from other methods
        assert "middle" in told
        assert "functools.wraps" in told
        assert "partial" in told or "hide" in told


def test_a_mixin_may_take_options(flow):
    """What a class statement gives a mixin reaches it, wherever it stands among the bases."""
    head = "class Mixin:\n    def __init_subclass__(cls, size=0, **more): cls.size = size\n"
    source = flow_source(LINEAR, head=head, start="self.seen = self.size")
    for bases in ("(FlowSpec, Mixin, size=3)", "(Mixin, FlowSpec, size=3)"):
        script = flow(source.replace("(FlowSpec)", bases))
        script("run")
        assert script.client(max(script.sql("select id from runs"))).data.seen == 3


# --- steps of a base class

BASE = """
class Base(FlowSpec):
    @step
    def start(self):
        self.log = ["base"]
        self.next(self.end)

    @step
    def other(self):
        self.log = [*self.log, "other"]
        self.next(self.end)

    @step
    def end(self):
        self.done = True
"""
EXTENDED = {
    "its own next counts": ("super().start()\nself.log.append('own')\nself.next(self.other)", ["base", "own", "other"]),
    "by the name of the base": ("Base.start(self)\nself.next(self.other)", ["base", "other"]),
    "super with arguments": ("super(F, self).start()\nself.next(self.other)", ["base", "other"]),
    "only the base's next": ("super().start()\nself.log.append('own')", ["base", "own"]),
    "only the base's, returned": ("return super().start()", ["base"]),
    "only the base's, at the end": ("x = 1\nBase.start(self)", ["base"]),
}


@pytest.mark.parametrize("how", EXTENDED)
def test_a_step_can_extend_that_of_its_base(how, flow):
    """super().start() runs the base's step: the flow's own self.next counts, else the base's."""
    body, log = EXTENDED[how]
    source = flow_source({"start": body}, head=BASE).replace("F(FlowSpec)", "F(Base)")
    if "other" not in log:
        source = source.replace(BASE, BASE.replace("    @step\n    def other", "    def other"))
    script = flow(source)
    script("run")
    assert script.client().data.log == log
    assert script.client().data.done


def test_steps_can_be_extended_over_several_classes_and_in_a_join(flow):
    """Each class of a chain, and a mixin, can add its part; a join passes its inputs on."""
    head = """
    class Base(FlowSpec):
        @step
        def start(self):
            self.log = ["base"]
            self.next(self.a, self.b)
        @step
        def a(self):
            self.next(self.join)
        @step
        def b(self):
            self.next(self.join)
        @step
        def join(self, inputs):
            self.log = inputs.a.log + ["join"]
            self.next(self.end)
        @step
        def end(self):
            pass
    class Middle(Base):
        @step
        def start(self):
            super().start()
            self.log.append("middle")
            self.next(self.b, self.a)
    """
    source = flow_source(
        {"start": "super().start()\nself.log.append('own')\nself.next(self.a, self.b)",
         "join": "super().join(inputs)\nself.log.append('own join')"}, head=head,
    ).replace("F(FlowSpec)", "F(Middle)")  # fmt: skip
    script = flow(source)
    script("run")
    assert script.client().data.log == ["base", "middle", "own", "join", "own join"]


ON_A_CLASS = "class F(FlowSpec):"
MISTAKES = {  # what is written in place of what, the line, and what the message says
    "an option of a step's decorator": ("    @step", "    @retry(time=2)\n    @step", 4, "@retry has no option time"),
    "its value": ("    @step", "    @timeout(seconds='5')\n    @step", 4, "@timeout: seconds must be a number"),
    "an option without its name": ("    @step", "    @retry(2)\n    @step", 4, "@retry: options are given by name"),
    "an option of the flow's": (ON_A_CLASS, f"@schedule(dayly=True)\n{ON_A_CLASS}", 2, "has no option dayly"),
    "the flow's on a step": ("    @step", "    @schedule(daily=True)\n    @step", 4, "@schedule is for flows"),
    "a step's on the flow": (ON_A_CLASS, f"@retry(times=2)\n{ON_A_CLASS}", 2, "@retry is for steps"),
    "a card on the flow": (ON_A_CLASS, f"@card\n{ON_A_CLASS}", 2, "@card is for steps"),
    "a parameter's name": ("    @step", "    p = Parameter('a b')\n    @step", 4, "is an identifier, not 'a b'"),
}


@pytest.mark.parametrize("case", MISTAKES)
@pytest.mark.parametrize(
    "words", [["flow.py", "run"], ["-m", "flowstore.metaflow", "flow.py", "check"]], ids=["", "as"]
)
def test_a_mistake_in_the_file_is_one_message_with_its_line(words, case, flow):
    """Not the way to it through flowstore."""
    old, new, line, message = MISTAKES[case]
    source = "from flowstore import *\n" + flow_source(LINEAR).partition("from flowstore import current\n")[2].lstrip()
    script = flow(source.replace(old, new, 1))
    said = python(script.folder, *words, expect=1)
    assert re.fullmatch(rf"Error: flow\.py:{line}: .*{re.escape(message)}.*\n", said), said


def test_calling_next_twice_is_still_a_mistake(flow):
    """A step that calls its own self.next twice is refused at run time where the source doesn't show it."""
    script = flow(flow_source(LINEAR, start="for _ in range(1): getattr(self, 'next')(self.end)"))
    script("run", expect=1)
    assert "twice" in failure(script).message


# --- flows as values

STORED = {
    "an input": "self.best = max(inputs, key=lambda i: i.score)",
    "self": "self.best = self",
    "inputs": "self.best = inputs",
    "in a list": "self.best = list(inputs)",
    "in a dict": "self.best = {'best': inputs[0]}",
    "in an object": "self.best = Holder(inputs[0])",
    "in a function": "best = inputs[0]; self.best = lambda: best",
    "a method": "self.best = inputs[0].helper",
    "a generator's list in a foreach": "self.best = [i for i in inputs]",
}


@pytest.mark.parametrize("how", STORED)
def test_a_flow_is_no_artifact(how, flow):
    """A step that stores the flow, one of its inputs or all of them fails, and the message says what to store."""
    script = flow(
        flow_source(
            BRANCH,
            head="class Holder:\n    def __init__(self, it): self.it = it\n",
            members="def helper(self): pass",
            a="self.score = 1",
            b="self.score = 2",
            join=STORED[how],
        )
    )
    script("run", expect=1)
    told = failure(script).message
    assert told.startswith("Artifact 'best' of step join cannot be stored: ")
    assert "Store " in told
    assert ", as in self." in told


def test_what_an_input_has_can_be_stored_and_the_class_too(flow):
    """The class of the flow, and whatever an input holds, are values as any other; so is a copy used in the task."""
    script = flow(
        flow_source(
            BRANCH,
            head="import copy\n",
            a="self.score = 1",
            b="self.score = 2",
            join="self.best = max(inputs, key=lambda i: i.score).score; self.kind = type(self)\n"
            "assert copy.copy(inputs[0]).score == 1",
            end="assert self.kind is F",
        )
    )
    script("run")
    assert script.client().data.best == 2
    assert script.client().data.kind.__name__ == "F"


def test_a_pool_can_call_a_method_of_the_flow(flow):
    """Processes that a task starts may be handed the flow: only the store refuses it."""
    head = "import multiprocessing"
    body = "with multiprocessing.get_context('fork').Pool(2) as pool: self.ys = pool.map(self.double, [1, 2, 3])"
    members = "def double(self, x):\n    return self.factor * x"
    script = flow(flow_source(MIDDLE, head=head, members=members, start="self.factor = 2", middle=body))
    script("run")
    assert script.client().data.ys == [2, 4, 6]


# --- decorators


def test_retry_waits_only_where_minutes_are_given(flow):
    """By default the next attempt starts at once."""
    script = flow(flow_source(LINEAR, start="@retry\nif current.retry_count < 3: raise ValueError"))
    script("run", timeout=30)
    assert script.client()["start"].task.current_attempt == 3


# --- old stores


def test_an_old_stores_bad_names_are_exported_imported_and_checked(flow):
    """A store of version 0.1.0 with such a name stays whole on all its ways."""
    script = flow(flow_source(LINEAR, start="self.loss = 0.5"))
    script("run")
    with sqlite3.connect(script.db) as connection:
        connection.execute("update artifacts set name = 'val/loss' where name = 'loss'")
    connection.close()
    command("export", "out.db", folder=script.folder)
    command("--store", "new.db", "import", "out.db", folder=script.folder)
    command("--store", "new.db", "check", "--deep", folder=script.folder)
    told = command("--store", "new.db", "get", "F/1/start/1/val/loss", folder=script.folder).stdout
    assert "0.5" in told
    assert "val/loss" in command("--store", "new.db", "show", "F/1/start/1", folder=script.folder).stdout


def test_a_flow_that_an_old_version_stored_is_told(flow):
    """Loading it says what it is and what to store instead, in the next step and in the Client."""
    head = """
    from flowstore.flow import spec
    if "old" in os.environ:
        del spec._Unstorable.__reduce_ex__  # as version 0.1.0 did it
    """
    source = flow_source(
        BRANCH, head=head, a="self.score = 1", b="self.score = 2", join="self.best = inputs.a; self.all = inputs",
        end="assert Path('mended').exists(); print(self.best.score)",
    )  # fmt: skip
    script = flow(source)
    script("run", expect=1, old="1")
    (script.folder / "mended").touch()
    assert "Store a value of it instead" in script("resume", expect=1).stdout
    for name in ("best", "all"):
        with pytest.raises(flowstore.ArtifactError, match="Store a value of it instead"):
            _ = getattr(script.client()["join"].task.data, name)
