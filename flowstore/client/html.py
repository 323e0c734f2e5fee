"""HTML of objects, for notebooks: tables of previews, so that looking never loads anything."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from flowstore.client import rows
from flowstore.client.rows import StepRow
from flowstore.store import steps

if TYPE_CHECKING:
    from flowstore.client.artifact import DataArtifact
    from flowstore.client.run import Flow, Run, Step
    from flowstore.client.task import Task

MOST_ROWS = 20


def flow(item: Flow) -> str:
    """Return a flow with its newest runs in the active namespace."""
    newest = rows.of_runs(itertools.islice(item, MOST_ROWS + 1))
    cells = ((row.run_id, row.status, f"{row.created_at:%Y-%m-%d %H:%M:%S}", ", ".join(row.tags)) for row in newest)
    return _page(item, {}, _table(("run", "status", "created (UTC)", "tags"), cells))


def run(item: Run) -> str:
    """Return a run's status, tags, parameters and steps, drawn and as a table, and the artifacts of its end."""
    row = rows.of_run(item)
    known = rows.explanation(item, row)
    facts = {
        "status": row.status,
        "failed in": "" if known.failure is None else str(known.failure),
        "to go on": known.resume_command,
        "resumes": known.resumed or "",
        "created": f"{row.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "parameters": ", ".join(f"{name}={value!r}" for name, value in row.parameters.items()),
        "tags": ", ".join(sorted((*row.tags, *row.system_tags))),
    }
    begun = rows.of_steps(item, row.status)
    edges = steps.edges(item._store, int(item.id))
    cells = ((step.name, rows.in_words(step.tasks), _after(step.name, edges), step.duration_s) for step in begun)
    table = _table(("step", "tasks", "after", "seconds"), cells)
    end = item.end_task
    artifacts = "" if end is None else _artifacts(end)
    return _page(item, facts, f"<div>{svg(begun, edges)}</div>{table}{artifacts}")


def _after(name: str, edges: Iterable[tuple[str, str]]) -> str:
    return ", ".join(before for before, after in edges if after == name)


def step(item: Step) -> str:
    """Return a step with its newest tasks."""
    newest = rows.of_tasks(itertools.islice(item, MOST_ROWS + 1))
    cells = ((row.task_id, row.status, row.index, row.item) for row in newest)
    return _page(item, {}, _table(("task", "status", "index", "item"), cells))


def task(item: Task) -> str:
    """Return a task's status, why it failed, and its artifacts."""
    error = item.exception
    [row] = rows.of_tasks([item])
    facts = {
        "status": item.status,
        "item": row.item or "",
        "exception": "" if error is None else f"{error.type}: {error.message}",
    }
    return _page(item, facts, _artifacts(item))


def _artifacts(item: Task) -> str:
    cells = ((row.name, row.type, row.size_bytes, row.preview) for row in rows.of_artifacts(item))
    return _table(("artifact", "type", "bytes", "preview"), cells)


def artifact(item: DataArtifact) -> str:
    """Return an artifact's description."""
    return _page(item, {"type": item.type, "bytes": item.size, "codec": item.codec, "preview": item.preview}, "")


def _page(item: Any, facts: Mapping[str, Any], table: str) -> str:
    lines = "".join(f"<br>{escape(name)}: {_cell(value)}" for name, value in facts.items() if value != "")
    return f"<div><b>{escape(repr(item))}</b>{lines}{table}</div>"


def _table(head: Sequence[str], cells: Iterable[Sequence[Any]]) -> str:
    shown = list(itertools.islice(cells, MOST_ROWS + 1))
    body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in shown[:MOST_ROWS])
    more = "<tr><td>…</td></tr>" if len(shown) > MOST_ROWS else ""
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{body}{more}</table>"


def _cell(value: Any) -> str:
    return "" if value is None else escape(str(value)).replace("\n", "<br>")


MOST_STEPS = 60
_COLOURS = {  # strong enough on a light page and on a dark one
    "running": "#2f81f7",
    "successful": "#2da44e",
    "failed": "#e5534b",
    "stopped": "#c69026",
    "dead": "#8b949e",
}
_WORST_FIRST = ("failed", "dead", "stopped", "running", "successful")
_BOX, _GAP = (120, 34), (36, 14)
_MOST_LETTERS = 17

Edges = Sequence[tuple[str, str]]
Cell = tuple[int, int]


def svg(steps: Sequence[StepRow], edges: Edges) -> str:
    """Return the diagram, or nothing where it would be too large to be read."""
    if not 0 < len(steps) <= MOST_STEPS:
        return ""
    places = _places([step.name for step in steps], edges)
    width = (max(x for x, _ in places.values()) + 1) * (_BOX[0] + _GAP[0])
    height = (max(y for _, y in places.values()) + 1) * (_BOX[1] + _GAP[1])
    parts = [_edge(places[before], places[after]) for before, after in edges if {before, after} <= places.keys()]
    parts += [_box(step, places[step.name]) for step in steps]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11" fill="none">{"".join(parts)}</svg>'
    )


def _places(names: Sequence[str], edges: Edges) -> Mapping[str, Cell]:
    """Return the column and row of each step; the steps are in the order in which they began."""
    order = {name: n for n, name in enumerate(names)}
    columns = dict.fromkeys(names, 0)
    for name in names:
        before = [one for one, other in edges if other == name and order.get(one, len(names)) < order[name]]
        columns[name] = max((columns[one] + 1 for one in before), default=0)
    filled: dict[int, int] = {}
    places: dict[str, Cell] = {}
    for name in names:
        column = columns[name]
        places[name] = (column, filled.get(column, 0))
        filled[column] = filled.get(column, 0) + 1
    return places


def _corner(cell: Cell) -> Cell:
    return cell[0] * (_BOX[0] + _GAP[0]) + _GAP[0] // 2, cell[1] * (_BOX[1] + _GAP[1]) + _GAP[1] // 2


def _box(step: StepRow, cell: Cell) -> str:
    x, y = _corner(cell)
    colour = next((_COLOURS[status] for status in _WORST_FIRST if status in step.tasks), "#8b949e")
    shown = step.name if len(step.name) <= _MOST_LETTERS else step.name[: _MOST_LETTERS - 1] + "…"
    times = f" ×{step.total}" if step.total > 1 else ""
    lasted = "" if step.duration_s is None else f"{step.duration_s:.3g} s"
    return (
        f"<g><title>{escape(step.name)}: {escape(rows.in_words(step.tasks))}</title>"
        f'<rect x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" rx="6" stroke="{colour}" stroke-width="2" '
        f'fill="{colour}" fill-opacity="0.12"/><g fill="currentColor">'
        f'<text x="{x + 8}" y="{y + 14}">{escape(shown)}{times}</text>'
        f'<text x="{x + 8}" y="{y + 28}" fill-opacity="0.7">{lasted}</text></g></g>'
    )


def _edge(before: Cell, after: Cell) -> str:
    (x1, y1), (x2, y2) = _corner(before), _corner(after)
    back = after[0] <= before[0]
    x1, y1, y2 = x1 + _BOX[0], y1 + _BOX[1] // 2, y2 + _BOX[1] // 2
    bend = _GAP[0] // 2 if not back else _BOX[0] // 2
    dashed = ' stroke-dasharray="4 3"' if back else ""
    curve = f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
    return f'<path d="{curve}" stroke="#8b949e" stroke-width="1.5"{dashed}/>'
