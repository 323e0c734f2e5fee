"""A run's steps and what came after what, drawn: inline SVG of a few kilobytes, without scripts or styles.

A step stands in the column after the furthest of the steps before it; an edge that leads back, as of a loop, is
dashed. Only steps that have begun are known. Names come from files of anybody, so all text is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from flowstore.store.overview import StepState

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
