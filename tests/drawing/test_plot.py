"""Plots: points where their numbers are, round axes, whatever the numbers; what cannot be drawn is counted."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta

import pytest

from flowstore.drawing import stylesheet
from flowstore.drawing.plot import MOST_POINTS, Amount, Point, bars, plot


def circles(html):
    """Where the points are, as pairs of a share of the width and pixels from the top."""
    return [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)%" cy="([\d.]+)"', html)]


def labels(html):
    """The texts of a plot."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", html)


def test_points_stand_where_their_numbers_are():
    """The axes begin and end at round numbers; a point is a link to its run."""
    html = plot(
        [Point(0, 0.5, title="F/1", href="/run/F/1"), Point(10, 0.9, title="F/2", href="/run/F/2")],
        x_label="depth", y_label="metrics.accuracy",
    )  # fmt: skip
    assert circles(html) == [(0.0, 220.0), (100.0, 0.0)]
    assert {"0.5", "0.6", "0.9", "4", "metrics.accuracy", "depth"} <= set(labels(html))
    assert '<a href="/run/F/1" tabindex="-1">' in html
    assert "<title>F/1, 0.5 at 0</title>" in html
    assert 'aria-label="metrics.accuracy over depth, 2 points"' in html


@pytest.mark.parametrize(
    "numbers",
    [
        [7],
        [0],
        [3, 3, 3],
        [1e308, -1e308],
        [5e-324, 1e-310],
        [1e15 + n / 8 for n in range(5)],
        [-1, 1e9],
        [10**300, 1],
        [0.1, 0.30000000000000004],
    ],
)
def test_any_numbers_have_axes(numbers):
    """One point, equal values, huge, tiny and near ones: all stand in the picture, and no two labels are equal."""
    html = plot([Point(n, number) for n, number in enumerate(numbers)], x_label="x", y_label="y")
    assert len(circles(html)) == len(numbers)
    assert all(0 <= x <= 100 and 0 <= y <= 220 for x, y in circles(html))
    up = re.findall(r'text-anchor="end">([^<]*)</text>', html)
    assert len(set(up)) == len(up) > 2
    assert not re.search("inf|nan|E", " ".join(up))


def test_what_is_no_number_is_counted():
    """NaN, infinities, whole numbers beyond floats, and runs that lack the metric."""
    values = [1.0, float("nan"), float("inf"), 10**400, None]
    html = plot([Point(n, value) for n, value in enumerate(values)], x_label="x", y_label="y")
    assert len(circles(html)) == 1
    assert "4 points without a finite number are left out." in html
    nothing = plot([Point(1, None), Point(None, 1)], x_label="x", y_label="y")
    assert "no number can be drawn" in nothing
    assert "<svg" not in nothing


def test_series_have_colours_and_names_beside_their_last_points():
    """Names do not cover each other; a line joins the points of a series."""
    names = [f"series {n}" for n in range(9)]
    points = [Point(x, 1.0 + x, name) for name in names for x in range(3)]
    html = plot(points, x_label="x", y_label="y", joined=True)
    heights = [int(y) for y in re.findall(r'dx="9" y="(\d+)"', html)]
    assert len(heights) == 7
    assert all(after - before >= 14 for before, after in itertools.pairwise(heights))
    assert html.count('class="join stroke-series-1"') == 2
    assert "series-8" not in html


def test_an_axis_of_times_and_one_of_texts():
    """Times have dates or hours; texts stand in the order in which they come."""
    begin = datetime(2026, 11, 1, tzinfo=UTC)
    html = plot([Point(begin + timedelta(days=n), n) for n in range(9)], x_label="created", y_label="y")
    assert {"01 Nov", "09 Nov"} <= set(labels(html))
    same = plot([Point(begin, 1)], x_label="created", y_label="y")
    assert "00:00:00" in labels(same)
    html = plot([Point("tree", 1), Point("forest", 2), Point(3, 3)], x_label="model", y_label="y")
    assert [x for x, _ in circles(html)] == [16.67, 50.0, 83.33]


def test_very_many_points_are_thinned():
    """Never more than a browser draws at once, and the plot says so."""
    html = plot([Point(n, n) for n in range(10_000)], x_label="x", y_label="y")
    assert len(circles(html)) == MOST_POINTS
    assert "8,000 of the points are not drawn." in html


def test_bars_begin_at_zero():
    """Negative numbers lead to the left; what is no number says so."""
    html = bars(
        [Amount("F/1", -1, "/run/F/1"), Amount("F/2", 3), Amount("F/3", None), Amount("F/4", float("nan"))], label="x"
    )
    assert re.findall(r'<rect class="fill-series-1" x="([\d.]+%)" y="\d+" width="([\d.]+%)"', html) == [
        ("0%", "20%"),
        ("20%", "60%"),
    ]
    assert {"-1", "3", "no number", "nan"} <= set(labels(html))
    assert '<a href="/run/F/1" aria-label="F/1: -1">F/1</a>' in html
    huge = bars([Amount("a", -1e308), Amount("b", 1e308), Amount("c", 10**400)], label="x")
    assert re.findall(r' width="([\d.]+%)" height="14"', huge) == ["40%", "40%"]
    assert bars([], label="x") == ""
    assert 'width="1"' in bars([Amount("a", 0)], label="x")


def test_hostile_text_is_text():
    """Names, labels and titles cannot become markup."""
    hostile = '"><img src=x onerror=y>\u202e\x1b[2J'
    html = plot(
        [Point(hostile, 1, hostile, hostile), Point("b", 2, "other", hostile)], x_label=hostile, y_label=hostile
    ) + bars([Amount(hostile, 1)], label=hostile)
    assert not re.search(r"<img|\u202e|\x1b|style=", html)


def test_every_class_has_a_rule():
    """Each class is in the style sheet."""
    html = plot([Point(n % 9, n, f"s{n % 7}") for n in range(99)], x_label="x", y_label="y", joined=True)
    for name in {name for names in re.findall(r'class="([^"]+)"', html) for name in names.split()}:
        assert re.search(rf"\.{name}[ .]", stylesheet())
