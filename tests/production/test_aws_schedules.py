"""Cron lines as EventBridge Scheduler writes them: their next times, by a reading of AWS's rules that is its own."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstore.errors import GraphError
from flowstore.flow import cron
from flowstore.production.stepfunctions.schedules import expression

START = datetime(2025, 1, 1, tzinfo=UTC)


def numbers(field, lowest, highest):
    """The values that a field of AWS's stands for."""
    values = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if span in {"*", "?"}:
            first, last = lowest, highest
        elif not last:
            last = highest if step else first
        values |= set(range(int(first), int(last) + 1, int(step or 1)))
    return values


def fits(text, day):
    """Return whether a day fits the day fields of an expression."""
    _, _, days, months, weekdays, year = text.removeprefix("cron(").removesuffix(")").split()
    assert (days == "?") + (weekdays == "?") == 1
    assert year == "*"
    length = calendar.monthrange(day.year, day.month)[1]
    aws_weekday = day.isoweekday() % 7 + 1
    if day.month not in numbers(months, 1, 12):
        return False
    if days == "L":
        return day.day == length
    if days == "LW":
        return day.day == max(n for n in range(length - 2, length + 1) if calendar.weekday(day.year, day.month, n) < 5)
    if weekdays.endswith("L"):
        return aws_weekday == int(weekdays[:-1]) and day.day + 7 > length
    if "#" in weekdays:
        weekday, nth = map(int, weekdays.split("#"))
        return aws_weekday == weekday and (day.day - 1) // 7 + 1 == nth
    return day.day in numbers(days, 1, 31) and aws_weekday in numbers(weekdays, 1, 7)


def times(text, count):
    """The next times of an expression, in UTC."""
    minutes, hours = text.removeprefix("cron(").split()[:2]
    found, day = [], START
    while len(found) <= count:
        if fits(text, day):
            found += [
                day + timedelta(hours=hour, minutes=minute)
                for hour in sorted(numbers(hours, 0, 23))
                for minute in sorted(numbers(minutes, 0, 59))
            ]
        day += timedelta(days=1)
    return [moment for moment in found if moment > START][:count]


def due_times(line, count):
    """The next times of a cron line, as flowstore's own scheduler has them."""
    found = [START]
    while len(found) <= count:
        found.append(cron.next_due(line, None, found[-1]))
    return found[1:]


LINES = {
    "0 * * * *": "cron(0 * * * ? *)",
    "0 0 * * *": "cron(0 0 * * ? *)",
    "0 0 * * 0": "cron(0 0 ? * 1 *)",
    "0 0 * * 7": "cron(0 0 ? * 1 *)",
    "30 6 * * MON-FRI": "cron(30 6 ? * 2-6 *)",
    "*/15 * * * *": "cron(0/15 * * * ? *)",
    "5-20/5 8-18 * * *": "cron(5,10,15,20 8-18 * * ? *)",
    "0 12 1,15 * *": "cron(0 12 1,15 * ? *)",
    "0 12 */2 * *": "cron(0 12 1/2 * ? *)",
    "0 12 L * *": "cron(0 12 L * ? *)",
    "0 12 LW * *": "cron(0 12 LW * ? *)",
    "0 12 * * 5L": "cron(0 12 ? * 6L *)",
    "0 12 * * 1#2": "cron(0 12 ? * 2#2 *)",
    "0 12 1-31 * 3": "cron(0 12 * * ? *)",  # either day field counts, and the first one takes all days
    "0 12 * JAN,JUL SAT,SUN": "cron(0 12 ? 1,7 1,7 *)",
    "0 10 * * ? *": "cron(0 10 * * ? *)",
    "0 0 29 2 *": "cron(0 0 29 2 ? *)",
}


@pytest.mark.parametrize(("line", "text"), LINES.items())
def test_a_line_is_translated(line, text):
    """To an expression that falls due at the same times."""
    assert expression({"cron": line, "timezone": None}) == text
    count = 3 if " 29 2 " in line else 60
    assert times(text, count) == due_times(line, count)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0 13 * FRI", "only one of them"),
        ("0 0 */2 * MON", "only one of them"),
        ("0 0 1-7 * */2", "only one of them"),
        ("0 0 * * 1#1,3#1", "only one such day"),
        ("0 0 * * 1#1,5", "only one such day"),
        ("0 25 * * *", "not a cron line"),
        ("0 0 30 2 *", "day-of-month"),
        ("0 0 L,1 * *", "the last day of a month together with others"),
        (",".join(map(str, range(0, 58, 3))) + ",1 " + ",".join(map(str, range(0, 23, 2))) + ",1 "
         + ",".join(map(str, range(1, 31, 2))) + ",2 1,2,4,6,7,9,12 *", None),
    ],
)  # fmt: skip
def test_what_aws_cannot_say_is_refused(line, reason):
    """With the reason; a long line is not among it, as long as AWS takes it."""
    if reason is None:
        assert len(expression({"cron": line, "timezone": None})) <= 256
        return
    with pytest.raises(GraphError, match=reason):
        expression({"cron": line, "timezone": None})


def field(lowest, highest):
    value = st.integers(lowest, highest)
    pair = st.tuples(value, value).map(sorted).map(lambda two: f"{two[0]}-{two[1]}")
    span = st.one_of(st.just("*"), value.map(str), pair)
    stepped = st.tuples(st.one_of(st.just("*"), pair), st.integers(1, highest)).map(lambda two: f"{two[0]}/{two[1]}")
    return st.lists(st.one_of(span, stepped), min_size=1, max_size=3).map(",".join)


@given(st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 7)).map(" ".join))
def test_any_line_is_translated_or_refused(line):
    """None is translated to something else."""
    try:
        text = expression({"cron": line, "timezone": None})
    except GraphError as error:
        assert "only one of them" in str(error) or "too long" in str(error)  # noqa: PT017
        return
    assert len(text) <= 256
    assert times(text, 12) == due_times(line, 12)
