"""Every command that takes a run or a pathspec takes addresses: `F/latest`, `F/5/step/latest`, `F/5/metrics`."""

from __future__ import annotations

import json

import pytest

import flowstore
from flowstore import Run, Task
from support.cli import command
from support.flows import FOREACH, flow_source
from support.recording import store_with


@pytest.fixture
def script(flow):
    """The flow F and four runs of it: two that succeeded, one that failed, and the newest, which is anne's."""
    made = flow(flow_source(FOREACH, start="self.xs = [1]"))
    runs = [{"x": 1}, {"x": 2, "width": 2}, {"x": 3, "width": 2, "fails_at": "end"}, {"x": 4, "user": "anne"}]
    store_with(made.db, *runs)
    return made


ADDRESSES = [  # the arguments, and what the answer holds
    (["show", "F/latest"], "F/4/start"),
    (["show", "F/latest", "--namespace", "user:tester"], "F/3/start"),
    (["show", "F/latest-successful", "--namespace", "user:tester"], "F/2/start"),
    (["show", "F/2/body/latest"], "range(1, 9)"),
    (["show", "F/2/x"], "x  "),
    (["get", "F/2/x"], "2\n"),
    (["get", "F/latest/x"], "4\n"),
    (["logs", "F"], "hello\n"),
    (["logs", "F/2/body/latest", "--json"], '"task": "F/2/body/5"'),
    (["diff", "F/1", "F"], "F/4"),
    (["delete", "F/latest", "--dry-run", "--json"], '"run": "F/4"'),
    (["delete", "F/latest-successful", "--dry-run", "--json", "--namespace", "user:tester"], '"run": "F/2"'),
]


@pytest.mark.parametrize(("words", "answer"), ADDRESSES, ids=[" ".join(words) for words, _ in ADDRESSES])
def test_addresses_of_flowstore(script, words, answer):
    """`latest` looks in the chosen namespace; an artifact of the end task needs no step."""
    assert answer in command(*words, folder=script.folder).stdout


def test_export_takes_addresses(script):
    """What is exported is the run that the address stands for."""
    command("export", "out.db", "F/latest-successful", "--namespace", "user:tester", folder=script.folder)
    rows = json.loads(command("runs", "--store", "out.db", "--json", folder=script.folder).stdout)
    assert [row["run"] for row in rows] == ["F/2"]


IN_THE_FLOW = [
    (["list", "steps", "latest"], "F/3/start"),
    (["list", "tasks", "latest-successful"], "F/2/body/5"),
    (["list", "tasks", "latest", "--namespace", ""], "F/4/start"),
    (["logs", "latest"], "hello\n"),
    (["logs", "F/latest/start/latest"], "hello\n"),
    (["dump", "latest-successful/body/latest"], "F/2/body/5:"),
    (["dump", "F/2/body/5"], "F/2/body/5:"),
    (["dump", "latest/start", "--namespace", "user:anne"], "  x = 4"),
    (["tag", "list", "--run-id", "latest"], "user:tester"),
    (["tag", "list", "--pathspec", "latest/start/latest"], "user:tester"),
    (["tag", "list", "--pathspec", "2/x"], "user:tester"),
]


@pytest.mark.parametrize(("words", "answer"), IN_THE_FLOW, ids=[" ".join(words) for words, _ in IN_THE_FLOW])
def test_addresses_in_the_flow(script, words, answer):
    """The flow's own name may be left out, and `latest` is the user's latest run."""
    assert answer in script(*words).stdout


def test_tags_are_set_at_addresses(script):
    """The tag is on what the address stands for."""
    script("tag", "add", "newest", "--run-id", "latest")
    script("tag", "add", "good", "--pathspec", "latest-successful/body/latest")
    script("tag", "add", "kept", "--pathspec", "2/x")
    flowstore.use_store(script.db)
    assert Run("F/3").user_tags == {"newest"}
    assert Task("F/2/body/5").user_tags == {"good"}
    assert Run("F/2").data.x == 2
    assert Run("F/2").end_task["x"].user_tags == {"kept"}


@pytest.mark.parametrize(("origin", "run_id"), [("latest-successful", "2"), ("F/1", "1"), ("latest", "3")])
def test_a_run_is_resumed_by_its_address(script, origin, run_id):
    """--origin-run-id takes what names a run."""
    script("resume", "--origin-run-id", origin)
    assert script.sql("select origin_run_id from run_summary where run_id = 5") == [run_id]


WRONG = [
    (["show", "G/latest"], 1, "no run of a flow 'G'"),
    (["show", "F/latst"], 1, "Did you mean 'latest'?"),
    (["show", "F/2/bdy"], 1, "Did you mean 'body'?"),
    (["get", "F/2/start/4"], 1, "does not address an artifact"),
    (["diff", "F/1", "F/2/start"], 1, "does not address a run"),
    (["logs", "F/2/x/y/z"], 1, "does not address"),
]


@pytest.mark.parametrize(("words", "code", "message"), WRONG, ids=[" ".join(words) for words, *_ in WRONG])
def test_wrong_addresses(script, words, code, message):
    """The message says what is wrong, and what was perhaps meant."""
    assert message in command(*words, expect=code, folder=script.folder).stderr


WRONG_IN_THE_FLOW = [
    (["logs", "latst"], 1, "Did you mean 'latest'?"),
    (["logs", "2/bdy"], 1, "Did you mean 'body'?"),
    (["logs", "2/body/5/x/y"], 2, "does not address a run"),
    (["dump", "2"], 2, "does not address a step or a task"),
    (["resume", "--origin-run-id", "latst"], 1, "Did you mean 'latest'?"),
    (["tag", "add", "t", "--run-id", "2/body"], 2, "does not address a run"),
    (["tag", "add", "t", "--run-id", "4"], 1, "user:anne"),
]


def test_wrong_addresses_in_the_flow(script):
    """A wrong form is wrong usage, and what is not there is an error."""
    for words, code, message in WRONG_IN_THE_FLOW:
        assert message in script(*words, expect=code).stderr, words
