"""The schema: how a store is created, and how an older one is migrated.

The file is an interface: `sqlite3 flowstore.db .schema` shows the definitions in `migrations` and `views` with their
comments. Tables may change with a migration; the views and their columns stay.

A new store is created from the newest definitions, through `sqlite3` alone: importing sqlite-utils costs as much as a
small run, and altering a table as much as creating ten. An older store is migrated by sqlite-utils. Both ways lead to
the same file (a test compares them), and both fill in the table in which sqlite-utils notes what it has applied.
`user_version` counts the migrations, so that an older flowstore refuses a newer file.

Times are integers, milliseconds since 1970 in UTC; the views show them as text.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flowstore.sqlite.database import PAGE_SIZE
from flowstore.store import views
from flowstore.store.migrations import MIGRATIONS

APPLICATION_ID = 0x666C6F77  # "flow"
MIGRATION_SET = "flowstore"

STATUSES = ("running", "successful", "failed", "stopped", "dead")

SCHEMA_VERSION = len(MIGRATIONS)
VIEWS_SINCE = max(view.since for view in views.VIEWS)  # a file of an earlier version is read through `older`

PUBLIC_VIEWS = ("run_summary", "task_summary", "artifact_values", "metrics", "object_tags", "lineage", "task_logs")

# As sqlite-utils creates it, so that its migrations recognise what a new store already has.
BOOKKEEPING = """
create table "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY, "migration_set" TEXT, "name" TEXT, "applied_at" TEXT);
create unique index "idx__sqlite_migrations_migration_set_name" on "_sqlite_migrations" ("migration_set", "name");
"""


def create(connection: sqlite3.Connection, flowstore_version: str) -> None:
    """Fill a new, empty database with the newest schema and an identity of its own."""
    import uuid

    connection.execute(f"pragma page_size = {PAGE_SIZE}")
    connection.execute("pragma auto_vacuum = incremental")
    script = [BOOKKEEPING, *definitions(SCHEMA_VERSION).values()]
    connection.executescript("begin;" + "\n".join(script))
    applied_at = str(datetime.now(UTC))
    connection.executemany(
        "insert into _sqlite_migrations (migration_set, name, applied_at) values (?, ?, ?)",
        [(MIGRATION_SET, migration.name, applied_at) for migration in MIGRATIONS],
    )
    connection.execute(
        "insert into store values (1, ?, ?, ?)", (uuid.uuid4().hex, time.time_ns() // 1_000_000, flowstore_version)
    )
    connection.execute(f"pragma application_id = {APPLICATION_ID}")
    connection.execute(f"pragma user_version = {SCHEMA_VERSION}")
    connection.execute("commit")


# Patterns are compiled where an older or an untrusted store needs them.
CREATE = r"(?i)\s*create\s+(unique\s+)?(table|view|index)\s+\"?(\w+)\"?"
_ALTER = r"(?s)\s*alter table (\w+) add column (.+)"
_END_OF_COLUMNS = r",(?=\s+unique \()|\)(?=[^)]*$)"  # where SQLite puts a column that is added


def definitions(version: int) -> dict[str, str]:
    """Return what a version of the schema defines, by name, with altered tables in SQLite's own text."""
    defined: dict[str, str] = {}
    for statement in (sql for migration in MIGRATIONS[:version] for sql in statements(migration.sql)):
        if match := re.match(CREATE, statement):
            defined[match[3]] = statement
        elif match := re.match(_ALTER, statement):
            before, column = defined[match[1]], match[2].rstrip("; \n")
            end = re.search(_END_OF_COLUMNS, before)
            assert end is not None  # every table has columns
            defined[match[1]] = f"{before[: end.start()]}, {column}{before[end.start() :]}"
    return defined | {name: view.sql for name, view in views.of_version(version).items()}


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an older store to the newest schema, inside the caller's write transaction.

    sqlite-utils' `apply` alone is not safe for two processes that open the same old file; the caller's
    `begin immediate` makes it so.
    """
    from sqlite_utils import Database, Migrations

    migrations = Migrations(MIGRATION_SET)
    for version, migration in enumerate(MIGRATIONS, 1):
        migrations(name=migration.name)(_runner(version))
    migrations.apply(Database(connection, execute_plugins=False))
    connection.execute(f"pragma user_version = {SCHEMA_VERSION}")


def _runner(version: int) -> Callable[[Any], None]:
    """Return the migration to a version as sqlite-utils calls it, with its `Database`."""

    def run(db: Any) -> None:
        for statement in script(version):
            db.execute(statement)

    return run


def script(version: int) -> list[str]:
    """Return the statements that lead to a version from the one before, its changed views included."""
    before, after = views.of_version(version - 1), views.of_version(version)
    changed = [view for name, view in after.items() if before.get(name) != view]
    outdated = [f"drop view {view.name};" for view in reversed(changed) if view.name in before]
    return [*outdated, *statements(MIGRATIONS[version - 1].sql), *(view.sql for view in changed)]


def statements(sql: str) -> list[str]:
    """Split a script into statements: `executescript` would commit the caller's transaction.

    >>> statements("create table a (x); create table b (y);")
    ['create table a (x);', 'create table b (y);']
    """
    complete: list[str] = []
    pending = ""
    for piece in sql.split(";"):
        pending += piece + ";"
        if sqlite3.complete_statement(pending):
            complete.append(pending.strip())
            pending = ""
    return [statement for statement in complete if statement != ";"]
