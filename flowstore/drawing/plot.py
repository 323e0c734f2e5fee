"""Plots as SVG: numbers over runs or over a parameter, and numbers side by side.

Positions are percentages, so a plot is as wide as its page. Points are links; what cannot be drawn is counted.

    plot([Point(0.1, 0.93, title="F/1", href="/run/F/1")], x_label="rate", y_label="metrics.accuracy")
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from html import escape

import attrs

from flowstore.text import counted, one_line, shorten

MOST_POINTS = 2000
MOST_SERIES = 7  # colours that people can distinguish; further series share the last
MOST_LABELS = 8  # below the horizontal axis
_HEIGHT, _ROW = 220, 20
_NEAREST = 14  # pixels between two labels

Position = float | str | datetime


@attrs.frozen
class Point:
    """A point of a plot.

    Attributes:
        x: where it stands: a number, a time, or a text, which is a category.
        y: the number that is plotted.
        series: the name of the series that it belongs to.
        title: what is spoken of it on hovering, besides its values.
        href: the address that it leads to.
    """

    x: Position | None
    y: float | None
    series: str = ""
    title: str = ""
    href: str | None = None


def plot(points: Sequence[Point], *, x_label: str, y_label: str, joined: bool = False, label: str = "") -> str:
    """Return a plot as HTML, made of classes in look.css.

    Args:
        points: what to plot, in the order in which a line joins them.
        x_label: the name of the horizontal axis.
        y_label: the name of the vertical axis.
        joined: whether the points of a series are joined by a line.
        label: the accessible name; by default what is plotted over what.

    Returns:
        HTML; a sentence where no point can be drawn, and below the plot one that counts those that were left out.
    """
    finite = [point for point in points if _is_finite(point.y) and _is_position(point.x)]
    drawn = _thinned(finite)
    name = label or f"{y_label} over {x_label}, {counted(len(finite), 'point')}"
    left_out = _left_out(len(points) - len(finite), len(finite) - len(drawn))
    if not drawn:
        return f'<p class="muted">{escape(one_line(y_label))}: no number can be drawn. {left_out}</p>'
    across = _axis_of([point.x for point in drawn if point.x is not None])
    up = _Numbers([float(point.y) for point in drawn if point.y is not None], 5)
    series = list(dict.fromkeys(point.series for point in drawn))
    picture = "".join([*_frame(across, up, x_label, y_label), *_series(drawn, series, across, up, joined=joined)])
    kind = " labelled" if len(series) > 1 else ""
    note = f'<p class="muted">{left_out}</p>' if left_out else ""
    return (
        f'<div class="plot{kind}" role="group" aria-label="{escape(one_line(name))}">'
        f'<svg width="100%" height="{_HEIGHT}" aria-hidden="true">{picture}</svg></div>{note}'
    )


def _is_finite(value: float | None) -> bool:
    try:
        return value is not None and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _is_position(position: Position | None) -> bool:
    return isinstance(position, str | datetime) or _is_finite(position)


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    step = -(-len(points) // MOST_POINTS)
    return points[::step] if step > 1 else points


def _left_out(not_numbers: int, too_many: int) -> str:
    without = f"{counted(not_numbers, 'point')} without a finite number {'is' if not_numbers == 1 else 'are'} left out."
    parts = [without if not_numbers else "", f"{too_many:,} of the points are not drawn." if too_many else ""]
    return " ".join(filter(None, parts))


class _Axis(abc.ABC):
    """An axis of a plot."""

    @abc.abstractmethod
    def share(self, position: Position | Decimal) -> float:
        """Return how far along the axis a position is, from 0 to 1."""

    @abc.abstractmethod
    def ticks(self) -> list[tuple[float, str]]:
        """Return where the axis has a label, and which."""


class _Numbers(_Axis):
    """An axis of numbers: from a round one to a round one. Decimal numbers neither overflow nor lose small steps."""

    def __init__(self, numbers: Sequence[float], most: int) -> None:
        low, high = Decimal(str(min(numbers))), Decimal(str(max(numbers)))  # 0.1, not the nearest float to it
        if low == high:
            margin = abs(low) / 10 or Decimal(1)
            low, high = low - margin, high + margin
        step = _round_step((high - low) / most)
        first, last = math.floor(low / step), math.ceil(high / step)
        self._low, self._high = first * step, last * step
        self._ticks = [n * step for n in range(first, last + 1)]

    def share(self, position: Position | Decimal) -> float:
        assert not isinstance(position, str | datetime)
        return float((Decimal(str(position)) - self._low) / (self._high - self._low))

    def ticks(self) -> list[tuple[float, str]]:
        step = self._ticks[1] - self._ticks[0]
        texts = [_label(tick, step) for tick in self._ticks]
        if len(set(texts)) < len(texts):  # too many digits: the first in full, and how much more the others are
            texts[1:] = [f"+{_label(tick - self._ticks[0], step)}" for tick in self._ticks[1:]]
        return [(self.share(tick), text) for tick, text in zip(self._ticks, texts, strict=True)]


def _label(tick: Decimal, step: Decimal) -> str:
    """Return a round number, to the digits of its step."""
    if step >= Decimal("1e-4") and abs(tick) < 10**9:
        return f"{tick:,.{max(0, -int(step.normalize().as_tuple().exponent))}f}"
    digits, _, power = f"{tick:.3e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


_TIME_FORMS = ((4e7, "%Y-%m"), (3 * 86_400, "%d %b"), (3600, "%m-%d %H:%M"), (0, "%H:%M:%S"))


class _Times(_Axis):
    """An axis of times, in UTC."""

    def __init__(self, times: Sequence[datetime]) -> None:
        self._begin = min(times).timestamp()
        self._length = max(max(times).timestamp() - self._begin, 1.0)

    def share(self, position: Position | Decimal) -> float:
        assert isinstance(position, datetime)
        return (position.timestamp() - self._begin) / self._length

    def ticks(self) -> list[tuple[float, str]]:
        form = next(form for longer_than_s, form in _TIME_FORMS if self._length > longer_than_s)
        shares = [0.0, 0.25, 0.5, 0.75, 1.0]
        texts = [f"{datetime.fromtimestamp(self._begin + share * self._length, UTC):{form}}" for share in shares]
        return [pair for n, pair in enumerate(zip(shares, texts, strict=True)) if n == 0 or pair[1] != texts[n - 1]]


class _Texts(_Axis):
    """An axis of categories, in the order in which they come."""

    def __init__(self, positions: Sequence[Position]) -> None:
        self._at = {text: n for n, text in enumerate(dict.fromkeys(map(str, positions)))}

    def share(self, position: Position | Decimal) -> float:
        return (self._at[str(position)] + 0.5) / len(self._at)

    def ticks(self) -> list[tuple[float, str]]:
        every = -(-len(self._at) // MOST_LABELS)
        return [(self.share(text), shorten(one_line(text), 16)) for text in list(self._at)[::every]]


def _axis_of(positions: Sequence[Position]) -> _Axis:
    numbers = [position for position in positions if not isinstance(position, str | datetime)]
    times = [position for position in positions if isinstance(position, datetime)]
    if len(numbers) == len(positions):
        return _Numbers([float(number) for number in numbers], 6)
    return _Times(times) if len(times) == len(positions) else _Texts(positions)


def _round_step(rough: Decimal) -> Decimal:
    """Return the next round number: 1, 2 or 5 times a power of ten.

    >>> _round_step(Decimal("0.3")), _round_step(Decimal(17))
    (Decimal('0.5'), Decimal('20'))
    """
    power = Decimal(10) ** rough.adjusted()
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough)


def number(value: float) -> str:
    """Return a number as an axis or a bar shows it: four significant digits.

    >>> number(0.30000000000000004), number(12500), number(1e300), number(-0.0)
    ('0.3', '12,500', '1e300', '0')
    """
    if 1e4 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value + 0.0:.4g}".replace("e+", "e").replace("e0", "e").replace("e-0", "e-")


def _percent(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.2f}".rstrip("0").rstrip(".") + "%"


def _down(share: float) -> str:
    return f"{_HEIGHT * (1 - min(1.0, max(0.0, share))):.1f}".removesuffix(".0")


def _frame(across: _Axis, up: _Axis, x_label: str, y_label: str) -> Iterable[str]:
    """Yield the axes: thin lines across, labels at the left and below."""
    for share, text in up.ticks():
        yield f'<line class="rule" x1="0%" x2="100%" y1="{_down(share)}" y2="{_down(share)}"/>'
        yield f'<text class="faint" x="-8" y="{_down(share)}" dy="4" text-anchor="end">{escape(text)}</text>'
    labels = across.ticks()
    for n, (share, text) in enumerate(labels):
        anchor = "middle" if len(text) < 6 or 0.05 < share < 0.95 else "start" if share < 0.5 else "end"
        extra = " extra" if n % 2 and len(labels) > 4 else ""  # left out where the page is narrow
        yield (
            f'<text class="faint{extra}" x="{_percent(share)}" y="{_HEIGHT + 18}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )
    yield f'<text x="0%" y="-14">{escape(shorten(one_line(y_label), 60))}</text>'
    yield f'<text x="100%" y="{_HEIGHT + 36}" text-anchor="end">{escape(shorten(one_line(x_label), 60))}</text>'


def _series(points: Sequence[Point], series: Sequence[str], across: _Axis, up: _Axis, *, joined: bool) -> Iterable[str]:
    """Yield lines, points and, of several series, their names beside the last point of each."""
    ends: list[tuple[float, float, int]] = []
    for n, name in enumerate(series):
        colour = f"series-{min(n, MOST_SERIES - 1) + 1}"
        own = [
            (across.share(p.x), up.share(p.y), p)
            for p in points
            if p.series == name and p.x is not None and p.y is not None
        ]
        for (x1, y1, _), (x2, y2, _) in itertools.pairwise(own) if joined else ():
            yield (
                f'<line class="join stroke-{colour}" x1="{_percent(x1)}" y1="{_down(y1)}" x2="{_percent(x2)}" '
                f'y2="{_down(y2)}"/>'
            )
        yield from (_point(point, x, y, colour) for x, y, point in own)
        ends.append((own[-1][0], own[-1][1], n))
    if len(series) > 1:
        yield from _names(ends, series)


def _names(ends: Iterable[tuple[float, float, int]], series: Sequence[str]) -> Iterable[str]:
    below = 0.0
    for x, y, n in sorted(ends, key=lambda end: -end[1])[:MOST_SERIES]:
        below = max(below, float(_down(y)) + 4)
        yield f'<text x="{_percent(x)}" dx="9" y="{below:.0f}">{escape(shorten(one_line(series[n]), 18))}</text>'
        below += _NEAREST


def _spoken(position: Position | None) -> str:
    if isinstance(position, datetime):
        return f"{position:%Y-%m-%d %H:%M:%S} UTC"
    return position if isinstance(position, str) else number(position or 0.0)


def _point(point: Point, x: float, y: float, colour: str) -> str:
    title = ", ".join(
        part for part in (point.title, point.series, f"{number(point.y or 0.0)} at {_spoken(point.x)}") if part
    )
    circle = (
        f'<circle class="point fill-{colour}" cx="{_percent(x)}" cy="{_down(y)}" r="4">'
        f"<title>{escape(one_line(shorten(title, 300)))}</title></circle>"
    )
    return circle if point.href is None else f'<a href="{escape(point.href)}" tabindex="-1">{circle}</a>'


@attrs.frozen
class Amount:
    """A number that is compared with others: its name, the number if there is one, and the address of both."""

    name: str
    value: float | None
    href: str | None = None


def bars(amounts: Sequence[Amount], *, label: str) -> str:
    """Return numbers side by side, as HTML: a bar each, from zero, in their order.

    Args:
        amounts: what is compared; one without a finite number has no bar, and says so.
        label: what is compared, for a screen reader.
    """
    if not amounts:
        return ""
    finite = [float(amount.value) for amount in amounts if amount.value is not None and _is_finite(amount.value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    unit = max(-low, high) or 1.0
    span = (high / unit - low / unit) or 1.0
    drawn = "".join(_amount(amount, n, low / unit / span, (unit, span)) for n, amount in enumerate(amounts))
    names = "".join(_amount_name(amount) for amount in amounts)
    return (
        f'<div class="timeline compared" role="group" aria-label="{escape(one_line(label))}"><ol>{names}</ol>'
        f'<svg class="bars" width="100%" height="{_ROW * len(amounts)}" aria-hidden="true">{drawn}</svg></div>'
    )


def _said(amount: Amount) -> str:
    if amount.value is None:
        return "no number"
    try:
        return number(amount.value)
    except OverflowError:
        return "a huge number"


def _amount_name(amount: Amount) -> str:
    name = escape(one_line(amount.name))
    spoken = f"{name}: {_said(amount)}"
    if amount.href is None:
        return f'<li title="{spoken}">{name}</li>'
    return f'<li title="{spoken}"><a href="{escape(amount.href)}" aria-label="{spoken}">{name}</a></li>'


def _amount(amount: Amount, row: int, low: float, scale: tuple[float, float]) -> str:
    """Return a bar and its number; `low` is where the axis begins, as a share of its length."""
    y, zero = row * _ROW + 3, -low
    if amount.value is None or not _is_finite(amount.value):
        return f'<text class="faint" x="{_percent(zero * 0.8)}" dx="6" y="{y + 11}">{_said(amount)}</text>'
    share = amount.value / scale[0] / scale[1]
    begin, width = min(zero, zero + share), abs(share)
    at = f'x="{_percent(0.8 * (begin + width))}" dx="6"'
    size = _percent(0.8 * width) if width else "1"
    return (
        f'<rect class="fill-series-1" x="{_percent(0.8 * begin)}" y="{y}" width="{size}" height="14"/>'
        f'<text class="faint" {at} y="{y + 11}">{escape(_said(amount))}</text>'
    )
