"""The SQL of the migrations after the first, each below the reason for it; `schema` puts them in order.

What has been released is never changed: a mistake is mended by a further migration.
"""

# Why: deployments. Tokens outlive them, so that what is deployed again goes on in the same namespace.
M002_DEPLOYMENTS = """
create table production_tokens (
  -- what deploying needs, one for each flow without a project and for each branch of a project; runs that are
  -- deployed under it are tagged production:TOKEN. A row stays when its deployments are deleted.
  scope text primary key,                              -- 'flow:NAME' or 'project:NAME/BRANCH'
  token text not null unique,
  generation integer not null,                         -- 1, 2, … as new tokens are generated
  created_at integer not null,
  created_by text not null
) strict, without rowid;

create table deployments (
  -- a row a version; in force is the newest version of a flow and scope, unless it was deleted
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
  key_id blob not null,                                -- which key signed the code: only its owner's word is taken
  mac blob not null,                                   -- HMAC-SHA256 over store and content
  tags text not null,                                  -- JSON list, of its runs
  with_decorators text not null,                       -- JSON list: what --with said
  namespace text,                                      -- what its runs see: null is their own, '' is everything
  unique (flow, scope, version)
) strict;
create index deployments_by_code on deployments (code_id);

create table deployment_parameters (
  -- the defaults of a deployment's parameters, as they were when it was made
  deployment_id integer not null references deployments (id) on delete cascade,
  name text not null,                                  -- the artifact's
  option text not null,                                -- on the command line, without dashes before it
  is_flag integer not null,
  blob_id integer references blobs (id),               -- null: required, and without a default
  primary key (deployment_id, name)
) strict, without rowid;
create index deployment_parameters_by_blob on deployment_parameters (blob_id);
"""

# Why: the scheduler.
M003_SCHEDULES = """
create table scheduler (
  -- at most one row: the process that starts deployments as they fall due
  id integer primary key check (id = 1),
  host text not null,                                  -- which process it is, as in runs
  boot text not null,
  pid integer not null,
  pid_started text not null,
  started_at integer not null,
  last_seen_at integer not null
) strict;

create table due_marks (
  -- up to when a deployment's due times are dealt with; none yet: up to when it was deployed
  deployment_id integer primary key references deployments (id) on delete cascade,
  due_at integer not null                              -- the last due time that was started
) strict;
"""

# Why: two tags that half of the runs have each, and none both, were searched for run by run.
M004_TAG_PAIRS = """
create table tag_pairs (
  -- which tags of a flow's runs have met on one run: for how many at most, and not after when. A query for both
  -- starts there, or ends at once. A tag with itself says how frequent it is. Tag 0 stands for any tag: a run with
  -- more than 32 tags has a row (0, tag) for each. A tag that is removed later leaves its rows: they are bounds.
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
"""

# Why: import.
M005_ORIGINS = """
create table origins (
  -- where an imported run comes from
  run_id integer primary key references runs (id) on delete cascade,
  store_uuid text not null,                            -- the store it was imported from
  pathspec text not null,                              -- its pathspec there
  imported_at integer not null
) strict;

create table unverified (
  -- pickles that came with an imported run without this user's signature: they are not loaded as part of that run
  -- unless the store is trusted, also where the same bytes are signed as part of another
  run_id integer not null references runs (id) on delete cascade,
  blob_id integer not null references blobs (id) on delete cascade,
  primary key (run_id, blob_id)
) strict, without rowid;
create index unverified_by_blob on unverified (blob_id);

create table leases (
  -- contents that an import is writing, and its process; they are rubbish once it is gone
  blob_id integer primary key references blobs (id) on delete cascade,
  host text not null,                                  -- which process it is, as in runs
  boot text not null,
  pid integer not null,
  pid_started text not null,
  last_seen_at integer not null
) strict;
"""

# Why: what people add to their own store for their questions is fine; in a stranger's file it is refused.
M006_OWNERS = """
create table owners (
  -- whose runs this store holds: a row a user, HMAC-SHA256 over the store's identity with the user's key
  key_id blob primary key,
  mac blob not null
) strict, without rowid;
"""
