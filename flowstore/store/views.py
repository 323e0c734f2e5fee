"""The views: the public face of a store. Here are those of the newest version, and then the former ones.

To change a view, move its entry to the end of `FORMER` and write the new one with the version that the migration makes.
To a view, columns are only ever appended: `sqlite3`, pandas, R and DuckDB read them.
"""

from __future__ import annotations

from flowstore import later


@later.frozen
class View:
    """One view, as it has been since a version of the schema.

    Attributes:
        name: the view.
        since: the first schema version that has it so.
        query: its text.
    """

    name: str
    since: int
    query: str

    @property
    def sql(self) -> str:
        """The statement that creates it."""
        return f"create view {self.name} as{self.query};"


def of_version(version: int) -> dict[str, View]:
    """Return the views of a schema version by name."""
    views = {view.name: view for view in FORMER if view.since <= version}
    return views | {view.name: view for view in VIEWS if view.since <= version}


VIEWS = (
    View(
        "run_summary",
        7,
        """
  -- one row per run. status is what was last recorded: a run that was killed may still say 'running' here. parameters
  -- is a JSON object, tags a JSON list, note what users wrote about the run, error its first failure
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
  from runs r join flows f on f.id = r.flow_id""",
    ),
    View(
        "task_summary",
        9,
        """
  -- one row per task. foreach_index counts within the innermost foreach, and item shows the task's item there.
  -- origin_pathspec is set where a resumed run reused another run's task, and where a run comes from Metaflow: there it
  -- is the task's address in Metaflow. error is the last failure
  select t.id as task_id, t.run_id as run_id, f.name as flow, s.name as step, t.status as status,
         t.attempts as attempts,
         strftime('%Y-%m-%d %H:%M:%f', t.started_at / 1000.0, 'unixepoch') as started_at,
         strftime('%Y-%m-%d %H:%M:%f', t.finished_at / 1000.0, 'unixepoch') as finished_at,
         (t.finished_at - t.started_at) / 1000.0 as duration_s,
         case when t.foreach_path is null then null
              else cast(replace(t.foreach_path, rtrim(t.foreach_path, '0123456789'), '') as integer)
         end as foreach_index,
         coalesce(t.imported_from, t.origin_pathspec) as origin_pathspec,
         t.foreach_path as foreach_path,
         t.item as item,
         coalesce((select a.ran_on from attempts a where a.id = t.attempt_id),
                  case when t.origin_pathspec is null then r.host end) as host,
         (select a.error_type || case when a.error_message = '' then '' else ': ' ||
             substr(a.error_message, 1, instr(a.error_message || '\n', '\n') - 1) end
          from attempts a where a.task_id = t.id and a.error_type is not null
          order by a.number desc limit 1) as error
  from tasks t join steps s on s.id = t.step_id join runs r on r.id = t.run_id join flows f on f.id = r.flow_id""",
    ),
    View(
        "set_artifacts",
        9,
        """
  -- the artifacts that each task set in its last attempt; parameters and constants belong to the start task
  select r.id as run_id, t.step_id as step_id, t.id as task_id, a.name as name, a.blob_id as blob_id
  from runs r cross join tasks t cross join artifacts a
  where t.run_id = r.id and a.attempt_id = t.attempt_id and a.merged = 0 and a.blob_id is not null
  union all
  select p.run_id, t.step_id, t.id, p.name, p.blob_id
  from run_artifacts p cross join runs r cross join steps s cross join tasks t
  where r.id = p.run_id and s.run_id = r.id and s.name = coalesce(r.start_step, 'start')
    and t.run_id = p.run_id and t.step_id = s.id
    and not exists (select 1 from tasks o where o.run_id = t.run_id and o.step_id = t.step_id and o.id < t.id)""",
    ),
    View(
        "artifact_values",
        7,
        """
  -- one row per artifact that a task set; parameters and constants belong to the start task. value is the value as JSON
  -- text of at most 64 KiB, else null; exact is 1 if that JSON is the value itself; number is the value if it is one
  -- number: select value ->> '$.accuracy' from artifact_values where name = 'metrics'
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
  where s.id = a.step_id and r.id = a.run_id and f.id = r.flow_id and b.id = a.blob_id""",
    ),
    View(
        "metrics",
        7,
        """
  -- one row per number inside an artifact that a task set. name is 'metrics.accuracy' or 'scores.0', or the artifact's
  -- own name if that is one number. final is 1 if the run's end task sees the value; without an end task, for the last:
  -- select run_id, number from metrics where name = 'metrics.accuracy' and final = 1 order by number desc
  select f.name as flow, n.run_id as run_id, s.name as step, n.task_id as task_id, n.artifact as artifact,
         n.name as name, n.magnitude as number, n.final as final
  from numbers n join tasks t on t.id = n.task_id join steps s on s.id = t.step_id
  join runs r on r.id = n.run_id join flows f on f.id = r.flow_id""",
    ),
    View(
        "card_list",
        8,
        """
  -- one row per card of a task's last attempt. number counts from 0, id is what @card says, hash is that of the HTML
  select f.name as flow, t.run_id as run_id, s.name as step, t.id as task_id, c.n as number, c.type as type,
         c.card_id as id, b.size_bytes as size_bytes, lower(hex(b.sha)) as hash,
         strftime('%Y-%m-%d %H:%M:%f', c.updated_at / 1000.0, 'unixepoch') as updated_at
  from cards c join tasks t on t.attempt_id = c.attempt_id join steps s on s.id = t.step_id
  join runs r on r.id = t.run_id join flows f on f.id = r.flow_id join blobs b on b.id = c.blob_id""",
    ),
    View(
        "lineage",
        1,
        """
  -- each task with the tasks directly before it
  select task_id, parent_id as parent_task_id from task_parents""",
    ),
    View(
        "task_logs",
        1,
        """
  -- what tasks printed, in order; a row holds text that was read at once, which may be several lines
  select f.name as flow, t.run_id as run_id, s.name as step, t.id as task_id, a.number as attempt, c.stream as stream,
         strftime('%Y-%m-%d %H:%M:%f', c.written_at / 1000.0, 'unixepoch') as written_at, c.text as text
  from log_chunks c join attempts a on a.log_id = c.log_id join tasks t on t.id = a.task_id
  join steps s on s.id = t.step_id join runs r on r.id = t.run_id join flows f on f.id = r.flow_id""",
    ),
    View(
        "object_tags",
        9,
        """
  -- the effective tags of every object; own is 0 if the tag is inherited from the run, step or task above. The joins
  -- follow run_id, and only runs with tags of steps, tasks or artifacts look for those
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
  where r.id = a.run_id and f.id = r.flow_id and s.run_id = a.run_id and s.name = coalesce(r.start_step, 'start')
    and t.run_id = a.run_id and t.step_id = s.id and rt.run_id = a.run_id and g.id = rt.tag_id
    and not exists (select 1 from node_tags n where n.run_id = a.run_id)
    and not exists (select 1 from tasks o where o.run_id = t.run_id and o.step_id = t.step_id and o.id < t.id)
  union all
  select 'artifact', f.name, h.run_id, s.name, t.id, a.name, g.tag, rt.system, 0
  from node_tags h cross join runs r cross join flows f cross join steps s cross join tasks t
  cross join run_artifacts a cross join run_tags rt cross join tags g
  where r.id = h.run_id and f.id = r.flow_id and s.run_id = r.id and s.name = coalesce(r.start_step, 'start')
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
    and s.name = coalesce(r.start_step, 'start') and n.artifact = '' and n.task_id in (0, t.id)
    and not exists (select 1 from tasks o where o.run_id = t.run_id and o.step_id = t.step_id and o.id < t.id)
    and not exists (select 1 from node_tags o where o.run_id = n.run_id and o.step_id = n.step_id
                    and o.task_id = t.id and o.artifact = a.name and o.tag_id = n.tag_id)
    and not (n.task_id = 0 and exists (
      select 1 from node_tags o where o.run_id = n.run_id and o.step_id = n.step_id
      and o.task_id = t.id and o.artifact = '' and o.tag_id = n.tag_id))""",
    ),
)

FORMER = (
    View(
        "run_summary",
        1,
        """
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
  from runs r join flows f on f.id = r.flow_id""",
    ),
    View(
        "task_summary",
        1,
        """
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
  from tasks t join steps s on s.id = t.step_id join runs r on r.id = t.run_id join flows f on f.id = r.flow_id""",
    ),
    View(
        "set_artifacts",
        1,
        """
  select t.run_id as run_id, t.step_id as step_id, t.id as task_id, a.name as name, a.blob_id as blob_id
  from artifacts a join tasks t on t.attempt_id = a.attempt_id
  where a.merged = 0 and a.blob_id is not null
  union all
  select p.run_id, s.id, (select min(t.id) from tasks t where t.run_id = p.run_id and t.step_id = s.id),
         p.name, p.blob_id
  from run_artifacts p join steps s on s.run_id = p.run_id and s.name = 'start'""",
    ),
    View(
        "artifact_values",
        1,
        """
  select f.name as flow, a.run_id as run_id, s.name as step, a.task_id as task_id, a.name as name,
         b.type as type, b.codec as codec, b.size_bytes as size_bytes, lower(hex(b.sha)) as sha, b.preview as preview,
         case when b.codec = 'json' and b.size_bytes <= 65536 then cast(b.data as text) end as value
  from set_artifacts a
  join steps s on s.id = a.step_id join runs r on r.id = a.run_id join flows f on f.id = r.flow_id
  join blobs b on b.id = a.blob_id""",
    ),
    View(
        "object_tags",
        1,
        """
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
      and o.task_id = a.task_id and o.artifact = '' and o.tag_id = n.tag_id))""",
    ),
    View(
        "set_artifacts",
        7,
        """
  -- the artifacts that each task set in its last attempt; parameters and constants belong to the start task
  select r.id as run_id, t.step_id as step_id, t.id as task_id, a.name as name, a.blob_id as blob_id
  from runs r cross join tasks t cross join artifacts a
  where t.run_id = r.id and a.attempt_id = t.attempt_id and a.merged = 0 and a.blob_id is not null
  union all
  select p.run_id, t.step_id, t.id, p.name, p.blob_id
  from run_artifacts p cross join steps s cross join tasks t
  where s.run_id = p.run_id and s.name = 'start' and t.run_id = p.run_id and t.step_id = s.id
    and not exists (select 1 from tasks o where o.run_id = t.run_id and o.step_id = t.step_id and o.id < t.id)""",
    ),
    View(
        "task_summary",
        7,
        """
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
  from tasks t join steps s on s.id = t.step_id join runs r on r.id = t.run_id join flows f on f.id = r.flow_id""",
    ),
    # It differs from the newest in this alone; whoever changes that again writes this one out.
    *(
        View(view.name, 7, view.query.replace("coalesce(r.start_step, 'start')", "'start'"))
        for view in VIEWS
        if view.name == "object_tags"
    ),
)
