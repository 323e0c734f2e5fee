"""Questions about runs, steps, tasks and code, each a query; `tags` finds runs, and `records` writes them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence

from flowstore import later
from flowstore.errors import NotFound
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.liveness import Process
from flowstore.sqlite.typed_rows import LATER, PAGE, onward
from flowstore.store.blobs import COLUMNS, Blob
from flowstore.store.opening import option_for
from flowstore.store.snapshots import Program
from flowstore.store.tags import all_of, tag_ids_of
from flowstore.text import one_line

_LARGEST_ID = 2**63 - 1
RUN = f"""select r.id, f.name as flow, r.flow_id, r.user, r.status, r.created_at, r.finished_at, r.last_seen_at,
         {Process.columns("r")}, r.origin_run_id, r.parameters, r.code_id, r.uuid
         from runs r join flows f on f.id = r.flow_id"""
STEP = """select s.id, s.run_id, s.name, s.created_at from steps s"""
TASK = """select t.id, t.run_id, t.step_id, s.name as step, t.status, t.started_at, t.finished_at, t.attempts,
          t.attempt_id, t.foreach_path, t.base_id, t.transition, t.origin_pathspec, r.status as run_status
          from tasks t join steps s on s.id = t.step_id join runs r on r.id = t.run_id"""


def parse_id(kind: str, text: str) -> int:
    """Return the id of a run or task as a number.

    Args:
        kind: what has the id, for the message.
        text: what a user gave.

    Raises:
        NotFound: the text is no id, so nothing can have it.
    """
    is_id = text.isascii() and text.isdecimal() and len(text) <= len(str(_LARGEST_ID))
    if not is_id or text != str(int(text)) or int(text) > _LARGEST_ID:
        raise NotFound(f"There is no {kind} {text[:100]!r}: {kind} ids are numbers.")
    return int(text)


def flow_names(store: Database, tag: str | None) -> list[str]:
    """Return the flows that have a run with a tag; all that have a run, for `None`."""
    if tag is None:
        has_run = "exists (select 1 from runs r where r.flow_id = f.id)"
    else:
        has_run = """exists (select 1 from run_tags rt where rt.flow_id = f.id
                     and rt.tag_id = (select id from tags where tag = :tag))"""
    rows = store.rows(f"select f.name from flows f where {has_run} order by f.name", {"tag": tag})
    return [row[0] for row in rows]


def has_run(store: Database, flow: str, tag: str | None) -> bool:
    """Return whether a flow is among `flow_names`, however many those are."""
    if tag is None:
        sql = "select 1 from runs where flow_id = (select id from flows where name = :flow) limit 1"
    else:
        sql = """select 1 from run_tags where tag_id = (select id from tags where tag = :tag)
                 and flow_id = (select id from flows where name = :flow) limit 1"""
    return store.value(sql, {"flow": flow, "tag": tag}) is not None


def find_run(store: Database, flow: str, run_id: int) -> Row | None:
    """Return a run's row, if there is such a run."""
    return store.row(f"{RUN} where r.id = ? and f.name = ?", (run_id, flow))


def steps(store: Database, run_id: int, tags: Iterable[str] = ()) -> list[Row]:
    """Return a run's steps that have all tags set on themselves, the latest first."""
    tag_ids = tag_ids_of(store, tags)
    if tag_ids is None:
        return []
    checks, wanted = all_of(
        "node_tags o where o.run_id = s.run_id and o.step_id = s.id and o.task_id = 0 and o.artifact = ''", tag_ids
    )
    rows = store.rows(f"{STEP} where s.run_id = ?{checks}", (run_id, *wanted))
    return sorted(rows, key=lambda row: row["id"], reverse=True)  # few: not worth an index that each run would write


def runs_by_id(store: Database, run_ids: Iterable[int]) -> dict[int, Row]:
    """Return the rows of runs, by id; those that do not exist are left out."""
    rows = store.rows(f"{RUN} where r.id in (select value from json_each(?))", (json.dumps([*run_ids]),))
    return {row["id"]: row for row in rows}


def find_step(store: Database, flow: str, run_id: int, name: str) -> Row | None:
    """Return a step's row, if there is such a step."""
    return store.row(
        f"""{STEP} where s.run_id = ? and s.name = ? and exists
            (select 1 from runs r join flows f on f.id = r.flow_id where r.id = s.run_id and f.name = ?)""",
        (run_id, name, flow),
    )


def tasks(store: Database, run_id: int, step_id: int, tags: Iterable[str] = ()) -> Iterator[list[Row]]:
    """Yield a step's tasks that have all tags set on themselves, the latest first, in pages."""
    tag_ids = tag_ids_of(store, tags)
    if tag_ids is None:
        return
    last = LATER
    checks, wanted = all_of(
        "node_tags o where o.run_id = t.run_id and o.step_id = t.step_id and o.task_id = t.id and o.artifact = ''",
        tag_ids,
    )
    while rows := store.rows(
        f"{TASK} where t.run_id = ? and t.step_id = ? and t.id < ?{checks} order by t.id desc limit ?",
        (run_id, step_id, last, *wanted, PAGE),
    ):
        yield rows
        last = onward(store.path, last, rows[-1]["id"])


@later.frozen(kw_only=True)
class TaskQuery:
    """A choice of a run's tasks, those first that did not succeed.

    Attributes:
        steps: of one of these steps; of any where there are none.
        statuses: recorded with one of these statuses; with any where there are none.
        after: the key of the task that a page begins after.
        limit: how many tasks a page has at most.
    """

    steps: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    after: tuple[int, int] = (-1, -1)
    limit: int = 100


def task_page(store: Database, run_id: int, query: TaskQuery) -> list[Row]:
    """Return a page of a run's tasks: failed, running and stopped ones, then the rest; each by its id.

    Besides what all rows of tasks have, a row has the task's foreach `item`, the `error_type` and `error_message` of
    its last attempt, and its key: `rank` and `id`.
    """
    rank = "case t.status when 'failed' then 0 when 'running' then 1 when 'stopped' then 2 else 3 end"
    where = "".join(
        f" and {column} in (select value from json_each(:{name}))"
        for name, column, values in (("steps", "s.name", query.steps), ("statuses", "t.status", query.statuses))
        if values
    )
    rows = store.rows(
        f"""select t.id, {rank} as rank from steps s cross join tasks t on t.run_id = s.run_id and t.step_id = s.id
            where s.run_id = :run_id {where} and ({rank}, t.id) > (:rank, :id) order by rank, t.id limit :limit""",
        {
            "run_id": run_id,
            "steps": json.dumps(query.steps),
            "statuses": json.dumps(query.statuses),
            "rank": query.after[0],
            "id": query.after[1],
            "limit": query.limit,
        },
    )
    by_id = _tasks_with_errors(store, [row["id"] for row in rows])
    return [by_id[row["id"]] for row in rows]


def _tasks_with_errors(store: Database, task_ids: Sequence[int]) -> dict[int, Row]:
    columns = f"{item_column(store)} as item, substr(a.error_type, 1, 200) as error_type,"
    select = TASK.replace("select ", f"select {columns} substr(a.error_message, 1, 1000) as error_message, ", 1)
    rows = store.rows(
        f"""{select} left join attempts a on a.id = t.attempt_id
            where t.id in (select value from json_each(?))""",
        (json.dumps(task_ids),),
    )
    return {row["id"]: row for row in rows}


def first_task(store: Database, run_id: int, step_id: int) -> Row | None:
    """Return the task of a step that began first."""
    return store.row(f"{TASK} where t.run_id = ? and t.step_id = ? order by t.id limit 1", (run_id, step_id))


def end_task(store: Database, run_id: int) -> Row | None:
    """Return the row of a run's end task, whatever its status; `None` where its last step has not begun."""
    # A file of an older version has no column of this name: there, the name stands for the null that `last` has.
    end = "coalesce((select end_step from runs o where o.id = :run), 'end')"
    last = "cross join (select null as end_step) last"
    return store.row(
        f"{TASK} {last} where s.run_id = :run and s.name = {end} and t.run_id = :run order by t.id limit 1",
        {"run": run_id},
    )


def find_task(store: Database, flow: str, run_id: int, step: str, task_id: int) -> Row | None:
    """Return a task's row, if there is such a task."""
    return store.row(
        f"{TASK} join flows f on f.id = r.flow_id where t.id = ? and t.run_id = ? and s.name = ? and f.name = ?",
        (task_id, run_id, step, flow),
    )


def relatives(store: Database, task_id: int, *, children: bool, limit: int = -1) -> list[Row]:
    """Return the tasks that ran directly before, or after, a task; the first ones where there is a limit."""
    near, far = ("parent_id", "task_id") if children else ("task_id", "parent_id")
    return store.rows(
        f"{TASK} join task_parents p on p.{far} = t.id where p.{near} = ? order by t.id limit ?", (task_id, limit)
    )


def related_steps(store: Database, step_id: int, *, children: bool) -> list[str]:
    """Return the names of the steps whose tasks ran directly before, or after, a step's."""
    near, far = ("parent_id", "task_id") if children else ("task_id", "parent_id")
    rows = store.rows(
        f"""select distinct o.step_id, s.name from tasks t join task_parents p on p.{near} = t.id
            join tasks o on o.id = p.{far} join steps s on s.id = o.step_id where t.step_id = ? order by s.id""",
        (step_id,),
    )
    return [row["name"] for row in rows]


def find_attempt(store: Database, task_id: int, number: int) -> Row | None:
    """Return an attempt's row, if there is such an attempt."""
    return store.row("select * from attempts where task_id = ? and number = ?", (task_id, number))


def all_attempts(store: Database, task_id: int) -> list[Row]:
    """Return the rows of a task's attempts, in order."""
    return store.rows("select * from attempts where task_id = ? order by number", (task_id,))


def control_tasks(store: Database, step_id: int) -> list[Row]:
    """Return the first task of each gang of a step, in order; none where it is no gang."""
    return store.rows(
        f"""{TASK} where t.step_id = ? and (t.foreach_path = '0' or t.foreach_path like '%/0') and exists
              (select 1 from task_parents l join tasks o on o.id = l.parent_id
               where l.task_id = t.id and json_valid(o.transition) and o.transition ->> '$.gang')
            order by t.id""",
        (step_id,),
    )


def parameters_of(store: Database, run_id: int) -> list[Row]:
    """Return a run's parameters and constants, with their blobs."""
    return store.rows(
        f"select p.name, p.kind, {COLUMNS} from run_artifacts p join blobs b on b.id = p.blob_id where p.run_id = ?",
        (run_id,),
    )


def step_began_at(store: Database, run_id: int, step_id: int, created_at: int) -> int:
    """Return when a step's first task started; `created_at` where none did before."""
    [row] = store.rows("select min(started_at) as begun from tasks where run_id = ? and step_id = ?", (run_id, step_id))
    return created_at if row["begun"] is None else min(row["begun"], created_at)


def attempts(store: Database, task_id: int, limit: int) -> list[Row]:
    """Return the attempts of a task, the first ones, each with why it failed in brief."""
    return store.rows(
        """select number, status, started_at, finished_at, pid, substr(error_type, 1, 200) as error_type,
                  substr(error_message, 1, 1000) as error_message
           from attempts where task_id = ? order by number limit ?""",
        (task_id, limit),
    )


def names_set(store: Database, attempt_id: int) -> set[str]:
    """Return the names of the artifacts that an attempt has set itself, without those that it merged."""
    rows = store.rows("select name from artifacts where attempt_id = ? and merged = 0", (attempt_id,))
    return {row["name"] for row in rows}


def item_of(store: Database, task_id: int) -> str | None:
    """Return the preview of a task's foreach item; `None` outside a foreach."""
    item: str | None = store.value(f"select {item_column(store)} as item from tasks t where t.id = ?", (task_id,))
    return item


# --- a run as a whole: all of its steps, edges and artifacts, in a query each, however many tasks there are


def items(store: Database, run_id: int) -> dict[int, str]:
    """Return the previews of the foreach items of a run's tasks, by the task's id."""
    rows = store.rows(
        f"select t.id, {item_column(store)} as item from tasks t where t.run_id = ?",
        (run_id,),
    )
    return {row["id"]: row["item"] for row in rows if row["item"] is not None}


def item_column(store: Database) -> str:
    """Return the SQL of a task's foreach item, which a file of an older version lacks."""
    return "null" if store.value("select 1 from pragma_table_info('tasks') where name = 'item'") is None else "t.item"


def reused(store: Database, run_id: int) -> int:
    """Return how many tasks a run took over from the one that it resumed."""
    count: int = store.value("select count(*) from tasks where run_id = ? and origin_pathspec is not null", (run_id,))
    return count


_COLUMNS = COLUMNS.replace("b.data", "null as data")  # what is shown of a blob needs none of its bytes


def single_artifacts(store: Database, run_id: int) -> dict[tuple[str, str], Blob]:
    """Return what each step that has one task set, without the bytes; by step and name."""
    rows = store.rows(
        f"""select s.name as step, a.name as name, {_COLUMNS}
            from tasks t join steps s on s.id = t.step_id join artifacts a on a.attempt_id = t.attempt_id
            join blobs b on b.id = a.blob_id
            where t.run_id = :run_id and a.merged = 0 and t.step_id in
              (select step_id from tasks where run_id = :run_id group by step_id having count(*) = 1)
            order by s.id, a.name""",
        {"run_id": run_id},
    )
    return {(row["step"], row["name"]): Blob.of(row) for row in rows}


def parameters(store: Database, run_id: int) -> dict[str, Blob]:
    """Return a run's parameters, without their bytes."""
    rows = store.rows(
        f"""select p.name, {_COLUMNS} from run_artifacts p join blobs b on b.id = p.blob_id
            where p.run_id = ? and p.kind = 'parameter' order by p.name""",
        (run_id,),
    )
    return {row["name"]: Blob.of(row) for row in rows}


def with_bytes(store: Database, blob_ids: Collection[int]) -> dict[int, Blob]:
    """Return blobs, with the bytes of those that are small; by id."""
    by_id: dict[int, Blob] = {}
    ids = sorted(blob_ids)
    for at in range(0, len(ids), 500):  # SQLite allows a limited number of parameters
        part = ids[at : at + 500]
        rows = store.rows(f"select {COLUMNS} from blobs b where b.id in ({', '.join('?' * len(part))})", part)
        by_id |= {row["blob_id"]: Blob.of(row) for row in rows}
    return by_id


# --- why a run failed, and how to go on


_LONGEST_ERROR = 300


@later.frozen
class Failure:
    """Why a run failed: its first task that failed for good.

    Attributes:
        task: `step/id`.
        item: a preview of its foreach item; `None` outside a foreach.
        error: type and message, in one line.
    """

    task: str
    item: str | None
    error: str

    def __str__(self) -> str:
        item = "" if self.item is None else f" (item {self.item})"
        return f"{self.task}{item}: {self.error}"


def first_failure(store: Database, run_id: int) -> Failure | None:
    """Return why a run failed, or `None` where no task did."""
    row = store.row(
        f"""select s.name as step, t.id, {item_column(store)} as item, substr(a.error_type, 1, 200) as error_type,
                  substr(a.error_message, 1, 1000) as error_message
           from tasks t join steps s on s.id = t.step_id join attempts a on a.id = t.attempt_id
           where t.run_id = ? and t.status = 'failed' order by a.finished_at, a.id limit 1""",
        (run_id,),
    )
    if row is None:
        return None
    item = None if row["item"] is None else one_line(row["item"][:_LONGEST_ERROR])
    error = error_line(row["error_type"], row["error_message"])
    return Failure(f"{row['step']}/{row['id']}", item, error)


def error_line(kind: str | None, message: str | None) -> str:
    r"""Return an exception in one line.

    >>> error_line("ValueError", "no\nsecond line"), error_line("KeyError", None)
    ('ValueError: no', 'KeyError')
    """
    first = next((line for line in (message or "").splitlines() if line.strip()), "")
    text = ": ".join(part for part in (kind or "an error", first.strip()) if part)
    return one_line(text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…")


def resume_command(store: Database, run_id: int) -> str:
    """Return the command that goes on with a run; nothing where its source is not known."""
    row = store.row("select c.* from runs r join codes c on c.id = r.code_id where r.id = ?", (run_id,))
    if row is None or not row["script_name"]:
        return ""
    return one_line(f"{Program.of(row).called_as} resume --origin-run-id {run_id}{option_for(store.path)}")
