"""The schema: how a store is created, and how an older one is migrated.

The file is an interface: `sqlite3 flowstore.db .schema` shows the definitions in `migrations` and `views` with their
comments. Tables may change with a migration; the views and their columns stay.

A new store is created from the newest definitions, through `sqlite3` alone: importing sqlite-utils costs as much as a
small run, and altering a table as much as creating ten. An older store is migrated by sqlite-utils. Both ways lead to
the same tables (a test compares them). `user_version` counts the migrations, so that an older flowstore refuses a newer
file; the table in which sqlite-utils notes what it has applied is made when there is something to apply.

A new store is *small*: beside what keeps rows unique it has only the `_SEARCHED` indexes, by which runs are searched
for, since reading all of a small table takes no longer than a search in an index, and empty views stand for the tables
of `DEFERRED`, which many stores never need. Each of these would take a page, and together more than the rows of a few
runs. Whoever inserts a row calls `ensure_table` before; whoever changes or deletes rows asks `tables.is_empty`. The
commit that takes the file beyond `SMALL_PAGES` makes it *complete*: it makes all that is missing.

Times are integers, milliseconds since 1970 in UTC; the views show them as text.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flowstore import later
from flowstore.sqlite.database import PAGE_SIZE, Database
from flowstore.store import views
from flowstore.store.migrations import MIGRATIONS, Migration

APPLICATION_ID = 0x666C6F77  # "flow"
MIGRATION_SET = "flowstore"

STATUSES = ("running", "successful", "failed", "stopped", "dead")

SCHEMA_VERSION = len(MIGRATIONS)
VIEWS_SINCE = max(view.since for view in views.VIEWS)  # a file of an earlier version is read through `older`

DIGESTS = (  # `untrusted.digest` of a store of this version as it is made: small, and complete
    "f5e71d6354af0e54fd967fd1daf3f256504cd918",
    "0e31a52e13e14b825988e1a3dca0f3c2f3b43ad7",
)

PUBLIC_VIEWS = (
    "run_summary", "task_summary", "artifact_values", "metrics", "card_list", "object_tags", "lineage", "task_logs",
)  # fmt: skip


@later.frozen
class PublicView:
    """A view that answers questions in SQL.

    Attributes:
        name: its name.
        about: what it shows, in a few lines.
        columns: their names.
    """

    name: str
    about: str
    columns: list[str]


def public_views(store: Database) -> list[PublicView]:
    """Return the views that are the public face of a store."""
    views = []
    for view in PUBLIC_VIEWS:
        lines = (line.strip() for line in definitions(SCHEMA_VERSION)[view].strip().splitlines()[1:])
        about = [line.removeprefix("-- ") for line in itertools.takewhile(lambda line: line.startswith("--"), lines)]
        columns = [row["name"] for row in store.rows("select name from pragma_table_info(?)", (view,))]
        views.append(PublicView(view, "\n".join(about), columns))
    return views


SMALL_PAGES = 64  # at most, of a store that is not complete
DEFERRED = (
    "production_tokens", "deployments", "deployment_parameters", "scheduler", "due_marks", "state_machines",
    "step_tokens", "events", "event_marks", "origins", "unverified", "backlog", "cards", "pictures", "chunks",
)  # fmt: skip
_SEARCHED = frozenset({
    "runs_by_time", "runs_successful", "run_tags_by_run", "run_tags_successful", "node_tags_by_tag", "numbers_by_name",
    "runs_by_code",  # without it `select id from runs` goes by uuid, in random order
})  # fmt: skip

# As sqlite-utils creates it, so that its migrations recognise what a new store already has.
BOOKKEEPING = """
create table "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY, "migration_set" TEXT, "name" TEXT, "applied_at" TEXT);
create unique index "idx__sqlite_migrations_migration_set_name" on "_sqlite_migrations" ("migration_set", "name");
"""


def create(connection: sqlite3.Connection, flowstore_version: str, *, small: bool = True) -> None:
    """Fill a new, empty database with the newest schema, of a small or a complete store, and an identity of its own."""
    import uuid

    connection.execute(f"pragma page_size = {PAGE_SIZE}")
    connection.execute("pragma auto_vacuum = incremental")
    defined = small_definitions(SCHEMA_VERSION) if small else definitions(SCHEMA_VERSION)
    views = {name: sql for name, sql in defined.items() if _kind(sql) == "view"}
    connection.executescript("begin;" + "\n".join(sql for name, sql in defined.items() if name not in views))
    _insert_views(connection, views)
    connection.execute(
        "insert into store values (1, ?, ?, ?)", (uuid.uuid4().hex, time.time_ns() // 1_000_000, flowstore_version)
    )
    connection.execute(f"pragma application_id = {APPLICATION_ID}")
    connection.execute(f"pragma user_version = {SCHEMA_VERSION}")
    connection.execute("commit")
    connection.execute("pragma writable_schema = reset")  # off; and this connection reads the views when it goes on


def _insert_views(connection: sqlite3.Connection, defined: Mapping[str, str]) -> None:
    """Create views as `.dump` of SQLite's own tool creates what it can't execute: to compile them takes 4 ms."""
    connection.execute("pragma writable_schema = on")
    try:
        connection.executemany(
            "insert into sqlite_master (type, name, tbl_name, rootpage, sql) values ('view', ?1, ?1, 0, ?2)",
            [(name, sql.strip().rstrip(";")) for name, sql in defined.items()],
        )
    except sqlite3.OperationalError:  # an SQLite that never allows it, such as Apple's
        for sql in defined.values():
            connection.execute(sql)


# Patterns are compiled where an older or an untrusted store needs them.
CREATE = r"(?i)\s*create\s+(unique\s+)?(table|view|index)\s+\"?(\w+)\"?"
_ALTER = r"(?s)\s*alter table (\w+) add column (.+)"
_END_OF_COLUMNS = r",(?=(\s*--.*)?\s+unique \()|\)(?=[^)]*$)"  # where SQLite puts a column that is added


def definitions(version: int) -> Mapping[str, str]:
    """Return what a version of the schema defines, by name, with altered tables in SQLite's own text."""
    return _definitions(MIGRATIONS[:version])


@functools.cache
def _definitions(migrations: Sequence[Migration]) -> Mapping[str, str]:
    defined: dict[str, str] = {}
    for statement in (sql for migration in migrations for sql in statements(migration.sql)):
        if match := re.match(CREATE, statement):
            defined[match[3]] = statement
        elif match := re.match(_ALTER, statement):
            before, column = defined[match[1]], match[2].rstrip("; \n")
            end = re.search(_END_OF_COLUMNS, before)
            assert end is not None  # every table has columns
            defined[match[1]] = f"{before[: end.start()]}, {column}{before[end.start() :]}"
    return defined | {name: view.sql for name, view in views.of_version(len(migrations)).items()}


@functools.cache
def small_definitions(version: int) -> Mapping[str, str]:
    """Return the definitions of a small store, by name."""
    small = {name: sql for name, sql in definitions(version).items() if not _is_for_large(name, sql)}
    return small | {name: stand_in(name, small[name]) for name in DEFERRED if name in small}


def _is_for_large(name: str, sql: str) -> bool:
    return _kind(sql) == "index" and name not in _SEARCHED


def _kind(sql: str) -> str:
    """Return what a definition creates: 'table', 'view' or 'index'."""
    match = re.match(CREATE, sql)
    assert match is not None
    return match[2].lower()


def stand_in(table: str, sql: str) -> str:
    """Return the definition of an empty view with the columns of a table."""
    columns = re.findall(r"(?m)^  ([a-z_]+) (?:text|integer|blob)\b|, ([a-z_]+) (?:text|integer|blob)\b", sql)
    named = ", ".join(f"null as {first or further}" for first, further in columns)
    return f"create view {table} as select {named} where false;"


def is_small(connection: sqlite3.Connection) -> bool:
    """Return whether a store lacks indexes, and tables that nobody has needed yet."""
    return _lacks(connection, DEFERRED[0])


def _lacks(connection: sqlite3.Connection, table: str) -> bool:
    row = connection.execute("select type from sqlite_master where name = ?", (table,)).fetchone()
    return row is not None and row[0] == "view"


def ensure_table(connection: sqlite3.Connection, table: str) -> None:
    """Make a table of `DEFERRED` where it is lacking, in the caller's write transaction."""
    if _lacks(connection, table):
        connection.execute(f"drop view {table}")
        connection.execute(_own_definitions(connection)[table])


def complete(connection: sqlite3.Connection) -> None:
    """Make the tables and indexes that a small store does without, in the caller's write transaction."""
    views = connection.execute("select name from sqlite_master where type = 'view'").fetchall()
    lacking = {name for (name,) in views}.intersection(DEFERRED)
    if DEFERRED[0] not in lacking:
        return
    for name, sql in _own_definitions(connection).items():
        if name in lacking:
            connection.execute(f"drop view {name}")
        if name in lacking or _is_for_large(name, sql):
            connection.execute(sql)


def _own_definitions(connection: sqlite3.Connection) -> Mapping[str, str]:
    return definitions(connection.execute("pragma user_version").fetchone()[0])


def complete_if_large(connection: sqlite3.Connection) -> bool:
    """Make the indexes of a store that is no longer small, in a write transaction; return whether it is large."""
    if connection.execute("pragma page_count").fetchone()[0] <= SMALL_PAGES:
        return False  # a short file may be complete as well; to ask again at the next commit costs less than to look
    complete(connection)
    return True


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an older store to the newest schema, inside the caller's write transaction.

    sqlite-utils' `apply` alone is not safe for two processes that open the same old file; the caller's
    `begin immediate` makes it so.
    """
    from sqlite_utils import Database, Migrations

    complete(connection)
    _note_applied(connection)
    migrations = Migrations(MIGRATION_SET)
    for version, migration in enumerate(MIGRATIONS, 1):
        migrations(name=migration.name)(_runner(version))
    migrations.apply(Database(connection, execute_plugins=False))
    connection.execute(f"pragma user_version = {SCHEMA_VERSION}")


def _note_applied(connection: sqlite3.Connection) -> None:
    """Note for sqlite-utils what a store has had from the beginning."""
    if connection.execute("select 1 from sqlite_master where name = '_sqlite_migrations'").fetchone() is not None:
        return
    for statement in statements(BOOKKEEPING):
        connection.execute(statement)
    version = connection.execute("pragma user_version").fetchone()[0]
    connection.executemany(
        "insert into _sqlite_migrations (migration_set, name, applied_at) values (?, ?, ?)",
        [(MIGRATION_SET, migration.name, str(datetime.now(UTC))) for migration in MIGRATIONS[:version]],
    )


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


_NEW = {  # what the newest views read that an older file lacks, and what stands for it
    "r.note as note": "null as note",
    "t.item as item": "null as item",
    "coalesce(r.start_step, 'start')": "'start'",
    "(select a.ran_on from attempts a where a.id = t.attempt_id)": "null",
    "coalesce(t.imported_from, t.origin_pathspec)": "t.origin_pathspec",
    "left join blob_values v": (
        "left join (select null as blob_id, null as value, null as exact, null as magnitude) v"
    ),
}
_OLDER_THAN_7 = ("run_summary", "task_summary", "set_artifacts", "artifact_values", "object_tags")
_NO_CARDS = """
create temp view cards as select cast(null as integer) as attempt_id, 0 as n, '' as type, null as card_id,
  null as blob_id, null as data, 0 as updated_at where false
"""

# Of a value that was merged into a join, the first task that set it.
_METRICS = """
create temp view metrics as
  with recursive
    ends (run_id, task_id) as (
      select s.run_id, min(t.id) from steps s join tasks t on t.run_id = s.run_id and t.step_id = s.id
      where s.name = 'end' and t.status = 'successful' group by s.run_id
    ),
    seen (run_id, depth, attempt_id, base_id) as (
      select e.run_id, 0, t.attempt_id, t.base_id from ends e join tasks t on t.id = e.task_id
      union
      select c.run_id, c.depth + 1, t.attempt_id, t.base_id from seen c join tasks t on t.id = c.base_id
      where c.depth < 10000
    ),
    nearest (run_id, artifact, depth, blob_id) as (
      select c.run_id, a.name, min(c.depth), a.blob_id from seen c join artifacts a on a.attempt_id = c.attempt_id
      group by c.run_id, a.name
    ),
    last (run_id, artifact, at, task_id) as (
      select a.run_id, a.name, max(n.id), a.task_id
      from set_artifacts a join tasks t on t.id = a.task_id join attempts n on n.id = t.attempt_id
      where a.run_id not in (select run_id from ends) group by a.run_id, a.name
    ),
    final (run_id, artifact, task_id) as (
      select n.run_id, n.artifact, min(a.task_id) from nearest n
      join set_artifacts a on a.run_id = n.run_id and a.name = n.artifact and a.blob_id = n.blob_id group by 1, 2
      union all select run_id, artifact, task_id from last
    )
  select v.flow as flow, v.run_id as run_id, v.step as step, v.task_id as task_id, v.name as artifact,
         j.value ->> 0 as name, cast(j.value ->> 1 as real) as number, f.task_id is not null as final
  from artifact_values v join json_each(flowstore_numbers(v.name, v.value)) j
  left join final f on f.run_id = v.run_id and f.artifact = v.name and f.task_id = v.task_id
  where not exists (select 1 from run_artifacts p where p.run_id = v.run_id and p.name = v.name)
"""


def create_views(connection: sqlite3.Connection) -> None:
    """Give a connection to an older store the views of the newest schema."""
    version = connection.execute("pragma user_version").fetchone()[0]
    views_now = views.of_version(SCHEMA_VERSION).items()
    newest = {name: view.sql.replace("create view", "create temp view", 1) for name, view in views_now}
    if version < 7:
        connection.create_function("flowstore_numbers", 2, _numbers, deterministic=True)
        for name in _OLDER_THAN_7:
            sql = newest[name]
            for missing, instead in _NEW.items():
                sql = sql.replace(missing, instead)
            connection.execute(sql)
        connection.execute(_METRICS)
    if version < 8:
        connection.execute(_NO_CARDS)
        connection.execute(newest["card_list"])


def drop_views(connection: sqlite3.Connection) -> bool:
    """Remove these views, which stand before the store's own, where it is migrated; return whether there were any."""
    if connection.execute("select 1 from temp.sqlite_master where type = 'view'").fetchone() is None:
        return False
    for name in ("card_list", "cards", "metrics", *reversed(_OLDER_THAN_7)):
        connection.execute(f"drop view if exists temp.{name}")
    return True


def _numbers(artifact: str, value: str | None) -> str:
    """Return the metrics of a value, as a JSON list of pairs."""
    from flowstore.store.json_levels import number_text
    from flowstore.store.plain import numbers_in

    numbers = [] if value is None else numbers_in(artifact, value)
    return f"[{', '.join(f'[{json.dumps(name)}, {number_text(number)}]' for name, number in numbers)}]"
