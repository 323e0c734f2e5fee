"""How objects look in a notebook: tables made of previews, so that looking never loads anything."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from flowstore.store import overview

if TYPE_CHECKING:
    from flowstore.client.artifact import DataArtifact
    from flowstore.client.run import Flow, Run, Step
    from flowstore.client.task import Task
from flowstore.store.overview import StepState

MOST_ROWS = 20


def flow(found: Flow) -> str:
    """Its newest runs in the active namespace."""
    return _page(found, {}, _table(("run", "status", "created (UTC)", "tags"), map(_run_cells, found)))


def _run_cells(run: Run) -> Sequence[Any]:
    return run.id, run.status, f"{run.created_at:%Y-%m-%d %H:%M:%S}", ", ".join(sorted(run.user_tags))


def run(found: Run) -> str:
    """Its status, tags, parameters and steps, drawn and as a table, and what its end has."""
    status = found.status
    why = overview.first_failure(found._store, int(found.id)) if status == "failed" else None
    origin = found.origin_run_id
    facts = {
        "status": status,
        "failed in": "" if why is None else str(why),
        "to go on": "" if status in {"running", "successful"} else overview.resume_command(found._store, int(found.id)),
        "resumes": "" if origin is None else f"{found.path_components[0]}/{origin}",
        "created": f"{found.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "parameters": ", ".join(f"{name}={value!r}" for name, value in found._listed_parameters().items()),
        "tags": ", ".join(sorted(found.tags)),
    }
    steps = overview.steps(found._store, int(found.id), dead=facts["status"] == "dead")
    edges = overview.edges(found._store, int(found.id))
    rows = ((step.name, _counts(step), _after(step.name, edges), step.duration_s) for step in steps)
    table = _table(("step", "tasks", "after", "seconds"), rows)
    end = found.end_task
    artifacts = "" if end is None else _artifacts(end)
    return _page(found, facts, f"<div>{svg(steps, edges)}</div>{table}{artifacts}")


def _counts(step: overview.StepState) -> str:
    return ", ".join(f"{count} {status}" for status, count in step.tasks.items())


def _after(name: str, edges: Iterable[tuple[str, str]]) -> str:
    return ", ".join(before for before, after in edges if after == name)


def step(found: Step) -> str:
    """Its tasks."""
    items = overview.items(found._store, int(found.path_components[1]))
    cells = ((task.id, task.status, task.index, items.get(int(task.id))) for task in found)
    return _page(found, {}, _table(("task", "status", "index", "item"), cells))


def task(found: Task) -> str:
    """How it went, and its artifacts."""
    why = found.exception
    item = overview.items(found._store, int(found.path_components[1])).get(int(found.id), "")
    facts = {"status": found.status, "item": item, "exception": "" if why is None else f"{why.type}: {why.message}"}
    return _page(found, facts, _artifacts(found))


def _artifacts(found: Task) -> str:
    public = ((name, blob) for name, blob in found._blobs().items() if not name.startswith("_"))
    cells = ((name, blob.type, blob.size_bytes, blob.preview) for name, blob in public)
    return _table(("artifact", "type", "bytes", "preview"), cells)


def artifact(found: DataArtifact) -> str:
    """What it is."""
    return _page(found, {"type": found.type, "bytes": found.size, "codec": found.codec, "preview": found.preview}, "")


def _page(found: Any, facts: Mapping[str, Any], table: str) -> str:
    lines = "".join(f"<br>{escape(name)}: {_cell(value)}" for name, value in facts.items() if value != "")
    return f"<div><b>{escape(repr(found))}</b>{lines}{table}</div>"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    shown = list(itertools.islice(rows, MOST_ROWS + 1))
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
Place = tuple[int, int]


def svg(steps: Sequence[StepState], edges: Edges) -> str:
    """The diagram, or nothing where it would be too large to be read."""
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


def _places(names: Sequence[str], edges: Edges) -> Mapping[str, Place]:
    """The column and row of each step; the steps are in the order in which they began."""
    order = {name: n for n, name in enumerate(names)}
    columns = dict.fromkeys(names, 0)
    for name in names:
        before = [one for one, other in edges if other == name and order.get(one, len(names)) < order[name]]
        columns[name] = max((columns[one] + 1 for one in before), default=0)
    filled: dict[int, int] = {}
    places: dict[str, Place] = {}
    for name in names:
        column = columns[name]
        places[name] = (column, filled.get(column, 0))
        filled[column] = filled.get(column, 0) + 1
    return places


def _corner(place: Place) -> Place:
    return place[0] * (_BOX[0] + _GAP[0]) + _GAP[0] // 2, place[1] * (_BOX[1] + _GAP[1]) + _GAP[1] // 2


def _box(step: StepState, place: Place) -> str:
    x, y = _corner(place)
    colour = next((_COLOURS[status] for status in _WORST_FIRST if status in step.tasks), "#8b949e")
    counts = ", ".join(f"{count} {status}" for status, count in step.tasks.items())
    shown = step.name if len(step.name) <= _MOST_LETTERS else step.name[: _MOST_LETTERS - 1] + "…"
    total = sum(step.tasks.values())
    times = f" ×{total}" if total > 1 else ""
    lasted = "" if step.duration_s is None else f"{step.duration_s:.3g} s"
    return (
        f"<g><title>{escape(step.name)}: {escape(counts)}</title>"
        f'<rect x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" rx="6" stroke="{colour}" stroke-width="2" '
        f'fill="{colour}" fill-opacity="0.12"/><g fill="currentColor">'
        f'<text x="{x + 8}" y="{y + 14}">{escape(shown)}{times}</text>'
        f'<text x="{x + 8}" y="{y + 28}" fill-opacity="0.7">{lasted}</text></g></g>'
    )


def _edge(before: Place, after: Place) -> str:
    (x1, y1), (x2, y2) = _corner(before), _corner(after)
    back = after[0] <= before[0]
    x1, y1, y2 = x1 + _BOX[0], y1 + _BOX[1] // 2, y2 + _BOX[1] // 2
    bend = _GAP[0] // 2 if not back else _BOX[0] // 2
    dashed = ' stroke-dasharray="4 3"' if back else ""
    curve = f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
    return f'<path d="{curve}" stroke="#8b949e" stroke-width="1.5"{dashed}/>'
