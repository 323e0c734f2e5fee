"""One task: did it work, if not why, its attempts, its log, and what it has set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from flowstore.client import Task, cards, logs, rows
from flowstore.client.code import Code, Frame, last_frame
from flowstore.client.logs import Line, LogPage, Matches, Position
from flowstore.client.rows import AttemptRow
from flowstore.errors import NotFound
from flowstore.sqlite.typed_rows import positions_of
from flowstore.store import metrics, queries
from flowstore.store.pictures import with_pictures
from flowstore.web.pages import Download, Page, View

_MOST_NEAR = 12  # tasks before and after this one
_MOST_METRICS = 200
_MOST_TRACEBACK = 20_000  # characters, of its end
LARGEST = 10**9
_STREAMS = ("stdout", "stderr")


@attrs.frozen
class TaskError:
    """Why an attempt failed, or what was caught.

    Attributes:
        type, message: of the exception.
        traceback: the end of it.
        frame: the line at which it was raised, if that is known.
    """

    type: str
    message: str
    traceback: str
    frame: Frame | None


@attrs.frozen
class Near:
    """The tasks that ran directly before or after a task: the first of them, and whether there are more."""

    tasks: list[str]
    more: bool


@attrs.frozen
class Log:
    """The lines of a log that are shown.

    Attributes:
        lines: the lines.
        earlier, later: where the page begins and ends, if there is more.
        query: the text that is searched for; empty where the log is only read.
        is_all: of a search, whether all lines that match are shown.
        around: the number of the line that is looked for; `None` where none is.
        at_end: whether it is the end of the log, to which lines are added.
    """

    lines: Sequence[Line]
    earlier: Position | None
    later: Position | None
    query: str
    is_all: bool
    around: int | None
    at_end: bool

    @classmethod
    def of(cls, part: LogPage | Matches, query: str = "", around: int | None = None, *, at_end: bool = False) -> Log:
        """Return a page of a log, or the matches of a search."""
        if isinstance(part, Matches):
            return cls(part.lines, None, None, query, part.is_all, None, at_end=False)
        return cls(part.lines, part.earlier, part.later, "", True, around, at_end=at_end)


def at_attempt(view: View, flow: str, run_id: str, step: str, task_id: str) -> Task:
    """Return a task at the attempt that the URL asks for, by default the last one."""
    item: Task = view.store.find(f"{flow}/{run_id}/{step}/{task_id}", Task)
    return item._as_of(view.query.whole("attempt", 0, LARGEST)) if view.query.get("attempt") else item


def task(view: View, flow: str, run_id: str, step: str, task_id: str) -> Page | Download:
    """Return a task at one of its attempts, by default the last one, or its whole log as a file."""
    item = at_attempt(view, flow, run_id, step, task_id)
    stream = view.query.get("stream")
    if stream and stream not in _STREAMS:
        raise NotFound(f"There is no stream {stream[:40]!r}; there are stdout and stderr.")
    if view.query.get("download"):
        name = f"{'-'.join(item.path_components)}-{item.current_attempt}.log"
        return Download(name, "text/plain; charset=utf-8", logs.text_of(item, stream or None))
    return _page(view, item, stream)


def _page(view: View, item: Task, stream: str) -> Page:
    attempts = rows.of_attempts(item)
    current = next((row for row in attempts if row.number == item.current_attempt), None)
    near = {"parents": _near(item, children=False), "children": _near(item, children=True)}
    data = {
        **_facts(item, current),
        "attempts": attempts,
        "attempt": item.current_attempt,
        **near,
        "metrics": metrics.of_task(item._store, int(item.path_components[1]), int(item.id), _MOST_METRICS),
        "artifacts": rows.of_artifacts(item),
        "cards": cards.of_cards(item),
    }
    log = _log(view, item, stream)
    trouble = _error(item)
    own = queries.names_set(item._store, item._attempt_row()["id"])

    def as_json() -> dict[str, Any]:
        return {
            **data,
            "error": None if trouble is None else queries.error_line(trouble.type, trouble.message),
            "exception": trouble,
            "attempts": [{**attrs.asdict(row), "duration_s": row.duration_s} for row in attempts],
            "parents": near["parents"].tasks,
            "children": near["children"].tasks,
            "log": log.lines,
            "cards": [row.as_json() for row in data["cards"]],
        }

    running = data["status"] == "running" and log.at_end
    shown = {
        "trouble": trouble,
        "own": [row for row in data["artifacts"] if row.name in own],
        "inherited": [row for row in data["artifacts"] if row.name not in own],
        "pictures": [name for name in _pictures(item) if name in own],
        "log": log,
        "stream": stream,
        "streams": _STREAMS,
        "timestamps": bool(view.query.get("timestamps")),
        "query": view.query,
        "chosen": view.query.get("attempt"),
    }
    return Page("task.html", item.pathspec, data | shown, as_json, runs_now=running)


def _facts(item: Task, current: AttemptRow | None) -> dict[str, Any]:
    """Return what is known of a task at the attempt that is looked at."""
    facts, row = item.metadata_dict, item._row()
    path = row["foreach_path"]
    return {
        "task": item.pathspec,
        "status": item.status,
        "created_at": item.created_at,
        "finished_at": item.finished_at,
        "duration_s": None if current is None else current.duration_s,
        "item": queries.item_of(item._store, int(item.id)),
        "foreach": None if path is None else positions_of(path),
        "host": facts.get("host"),
        "pid": facts.get("pid"),
        "origin": item.origin_pathspec,
    }


def _error(item: Task) -> TaskError | None:
    error = item._failure()
    if error is None:
        return None
    code: Code | None = item._run.code
    traceback = error.traceback[-_MOST_TRACEBACK:]
    return TaskError(error.name, error.message, traceback, last_frame(traceback, [] if code is None else code.files))


def _near(item: Task, *, children: bool) -> Near:
    flow, run_id = item.path_components[:2]
    near = queries.relatives(item._store, int(item.id), children=children, limit=_MOST_NEAR + 1)
    tasks = [f"{flow}/{run_id}/{row['step']}/{row['id']}" for row in near[:_MOST_NEAR]]
    return Near(tasks, len(near) > _MOST_NEAR)


def _pictures(item: Task) -> list[str]:
    """Return the names of the artifacts that have a picture."""
    visible = {name: blob.id for name, blob in item._blobs().items() if not name.startswith("_")}
    pictured = with_pictures(item._store, visible.values())
    return [name for name, blob_id in visible.items() if blob_id in pictured]


def _log(view: View, item: Task, stream: str) -> Log:
    """Return the part of the log that the URL asks for: a search, the lines around one, a page, or the end."""
    query, only = view.query, stream or None
    if text := query.get("q"):
        return Log.of(logs.search(item, only, text[:1000]), text)
    if number := query.whole("line", 0, LARGEST):
        return Log.of(logs.lines_around(item, only, number), around=number)
    if (start := Position.of(query.get("after"))) is not None:
        return Log.of(logs.page_after(item, only, start))
    end = Position.of(query.get("before"))
    return Log.of(logs.page_before(item, only, end), at_end=end is None)
