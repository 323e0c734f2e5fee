"""Schedules as EventBridge Scheduler writes them, from cron lines.

AWS has six fields instead of five, counts days of the week from 1, and cannot say "the 13th, or a Friday": one of the
two day fields has to be `?`. What it cannot say is refused with the reason. The fields are written from the values
that they stand for, and not from their text, in which both have rules of their own for steps and names.

Where clocks change, AWS leaves out a time that does not exist, while `flowstore scheduler` makes up for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flowstore.errors import GraphError
from flowstore.flow.cron import check_schedule, five_fields

if TYPE_CHECKING:
    from cronsim import CronSim

_MAX_LENGTH = 256  # of an expression


def expression(schedule: Mapping[str, Any]) -> str:
    """Return a schedule as EventBridge Scheduler has it.

    Args:
        schedule: its `cron` line and `timezone`, as in a deployment.

    Raises:
        GraphError: AWS has no expression for it; says why.

    Example:
        >>> expression({"cron": "*/15 6 * * MON-FRI", "timezone": None})
        'cron(0/15 6 ? * 2-6 *)'
        >>> expression({"cron": "0 0 13 * FRI", "timezone": None})
        Traceback (most recent call last):
        ...
        flowstore.errors.GraphError: @schedule: '0 0 13 * FRI' names days of the month and days of the week...
    """
    from cronsim import CronSim

    check_schedule(schedule)
    line = schedule["cron"]
    parsed = CronSim(five_fields(line), datetime.now(UTC))
    days, weekdays = _day_fields(parsed, line)
    minutes, hours = _field(parsed.minutes, 0, 59), _field(parsed.hours, 0, 23)
    text = f"cron({minutes} {hours} {days} {_field(parsed.months, 1, 12)} {weekdays} *)"
    if len(text) > _MAX_LENGTH:
        raise GraphError(f"@schedule: {line!r} is too long for AWS, which takes {_MAX_LENGTH} characters: {text}")
    return text


def _day_fields(parsed: CronSim, line: str) -> tuple[str, str]:
    """Return the fields of days of the month and of the week, one of which is `?`."""
    days, weekdays = _days(parsed.days, line), _weekdays(parsed.weekdays, line)
    if not parsed.day_and and "*" in {days, weekdays}:  # either counts, and one takes all days
        return "*", "?"
    if weekdays == "*":
        return days, "?"
    if parsed.day_and and days == "*":
        return "?", weekdays
    raise GraphError(
        f"@schedule: {line!r} names days of the month and days of the week, and a schedule in AWS can have only "
        "one of them. Leave one out, or start the flow with flowstore scheduler (deploy create)."
    )


def _days(days: Collection[int], line: str) -> str:
    """Return the field of days of the month; below zero, cronsim means the last one, or the last weekday."""
    special = {-1000: "L", -1001: "LW"}
    if len(days) == 1 and min(days) in special:
        return special[min(days)]
    if min(days) < 0:
        raise GraphError(
            f"@schedule: {line!r} names the last day of a month together with others, which a schedule in AWS cannot. "
            "Use one, or start the flow with flowstore scheduler (deploy create)."
        )
    return _field(days, 1, 31)


def _weekdays(weekdays: Collection[Any], line: str) -> str:
    """Return the field of days of the week, of which AWS counts Sunday as 1."""
    numbers = {day % 7 + 1 for day in weekdays if isinstance(day, int)}
    pairs = sorted(day for day in weekdays if not isinstance(day, int))
    if not pairs:
        return _field(numbers, 1, 7, steps=False)
    if numbers or len(pairs) > 1:
        raise GraphError(
            f"@schedule: {line!r} names one of several weeks of a month together with other days, and a schedule in "
            "AWS can have only one such day. Use one, or start the flow with flowstore scheduler (deploy create)."
        )
    [(day, nth)] = pairs
    return f"{day % 7 + 1}L" if nth < 0 else f"{day % 7 + 1}#{nth}"


def _field(values: Collection[int], lowest: int, highest: int, *, steps: bool = True) -> str:
    """Return numbers as `*`, as a beginning with a step, or as a list with ranges, whichever is the shortest.

    Example:
        >>> _field(range(60), 0, 59), _field([5, 25, 45], 0, 59), _field([1, 2, 3, 7], 1, 31)
        ('*', '5/20', '1-3,7')
    """
    ordered = sorted(set(values))
    if ordered == list(range(lowest, highest + 1)):
        return "*"
    if steps and len(ordered) > 2 and ordered == list(range(ordered[0], highest + 1, ordered[1] - ordered[0])):
        return f"{ordered[0]}/{ordered[1] - ordered[0]}"
    ranges: list[list[int]] = []
    for value in ordered:
        if ranges and ranges[-1][1] == value - 1:
            ranges[-1][1] = value
        else:
            ranges.append([value, value])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
