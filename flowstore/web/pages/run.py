"""One run: did it work, if not why, and what to type next; then its steps, tasks, results and code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import attrs

from flowstore.client import Run, cards, events, graphs, rows, timelines
from flowstore.client.code import Code, Frame, last_frame
from flowstore.client.listings import TaskTable, table_of_tasks
from flowstore.client.rows import ArtifactRow, RunRow, StepRow, TaskRow
from flowstore.errors import InvalidPathspec, NotFound
from flowstore.store.schema import STATUSES
from flowstore.web.pages import Page, Redirect, View, check_editable, run_json
from flowstore.web.templating import pathspec

FEW = 10  # tasks of a step that is not folded
AT_ONCE = 100  # tasks on a page
MOST_TROUBLED = 20  # tasks that are shown above all steps
_TROUBLE = ("failed", "dead", "stopped", "running")
_LARGEST_SOURCE = 1_000_000  # bytes


@attrs.frozen
class RunFailure:
    """Why a run failed.

    Attributes:
        task: the pathspec of its first task that failed.
        item: a preview of its foreach item; `None` outside a foreach.
        error: type and message, in one line.
        attempts: how often it was tried.
        frame: the line at which it failed, if that is known.
        traceback: all of it.
    """

    task: str
    item: str | None
    error: str
    attempts: int
    frame: Frame | None
    traceback: str


@attrs.frozen
class StepTasks:
    """The tasks of a step, as the page shows them.

    Attributes:
        step: the step.
        tasks: its tasks, or the first of them; none where it is folded.
        errors: why each of them failed.
        folded: whether only the step is shown.
        opened: whether it was folded, but for somebody who opened it.
    """

    step: StepRow
    tasks: list[TaskRow]
    errors: list[str | None]
    folded: bool
    opened: bool


def run(view: View, flow: str, run_id: str) -> Page:
    """Return a run."""
    item = view.store.find(f"{flow}/{run_id}", Run)
    row, code = rows.of_run(item), item.code
    steps, why, note, metrics = rows.of_steps(item, row.status), rows.explanation(item, row), item.note, item.metrics
    trouble = _failure(view, item, why, code)
    artifacts, of_task = _artifacts(item)

    def as_json() -> dict[str, Any]:
        return {
            **run_json(row),
            "note": note,
            "error": None if why.failure is None else str(why.failure),
            "resume_command": why.resume_command or None,
            "resumes": why.resumed,
            "imported_from": why.imported_from,
            "metrics": metrics,
            "steps": [{"step": step.name, "duration_s": step.duration_s, **attrs.asdict(step)} for step in steps],
            "tasks": [_task_json(task) for task in _filtered(view, item, row, limit=10_000).rows],
            "artifacts": artifacts,
            "code_files": [] if code is None else code.files,
        }

    data = {
        "run": row,
        **_drawn(view, item, row, steps),
        "why": why,
        "trouble": trouble,
        "note": note,
        "triggered_by": events.triggered_by(item),
        "steps": steps,
        "metrics": sorted(metrics.items(), key=lambda pair: _natural(pair[0])),
        "artifacts": artifacts,
        "artifacts_of": of_task,
        "has_cards": cards.are_in(item),
        "code": code,
        "source": None if code is None else code.source(code.script_name, _LARGEST_SOURCE // 10),
        "statuses": STATUSES,
        **_tasks(view, item, row, steps),
    }
    return Page("run.html", row.pathspec, data, as_json, runs_now=row.status == "running")


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts names with numbers in them as people count."""
    return [
        (int(part), "") if part.isdecimal() and part.isascii() and len(part) < 19 else (-1, part)
        for part in re.split(r"(\d+)", name)
    ]


def _task_json(task: TaskRow) -> dict[str, Any]:
    return {"task": task.pathspec, "task_id": task.task_id, "duration_s": task.duration_s, **attrs.asdict(task)}


def _failure(view: View, item: Run, why: rows.Explanation, code: Code | None) -> RunFailure | None:
    if why.failure is None:
        return None
    try:
        task = view.store.task(f"{item.pathspec}/{why.failure.task}")
    except (NotFound, InvalidPathspec):  # deleted meanwhile, or a step whose name no flow can have
        return RunFailure(item.pathspec, why.failure.item, why.failure.error, 1, None, "")
    error = task._failure()
    traceback = "" if error is None else error.traceback[-20_000:]
    frame = last_frame(traceback, [] if code is None else code.files)
    attempts = task.current_attempt + 1
    return RunFailure(task.pathspec, why.failure.item, why.failure.error, attempts, frame, traceback)


def _artifacts(item: Run) -> tuple[list[ArtifactRow], str | None]:
    """Return the artifacts of the end task or, without one, of the last task that succeeded; and which task that is."""
    end = item.end_task
    if end is not None:
        return rows.of_artifacts(end), end.pathspec
    for step in item.steps():
        task = step.task
        if task is not None and task.successful:
            return rows.of_artifacts(task), task.pathspec
    return [], None


def _drawn(view: View, item: Run, row: RunRow, steps: Sequence[StepRow]) -> dict[str, Any]:
    """Return the graph and the timeline of a run; a step leads to its tasks, and a folded one is opened."""
    from markupsafe import Markup

    expanded = view.query.all("expand")
    graph_steps = graphs.of_run(item, row, steps)
    timed = timelines.of_run(item, row, expanded, steps)

    def to_step(step: graphs.GraphStep) -> str | None:
        return None if step.row is None else pathspec(step.row.pathspec)

    def to_row(shown: timelines.TimelineRow) -> str:
        if shown.tasks == 1:
            return pathspec(shown.pathspec)
        return f"{view.query.with_(expand=[*expanded, shown.step])}#timeline"

    return {
        "graph_steps": graph_steps,
        "graph": Markup(graphs.draw(graph_steps, to_step, label=f"Steps of {item.pathspec}")),  # noqa: S704
        "timeline": Markup(timelines.draw(timed, to_row, label=f"Timeline of {item.pathspec}")),  # noqa: S704
    }


# --- tasks


def _filtered(view: View, item: Run, row: RunRow, limit: int) -> TaskTable:
    steps, statuses = view.query.all("step"), view.query.all("status")
    return table_of_tasks(item, row, steps=steps, statuses=statuses, after=view.query.get("after"), limit=limit)


def _tasks(view: View, item: Run, row: RunRow, steps: Sequence[StepRow]) -> dict[str, Any]:
    """Return what the list of tasks shows: those that a filter finds, or troubled ones and each step's."""
    step, status = view.query.get("step"), view.query.get("status")
    if step or status or view.query.get("after"):
        table = _filtered(view, item, row, AT_ONCE)
        return {"filtered": table, "troubled": None, "by_step": [], "step": step, "status": status, "query": view.query}
    troubled = table_of_tasks(item, row, statuses=_TROUBLE, limit=MOST_TROUBLED)
    above = {task.pathspec for task in troubled.rows}
    expanded = set(view.query.all("expand"))
    small = [one.name for one in steps if one.total <= FEW]
    listed = table_of_tasks(item, row, steps=small, limit=AT_ONCE * FEW) if small else TaskTable([], [], None)
    by_name: dict[str, list[tuple[TaskRow, str | None]]] = {}
    for task, error in zip(listed.rows, listed.errors, strict=True):
        if task.pathspec not in above:
            by_name.setdefault(task.pathspec.split("/")[2], []).append((task, error))
    by_step = []
    for one in steps:
        pairs, opened = by_name.get(one.name, []), one.name in expanded and one.total > FEW
        if opened:
            table = table_of_tasks(item, row, steps=[one.name], limit=AT_ONCE)
            pairs = list(zip(table.rows, table.errors, strict=True))
        folded = one.total > FEW and not opened
        if folded or pairs:
            by_step.append(StepTasks(one, [task for task, _ in pairs], [error for _, error in pairs], folded, opened))
    return {
        "filtered": None, "troubled": troubled, "by_step": by_step, "step": "", "status": "", "query": view.query,
    }  # fmt: skip


# --- changes


def change_tags(view: View, flow: str, run_id: str) -> Redirect:
    """Add a tag to a run, or remove one."""
    check_editable(view)
    item = view.store.find(f"{flow}/{run_id}", Run)
    item.replace_tags(*([view.form[name]] if view.form.get(name) else [] for name in ("remove", "add")))
    return Redirect(f"{pathspec(item.pathspec)}#notes")


def change_note(view: View, flow: str, run_id: str) -> Redirect:
    """Set the note of a run; remove it where the text is empty."""
    check_editable(view)
    item = view.store.find(f"{flow}/{run_id}", Run)
    item.note = view.form.get("note", "").replace("\r\n", "\n").strip() or None
    return Redirect(f"{pathspec(item.pathspec)}#notes")


# --- code


def code(view: View, flow: str, run_id: str) -> Page:
    """Return a file of a run's code, with numbered lines."""
    item = view.store.find(f"{flow}/{run_id}", Run)
    kept = item.code
    if kept is None:
        raise NotFound(f"The code of run {item.pathspec} is not known: it ran without a file.")
    name = view.query.get("file", kept.script_name)
    if name not in kept.files:
        raise NotFound(f"The code of run {item.pathspec} has no file {name!r}.")
    source = kept.source(name, _LARGEST_SOURCE)
    data = {"run": item.pathspec, "file": name, "files": kept.files, "source": source}
    return Page("code.html", f"{name} of {item.pathspec}", data, lambda: data)
