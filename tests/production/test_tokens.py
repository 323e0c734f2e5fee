"""Who may deploy: the token, the wrong one, a new one, a file that is damaged."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys

import pytest

import flowstore
from flowstore.errors import FlowstoreError
from flowstore.production import deploy, tokens
from flowstore.run import ownership
from flowstore.run.snapshot import Sources
from flowstore.store import deployments
from flowstore.store.opening import open_store
from support.cli import Script
from support.flows import LINEAR, flow_source
from support.processes import wait_for
from support.production import PLAIN, Person, active, one_message, tags_of, unchanged

# --- who may deploy


def test_the_first_deployment_makes_a_token(anne_and_will):
    """It is told together with the namespace and how somebody else deploys, and kept for this user alone."""
    anne, _ = anne_and_will()
    told = anne("deploy", "create").stdout
    [token] = anne.tokens().values()
    assert re.fullmatch(r"f-1-[a-z0-9]{16}", token)
    assert anne.tokens() == {"flow:F": token}
    assert f'namespace("production:{token}")' in told
    assert f"deploy create --authorize {token}" in told
    [file] = (anne.home / "tokens").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    [made] = active(anne.script)
    assert (made.flow, made.project, made.branch, made.token) == ("F", None, None, token)
    assert (made.version, made.deployed_by, made.schedule, made.tags) == (1, "anne", None, [])
    assert anne.script.sql("select count(*) from runs") == [0]


def test_the_same_person_deploys_a_new_version(deployed):
    """It has the next number and the same namespace; the newest version is what runs."""
    anne, _, token = deployed
    assert anne.deploy("--tag", "newer") == token
    [made] = active(anne.script)
    assert (made.version, made.tags) == (2, ["newer"])
    anne("deploy", "trigger")
    assert {"newer", f"production:{token}"} <= tags_of(anne.script, 1)


def test_somebody_else_is_refused(deployed):
    """The message says who deployed last and what is needed, not the token; nothing was changed."""
    anne, will, token = deployed
    for command in (("create",), ("create", "--generate-new-token"), ("delete",)):
        with unchanged(anne.script):
            said = one_message(will("deploy", *command, expect=1), "anne deployed last", "--authorize TOKEN")
        assert token not in said
    assert will.tokens() == {}


@pytest.mark.parametrize("command", ["create", "delete"])
def test_the_right_token_is_needed_once(deployed, command):
    """Who gave it deploys from then on without it; the first one still does, too."""
    anne, will, token = deployed
    will("deploy", command, "--authorize", token)
    assert will.tokens() == {"flow:F": token}
    assert will.deploy() == token
    assert anne.deploy() == token
    will("deploy", "trigger", expect=1)  # it is anne's code now
    assert [made.deployed_by for made in active(anne.script)] == ["anne"]


def test_the_last_one_to_deploy_is_named(anne_and_will):
    """Not the first one."""
    anne, will = anne_and_will()
    will.deploy("--authorize", anne.deploy())
    carol = Person(anne.script, "carol")
    one_message(carol.deploy(expect=1), "will deployed last")


@pytest.mark.parametrize("wrong", ["f-1-aaaaa", "ü", ""])
def test_a_wrong_token_is_refused(deployed, wrong):
    """Also where the right one is held; nothing was changed."""
    anne, will, _ = deployed
    for person in (anne, will):
        held = person.tokens()
        with unchanged(anne.script):
            one_message(person.deploy("--authorize", wrong, expect=1), "not its production token", "anne deployed last")
        assert person.tokens() == held


def test_a_token_for_what_was_never_deployed_is_refused(anne_and_will):
    """Who is told a token deploys elsewhere by mistake, where --store or --branch is missing; no store is made."""
    anne, _ = anne_and_will()
    one_message(anne.deploy("--authorize", "f-1-aaaaa", expect=1), "No store found")
    assert not anne.script.db.exists()
    anne("run")
    with unchanged(anne.script):
        one_message(anne.deploy("--authorize", "f-1-aaaaa", expect=1), "never deployed")


def test_tags_authorize_nothing(anne_and_will):
    """Runs that an import brought may be tagged like production; a deployment is no less the first one."""
    anne, _ = anne_and_will()
    anne("run", "--tag", "x")
    with contextlib.closing(sqlite3.connect(anne.script.db)) as connection, connection:
        connection.execute(
            "update tags set tag = 'production:f-1-abcde', json = '\"production:f-1-abcde\"' where tag = 'x'"
        )
    one_message(anne.deploy("--authorize", "f-1-abcde", expect=1), "never deployed")
    assert anne.deploy() != "f-1-abcde"


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": {"b": 1}}', b"\xff", None])
def test_an_unreadable_token_file_is_one_clear_error(anne_and_will, content):
    """Nothing is changed, and no store is made."""
    anne, _ = anne_and_will()
    file = anne.home / "tokens.json"
    anne.home.mkdir()
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    one_message(anne.deploy(expect=1), str(file), "Nothing was changed")
    assert not anne.script.db.exists()
    assert file.is_dir() or file.read_bytes() == (content if isinstance(content, bytes) else content.encode())


def test_what_needs_a_token_changes_nothing_where_the_file_is_damaged(deployed):
    """Each command tells the file; who gives the right token is not deployed for either, since it could not be kept."""
    anne, will, token = deployed
    will.home.mkdir()
    commands = (["create"], ["create", "--generate-new-token"], ["create", "--authorize", token], ["delete"])
    for person, command in zip((anne, anne, will, anne), commands, strict=True):
        file = person.home / "tokens.json"
        file.write_text("{")
        with unchanged(anne.script):
            one_message(person("deploy", *command, expect=1), str(file), "Nothing was changed")
        assert file.read_text() == "{"


FORBIDDEN = """
import os
from flowstore import FlowstoreError
from flowstore.production import tokens
if os.geteuid() == 0:  # which may read what nobody may
    os.setuid(65534)
try:
    tokens.held("store", "flow:F")
except FlowstoreError as error:
    print(error)
"""


@pytest.mark.untraced
def test_a_token_file_that_may_not_be_read_is_told(open_folder):
    """Not taken for one that is not there."""
    file = open_folder / "tokens.json"
    file.write_text("{}")
    file.chmod(0)
    environment = {**os.environ, "FLOWSTORE_HOME": str(open_folder)}
    done = subprocess.run([sys.executable, "-c", FORBIDDEN], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Your tokens {file} cannot be read: Permission denied. Nothing was changed.\n"


def test_the_tokens_file_of_an_older_flowstore_is_read(deployed):
    """Version 0.1.0 kept all tokens in one file; who holds it deploys, and it is never written to."""
    anne, will, token = deployed
    will.home.mkdir()
    uuid = anne.script.sql("select uuid from store")[0]
    old = will.home / "tokens.json"
    old.write_text(json.dumps({uuid: {"flow:F": token}}))
    before = old.read_bytes()
    will("deploy", "create")
    assert anne.script.sql("select version from deployments order by 1") == [1, 2]
    assert old.read_bytes() == before
    assert not (will.home / "tokens").exists()


def test_a_token_that_cannot_be_kept_is_not_made(flow, monkeypatch):
    """A home that can't be written is told, and nothing changes."""
    script = flow(PLAIN)
    script("run")
    flowstore.use_store(script.db)
    asked = deploy.Options(store=str(script.db))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deploy.snapshot, "take", lambda *_, **__: Sources(script="flow.py", files={"flow.py": b"pass"}))
    monkeypatch.setattr(tokens.files.os, "open", full)
    with unchanged(script), pytest.raises(FlowstoreError, match=r"tokens.*\.json cannot be written: No space left"):
        deploy.create(type("F", (flowstore.FlowSpec,), {}), asked)
    assert script.sql("select count(*) from production_tokens") == [0]


def test_deploying_at_once(anne_and_will):
    """Four versions deployed at the same moment have one token, and numbers of their own."""
    anne, _ = anne_and_will()
    started = [anne.script.start("deploy", "create", **anne.environment) for _ in range(4)]
    for process in started:
        with process:
            process.communicate(timeout=60)
        assert process.returncode == 0
    assert sorted(anne.script.sql("select version from deployments")) == [1, 2, 3, 4]
    assert anne.script.sql("select token from production_tokens") == list(anne.tokens().values())
    assert [made.version for made in active(anne.script)] == [4]


def test_deploying_to_several_stores_at_once(tmp_path):
    """This user holds the token of each of them."""
    folders = [tmp_path / str(number) for number in range(6)]
    for folder in folders:
        folder.mkdir()
    scripts = [Script(folder, PLAIN) for folder in folders]
    started = [script.start("deploy", "create") for script in scripts]
    for process in started:
        with process:
            process.communicate(timeout=60)
        assert process.returncode == 0
    for script in scripts:
        [[uuid, token]] = script.sql("select s.uuid, t.token from store s, production_tokens t")
        assert tokens.held(uuid, "flow:F") == [token]


# --- a new token


def test_a_new_token_begins_an_empty_namespace(deployed):
    """The runs of two generations never mix; tokens that were stored before are refused."""
    anne, will, old = deployed
    will.deploy("--authorize", old)
    will("deploy", "trigger")
    new = anne.deploy("--generate-new-token")
    assert re.fullmatch(r"f-2-[a-z0-9]{16}", new)
    assert anne.tokens() == {"flow:F": new}
    assert "No run of F" in anne("deploy", "list-runs").stderr
    anne("deploy", "trigger")
    for token, run in ((old, "1"), (new, "2")):
        with flowstore.use_store(anne.script.db):
            flowstore.namespace(f"production:{token}")
            assert [found.id for found in flowstore.Flow("F")] == [run]
    said = one_message(will.deploy(expect=1), "no longer valid", "anne deployed last")
    assert new not in said
    one_message(will.deploy("--authorize", old, expect=1), "not its production token")
    assert will.deploy("--authorize", new) == new


def test_a_new_token_needs_the_old_one(deployed):
    """Given together, they begin a new namespace."""
    anne, will, old = deployed
    new = will.deploy("--generate-new-token", "--authorize", old)
    assert new != old
    assert will.tokens() == {"flow:F": new}
    anne.deploy(expect=1)


STARTS_SLOWLY = """
if "run" in sys.argv:
    Path(os.environ["HERE"], "begun").touch()
    while not Path(os.environ["HERE"], "go").exists():
        time.sleep(0.01)
"""


def test_a_run_that_is_starting_does_not_slip_into_another_generation(anne_and_will):
    """Where a new token is made meanwhile it is refused, in one message, and is in neither."""
    anne, _ = anne_and_will(flow_source(LINEAR, head=STARTS_SLOWLY))
    folder = anne.script.folder
    anne.deploy()
    process = anne.script.start("deploy", "trigger", HERE=str(folder), **anne.environment)
    wait_for((folder / "begun").exists)
    anne.deploy("--generate-new-token")
    (folder / "go").touch()
    _, stderr = process.communicate(timeout=60)
    told = "F was given a new production token while it was being started. Trigger it again."
    assert (process.returncode, stderr.decode()) == (1, f"Error: {told}\n")
    assert anne.script.sql("select count(*) from runs") == [0]
    with contextlib.closing(open_store(anne.script.db)) as store:
        [deployment] = deployments.active(store)
        for token in ("another", deployment.token):
            with pytest.raises(FlowstoreError) as caught:
                ownership.deployed(store, ownership.Assigned(deployment.id, 0, "another", token))
            assert caught.value.transient  # so an execution in AWS that asked for the run does not fail
