"""What a row says is believed only where this user wrote it: deployments, tags, times; and so is the user's own key."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import time
from pathlib import Path

import pytest

import flowstore
from flowstore.errors import FlowstoreError, UntrustedArtifact
from flowstore.production import deploy
from flowstore.store import opening, trust
from support.cli import command
from support.flows import LINEAR, flow_source
from support.hostile import edited
from support.stores import make_store

DAY_MS = 86_400_000
SCHEDULED = flow_source(
    LINEAR,
    head="@schedule(cron='0 0 * * *')",
    members="alpha = Parameter('alpha', default=1)\nsecond = Parameter('second', default='x')\nother = 3",
    start="self.seen = self.alpha",
)


@pytest.fixture
def deployed(flow):
    """A flow that was deployed twice."""
    source = SCHEDULED.replace("@schedule(cron='0 0 * * *')\n", "").replace(
        "class F(", "@schedule(cron='0 0 * * *')\nclass F("
    )
    script = flow(source)
    for _ in range(2):
        script("deploy", "create", "--tag", "mine")
    return script


def changed(script, *statements):
    """Change the store as somebody who shares it can."""
    for statement in ";".join(statements).split(";"):
        edited(script.db, statement)


TAMPERED = {
    "decorators": """update deployments set with_decorators = '["environment:vars={\\"BASH_ENV\\": \\"x\\"}"]'""",
    "tags": """update deployments set tags = '["theirs"]'""",
    "namespace": "update deployments set namespace = 'user:mallory'",
    "schedule": """update deployments set schedule = '{"cron": "* * * * *", "timezone": null}'""",
    "no schedule": "update deployments set schedule = null",
    "user": "update deployments set deployed_by = 'root'",
    "default": """update deployment_parameters set blob_id =
        (select blob_id from deployment_parameters where name = 'second') where name = 'alpha'""",
    "no default": "update deployment_parameters set blob_id = null",
    "option": "update deployment_parameters set option = 'beta' where name = 'alpha'",
    "flag": "update deployment_parameters set is_flag = 1 where name = 'alpha'",
    "one parameter less": "delete from deployment_parameters where name = 'alpha'",
    "one parameter more": """insert into deployment_parameters
        select deployment_id, 'other', 'other', 0, blob_id from deployment_parameters where name = 'alpha'""",
    "module": "update codes set module = 'json.tool'",
    "script": "update codes set script_name = 'other.py'",
    "an older version's signature": """update deployments set (key_id, mac) =
        (select key_id, mac from deployments where version = 1)""",
    "an older version as a newer one": "update deployments set version = version + 7 where version = 1",
    "an older version's row": """delete from deployment_parameters where deployment_id = 2;
        delete from deployments where version = 2""",
    "another project": "update deployments set project = 'p', branch = 'prod'",
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_changed_deployment_does_not_run(deployed, what):
    """All that decides what runs is signed together, with the version."""
    changed(deployed, TAMPERED[what])
    with contextlib.closing(opening.open_store(deployed.db)) as store:
        found = deploy.deployments(store)
        assert found
        for each in found:
            with pytest.raises(UntrustedArtifact, match="flowstore trust"):
                deploy.check_trusted(store, each)
    assert deployed.sql("select count(*) from runs") == [0]


@pytest.mark.parametrize("what", ["decorators", "an older version's row"])
def test_trigger_and_scheduler_refuse_what_was_changed(deployed, what):
    """Neither starts it; both say why, and what to do."""
    changed(
        deployed, TAMPERED[what], "update deployments set deployed_at = deployed_at" if what == "decorators" else ""
    )
    assert "deploy" in deployed("deploy", "trigger", expect=1).stderr
    changed(deployed, "insert or replace into due_marks select id, 1000 from deployments")
    assert "is not run" in command("scheduler", "--once", folder=deployed.folder).stderr
    assert deployed.sql("select count(*) from runs") == [0]


def test_what_was_not_changed_runs(deployed):
    """With its tags and defaults, in its namespace."""
    deployed("deploy", "trigger", "--alpha", "5")
    deployed("deploy", "trigger")
    flowstore.namespace(None)
    assert [deployed.client(run).data.seen for run in (1, 2)] == [5, 1]
    assert "mine" in deployed.client(1).tags


def test_a_trusted_store_runs_as_it_is(deployed):
    """Who trusts the file runs what it says."""
    changed(deployed, TAMPERED["default"].replace("= 'second')", "= 'alpha')"), TAMPERED["tags"])
    command("trust", deployed.db)
    deployed("deploy", "trigger")
    assert deployed.sql("select count(*) from object_tags where tag = 'theirs' and kind = 'run'") == [1]


def test_a_deleted_deployment_is_not_revived(deployed):
    """Its signature is still right; that it was deleted is remembered."""
    deployed("deploy", "delete")
    changed(deployed, "update deployments set deleted_at = null, deleted_by = null")
    assert "deleted all versions" in deployed("deploy", "trigger", expect=1).stderr


def test_an_older_copy_is_told_and_can_be_deployed_to(deployed):
    """A copy that was put back does not run what was replaced since; deploying again goes on after the last version."""
    shutil.copyfile(deployed.db, deployed.folder / "old")
    deployed("deploy", "create")
    (deployed.folder / "old").replace(deployed.db)
    assert "older copy" in deployed("deploy", "trigger", expect=1).stderr
    deployed("deploy", "create")
    assert deployed.sql("select max(version) from deployments") == [3]
    deployed("deploy", "trigger")


def test_a_copy_elsewhere_goes_its_own_way(deployed):
    """What is deployed in a copy of the store does not put the original out of production."""
    shutil.copyfile(deployed.db, deployed.folder / "copy.db")
    deployed("--store", "copy.db", "deploy", "create")
    deployed("deploy", "trigger")
    (deployed.folder / "copy.db").unlink()


def test_a_deployment_of_the_first_version_is_to_be_made_again(deployed):
    """Its signature says nothing of decorators and defaults, and the message says so."""
    with contextlib.closing(opening.open_store(deployed.db)) as store, store.write() as connection:
        mac = trust._mac(trust.user_key(), store.uuid, bytes(32), "code")
        connection.execute("update deployments set mac = ?", (mac,))
    assert "0.1.0" in deployed("deploy", "trigger", expect=1).stderr
    deployed("deploy", "create")
    deployed("deploy", "trigger")


# --- runs that others made


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """The store of somebody of the same name, with another key."""
    with monkeypatch.context() as patch:
        patch.setenv("FLOWSTORE_HOME", str(tmp_path / "stranger"))
        return make_store(tmp_path / "theirs.db", runs=2)


def tagged(path, tag):
    """Put a system tag in the place of the one that says whose the runs are."""
    edited(path, f"update tags set tag = '{tag}', json = json_quote('{tag}') where tag glob 'user:*'")


def tags_here(path="flowstore.db"):
    """The tags that say whose the runs of a store are."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        query = (
            "select distinct tag from object_tags where kind = 'run' and (tag glob 'user:*' or tag glob 'production:*')"
        )
        return sorted(row[0] for row in connection.execute(query))


def uuid_of(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("select uuid from store").fetchone()[0]


def test_a_stranger_s_runs_do_not_become_mine(theirs, flow):
    """They are kept apart under the store that they come from, and the import says so; mine stay the latest."""
    script = flow(flow_source(LINEAR))
    script("run")
    tagged(theirs, "user:tester")
    said = command("import", theirs).stderr
    kept = f"user:tester@{uuid_of(theirs)[:8]}"
    assert kept in said
    assert tags_here() == ["user:tester", kept]
    assert script.client().pathspec == flowstore.Flow("F").latest_run.pathspec == "F/1"
    assert len(command("runs", "--namespace", kept, "--csv").stdout.splitlines()) == 3


def test_a_stranger_s_runs_are_not_in_production(theirs, flow):
    """A namespace of this store's is not theirs to fill, nor one that it had."""
    script = flow(flow_source(LINEAR))
    script("deploy", "create")
    script("deploy", "trigger")
    (first,) = script.sql("select token from production_tokens")
    script("deploy", "create", "--generate-new-token")
    tagged(theirs, f"production:{first}")
    command("import", theirs)
    assert tags_here() == [f"production:{first}", f"production:{first}@{uuid_of(theirs)[:8]}"]


def test_what_names_somebody_else_stays(theirs):
    """A stranger's own names are theirs."""
    for name in ("user:anne", "production:theirs-1-abcde"):
        tagged(theirs, name) if name == "user:anne" else edited(
            theirs, f"update tags set tag = '{name}', json = json_quote('{name}') where tag = 'user:anne'"
        )
        edited(theirs, "update runs set uuid = uuid || 'x'")
        assert "tagged" not in command("import", theirs).stderr
    assert tags_here() == ["production:theirs-1-abcde", "user:anne"]


def test_tags_that_are_kept_apart_stay_so(theirs, tmp_path):
    """Exporting and importing again adds no further suffix."""
    tagged(theirs, "user:tester")
    command("import", theirs)
    command("export", "again.db", "--namespace", "")
    command("--store", "third.db", "import", "again.db")
    assert tags_here("third.db") == tags_here() == [f"user:tester@{uuid_of(theirs)[:8]}"]


@pytest.mark.parametrize("whose", ["own", "trusted"])
def test_own_and_trusted_runs_keep_their_tags(theirs, tmp_path, whose):
    """My own export, or a file that I trust, says whose its runs are."""
    source = make_store(tmp_path / "mine.db") if whose == "own" else theirs
    if whose == "trusted":
        command("trust", theirs)
    tagged(source, "user:tester")
    assert "tagged" not in command("import", source).stderr
    assert tags_here() == ["user:tester"]


def ahead(path, days):
    """Let a store's runs have been made under a clock that was ahead."""
    for table, columns in {
        "runs": ("created_at", "finished_at", "last_seen_at"), "run_tags": ("created_at",), "steps": ("created_at",),
        "tasks": ("started_at", "finished_at"), "attempts": ("started_at", "finished_at"),
    }.items():  # fmt: skip
        edited(path, f"update {table} set {', '.join(f'{name} = {name} + {days * DAY_MS}' for name in columns)}")


def test_a_run_from_a_clock_that_was_ahead_can_be_imported(tmp_path):
    """With its times, and with the whole export."""
    source = make_store(tmp_path / "mine.db")
    ahead(source, 2)
    command("import", source)
    with contextlib.closing(opening.open_store("flowstore.db")) as store:
        assert store.value("select created_at from runs") > time.time() * 1000 + DAY_MS
    make_store(Path("flowstore.db"))
    flowstore.use_store("flowstore.db")
    flowstore.namespace(None)
    assert flowstore.Flow("F").latest_run.id == "2"
    assert "nothing wrong" in command("check", "--deep").stdout


def test_a_stranger_s_run_is_not_from_the_future(theirs):
    """Else no run of ours would ever be newer."""
    ahead(theirs, 100_000)
    command("import", theirs)
    with contextlib.closing(opening.open_store("flowstore.db")) as store:
        for column in ("created_at", "finished_at", "last_seen_at"):
            assert store.value(f"select max({column}) from runs") <= time.time() * 1000
        assert (
            store.value(
                "select count(*) from run_tags t join runs r on r.id = t.run_id where t.created_at <> r.created_at"
            )
            == 0
        )
    assert "nothing wrong" in command("check", "--deep").stdout


@pytest.mark.parametrize("words", [("run",), ("resume",)])
def test_a_user_name_that_makes_no_tag_is_told_before_a_run(flow, words):
    """One message, and no run in the store."""
    script = flow(flow_source(LINEAR))
    script("run")
    said = script(*words, expect=1, FLOWSTORE_USER="x" * 496).stderr
    assert "at most 495: set $FLOWSTORE_USER" in said
    assert script.sql("select count(*) from runs") == [1]
    script("run", FLOWSTORE_USER="x" * 495)


def test_runs_of_a_user_with_a_long_name_can_be_imported(theirs):
    """The first version made such tags."""
    edited(theirs, "update runs set user = hex(zeroblob(400))")
    tagged(theirs, f"user:{'x' * 800}")
    command("import", theirs)
    assert tags_here() == [f"user:{'x' * 800}"]


# --- the key


def key_of(tmp_path):
    trust.user_key()
    trust._keys.clear()
    return tmp_path / "home" / "key"


def test_a_key_that_others_may_write_is_not_used(tmp_path):
    """They may have replaced it."""
    key = key_of(tmp_path)
    for path, mode in ((key, 0o602), (key.parent, 0o757)):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        with pytest.raises(FlowstoreError, match="chmod go-w"):
            trust.user_key()
        path.chmod(before)
    trust.user_key()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    """Whoever owns it knows it, and can change it."""
    key = key_of(tmp_path)
    os.chown(key, 12345, -1)
    with pytest.raises(FlowstoreError, match="belongs to another account"):
        trust.user_key()
    monkeypatch.setenv("SUDO_UID", "12345")
    trust.user_key()


def test_a_key_that_others_could_read_is_made_private(tmp_path, capsys):
    """With one line that says what that means."""
    key = key_of(tmp_path)
    key.chmod(0o644)
    trust.user_key()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert capsys.readouterr().err.count("could be read by other accounts") == 1


def pipe(path):
    os.mkfifo(path)


def loop(path):
    path.symlink_to(path.name)


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, loop, device, Path.mkdir])
@pytest.mark.parametrize("name", ["key", "tokens.json"])
def test_what_is_no_file_is_one_clear_error(flow, tmp_path, make, name):
    """Nothing waits for a pipe or reads a device, and nothing is run."""
    script = flow(flow_source(LINEAR))
    (tmp_path / "home").mkdir(mode=0o700)
    make(tmp_path / "home" / name)
    said = script("deploy", "create", expect=1).stderr
    assert str(tmp_path / "home" / name) in said
    assert not script.db.exists()


@pytest.mark.parametrize("make", [pipe, loop, device, Path.mkdir])
def test_a_record_of_trust_that_is_no_file_is_one_clear_error(theirs, make):
    """It is not waited for either."""
    command("trust", theirs)
    record = trust._place(theirs)
    record.unlink()
    make(record)
    with (
        contextlib.closing(opening.open_store(theirs, trusted=True)) as store,
        pytest.raises(FlowstoreError, match=record.name),
    ):
        trust.is_trusted(theirs, store.uuid)


@pytest.mark.parametrize("make", [pipe, device])
def test_a_store_or_import_that_is_no_file_is_one_clear_error(tmp_path, make):
    """Nothing waits, and no store is made."""
    make(tmp_path / "x.db")
    assert "regular file" in command("import", "x.db", expect=1).stderr
    assert "regular file" in command("--store", "x.db", "runs", expect=1).stderr
    assert not Path("flowstore.db").exists()
