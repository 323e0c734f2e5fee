"""What a deployment keeps: its code, parameters, schedule, tags; triggered, listed, deleted."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import flowstore
from flowstore.store import schema
from support.cli import stop
from support.flows import LINEAR, MIDDLE, flow_source
from support.processes import wait_for
from support.production import FACTS, PLAIN, Person, active, one_message, tags_of, unchanged

# --- the snapshot


LAZY = flow_source(LINEAR, start="import beside; from pack.inner import y\nself.x = [beside.x, y]")


@pytest.mark.parametrize("what", ["changed", "moved", "deleted"])
def test_the_snapshot_runs(flow, what):
    """Whatever became of the flow's file, and of modules that only its steps import."""
    script = flow(LAZY)
    (script.folder / "beside.py").write_text("x = 1\n")
    (script.folder / "pack").mkdir()
    (script.folder / "pack" / "inner.py").write_text("y = 2\n")
    (script.folder / "pack" / "__init__.py").touch()
    anne = Person(script, "anne")
    anne.deploy()
    (script.folder / "beside.py").unlink()
    shutil.rmtree(script.folder / "pack")
    if what == "changed":
        script.rewrite(PLAIN)
    elif what == "moved":
        script.file = script.file.rename(script.folder / "elsewhere.py")
    if what != "deleted":
        anne("deploy", "trigger")
    else:
        script.file.unlink()
        code = "from flowstore import *; from flowstore.production import deploy\n"
        code += "from flowstore.store.opening import active_store\n"
        code += "[made] = deploy.deployments(active_store()); raise SystemExit(deploy.trigger(active_store(), made))"
        environment = {**os.environ, **anne.environment}
        subprocess.run([sys.executable, "-c", code], check=True, cwd=script.folder, env=environment)
    flowstore.namespace(None)
    run = script.client(1)
    assert run["start"].task.data.x == [1, 2]
    assert run.code.flowspec == LAZY
    assert sorted(run.code.files) == ["beside.py", "flow.py", "pack/__init__.py", "pack/inner.py"]
    assert not list(script.folder.glob("**/flowstore-*"))


def test_show_says_what_is_deployed(flow):
    """Flow, version, who, when, namespace, schedule, parameters, and each file with its size."""
    script = flow(FACTS.replace("class F(", '@schedule(cron="30 6 * * *", timezone="Europe/Berlin")\nclass F('))
    for name in (".hidden", "env", "__pycache__", "site-packages", "data"):
        (script.folder / name).mkdir()
        (script.folder / name / "module.py").write_text("z\n")
    (script.folder / "env" / "pyvenv.cfg").touch()
    (script.folder / "data" / "table.csv").touch()
    (script.folder / "dangling.py").symlink_to("nowhere")
    anne = Person(script, "anne")
    token = anne.deploy("--tag", "nightly", "--with", "retry:times=2")
    shown = anne("deploy", "show").stdout
    for fact in (
        "F",
        "1",
        "anne",
        f"production:{token}",
        r"30 6 \* \* \* \(Europe/Berlin\)",
        "nightly",
        "retry:times=2",
    ):
        assert re.search(rf"  {fact}$", shown, re.MULTILINE), fact
    assert re.search(r"parameter alpha +0\.5$", shown, re.MULTILINE)
    files = dict(line.split() for line in shown[shown.index("file ") :].splitlines()[1:])
    assert files == {"flow.py": str(len(script.file.read_bytes())), "data/module.py": "2"}


def test_another_user_cannot_trigger(deployed):
    """A snapshot is code: who neither deployed it nor trusts the store is told the command that trusts."""
    anne, will, _ = deployed
    with unchanged(anne.script):
        one_message(will("deploy", "trigger", expect=1), "anne", f"flowstore trust {anne.script.db}")
    will.flowstore("trust", anne.script.db)
    will("deploy", "trigger")
    assert anne.script.sql("select user from run_summary") == ["anne"]


@pytest.mark.parametrize("how", ["another file", "another path", "another snapshot", "another script", "no key"])
def test_a_changed_snapshot_is_refused(anne_and_will, how):
    """What the deployer's key signed is the code itself, not the row that names it."""
    anne, _ = anne_and_will()
    (anne.script.folder / "beside.py").write_text("x = 1\n")
    anne.deploy()
    anne.script.rewrite(flow_source(LINEAR, start="Path('stolen').touch()"))
    anne("run")
    statements = {
        "another file": """update code_files set blob_id = (select blob_id from code_files where code_id = 2 and
            path = 'flow.py') where code_id = 1 and path = 'flow.py'""",
        "another path": "update code_files set path = 'json.py' where code_id = 1 and path = 'beside.py'",
        "another snapshot": "update deployments set code_id = 2",
        "another script": "update codes set script_name = 'beside.py' where id = 1",
        "no key": "select 1",
    }
    with contextlib.closing(sqlite3.connect(anne.script.db)) as connection, connection:
        connection.execute(statements[how])
    if how == "no key":
        (anne.home / "key").unlink()
    (anne.script.folder / "stolen").unlink()
    one_message(anne("deploy", "trigger", expect=1), "flowstore trust")
    assert not (anne.script.folder / "stolen").exists()


# --- parameters, schedule, decorators


DEFAULTS = """
count = Parameter("count", default=lambda: int(Path("count").read_text()), type=int)
fast = Parameter("fast", is_flag=True, default=True)
my_list = Parameter("my-list", default="a,b", separator=",")
options = Parameter("options", type=JSONType, default={"k": [1, None]})
text = IncludeFile("text", default="notes.txt")
nothing = Parameter("nothing")
"""


def test_defaults_are_those_at_deploy_time(flow):
    """Functions are called and files are read when it is deployed; a value given to trigger comes first."""
    script = flow(flow_source(LINEAR, members=DEFAULTS))
    (script.folder / "count").write_text("1")
    (script.folder / "notes.txt").write_text("hello " * 20_000)
    anne = Person(script, "anne")
    anne.deploy()
    (script.folder / "count").unlink()
    (script.folder / "notes.txt").unlink()
    anne("deploy", "trigger", FLOWSTORE_RUN_NOTHING="given")
    anne("deploy", "trigger", "--my_list", "c", "--count=7", FLOWSTORE_RUN_FAST="false")
    flowstore.namespace(None)
    first, second = (script.client(run).data for run in (1, 2))
    assert (first.count, first.fast, first.my_list, first.nothing) == (1, True, ["a", "b"], "given")
    assert (first.options, first.text) == ({"k": [1, None]}, "hello " * 20_000)
    assert (second.count, second.fast, second.my_list, second.nothing) == (7, False, ["c"], None)
    [made] = active(script)
    assert made.parameters["count"] == 1
    assert made.parameters["options"] == {"k": [1, None]}


def test_wrong_parameters_are_wrong_usage(anne_and_will):
    """Of the deployed flow, not of the file as it is now; nothing is run."""
    anne, _ = anne_and_will(flow_source(LINEAR, members="must = Parameter('must', required=True, type=int)"))
    anne.deploy()
    anne.script.rewrite(FACTS)
    for given, said in {
        ("--must", "x"): "'x' is not an int",
        ("--alpha", "1"): "'--alpha' is not a parameter of what is deployed; those are: --must",
        ("--must",): "needs a value",
        ("must",): "is not a parameter",
        (): "Missing option '--must'",
    }.items():
        told = anne("deploy", "trigger", *given, expect=2).stderr
        assert said in told
        assert "Usage: python flow.py " in told
    assert anne.script.sql("select count(*) from runs") == [0]
    anne("deploy", "trigger", "--must", "-1")
    assert anne.script.sql("select parameters from run_summary") == ['{"must": -1}']


@pytest.mark.parametrize(
    ("text", "cron"),
    [
        ("", "0 0 * * *"),
        ("hourly=True", "0 * * * *"),
        ("daily=True", "0 0 * * *"),
        ("weekly=True, timezone='Europe/Berlin'", "0 0 * * 0"),
        ("cron='5 4 * * *'", "5 4 * * *"),
    ],
)
def test_schedules(flow, text, cron):
    """The named ones are told as cron lines."""
    script = flow(PLAIN.replace("class F(", f"@schedule({text})\nclass F("))
    Person(script, "anne").deploy()
    zone = "Europe/Berlin" if "timezone" in text else None
    assert [made.schedule for made in active(script)] == [{"cron": cron, "timezone": zone}]


@pytest.mark.parametrize("text", ["cron='every day'", "cron='0 0 31 2 *'", "timezone='Mars/Olympus'", "daily=False"])
def test_a_wrong_schedule_is_refused(flow, text):
    """When it is deployed, rather than when it would fall due; no store is made."""
    script = flow(PLAIN.replace("class F(", f"@schedule({text})\nclass F("))
    one_message(Person(script, "anne").deploy(expect=2), "@schedule")
    assert not script.db.exists()


def test_a_schedule_gives_no_values(flow):
    """A parameter that is required and has no default can't be scheduled."""
    source = flow_source(LINEAR, members="must = Parameter('must', required=True)")
    script = flow(source.replace("class F(", "@schedule()\nclass F("))
    one_message(Person(script, "anne").deploy(expect=1), "must", "Give it a default")
    assert not script.db.exists()


def test_with_is_deployed(anne_and_will):
    """`--with` at deployment decorates the steps of every run."""
    anne, _ = anne_and_will(flow_source(LINEAR, start="if current.retry_count == 0: raise ValueError"))
    anne.deploy("--with", "retry:times=1,minutes_between_retries=0")
    anne("deploy", "trigger")
    assert anne.script.sql("select attempts from task_summary order by task_id") == [2, 1]
    one_message(anne.deploy("--with", "nonsense", expect=2), "nonsense")


@pytest.mark.parametrize("tag", ["user:will", "production:x", ""])
def test_bad_tags_are_refused_at_deployment(anne_and_will, tag):
    """Not when it runs; no store is made."""
    anne, _ = anne_and_will()
    one_message(anne.deploy("--tag", tag, expect=1), "tag")
    assert not anne.script.db.exists()


def test_a_flow_that_does_not_fit_together_is_refused(anne_and_will):
    """As `check` would; no store is made."""
    anne, _ = anne_and_will(flow_source({**LINEAR, "lost": ""}))
    one_message(anne.deploy(expect=1), "lost")
    assert not anne.script.db.exists()


# --- trigger, list-runs, delete


def test_list_runs(deployed):
    """Lists the runs of the production namespace, and no others."""
    anne, _, _ = deployed
    anne("run")
    anne("deploy", "trigger")
    anne("deploy", "trigger", "--quiet")
    listed = anne("deploy", "list-runs").stdout.splitlines()[1:]
    assert [line.split()[0] for line in listed] == ["F/3", "F/2"]


def test_a_deleted_deployment_is_gone(deployed):
    """Its runs stay; deployed again, it goes on in the same namespace, with the next version."""
    anne, _, token = deployed
    anne("deploy", "trigger")
    anne.deploy()
    assert f"production:{token}" in anne("deploy", "delete").stdout
    assert active(anne.script) == []
    with unchanged(anne.script):
        for command in ("trigger", "show", "list-runs", "delete"):
            one_message(anne("deploy", command, expect=1), "F is not deployed", "deploy create")
    assert f"production:{token}" in tags_of(anne.script, 1)
    assert anne.deploy() == token
    assert [made.version for made in active(anne.script)] == [3]
    assert "F/1" in anne("deploy", "list-runs").stdout


def test_after_a_delete_a_token_is_still_needed(deployed):
    """The namespace stays its owner's."""
    anne, will, _ = deployed
    anne("deploy", "delete")
    one_message(will.deploy(expect=1), "anne deployed last", "--authorize TOKEN")


def test_a_failed_run_is_exit_code_1(anne_and_will):
    """As with `run`."""
    anne, _ = anne_and_will(flow_source(LINEAR, start="raise ValueError('boom')"))
    anne.deploy()
    result = anne("deploy", "trigger", expect=1)
    assert "boom" in result.stdout
    assert "python flow.py resume --origin-run-id 1" in result.stderr


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping(anne_and_will, how, code):
    """A signal is passed on; the run is marked as stopped."""
    anne, _ = anne_and_will(flow_source(MIDDLE, middle="Path('begun').touch(); time.sleep(60)"))
    anne.deploy()
    process = anne.script.start("deploy", "trigger", **anne.environment)
    wait_for((anne.script.folder / "begun").exists)
    result = stop(process, how)
    assert result.code == code, result.stderr
    assert anne.script.sql("select status from run_summary") == ["stopped"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is noticed a second later")
def test_a_run_dies_with_who_triggered_it(anne_and_will):
    """What runs in the foreground doesn't go on behind one's back."""
    anne, _ = anne_and_will(flow_source(MIDDLE, middle="Path('begun').touch(); time.sleep(60)"))
    anne.deploy()
    process = anne.script.start("deploy", "trigger", TMPDIR=str(anne.script.folder), **anne.environment)
    wait_for((anne.script.folder / "begun").exists)
    stop(process, signal.SIGKILL)
    flowstore.namespace(None)
    wait_for(lambda: anne.script.client(1).status == "dead")


@pytest.mark.parametrize("name", ["argo-workflows"])
@pytest.mark.parametrize("given", [(), ("create",), ("create", "--authorize", "x", "--help"), ("--nonsense", "-x")])
def test_commands_of_others_name_deploy(flow, name, given):
    """Whatever their arguments: exit code 2."""
    script = flow(PLAIN)
    assert "deploy create" in one_message(script(name, *given, expect=2))
    assert not script.db.exists()


# --- older stores


def test_an_older_store_is_migrated_at_the_first_deployment(anne_and_will):
    """Until then it is read as it is, and nothing is deployed there."""
    anne, _ = anne_and_will()
    oldest = Path(__file__).parents[1] / "stores" / "v1.db.gz"
    anne.script.db.write_bytes(gzip.decompress(oldest.read_bytes()))
    assert anne.script.sql("pragma user_version") == [1]
    with unchanged(anne.script):
        assert active(anne.script) == []
        for command in ("show", "trigger"):
            one_message(anne("deploy", command, expect=1), "not deployed")
    token = anne.deploy()
    assert anne.script.sql("pragma user_version") == [schema.SCHEMA_VERSION]
    anne("deploy", "trigger")
    [newest] = anne.script.sql("select max(id) from runs")
    assert f"production:{token}" in tags_of(anne.script, newest)
