"""Objects in notebooks: drawn, escaped, completed, side by side."""

from __future__ import annotations

import re

import pytest

import flowstore
from flowstore import Flow, Flows, Run, namespace, use_store
from flowstore.store import opening, records
from support.flows import LINEAR, PATIENT, flow_source
from support.stores import make_store


def test_a_run_shows_its_graph_artifacts_and_timings(look):
    """Steps with their states and seconds, what came after what, and previews, in a few kilobytes, without scripts."""
    html = Run("F/2")._repr_html_()
    assert html.count('class="box stroke-successful"') == 4
    assert html.count('class="edge"') == 3
    assert "body ×3" in html
    assert 'class="timeline"' in html
    assert "[0.5, 1.0, 1.5]" in html
    assert "日本語" in html
    assert len(html) < 30_000
    failed = Run("F/3")._repr_html_()
    assert "1 failed" in failed
    assert '<span class="state failed">✕ failed</span>' in failed
    assert "AssertionError: too much" in failed
    assert "resume --origin-run-id 3" in failed


def test_a_graph_with_a_loop_is_drawn(flow):
    """An edge leads back; a step stands after all that came before it."""
    script = flow(
        flow_source(
            {"start": "self.next(self.body)", "body": "self.next({'more': self.body, 'done': self.end}, condition='s')",
             "end": ""},
            start="self.n = 0",
            body="self.n += 1\nself.s = 'done' if self.n > 2 else 'more'",
        )
    )  # fmt: skip
    script("run")
    html = script.client()._repr_html_()
    assert html.count('class="edge"') == 3
    assert "body ×3" in html
    assert "switch on s" in Flow("F")._repr_html_()


def test_the_rest_of_a_notebook_keeps_its_look(look):
    """Each rule of the style sheet holds inside of the piece alone; its colours follow the notebook's theme."""
    html = Run("F/2")._repr_html_()
    [css] = re.findall("<style>(.*?)</style>", html)
    selectors = [
        s.strip() for head in re.findall(r"([^{}@]+)\{", re.sub(r"@media[^{]*\{", "", css)) for s in head.split(",")
    ]
    assert len(selectors) > 50
    assert all(".flowstore.flowstore" in selector for selector in selectors)
    assert '[data-jp-theme-light="false"] .flowstore.flowstore,.vscode-dark .flowstore.flowstore{' in css
    assert html.startswith('<div class="flowstore">')
    assert not re.search(r"<script|style=| id=", html)


def test_pictures_are_shown_without_loading_them(flow, monkeypatch, tmp_path):
    """The PNG that was kept is in the HTML of the artifact and of its task, for a stranger too."""
    pytest.importorskip("PIL")
    start = "from PIL import Image\nself.figure = Image.new('RGB', (9, 9))\nself.n = 1"
    script = flow(flow_source(LINEAR, head=PATIENT, start=start))
    script("run")
    task = script.client()["start"].task
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "stranger"))
    for html in (task._repr_html_(), task["figure"]._repr_html_()):
        assert 'alt="figure, as a picture" src="data:image/png;base64,iVBORw0KGgo' in html
    assert "<img" not in task["n"]._repr_html_()


def test_html_is_escaped(tmp_path):
    """Names, tags and values of anybody's are text, in the drawing too."""
    store = opening.ensure_store(tmp_path / "flowstore.db")
    with store.write() as connection:
        run = records.NewRun("F", "tester", {"p": '"</svg><script>"'}, (), None, ["user:tester"], ["<img src=x>"])
        run_id = records.create_run(connection, run)
        step_id = records.ensure_step(connection, run_id, '<b onclick="x">')
        records.start_task(connection, records.NewTask(run_id, step_id, (), None, None))
    store.close()
    use_store(store.path)
    namespace(None)
    html = Run("F/1")._repr_html_()
    assert not re.search(r"<(script|img|b )", html)
    assert "<script" not in Flow("F")._repr_html_()
    assert "&lt;b oncl" in html


def test_brackets_complete_with_tab(look):
    """What IPython asks for after an opening bracket."""
    task = Run("F/1")["start"].task
    asked = [Flows(), Flow("F"), Run("F/1"), Run("F/1")["start"], task, task.artifacts]
    assert [each._ipython_key_completions_()[:2] for each in asked] == [
        ["F"],
        ["3", "2"],
        ["end", "join"],
        ["1"],
        ["alpha", "array"],
        ["alpha", "array"],
    ]


def test_a_data_frame_of_no_runs_has_its_columns(look):
    """So that code which selects columns works."""
    pytest.importorskip("pandas")
    frame = Flow("F").to_dataframe("none")
    assert len(frame) == 0
    assert {"run_id", "status", "created_at", "duration_s", "tags"} <= set(frame)
    assert str(frame["created_at"].dt.tz) == "UTC"
    assert next(iter(Flow("F").to_dataframe()["ys"].dropna())) == [0.5, 1.0, 1.5]


def test_two_stores_side_by_side(look, tmp_path):
    """`use_store` as a context manager switches back, and what was found inside goes on."""
    other = make_store(tmp_path / "other.db", runs=2)
    with use_store(other) as path:
        assert path == other
        inside = Flow("F")
        assert [run.id for run in inside] == ["2", "1"]
    assert [run.id for run in Flow("F")] == ["3", "2", "1"]
    assert [run.id for run in inside] == ["2", "1"]
    assert inside.to_dataframe()["x"][0] == {"accuracy": 0.5}
    assert flowstore.get_store() == look.db


def test_a_run_in_which_nothing_began_has_no_drawing(tmp_path):
    """It shows its fields."""
    store = opening.ensure_store(tmp_path / "flowstore.db")
    with store.write() as connection:
        records.create_run(connection, records.NewRun("F", "tester", {}, (), None, ["user:tester"], []))
    store.close()
    use_store(store.path)
    namespace(None)
    assert "<svg" not in Run("F/1")._repr_html_()
