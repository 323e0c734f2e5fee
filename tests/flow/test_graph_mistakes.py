"""A flow's graph is read from its source, and each mistake in it is one message with line and remedy."""

from __future__ import annotations

import importlib.util
import linecache
import shutil
import subprocess
import sys
import textwrap

import pytest

from flowstore.errors import GraphError
from flowstore.flow import lint
from flowstore.flow.decorators import step
from flowstore.flow.graph import describe, graph_of, to_dot
from support.graphs import END, awkward, flow_of, load, switch, to

LEGAL = {
    "linear": (f"start: {to('a')}", f"a: {to('end')}", END),
    "start to end": (f"start: {to('end')}", END),
    "branch": (f"start: {to('a', 'b')}", f"a: {to('j')}", f"b: {to('j')}", f"join j: {to('end')}", END),
    "nested branches": (
        f"start: {to('a', 'b')}",
        f"a: {to('c', 'd')}",
        f"c: {to('inner')}",
        f"d: {to('inner')}",
        f"join inner: {to('outer')}",
        f"b: {to('outer')}",
        f"join outer: {to('end')}",
        END,
    ),
    "foreach": (f"start: {to('a', foreach='xs')}", f"a: {to('j')}", f"join j: {to('end')}", END),
    "nested foreach": (
        f"start: {to('a', foreach='xs')}",
        f"a: {to('b', foreach='ys')}",
        f"b: {to('inner')}",
        f"join inner: {to('outer')}",
        f"join outer: {to('end')}",
        END,
    ),
    "join at the end": (f"start: {to('a', foreach='xs')}", f"a: {to('end')}", "join end: pass"),
    "switch": (f"start: {switch(x='a', y='b')}", f"a: {to('end')}", f"b: {to('c')}", f"c: {to('end')}", END),
    "switch with one case": (f"start: {switch(x='end')}", END),
    "switch back to an earlier step": (
        f"start: {to('a')}",
        f"a: {to('b')}",
        f"b: {switch(x='a', y='end')}",
        END,
    ),
    "switch back to start": (f"start: {to('a')}", f"a: {switch(x='start', y='end')}", END),
    "switch to itself": (f"start: {to('a')}", f"a: {switch(x='a', y='end')}", END),
    "switch back over a whole split": (
        f"start: {to('a', 'b')}",
        f"a: {to('j')}",
        f"b: {to('j')}",
        f"join j: {switch(x='start', y='end')}",
        END,
    ),
    "switch inside foreach": (
        f"start: {to('s', foreach='xs')}",
        f"s: {switch(x='a', y='b', z='j')}",
        f"a: {to('j')}",
        f"b: {switch(x='s', y='j')}",
        f"join j: {to('end')}",
        END,
    ),
    "foreach inside a switch's branch": (
        f"start: {switch(x='a', y='b')}",
        f"a: {to('c', foreach='xs')}",
        f"c: {to('j')}",
        f"join j: {to('b')}",
        f"b: {to('end')}",
        END,
    ),
    "parallel": (
        f"start: {to('a', num_parallel=4)}",
        f"parallel a: {to('j')}",
        f"join j: {to('end')}",
        END,
    ),
    "join that fans out": (
        f"start: {to('a', 'b')}",
        f"a: {to('j')}",
        f"b: {to('j')}",
        f"join j: {to('c', foreach='xs')}",
        f"c: {to('k')}",
        f"join k: {to('end')}",
        END,
    ),
}


@pytest.mark.parametrize("steps", LEGAL.values(), ids=LEGAL)
def test_a_legal_graph_passes(steps):
    """What the documentation calls legal is legal."""
    graph = graph_of(flow_of(*steps))
    lint.check(graph)
    assert lint.problems(graph) == []


# name: (line of the message, fragments of it, steps)
MISTAKES = {
    "no steps": (1, ["'Flow' has no steps", "@step"], []),
    "no start": (1, ["no step 'start'", "Add one"], [f"a: {to('end')}", END]),
    "no end": (1, ["no step 'end'", "Add one"], [f"start: {to('a')}", f"a: {to('start')}"]),
    "start is a join": (3, ["'start' takes inputs", "def start(self)"], [f"join start: {to('end')}", END]),
    "end has a next": (
        5,
        ["'end' calls self.next", "Remove"],
        [f"start: {to('end')}", f"end: {to('start')}"],
    ),
    "no next": (5, ["'a' has no self.next", "self.next(self.end)"], [f"start: {to('a')}", "a: pass", END]),
    "underscore": (5, ["'_a' begins with an underscore"], [f"start: {to('_a')}", f"_a: {to('end')}", END]),
    "missing step": (3, ["'start' leads to 'ende'", "Did you mean 'end'?"], [f"start: {to('ende')}", END]),
    "missing, nothing close": (
        3,
        ["'start' leads to 'qq', which is no step of Flow. If"],
        [f"start: {to('qq')}", END],
    ),
    "cycle": (
        7,
        ["'b' leads back to 'a' (a -> b -> a)", "use a switch"],
        [f"start: {to('a')}", f"a: {to('b')}", f"b: {to('a')}", END],
    ),
    "cycle through start": (
        5,
        ["'a' leads back to 'start'"],
        [f"start: {to('a')}", f"a: {to('start')}", END],
    ),
    "step to itself": (5, ["'a' leads back to 'a' (a -> a)"], [f"start: {to('a')}", f"a: {to('a')}", END]),
    "unreachable": (
        5,
        ["'a' is never reached", "remove it"],
        [f"start: {to('end')}", f"a: {to('end')}", END],
    ),
    "switch that never leaves": (
        5,
        ["'a' never gets to 'end'", "a case that leads out"],
        [f"start: {switch(x='a', y='end')}", f"a: {switch(x='a')}", END],
    ),
    "branch reaches end": (
        3,
        ["'start' has a branch, 'a', that gets to 'end' without a join", "def join(self, inputs)"],
        [f"start: {to('a', 'b')}", f"a: {to('end')}", f"b: {to('end')}", END],
    ),
    "one branch reaches end": (
        3,
        ["'start' has a branch, 'b', that gets to 'end'"],
        [f"start: {to('a', 'b')}", f"a: {to('j')}", f"b: {to('end')}", f"join j: {to('end')}", END],
    ),
    "foreach not joined": (
        5,
        ["'a' has a branch, 'b', that gets to 'end'"],
        [f"start: {to('a')}", f"a: {to('b', foreach='xs')}", f"b: {to('end')}", END],
    ),
    "outer foreach not joined": (
        3,
        ["'start' has a branch, 'a'"],
        [
            f"start: {to('a', foreach='xs')}",
            f"a: {to('b', foreach='ys')}",
            f"b: {to('end')}",
            "join end: pass",
        ],
    ),
    "parallel not joined": (
        3,
        ["'start' has a branch, 'a'"],
        [f"start: {to('a', num_parallel=2)}", f"parallel a: {to('end')}", END],
    ),
    "join outside": (
        5,
        ["'j' takes inputs", "no split is open"],
        [f"start: {to('j')}", f"join j: {to('end')}", END],
    ),
    "split straight to a join": (
        3,
        ["'start' leads straight to the join 'j'", "Put one in between"],
        [f"start: {to('j', foreach='xs')}", f"join j: {to('end')}", END],
    ),
    "branches meet without joining": (
        9,
        ["'m' is where branches of 'start' meet", "def m(self, inputs)"],
        [
            f"start: {to('a', 'b')}",
            f"a: {to('m')}",
            f"b: {to('m')}",
            f"m: {to('j')}",
            f"join j: {to('end')}",
            END,
        ],
    ),
    "inner split not joined first": (
        11,
        ["'j' joins branches of two splits, 'start' and within it 'a'", "Join those of 'a' first"],
        [
            f"start: {to('a', 'b')}",
            f"a: {to('c', 'd')}",
            f"b: {to('j')}",
            f"c: {to('j')}",
            f"join j: {to('end')}",
            f"d: {to('j')}",
            END,
        ],
    ),
    "join of sibling splits": (
        17,
        ["'j' joins branches of two splits, 'a' and 'b'"],
        [
            f"start: {to('a', 'b')}",
            f"a: {to('c', 'd')}",
            f"b: {to('e', 'f')}",
            *(f"{name}: {to('j')}" for name in "cdef"),
            f"join j: {to('k')}",
            f"join k: {to('end')}",
            END,
        ],
    ),
    "two joins for one split": (
        3,
        ["'start' splits into branches that arrive at different joins, 'j' and 'k'"],
        [
            f"start: {to('a', 'b')}",
            f"a: {to('j')}",
            f"b: {to('k')}",
            f"join j: {to('end')}",
            f"join k: {to('end')}",
            END,
        ],
    ),
    "switch back out of a foreach": (
        5,
        ["'a' is reached from 'b' within 'a', but elsewhere outside of any split"],
        [
            f"start: {to('a')}",
            f"a: {to('b', foreach='xs')}",
            f"b: {switch(x='a', y='j')}",
            f"join j: {to('end')}",
            END,
        ],
    ),
    "gang without @parallel": (
        5,
        ["'a' is run by num_parallel", "Add @parallel"],
        [f"start: {to('a', num_parallel=2)}", f"a: {to('j')}", f"join j: {to('end')}", END],
    ),
    "@parallel without a gang": (
        3,
        ["'start' leads to 'a', which is marked @parallel", "num_parallel=n"],
        [f"start: {to('a')}", f"parallel a: {to('end')}", END],
    ),
    "@parallel on start": (4, ["'start' is marked @parallel"], [f"parallel start: {to('end')}", END]),
}


@pytest.mark.parametrize(("line", "fragments", "steps"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_message_with_line_and_remedy(line, fragments, steps):
    """Each mistake is reported at its line, with what to do."""
    graph = graph_of(flow_of(*steps))
    first, *more = lint.problems(graph)
    assert f":{line}: " in first or not graph.nodes
    assert [fragment for fragment in fragments if fragment not in first] == []
    assert more == []
    with pytest.raises(GraphError) as raised:
        lint.check(graph)
    assert str(raised.value) == first


TAILS = {
    "self.next(self.a, foreach=[1, 2])": "foreach='name'. Set self.name before.",
    "self.next('a')": "self.next is given 'a', which is no step. Write self.a.",
    "self.next(a)": "self.next is given a, which is no step. Write self.a.",
    "self.next(self.a())": "Name the step without calling it: self.a.",
    "self.next([self.a, self.b])": "Name each step literally: self.next(self.a, self.b)",
    "self.next(*steps)": "Name each step literally",
    "self.next(other.a)": "Name each step literally",
    "self.next()": "names no step. Write self.next(self.a).",
    "self.next(self.a, self.a)": "names 'a' twice",
    "self.next(self.a, for_each='x')": "has for_each. Write foreach=, num_parallel= or condition=.",
    "self.next(self.a, foreach='x', num_parallel=2)": "has foreach, num_parallel. Write",
    "self.next(self.a, **options)": "has **. Write",
    "self.next(self.a, foreach=name)": "foreach=name names no artifact. Write it literally: foreach='name'.",
    "self.next(self.a, foreach='not a name')": "names no artifact",
    "self.next(self.a, self.b, foreach='xs')": "foreach= leads to one step, not 2",
    "self.next(self.a, self.b, num_parallel=2)": "num_parallel= leads to one step, not 2",
    "self.next({'x': self.a})": "a switch takes one dict of cases, and condition=",
    "self.next(self.a, condition='m')": "a switch takes one dict of cases",
    "self.next({}, condition='m')": "a switch takes one dict of cases",
    "self.next({'x': self.a}, self.b, condition='m')": "a switch takes one dict of cases",
    "self.next({'x': self.a}, condition=lambda: 1)": "Write it literally: condition='name'",
    "self.next({x: self.a}, condition='m')": "the case x is no literal",
    "self.next({(1, 2): self.a}, condition='m')": "the case (1, 2) is no literal",
    "self.next({**cases}, condition='m')": "the case ** is no literal",
    "self.next({'x': 'a'}, condition='m')": "Write self.a",
    "self.next({1: self.a, True: self.b}, condition='m')": "two cases equal True (True equals 1)",
    "return self.next(self.a)": "line 3 calls self.next early. Call it once, as the last statement",
    "self.next(self.a); return": "line 3 calls self.next early",
    "self.next(self.a); self.next(self.b)": "line 3 calls self.next early",
    "\n        if self.x:\n            self.next(self.a)": "line 5 calls self.next early",
    "\n        if self.x: self.next(self.a)\n        else: self.next(self.b)": "write self.next({",
    "yield 1; self.next(self.a)": "a step is no generator",
}


@pytest.mark.parametrize(("tail", "message"), TAILS.items())
def test_a_tail_that_cannot_be_read_says_what_to_write(tail, message):
    """A wrong `self.next` is a problem of its node, and a message of `lint`."""
    node = graph_of(flow_of(f"start: {tail}", f"a: {to('end')}", END))["start"]
    assert node.kind == "invalid"
    assert message in node.problem
    assert node.targets == ()


def test_arguments_are_self_and_inputs():
    """A step takes nothing else, and no `async`."""
    for head in ("def start()", "def start(self, a, b)", "def start(self, *, a)", "async def start(self)"):
        flow = load(f"class Flow:\n    @step\n    {head}: self.next(self.end)\n").Flow
        assert "takes (self)" in graph_of(flow)["start"].problem


def test_every_mistake_of_a_kind_is_listed():
    """`problems` has all that `check` would name one by one."""
    flow = flow_of("join start: self.next('x')", f"_a: {to('b')}", "c: pass", "end: pass")
    assert [message.split(": ")[0].rsplit(":")[-1] for message in lint.problems(graph_of(flow))] == list("37535")


def test_what_a_node_knows():
    """Names, lines, docstrings and decorators are those of the source."""
    module = load(
        textwrap.dedent(
            """
            class Flow:
                \'\'\'A flow
                   of two lines.\'\'\'

                @retry(
                    times=4,
                )
                @step
                def start(me):
                    \'\'\'Begins.\'\'\'
                    class Numbers:
                        def __next__(me):
                            me.next(me.no)
                    me.xs = [1]
                    me.next(
                        me.body,
                        foreach='xs',
                    )

                @step
                def body(self):
                    self.next({'x': self.join, -1: self.join, None: self.body}, condition='mode')

                @step
                def join(self, inputs):
                    self.next(self.end)

                @step
                def end(self):
                    pass
            """
        )
    )
    graph = graph_of(module.Flow)
    lint.check(graph)
    assert (graph.flow, graph.line, graph.doc) == ("Flow", 2, "A flow\nof two lines.")
    start, body, join, end = graph
    assert (start.kind, start.targets, start.foreach, start.decorators) == (
        "foreach",
        ("body",),
        "xs",
        ("retry",),
    )
    assert (start.line, start.next_line, start.doc) == (10, 16, "Begins.")
    assert (body.kind, body.targets, body.condition) == ("switch", ("join", "body"), "mode")
    assert body.cases == {"x": "join", -1: "join", None: "body"}
    assert (join.is_join, join.kind, end.kind, end.targets) == (True, "linear", "end", ())
    assert (end.line, end.next_line) == (30, 31)
    assert graph.parents("body") == ("start", "body")
    assert graph.parents("start") == graph.parents("nowhere") == ()
    assert "body" in graph
    assert "nowhere" not in graph


BASE = """
from flowstore.flow.decorators import step

class Base:
    @step
    def start(self):
        self.next(self.middle)

    @step
    def middle(self):
        self.next(self.end)

    @step
    def end(self): pass
"""

DERIVED = """
from base_of_test_graph import Base, step

class Derived(Base):
    @step
    def middle(self):
        self.next(self.more)

    @step
    def more(self):
        self.next(self.end)

class Same(Base):
    pass

class Broken(Base):
    middle = None
"""


def test_steps_are_inherited_across_files(tmp_path, monkeypatch):
    """A base class may be in another file; what is overridden follows the class, not the file."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "base_of_test_graph.py").write_text(BASE)
    (tmp_path / "derived_of_test_graph.py").write_text(DERIVED)
    spec = importlib.util.spec_from_file_location("derived_of_test_graph", tmp_path / "derived_of_test_graph.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "derived_of_test_graph", module)
    spec.loader.exec_module(module)
    monkeypatch.delitem(sys.modules, "base_of_test_graph")
    graph = graph_of(module.Derived)
    lint.check(graph)
    assert [node.name for node in graph] == ["start", "middle", "end", "more"]
    assert graph["middle"].targets == ("more",)
    assert [graph[name].file.rpartition("/")[2][:4] for name in ("start", "middle")] == ["base", "deri"]
    assert (graph.line, graph_of(module.Same).line) == (4, 13)
    assert [node.name for node in graph_of(module.Broken)] == ["start", "end"]


def test_a_step_without_source_is_one_error():
    """What exec made can't be read."""
    scope = {"step": step, "__name__": "nowhere"}
    exec("class Flow:\n    @step\n    def start(self): self.next(self.end)", scope)
    with pytest.raises(GraphError, match="no source for step 'start' of Flow"):
        graph_of(scope["Flow"])


def test_a_changed_source_is_one_error():
    """A source that no longer has the step where it was is not guessed at."""
    flow = flow_of(f"start: {to('end')}", END)
    file = flow.start.__code__.co_filename
    for text in ("class Flow:\n    pass\n", "class Flow:\n  (\n"):
        linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
        with pytest.raises(GraphError, match="load it again"):
            graph_of(flow)


def test_describe_shows_docstrings_and_next_steps():
    """`show` names each step, what it says of itself, and where it leads."""
    flow = flow_of(
        f"start: {to('a', foreach='xs')}",
        f"a: 'Does it.'; {switch(x='b', y='j', z='b')}",
        f"b: {to('j')}",
        f"join j: {to('c', num_parallel=2)}",
        f"parallel c: {to('k')}",
        f"join k: {to('l', 'm')}",
        "l: pass",
    )
    flow.__doc__ = "What it is for."
    assert describe(graph_of(flow)).split("\n\n") == [
        "Flow\nWhat it is for.",
        "start\n    => a (foreach xs)",
        "a\n    Does it.\n    => b if mode is 'x' or 'z', j if mode is 'y'",
        "b\n    => j",
        "j (join)\n    => c (num_parallel)",
        "c @parallel\n    => k",
        "k (join)\n    => l, m",
        "l\n",
    ]


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_the_dot():
    """Whatever is in a docstring or a case, `dot` can read it."""
    subprocess.run(["dot", "-Tsvg"], input=to_dot(graph_of(awkward())), text=True, check=True, capture_output=True)


def test_dot_is_quoted():
    """Quotes, backslashes and newlines of a docstring or a case stay within their label."""
    text = to_dot(graph_of(awkward()))
    assert r'"start" [tooltip="A \"quote\",\na \\ and ünicode."];' in text
    assert r"""label="if mode is 'x\"]; evil'"];""" in text
    assert len(text.splitlines()) == 6
