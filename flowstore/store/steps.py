"""Steps of a run, however many tasks they have: states, edges and times, in answers of bounded length."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

from flowstore.sqlite.database import Database, Row
from flowstore.store.queries import item_column


def states(store: Database, run_id: int) -> list[Row]:
    """Return the tasks of a run's steps by their statuses, in the order in which the steps began.

    A row has a step's `name` and `created_at`, a `status`, and of the tasks with it whether they were `reused`, how
    many they are, when the first of them had `begun` and the last one ended, and whether one is `unfinished`.
    """
    counts = """count(*) as tasks, max(t.finished_at) as finished_at, count(*) > count(t.finished_at) as unfinished,
                min(t.started_at) as begun from tasks t where t.run_id = :run_id"""
    return store.rows(
        # Most tasks are of the first kind, and need no sorting: an index has them step by step.
        f"""with counted as (
              select t.step_id, 'successful' as status, 0 as reused, {counts}
                and t.status = 'successful' and t.origin_pathspec is null group by t.step_id
              union all
              select t.step_id, t.status, t.origin_pathspec is not null as reused, {counts}
                and (t.status <> 'successful' or t.origin_pathspec is not null) group by t.step_id, t.status, reused)
            select s.name, s.created_at, c.status, ifnull(c.tasks, 0) as tasks, c.finished_at,
                   ifnull(c.unfinished, 0) as unfinished, c.begun, ifnull(c.reused, 0) as reused
            from steps s left join counted c on c.step_id = s.id
            where s.run_id = :run_id order by s.id, c.status, c.reused""",
        {"run_id": run_id},
    )


def edges(store: Database, run_id: int) -> list[tuple[str, str]]:
    """Return pairs of steps: a task of the first ran directly before one of the second."""
    rows = store.rows(
        """select distinct b.name as before, s.name as after
           from tasks t join task_parents p on p.task_id = t.id join tasks o on o.id = p.parent_id
           join steps b on b.id = o.step_id join steps s on s.id = t.step_id
           where t.run_id = ? order by b.id, s.id""",
        (run_id,),
    )
    return [(row["before"], row["after"]) for row in rows]


# A cross join says where to begin: at the steps, which SQLite does not know to be few.
_TASKS = "cross join tasks t on t.run_id = s.run_id and t.step_id = s.id"


def announced(store: Database, run_id: int, names: Iterable[str]) -> dict[str, int]:
    """Return how many items the tasks of steps have handed to a foreach or gang, by the step's name."""
    rows = store.rows(
        f"""select s.name as step,
                  total(case when json_valid(t.transition) then t.transition ->> '$.count' end) as items
           from steps s {_TASKS} where s.run_id = ? and s.name in (select value from json_each(?)) group by s.id""",
        (run_id, json.dumps([*names])),
    )
    return {row["step"]: int(max(0, min(row["items"], 1e12))) for row in rows}


def unsuccessful_tasks(store: Database, run_id: int, limit: int) -> list[Row]:
    """Return a run's tasks that failed, then those that run, then those that were stopped: a row as `tasks_of`."""
    return store.rows(
        f"""{_task(store)} where s.run_id = ? and t.status <> 'successful'
            order by case t.status when 'failed' then 0 when 'running' then 1 else 2 end, t.id limit ?""",
        (run_id, limit),
    )


def tasks_of(store: Database, run_id: int, steps: Collection[str], limit: int) -> list[Row]:
    """Return the first tasks of some steps of a run, step by step in the order in which these began."""
    return store.rows(
        f"""{_task(store)} where s.run_id = ? and s.name in (select value from json_each(?))
            order by t.step_id, t.id limit ?""",
        (run_id, json.dumps([*steps]), limit),
    )


def _task(store: Database) -> str:
    return f"""select t.id, s.name as step, t.status, t.started_at, t.finished_at, t.attempts, t.foreach_path,
                      t.origin_pathspec, {item_column(store)} as item,
                      (select {_host_column(store)} from attempts a where a.id = t.attempt_id) as ran_on
               from steps s {_TASKS}"""


def _host_column(store: Database) -> str:
    """Return the SQL of an attempt's host, if that is not its driver's, which a file of an older version lacks."""
    known = store.value("select 1 from pragma_table_info('attempts') where name = 'ran_on'")
    return "null" if known is None else "a.ran_on"


def attempts_of(store: Database, task_ids: Iterable[int], limit: int) -> list[Row]:
    """Return the attempts of tasks, in order, without what is in their errors but the traceback."""
    return store.rows(
        f"""select a.id, a.task_id, a.number, a.status, a.started_at, a.finished_at, a.log_id,
                   substr(a.traceback, -20000) as traceback, {_host_column(store)} as ran_on from attempts a
            where a.task_id in (select value from json_each(?)) order by a.task_id, a.number limit ?""",
        (json.dumps([*task_ids]), limit),
    )


def artifacts_of(store: Database, attempt_ids: Iterable[int]) -> list[Row]:
    """Return what attempts set, by the attempt and the name, without the bytes, and without private names."""
    return store.rows(
        """select a.attempt_id, a.name, b.id as blob_id, b.type, b.size_bytes, b.preview
           from artifacts a join blobs b on b.id = a.blob_id
           where a.attempt_id in (select value from json_each(?)) and substr(a.name, 1, 1) <> '_'
           order by a.attempt_id, a.name""",
        (json.dumps([*attempt_ids]),),
    )


def setter_of(store: Database, run_id: int, name: str, blob_id: int) -> int | None:
    """Return the first task of a run that set an artifact to a value; `None` for parameters and constants."""
    task_id: int | None = store.value(
        """select min(t.id) as first from tasks t join artifacts a on a.attempt_id = t.attempt_id and a.name = ?
           where t.run_id = ? and a.blob_id = ? and a.merged = 0""",
        (name, run_id, blob_id),
    )
    return task_id


def spans(
    store: Database, run_id: int, names: Collection[str], *, begin: int, length: int, bins: int, every: int
) -> list[Row]:
    """Return how many tasks of some steps ran from one part of a time span to another.

    A row has a `step`, the parts in which `tasks` of it began and ended, as `first` and `last`; `last` is the number of
    parts for those that run. Tasks that were taken over from another run are left out. Of very many tasks a sample is
    counted, as if each of it stood for as many.

    Args:
        store: the store.
        run_id: the run.
        names: the steps.
        begin: the start of the span, in milliseconds.
        length: its length, in milliseconds.
        bins: how many parts of equal length it has.
        every: the sample: each task whose id can be divided by this.
    """
    return store.rows(
        f"""select s.name as step, count(*) * :every as tasks,
                  max(0, min(:bins - 1, cast((t.started_at - :begin) * :scale as integer))) as first,
                  max(0, min(:bins - 1, cast(ifnull((t.finished_at - :begin) * :scale, :bins) as integer)))
                    + (t.finished_at is null) as last
           from steps s {_TASKS}
           where s.run_id = :run and s.name in (select value from json_each(:names)) and t.id % :every = 0
             and t.origin_pathspec is null
           group by s.id, first, last""",
        {
            "run": run_id,
            "names": json.dumps([*names]),
            "begin": begin,
            "scale": bins / max(1, length),
            "bins": bins,
            "every": every,
        },
    )
