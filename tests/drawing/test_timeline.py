"""Timelines: bars where they belong, few of them, round times, text that stays text."""

from __future__ import annotations

import re

import pytest

from flowstore.drawing import stylesheet
from flowstore.drawing.timeline import Bar, Line, ticks, timeline


def test_bars_stand_where_their_times_are():
    """Positions are shares of the run, so that the picture is as wide as its page."""
    html = timeline([Line("a", [Bar(1, 2, "successful", "first"), Bar(2.5, 4, "failed")], "failed", "2 attempts")], 10)
    assert re.search(r'<rect class="fill-successful attempt" x="10%" y="25" width="10%" height="14"><title>first', html)
    assert re.search(r'<rect class="fill-failed attempt" x="25%" y="25" width="15%"', html)
    assert '<span class="failed">✕</span> a</li>' in html
    assert 'x="40%" dx="6"' in html


@pytest.mark.parametrize("length", [0.004, 0.7, 1, 59, 61, 185, 3601, 40_000, 200_000, 1e9])
def test_ticks_are_round_and_few(length):
    """There are two to six, the first is 0 and the last lies within the run."""
    times = ticks(length)
    assert 2 <= len(times) <= 6
    assert times[0] == 0
    assert times[-1] <= length * 1.001
    html = timeline([Line("a", [Bar(0, length, "running")])], length)
    assert html.count('class="rule"') == len(times)
    assert "e+" not in html


def test_a_strip_has_one_part_for_equal_neighbours():
    """A level of 0 is not drawn."""
    html = timeline([Line("▸ a, 9 tasks", [Bar(0, 10, "successful", "nine", [0, 1, 1, 4, 4, 4, 0, 0, 2, 2])])], 10)
    assert re.findall(r'x="(\d+)%" y="25" width="(\d+)%" height="14" opacity="([\d.]+)"', html) == [
        ("10", "20", "0.44"),
        ("30", "30", "1.0"),
        ("80", "20", "0.62"),
    ]


def test_a_short_bar_can_be_seen():
    """What took no time is three pixels wide; what ended before the run began stands at its left."""
    html = timeline([Line("a", [Bar(5, 5, "failed")]), Line("b", [Bar(-9, -8, "successful")])], 10)
    assert 'x="50%" y="25" width="3"' in html
    assert 'x="0%" y="45" width="3"' in html


def test_names_are_links_once_for_the_keyboard():
    """The bars lead to the same task, without being stops of the tab key."""
    html = timeline([Line("a", [Bar(0, 1, "failed")], "failed", title="a, failed, 1 s", href="/task/1?x=1&y=2")], 1)
    assert '<a href="/task/1?x=1&amp;y=2" aria-label="a, failed, 1 s">' in html
    assert '<a href="/task/1?x=1&amp;y=2" tabindex="-1">' in html
    assert 'aria-hidden="true"' in html


def test_hostile_text_is_text():
    """Names, notes and titles cannot become markup, nor turn the order of reading."""
    hostile = '"><img src=x onerror=y>\u202e\x1b[2J'
    html = timeline(
        [Line(hostile, [Bar(0, 1, "running", hostile)], None, hostile, hostile, '"onclick="')], 1, label=hostile
    )
    assert not re.search(r"<img|\u202e|\x1b|style=", html)


def test_nothing_is_drawn_for_nothing():
    """A run in which nothing has started has no timeline."""
    assert timeline([], 3) == ""


def test_every_class_has_a_rule():
    """Each class is in the style sheet."""
    bars = [Bar(0, 1, state) for state in ("successful", "running", "failed", "stopped", "dead", "reused")]
    html = timeline([Line("a", bars, "failed", "note")], 1)
    for name in {name for names in re.findall(r'class="([^"]+)"', html) for name in names.split()}:
        assert f".{name} " in stylesheet()
