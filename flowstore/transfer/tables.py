"""Which rows make up runs, table by table: what `export` copies as it is, and `import` renumbers.

A statement below is asked of a connection with the ids of runs as JSON, in `:runs`. The contents of artifacts,
tags, flows and code snapshots are shared between runs; they go along where a run uses them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import attrs

from flowstore.store.blobs import COLUMNS, LEFT_OUT

RUNS = "select value from json_each(:runs)"
TASKS = f"select id from tasks where run_id in ({RUNS})"
ATTEMPTS = f"select id from attempts where task_id in ({TASKS})"
LOGS = f"select log_id from attempts where task_id in ({TASKS})"  # a reused task's is that of the first one
CODES = f"select code_id from runs where id in ({RUNS})"
BLOBS = f"""select blob_id from artifacts where attempt_id in ({ATTEMPTS})
  union select blob_id from run_artifacts where run_id in ({RUNS})
  union select blob_id from code_files where code_id in ({CODES})"""
FLOWS = f"select flow_id from runs where id in ({RUNS})"
TAGS = f"""select tag_id from run_tags where run_id in ({RUNS})
  union select tag_id from node_tags where run_id in ({RUNS})"""


@attrs.frozen
class Table:
    """One table's share in runs.

    Attributes:
        name: the table.
        where: which of its rows.
        refers: the columns that hold an id, and of what.
    """

    name: str
    where: str
    refers: Mapping[str, str]


# Each refers to those above it only, but for ids that are no foreign keys.
OF_RUNS = (
    Table("runs", f"id in ({RUNS})", {"id": "run", "flow_id": "flow", "code_id": "code"}),
    Table("steps", f"run_id in ({RUNS})", {"id": "step", "run_id": "run"}),
    Table(
        "tasks",
        f"run_id in ({RUNS})",
        {"id": "task", "run_id": "run", "step_id": "step", "attempt_id": "attempt", "base_id": "task"},
    ),
    Table("task_parents", f"task_id in ({TASKS})", {"task_id": "task", "parent_id": "task"}),
    Table("attempts", f"task_id in ({TASKS})", {"id": "attempt", "task_id": "task", "log_id": "log"}),
    Table("log_chunks", f"log_id in ({LOGS})", {"id": "log chunk", "log_id": "log"}),
    Table("artifacts", f"attempt_id in ({ATTEMPTS})", {"attempt_id": "attempt", "blob_id": "blob"}),
    Table("run_artifacts", f"run_id in ({RUNS})", {"run_id": "run", "blob_id": "blob"}),
    Table("run_tags", f"run_id in ({RUNS})", {"tag_id": "tag", "flow_id": "flow", "run_id": "run"}),
    Table(
        "node_tags",
        f"run_id in ({RUNS})",
        {"run_id": "run", "step_id": "step", "task_id": "task", "tag_id": "tag"},
    ),
    Table("numbers", f"run_id in ({RUNS})", {"id": "number", "run_id": "run", "task_id": "task"}),
)
OF_BLOBS = ("blob_values", "pictures")  # what describes a blob beside its own row
NUMBERED = ("runs", "tasks", "attempts")  # their ids are never used again; sqlite_sequence holds the last one


def of(run_ids: Collection[int]) -> dict[str, str]:
    """What the statements ask for."""
    return {"runs": json.dumps([*run_ids])}


def has(db: sqlite3.Connection, table: str) -> bool:
    """Whether the schema is new enough for a table; an older store is read as it is."""
    return db.execute("select 1 from sqlite_master where type = 'table' and name = ?", (table,)).fetchone() is not None


def of_runs(db: sqlite3.Connection) -> list[Table]:
    """Return those of the tables of runs that a store has: an older one lacks some."""
    return [table for table in OF_RUNS if has(db, table.name)]


def select(db: sqlite3.Connection, table: Table, run_ids: Collection[int]) -> sqlite3.Cursor:
    """The rows of a table that belong to runs, in the order in which they were made."""
    order = "id" if "id" in table.refers else "1, 2"
    return db.execute(f"select * from {table.name} where {table.where} order by {order}", of(run_ids))


def insert(db: sqlite3.Connection, table: str, names: Collection[str], values: Iterator[tuple[Any, ...]]) -> None:
    """Insert rows."""
    marks = ", ".join("?" * len(names))
    db.executemany(f"insert into {table} ({', '.join(names)}) values ({marks})", values)


_PLACE = """coalesce(
  (select f.name || '/' || r.id || '/' || s.name || '/' || t.id || '/' || a.name
   from artifacts a join attempts o on o.id = a.attempt_id join tasks t on t.id = o.task_id
   join steps s on s.id = t.step_id join runs r on r.id = t.run_id join flows f on f.id = r.flow_id
   where a.blob_id = b.id limit 1),
  (select p.kind || ' ' || p.name || ' of ' || f.name || '/' || r.id
   from run_artifacts p join runs r on r.id = p.run_id join flows f on f.id = r.flow_id
   where p.blob_id = b.id limit 1),
  (select 'the code file ' || c.path from code_files c where c.blob_id = b.id limit 1))"""


def contents(db: sqlite3.Connection, run_ids: Collection[int]) -> Iterator[sqlite3.Row]:
    """The contents that runs use: `blobs.COLUMNS`, `left_out`, `is_code`, and `place`, a name for messages."""
    return db.execute(
        f"""select {COLUMNS}, {LEFT_OUT} as left_out, {_PLACE} as place,
              exists (select 1 from code_files c where c.blob_id = b.id and c.code_id in ({CODES})) as is_code
            from blobs b where b.id in ({BLOBS}) order by b.id""",
        of(run_ids),
    )


def pickles(db: sqlite3.Connection, run_ids: Collection[int]) -> Iterator[tuple[int, int, bytes, bool]]:
    """The pickles of runs: run, content, its hash, and whether it came with that run unverified."""
    doubted: set[tuple[int, int]] = set()
    if has(db, "unverified"):
        rows = db.execute(f"select run_id, blob_id from unverified where run_id in ({RUNS})", of(run_ids))
        doubted = {(row["run_id"], row["blob_id"]) for row in rows}
    rows = db.execute(
        f"""select distinct u.run_id, u.blob_id, b.sha from (
              select t.run_id, a.blob_id from artifacts a join attempts o on o.id = a.attempt_id
              join tasks t on t.id = o.task_id where t.run_id in ({RUNS})
              union select run_id, blob_id from run_artifacts where run_id in ({RUNS})
            ) u join blobs b on b.id = u.blob_id where b.codec = 'pickle'""",
        of(run_ids),
    )
    for row in rows:
        pair = (row["run_id"], row["blob_id"])
        yield *pair, row["sha"], pair in doubted
