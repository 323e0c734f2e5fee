"""Tables of text: aligned by how wide characters are shown, and fitted to a width.

Where a width is given no line is longer. Free text is shortened first, ids and times last; where even that does not
fit, each row becomes a block with a line for each of its cells, since a table that wraps can't be read.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence

from flowstore.text import NARROW, columns_of, shorten

_GAP = "  "
_SHORT, _ID = 16, 12  # what is no wider is an id, a status, a number: shortened only if nothing else helps
_LEAST = 8  # of what was wider, in a table
_TIME = 19
_WIDEST = 1000  # columns that cells are padded to, where no terminal limits them: a longer cell stands out

Line = Sequence[str]


def width() -> int | None:
    """How wide a line may be: as the terminal is; `None` where there is none.

    `$COLUMNS` counts on a terminal only, since a Python that has loaded readline hands it on to all that it starts.
    """
    return max(shutil.get_terminal_size().columns, 10) if sys.stdout.isatty() else None


def lines(head: Line, cells: Sequence[Line], limit: int | None) -> Iterator[str]:
    """The lines of a table, its head first; none is wider than `limit`.

    >>> list(lines(["run", "tags"], [["F/1", "a, b"]], None))
    ['run  tags', 'F/1  a, b']
    >>> list(lines(["run", "tags"], [["F/1", "a, very, long, list, of, tags"]], 24))
    ['run  tags', 'F/1  a, very, long, lis…']
    """
    most = _WIDEST if limit is None else limit
    widths = [max(_columns(cell, most) for cell in column) for column in zip(*cells, strict=True)]
    widths = widths or [0] * len(head)
    wanted = [max(width, columns_of(name)) for width, name in zip(widths, head, strict=True)]
    fitted = wanted if limit is None else _fit(wanted, widths, limit - len(_GAP) * (len(head) - 1))
    if fitted is None:
        assert limit is not None
        yield from _blocks(head, cells, limit)
        return
    for line in (head, *cells):
        shown = line if limit is None else [shorten(*cell) for cell in zip(line, fitted, strict=True)]
        yield _GAP.join(_padded(cell, columns) for cell, columns in zip(shown, fitted, strict=True)).rstrip()


def _columns(text: str, most: int) -> int:
    """Return how many columns a text takes, at most `most`; what is very long is not measured, which takes time."""
    return most if len(text) > most * NARROW else min(columns_of(text), most)


def _padded(text: str, columns: int) -> str:
    return text + " " * (columns - _columns(text, columns))


def _fit(wanted: Sequence[int], widths: Sequence[int], limit: int) -> Sequence[int] | None:
    """The widths of columns that fit: the widest give first, down to what each must keep."""
    if sum(wanted) <= limit:
        return wanted
    for short, free in ((_SHORT, _LEAST), (_ID, _LEAST), (_ID, _LEAST // 2), (0, _LEAST)):
        floors = [width if width <= short or width == _TIME else min(width, free) for width in widths]
        kept = [min(max(floor, 1), most) for floor, most in zip(floors, wanted, strict=True)]
        for cap in range(max(wanted), 0, -1):
            fitted = [max(floor, min(most, cap)) for floor, most in zip(kept, wanted, strict=True)]
            if sum(fitted) <= limit:
                return fitted
    return None


def _blocks(head: Line, cells: Sequence[Line], limit: int) -> Iterator[str]:
    names = min(max(map(columns_of, head)), limit // 2)
    for n, line in enumerate(cells):
        if n:
            yield ""
        for name, cell in zip(head, line, strict=True):
            yield shorten(f"{_padded(shorten(name, names), names)}{_GAP}{cell}".rstrip(), limit)
