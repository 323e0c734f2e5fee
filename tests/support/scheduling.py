"""Deployments with a schedule."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime, timedelta

NEW_YORK = "America/New_York"
BERLIN = "Europe/Berlin"
HOUR = timedelta(hours=1)


def utc(text):
    """A moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- one scheduler, its clock in our hands

HOURLY = "@schedule(hourly=True)"
DAILY = "@schedule(cron='0 6 * * *', timezone='Europe/Berlin')"


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
