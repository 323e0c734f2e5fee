"""Schedules fall due as people expect, also where clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstore import GraphError
from flowstore.flow.cron import check_schedule, due, next_due
from support.scheduling import BERLIN, HOUR, NEW_YORK, utc

ZONES = [None, NEW_YORK, BERLIN, "Asia/Kolkata", "Australia/Lord_Howe", "America/Havana"]


def times(cron, timezone, after, count):
    """The next due times, as text in UTC."""
    found, moment = [], utc(after)
    for _ in range(count):
        moment = next_due(cron, timezone, moment)
        assert moment.tzinfo is UTC
        found.append(f"{moment:%m-%d %H:%M}")
    return found


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
