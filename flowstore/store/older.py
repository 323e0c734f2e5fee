"""Temporary views for a store of an older schema, which nobody has written to since, with the newest columns.

Such a file is read as it is, and often can't be written at all. Its connection gets the views of the newest schema in
SQLite's temporary database, so that a question in SQL means the same everywhere: columns for which the file has no
data are null, and `metrics` is computed from the values that are plain JSON whenever it is asked.
"""

from __future__ import annotations

import json
import sqlite3

from flowstore.store import schema, views
from flowstore.store.json_levels import number_text
from flowstore.store.plain import numbers_in

_NEW = {  # what the newest views read that an older file lacks, and what stands for it
    "r.note as note": "null as note",
    "t.item as item": "null as item",
    "(select a.ran_on from attempts a where a.id = t.attempt_id)": "null",
    "left join blob_values v": (
        "left join (select null as blob_id, null as value, null as exact, null as magnitude) v"
    ),
}
_VIEWS = ("run_summary", "task_summary", "set_artifacts", "artifact_values", "object_tags")

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
    connection.create_function("flowstore_numbers", 2, _numbers, deterministic=True)
    newest = views.of_version(schema.SCHEMA_VERSION)
    for name in _VIEWS:
        sql = newest[name].sql.replace("create view", "create temp view", 1)
        for missing, instead in _NEW.items():
            sql = sql.replace(missing, instead)
        connection.execute(sql)
    connection.execute(_METRICS)


def drop_views(connection: sqlite3.Connection) -> None:
    """Remove these views, which stand before the store's own, when the store is migrated."""
    for name in ("metrics", *reversed(_VIEWS)):
        connection.execute(f"drop view if exists temp.{name}")


def _numbers(artifact: str, value: str | None) -> str:
    """Return the metrics of a value, as a JSON list of pairs."""
    numbers = [] if value is None else numbers_in(artifact, value)
    return f"[{', '.join(f'[{json.dumps(name)}, {number_text(number)}]' for name, number in numbers)}]"
