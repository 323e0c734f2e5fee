"""Schedulers as processes: one a store starts what is due, once, and ends cleanly."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import signal
import sqlite3
from collections import Counter
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

import flowstore
from flowstore.flow.cron import next_due
from support.cli import Script, command, started, stop
from support.flows import LINEAR, flow_source
from support.processes import alive, wait_for
from support.scheduling import BERLIN, DAILY, HOURLY, deploy

WAITS = """
Path(os.environ["HERE"], "waits").write_text(f"{os.getpid()} {os.getppid()}")
while not Path(os.environ["HERE"], "go").exists():
    time.sleep(0.01)
"""


@contextlib.contextmanager
def running(script, **env):
    """A `flowstore scheduler` that works on a script's store, from when it says so."""
    process = started("-m", "flowstore", "scheduler", "--store", script.db, HERE=script.folder, **env)
    try:
        wait_for(lambda: process.poll() is not None or script.sql("select pid from scheduler") == [process.pid])
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if not process.stdout.closed:
            process.communicate(timeout=60)


def waiting(script):
    """The pids of a task that waits, and of its task server."""
    return wait_for(
        lambda: (file := script.folder / "waits").exists() and [int(pid) for pid in file.read_text().split()]
    )


def statuses(script):
    return script.sql("select status from run_summary order by run_id")


def test_a_missed_time_runs_once_for_real(scheduled):
    """`scheduler --once` makes up for missed times with one run, in the production namespace."""
    script = scheduled()
    first = command("scheduler", "--once", "--store", script.db, fresh=True)
    assert statuses(script) == ["successful"]
    assert "F version 1 (process" in first.stderr
    assert "was successful" in first.stderr
    [token] = script.sql("select token from production_tokens")
    assert f"production:{token}" in script.sql("select tag from object_tags where kind = 'run'")
    second = command("scheduler", "--once", "--store", script.db, fresh=True)
    assert "Started" not in second.stderr
    assert statuses(script) == ["successful"]
    assert script.sql("select count(*) from scheduler") == [0]


def test_the_second_scheduler_refuses(scheduled):
    """A store has one scheduler: the second one ends at once, naming the first one's process and host."""
    script = scheduled(at=None)
    with running(script) as first:
        for options in ([], ["--once"]):
            refused = command("scheduler", *options, "--store", script.db, expect=1, fresh=True)
            assert refused.stdout == ""
            assert len(refused.stderr.splitlines()) == 1
            assert f"process {first.pid} on {platform.node()}" in refused.stderr
        assert first.poll() is None
        assert stop(first, signal.SIGTERM).code == 143
    command("scheduler", "--once", "--store", script.db, fresh=True)


def test_two_schedulers_at_the_same_moment(scheduled):
    """Of several that start at once, one works; the due time is run once."""
    script = scheduled(start=WAITS)
    once = ("-m", "flowstore", "scheduler", "--once", "--store", script.db)
    processes = [started(*once, HERE=script.folder) for _ in range(4)]
    wait_for(lambda: sum(process.poll() is not None for process in processes) == 3)
    waiting(script)
    (script.folder / "go").touch()
    for process in processes:
        process.communicate(timeout=60)
    assert Counter(process.returncode for process in processes) == {1: 3, 0: 1}
    assert statuses(script) == ["successful"]


def test_killed_in_the_middle_of_a_run(scheduled):
    """kill -9: the run dies with the scheduler and shows as dead; the next scheduler starts clean."""
    script = scheduled(start=WAITS)
    with running(script) as process:
        pids = waiting(script)
        driver = script.sql("select pid from runs")
        process.kill()
        process.communicate(timeout=60)
        wait_for(lambda: not any(map(alive, [*pids, *driver])))
    with flowstore.use_store(script.db):
        flowstore.namespace(None)
        assert flowstore.Run("F/1").status == "dead"
    told = command("scheduler", "--once", "--store", script.db, fresh=True)
    assert "Started" not in told.stderr
    assert statuses(script) == ["dead"]
    with contextlib.closing(sqlite3.connect(script.db)) as connection:
        connection.execute("update due_marks set due_at = due_at - 3600000")
        connection.commit()
    (script.folder / "go").touch()
    command("scheduler", "--once", "--store", script.db, HERE=script.folder, fresh=True)
    assert statuses(script) == ["dead", "successful"]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_clean_stop(scheduled, how, code):
    """SIGTERM and SIGINT stop what runs, which is said, and leave a store at rest."""
    script = scheduled(start=WAITS)
    with running(script) as process:
        pids = waiting(script)
        ended = stop(process, how)
        assert ended.code == code
        assert not any(map(alive, pids))
    assert "Stopping F version 1 (process" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert statuses(script) == ["stopped"]
    assert script.sql("select count(*) from scheduler") == [0]


def test_a_second_signal_kills(scheduled):
    """A run that does not stop is killed by a second signal."""
    script = scheduled(start="signal.signal(signal.SIGTERM, signal.SIG_IGN)" + WAITS)
    with running(script) as process:
        pids = waiting(script)
        process.terminate()
        lines = iter(process.stderr.readline, b"")
        assert any(b"Stopping F" in line for line in lines)
        process.terminate()
        assert process.wait(timeout=60) == 143
        wait_for(lambda: not any(map(alive, pids)))
        wait_for(lambda: not any(map(alive, script.sql("select pid from runs"))))
    with flowstore.use_store(script.db):
        flowstore.namespace(None)
        assert flowstore.Run("F/1").status == "dead"


def test_deployments_run_at_once_and_fail_alone(scheduled):
    """Two that are due run at the same time, and one that fails harms neither the other nor the scheduler."""
    meet = """
    Path(os.environ["HERE"], type(self).__name__).touch()
    while not all(Path(os.environ["HERE"], name).exists() for name in "FG"):
        time.sleep(0.01)
    if type(self).__name__ == "G":
        os._exit(3)
    """
    script = scheduled(start=meet)
    elsewhere = script.folder / "elsewhere"
    elsewhere.mkdir()
    other = Script(elsewhere, script.file.read_text().replace("class F", "class G").replace("    F()", "    G()"))
    deploy(other, "2025-06-01T12:10", script.db)
    told = command("scheduler", "--once", "--store", script.db, expect=1, HERE=script.folder, fresh=True)
    assert dict(script.sql("select flow, status from run_summary")) == {"F": "successful", "G": "failed"}
    assert "F version 1" in told.stderr
    assert "ended with exit code 1" in told.stderr


def test_a_deployment_is_noticed_by_a_scheduler_at_work(flow, tmp_path):
    """What is deployed while the scheduler works is started by it, without a restart."""
    script = flow(flow_source(LINEAR))
    deploy(script)
    with running(script) as process:
        script.rewrite(flow_source(LINEAR, head=HOURLY))
        deploy(script, "2025-06-01T12:10")
        wait_for(lambda: statuses(script) == ["successful"])
        told = stop(process)
    assert told.code == 130
    assert "Waiting for a deployment with a schedule, or for events." in told.stderr
    assert "Scheduled: F version 2, '0 * * * *' in UTC." in told.stderr


def test_a_store_that_goes_away_ends_the_scheduler(scheduled):
    """When the file is removed, the scheduler ends with one error."""
    script = scheduled(at=None)
    with running(script) as process:
        script.db.unlink()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in stderr.decode()
    assert "Error: " in stderr.decode()


def test_no_store():
    """Without a store there is nothing to schedule: one error that names the places looked at."""
    assert "No store found" in command("scheduler", expect=1, fresh=True).stderr


def test_deployments_are_listed(scheduled):
    """`flowstore deployments` shows each with its schedule and next due time, in UTC and in its zone."""
    script = scheduled(DAILY, at=None)
    [row] = json.loads(command("deployments", "--json", "--store", script.db).stdout)
    [deployed_at] = script.sql("select deployed_at from deployments")
    expected = next_due("0 6 * * *", BERLIN, datetime.fromtimestamp(deployed_at / 1000, UTC))
    assert row == {
        "flow": "F", "project": None, "branch": None, "version": 1, "deployed_by": "tester",
        "deployed_at": row["deployed_at"], "schedule": "0 6 * * *", "timezone": BERLIN,
        "next_due_at": f"{expected:%Y-%m-%d %H:%M:%S}.000",
        "next_due_local": f"{expected.astimezone(ZoneInfo(BERLIN)):%Y-%m-%d %H:%M:%S %Z}", "triggers": None,
    }  # fmt: skip
    assert row["next_due_local"][11:19] == "06:00:00"
    table = command("deployments", "--store", script.db)
    assert "0 6 * * *" in table.stdout
    assert "No scheduler is running" in table.stderr
    lines = list(csv.DictReader(command("--csv", "deployments", "--store", script.db).stdout.splitlines()))
    assert [line["timezone"] for line in lines] == [BERLIN]


def test_deployments_without_a_schedule_are_listed(flow):
    """One that is only triggered has no due time; a namespace narrows the list."""
    script = flow(flow_source(LINEAR, head="@project(name='shop')"))
    deploy(script)
    [row] = json.loads(command("deployments", "--json", "--store", script.db).stdout)
    assert (row["project"], row["branch"]) == ("shop", "user.tester")
    assert [row[name] for name in ("schedule", "timezone", "next_due_at", "next_due_local")] == [None] * 4
    [token] = script.sql("select token from production_tokens")
    for namespace, count in ((f"production:{token}", 1), ("production:other", 0)):
        told = command("deployments", "--json", "--namespace", namespace, "--store", script.db)
        assert len(json.loads(told.stdout)) == count


def test_a_bad_schedule_is_refused_when_it_is_deployed(flow):
    """`deploy create` refuses a schedule that could never be followed, and changes nothing."""
    script = flow(flow_source(LINEAR, head="@schedule(cron='0 25 * * *')"))
    assert "'0 25 * * *' is not a cron line" in script("deploy", "create", expect=2).stderr
    script.rewrite(flow_source(LINEAR, head="@schedule(daily=True, timezone='Berlin')"))
    assert "no time zone 'Berlin'" in script("deploy", "create", expect=2).stderr
