"""A plan starts each task once, each join when all its siblings are in, and is done exactly at the end."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from flowstore.flow.graph import Graph, Node
from flowstore.run.plan import Outcome, Plan
from support.graphs import Plan as Layout
from support.graphs import blocks

MOST_TASKS = 300
MOST_TURNS = 3


def graph_from(block):
    """The graph of a random, well-nested block; see `test_graph`."""
    nodes = {
        name: Node(name=name, kind=kind, targets=targets, is_join=is_join)
        for name, (kind, targets, is_join) in Layout(block).steps.items()
    }
    return Graph("F", "flow.py", 1, "", nodes)


class Player:
    """Plays a plan with random choices, and knows by itself, from the frames, what must come of each."""

    def __init__(self, graph, data):
        self.graph = graph
        self.data = data
        self.plan = Plan(graph)
        self.ready = [self.plan.start()]
        self.started = list(self.ready)
        self.visits = Counter()
        self.arrived = {}  # join and opener: the keys of those that wait for their siblings

    def outcome(self, task):
        """What the task asks for; loops are left and fans kept small, so that every play ends."""
        node = self.graph[task.step]
        if node.kind == "switch":
            self.visits[task.step, task.frames] += 1
            late = len(self.started) > MOST_TASKS or self.visits[task.step, task.frames] > MOST_TURNS
            onward = node.targets[-1:]  # the last case of a loop leads out
            return Outcome((self.data.draw(st.sampled_from(onward if late else node.targets)),))
        if node.kind in {"foreach", "parallel"}:
            most = 1 if len(self.started) > MOST_TASKS else 3
            count = self.data.draw(st.integers(1, most))
            return Outcome(node.targets, count=count, gang=node.kind == "parallel")
        return Outcome(node.targets)

    def step(self):
        """Finish one task that is ready, whichever, and check what becomes ready because of it."""
        task = self.ready.pop(self.data.draw(st.integers(0, len(self.ready) - 1)))
        outcome = self.outcome(task)
        assert not self.plan.done
        new = self.plan.finish(task, outcome)
        if outcome.count is not None:
            self.check_fan(task, outcome, new)
        elif len(outcome.targets) > 1:
            self.check_branches(task, outcome, new)
        elif outcome.targets:
            self.check_entered(task, outcome.targets[0], task.frames, new)
        else:
            assert (task.step, task.frames, new, self.plan.done) == ("end", (), [], True)
        self.ready += new
        self.started += new

    def check_fan(self, task, outcome, new):
        """A foreach or gang of n starts n tasks, numbered, each in a frame of its own."""
        assert [t.step for t in new] == list(outcome.targets) * outcome.count
        assert {t.parents for t in new} == {(task.key,)}
        assert [(t.frames[:-1], t.frames[-1].index) for t in new] == [
            (task.frames, index) for index in range(outcome.count)
        ]
        assert {(t.frames[-1].opener, t.frames[-1].count) for t in new} == {(task.key, outcome.count)}
        assert all((t.gang == t.frames[-1]) == outcome.gang for t in new)

    def check_branches(self, task, outcome, new):
        """A branch starts its steps, in the order written, each in a frame of its own."""
        assert [t.step for t in new] == list(outcome.targets)
        assert {t.parents for t in new} == {(task.key,)}
        assert [(t.frames[:-1], t.frames[-1].index) for t in new] == [(task.frames, index) for index in range(len(new))]

    def check_entered(self, task, target, frames, new):
        """A join starts when the last sibling is in, knows them all in order, and closes their split."""
        if not self.graph[target].is_join:
            [entered] = new
            assert (entered.step, entered.parents, entered.frames) == (target, (task.key,), frames)
            return
        frame = frames[-1]
        siblings = self.arrived.setdefault((target, frame.opener), {})
        assert frame.index not in siblings
        siblings[frame.index] = task.key
        if len(siblings) < frame.count:
            assert new == []
            return
        [join] = new
        assert (join.step, join.frames) == (target, frames[:-1])
        assert join.parents == tuple(siblings[index] for index in range(frame.count))
        assert (join.closes.opener, join.closes.count) == (frame.opener, frame.count)
        del self.arrived[target, frame.opener]


@given(blocks, st.data())
def test_a_plan_comes_to_its_end(block, data):
    """In whatever order tasks finish: each runs once, no join early or never, and `end` is the last."""
    player = Player(graph_from(block), data)
    while player.ready:
        player.step()
    assert player.plan.done
    assert player.arrived == {}
    assert [task.key for task in player.started] == list(range(len(player.started)))
    assert Counter(task.step for task in player.started)["end"] == 1
    assert player.started[-1].step == "end"


@given(blocks, st.data())
def test_places_are_unique(block, data):
    """Step, parents and foreach path tell every task from every other: what `resume` finds tasks by."""
    player = Player(graph_from(block), data)
    while player.ready:
        player.step()
    places = Counter((task.step, task.parents, task.foreach_path) for task in player.started)
    assert set(places.values()) == {1}
