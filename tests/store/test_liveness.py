"""A run whose driver is gone is dead: at once on the same machine, after a stated silence from elsewhere."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys

import pytest

import flowstore
from flowstore import Run
from flowstore.sqlite import liveness
from flowstore.store import records
from flowstore.store.opening import open_store
from support.cli import command, stop
from support.flows import LINEAR, MIDDLE, flow_source
from support.processes import wait_for
from support.recording import store_with

ELSEWHERE = {"host": "another-machine", "boot": "5d0c pid:[1]"}
REBOOTED = {"boot": f"another-boot {liveness._boot().partition(' ')[2]}"}
OTHER_CONTAINER = {"boot": f"{liveness._boot().partition(' ')[0]} pid:[1]"}
UNKNOWN_SYSTEM = {"boot": "", "pid_started": ""}
SILENT_S = liveness.SILENCE_S + 5
LATELY_S = liveness.SILENCE_S - 20

# What is recorded of the driver, how long ago it wrote, and what the run then is.
DRIVERS = {
    "this process": ({}, SILENT_S, "running"),
    "no such process": ({"pid": 1 << 22}, 0, "dead"),
    "a process id that is another's now": ({"pid_started": "1"}, 0, "dead"),
    "before the machine was started again": (REBOOTED, 0, "dead"),
    "another machine": (ELSEWHERE, LATELY_S, "running"),
    "another machine, silent": (ELSEWHERE, SILENT_S, "dead"),
    "another container": (OTHER_CONTAINER, LATELY_S, "running"),
    "another container, silent": (OTHER_CONTAINER, SILENT_S, "dead"),
    "a system that does not tell": (UNKNOWN_SYSTEM, LATELY_S, "running"),
    "a system that does not tell, silent": (UNKNOWN_SYSTEM, SILENT_S, "dead"),
}


def set_driver(path, columns, seen_s_ago):
    """Make the runs that are recorded as running those of another driver, which last wrote some time ago."""
    store = open_store(path)
    with store.write() as db:
        for name, value in {**columns, "last_seen_at": records.now_ms() - int(seen_s_ago * 1000)}.items():
            db.execute(f"update runs set {name} = ? where status = 'running'", (value,))
    store.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a system does not tell")
@pytest.mark.parametrize("who", DRIVERS)
def test_who_is_dead(who, tmp_path):
    """The Client goes by host, boot and process, and by silence where these can't be compared."""
    columns, seen_s_ago, status = DRIVERS[who]
    path = store_with(tmp_path / "flowstore.db", {"status": "running"})
    set_driver(path, columns, seen_s_ago)
    flowstore.use_store(path)
    run = Run("F/1")
    assert (run.status, run["end"].task.status) == (status, status)
    assert run.finished is False


def test_a_process_that_the_system_hides_is_not_dead(tmp_path, monkeypatch):
    """Where a machine hides others' processes, silence decides: a colleague's run is not taken for dead."""
    path = store_with(tmp_path / "flowstore.db", {"status": "running"})
    monkeypatch.setattr(liveness.os, "kill", lambda *_: (_ for _ in ()).throw(PermissionError()))
    statuses = []
    for seen_s_ago in (LATELY_S, SILENT_S):
        set_driver(path, {"pid": 1 << 22}, seen_s_ago)
        flowstore.use_store(path)
        statuses.append(Run("F/1").status)
    assert statuses == ["running", "dead"]


DEAD = ({"pid": 1 << 22}, 0)


def test_commands_show_it_at_once(tmp_path):
    """Before anybody has recorded it, commands say dead, and the views what was recorded, and when it last was seen."""
    path = store_with(tmp_path / "flowstore.db", {"status": "running"}, {})
    set_driver(path, *DEAD)
    said = command("runs", "--json", "--store", path).stdout
    assert '"dead"' in said
    assert '"running"' not in said
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("select status, last_seen_at from run_summary order by run_id").fetchall()
    assert [status for status, _ in rows] == ["running", "successful"]
    assert None not in [seen for _, seen in rows]


WRITERS = {
    "run": lambda script, _: script("run"),
    "resume": lambda script, _: script("resume", "--origin-run-id", 2),
    "tag": lambda script, _: script("tag", "add", "new", "--run-id", 2),
    "deploy": lambda script, _: script("deploy", "create"),
    "scheduler": lambda script, _: command("scheduler", "--once", "--store", script.db),
    "import": lambda script, other: command("import", other, "--store", script.db),
    "delete": lambda script, _: command("delete", "F/2", "--yes", "--store", script.db),
    "vacuum": lambda script, _: command("vacuum", "--store", script.db),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_the_next_writer_records_it(writer, flow, tmp_path):
    """Whoever writes next, the views say it from then on: the run, its tasks and their attempts."""
    (tmp_path / "other").mkdir()
    other = store_with(tmp_path / "other" / "other.db", {})
    script = flow(flow_source(LINEAR))
    store_with(script.db, {"status": "running"}, {"fails_at": "end"})
    set_driver(script.db, *DEAD)
    WRITERS[writer](script, other)
    assert script.sql("select status from run_summary where run_id = 1") == ["dead"]
    assert script.sql("select status from task_summary where run_id = 1 and step = 'end'") == ["dead"]
    assert script.sql("select count(*) from attempts where status = 'running'") == [0]


@pytest.mark.parametrize("who", ["no such process", "before the machine was started again", "another machine, silent"])
def test_resume_takes_it(who, flow):
    """A dead run can be resumed, by default and by its id; what had finished is taken over."""
    script = flow(flow_source(LINEAR))
    store_with(script.db, {"status": "running", "x": 1})
    set_driver(script.db, *DRIVERS[who][:2])
    script("resume")
    run = script.client(2)
    assert (run.status, run.origin_run_id, run.data.x) == ("successful", "1", 1)
    assert [step.task.origin_pathspec for step in run] == [None, "F/1/start/1"]


def test_resume_leaves_alone_what_may_live(flow):
    """A run of another machine that has written lately is not resumed, and the message says so."""
    script = flow(flow_source(LINEAR))
    store_with(script.db, {"status": "running"})
    set_driver(script.db, ELSEWHERE, LATELY_S)
    assert "is still running" in script("resume", "--origin-run-id", 1, expect=1).stderr


OFTEN = """
import flowstore.sqlite.liveness
flowstore.sqlite.liveness.HEARTBEAT_S = 0.05
"""
WAIT = "while not Path('go').exists(): time.sleep(0.01)"
QUIET = {
    "a long task": flow_source(MIDDLE, middle=WAIT),
    "a long wait for a retry": flow_source(
        MIDDLE, middle="@retry(times=1, minutes_between_retries=60)\nraise ValueError('not yet')"
    ),
}


@pytest.mark.parametrize("why", QUIET)
def test_a_quiet_run_lives(why, flow, monkeypatch):
    """A driver that has nothing to write gives signs of life all the same: nobody elsewhere takes it for dead."""
    script = flow(QUIET[why])
    (script.folder / "often").mkdir()
    (script.folder / "often" / "sitecustomize.py").write_text(OFTEN)
    process = script.start("run", PYTHONPATH=f"{script.folder / 'often'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    seen = set()

    def beats():
        if script.db.exists() and script.sql("select count(*) from sqlite_master where name = 'runs'") == [1]:
            seen.update(script.sql("select last_seen_at from runs"))
        return len(seen) >= 4

    wait_for(beats)
    monkeypatch.setattr(liveness, "host", lambda: "another-machine")
    assert script.client().status == "running"
    flowstore.context.state.store.close()
    (script.folder / "go").touch()
    stop(process)


def test_a_sign_of_life_comes_often_enough():
    """Several of them fit into the silence after which a run is taken for dead, so that a slow disk kills nobody."""
    assert liveness.SILENCE_S >= 10 * liveness.HEARTBEAT_S
