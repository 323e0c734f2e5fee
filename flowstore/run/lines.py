r"""One stream of an attempt: bytes in; text for the log, whole lines and changing ones for the console out.

A progress bar writes its line again and again: it returns to the beginning with `\r`, or moves the cursor up to the
line of an outer bar. What it overwrites is gone, as on a terminal, so the log has the last state of each line. A line
is whole when it was ended and the cursor did not come back to it for a while.
"""

from __future__ import annotations

import codecs
import re

from flowstore import later
from flowstore.text import safe

SETTLED_S = 0.5  # without a change, until a line that a progress bar ended is whole
HELD_S = 2.0  # until the beginning of a line goes to the log without its end
_LONGEST_LINE = 1 << 20
_MOST_LINES = 100  # that may still change
_MOST_ABOVE = 20  # lines that a cursor moves up beyond those that may still change

# Patterns are compiled where a line needs them: most tasks print nothing.
_UPDATES = "\r(?!\n)|\x1b\\[\\d*[AFG]"
_MOVES = "(\r?\n)|\r|\x1b\\[(\\d{0,4})([ABFGK])"  # G to a column: the first, as progress bars use it
_UNFINISHED = "\x1b(?:\\[\\d{0,4})?\\Z"


@later.define
class _Row:
    """A line that may still change.

    Attributes:
        text: what was written since the cursor last came to its beginning.
        before: what it showed before that.
        changed_at: when, by a clock that never goes back.
        updated: whether the cursor came back to it.
        ended: whether a line feed was written behind it.
        logged: how many characters of its beginning are in the log.
    """

    text: str = ""
    before: str = ""
    changed_at: float = 0.0
    updated: bool = False
    ended: bool = False
    logged: int = 0

    def restart(self) -> None:
        """Write over what it shows."""
        self.before, self.text, self.updated = self.text or self.before, "", True

    def erase(self, how: str) -> None:
        """Erase all of it, or what is behind the cursor."""
        if how == "2" or not self.text:
            self.before = ""
        if how == "2":
            self.text = ""

    @property
    def shown(self) -> str:
        """Return the line as a terminal would show it; empty where a bar was erased with spaces."""
        text = self.text or self.before
        return (text.rstrip() if safe(text).strip() else "") if self.updated else text

    def log(self) -> str:
        """Return what the log still lacks of it."""
        if not self.updated:
            return self.shown[self.logged :]
        return f"\r{self.shown}" if self.logged else self.shown


class Lines:
    """One stream of an attempt."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""  # the beginning of a plain line
        self._logged = 0  # characters of it that are in the log
        self._fed_at = 0.0
        self._rows: list[_Row] = []  # none while lines are plain
        self._cursor = 0
        self._sequence = ""  # the beginning of one

    def feed(self, data: bytes, now: float, *, end: bool = False) -> tuple[str, list[str]]:
        """Take bytes.

        Args:
            data: what the process wrote.
            now: the time, by a clock that never goes back.
            end: whether this was the last.

        Returns:
            The text that the log lacks, and the lines that are whole now.
        """
        text = self._decoder.decode(data, end)
        self._fed_at = now
        if self._rows:
            self._write(text, now)
            return self._settled(now, end=end)
        begun = re.search(_UNFINISHED, self._rest)
        update = re.search(_UPDATES, text if begun is None else begun[0] + text)
        if update is None:
            return self._plain(text, end=end)
        before = text.rfind("\n", 0, update.start()) + 1
        log, lines = self._plain(text[:before], end=False)
        self._rows, self._cursor = [_Row(changed_at=now, logged=self._logged)], 0
        self._write(self._rest + text[before:], now)
        self._rest, self._logged = "", 0
        more, others = self._settled(now, end=end)
        return log + more, lines + others

    def _plain(self, text: str, *, end: bool) -> tuple[str, list[str]]:
        """Take text that only goes forward."""
        *lines, rest = (self._rest + text).split("\n")
        whole = ("\n".join(lines) + "\n")[self._logged :] if lines else ""
        logged = 0 if lines else self._logged
        if rest and (end or len(rest) > _LONGEST_LINE):
            whole += rest[logged:]
            lines.append(rest)
            rest, logged = "", 0
        self._rest, self._logged = rest, logged
        return whole, [line.removesuffix("\r") for line in lines]

    def settle(self, now: float) -> tuple[str, list[str]]:
        """Return, as `feed` does, what has become whole by the mere passing of time."""
        if self._rows:
            return self._settled(now)
        text = self._rest[self._logged :]
        if not text or now - self._fed_at < HELD_S:
            return "", []
        self._logged = len(self._rest)
        return text, []

    @property
    def waiting(self) -> bool:
        """Whether a line waits to become whole."""
        return self._cursor > 0

    @property
    def ended(self) -> list[str]:
        """The lines that wait to become whole, as a terminal shows them."""
        return [shown for row in self._rows[: self._cursor] if (shown := row.shown)]

    @property
    def changing(self) -> list[str]:
        """The lines that a progress bar changes, as a terminal shows them."""
        return [shown for row in self._rows[self._cursor :] if row.updated and (shown := row.shown)]

    # --- lines that change

    def _write(self, text: str, now: float) -> None:
        text, self._sequence = self._sequence + text, ""
        if (unfinished := re.search(_UNFINISHED, text)) is not None:
            text, self._sequence = text[: unfinished.start()], unfinished[0]
        at = 0
        for move in re.finditer(_MOVES, text):
            self._put(text[at : move.start()], now)
            self._move(move, now)
            at = move.end()
        self._put(text[at:], now)

    def _put(self, text: str, now: float) -> None:
        row = self._rows[self._cursor]
        while text:
            room = _LONGEST_LINE - len(row.text)
            row.text, text = row.text + text[:room], text[room:]
            row.changed_at = now
            if len(row.text) >= _LONGEST_LINE:
                row = self._down(now)

    def _move(self, move: re.Match[str], now: float) -> None:
        line_feed, count, direction = move.groups()
        if line_feed:
            self._down(now)
        elif direction in {"A", "F"}:
            self._up(int(count or 1) or 1, now)
        elif direction == "B":
            self._cursor = min(self._cursor + (int(count or 1) or 1), len(self._rows) - 1)
            self._rows[self._cursor].restart()
        elif direction == "K":
            self._rows[self._cursor].erase(count)
        else:
            self._rows[self._cursor].restart()

    def _down(self, now: float) -> _Row:
        row = self._rows[self._cursor]
        row.ended, row.changed_at = True, now
        self._cursor += 1
        if self._cursor == len(self._rows):
            self._rows.append(_Row(changed_at=now))
        else:
            self._rows[self._cursor].restart()
        return self._rows[self._cursor]

    def _up(self, count: int, now: float) -> None:
        above = min(max(count - self._cursor, 0), _MOST_ABOVE)  # these are in the log already: they begin again
        self._rows[:0] = [_Row(changed_at=now, updated=True, ended=True) for _ in range(above)]
        self._cursor = max(self._cursor + above - count, 0)
        self._rows[self._cursor].restart()

    def _settled(self, now: float, *, end: bool = False) -> tuple[str, list[str]]:
        """Let go of the lines that have become whole."""
        whole: list[_Row] = []
        while self._cursor > 0 and (now - self._rows[0].changed_at >= SETTLED_S or len(self._rows) > _MOST_LINES):
            whole.append(self._rows.pop(0))
            self._cursor -= 1
        if end:
            whole += self._rows
            self._rows, self._cursor = [], 0
            for row in whole[:-1]:
                row.ended = True
        elif len(self._rows) == 1 and not (self._rows[0].updated or self._sequence):
            row = self._rows.pop()
            self._rest, self._logged = row.text, row.logged
        whole = [row for row in whole if row.shown or row.logged or (row.ended and not row.updated)]
        return "".join(row.log() + ("\n" if row.ended else "") for row in whole), [row.shown for row in whole]
