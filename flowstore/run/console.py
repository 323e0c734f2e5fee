"""Output of a run: event lines and the tasks' own on stdout, everything about the run on stderr.

A line is `time [run/step/task (pid N)] text`, in local time. At the bottom of a terminal stand the lines that progress
bars still change, and where there are many tasks, a line that counts them; they are drawn at most twice a second.
Elsewhere a changing line is printed now and then, less often the longer it lasts.
If stdout is closed by whoever reads it, or its disk is full, the run goes on without showing anything more.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Sequence

from flowstore import later
from flowstore.text import coloured, columns_of, duration, safe, shorten

DRAWN_S = 0.5  # between two states of a line
_SLOWER, _SLOWEST_S = 1.5, 30.0  # where each state is a line of its own
_MANY_TASKS = 10  # are counted on a terminal
_BAR_COLUMNS = 30

Line = tuple[int, str, str]  # time, label and text


@later.define
class _Changing:
    """The lines of one stream of a task that may still change.

    Attributes:
        label: the task's name in front of its lines.
        lines: as they are now.
        ended: those above them that will not change, but are not printed yet.
        printed: as they were printed, where there is no terminal.
        due: when they are printed next.
        wait_s: how long to wait after that.
    """

    label: str
    lines: Sequence[str] = ()
    ended: Sequence[str] = ()
    printed: Sequence[str] = ()
    due: float = 0.0
    wait_s: float = DRAWN_S

    @property
    def is_new(self) -> bool:
        """Whether it is to be printed, where there is no terminal: not before those above it."""
        return not self.ended and self.lines != self.printed


class Console:
    """The place where a run's lines go.

    Args:
        quiet: no banner, no progress, and no lines about tasks that start and succeed.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self._muted = False
        self._terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and sys.platform != "win32"
        self._text = coloured if self._terminal and not os.environ.get("NO_COLOR") else safe
        self._changing: dict[object, _Changing] = {}
        self._counts: tuple[int, int, int, int] | None = None
        self._began = time.monotonic()
        self._drawn: list[str] = []  # at the bottom of the terminal
        self._drawn_at = -DRAWN_S
        self._stale = False  # something has changed since
        self._held: list[str] = []  # lines that are to be written together
        self._holds = False

    def __enter__(self) -> None:
        """Hold lines back, so that they are written together at the end of the block."""
        self._holds = True

    def __exit__(self, *_: object) -> None:
        self._holds = False
        if self._held:
            self._write()

    def event(self, at_ms: int, label: str, text: str, *, routine: bool) -> None:
        """Show an event; leave routine ones out if the run is quiet, or tasks are counted."""
        if not (routine and (self.quiet or self._counts is not None)):
            self.lines([(at_ms, label, text)])

    def lines(self, lines: list[Line]) -> None:
        """Show lines."""
        if self._muted or not lines:
            return
        shown = [(at_ms, label, self._text(text)) for at_ms, label, text in lines]
        if self._changing and not self._terminal:
            printed = {(line.label, self._text(text)) for line in self._changing.values() for text in line.printed}
            shown = [line for line in shown if line[1:] not in printed]
        self._held += [f"{clock(at_ms)} [{label}] {text}\n" for at_ms, label, text in shown]
        if not self._holds:
            self._write()

    def change(self, key: object, label: str, lines: Sequence[str], ended: Sequence[str] = ()) -> None:
        """Take the lines of a stream that may still change; none: it has no such lines any more.

        Args:
            key: of the stream.
            label: the task's name in front of its lines.
            lines: as they are now.
            ended: those above them that will not change, but are not printed yet.
        """
        known = self._changing.get(key)
        if known is None and not (lines or ended):
            return
        if known is None:
            known = self._changing[key] = _Changing(label, due=time.monotonic() + DRAWN_S)
        fewer = len(known.lines) + len(known.ended) > len(lines) + len(ended)
        known.lines, known.ended = lines, ended
        if not (lines or ended):
            del self._changing[key]
        self._stale = True
        if fewer and self._drawn:
            self._draw()  # at once, since what is gone from the bottom was printed above

    @property
    def due(self) -> float | None:
        """When `refresh` is to be called next, by the clock that never goes back; `None` where nothing changes."""
        if not self._stale or self._muted:
            return None
        if self._terminal:
            return self._drawn_at + DRAWN_S
        return min((line.due for line in self._changing.values() if line.is_new), default=None)

    def refresh(self) -> None:
        """Show how lines have changed, where it is time to."""
        now = time.monotonic()
        due = self.due
        if due is None or due > now:
            return
        if self._terminal:
            self._draw()
            return
        for line in self._changing.values():
            if line.is_new and line.due <= now:
                new = [text for n, text in enumerate(line.lines) if [text] != [*line.printed[n : n + 1]]]
                line.printed = ()
                self.lines([(_now_ms(), line.label, text) for text in new])
                line.printed = line.lines
                line.due, line.wait_s = now + line.wait_s, min(line.wait_s * _SLOWER, _SLOWEST_S)

    def _draw(self) -> None:
        self._drawn_at, self._stale = time.monotonic(), False
        self._write(self._bottom())

    def _bottom(self) -> list[str]:
        """Return the lines at the bottom of the terminal: no more than half of it, each no wider than it."""
        import shutil

        columns, rows = shutil.get_terminal_size()
        at = clock(_now_ms())
        changing = [(line.label, text) for line in self._changing.values() for text in (*line.ended, *line.lines)]
        bottom = [self._fitted(at, label, text, columns - 1) for label, text in changing[-max(rows // 2 - 1, 1) :]]
        return [*bottom, *([] if self._counts is None else [self._counted(*self._counts, columns - 1)])]

    def _fitted(self, at: str, label: str, text: str, columns: int) -> str:
        """Return a line, without its time and its colours where it is too wide."""
        plain = safe(text).replace("\t", " ")
        if columns_of(f"{at} [{label}] {plain}") <= columns:
            return f"{at} [{label}] {self._text(text)}".replace("\t", " ")
        return shorten(f"[{label}] {plain}", columns)

    def _counted(self, done: int, running: int, failed: int, total: int, columns: int) -> str:
        took = duration(time.monotonic() - self._began)
        text = f"{done} done, {running} running, {failed} failed, {total} in all"
        full = _BAR_COLUMNS * done // max(total, 1)
        bar = f"  {'━' * full}{'─' * (_BAR_COLUMNS - full)}"
        fits = len(text) + len(bar) + len(took) + 2 <= columns
        return f"{text}{bar}  {took}" if fits else shorten(text, columns)

    def _write(self, bottom: list[str] | None = None) -> None:
        """Write the lines that are held, and below them the bottom of the terminal, as it was if it is not given."""
        held, self._held = self._held, []
        if self._muted:
            return
        before, self._drawn = self._drawn, self._drawn if bottom is None else bottom
        text = f"{_erased(before)}{''.join(held)}{chr(10).join(self._drawn)}"
        try:
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
                self.say(f"The output cannot be written ({error.strerror}), so the run goes on without it.")

    def banner(self, text: str) -> None:
        """Show a line about the run, unless it is quiet."""
        if not self.quiet:
            self.say(text)

    def say(self, text: str) -> None:
        """Show a line about the run in any case: a warning or an error."""
        bottom = self._drawn
        if bottom or self._held:
            self._write([])
        with contextlib.suppress(OSError, ValueError):  # nobody is there to read it
            print(text, file=sys.stderr, flush=True)
        if bottom:
            self._write(bottom)

    def progress(self, *, done: int, running: int, failed: int, total: int) -> None:
        """Count tasks at the bottom of a terminal, from when there are many."""
        if self._counts is not None or (self._terminal and not self.quiet and total >= _MANY_TASKS):
            self._stale = self._stale or self._counts != (done, running, failed, total)
            self._counts = done, running, failed, total

    def close(self) -> None:
        """Take the bottom away."""
        self._changing, self._counts, self._stale = {}, None, False
        if self._drawn:
            self._write([])


def _erased(lines: Sequence[str]) -> str:
    """Return what erases lines at the end of the last of which the cursor is."""
    up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
    return f"\r{up}\x1b[J" if lines else ""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def clock(at_ms: int) -> str:
    """Return a time as event lines show it, local, in milliseconds."""
    return f"{_second(at_ms // 1000)}.{at_ms % 1000:03d}"


@functools.lru_cache(maxsize=2)
def _second(at_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
