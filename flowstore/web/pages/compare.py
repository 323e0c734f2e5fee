"""Runs side by side: what differs between them, with their metrics drawn, and the code of each against the first."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from flowstore.client import Run, rows
from flowstore.client.compare import VALUES, Row, by_key, side_by_side, text_diff
from flowstore.client.rows import RunRow, in_words
from flowstore.drawing.plot import Amount, Point, bars, plot
from flowstore.store import metrics
from flowstore.store.run_pages import RunQuery
from flowstore.text import size
from flowstore.web.pages import Page, View, run_json
from flowstore.web.templating import pathspec, value

_OFFERED = 20  # runs to choose from where none is chosen
_MOST_LINES_FOLDED = 20  # of a group, until the rest is asked for
_MOST_PLOTS = 8
_MOST_BARS = 12  # runs: more of them are points
_MOST_CHANGES = 20  # of files, each against the first run's
_MOST_LINES = 400  # of one change
_IN_HEAD = ("status", "duration_s")
_LONGEST = 300  # characters of a value
_TITLES = {
    "parameter": "Parameters", "metric": "Metrics", "run": "Run", "tag": "Tags", "artifact": "Artifacts at the end",
    "set": "Artifacts of steps", "step": "Tasks of steps", "timing": "Time of steps, in seconds", "code": "Code",
    "package": "Packages",
}  # fmt: skip


@attrs.frozen
class Cell:
    """How one run has something.

    Attributes:
        text: what is shown; `None` where it is not there.
        number: whether it is a number.
        href: the address of the whole of it.
        same: whether it is as the first run has it.
    """

    text: str | None
    number: bool = False
    href: str | None = None
    same: bool = False


@attrs.frozen
class Line:
    """A line of the comparison: the name, and a cell for each run."""

    name: str
    cells: list[Cell]
    differs: bool


@attrs.frozen
class Change:
    """How a file of a run differs from the first run's: the lines of a unified diff, or a sentence."""

    file: str
    run: str
    lines: list[str]
    cut: bool


def compare(view: View) -> Page:
    """Return runs side by side."""
    everything = bool(view.query.get("all"))
    runs = [view.store.run(address) for address in dict.fromkeys(view.query.all("run"))]
    runs = list({run.pathspec: run for run in runs}.values())
    if len(runs) < 2:
        return _choose(view, runs)
    listed, measured = rows.of_runs(runs), metrics.final(view.database, [int(run.id) for run in runs])
    numbers = [measured[int(run.id)] for run in runs]
    compared = [*side_by_side(runs, everything=everything), *_metrics(numbers, everything=everything)]
    ends = [None if run.end_task is None else run.end_task.pathspec for run in runs]
    groups = {
        title: _shared_first(line for row in _once(compared) if row.kind == kind for line in _lines(row, ends))
        for kind, title in _TITLES.items()
    }
    changes = list(itertools.islice(_changes(listed, compared), _MOST_CHANGES + 1))
    data = {
        "runs": listed,
        "groups": {title: lines for title, lines in groups.items() if lines},
        "plots": list(itertools.islice(_plots(listed, compared), _MOST_PLOTS)),
        "changes": changes[:_MOST_CHANGES],
        "more_changes": len(changes) > _MOST_CHANGES,
        "everything": everything,
        "unfolded": view.query.all("unfold"),
        "folded": _MOST_LINES_FOLDED,
        "query": view.query,
    }

    def as_json() -> dict[str, Any]:
        return {
            "runs": [{**run_json(row), "metrics": own} for row, own in zip(listed, numbers, strict=True)],
            "rows": [attrs.asdict(row, recurse=False) for row in compared],
        }

    names = ", ".join(row.pathspec for row in listed[:3])
    return Page("compare.html", f"Compare {names}", data, as_json, any(row.status == "running" for row in listed))


def _choose(view: View, runs: Sequence[Run]) -> Page:
    """Return a page on which runs are chosen, the newest of the flow of the one that is chosen already."""
    flow = runs[0].path_components[0] if runs else None
    newest = rows.table_of_runs(view.store._scope, RunQuery(flow=flow, limit=_OFFERED)).rows
    chosen = rows.of_runs(runs)
    older = [row for row in chosen if row.pathspec not in {other.pathspec for other in newest}]
    data = {"offered": [*older, *newest], "chosen": [row.pathspec for row in chosen], "runs": []}
    return Page("compare.html", "Compare runs", data, lambda: {"runs": [*map(run_json, chosen)], "rows": []})


def _metrics(numbers: Sequence[dict[str, float]], *, everything: bool) -> Iterator[Row]:
    for name in dict.fromkeys(name for own in numbers for name in own):
        values = [own.get(name) for own in numbers]
        differs = any(one != values[0] for one in values)
        if differs or everything:
            yield Row("metric", name, values, differs)


# --- cells


def _once(compared: Sequence[Row]) -> Iterator[Row]:
    """Yield rows without those that say what another one or the head of the table says."""
    at_end = {row.name: row.values for row in compared if row.kind == "artifact"}
    measured = {row.name for row in compared if row.kind == "metric"}
    for row in compared:
        if row.kind == "set" and at_end.get(row.name.rpartition("/")[2]) == row.values:
            continue
        if (row.kind == "run" and row.name in _IN_HEAD) or (row.kind == "tag" and row.name.startswith("date:")):
            continue
        parts = by_key(row) if row.kind == "artifact" else [row]
        yield from (part for part in parts if part.kind != "artifact" or part.name not in measured)


def _lines(row: Row, ends: Sequence[str | None]) -> Iterator[Line]:
    for part in by_key(row):
        cells = [_cell(part, one, end) for one, end in zip(part.values, ends, strict=True)]
        same = [attrs.evolve(cell, same=one == part.values[0]) for cell, one in zip(cells, part.values, strict=True)]
        yield Line(part.name, same, part.differs)


def _shared_first(lines: Iterable[Line]) -> list[Line]:
    """Return lines with those that only one run has last: runs of two flows have hundreds of them."""
    return sorted(lines, key=lambda line: sum(cell.text is not None for cell in line.cells) < 2)


def _cell(row: Row, one: Any, end: str | None) -> Cell:
    """Return how a run has what a row is about."""
    if one is None:
        return Cell(None)
    if row.kind in VALUES:
        shown = one["preview"] if one["value"] is None else value(one["value"])
        whole = row.kind == "artifact" and end is not None and "sha" in one
        is_number = type(one["value"]) in {int, float}
        return Cell(shown[:_LONGEST], is_number, pathspec(f"{end}/{row.name}") if whole else None)
    if row.kind == "tag":
        return Cell("✓")
    if row.kind == "step":
        return Cell(in_words(one))
    if row.kind == "code":
        return Cell(f"{one['sha'][:8]}, {size(one['size_bytes'])}")
    if row.name == "duration_s" or row.kind == "timing":
        return Cell(f"{one:.3g}", number=True)
    return Cell(value(one), number=type(one) in {int, float})


# --- pictures and changes


def _plots(listed: Sequence[RunRow], compared: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yield a caption and a picture of metrics that differ between runs which have them.

    A picture is bars or, of many runs, a plot, which names the metric itself.
    """
    for row in compared:
        if row.kind != "metric" or not row.differs or sum(number is not None for number in row.values) < 2:
            continue
        if len(listed) <= _MOST_BARS:
            amounts = [
                Amount(run.pathspec, number, pathspec(run.pathspec))
                for run, number in zip(listed, row.values, strict=True)
            ]
            yield row.name, bars(amounts, label=row.name)
        else:
            points = [
                Point(run.created_at, number, title=run.pathspec, href=pathspec(run.pathspec))
                for run, number in zip(listed, row.values, strict=True)
            ]
            yield "", plot(points, x_label="started", y_label=row.name)


def _changes(listed: Sequence[RunRow], compared: Sequence[Row]) -> Iterator[Change]:
    """Yield how files of runs differ from the first run's; each text once."""
    for row in compared:
        if row.kind != "code" or not row.differs:
            continue
        first, *others = row.values
        seen = {first and first["sha"]}
        for run, other in zip(listed[1:], others, strict=True):
            if (other and other["sha"]) in seen:
                continue
            seen.add(other and other["sha"])
            lines = list(itertools.islice(text_diff(row.name, first, other), 2, _MOST_LINES + 3))
            yield Change(row.name, run.pathspec, lines[:_MOST_LINES], len(lines) > _MOST_LINES)
