"""When a schedule falls due: cron lines in a time zone, worked out in UTC.

The invariant: the due times of a schedule are one growing sequence of instants, whatever moment one looks from.
So "everything up to this instant is dealt with" is all that a scheduler has to remember.

When clocks change, a line that names its hour behaves as people expect, and as Debian's cron does: a time that
does not exist falls due at the first one that does, and a time that comes twice falls due the first time only. A
line whose minute or hour begins with `*` means "every so often": it follows real time, through both hours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from flowstore.errors import GraphError
from flowstore.flow.decorators import schedule

_EXAMPLE = "five fields, minute, hour, day of month, month and day of week, as in '30 6 * * MON-FRI'"


_NAMED = {"hourly": "0 * * * *", "daily": "0 0 * * *", "weekly": "0 0 * * 0"}


def schedule_of(decorator: schedule) -> dict[str, Any]:
    """Return `@schedule` as its `cron` line and `timezone`; without options it means daily.

    Raises:
        GraphError: it could never be followed.
    """
    named = (
        "hourly"
        if decorator.hourly
        else "weekly"
        if decorator.weekly
        else "daily"
        if decorator.daily is not False
        else None
    )
    if decorator.cron is None and named is None:
        raise GraphError("@schedule: daily=False leaves nothing; give one of hourly, daily, weekly and cron.")
    cron_and_zone = {"cron": decorator.cron or _NAMED[named or "daily"], "timezone": decorator.timezone}
    check_schedule(cron_and_zone)
    return cron_and_zone


def check_schedule(cron_and_zone: Mapping[str, Any]) -> None:
    """Refuse a schedule that could never be followed; called before it is deployed.

    Args:
        cron_and_zone: its `cron` line, and its `timezone`, or `None` for UTC.

    Raises:
        GraphError: the line or the time zone is wrong, or no time ever fits.

    Example:
        >>> check_schedule({"cron": "0 6 * * *", "timezone": "Europe/Berlin"})
        >>> check_schedule({"cron": "0 25 * * *", "timezone": None})
        Traceback (most recent call last):
        ...
        flowstore.errors.GraphError: @schedule: '0 25 * * *' is not a cron line (bad hour). Give five fields, ...
    """
    next_due(cron_and_zone["cron"], cron_and_zone.get("timezone"), datetime.now(UTC))


def next_due(cron: str, timezone: str | None, after: datetime) -> datetime:
    """Return the first due time later than `after`.

    Args:
        cron: minute, hour, day of month, month, day of week (0 and 7 are Sunday). Days of month and of week both
            count where one of them begins with `*`, either where none does. Metaflow's form with `?` for "any" and a
            year as the sixth field is taken too; the year has to be `*`.
        timezone: a name of the IANA database; `None` is UTC.
        after: with a time zone, any.

    Returns:
        The due time, in UTC.

    Raises:
        GraphError: the line or the time zone is wrong, or no time ever fits.

    Example:
        The night of 9 March 2025 has no 02:30 in New York:

        >>> next_due("30 2 * * *", "America/New_York", datetime(2025, 3, 9, 6, tzinfo=UTC)).isoformat()
        '2025-03-09T07:00:00+00:00'
    """
    due_at = next(_due_times(cron, timezone, after), None)
    if due_at is None:
        raise GraphError(f"@schedule: {cron!r} never falls due: no day fits it.")
    return due_at


def due(cron: str, timezone: str | None, since: datetime, now: datetime) -> datetime | None:
    """Return the last due time later than `since` and not later than `now`: however many were missed, one run makes up.

    Nothing is due while `now` is before `since`, so a clock that is set back makes no time fall due twice.

    Args:
        cron: see `next_due`.
        timezone: see `next_due`.
        since: up to when due times are dealt with.
        now: the present.

    Returns:
        The due time in UTC, or `None` where nothing fell due.

    Example:
        >>> hour = timedelta(hours=1)
        >>> noon = datetime(2025, 1, 1, 12, tzinfo=UTC)
        >>> due("30 * * * *", None, noon, noon + 5 * hour).isoformat()
        '2025-01-01T16:30:00+00:00'
        >>> due("30 * * * *", None, noon, noon) is None
        True
    """
    if next_due(cron, timezone, since) > now:
        return None
    window = timedelta(hours=1)  # a minutely schedule may have missed a year: look back no further than needed
    while True:
        start = max(since, now - window)
        last = None
        for moment in _due_times(cron, timezone, start):
            if moment > now:
                break
            last = moment
        if last is not None:
            return last
        window *= 2


def zone(timezone: str | None) -> ZoneInfo:
    """Return the time zone of a schedule.

    Raises:
        GraphError: there is none of this name.
    """
    try:
        return ZoneInfo(timezone or "UTC")
    except (LookupError, ValueError, OSError, TypeError) as error:  # also folders, and paths out of the database
        raise GraphError(
            f"@schedule: there is no time zone {timezone!r}. Use a name of the IANA database, as in 'Europe/Berlin'."
        ) from error


def _due_times(cron: str, timezone: str | None, after: datetime) -> Iterator[datetime]:
    """Yield all due times later than `after`, in UTC, growing."""
    from cronsim import CronSim, CronSimError

    try:
        moments = CronSim(five_fields(cron), after.astimezone(zone(timezone)))
    except CronSimError as error:
        reason = str(error).lower()
        raise GraphError(f"@schedule: {cron!r} is not a cron line ({reason}). Give {_EXAMPLE}.") from error
    last = after.astimezone(UTC)
    for moment in moments:
        due_at = moment.astimezone(UTC)
        if due_at > last:  # at a change of clocks it may give the first of two equal hours again, or a time twice
            yield due_at
            last = due_at


def five_fields(cron: str) -> str:
    """Return a line in cron's own form, from that or Metaflow's.

    >>> five_fields("0 10 * * ? *")
    '0 10 * * *'
    """
    fields = cron.split() if isinstance(cron, str) else []
    if len(fields) == 6 and fields[5] in {"*", "?"}:
        del fields[5]  # cronsim would read the first of six fields as seconds
    elif len(fields) == 6:
        raise GraphError(f"@schedule: {cron!r} names a year in its sixth field, which has to be *. Give {_EXAMPLE}.")
    if len(fields) != 5:
        raise GraphError(f"@schedule: {cron!r} is not a cron line. Give {_EXAMPLE}.")
    return " ".join("*" if field == "?" else field for field in fields)
