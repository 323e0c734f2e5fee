"""The timeline of a run: names at the left, as text that ends in an ellipsis, and bars over a time axis as SVG.

Positions are percentages, so a timeline is as wide as the page, and its letters keep their size in a narrow one.

    timeline([Line("✓ start", [Bar(0.0, 0.4, "successful", "start, successful, 0.4 s")])], 0.4)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import attrs

from flowstore.drawing import SHAPES
from flowstore.text import duration, one_line, shorten

MOST_BARS = 2000  # drawn at once, the parts of density strips included
LEVELS = 4  # of a density strip
_ROW, _BAR, _AXIS = 20, 14, 22
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)


@attrs.frozen
class Bar:
    """A stretch of time: of an attempt, or of many tasks.

    Attributes:
        begin, end: in seconds since the run began.
        state: 'successful', 'running', 'failed', 'stopped' or 'dead'; 'reused' for what ran in another run, which is
            drawn as a mark with a dashed outline.
        title: what is said of it on hovering.
        density: how much of it is in use, in parts of equal length: 0 to `LEVELS` each; nothing for a solid bar.
    """

    begin: float
    end: float
    state: str
    title: str = ""
    density: Sequence[int] = ()


@attrs.frozen
class Line:
    """A row of a timeline.

    Attributes:
        label: its name, such as 'try_out[17]'.
        bars: in order of time.
        state: as of a bar; its shape stands before the name. `None` for several.
        note: what stands behind the last bar.
        title: what is said of it on hovering, and to a screen reader.
        href: the address of the task, or the one at which the line is unfolded.
    """

    label: str
    bars: Sequence[Bar]
    state: str | None = None
    note: str = ""
    title: str = ""
    href: str | None = None


def timeline(lines: Sequence[Line], length_s: float, *, label: str = "Timeline") -> str:
    """Return a timeline as HTML.

    Args:
        lines: its rows, from top to bottom.
        length_s: how long the run took.
        label: the accessible name of the picture.

    Returns:
        HTML whose classes are in look.css; nothing where there are no lines.
    """
    if not lines:
        return ""
    length = max(length_s, 0.001)
    height = _AXIS + _ROW * len(lines)
    drawn = [part for at, line in enumerate(lines) for part in _line(line, _AXIS + _ROW * at, length)]
    return (
        f'<div class="timeline" role="group" aria-label="{escape(one_line(label))}">'
        f"<ol>{''.join(_name(line) for line in lines)}</ol>"
        # Names are read out with state and duration: the bars add nothing for a screen reader, and no tab stops.
        f'<svg class="bars" width="100%" height="{height}" aria-hidden="true">{_axis(length, height)}'
        f"{''.join(drawn)}</svg></div>"
    )


def ticks(length_s: float, most: int = 5) -> list[float]:
    """Return round times from 0 up to a length, in seconds.

    >>> ticks(180), ticks(0.5)
    ([0, 60, 120, 180], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    """
    below = [digit / 10**power for power in (3, 2, 1) for digit in (1, 2, 5)]  # a second
    days = [_TICKS[-1] * 2**n for n in range(1, 40)]
    step = next((tick for tick in (*below, *_TICKS, *days) if length_s / tick <= most), days[-1])
    count = int(length_s / step * 1.0001)
    return [round(step * n, 9) for n in range(count + 1)]


def _axis(length: float, height: int) -> str:
    parts = []
    for tick in ticks(length):
        at = _percent(tick, length)
        anchor = ' text-anchor="middle"' if 0.04 * length < tick < 0.95 * length else ""
        anchor = ' text-anchor="end"' if tick >= 0.95 * length else anchor
        parts.append(f'<line class="rule" x1="{at}" x2="{at}" y1="18" y2="{height}"/>')
        parts.append(f'<text class="faint" x="{at}" y="12"{anchor}>{_clock(tick)}</text>')
    return "".join(parts)


def _clock(seconds: float) -> str:
    """Return a round time without the parts that are zero."""
    if 0 < seconds < 0.1:
        return f"{seconds * 1000:g} ms"
    if seconds < 60:
        return f"{seconds:g} s"
    if seconds < 100:
        return f"1 min {seconds - 60:g} s".removesuffix(" 0 s")
    return duration(seconds).replace(" 00 s", "").replace(" 00 min", "").replace(" 0 h", "")


def _percent(value: float, length: float) -> str:
    share = min(100.0, max(0.0, 100 * value / length))
    return f"{share:.2f}".rstrip("0").rstrip(".") + "%"


def _name(line: Line) -> str:
    label, title = escape(one_line(line.label)), escape(one_line(line.title or line.label))
    shape = "" if line.state not in SHAPES else f'<span class="{line.state}">{SHAPES[line.state]}</span> '
    if line.href is None:
        return f'<li title="{title}">{shape}{label}</li>'
    return f'<li title="{title}"><a href="{escape(line.href)}" aria-label="{title}">{shape}{label}</a></li>'


def _line(line: Line, top: int, length: float) -> Iterable[str]:
    kind = " attempt" if len(line.bars) > 1 else ""
    bars = "".join(_bar(bar, top + 3, length, kind) for bar in line.bars)
    # A tab stop for each bar would be hundreds: the name of the line is the link for the keyboard.
    yield bars if line.href is None else f'<a href="{escape(line.href)}" tabindex="-1">{bars}</a>'
    if line.note and line.bars:
        yield _note(line.note, line.bars, top + 14, length)


def _note(note: str, bars: Sequence[Bar], y: int, length: float) -> str:
    end, begin = max(bar.end for bar in bars), min(bar.begin for bar in bars)
    text = escape(shorten(one_line(note), 60))
    if end <= 0.75 * length:
        mark = 15 if bars[-1].state == "reused" else 6
        return f'<text class="faint" x="{_percent(end, length)}" dx="{mark}" y="{y}">{text}</text>'
    if begin >= 0.3 * length:
        return f'<text class="faint" x="{_percent(begin, length)}" dx="-6" y="{y}" text-anchor="end">{text}</text>'
    return ""  # no room: it is in the title


def _bar(bar: Bar, top: int, length: float, kind: str) -> str:
    begin, end = max(0.0, bar.begin), min(length, max(bar.begin, bar.end))
    title = f"<title>{escape(one_line(bar.title))}</title>" if bar.title else ""
    x, width = _percent(begin, length), _percent(end - begin, length)
    if bar.state == "reused":
        return f'<rect class="box stroke-none" x="{x}" y="{top + 2}" width="9" height="10">{title}</rect>'
    if bar.density:
        return f"<g>{title}{''.join(_strip(bar, top, length))}</g>"
    visible = width if end - begin > 0.008 * length else "3"
    return (
        f'<rect class="fill-{escape(one_line(bar.state))}{kind}" x="{x}" y="{top}" width="{visible}" height="{_BAR}">'
        f"{title}</rect>"
    )


def _strip(bar: Bar, top: int, length: float) -> Iterable[str]:
    """Yield the parts of a density strip; neighbours of the same level are one."""
    part = (bar.end - bar.begin) / len(bar.density)
    first = 0
    for at in range(1, len(bar.density) + 1):
        if at < len(bar.density) and bar.density[at] == bar.density[first]:
            continue
        if level := bar.density[first]:
            x, width = _percent(bar.begin + first * part, length), _percent((at - first) * part, length)
            opacity = round(0.25 + 0.75 * level / LEVELS, 2)
            yield (
                f'<rect class="fill-{escape(one_line(bar.state))}" x="{x}" y="{top}" width="{width}" height="{_BAR}" '
                f'opacity="{opacity}"/>'
            )
        first = at
