"""Reads what Metaflow's tasks printed: files of lines, each with the time at which it was read."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from flowstore.transfer.metaflow_history.folder import Folder

_MARKED = re.compile(rb"\[!?MFLOG\|[0-9]+\|([0-9T:.-]{10,40}Z?)\|[^|\]]*\|[^|\]]*\]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_LINE = 1 << 20
_MAX_CHUNK = 8192

Line = tuple[int, int, str, str]  # time, a counter that keeps the order, stream, text


def rows(
    folder: Folder, log_id: int, logs: Mapping[str, Sequence[str]], began_at: int
) -> Iterator[tuple[int, str, int, str]]:
    """Yield the rows of an attempt's log: its id, stream, time and text of each piece.

    Args:
        folder: where the files are.
        log_id: the log's id.
        logs: by stream, its files.
        began_at: when the attempt began, in milliseconds since 1970: the time of lines without one.
    """
    files = [(stream, path) for stream, paths in logs.items() for path in paths]
    lines = heapq.merge(*(_lines(folder, stream, path, began_at) for stream, path in files))
    pending: tuple[str, int, str] | None = None
    for at_ms, _, stream, text in lines:
        if pending is not None and pending[:2] == (stream, at_ms) and len(pending[2]) < _MAX_CHUNK:
            pending = stream, at_ms, pending[2] + text
            continue
        if pending is not None:
            yield log_id, *pending
        pending = stream, at_ms, text
    if pending is not None:
        yield log_id, *pending


def _lines(folder: Folder, stream: str, path: str, at_ms: int) -> Iterator[Line]:
    """Yield the lines of one file, in order; one without a time has that of the line before it."""
    file = folder.open(path)
    if file is None:
        return
    count = 0
    with file:
        for line in iter(lambda: file.readline(_MAX_LINE), b""):
            match = _MARKED.match(line)
            if match is not None:
                at_ms = max(at_ms, _time(match[1]))
            text = line if match is None else line[match.end() :].removesuffix(b"\n") + b"\n"
            count += 1
            yield at_ms, count, stream, text.decode("utf-8", "replace").replace("\0", "")


def _time(text: bytes) -> int:
    try:
        moment = datetime.fromisoformat(text.decode().removesuffix("Z"))
    except ValueError:
        return 0
    return (moment.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
