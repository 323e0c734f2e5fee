"""Graphs as SVG: boxes that do not overlap, arrows that lead where they should, text that stays text."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from flowstore.drawing import graph as drawing
from flowstore.drawing import stylesheet
from flowstore.drawing.graph import MOST_BOXES, Arrow, Box, graph


def arrows_of(text):
    """Arrows from text such as 'a>b b>c'."""
    return [Arrow(*pair.split(">")) for pair in text.split()]


def boxes_of(html):
    """The rectangles of a drawing, as left, top, right, bottom, by the name in their title."""
    tree = ET.fromstring(html)
    places = {}
    for group in (element for element in tree.iter() if element.find("rect") is not None):
        x, y, width, height = (float(group.find("rect").get(name)) for name in ("x", "y", "width", "height"))
        places[re.split(r"[ ,]", group.findtext("title"))[0]] = (x, y, x + width, y + height)
    return places


SHAPES = {
    "linear": "start>a a>b b>end",
    "branch": "start>a start>b start>c a>join b>join c>join join>end",
    "nested": "start>a start>b a>c a>d c>join_in d>join_in join_in>join b>join join>end",
    "switch": "start>a start>b a>end b>c c>end start>end",
    "loop": "start>body body>body body>check check>start check>end",
    "long": " ".join(f"s{n}>s{n + 1}" for n in range(30)) + " s4>s25 s20>s3",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_stand_apart(shape):
    """No box covers another or leaves the picture, whatever leads where."""
    arrows = arrows_of(SHAPES[shape])
    names = list(dict.fromkeys(name for arrow in arrows for name in (arrow.before, arrow.after)))
    html = graph([Box(name, "successful") for name in names], arrows)
    places = boxes_of(html)
    assert set(places) == set(names)
    width, height = (float(re.search(f'{side}="([0-9]+)"', html)[1]) for side in ("width", "height"))
    for left, top, right, bottom in places.values():
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    for one, other in itertools.combinations(places.values(), 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    assert html.count('class="edge"') == len(arrows)


def test_a_step_stands_after_all_that_lead_to_it():
    """Its column is the one after the longest way to it, and what leads back does not count."""
    places = boxes_of(graph([Box(n) for n in ("end", "a", "b", "start")], arrows_of("start>a a>b start>b b>end b>a")))
    assert places["start"][0] < places["a"][0] < places["b"][0] < places["end"][0]


def test_thirty_steps_fit_a_page():
    """A wide graph goes on in further rows."""
    html = graph([Box(f"step_{n}", "successful", note="1 task · 0.4 s") for n in range(30)], [])
    assert len({place[0] for place in boxes_of(html).values()}) == 1  # nothing is known of their order
    html = graph([Box(f"s{n}") for n in range(31)], arrows_of(SHAPES["long"]))
    assert float(re.search('width="([0-9]+)"', html)[1]) <= drawing.WIDEST_ROW + 50
    assert len({corner[1] for corner in boxes_of(html).values()}) > 3


def test_a_state_is_a_shape_a_word_and_a_colour():
    """What has not started has a dashed outline, and says so."""
    html = graph([Box("a", "failed", "×40", "31 ✓ · 1 ✕ · 8 not started"), Box("b", None)], arrows_of("a>b"))
    assert 'class="box stroke-failed"' in html
    assert '<tspan class="fill-failed">✕</tspan> a ×40' in html
    assert 'class="box stroke-none"' in html
    assert 'role="img" aria-label="Steps: a ×40, failed, 31 ✓ · 1 ✕ · 8 not started; b, not started"' in html


def test_links_are_not_hidden_in_an_image():
    """With links the picture is a group, since a screen reader looks into no image."""
    html = graph([Box("a", "successful", href="/step?a=1&b=2")], [])
    assert 'role="group"' in html
    assert '<a href="/step?a=1&amp;b=2" aria-label="a, successful">' in html


def test_long_and_hostile_names_are_text():
    """An 80-letter name ends in an ellipsis, and is whole in its title; no name becomes markup or a control."""
    long, hostile = "a_name_of_" * 8, '"><script>x</script>\u202e\x07'
    html = graph([Box(long, href="#"), Box(hostile, href='"onclick="')], [Arrow(long, hostile, "<b>")])
    ET.fromstring(html)
    assert "…</text>" in html
    assert f"<title>{long}, not started</title>" in html
    assert not re.search(r"<(script|b)\b|\u202e|\x07", html)
    assert not re.search(r"\son\w+=|style=", html.replace("&quot;", ""))


def test_huge_graphs_are_left_to_the_table():
    """Nothing is drawn for none, or for more than can be read."""
    assert graph([], []) == ""
    assert graph([Box(str(n)) for n in range(MOST_BOXES + 1)], []) == ""
    chain = [Arrow(str(n), str(n + 1)) for n in range(MOST_BOXES - 1)]
    assert graph([Box(str(n)) for n in range(MOST_BOXES)], chain).count("<rect") == MOST_BOXES


def test_every_class_has_a_rule():
    """What the drawing calls a box, an arrow or a state has its look in the style sheet."""
    states = ["successful", "running", "failed", "stopped", "dead", "plain", None]
    html = graph([Box(f"s{n}", state) for n, state in enumerate(states)], arrows_of("s0>s1"))
    for name in {name for names in re.findall(r'class="([^"]+)"', html) for name in names.split()}:
        assert f".{name} " in stylesheet()
