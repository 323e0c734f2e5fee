"""One scheduler, its clock in our hands: what is due is started, once."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from flowstore import FlowstoreError
from flowstore.production.scheduler import Scheduler
from flowstore.store.opening import open_store
from support.cli import Script, command
from support.flows import LINEAR, flow_source
from support.scheduling import DAILY, HOUR, NEW_YORK, deploy, utc


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


def test_a_schedule_is_followed(scheduled, hand):
    """A run starts at each due time, not before, and not again."""
    scheduler = hand(scheduled(), "2025-06-01T12:10")
    started = [scheduler.look_at(utc("2025-06-01T12:10") + minutes * HOUR / 60) for minutes in range(125)]
    assert [n for n, found in enumerate(started) if found] == [50, 110]
    assert scheduler.told("due at 2025-06-01 13:00:00 UTC") == 2  # as the next one, and as it is started


def test_a_machine_asleep_over_five_due_times_runs_once(scheduled, hand):
    """Missed times are made up for by one run; after it the schedule goes on."""
    scheduler = hand(scheduled(), "2025-06-01T12:10")
    assert scheduler.look_at(utc("2025-06-01T12:30")) == []
    assert scheduler.look_at(utc("2025-06-01T17:30")) == ["F 1"]
    assert scheduler.look_at(utc("2025-06-01T17:59")) == []
    assert scheduler.look_at(utc("2025-06-01T18:00")) == ["F 1"]


def test_times_missed_without_a_scheduler_run_once(scheduled, hand):
    """What fell due while no scheduler ran is made up for once, by the first one that comes."""
    script = scheduled()
    first = hand(script, "2025-06-03T12:00:30")
    assert first.look_at(first.now) == ["F 1"]
    first.leave()
    second = hand(script, "2025-06-03T12:30")
    assert second.look_at(second.now) == []
    second.leave()
    third = hand(script, "2025-06-05T00:10")
    assert [third.look_at(third.now), third.look_at(third.now)] == [["F 1"], []]


def test_a_clock_set_back_runs_nothing_twice(scheduled, hand):
    """A due time that was run is not run again when the clock comes by it once more, nor by another scheduler."""
    script = scheduled()
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
def test_a_night_when_clocks_change(scheduled, hand, cron, begin, expected):
    """A nightly flow runs once a night, also in the two nights that are not like others."""
    scheduler = hand(scheduled(f"@schedule(cron='{cron}', timezone='{NEW_YORK}')", begin), begin)
    quarters = [utc(begin) + n * HOUR / 4 for n in range(4 * 72)]
    assert [f"{now:%m-%d %H:%M}" for now in quarters if scheduler.look_at(now)] == expected


def test_changes_are_noticed(scheduled, hand):
    """New, changed and deleted deployments count from the next look; a new version starts afresh."""
    script = scheduled()
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
    assert scheduler.said[-1].endswith("Waiting for a deployment with a schedule, or for events.")
    deploy(script, "2025-06-03T05:00")
    assert scheduler.look_at(utc("2025-06-04T04:00")) == ["F 3"]
    script.rewrite(flow_source(LINEAR))
    deploy(script, "2025-06-04T05:00")
    assert scheduler.look_at(utc("2025-06-05T04:00")) == []


def test_others_code_is_not_run_unless_trusted(scheduled, hand, monkeypatch, tmp_path):
    """What another user deployed is refused, which is said once; once the store is trusted, it runs."""
    script = scheduled()
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "another"))
    scheduler = hand(script, "2025-06-01T12:10")
    for minutes in range(60, 300, 30):
        assert scheduler.look_at(utc("2025-06-01T12:00") + minutes * HOUR / 60) == []
    assert scheduler.told("F version 1 is not run.") == scheduler.told("flowstore trust") == 1
    command("trust", script.db)
    assert scheduler.look_at(utc("2025-06-01T17:30")) == ["F 1"]
    assert scheduler.look_at(utc("2025-06-01T17:40")) == []


def test_a_bad_line_in_the_store_stops_nobody_else(scheduled, hand):
    """A schedule that can't be followed is said once; the others go on."""
    script = scheduled()
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


def test_who_lost_the_store_starts_nothing(scheduled, hand):
    """A scheduler that another one took over from ends before it starts anything."""
    script = scheduled()
    scheduler = hand(script, "2025-06-01T12:10")
    with contextlib.closing(sqlite3.connect(script.db)) as connection:
        connection.execute("update scheduler set pid_started = 'another'")
        connection.commit()
    with pytest.raises(FlowstoreError, match="another scheduler"):
        scheduler.look_at(utc("2025-06-01T13:00"))
    assert scheduler.started == []
    assert script.sql("select count(*) from due_marks") == [0]


def test_trouble_that_passes_is_outlived(scheduled, hand, monkeypatch):
    """An error of the store is said when it begins, and the scheduler goes on when it is over."""
    scheduler = hand(scheduled(), "2025-06-01T13:00")

    def fail(store, **_options):
        raise FlowstoreError("The disk is full.")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr("flowstore.production.schedule.entries", fail)
            scheduler._look_again()
            scheduler._look_again()
        scheduler._look_again()
    assert scheduler.told("The disk is full. Trying again.") == 2
    assert scheduler.started == ["F 1"]


def test_a_run_that_cant_be_started_is_told(scheduled, hand):
    """When the system has no process left, the scheduler says so and goes on."""

    def fail(store, deployment):
        raise OSError(11, "Resource temporarily unavailable")

    scheduler = hand(scheduled(), "2025-06-01T12:10", start=fail)
    scheduler.look_at(utc("2025-06-01T13:00"))
    assert scheduler.told("cannot be started: [Errno 11] Resource temporarily unavailable") == 1
    scheduler.look_at(utc("2025-06-01T13:10"))
    assert scheduler.told("cannot be started") == 1


def test_endings_are_told(scheduled, hand):
    """Each run's end is said, with how it ended."""
    scheduler = hand(scheduled(), "2025-06-01T12:10")
    for hour, code in ((13, 0), (14, 1), (15, -9)):
        scheduler.look_at(utc(f"2025-06-01T{hour}:00"))
        scheduler.reap()
        scheduler.processes[-1].code = code
        scheduler.reap()
    endings = ["was successful", "ended with exit code 1", "was killed by signal 9"]
    assert [scheduler.told(f"F version 1 (process 4711) {ending}.") for ending in endings] == [1, 1, 1]
