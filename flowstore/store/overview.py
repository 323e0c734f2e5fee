"""A run as a whole: all of its steps, edges and artifacts, in a query each, however many tasks there are."""

from __future__ import annotations

from collections.abc import Collection

import attrs

from flowstore.sqlite.database import Row, Store
from flowstore.store.blobs import COLUMNS, Blob
from flowstore.text import one_line


@attrs.frozen
class StepState:
    """What is known of one step of a run.

    Attributes:
        name: the step's.
        created_at: when it began, in milliseconds since 1970; where all tasks were taken over from another run, there.
        finished_at: when its last task ended; `None` while one runs.
        tasks: how many of its tasks have each status, by name of the status.
    """

    name: str
    created_at: int
    finished_at: int | None
    tasks: dict[str, int]

    @property
    def duration_s(self) -> float | None:
        """How long it took, in seconds; `None` while it runs."""
        return None if self.finished_at is None else (self.finished_at - self.created_at) / 1000


def steps(store: Store, run_id: int, *, dead: bool = False) -> list[StepState]:
    """A run's steps, in the order in which they began.

    Args:
        store: where the run is.
        run_id: its id.
        dead: whether its process died: then what is recorded as running is dead, too.
    """
    rows = store.rows(
        """select s.name, s.created_at, t.status, count(t.id) as tasks, max(t.finished_at) as finished_at,
                  count(t.id) > count(t.finished_at) as unfinished, min(t.started_at) as begun,
                  t.origin_pathspec is not null as reused
           from steps s left join tasks t on t.run_id = s.run_id and t.step_id = s.id
           where s.run_id = ? group by s.id, t.status, reused order by s.id, t.status""",
        (run_id,),
    )
    by_step: dict[str, list[Row]] = {}
    for row in rows:
        by_step.setdefault(row["name"], []).append(row)
    return [_state(group, dead=dead) for group in by_step.values()]


def _state(rows: list[Row], *, dead: bool) -> StepState:
    own = [row for row in rows if not row["reused"] and row["tasks"]] or rows  # all ran in the run that was resumed
    ends = [row["finished_at"] for row in own if row["finished_at"] is not None]
    over = bool(ends) and not any(row["unfinished"] for row in rows)
    begun = min([rows[0]["created_at"], *(row["begun"] for row in own if row["begun"] is not None)])
    tasks: dict[str, int] = {}
    for row in rows:
        status = "dead" if dead and row["status"] == "running" else row["status"]
        if status is not None:
            tasks[status] = tasks.get(status, 0) + row["tasks"]
    return StepState(rows[0]["name"], begun, max(begun, *ends) if over else None, dict(sorted(tasks.items())))


@attrs.frozen
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


_LONGEST_ERROR = 300


def first_failure(store: Store, run_id: int) -> Failure | None:
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


def item_column(store: Store) -> str:
    """Return the SQL of a task's foreach item, which a file of an older version lacks."""
    return "null" if store.value("select 1 from pragma_table_info('tasks') where name = 'item'") is None else "t.item"


def resume_command(store: Store, run_id: int) -> str:
    """Return the command that goes on with a run; nothing where its source is not known."""
    row = store.row("select c.* from runs r join codes c on c.id = r.code_id where r.id = ?", (run_id,))
    if row is None or not row["script_name"]:
        return ""
    module = row["module"] if "module" in row.keys() else None  # noqa: SIM118  # of a row, not of a dict
    called = row["script_name"] if module is None else f"-m {module}"
    return one_line(f"python {called} resume --origin-run-id {run_id}")


def reused(store: Store, run_id: int) -> int:
    """Return how many tasks a run took over from the one that it resumed."""
    count: int = store.value("select count(*) from tasks where run_id = ? and origin_pathspec is not null", (run_id,))
    return count


def items(store: Store, run_id: int) -> dict[int, str]:
    """Return the previews of the foreach items of a run's tasks, by the task's id."""
    rows = store.rows(
        f"select t.id, {item_column(store)} as item from tasks t where t.run_id = ?",
        (run_id,),
    )
    return {row["id"]: row["item"] for row in rows if row["item"] is not None}


def edges(store: Store, run_id: int) -> list[tuple[str, str]]:
    """Which step's tasks ran directly before which step's."""
    rows = store.rows(
        """select distinct b.name as before, s.name as after
           from tasks t join task_parents p on p.task_id = t.id join tasks o on o.id = p.parent_id
           join steps b on b.id = o.step_id join steps s on s.id = t.step_id
           where t.run_id = ? order by b.id, s.id""",
        (run_id,),
    )
    return [(row["before"], row["after"]) for row in rows]


_COLUMNS = COLUMNS.replace("b.data", "null as data")  # what is shown of a content needs none of its bytes


def single_artifacts(store: Store, run_id: int) -> dict[tuple[str, str], Blob]:
    """What each step that has one task set, without its bytes; by step and name."""
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


def parameters(store: Store, run_id: int) -> dict[str, Blob]:
    """A run's parameters, without their bytes."""
    rows = store.rows(
        f"""select p.name, {_COLUMNS} from run_artifacts p join blobs b on b.id = p.blob_id
            where p.run_id = ? and p.kind = 'parameter' order by p.name""",
        (run_id,),
    )
    return {row["name"]: Blob.of(row) for row in rows}


def with_bytes(store: Store, blob_ids: Collection[int]) -> dict[int, Blob]:
    """The same contents with the bytes of those that are small; by row."""
    found: dict[int, Blob] = {}
    ids = sorted(blob_ids)
    for at in range(0, len(ids), 500):  # SQLite allows a limited number of parameters
        part = ids[at : at + 500]
        rows = store.rows(f"select {COLUMNS} from blobs b where b.id in ({', '.join('?' * len(part))})", part)
        found |= {row["blob_id"]: Blob.of(row) for row in rows}
    return found
