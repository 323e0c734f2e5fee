"""AWS learns ids, states and errors, but no production token, nor anything from which one could be guessed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import sqlite3

from support.flows import LINEAR, flow_source
from support.production import one_message

LEAKING = flow_source(
    LINEAR,
    members="note = Parameter('note', default='')",
    end="""
        [tag] = [tag for tag in current.run.system_tags if tag.startswith('production:')]
        print(tag)
        raise ValueError(f'see {tag}, that is {tag.partition(":")[2].upper()}')
        """,
)


def everything(stage):
    """All that the emulator was sent or has answered, and what it keeps."""
    kept = [json.dumps(stage.history(arn), default=str) for arn in stage.executions()]
    machines = stage.states.list_state_machines()["stateMachines"]
    kept += [
        stage.states.describe_state_machine(stateMachineArn=one["stateMachineArn"])["definition"] for one in machines
    ]
    return "\n".join([*stage.aws.sent, *stage.aws.received, *kept]).lower()


def test_no_token_goes_to_aws(stage):
    """In no definition, tag, name, message, input or error: not after a failure that quotes it, nor when renewed."""
    stage = stage(LEAKING)
    tokens = [stage.create("--tag", "nightly", "--namespace", "")]
    stage.trigger("--note", "mine")
    stage.work(expect=1)
    tokens.append(stage.create("--generate-new-token"))
    stage.create("--authorize", tokens[-1])
    stage("trigger", "--note", f"x {tokens[-1]}", expect=1)
    stage("trigger", "--note", f"production:{tokens[0]}", expect=1)
    stage.trigger()
    stage.work(expect=1)
    stage("list-runs")
    stage("show")
    stage("delete")
    text = everything(stage)
    for token in tokens:
        assert len(token.rpartition("-")[2]) >= 16
        assert token.lower() not in text
        assert token.rpartition("-")[2].lower() not in text
    assert hashlib.sha256(tokens[-1].encode()).hexdigest() in text
    assert "production:***" in text
    assert not re.search(r"production:f-", text)


def shortened(script, home):
    """Make the token one of an older flowstore."""
    with contextlib.closing(sqlite3.connect(script.db)) as connection, connection:
        connection.execute("pragma foreign_keys = off")
        connection.execute("update production_tokens set token = 'f-1-abcde'")
        [uuid] = connection.execute("select uuid from store").fetchone()
    shutil.rmtree(home / "tokens")
    (home / "tokens.json").write_text(json.dumps({uuid: {"flow:F": "f-1-abcde"}}))
    (home / "tokens.json").chmod(0o600)


def test_a_short_token_has_to_be_renewed(stage, tmp_path):
    """Its hash would tell it: all tokens of an older flowstore can be tried. AWS is sent nothing of it."""
    stage = stage(flow_source(LINEAR))
    stage.script("deploy", "create")
    shortened(stage.script, tmp_path / "home")
    one_message(stage("create", expect=1), "could be guessed", "--generate-new-token")
    assert stage.states.list_state_machines()["stateMachines"] == []
    token = stage.create("--generate-new-token")
    assert re.fullmatch(r"f-2-[a-z0-9]{16}", token)
    assert hashlib.sha256(b"f-1-abcde").hexdigest() not in everything(stage)


def test_aws_is_told_who_owns_a_state_machine(stage):
    """As tags: owner, store, version and the token's hash."""
    stage = stage(flow_source(LINEAR))
    stage.create()
    token = stage.create()
    [machine] = stage.states.list_state_machines()["stateMachines"]
    tags = stage.states.list_tags_for_resource(resourceArn=machine["stateMachineArn"])["tags"]
    assert {tag["key"]: tag["value"] for tag in tags} == {
        "flowstore:owner": "tester",
        "flowstore:store": stage.script.sql("select uuid from store")[0],
        "flowstore:flow": "F",
        "flowstore:scope": "flow:F",
        "flowstore:version": "2",
        "flowstore:token-sha256": hashlib.sha256(token.encode()).hexdigest(),
    }
