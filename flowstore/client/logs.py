"""The log of one attempt in pages of lines: the end of it, what comes before or after a position, and lines that match.

A log is in chunks of text, each of one stream. A page reads as many chunks as it shows, from its end backwards, so a
log of 100 MB takes no longer than a short one. Only a search, and the lines around a number, read it from its start.
"""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

import attrs

from flowstore.client.task import Task, last_state
from flowstore.sqlite.database import Row
from flowstore.sqlite.typed_rows import time_of
from flowstore.store import log_chunks

MOST_LINES = 500  # on a page
MOST_CHARACTERS = 200_000  # on a page
LONGEST_LINE = 4_000  # characters that are shown of a line
MOST_MATCHES = 500
LONGEST_SEARCH_S = 5.0
_BATCH = 20  # chunks that are read at once


@attrs.frozen
class Line:
    """A line that a task printed.

    Attributes:
        number: from 1, of both streams together; `None` where that is not known without reading all before.
        at: when it was read, in UTC.
        stream: 'stdout' or 'stderr'.
        text: as a terminal shows it at last, shortened where it is very long.
    """

    number: int | None
    at: datetime
    stream: str
    text: str


@attrs.frozen
class Position:
    """A position in a log between two lines: a chunk, and how many of its characters are before it.

    As text it stands in an address.
    """

    chunk: int
    offset: int

    @classmethod
    def of(cls, text: str) -> Position | None:
        """Return the position that a text stands for; `None` where it stands for none.

        >>> str(Position.of("12.300")), Position.of("x")
        ('12.300', None)
        """
        parts = text.split(".")
        if len(parts) != 2 or not all(part.isascii() and part.isdecimal() and len(part) < 16 for part in parts):
            return None
        return cls(int(parts[0]), int(parts[1]))

    def __str__(self) -> str:
        return f"{self.chunk}.{self.offset}"


@attrs.frozen
class LogPage:
    """Some lines of a log, in order.

    Attributes:
        lines: the lines.
        earlier: where the page begins; `None` at the beginning of the log.
        later: where it ends; `None` at the end.
    """

    lines: tuple[Line, ...]
    earlier: Position | None
    later: Position | None


@attrs.frozen
class Matches:
    """The lines of a log that hold a text.

    Attributes:
        lines: at most `MOST_MATCHES`, each with its number.
        is_all: whether there are no more.
    """

    lines: tuple[Line, ...]
    is_all: bool


@attrs.frozen
class _Piece:
    """A part of a chunk."""

    stream: str
    at: int
    text: str


def page_before(task: Task, stream: str | None = None, end: Position | None = None) -> LogPage:
    """Return the last lines of a log, or the last before a position.

    Args:
        task: the task, at an attempt.
        stream: 'stdout' or 'stderr'; `None` for both.
        end: where the page ends.
    """
    pieces: list[_Piece] = []
    room = _Room()
    earlier = None
    for row in _chunks(task, stream, end, newest_first=True):
        text = row["text"][: end.offset] if end is not None and row["id"] == end.chunk else row["text"]
        start = room.take_end(text)
        if start:
            earlier = Position(row["id"], start)
        if start < len(text):
            pieces.append(_Piece(row["stream"], row["written_at"], text[start:]))
        if room.is_full:
            earlier = earlier or Position(row["id"], 0)
            break
    if earlier is not None and not earlier.offset and not _has_chunks(task, stream, earlier, newest_first=True):
        earlier = None
    return LogPage(tuple(_lines(reversed(pieces), None if earlier else 1)), earlier, end)


def page_after(task: Task, stream: str | None, start: Position) -> LogPage:
    """Return the lines of a log that follow a position."""
    pieces: list[_Piece] = []
    room = _Room()
    later = None
    for row in _chunks(task, stream, start, newest_first=False):
        offset = start.offset if row["id"] == start.chunk else 0
        text = row["text"][offset:]
        count = room.take_start(text)
        if count:
            pieces.append(_Piece(row["stream"], row["written_at"], text[:count]))
        if count < len(text) or room.is_full:
            later = Position(row["id"], offset + count)
            break
    first = start.chunk == 0
    return LogPage(tuple(_lines(pieces, 1 if first else None)), None if first else start, later)


def lines_around(task: Task, stream: str | None, number: int) -> LogPage:
    """Return the lines around one, by its number."""
    before: collections.deque[Line] = collections.deque(maxlen=MOST_LINES // 4)
    numbered = _lines(_pieces(task, stream), 1)
    for line in numbered:
        before.append(line)
        if line.number == number:
            break
    return LogPage((*before, *itertools.islice(numbered, MOST_LINES // 4)), None, None)


def search(task: Task, stream: str | None, text: str) -> Matches:
    """Return the lines of a log that hold a text, whatever its case, each with its number."""
    wanted = text.casefold()
    lines: list[Line] = []
    deadline = time.monotonic() + LONGEST_SEARCH_S
    for line in _lines(_pieces(task, stream), 1, lambda part: wanted in part.casefold()):
        if len(lines) == MOST_MATCHES or time.monotonic() > deadline:
            return Matches(tuple(lines), is_all=False)
        lines.append(line)
    return Matches(tuple(lines), time.monotonic() <= deadline)


def text_of(task: Task, stream: str | None = None) -> Iterator[bytes]:
    """Yield all of a log as it was printed."""
    for piece in _pieces(task, stream):
        yield piece.text.encode("utf-8", "replace")


class _Room:
    """How much more a page may hold."""

    def __init__(self) -> None:
        self._lines, self._characters = MOST_LINES, MOST_CHARACTERS

    @property
    def is_full(self) -> bool:
        """Whether nothing more fits."""
        return self._lines <= 0 or self._characters <= 0

    def take_end(self, text: str) -> int:
        """Take the end of a text, in whole lines where that is possible; return where it begins."""
        start = len(text)
        at = start - 1 if text.endswith("\n") else start
        while start and not self.is_full:
            line = text.rfind("\n", 0, at) + 1
            self._lines -= 1
            self._characters -= start - line
            if self._characters < 0 and start - line > LONGEST_LINE:  # of a line that is longer than a page its end
                line = max(line, start - MOST_CHARACTERS)
            start, at = line, line - 1
        return start

    def take_start(self, text: str) -> int:
        """Take the beginning of a text, in whole lines where that is possible; return where it ends."""
        end = 0
        while end < len(text) and not self.is_full:
            line = text.find("\n", end) + 1 or len(text)
            line = min(line, end + MOST_CHARACTERS)
            self._lines -= 1
            self._characters -= line - end
            end = line
        return end


def _chunks(task: Task, stream: str | None, position: Position | None, *, newest_first: bool) -> Iterator[Row]:
    """Yield the chunks of a log from a position on, that of the position first, in either direction."""
    log_id = task._attempt_row()["log_id"]
    last = None if position is None else position.chunk
    own = True
    while rows := log_chunks.read_from(
        task._store, log_id, stream, last, with_it=own, newest_first=newest_first, limit=_BATCH
    ):
        yield from rows
        last, own = rows[-1]["id"], False


def _has_chunks(task: Task, stream: str | None, position: Position, *, newest_first: bool) -> bool:
    """Return whether there are chunks beyond that of a position."""
    log_id = task._attempt_row()["log_id"]
    rows = log_chunks.read_from(
        task._store, log_id, stream, position.chunk, with_it=False, newest_first=newest_first, limit=1
    )
    return bool(rows)


def _pieces(task: Task, stream: str | None) -> Iterator[_Piece]:
    """Yield a whole log."""
    for row in log_chunks.read(task._store, task._attempt_row()["log_id"], stream):
        yield _Piece(row["stream"], row["written_at"], row["text"])


def _lines(pieces: Iterable[_Piece], first: int | None, wanted: Callable[[str], bool] | None = None) -> Iterator[Line]:
    """Yield the lines of some pieces in order; those of a stream that are cut between pieces are joined.

    Args:
        pieces: parts of chunks.
        first: the number of the first line; `None` where it is not known.
        wanted: whether a line is wanted, which is asked of many lines at once before; `None`: all are.
    """
    rests: dict[str, str] = {}
    ends: dict[str, int] = {}
    number = first
    for piece in pieces:
        text = rests.get(piece.stream, "") + piece.text
        *lines, rest = text.split("\n")
        rests[piece.stream], ends[piece.stream] = rest, piece.at
        if wanted is None or wanted(text):
            yield from _numbered(lines, number, piece.stream, piece.at, wanted)
        number = None if number is None else number + len(lines)
    for stream, rest in rests.items():
        if rest:
            yield from _numbered([rest], number, stream, ends[stream], wanted)
            number = None if number is None else number + 1


def _numbered(
    lines: Sequence[str], first: int | None, stream: str, at: int, wanted: Callable[[str], bool] | None
) -> Iterator[Line]:
    when = time_of(at)
    for n, line in enumerate(lines):
        if wanted is None or wanted(line):
            yield Line(None if first is None else first + n, when, stream, _shortened(last_state(line)))


def _shortened(line: str) -> str:
    if len(line) <= LONGEST_LINE:
        return line
    return f"{line[:LONGEST_LINE]}… ({len(line):,} characters; all of them are in the download)"
