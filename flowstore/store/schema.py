"""The schema: migrations, only ever appended to, and the views that are its public face.

The file is an interface. `sqlite3 flowstore.db .schema` shows the comments below, since SQLite keeps the
text of a definition. Tables may change with a migration; the views and their columns stay.

A new store is made of the definitions that the migrations leave, through `sqlite3` alone, because importing
sqlite-utils costs as much as a small run, and altering a table as much as making ten; an older store is migrated by
sqlite-utils. Both leave the same file (a test compares them), since sqlite-utils' own bookkeeping table is filled in
either way. `user_version` counts the migrations, so that an older flowstore refuses a newer file.

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
from flowstore.store.m007_metrics import M007_METRICS
from flowstore.store.migrations import (
    M002_DEPLOYMENTS,
    M003_SCHEDULES,
    M004_TAG_PAIRS,
    M005_ORIGINS,
    M006_OWNERS,
)

APPLICATION_ID = 0x666C6F77  # "flow"
MIGRATION_SET = "flowstore"

STATUSES = ("running", "successful", "failed", "stopped", "dead")

# Why: the first version.
M001_INITIAL = """
create table store (
  -- one row: who this file is
  id integer primary key check (id = 1),
  uuid text not null,
  created_at integer not null,
  flowstore_version text not null
) strict;

create table flows (id integer primary key, name text not null unique) strict;

create table codes (
  -- a snapshot of a flow's source: its file and the modules beside it
  id integer primary key,
  sha blob not null unique,
  script_name text not null
) strict;
create table code_files (
  code_id integer not null references codes (id) on delete cascade,
  path text not null,                                  -- relative to the flow's folder
  blob_id integer not null references blobs (id),
  primary key (code_id, path)
) strict, without rowid;
create index code_files_by_blob on code_files (blob_id);

create table runs (
  id integer primary key autoincrement,                -- never used twice, also after a delete
  uuid text not null unique,                           -- the same in every store that the run is copied to
  flow_id integer not null references flows (id),
  user text not null,
  status text not null check (status in ('running', 'successful', 'failed', 'stopped', 'dead')),
  created_at integer not null,                         -- never earlier than an earlier run's
  finished_at integer,
  last_seen_at integer not null,                       -- when the driver last wrote
  host text not null,                                  -- where the driver runs: name, boot, process
  boot text not null,
  pid integer not null,
  pid_started text not null,
  origin_run_id text,                                  -- the run that this one resumed
  parameters text not null,                            -- JSON object
  code_id integer references codes (id)
) strict;
create index runs_by_time on runs (flow_id, created_at);
create index runs_successful on runs (flow_id, created_at) where status = 'successful';
create index runs_unfinished on runs (status) where status = 'running';
create index runs_by_code on runs (code_id);

create table steps (
  id integer primary key,
  run_id integer not null references runs (id) on delete cascade,
  name text not null,
  created_at integer not null,
  unique (run_id, name)
) strict;

create table tasks (
  id integer primary key autoincrement,
  run_id integer not null references runs (id) on delete cascade,
  step_id integer not null references steps (id) on delete cascade,
  status text not null check (status in ('running', 'successful', 'failed', 'stopped', 'dead')),
  started_at integer not null,
  finished_at integer,
  attempts integer not null default 1,
  attempt_id integer,                                  -- the last attempt
  foreach_path text,                                   -- index in each enclosing foreach, outermost first: '3/0'
  base_id integer,                                     -- the task whose artifacts this one starts from
  transition text,                                     -- JSON: what `next` asked for
  origin_pathspec text                                 -- where a reused task first ran
) strict;
create index tasks_by_step on tasks (run_id, step_id);
create index tasks_by_parent_step on tasks (step_id);

create table task_parents (
  task_id integer not null references tasks (id) on delete cascade,
  parent_id integer not null references tasks (id) on delete cascade,
  primary key (task_id, parent_id)
) strict, without rowid;
create index task_children on task_parents (parent_id, task_id);

create table attempts (
  id integer primary key autoincrement,
  task_id integer not null references tasks (id) on delete cascade,
  number integer not null,                             -- 0, 1, …
  status text not null,
  started_at integer not null,
  finished_at integer,
  pid integer,
  log_id integer not null,                             -- the attempt that wrote the log: its own, or a reused task's
  metadata text,                                       -- JSON object
  error_type text, error_message text, traceback text,
  unique (task_id, number)
) strict;
create index attempts_by_log on attempts (log_id);

create table log_chunks (
  id integer primary key,
  log_id integer not null,
  stream text not null check (stream in ('stdout', 'stderr')),
  written_at integer not null,
  text text not null
) strict;
create index log_chunks_by_log on log_chunks (log_id);

create table blobs (
  -- the bytes of artifacts, once each: small ones here, large ones in chunks
  id integer primary key,
  sha blob,                                            -- SHA-256 of the content; null while it is being written
  codec text not null,                                 -- how the bytes become a value again
  size_bytes integer not null,
  type text not null,                                  -- Python's name of the value's type
  preview text not null,                               -- made when the value was written
  data blob,                                           -- the content; null where it is in chunks
  staged_by integer references runs (id) on delete set null,  -- the run that is writing it
  unique (sha, codec)
) strict;
create index blobs_staged on blobs (staged_by) where sha is null;
create table chunks (
  blob_id integer not null references blobs (id) on delete cascade,
  n integer not null,
  data blob not null,
  unique (blob_id, n)
) strict;

create table signatures (
  -- which pickles a user's own runs wrote: HMAC-SHA256 over store, content and codec
  blob_id integer not null references blobs (id) on delete cascade,
  key_id blob not null,
  mac blob not null,
  primary key (blob_id, key_id)
) strict, without rowid;

create table artifacts (
  -- what an attempt set; null: it deleted the name. What a task inherits is found by following base_id.
  attempt_id integer not null references attempts (id) on delete cascade,
  name text not null,
  blob_id integer references blobs (id),
  merged integer not null default 0,                   -- 1: carried over by merge_artifacts
  primary key (attempt_id, name)
) strict, without rowid;
create index artifacts_by_name on artifacts (name);
create index artifacts_by_blob on artifacts (blob_id);

create table run_artifacts (
  -- parameters and class constants: every task of the run has them
  run_id integer not null references runs (id) on delete cascade,
  name text not null,
  kind text not null check (kind in ('parameter', 'constant')),
  blob_id integer not null references blobs (id),
  primary key (run_id, name)
) strict, without rowid;
create index run_artifacts_by_name on run_artifacts (name);
create index run_artifacts_by_blob on run_artifacts (blob_id);

create table tags (
  id integer primary key,
  tag text not null unique,
  json text not null                                   -- the same as JSON: SQLite's JSON functions are not allowed
                                                       -- in views where a connection doesn't trust the schema
) strict;
create table run_tags (
  -- ordered so that "the newest run of a flow with a tag" is one seek
  tag_id integer not null references tags (id),
  flow_id integer not null,
  created_at integer not null,
  run_id integer not null references runs (id) on delete cascade,
  system integer not null,
  successful integer not null default 0,               -- as the run's status, for the newest successful one
  primary key (tag_id, flow_id, created_at, run_id)
) strict, without rowid;
create index run_tags_by_run on run_tags (run_id);
create index run_tags_successful on run_tags (tag_id, flow_id, created_at, run_id) where successful = 1;

create table node_tags (
  -- tags set on a step (task_id 0), a task (artifact '') or an artifact; descendants inherit them
  run_id integer not null references runs (id) on delete cascade,
  step_id integer not null references steps (id) on delete cascade,
  task_id integer not null,
  artifact text not null,
  tag_id integer not null references tags (id),
  primary key (run_id, step_id, task_id, artifact, tag_id)
) strict, without rowid;
create index node_tags_by_tag on node_tags (tag_id);

create view run_summary as
  -- a row a run. status is what was last recorded: a run whose process died may still say 'running' here
  select r.id as run_id, f.name as flow, r.user as user, r.status as status,
         strftime('%Y-%m-%d %H:%M:%f', r.created_at / 1000.0, 'unixepoch') as created_at,
         strftime('%Y-%m-%d %H:%M:%f', r.finished_at / 1000.0, 'unixepoch') as finished_at,
         (r.finished_at - r.created_at) / 1000.0 as duration_s,
         r.origin_run_id as origin_run_id,
         r.parameters as parameters,
         '[' || coalesce((select group_concat(json, ', ') from
            (select t.json from run_tags rt join tags t on t.id = rt.tag_id where rt.run_id = r.id order by t.tag)
         ), '') || ']' as tags,
         (select count(*) from tasks t where t.run_id = r.id) as tasks,
         (select count(*) from tasks t where t.run_id = r.id and t.status = 'failed') as failed_tasks,
         strftime('%Y-%m-%d %H:%M:%f', r.last_seen_at / 1000.0, 'unixepoch') as last_seen_at,
         r.uuid as uuid
  from runs r join flows f on f.id = r.flow_id;

create view task_summary as
  -- a row a task; foreach_index counts within the innermost foreach; origin_pathspec is set where a resumed
  -- run reused another run's task
  select t.id as task_id, t.run_id as run_id, f.name as flow, s.name as step, t.status as status,
         t.attempts as attempts,
         strftime('%Y-%m-%d %H:%M:%f', t.started_at / 1000.0, 'unixepoch') as started_at,
         strftime('%Y-%m-%d %H:%M:%f', t.finished_at / 1000.0, 'unixepoch') as finished_at,
         (t.finished_at - t.started_at) / 1000.0 as duration_s,
         case when t.foreach_path is null then null
              else cast(replace(t.foreach_path, rtrim(t.foreach_path, '0123456789'), '') as integer)
         end as foreach_index,
         t.origin_pathspec as origin_pathspec,
         t.foreach_path as foreach_path
  from tasks t join steps s on s.id = t.step_id join runs r on r.id = t.run_id join flows f on f.id = r.flow_id;

create view set_artifacts as
  -- what each task set in its last attempt, parameters and constants with the start task; artifact_values
  -- and object_tags are built on it
  select t.run_id as run_id, t.step_id as step_id, t.id as task_id, a.name as name, a.blob_id as blob_id
  from artifacts a join tasks t on t.attempt_id = a.attempt_id
  where a.merged = 0 and a.blob_id is not null
  union all
  select p.run_id, s.id, (select min(t.id) from tasks t where t.run_id = p.run_id and t.step_id = s.id),
         p.name, p.blob_id
  from run_artifacts p join steps s on s.run_id = p.run_id and s.name = 'start';

create view artifact_values as
  -- a row where a task set the artifact; value is JSON text, there where the value is plain JSON of at most 64 KiB:
  -- select value ->> '$.accuracy' from artifact_values where name = 'metrics'
  select f.name as flow, a.run_id as run_id, s.name as step, a.task_id as task_id, a.name as name,
         b.type as type, b.codec as codec, b.size_bytes as size_bytes, lower(hex(b.sha)) as sha, b.preview as preview,
         case when b.codec = 'json' and b.size_bytes <= 65536 then cast(b.data as text) end as value
  from set_artifacts a
  join steps s on s.id = a.step_id join runs r on r.id = a.run_id join flows f on f.id = r.flow_id
  join blobs b on b.id = a.blob_id;

create view lineage as
  -- which task ran after which
  select task_id, parent_id as parent_task_id from task_parents;

create view task_logs as
  -- what tasks printed, in order; a row holds what was read at once, which may be several lines
  select f.name as flow, t.run_id as run_id, s.name as step, t.id as task_id, a.number as attempt, c.stream as stream,
         strftime('%Y-%m-%d %H:%M:%f', c.written_at / 1000.0, 'unixepoch') as written_at, c.text as text
  from log_chunks c join attempts a on a.log_id = c.log_id join tasks t on t.id = a.task_id
  join steps s on s.id = t.step_id join runs r on r.id = t.run_id join flows f on f.id = r.flow_id;

create view object_tags as
  -- effective tags of every object; own is 0 where the tag is inherited from the run, step or task above
  select 'run' as kind, f.name as flow, r.id as run_id, null as step, null as task_id, null as artifact,
         g.tag as tag, rt.system as system, 1 as own
  from run_tags rt join runs r on r.id = rt.run_id join flows f on f.id = r.flow_id join tags g on g.id = rt.tag_id
  union all
  select 'step', f.name, r.id, s.name, null, null, g.tag, rt.system, 0
  from run_tags rt join runs r on r.id = rt.run_id join flows f on f.id = r.flow_id join tags g on g.id = rt.tag_id
  join steps s on s.run_id = r.id
  where not exists (select 1 from node_tags n where n.run_id = r.id and n.step_id = s.id and n.task_id = 0
                    and n.artifact = '' and n.tag_id = rt.tag_id)
  union all
  select 'task', f.name, r.id, s.name, t.id, null, g.tag, rt.system, 0
  from run_tags rt join runs r on r.id = rt.run_id join flows f on f.id = r.flow_id join tags g on g.id = rt.tag_id
  join tasks t on t.run_id = r.id join steps s on s.id = t.step_id
  where not exists (select 1 from node_tags n where n.run_id = r.id and n.step_id = s.id
                    and n.task_id in (0, t.id) and n.artifact = '' and n.tag_id = rt.tag_id)
  union all
  select 'artifact', f.name, r.id, s.name, a.task_id, a.name, g.tag, rt.system, 0
  from run_tags rt join runs r on r.id = rt.run_id join flows f on f.id = r.flow_id join tags g on g.id = rt.tag_id
  join set_artifacts a on a.run_id = r.id join steps s on s.id = a.step_id
  where not exists (select 1 from node_tags n where n.run_id = r.id and n.step_id = s.id
                    and n.task_id in (0, a.task_id) and n.artifact in ('', a.name) and n.tag_id = rt.tag_id)
  union all
  select case when n.artifact <> '' then 'artifact' when n.task_id <> 0 then 'task' else 'step' end,
         f.name, r.id, s.name, nullif(n.task_id, 0), nullif(n.artifact, ''), g.tag, 0, 1
  from node_tags n join runs r on r.id = n.run_id join flows f on f.id = r.flow_id join tags g on g.id = n.tag_id
  join steps s on s.id = n.step_id
  union all
  select 'task', f.name, r.id, s.name, t.id, null, g.tag, 0, 0
  from node_tags n join runs r on r.id = n.run_id join flows f on f.id = r.flow_id join tags g on g.id = n.tag_id
  join steps s on s.id = n.step_id join tasks t on t.run_id = n.run_id and t.step_id = n.step_id
  where n.task_id = 0
    and not exists (select 1 from node_tags o where o.run_id = n.run_id and o.step_id = n.step_id
                    and o.task_id = t.id and o.artifact = '' and o.tag_id = n.tag_id)
  union all
  select 'artifact', f.name, r.id, s.name, a.task_id, a.name, g.tag, 0, 0
  from node_tags n join runs r on r.id = n.run_id join flows f on f.id = r.flow_id join tags g on g.id = n.tag_id
  join steps s on s.id = n.step_id join set_artifacts a on a.run_id = n.run_id and a.step_id = n.step_id
  where n.artifact = '' and n.task_id in (0, a.task_id)
    and not exists (select 1 from node_tags o where o.run_id = n.run_id and o.step_id = n.step_id
                    and o.task_id = a.task_id and o.artifact = a.name and o.tag_id = n.tag_id)
    and not (n.task_id = 0 and exists (
      select 1 from node_tags o where o.run_id = n.run_id and o.step_id = n.step_id
      and o.task_id = a.task_id and o.artifact = '' and o.tag_id = n.tag_id));
"""

MIGRATIONS: tuple[tuple[str, str], ...] = (
    ("m001_initial", M001_INITIAL),
    ("m002_deployments", M002_DEPLOYMENTS),
    ("m003_schedules", M003_SCHEDULES),
    ("m004_tag_pairs", M004_TAG_PAIRS),
    ("m005_origins", M005_ORIGINS),
    ("m006_owners", M006_OWNERS),
    ("m007_metrics", M007_METRICS),
)
SCHEMA_VERSION = len(MIGRATIONS)
VIEWS_SINCE = 7  # the version that brought the present views: `older` makes them for a file from before

PUBLIC_VIEWS = ("run_summary", "task_summary", "artifact_values", "metrics", "object_tags", "lineage", "task_logs")

# As sqlite-utils makes it, so that its migrations recognise what a new store already has.
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
        [(MIGRATION_SET, name, applied_at) for name, _ in MIGRATIONS],
    )
    connection.execute(
        "insert into store values (1, ?, ?, ?)", (uuid.uuid4().hex, time.time_ns() // 1_000_000, flowstore_version)
    )
    connection.execute(f"pragma application_id = {APPLICATION_ID}")
    connection.execute(f"pragma user_version = {SCHEMA_VERSION}")
    connection.execute("commit")


# Patterns are compiled where a strange or an older store needs them.
CREATE = r"(?i)\s*create\s+(unique\s+)?(table|view|index)\s+\"?(\w+)\"?"
_ALTER = r"(?s)\s*alter table (\w+) add column (.+)"
_END_OF_COLUMNS = r",(?=\s+unique \()|\)(?=[^)]*$)"  # where SQLite puts a column that is added


def definitions(version: int) -> dict[str, str]:
    """Return what the first migrations define, by name: as SQLite has it where a later one alters a table."""
    found: dict[str, str] = {}
    for statement in (each for _, script in MIGRATIONS[:version] for each in statements(script)):
        if match := re.match(CREATE, statement):
            found[match[3]] = statement
        elif match := re.match(_ALTER, statement):
            before, column = found[match[1]], match[2].rstrip("; \n")
            end = re.search(_END_OF_COLUMNS, before)
            assert end is not None  # every table has columns
            found[match[1]] = f"{before[: end.start()]}, {column}{before[end.start() :]}"
    return found


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an older store to the newest schema, inside the caller's write transaction.

    sqlite-utils' `apply` alone is not safe for two processes that open the same old file; the caller's
    `begin immediate` makes it so.
    """
    from sqlite_utils import Database, Migrations

    migrations = Migrations(MIGRATION_SET)
    for name, sql in MIGRATIONS:
        migrations(name=name)(_runner(sql))
    migrations.apply(Database(connection, execute_plugins=False))
    connection.execute(f"pragma user_version = {SCHEMA_VERSION}")


def _runner(sql: str) -> Callable[[Any], None]:
    """A migration as sqlite-utils calls it, with its `Database`."""

    def run(db: Any) -> None:
        for statement in statements(sql):
            db.execute(statement)

    return run


def statements(sql: str) -> list[str]:
    """The single statements of a script: `executescript` would commit the caller's transaction.

    >>> statements("create table a (x); create table b (y);")
    ['create table a (x);', 'create table b (y);']
    """
    found: list[str] = []
    pending = ""
    for piece in sql.split(";"):
        pending += piece + ";"
        if sqlite3.complete_statement(pending):
            found.append(pending.strip())
            pending = ""
    return [statement for statement in found if statement != ";"]
