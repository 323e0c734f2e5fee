"""The SQL of the migration that makes numbers searchable, and the views as they have been since.

What has been released is never changed: a mistake is corrected by a further migration.
"""

# Why: numbers that can be searched. A value is described in Python when it is written, whatever its codec, since
# the JSON functions are not allowed in views where a connection doesn't trust the schema. Old values are described
# later, in small transactions (`store/backlog.py`): this migration rewrites no row. The views do without `count(*)` and
# `cast(blob as text)`, which DuckDB turns into what SQLite doesn't know when it reads an attached file.
M007_METRICS = """
alter table runs add column note /* what people say of it */ text;
alter table tasks add column item /* a preview of the foreach item */ text;
alter table attempts add column ran_on /* the host, unless it is the one of its run's driver */ text;
alter table codes add column module /* the flow's module, where it runs as python -m MODULE */ text;

create table blob_values (
  -- the value of a blob as plain JSON, for every codec but 'json', whose bytes are that JSON. A row without a value:
  -- the blob was looked at, and has none.
  blob_id integer primary key references blobs (id) on delete cascade,
  value text,                                          -- at most 64 KiB
  exact integer,                                       -- 1: this JSON is the value itself, types included
  magnitude real                                       -- the value, where it is one number
) strict;

create table pictures (
  -- what a figure or an image looks like: a PNG of at most 1 MB
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
  -- at most one row: tasks of an older flowstore whose artifacts' numbers are not in `numbers` yet
  id integer primary key check (id = 1),
  last_task_id integer not null                        -- this one and those before it
) strict;
insert into backlog select 1, max(id) from tasks having count(*) > 0;

drop index run_tags_by_run;
create index run_tags_by_run on run_tags (run_id, system) /* all that object_tags reads of the tags of a run */;

drop view object_tags;
drop view artifact_values;
drop view set_artifacts;
drop view task_summary;
drop view run_summary;

create view run_summary as
  -- a row a run. status is what was last recorded: a run whose process died may still say 'running' here.
  -- parameters is a JSON object, tags a JSON list, note what people say of the run, error its first failure
  select r.id as run_id, f.name as flow, r.user as user, r.status as status,
         strftime('%Y-%m-%d %H:%M:%f', r.created_at / 1000.0, 'unixepoch') as created_at,
         strftime('%Y-%m-%d %H:%M:%f', r.finished_at / 1000.0, 'unixepoch') as finished_at,
         (r.finished_at - r.created_at) / 1000.0 as duration_s,
         r.origin_run_id as origin_run_id,
         r.parameters as parameters,
         '[' || coalesce((select group_concat(json, ', ') from
            (select t.json from run_tags rt join tags t on t.id = rt.tag_id where rt.run_id = r.id order by t.tag)
         ), '') || ']' as tags,
         (select count(t.id) from tasks t where t.run_id = r.id) as tasks,
         (select count(t.id) from tasks t where t.run_id = r.id and t.status = 'failed') as failed_tasks,
         strftime('%Y-%m-%d %H:%M:%f', r.last_seen_at / 1000.0, 'unixepoch') as last_seen_at,
         r.uuid as uuid,
         r.note as note,
         (select a.error_type || case when a.error_message = '' then '' else ': ' ||
             substr(a.error_message, 1, instr(a.error_message || '\n', '\n') - 1) end
          from tasks t join attempts a on a.id = t.attempt_id
          where t.run_id = r.id and t.status = 'failed' order by a.finished_at, a.id limit 1) as error
  from runs r join flows f on f.id = r.flow_id;

create view task_summary as
  -- a row a task; foreach_index counts within the innermost foreach, and item shows what it was given there;
  -- origin_pathspec is set where a resumed run reused another run's task; error is its last failure
  select t.id as task_id, t.run_id as run_id, f.name as flow, s.name as step, t.status as status,
         t.attempts as attempts,
         strftime('%Y-%m-%d %H:%M:%f', t.started_at / 1000.0, 'unixepoch') as started_at,
         strftime('%Y-%m-%d %H:%M:%f', t.finished_at / 1000.0, 'unixepoch') as finished_at,
         (t.finished_at - t.started_at) / 1000.0 as duration_s,
         case when t.foreach_path is null then null
              else cast(replace(t.foreach_path, rtrim(t.foreach_path, '0123456789'), '') as integer)
         end as foreach_index,
         t.origin_pathspec as origin_pathspec,
         t.foreach_path as foreach_path,
         t.item as item,
         coalesce((select a.ran_on from attempts a where a.id = t.attempt_id),
                  case when t.origin_pathspec is null then r.host end) as host,
         (select a.error_type || case when a.error_message = '' then '' else ': ' ||
             substr(a.error_message, 1, instr(a.error_message || '\n', '\n') - 1) end
          from attempts a where a.task_id = t.id and a.error_type is not null
          order by a.number desc limit 1) as error
  from tasks t join steps s on s.id = t.step_id join runs r on r.id = t.run_id join flows f on f.id = r.flow_id;

create view set_artifacts as
  -- what each task set in its last attempt, parameters and constants with the start task
  select r.id as run_id, t.step_id as step_id, t.id as task_id, a.name as name, a.blob_id as blob_id
  from runs r cross join tasks t cross join artifacts a
  where t.run_id = r.id and a.attempt_id = t.attempt_id and a.merged = 0 and a.blob_id is not null
  union all
  select p.run_id, t.step_id, t.id, p.name, p.blob_id
  from run_artifacts p cross join steps s cross join tasks t
  where s.run_id = p.run_id and s.name = 'start' and t.run_id = p.run_id and t.step_id = s.id
    and not exists (select 1 from tasks o where o.run_id = t.run_id and o.step_id = t.step_id and o.id < t.id);

create view artifact_values as
  -- a row where a task set the artifact, parameters and constants with the start task. value is the value as JSON text,
  -- where it has one of at most 64 KiB; exact is 1 where that JSON is the value itself; number is the value where it is
  -- one number: select value ->> '$.accuracy' from artifact_values where name = 'metrics'
  select f.name as flow, a.run_id as run_id, s.name as step, a.task_id as task_id, a.name as name,
         b.type as type, b.codec as codec, b.size_bytes as size_bytes, lower(hex(b.sha)) as sha, b.preview as preview,
         case when b.codec <> 'json' then v.value
              when b.size_bytes <= 65536 then substr(b.data, 1) || '' end as value,
         case when b.codec <> 'json' then v.exact
              when b.size_bytes <= 65536 and b.data is not null then 1 end as exact,
         case when b.codec <> 'json' then v.magnitude
              when b.type in ('int', 'float') and b.size_bytes <= 400
              then cast(substr(b.data, 1) || '' as double) end as number
  from set_artifacts a cross join steps s cross join runs r cross join flows f cross join blobs b
  left join blob_values v on v.blob_id = b.id
  where s.id = a.step_id and r.id = a.run_id and f.id = r.flow_id and b.id = a.blob_id;

create view metrics as
  -- a row a number inside an artifact that a task set: name is 'metrics.accuracy' or 'scores.0', or the artifact's own
  -- where that is one number. final is 1 where the run's end task sees the value; without an end task, for the last:
  -- select run_id, number from metrics where name = 'metrics.accuracy' and final = 1 order by number desc
  select f.name as flow, n.run_id as run_id, s.name as step, n.task_id as task_id, n.artifact as artifact,
         n.name as name, n.magnitude as number, n.final as final
  from numbers n join tasks t on t.id = n.task_id join steps s on s.id = t.step_id
  join runs r on r.id = n.run_id join flows f on f.id = r.flow_id;

create view object_tags as
  -- effective tags of every object; own is 0 where the tag is inherited from the run, step or task above. The order of
  -- the joins is that of run_id, and only runs with tags of steps, tasks or artifacts look for those
  select 'run' as kind, f.name as flow, r.id as run_id, cast(null as text) as step,
         cast(null as integer) as task_id, cast(null as text) as artifact, g.tag as tag, rt.system as system, 1 as own
  from runs r cross join flows f cross join run_tags rt cross join tags g
  where f.id = r.flow_id and rt.run_id = r.id and g.id = rt.tag_id
  union all
  select 'step', f.name, r.id, s.name, cast(null as integer), cast(null as text), g.tag, rt.system, 0
  from runs r cross join flows f cross join steps s cross join run_tags rt cross join tags g
  where f.id = r.flow_id and s.run_id = r.id and rt.run_id = r.id and g.id = rt.tag_id
    and not exists (select 1 from node_tags n where n.run_id = r.id)
  union all
  select 'step', f.name, h.run_id, s.name, cast(null as integer), cast(null as text), g.tag, rt.system, 0
  from node_tags h cross join runs r cross join flows f cross join steps s cross join run_tags rt
  cross join tags g
  where r.id = h.run_id and f.id = r.flow_id and s.run_id = r.id and rt.run_id = r.id and g.id = rt.tag_id
    and not exists (select 1 from node_tags i where i.run_id = h.run_id and (i.step_id, i.task_id, i.artifact, i.tag_id)
                    < (h.step_id, h.task_id, h.artifact, h.tag_id))
    and not exists (select 1 from node_tags n where n.run_id = r.id and n.step_id = s.id
                    and n.task_id = 0 and n.artifact = '' and n.tag_id = rt.tag_id)
  union all
  select 'task', f.name, r.id, s.name, t.id, cast(null as text), g.tag, rt.system, 0
  from runs r cross join flows f cross join tasks t cross join steps s cross join run_tags rt cross join tags g
  where f.id = r.flow_id and t.run_id = r.id and s.id = t.step_id and rt.run_id = r.id and g.id = rt.tag_id
    and not exists (select 1 from node_tags n where n.run_id = r.id)
  union all
  select 'task', f.name, h.run_id, s.name, t.id, cast(null as text), g.tag, rt.system, 0
  from node_tags h cross join runs r cross join flows f cross join tasks t cross join steps s
  cross join run_tags rt cross join tags g
  where r.id = h.run_id and f.id = r.flow_id and t.run_id = r.id and s.id = t.step_id and rt.run_id = r.id
    and g.id = rt.tag_id
    and not exists (select 1 from node_tags i where i.run_id = h.run_id and (i.step_id, i.task_id, i.artifact, i.tag_id)
                    < (h.step_id, h.task_id, h.artifact, h.tag_id))
    and not exists (select 1 from node_tags n where n.run_id = r.id and n.step_id = s.id
                    and n.task_id = 0 and n.artifact = '' and n.tag_id = rt.tag_id)
    and not exists (select 1 from node_tags n where n.run_id = r.id and n.step_id = s.id
                    and n.task_id = t.id and n.artifact = '' and n.tag_id = rt.tag_id)
  union all
  select 'artifact', f.name, r.id, s.name, t.id, a.name, g.tag, rt.system, 0
  from runs r cross join flows f cross join tasks t cross join steps s cross join artifacts a
  cross join run_tags rt cross join tags g
  where f.id = r.flow_id and t.run_id = r.id and s.id = t.step_id and a.attempt_id = t.attempt_id
    and rt.run_id = r.id and g.id = rt.tag_id
    and not exists (select 1 from node_tags n where n.run_id = r.id)
    and a.merged = 0
    and a.blob_id is not null
  union all
  select 'artifact', f.name, h.run_id, s.name, t.id, a.name, g.tag, rt.system, 0
  from node_tags h cross join runs r cross join flows f cross join tasks t cross join steps s
  cross join artifacts a cross join run_tags rt cross join tags g
  where r.id = h.run_id and f.id = r.flow_id and t.run_id = r.id and s.id = t.step_id
    and a.attempt_id = t.attempt_id and rt.run_id = r.id and g.id = rt.tag_id
    and not exists (select 1 from node_tags i where i.run_id = h.run_id and (i.step_id, i.task_id, i.artifact, i.tag_id)
                    < (h.step_id, h.task_id, h.artifact, h.tag_id))
    and a.merged = 0
    and a.blob_id is not null
    and not exists (select 1 from node_tags n where n.run_id = r.id and n.step_id = s.id
                    and n.task_id = 0 and n.artifact = '' and n.tag_id = rt.tag_id)
    and not exists (select 1 from node_tags n where n.run_id = r.id and n.step_id = s.id
                    and n.task_id = t.id and n.artifact = '' and n.tag_id = rt.tag_id)
    and not exists (select 1 from node_tags n where n.run_id = r.id and n.step_id = s.id
                    and n.task_id = t.id and n.artifact = a.name and n.tag_id = rt.tag_id)
  union all
  select 'artifact', f.name, a.run_id, s.name, t.id, a.name, g.tag, rt.system, 0
  from run_artifacts a cross join runs r cross join flows f cross join steps s cross join tasks t
  cross join run_tags rt cross join tags g
  where r.id = a.run_id and f.id = r.flow_id and s.run_id = a.run_id and s.name = 'start'
    and t.run_id = a.run_id and t.step_id = s.id and rt.run_id = a.run_id and g.id = rt.tag_id
    and not exists (select 1 from node_tags n where n.run_id = a.run_id)
    and not exists (select 1 from tasks o where o.run_id = t.run_id and o.step_id = t.step_id and o.id < t.id)
  union all
  select 'artifact', f.name, h.run_id, s.name, t.id, a.name, g.tag, rt.system, 0
  from node_tags h cross join runs r cross join flows f cross join steps s cross join tasks t
  cross join run_artifacts a cross join run_tags rt cross join tags g
  where r.id = h.run_id and f.id = r.flow_id and s.run_id = r.id and s.name = 'start'
    and t.run_id = r.id and t.step_id = s.id and a.run_id = r.id and rt.run_id = r.id and g.id = rt.tag_id
    and not exists (select 1 from node_tags i where i.run_id = h.run_id and (i.step_id, i.task_id, i.artifact, i.tag_id)
                    < (h.step_id, h.task_id, h.artifact, h.tag_id))
    and not exists (select 1 from tasks o where o.run_id = t.run_id and o.step_id = t.step_id and o.id < t.id)
    and not exists (select 1 from node_tags n where n.run_id = r.id and n.step_id = s.id
                    and n.task_id = 0 and n.artifact = '' and n.tag_id = rt.tag_id)
    and not exists (select 1 from node_tags n where n.run_id = r.id and n.step_id = s.id
                    and n.task_id = t.id and n.artifact = '' and n.tag_id = rt.tag_id)
    and not exists (select 1 from node_tags n where n.run_id = r.id and n.step_id = s.id
                    and n.task_id = t.id and n.artifact = a.name and n.tag_id = rt.tag_id)
  union all
  select case when n.artifact <> '' then 'artifact' when n.task_id <> 0 then 'task' else 'step' end,
         f.name, n.run_id, s.name, cast(nullif(n.task_id, 0) as integer), cast(nullif(n.artifact, '') as text),
         g.tag, cast(0 as integer), 1
  from node_tags n cross join runs r cross join flows f cross join tags g cross join steps s
  where r.id = n.run_id and f.id = r.flow_id and g.id = n.tag_id and s.id = n.step_id
  union all
  select 'task', f.name, n.run_id, s.name, t.id, cast(null as text), g.tag, cast(0 as integer), 0
  from node_tags n cross join runs r cross join flows f cross join tags g cross join steps s cross join tasks t
  where r.id = n.run_id and f.id = r.flow_id and g.id = n.tag_id and s.id = n.step_id
    and t.run_id = n.run_id and t.step_id = n.step_id
    and n.task_id = 0
    and not exists (select 1 from node_tags o where o.run_id = n.run_id and o.step_id = n.step_id
                    and o.task_id = t.id and o.artifact = '' and o.tag_id = n.tag_id)
  union all
  select 'artifact', f.name, n.run_id, s.name, t.id, a.name, g.tag, cast(0 as integer), 0
  from node_tags n cross join runs r cross join flows f cross join tags g cross join steps s cross join tasks t
  cross join artifacts a
  where r.id = n.run_id and f.id = r.flow_id and g.id = n.tag_id and s.id = n.step_id
    and t.run_id = n.run_id and t.step_id = n.step_id and a.attempt_id = t.attempt_id
    and a.merged = 0 and a.blob_id is not null and n.artifact = '' and n.task_id in (0, t.id)
    and not exists (select 1 from node_tags o where o.run_id = n.run_id and o.step_id = n.step_id
                    and o.task_id = t.id and o.artifact = a.name and o.tag_id = n.tag_id)
    and not (n.task_id = 0 and exists (
      select 1 from node_tags o where o.run_id = n.run_id and o.step_id = n.step_id
      and o.task_id = t.id and o.artifact = '' and o.tag_id = n.tag_id))
  union all
  select 'artifact', f.name, n.run_id, s.name, t.id, a.name, g.tag, cast(0 as integer), 0
  from node_tags n cross join runs r cross join flows f cross join tags g cross join steps s cross join tasks t
  cross join run_artifacts a
  where r.id = n.run_id and f.id = r.flow_id and g.id = n.tag_id and s.id = n.step_id
    and t.run_id = n.run_id and t.step_id = n.step_id and a.run_id = n.run_id
    and s.name = 'start' and n.artifact = '' and n.task_id in (0, t.id)
    and not exists (select 1 from tasks o where o.run_id = t.run_id and o.step_id = t.step_id and o.id < t.id)
    and not exists (select 1 from node_tags o where o.run_id = n.run_id and o.step_id = n.step_id
                    and o.task_id = t.id and o.artifact = a.name and o.tag_id = n.tag_id)
    and not (n.task_id = 0 and exists (
      select 1 from node_tags o where o.run_id = n.run_id and o.step_id = n.step_id
      and o.task_id = t.id and o.artifact = '' and o.tag_id = n.tag_id));
"""
