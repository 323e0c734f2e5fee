"""After an import flowstore answers as Metaflow's Client did, of runs that the real Metaflow has made just before.

`FLOWSTORE_TEST_METAFLOW` names the Python of an environment in which Metaflow is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flowstore
from flowstore.cards import get_cards
from flowstore.store.opening import use_store
from support.cli import command
from support.shipped import check, sql

PYTHON = os.environ.get("FLOWSTORE_TEST_METAFLOW", "")
HERE = Path(__file__).parent / "metaflow"
sys.path.insert(0, str(HERE))
from ask import ask  # noqa: E402  # the same program asks Metaflow

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON, reason="FLOWSTORE_TEST_METAFLOW names no Python with Metaflow"),
]


def metaflow(folder, *words, user="anne", code=0, **env):
    """Run Python with Metaflow in a folder."""
    bare = {
        name: text for name, text in os.environ.items() if not name.startswith(("METAFLOW_", "FLOWSTORE_", "PYTHON"))
    }
    path = f"{Path(PYTHON).parent}:{os.environ['PATH']}"  # gangs start `python`
    env = {**bare, "PATH": path, "USERNAME": user, "USER": user, "HOME": str(folder), **env}
    done = subprocess.run(
        [PYTHON, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder that Metaflow leaves: Anne's run, one of Will's that failed, and one that resumed that."""
    folder = tmp_path_factory.mktemp("metaflow")
    shutil.copy(HERE / "new_flow.py", folder)
    run = ("new_flow.py", "--no-pylint", "run")
    package = "METAFLOW_FEAT_ALWAYS_UPLOAD_CODE_PACKAGE"
    metaflow(folder, *run, "--alpha", "0.25", "--tag", "good", "--tag", "two words", MEGABYTES="100", **{package: "1"})
    metaflow(folder, *run, user="will", code=1, FAILS="1")
    metaflow(folder, "new_flow.py", "--no-pylint", "resume", user="will")
    return folder


@pytest.fixture(scope="module")
def answers(folder):
    """The answers of Metaflow's Client, and ours."""
    theirs = json.loads(metaflow(folder, str(HERE / "ask.py")))
    store = folder / "here.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSTORE_HOME", str(folder / ".home"))
        command("import-metaflow", folder, "--trust", "--store", store)
        check(store)
        with use_store(store):
            ours = json.loads(json.dumps(ask(flowstore, get_cards, "origin_pathspec")))
    return theirs, ours


def test_runs_are_answered_alike(answers):
    """Status, times, tags, code, steps, the end task and its artifacts; the latest run of each user."""
    theirs, ours = answers
    assert len(theirs["runs"]) == 3
    assert ours["latest"] == theirs["latest"]
    for address, run in theirs["runs"].items():
        assert {**ours["runs"][address], "tasks": None} == {**run, "tasks": None}


def test_tasks_are_answered_alike(answers):
    """But for a task whose failure was caught, which is successful here, and for loops, where our answer is exact."""
    theirs, ours = answers
    for address, run in theirs["runs"].items():
        assert ours["runs"][address]["tasks"].keys() == run["tasks"].keys()
        is_resumed = run is theirs["runs"][max(theirs["runs"])]  # in which their Client does not find all relatives
        for name, task in run["tasks"].items():
            here, step = ours["runs"][address]["tasks"][name], name.split("/")[2]
            if step == "right":
                task["successful"] = True
            if step in {"loop", "last", "after"} or is_resumed:
                for relatives in ("parents", "children"):
                    assert is_resumed or set(here[relatives]) <= set(task[relatives])
                    task[relatives] = here[relatives]
            if is_resumed:  # their Client adds facts of the task that was taken over
                assert [fact for fact in here["facts"] if fact not in task["facts"]] == []
                task["facts"] = here["facts"]
            assert here == task, name


def test_relatives_of_a_resumed_run_are_those_of_its_origin(answers):
    """By step and index: Metaflow copies tasks in any order, and does not say where they stand."""
    failed, resumed = sorted(answers[1]["runs"])[1:]
    assert lineage(answers[1]["runs"][resumed]) >= lineage(answers[1]["runs"][failed])


def lineage(run):
    """Pairs of steps, with the indexes of tasks, of which one came directly before the other."""
    named = {address: (address.split("/")[2], task["index"]) for address, task in run["tasks"].items()}
    return {(named[parent], named[address]) for address, task in run["tasks"].items() for parent in task["parents"]}


def test_everything_is_shown(folder, answers):
    """The commands take what was imported like any other run."""
    store = folder / "here.db"
    address = min(answers[0]["runs"])
    for words in (["runs"], ["show", address], ["logs", address], ["tags"], ["search", "it is bad"]):
        assert command(*words, "--store", store).stdout
    first, second = sql(store, "select flow || '/' || run_id from run_summary order by run_id limit 2")
    assert "alpha" in command("diff", first, second, "--store", store).stdout
    command("check", "--deep", "--store", store)
