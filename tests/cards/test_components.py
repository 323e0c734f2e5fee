"""Components: what each shows, what `update` changes, and that text from anywhere is never markup."""

from __future__ import annotations

import json
import re
import sys

import pytest

from flowstore.cards import (
    Artifact,
    CardComponent,
    Error,
    EventsTimeline,
    Image,
    JSONViewer,
    Markdown,
    ProgressBar,
    PythonCode,
    Table,
    ValueBox,
    VegaChart,
    YAMLViewer,
)

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e"
SPEC = {
    "data": {"values": [{"a": "A", "b": 28}]},
    "mark": "bar",
    "encoding": {"x": {"field": "a"}},
    "title": "a <title>",
}


@pytest.fixture(autouse=True)
def _charts():
    """Nothing goes on drawing after a test."""
    yield
    if "flowstore.cards.charts" in sys.modules:
        sys.modules["flowstore.cards.charts"].close()


def hostile_components():
    """One of each, with markup and control characters wherever text may be."""
    events = EventsTimeline(HOSTILE)
    events.update({HOSTILE: HOSTILE}, style_theme=HOSTILE, priority=HOSTILE, payloads={HOSTILE: Markdown(HOSTILE)})
    return [
        Markdown(HOSTILE), Markdown("[x](javascript:alert(1)) ![x](http://a.example/x.png)"),
        Table([[HOSTILE]], headers=[HOSTILE]), Image(b"\x89PNG", HOSTILE),
        Artifact(HOSTILE, HOSTILE), Artifact({HOSTILE: 1}, compressed=False), Error(ValueError(HOSTILE), HOSTILE),
        ProgressBar(1, HOSTILE, 0, HOSTILE, HOSTILE), ValueBox(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE),
        PythonCode(code_string=f"x = '{HOSTILE}' # {HOSTILE}"), JSONViewer({HOSTILE: [HOSTILE]}, title=HOSTILE),
        YAMLViewer(HOSTILE, title=HOSTILE), events,
    ]  # fmt: skip


@pytest.mark.parametrize("component", hostile_components(), ids=lambda component: type(component).__name__)
def test_text_is_never_markup(component):
    """Nor does it bring control characters, scripts or pictures from elsewhere."""
    html = component.render()
    assert "<script" not in html
    assert not re.search("[\x1b\u202e]", html)
    assert not re.search(r"""(href="?javascript|src="?http)""", html)


@pytest.mark.long
def test_tables():
    """Of rows with components, and of data frames, which are cut; numbers are aligned."""
    table = Table([["Ada", 1234.567891, Markdown("**x**")], ["Bob", None]], headers=["name", "n", "more"])
    html = table.render()
    assert "<strong>x</strong>" in html
    assert '<td class="number">1234.57</td>' in html.replace("class=number", 'class="number"')
    table.update([["Eve"]])
    assert "Ada" not in table.render()
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({f"c{n}": range(150) for n in range(60)})
    html = Table.from_dataframe(frame).render()
    assert "50 more rows and 10 more columns" in html
    assert Table.from_dataframe(frame, truncate=False).render().count("<tr>") == 151
    named = pandas.DataFrame({"x": [1.5]}, index=pandas.Index(["a<"], name="key"))
    assert ">key</th>" in Table.from_dataframe(named).render()
    assert "a&lt;" in Table.from_dataframe(named).render()
    polars = pytest.importorskip("polars")
    assert "<td>é</td>" in Table.from_dataframe(polars.DataFrame({"x": ["é"]})).render()


@pytest.mark.long
def test_what_is_no_list_of_rows_is_refused():
    """A frame is named with what takes it."""
    with pytest.raises(TypeError, match=r"for a DataFrame, write Table.from_dataframe"):
        Table(pytest.importorskip("pandas").DataFrame({"a": [1]}))
    with pytest.raises(TypeError, match="give a list of rows, each a list of cells, not 17"):
        Table(17)


def test_pictures():
    """Of matplotlib and PIL, and of bytes, whose kind is seen; anything else is refused with a clear error."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    image = pytest.importorskip("PIL.Image")
    axes = Figure().subplots()
    for plot in (axes, axes.figure, axes.plot([1, 2])[0]):
        assert "data:image/png;base64,iVBOR" in Image.from_matplotlib(plot, "a <plot>").render()
    picture = Image.from_pil_image(image.new("CMYK", (3, 3)), "one")
    assert "<figcaption>one</figcaption>" in picture.render()
    picture.update(axes.figure, "two")
    assert "<figcaption>two</figcaption>" in picture.render()
    assert "data:image/svg+xml" in Image(b"<svg xmlns='http://www.w3.org/2000/svg'/>").render()
    with pytest.raises(TypeError, match="from_matplotlib"):
        Image("picture.png")
    with pytest.raises(ValueError, match="PNG, JPEG"):
        Image(b"text").render()


def test_values_that_change():
    """`update` of a progress bar, a value box, Markdown, a tree; a component without one says so."""
    bar = ProgressBar(max=10, label="Bar", unit="m", metadata="slow")
    bar.update(4)
    assert "4 m of 10 m, slow" in bar.render()
    bar.update(10, metadata="done")
    assert 'class="full"' in bar.render()
    box = ValueBox("Rows", 1234567, theme="success")
    assert "1,234,567" in box.render()
    box.update(value=2.5, change_indicator="up")
    assert ">2.5<" in box.render()
    assert "value success" in box.render()
    text = Markdown("a")
    text.update("b")
    assert text.render() == '<div class="markdown"><p>b</p></div>'
    tree = JSONViewer('{"a": [1, null]}')
    assert "<details open>" in tree.render()
    tree.update({"set": {1}})
    assert "set:" in tree.render()
    with pytest.raises(TypeError, match="Error cannot be updated"):
        Error(ValueError()).update()


def test_code_and_events():
    """A function's source, and the newest events first, as many as are wanted."""
    assert "def test_code_and_events" in re.sub("<[^>]+>", "", PythonCode(test_code_and_events).render())
    assert "is not known" in PythonCode(len).render()
    events = EventsTimeline("Events", max_events=2)
    for n in range(3):
        events.update({"n": n}, finished=n == 2)
    html = events.render()
    assert html.index("n</span> 2") < html.index("n</span> 1")
    assert "the last 2 of 3 events, finished" in html


@pytest.mark.long
def test_a_chart_is_drawn_for_light_and_dark_pages():
    """As SVG, by itself, without a script; one that chooses its ground is drawn once."""
    pytest.importorskip("vl_convert")
    html = VegaChart(SPEC).render()
    assert html.count("data:image/svg+xml;base64,") == 2
    assert "prefers-color-scheme: dark" in html
    assert VegaChart({**SPEC, "background": "white"}).render().count("data:image/svg+xml") == 1
    chart = VegaChart(SPEC)
    chart.update({**SPEC, "title": "other"})
    assert 'alt="other"' in chart.render()
    with pytest.raises(TypeError, match="a dict"):
        VegaChart("spec")


@pytest.mark.long
def test_a_chart_that_crashes_what_draws_it_is_an_error():
    """And the next chart is drawn."""
    pytest.importorskip("vl_convert")
    with pytest.raises(ValueError, match="crashed"):
        VegaChart({**SPEC, "title": HOSTILE, "background": "white"}).render()
    assert "data:image" in VegaChart({**SPEC, "background": "white"}).render()
    with pytest.raises(ValueError, match="not allowed"):
        VegaChart({"data": {"url": "http://stranger.example/x.csv"}, "mark": "bar"}).render()


@pytest.mark.long
def test_charts_of_altair():
    """With its usual data, and with vegafusion, where only Vega can be made."""
    altair = pytest.importorskip("altair")
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("vl_convert")
    chart = altair.Chart(pandas.DataFrame({"x": [1, 2]})).mark_point().encode(x="x")
    assert "data:image/svg+xml" in VegaChart.from_altair_chart(chart).render()

    class Fused:
        def to_dict(self, format="vega-lite"):
            if format != "vega":
                raise ValueError("When the vegafusion data transformer is enabled, use format='vega'")
            return {"$schema": "https://vega.github.io/schema/vega/v6.json", "width": 10, "marks": []}

    assert "data:image/svg+xml" in VegaChart.from_altair_chart(Fused()).render()


def test_without_the_extra_a_chart_is_its_specification(monkeypatch):
    """With what to install."""
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    html = VegaChart(SPEC).render()
    assert "flowstore[charts]" in html
    assert "&quot;mark&quot;: &quot;bar&quot;" in html
    assert "<script" not in html


def test_a_component_of_your_own():
    """Its HTML is kept as it is."""

    class Rule(CardComponent):
        def render(self):
            return "<hr>"

    assert "<td><hr></td>" in Table([[Rule()]]).render()
    assert json.dumps(Rule.id) == "null"
