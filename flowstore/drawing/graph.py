"""The graph of a flow as SVG: a box a step, from left to right, in as many rows as it needs.

A step stands in the column after the last of those that lead to it, and an arrow that passes a column has a lane of
its own there, so that no arrow crosses a box. Arrows that lead back, of loops, run above the row. A graph that is wider
than a page goes on in a further row, as text does.

    graph([Box("start", "successful", note="1 task"), Box("end")], [Arrow("start", "end")])
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from html import escape

import attrs

from flowstore.drawing import SHAPES
from flowstore.text import columns_of, one_line, safe, shorten

MOST_BOXES = 200  # more than that is no picture: the table beside it has them all
WIDEST_ROW = 1150
_HEIGHT, _GAP_X, _GAP_Y, _LANE = 50, 44, 14, 16
_NARROWEST, _COLUMNS = 104, 26  # of a box in pixels; of its texts in letters
_RADIUS = 6


@attrs.frozen
class Box:
    """A step as it is drawn.

    Attributes:
        name: its name.
        state: 'successful', 'running', 'failed', 'stopped' or 'dead'; `None` for one that has not started, which has a
            dashed outline; 'plain' for a flow by itself, whose steps have no states.
        times: how often it runs, as in '×40'.
        note: the line below its name.
        title: what is said of it on hovering and to a screen reader, besides name and note.
        href: the address that it leads to.
    """

    name: str
    state: str | None = None
    times: str = ""
    note: str = ""
    title: str = ""
    href: str | None = None


@attrs.frozen
class Arrow:
    """An arrow between two steps, with what is said of it on hovering."""

    before: str
    after: str
    title: str = ""


def graph(boxes: Sequence[Box], arrows: Iterable[Arrow], *, label: str = "Steps") -> str:
    """Return the graph as HTML: SVG in a box that scrolls where the page is narrow.

    Args:
        boxes: the steps, in the order in which they are written or began.
        arrows: what leads where; those that name no box are left out.
        label: the accessible name of the picture, to which the steps are added.

    Returns:
        HTML whose classes are in look.css; nothing for no boxes, or for more than `MOST_BOXES`.
    """
    if not 0 < len(boxes) <= MOST_BOXES:
        return ""
    known = {box.name: box for box in boxes}
    layout = _Layout(known, [arrow for arrow in arrows if {arrow.before, arrow.after} <= known.keys()])
    spoken = "; ".join(_spoken(box) for box in itertools.islice(boxes, 30))
    more = f"; and {len(boxes) - 30} more" if len(boxes) > 30 else ""
    role = "group" if any(box.href for box in boxes) else "img"  # an image hides the links in it from screen readers
    return (
        f'<div class="graph"><svg width="{layout.width}" height="{layout.height}" '
        f'viewBox="0 0 {layout.width} {layout.height}" role="{role}" aria-label="{_text(f"{label}: {spoken}{more}")}">'
        f"{''.join(layout.paths())}{''.join(_box(box, layout.corner(name)) for name, box in known.items())}</svg></div>"
    )


def _text(text: str) -> str:
    return escape(one_line(text))


def _spoken(box: Box) -> str:
    state = {None: "" if box.note else "not started", "plain": ""}.get(box.state, box.state or "")
    return ", ".join(part for part in (f"{shorten(box.name, 100)} {box.times}".strip(), state, box.note) if part)


def _head(box: Box) -> str:
    shape = SHAPES.get(box.state or "", "")
    name = shorten(one_line(box.name), _COLUMNS - len(box.times) - 3)
    return " ".join(part for part in (shape, name, box.times) if part)


def _width_of(box: Box) -> int:
    """Return how wide a box has to be: a letter takes about 7 pixels, one of its note 6."""
    widest = max(columns_of(_head(box)) * 7.1, columns_of(_note(box)) * 6.2)
    return max(_NARROWEST, round(widest) + 26)


def _note(box: Box) -> str:
    return shorten(one_line(box.note), _COLUMNS + 6)


def _box(box: Box, corner: tuple[int, int, int]) -> str:
    x, y, width = corner
    state = box.state or "none"
    title = "\n".join(part for part in (_spoken(box), box.title) if part)
    drawn = (
        f"<title>{escape(safe(title))}</title>"
        f'<rect x="{x}" y="{y}" width="{width}" height="{_HEIGHT}" rx="4" class="box stroke-{_text(state)}"/>'
        f'<text x="{x + 13}" y="{y + 21}">{_coloured(_text(_head(box)), box.state)}</text>'
        f'<text x="{x + 13}" y="{y + 39}" class="faint">{_text(_note(box))}</text>'
    )
    if box.href is None:
        return f"<g>{drawn}</g>"
    return f'<a href="{escape(box.href)}" aria-label="{_text(_spoken(box))}">{drawn}</a>'


def _coloured(head: str, state: str | None) -> str:
    shape = SHAPES.get(state or "")
    return head if shape is None else f'<tspan class="fill-{state}">{shape}</tspan>{head.removeprefix(shape)}'


_Item = str | tuple[int, int]  # a step, or the lane of an arrow in a column: its number and the column's


class _Layout:
    """Where boxes stand and arrows run."""

    def __init__(self, boxes: dict[str, Box], arrows: Sequence[Arrow]) -> None:
        self._boxes = boxes
        loops = _loops(list(boxes), arrows)
        self._own = [arrow for arrow in arrows if arrow.before == arrow.after]
        self._back = [a for a in arrows if (a.before, a.after) in loops and a.before != a.after]
        self._forward = [arrow for arrow in arrows if (arrow.before, arrow.after) not in loops]
        self._column = _columns(list(boxes), self._forward)
        self._chains = [self._chain(n, arrow) for n, arrow in enumerate(self._forward)]
        self._columns: list[list[_Item]] = [[] for _ in range(max(self._column.values()) + 1)]
        for name in boxes:
            self._columns[self._column[name]].append(name)
        for chain in self._chains:
            for lane in chain[1:-1]:
                self._columns[lane[1]].append(lane)  # type: ignore[index]  # a lane, not a step
        self._y: dict[_Item, float] = {}
        self._stack()
        self._rows()

    def _chain(self, n: int, arrow: Arrow) -> list[_Item]:
        first, last = self._column[arrow.before], self._column[arrow.after]
        return [arrow.before, *((n, column) for column in range(first + 1, last)), arrow.after]

    def _stack(self) -> None:
        """Find heights: next to what an item is connected with, without two items in one position."""
        before: dict[_Item, list[_Item]] = {}
        after: dict[_Item, list[_Item]] = {}
        for chain in self._chains:
            for one, other in itertools.pairwise(chain):
                after.setdefault(one, []).append(other)
                before.setdefault(other, []).append(one)
        for column in self._columns:
            self._settle(column, before)
        for _ in range(2):
            for column in reversed(self._columns):
                self._settle(column, after)
            for column in self._columns:
                self._settle(column, before)

    def _settle(self, column: list[_Item], near: dict[_Item, list[_Item]]) -> None:
        def wished(item: _Item) -> float:
            known = [self._y[other] for other in near.get(item, ()) if other in self._y]
            return sum(known) / len(known) if known else self._y.get(item, 0.0)

        wishes = {item: wished(item) for item in column}
        column.sort(key=lambda item: wishes[item])
        at, placed = float("-inf"), []
        for item in column:
            at = max(at, wishes[item] - _tall(item) / 2)
            placed.append(at + _tall(item) / 2)
            at += _tall(item) + _GAP_Y
        drift = sum(y - wishes[item] for y, item in zip(placed, column, strict=True)) / max(1, len(column))
        self._y |= {item: y - drift for y, item in zip(placed, column, strict=True)}

    def _rows(self) -> None:
        """Break columns into rows that fit a page, and give each its corner."""
        widths = [max((_width_of(self._boxes[i]) for i in c if isinstance(i, str)), default=0) for c in self._columns]
        self._row: list[int] = []
        self._left: list[int] = []
        row, x = 0, _GAP_X
        for width in widths:
            if x > _GAP_X and x + width + _GAP_X // 2 > WIDEST_ROW:
                row, x = row + 1, _GAP_X
            self._row.append(row)
            self._left.append(x)
            x += width + _GAP_X
        self._widths = widths
        has_margins = bool(row or self._back or self._own)  # for arrows that run beside the boxes
        if not has_margins:
            self._left = [left - _GAP_X + 2 for left in self._left]
        right = max(left + width for left, width in zip(self._left, widths, strict=True))
        self.width = right + (_GAP_X // 2 if has_margins else 2)
        self._top: list[int] = []  # of each row: where arrows that lead back, or come from the row before, run
        self._shift: list[float] = []
        bottom = 0
        for number in range(row + 1):
            items = [i for c, at in zip(self._columns, self._row, strict=True) if at == number for i in c]
            loops = [arrow for arrow in self._back if self._row[self._column[arrow.before]] == number]
            channel = bottom + (12 if loops or number else 0)
            above = channel + 9 * len(loops) + (12 if loops or number or self._own else 2)
            self._top.append(channel)
            self._shift.append(above - min(self._y[i] - _tall(i) / 2 for i in items))
            bottom = above + round(max(self._y[i] + _tall(i) / 2 for i in items) + self._shift[-1] - above)
        self.height = bottom + 2

    def corner(self, name: str) -> tuple[int, int, int]:
        """Return left, top and width of a step's box."""
        column = self._column[name]
        return self._left[column], round(self._middle(name, column) - _HEIGHT / 2), self._widths[column]

    def _middle(self, item: _Item, column: int) -> int:
        return round(self._y[item] + self._shift[self._row[column]])

    def paths(self) -> Iterable[str]:
        """Yield the arrows as SVG."""
        for arrow, chain in zip(self._forward, self._chains, strict=True):
            yield _path(self._course(arrow, chain), arrow.title)
        for n, arrow in enumerate(self._back):
            yield _path(self._loop(n, arrow), arrow.title)
        for arrow in self._own:
            yield _path(self._around(arrow.before), arrow.title)

    def _course(self, arrow: Arrow, chain: Sequence[_Item]) -> str:
        column = self._column[arrow.before]
        x, y = self._left[column] + self._widths[column], self._middle(arrow.before, column)
        course = f"M{x} {y}"
        for item in chain[1:]:
            before, column = column, column + 1
            left, level = self._left[column], self._middle(item, column)
            if self._row[column] != self._row[before]:
                aside = x + _GAP_X // 3
                points = [(x, y), (aside, y), (aside, self._top[self._row[column]])]
                points += [(_GAP_X // 3, points[-1][1]), (_GAP_X // 3, level), (left, level)]
                course += _rounded(points)
            else:
                bend = (left - x) // 2
                course += f"H{left}" if level == y else f"C{x + bend} {y} {left - bend} {level} {left} {level}"
            x, y = left, level
            if not isinstance(item, str):
                x += self._widths[column]
                course += f"H{x}"
        return course + _tip(x, y)

    def _around(self, name: str) -> str:
        """Return the arrow from a step to itself: around the upper half of its box."""
        left, top, width = self.corner(name)
        level, right = top + 14, left + width
        points = [(right, level), (right + 12, level), (right + 12, top - 7), (left - 12, top - 7), (left - 12, level)]
        return f"M{right} {level}" + _rounded([*points, (left, level)]) + _tip(left, level)

    def _loop(self, n: int, arrow: Arrow) -> str:
        source, target = self._column[arrow.before], self._column[arrow.after]
        right = self._left[source] + self._widths[source]
        left = self._left[target]
        start, end = self._middle(arrow.before, source), self._middle(arrow.after, target)
        level = self._top[self._row[source]] + 9 * (n % 5)
        points = [(right, start + 8), (right + 14, start + 8), (right + 14, level)]
        if self._row[source] != self._row[target]:
            points += [(6, level), (6, end - 8), (left, end - 8)]
        else:
            points += [(left - 16, level), (left - 16, end - 8), (left, end - 8)]
        return f"M{right} {start + 8}" + _rounded(points) + _tip(left, end - 8)


def _tall(item: _Item) -> int:
    return _HEIGHT if isinstance(item, str) else _LANE


def _loops(names: Sequence[str], arrows: Sequence[Arrow]) -> set[tuple[str, str]]:
    """Return the pairs of steps of which the second was on the way to the first."""
    after: dict[str, list[str]] = {name: [] for name in names}
    for arrow in arrows:
        after[arrow.before].append(arrow.after)
    back: set[tuple[str, str]] = set()
    on_the_way: set[str] = set()
    done: set[str] = set()

    def visit(name: str) -> None:
        on_the_way.add(name)
        for other in after[name]:
            if other in on_the_way:
                back.add((name, other))
            elif other not in done:
                visit(other)
        on_the_way.discard(name)
        done.add(name)

    for name in names:
        if name not in done:
            visit(name)
    return back


def _columns(names: Sequence[str], forward: Sequence[Arrow]) -> dict[str, int]:
    """Return the column of each step: the longest way to it."""
    before: dict[str, list[str]] = {name: [] for name in names}
    for arrow in forward:
        before[arrow.after].append(arrow.before)
    columns: dict[str, int] = {}

    def column(name: str) -> int:
        if name not in columns:
            columns[name] = max((column(other) + 1 for other in before[name]), default=0)
        return columns[name]

    for name in names:
        column(name)
    return columns


def _path(course: str, title: str) -> str:
    shown = f"<title>{_text(title)}</title>" if title else ""
    return f'<path class="edge" d="{course}">{shown}</path>'


def _tip(x: int, y: int) -> str:
    return f"M{x - 6} {y - 4}L{x - 1} {y}L{x - 6} {y + 4}"


def _rounded(points: Sequence[tuple[int, int]]) -> str:
    """Return the course through points, at right angles, with round corners; it begins at the first point."""
    course = ""
    for (x0, y0), (x1, y1), (x2, y2) in zip(points, points[1:], points[2:], strict=False):
        into = min(_RADIUS, max(abs(x1 - x0), abs(y1 - y0)) // 2)
        out = min(_RADIUS, max(abs(x2 - x1), abs(y2 - y1)) // 2)
        course += f"L{_toward(x1, x0, into)} {_toward(y1, y0, into)}"
        course += f"Q{x1} {y1} {_toward(x1, x2, out)} {_toward(y1, y2, out)}"
    return f"{course}L{points[-1][0]} {points[-1][1]}"


def _toward(value: int, other: int, by: int) -> int:
    return value if value == other else value + (by if other > value else -by)
