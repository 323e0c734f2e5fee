"""What is asked of a store's tags is what a plain model answers, and found through indexes."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import combinations, islice, product

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowstore
from flowstore import (
    DataArtifact,
    Flow,
    Flows,
    NamespaceMismatch,
    NotFound,
    Run,
    Step,
    TaggingError,
    Task,
    context,
    namespace,
)
from flowstore.client.addresses import active_scope
from flowstore.maintenance.delete import candidates, delete
from flowstore.store import records, tags
from flowstore.store.opening import active_store, ensure_store
from flowstore.store.tags import Node
from support.cli import Script
from support.flows import LINEAR, flow_source
from support.tagging import SYSTEM, add_run

# --- the plain model

USERS = ("ann", "bob")
TAGS = ("t", "u", "v")
FLOWS = ("F", "G")
ASKED = (*TAGS, "user:ann", "runtime:local", "nothing")
NAMESPACES = (None, "user:ann", "user:bob", "user:nobody", *TAGS, "runtime:local")

run_events = st.tuples(
    st.just("run"),
    st.sampled_from(FLOWS),
    st.sampled_from(USERS),
    st.sets(st.sampled_from(TAGS)),
    st.sampled_from(["successful", "successful", "failed", "stopped", "running"]),
    st.integers(-5, 5),  # how the clock goes on, or back
)
tag_events = st.builds(
    lambda place, tags, old: ("tag", place, tags[old:], tags[:old]),
    st.lists(st.integers(0, 10), min_size=1, max_size=4),  # which run, and which step, task, artifact in it
    st.permutations(TAGS),
    st.sampled_from([0, 1, 1, 2, 3, 3]),  # how many to add; the others are removed
)
end_events = st.tuples(st.just("end"), st.integers(0, 10), st.sampled_from(["successful", "failed", "stopped"]))
delete_events = st.tuples(st.just("delete"), st.integers(0, 10))
other_events = st.one_of(run_events, end_events, delete_events)
histories = st.builds(
    lambda runs, later: [*runs, *(event for pair in later for event in pair)],
    st.lists(run_events, min_size=1, max_size=6),
    st.lists(st.tuples(tag_events, other_events), max_size=8),
)


@attrs.define
class Thing:
    """The model of a run, step, task or artifact: its own tags and what it inherits from."""

    path: str
    above: Thing | None = None
    own: set[str] = attrs.field(factory=set)
    below: list[Thing] = attrs.field(factory=list)
    flow: str = ""
    status: str = ""
    system: frozenset[str] = frozenset()
    created_at: int = 0

    @property
    def tags(self):
        """All tags, the inherited ones included."""
        return self.own | self.system | (self.above.tags if self.above else set())

    def has(self, wanted):
        """Whether it has all tags; None, the global namespace, is none of them."""
        return set(wanted) - {None} <= self.tags

    def child(self, name):
        """Add something below."""
        self.below.append(Thing(f"{self.path}/{name}", self))
        return self.below[-1]


class History:
    """Does the same to a store and to the model."""

    def __init__(self, store):
        self.store = store
        self.runs = []
        self.clock = 1_700_000_000_000
        self.tasks = 0

    def run(self, flow, user, given, status, pace):
        """A run of one step with two tasks, and an end with one."""
        self.clock += pace
        with frozen_clock(self.clock), self.store.write() as db:
            run_id = add_run(db, self.store, flow=flow, user=user, given=sorted(given), status=status)
        newest = max((run.created_at for run in self.runs), default=0)
        made = Thing(f"{flow}/{run_id}", flow=flow, status=status, own=set(given), created_at=max(self.clock, newest))
        made.system = frozenset({f"user:{user}", *SYSTEM, tags.date_tag(made.created_at)})
        for name, count in (("start", 2), ("end", 1)):
            step = made.child(name)
            for _ in range(count):
                self.tasks += 1
                step.child(self.tasks).child("x")
        self.runs.append(made)

    def tag(self, place, removed, added):
        """Replace tags of some run, or of a step, task or artifact of it."""
        if not self.runs:
            return
        thing = self.runs[place[0] % len(self.runs)]
        for number in place[1:]:
            thing = thing.below[number % len(thing.below)]
        found = (Run, Step, Task, DataArtifact)[len(place) - 1](thing.path)
        inherited = thing.above.tags if thing.above else set()
        if inherited & set(removed):
            with pytest.raises(TaggingError):
                found.replace_tags(removed, added)
        else:
            found.replace_tags(removed, added)
            removed, added = set(removed), set(added)
            thing.own = thing.own - removed | (added - inherited)

    def end(self, number, status):
        """A run comes to its end, if it has not."""
        running = [run for run in self.runs if run.status == "running"]
        if running:
            thing = running[number % len(running)]
            thing.status = status
            with self.store.write() as db:
                records.finish_run(db, int(thing.path.split("/")[1]), status)

    def delete(self, number):
        """A run is deleted, unless it is the only one, or still running."""
        over = [run for run in self.runs[1:] if run.status != "running"]
        if over:
            thing = over[number % len(over)]
            self.runs.remove(thing)
            delete(self.store, candidates(self.store, [int(thing.path.split("/")[1])]))
            with pytest.raises(NotFound):
                Run(thing.path)

    def newest(self, flow, wanted):
        """The model's answer: runs of a flow that have all tags, newest first."""
        found = [run for run in self.runs if run.flow == flow and run.has(wanted)]
        return sorted(found, key=lambda run: (run.created_at, int(run.path.split("/")[1])), reverse=True)


@contextmanager
def frozen_clock(at_ms):
    """The store's clock stands still."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "now_ms", lambda: at_ms)
        yield


def paths(things):
    """The pathspecs of what the model or the store gave, `None` for nothing."""
    return [each if each is None else getattr(each, "pathspec", None) or each.path for each in things]


def compare(history):
    """Every question in every namespace has the model's answer."""
    combos = [(), *((tag,) for tag in ASKED), *combinations(ASKED[:4], 2), TAGS, ASKED[:4], ("t", "nothing")]
    for active in NAMESPACES:
        namespace(active)
        names = sorted({run.flow for run in history.runs if run.has([active])})
        assert paths(Flows()) == names == [name for name in FLOWS if name in Flows()]
        for name in {run.flow for run in history.runs} - set(names):
            with pytest.raises(NamespaceMismatch):
                Flow(name)
        for name in names:
            compare_flow(history, name, active, combos)
        for run in history.runs:
            compare_run(run, active)


def compare_flow(history, name, active, combos):
    """A flow's runs, by tags, and the latest."""
    flow = Flow(name)
    runs = history.newest(name, [active])
    successful = [run for run in runs if run.status == "successful"]
    assert paths([flow.latest_run]) == paths(runs[:1])
    assert paths([flow.latest_successful_run]) == paths(successful[:1] or [None])
    for combo in combos:
        assert paths(flow.runs(*combo)) == paths(history.newest(name, [active, *combo]))


def compare_run(run, active):
    """Whether a run, its steps, tasks and artifacts may be seen, and those that have tags."""
    for thing in (run, run.below[0], run.below[0].below[1], run.below[1].below[0].below[0]):
        kind = (Run, Step, Task, DataArtifact)[thing.path.count("/") - 1]
        if thing.has([active]):
            assert kind(thing.path).pathspec == thing.path
        else:
            with pytest.raises(NamespaceMismatch):
                kind(thing.path)
    found = Run._at(active_scope(), run.path)
    assert (found.id in Flow._at(active_scope(), run.flow)) == run.has([active])
    for combo in ((), ("t",), ("t", "u"), ("v", "user:ann")):
        steps = [step for step in reversed(run.below) if step.has([active, *combo])]
        assert paths(found.steps(*combo)) == paths(steps)
        for step in steps:
            tasks = [task for task in reversed(step.below) if task.has([active, *combo])]
            assert paths(Step(step.path).tasks(*combo)) == paths(tasks)


def compare_sql(history):
    """The view `object_tags`, `flowstore tags` and the Client's `tags` say the same as the model."""
    namespace(None)
    expected, counts = set(), {}
    things = list(history.runs)
    for thing in things:
        things += thing.below
        depth = thing.path.count("/")
        assert (Run, Step, Task, DataArtifact)[depth - 1](thing.path).tags == thing.tags
        expected |= {(thing.path, tag, int(tag in thing.own | thing.system)) for tag in thing.tags}
        if thing.above is None:
            counts |= {tag: counts.get(tag, 0) + 1 for tag in thing.tags}
    rows = history.store.rows(
        """select flow || '/' || run_id || coalesce('/' || step, '') || coalesce('/' || task_id, '')
             || coalesce('/' || artifact, ''), tag, own from object_tags"""
    )
    assert sorted(tuple(row) for row in rows) == sorted(expected)
    on_parts = {tag for thing in things if thing.above for tag in thing.own}
    listed = {row["tag"]: row["runs"] for row in tags.listing(history.store)}
    assert counts.keys() <= listed.keys() <= counts.keys() | on_parts
    assert all(listed[tag] == count for tag, count in counts.items() if tag not in on_parts)


@given(histories)
@settings(max_examples=40)
def test_every_question_has_the_models_answer(tmp_path_factory, events):
    """Runs of varying users, tags and ends, changes of tags, deletes, in any order: the store answers as the model."""
    script = Script.__new__(Script)
    script.folder = tmp_path_factory.mktemp("history")
    script.db = script.folder / "flowstore.db"
    ensure_store(script.db).close()
    with flowstore.use_store(script.db), context.within(None), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tags, "_FEW", 8 if len(events) % 2 else 2)  # a few tags are asked for as many are
        store = active_store()
        store.connection().execute("pragma synchronous = off")
        history = History(store)
        for event in events:
            getattr(history, event[0])(*event[1:])
        compare(history)
        compare_sql(history)
    script.check()


# --- how they are found


@contextmanager
def traced(store):
    """Collects the SQL that a store is asked."""
    asked = []
    connection = store.connection()
    connection.set_trace_callback(asked.append)
    try:
        yield asked
    finally:
        connection.set_trace_callback(None)


def plans(store, asked):
    """What SQLite would do for each statement."""
    selects = [sql for sql in asked if sql.lstrip().lower().startswith(("select", "with"))]
    return [row["detail"] for sql in selects for row in store.rows(f"explain query plan {sql}")]


QUESTIONS = {
    "Flow": lambda flow: Flow(flow.id),
    "Run": lambda flow: Run(f"{flow.id}/1"),
    "latest_run": lambda flow: flow.latest_run,
    "latest_successful_run": lambda flow: flow.latest_successful_run,
    "runs()": lambda flow: list(flow.runs()),
    "runs(common)": lambda flow: list(flow.runs("common")),
    "runs(rare)": lambda flow: list(flow.runs("rare")),
    "runs(common, rare)": lambda flow: list(flow.runs("common", "rare")),
    "runs(early, late)": lambda flow: list(flow.runs("early", "late")),
    "runs(early, rare, common)": lambda flow: list(flow.runs("early", "rare", "common")),
    "steps()": lambda flow: list(flow["1"].steps()),
    "steps(own)": lambda flow: list(flow["1"].steps("own")),
    "steps(own, common)": lambda flow: list(flow["1"].steps("own", "common")),
    "tasks()": lambda flow: list(flow["1"]["start"].tasks()),
    "tasks(own)": lambda flow: list(flow["1"]["start"].tasks("own")),
    "tasks(own, also, common)": lambda flow: list(flow["1"]["start"].tasks("own", "also", "common")),
}


@pytest.fixture(scope="module")
def thousands(tmp_path_factory):
    """A store with 2,000 runs of 20 flows and 10 users; all are common, one in a hundred is rare.

    The first half of each flow's runs is early, the rest late; in turn they are p and q, q and r, r and p. Runs of F0
    have steps and tasks, F0/1 tags on them.
    """
    path = tmp_path_factory.mktemp("thousands") / "flowstore.db"
    store = ensure_store(path)
    with store.write() as db:
        for number in range(2000):
            flow, user = f"F{number % 20}", f"u{number // 200}"
            given = ["common", "rare"] if number % 100 == 0 else ["common"]
            given += ["early"] if number < 1000 else ["late"]
            given += [("p", "q"), ("q", "r"), ("r", "p")][number // 20 % 3]
            status = "successful" if number % 3 else "failed"
            steps = (("start", 3 if number else 200), ("end", 1)) if number % 20 == 0 else ()
            add_run(db, store, flow=flow, user=user, given=given, status=status, steps=steps)
    for node in (Node("F0/1/start", 1, 1), Node("F0/1/start/1", 1, 1, 1), Node("F0/1/start/7", 1, 1, 7)):
        tags.change(store, node, add=["own", "also"])
    store.close()
    return path


@pytest.mark.parametrize("analyzed", [False, True], ids=["", "analyzed"])
@pytest.mark.parametrize("active", [None, "user:u0", "rare"])
@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
def test_all_is_found_through_indexes(ask, active, analyzed, thousands):
    """No question looks through a table, or has SQLite sort what it found; whatever its statistics say."""
    with flowstore.use_store(thousands), context.within(active):
        store = active_store()
        store.connection().execute("analyze" if analyzed else "drop table if exists sqlite_stat1")
        flow = Flow("F0")
        with traced(store) as asked:
            ask(flow)
        found = plans(store, asked)
    assert len(found) > 1
    harmless = ("SEARCH", "SCALAR", "CORRELATED SCALAR", "SCAN CONSTANT ROW")  # the last one is no table's
    assert [step for step in found if not step.startswith(harmless)] == []


def test_the_first_of_many_runs(thousands):
    """Taking the first of many runs reads one short page; going through all of them reads few long ones."""
    with flowstore.use_store(thousands), context.within(None):
        flow, store = Flow("F0"), active_store()
        with traced(store) as first:
            assert next(flow.runs()).id == "1981"
        with traced(store) as all_:
            assert len(list(flow.runs())) == 100
        assert len(first) <= 3
        assert len(all_) <= 8
        assert flow.latest_run.id == "1981"
        assert steps_of(store, lambda: flow.latest_run) < 300, "however many runs there are"


def steps_of(store, ask):
    """The steps that SQLite's own machine takes to answer."""
    steps = []
    store.connection().set_progress_handler(lambda: steps.append(1), 1)
    ask()
    store.connection().set_progress_handler(None, 0)
    return len(steps)


def test_tags_that_never_meet_are_not_searched_for(thousands):
    """Two tags that half of the runs have each: that none has both costs what it costs with ten runs."""
    with flowstore.use_store(thousands), context.within(None):
        flow, store = Flow("F1"), active_store()
        assert [run.id for run in flow.runs("early", "late")] == []
        assert len(list(flow.runs("early"))) == len(list(flow.runs("late"))) == 50
        assert steps_of(store, lambda: list(flow.runs("early", "late"))) < 300


def test_three_tags_that_meet_in_pairs_only(thousands):
    """Where each two of three tags meet, and never all three, one of them is walked once, a few steps for each run."""
    with flowstore.use_store(thousands), context.within(None):
        flow, store = Flow("F1"), active_store()
        assert [len(list(flow.runs(*pair))) for pair in (("p", "q"), ("q", "r"), ("r", "p"))] == [34, 33, 33]
        assert list(flow.runs("p", "q", "r")) == []
        assert steps_of(store, lambda: list(flow.runs("p", "q", "r"))) < 300 + 30 * len(list(flow.runs("q")))


def test_tags_of_a_crowded_run_are_found_together(thousands):
    """A run with many tags, given at once or one by one, is found by any two of them."""
    at_once, one_by_one = [f"a{n}" for n in range(40)], [f"b{n}" for n in range(40)]
    with flowstore.use_store(thousands), context.within(None):
        flow = Flow("F2")
        first, second = islice(flow.runs(), 2)
        first.add_tags(at_once)
        for tag in one_by_one:
            second.add_tag(tag)
        for tags_, owner in ((at_once, first), (one_by_one, second)):
            for pair in combinations(["common", *tags_], 2):
                assert list(flow.runs(*pair)) == [owner]
        for pair in product(at_once, one_by_one[::7]):
            assert list(flow.runs(*pair)) == []
        first.remove_tags(at_once)
        second.remove_tags(one_by_one)


def test_a_run_that_is_no_longer_crowded_is_found(thousands):
    """A run that had many tags, lost most, and got another is found by old and new ones together."""
    many = [f"c{n}" for n in range(40)]
    with flowstore.use_store(thousands), context.within(None):
        run = next(iter(Flow("F2").runs()))
        run.add_tags(many)
        run.remove_tags(many[2:])
        run.add_tag("new")
        for count in (2, 3, 4):
            for asked in combinations(["common", *many[:2], "new"], count):
                assert list(Flow("F2").runs(*asked)) == [run]
        run.remove_tags([*many[:2], "new"])


def test_ones_own_user_tag_may_be_given(flow):
    """Adding a tag that is there anyway, a system tag included, is no error; it stays a system tag."""
    script = flow(flow_source(LINEAR))
    script("run", "--tag", "user:tester", "--tag", "mine")
    assert script.client().user_tags == {"mine"}
    assert "user:tester" in script.client().system_tags
