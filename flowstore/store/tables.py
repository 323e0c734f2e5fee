"""The tables of a store, each once: what must know all of them asks here.

Export, import, delete, vacuum, check, repair and the check of types when rows are read follow this list. A migration
that adds a table adds its entry, and the types of its columns to `TYPES`; a test compares both with the schema.

Most rows belong to a run: they go where it goes, and are deleted with it. Blobs, code snapshots, tags, flows and logs
are shared between runs, and stay as long as a row that keeps them does.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence

from flowstore import later

OUT, BOTH = "out", "both"


@later.frozen
class Table:
    """One table.

    Attributes:
        name: the table.
        row: what messages call one of its rows.
        refers: the columns that hold an id, and of what. `id` itself is among them.
        owner: the columns whose row this one belongs to: it is exported with all of them, and deleted with any. The
            first leads to a run, if one does.
        keeps: the columns whose row, which is shared, stays as long as this one does.
        travels: `OUT` if export copies the rows of a run, `BOTH` if import copies them too, with other ids; else they
            stay, or are written by code of their own.
    """

    name: str
    row: str
    refers: Mapping[str, str] = later.field(factory=dict)
    owner: Sequence[str] = ()
    keeps: Sequence[str] = ()
    travels: str = ""


# In this order they are exported and imported: a row refers to rows of tables above, but for ids without a constraint.
TABLES = (
    Table("store", "identity"),
    Table("flows", "flow", {"id": "flow"}, travels=OUT),
    Table("codes", "code snapshot", {"id": "code"}, travels=OUT),
    Table("blobs", "blob", {"id": "blob", "staged_by": "run"}),
    Table("chunks", "piece", {"blob_id": "blob"}, ["blob_id"]),
    Table("blob_values", "value", {"blob_id": "blob"}, ["blob_id"], travels=OUT),
    Table("pictures", "picture", {"blob_id": "blob"}, ["blob_id"], travels=OUT),
    Table("signatures", "signature", {"blob_id": "blob"}, ["blob_id"]),
    Table("leases", "lease", {"blob_id": "blob"}, keeps=["blob_id"]),
    Table("code_files", "file", {"code_id": "code", "blob_id": "blob"}, ["code_id"], ["blob_id"], OUT),
    Table("tags", "tag", {"id": "tag"}, travels=OUT),
    Table(
        "runs", "run", {"id": "run", "flow_id": "flow", "code_id": "code"}, ["id"], ["flow_id", "code_id"], travels=BOTH
    ),
    Table("steps", "step", {"id": "step", "run_id": "run"}, ["run_id"], travels=BOTH),
    Table(
        "tasks",
        "task",
        {"id": "task", "run_id": "run", "step_id": "step", "attempt_id": "attempt", "base_id": "task"},
        ["run_id"],
        travels=BOTH,
    ),
    Table("task_parents", "link", {"task_id": "task", "parent_id": "task"}, ["task_id"], travels=BOTH),
    Table(
        "attempts", "attempt", {"id": "attempt", "task_id": "task", "log_id": "log"}, ["task_id"], ["log_id"],
        travels=BOTH,
    ),
    Table("log_chunks", "log line", {"id": "log chunk", "log_id": "log"}, ["log_id"], travels=BOTH),
    Table(
        "artifacts", "artifact", {"attempt_id": "attempt", "blob_id": "blob"}, ["attempt_id"], ["blob_id"], travels=BOTH
    ),
    Table("cards", "card", {"attempt_id": "attempt", "blob_id": "blob"}, ["attempt_id"], ["blob_id"], travels=BOTH),
    Table("run_artifacts", "parameter", {"run_id": "run", "blob_id": "blob"}, ["run_id"], ["blob_id"], travels=BOTH),
    Table("run_tags", "tag", {"tag_id": "tag", "flow_id": "flow", "run_id": "run"}, ["run_id"], ["tag_id"], BOTH),
    Table(
        "node_tags",
        "tag",
        {"run_id": "run", "step_id": "step", "task_id": "task", "tag_id": "tag"},
        ["run_id"],
        ["tag_id"],
        travels=BOTH,
    ),
    Table("numbers", "metric", {"id": "number", "run_id": "run", "task_id": "task"}, ["run_id"], travels=BOTH),
    Table("origins", "origin", {"run_id": "run"}, ["run_id"], travels=OUT),
    Table("unverified", "note", {"run_id": "run", "blob_id": "blob"}, ["run_id", "blob_id"], travels=OUT),
    Table("tag_pairs", "pair", {"flow_id": "flow"}, ["flow_id"]),
    Table("production_tokens", "token"),
    Table("deployments", "deployment", {"id": "deployment", "code_id": "code"}, keeps=["code_id"]),
    Table(
        "deployment_parameters",
        "parameter",
        {"deployment_id": "deployment", "blob_id": "blob"},
        ["deployment_id"],
        ["blob_id"],
    ),
    Table("state_machines", "state machine"),
    Table("step_tokens", "token", {"id": "token"}),
    Table("scheduler", "scheduler", {"id": "scheduler"}),
    Table("due_marks", "mark", {"deployment_id": "deployment"}, ["deployment_id"]),
    Table("events", "event", {"id": "event"}),
    Table("event_marks", "mark", {"deployment_id": "deployment"}, ["deployment_id"]),
    Table("owners", "owner"),
    Table("backlog", "backlog", {"id": "backlog"}),
)  # fmt: skip
BY_NAME = {table.name: table for table in TABLES}
SHARED = ("flow", "code", "blob", "tag", "log")
# Tables that never give an id twice: `sqlite_sequence` has the last one.
NUMBERED = ("runs", "tasks", "attempts", "deployments", "events")

# The types that a column of this name may have when a row is read, whichever table or query it comes from.
_NONE = type(None)
_TYPES: dict[str, tuple[type, ...]] = {
    "id run_id parent_id task_id tag_id attempts runs number log_id system generation final last_task_id": (int,),
    "n a b merged successful version members answered deployment_id event_id": (int,),
    "flow_id step_id pid code_id attempt_id base_id blob_id size_bytes is_flag exact": (int, _NONE),
    "staged_by": (int, _NONE),
    "created_at started_at last_seen_at written_at deployed_at newest_at imported_at updated_at published_at": (int,),
    "finished_at due_at deleted_at begun": (int, _NONE),
    "flow user host boot pid_started uuid parameters name kind tag stream text path": (str,),
    "script_name scope arn token execution created_by deployed_by option payload published_by": (str,),
    "json tags with_decorators store_uuid pathspec flowstore_version": (str,),
    "step artifact status codec type preview foreach_path transition": (str, _NONE),
    "origin_pathspec origin_run_id imported_from": (str, _NONE),
    "metadata error_type error_message traceback schedule namespace project branch": (str, _NONE),
    "note item ran_on module value deleted_by card_id start_step end_step trigger_events triggers": (str, _NONE),
    "environment launcher executor": (str, _NONE),
    "magnitude": (float, _NONE),
    "sha data key_id mac png": (bytes, _NONE),
}
TYPES = {name: frozenset(types) for names, types in _TYPES.items() for name in names.split()}


def has(db: sqlite3.Connection, table: str, column: str = "") -> bool:
    """Return whether a file has a table, and a column of it; one of an older schema lacks some."""
    sql = "select 1 from pragma_table_info(?) where ? in ('', name)"
    return db.execute(sql, (table, column)).fetchone() is not None


def is_empty(db: sqlite3.Connection, table: str) -> bool:
    """Return whether a table has no rows. A view that stands for one in a small store (`schema`) has none."""
    return db.execute(f"select 1 from {table} limit 1").fetchone() is None


def travelling(db: sqlite3.Connection, *how: str) -> list[Table]:
    """Return the tables of a file whose rows travel with a run, in an order in which they can be inserted."""
    return [table for table in TABLES if table.travels in how and has(db, table.name)]


def with_blob() -> list[Table]:
    """Return the tables that say something about a blob, whose rows go with it."""
    return [table for table in TABLES if "blob_id" in table.owner]


def keepers(kind: str) -> list[tuple[str, str]]:
    """Return the tables, each with a column, whose rows keep what is shared.

    Example:
        >>> keepers("code")
        [('runs', 'code_id'), ('deployments', 'code_id')]
    """
    return [(table.name, column) for table in TABLES for column in table.keeps if table.refers[column] == kind]


def unused(kind: str, row: str) -> str:
    """Return the SQL condition that nothing keeps what is shared.

    Args:
        kind: of what.
        row: its id, as in `b.id`.

    Example:
        >>> unused("log", "c.log_id")
        'not exists (select 1 from attempts u where u.log_id = c.log_id)'
    """
    return " and ".join(
        f"not exists (select 1 from {table} u where u.{column} = {row})" for table, column in keepers(kind)
    )


# --- the rows of some runs

RUNS = "select value from json_each(:runs)"


def bound(run_ids: Collection[int]) -> dict[str, str]:
    """Return the parameters that name runs in the statements below."""
    return {"runs": json.dumps([*run_ids])}


def ids(kind: str, runs: str = RUNS) -> str:
    """Return a query for the ids of what runs have or use.

    Args:
        kind: of what.
        runs: a query for the ids of the runs.

    Example:
        >>> ids("task", "select 7")
        'select id from tasks where run_id in (select 7)'
    """
    if kind == "run":
        return runs
    for table in TABLES:
        if table.travels == BOTH and table.refers.get("id") == kind:
            return f"select id from {table.name} where {where(table, runs)}"
    users = ((BY_NAME[name], column) for name, column in keepers(kind))
    return " union ".join(
        f"select {column} from {table.name} where {where(table, runs)}" for table, column in users if _leads(table)
    )


def where(table: Table, runs: str = RUNS) -> str:
    """Return the SQL condition on the rows of a table that go with runs, or that runs share with others."""
    owner = table.owner or ("id",)
    return " and ".join(f"{column} in ({ids(table.refers[column], runs)})" for column in owner)


def of_a_run() -> list[Table]:
    """Return the tables whose rows are deleted with a run, the run itself the last, each after those that need it."""
    return [table for table in reversed(TABLES) if _leads(table) and table.refers[table.owner[0]] not in SHARED]


def _leads(table: Table) -> bool:
    """Return whether the rows of a table belong, directly or not, to a run or to what runs share."""
    return bool(table.owner) and table.refers[table.owner[0]] != "deployment"
