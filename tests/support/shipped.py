"""What is in a store, seen in every way."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3

import flowstore
from flowstore.store import migrations, schema
from flowstore.store.opening import use_store

VIEWS = ("run_summary", "task_summary", "artifact_values", "object_tags", "task_logs")


def sql(path, query, **values):
    """Rows of a file, read and written without flowstore."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.create_function("sha", 1, lambda data: hashlib.sha256(data).digest())
        rows = connection.execute(query, values).fetchall()
    return [row[0] for row in rows] if rows and len(rows[0]) == 1 else rows


def dump(path):
    """All rows of all tables, but for what every write changes."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        return {name: sorted(map(repr, connection.execute(f"select * from {name}"))) for name in names}


def view(path, name, runs):
    """A view's rows of these runs, in an order of its own."""
    query = f"select * from {name} where run_id in (select value from json_each(:runs))"
    return sorted(map(repr, sql(path, query, runs=json.dumps(runs))))


def check(path):
    """A store at rest is one sound file, with tag pairs as they should be and nothing half done."""
    assert [item.name for item in path.parent.glob(f"*{path.name}*")] == [path.name]
    assert sql(path, "pragma integrity_check") == ["ok"]
    assert sql(path, "pragma foreign_key_check") == []
    assert sql(path, "select (select count(*) from blobs where sha is null) + (select count(*) from leases)") == [0]
    counted = migrations.MIGRATIONS[3].sql.partition("insert into tag_pairs")[2]
    found = sql(path, "select flow_id, a, b, newest_at, runs from tag_pairs order by 1, 2, 3")
    bounds = {tuple(pair): (at, runs) for *pair, at, runs in found}
    for *pair, at, runs in sql(path, counted):
        assert bounds[tuple(pair)][0] >= at
        assert bounds[tuple(pair)][1] >= runs
    exact = "select tag_id, flow_id, count(*) from run_tags group by 1, 2 order by 1, 2"
    assert sql(path, "select a, flow_id, runs from tag_pairs where a = b and runs > 0 order by 1, 2") == sql(
        path, exact
    )


def seen(path):
    """All that the Client shows of each run, by uuid, without the ids that an import may change."""
    uuids = dict(sql(path, "select id, uuid from runs"))
    flowstore.namespace(None)
    with use_store(path):
        runs = [run for flow in flowstore.Flows() for run in flow]
        return {uuids[int(run.id)]: _run_seen(run, uuids) for run in runs}


def _run_seen(run, uuids):
    tasks = sorted((task for step in run for task in step), key=lambda task: int(task.id))
    places = {task.id: n for n, task in enumerate(tasks)}
    return {
        "flow": run.parent.id,
        "user": run.user,
        "times": (run.status, run.created_at, run.finished_at),
        "parameters": run.parameters,
        "tags": (run.user_tags, run.system_tags),
        "code": run.code and (run.code.script_name, run.code.flowspec),
        "origin": _origin_seen(run.origin_run_id, uuids),
        "steps": [(step.id, step.created_at, step.tags) for step in run],
        "tasks": [_task_seen(task, uuids, places) for task in tasks],
    }


def _origin_seen(run_id, uuids):
    """The uuid of an origin; `None` where it is not in the store."""
    return uuids.get(int(run_id)) if run_id and run_id.isdecimal() else None


def _task_seen(task, uuids, places):
    meta = {name: value for name, value in task.metadata_dict.items() if not name.startswith("origin")}
    attempts = [flowstore.Task(task.pathspec, attempt=n) for n in range(task.current_attempt + 1)]
    flow, run_id, step = (task.origin_pathspec or "///").rsplit("/", 1)[0].rsplit("/", 2)
    return {
        "step": task.parent.id,
        "status": [(each.status, each.created_at, each.finished_at) for each in attempts],
        "said": [(each.stdout, each.stderr, [*each.loglines()]) for each in attempts],
        "error": [each.exception for each in attempts],
        "artifacts": [{item.id: _artifact_seen(item) for item in each} for each in attempts],
        "metadata": meta,
        "index": task.index,
        "tags": task.tags,
        "origin": flow.isalpha() and (flow, _origin_seen(run_id, uuids), step),
        "before": sorted(places[each.id] for each in task.parent_tasks),
        "after": sorted(places[each.id] for each in task.child_tasks),
    }


def _artifact_seen(item):
    return (item.type, item.codec, item.size, item.sha, item.preview, item.created_at, item.tags, item.data)


def older(path):
    """Make a store one of schema version 3, as a flowstore of that time left it."""
    new = path.rename(path.with_suffix(".new"))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript("\n".join(schema.definitions(3).values()))
        connection.execute("attach ? as new", (str(new),))
        for (table,) in connection.execute(
            "select name from main.sqlite_master where type = 'table' and name not like '%sqlite_%'"
        ).fetchall():
            columns = ", ".join(row[1] for row in connection.execute(f"pragma main.table_info({table})"))
            connection.execute(f"insert into main.{table} ({columns}) select {columns} from new.{table}")
        connection.execute(f"pragma application_id = {schema.APPLICATION_ID}")
        connection.execute("pragma user_version = 3")
    new.unlink()
    return path
