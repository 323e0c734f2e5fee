"""Cards in a real browser: a hostile one reaches nothing, and one of a running task is seen to change."""

from __future__ import annotations

import pytest

from support.cards import card_in
from support.cli import Script
from support.flows import LINEAR, flow_source
from support.recording import store_with

pytestmark = [pytest.mark.browser, pytest.mark.long]
HOSTILE = """<!doctype html><pre id="log"></pre><img src="http://stranger.example/x.png"><script>
const log = [];
function attempt(name, what) {
  try { what(); log.push(name + " worked"); } catch (error) { log.push(name + " failed"); }
}
if (top !== self) attempt("parent", () => parent.document.body.innerHTML);
if (top !== self) attempt("top", () => { top.location.href = "http://stranger.example/"; });
attempt("cookie", () => document.cookie.length.toString());
attempt("storage", () => localStorage.length);
attempt("opener", () => { if (!window.open("/runs")) throw 1; });
const attempts = ["/runs", "/static/page.js", "http://stranger.example/"].map((url) =>
  fetch(url, { credentials: "include" }).then(() => log.push(url + " worked"), () => log.push(url + " failed")));
Promise.all(attempts).then(() => {
  document.getElementById("log").textContent = log.concat("origin " + origin).join("\\n");
});
</script>"""


@pytest.mark.parametrize("alone", [False, True], ids=["in a frame", "in a tab"])
def test_a_hostile_card_reaches_nothing(visit, path, alone):
    """Neither its parent, nor our pages, nor another host, nor the cookie."""
    card_in(store_with(path, {"a": 1}), HOSTILE)
    seen = visit(path)
    seen.go("card/F/1/start/1/0" if alone else "task/F/1/start/1")
    frame = seen.page if alone else seen.page.frame_locator("iframe.card")
    frame.locator("#log", has_text="origin").wait_for()
    lines = frame.locator("#log").inner_text().splitlines()
    reached = {line for line in lines if line.endswith(" worked")}
    assert reached == set()
    assert "origin null" in lines
    assert seen.page.url.startswith(seen.home)
    seen.problems.clear()  # the browser has refused all of it, aloud


@pytest.mark.parametrize(
    ("html", "lowest", "highest"),
    [
        ("<!doctype html><div style='height: 1234px'>", 1234, 1280),
        ("<p>short", 60, 120),
        ("<!doctype html><div style='height: 90000px'>", 3000, 3000),
        ("<!doctype html><body style='margin: 0'><div style='height: 100vh'>", 200, 230),
        ("<script>setInterval(() => parent.postMessage({flowstoreCardHeight: '1px; x'}, '*'), 1)</script>", 60, 120),
        ("<p><script>onload = () => parent.postMessage({flowstoreCardHeight: 1e9}, '*')</script>", 60, 3000),
    ],
    ids=["tall", "short", "endless", "as high as its window", "what is no number", "lies"],
)
def test_the_frame_of_a_card_is_as_high_as_the_card(visit, path, html, lowest, highest):
    """Within limits, whatever the card says."""
    card_in(store_with(path, {"a": 1}), html)
    seen = visit(path)
    seen.go("task/F/1/start/1")
    frame = seen.page.locator("iframe.card[style]")
    frame.wait_for()
    seen.page.wait_for_timeout(300)  # in which it would grow on
    assert lowest <= frame.bounding_box()["height"] <= highest


def test_a_card_that_opens_grows_its_frame(visit, path):
    """A part of it that was folded is seen whole."""
    card_in(store_with(path, {"a": 1}), "<!doctype html><details><summary>more</summary><div style='height: 700px'>")
    seen = visit(path)
    seen.go("task/F/1/start/1")
    seen.page.frame_locator("iframe.card").get_by_text("more").click()
    seen.page.locator("iframe.card[style*='height: 7']").wait_for()


def test_a_card_changes_while_its_task_runs(visit, tmp_path):
    """The page shows the newest state within two seconds, and the last one at the end."""
    start = """
    @card(type="blank")
    from flowstore.cards import Markdown
    text = Markdown("state one")
    current.card.append(text)
    current.card.refresh()
    while not Path("go").exists(): time.sleep(0.05)
    text.update("state two")
    current.card.refresh()
    while not Path("end").exists(): time.sleep(0.05)
    text.update("state three")
    """
    script = Script(tmp_path, flow_source(LINEAR, start=start))
    with script.start("run") as process:
        while not (script.db.exists() and script.sql("select count(*) from cards") == [1]):
            pass
        seen = visit(script.db)
        seen.go("task/F/1/start/1")
        frame = seen.page.frame_locator("iframe.card")
        frame.get_by_text("state one").wait_for()
        (tmp_path / "go").touch()
        frame.get_by_text("state two").wait_for()
        seen.picture("task-with-card")
        (tmp_path / "end").touch()
        assert process.wait() == 0
        frame.get_by_text("state three").wait_for()
