"""Timelines of runs: which tasks ran when, in rows of which there are few however many tasks there are.

What failed and what runs has rows of its own, at the top. A step with many other tasks is one row with a strip that
says how many of them ran at a time, until it is unfolded.

    draw(of_run(run, rows.of_run(run)), label="Timeline of PricesFlow/41")
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import attrs

from flowstore.client import rows
from flowstore.drawing.timeline import LEVELS, MOST_BARS, Bar, Line, timeline
from flowstore.sqlite.database import Row
from flowstore.sqlite.typed_rows import positions_of
from flowstore.store import steps
from flowstore.text import counted, duration

if TYPE_CHECKING:
    from flowstore.client.rows import RunRow, StepRow
    from flowstore.client.run import Run

MOST_ROWS = 1000  # of tasks that are neither failed nor running
MOST_UNSUCCESSFUL = 100  # rows at the top
UNSUCCESSFUL = ("failed", "dead", "stopped", "running")
FOLDED_ABOVE = 6  # tasks of a step that are neither failed nor running
MOST_STEPS = 200
_BINS = 100
_SAMPLE = 1000  # tasks of a step, or some more, are enough to see how many ran at a time


@attrs.frozen
class Span:
    """An attempt in a timeline.

    Attributes:
        state: its status.
        begin, end: when it ran, in seconds since the run began.
        host: the machine, unless that is the one of the run itself.
    """

    state: str
    begin: float
    end: float
    host: str | None = None


@attrs.frozen
class TimelineRow:
    """A row of a timeline: a task, or tasks of a step.

    Attributes:
        pathspec: the address of the task; of the step, where there are several.
        tasks: how many tasks it stands for.
        state: of the task, or the worst of several; 'reused' for what was taken over from another run.
        spans: the attempts in order; of several tasks, the time from the first to the last.
        index: the task's position in each enclosing foreach, outermost first.
        item: a preview of its foreach item.
        origin: the task, or the run, that it was taken over from.
        attempts: how many attempts the task had; `spans` may lack some of very many.
        others: whether further tasks of the step have rows of their own.
        running: of several tasks, how many ran in each part of the run, in parts of equal length.
    """

    pathspec: str
    tasks: int
    state: str
    spans: tuple[Span, ...]
    index: tuple[int, ...] = ()
    item: str | None = None
    origin: str | None = None
    attempts: int = 1
    others: bool = False
    running: tuple[int, ...] = ()

    @property
    def step(self) -> str:
        """The step's name."""
        return self.pathspec.split("/")[2]


@attrs.frozen
class Timeline:
    """The rows of a timeline from top to bottom, and how long the run took, so far where it runs."""

    rows: tuple[TimelineRow, ...]
    length_s: float


def of_run(
    run: Run, row: RunRow, unfolded: Collection[str] = (), step_rows: Sequence[StepRow] | None = None
) -> Timeline:
    """Return the timeline of a run.

    Args:
        run: the run.
        row: its row.
        unfolded: names of steps whose tasks have a row each, up to `MOST_ROWS` in all.
        step_rows: its steps that began, where they are known already.
    """
    known = rows.of_steps(run, row.status) if step_rows is None else step_rows
    return _Reader(run, row, known[:MOST_STEPS], frozenset(unfolded)).read()


def draw(timed: Timeline, link: Callable[[TimelineRow], str | None] | None = None, *, label: str) -> str:
    """Return a timeline as HTML, made of classes in look.css.

    Args:
        timed: as `of_run` returns it.
        link: returns the address that a row leads to: of a task (`tasks` is 1) its page, else the address at which the
            step is unfolded; without it there are no links.
        label: the accessible name of the picture.
    """
    lines = [_line(row, timed.length_s, None if link is None else link(row)) for row in timed.rows]
    return timeline(lines, timed.length_s, label=label)


def name_of(row: TimelineRow) -> str:
    """Return what a row is called: 'try_out[17]', or '▸ try_out, 31 others'."""
    if row.tasks == 1 and not row.running:
        return row.step + "".join(f"[{position}]" for position in row.index)
    if row.others:
        return f"▸ {row.step}, {counted(row.tasks, 'other')}"
    return f"▸ {row.step}, {counted(row.tasks, 'task')}"


def _line(row: TimelineRow, length_s: float, href: str | None) -> Line:
    name, several = name_of(row), bool(row.running)
    took = duration(row.spans[-1].end - row.spans[0].begin)
    note = took if row.attempts == 1 else f"{row.attempts:,} attempts, {took}"
    if row.state == "reused":
        note = f"taken over from {row.origin}"
    most = max(row.running, default=0)
    parts = (
        name,
        row.state,
        f"item {row.item}" if row.item else "",
        note,
        f"on {row.spans[-1].host}" if row.spans[-1].host else "",
        f"up to about {most:,} at a time" if several else "",
    )
    title = ", ".join(part for part in parts if part)
    if several:
        density = [-(-LEVELS * count // most) if most else 0 for count in row.running]
        bars = [Bar(0, length_s, row.state, title, density)]
    else:
        bars = [Bar(span.begin, span.end, span.state, _said(row, n, title)) for n, span in enumerate(row.spans)]
    return Line(name, bars, None if row.tasks > 1 else row.state, note, title, href)


def _said(row: TimelineRow, number: int, title: str) -> str:
    if row.attempts == 1:
        return title
    span = row.spans[number]
    where = f", on {span.host}" if span.host else ""
    return f"{name_of(row)}, attempt {number}, {span.state}, {duration(span.end - span.begin)}{where}"


class _Reader:
    """Reads the timeline of a run, in a few queries."""

    def __init__(self, run: Run, row: RunRow, step_rows: Sequence[StepRow], unfolded: Collection[str]) -> None:
        self._run, self._row, self._unfolded = run, row, unfolded
        self._store, self._id = run._store, int(run.id)
        self._begin = _ms(row.created_at)
        self._steps = {step.name: step for step in step_rows if step.total}
        self._end = self._end_at()

    def _end_at(self) -> int:
        """Return when the run ended, in milliseconds: now, where it runs."""
        own = (step.finished_at for step in self._steps.values() if step.total > step.taken_over)
        last = max([self._begin, *(_ms(end) for end in own if end is not None)])
        if self._row.finished_at is not None:
            return max(last, _ms(self._row.finished_at))
        seen_at = int(self._run._row()["last_seen_at"])
        return max(last, seen_at if self._row.status == "dead" else time.time_ns() // 1_000_000)

    def read(self) -> Timeline:
        """Return the rows, what failed and what runs first."""
        first = steps.unsuccessful_tasks(self._store, self._id, MOST_UNSUCCESSFUL)
        listed = {task["id"] for task in first}
        small = [name for name in self._steps if self._others(name, first) <= FOLDED_ABOVE]
        unfolded = [name for name in self._steps if name in self._unfolded and name not in small]
        rest = steps.tasks_of(self._store, self._id, small, MOST_ROWS)
        if unfolded:
            rest += steps.tasks_of(self._store, self._id, unfolded, MOST_ROWS)
        rest = [task for task in rest if task["id"] not in listed]
        attempts = self._attempts([*first, *rest])
        lines = [self._task(task, attempts) for task in first]
        by_step: dict[str, list[Row]] = {}
        for task in rest:
            by_step.setdefault(task["step"], []).append(task)
        shown = Counter(task["step"] for task in [*first, *rest] if task["origin_pathspec"] is None)
        folded = {name: left for name in self._steps if (left := self._own(name) - shown[name]) > 0}
        running = self._running(folded)
        for name, step in self._steps.items():
            own = by_step.get(name, [])
            lines += [self._task(task, attempts) for task in own]
            if name in folded:
                lines.append(self._folded(name, folded[name], running[name], others=shown[name] > 0))
            reused = step.taken_over - sum(task["origin_pathspec"] is not None for task in own)
            if reused > 0:
                lines.append(self._taken_over(name, reused))
        return Timeline(tuple(lines), (self._end - self._begin) / 1000)

    def _own(self, name: str) -> int:
        return self._steps[name].total - self._steps[name].taken_over

    def _others(self, name: str, first: Sequence[Row]) -> int:
        return self._steps[name].total - sum(1 for task in first if task["step"] == name)

    def _attempts(self, tasks: Iterable[Row]) -> dict[int, list[Row]]:
        """Return the attempts of the tasks that had several."""
        ids = [task["id"] for task in tasks if task["attempts"] > 1]
        rows = steps.attempts_of(self._store, ids, MOST_BARS - MOST_ROWS) if ids else []
        return {task_id: list(group) for task_id, group in itertools.groupby(rows, key=lambda row: row["task_id"])}

    def _running(self, names: Collection[str]) -> dict[str, tuple[int, ...]]:
        """Return how many tasks of some steps ran in each part of the run."""
        if not names:
            return {}
        bins = max(10, min(_BINS, MOST_BARS // 2 // len(names)))
        changes: dict[str, list[int]] = {name: [0] * (bins + 1) for name in names}
        every = max(1, max(map(self._own, names)) // _SAMPLE)
        spans = steps.spans(
            self._store, self._id, names, begin=self._begin, length=self._end - self._begin, bins=bins, every=every
        )
        for span in spans:
            changes[span["step"]][span["first"]] += span["tasks"]
            changes[span["step"]][min(bins, span["last"] + 1)] -= span["tasks"]
        return {name: tuple(itertools.accumulate(counts[:-1])) for name, counts in changes.items()}

    def _task(self, task: Row, attempts: Mapping[int, Sequence[Row]]) -> TimelineRow:
        reused = task["origin_pathspec"] is not None
        spans = tuple(self._span(attempt) for attempt in attempts.get(task["id"], [task]))
        return TimelineRow(
            pathspec=f"{self._run.pathspec}/{task['step']}/{task['id']}",
            tasks=1,
            state="reused" if reused else spans[-1].state,
            spans=(Span("reused", 0, 0),) if reused else spans,
            index=() if task["foreach_path"] is None else tuple(positions_of(task["foreach_path"])),
            item=task["item"],
            origin=task["origin_pathspec"],
            attempts=1 if reused else task["attempts"],
        )

    def _span(self, row: Row) -> Span:
        end = self._end if row["finished_at"] is None else row["finished_at"]
        return Span(self._state(row["status"]), self._seconds(row["started_at"]), self._seconds(end), row["ran_on"])

    def _state(self, status: str) -> str:
        return "dead" if status == "running" and self._row.status == "dead" else status

    def _seconds(self, at: int) -> float:
        return float(at - self._begin) / 1000

    def _folded(self, name: str, tasks: int, running: tuple[int, ...], *, others: bool) -> TimelineRow:
        step = self._steps[name]
        end = self._end if step.finished_at is None else _ms(step.finished_at)
        # What failed and what runs has been listed, unless it is very much.
        many = sum(count for state, count in step.tasks.items() if state != "successful") >= MOST_UNSUCCESSFUL
        state = next((state for state in UNSUCCESSFUL if many and state in step.tasks), "successful")
        span = Span(state, self._seconds(_ms(step.created_at)), self._seconds(end))
        return TimelineRow(f"{self._run.pathspec}/{name}", tasks, state, (span,), others=others, running=running)

    def _taken_over(self, name: str, tasks: int) -> TimelineRow:
        origin = f"{self._row.flow}/{self._row.origin_run_id}"
        others = self._own(name) > 0
        return TimelineRow(
            f"{self._run.pathspec}/{name}", tasks, "reused", (Span("reused", 0, 0),), origin=origin, others=others
        )


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
