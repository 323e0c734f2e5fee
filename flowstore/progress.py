"""How far a large copy or another long piece of work has come: a bar on stderr, on a terminal only."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

LARGE_BYTES = 100_000_000
_MANY = 5_000


class Progress:
    """Counts bytes, or items; a context manager that takes its bar away at the end.

    Args:
        what: what is being done.
        total_bytes: how many there will be; a bar is for more than `LARGE_BYTES`, or a few thousand items.
        items: whether items are counted rather than bytes.
    """

    def __init__(self, what: str, total_bytes: int, *, items: bool = False) -> None:
        self._items = items
        self.done_bytes = 0
        self._what = what
        self._total = total_bytes
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._total > (_MANY if self._items else LARGE_BYTES) and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            counts = (progress.MofNCompleteColumn(),)
            sizes = (progress.DownloadColumn(), progress.TransferSpeedColumn())
            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                *(counts if self._items else sizes),
            )
            self._bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task(self._what, total=self._total)
            self._bar.start()
        return self

    def add(self, count: int) -> None:
        """Count more bytes, or items, as done."""
        self.done_bytes += count
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done_bytes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
