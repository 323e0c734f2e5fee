"""The steps of a run as its source has them, those that have not started included; and when its tasks ran."""

from __future__ import annotations

import re

import pytest

from flowstore import Flow, Run, namespace, use_store
from flowstore.client import graphs, rows, timelines
from flowstore.store import opening, records, snapshots
from support.flows import FOREACH, HEAD, flow_source
from support.recording import add_run, store_with


def graph_of(pathspec):
    """The graph of a run, by the names of the steps."""
    run = Run(pathspec)
    return {step.name: step for step in graphs.of_run(run, rows.of_run(run))}


def timeline_of(pathspec, *unfolded):
    """The timeline of a run."""
    run = Run(pathspec)
    return timelines.of_run(run, rows.of_run(run), unfolded)


@pytest.fixture
def stopped(flow):
    """A run whose third body failed, of a foreach over nine."""
    script = flow(
        flow_source(
            FOREACH,
            start="self.xs = list(range(9))",
            body="@retry(times=1)\nif self.input == 2 and not Path('mended').exists(): raise ValueError('no')",
        )
    )
    script("run", "--max-workers", "1", expect=1)
    script.client()
    return script


def test_steps_that_have_not_started_are_there(stopped):
    """The source says what follows, and the foreach how many tasks are missing."""
    steps = graph_of("F/1")
    assert [(step.name, step.targets, step.state) for step in steps.values()] == [
        ("start", ("body",), "successful"),
        ("body", ("join",), "failed"),
        ("join", ("end",), None),
        ("end", (), None),
    ]
    assert (steps["body"].begun, steps["body"].expected, steps["join"].expected) == (3, 9, 1)
    assert graphs.note_of(steps["body"]) == "2 ✓ · 1 ✕ · 6 not started"
    html = graphs.draw(list(steps.values()), lambda step: f"/run/F/1?step={step.name}", label="Steps of F/1")
    assert "body ×9" in html
    assert html.count("stroke-none") == 2
    assert html.count('href="/run/F/1?step=') == 4
    assert "for each of xs" in html


def test_a_flow_has_the_graph_of_its_newest_run(stopped):
    """Without states: nothing in it is dashed."""
    steps = graphs.of_flow(Flow("F"))
    html = graphs.draw(steps, label="Steps of F")
    assert [step.name for step in steps] == ["start", "body", "join", "end"]
    assert html.count("stroke-plain") == 4


def test_what_failed_comes_first_and_the_others_are_one_row(stopped):
    """Each attempt is a bar; a resumed run marks what it took over."""
    first, *others = timeline_of("F/1").rows
    assert (timelines.name_of(first), first.state, [span.state for span in first.spans]) == (
        "body[2]", "failed", ["failed", "failed"],
    )  # fmt: skip
    assert [timelines.name_of(row) for row in others] == ["start", "body[0]", "body[1]"]
    (stopped.folder / "mended").touch()
    stopped("resume", "--max-workers", "1")
    assert [(timelines.name_of(row), row.state, row.origin) for row in timeline_of("F/2").rows] == [
        ("start", "reused", "F/1/start/1"),
        ("▸ body, 7 tasks", "successful", None),
        ("▸ body, 2 others", "reused", "F/1"),
        ("join", "successful", None),
        ("end", "successful", None),
    ]
    unfolded = timeline_of("F/2", "body").rows
    assert [timelines.name_of(row) for row in unfolded[1:10]] == [f"body[{n}]" for n in (0, 1, 2, 3, 4, 5, 6, 7, 8)]
    html = timelines.draw(timeline_of("F/2"), lambda row: f"/task/{row.pathspec}", label="Timeline of F/2")
    assert "taken over from F/1/start/1" in html
    assert 'href="/task/F/2/body"' in html


def recorded(path, source, name="flow.py", **more):
    """A run in a store whose source is as given, in which the first task of `start` runs."""
    store = opening.ensure_store(path)
    with store.write() as db:
        files = {name: source.encode(), **{key: text.encode() for key, text in more.get("files", {}).items()}}
        code_id = snapshots.ensure(db, store, snapshots.Program(name), files)
        run_id = records.create_run(db, records.NewRun("F", "tester", {}, (), code_id, ["user:tester"], []))
        step_id = records.ensure_step(db, run_id, "start")
        records.start_task(db, records.NewTask(run_id, step_id, (), None, None))
    store.close()
    use_store(store.path)
    namespace(None)


def test_steps_of_base_classes_are_known(tmp_path):
    """Also where they are in another file of the snapshot, and where a step calls the version of its base."""
    base = HEAD + (
        "class Base(FlowSpec):\n    @step\n    def start(self):\n        self.next(self.a)\n"
        "    @step\n    def end(self):\n        pass\n"
    )
    source = (
        "from flowstore import step\nfrom .parts import base\nfrom shop.mixed import Mixed as M\n"
        "class F(M, base.Base):\n    @step\n    def start(self):\n        super().start()\n"
        "    @step\n    def a(self):\n        self.next({'x': self.b, 'y': self.end}, condition='kind')\n"
    )
    mixed = "import flowstore\nclass Mixed:\n    @flowstore.step\n    def b(self):\n        self.next(self.a)\n"
    files = {"shop/parts/base.py": base, "shop/mixed/__init__.py": mixed}
    recorded(tmp_path / "flowstore.db", source, "shop/flow.py", files=files)
    steps = graph_of("F/1")
    assert {name: step.targets for name, step in steps.items()} == {
        "start": ("a",),
        "a": ("b", "end"),
        "b": ("a",),
        "end": (),
    }
    assert steps["a"].condition == "kind"
    assert steps["end"].expected is None  # a switch decides
    assert graphs.note_of(steps["end"]) == "not started"


def test_a_step_that_a_switch_passed_by_was_not_needed(flow):
    """In a run that succeeded nothing is left to start."""
    script = flow(
        flow_source(
            {"start": "self.next({'x': self.a, 'y': self.b}, condition='kind')", "a": "self.next(self.end)",
             "b": "self.next(self.end)", "end": ""},
            start="self.kind = 'x'",
        )
    )  # fmt: skip
    script("run")
    script.client()
    assert {name: graphs.note_of(step).partition(" ·")[0] for name, step in graph_of("F/1").items()} == {
        "start": "1 task", "a": "1 task", "b": "not needed", "end": "1 task",
    }  # fmt: skip
    assert "not started" not in Run("F/1")._repr_html_()


@pytest.mark.parametrize(
    "source",
    [
        "class F(",
        "x = " + "(" * 5000,
        "x = " + "-" * 50_000 + "1",
        "class F(F): pass",
        "\0",
        "class F:\n    @step\n    def start(self):\n        self.next(" + "a." * 3000 + "b)",
        "class F:\n    @step\n    def start(self, *, x):\n        self.next(self.nowhere)",
    ],
)
def test_no_source_stops_the_drawing(tmp_path, source):
    """What cannot be parsed, is too deep, or names what is not there leaves the steps that began."""
    recorded(tmp_path / "flowstore.db", source)
    assert graph_of("F/1")["start"].state == "running"
    assert graphs.draw(list(graph_of("F/1").values()), label="x").count("<rect") >= 1


def test_parsing_does_not_warn(tmp_path, recwarn):
    """What Python has against a source concerns whoever runs it, not those who look at the run."""
    recorded(tmp_path / "flowstore.db", flow_source(FOREACH, head="PATTERN = '\\d'\n1 is 1"))
    assert list(graph_of("F/1")) == ["start", "body", "join", "end"]
    assert list(recwarn) == []


def test_a_run_without_source_has_the_steps_that_began(tmp_path):
    """And the arrows that its tasks took."""
    use_store(store_with(tmp_path / "flowstore.db", {"width": 3, "fails_at": "join"}))
    namespace(None)
    assert {name: step.targets for name, step in graph_of("F/1").items()} == {
        "start": ("body",), "body": ("join",), "join": (),
    }  # fmt: skip
    assert graphs.note_of(graph_of("F/1")["join"]).startswith("failed · ")


@pytest.mark.long
def test_ten_thousand_tasks_are_few_rows(tmp_path):
    """A folded step is one row; an unfolded one has at most a thousand, and one for the others."""
    store = opening.ensure_store(tmp_path / "flowstore.db")
    add_run(store, width=1100, printed="")
    store.close()
    use_store(store.path)
    namespace(None)
    assert [timelines.name_of(row) for row in timeline_of("F/1").rows] == [
        "start", "▸ body, 1,100 tasks", "join", "end",
    ]  # fmt: skip
    unfolded = timeline_of("F/1", "body")
    assert len(unfolded.rows) < 1020
    assert "▸ body, 100 others" in [timelines.name_of(row) for row in unfolded.rows]
    html = timelines.draw(unfolded, label="Timeline")
    assert html.count("<rect") <= 2000
    assert len(re.findall("<li ", html)) == len(unfolded.rows)
