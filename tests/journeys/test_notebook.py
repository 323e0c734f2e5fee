"""Runs as a data frame, and how objects look in a notebook."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flowstore
from flowstore import Flow
from support.flows import LINEAR, flow_source

MEMBERS = "n = Parameter('n', default=3)"
START = "self.metrics = {'accuracy': self.n / 10}; self.tag = '<b>&'; self.f = lambda: 1; self.status = 'mine'"


@pytest.fixture
def script(flow):
    """Two runs with different parameters, one of them tagged, and a third that failed."""
    script = flow(flow_source(LINEAR, members=MEMBERS, start=START, end="assert self.n < 9"))
    script("run")
    script("run", "--n", 5, "--tag", "five")
    script("run", "--n", 9, expect=1)
    flowstore.use_store(script.db)
    return script


def test_runs_as_a_data_frame(script):
    """A row a run: what is known, parameters, and the small artifacts of the end; names that clash are kept apart."""
    frame = Flow("F").to_dataframe()
    assert list(frame["run_id"]) == ["3", "2", "1"]
    assert list(frame["status"]) == ["failed", "successful", "successful"]
    assert list(frame["n"]) == [9, 5, 3]
    assert frame["metrics"][1] == {"accuracy": 0.5}
    assert list(frame["status_value"][1:]) == ["mine", "mine"]
    assert "f" not in frame
    assert list(Flow("F").to_dataframe("five")["run_id"]) == ["2"]
    assert str(frame["created_at"].dt.tz) == "UTC"


def test_a_data_frame_needs_pandas(script):
    """Without pandas the error says how to install it."""
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "import flowstore\n"
        "try: flowstore.Flow('F').to_dataframe()\n"
        "except flowstore.FlowstoreError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=script.folder, capture_output=True, text=True)
    assert 'pip install "flowstore[data]"' in ran.stdout


def test_objects_show_as_html_without_loading_anything(script, monkeypatch, tmp_path):
    """Every object shows itself, escaped, also in a file whose pickles may not be loaded."""
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "stranger"))
    run = flowstore.Run("F/2")
    task = run["start"].task
    shown = [each._repr_html_() for each in (Flow("F"), run, run["start"], task, task["tag"], task["f"])]
    assert "successful" in shown[0]
    assert "five" in shown[1]
    assert "function" in shown[3]
    assert "&lt;b&gt;&amp;" in shown[4]
    assert "<b>&" not in "".join(shown)
