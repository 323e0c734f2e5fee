"""Schedules fall due as people expect, and one scheduler a store starts what is due, once."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from harness import LINEAR, Script, alive, flow_source, stop, wait_for
from hypothesis import given
from hypothesis import strategies as st

import flowstore
from flowstore import FlowstoreError, GraphError
from flowstore.flow.cron import check_schedule, due, next_due
from flowstore.scheduler import Scheduler
from flowstore.store.db import open_store

NEW_YORK = "America/New_York"
BERLIN = "Europe/Berlin"
ZONES = [None, NEW_YORK, BERLIN, "Asia/Kolkata", "Australia/Lord_Howe", "America/Havana"]
HOUR = timedelta(hours=1)


def utc(text):
    """A moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def times(cron, timezone, after, count):
    """The next due times, as text in UTC."""
    found, moment = [], utc(after)
    for _ in range(count):
        moment = next_due(cron, timezone, moment)
        assert moment.tzinfo is UTC
        found.append(f"{moment:%m-%d %H:%M}")
    return found


# --- due times


@pytest.mark.parametrize(
    ("cron", "timezone", "after", "expected"),
    [
        # spring: New York has no 02:00 to 03:00 on 9 March 2025, Berlin none on 30 March
        ("30 2 * * *", NEW_YORK, "2025-03-08T00:00", ["03-08 07:30", "03-09 07:00", "03-10 06:30"]),
        ("0 2 * * *", NEW_YORK, "2025-03-08T12:00", ["03-09 07:00", "03-10 06:00"]),
        ("15,45 2 * * *", NEW_YORK, "2025-03-08T12:00", ["03-09 07:00", "03-10 06:15", "03-10 06:45"]),
        ("0 9 * * *", NEW_YORK, "2025-03-08T00:00", ["03-08 14:00", "03-09 13:00"]),
        ("30 2 * * *", BERLIN, "2025-03-29T00:00", ["03-29 01:30", "03-30 01:00", "03-31 00:30"]),
        ("0 2,3 * * *", BERLIN, "2025-03-29T12:00", ["03-30 01:00", "03-31 00:00", "03-31 01:00"]),
        ("0 6 * * *", BERLIN, "2025-03-29T00:00", ["03-29 05:00", "03-30 04:00"]),
        # autumn: 01:00 to 02:00 comes twice in New York on 2 November 2025, 02:00 to 03:00 in Berlin on 26 October
        ("30 1 * * *", NEW_YORK, "2025-11-01T12:00", ["11-02 05:30", "11-03 06:30"]),
        ("0 2 * * *", NEW_YORK, "2025-11-01T12:00", ["11-02 07:00", "11-03 07:00"]),
        ("30 2 * * *", BERLIN, "2025-10-25T12:00", ["10-26 00:30", "10-27 01:30"]),
        ("0 3 * * *", BERLIN, "2025-10-25T12:00", ["10-26 02:00", "10-27 02:00"]),
    ],
)
def test_clocks_change(cron, timezone, after, expected):
    """A time that doesn't exist falls due at the first that does; one that comes twice, the first time only."""
    assert times(cron, timezone, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("timezone", "first", "repeated"),
    [(NEW_YORK, "2025-11-02T05:30", "2025-11-02T06:10"), (BERLIN, "2025-10-26T00:30", "2025-10-26T01:10")],
)
def test_the_second_of_two_equal_hours(timezone, first, repeated):
    """Within the second of two equal hours, what fell due in the first is over."""
    hour = utc(first).astimezone(ZoneInfo(timezone)).hour
    cron = f"30 {hour} * * *"
    assert next_due(cron, timezone, utc(first) - HOUR / 2) == utc(first)
    assert next_due(cron, timezone, utc(repeated)) == utc(first) + timedelta(days=1, hours=1)
    assert due(cron, timezone, utc(first), utc(repeated) + HOUR) is None


@pytest.mark.parametrize(
    ("timezone", "day", "hours"),
    [
        (NEW_YORK, "2025-03-09", 23),
        (NEW_YORK, "2025-11-02", 25),
        (BERLIN, "2025-03-30", 23),
        (BERLIN, "2025-10-26", 25),
    ],
)
def test_every_hour_is_every_real_hour(timezone, day, hours):
    """An hourly schedule falls due 23 or 25 times on the day when clocks change, an hour apart."""
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(timezone))
    moment, end = midnight - timedelta(minutes=1), (midnight + timedelta(days=1)).astimezone(UTC)
    found = []
    while (moment := next_due("0 * * * *", timezone, moment)) < end:
        found.append(moment)
    assert found == [midnight.astimezone(UTC) + n * HOUR for n in range(hours)]


def test_ends_of_months():
    """A day that a month doesn't have is left out; L is the last one."""
    assert times("0 0 31 * *", None, "2025-01-01T00:00", 4) == [
        "01-31 00:00",
        "03-31 00:00",
        "05-31 00:00",
        "07-31 00:00",
    ]
    assert times("0 0 L * *", None, "2024-01-31T00:00", 3) == ["02-29 00:00", "03-31 00:00", "04-30 00:00"]
    assert times("0 0 L * *", BERLIN, "2025-02-01T00:00", 3) == ["02-27 23:00", "03-30 22:00", "04-29 22:00"]
    assert next_due("0 0 29 2 *", None, utc("2025-03-01")) == utc("2028-02-29")
    assert times("59 23 31 12 *", NEW_YORK, "2025-12-01T00:00", 1) == ["01-01 04:59"]


def test_days_of_week():
    """Sunday is 0 and 7; a day of the month and a day of the week are alternatives, unless one of them is free."""
    assert times("0 0 * * SUN", None, "2025-06-01T12:00", 2) == ["06-08 00:00", "06-15 00:00"]
    assert times("0 0 * * 0", None, "2025-06-01T12:00", 2) == times("0 0 * * 7", None, "2025-06-01T12:00", 2)
    assert times("0 0 15 * MON", None, "2025-06-10T00:00", 3) == ["06-15 00:00", "06-16 00:00", "06-23 00:00"]
    assert times("0 6 * * MON-FRI", None, "2025-06-06T12:00", 2) == ["06-09 06:00", "06-10 06:00"]


def test_metaflows_form():
    """The form with `?` and a year, which Metaflow's flows have, means the same; another year is refused."""
    assert times("0 10 * * ? *", None, "2025-01-01T00:00", 2) == ["01-01 10:00", "01-02 10:00"]
    assert times("0 10 ? * MON *", None, "2025-01-01T00:00", 1) == ["01-06 10:00"]
    with pytest.raises(GraphError, match="year"):
        check_schedule({"cron": "0 10 * * ? 2026", "timezone": None})


BAD_LINES = """\

x
@daily
* * * *
60 * * * *
0 25 * * *
0 0 31 2 *
0 0 * * MON#6
0 0 * 13 *
*/0 * * * *
5-1 * * * *
"""


@pytest.mark.parametrize("cron", [*BAD_LINES.splitlines(), None, 5])
def test_bad_lines_are_refused(cron):
    """A line that is not cron's, or that no day fits, is an error that shows it and gives an example."""
    with pytest.raises(GraphError, match=r"@schedule.*30 6") as caught:
        check_schedule({"cron": cron, "timezone": None})
    assert repr(cron) in str(caught.value)


@pytest.mark.parametrize("timezone", ["Nowhere", "America", "../passwd", "/etc/localtime", "zone.tab", "\0", "UTC ", 5])
def test_bad_time_zones_are_refused(timezone):
    """A time zone that the database does not have is an error that shows it."""
    with pytest.raises(GraphError, match="no time zone") as caught:
        check_schedule({"cron": "0 0 * * *", "timezone": timezone})
    assert repr(timezone) in str(caught.value)


def test_good_schedules_are_accepted():
    """A schedule may leave its time zone out, or have none."""
    check_schedule({"cron": "0 0 * * *"})
    check_schedule({"cron": "*/5 1-3,7 * jan-mar mon", "timezone": None})
    check_schedule({"cron": "0 0 * * *", "timezone": BERLIN})


lines = st.sampled_from(
    ["* * * * *", "0 * * * *", "30 * * * *", "*/20 1-3 * * *", "30 1 * * *", "30 2 * * *", "15,45 2 * * *", "0 0 * * *",
     "0 2,3 * * 0", "0 0 L * *", "10 */5 * * *", "0 0 31 * MON"]
)  # fmt: skip
nights = [utc(text) for text in ("2025-03-09T04:00", "2025-11-02T03:00", "2025-03-29T22:00", "2025-10-25T22:00")]
moments = st.one_of(
    st.builds(lambda minutes: utc("2024-12-01") + minutes * HOUR / 60, st.integers(0, 600_000)),
    st.builds(
        lambda night, seconds: night + timedelta(seconds=seconds), st.sampled_from(nights), st.integers(0, 20_000)
    ),
)
whiles = st.one_of(st.timedeltas(timedelta(0), 6 * HOUR), st.timedeltas(timedelta(0), timedelta(days=40)))


@given(lines, st.sampled_from(ZONES), moments, whiles)
def test_due_times_are_one_sequence(cron, timezone, since, later):
    """What is due is the last of the times that one finds step by step, from wherever one looks."""
    now = since + later
    stepped, moment = [], since
    while (moment := next_due(cron, timezone, moment)) <= now and len(stepped) < 500:
        assert moment > (stepped[-1] if stepped else since)
        stepped.append(moment)
    if len(stepped) < 500:
        assert due(cron, timezone, since, now) == (stepped[-1] if stepped else None)
    for each in stepped[:3]:
        assert next_due(cron, timezone, each - timedelta(microseconds=1)) == each


@given(lines, st.sampled_from(ZONES), st.lists(moments, max_size=12))
def test_a_clock_that_jumps_runs_nothing_twice(cron, timezone, readings):
    """However the clock jumps, the times that are run grow."""
    mark, ran = utc("2025-02-01"), []
    for now in readings:
        if (found := due(cron, timezone, mark, now)) is not None:
            assert found <= now
            ran.append(found)
            mark = found
    assert ran == sorted(set(ran))


def test_a_long_sleep_is_made_up_for_quickly():
    """Of a year of missed minutes the last is found at once."""
    assert due("* * * * *", BERLIN, utc("2024-01-01"), utc("2025-01-01T00:00:30")) == utc("2025-01-01")


# --- one scheduler, its clock in our hands

HOURLY = "@schedule(hourly=True)"
DAILY = "@schedule(cron='0 6 * * *', timezone='Europe/Berlin')"
WAITS = """
Path(os.environ["HERE"], "waits").write_text(f"{os.getpid()} {os.getppid()}")
while not Path(os.environ["HERE"], "go").exists():
    time.sleep(0.01)
"""


class FakeProcess:
    """A run that ends when a test says so."""

    pid = 4711

    def __init__(self):
        self.code = None

    def poll(self):
        return self.code


class Hand(Scheduler):
    """A scheduler whose clock a test sets, and whose runs are counted."""

    def __init__(self, db, now, start=None):
        self.now, self.said, self.started, self.processes = now, [], [], []
        super().__init__(open_store(db), self.said.append, clock=lambda: self.now, start=start or self._started)

    def _started(self, store, deployment):
        self.started.append(f"{deployment.flow} {deployment.version}")
        self.processes.append(FakeProcess())
        return self.processes[-1]

    def look_at(self, now):
        """What one look at the store at this time starts."""
        self.now, self.started = now, []
        self.look()
        return self.started

    def told(self, text):
        """How many lines hold a text."""
        return sum(text in line for line in self.said)


@pytest.fixture(scope="module")
def deployments(tmp_path_factory):
    """What was deployed for earlier tests, each with its home, by source: most tests have the same flow."""
    made = {}

    def find(source):
        if source not in made:
            made[source] = Script(tmp_path_factory.mktemp("deployed"), source)
            made[source]("deploy", "create", FLOWSTORE_HOME=str(made[source].folder / "home"), FLOWSTORE_USER="tester")
        return made[source].folder

    return find


@pytest.fixture
def deployed(flow, deployments):
    """Deploy a flow with a schedule, at a given time; gives its script."""

    def make(schedule=HOURLY, at="2025-06-01T12:10", **bodies):
        script = flow(flow_source(LINEAR, head=schedule, **bodies))
        shutil.copytree(deployments(script.file.read_text()), script.folder, dirs_exist_ok=True)
        date_back(script.db, at)
        return script

    return make


def deploy(script, at=None, store=None):
    """Deploy what the file holds now, and date that back."""
    script("deploy", "create", *(["--store", store] if store else []))
    date_back(store or script.db, at)


def date_back(db, at):
    """Let the newest deployment have been made at a given time."""
    if at is not None:
        with contextlib.closing(sqlite3.connect(db)) as connection:
            newest = "update deployments set deployed_at = ? where id = (select max(id) from deployments)"
            connection.execute(newest, (int(utc(at).timestamp() * 1000),))
            connection.commit()


@pytest.fixture
def hand():
    """A scheduler at work; it leaves at the end."""
    made = []

    def make(script, now, **options):
        made.append(Hand(script.db, utc(now), **options))
        made[-1].claim()
        return made[-1]

    yield make
    for each in made:
        each.leave()


def test_a_schedule_is_followed(deployed, hand):
    """A run starts at each due time, not before, and not again."""
    scheduler = hand(deployed(), "2025-06-01T12:10")
    started = [scheduler.look_at(utc("2025-06-01T12:10") + minutes * HOUR / 60) for minutes in range(125)]
    assert [n for n, found in enumerate(started) if found] == [50, 110]
    assert scheduler.told("due at 2025-06-01 13:00:00 UTC") == 2  # as the next one, and as it is started


def test_a_machine_asleep_over_five_due_times_runs_once(deployed, hand):
    """Missed times are made up for by one run; after it the schedule goes on."""
    scheduler = hand(deployed(), "2025-06-01T12:10")
    assert scheduler.look_at(utc("2025-06-01T12:30")) == []
    assert scheduler.look_at(utc("2025-06-01T17:30")) == ["F 1"]
    assert scheduler.look_at(utc("2025-06-01T17:59")) == []
    assert scheduler.look_at(utc("2025-06-01T18:00")) == ["F 1"]


def test_times_missed_without_a_scheduler_run_once(deployed, hand):
    """What fell due while no scheduler ran is made up for once, by the first one that comes."""
    script = deployed()
    first = hand(script, "2025-06-03T12:00:30")
    assert first.look_at(first.now) == ["F 1"]
    first.leave()
    second = hand(script, "2025-06-03T12:30")
    assert second.look_at(second.now) == []
    second.leave()
    third = hand(script, "2025-06-05T00:10")
    assert [third.look_at(third.now), third.look_at(third.now)] == [["F 1"], []]


def test_a_clock_set_back_runs_nothing_twice(deployed, hand):
    """A due time that was run is not run again when the clock comes by it once more, nor by another scheduler."""
    script = deployed()
    scheduler = hand(script, "2025-06-01T12:10")
    assert scheduler.look_at(utc("2025-06-01T15:00")) == ["F 1"]
    for minutes in range(0, 121, 10):
        assert scheduler.look_at(utc("2025-06-01T13:00") + minutes * HOUR / 60) == []
    scheduler.leave()
    other = hand(script, "2025-06-01T13:00")
    assert [other.look_at(utc(f"2025-06-01T{at}")) for at in ("14:30", "15:30", "16:00")] == [[], [], ["F 1"]]


@pytest.mark.parametrize(
    ("cron", "begin", "expected"),
    [
        ("30 2 * * *", "2025-03-08", ["03-08 07:30", "03-09 07:00", "03-10 06:30"]),
        ("30 1 * * *", "2025-11-01", ["11-01 05:30", "11-02 05:30", "11-03 06:30"]),
    ],
)
def test_a_night_when_clocks_change(deployed, hand, cron, begin, expected):
    """A nightly flow runs once a night, also in the two nights that are not like others."""
    scheduler = hand(deployed(f"@schedule(cron='{cron}', timezone='{NEW_YORK}')", begin), begin)
    quarters = [utc(begin) + n * HOUR / 4 for n in range(4 * 72)]
    assert [f"{now:%m-%d %H:%M}" for now in quarters if scheduler.look_at(now)] == expected


def test_changes_are_noticed(deployed, hand):
    """New, changed and deleted deployments count from the next look; a new version starts afresh."""
    script = deployed()
    scheduler = hand(script, "2025-06-01T12:10")
    assert scheduler.look_at(utc("2025-06-01T13:00")) == ["F 1"]
    script.rewrite(flow_source(LINEAR, head=DAILY))
    deploy(script, "2025-06-01T13:30")
    assert scheduler.look_at(utc("2025-06-01T14:00")) == []
    assert scheduler.said[-1].endswith(
        "Next is F version 2, due at 2025-06-02 04:00:00 UTC (2025-06-02 06:00:00 CEST)."
    )
    assert scheduler.told("No longer scheduled: F version 1.") == 1
    assert scheduler.look_at(utc("2025-06-02T04:00")) == ["F 2"]
    script("deploy", "delete")
    assert scheduler.look_at(utc("2025-06-03T04:00")) == []
    assert scheduler.said[-1].endswith("Waiting for a deployment with a schedule.")
    deploy(script, "2025-06-03T05:00")
    assert scheduler.look_at(utc("2025-06-04T04:00")) == ["F 3"]
    script.rewrite(flow_source(LINEAR))
    deploy(script, "2025-06-04T05:00")
    assert scheduler.look_at(utc("2025-06-05T04:00")) == []


def test_others_code_is_not_run_unless_trusted(deployed, hand, monkeypatch, tmp_path):
    """What another user deployed is refused, which is said once; once the store is trusted, it runs."""
    script = deployed()
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "another"))
    scheduler = hand(script, "2025-06-01T12:10")
    for minutes in range(60, 300, 30):
        assert scheduler.look_at(utc("2025-06-01T12:00") + minutes * HOUR / 60) == []
    assert scheduler.told("F version 1 is not run.") == scheduler.told("flowstore trust") == 1
    flowstore_command("trust", script.db)
    assert scheduler.look_at(utc("2025-06-01T17:30")) == ["F 1"]
    assert scheduler.look_at(utc("2025-06-01T17:40")) == []


def test_a_bad_line_in_the_store_stops_nobody_else(deployed, hand):
    """A schedule that can't be followed is said once; the others go on."""
    script = deployed()
    elsewhere = script.folder / "elsewhere"
    elsewhere.mkdir()
    other = Script(elsewhere, script.file.read_text().replace("F(", "G("))
    deploy(other, "2025-06-01T12:10", script.db)
    with contextlib.closing(sqlite3.connect(script.db)) as connection:
        connection.execute("""update deployments set schedule = '{"cron": "soon"}' where flow = 'F'""")
        connection.commit()
    scheduler = hand(script, "2025-06-01T12:10")
    assert [scheduler.look_at(utc(f"2025-06-01T{hour}:00")) for hour in (13, 14)] == [["G 1"], ["G 1"]]
    assert scheduler.told("F version 1 is not run. @schedule: 'soon' is not a cron line") == 1


def test_who_lost_the_store_starts_nothing(deployed, hand):
    """A scheduler that another one took over from ends before it starts anything."""
    script = deployed()
    scheduler = hand(script, "2025-06-01T12:10")
    with contextlib.closing(sqlite3.connect(script.db)) as connection:
        connection.execute("update scheduler set pid_started = 'another'")
        connection.commit()
    with pytest.raises(FlowstoreError, match="another scheduler"):
        scheduler.look_at(utc("2025-06-01T13:00"))
    assert scheduler.started == []
    assert script.sql("select count(*) from due_marks") == [0]


def test_trouble_that_passes_is_outlived(deployed, hand, monkeypatch):
    """An error of the store is said when it begins, and the scheduler goes on when it is over."""
    scheduler = hand(deployed(), "2025-06-01T13:00")

    def fail(store):
        raise FlowstoreError("The disk is full.")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr("flowstore.timetable.entries", fail)
            scheduler._look_again()
            scheduler._look_again()
        scheduler._look_again()
    assert scheduler.told("The disk is full. Trying again.") == 2
    assert scheduler.started == ["F 1"]


def test_a_run_that_cant_be_started_is_told(deployed, hand):
    """When the system has no process left, the scheduler says so and goes on."""

    def fail(store, deployment):
        raise OSError(11, "Resource temporarily unavailable")

    scheduler = hand(deployed(), "2025-06-01T12:10", start=fail)
    scheduler.look_at(utc("2025-06-01T13:00"))
    assert scheduler.told("can't be started: [Errno 11] Resource temporarily unavailable") == 1
    scheduler.look_at(utc("2025-06-01T13:10"))
    assert scheduler.told("can't be started") == 1


def test_endings_are_told(deployed, hand):
    """Each run's end is said, with how it ended."""
    scheduler = hand(deployed(), "2025-06-01T12:10")
    for hour, code in ((13, 0), (14, 1), (15, -9)):
        scheduler.look_at(utc(f"2025-06-01T{hour}:00"))
        scheduler.reap()
        scheduler.processes[-1].code = code
        scheduler.reap()
    endings = ["was successful", "ended with exit code 1", "was killed by signal 9"]
    assert [scheduler.told(f"F version 1 (process 4711) {ending}.") for ending in endings] == [1, 1, 1]


# --- real processes


def flowstore_command(*args, expect=0, **env):
    """Run `flowstore ARGS` to its end."""
    command = [sys.executable, "-m", "flowstore", *map(str, args)]
    done = subprocess.run(command, env=environment(env), capture_output=True, text=True, timeout=60)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done


def environment(env):
    return {**os.environ, "PYTHONWARNINGS": "error", **{name: str(value) for name, value in env.items()}}


@contextlib.contextmanager
def running(script, **env):
    """A `flowstore scheduler` that works on a script's store, from when it says so."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flowstore", "scheduler", "--store", str(script.db)],
        env=environment({"HERE": script.folder, **env}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
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


def test_a_missed_time_runs_once_for_real(deployed):
    """`scheduler --once` makes up for missed times with one run, in the production namespace."""
    script = deployed()
    first = flowstore_command("scheduler", "--once", "--store", script.db)
    assert statuses(script) == ["successful"]
    assert "F version 1 (process" in first.stderr
    assert "was successful" in first.stderr
    [token] = script.sql("select token from production_tokens")
    assert f"production:{token}" in script.sql("select tag from object_tags where kind = 'run'")
    second = flowstore_command("scheduler", "--once", "--store", script.db)
    assert "Started" not in second.stderr
    assert statuses(script) == ["successful"]
    assert script.sql("select count(*) from scheduler") == [0]


def test_the_second_scheduler_refuses(deployed):
    """A store has one scheduler: the second one ends at once, naming the first one's process and host."""
    script = deployed(at=None)
    with running(script) as first:
        for options in ([], ["--once"]):
            refused = flowstore_command("scheduler", *options, "--store", script.db, expect=1)
            assert refused.stdout == ""
            assert len(refused.stderr.splitlines()) == 1
            assert f"process {first.pid} on {platform.node()}" in refused.stderr
        assert first.poll() is None
        assert stop(first, signal.SIGTERM).code == 143
    flowstore_command("scheduler", "--once", "--store", script.db)


def test_two_schedulers_at_the_same_moment(deployed):
    """Of several that start at once, one works; the due time is run once."""
    script = deployed(start=WAITS)
    command = [sys.executable, "-m", "flowstore", "scheduler", "--once", "--store", str(script.db)]
    processes = [
        subprocess.Popen(
            command, env=environment({"HERE": script.folder}), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    wait_for(lambda: sum(process.poll() is not None for process in processes) == 3)
    waiting(script)
    (script.folder / "go").touch()
    for process in processes:
        process.communicate(timeout=60)
    assert Counter(process.returncode for process in processes) == {1: 3, 0: 1}
    assert statuses(script) == ["successful"]


def test_killed_in_the_middle_of_a_run(deployed):
    """kill -9: the run dies with the scheduler and shows as dead; the next scheduler starts clean."""
    script = deployed(start=WAITS)
    with running(script) as process:
        pids = waiting(script)
        driver = script.sql("select pid from runs")
        process.kill()
        process.communicate(timeout=60)
        wait_for(lambda: not any(map(alive, [*pids, *driver])))
    with flowstore.use_store(script.db):
        flowstore.namespace(None)
        assert flowstore.Run("F/1").status == "dead"
    told = flowstore_command("scheduler", "--once", "--store", script.db)
    assert "Started" not in told.stderr
    assert statuses(script) == ["dead"]
    with contextlib.closing(sqlite3.connect(script.db)) as connection:
        connection.execute("update due_marks set due_at = due_at - 3600000")
        connection.commit()
    (script.folder / "go").touch()
    flowstore_command("scheduler", "--once", "--store", script.db, HERE=script.folder)
    assert statuses(script) == ["dead", "successful"]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_clean_stop(deployed, how, code):
    """SIGTERM and SIGINT stop what runs, which is said, and leave a store at rest."""
    script = deployed(start=WAITS)
    with running(script) as process:
        pids = waiting(script)
        ended = stop(process, how)
        assert ended.code == code
        assert not any(map(alive, pids))
    assert "Stopping F version 1 (process" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert statuses(script) == ["stopped"]
    assert script.sql("select count(*) from scheduler") == [0]


def test_a_second_signal_kills(deployed):
    """A run that does not stop is killed by a second signal."""
    script = deployed(start="signal.signal(signal.SIGTERM, signal.SIG_IGN)" + WAITS)
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


def test_deployments_run_at_once_and_fail_alone(deployed):
    """Two that are due run at the same time, and one that fails harms neither the other nor the scheduler."""
    meet = """
    Path(os.environ["HERE"], type(self).__name__).touch()
    while not all(Path(os.environ["HERE"], name).exists() for name in "FG"):
        time.sleep(0.01)
    if type(self).__name__ == "G":
        os._exit(3)
    """
    script = deployed(start=meet)
    elsewhere = script.folder / "elsewhere"
    elsewhere.mkdir()
    other = Script(elsewhere, script.file.read_text().replace("class F", "class G").replace("    F()", "    G()"))
    deploy(other, "2025-06-01T12:10", script.db)
    told = flowstore_command("scheduler", "--once", "--store", script.db, expect=1, HERE=script.folder)
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
    assert "Waiting for a deployment with a schedule." in told.stderr
    assert "Scheduled: F version 2, '0 * * * *' in UTC." in told.stderr


def test_a_store_that_goes_away_ends_the_scheduler(deployed):
    """When the file is removed, the scheduler ends with one error."""
    script = deployed(at=None)
    with running(script) as process:
        script.db.unlink()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in stderr.decode()
    assert "Error: " in stderr.decode()


def test_no_store():
    """Without a store there is nothing to schedule: one error that names the places looked at."""
    assert "No store found" in flowstore_command("scheduler", expect=1).stderr


# --- the listing


def test_deployments_are_listed(deployed):
    """`flowstore deployments` shows each with its schedule and next due time, in UTC and in its zone."""
    script = deployed(DAILY, at=None)
    [row] = json.loads(flowstore_command("deployments", "--json", "--store", script.db).stdout)
    [deployed_at] = script.sql("select deployed_at from deployments")
    expected = next_due("0 6 * * *", BERLIN, datetime.fromtimestamp(deployed_at / 1000, UTC))
    assert row == {
        "flow": "F", "project": None, "branch": None, "version": 1, "deployed_by": "tester",
        "deployed_at": row["deployed_at"], "schedule": "0 6 * * *", "timezone": BERLIN,
        "next_due_at": f"{expected:%Y-%m-%d %H:%M:%S}.000",
        "next_due_local": f"{expected.astimezone(ZoneInfo(BERLIN)):%Y-%m-%d %H:%M:%S %Z}",
    }  # fmt: skip
    assert row["next_due_local"][11:19] == "06:00:00"
    table = flowstore_command("deployments", "--store", script.db)
    assert "0 6 * * *" in table.stdout
    assert "No scheduler is running" in table.stderr
    lines = list(csv.DictReader(flowstore_command("--csv", "deployments", "--store", script.db).stdout.splitlines()))
    assert [line["timezone"] for line in lines] == [BERLIN]


def test_deployments_without_a_schedule_are_listed(flow):
    """One that is only triggered has no due time; a namespace narrows the list."""
    script = flow(flow_source(LINEAR, head="@project(name='shop')"))
    deploy(script)
    [row] = json.loads(flowstore_command("deployments", "--json", "--store", script.db).stdout)
    assert (row["project"], row["branch"]) == ("shop", "user.tester")
    assert [row[name] for name in ("schedule", "timezone", "next_due_at", "next_due_local")] == [None] * 4
    [token] = script.sql("select token from production_tokens")
    for namespace, count in ((f"production:{token}", 1), ("production:other", 0)):
        told = flowstore_command("deployments", "--json", "--namespace", namespace, "--store", script.db)
        assert len(json.loads(told.stdout)) == count


def test_a_bad_schedule_is_refused_when_it_is_deployed(flow):
    """`deploy create` refuses a schedule that could never be followed, and changes nothing."""
    script = flow(flow_source(LINEAR, head="@schedule(cron='0 25 * * *')"))
    assert "'0 25 * * *' is not a cron line" in script("deploy", "create", expect=2).stderr
    script.rewrite(flow_source(LINEAR, head="@schedule(daily=True, timezone='Berlin')"))
    assert "no time zone 'Berlin'" in script("deploy", "create", expect=2).stderr
