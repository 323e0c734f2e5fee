"""Random graphs, and how they are played."""

from __future__ import annotations

import itertools
import linecache
import types

from hypothesis import strategies as st

from flowstore.flow.decorators import parallel, retry, step
from flowstore.flow.graph import SPLITS
from support.flows import flow_source

numbers = itertools.count()


def load(source):
    """The module of a source text that is known to linecache, as a notebook's cells are."""
    file = f"<flow {next(numbers)}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    module = types.ModuleType("flow")
    module.__dict__.update(step=step, parallel=parallel, retry=retry)
    exec(compile(source, file, "exec"), module.__dict__)
    return module


def flow_of(*steps):
    """A flow whose steps are given as `head: tail`, one per two lines: the first `def` is in line 3."""
    lines = ["class Flow:" if steps else "class Flow: ..."]
    for text in steps:
        head, _, tail = text.partition(": ")
        *marks, name = head.split()
        inputs = ", inputs" if "join" in marks else ""
        mark = "@parallel " if "parallel" in marks else ""
        lines += [f"    {mark or '@step'}", "    @step"] if mark else ["    @step"]
        lines += [f"    def {name}(self{inputs}): {tail}"]
    return load("\n".join(lines) + "\n").Flow


def to(*targets, **options):
    """The text of a `self.next`."""
    named = [f"self.{target}" for target in targets]
    return f"self.next({', '.join([*named, *(f'{key}={value!r}' for key, value in options.items())])})"


def switch(**cases):
    """The text of a switch on `mode`."""
    inner = ", ".join(f"{key!r}: self.{target}" for key, target in cases.items())
    return f"self.next({{{inner}}}, condition='mode')"


END = "end: pass"


def awkward():
    cases = {'x"]; evil': "end"}
    flow = flow_of(f"start: {switch(**cases)}", END)
    flow.start.__doc__ = 'A "quote",\na \\ and ünicode.'
    return flow


# Random graphs: a block is a list of segments, run one after another.


def segments(blocks):
    """One more level of splits and switches around these blocks."""
    segment = st.one_of(
        st.just(("step",)),
        st.tuples(st.sampled_from(["foreach", "parallel"]), blocks),
        st.tuples(st.just("split"), st.lists(blocks, min_size=2, max_size=3)),
        st.tuples(st.just("switch"), st.lists(st.one_of(st.just([]), blocks), min_size=1, max_size=3)),
        st.tuples(st.just("loop"), blocks),
    )
    return st.lists(segment, min_size=1, max_size=3)


blocks = st.recursive(st.just([("step",)]), segments, max_leaves=12)


class Plan:
    """The steps of a well-nested flow, laid out from a block."""

    def __init__(self, block):
        self.steps = {}
        self.numbers = itertools.count()
        self.parallel = set()
        self.add("end", "end", [])
        self.add("start", "linear", [self.lay(block, "end")])

    def add(self, name, kind, targets, *, join=False):
        name = name or f"s{next(self.numbers)}"
        self.steps[name] = kind, tuple(targets), join
        return name

    def lay(self, block, after):
        """Add a block that goes on to `after`; the name of its first step."""
        opens_only = False  # whether a join may open the next split itself
        for segment in reversed(block):
            first = self.lay_segment(*segment, after=after, merge=opens_only)
            opens_only = segment[0] in {"split", "foreach", "parallel"}
            after = first
        return after

    def lay_segment(self, kind, *inner, after, merge):
        if kind == "step":
            return self.add(None, "linear", [after])
        if kind == "switch":
            targets = dict.fromkeys(self.lay(case, after) for case in inner[0])
            return self.add(None, "switch", targets)
        if kind == "loop":
            last = self.add(None, "switch", [])
            first = self.lay(inner[0], last)
            self.add(last, "switch", [first, last, after])
            return first
        if merge:
            join = self.add(None, *self.steps.pop(after)[:2], join=True)
        else:
            join = self.add(None, "linear", [after], join=True)
        if kind == "split":
            return self.add(None, "split", [self.lay(branch, join) for branch in inner[0]])
        body = self.lay(inner[0], join)
        if kind == "parallel":
            body = self.add(None, "linear", [body])
            self.parallel.add(body)
        return self.add(None, kind, [body])

    def flow(self, order, *, but=None):
        """A class of these steps in the given order, in which `but` does not join."""
        texts = []
        for name in order:
            kind, targets, join = self.steps[name]
            tail = {
                "end": "pass",
                "switch": switch(**{f"case_{target}": target for target in targets}),
                "foreach": to(*targets, foreach="xs"),
                "parallel": to(*targets, num_parallel=2),
            }.get(kind, to(*targets))
            marks = "join " * (join and name != but) + "parallel " * (name in self.parallel)
            texts.append(f"{marks}{name}: {tail}")
        return flow_of(*texts)


def play(graph, chance, name="start", *, within=False):
    """Run from a step to `end`, or to the join that closes the split around it."""
    for _ in range(10_000):
        node = graph[name]
        if node.kind == "end":
            assert not within
            return name
        if node.kind in SPLITS:
            copies = node.targets * (1 if node.kind == "split" else 2)
            [following] = {play(graph, chance, branch, within=True) for branch in copies}
        else:
            following = chance.choice(node.targets)
            if graph[following].is_join:
                assert within
                return following
        name = following
    raise AssertionError("a loop is left sooner or later")


# --- flows as text, a kind of graph each

NESTED = flow_source(
    {
        "start": "self.next(self.outer, foreach='xs')",
        "outer": "self.next(self.inner, foreach='ys')",
        "inner": "self.next(self.join_inner)",
        "join_inner": "self.next(self.join_outer)",
        "join_outer": "self.next(self.end)",
        "end": "",
    },
    start="self.xs = [2, 3]",
    outer="self.ys = list(range(self.input))",
)
SWITCH = flow_source(
    {
        "start": "self.next({'long': self.a, 'short': self.b}, condition='way')",
        "a": "self.next(self.end)",
        "b": "self.next(self.end)",
        "end": "",
    },
    start="self.way = 'short'",
)
LOOP = flow_source(
    {
        "start": "self.next(self.body)",
        "body": "self.next({'again': self.body, 'done': self.end}, condition='way')",
        "end": "",
    },
    start="self.n = 0",
    body="self.n += 1\nself.way = 'done' if self.n == 3 else 'again'",
)
SPLIT_IN_FOREACH = flow_source(
    {
        "start": "self.next(self.body, foreach='xs')",
        "body": "self.next(self.a, self.b)",
        "a": "self.next(self.join_branches)",
        "b": "self.next(self.join_branches)",
        "join_branches": "self.next(self.join)",
        "join": "self.next(self.end)",
        "end": "",
    },
    start="self.xs = list('abc')",
)
