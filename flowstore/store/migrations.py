"""The migrations, the first version included: each an entry with its reason, in order, only ever appended to.

A definition that has been released is never changed, but for its comments: files of that version hold it, and are
compared with it (`untrusted`). A mistake is corrected by a further migration. Views are in `views`: a migration that
changes some says no more here than the version that it makes.
"""

from __future__ import annotations

from flowstore import later
from flowstore.store import first_schema


@later.frozen(repr=True)
class Migration:
    """A step that brings a store to the next version.

    Attributes:
        name: a name that sqlite-utils keeps in the file, with the time at which the migration was applied.
        why: the reason for it.
        sql: the statements, views left out.
    """

    name: str
    why: str
    sql: str


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        "m001_initial",
        "the first version",
        first_schema.SQL,
    ),
    Migration(
        "m002_deployments",
        "deployments. Tokens outlive them, so that deploying again goes on in the same namespace",
        """
create table production_tokens (
  -- the tokens that deploying requires, one for each flow without a project and for each branch of a project. Runs of
  -- its deployments are tagged production:TOKEN. A row stays when its deployments are deleted.
  scope text primary key,                              -- 'flow:NAME' or 'project:NAME/BRANCH'
  token text not null unique,
  generation integer not null,                         -- 1, 2, … as new tokens are generated
  created_at integer not null,
  created_by text not null
) strict, without rowid;

create table deployments (
  -- one row per version. The newest version of a flow and scope is in force, unless it was deleted
  id integer primary key autoincrement,
  flow text not null,
  scope text not null references production_tokens (scope),
  project text,
  branch text,
  version integer not null,                            -- 1, 2, …
  deployed_at integer not null,
  deployed_by text not null,
  deleted_at integer,
  deleted_by text,
  schedule text,                                       -- JSON object: cron, timezone
  code_id integer not null references codes (id),
  key_id blob not null,                                -- the key that signed the code: only its owner runs it
  mac blob not null,                                   -- HMAC-SHA256 over store and code
  tags text not null,                                  -- JSON list, of its runs
  with_decorators text not null,                       -- JSON list: the arguments of --with
  namespace text,                                      -- what its runs see: null is their own, '' is everything
  unique (flow, scope, version)
) strict;
create index deployments_by_code on deployments (code_id);

create table deployment_parameters (
  -- the defaults of a deployment's parameters, as they were when it was created
  deployment_id integer not null references deployments (id) on delete cascade,
  name text not null,                                  -- the artifact's
  option text not null,                                -- on the command line, without dashes before it
  is_flag integer not null,
  blob_id integer references blobs (id),               -- null: required, and without a default
  primary key (deployment_id, name)
) strict, without rowid;
create index deployment_parameters_by_blob on deployment_parameters (blob_id);
""",
    ),
    Migration(
        "m003_schedules",
        "the scheduler",
        """
create table scheduler (
  -- at most one row: the process that starts deployments as they fall due
  id integer primary key check (id = 1),
  host text not null,                                  -- the process, as in runs
  boot text not null,
  pid integer not null,
  pid_started text not null,
  started_at integer not null,
  last_seen_at integer not null
) strict;

create table due_marks (
  -- the last due time of each deployment that was handled; without a row, none has been since it was deployed
  deployment_id integer primary key references deployments (id) on delete cascade,
  due_at integer not null                              -- the last due time that was started
) strict;
""",
    ),
    Migration(
        "m004_tag_pairs",
        "a search for two tags that half of the runs have each, and none both, looked at run after run",
        """
create table tag_pairs (
  -- tags that occur together on runs of a flow: on how many runs at most, and when the newest of them was created. A
  -- search for both starts there, or ends at once. The pair of a tag with itself counts its runs. Tag 0 stands for any
  -- tag: a run with more than 32 tags has a row (0, tag) for each. Removing a tag leaves its rows, which are bounds,
  -- but for that count.
  flow_id integer not null,
  a integer not null,                                  -- the smaller id of the two tags, or 0
  b integer not null,
  newest_at integer not null,                          -- when the newest such run was created
  runs integer not null,
  primary key (flow_id, a, b)
) strict, without rowid;
insert into tag_pairs
  with crowds (run_id, crowded) as (select run_id, count(*) > 32 from run_tags group by run_id)
  select x.flow_id, x.tag_id, y.tag_id, max(x.created_at), count(*)
  from crowds c join run_tags x on x.run_id = c.run_id join run_tags y on y.run_id = c.run_id
  where y.tag_id = x.tag_id or (y.tag_id > x.tag_id and not c.crowded)
  group by x.flow_id, x.tag_id, y.tag_id
  union all
  select x.flow_id, 0, x.tag_id, max(x.created_at), count(*) from crowds c join run_tags x on x.run_id = c.run_id
  where c.crowded group by x.flow_id, x.tag_id;
""",
    ),
    Migration(
        "m005_origins",
        "import",
        """
create table origins (
  -- where an imported run comes from
  run_id integer primary key references runs (id) on delete cascade,
  store_uuid text not null,                            -- the store it was imported from
  pathspec text not null,                              -- its pathspec there
  imported_at integer not null
) strict;

create table unverified (
  -- pickles of an imported run that this user has not signed: they are not loaded as part of that run
  -- unless the store is trusted, also where the same bytes are signed as part of another
  run_id integer not null references runs (id) on delete cascade,
  blob_id integer not null references blobs (id) on delete cascade,
  primary key (run_id, blob_id)
) strict, without rowid;
create index unverified_by_blob on unverified (blob_id);

create table leases (
  -- blobs that a process is writing or is going to need: they are orphans once it is gone
  blob_id integer primary key references blobs (id) on delete cascade,
  host text not null,                                  -- the process, as in runs
  boot text not null,
  pid integer not null,
  pid_started text not null,
  last_seen_at integer not null
) strict;
""",
    ),
    Migration(
        "m006_owners",
        "tables that people add to their own store are fine; in a file of somebody else they are refused",
        """
create table owners (
  -- the users whose runs this store holds, one row each: HMAC-SHA256 over the store's identity with the user's key
  key_id blob primary key,
  mac blob not null
) strict, without rowid;
""",
    ),
    Migration(
        "m007_metrics",
        """numbers that can be searched. A value is described in Python when it is written, whatever its codec, since
        SQLite's JSON functions are not allowed in views where a connection does not trust the schema. Values of older
        stores are described later, in small transactions (`store/backlog.py`): this migration rewrites no row. The
        views avoid `count(*)` and `cast(blob as text)`, which DuckDB, reading an attached file, turns into functions
        that SQLite lacks""",
        """
alter table runs add column note /* a note by its users */ text;
alter table tasks add column item /* a preview of the foreach item */ text;
alter table attempts add column ran_on /* the host, unless it is the one of its run's driver */ text;
alter table codes add column module /* the flow's module, where it runs as python -m MODULE */ text;

create table blob_values (
  -- the value of a blob as plain JSON, for every codec but 'json', whose bytes are that JSON. A row without a value
  -- says that the blob has none.
  blob_id integer primary key references blobs (id) on delete cascade,
  value text,                                          -- at most 64 KiB
  exact integer,                                       -- 1: this JSON is the value itself, types included
  magnitude real                                       -- the value, where it is one number
) strict;

create table pictures (
  -- pictures of figures and images: PNG of at most 1 MB
  blob_id integer primary key references blobs (id) on delete cascade,
  png blob not null
) strict;

create table numbers (
  -- the metrics: numbers inside the artifacts that a task set in its last attempt, in the order in which they were set
  id integer primary key,
  run_id integer not null references runs (id) on delete cascade,
  task_id integer not null references tasks (id) on delete cascade,
  artifact text not null,
  name text not null,                                  -- 'metrics.accuracy'
  magnitude real not null,
  final integer not null                               -- 1: the run's end task sees it; before there is one: the last
) strict;
create index numbers_by_name on numbers (name, magnitude);
create index numbers_by_task on numbers (run_id, task_id);
create index numbers_final on numbers (run_id, artifact) where final = 1;

create table backlog (
  -- at most one row: tasks of an older flowstore whose metrics are not in `numbers` yet
  id integer primary key check (id = 1),
  last_task_id integer not null                        -- this task and those before it
) strict;
insert into backlog select 1, max(id) from tasks having count(*) > 0;

drop index run_tags_by_run;
create index run_tags_by_run on run_tags (run_id, system) /* all that object_tags reads of the tags of a run */;
""",
    ),
    Migration(
        "m008_cards",
        "cards: the reports that tasks make of themselves",
        """
create table cards (
  -- the cards of an attempt, as they were rendered last
  attempt_id integer not null references attempts (id) on delete cascade,
  n integer not null,                                  -- 0, 1, …: the order of the decorators, the topmost first
  type text not null,                                  -- 'default', 'blank', or a type of the user's own
  card_id text,                                        -- the id that @card has
  blob_id integer not null references blobs (id),      -- the HTML, of the codec 'html'
  data blob,                                           -- JSON: what the card's `refresh` returned last
  updated_at integer not null,
  primary key (attempt_id, n)
) strict, without rowid;
create index cards_by_blob on cards (blob_id);
""",
    ),
    Migration(
        "m009_events",
        """a flow's first and last step may have any name; events start deployments. Runs and deployments keep what they
        have to do with events as JSON, which travels with the row. State machines of AWS Step Functions are noted, so
        that what was made there can be found and removed. Runs and tasks that come from Metaflow are found by the
        addresses that they had there. Runs keep the versions of what they imported, and snapshots which module runs
        their program. How many runs have a tag is counted exactly, so that to list tags nobody counts runs""",
        """
alter table runs add column start_step text /* the name of the step where it begins; null: start */;
alter table runs add column end_step text /* the name of the step where it ends; null: end */;
alter table runs add column trigger_events text /* JSON list: the events that started it */;
alter table runs add column environment text /* JSON object: versions of the distributions that it imported */;
alter table tasks add column imported_from text /* its pathspec in Metaflow, in a run that comes from there */;
alter table codes add column launcher text /* the module that runs the program, as python -m LAUNCHER flow.py */;
alter table deployments add column triggers text /* JSON object: the events that start it */;
alter table deployments add column executor text /* JSON list: where its tasks run, and the options of that */;
update tag_pairs set runs = (
    select count(*) from run_tags x where x.tag_id = tag_pairs.a and x.flow_id = tag_pairs.flow_id) where a = b;
create index origins_by_pathspec on origins (store_uuid, pathspec);

create table events (
  -- what has happened: events that somebody published, and runs of deployments that were successful
  id integer primary key autoincrement,
  kind text not null check (kind in ('event', 'run')),
  name text not null,                                  -- the event's; of a run, its flow's
  payload text not null,                               -- JSON object; of a run, its pathspec, project and branch
  published_at integer not null,
  published_by text not null
) strict;

create table event_marks (
  -- the last event that each deployment has used up: later ones may start it
  deployment_id integer primary key references deployments (id) on delete cascade,
  event_id integer not null
) strict;

create table state_machines (
  -- what deploying to AWS Step Functions made, or was about to make when it was interrupted. One row for each flow and
  -- scope; its queue is named after the store, its schedule after the state machine
  flow text not null,
  scope text not null references production_tokens (scope),
  arn text not null,                                   -- of the state machine: says region, account and name
  created_at integer not null,
  created_by text not null,
  primary key (flow, scope)
) strict, without rowid;

create table step_tokens (
  -- the tokens by which AWS admits the tasks of an execution, where each step is a state of its own; removed when the
  -- execution is over
  id integer primary key,
  execution text not null,                             -- the system tag of its runs
  step text not null,
  path text not null,                                  -- as foreach_path of tasks, without the index in a gang
  members integer not null,                            -- of a gang, whose members share a token; else 0
  token text not null unique,
  answered integer not null default 0                  -- 1: AWS knows that the task has finished
) strict;
create index step_tokens_by_execution on step_tokens (execution, step, path);
""",
    ),
)
