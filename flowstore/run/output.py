"""The output of tasks, on its way to the console and into the store's log."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from flowstore.run.attempts import LAST_LINES, RunningTask
from flowstore.run.console import Console
from flowstore.run.lines import Lines
from flowstore.store import records

LOG_INTERVAL_S = 0.5
_LOG_BYTES = 4 << 20  # wait for no interval


class Output:
    """Takes what the tasks of a run print.

    Args:
        console: where lines are shown.
        run_id: of the run.

    Attributes:
        due: when what has come is to be in the store, if anything has.
    """

    def __init__(self, console: Console, run_id: int) -> None:
        self._console = console
        self._run_id = run_id
        self._log: list[tuple[int, str, int, str]] = []
        self._bytes = 0
        self.due: float | None = None

    @property
    def waiting(self) -> bool:
        """Whether there is text that the store does not have."""
        return bool(self._log)

    def is_due(self) -> bool:
        """Return whether it is time to write."""
        return self.due is not None and (time.monotonic() >= self.due or self._bytes > _LOG_BYTES)

    def label(self, task: RunningTask) -> str:
        """Return the name of a task in front of its lines."""
        process = f"pid {task.pid}" if task.pid is not None else "no process"
        if task.host is not None:
            process = f"{process} on {task.host}"
        return f"{self._run_id}/{task.planned.step}/{task.id} ({process})"

    def take(self, task: RunningTask, stream: str, data: bytes, *, end: bool = False) -> None:
        """Take what a task has written to a stream."""
        now = time.monotonic()
        for other, lines in task.streams.items():
            if other != stream and lines.waiting:  # what was ended there comes first
                self._take_lines(task, other, *lines.settle(now))
        if stream not in task.streams:
            task.streams[stream] = Lines()
        self._take_lines(task, stream, *task.streams[stream].feed(data, now, end=end))

    def end(self, task: RunningTask) -> None:
        """Take the lines that were not ended."""
        for stream in task.streams:
            self.take(task, stream, b"", end=True)

    def settle(self, tasks: Iterable[RunningTask]) -> None:
        """Take the lines that became whole by the mere passing of time."""
        self.due = None
        now = time.monotonic()
        for task in tasks:
            for stream, lines in task.streams.items():
                self._take_lines(task, stream, *lines.settle(now))

    def write(self, db: Any) -> None:
        """Write to the log, in a transaction."""
        records.append_log(db, self._log)
        self._log, self._bytes = [], 0

    def _take_lines(self, task: RunningTask, stream: str, text: str, whole: list[str]) -> None:
        """Keep text for the log, and show lines."""
        at = records.now_ms()
        label = self.label(task)
        lines = task.streams[stream]
        self._console.lines([(at, label, line) for line in whole])
        self._console.change((task.id, stream), label, lines.changing, lines.ended)
        task.last_lines.extend(line[:200] for line in whole[-LAST_LINES:])
        if text:
            self._log.append((task.attempt_id, stream, at, text))
            self._bytes += len(text)
        if self.due is None and (text or lines.waiting):
            self.due = time.monotonic() + LOG_INTERVAL_S
