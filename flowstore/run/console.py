"""What a run shows: event lines and the tasks' own on stdout, everything about the run on stderr.

A line is `time [run/step/task (pid N)] text`, in local time. On a terminal a bar at the bottom counts tasks.
If stdout is closed by whoever reads it, or its disk is full, the run goes on without showing anything more.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import os
import sys
import time
from typing import Any

_LONGEST_LINE = 1 << 20


class Console:
    """Where a run's lines go.

    Args:
        quiet: no banner and no progress.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self._muted = False
        self._progress: Any = None
        self._bar: Any = None

    def event(self, at_ms: int, label: str, text: str, *, routine: bool) -> None:
        """Show an event; where the bar counts tasks, only what is out of the ordinary."""
        if not (routine and self._progress is not None):
            self.lines([(at_ms, label, text)])

    def lines(self, lines: list[tuple[int, str, str]]) -> None:
        """Show lines: when, whose, and what."""
        if self._muted or not lines:
            return
        text = "".join(f"{clock(at_ms)} [{label}] {text}\n" for at_ms, label, text in lines)
        try:
            if self._progress is not None:
                self._progress.console.print(text, end="", markup=False, highlight=False, soft_wrap=True, emoji=False)
            else:
                sys.stdout.write(text)
                sys.stdout.flush()
        except UnicodeEncodeError:
            sys.stdout.write(text.encode("ascii", "backslashreplace").decode())
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            self._mute(error)

    def _mute(self, error: OSError | ValueError) -> None:
        """Show no more lines, since nobody reads them, or a full disk takes none; the store has them all."""
        self._muted = True
        if isinstance(error, OSError):
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  # a device, not a path of the user's
                os.dup2(nowhere.fileno(), sys.stdout.fileno())  # what waits in the buffer goes there, too
            if not isinstance(error, BrokenPipeError):
                self.say(f"The output can't be written ({error.strerror}), so the run goes on without it.")

    def banner(self, text: str) -> None:
        """Tell about the run, unless that is not wanted."""
        if not self.quiet:
            self.say(text)

    def say(self, text: str) -> None:
        """Tell about the run in any case: warnings and errors."""
        with contextlib.suppress(OSError, ValueError):  # nobody is there to be told
            print(text, file=sys.stderr, flush=True)

    def progress(self, *, done: int, running: int, failed: int, total: int) -> None:
        """Count tasks at the bottom of a terminal, from when there are many."""
        if self._progress is None and (self.quiet or total < 10 or not sys.stdout.isatty()):
            return
        if self._progress is None:
            self._start_progress()
        text = f"{done} done, {running} running, {failed} failed, {total} in all"
        self._progress.update(self._bar, completed=done, total=total, description=text)

    def _start_progress(self) -> None:
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Terminal(), transient=True, redirect_stdout=False)
        self._bar = self._progress.add_task("", total=None)
        self._progress.start()

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def clock(at_ms: int) -> str:
    """A time as event lines show it, local, in milliseconds."""
    return f"{_second(at_ms // 1000)}.{at_ms % 1000:03d}"


@functools.lru_cache(maxsize=2)
def _second(at_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


class Lines:
    """One stream of an attempt: bytes in, text for the store and whole lines for the console out."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes, *, end: bool = False) -> tuple[str, list[str]]:
        """Take bytes; gives their text, and the lines that are whole now (at the end, the rest too)."""
        text = self._decoder.decode(data, end)
        *lines, self._rest = (self._rest + text).split("\n")
        if self._rest and (end or len(self._rest) > _LONGEST_LINE):
            lines.append(self._rest)
            self._rest = ""
        return text, [line.removesuffix("\r") for line in lines]


def duration(seconds: float) -> str:
    """A time span for people.

    >>> duration(0.25), duration(75), duration(7260)
    ('0.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
