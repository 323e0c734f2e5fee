"""Logs of tasks: all of them at once, or line by line as they come."""

from __future__ import annotations

import functools
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import click

from flowstore import later
from flowstore.cli.output import Rows, say
from flowstore.client import Run, Step, Task
from flowstore.client.task import last_state
from flowstore.sqlite.typed_rows import time_of
from flowstore.store import log_chunks

COLUMNS = ("task", "attempt", "stream", "written_at", "text")
_POLL_S = 0.3

_OPTIONS = (
    click.option("--stdout", is_flag=True, help="Only stdout."),
    click.option("--stderr", is_flag=True, help="Only stderr."),
    click.option("--timestamps", is_flag=True, help="Begin each line with its time, in UTC."),
    click.option("--attempt", type=click.IntRange(0, 10**9), metavar="N",
                 help="Of this attempt, from 0; default: the last one."),
    click.option("--raw", is_flag=True, help="Keep control characters."),
    click.option("-f", "--follow", is_flag=True, help="Go on as more is printed, until the run ends."),
)  # fmt: skip


@later.frozen(kw_only=True)
class Wish:
    """The lines that are wanted, and how they are shown.

    Attributes:
        stdout: of this stream; of both where neither is chosen.
        stderr: of this stream.
        timestamps: whether each line begins with its time.
        attempt: the number of the attempt; `None`: the last one.
        raw: whether control characters are kept.
        bare: whether lines of several tasks come without their task's name.
    """

    stdout: bool = False
    stderr: bool = False
    timestamps: bool = False
    attempt: int | None = None
    raw: bool = False
    bare: bool = False

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of the streams."""
        both = self.stdout == self.stderr
        return tuple(name for name, wanted in (("stdout", self.stdout), ("stderr", self.stderr)) if wanted or both)

    def say(self, at: datetime, label: str, line: str) -> None:
        """Print a line."""
        time_ = f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} " if self.timestamps else ""
        say(f"{time_}{'' if self.bare else label}{line}", raw=self.raw)


def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that shows logs: those that make a `Wish`, and --follow."""
    return functools.reduce(lambda decorated, option: option(decorated), reversed(_OPTIONS), function)


def rows(tasks: Iterable[Task], wish: Wish) -> Rows:
    """Return a row a line that tasks printed, in order."""
    import heapq

    return [
        {"task": task.pathspec, "attempt": task.current_attempt, "stream": stream, "written_at": at, "text": line}
        for task in _at_attempt(tasks, wish.attempt)
        for at, stream, line in heapq.merge(
            *([(at, stream, line) for at, line in task.loglines(stream)] for stream in wish.streams),
            key=lambda line: line[0],
        )
    ]


def show(tasks: Sequence[Task], wish: Wish) -> None:
    """Print what tasks printed, in order; where there are several, each line says whose it is."""
    for task in _at_attempt(tasks, wish.attempt):
        label = "" if len(tasks) == 1 else f"[{'/'.join(task.path_components[1:])}] "
        for at, line in task.loglines(*wish.streams):
            wish.say(at, label, line)


def _at_attempt(tasks: Iterable[Task], attempt: int | None) -> Iterator[Task]:
    """Yield the tasks as they were in an attempt, by default the last one."""
    for task in tasks:
        yield task if attempt is None else task._as_of(attempt)


def show_as_it_comes(of: Run | Step | Task, wish: Wish) -> None:
    """Print what tasks print, until they end; each line says whose it is, unless there is one task."""
    run_id = of.path_components[1]
    try:
        for line in _follow(of, wish):
            wish.say(line.at, "" if isinstance(of, Task) else f"[{run_id}/{line.task}] ", line.text)
            sys.stdout.flush()
    except KeyboardInterrupt:  # the way to stop looking: nothing was stopped that had to be said
        raise click.exceptions.Exit(128 + signal.SIGINT) from None


@later.frozen
class _Line:
    """A line that a task printed: when, the task as `step/id`, and the text."""

    at: datetime
    task: str
    text: str


def _follow(of: Run | Step | Task, wish: Wish) -> Iterator[_Line]:
    """Yield the lines that the tasks of a run, step or task have printed, and print until they end."""
    store, parts = of._store, of.path_components
    run = of if isinstance(of, Run) else Run._at(of._scope, "/".join(parts[:2]))
    query = log_chunks.Followed(
        run_id=int(run.id),
        step=parts[2] if len(parts) > 2 else None,
        task_id=int(parts[3]) if len(parts) > 3 else None,
        attempt=wish.attempt,
        stream=wish.streams[0] if len(wish.streams) == 1 else None,
    )
    last = 0
    unfinished: dict[tuple[str, str], tuple[datetime, str]] = {}  # lines, by task and stream
    while True:
        ended = (of if isinstance(of, Task) else run).status != "running"
        for row in log_chunks.read_after(store, query, last):
            last = row["id"]
            key = (f"{row['step']}/{row['task_id']}", row["stream"])
            at = time_of(row["written_at"])
            *lines, rest = (unfinished.get(key, (at, ""))[1] + row["text"]).split("\n")
            unfinished[key] = (at, rest)
            yield from (_Line(at, key[0], last_state(line)) for line in lines)
        if ended:
            break
        time.sleep(_POLL_S)  # the run is in another process, and SQLite announces no change
    yield from (_Line(at, task, last_state(rest)) for (task, _), (at, rest) in unfinished.items() if rest)
