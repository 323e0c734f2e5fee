"""Deployments with a schedule."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
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
