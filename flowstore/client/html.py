"""HTML of objects, for notebooks: graphs and tables of rows and previews, so that looking never loads anything.

Each piece brings its style sheet, whose rules reach no further than the piece and follow the theme of the notebook.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

import attrs

from flowstore.client import graphs, rows, timelines
from flowstore.drawing import SHAPES, scoped_stylesheet
from flowstore.store.pictures import find_picture
from flowstore.text import counted, duration, safe, size

if TYPE_CHECKING:
    from flowstore.client.artifact import DataArtifact
    from flowstore.client.run import Flow, Run, Step
    from flowstore.client.task import Task

MOST_ROWS = 20
MOST_PICTURES = 4
_SHORT, _LONGEST = 30, 200  # letters of a cell that has no line breaks, and of any: all of them are in its title


@attrs.frozen
class _Html:
    """Text that is HTML already, and the class of its cell."""

    text: str
    css: str = ""


def flow(item: Flow) -> str:
    """Return a flow: its graph, and its newest runs in the active namespace."""
    newest = rows.of_runs(itertools.islice(item, MOST_ROWS + 1))
    cells = (
        (row.run_id, _state(row.status), row.user, _moment(row.created_at), row.duration_s, _tags(row.tags))
        for row in newest
    )
    drawn = graphs.draw(graphs.of_flow(item), label=f"Steps of {item.id}")
    return _piece(item.id, None, drawn, _table(("run", "state", "user", "started (UTC)", "took", "tags"), cells))


def run(item: Run) -> str:
    """Return a run: its state, why it failed and how to go on, its steps and their times, the artifacts of its end."""
    row = rows.of_run(item)
    known = rows.explanation(item, row)
    facts = {
        "by": row.user,
        "started": _moment(row.created_at),
        "took": "" if row.duration_s is None else duration(row.duration_s),
        "resumes": known.resumed or "",
        "note": item.note or "",
        "parameters": ", ".join(f"{name}={value!r}" for name, value in row.parameters.items()),
    }
    began = rows.of_steps(item, row.status)
    steps = graphs.of_run(item, row, began)
    label = f"of {row.pathspec}"
    end = item.end_task
    return _piece(
        row.pathspec,
        row.status,
        _error(str(known.failure)) if known.failure else "",
        _command(known.resume_command) if known.resume_command else "",
        _facts(facts),
        _tags(row.tags, row.system_tags).text,
        graphs.draw(steps, label=f"Steps {label}"),
        _steps(steps),
        timelines.draw(timelines.of_run(item, row, step_rows=began), label=f"Timeline {label}"),
        "" if end is None else _artifacts(end),
    )


def _steps(steps: Sequence[graphs.GraphStep]) -> str:
    """Return the table below the graph: of each step its tasks, the steps before it, and how long it took."""
    cells = []
    for step in steps:
        before = ", ".join(other.name for other in steps if step.name in other.targets)
        tasks = "" if step.row is None else rows.in_words(step.row.tasks)
        cells.append((step.name, tasks or step.absence, before, step.row and step.row.duration_s))
    return _table(("step", "tasks", "after", "took"), cells, most=1000)


def step(item: Step) -> str:
    """Return a step with its newest tasks."""
    newest = rows.of_tasks(itertools.islice(item, MOST_ROWS + 1))
    cells = ((row.task_id, _state(row.status), row.index, row.item, row.duration_s) for row in newest)
    return _piece(item.pathspec, None, _table(("task", "state", "index", "item", "took"), cells))


def task(item: Task) -> str:
    """Return a task: its state, why it failed, its artifacts, and the pictures that were kept of them."""
    error = item._failure()
    [row] = rows.of_tasks([item])
    facts = {
        "started": _moment(row.created_at),
        "took": "" if row.duration_s is None else duration(row.duration_s),
        "attempts": str(row.attempts) if row.attempts > 1 else "",
        "item": row.item or "",
        "taken over from": row.origin_pathspec or "",
    }
    why = "" if error is None else _error(f"{error.name}: {error.message}")
    return _piece(item.pathspec, row.status, why, _facts(facts), _artifacts(item))


def _artifacts(item: Task) -> str:
    listed = rows.of_artifacts(item)
    cells = ((row.name, row.type, _Html(size(row.size_bytes), "number"), row.preview) for row in listed)
    pictures = (_picture(item, row.name) for row in itertools.islice(listed, MOST_ROWS))
    shown = itertools.islice(filter(None, pictures), MOST_PICTURES)
    return _table(("artifact", "type", "size", "preview"), cells) + "".join(shown)


def artifact(item: DataArtifact) -> str:
    """Return an artifact's description, its preview, and the picture that was kept of it."""
    facts = {"type": item.type, "size": size(item.size), "codec": item.codec}
    preview = f"<pre>{escape(safe(item.preview))}</pre>"
    return _piece(item.pathspec, None, _facts(facts), preview, _picture(item.parent, item.id))


def _picture(task_: Task, name: str) -> str:
    blob = task_._blobs().get(name)
    png = None if blob is None else find_picture(task_._store, blob.id)
    if png is None:
        return ""
    data = base64.b64encode(png).decode("ascii")
    return f'<p><img class="picture" alt="{_text(f"{name}, as a picture")}" src="data:image/png;base64,{data}"></p>'


def _piece(name: str, status: str | None, *parts: str) -> str:
    state = "" if status is None else f" {_state(status).text}"
    title = f'<div class="title"><b>{_text(name)}</b>{state}</div>'
    style = f"<style>{scoped_stylesheet()}</style>"
    return f'<div class="flowstore">{style}<div class="piece">{title}{"".join(parts)}</div></div>'


def _state(status: str) -> _Html:
    shape = SHAPES.get(status, "")
    return _Html(f'<span class="state {_text(status)}">{shape} {_text(status)}</span>')


def _error(text: str) -> str:
    return f'<div class="error"><b class="failed">{_text(text).replace(chr(10), "<br>")}</b></div>'


def _command(text: str) -> str:
    return f'<div><span class="command">{_text(text)}</span></div>'


def _facts(facts: Mapping[str, str]) -> str:
    shown = "".join(f"<span><b>{_text(name)}</b>{_text(text)}</span>" for name, text in facts.items() if text)
    return f'<div class="facts">{shown}</div>' if shown else ""


def _tags(users: Iterable[str], system: Iterable[str] = ()) -> _Html:
    own = (f'<span class="tag">{_text(tag)}</span>' for tag in users)
    return _Html("".join([*own, *(f'<span class="tag system">{_text(tag)}</span>' for tag in system)]))


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def _table(head: Sequence[str], cells: Iterable[Sequence[Any]], most: int = MOST_ROWS) -> str:
    shown = list(itertools.islice(cells, most + 1))
    if not shown:
        return ""
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in shown[:most])
    more = f'<tr><td colspan="{len(head)}" class="muted">… more than {counted(most, "row")}</td></tr>'
    names = "".join(
        f'<th class="number">{name}</th>' if name in {"took", "size"} else f"<th>{name}</th>" for name in head
    )
    body += more if len(shown) > most else ""
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, _Html):
        return f'<td class="{value.css}">{value.text}</td>' if value.css else f"<td>{value.text}</td>"
    if isinstance(value, float):
        return f'<td class="number">{duration(value)}</td>'
    text = "" if value is None else safe(str(value))
    if len(text) <= _LONGEST:
        css = ' class="long"' if len(text) > _SHORT else ""
        return f"<td{css}>{escape(text).replace(chr(10), '<br>')}</td>"
    return f'<td class="long" title="{escape(text[:5000])}">{escape(text[:_LONGEST])}…</td>'


def _text(text: str) -> str:
    return escape(safe(text))
