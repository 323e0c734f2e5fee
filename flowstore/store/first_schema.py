"""The tables of the first version, to which `migrations` adds; released, so it never changes."""

SQL = """
create table store (
  -- one row: the identity of this file
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
  id integer primary key autoincrement,                -- never used again, even after a delete
  uuid text not null unique,                           -- the same in every store that the run is copied to
  flow_id integer not null references flows (id),
  user text not null,
  status text not null check (status in ('running', 'successful', 'failed', 'stopped', 'dead')),
  created_at integer not null,                         -- not before that of any earlier run
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
  log_id integer not null,                             -- the attempt that wrote the log: this one, or a reused task's
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
  -- the bytes of artifacts, each stored once: small ones here, large ones in chunks
  id integer primary key,
  sha blob,                                            -- SHA-256 of the bytes; null while they are being written
  codec text not null,                                 -- how the bytes are decoded
  size_bytes integer not null,
  type text not null,                                  -- Python's name of the value's type
  preview text not null,                               -- computed when the value was written
  data blob,                                           -- the bytes; null where they are in chunks
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
  -- pickles that a user's own runs wrote: HMAC-SHA256 over store, bytes and codec
  blob_id integer not null references blobs (id) on delete cascade,
  key_id blob not null,
  mac blob not null,
  primary key (blob_id, key_id)
) strict, without rowid;

create table artifacts (
  -- the artifacts that an attempt set. A null blob_id says that it deleted the name. Follow base_id for what a task
  -- inherits.
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
  json text not null                                   -- the tag as JSON text: SQLite's JSON functions are not allowed
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
"""
