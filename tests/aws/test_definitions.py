"""Definitions of state machines, as two validators see them that know Amazon's rules and not ours."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from support.aws import spare
from support.flows import BRANCH, FOREACH, GANG, LINEAR, flow_source
from support.graphs import LOOP, NESTED, SPLIT_IN_FOREACH, SWITCH
from support.production import one_message

SOURCES = {
    "linear": flow_source(LINEAR),
    "branch": flow_source(BRANCH),
    "foreach": flow_source(FOREACH),
    "nested foreach": NESTED,
    "switch": SWITCH,
    "loop": LOOP,
    "gang": flow_source(GANG, body="@parallel"),
    "branches in a foreach": SPLIT_IN_FOREACH,
    "a name of any kind": flow_source({**LINEAR, "start": "self.next(self.Queued)", "Queued": "self.next(self.end)"}),
}
# The programs, read here since tests see none of these variables; each with the option that stands before a file.
VALIDATORS = [(os.environ.get("FLOWSTORE_TEST_ASL"), ["--json-path"]), (os.environ.get("FLOWSTORE_TEST_STATELINT"), [])]


@pytest.mark.parametrize("options", [[], ["--steps"]], ids=["a run", "steps"])
def test_definitions_are_valid(flow, tmp_path, options):
    """Of every kind of graph; a wrong one is not."""
    if None in dict(VALIDATORS):
        spare("needs $FLOWSTORE_TEST_ASL, npm's asl-validator, and $FLOWSTORE_TEST_STATELINT, pip's statelint")
    for name, source in SOURCES.items():
        (tmp_path / f"{name}.json").write_text(flow(source)("step-functions", "create", "--only-json", *options).stdout)
    wrong = json.loads((tmp_path / "linear.json").read_text())
    (tmp_path / "wrong.json").write_text(json.dumps({**wrong, "StartAt": "nowhere"}))
    for name in SOURCES:
        for state in tasks(json.loads((tmp_path / f"{name}.json").read_text())):
            assert state["Retry"][0]["ErrorEquals"] == ["SQS.AmazonSQSException", "SQS.SdkClientException"]
    for program, words in VALIDATORS:
        for name in SOURCES:
            assert validate(program, words, tmp_path / f"{name}.json") == 0, (name, program)
        assert validate(program, words, tmp_path / "wrong.json") != 0


def tasks(tree):
    """All states of a definition that send a message, at any depth."""
    if isinstance(tree, dict) and tree.get("Type") == "Task":
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return [state for part in parts for state in tasks(part)]


def validate(program, words, file):
    """The exit code of a validator."""
    return subprocess.run([program, *words, file], capture_output=True, timeout=60).returncode


def test_what_states_cannot_express_is_refused(flow):
    """Before anything is changed: a foreach inside of a gang, and a name that is too long."""
    tails = {
        "start": "self.next(self.member, num_parallel=2)",
        "member": "self.next(self.body, foreach='xs')",
        "body": "self.next(self.join_items)",
        "join_items": "self.next(self.join)",
        "join": "self.next(self.end)",
        "end": "",
    }
    script = flow(flow_source(tails, member="@parallel"))
    if script("check", expect=None).code == 0:
        one_message(script("step-functions", "create", "--only-json", "--steps", expect=1), "inside of a gang")
    long = "s" * 75
    script = flow(flow_source({"start": f"self.next(self.{long})", long: "self.next(self.end)", "end": ""}))
    one_message(script("step-functions", "create", "--only-json", "--steps", expect=1), "too long for a state")
    assert not Path("flowstore.db").exists()
