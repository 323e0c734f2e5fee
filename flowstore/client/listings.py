"""Listings that are shown a page at a time: each page is a query of its own, and says where the next one begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowstore import later
from flowstore.client.rows import RunRow, TaskRow
from flowstore.client.run import Run
from flowstore.sqlite.database import Row
from flowstore.sqlite.typed_rows import positions_of, time_of
from flowstore.store import queries
from flowstore.store.schema import STATUSES

if TYPE_CHECKING:
    from flowstore.store.search import Hit


@later.frozen
class TaskTable:
    """A page of a run's tasks.

    Attributes:
        rows: the tasks.
        errors: why each of them failed, in one line; `None` of those that did not.
        after: where the next page begins, for `table_of_tasks`; `None` where no task follows.
    """

    rows: list[TaskRow]
    errors: list[str | None]
    after: str | None


def table_of_tasks(
    run: Run, row: RunRow, *, steps: Sequence[str] = (), statuses: Sequence[str] = (), after: str = "", limit: int = 100
) -> TaskTable:
    """Return a page of a run's tasks, those first that did not succeed.

    Args:
        run: the run.
        row: its row; where it is dead, what is recorded as running is dead too.
        steps: only tasks of these steps.
        statuses: only tasks with one of these statuses, as they are now.
        after: where the page begins, as the page before it says; at the first task, if empty.
        limit: how many tasks a page has.
    """
    dead = row.status == "dead"
    now = {"running": "dead"} if dead else {}
    recorded = [recorded for recorded in STATUSES if now.get(recorded, recorded) in statuses]
    if statuses and not recorded:
        return TaskTable([], [], None)
    query = queries.TaskQuery(steps=tuple(steps), statuses=tuple(recorded), after=_task_key(after), limit=limit + 1)
    listed = queries.task_page(run._store, int(run.id), query)
    shown = listed[:limit]
    task_rows = [_listed_task(run.pathspec, task, now) for task in shown]
    errors = [
        None if task["error_type"] is None else queries.error_line(task["error_type"], task["error_message"])
        for task in shown
    ]
    last = _RANK.get(shown[-1]["status"], 3) if shown else 0
    return TaskTable(task_rows, errors, f"{last}-{shown[-1]['id']}" if len(listed) > limit else None)


def rows_of_hits(runs: Sequence[RunRow], hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Return what a search has found as rows: the run, where it holds the text, and an excerpt."""
    return [
        {
            "run": row.pathspec,
            "status": row.status,
            "created_at": row.created_at,
            "where": hit.where,
            "task": hit.task,
            "excerpt": hit.excerpt,
        }
        for row, hit in zip(runs, hits, strict=True)
    ]


_RANK = {"failed": 0, "running": 1, "stopped": 2}  # as `queries.task_page` has it


def _task_key(after: str) -> tuple[int, int]:
    """Return the key in the address of a page; the first one for what is no key."""
    parts = after.split("-")
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
        return -1, -1
    return int(parts[0]), int(parts[1])


def _listed_task(run: str, task: Row, now: Mapping[str, str]) -> TaskRow:
    path = task["foreach_path"]
    return TaskRow(
        pathspec=f"{run}/{task['step']}/{task['id']}",
        status=now.get(task["status"], task["status"]),
        attempts=task["attempts"],
        index=None if path is None else positions_of(path)[-1],
        item=task["item"],
        created_at=time_of(task["started_at"]),
        finished_at=None if task["finished_at"] is None else time_of(task["finished_at"]),
        origin_pathspec=task["origin_pathspec"],
    )
