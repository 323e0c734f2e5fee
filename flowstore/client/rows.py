"""One form of a row for each kind of object, for whatever shows many: tables, data frames, HTML, comparisons.

What cannot change is fetched for many objects in one query. Status and tags are as they are when rows are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from flowstore import later
from flowstore.client.addresses import Scope
from flowstore.client.base import kinds, status_of
from flowstore.errors import FlowstoreError, NotFound
from flowstore.sqlite.database import Row
from flowstore.sqlite.typed_rows import json_of, positions_of, time_of
from flowstore.store import blobs, codecs, metrics, origins, queries, steps, tags
from flowstore.store.blobs import Blob
from flowstore.store.queries import Failure
from flowstore.store.run_pages import RunQuery, find_page
from flowstore.store.runs import Match

if TYPE_CHECKING:
    import pandas as pd

    from flowstore.client.run import Run, Step
    from flowstore.client.task import Task


def _seconds(start: datetime, end: datetime | None) -> float | None:
    return None if end is None else (end - start).total_seconds()


@later.frozen
class RunRow:
    """A run.

    Attributes:
        pathspec: its address.
        flow, user: names.
        status: as it is now.
        created_at, finished_at: in UTC; no end while it runs.
        origin_run_id: the run that it resumed.
        parameters: plain values, and previews of what has none.
        tags: what people set, sorted.
        system_tags: what flowstore set, sorted.
    """

    pathspec: str
    flow: str
    user: str
    status: str
    created_at: datetime
    finished_at: datetime | None
    origin_run_id: str | None
    parameters: dict[str, Any]
    tags: list[str]
    system_tags: list[str]

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.pathspec.rpartition("/")[2]

    @property
    def duration_s(self) -> float | None:
        """How long it took, in seconds; `None` while it runs."""
        return _seconds(self.created_at, self.finished_at)


def of_runs(runs: Iterable[Run]) -> list[RunRow]:
    """Return the rows of runs of one store, in their order.

    Raises:
        NotFound: one of them was deleted.
    """
    listed = list(runs)
    if not listed:
        return []
    store, ids = listed[0]._store, [int(run.id) for run in listed]
    with store.read():
        rows, tagged = queries.runs_by_id(store, ids), tags.tags_of_runs(store, ids)
    for run, run_id in zip(listed, ids, strict=True):
        if run_id not in rows:
            raise NotFound(f"Run {run.pathspec} was deleted from {store.path}.")
    return [_run_row(run.pathspec, rows[run_id], tagged[run_id]) for run, run_id in zip(listed, ids, strict=True)]


@later.frozen
class RunTable:
    """A page of runs that were searched for.

    Attributes:
        runs: the runs, in order.
        rows: their rows.
        values: of each run the final metrics and the parameters, by name; a parameter hides a metric of its name.
        after: where the next page begins, for `RunQuery.after`; `None` where no run follows.
    """

    runs: list[Run]
    rows: list[RunRow]
    values: list[dict[str, Any]]
    after: str | None


def table_of_runs(scope: Scope, query: RunQuery) -> RunTable:
    """Return the page of runs that a query finds.

    Args:
        scope: the store; its namespace does not count, but the query's own.
        query: which runs, in which order.

    Raises:
        FlowstoreError: the query cannot be answered: see `find_page`.
    """
    with scope.store.read():
        page = find_page(scope.store, query)
        runs = runs_of(scope, page.matches)
        rows = of_runs(runs)
        return RunTable(runs, rows, values_of(runs, rows), page.after)


def runs_of(scope: Scope, matches: Iterable[Match]) -> list[Run]:
    """Return runs that were found, as objects."""
    return [kinds[2]._at(scope, match.pathspec) for match in matches]


def match_of(run: Run) -> Match:
    """Return a run as what a search goes on behind."""
    flow, run_id = run.path_components
    return Match(flow, int(run_id), run._facts()["created_at"])


def of_run(run: Run) -> RunRow:
    """Return the row of a run."""
    return of_runs([run])[0]


def _run_row(pathspec: str, row: Row, tagged: Sequence[Row]) -> RunRow:
    return RunRow(
        pathspec=pathspec,
        flow=row["flow"],
        user=row["user"],
        status=status_of(row),
        created_at=time_of(row["created_at"]),
        finished_at=None if row["finished_at"] is None else time_of(row["finished_at"]),
        origin_run_id=row["origin_run_id"],
        parameters=json_of(row["parameters"], dict),
        tags=sorted(tag["tag"] for tag in tagged if not tag["system"]),
        system_tags=sorted(tag["tag"] for tag in tagged if tag["system"]),
    )


@later.frozen
class Explanation:
    """Facts about a run that are not in its row.

    Attributes:
        failure: its first failure, of a run that failed.
        resume_command: what goes on with it, of a run that came to no good end; empty where its source is not known.
        resumed: the pathspec of the run that it resumed.
        reused: how many tasks it took over from there.
        imported_from: where it was imported from, as the other store's uuid and its pathspec there.
    """

    failure: Failure | None
    resume_command: str
    resumed: str | None
    reused: int
    imported_from: str | None


def explanation(run: Run, row: RunRow) -> Explanation:
    """Return why a run failed, how to go on with it, and where it comes from."""
    store, run_id = run._store, int(run.id)
    resumes = row.origin_run_id is not None
    return Explanation(
        failure=queries.first_failure(store, run_id) if row.status == "failed" else None,
        resume_command=queries.resume_command(store, run_id) if row.status in {"failed", "stopped", "dead"} else "",
        resumed=f"{row.flow}/{row.origin_run_id}" if resumes else None,
        reused=queries.reused(store, run_id) if resumes else 0,
        imported_from=origins.imported_from(store, run_id),
    )


def failures(runs: Sequence[Run], rows: Sequence[RunRow]) -> list[Failure | None]:
    """Return why runs failed, those that did."""
    return [
        queries.first_failure(run._store, int(run.id)) if row.status == "failed" else None
        for run, row in zip(runs, rows, strict=True)
    ]


@later.frozen
class StepRow:
    """A step of a run.

    Attributes:
        pathspec: its address.
        created_at: when it began; where all tasks were taken over from another run, there.
        finished_at: when its last task ended; `None` while one runs.
        tasks: how many of its tasks have each status, by name of the status.
        taken_over: how many of them ran in the run that this one resumed.
    """

    pathspec: str
    created_at: datetime
    finished_at: datetime | None
    tasks: dict[str, int]
    taken_over: int = 0

    @property
    def name(self) -> str:
        """The step's name."""
        return self.pathspec.rpartition("/")[2]

    @property
    def total(self) -> int:
        """How many tasks it has."""
        return sum(self.tasks.values())

    @property
    def duration_s(self) -> float | None:
        """How long it took, in seconds; `None` while it runs."""
        return _seconds(self.created_at, self.finished_at)


def of_steps(run: Run, status: str) -> list[StepRow]:
    """Return the rows of a run's steps, in the order in which they began.

    Args:
        run: the run.
        status: its status. Where it is dead, what is recorded as running is dead too.
    """
    by_step: dict[str, list[Row]] = {}
    for row in steps.states(run._store, int(run.id)):
        by_step.setdefault(row["name"], []).append(row)
    return [_step_row(f"{run.pathspec}/{name}", rows, dead=status == "dead") for name, rows in by_step.items()]


def _step_row(pathspec: str, rows: Sequence[Row], *, dead: bool) -> StepRow:
    own = [row for row in rows if not row["reused"] and row["tasks"]] or rows  # all ran in the run that was resumed
    ends = [row["finished_at"] for row in own if row["finished_at"] is not None]
    over = bool(ends) and not any(row["unfinished"] for row in rows)
    begun = min([rows[0]["created_at"], *(row["begun"] for row in own if row["begun"] is not None)])
    tasks: dict[str, int] = {}
    for row in rows:
        status = "dead" if dead and row["status"] == "running" else row["status"]
        if status is not None:
            tasks[status] = tasks.get(status, 0) + row["tasks"]
    finished_at = time_of(max(begun, *ends)) if over else None
    taken_over = sum(row["tasks"] for row in rows if row["reused"])
    return StepRow(pathspec, time_of(begun), finished_at, dict(sorted(tasks.items())), taken_over)


def in_words(tasks: Mapping[str, int]) -> str:
    """Return how many tasks have which status.

    >>> in_words({"failed": 1, "successful": 2})
    '1 failed, 2 successful'
    """
    return ", ".join(f"{count} {status}" for status, count in tasks.items())


@later.frozen
class TaskRow:
    """A task.

    Attributes:
        pathspec: its address.
        status: as it is now.
        attempts: how many there were.
        index: its position in the innermost foreach; `None` outside one.
        item: a preview of its foreach item; `None` outside one.
        created_at, finished_at: in UTC; no end while it runs.
        origin_pathspec: the task that it stands for, in a run that took it over.
    """

    pathspec: str
    status: str
    attempts: int
    index: int | None
    item: str | None
    created_at: datetime
    finished_at: datetime | None
    origin_pathspec: str | None

    @property
    def task_id(self) -> str:
        """Its id."""
        return self.pathspec.rpartition("/")[2]

    @property
    def duration_s(self) -> float | None:
        """How long it took, in seconds; `None` while it runs."""
        return _seconds(self.created_at, self.finished_at)


def of_tasks(tasks: Iterable[Task]) -> list[TaskRow]:
    """Return the rows of tasks of one run, in their order."""
    listed = list(tasks)
    items = queries.items(listed[0]._store, int(listed[0].path_components[1])) if listed else {}
    return [_task_row(task, items) for task in listed]


def _task_row(task: Task, items: Mapping[int, str]) -> TaskRow:
    row = task._row()
    path = row["foreach_path"]
    return TaskRow(
        pathspec=task.pathspec,
        status=task.status if row["status"] == "running" else row["status"],
        attempts=row["attempts"],
        index=None if path is None else positions_of(path)[-1],
        item=items.get(row["id"]),
        created_at=time_of(row["started_at"]),
        finished_at=None if row["finished_at"] is None else time_of(row["finished_at"]),
        origin_pathspec=row["origin_pathspec"],
    )


@later.frozen
class AttemptRow:
    """One attempt of a task.

    Attributes:
        number: from 0.
        status: as it is now.
        created_at, finished_at: in UTC; no end while it runs.
        pid: its process.
        error: type and message of what failed, in one line.
    """

    number: int
    status: str
    created_at: datetime
    finished_at: datetime | None
    pid: int | None
    error: str | None

    @property
    def duration_s(self) -> float | None:
        """How long it took, in seconds; `None` while it runs."""
        return _seconds(self.created_at, self.finished_at)


def of_attempts(task: Task, limit: int = 1000) -> list[AttemptRow]:
    """Return the rows of a task's attempts, the first ones."""
    return [
        AttemptRow(
            number=row["number"],
            status="dead" if row["status"] == "running" and task.status == "dead" else row["status"],
            created_at=time_of(row["started_at"]),
            finished_at=None if row["finished_at"] is None else time_of(row["finished_at"]),
            pid=row["pid"],
            error=None if row["error_type"] is None else queries.error_line(row["error_type"], row["error_message"]),
        )
        for row in queries.attempts(task._store, int(task.id), limit)
    ]


def tasks_of(of: Run | Step | Task) -> list[Task]:
    """Return all tasks of a run, a step, or one task, in the order of their ids."""
    if of._DEPTH == 4:
        return [cast("Task", of)]
    steps = cast("Run", of) if of._DEPTH == 2 else [cast("Step", of)]
    return sorted((task for step in steps for task in step), key=lambda task: int(task.id))


@later.frozen
class ArtifactRow:
    """An artifact of a task.

    Attributes:
        name: its name.
        type: of the Python value.
        size_bytes, codec: of its bytes.
        preview: a short text that shows it.
    """

    name: str
    type: str
    size_bytes: int
    codec: str
    preview: str


def of_artifacts(task: Task, *, private: bool = False) -> list[ArtifactRow]:
    """Return the rows of a task's artifacts; of those that begin with an underscore only if `private`."""
    return [
        ArtifactRow(name, blob.type, blob.size_bytes, blob.codec, blob.preview)
        for name, blob in task._blobs().items()
        if private or not name.startswith("_")
    ]


# --- columns of the user's choice


def values_of(runs: Sequence[Run], rows: Sequence[RunRow]) -> list[dict[str, Any]]:
    """Return the final metrics and the parameters of each run, by name; a parameter hides a metric of its name."""
    measured = _metrics(runs)
    return [measured[int(row.run_id)] | row.parameters for row in rows]


def _metrics(runs: Sequence[Run]) -> dict[int, dict[str, float]]:
    return metrics.final(runs[0]._store, [int(run.id) for run in runs]) if runs else {}


KNOWN = ("run_id", "status", "user", "created_at", "finished_at", "duration_s", "tags")


def frame_of(runs: Iterable[Run]) -> pd.DataFrame:
    """Return a data frame with one row per run: what is known of it, its parameters, small artifacts and metrics.

    Raises:
        FlowstoreError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise FlowstoreError('to_dataframe needs pandas: pip install "flowstore[data]"') from None
    listed = list(runs)
    measured = _metrics(listed)
    pairs = zip(listed, of_runs(listed), strict=True)
    cells = [_cells(row, _small_artifacts(run), measured[int(row.run_id)]) for run, row in pairs]
    frame = pd.DataFrame(cells, columns=list(dict.fromkeys((*KNOWN, *(name for row in cells for name in row)))))
    for name in ("created_at", "finished_at"):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame


def _cells(row: RunRow, artifacts: Mapping[str, Any], measured: Mapping[str, float]) -> dict[str, Any]:
    known = {name: getattr(row, name) for name in KNOWN}
    values = {**row.parameters, **artifacts}
    values |= {name: number for name, number in measured.items() if name not in values}
    return known | {(f"{name}_value" if name in known else name): value for name, value in values.items()}


def _small_artifacts(run: Run) -> dict[str, Any]:
    """Return the end task's small artifacts that are plain values, but for those that an export left out."""
    end = run.end_task
    visible: Mapping[str, Blob] = {} if end is None else end._blobs()
    return {
        name: blobs.load(run._store, blob, f"{run.pathspec}: {name}")
        for name, blob in visible.items()
        if blob.codec in codecs.NOTATIONS and blob.data is not None and name[:1] != "_"
    }
