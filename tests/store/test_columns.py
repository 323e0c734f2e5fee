"""Where people read numbers: parameters, items, failures, notes, pictures; runs sorted and chosen by them."""

from __future__ import annotations

import json
import math
import textwrap

import pytest

import flowstore
from support.cli import Script, command
from support.flows import FOREACH, LINEAR, MIDDLE, flow_source

# --- parameters


def test_parameters_in_sql_follow_the_same_rules(run_once, monkeypatch):
    """NaN is null, infinity and large integers are numbers, and so they are within a JSON parameter."""
    script = run_once(
        flow_source(
            LINEAR,
            members="""
                lr = Parameter("lr", default=0.5)
                top = Parameter("top", default=1.0)
                huge = Parameter("huge", default=1)
                options = Parameter("options", type=JSONType, default="{}")
            """,
        ),
        "--lr", "nan", "--top", "inf", "--huge", 2**70, "--options", '{"x": [Infinity, NaN]}',
    )  # fmt: skip
    [text] = script.sql("select parameters from run_summary")
    assert json.loads(text) == {"lr": None, "top": math.inf, "huge": 2**70, "options": {"x": [math.inf, None]}}
    assert script.sql("select count(*) from run_summary where parameters ->> '$.lr' > 20") == [0]
    assert script.sql("select count(*) from run_summary where parameters ->> '$.top' > 20") == [1]
    monkeypatch.setenv("FLOWSTORE_HOME", str(script.folder / "home"))
    found = script.client().parameters
    assert [math.isnan(found["lr"]), math.isnan(found["options"]["x"].pop())] == [True, True]
    assert found == {"lr": found["lr"], "top": math.inf, "huge": 2**70, "options": {"x": [math.inf]}}


# --- what else a row tells


def test_the_item_of_a_foreach_task_is_shown(run_once):
    """In the innermost foreach, whatever the items are; nothing where there is none."""
    script = run_once(
        flow_source(
            {
                "start": "self.next(self.outer, foreach='xs')",
                "outer": "self.next(self.inner, foreach='ys')",
                "inner": "self.next(self.after)",
                "after": "self.next(self.join1)",
                "join1": "self.next(self.join2)",
                "join2": "self.next(self.end)",
                "end": "",
            },
            start="self.xs = [{'depth': 1}, 'x' * 5000]",
            outer="self.ys = {'a', 'b'} if self.index == 0 else range(1)",
        )
    )
    rows = script.sql("select step, item from task_summary where step <> 'end' order by step, item")
    assert [row for row in rows if row[0] != "outer"] == [
        ("after", "'a'"), ("after", "'b'"), ("after", "0"),
        ("inner", "'a'"), ("inner", "'b'"), ("inner", "0"),
        ("join1", rows[6][1]), ("join1", "{'depth': 1}"), ("join2", None), ("start", None),
    ]  # fmt: skip
    assert rows[6][1].startswith("'xxx")
    assert len(rows[6][1]) <= 200


def test_a_failure_is_told_in_one_line(run_once):
    """By the run its first, by the task its last; a run that went well says none."""
    script = run_once(
        flow_source(
            MIDDLE,
            middle="@retry(times=1, minutes_between_retries=0)\nraise ValueError(f'no {current.retry_count}\\nmore')",
        ),
        expect=1,
    )
    assert script.sql("select error, note from run_summary") == [("ValueError: no 1", None)]
    assert script.sql("select step, error, host is not null from task_summary order by task_id") == [
        ("start", None, 1), ("middle", "ValueError: no 1", 1),
    ]  # fmt: skip


def test_a_note_is_set_and_removed(measured):
    """It is a column of `run_summary`; what is no text is refused."""
    run = measured.client()
    run.note = "the good one"
    assert (run.note, measured.sql("select note from run_summary")) == ("the good one", ["the good one"])
    with pytest.raises(flowstore.FlowstoreError, match="text"):
        run.note = 5
    run.note = None
    assert run.note is None


def test_pictures_are_kept_beside_figures_and_images(run_once):
    """A PNG of at most 1 MB, however large the picture; nothing else has one."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("PIL.Image")
    script = run_once(
        flow_source(
            LINEAR,
            head="""
                import matplotlib
                matplotlib.use("agg")
                import matplotlib.pyplot as plt
                import PIL.Image
                from flowstore.store import pictures
                pictures.LONGEST_S = 30.0  # on a busy machine
            """,
            start="""
                self.figure, self.axes = plt.subplots()
                self.axes.plot([1, 2, 3])
                self.noise = PIL.Image.frombytes("RGB", (1500, 1500), os.urandom(1500 * 1500 * 3))
                self.deep = PIL.Image.new("I;16", (4, 4))
                self.number = 3
            """,
        )
    )
    rows = script.sql(
        """select v.name, substr(p.png, 1, 8), length(p.png) from pictures p join blobs b on b.id = p.blob_id
           join artifact_values v on v.sha = lower(hex(b.sha)) order by v.name"""
    )
    assert [name for name, *_ in rows] == ["axes", "deep", "figure", "noise"]
    assert {head for _, head, _ in rows} == {b"\x89PNG\r\n\x1a\n"}
    assert max(size for *_, size in rows) <= 1_000_000


# --- finding runs by them


@pytest.fixture(scope="module")
def several(run_once):
    """Three runs with a metric each, and a fourth without."""
    script = run_once(flow_source(LINEAR, members="a = Parameter('a', default=1)", start="self.m = {'x': 10 - self.a}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSTORE_HOME", str(script.folder / "home"))
        patch.setenv("FLOWSTORE_USER", "tester")
        script("run", "--a", 3)
        script("run", "--a", 2)
        script.rewrite(flow_source(LINEAR, members="a = Parameter('a', default=0)"))
        script("run")
    return script


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--sort", "m.x"), [2, 3, 1, 4]),
        (("--sort", "-m.x"), [1, 3, 2, 4]),
        (("--sort", "-m.x", "--limit", 2), [1, 3]),
        (("--sort", "a"), [4, 1, 3, 2]),
        (("--sort", "run", "--limit", 1), [1]),
        (("--columns", "m.x"), [4, 3, 2, 1]),
    ],
)
def test_runs_are_sorted_by_metrics_and_parameters(several, words, expected):
    """Before the limit counts; those without the value come last."""
    rows = json.loads(command("runs", *words, "--json", "--store", several.db).stdout)
    assert [int(row["run"].removeprefix("F/")) for row in rows] == expected


def test_chosen_columns_take_the_place_of_what_is_wide(several):
    """A table shows them instead of all parameters; JSON has both."""
    out = command("runs", "--columns", "m.x, a", "--store", several.db).stdout
    assert out.splitlines()[0].replace(" (UTC)", "").split() == [
        "run", "status", "user", "created_at", "duration_s", "m.x", "a",
    ]  # fmt: skip
    rows = json.loads(command("runs", "--columns", "m.x", "--json", "--store", several.db).stdout)
    assert (rows[0]["m.x"], rows[1]["m.x"], rows[1]["parameters"]) == (None, 8, {"a": 2})


def test_a_column_that_no_run_has_is_told(several):
    """The runs are listed all the same."""
    result = command("runs", "--sort", "nothing", "--store", several.db)
    assert result.stderr == "No run here has a 'nothing' to sort by.\n"
    assert len(result.stdout.splitlines()) == 5
    shown = command("runs", "--columns", "nothing,m.x", "--store", several.db)
    assert shown.stderr == "No run here has a 'nothing'.\n"
    assert len(shown.stdout.splitlines()) == 5


def test_the_readme_s_question_is_answered(several):
    """In SQL: which run did best by a number within an artifact."""
    query = "select run_id, number from metrics where name = 'm.x' order by number desc limit 1"
    assert several.sql(query) == [(1, 9.0)]
    assert textwrap.dedent(query)


@pytest.mark.parametrize(
    ("items", "shown"),
    [
        ("['a', 'b', 'c']", ["'a'", "'b'", "'c'"]),
        ("[(1, 2), {3}, None]", ["(1, 2)", "{3}", "None"]),
        ("{'a': 1, 'b': 2, 'c': 3}", ["'a'", "'b'", "'c'"]),
        ("range(3)", None),  # a pickle: only what the earlier run showed
        ("[lambda: 0] * 2 + [max]", None),
    ],
)
@pytest.mark.quick("['a', 'b', 'c']-shown0", "range(3)-None")
def test_a_resumed_run_shows_the_items_of_its_new_tasks(tmp_path, items, shown):
    """Where the task that set the list is taken over: as the earlier run showed them, or from a list read safely."""
    source = flow_source(FOREACH, start=f"self.xs = {items}", body="if self.index == 1: raise ValueError")
    script = Script(tmp_path, source)
    script("run", "--max-workers", "1", expect=1)
    script.rewrite(source.replace("raise ValueError", "pass"))
    script("resume")
    rows = script.sql("select foreach_index, item from task_summary where run_id = 2 and step = 'body' order by 1")
    known = dict(script.sql("select foreach_index, item from task_summary where run_id = 1 and step = 'body'"))
    assert rows == [(index, shown[index] if shown else known.get(index)) for index in range(3)]
    assert rows[1][1] is not None


def test_a_resumed_run_shows_the_items_of_two_foreaches(tmp_path):
    """Each new task has the item of its own innermost foreach, of two side by side."""
    tails = {
        "start": "self.next(self.a, self.b)",
        "a": "self.next(self.x, foreach='xs')", "x": "self.next(self.join_x)",
        "join_x": "self.next(self.join)",
        "b": "self.next(self.y, foreach='ys')", "y": "self.next(self.join_y)",
        "join_y": "self.next(self.join)", "join": "self.next(self.end)", "end": "",
    }  # fmt: skip
    source = flow_source(tails, a="self.xs = ['x0', 'x1']", b="self.ys = ['y0', 'y1']")
    script = Script(tmp_path, source)
    script("run")
    script("resume", "x")
    script("resume", "y", "--origin-run-id", "1")
    for run_id in (2, 3):
        rows = script.sql(
            "select step, item from task_summary where run_id = ? and item is not null order by 1, 2", run_id
        )
        assert rows == [("x", "'x0'"), ("x", "'x1'"), ("y", "'y0'"), ("y", "'y1'")]
